//! The walk: one or several trees, each laid over the next, become one [`Tree`] and its units.
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
//! A directory has as many *sides* as there are trees that show in it, the upper first; its attributes are
//! those of the first. An entry comes from the first side that has its name; directories of that name below
//! are its further sides, down to one that is opaque, or to a name that is no directory.
//!
//! ```text
//! layer 2   /  etc/           a whiteout: neither /opt nor what is in it
//! layer 1   /  etc/  opt/
//! base      /  etc/  usr/     /etc has three sides, /usr one
//! ```

use super::base::{BaseTree, Stored};
use super::carry::Carry;
use super::marks::{self, Marks, Owner};
use super::pipeline::{Halt, Pipeline};
use super::plain::is_plain;
use super::sides::{At, DIRECTORY_FLAGS, Frame, Side, Step, close_far_ancestor, come_back, list};
use super::tree::{NodeKind, Status, Tree};
use super::units::{Dir, Facts, FileEntry, Origin, Units, cannot};
use super::xattr::{self, Xattrs};
use super::{PackOptions, Warnings};
use crate::error::{Error, Kind};
use crate::image::squashfs::{InodeRef, Squashfs};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The trees to walk.
#[derive(Clone, Copy)]
pub struct Roots<'a> {
    /// The lowest, if it is an image.
    pub base: Option<&'a Squashfs>,
    /// Directories over it, the lowest first.
    pub directories: &'a [PathBuf],
    /// Attributes of the directories that are marks count as such.
    pub marked: bool,
}

/// The state of a walk.
struct Walk<'a, 'b> {
    pipeline: &'b Pipeline<'b>,
    options: &'b PackOptions,
    marked: bool,
    units: Units<'b>,
    base: Option<BaseTree<'a>>,
    tree: Tree,
    warnings: Warnings,
    /// First node of each file with several names, by device and inode.
    links: HashMap<(u64, u64), u32>,
}

/// A directory about to be listed.
struct Opened {
    sides: Vec<Side>,
    /// Of the first side.
    xattrs: Xattrs,
    marks: Marks,
}

/// An entry of a directory of a file system.
struct Seen {
    stat: Stat,
    kind: NodeKind,
    /// If marks say one.
    owner: Option<Owner>,
    /// If they had to be read.
    xattrs: Option<Xattrs>,
}

/// A name in one side of a directory.
struct Found {
    name: CString,
    side: usize,
    /// Its inode, in the base.
    inode: Option<InodeRef>,
}

/// What a walk found.
pub struct Walked<'a> {
    /// All files.
    pub tree: Tree,
    /// What there was to complain about.
    pub warnings: Warnings,
    /// What the base has that is not read but copied.
    pub carry: Option<Carry<'a>>,
    /// Of a stream: the nodes that have content, and the number of each's.
    pub arranged: Option<Vec<(u32, u32)>>,
}

/// Walks the trees and hands out the units in order.
///
/// # Errors
/// The first entry that cannot be listed, or a stop from elsewhere.
pub fn walk<'a>(
    roots: Roots<'a>,
    pipeline: &Pipeline<'_>,
    options: &PackOptions,
) -> Result<Walked<'a>, Halt> {
    let mut walk = Walk {
        pipeline,
        options,
        marked: roots.marked,
        units: Units::new(pipeline, options),
        base: roots.base.map(|image| BaseTree::new(image, options)),
        tree: Tree::default(),
        warnings: Warnings::default(),
        links: HashMap::new(),
    };
    walk.run(roots)?;
    let mut carry = walk.base.and_then(BaseTree::into_carry);
    if let Some(carry) = &mut carry {
        for (fragment, pieces) in carry.plan()? {
            walk.units.give_tails(fragment, pieces)?;
        }
    }
    walk.units.finish()?;
    pipeline.progress.walk_done.store(true, Ordering::Relaxed);
    Ok(Walked { tree: walk.tree, warnings: walk.warnings, carry, arranged: None })
}

