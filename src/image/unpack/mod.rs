//! A SquashFS image unpacked into a directory.
//!
//! ```text
//! stack of tasks:   directory   make it, read its listing, put its subdirectories on the stack
//!                   files       a batch of a directory's other entries: make and fill them
//!                   blocks      a part of a large file
//! each thread:      take a task, do it, until the stack is empty and nobody works
//! ```
//!
//! A directory gets its owner, mode and times when the last task that concerns it or what is below it is
//! done: whoever lets go of it last does that. Until then it is 0700.
//!
//! Hostile images: every file is made by its name (one component) relative to the descriptor of its
//! directory, exclusively and without following links, so nothing is written outside the target; a
//! directory that is met twice (a loop) is an error. The target must be a directory of the caller's own
//! that nobody else can write to.

mod attributes;
mod remove;

pub use remove::remove_tree;

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, setrlimit};

use super::squashfs::{Block, Content, FileKind, Inode, InodeRef, Squashfs};
use crate::error::{Context, Error, Kind, Result};

/// Entries of a directory in one task.
const BATCH: usize = 128;
/// Blocks of a file in one task.
const BLOCKS: u64 = 64;

/// How an image is unpacked.
#[derive(Debug, Clone, Copy)]
pub struct UnpackOptions {
    /// Threads that decode and write.
    pub threads: usize,
    /// Files get the owners that they have in the image (the caller is root), else they are the caller's.
    pub owners: bool,
}

/// What was unpacked, and what could not be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnpackSummary {
    /// Names, the root directory not counted.
    pub entries: u64,
    /// Bytes of file contents, holes included.
    pub bytes: u64,
    /// Device nodes that the caller may not make.
    pub devices_left_out: u64,
    /// Extended attributes that the caller may not set or the file system does not have.
    pub xattrs_left_out: u64,
    /// Owners that do not exist in the caller's user namespace.
    pub owners_left_out: u64,
}

/// What has been unpacked so far, for whoever wants to show it.
#[derive(Debug, Default)]
pub struct UnpackProgress {
    /// Names, the root directory not counted.
    pub entries: AtomicU64,
    /// Bytes of file contents, holes included.
    pub bytes: AtomicU64,
}

/// Unpacks `image` into `root`, an empty directory. `cancel` stops the work.
///
/// # Errors
/// [`Kind::Image`] when the image is damaged, [`Kind::Io`] when a file cannot be made, and
/// [`Kind::Interrupted`] after `cancel`. What was unpacked so far stays.
pub fn unpack(
    image: &Squashfs,
    root: OwnedFd,
    options: UnpackOptions,
    progress: &UnpackProgress,
    cancel: &AtomicBool,
) -> Result<UnpackSummary> {
    raise_descriptor_limit();
    let top = root.try_clone().tried(|| "cannot duplicate a descriptor".to_owned())?;
    let work = Unpack {
        image,
        options,
        progress,
        cancel,
        root: top,
        stack: Mutex::new(Stack::default()),
        changed: Condvar::new(),
        seen: Mutex::new(HashSet::new()),
        linked: Mutex::new(HashMap::new()),
        closed: Mutex::new(Vec::new()),
        counts: Counts::default(),
    };
    let inode = image.inode(image.root())?;
    if inode.kind() != FileKind::Directory {
        return Err(Error::image("root of the image is not a directory"));
    }
    work.push([Task::List(Arc::new(Node { fd: root, inode, parent: None, name: CString::default() }))]);
    std::thread::scope(|scope| {
        for _ in 1..options.threads.max(1) {
            scope.spawn(|| work.work());
        }
        work.work();
    });
    if let Some(error) = lock(&work.stack).error.take() {
        return Err(error);
    }
    work.close_directories()?;
    Ok(UnpackSummary {
        entries: progress.entries.load(Ordering::Relaxed),
        bytes: progress.bytes.load(Ordering::Relaxed),
        devices_left_out: work.counts.devices.into_inner(),
        xattrs_left_out: work.counts.xattrs.into_inner(),
        owners_left_out: work.counts.owners.into_inner(),
    })
}

/// Directories in progress hold descriptors: as many as the image is deep, and some.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Without it deep trees fail with EMFILE, which says what is wrong.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// A directory that is being filled.
struct Node {
    fd: OwnedFd,
    inode: Arc<Inode>,
    parent: Option<Arc<Self>>,
    name: CString,
}

