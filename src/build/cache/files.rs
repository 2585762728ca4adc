//! What copied files hold: a digest of a file or tree of the host, and of each file in it, so that it can be said
//! which one changed.
//!
//! Contents are read, since a build machine's clock and `git checkout` give times that say nothing. What the last build
//! read is not read again when device, inode, size and both times are as they were then. A file written in the moment
//! it is read would keep its times while it changes (they move in ticks of some milliseconds): one that changed less
//! than [`FRESH_SECONDS`] before it was read is read again the next time.
//!
//! In the digest: names, kinds, permission bits, contents, targets of links. Not: owners and times, which a copy does
//! not keep.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::keep::seconds_now;
use super::key::{Digest, Hash};
use crate::error::{Context, Error, Kind, Result};

/// How long before it was read a file must have been left alone for its times to count.
const FRESH_SECONDS: i64 = 2;
/// No more files are remembered one by one; of larger trees the whole alone is known.
const RECORDS: usize = 20_000;
/// How much is read at once.
const PIECE_BYTES: usize = 1 << 18;

/// What links mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// They are copied as links.
    Keep,
    /// What they lead to is copied.
    Follow,
}

/// What was found in a file or tree.
#[derive(Debug, Clone)]
pub struct Tree {
    /// Of everything.
    pub digest: Digest,
    /// Of each file, when there are not too many.
    pub files: Vec<FileRecord>,
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its path on the host, what is not UTF-8 replaced.
    pub path: String,
    /// Of its kind, mode and contents.
    pub digest: Digest,
    /// Of its contents alone, with what they were known by; none where that does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen: Option<(Stamp, Digest)>,
}

/// What says that a file's contents are those of before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(status: &Metadata) -> Self {
        Self {
            device: status.dev(),
            inode: status.ino(),
            size: status.size(),
            modified: (status.mtime(), status.mtime_nsec()),
            changed: (status.ctime(), status.ctime_nsec()),
        }
    }
}

/// Contents that need not be read again.
#[derive(Debug, Default)]
pub struct Known(HashMap<Stamp, Digest>);

impl Known {
    /// Those of an earlier build's files.
    pub fn of<'a>(files: impl IntoIterator<Item = &'a FileRecord>) -> Self {
        Self(files.into_iter().filter_map(|file| file.seen).collect())
    }
}

/// Looks through a file or tree of the host. A link at `top` itself is always followed.
///
/// # Errors
/// When something of it cannot be read; when links lead round in a circle; for devices, pipes and sockets, which no
/// copy has contents of.
pub fn look(top: &Path, links: Links, known: &Known) -> Result<Tree> {
    let mut walk = Walk { links, known, hash: Hash::new("files"), files: Vec::new(), many: false };
    walk.entry(top, Path::new(""), &mut Vec::new())?;
    Ok(Tree { digest: walk.hash.finish(), files: walk.files })
}

struct Walk<'a> {
    links: Links,
    known: &'a Known,
    hash: Hash,
    files: Vec<FileRecord>,
    many: bool,
}

impl Walk<'_> {
    /// `above` are the directories that are being looked through.
    fn entry(&mut self, path: &Path, below: &Path, above: &mut Vec<(u64, u64)>) -> Result<()> {
        let tried = || format!("cannot look at {path:?}");
        let follow = self.links == Links::Follow || below.as_os_str().is_empty();
        let status = if follow { fs::metadata(path) } else { fs::symlink_metadata(path) };
        let status = status.tried(tried)?;
        self.hash.bytes("path", below.as_os_str().as_bytes());
        if status.is_dir() {
            self.hash.number("directory", u64::from(status.mode() & 0o7777));
            let identity = (status.dev(), status.ino());
            if above.contains(&identity) {
                return Err(Error::new(Kind::Io, tried()).because("its links lead round in a circle"));
            }
            above.push(identity);
            let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
            let mut names: Vec<_> = entries.tried(tried)?.iter().map(fs::DirEntry::file_name).collect();
            names.sort_unstable();
            for name in names {
                self.entry(&path.join(&name), &below.join(&name), above)?;
            }
            above.pop();
            return Ok(());
        }
        let mode = status.mode() & 0o7777;
        let (digest, seen) = if status.is_symlink() {
            let mut hash = Hash::new("link");
            hash.bytes("target", fs::read_link(path).tried(tried)?.as_os_str().as_bytes());
            (hash.finish(), None)
        } else if status.is_file() {
            let (contents, seen) = self.contents(path).tried(|| format!("cannot read {path:?}"))?;
            let mut hash = Hash::new("file");
            hash.number("mode", u64::from(mode));
            hash.bytes("contents", contents.to_string().as_bytes());
            (hash.finish(), seen)
        } else {
            return Err(Error::new(Kind::Io, format!("cannot copy {path:?}")).because(kind(&status)));
        };
        self.hash.bytes("file", digest.to_string().as_bytes());
        self.remember(FileRecord { path: path.to_string_lossy().into_owned(), digest, seen });
        Ok(())
    }

    fn contents(&self, path: &Path) -> io::Result<(Digest, Option<(Stamp, Digest)>)> {
        // Not blocking, in case a pipe takes the file's place.
        let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let stamp = Stamp::of(&file.metadata()?);
        if let Some(digest) = self.known.0.get(&stamp) {
            return Ok((*digest, Some((stamp, *digest))));
        }
        let started = seconds_now();
        let mut hash = Sha256::new();
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => hash.update(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let digest = Digest::of(hash.finalize().into());
        let unchanged = Stamp::of(&file.metadata()?) == stamp;
        // A time ahead of the clock is as good as now.
        let settled = started - stamp.changed.0.max(stamp.modified.0) >= FRESH_SECONDS;
        Ok((digest, (unchanged && settled).then_some((stamp, digest))))
    }

    fn remember(&mut self, record: FileRecord) {
        self.many |= self.files.len() >= RECORDS;
        if self.many {
            self.files = Vec::new();
        } else {
            self.files.push(record);
        }
    }
}