impl Walk<'_, '_> {
    fn run(&mut self, roots: Roots<'_>) -> Result<(), Halt> {
        let root = self.open_roots(roots)?;
        let mut stack = vec![self.enter(0, root)?];
        while let Some(frame) = stack.last_mut() {
            self.pipeline.check()?;
            let (Some(index), Some(step)) = (frame.entries.next(), frame.steps.next()) else {
                if let (Some(left), Some(above)) = (stack.pop(), stack.last_mut()) {
                    come_back(&left, above)?;
                }
                continue;
            };
            match step {
                Step::Pass => {}
                Step::Read { side, facts } => {
                    let Some(dir) = frame.dir(side) else { return Err(lost()) };
                    let (dir, name) = (Arc::clone(dir), self.name(index)?);
                    self.give_file(index, Origin::Dir { dir, name, facts })?;
                }
                Step::ReadBase(reference) => self.give_file(index, Origin::Base(reference))?,
                Step::Enter(found) => {
                    let opened = self.open_directory(frame, &self.name(index)?, &found)?;
                    stack.push(self.enter(index, opened)?);
                    close_far_ancestor(&mut stack);
                }
            }
        }
        Ok(())
    }

    fn name(&self, index: u32) -> Result<CString, Halt> {
        let node = self.tree.nodes.get(index as usize).ok_or_else(lost)?;
        CString::new(self.tree.name(node)).map_err(|_| lost())
    }

    fn give_file(&mut self, node: u32, origin: Origin) -> Result<(), Halt> {
        let plain = is_plain(self.tree.names_up(node));
        match self.tree.nodes.get(node as usize).map(|node| &node.kind) {
            Some(&NodeKind::Regular(size)) => self.units.give_file(FileEntry { node, size, plain, origin }),
            _ => Err(lost()),
        }
    }

    /// Opens the roots of all trees that count, and adds the root to the tree.
    fn open_roots(&mut self, roots: Roots<'_>) -> Result<Opened, Halt> {
        let mut opened = Opened { sides: Vec::new(), xattrs: Xattrs::default(), marks: Marks::default() };
        for (layer, path) in roots.directories.iter().enumerate().rev() {
            // The root itself may be named by a link; nothing below it is followed.
            let file = rustix::fs::openat(CWD, path, DIRECTORY_FLAGS - OFlags::NOFOLLOW, Mode::empty())
                .map(File::from)
                .map_err(|errno| cannot("open directory", path, errno))?;
            let dir = Dir { file, path: path.clone() };
            let (side, stat, xattrs, marks) = self.side(layer + 1, dir)?;
            let opaque = marks.opaque;
            if opened.sides.is_empty() {
                let status = self.status(&stat, b"", marks.owner);
                self.tree.add(0, b"", status, NodeKind::Directory(0..0))?;
                (opened.xattrs, opened.marks) = (xattrs, marks);
            }
            opened.sides.push(side);
            if opaque {
                self.hide(roots.base.map(Squashfs::root))?;
                return Ok(opened);
            }
        }
        if let Some(base) = &mut self.base {
            let stored = base.root()?;
            let inode = base.enter(stored.reference)?;
            if opened.sides.is_empty() {
                let status = self.status_of(&stored);
                self.tree.add(0, b"", status, NodeKind::Directory(0..0))?;
                opened.xattrs = stored.xattrs;
            }
            opened.sides.push(Side { layer: 0, at: At::Base(inode) });
        }
        if opened.sides.is_empty() {
            return Err(Error::new(Kind::Internal, "there is nothing to pack").into());
        }
        Ok(opened)
    }

    /// Opens a directory in all sides of the one it is in, as far down as it shows.
    fn open_directory(
        &mut self,
        frame: &Frame,
        name: &CStr,
        found: &[(usize, Option<InodeRef>)],
    ) -> Result<Opened, Halt> {
        let mut opened = Opened { sides: Vec::new(), xattrs: Xattrs::default(), marks: Marks::default() };
        for &(number, inode) in found {
            if let (Some(reference), Some(base)) = (inode, &mut self.base) {
                let stored = base.examine(reference)?;
                match stored.kind {
                    NodeKind::Directory(_) => {
                        let at = At::Base(base.enter(reference)?);
                        if opened.sides.is_empty() {
                            opened.xattrs = stored.xattrs;
                        }
                        opened.sides.push(Side { layer: 0, at });
                    }
                    _ => base.hide(reference)?,
                }
                return Ok(opened);
            }
            let (Some(dir), Some(side)) = (frame.dir(number), frame.sides.get(number)) else {
                return Err(lost());
            };
            let file = match rustix::fs::openat(&dir.file, name, DIRECTORY_FLAGS, Mode::empty()) {
                Ok(file) => File::from(file),
                // Below a directory something that is none does not show, nor what is below that.
                Err(Errno::NOTDIR | Errno::LOOP) if !opened.sides.is_empty() => break,
                Err(errno) => return Err(cannot("open directory", &dir.path_of(name), errno)),
            };
            let dir = Dir { file, path: dir.path_of(name) };
            let (side, _, xattrs, marks) = self.side(side.layer, dir)?;
            let opaque = marks.opaque;
            if opened.sides.is_empty() {
                (opened.xattrs, opened.marks) = (xattrs, marks);
            }
            opened.sides.push(side);
            if opaque {
                break;
            }
        }
        // Something in between ended it: what the base has here does not show.
        self.hide(found.last().and_then(|&(_, inode)| inode))?;
        Ok(opened)
    }

