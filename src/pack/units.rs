//! Units: what the walk finds is cut or gathered into pieces that fill one buffer each.
//!
//! Files smaller than a block share a unit, larger ones are cut into several. Units run ahead of the readers by
//! as many as there are buffers, and hold directories open for them, so that a file is opened relative to its
//! directory: no path is too long, and nobody can put a link in the way.

use super::PackOptions;
use super::pipeline::{Chunk, Halt, Pipeline};
use super::read::Opened;
use crate::error::{Error, Kind};
use crate::image::squashfs::InodeRef;
use rustix::io::Errno;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

/// An open directory and where it is.
#[derive(Debug)]
pub struct Dir {
    /// Opened for reading.
    pub file: File,
    /// For messages.
    pub path: PathBuf,
}

impl Dir {
    /// The path of an entry, for messages.
    pub fn path_of(&self, name: &CStr) -> PathBuf {
        self.path.join(OsStr::from_bytes(name.to_bytes()))
    }
}

/// A regular file to be read.
#[derive(Debug)]
pub struct FileEntry {
    /// Its place in the tree.
    pub node: u32,
    /// Its length when it was listed; so much is packed.
    pub size: u64,
    /// It is stored as it is ([`super::plain`]).
    pub plain: bool,
    /// Where it is.
    pub origin: Origin,
}

/// Where a regular file is.
#[derive(Debug)]
pub enum Origin {
    /// In a directory.
    Dir {
        /// The directory.
        dir: Arc<Dir>,
        /// Its name there.
        name: CString,
        /// What it was like when it was listed.
        facts: Facts,
    },
    /// In the base image.
    Base(InodeRef),
    /// In the unit's buffer already: it came from a stream.
    Stream,
}

/// What a regular file of a directory was like when it was listed.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Inode number, seconds and nanoseconds of the last change: is it still the same when it is read?
    pub identity: (u64, i64, u64),
    /// It occupies less than it is long, so holes are worth looking for.
    pub sparse: bool,
    /// The file of the base that it hides and that is as long: the content may be the same.
    pub twin: Option<InodeRef>,
}

impl FileEntry {
    /// For messages.
    pub fn path(&self) -> PathBuf {
        match &self.origin {
            Origin::Dir { dir, name, .. } => dir.path_of(name),
            Origin::Base(reference) => format!("inode {:#x} of the base", reference.0).into(),
            Origin::Stream => format!("content {} of a stream", self.node).into(),
        }
    }

    /// What it was like, for a file of a directory.
    pub fn facts(&self) -> Option<&Facts> {
        match &self.origin {
            Origin::Dir { facts, .. } => Some(facts),
            Origin::Base(_) | Origin::Stream => None,
        }
    }

    fn dir(&self) -> Option<&Arc<Dir>> {
        match &self.origin {
            Origin::Dir { dir, .. } => Some(dir),
            Origin::Base(_) | Origin::Stream => None,
        }
    }

    /// It shares a unit, and a fragment, with others: it is no block long.
    pub fn is_small(&self, block_bytes: u64) -> bool {
        self.size < block_bytes && !self.plain
    }

    /// Its content can be read again.
    pub fn is_lasting(&self) -> bool {
        !matches!(self.origin, Origin::Stream)
    }
}

/// A file read in several parts.
#[derive(Debug)]
pub struct LargeFile {
    /// Which.
    pub entry: FileEntry,
    /// Opened by whoever reads the first part.
    pub file: OnceLock<Opened>,
    /// It proved to be a duplicate: what is left of it need not be read.
    pub skip: AtomicBool,
}

/// What one buffer is filled with.
pub enum Unit {
    /// Whole files, all smaller than a block, one after the other.
    Small(Vec<FileEntry>),
    /// `length` bytes of a file from `offset` on.
    Part {
        /// The file.
        file: Arc<LargeFile>,
        /// Where the part begins: a multiple of the unit's size.
        offset: u64,
        /// Its length.
        length: usize,
    },
    /// Pieces of a fragment of the base: where each begins and ends.
    Tails {
        /// Which fragment.
        fragment: u32,
        /// The pieces, which do not overlap.
        pieces: Vec<(u32, u32)>,
    },
}

/// A unit on its way to a reader.
pub struct UnitJob {
    /// Its place in the order.
    pub number: u64,
    /// What to read.
    pub unit: Unit,
    /// Where to.
    pub chunk: Chunk,
}

/// How many files and directories at most share a unit of small files. Directories are held open.
const UNIT_FILES: usize = 96;
const UNIT_DIRS: usize = 4;

