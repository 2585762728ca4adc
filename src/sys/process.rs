//! Processes: fork, exec, descriptors, names.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use nix::sys::wait::WaitPidFlag;

use super::{processors, title};

/// Which side of a fork this is.
pub enum Fork {
    /// The process that called, with the child's pid.
    Parent(libc::pid_t),
    /// The new process.
    Child,
}

/// fork(2).
///
/// # Errors
/// EAGAIN and ENOMEM when the user's process limit or the memory is used up.
pub fn fork() -> io::Result<Fork> {
    debug_assert_eq!(thread_count(), 1, "fork with threads would copy locked locks");
    // SAFETY: fork has no memory requirements; this process has one thread, so no lock is held by another one.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// A fork whose end raises no SIGCHLD in the parent, so that a program that is executed later never learns of it.
/// The child must do nothing but [`fork`] again and [`exit`]: libc's own notion of the thread's id is stale in it.
///
/// # Errors
/// As [`fork`].
pub fn fork_silently() -> io::Result<Fork> {
    debug_assert_eq!(thread_count(), 1, "fork with threads would copy locked locks");
    // SAFETY: clone without flags and with a null stack is fork without an exit signal: the child runs on a copy
    // of this stack. The remaining pointers are unused without their flags.
    match unsafe { libc::syscall(libc::SYS_clone, 0_u64, 0_u64, 0_u64, 0_u64, 0_u64) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid as libc::pid_t)),
    }
}

/// Waits for a child of either kind of fork.
///
/// # Errors
/// ECHILD when the kernel has reaped it already (the caller ignores SIGCHLD).
pub fn wait_for(pid: libc::pid_t) -> io::Result<Ended> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for the int that waitpid writes.
        match unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) } {
            -1 => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            _ if libc::WIFSIGNALED(status) => return Ok(Ended::Killed(libc::WTERMSIG(status))),
            _ => return Ok(Ended::Exited(libc::WEXITSTATUS(status))),
        }
    }
}

/// Waits for the end of any child, and gives its pid.
///
/// # Errors
/// ECHILD when there is none.
pub fn wait_for_any() -> io::Result<(libc::pid_t, Ended)> {
    loop {
        match look(-1, WaitPidFlag::empty()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(Some((pid, Change::Ended(ended)))) => return Ok((pid, ended)),
            Ok(_) => {}
        }
    }
}

/// Runs `work` in a child, which ends with it, and gives what it returned: for what must not happen to this process.
///
/// # Errors
/// As [`fork`]; ECHILD when the child was killed or panicked.
pub fn in_child(work: impl FnOnce() -> Vec<u8>) -> io::Result<Vec<u8>> {
    let (from, to) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match fork()? {
        Fork::Child => {
            drop(from);
            let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            let told = worked.is_ok_and(|bytes| io::Write::write_all(&mut File::from(to), &bytes).is_ok());
            exit(i32::from(!told))
        }
        Fork::Parent(pid) => {
            drop(to);
            let mut bytes = Vec::new();
            let read = io::Read::read_to_end(&mut File::from(from), &mut bytes);
            match wait_for(pid)? {
                Ended::Exited(0) => read.map(|_| bytes),
                _ => Err(io::Error::from_raw_os_error(libc::ECHILD)),
            }
        }
    }
}

/// As [`in_child`], but this process never learns of it, nor does a program that it becomes: the work is done in a
/// child of a silent child. Both have ended when this returns; `meanwhile` is done in this process.
///
/// # Errors
/// As [`in_child`].
pub fn in_silent_child<T>(
    work: impl FnOnce() -> Vec<u8>,
    meanwhile: impl FnOnce() -> T,
) -> io::Result<(T, Vec<u8>)> {
    let (from, to) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match fork_silently()? {
        Fork::Child => {
            // What it holds is this process's affair: the work may wait for its being closed.
            drop((from, meanwhile));
            let Ok(forked) = fork() else { exit(1) };
            let Fork::Parent(worker) = forked else {
                // A caller that ignores SIGCHLD would have the worker's own children reaped under its hands.
                super::signals::hold_all();
                let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                let told =
                    worked.is_ok_and(|bytes| io::Write::write_all(&mut File::from(to), &bytes).is_ok());
                exit(i32::from(!told))
            };
            drop(to);
            // ECHILD says that the kernel has reaped it; what it told is known by the pipe.
            exit(i32::from(!matches!(wait_for(worker), Ok(Ended::Exited(0)) | Err(_))))
        }
        Fork::Parent(pid) => {
            drop(to);
            let done = meanwhile();
            let mut bytes = Vec::new();
            let read = io::Read::read_to_end(&mut File::from(from), &mut bytes);
            match wait_for(pid)? {
                Ended::Exited(0) => read.map(|_| (done, bytes)),
                _ => Err(io::Error::from_raw_os_error(libc::ECHILD)),
            }
        }
    }
}

/// What has become of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was stopped by this signal.
    Stopped(i32),
    /// It goes on after a stop (only where that is asked for: WCONTINUED).
    Continued,
    /// It is gone, and reaped.
    Ended(Ended),
}

/// What has become of one child, or of any; `None` when nothing has since the last look.
///
/// # Errors
/// ECHILD when there is no such child.
pub fn look_at(pid: libc::pid_t, flags: WaitPidFlag) -> io::Result<Option<Change>> {
    Ok(look(pid, flags)?.map(|(_, change)| change))
}

/// The same for any child, with its pid; `None` also when there is no child.
///
/// # Errors
/// None that the caller can do anything about.
pub fn look_at_any(flags: WaitPidFlag) -> io::Result<Option<(libc::pid_t, Change)>> {
    match look(-1, flags) {
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        other => other,
    }
}

