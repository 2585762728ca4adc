//! The root directory of a new layer. An overlay shows the one of the uppermost layer alone, and copies nothing into it:
//! so a layer that is new gets mode, owner, time and records of the one it is laid over.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{Gid, Mode, OFlags, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::records;

/// Gives the directory `new` what `below` has.
///
/// # Errors
/// What the file system of `new` refuses.
pub fn inherit(below: &str, new: &str) -> Result<(), Errno> {
    let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |path: &str| rustix::fs::open(path, how, Mode::empty());
    let (below, new) = (open(below)?, open(new)?);
    let status = rustix::fs::fstat(&below)?;
    match rustix::fs::fchown(&new, Some(Uid::from_raw(status.st_uid)), Some(Gid::from_raw(status.st_gid))) {
        // An owner that is not mapped here, in a tree that is somebody else's.
        Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
        Err(error) => return Err(error),
    }
    rustix::fs::fchmod(&new, Mode::from_raw_mode(status.st_mode & 0o7777))?;
    copy_records(&below, &new)?;
    let time = |seconds, nanoseconds: u64| rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
    };
    let times = Timestamps {
        last_access: time(status.st_atime, status.st_atime_nsec),
        last_modification: time(status.st_mtime, status.st_mtime_nsec),
    };
    rustix::fs::futimens(&new, &times)
}

fn copy_records(below: impl AsFd, new: impl AsFd) -> Result<(), Errno> {
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::flistxattr(&below, &mut names) {
        // No attributes, or more of them than can be: then none of ours.
        Err(Errno::OPNOTSUPP | Errno::RANGE | Errno::TOOBIG) => return Ok(()),
        length => length?,
    };
    let mut value = vec![0; 64 << 10];
    for name in names[..length].split_inclusive(|byte| *byte == 0) {
        if let (true, Ok(name)) =
            (name.starts_with(records::PREFIX.as_bytes()), CStr::from_bytes_with_nul(name))
        {
            let length = rustix::fs::fgetxattr(&below, name, &mut value)?;
            rustix::fs::fsetxattr(&new, name, &value[..length], XattrFlags::empty())?;
        }
    }
    Ok(())
}
