//! Before the first line of skiff's own: how the program is linked and begun, where the usual way would cost each
//! `skiff exec` more than it gives. Of the 6 ms that a container took to join another, 0.6 were spent here.

use std::ffi::{c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{signals, title};

// Of libgcc_s only the unwinder is needed, and its start asks the processor what it is, which is slow on a virtual
// machine. This stands before the standard library's own request for it, which is then not needed.
#[link(name = "gcc_eh", kind = "static", modifiers = "-bundle")]
unsafe extern "C" {}

/// `x` to the power of `y`: the one function of libm that is needed, for the speed that progress bars show.
// SAFETY: the C library's signature, and no other definition is linked.
#[unsafe(no_mangle)]
extern "C" fn pow(x: f64, y: f64) -> f64 {
    libm::pow(x, y)
}

/// Makes `$main` the program's begin, a function without arguments that gives the exit status.
///
/// It takes the place of Rust's own, which reads the process's memory map to tell an overflow of the main thread's
/// stack from other mistakes.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        /// What the C library calls.
        #[allow(unsafe_code)]
        // SAFETY: the C library's signature, and no other definition is linked.
        #[unsafe(no_mangle)]
        pub extern "C" fn main(
            _count: ::std::ffi::c_int,
            words: *mut *mut ::std::ffi::c_char,
            variables: *mut *mut ::std::ffi::c_char,
        ) -> ::std::ffi::c_int {
            $crate::sys::start::begin($main, words, variables)
        }
    };
}

/// The exit status of a panic, as everywhere in Rust.
const PANICKED: c_int = 101;

/// Runs `main` in a process as it has to be: descriptors 0 to 2 are open, SIGPIPE gives EPIPE.
pub fn begin(main: fn() -> c_int, words: *mut *mut c_char, variables: *mut *mut c_char) -> c_int {
    title::note(words, variables);
    open_standard_descriptors();
    signals::ignore_sigpipe();
    let status = catch_unwind(AssertUnwindSafe(main)).unwrap_or(PANICKED);
    std::process::exit(status)
}

/// What is opened first must not become a standard descriptor, to be written to as such. The user's program finds those
/// closed that its caller has closed.
fn open_standard_descriptors() {
    for descriptor in 0..=2 {
        // SAFETY: asking for flags touches no memory; the path is a C string. The lowest free number is the one
        // that was found closed.
        unsafe {
            if libc::fcntl(descriptor, libc::F_GETFD) == -1
                && libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) == -1
            {
                libc::abort();
            }
        }
    }
}