fn look(pid: libc::pid_t, flags: WaitPidFlag) -> io::Result<Option<(libc::pid_t, Change)>> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the int that waitpid writes.
    let change = match unsafe { libc::waitpid(pid, &raw mut status, flags.bits() | libc::__WALL) } {
        -1 => return Err(io::Error::last_os_error()),
        0 => return Ok(None),
        pid if libc::WIFCONTINUED(status) => (pid, Change::Continued),
        pid if libc::WIFSTOPPED(status) => (pid, Change::Stopped(libc::WSTOPSIG(status))),
        pid if libc::WIFSIGNALED(status) => (pid, Change::Ended(Ended::Killed(libc::WTERMSIG(status)))),
        pid => (pid, Change::Ended(Ended::Exited(libc::WEXITSTATUS(status)))),
    };
    Ok(Some(change))
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With this status.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// _exit(2): ends a forked child without running the parent's exit handlers.
pub fn exit(status: i32) -> ! {
    // SAFETY: _exit has no requirements.
    unsafe { libc::_exit(status) }
}

/// How long a thread that has done its work may take to end.
const THREAD_ENDS: Duration = Duration::from_secs(2);

/// Waits until this thread is the only one, for who forks next: the threads of a scope have done their work when the
/// scope ends, and the kernel takes them away a moment later. False when one goes on.
pub fn wait_until_alone() -> bool {
    let limit = Instant::now() + THREAD_ENDS;
    while thread_count() > 1 {
        if Instant::now() > limit {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

fn thread_count() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

/// execve(2). Returns only on failure.
pub fn execve(program: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |words: &[CString]| -> Vec<*const libc::c_char> {
        words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: `program` and every element of both arrays is NUL-terminated and lives in the caller's slices until
    // execve returns; both arrays end with a null pointer.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// A word for [`execve`].
///
/// # Errors
/// A NUL byte inside the word.
pub fn c_string(word: &OsStr) -> io::Result<CString> {
    CString::new(word.as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Closes every descriptor but those of `keep`, those below 3 included; all are open yet when it fails.
///
/// # Errors
/// What /proc/self/fd gives on kernels before 5.9, where close_range(2) is missing.
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut keep: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).collect();
    keep.sort_unstable();
    let mut first = 0;
    for fd in &keep {
        if *fd > first && !close_range(first as u32, (fd - 1) as u32) {
            return close_listed(&keep);
        }
        first = fd + 1;
    }
    if close_range(first as u32, u32::MAX) { Ok(()) } else { close_listed(&keep) }
}

/// Gives the calling thread a table of descriptors of its own, with those of `keep` and no others in it.
///
/// # Errors
/// EPERM where a filter forbids it; ENOMEM.
pub fn keep_to_itself(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES)?;
    close_all_but(keep)
}

/// Whether the kernel has closed these; if not, they are as they were.
fn close_range(first: u32, last: u32) -> bool {
    // SAFETY: close_range takes no pointers. Who calls uses nothing of the range any more: a forked process drops what
    // it inherited, and a thread with a table of its own leaves those of the other threads as they are.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) == 0 }
}

fn close_listed(keep: &[RawFd]) -> io::Result<()> {
    // All are listed before any is closed: the directory's own is among them.
    let listed: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .map(|entry| Ok(entry?.file_name().to_str().and_then(|name| name.parse().ok())))
        .filter_map(io::Result::transpose)
        .collect::<io::Result<_>>()?;
    for fd in listed.into_iter().filter(|fd| !keep.contains(fd)) {
        // SAFETY: as above; the directory's own is closed already, and closing it again gives EBADF.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// The name that ps and /proc show for this thread (15 bytes at most).
pub fn set_name(name: &CStr) {
    // SAFETY: PR_SET_NAME reads a NUL-terminated string; it cannot fail with a valid pointer.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// As [`set_name`], and that is all that they show of a server: neither the command line nor the environment of the
/// command that started it, which are gone from here on.
pub fn set_name_of_server(name: &CStr) {
    set_name(name);
    title::replace(name);
}

/// Nothing of the caller stays: session, descriptors, working directory, signals, affinity, words and variables.
pub fn become_server(keep: &[BorrowedFd<'_>], name: &CStr) {
    // None of these can fail in a way that matters: a server that keeps, say, its caller's working directory
    // is ill-mannered, but right.
    let _ = rustix::process::setsid();
    let _ = close_all_but(keep);
    let _ = rustix::process::chdir("/");
    super::signals::reset_for_server();
    set_name_of_server(name);
    processors::widen();
    // Descriptors 0 to 2 must not become an image or a socket that some library writes messages to.
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
        if null.as_raw_fd() < 3 {
            let _ = null.into_raw_fd();
        }
    }
}

/// Keeps the allocator of a long-lived server small and its blocks reused: buffers of a data block (128 KiB and
/// more) would else be mapped and unmapped, page by page, for every block that is decoded.
pub fn tune_allocator() {
    // SAFETY: mallopt takes two integers and only changes parameters of later allocations.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 8 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 8 << 20);
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// From here on, through execve, this process is killed when its parent ends.
///
/// # Errors
/// None on kernels since 2.4.
pub fn end_with_parent() -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes integers only.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Programs started from here on gain no privileges by set-user-id bits or file capabilities.
///
/// # Errors
/// None on kernels since 3.5.
pub fn set_no_new_privileges() -> io::Result<()> {
    // SAFETY: PR_SET_NO_NEW_PRIVS takes integers only.
    match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
