//! The tree source "directory": walks it, and describes what is to be read.
//!
//! The walk is depth first with names in byte order, the order in which `tar` and `find` read an image
//! whose directories are sorted. All entries of a directory are examined at once and get consecutive
//! places in [`Tree::nodes`]; the files' contents follow the depth-first order:
//!
//! ```text
//! /          nodes  0                      contents
//!   a               1                      a
//!   b/              2                      b/x
//!   c               3                      c
//!   b/x             4
//! ```
//!
//! The walk runs ahead of the readers by as many units as there are buffers, and holds directories open
//! for them, so that a file is opened relative to its directory: no path is too long, and nobody can put
//! a link in the way.

use super::pipeline::{Chunk, Halt, Pipeline};
use super::xattr::{self, Xattrs};
use super::{PackOptions, Warnings};
use crate::error::{Error, Kind};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Everything about a file but its content.
#[derive(Debug)]
pub struct Node {
    /// Where its name starts in [`Tree::names`].
    name_start: usize,
    /// Its name's length: 1 to 255, or 0 for the root.
    name_bytes: u16,
    /// Permission bits with suid, sgid and sticky.
    pub mode: u16,
    /// The directory that holds it; the root holds itself.
    pub parent: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970, within what an image can say.
    pub mtime: u32,
    /// The node that stands for this file: itself, or the first name found of a file with several.
    pub link: u32,
    /// How many names the file has in this tree. Counted on the first.
    pub names: u32,
    /// What it is.
    pub kind: NodeKind,
    /// Extended attributes; those of regular files that have content come with their content.
    pub xattrs: Option<Arc<xattr::XattrSet>>,
}

/// What a node is, with what only its kind has.
#[derive(Debug)]
pub enum NodeKind {
    /// A directory and the places of its entries.
    Directory(Range<u32>),
    /// A regular file of this many bytes.
    Regular(u64),
    /// A symbolic link.
    Symlink(Box<[u8]>),
    /// A block device, with its number as on disk.
    BlockDevice(u32),
    /// A character device, with its number as on disk.
    CharDevice(u32),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// A whole tree, after the walk.
#[derive(Debug, Default)]
pub struct Tree {
    /// The root is first; a directory's entries are consecutive and sorted.
    pub nodes: Vec<Node>,
    names: Vec<u8>,
}

impl Tree {
    /// A node's name.
    pub fn name(&self, node: &Node) -> &[u8] {
        self.names.get(node.name_start..node.name_start + usize::from(node.name_bytes)).unwrap_or_default()
    }

