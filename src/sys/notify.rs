//! Seccomp filters that ask a supervisor what to answer (seccomp_unotify(2), kernel 5.0), and what the supervisor does
//! with the process that asks: its memory, and a number that it and its children carry.
//!
//! ```text
//! program ── a call of the filter ──▶ waits      supervisor: receive ─▶ id, thread, call, arguments
//!         ◀── a value, an errno, or the call itself is done ── answer(id)
//! ```
//!
//! Listener closed: the calls fail with ENOSYS. No filtered process left: the listener is hung up (kernel 5.9).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sys::uio::RemoteIoVec;
use nix::unistd::Pid;

/// One instruction of a filter: code, jumps, constant.
pub type Instruction = libc::sock_filter;

/// Installs a filter in this thread, for what it executes and starts from here on.
///
/// # Errors
/// EINVAL for a program that the kernel does not take, or without seccomp; EACCES without `no_new_privs`.
pub fn install(program: &[Instruction]) -> io::Result<()> {
    seccomp(program, 0).map(|_| ())
}

/// The same with a listener for the calls that the filter gives to it.
///
/// # Errors
/// Those of [`install`]; EBUSY when an earlier filter has a listener.
pub fn install_listening(program: &[Instruction]) -> io::Result<OwnedFd> {
    let listening = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // Since 5.19 a call that the supervisor is at cannot be interrupted by a signal, as the kernel's own cannot.
    let fd = seccomp(program, listening | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV).or_else(|error| {
        let older = error.raw_os_error() == Some(libc::EINVAL);
        if older { seccomp(program, listening) } else { Err(error) }
    })?;
    // SAFETY: the kernel has just made this descriptor (close-on-exec) for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn seccomp(program: &[Instruction], flags: libc::c_ulong) -> io::Result<i32> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads `length` instructions through the pointer, which the slice outlives, and checks them.
    let fd =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)
}

/// A call that waits for its answer.
#[derive(Debug, Clone, Copy)]
pub struct Notification {
    /// Names it for as long as it waits.
    pub id: u64,
    /// The thread that called, as the supervisor's process namespace numbers it; 0 when it does not.
    pub thread: libc::pid_t,
    /// `AUDIT_ARCH_…`: how the call was made.
    pub architecture: u32,
    /// Which call.
    pub number: i32,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// What the caller gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The call's value.
    Value(i64),
    /// It fails with this errno.
    Error(i32),
    /// The kernel does the call itself (5.5). It reads what the arguments point to anew.
    Continue,
}

/// Where calls arrive.
pub struct Listener {
    fd: OwnedFd,
    /// The kernel's notification, in words of eight bytes: it may be longer than the one known here.
    words: usize,
}

impl Listener {
    /// From the descriptor that [`install_listening`] gave in another process.
    ///
    /// # Errors
    /// A kernel without notification.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let mut sizes =
            libc::seccomp_notif_sizes { seccomp_notif: 0, seccomp_notif_resp: 0, seccomp_data: 0 };
        // SAFETY: SECCOMP_GET_NOTIF_SIZES fills the structure, a local.
        let got =
            unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_NOTIF_SIZES, 0, &raw mut sizes) };
        if got != 0 {
            return Err(io::Error::last_os_error());
        }
        let bytes = usize::from(sizes.seccomp_notif).max(size_of::<libc::seccomp_notif>());
        // Since 6.6 caller and supervisor take turns on one processor, which is faster. Nothing depends on it.
        // SAFETY: the request takes a number in place of a pointer.
        unsafe { libc::ioctl(fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
        Ok(Self { fd, words: bytes.div_ceil(size_of::<u64>()) })
    }

    /// Waits for the next call.
    ///
    /// # Errors
    /// ENOENT when the caller was killed meanwhile, EINTR.
    pub fn receive(&self) -> io::Result<Notification> {
        // The kernel wants zeroes.
        let mut buffer = vec![0_u64; self.words];
        // SAFETY: the buffer has the size that the kernel said it writes, and at least that of the structure.
        let got =
            unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, buffer.as_mut_ptr()) };
        if got != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the buffer is aligned for the structure (eight bytes), at least as long, and wholly initialised; every
        // bit pattern is a valid value of its integers.
        let notification = unsafe { buffer.as_ptr().cast::<libc::seccomp_notif>().read() };
        Ok(Notification {
            id: notification.id,
            thread: notification.pid.cast_signed(),
            architecture: notification.data.arch,
            number: notification.data.nr,
            arguments: notification.data.args,
        })
    }

    /// Whether the call still waits. What was read from the caller's memory or /proc before is the caller's then, and
    /// not that of another process with its number.
    pub fn waits(&self, id: u64) -> bool {
        // SAFETY: the request reads one u64 through the pointer, a local.
        let got =
            unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) };
        got == 0
    }

    /// Gives a waiting caller a descriptor of what `file` is open on (5.9), and its number there.
    ///
    /// # Errors
    /// EMFILE when the caller has all that it may have, ENOENT when it no longer waits.
    pub fn give(&self, id: u64, file: BorrowedFd<'_>, close_on_exec: bool) -> io::Result<i32> {
        let given = libc::seccomp_notif_addfd {
            id,
            flags: 0,
            srcfd: file.as_raw_fd().cast_unsigned(),
            newfd: 0,
            newfd_flags: if close_on_exec { libc::O_CLOEXEC.cast_unsigned() } else { 0 },
        };
        // SAFETY: the request reads the structure, a local.
        let number =
            unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw const given) };
        if number < 0 { Err(io::Error::last_os_error()) } else { Ok(number) }
    }

    /// Answers a call. One whose caller was killed needs no answer.
    pub fn answer(&self, id: u64, answer: Answer) {
        let mut response = libc::seccomp_notif_resp { id, val: 0, error: 0, flags: 0 };
        match answer {
            Answer::Value(value) => response.val = value,
            Answer::Error(errno) => response.error = -errno,
            Answer::Continue => response.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
        }
        // SAFETY: the request reads the structure, a local.
        unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response) };
    }
}