/// A regular file that is being filled.
struct OpenFile {
    file: File,
    inode: Arc<Inode>,
    directory: Arc<Node>,
    name: CString,
    holes: AtomicBool,
}

/// What a thread does at a time.
enum Task {
    /// Make a directory, then as `List`.
    Directory { parent: Arc<Node>, name: CString, inode: InodeRef },
    /// Read a directory's listing.
    List(Arc<Node>),
    /// Make these entries, which are no directories.
    Files { directory: Arc<Node>, entries: Vec<(CString, InodeRef)> },
    /// Write a file's blocks `from` to before `to`.
    Blocks { file: Arc<OpenFile>, from: u64, to: u64 },
}

/// The tasks to be done. The last one is taken first, so that the tree is walked in depth and few
/// directories are open.
#[derive(Default)]
struct Stack {
    tasks: Vec<Task>,
    working: usize,
    waiting: usize,
    error: Option<Error>,
}

/// What could not be unpacked.
#[derive(Default)]
struct Counts {
    devices: AtomicU64,
    xattrs: AtomicU64,
    owners: AtomicU64,
}

struct Unpack<'a> {
    image: &'a Squashfs,
    options: UnpackOptions,
    progress: &'a UnpackProgress,
    cancel: &'a AtomicBool,
    root: OwnedFd,
    stack: Mutex<Stack>,
    changed: Condvar,
    /// Directories met.
    seen: Mutex<HashSet<InodeRef>>,
    /// First name, from the root, of each inode that has several.
    linked: Mutex<HashMap<InodeRef, PathBuf>>,
    /// Directories whose mode shuts the caller out, to be set when all is done.
    closed: Mutex<Vec<(PathBuf, u32)>>,
    counts: Counts,
}

/// A panic in another thread is reported by the scope; the data here is counters and lists.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tasks.
impl Unpack<'_> {
    fn work(&self) {
        while let Some(task) = self.next() {
            let result = self.perform(task);
            let mut stack = lock(&self.stack);
            stack.working -= 1;
            if let Err(error) = result {
                stack.error.get_or_insert(error);
            }
            if stack.error.is_some() || stack.working == 0 && stack.tasks.is_empty() {
                self.changed.notify_all();
            }
        }
    }

    /// The next task; nothing when all is done or something failed.
    fn next(&self) -> Option<Task> {
        let mut stack = lock(&self.stack);
        loop {
            if self.cancel.load(Ordering::Relaxed) {
                stack.error.get_or_insert_with(interrupted);
            }
            if stack.error.is_some() {
                self.changed.notify_all();
                return None;
            }
            if let Some(task) = stack.tasks.pop() {
                stack.working += 1;
                return Some(task);
            }
            if stack.working == 0 {
                return None;
            }
            stack.waiting += 1;
            stack = self.changed.wait(stack).unwrap_or_else(PoisonError::into_inner);
            stack.waiting -= 1;
        }
    }

    /// Puts tasks on the stack; the first one is taken first.
    fn push(&self, tasks: impl IntoIterator<Item = Task, IntoIter: DoubleEndedIterator>) {
        let mut stack = lock(&self.stack);
        stack.tasks.extend(tasks.into_iter().rev());
        // A notification is a system call, and most of the time everybody works.
        if stack.waiting > 0 && !stack.tasks.is_empty() {
            self.changed.notify_all();
        }
    }

    fn perform(&self, task: Task) -> Result<()> {
        match task {
            Task::Directory { parent, name, inode } => {
                let node = self.make_directory(parent, name, inode)?;
                self.list(Arc::new(node))
            }
            Task::List(node) => self.list(node),
            Task::Files { directory, entries } => {
                self.make_files(&directory, &entries)?;
                self.release(directory)
            }
            Task::Blocks { file, from, to } => self.write_blocks(file, from, to),
        }
    }

    fn list(&self, node: Arc<Node>) -> Result<()> {
        if !lock(&self.seen).insert(node.inode.reference) {
            return Err(Error::image(format!("directory {:?} is inside itself", path(&node, c""))));
        }
        let mut directories = Vec::new();
        let mut files = Vec::new();
        let mut bad = None;
        self.image.read_dir(&node.inode, 0, &mut |entry| {
            let Some(name) = file_name(entry.name) else {
                bad = Some(Error::image(format!(
                    "directory {:?} has an impossible name {:?}",
                    path(&node, c""),
                    OsStr::from_bytes(entry.name)
                )));
                return ControlFlow::Break(());
            };
            if entry.kind == FileKind::Directory {
                let parent = node.clone();
                directories.push(Task::Directory { parent, name, inode: entry.reference });
            } else {
                files.push((name, entry.reference));
                if files.len() == BATCH {
                    let entries = std::mem::take(&mut files);
                    self.push([Task::Files { directory: node.clone(), entries }]);
                }
            }
            ControlFlow::Continue(())
        })?;
        if let Some(error) = bad {
            return Err(error);
        }
        self.push(directories);
        self.make_files(&node, &files)?;
        self.release(node)
    }

    /// Lets go of a directory. The last one to do so gives it its attributes, and lets go of its parent.
    /// Every clone of a node ends here, or in an error that ends all.
    fn release(&self, node: Arc<Node>) -> Result<()> {
        let mut next = Some(node);
        while let Some(node) = next.and_then(Arc::into_inner) {
            let done = self.finish_directory(&node);
            done.map_err(|failure| failure.at(|| format!("cannot unpack directory {:?}", path(&node, c""))))?;
            next = node.parent;
        }
        Ok(())
    }

    fn check_cancel(&self) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) { Err(interrupted()) } else { Ok(()) }
    }
}

