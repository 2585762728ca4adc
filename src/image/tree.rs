//! Looking at files of an image before it is mounted: scripts, metadata, what a bind needs to be there.
//!
//! The image is the root: links are followed as a process inside would, never out of it. A directory is
//! walked by descriptors, name by name without following (`openat` with `O_NOFOLLOW`), so that a link
//! swapped in during the walk leads nowhere either, and no mount of a newer kernel is needed for it.

use super::layered::{Layered, Opened};
use super::path::{self, Last};
use super::squashfs::{Content, FileKind, Inode, Squashfs};
use crate::error::{Context, Error, Kind, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The files of an image.
// There is one for each image, and it does not move: boxing the larger would gain nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub enum Tree {
    /// In a SquashFS file system.
    Squashfs(Squashfs),
    /// In a directory.
    Directory(Directory),
    /// In layers over another.
    Layered(Layered),
}

/// A directory that is the root of an image.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    root: Arc<OwnedFd>,
}

/// A file found in a [`Tree`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is: absolute in the image, free of links.
    pub path: PathBuf,
    /// What it is; a link only from [`Tree::entry`].
    pub kind: FileKind,
    /// Permission bits with set-uid, set-gid and sticky.
    pub mode: u32,
    /// Bytes of a regular file.
    pub size: u64,
}

impl Directory {
    /// Opens a directory as the root of an image.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())
            .tried(|| format!("cannot open the image directory {path:?}"))?;
        Ok(Self { path: path.to_owned(), root: Arc::new(root) })
    }

    fn resolve(&self, path: &Path, last: Last) -> Result<Option<(PathBuf, Arc<OwnedFd>)>> {
        path::resolve(Arc::clone(&self.root), path, last, |dir, name| {
            let tried = || format!("cannot look at {name:?} on the way to {path:?} in {:?}", self.path);
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let node = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
                Ok(node) => node,
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NAMETOOLONG) => return Ok(None),
                Err(errno) => return Err(errno).tried(tried),
            };
            let status = rustix::fs::fstat(&node).tried(tried)?;
            let step = match FileType::from_raw_mode(status.st_mode) {
                FileType::Directory => path::Step::Directory,
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(&node, "", Vec::new()).tried(tried)?;
                    path::Step::Link(OsString::from_vec(target.into_bytes()))
                }
                _ => path::Step::Other,
            };
            Ok(Some((Arc::new(node), step)))
        })
    }

    fn entry(&self, path: &Path, last: Last) -> Result<Option<Entry>> {
        let Some((found, node)) = self.resolve(path, last)? else { return Ok(None) };
        let status = rustix::fs::statat(&*node, "", AtFlags::EMPTY_PATH)
            .tried(|| format!("cannot look at {found:?} in {:?}", self.path))?;
        let kind = match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => FileKind::Directory,
            FileType::BlockDevice => FileKind::BlockDevice,
            FileType::CharacterDevice => FileKind::CharDevice,
            FileType::Fifo => FileKind::Fifo,
            FileType::Socket => FileKind::Socket,
            FileType::Symlink => FileKind::Symlink,
            _ => FileKind::Regular,
        };
        let size = if kind == FileKind::Regular { status.st_size as u64 } else { 0 };
        Ok(Some(Entry { path: found, kind, mode: status.st_mode & 0o7777, size }))
    }

    fn link(&self, path: &Path) -> Result<Option<PathBuf>> {
        let Some((_, node)) = self.resolve(path, Last::Stay)? else { return Ok(None) };
        match rustix::fs::readlinkat(&*node, "", Vec::new()) {
            Ok(target) => Ok(Some(PathBuf::from(OsString::from_vec(target.into_bytes())))),
            // What the kernel says of a descriptor that is not of a link.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => Ok(None),
            Err(errno) => Err(errno).tried(|| format!("cannot read the link {path:?} in {:?}", self.path)),
        }
    }

    /// Opens for reading what `path` leads to, if it is of that type. The parent is resolved and the name
    /// opened without following, since an `O_PATH` descriptor can only be reopened through /proc.
    fn reopen(&self, path: &Path, wanted: FileType) -> Result<Option<(PathBuf, OwnedFd)>> {
        let Some((found, node)) = self.resolve(path, Last::Follow)? else { return Ok(None) };
        let tried = || format!("cannot open {found:?} in {:?}", self.path);
        // Not blocking, in case a pipe takes the file's place.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = if wanted == FileType::Directory {
            rustix::fs::openat(&*node, ".", flags | OFlags::DIRECTORY, Mode::empty())
        } else {
            let (Some(parent), Some(name)) = (found.parent(), found.file_name()) else { return Ok(None) };
            let Some((_, parent)) = self.resolve(parent, Last::Follow)? else { return Ok(None) };
            rustix::fs::openat(&*parent, name, flags, Mode::empty())
        };
        let opened = opened.tried(tried)?;
        let status = rustix::fs::fstat(&opened).tried(tried)?;
        Ok((FileType::from_raw_mode(status.st_mode) == wanted).then_some((found, opened)))
    }

    /// The regular file that `path` leads to, open, and where it is.
    pub(super) fn open_file(&self, path: &Path) -> Result<Option<(PathBuf, File)>> {
        Ok(self.reopen(path, FileType::RegularFile)?.map(|(found, file)| (found, File::from(file))))
    }

    fn list(&self, path: &Path) -> Result<Vec<OsString>> {
        let Some((found, dir)) = self.reopen(path, FileType::Directory)? else {
            return Err(not_listable(path));
        };
        let tried = || format!("cannot list {found:?} in {:?}", self.path);
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(dir).tried(tried)? {
            let entry = entry.tried(tried)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }
}

