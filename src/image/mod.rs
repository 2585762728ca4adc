//! Images, reading: what an image is, where its root file system is, and a look at its files.
//!
//! ```text
//! open(path) ─► a directory                        Sandbox
//!               "SIF_MAGIC" at byte 32             Sif: its primary partition
//!               "hsqs" at 0, or after a #! line    Squashfs: from there to the end
//!               and zeros
//! Image::tree() ─► Tree: look up, read and list files with the image as root
//! ```
//!
//! | you look for | open |
//! |---|---|
//! | reading an image's bytes | [`source`] |
//! | SIF | [`sif`] |
//! | SquashFS | [`squashfs`] |
//! | files of an image that is not mounted | [`tree`] |
//! | all of them as a tar stream | [`tar`] |
//! | the same with layers over the image | [`layered`] |
//! | what an image says of itself | [`metadata`] |
//! | a time of an image as a date | [`calendar`] |

pub mod calendar;
pub mod layered;
pub mod metadata;
mod path;
pub mod piece;
pub mod sif;
pub mod source;
pub mod squashfs;
pub mod standard;
pub mod tar;
pub mod tree;
pub mod unpack;

pub use tree::{Entry, Tree};

use crate::error::{Context, Error, Kind, Result};
use sif::{Extra, FileSystem, Sif};
use source::Source;
use squashfs::{OpenOptions, Squashfs};
use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How far into a file that begins with `#!` a SquashFS is searched for.
const LAUNCH_LINE_BYTES: usize = 64 << 10;
/// How the first line of images ends that can be started by their names.
const LAUNCHER: &[u8] = b"run-singularity";
/// Where the magic of a SIF stands, and what it is.
const SIF_MAGIC: (usize, &[u8]) = (32, b"SIF_MAGIC\0");
/// Where ext2, 3 and 4 have their magic.
const EXT_MAGIC: (usize, &[u8]) = (1080, &[0x53, 0xef]);

/// What an image is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A SIF file.
    Sif,
    /// A bare SquashFS file, a launch line before it allowed.
    Squashfs,
    /// A directory.
    Sandbox,
}

/// An image, opened once.
#[derive(Debug)]
pub struct Image {
    /// As it was given.
    pub path: PathBuf,
    /// What it is.
    pub format: Format,
    /// The open file, or directory.
    pub file: Arc<File>,
    /// The SquashFS that is its root file system; none for a directory.
    pub partition: Option<Source>,
    /// Header and descriptors of a SIF.
    pub sif: Option<Sif>,
}

const KINDS: &str = "an image is a SIF file, a SquashFS file, or a directory with a root file system";

const NO_FILE: &str = "an image is named by its path; 'skiff build IMAGE DIRECTORY' makes one";

/// What mends a damaged image.
pub(crate) const DAMAGED: &str = "the image is damaged; copy, download or build it again";

/// Adds to the error of an image's file that cannot be opened what to do.
pub fn explain_no_file(error: Error) -> Error {
    no_file(error, NO_FILE)
}

/// The same of any file; `missing` is what to do where it is not there.
pub fn no_file(error: Error, missing: &str) -> Error {
    match error.errno() {
        Some(libc::ENOENT) => error.hint(missing),
        Some(libc::EACCES) => error.hint("the file and the directories above it must be readable for you"),
        _ => error,
    }
}

/// Opens an image for running it or looking at its files.
///
/// # Errors
/// When there is no such file, when it cannot be read, and when it is no image: the hint says what to do.
/// A SIF without a SquashFS root file system is one too. The architecture is not looked at.
pub fn open(path: &Path) -> Result<Image> {
    let tried = || format!("cannot open image {path:?}");
    // Not blocking: a pipe without a writer would keep us here.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.tried(tried).map_err(explain_no_file)?;
    let file = Arc::new(file);
    let status = file.metadata().tried(tried)?;
    let mut image =
        Image { path: path.to_owned(), format: Format::Sandbox, file, partition: None, sif: None };
    if status.is_dir() {
        return Ok(image);
    }
    if !status.is_file() && !status.file_type().is_block_device() {
        return Err(Error::image(format!("{}: it is neither a file nor a directory", tried())).hint(KINDS));
    }
    identify(&mut image).map_err(|error| {
        let hint = error.hint.clone();
        let outer = Error::new(error.kind, tried()).because(error);
        Error { hint, ..outer }
    })?;
    Ok(image)
}

