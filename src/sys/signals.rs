//! Signals: what the caller had set before Rust's start-up code changed it, and catching a request to stop.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The disposition of SIGPIPE that this process inherited. Rust's runtime ignores SIGPIPE before `main`; the
/// user's program must get what the caller had.
static INHERITED_SIGPIPE: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);

// The C library runs this before Rust's runtime, which keeps no record.
#[used]
// SAFETY: `.init_array` holds functions of this type, called once with one thread.
#[unsafe(link_section = ".init_array")]
static REMEMBER_SIGPIPE: extern "C" fn() = remember_sigpipe;

extern "C" fn remember_sigpipe() {
    let mut old = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action changes nothing; `old` is a valid place for the old one, and zeroes are a valid
    // value of it if the call failed.
    let disposition = unsafe {
        libc::sigaction(libc::SIGPIPE, std::ptr::null(), old.as_mut_ptr());
        old.assume_init().sa_sigaction
    };
    INHERITED_SIGPIPE.store(disposition, Ordering::Relaxed);
}

/// Gives SIGPIPE back the disposition that the caller had set.
pub fn restore_sigpipe() {
    let disposition = INHERITED_SIGPIPE.load(Ordering::Relaxed);
    // SAFETY: before exec a process can have inherited only SIG_DFL or SIG_IGN, which are valid dispositions.
    unsafe { libc::signal(libc::SIGPIPE, disposition) };
}

/// No signal is blocked from here on, and all that were caught or ignored do what they do by default but SIGPIPE,
/// which stays ignored: for a server, whatever its first caller had set.
pub fn reset_for_server() {
    // SAFETY: the set is initialised by sigemptyset before it is used; signal() with SIG_DFL and SIG_IGN installs
    // no handler. Numbers that may not be changed give EINVAL.
    unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        for signal in 1..=libc::SIGRTMAX() {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// Set by SIGINT, SIGTERM and SIGHUP once [`catch_stop`] was called.
pub static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn note_stop(signal: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
    // A second one ends the process at once, should the first not be heeded.
    // SAFETY: signal() is async-signal-safe.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// From here on Ctrl-C, SIGTERM and SIGHUP set [`STOP`] instead of ending the process, so that long work can take
/// back what it has half done. Ignored ones (nohup) stay ignored.
pub fn catch_stop() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler is async-signal-safe: it stores to an atomic and calls signal().
        unsafe {
            let handler = note_stop as extern "C" fn(libc::c_int);
            if libc::signal(signal, handler as libc::sighandler_t) == libc::SIG_IGN {
                libc::signal(signal, libc::SIG_IGN);
            }
        }
    }
}
