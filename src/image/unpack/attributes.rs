//! Owner, extended attributes, mode and times of what was unpacked.
//!
//! In this order: a change of owner drops file capabilities and set-uid, a mode may take away the right to
//! set attributes, and all of them change times.
//! What an ordinary user may not set is counted and left out.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;

use rustix::fs::{self, AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::{Failure, Node, Unpack, lock, open_directory, path};
use crate::error::{Context, Result};
use crate::image::squashfs::{FileKind, Inode};

fn times(inode: &Inode) -> Timestamps {
    let time = Timespec { tv_sec: i64::from(inode.mtime), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

impl Unpack<'_> {
    pub(super) fn set_attributes(
        &self,
        file: BorrowedFd<'_>,
        inode: &Inode,
        mode: u32,
    ) -> Result<(), Failure> {
        if self.options.owners {
            self.owner(fs::fchown(file, Some(Uid::from_raw(inode.uid)), Some(Gid::from_raw(inode.gid))))?;
        }
        self.set_xattrs(inode, |name, value| fs::fsetxattr(file, name, value, XattrFlags::empty()))?;
        fs::fchmod(file, Mode::from_raw_mode(mode))?;
        Ok(fs::futimens(file, &times(inode))?)
    }

    /// For what cannot be opened: links, devices, pipes, sockets.
    pub(super) fn set_attributes_of_name(
        &self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        inode: &Inode,
    ) -> Result<(), Failure> {
        if self.options.owners {
            let (uid, gid) = (Uid::from_raw(inode.uid), Gid::from_raw(inode.gid));
            self.owner(fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW))?;
        }
        if inode.xattr.is_some() {
            let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
            path.extend_from_slice(name.to_bytes());
            let path = OsStr::from_bytes(&path);
            self.set_xattrs(inode, |name, value| fs::lsetxattr(path, name, value, XattrFlags::empty()))?;
        }
        if inode.kind() != FileKind::Symlink {
            fs::chmodat(directory, name, Mode::from_raw_mode(inode.mode), AtFlags::empty())?;
        }
        Ok(fs::utimensat(directory, name, &times(inode), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn set_xattrs(
        &self,
        inode: &Inode,
        set: impl Fn(&OsStr, &[u8]) -> Result<(), Errno>,
    ) -> Result<(), Failure> {
        if inode.xattr.is_none() {
            return Ok(());
        }
        for (name, value) in self.image.xattrs(inode)? {
            match set(OsStr::from_bytes(&name), &value) {
                // The caller may not, the file system has none of this kind, or they are too large for it.
                Err(
                    Errno::PERM
                    | Errno::ACCESS
                    | Errno::NOTSUP
                    | Errno::INVAL
                    | Errno::NOSPC
                    | Errno::TOOBIG
                    | Errno::RANGE,
                ) => {
                    self.counts.xattrs.fetch_add(1, Ordering::Relaxed);
                }
                result => result?,
            }
        }
        Ok(())
    }

    fn owner(&self, result: Result<(), Errno>) -> Result<(), Errno> {
        match result {
            Err(Errno::PERM | Errno::INVAL) => {
                self.counts.owners.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            result => result,
        }
    }

    pub(super) fn finish_directory(&self, node: &Node) -> Result<(), Failure> {
        let mut mode = node.inode.mode;
        if mode & 0o700 != 0o700 && !self.options.owners {
            // Hard links may still be made from here.
            lock(&self.closed).push((path(node, c""), mode));
            mode |= 0o700;
        }
        self.set_attributes(node.fd.as_fd(), &node.inode, mode)
    }

    /// The modes that shut the caller out, deepest directory first.
    pub(super) fn close_directories(&self) -> Result<()> {
        let mut closed = std::mem::take(&mut *lock(&self.closed));
        closed.sort_by_key(|(path, _)| std::cmp::Reverse(path.components().count()));
        for (path, mode) in closed {
            open_directory(self.root.as_fd(), &path)
                .and_then(|directory| fs::fchmod(directory, Mode::from_raw_mode(mode)))
                .tried(|| format!("cannot set the mode of {path:?}"))?;
        }
        Ok(())
    }
}
