//! What a stack of layers shows: their entries applied one after the other, the oldest layer first, to a tree in
//! memory, as tools that unpack them do it to a directory.
//!
//! - A layer's whiteouts come before its files: they concern what lower layers have, whatever their order.
//! - A path's directories are followed as a process whose root is the image would: links of the image lead where
//!   they lead in it, never out. A directory that no layer has is made.
//! - A hard link to what the same layer removes finds it.

use super::entry::{Attributes, Entry, Name, What, meaning, names, split, wrong};
use crate::error::{Error, Result};
use crate::pack::Content;
use std::collections::BTreeMap;

/// The kernel's limit for links on the way to a file.
const LINKS: usize = 40;
/// What is said for one that is not there.
const ROOT: u32 = 0;

/// An entry of a layer with its place: where its content comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Which layer, the oldest is 0.
    pub layer: usize,
    /// Which of its entries.
    pub entry: usize,
}

/// What a file's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// Nothing: it is empty.
    Empty,
    /// Packed.
    Packed(Content),
    /// To be packed yet.
    Missing(Place),
}

/// A file of the merged tree.
#[derive(Debug)]
pub struct Inode {
    /// Owner, mode, time.
    pub attributes: Attributes,
    /// What it is.
    pub kind: Kind,
}

/// What a file is.
#[derive(Debug)]
pub enum Kind {
    /// A directory: names, and inodes by their number.
    Directory(BTreeMap<Box<[u8]>, u32>),
    /// A regular file of so many bytes.
    Regular(u64, Data),
    /// A symbolic link.
    Symlink(Box<[u8]>),
    /// A block device, by its number on disk.
    BlockDevice(u32),
    /// A character device, by its number on disk.
    CharDevice(u32),
    /// A named pipe.
    Fifo,
}

/// A tree in memory. Inodes that have no name any more stay until the end.
#[derive(Debug)]
pub struct Merged {
    /// By number.
    pub inodes: Vec<Inode>,
}

/// An entry that was read, and its content if that is packed already.
#[derive(Debug)]
pub struct Kept {
    /// What the layer says.
    pub entry: Entry,
    /// Its content.
    pub content: Option<Content>,
}

/// What the whiteouts of the layer in the works took away: path and inode.
type Gone = Vec<(Box<[u8]>, u32)>;

impl Merged {
    /// A root without anything in it.
    pub fn new() -> Self {
        let kind = Kind::Directory(BTreeMap::new());
        Self { inodes: vec![Inode { attributes: Attributes::implied(0), kind }] }
    }

    /// Lays a layer over what there is.
    ///
    /// # Errors
    /// An entry that cannot be applied, which is named.
    pub fn apply(&mut self, layer: usize, entries: Vec<Kept>) -> Result<()> {
        let mut gone = Gone::new();
        for Kept { entry, .. } in &entries {
            self.remove(&entry.path, &mut gone)?;
        }
        for (number, Kept { entry, content }) in entries.into_iter().enumerate() {
            if meaning(&entry.path)? == Name::File {
                let place = Place { layer, entry: number };
                self.add(entry, content, place, &gone)?;
            }
        }
        Ok(())
    }

    /// Does what a whiteout says.
    fn remove(&mut self, path: &[u8], gone: &mut Gone) -> Result<()> {
        let (directory, name) = match meaning(path)? {
            Name::File | Name::Note => return Ok(()),
            Name::Whiteout(directory, name) => (directory, Some(name)),
            Name::Opaque(directory) => (directory, None),
        };
        // What is not there cannot be removed; tools that make layers count on that.
        let Some(parent) = self.find(directory, path)? else { return Ok(()) };
        let Some(Kind::Directory(children)) = self.kind_mut(parent) else { return Ok(()) };
        let removed = match name {
            Some(name) => children.remove_entry(name).into_iter().collect(),
            None => std::mem::take(children),
        };
        for (name, inode) in removed {
            gone.push((names(directory).chain([&*name]).collect::<Vec<_>>().join(&b'/').into(), inode));
        }
        Ok(())
    }

    fn add(&mut self, entry: Entry, content: Option<Content>, place: Place, gone: &Gone) -> Result<()> {
        let Entry { path, attributes, what } = entry;
        if path.is_empty() {
            return match what {
                What::Directory => self.set_attributes(ROOT, attributes),
                _ => Err(wrong(b"/", "it would take the root's place and is no directory")),
            };
        }
        let (directory, name) = split(&path);
        let parent = self.make(directory, attributes.mtime, &path)?;
        let old = self.child(parent, name);
        let kind = match what {
            What::Link(target) => {
                let inode = self.linked(&target, gone, &path)?;
                return self.set(parent, name, inode);
            }
            What::Directory => match old {
                Some(old) if self.is_directory(old) => return self.set_attributes(old, attributes),
                _ => Kind::Directory(BTreeMap::new()),
            },
            What::Regular(0) => Kind::Regular(0, Data::Empty),
            What::Regular(size) => Kind::Regular(size, content.map_or(Data::Missing(place), Data::Packed)),
            What::Symlink(target) => Kind::Symlink(target),
            What::BlockDevice(number) => Kind::BlockDevice(number),
            What::CharDevice(number) => Kind::CharDevice(number),
            What::Fifo => Kind::Fifo,
        };
        let inode = self.new_inode(Inode { attributes, kind })?;
        self.set(parent, name, inode)
    }

