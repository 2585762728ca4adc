//! The base of the layers: an image's files as the walk takes them.

use super::PackOptions;
use super::carry::Carry;
use super::marks::is_mark;
use super::pipeline::Halt;
use super::tree::{NodeKind, Status};
use super::xattr::{XattrSet, Xattrs, is_kept};
use crate::error::{Error, Result};
use crate::image::squashfs::{Content, FileKind, Inode, InodeRef, Squashfs};
use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::ops::ControlFlow;
use std::sync::Arc;

/// A file of the base.
pub struct Stored {
    /// Where its inode is.
    pub reference: InodeRef,
    /// Owner, mode, time.
    pub status: Status,
    /// What it is.
    pub kind: NodeKind,
    /// How many names it says it has.
    pub names: u32,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

/// The base while it is walked.
pub struct BaseTree<'a> {
    image: &'a Squashfs,
    /// Directories that the walk has been in. A hostile image may have one twice, in itself for instance.
    entered: HashSet<u64>,
    /// What is carried over as it is stored, if the output can hold it so.
    carry: Option<Carry<'a>>,
    /// Sets of attributes by their number in the image.
    xattrs: HashMap<u32, Xattrs>,
}

impl<'a> BaseTree<'a> {
    /// The walk has not begun.
    pub fn new(image: &'a Squashfs, options: &PackOptions) -> Self {
        let superblock = image.superblock();
        let same =
            superblock.compressor == options.compression.kind && superblock.block_size == options.block_bytes;
        let carry = same.then(|| Carry::new(image));
        Self { image, entered: HashSet::new(), carry, xattrs: HashMap::new() }
    }

    /// What the walk found to carry over.
    pub fn into_carry(self) -> Option<Carry<'a>> {
        self.carry
    }

    /// Carries over the content of a regular file for `node`, if that can be done.
    pub fn keep(&mut self, node: u32, reference: InodeRef) -> Result<bool> {
        let Some(carry) = &mut self.carry else { return Ok(false) };
        carry.keep(node, &*self.image.inode(reference)?)?;
        Ok(true)
    }

    /// A file of `size` bytes hides one of the base. Gives the latter if their contents may be the same, and if that
    /// would be of use.
    pub fn twin(&mut self, node: u32, size: u64, reference: InodeRef) -> Result<Option<InodeRef>> {
        let Some(carry) = &mut self.carry else { return Ok(None) };
        let inode = self.image.inode(reference)?;
        if inode.kind() == FileKind::Regular && inode.size == size {
            carry.keep_twin(node, &inode)?;
            return Ok(Some(reference));
        }
        self.hide(reference)?;
        Ok(None)
    }

    /// A file does not show, nor what is in it.
    pub fn hide(&mut self, reference: InodeRef) -> Result<()> {
        if self.carry.is_none() {
            return Ok(());
        }
        let mut ahead = vec![reference];
        while let Some(next) = ahead.pop() {
            let inode = self.image.inode(next)?;
            match (&inode.content, &mut self.carry) {
                (Content::Directory(_), _) => {
                    self.enter(next)?;
                    self.image.read_dir(&inode, 0, &mut |entry| {
                        ahead.push(entry.reference);
                        ControlFlow::Continue(())
                    })?;
                }
                (Content::Regular(_), Some(carry)) => carry.leave(&inode),
                _ => {}
            }
        }
        Ok(())
    }

    /// The root directory.
    pub fn root(&mut self) -> Result<Stored> {
        self.examine(self.image.root())
    }

    /// What is at a place that a directory of the base gave.
    pub fn examine(&mut self, reference: InodeRef) -> Result<Stored> {
        let inode = self.image.inode(reference)?;
        let kind = match &inode.content {
            Content::Directory(_) => NodeKind::Directory(0..0),
            Content::Regular(_) => NodeKind::Regular(inode.size),
            Content::Symlink { target } => NodeKind::Symlink(target.clone()),
            Content::Device { rdev, block: true } => NodeKind::BlockDevice(*rdev),
            Content::Device { rdev, block: false } => NodeKind::CharDevice(*rdev),
            Content::Ipc { socket: true } => NodeKind::Socket,
            Content::Ipc { socket: false } => NodeKind::Fifo,
        };
        let status = Status { mode: inode.mode as u16, uid: inode.uid, gid: inode.gid, mtime: inode.mtime };
        let names = inode.links;
        Ok(Stored { reference, status, kind, names, xattrs: self.xattrs_of(&inode)? })
    }

    fn xattrs_of(&mut self, inode: &Inode) -> Result<Xattrs> {
        let Some(number) = inode.xattr else { return Ok(Xattrs::default()) };
        if let Some(known) = self.xattrs.get(&number) {
            return Ok(known.clone());
        }
        let mut set = XattrSet::new();
        for (name, value) in self.image.xattrs(inode)? {
            if is_kept(&name) && !is_mark(&name) {
                set.push((name.into(), value.into()));
            }
        }
        set.sort();
        set.dedup_by(|next, before| next.0 == before.0);
        let set = (!set.is_empty()).then(|| Arc::new(set));
        let xattrs = Xattrs { set, access_list: false };
        self.xattrs.insert(number, xattrs.clone());
        Ok(xattrs)
    }

    /// The walk goes into this directory.
    ///
    /// # Errors
    /// It has been there before.
    pub fn enter(&mut self, reference: InodeRef) -> Result<InodeRef> {
        match self.entered.insert(reference.0) {
            true => Ok(reference),
            false => {
                Err(Error::image(format!("directory inode {:#x} of the base has a second name", reference.0)))
            }
        }
    }

    /// Calls `visit` with each name of a directory and its inode.
    pub fn list(&self, reference: InodeRef, visit: &mut dyn FnMut(CString, InodeRef)) -> Result<(), Halt> {
        let dir = self.image.inode(reference)?;
        if dir.kind() != FileKind::Directory {
            return Err(Error::image(format!("inode {:#x} is no directory", reference.0)).into());
        }
        self.image.read_dir(&dir, 0, &mut |entry| {
            // The reader lets no name with a zero byte through.
            if let Ok(name) = CString::new(entry.name) {
                visit(name, entry.reference);
            }
            ControlFlow::Continue(())
        })?;
        Ok(())
    }
}
