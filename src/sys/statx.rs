//! statx(2) as the kernel writes it, with fields that no library knows yet.
//!
//! ```text
//! struct statx of linux/stat.h, 256 bytes
//!   0 mask u32       4 blksize u32   8 attributes u64  16 nlink u32  20 uid u32  24 gid u32  28 mode u16
//!  32 inode u64     40 size u64     48 blocks u64      56 attributes_mask u64
//!  64 atime i64 u32  80 btime  96 ctime  112 mtime     128 rdev major u32, minor u32    136 dev major, minor
//! ```

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The size of a block, 32 bits.
pub const BLOCK_SIZE: usize = 4;
/// How many names it has, 32 bits.
pub const LINKS: usize = 16;
/// Its owner, 32 bits.
pub const USER: usize = 20;
/// Its group, 32 bits.
pub const GROUP: usize = 24;
/// Type and permissions, 16 bits.
pub const MODE: usize = 28;
/// Its number, 64 bits.
pub const INODE: usize = 32;
/// Its size in bytes, 64 bits.
pub const SIZE: usize = 40;
/// The space that it takes, in units of 512 bytes, 64 bits.
pub const BLOCKS: usize = 48;
/// When it was read: seconds, 64 bits, and nanoseconds, 32 bits. The other times are alike.
pub const ACCESSED: usize = 64;
/// When it was changed in any way.
pub const CHANGED: usize = 96;
/// When its content was changed.
pub const MODIFIED: usize = 112;
/// Which device it is: major and minor, 32 bits each.
pub const DEVICE_OF: usize = 128;
/// Which device it lies on.
pub const DEVICE_ON: usize = 136;

/// The structure. Its fields are read and written by their places.
#[derive(Clone)]
#[repr(C, align(8))]
pub struct Facts([u8; 256]);

impl Facts {
    /// Of what a descriptor is open on.
    ///
    /// # Errors
    /// EINVAL for flags and masks that the kernel does not know.
    pub fn of(object: BorrowedFd<'_>, flags: i32, mask: u32) -> io::Result<Self> {
        let mut facts = Self([0; 256]);
        let flags = flags | libc::AT_EMPTY_PATH;
        // SAFETY: the path is a string that lives on, and the kernel writes `struct statx`, whose 256 bytes are all there.
        let done = unsafe {
            libc::syscall(
                libc::SYS_statx,
                object.as_raw_fd(),
                c"".as_ptr(),
                flags,
                mask,
                facts.0.as_mut_ptr(),
            )
        };
        if done == 0 { Ok(facts) } else { Err(io::Error::last_os_error()) }
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// A field of 16 bits.
    pub fn u16(&self, place: usize) -> u16 {
        u16::from_ne_bytes([self.0[place], self.0[place + 1]])
    }

    /// A field of 32 bits.
    pub fn u32(&self, place: usize) -> u32 {
        u32::from_ne_bytes(std::array::from_fn(|index| self.0[place + index]))
    }

    /// A field of 64 bits.
    pub fn u64(&self, place: usize) -> u64 {
        u64::from_ne_bytes(std::array::from_fn(|index| self.0[place + index]))
    }

    /// Changes a field of 16 bits.
    pub fn set_u16(&mut self, place: usize, value: u16) {
        self.0[place..place + 2].copy_from_slice(&value.to_ne_bytes());
    }

    /// Changes a field of 32 bits.
    pub fn set_u32(&mut self, place: usize, value: u32) {
        self.0[place..place + 4].copy_from_slice(&value.to_ne_bytes());
    }
}