impl Tree {
    /// The file that `path` leads to, links followed, also the last; none if there is none.
    pub fn lookup(&self, path: &Path) -> Result<Option<Entry>> {
        self.find(path, Last::Follow)
    }

    /// As [`Tree::lookup`], but a link that `path` ends in is itself what is found.
    pub fn entry(&self, path: &Path) -> Result<Option<Entry>> {
        self.find(path, Last::Stay)
    }

    fn find(&self, path: &Path, last: Last) -> Result<Option<Entry>> {
        match self {
            Self::Directory(directory) => directory.entry(path, last),
            Self::Layered(layered) => layered.find(path, last),
            Self::Squashfs(squashfs) => {
                Ok(squashfs.resolve_to(path, last)?.map(|(path, inode)| entry(path, &inode)))
            }
        }
    }

    /// Where the link that `path` ends in leads to; none if there is nothing, or no link.
    pub fn link(&self, path: &Path) -> Result<Option<PathBuf>> {
        match self {
            Self::Directory(directory) => directory.link(path),
            Self::Layered(layered) => layered.link(path),
            Self::Squashfs(squashfs) => {
                let found = squashfs.resolve_to(path, Last::Stay)?;
                Ok(found.and_then(|(_, inode)| match &inode.content {
                    Content::Symlink { target } => Some(PathBuf::from(OsStr::from_bytes(target))),
                    _ => None,
                }))
            }
        }
    }

    /// The contents of the regular file that `path` leads to; none if there is no such file, or it is of
    /// another kind. More than `limit` bytes are an error.
    pub fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        let too_long = || Error::image(format!("{path:?} in the image is longer than {limit} bytes"));
        match self {
            Self::Directory(directory) => {
                let Some((_, file)) = directory.reopen(path, FileType::RegularFile)? else { return Ok(None) };
                let mut contents = Vec::new();
                File::from(file)
                    .take(limit.saturating_add(1))
                    .read_to_end(&mut contents)
                    .tried(|| format!("cannot read {path:?} in {:?}", directory.path))?;
                if contents.len() as u64 > limit { Err(too_long()) } else { Ok(Some(contents)) }
            }
            Self::Layered(layered) => layered.read(path, limit),
            Self::Squashfs(squashfs) => {
                let Some((_, inode)) = squashfs.resolve(path)? else { return Ok(None) };
                if !matches!(inode.content, Content::Regular(_)) {
                    return Ok(None);
                }
                if inode.size > limit {
                    return Err(too_long());
                }
                read_whole(squashfs, &inode).map(Some)
            }
        }
    }

    /// The first bytes, at most `most`, of the regular file that `path` leads to; none if there is none.
    pub fn read_start(&self, path: &Path, most: usize) -> Result<Option<Vec<u8>>> {
        let tried = || format!("cannot read {path:?} of the image");
        let opened = match self {
            Self::Directory(directory) => {
                directory.reopen(path, FileType::RegularFile)?.map(|(_, file)| File::from(file))
            }
            Self::Layered(layered) => match layered.open(path)? {
                Opened::File(file) => Some(file),
                Opened::InBase(path) => return layered.base().read_start(&path, most),
                Opened::Nothing => None,
            },
            Self::Squashfs(squashfs) => {
                let Some((_, inode)) = squashfs.resolve(path)? else { return Ok(None) };
                if !matches!(inode.content, Content::Regular(_)) {
                    return Ok(None);
                }
                return Ok(Some(match squashfs.block(&inode, 0)? {
                    super::squashfs::Block::Hole(length) => vec![0; length.min(most)],
                    super::squashfs::Block::Data(bytes) => bytes.iter().take(most).copied().collect(),
                }));
            }
        };
        let Some(file) = opened else { return Ok(None) };
        let mut start = Vec::new();
        file.take(most as u64).read_to_end(&mut start).tried(tried)?;
        Ok(Some(start))
    }

    /// The names in the directory that `path` leads to, without `.` and `..`, sorted.
    pub fn list(&self, path: &Path) -> Result<Vec<OsString>> {
        let mut names = match self {
            Self::Directory(directory) => directory.list(path)?,
            Self::Layered(layered) => layered.list(path)?.ok_or_else(|| not_listable(path))?,
            Self::Squashfs(squashfs) => {
                let Some((_, dir)) = squashfs.resolve(path)? else { return Err(not_listable(path)) };
                if dir.kind() != FileKind::Directory {
                    return Err(not_listable(path));
                }
                let mut names = Vec::new();
                squashfs.read_dir(&dir, 0, &mut |entry| {
                    names.push(OsStr::from_bytes(entry.name).to_owned());
                    ControlFlow::Continue(())
                })?;
                names
            }
        };
        names.sort_unstable();
        Ok(names)
    }
}

fn entry(path: PathBuf, inode: &Inode) -> Entry {
    let kind = inode.kind();
    let size = if kind == FileKind::Regular { inode.size } else { 0 };
    Entry { path, kind, mode: inode.mode, size }
}

fn not_listable(path: &Path) -> Error {
    Error::new(Kind::Image, format!("{path:?} is not a directory of the image"))
}

/// Grows with what is really there: the size is only what the image claims.
fn read_whole(squashfs: &Squashfs, inode: &Inode) -> Result<Vec<u8>> {
    let mut contents = Vec::new();
    for index in 0.. {
        match squashfs.block(inode, index)? {
            super::squashfs::Block::Hole(0) => break,
            super::squashfs::Block::Hole(length) => contents.resize(contents.len() + length, 0),
            super::squashfs::Block::Data(bytes) => contents.extend_from_slice(&bytes),
        }
    }
    Ok(contents)
}
