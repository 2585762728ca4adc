//! Signals: what the caller had set before skiff changed it, catching a request to stop, and standing
//! between a caller and a program ([`crate::launch`]).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicUsize, Ordering};

/// The disposition of SIGPIPE that this process inherited: the user's program must get what the caller had.
static INHERITED_SIGPIPE: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);

/// A write that nobody will read fails with EPIPE from here on, and does not end the process.
pub fn ignore_sigpipe() {
    // SAFETY: SIG_IGN installs no handler.
    let inherited = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    INHERITED_SIGPIPE.store(inherited, Ordering::Relaxed);
}

/// Gives SIGPIPE back the disposition that the caller had set.
pub fn restore_sigpipe() {
    let disposition = INHERITED_SIGPIPE.load(Ordering::Relaxed);
    // SAFETY: before exec a process can have inherited only SIG_DFL or SIG_IGN, which are valid dispositions.
    unsafe { libc::signal(libc::SIGPIPE, disposition) };
}

/// What a batch system or a terminal sends to all processes of a job, and programs may answer at leisure.
const MEANT_FOR_PROGRAMS: [libc::c_int; 8] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGPIPE,
];

/// No signal is blocked from here on, and all that were caught or ignored do what they do by default: for a server,
/// whatever its first caller had set. But what is meant for its programs does not end it, since one that saves its
/// state before the time is up still reads its files. The server goes when they have gone.
pub fn reset_for_server() {
    // SAFETY: the set is initialised by sigemptyset before it is used; signal() with SIG_DFL and SIG_IGN installs
    // no handler. Numbers that may not be changed give EINVAL.
    unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        for signal in 1..=libc::SIGRTMAX() {
            let ignored = MEANT_FOR_PROGRAMS.contains(&signal);
            libc::signal(signal, if ignored { libc::SIG_IGN } else { libc::SIG_DFL });
        }
    }
}

/// For a process that has something to take away: a request to end must not come before that.
pub fn ignore_requests_to_end() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        // SAFETY: SIG_IGN installs no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// The signals that ask to stop.
const STOPPING: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// Set by SIGINT, SIGTERM and SIGHUP once [`catch_stop`] was called.
pub static STOP: AtomicBool = AtomicBool::new(false);

/// The first of them; 0 before.
static STOPPED_BY: AtomicI32 = AtomicI32::new(0);
/// When the first of them came: seconds of the monotonic clock, and 1; 0 before.
static STOPPED_AT: AtomicI64 = AtomicI64::new(0);
/// For so long others are the same request: Ctrl-C is pressed twice, or a batch system and a terminal ask both.
const SAME_REQUEST_SECONDS: i64 = 2;

extern "C" fn note_stop(signal: libc::c_int) {
    // Another one has come before where this fails: the same request, which has its number.
    let _ = STOPPED_BY.compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed);
    STOP.store(true, Ordering::Relaxed);
    // SAFETY: clock_gettime(), signal() and raise() are async-signal-safe, and `now` is a valid place.
    unsafe {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now);
        let now = now.tv_sec + 1;
        let first = STOPPED_AT.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        // A later one ends the process at once, should the first not be heeded.
        if first.is_err_and(|first| now - first > SAME_REQUEST_SECONDS) {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    }
}

/// Ends this process by the signal that asked it to stop, the first one where several came; returns where none did. Its
/// caller must see that: a shell whose program answers Ctrl-C with an exit status, whatever it is, goes on with its loop.
pub fn die_of_stop() {
    let signal = STOPPED_BY.load(Ordering::Relaxed);
    if signal != 0 {
        die_of(signal);
    }
}

/// From here on Ctrl-C, SIGTERM and SIGHUP set [`STOP`] instead of ending the process, so that long work can take
/// back what it has half done. Ignored ones (nohup) stay ignored.
pub fn catch_stop() {
    for signal in STOPPING {
        // SAFETY: the handler is async-signal-safe: it stores to an atomic and calls signal().
        unsafe {
            let handler = note_stop as extern "C" fn(libc::c_int);
            if libc::signal(signal, handler as libc::sighandler_t) == libc::SIG_IGN {
                libc::signal(signal, libc::SIG_IGN);
            }
        }
    }
}

/// Ctrl-C, SIGTERM and SIGHUP do what they do by default again; ignored ones (nohup) stay ignored.
pub fn release_stop() {
    for signal in STOPPING {
        // SAFETY: SIG_DFL and SIG_IGN install no handler.
        unsafe {
            if libc::signal(signal, libc::SIG_DFL) == libc::SIG_IGN {
                libc::signal(signal, libc::SIG_IGN);
            }
        }
    }
}