    /// The file that a hard link names.
    fn linked(&mut self, target: &[u8], gone: &Gone, path: &[u8]) -> Result<u32> {
        let (directory, name) = split(target);
        let mut found = self.find(directory, path)?.and_then(|parent| self.child(parent, name));
        if found.is_none() {
            found = gone.iter().rev().find_map(|(old, inode)| self.below(old, *inode, target));
        }
        match found {
            Some(inode) if !self.is_directory(inode) => Ok(inode),
            Some(_) => Err(wrong(path, "it is a hard link to a directory")),
            None => {
                let target = String::from_utf8_lossy(target);
                Err(wrong(path, &format!("it is a hard link to {target:?}, which is not there")))
            }
        }
    }

    /// The file at `target`, if that is at or below `old`, which `inode` was.
    fn below(&self, old: &[u8], inode: u32, target: &[u8]) -> Option<u32> {
        let rest = target.strip_prefix(old)?;
        if !rest.is_empty() && !rest.starts_with(b"/") {
            return None;
        }
        names(rest).try_fold(inode, |inode, name| self.child(inode, name))
    }

    /// The directory that `path` leads to, if there is one. `whole` is for messages.
    fn find(&mut self, path: &[u8], whole: &[u8]) -> Result<Option<u32>> {
        self.walk(path, None, whole)
    }

    /// The directory that `path` leads to, made where it is missing.
    fn make(&mut self, path: &[u8], mtime: i64, whole: &[u8]) -> Result<u32> {
        let found = self.walk(path, Some(mtime), whole)?;
        found.ok_or_else(|| wrong(whole, "it lies below something that is no directory"))
    }

    /// The directory that a path lies in, made where it is missing; `None` where something else is in the way.
    ///
    /// # Errors
    /// Links that lead in a circle.
    pub fn parent_of(&mut self, path: &[u8], mtime: i64) -> Result<Option<u32>> {
        self.walk(split(path).0, Some(mtime), path)
    }

    /// Puts a new file in the place of what has the name, unless that is a directory.
    ///
    /// # Errors
    /// There are too many files.
    pub fn put(&mut self, parent: u32, name: &[u8], inode: Inode) -> Result<()> {
        if self.child(parent, name).is_some_and(|old| self.is_directory(old)) {
            return Ok(());
        }
        let inode = self.new_inode(inode)?;
        self.set(parent, name, inode)
    }

    /// Follows a path of directories and links, the root being `/`.
    fn walk(&mut self, path: &[u8], make: Option<i64>, whole: &[u8]) -> Result<Option<u32>> {
        let mut links = 0;
        let mut here = vec![ROOT];
        // Names still to come, the next last.
        let mut ahead: Vec<Box<[u8]>> = names(path).map(Box::from).collect();
        ahead.reverse();
        while let Some(name) = ahead.pop() {
            let current = here.last().copied().unwrap_or(ROOT);
            match &*name {
                b"." => continue,
                b".." => {
                    here.truncate(here.len().saturating_sub(1).max(1));
                    continue;
                }
                _ => {}
            }
            let Some(next) = self.child(current, &name) else {
                let Some(mtime) = make else { return Ok(None) };
                let kind = Kind::Directory(BTreeMap::new());
                let made = self.new_inode(Inode { attributes: Attributes::implied(mtime), kind })?;
                self.set(current, &name, made)?;
                here.push(made);
                continue;
            };
            match self.inodes.get(next as usize).map(|inode| &inode.kind) {
                Some(Kind::Directory(_)) => here.push(next),
                Some(Kind::Symlink(target)) => {
                    links += 1;
                    if links > LINKS {
                        return Err(wrong(whole, "there are too many links on its way"));
                    }
                    if target.starts_with(b"/") {
                        here.truncate(1);
                    }
                    let target: Vec<Box<[u8]>> = names(target).map(Box::from).collect();
                    ahead.extend(target.into_iter().rev());
                }
                _ => return Ok(None),
            }
        }
        Ok(here.last().copied())
    }

    /// The inode of a name in a directory.
    pub fn child(&self, directory: u32, name: &[u8]) -> Option<u32> {
        match self.inodes.get(directory as usize).map(|inode| &inode.kind) {
            Some(Kind::Directory(children)) => children.get(name).copied(),
            _ => None,
        }
    }

    fn is_directory(&self, inode: u32) -> bool {
        matches!(self.inodes.get(inode as usize), Some(Inode { kind: Kind::Directory(_), .. }))
    }

    fn kind_mut(&mut self, inode: u32) -> Option<&mut Kind> {
        self.inodes.get_mut(inode as usize).map(|inode| &mut inode.kind)
    }

    fn set_attributes(&mut self, inode: u32, attributes: Attributes) -> Result<()> {
        if let Some(inode) = self.inodes.get_mut(inode as usize) {
            inode.attributes = attributes;
        }
        Ok(())
    }

    fn set(&mut self, parent: u32, name: &[u8], inode: u32) -> Result<()> {
        if let Some(Kind::Directory(children)) = self.kind_mut(parent) {
            children.insert(name.into(), inode);
        }
        Ok(())
    }

    fn new_inode(&mut self, inode: Inode) -> Result<u32> {
        let number = u32::try_from(self.inodes.len());
        let number = number.map_err(|_| Error::image("the layers have more than 4294967295 files"))?;
        self.inodes.push(inode);
        Ok(number)
    }
}