/// Makes units of files, and hands them out in order.
pub struct Units<'a> {
    pipeline: &'a Pipeline<'a>,
    block_bytes: u64,
    unit_bytes: u64,
    /// The unit being gathered: its files, their bytes, and how many directories they lie in.
    small: Vec<FileEntry>,
    small_bytes: u64,
    small_dirs: usize,
    count: u64,
}

impl<'a> Units<'a> {
    /// None yet.
    pub fn new(pipeline: &'a Pipeline<'a>, options: &PackOptions) -> Self {
        Self {
            pipeline,
            block_bytes: u64::from(options.block_bytes),
            unit_bytes: options.unit_bytes() as u64,
            small: Vec::new(),
            small_bytes: 0,
            small_dirs: 0,
            count: 0,
        }
    }

    /// Adds a file's content.
    pub fn give_file(&mut self, entry: FileEntry) -> Result<(), Halt> {
        if entry.is_small(self.block_bytes) {
            let same_dir = match (self.small.last().and_then(FileEntry::dir), entry.dir()) {
                (Some(last), Some(dir)) => Arc::ptr_eq(last, dir),
                (None, Some(_)) => false,
                (_, None) => true,
            };
            let full = self.small_bytes + entry.size > self.unit_bytes
                || self.small.len() >= UNIT_FILES
                || (!same_dir && self.small_dirs >= UNIT_DIRS);
            if full {
                self.flush_small()?;
            }
            self.small_dirs += usize::from(!same_dir || self.small.is_empty());
            self.small_bytes += entry.size;
            self.small.push(entry);
            return Ok(());
        }
        self.flush_small()?;
        let size = entry.size;
        let file = Arc::new(LargeFile { entry, file: OnceLock::new(), skip: AtomicBool::new(false) });
        let mut offset = 0;
        while offset < size {
            let length = (size - offset).min(self.unit_bytes) as usize;
            self.give(Unit::Part { file: Arc::clone(&file), offset, length })?;
            offset += length as u64;
        }
        Ok(())
    }

    /// Adds pieces of a fragment of the base.
    pub fn give_tails(&mut self, fragment: u32, pieces: Vec<(u32, u32)>) -> Result<(), Halt> {
        self.flush_small()?;
        self.give(Unit::Tails { fragment, pieces })
    }

    /// No more will come.
    pub fn finish(mut self) -> Result<(), Halt> {
        self.flush_small()?;
        self.pipeline.units.finish();
        self.pipeline.read.finish(self.count);
        Ok(())
    }

    fn flush_small(&mut self) -> Result<(), Halt> {
        if self.small.is_empty() {
            return Ok(());
        }
        (self.small_bytes, self.small_dirs) = (0, 0);
        let files = std::mem::take(&mut self.small);
        self.give(Unit::Small(files))
    }

    /// Buffers are handed out here, in order: the reader of an early unit never waits for one that a later
    /// unit holds.
    fn give(&mut self, unit: Unit) -> Result<(), Halt> {
        self.pipeline.check()?;
        let Some(chunk) = self.pipeline.chunks.pop()? else { return Err(Halt::Elsewhere) };
        self.pipeline.units.push(UnitJob { number: self.count, unit, chunk })?;
        self.count += 1;
        Ok(())
    }
}

/// What to do about a tree that does not stand still.
pub const CHANGED_HINT: &str = "the tree changed while it was packed; stop what writes to it, or pack a copy";

/// "cannot VERB PATH: ERRNO", with what to do about it.
pub fn cannot(verb: &str, path: &Path, errno: Errno) -> Halt {
    let error = Error::new(Kind::Io, format!("cannot {verb} {path:?}")).because(std::io::Error::from(errno));
    Halt::Failed(match errno {
        Errno::ACCESS | Errno::PERM => error.hint(
            "a tree with files of other users is packed by root, or by the user in whose name it was made",
        ),
        Errno::NOENT | Errno::STALE | Errno::LOOP | Errno::NOTDIR => error.hint(CHANGED_HINT),
        Errno::MFILE | Errno::NFILE => error.hint("raise the limit of open files (ulimit -n)"),
        _ => error,
    })
}

/// The file is shorter than it was when it was listed.
pub fn shrunk(path: &Path, size: u64) -> Halt {
    let message = format!("cannot pack {path:?}: it became shorter than the {size} bytes it had when listed");
    Halt::Failed(Error::new(Kind::Io, message).hint(CHANGED_HINT))
}