    /// A file of the base does not show, nor what is in it.
    fn hide(&mut self, reference: Option<InodeRef>) -> Result<(), Halt> {
        match (&mut self.base, reference) {
            (Some(base), Some(reference)) => Ok(base.hide(reference)?),
            _ => Ok(()),
        }
    }

    /// What an open directory is, and its attributes.
    fn side(&self, layer: usize, dir: Dir) -> Result<(Side, Stat, Xattrs, Marks), Halt> {
        let stat = rustix::fs::fstat(&dir.file).map_err(|errno| cannot("examine", &dir.path, errno))?;
        let xattrs =
            xattr::read_open(&dir.file).map_err(|errno| cannot("read the xattrs of", &dir.path, errno))?;
        let (xattrs, marks) = self.take_marks(xattrs, || dir.path.clone())?;
        let identity = (stat.st_dev, stat.st_ino);
        let at = At::Dir { dir: Some(Arc::new(dir)), identity, has_whiteouts: marks.has_whiteouts };
        Ok((Side { layer, at }, stat, xattrs, marks))
    }

    fn take_marks(&self, xattrs: Xattrs, path: impl FnOnce() -> PathBuf) -> Result<(Xattrs, Marks), Halt> {
        match self.marked {
            false => Ok((xattrs, Marks::default())),
            true => marks::take(xattrs).map_err(|reason| mistaken(&path(), &reason)),
        }
    }

    /// Lists the directory `index`, adds its entries to the tree.
    fn enter(&mut self, index: u32, opened: Opened) -> Result<Frame, Halt> {
        let Opened { sides, xattrs, marks } = opened;
        if let Some(owner) = marks.owner.filter(|_| self.options.one_owner.is_none())
            && let Some(node) = self.tree.nodes.get_mut(index as usize)
        {
            (node.status.uid, node.status.gid) = owner;
        }
        self.set_xattrs(index, xattrs);
        let found = self.list(&sides)?;
        let start = self.tree.nodes.len() as u32;
        let mut steps = Vec::with_capacity(found.len());
        let mut rest = found.as_slice();
        while let Some(first) = rest.first() {
            self.pipeline.check()?;
            let same = rest.iter().take_while(|next| next.name == first.name).count();
            let (group, after) = rest.split_at(same);
            steps.extend(self.examine(index, &sides, group, &marks.owners)?);
            rest = after;
        }
        let entries = start..self.tree.nodes.len() as u32;
        if let Some(node) = self.tree.nodes.get_mut(index as usize) {
            node.kind = NodeKind::Directory(entries.clone());
        }
        Ok(Frame { sides, entries, steps: steps.into_iter() })
    }

    /// All names in all sides, sorted; of equal ones the upper side's first.
    fn list(&self, sides: &[Side]) -> Result<Vec<Found>, Halt> {
        let mut found = Vec::new();
        for (side, Side { at, .. }) in sides.iter().enumerate() {
            match (at, &self.base) {
                (At::Dir { dir: Some(dir), .. }, _) => {
                    let names =
                        list(&dir.file).map_err(|errno| cannot("list directory", &dir.path, errno))?;
                    found.extend(names.into_iter().map(|name| Found { name, side, inode: None }));
                }
                (At::Base(inode), Some(base)) => base.list(*inode, &mut |name, reference| {
                    found.push(Found { name, side, inode: Some(reference) });
                })?,
                _ => return Err(lost()),
            }
        }
        found.sort_unstable_by(|a, b| (&a.name, a.side).cmp(&(&b.name, b.side)));
        // A hostile image may have a name twice.
        found.dedup_by(|next, before| next.side == before.side && next.name == before.name);
        Ok(found)
    }