fn interrupted() -> Error {
    Error::new(Kind::Interrupted, "stopped before the image was unpacked")
}

/// A name that is one component of a path, or nothing.
fn file_name(name: &[u8]) -> Option<CString> {
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
        return None;
    }
    CString::new(name).ok()
}

/// The path of an entry from the root of the image, without a leading slash.
fn path(node: &Node, name: &CStr) -> PathBuf {
    let mut names = vec![name];
    let mut node = Some(node);
    while let Some(directory) = node {
        names.push(&directory.name);
        node = directory.parent.as_deref();
    }
    let names = names.iter().rev().map(|name| OsStr::from_bytes(name.to_bytes()));
    names.filter(|name| !name.is_empty()).collect()
}

/// Files.
impl Unpack<'_> {
    fn make_directory(&self, parent: Arc<Node>, name: CString, inode: InodeRef) -> Result<Node> {
        let failed = || format!("cannot unpack directory {:?}", path(&parent, &name));
        let inode = self.image.inode(inode)?;
        if inode.kind() != FileKind::Directory {
            return Err(Error::image(format!(
                "{:?} is not the directory that it is listed as",
                path(&parent, &name)
            )));
        }
        fs::mkdirat(&parent.fd, &name, Mode::RWXU).tried(failed)?;
        let fd = fs::openat(&parent.fd, &name, DIRECTORY, Mode::empty()).tried(failed)?;
        self.progress.entries.fetch_add(1, Ordering::Relaxed);
        Ok(Node { fd, inode, parent: Some(parent), name })
    }

    fn make_files(&self, directory: &Arc<Node>, entries: &[(CString, InodeRef)]) -> Result<()> {
        for (name, inode) in entries {
            self.check_cancel()?;
            let inode = self.image.inode(*inode)?;
            let failed = || format!("cannot unpack {:?}", path(directory, name));
            self.make_file(directory, name, inode).map_err(|failure| failure.at(failed))?;
            self.progress.entries.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn make_file(&self, directory: &Arc<Node>, name: &CStr, inode: Arc<Inode>) -> Result<(), Failure> {
        if inode.links < 2 {
            return self.make_new(directory, name, inode);
        }
        // Held until the first name exists, so that the others find it.
        let mut linked = lock(&self.linked);
        if let Some(first) = linked.get(&inode.reference) {
            return Ok(link(self.root.as_fd(), first, directory.fd.as_fd(), name)?);
        }
        linked.insert(inode.reference, path(directory, name));
        let Content::Regular(_) = inode.content else { return self.make_new(directory, name, inode) };
        let file = self.create(directory, name, inode)?;
        drop(linked);
        Ok(self.fill(file)?)
    }

    fn make_new(&self, directory: &Arc<Node>, name: &CStr, inode: Arc<Inode>) -> Result<(), Failure> {
        let dirfd = directory.fd.as_fd();
        let mode = Mode::from_raw_mode(inode.mode);
        match &inode.content {
            Content::Regular(_) => {
                let file = self.create(directory, name, inode)?;
                return Ok(self.fill(file)?);
            }
            Content::Directory(_) => {
                let message = "a directory where the listing says that there is none";
                return Err(Failure::Other(Error::image(message)));
            }
            Content::Symlink { target } => fs::symlinkat(OsStr::from_bytes(target), dirfd, name)?,
            Content::Device { rdev, block } => {
                let kind = if *block { FileType::BlockDevice } else { FileType::CharacterDevice };
                match fs::mknodat(dirfd, name, kind, mode, device(*rdev)) {
                    Err(Errno::PERM) => {
                        self.counts.devices.fetch_add(1, Ordering::Relaxed);
                        return Ok(());
                    }
                    result => result?,
                }
            }
            Content::Ipc { socket } => {
                let kind = if *socket { FileType::Socket } else { FileType::Fifo };
                fs::mknodat(dirfd, name, kind, mode, 0)?;
            }
        }
        self.set_attributes_of_name(dirfd, name, &inode)
    }

    fn create(&self, directory: &Arc<Node>, name: &CStr, inode: Arc<Inode>) -> Result<Arc<OpenFile>, Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(fs::openat(&directory.fd, name, flags, Mode::RUSR | Mode::WUSR)?);
        let holes = AtomicBool::new(false);
        Ok(Arc::new(OpenFile { file, inode, directory: directory.clone(), name: name.to_owned(), holes }))
    }

    fn fill(&self, file: Arc<OpenFile>) -> Result<()> {
        let blocks = file.inode.block_count();
        self.write_blocks(file, 0, blocks)
    }

    /// Writes blocks; of many, the later half is left to whoever is free.
    fn write_blocks(&self, file: Arc<OpenFile>, from: u64, mut to: u64) -> Result<()> {
        while to - from > BLOCKS {
            let middle = from + (to - from) / 2;
            self.push([Task::Blocks { file: file.clone(), from: middle, to }]);
            to = middle;
        }
        let failed = || format!("cannot write {:?}", path(&file.directory, &file.name));
        let block_size = u64::from(self.image.superblock().block_size);
        for index in from..to {
            self.check_cancel()?;
            let block = self.image.block(&file.inode, index)?;
            let length = block.len() as u64;
            match block {
                Block::Hole(_) => file.holes.store(true, Ordering::Relaxed),
                Block::Data(bytes) => file.file.write_all_at(&bytes, index * block_size).tried(failed)?,
            }
            self.progress.bytes.fetch_add(length, Ordering::Relaxed);
        }
        // The last one of those who write parts of this file.
        let Some(file) = Arc::into_inner(file) else { return Ok(()) };
        let failed = || format!("cannot unpack {:?}", path(&file.directory, &file.name));
        if file.holes.load(Ordering::Relaxed) {
            file.file.set_len(file.inode.size).tried(failed)?;
        }
        let done = self.set_attributes(file.file.as_fd(), &file.inode, file.inode.mode);
        done.map_err(|failure| failure.at(failed))?;
        self.release(file.directory)
    }
}