/// Waits for one of `files` to have something to read or to end; false when a signal came first. A request to stop
/// that arrives between the caller's last look at [`STOP`] and the wait is not missed, where [`hold_stop`] was called
/// before that look.
///
/// # Errors
/// Those of ppoll(2).
pub fn wait_for_input(files: &[BorrowedFd<'_>]) -> io::Result<Vec<bool>> {
    use nix::poll::{PollFd, PollFlags, ppoll};
    let mut polled: Vec<PollFd<'_>> =
        files.iter().map(|file| PollFd::new(*file, PollFlags::POLLIN)).collect();
    let mut mask = nix::sys::signal::SigSet::thread_get_mask()?;
    for signal in STOPPING {
        mask.remove(nix::sys::signal::Signal::try_from(signal)?);
    }
    match ppoll(&mut polled, None, Some(mask)) {
        Ok(_) => {}
        Err(nix::Error::EINTR) => return Ok(vec![false; files.len()]),
        Err(error) => return Err(error.into()),
    }
    Ok(polled.iter().map(|file| file.any().unwrap_or(true)).collect())
}

/// Lets requests to stop wait; gives what was held before.
///
/// # Errors
/// None that the caller can do anything about.
pub fn hold_stop() -> io::Result<Held> {
    let mut set = nix::sys::signal::SigSet::empty();
    for signal in STOPPING {
        set.add(nix::sys::signal::Signal::try_from(signal)?);
    }
    Ok(Held(set.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)?))
}

/// What was held before [`hold_stop`]; dropped, it is so again.
pub struct Held(nix::sys::signal::SigSet);

impl Drop for Held {
    fn drop(&mut self) {
        // A mask that was in force can be set again.
        let _ = self.0.thread_set_mask();
    }
}

/// Some of the signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Set(u64);

/// The signals of job control that stop a process, those of them that can wait.
const STOPS: [i32; 3] = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

impl Set {
    /// Adds one.
    pub fn insert(&mut self, signal: i32) {
        self.0 |= 1 << (signal - 1);
    }

    /// Takes one out: whether it was there.
    pub fn take(&mut self, signal: i32) -> bool {
        let there = self.contains(signal);
        self.0 &= !(1 << (signal - 1));
        there
    }

    /// Whether it has this one.
    pub fn contains(self, signal: i32) -> bool {
        self.0 >> (signal - 1) & 1 == 1
    }

    /// All of it, from the lowest number on.
    pub fn iter(self) -> impl Iterator<Item = i32> {
        (1..=64).filter(move |signal| self.contains(*signal))
    }

    /// What waits when those of `self` came first and those of `later` after them: as in the kernel, SIGCONT puts an
    /// end to stops that wait, and a stop to a SIGCONT that does.
    #[must_use]
    pub fn followed_by(self, later: Self) -> Self {
        let mut first = self;
        if later.contains(libc::SIGCONT) {
            STOPS.iter().for_each(|stop| _ = first.take(*stop));
        }
        if STOPS.iter().any(|stop| later.contains(*stop)) {
            first.take(libc::SIGCONT);
        }
        Self(first.0 | later.0)
    }

    /// For another process.
    pub fn bytes(self) -> [u8; 8] {
        self.0.to_ne_bytes()
    }

    /// What another process told by [`Self::bytes`].
    pub fn of(bytes: [u8; 8]) -> Self {
        Self(u64::from_ne_bytes(bytes))
    }
}

/// The signals that wait for this process.
pub fn waiting() -> Set {
    let mut set = Set::default();
    // SAFETY: zeroes are a valid set, which sigpending overwrites; sigismember reads it.
    unsafe {
        let mut pending: libc::sigset_t = std::mem::zeroed();
        libc::sigpending(&raw mut pending);
        for signal in 1..=64 {
            // The C library knows nothing of those that it keeps for itself.
            if libc::sigismember(&raw const pending, signal) == 1 {
                set.insert(signal);
            }
        }
    }
    set
}

/// Lets these wait for this process, which holds them, as if they had come before those that wait already.
pub fn let_wait(earlier: Set) {
    let there = waiting();
    for signal in earlier.followed_by(there).iter().filter(|signal| !there.contains(*signal)) {
        // SAFETY: integers; the signal is blocked.
        unsafe { libc::kill(libc::getpid(), signal) };
    }
}

/// What signals did before [`hold_all`].
pub struct Inherited {
    mask: libc::sigset_t,
    sigchld: libc::sigaction,
}

/// Lets all signals wait instead of doing anything, and children wait to be reaped.
pub fn hold_all() -> Inherited {
    // SAFETY: every pointer is to a local of the right type; zeroes are valid values of both types. The default
    // action runs no handler.
    unsafe {
        let mut inherited = Inherited { mask: std::mem::zeroed(), sigchld: std::mem::zeroed() };
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, &raw mut inherited.mask);
        let default: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGCHLD, &raw const default, &raw mut inherited.sigchld);
        inherited
    }
}