/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP` of linux/seccomp.h.
const SYNC_WAKE_UP: libc::c_ulong = 1;

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The smallest page that a kernel uses: what is read is cut here, since one piece is read wholly or not at all.
const PAGE_BYTES: u64 = 4096;

/// Reads from a process's memory as far as it can be read, and gives how much that is.
///
/// # Errors
/// EPERM when it may not be read at all, EFAULT when nothing is there, ESRCH.
pub fn read_memory(thread: libc::pid_t, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let remote = pages(address, buffer.len());
    let pieces = &mut [IoSliceMut::new(buffer)];
    Ok(nix::sys::uio::process_vm_readv(Pid::from_raw(thread), pieces, &remote)?)
}

/// Writes to a process's memory.
///
/// # Errors
/// As [`read_memory`]; EFAULT when only a part can be written.
pub fn write_memory(thread: libc::pid_t, address: u64, bytes: &[u8]) -> io::Result<()> {
    let remote = pages(address, bytes.len());
    let written = nix::sys::uio::process_vm_writev(Pid::from_raw(thread), &[IoSlice::new(bytes)], &remote)?;
    if written < bytes.len() { Err(io::Error::from_raw_os_error(libc::EFAULT)) } else { Ok(()) }
}

fn pages(address: u64, length: usize) -> Vec<RemoteIoVec> {
    let mut pieces = Vec::new();
    let (mut at, mut left) = (address, length as u64);
    while left > 0 {
        let len = (PAGE_BYTES - at % PAGE_BYTES).min(left);
        pieces.push(RemoteIoVec { base: at as usize, len: len as usize });
        at = at.wrapping_add(len);
        left -= len;
    }
    pieces
}

/// The number that a process carries: its soft limit on file locks, which no kernel since 2.4 heeds. A child gets it
/// from its parent, and a program that is executed keeps it.
///
/// # Errors
/// ESRCH; EPERM for the process of another user.
pub fn carried(thread: libc::pid_t) -> io::Result<u64> {
    let mut old = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    prlimit(thread, std::ptr::null(), &raw mut old)?;
    Ok(old.rlim_cur)
}

/// Gives a process another one.
///
/// # Errors
/// As [`carried`]; EINVAL when the process's hard limit is smaller.
pub fn carry(thread: libc::pid_t, number: u64) -> io::Result<()> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    prlimit(thread, std::ptr::null(), &raw mut limit)?;
    limit.rlim_cur = number;
    prlimit(thread, &raw const limit, std::ptr::null_mut())
}

fn prlimit(thread: libc::pid_t, new: *const libc::rlimit64, old: *mut libc::rlimit64) -> io::Result<()> {
    // SAFETY: both pointers are null or to a local of the caller's.
    let done = unsafe { libc::syscall(libc::SYS_prlimit64, thread, libc::RLIMIT_LOCKS, new, old) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> libc::pid_t {
        std::process::id().cast_signed()
    }

    #[test]
    fn memory_is_read_up_to_where_it_ends() {
        let text = b"abc\0".repeat(3000);
        let mut read = vec![0; text.len()];
        assert_eq!(read_memory(own(), text.as_ptr() as u64, &mut read).unwrap(), text.len());
        assert_eq!(read, text);
        assert_eq!(read_memory(own(), 16, &mut read).map_err(|e| e.raw_os_error()), Err(Some(libc::EFAULT)));
        let mut target = [0_u8; 8];
        write_memory(own(), target.as_mut_ptr() as u64, b"12345678").unwrap();
        assert_eq!(&target, b"12345678");
        assert!(write_memory(own(), u64::MAX - 3, b"12345678").is_err());
    }

    #[test]
    fn a_number_is_carried_by_a_process_and_its_children() {
        let before = carried(own()).unwrap();
        carry(own(), 12345).unwrap();
        let child = std::process::Command::new("cat").arg("/proc/self/limits").output().unwrap();
        assert_eq!(carried(own()).unwrap(), 12345);
        carry(own(), before).unwrap();
        let limits = String::from_utf8(child.stdout).unwrap();
        assert!(limits.lines().any(|line| line.starts_with("Max file locks            12345 ")), "{limits}");
    }
}
