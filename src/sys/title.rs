//! What ps and /proc show of a process as its command line and its environment. A server outlives the command that
//! started it, so it must show neither: passwords stand in both, and who looks for a job by its words (`pgrep -f`) must
//! not find one that has ended.
//!
//! ```text
//! skiff \0 exec \0 --env \0 A=b \0 │ HOME=/home/u \0 … \0    one block at the end of the first stack
//! skiff-keeper \0 0 0 0 0 0 0 0 .  │ 0 0 0 0 0 0 0 0 0 0     the same in a server
//!                                └ no NUL: of such a block the kernel shows what stands before the first NUL
//! ```
//!
//! It is overwritten where it lies: to name another place to the kernel (`PR_SET_MM`) takes privileges.

use std::ffi::{CStr, c_char};
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

/// The arrays that the program was started with, each ended by a null pointer.
static ARGUMENTS: AtomicPtr<*mut c_char> = AtomicPtr::new(null_mut());
static VARIABLES: AtomicPtr<*mut c_char> = AtomicPtr::new(null_mut());

/// The block, once it was overwritten.
static BLOCK: OnceLock<Option<Block>> = OnceLock::new();

struct Block {
    start: AtomicPtr<u8>,
    /// How much of it is the command line.
    line_bytes: usize,
    bytes: usize,
}

/// No name of a process is longer (`TASK_COMM_LEN`).
const NAME_BYTES: usize = 16;

/// Notes what `main` was called with. A process that has another begin, that of a test, goes on showing what it does.
pub(super) fn note(arguments: *mut *mut c_char, variables: *mut *mut c_char) {
    ARGUMENTS.store(arguments, Ordering::Relaxed);
    VARIABLES.store(variables, Ordering::Relaxed);
}

/// Makes `name` the whole command line, and the environment empty. Who calls has one thread, and has read of both what
/// it needs: `std::env` gives nothing from here on.
pub(super) fn replace(name: &CStr) {
    // Once: a process that was forked from a server shares with it what is overwritten.
    let Some(block) = BLOCK.get_or_init(overwrite) else { return };
    let mut shown = [0; NAME_BYTES];
    for (to, from) in shown[..NAME_BYTES - 1].iter_mut().zip(name.to_bytes()) {
        *to = *from;
    }
    // Of a shorter command line the name takes bytes of the environment. The block's last byte stays NUL.
    let most = NAME_BYTES.min(block.bytes - 1);
    let start = block.start.load(Ordering::Relaxed);
    // SAFETY: the block is as long, mapped and writable; see `overwrite` for who else may look at it.
    unsafe {
        start.copy_from_nonoverlapping(shown.as_ptr(), most);
        if block.line_bytes > NAME_BYTES {
            start.add(block.line_bytes - 1).write(b'.');
        }
    }
}

/// Finds the block and makes it zeroes.
fn overwrite() -> Option<Block> {
    let (arguments, variables) = (ARGUMENTS.load(Ordering::Relaxed), VARIABLES.load(Ordering::Relaxed));
    if arguments.is_null() || variables.is_null() {
        return None;
    }
    // SAFETY: both are the arrays that the C library gave `main`. What they lead to lies on the first stack, which stays
    // mapped and writable as long as the process; `end_of` has found every byte of it to belong to one of the strings.
    // No reference into them is held: the standard library gives copies, and there is no other thread that could make
    // one now. Pointers of the C library lead to strings as before, to empty ones.
    unsafe {
        let start = (*arguments).cast::<u8>();
        let line_end = end_of(arguments, start);
        let end = end_of(variables, line_end);
        let bytes = end.offset_from_unsigned(start);
        start.write_bytes(0, bytes);
        let line_bytes = line_end.offset_from_unsigned(start);
        (bytes > 0).then(|| Block { start: AtomicPtr::new(start), line_bytes, bytes })
    }
}

/// Where the strings end that lie one after the other from `start` on, as the array has them.
///
/// # Safety
/// The array ends with a null pointer, and every other one leads to a string.
unsafe fn end_of(mut array: *mut *mut c_char, start: *mut u8) -> *mut u8 {
    let mut end = start;
    // SAFETY: as above; a string that lies elsewhere ends the walk, so that `end` is at most the end of one.
    unsafe {
        while !(*array).is_null() && (*array).cast::<u8>() == end {
            end = end.add(libc::strlen(*array) + 1);
            array = array.add(1);
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_taken_together_as_far_as_they_touch() {
        let mut block = *b"skiff\0exec\0A=b\0C=d\0elsewhere\0";
        let block = block.as_mut_ptr();
        let at = |index: usize| block.wrapping_add(index);
        let end = |places: &[usize], start| {
            let mut array: Vec<*mut c_char> = places.iter().map(|index| at(*index).cast()).collect();
            array.push(null_mut());
            // SAFETY: every place is the begin of a string of `block`.
            unsafe { end_of(array.as_mut_ptr(), at(start)).offset_from_unsigned(at(0)) }
        };
        assert_eq!(end(&[0, 6], 0), 11);
        assert_eq!(end(&[11, 15], 11), 19);
        assert_eq!(end(&[11, 19], 11), 15);
        assert_eq!(end(&[], 11), 11);
    }
}