impl Inherited {
    /// What a signal that waits will do once they do what they did; `None`: it goes on waiting.
    pub fn action(&self, signal: i32) -> Option<Action> {
        // SAFETY: the mask was filled by the kernel; a null new action changes nothing, and zeroes are a valid value of
        // the old one if the call fails.
        let (blocked, disposition) = unsafe {
            let mut old: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &raw mut old);
            (libc::sigismember(&raw const self.mask, signal) == 1, old.sa_sigaction)
        };
        match disposition {
            _ if blocked => None,
            libc::SIG_IGN => Some(Action::Ignore),
            _ => Some(default_action(signal)),
        }
    }

    /// Lets signals do what they did.
    pub fn restore(&self) {
        // SAFETY: both were filled by the kernel; no handler of ours was ever set for SIGCHLD.
        unsafe {
            libc::sigaction(libc::SIGCHLD, &raw const self.sigchld, std::ptr::null_mut());
            libc::sigprocmask(libc::SIG_SETMASK, &raw const self.mask, std::ptr::null_mut());
        }
    }
}

/// A descriptor for the signals that wait.
pub struct Watch(nix::sys::signalfd::SignalFd);

/// A signal that waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caught {
    /// Which.
    pub signal: i32,
    /// The terminal or the kernel itself sent it, and not a process.
    pub by_kernel: bool,
    /// Who sent it, as this process's namespace numbers it; 0 when it does not.
    pub sender: u32,
}

impl Caught {
    /// Whether it is one of those that a terminal sends, always to a whole process group.
    pub fn from_terminal(&self) -> bool {
        let keys = [libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP];
        let others = [libc::SIGTTIN, libc::SIGTTOU, libc::SIGWINCH];
        self.by_kernel && (keys.contains(&self.signal) || others.contains(&self.signal))
    }
}

impl Watch {
    /// Watches for all signals.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn new() -> io::Result<Self> {
        use nix::sys::signalfd::{SfdFlags, SignalFd};
        let all = nix::sys::signal::SigSet::all();
        Ok(Self(SignalFd::with_flags(&all, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    /// The next signal, if one waits.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn next(&self) -> io::Result<Option<Caught>> {
        Ok(self.0.read_signal()?.map(|info| Caught {
            signal: info.ssi_signo as i32,
            by_kernel: info.ssi_code == libc::SI_KERNEL,
            sender: info.ssi_pid,
        }))
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What a signal does by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Ignore,
    /// It stops the process.
    Stop,
    /// It ends the process.
    End,
}

/// What `signal` does by default (signal(7)).
pub fn default_action(signal: i32) -> Action {
    match signal {
        libc::SIGCHLD | libc::SIGCONT | libc::SIGURG | libc::SIGWINCH => Action::Ignore,
        libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => Action::Stop,
        _ => Action::End,
    }
}

/// Sends a signal to a child. One that has ended needs none.
pub fn send(child: libc::pid_t, signal: i32) {
    // SAFETY: kill takes integers.
    unsafe { libc::kill(child, signal) };
}

/// Stops this process as `signal` does, and goes on when it is continued. Signals wait before and after.
pub fn stop_self(signal: i32) {
    let_through(signal);
}

/// Ends this process as `signal` does, without a core of its own.
pub fn die_of(signal: i32) -> ! {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `none` is a valid limit.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
    let_through(signal);
    // It was one that ends nothing.
    super::process::exit(128 + signal)
}

/// Sends a signal to this process and lets it do what it does by default.
fn let_through(signal: i32) {
    // SAFETY: the set is initialised by sigemptyset, the default action runs no handler, and all pointers are to
    // locals.
    unsafe {
        let mut only = std::mem::zeroed();
        libc::sigemptyset(&raw mut only);
        libc::sigaddset(&raw mut only, signal);
        if default_action(signal) == Action::End {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::raise(signal);
        libc::sigprocmask(libc::SIG_UNBLOCK, &raw const only, std::ptr::null_mut());
        libc::sigprocmask(libc::SIG_BLOCK, &raw const only, std::ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(signals: &[i32]) -> Set {
        let mut set = Set::default();
        signals.iter().for_each(|signal| set.insert(*signal));
        set
    }

    #[test]
    fn of_a_stop_and_a_continuation_the_later_one_waits() {
        let (stop, goes_on) = (set(&[libc::SIGINT, libc::SIGTSTP]), set(&[libc::SIGCONT, 64]));
        assert_eq!(stop.followed_by(goes_on), set(&[libc::SIGINT, libc::SIGCONT, 64]));
        assert_eq!(goes_on.followed_by(stop), set(&[libc::SIGINT, libc::SIGTSTP, 64]));
        assert_eq!(stop.followed_by(stop), stop);
        assert_eq!(Set::of(stop.bytes()), stop);
        assert_eq!(stop.iter().collect::<Vec<_>>(), [libc::SIGINT, libc::SIGTSTP]);
    }
}
