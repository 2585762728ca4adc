//! What a layer says of one file.

use crate::error::{Error, Result};
use crate::pack::XattrSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// Linux: no path is longer, the NUL at its end included; no name is longer.
const PATH_BYTES: usize = 4096;
const NAME_BYTES: usize = 255;

/// An entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path from the root, free of "." and "..", without a slash at either end; empty for the root.
    pub path: Box<[u8]>,
    /// Owner, mode, time.
    pub attributes: Attributes,
    /// What it is.
    pub what: What,
}

/// What every kind of file has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits with suid, sgid and sticky.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Seconds since 1970.
    pub mtime: i64,
    /// Extended attributes that an image can hold, sorted.
    pub xattrs: Option<Arc<XattrSet>>,
    /// There was an access control list, which an image cannot hold.
    pub access_list: bool,
}

impl Attributes {
    /// Those of a directory that no layer says anything about.
    pub fn implied(mtime: i64) -> Self {
        Self { mode: 0o755, owner: (0, 0), mtime, xattrs: None, access_list: false }
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A directory.
    Directory,
    /// A regular file of this many bytes.
    Regular(u64),
    /// Another name of the file with this path, which is written as [`Entry::path`].
    Link(Box<[u8]>),
    /// A symbolic link.
    Symlink(Box<[u8]>),
    /// A block device, by its number on disk.
    BlockDevice(u32),
    /// A character device, by its number on disk.
    CharDevice(u32),
    /// A named pipe.
    Fifo,
}

/// What an entry's name says to do with lower layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name<'a> {
    /// Nothing: it is a file.
    File,
    /// What lower layers have of this path is gone: a directory and a name in it.
    Whiteout(&'a [u8], &'a [u8]),
    /// What lower layers have in this directory is gone.
    Opaque(&'a [u8]),
    /// Nothing: a note of the file system that the layer was made on.
    Note,
}

/// The directory and the name of a path.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => (&[], path),
    }
}

/// The names in a path.
pub fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
}

/// What the name says (OCI image specification 1.1, "Whiteouts"; names that begin with `.wh..wh.` are AUFS's own).
///
/// # Errors
/// A whiteout of no name, of "." or of "..".
pub fn meaning(path: &[u8]) -> Result<Name<'_>> {
    let (directory, name) = split(path);
    if name == b".wh..wh..opq" {
        return Ok(Name::Opaque(directory));
    }
    if names(path).any(|name| name.starts_with(b".wh..wh.")) {
        return Ok(Name::Note);
    }
    match name.strip_prefix(b".wh.") {
        None => Ok(Name::File),
        Some(b"" | b"." | b"..") => Err(wrong(path, "it is a whiteout of no file")),
        Some(gone) => Ok(Name::Whiteout(directory, gone)),
    }
}

/// A path as a layer has it, made plain.
///
/// # Errors
/// What leads out of the image, and what no file system can hold; says why.
pub fn plain(path: &[u8]) -> Result<Box<[u8]>, String> {
    let mut plain = Vec::with_capacity(path.len());
    for name in names(path).filter(|name| name != b".") {
        if name == b".." {
            return Err("its path leads upwards".into());
        }
        if name.len() > NAME_BYTES {
            return Err(format!("a name in its path is longer than {NAME_BYTES} bytes"));
        }
        if name.contains(&0) {
            return Err("its path has a NUL in it".into());
        }
        if !plain.is_empty() {
            plain.push(b'/');
        }
        plain.extend_from_slice(name);
    }
    if plain.len() >= PATH_BYTES {
        return Err(format!("its path has {PATH_BYTES} bytes or more"));
    }
    Ok(plain.into())
}

/// The target of a symbolic link, as it is.
///
/// # Errors
/// What no file system can hold; says why.
pub fn target(target: &[u8]) -> Result<Box<[u8]>, String> {
    if target.is_empty() || target.len() >= PATH_BYTES || target.contains(&0) {
        return Err(format!("it is a symbolic link to {} bytes that are no path", target.len()));
    }
    Ok(target.into())
}

/// "entry PATH: REASON", shortened where the path is hostile.
pub fn wrong(path: &[u8], reason: &str) -> Error {
    let shown = path.get(..200).unwrap_or(path);
    let dots = if shown.len() < path.len() { "..." } else { "" };
    Error::image(format!("entry {:?}{dots}: {reason}", Path::new(OsStr::from_bytes(shown))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_made_plain_or_refused() {
        let plain =
            |path: &str| plain(path.as_bytes()).map(|path| String::from_utf8_lossy(&path).into_owned());
        for (path, expected) in
            [("./", ""), ("/", ""), ("a", "a"), ("./usr//bin/", "usr/bin"), ("/etc/passwd", "etc/passwd")]
        {
            assert_eq!(plain(path).as_deref(), Ok(expected), "{path}");
        }
        for path in ["..", "a/../b", "/..", "a\0b"] {
            assert!(plain(path).is_err(), "{path}");
        }
        assert!(plain(&"x".repeat(256)).is_err());
        assert!(plain(&"x".repeat(255)).is_ok());
        assert!(plain(&"x/".repeat(2048)).is_ok());
        assert!(plain(&"xy/".repeat(2048)).is_err());
    }

    #[test]
    fn names_say_what_is_gone() {
        let meaning = |path: &'static str| meaning(path.as_bytes());
        assert_eq!(meaning("a/.wh.b").unwrap(), Name::Whiteout(b"a", b"b"));
        assert_eq!(meaning(".wh..b").unwrap(), Name::Whiteout(b"", b".b"));
        assert_eq!(meaning("a/.wh..wh..opq").unwrap(), Name::Opaque(b"a"));
        assert_eq!(meaning(".wh..wh.plnk/12.3").unwrap(), Name::Note);
        assert_eq!(meaning("a/.whb").unwrap(), Name::File);
        for hostile in [".wh.", "a/.wh..", ".wh..."] {
            assert!(meaning(hostile).is_err(), "{hostile}");
        }
    }
}