/// Why a file could not be made: its name is added where it is known.
enum Failure {
    System(Errno),
    Other(Error),
}

impl Failure {
    fn at(self, tried: impl FnOnce() -> String) -> Error {
        match self {
            Self::System(errno) => Error::new(Kind::Io, tried()).because(io::Error::from(errno)),
            Self::Other(error) if error.kind == Kind::Image => Error::image(tried()).because(error),
            Self::Other(error) => error,
        }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a directory below `root`, component by component: none of them is a link, and the path may be
/// longer than the kernel takes at once.
fn open_directory(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let mut directory = fs::openat(root, c".", DIRECTORY, Mode::empty())?;
    for name in path {
        directory = fs::openat(&directory, name, DIRECTORY, Mode::empty())?;
    }
    Ok(directory)
}

/// Gives the file at `first` another name.
fn link(root: BorrowedFd<'_>, first: &Path, directory: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let parent = open_directory(root, first.parent().unwrap_or(Path::new("")))?;
    fs::linkat(&parent, first.file_name().unwrap_or_default(), directory, name, AtFlags::empty())
}

/// A device number of the kernel's 32-bit encoding.
fn device(rdev: u32) -> u64 {
    fs::makedev(rdev >> 8 & 0xfff, rdev & 0xff | rdev >> 12 & 0xfff00)
}
