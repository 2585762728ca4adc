//! A layer to another file system: contents with their holes, owners, modes, times, attributes, devices, hard links.
//!
//! Anything that cannot be kept is an error: a layer that lost an attribute would be another layer. Nobody else may
//! write in either tree meanwhile.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, SeekFrom, Timespec, Timestamps, XattrFlags, chmodat, fchmod, lgetxattr,
    llistxattr, lsetxattr, mknodat, seek, utimensat,
};
use rustix::io::Errno;

/// How much is read at once.
const PIECE_BYTES: usize = 1 << 20;

/// Copies a tree to a name that is not there yet.
///
/// # Errors
/// When something of it cannot be copied; what was copied before is left there.
pub fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let mut links: HashMap<(u64, u64), PathBuf> = HashMap::new();
    let mut ahead = vec![PathBuf::new()];
    let mut directories = Vec::new();
    while let Some(below) = ahead.pop() {
        // Joining an empty path would add a slash, which follows links.
        let at = |top: &Path| if below.as_os_str().is_empty() { top.to_owned() } else { top.join(&below) };
        let (source, target) = (at(from), at(to));
        let status = fs::symlink_metadata(&source)?;
        if status.is_dir() {
            fs::create_dir(&target)?;
            for entry in fs::read_dir(&source)? {
                ahead.push(below.join(entry?.file_name()));
            }
            // Its mode may forbid, and its time is changed by, what comes into it.
            directories.push((source, target, status));
            continue;
        }
        if status.nlink() > 1 {
            if let Some(first) = links.get(&(status.dev(), status.ino())) {
                fs::hard_link(first, &target)?;
                continue;
            }
            links.insert((status.dev(), status.ino()), target.clone());
        }
        copy_one(&source, &target, &status)?;
    }
    directories.iter().rev().try_for_each(|(source, target, status)| set_attributes(source, target, status))
}

fn copy_one(source: &Path, target: &Path, status: &Metadata) -> io::Result<()> {
    let kind = status.file_type();
    if kind.is_file() {
        copy_contents(source, target, status)?;
    } else if kind.is_symlink() {
        symlink(fs::read_link(source)?, target)?;
    } else {
        let kind = if kind.is_char_device() {
            FileType::CharacterDevice
        } else if kind.is_block_device() {
            FileType::BlockDevice
        } else if kind.is_fifo() {
            FileType::Fifo
        } else {
            FileType::Socket
        };
        // A device 0:0 hides a name of the layers below, and anybody may make one.
        mknodat(CWD, target, kind, Mode::from_raw_mode(status.mode() & 0o7777), status.rdev())?;
    }
    set_attributes(source, target, status)
}

/// Copies one file: contents, holes, attributes.
///
/// # Errors
/// As [`copy_tree`].
pub(super) fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let status = fs::symlink_metadata(from)?;
    copy_contents(from, to, &status)?;
    set_attributes(from, to, &status)
}

fn copy_contents(from: &Path, to: &Path, status: &Metadata) -> io::Result<()> {
    let source = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(from)?;
    let target = File::options().write(true).create_new(true).mode(0o600).open(to)?;
    let length = status.size();
    let mut buffer = vec![0; PIECE_BYTES.min(length as usize)];
    let mut at = 0;
    while at < length {
        let start = match seek(&source, SeekFrom::Data(at)) {
            Ok(start) => start,
            // No data from here to the end.
            Err(Errno::NXIO) => break,
            // A file system that does not know its holes.
            Err(Errno::INVAL) => at,
            Err(errno) => return Err(errno.into()),
        };
        let end = seek(&source, SeekFrom::Hole(start)).unwrap_or(length).clamp(start, length);
        copy_range(&source, &target, start..end, &mut buffer)?;
        at = end.max(start + 1);
    }
    target.set_len(length)
}

fn copy_range(
    source: &File,
    target: &File,
    range: std::ops::Range<u64>,
    buffer: &mut [u8],
) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut at = range.start;
    while at < range.end {
        let wanted = buffer.len().min((range.end - at) as usize);
        let piece = &mut buffer[..wanted];
        source.read_exact_at(piece, at)?;
        target.write_all_at(piece, at)?;
        at += wanted as u64;
    }
    Ok(())
}

