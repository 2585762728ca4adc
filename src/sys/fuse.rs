//! /dev/fuse: what it is, and the one ioctl that needs `unsafe`.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};

/// `FUSE_DEV_IOC_CLONE` of linux/fuse.h: `_IOR(229, 0, uint32_t)`.
const FUSE_DEV_IOC_CLONE: libc::c_ulong = 0x8004_e500;

/// Opens the FUSE device. It must be opened in the user namespace that mounts it: fuse_fill_super refuses a
/// descriptor whose opener lived in another one (EINVAL). Reading it does not wait: it says EAGAIN.
///
/// # Errors
/// ENOENT or ENODEV without the fuse module, EACCES where the device is not for everyone.
pub fn open_device() -> io::Result<OwnedFd> {
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
    Ok(options.open("/dev/fuse")?.into())
}

/// Makes `queue`, an opened FUSE device, a further queue of the connection that `device` was mounted with, so that
/// each thread reads requests by itself (kernel 4.2).
///
/// # Errors
/// EINVAL when `device` is not mounted.
pub fn attach_queue(queue: BorrowedFd<'_>, device: BorrowedFd<'_>) -> io::Result<()> {
    let source = device.as_raw_fd() as u32;
    // SAFETY: the ioctl reads one u32 through the pointer, which outlives the call.
    match unsafe { libc::ioctl(queue.as_raw_fd(), FUSE_DEV_IOC_CLONE, &raw const source) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What lies where the FUSE device should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The FUSE device.
    Fuse,
    /// Another device.
    Other,
    /// Something else.
    None,
}

/// What a file is, by its status. (The number is that of linux/Documentation/admin-guide/devices.txt.)
pub fn device(status: &std::fs::Metadata) -> Device {
    let number = (rustix::fs::major(status.rdev()), rustix::fs::minor(status.rdev()));
    match (status.file_type().is_char_device(), number) {
        (true, (10, 229)) => Device::Fuse,
        (true, _) => Device::Other,
        (false, _) => Device::None,
    }
}
