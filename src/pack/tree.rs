//! A tree as it is to be in the image: every file with its attributes, before and after its content is stored.

use super::PackOptions;
use super::xattr::XattrSet;
use crate::error::{Error, Kind, Result};
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

/// Everything about a file but its content.
#[derive(Debug)]
pub struct Node {
    /// Where its name starts in [`Tree::names`].
    name_start: usize,
    /// Its name's length: 1 to 256, or 0 for the root.
    name_bytes: u16,
    /// The directory that holds it; the root holds itself.
    pub parent: u32,
    /// The node that stands for this file: itself, or the first name found of a file with several.
    pub link: u32,
    /// How many names the file has in this tree. Counted on the first.
    pub names: u32,
    /// Owner, mode, time.
    pub status: Status,
    /// What it is.
    pub kind: NodeKind,
    /// Extended attributes; those of regular files that have content come with their content.
    pub xattrs: Option<Arc<XattrSet>>,
}

/// What every kind of file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Permission bits with suid, sgid and sticky.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970, within what an image can say.
    pub mtime: u32,
}

impl Status {
    /// What an image can say of a file within the options; and whether its time, in seconds since 1970, is another.
    pub fn within(options: &PackOptions, mode: u32, owner: (u32, u32), mtime: i64) -> (Self, bool) {
        let mtime = mtime.min(options.time.unwrap_or(i64::MAX));
        let clamped = mtime.clamp(0, i64::from(u32::MAX));
        let (uid, gid) = options.one_owner.unwrap_or(owner);
        (Self { mode: mode as u16, uid, gid, mtime: clamped as u32 }, clamped != mtime)
    }
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
    /// Adds a file with one name to a directory; gives its place.
    ///
    /// # Errors
    /// More files than an image can have.
    pub fn add(&mut self, parent: u32, name: &[u8], status: Status, kind: NodeKind) -> Result<u32> {
        // Inode numbers are 32 bits wide, and 0 is none.
        let index = u32::try_from(self.nodes.len())
            .ok()
            .filter(|&index| index < u32::MAX - 1)
            .ok_or_else(|| Error::new(Kind::Io, "cannot pack more than 4294967294 files into one image"))?;
        let name_start = self.names.len();
        self.names.extend_from_slice(name);
        self.nodes.push(Node {
            name_start,
            name_bytes: u16::try_from(name.len()).unwrap_or(0),
            parent,
            link: index,
            names: 1,
            status,
            kind,
            xattrs: None,
        });
        Ok(index)
    }

    /// Makes `index` another name of the file that `first` stands for.
    pub fn join(&mut self, index: u32, first: u32) {
        if let Some(node) = self.nodes.get_mut(first as usize) {
            node.names += 1;
        }
        if let Some(node) = self.nodes.get_mut(index as usize) {
            node.link = first;
        }
    }

    /// A node's name.
    pub fn name(&self, node: &Node) -> &[u8] {
        self.names.get(node.name_start..node.name_start + usize::from(node.name_bytes)).unwrap_or_default()
    }

    /// A node's name, its directory's, and so on; without the root, which has none.
    pub fn names_up(&self, index: u32) -> impl Iterator<Item = &[u8]> {
        let node = |index: u32| self.nodes.get(index as usize).filter(|node| node.name_bytes > 0);
        std::iter::successors(node(index), move |below| node(below.parent)).map(|node| self.name(node))
    }

    /// A node's path below the root, for messages.
    pub fn path(&self, index: u32) -> PathBuf {
        let names: Vec<_> = self.names_up(index).map(OsStr::from_bytes).collect();
        names.iter().rev().collect()
    }
}