    /// A node's path below the root, for messages.
    pub fn path(&self, index: u32) -> PathBuf {
        let mut names = Vec::new();
        let mut node = self.nodes.get(index as usize);
        while let Some(current) = node.filter(|node| node.name_bytes > 0) {
            names.push(OsStr::from_bytes(self.name(current)));
            node = self.nodes.get(current.parent as usize);
        }
        names.iter().rev().collect()
    }
}

/// An open directory and where it is.
#[derive(Debug)]
pub struct Dir {
    /// Opened for reading.
    pub file: File,
    /// For messages.
    path: Box<[u8]>,
}

impl Dir {
    /// The path of an entry, for messages.
    pub fn path_of(&self, name: &CStr) -> PathBuf {
        Path::new(OsStr::from_bytes(&self.path)).join(OsStr::from_bytes(name.to_bytes()))
    }
}

/// A regular file to be read: where it is and what it was like when it was listed.
#[derive(Debug)]
pub struct FileEntry {
    /// Its place in the tree.
    pub node: u32,
    /// Its directory.
    pub dir: Arc<Dir>,
    /// Its name there.
    pub name: CString,
    /// Its length when it was listed; so much is packed.
    pub size: u64,
    /// Inode number, seconds and nanoseconds of the last change: is it still the same when it is read?
    pub identity: (u64, i64, u64),
    /// It occupies less than it is long, so holes are worth looking for.
    pub sparse: bool,
}

/// A file read in several parts.
#[derive(Debug)]
pub struct LargeFile {
    /// Which.
    pub entry: FileEntry,
    /// Opened by whoever reads the first part.
    pub file: OnceLock<File>,
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
/// How many directories on the way down are held open; the ones above are found again through "..".
const OPEN_ANCESTORS: usize = 64;

/// The state of a walk.
struct Walk<'a> {
    pipeline: &'a Pipeline<'a>,
    options: &'a PackOptions,
    tree: Tree,
    warnings: Warnings,
    /// First node of each file with several names, by device and inode.
    links: HashMap<(u64, u64), u32>,
    /// The unit being gathered: its files, their bytes, and how many directories they lie in.
    small: Vec<FileEntry>,
    small_bytes: u64,
    small_dirs: usize,
    units: u64,
}

/// A directory on the way from the root to where the walk is.
struct Frame {
    dir: Option<Arc<Dir>>,
    identity: (u64, u64),
    path_bytes: usize,
    entries: Range<u32>,
    /// For each entry what [`FileEntry`] needs and [`Node`] does not keep.
    facts: std::vec::IntoIter<Facts>,
}

/// See [`FileEntry`].
#[derive(Clone, Copy)]
struct Facts {
    identity: (u64, i64, u64),
    sparse: bool,
}

const DIRECTORY_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Walks `root` and hands out the units in order. Returns the tree and what there was to complain about.
///
/// # Errors
/// The first entry that cannot be listed, or a stop from elsewhere.
pub fn walk(root: &Path, pipeline: &Pipeline<'_>, options: &PackOptions) -> Result<(Tree, Warnings), Halt> {
    let mut walk = Walk {
        pipeline,
        options,
        tree: Tree::default(),
        warnings: Warnings::default(),
        links: HashMap::new(),
        small: Vec::new(),
        small_bytes: 0,
        small_dirs: 0,
        units: 0,
    };
    walk.run(root)?;
    Ok((walk.tree, walk.warnings))
}

impl Walk<'_> {
    fn run(&mut self, root: &Path) -> Result<(), Halt> {
        // The root itself may be named by a link; nothing below it is followed.
        let file = rustix::fs::openat(CWD, root, DIRECTORY_FLAGS - OFlags::NOFOLLOW, Mode::empty())
            .map(File::from)
            .map_err(|errno| cannot("open directory", root, errno))?;
        let stat = rustix::fs::fstat(&file).map_err(|errno| cannot("examine", root, errno))?;
        let mut path = root.as_os_str().as_bytes().to_vec();
        self.add_node(0, b"", &stat, NodeKind::Directory(0..0))?;
        let mut stack = vec![self.enter(0, file, &stat, &path)?];
        while let Some(frame) = stack.last_mut() {
            self.pipeline.check()?;
            let (Some(index), Some(facts)) = (frame.entries.next(), frame.facts.next()) else {
                let left = stack.pop();
                if let (Some(left), Some(above)) = (left, stack.last_mut()) {
                    come_back(&left, above)?;
                    path.truncate(above.path_bytes);
                }
                continue;
            };
            let (Some(dir), Some(node)) = (frame.dir.clone(), self.tree.nodes.get(index as usize)) else {
                return Err(Halt::Failed(Error::new(Kind::Internal, "the walk lost its directory")));
            };
            let name = self.tree.name(node);
            match node.kind {
                NodeKind::Regular(size) if size > 0 && node.link == index => {
                    let name = c_name(name)?;
                    let Facts { identity, sparse } = facts;
                    self.give_file(FileEntry { node: index, dir, name, size, identity, sparse })?;
                }
                NodeKind::Directory(_) => {
                    let name = c_name(name)?;
                    let file = rustix::fs::openat(&dir.file, &name, DIRECTORY_FLAGS, Mode::empty())
                        .map(File::from)
                        .map_err(|errno| cannot("open directory", &dir.path_of(&name), errno))?;
                    let stat = rustix::fs::fstat(&file)
                        .map_err(|errno| cannot("examine", &dir.path_of(&name), errno))?;
                    path.push(b'/');
                    path.extend_from_slice(name.to_bytes());
                    let below = self.enter(index, file, &stat, &path)?;
                    stack.push(below);
                    let above = stack.len().checked_sub(OPEN_ANCESTORS + 1);
                    if let Some(frame) = above.and_then(|above| stack.get_mut(above)) {
                        frame.dir = None;
                    }
                }
                _ => {}
            }
        }
        self.flush_small()?;
        self.pipeline.units.finish();
        self.pipeline.read.finish(self.units);
        self.pipeline.progress.walk_done.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Lists the directory `index`, adds its entries to the tree.
    fn enter(&mut self, index: u32, file: File, stat: &Stat, path: &[u8]) -> Result<Frame, Halt> {
        let dir = Arc::new(Dir { file, path: path.into() });
        let shown = Path::new(OsStr::from_bytes(path));
        let mut names = list(&dir.file).map_err(|errno| cannot("list directory", shown, errno))?;
        names.sort_unstable();
        let xattrs =
            xattr::read_open(&dir.file).map_err(|errno| cannot("read the xattrs of", shown, errno))?;
        self.set_xattrs(index, xattrs, || shown.to_owned());
        let start = self.tree.nodes.len() as u32;
        let mut facts = Vec::with_capacity(names.len());
        for name in &names {
            self.pipeline.check()?;
            facts.extend(self.examine(index, &dir, name)?);
        }
        let entries = start..self.tree.nodes.len() as u32;
        if let Some(node) = self.tree.nodes.get_mut(index as usize) {
            node.kind = NodeKind::Directory(entries.clone());
        }
        let identity = (stat.st_dev, stat.st_ino);
        Ok(Frame { dir: Some(dir), identity, path_bytes: path.len(), entries, facts: facts.into_iter() })
    }

    /// Adds one entry of a directory to the tree; `None` for the image that is being written.
    fn examine(&mut self, parent: u32, dir: &Arc<Dir>, name: &CStr) -> Result<Option<Facts>, Halt> {
        let stat = rustix::fs::statat(&dir.file, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| cannot("examine", &dir.path_of(name), errno))?;
        if (stat.st_dev, stat.st_ino) == self.pipeline.output_identity {
            self.warnings.skipped_output.count(|| dir.path_of(name));
            return Ok(None);
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => NodeKind::Directory(0..0),
            FileType::RegularFile => NodeKind::Regular(size),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&dir.file, name, Vec::new())
                    .map_err(|errno| cannot("read link", &dir.path_of(name), errno))?;
                NodeKind::Symlink(target.into_bytes().into())
            }
            FileType::BlockDevice => NodeKind::BlockDevice(device_number(stat.st_rdev)),
            FileType::CharacterDevice => NodeKind::CharDevice(device_number(stat.st_rdev)),
            FileType::Fifo => NodeKind::Fifo,
            FileType::Socket => NodeKind::Socket,
            FileType::Unknown => {
                let message = format!("cannot pack {:?}: unknown kind of file", dir.path_of(name));
                return Err(Halt::Failed(Error::new(Kind::Io, message)));
            }
        };
        let is_directory = matches!(kind, NodeKind::Directory(_));
        let has_content = matches!(kind, NodeKind::Regular(size) if size > 0);
        let index = self.add_node(parent, name.to_bytes(), &stat, kind)?;
        if stat.st_nlink > 1 && !is_directory {
            let first = *self.links.entry((stat.st_dev, stat.st_ino)).or_insert(index);
            if first != index {
                if let Some(node) = self.tree.nodes.get_mut(first as usize) {
                    node.names += 1;
                }
                if let Some(node) = self.tree.nodes.get_mut(index as usize) {
                    node.link = first;
                }
                return Ok(Some(Facts { identity: (0, 0, 0), sparse: false }));
            }
        }
        let progress = self.pipeline.progress;
        progress.entries_found.fetch_add(1, Ordering::Relaxed);
        if has_content {
            progress.bytes_found.fetch_add(size, Ordering::Relaxed);
        } else if !is_directory {
            let xattrs = xattr::read_named(dir, name)
                .map_err(|errno| cannot("read the xattrs of", &dir.path_of(name), errno))?;
            self.set_xattrs(index, xattrs, || dir.path_of(name));
        }
        let sparse = (u64::try_from(stat.st_blocks).unwrap_or(0)).saturating_mul(512) < size;
        Ok(Some(Facts { identity: identity(&stat), sparse }))
    }

    fn add_node(&mut self, parent: u32, name: &[u8], stat: &Stat, kind: NodeKind) -> Result<u32, Halt> {
        let index = self.tree.nodes.len();
        // Inode numbers are 32 bits wide, and 0 is none.
        let index = u32::try_from(index)
            .ok()
            .filter(|&index| index < u32::MAX - 1)
            .ok_or_else(|| Error::new(Kind::Io, "cannot pack more than 4294967294 files into one image"))?;
        let name_start = self.tree.names.len();
        self.tree.names.extend_from_slice(name);
        let mtime = stat.st_mtime.min(self.options.time.unwrap_or(i64::MAX));
        let clamped = mtime.clamp(0, i64::from(u32::MAX));
        if clamped != mtime {
            self.warnings.clamped_times.count(|| PathBuf::from(OsStr::from_bytes(name)));
        }
        let (uid, gid) = self.options.one_owner.unwrap_or((stat.st_uid, stat.st_gid));
        self.tree.nodes.push(Node {
            name_start,
            name_bytes: u16::try_from(name.len()).unwrap_or(0),
            mode: (stat.st_mode & 0o7777) as u16,
            parent,
            uid,
            gid,
            mtime: clamped as u32,
            link: index,
            names: 1,
            kind,
            xattrs: None,
        });
        Ok(index)
    }

    fn set_xattrs(&mut self, index: u32, xattrs: Xattrs, path: impl FnOnce() -> PathBuf) {
        if xattrs.access_list {
            self.warnings.access_lists.count(path);
        }
        if let Some(node) = self.tree.nodes.get_mut(index as usize) {
            node.xattrs = xattrs.set;
        }
    }

    /// Adds a file's content to the units.
    fn give_file(&mut self, entry: FileEntry) -> Result<(), Halt> {
        let unit_bytes = self.options.unit_bytes();
        if entry.size < u64::from(self.options.block_bytes) {
            let same_dir = self.small.last().is_some_and(|last| Arc::ptr_eq(&last.dir, &entry.dir));
            let full = self.small_bytes + entry.size > unit_bytes as u64
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
            let length = (size - offset).min(unit_bytes as u64) as usize;
            self.give(Unit::Part { file: Arc::clone(&file), offset, length })?;
            offset += length as u64;
        }
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
        self.pipeline.units.push(UnitJob { number: self.units, unit, chunk })?;
        self.units += 1;
        Ok(())
    }
}