fn kind(status: &Metadata) -> &'static str {
    let kind = status.file_type();
    if kind.is_fifo() {
        "it is a pipe"
    } else if kind.is_socket() {
        "it is a socket"
    } else {
        "it is a device"
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn place() -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join("top/sub")).unwrap();
        fs::write(place.path().join("top/sub/a"), "1").unwrap();
        fs::write(place.path().join("top/b"), "2").unwrap();
        symlink("sub/a", place.path().join("top/link")).unwrap();
        symlink("top", place.path().join("way")).unwrap();
        place
    }

    fn digest(path: &Path, links: Links) -> Digest {
        look(path, links, &Known::default()).unwrap().digest
    }

    #[test]
    fn what_a_copy_would_have_is_in_the_digest() {
        let place = place();
        let top = place.path().join("top");
        let same = |expected: bool, links, change: &dyn Fn()| {
            let before = digest(&top, links);
            change();
            assert_eq!(digest(&top, links) == before, expected);
        };
        same(true, Links::Keep, &|| {
            File::open(top.join("b")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        });
        same(false, Links::Keep, &|| fs::write(top.join("b"), "3").unwrap());
        same(false, Links::Keep, &|| {
            fs::set_permissions(top.join("b"), fs::Permissions::from_mode(0o755)).unwrap();
        });
        same(false, Links::Keep, &|| fs::rename(top.join("b"), top.join("c")).unwrap());
        same(false, Links::Keep, &|| fs::create_dir(top.join("empty")).unwrap());
        same(false, Links::Keep, &|| {
            fs::remove_file(top.join("link")).unwrap();
            symlink("sub/none", top.join("link")).unwrap();
        });
        assert!(look(&top, Links::Follow, &Known::default()).is_err());
        fs::remove_file(top.join("link")).unwrap();
        fs::write(place.path().join("outside"), "1").unwrap();
        symlink("../outside", top.join("link")).unwrap();
        same(false, Links::Follow, &|| fs::write(place.path().join("outside"), "2").unwrap());
        same(true, Links::Keep, &|| fs::write(place.path().join("outside"), "3").unwrap());
        assert_eq!(digest(&place.path().join("way"), Links::Keep), digest(&top, Links::Keep));
    }

    #[test]
    fn a_file_alone_is_a_tree_too_and_others_are_errors() {
        let place = place();
        let one = look(&place.path().join("top/b"), Links::Keep, &Known::default()).unwrap();
        assert_eq!(one.files[0].path, place.path().join("top/b").to_str().unwrap());
        symlink("..", place.path().join("top/sub/up")).unwrap();
        let error = look(&place.path().join("top"), Links::Follow, &Known::default()).unwrap_err();
        assert!(error.to_string().contains("circle"), "{error}");
        let pipe = place.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let error = look(&pipe, Links::Keep, &Known::default()).unwrap_err();
        assert!(error.to_string().ends_with("it is a pipe"), "{error}");
        assert!(look(&place.path().join("none"), Links::Keep, &Known::default()).is_err());
    }

    #[test]
    fn contents_are_read_again_only_when_they_may_have_changed() {
        let place = place();
        let file = place.path().join("top/b");
        let first = look(&file, Links::Keep, &Known::default()).unwrap();
        // It was written just now: its times may not change with the next write.
        assert_eq!(first.files[0].seen, None);
        let status = fs::metadata(&file).unwrap();
        let lie = Digest::of([9; 32]);
        let record = |seen| FileRecord { path: String::new(), digest: lie, seen: Some((seen, lie)) };
        let known = Known::of(&[record(Stamp::of(&status))]);
        let second = look(&file, Links::Keep, &known).unwrap();
        assert_ne!(second.digest, first.digest);
        assert_eq!(second.files[0].seen, Some((Stamp::of(&status), lie)));
        fs::write(&file, "22").unwrap();
        assert_eq!(look(&file, Links::Keep, &known).unwrap().files[0].seen, None);
    }
}