    /// Adds one entry of a directory to the tree, unless its name is gone; `group` is where the name is found.
    fn examine(
        &mut self,
        parent: u32,
        sides: &[Side],
        group: &[Found],
        owners: &HashMap<Box<[u8]>, Owner>,
    ) -> Result<Option<Step>, Halt> {
        let Some(Found { name, side, inode }) = group.first() else { return Err(lost()) };
        if let Some(reference) = inode {
            return self.examine_base(parent, group, *reference);
        }
        let Some(Side { at: At::Dir { dir: Some(dir), has_whiteouts, .. }, .. }) = sides.get(*side) else {
            return Err(lost());
        };
        let below = group.last().and_then(|found| found.inode);
        let Some(Seen { stat, kind, owner, xattrs }) = self.look(dir, name, *has_whiteouts, owners)? else {
            self.hide(below)?;
            return Ok(None);
        };
        let has_content = matches!(kind, NodeKind::Regular(size) if size > 0);
        let is_directory = matches!(kind, NodeKind::Directory(_));
        let status = self.status(&stat, name.to_bytes(), owner);
        let index = self.tree.add(parent, name.to_bytes(), status, kind)?;
        let progress = self.pipeline.progress;
        if is_directory {
            progress.entries_found.fetch_add(1, Ordering::Relaxed);
            return Ok(Some(Step::Enter(group.iter().map(|found| (found.side, found.inode)).collect())));
        }
        if stat.st_nlink > 1 && !self.is_first_name((stat.st_dev, stat.st_ino), index) {
            self.hide(below)?;
            return Ok(Some(Step::Pass));
        }
        progress.entries_found.fetch_add(1, Ordering::Relaxed);
        if !has_content {
            self.hide(below)?;
            let xattrs = match xattrs {
                Some(xattrs) => xattrs,
                None => self.read_xattrs(dir, name)?.0,
            };
            self.set_xattrs(index, xattrs);
            return Ok(Some(Step::Pass));
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        progress.bytes_found.fetch_add(size, Ordering::Relaxed);
        let sparse = (u64::try_from(stat.st_blocks).unwrap_or(0)).saturating_mul(512) < size;
        let twin = match (&mut self.base, below) {
            (Some(base), Some(reference)) => base.twin(index, size, reference)?,
            _ => None,
        };
        let facts = Facts { identity: identity(&stat), sparse, twin };
        Ok(Some(Step::Read { side: *side, facts }))
    }

    /// What an entry of a directory is; `None` for a whiteout and for the image that is being written.
    fn look(
        &mut self,
        dir: &Dir,
        name: &CStr,
        has_whiteouts: bool,
        owners: &HashMap<Box<[u8]>, Owner>,
    ) -> Result<Option<Seen>, Halt> {
        let stat = rustix::fs::statat(&dir.file, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| cannot("examine", &dir.path_of(name), errno))?;
        if (stat.st_dev, stat.st_ino) == self.pipeline.output_identity {
            self.warnings.skipped_output.count(|| dir.path_of(name));
            return Ok(None);
        }
        let kind = kind_of(&stat, dir, name)?;
        let mut seen = Seen { stat, kind, owner: None, xattrs: None };
        match seen.kind {
            NodeKind::CharDevice(0) if self.marked => return Ok(None),
            // Its attributes say what it is: they are read before it is added.
            NodeKind::Regular(0) if self.marked => {
                let (xattrs, marks) = self.read_xattrs(dir, name)?;
                if marks.whiteout && has_whiteouts {
                    return Ok(None);
                }
                seen.kind = marks.device.map_or(seen.kind, NodeKind::from);
                (seen.owner, seen.xattrs) = (marks.owner, Some(xattrs));
            }
            // Theirs are read with their content, or when they are listed.
            NodeKind::Regular(_) | NodeKind::Directory(_) => {}
            _ => seen.owner = owners.get(name.to_bytes()).copied(),
        }
        Ok(Some(seen))
    }

    fn read_xattrs(&self, dir: &Dir, name: &CStr) -> Result<(Xattrs, Marks), Halt> {
        let xattrs = xattr::read_named(dir, name)
            .map_err(|errno| cannot("read the xattrs of", &dir.path_of(name), errno))?;
        self.take_marks(xattrs, || dir.path_of(name))
    }

    /// [`Walk::examine`] for a name that only the base has.
    fn examine_base(
        &mut self,
        parent: u32,
        group: &[Found],
        reference: InodeRef,
    ) -> Result<Option<Step>, Halt> {
        let (Some(Found { name, side, .. }), Some(base)) = (group.first(), &mut self.base) else {
            return Err(lost());
        };
        let stored = base.examine(reference)?;
        let (size, is_directory) = match stored.kind {
            // A whiteout, to the kernel's overlay also here.
            NodeKind::CharDevice(0) => return Ok(None),
            NodeKind::Directory(_) => (0, true),
            NodeKind::Regular(size) => (size, false),
            _ => (0, false),
        };
        let status = self.status_of(&stored);
        let index = self.tree.add(parent, name.to_bytes(), status, stored.kind)?;
        let progress = self.pipeline.progress;
        if is_directory {
            progress.entries_found.fetch_add(1, Ordering::Relaxed);
            return Ok(Some(Step::Enter(vec![(*side, Some(reference))])));
        }
        // No file system has the device of the base.
        if stored.names > 1 && !self.is_first_name((u64::MAX, reference.0), index) {
            return Ok(Some(Step::Pass));
        }
        progress.entries_found.fetch_add(1, Ordering::Relaxed);
        self.set_xattrs(index, stored.xattrs);
        if size == 0 {
            return Ok(Some(Step::Pass));
        }
        progress.bytes_found.fetch_add(size, Ordering::Relaxed);
        if self.base.as_mut().map_or(Ok(false), |base| base.keep(index, reference))? {
            // Its content is copied with the rest, not read.
            progress.bytes_read.fetch_add(size, Ordering::Relaxed);
            progress.files_read.fetch_add(1, Ordering::Relaxed);
            return Ok(Some(Step::Pass));
        }
        Ok(Some(Step::ReadBase(reference)))
    }

    /// Whether the file that node `index` names has not been met before; if it has, the two are joined.
    fn is_first_name(&mut self, file: (u64, u64), index: u32) -> bool {
        let first = *self.links.entry(file).or_insert(index);
        if first != index {
            self.tree.join(index, first);
        }
        first == index
    }

    fn status(&mut self, stat: &Stat, name: &[u8], owner: Option<Owner>) -> Status {
        let owner = self.options.one_owner.or(owner).unwrap_or((stat.st_uid, stat.st_gid));
        let (status, clamped) = Status::within(self.options, stat.st_mode & 0o7777, owner, stat.st_mtime);
        if clamped {
            self.warnings.clamped_times.count(|| PathBuf::from(OsStr::from_bytes(name)));
        }
        status
    }

    fn status_of(&self, stored: &Stored) -> Status {
        let latest = self.options.time.map_or(u32::MAX, |time| time.clamp(0, i64::from(u32::MAX)) as u32);
        let (uid, gid) = self.options.one_owner.unwrap_or((stored.status.uid, stored.status.gid));
        Status { uid, gid, mtime: stored.status.mtime.min(latest), ..stored.status }
    }

    fn set_xattrs(&mut self, index: u32, xattrs: Xattrs) {
        if xattrs.access_list {
            self.warnings.access_lists.count(|| self.tree.path(index));
        }
        if let Some(node) = self.tree.nodes.get_mut(index as usize) {
            node.xattrs = xattrs.set;
        }
    }
}

fn kind_of(stat: &Stat, dir: &Dir, name: &CStr) -> Result<NodeKind, Halt> {
    let device = || {
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        marks::device_number(major, minor)
    };
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => NodeKind::Directory(0..0),
        FileType::RegularFile => NodeKind::Regular(u64::try_from(stat.st_size).unwrap_or(0)),
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&dir.file, name, Vec::new())
                .map_err(|errno| cannot("read link", &dir.path_of(name), errno))?;
            NodeKind::Symlink(target.into_bytes().into())
        }
        FileType::BlockDevice => NodeKind::BlockDevice(device()),
        FileType::CharacterDevice => NodeKind::CharDevice(device()),
        FileType::Fifo => NodeKind::Fifo,
        FileType::Socket => NodeKind::Socket,
        FileType::Unknown => {
            let message = format!("cannot pack {:?}: unknown kind of file", dir.path_of(name));
            return Err(Halt::Failed(Error::new(Kind::Io, message)));
        }
    })
}

/// What tells whether a file is still the one that was listed.
pub fn identity(stat: &Stat) -> (u64, i64, u64) {
    (stat.st_ino, stat.st_mtime, stat.st_mtime_nsec)
}

/// What cannot be.
pub fn lost() -> Halt {
    Halt::Failed(Error::new(Kind::Internal, "the walk lost its place"))
}

/// The file's marks make no sense.
pub fn mistaken(path: &Path, reason: &str) -> Halt {
    Halt::Failed(Error::new(Kind::Io, format!("cannot pack {path:?}: {reason}")))
}