/// Makes `above` usable again after the walk of `left`, a directory in it.
fn come_back(left: &Frame, above: &mut Frame) -> Result<(), Halt> {
    let (None, Some(dir)) = (&above.dir, &left.dir) else { return Ok(()) };
    let shown = Path::new(OsStr::from_bytes(&dir.path));
    let parent = shown.parent().unwrap_or(shown);
    let file = rustix::fs::openat(&dir.file, c"..", DIRECTORY_FLAGS, Mode::empty())
        .map(File::from)
        .map_err(|errno| cannot("open directory", parent, errno))?;
    let stat = rustix::fs::fstat(&file).map_err(|errno| cannot("examine", parent, errno))?;
    if (stat.st_dev, stat.st_ino) != above.identity {
        let message = format!("cannot pack {parent:?}: it was moved while it was packed");
        return Err(Halt::Failed(Error::new(Kind::Io, message).hint(CHANGED_HINT)));
    }
    above.dir = Some(Arc::new(Dir { file, path: parent.as_os_str().as_bytes().into() }));
    Ok(())
}

fn list(dir: &File) -> Result<Vec<CString>, Errno> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 32 * 1024];
    let mut entries = rustix::fs::RawDir::new(dir, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// What tells whether a file is still the one that was listed.
pub fn identity(stat: &Stat) -> (u64, i64, u64) {
    (stat.st_ino, stat.st_mtime, stat.st_mtime_nsec)
}

/// A device number as the kernel writes it to disk: 12 bits of major, 20 bits of minor, interleaved.
fn device_number(device: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)
}

fn c_name(name: &[u8]) -> Result<CString, Halt> {
    CString::new(name).map_err(|_| Halt::Failed(Error::new(Kind::Internal, "a file's name has a zero byte")))
}

const CHANGED_HINT: &str = "the tree changed while it was packed; stop what writes to it, or pack a copy";

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