/// Owner, extended attributes, mode and times, in this order: each may take away the right to, or change, what the
/// ones before it set.
fn set_attributes(source: &Path, target: &Path, status: &Metadata) -> io::Result<()> {
    let made = fs::symlink_metadata(target)?;
    if (made.uid(), made.gid()) != (status.uid(), status.gid()) {
        std::os::unix::fs::lchown(target, Some(status.uid()), Some(status.gid()))?;
    }
    copy_xattrs(source, target)?;
    if !status.is_symlink() {
        let mode = Mode::from_raw_mode(status.mode() & 0o7777);
        if status.is_file() {
            fchmod(File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(target)?, mode)?;
        } else {
            chmodat(CWD, target, mode, AtFlags::empty())?;
        }
    }
    let time = |seconds, nanoseconds: i64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps {
        last_access: time(status.atime(), status.atime_nsec()),
        last_modification: time(status.mtime(), status.mtime_nsec()),
    };
    Ok(utimensat(CWD, target, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn copy_xattrs(source: &Path, target: &Path) -> io::Result<()> {
    let names = match sized(|buffer| llistxattr(source, buffer)) {
        // A file system without any.
        Err(Errno::NOTSUP) => return Ok(()),
        names => names?,
    };
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = <OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name);
        let value = sized(|buffer| lgetxattr(source, name, buffer))?;
        match lsetxattr(target, name, &value, XattrFlags::empty()) {
            // The label is the file system's to give.
            Err(Errno::PERM | Errno::ACCESS | Errno::NOTSUP) if name == "security.selinux" => {}
            result => result?,
        }
    }
    Ok(())
}

/// What a call gives into a buffer that is large enough for it; values and lists have at most 64 KiB.
fn sized(get: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 1024];
    loop {
        match get(&mut buffer) {
            Err(Errno::RANGE) if buffer.len() <= 64 << 10 => buffer = vec![0; buffer.len() * 4],
            Err(errno) => return Err(errno),
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_everything_that_the_layer_had() {
        let place = tempfile::tempdir_in("/var/tmp").unwrap();
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        fs::create_dir_all(from.join("closed/sub")).unwrap();
        fs::write(from.join("closed/sub/file"), "text").unwrap();
        fs::hard_link(from.join("closed/sub/file"), from.join("link")).unwrap();
        symlink("closed/none", from.join("soft")).unwrap();
        let sparse = File::create(from.join("sparse")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 64 << 20).unwrap();
        mknodat(CWD, from.join("gone"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        mknodat(CWD, from.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o620), 0).unwrap();
        lsetxattr(from.join("link"), "user.skiff.owner", b"0:5", XattrFlags::empty()).unwrap();
        lsetxattr(from.join("closed"), "user.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        chmodat(CWD, from.join("link"), Mode::from_raw_mode(0o4711), AtFlags::empty()).unwrap();
        chmodat(CWD, from.join("closed"), Mode::from_raw_mode(0o2511), AtFlags::empty()).unwrap();
        lsetxattr(from.join("closed"), "user.long", &[7; 3000], XattrFlags::empty()).unwrap();
        let old = Timespec { tv_sec: -5, tv_nsec: 7 };
        let times = Timestamps { last_access: old, last_modification: old };
        for name in ["closed", "soft", "link", "gone", ""] {
            utimensat(CWD, from.join(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        }
        copy_tree(&from, &to).unwrap();
        let look = |path: &Path| {
            let all =
                ["", "closed", "closed/sub", "closed/sub/file", "link", "soft", "sparse", "gone", "pipe"];
            all.map(|name| {
                let status = fs::symlink_metadata(path.join(name)).unwrap();
                let size = if status.is_dir() { 0 } else { status.size() };
                let xattrs = ["user.skiff.owner", "user.overlay.opaque", "user.long"]
                    .map(|name_of| sized(|buffer| lgetxattr(path.join(name), name_of, buffer)).ok());
                let time = (status.mtime(), status.mtime_nsec());
                (name, status.mode(), status.nlink(), status.rdev(), size, time, xattrs)
            })
        };
        assert_eq!(look(&from), look(&to));
        let value = |name: &str| sized(|buffer| lgetxattr(to.join("closed"), name, buffer)).unwrap();
        assert_eq!((value("user.overlay.opaque"), value("user.long")), (b"y".to_vec(), vec![7; 3000]));
        assert_eq!(fs::read(to.join("closed/sub/file")).unwrap(), b"text");
        assert_eq!(fs::read_link(to.join("soft")).unwrap(), Path::new("closed/none"));
        assert!(fs::metadata(to.join("sparse")).unwrap().blocks() < 1000);
        let ino = |name: &str| fs::metadata(to.join(name)).unwrap().ino();
        assert_eq!(ino("link"), ino("closed/sub/file"));
        assert_eq!(copy_tree(&from, &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        crate::image::unpack::remove_tree(&to).unwrap();
        crate::image::unpack::remove_tree(&from).unwrap();
    }
}