/// Finds out what the image's file is and where its root file system lies.
fn identify(image: &mut Image) -> Result<()> {
    let whole = whole(&image.file)?;
    let head = read_head(&whole)?;
    let has = |(at, magic): (usize, &[u8])| head.get(at..).is_some_and(|rest| rest.starts_with(magic));
    if has(SIF_MAGIC) {
        let sif = sif::read(&whole)?;
        image.partition = Some(root_partition(&sif, &whole)?);
        image.sif = Some(sif);
        image.format = Format::Sif;
        return Ok(());
    }
    if let Some(at) = find_superblock(&head) {
        let rest = whole.length().saturating_sub(at as u64);
        image.partition = Some(whole.sub(at as u64, rest).tried(|| "cannot read it".into())?);
        image.format = Format::Squashfs;
        return Ok(());
    }
    if first_line(&head).is_some_and(|line| line.trim_ascii().ends_with(LAUNCHER)) {
        let message =
            "its header is damaged: after the first line comes neither that of a SIF nor a SquashFS";
        return Err(Error::image(message).hint(DAMAGED));
    }
    let what = if head.is_empty() {
        "the file is empty"
    } else if has(EXT_MAGIC) {
        "it is an ext file system, which skiff does not run"
    } else {
        "it is not an image"
    };
    Err(Error::image(what).hint(KINDS))
}

/// The whole file; a block device's length is where reading it ends.
fn whole(file: &Arc<File>) -> Result<Source> {
    let tried = || "cannot find out its length".to_owned();
    let source = Source::whole(Arc::clone(file)).tried(tried)?;
    if source.length() > 0 {
        return Ok(source);
    }
    let end = std::io::Seek::seek(&mut &**file, std::io::SeekFrom::End(0)).tried(tried)?;
    Ok(Source::new(Arc::clone(file), 0, end))
}

/// The first bytes, fewer when the file ends before.
fn read_head(whole: &Source) -> Result<Vec<u8>> {
    let length = |bytes: usize| whole.length().min(bytes as u64) as usize;
    let read = |bytes: usize| {
        let mut head = vec![0; length(bytes)];
        let done = whole.file().read_at(&mut head, 0).tried(|| "cannot read it".into())?;
        head.truncate(done);
        Ok::<_, Error>(head)
    };
    let head = read(4096)?;
    if head.starts_with(b"#!") { read(LAUNCH_LINE_BYTES) } else { Ok(head) }
}

/// The first line, where it starts with `#!`.
fn first_line(head: &[u8]) -> Option<&[u8]> {
    let end = head.iter().position(|&byte| byte == b'\n')?;
    head.get(..end).filter(|line| line.starts_with(b"#!"))
}

/// Where a superblock begins: at once, or after a first line that starts with `#!`. Older tools wrote
/// the superblock right behind that line; it may as well be aligned, by zeros. Nothing else stands before it: a SIF whose
/// header is damaged has a superblock somewhere, too, and is no bare SquashFS.
fn find_superblock(head: &[u8]) -> Option<usize> {
    let is_superblock = |at: &usize| {
        let bytes = head.get(*at..).unwrap_or_default();
        // Big-endian ones too: the reader says what is wrong with them.
        bytes.starts_with(&squashfs::MAGIC) || bytes.starts_with(b"sqsh")
    };
    if is_superblock(&0) {
        return Some(0);
    }
    let after = first_line(head)?.len() + 1;
    let zeros = head.get(after..)?.iter().take_while(|&&byte| byte == 0).count();
    Some(after + zeros).filter(is_superblock)
}

fn root_partition(sif: &Sif, whole: &Source) -> Result<Source> {
    let primary = sif.primary_partition()?;
    if let Extra::Partition { file_system, .. } = &primary.extra
        && *file_system != FileSystem::SQUASHFS
    {
        let name = file_system.name();
        return Err(Error::image(format!("its root file system is {name}, which skiff does not run"))
            .hint("unpack it with the tool that made it, and build the image again"));
    }
    whole.sub(primary.offset, primary.size).context(Kind::Image, || {
        format!("its root file system (object {}) lies outside the file", primary.id)
    })
}

impl Image {
    /// An error of its reader, which knows inodes and blocks, with the image's name and what to do. Those that came
    /// with a hint were made by somebody who knows more.
    pub fn named(&self, error: Error) -> Error {
        if error.kind == Kind::Image && error.hint.is_none() { self.unreadable(error) } else { error }
    }

    fn unreadable(&self, error: Error) -> Error {
        let hint = error.hint.clone().unwrap_or_else(|| DAMAGED.to_owned());
        Error::new(error.kind, format!("cannot read image {:?}", self.path)).because(error).hint(hint)
    }

    /// Its files, to be looked at with the image as root. Caches are small: serving is another matter.
    pub fn tree(&self) -> Result<Tree> {
        match &self.partition {
            None => Ok(Tree::Directory(tree::Directory::open(&self.path)?)),
            Some(partition) => {
                let options =
                    OpenOptions { data_cache_bytes: 2 << 20, meta_cache_bytes: 1 << 20, inode_cache: 1024 };
                let squashfs = Squashfs::open(partition.clone(), options);
                Ok(Tree::Squashfs(squashfs.map_err(|error| self.unreadable(error))?))
            }
        }
    }
}
