//! The inode and directory tables.
//!
//! A directory's entries hold references to inodes, so an inode is written before the directory that
//! names it: the tables are written depth first, each directory after all that it holds. The entries of a
//! directory come in the order of their names, so that `ls -l` reads the inode table in one run.
//!
//! ```text
//! directory:  header │ entry │ entry ... │ header │ entry ...
//! header:     u32 entries - 1 │ u32 start of the inodes' metadata block │ u32 inode number
//! entry:      u16 offset in that block │ i16 inode number - header's │ u16 type │ u16 name length - 1 │ name
//! ```
//!
//! A directory longer than a metadata block gets an index (and so an extended inode): for each stretch of at
//! most 8192 bytes its place and first name, so that a lookup reads one or two metadata blocks of it.

use super::compress::Compressor;
use super::data::Written;
use super::format::{
    BLOCK_DEVICE, CHAR_DEVICE, DIRECTORY, EXTENDED, FIFO, HEADER_ENTRIES, METADATA_BYTES, NONE, REGULAR,
    SOCKET, SYMLINK,
};
use super::sequence::{Contents, Place};
use super::tables::{Ids, Metadata, XattrSets};
use super::tree::{Node, NodeKind, Tree};
use crate::error::{Error, Kind, Result};
use std::ops::Range;

/// Not written yet.
const UNKNOWN: u64 = u64::MAX;

/// Writes both tables.
pub struct Inodes<'a> {
    tree: &'a Tree,
    contents: &'a Contents,
    written: &'a Written,
    compressor: &'a mut Compressor,
    block_bytes: u64,
    /// The inode table.
    pub inodes: Metadata,
    /// The directory table.
    pub directories: Metadata,
    /// Owners and groups.
    pub ids: Ids,
    /// Sets of xattrs.
    pub xattrs: XattrSets,
    /// The inode number of each node that stands for itself.
    numbers: Vec<u32>,
    /// Where the inode of each node is.
    references: Vec<u64>,
    /// The export table: references by inode number - 1.
    pub export: Vec<u64>,
}

/// One line of a directory, as it is needed for the header that covers it.
struct Entry<'a> {
    name: &'a [u8],
    kind: u16,
    number: u32,
    reference: u64,
}

/// A directory index's entry.
struct Index<'a> {
    place: u32,
    block: u32,
    name: &'a [u8],
}

/// What a directory's inode says of its listing.
struct Listing<'a> {
    start: (u64, u16),
    bytes: u64,
    index: Vec<Index<'a>>,
    subdirectories: u32,
}

impl<'a> Inodes<'a> {
    /// Empty tables for a tree whose contents are written.
    pub fn new(
        tree: &'a Tree,
        contents: &'a Contents,
        written: &'a Written,
        compressor: &'a mut Compressor,
        block_bytes: u32,
    ) -> Self {
        let mut numbers = Vec::with_capacity(tree.nodes.len());
        let mut count = 0;
        for (index, node) in tree.nodes.iter().enumerate() {
            count += u32::from(node.link as usize == index);
            numbers.push(count);
        }
        Self {
            tree,
            contents,
            written,
            compressor,
            block_bytes: u64::from(block_bytes),
            inodes: Metadata::new(),
            directories: Metadata::new(),
            ids: Ids::default(),
            xattrs: XattrSets::new(),
            numbers,
            references: vec![UNKNOWN; tree.nodes.len()],
            export: vec![UNKNOWN; count as usize],
        }
    }

    /// Writes everything; returns the root's reference.
    ///
    /// # Errors
    /// More owners or a larger directory than the format can state, or what `check` says.
    pub fn write(&mut self, mut check: impl FnMut() -> Result<()>) -> Result<u64> {
        // Directories on the way down, with the entries still to be visited.
        let mut stack = vec![(0_u32, self.entries(0))];
        while let Some((directory, entries)) = stack.last_mut() {
            let directory = *directory;
            match entries.next() {
                Some(index) if matches!(self.node(index)?.kind, NodeKind::Directory(_)) => {
                    check()?;
                    stack.push((index, self.entries(index)));
                }
                Some(index) => self.write_leaf(index)?,
                None => {
                    self.write_directory(directory)?;
                    stack.pop();
                }
            }
        }
        self.inodes.flush(self.compressor)?;
        self.directories.flush(self.compressor)?;
        Ok(self.reference(0))
    }

    fn node(&self, index: u32) -> Result<&'a Node> {
        let tree: &'a Tree = self.tree;
        tree.nodes.get(index as usize).ok_or_else(|| Error::new(Kind::Internal, "the tree lost a node"))
    }

    fn entries(&self, index: u32) -> Range<u32> {
        match self.tree.nodes.get(index as usize).map(|node| &node.kind) {
            Some(NodeKind::Directory(entries)) => entries.clone(),
            _ => 0..0,
        }
    }

    fn reference(&self, index: u32) -> u64 {
        self.references.get(index as usize).copied().unwrap_or(UNKNOWN)
    }

    fn number(&self, index: u32) -> u32 {
        self.numbers.get(index as usize).copied().unwrap_or(0)
    }

    /// Writes an inode's bytes and remembers where.
    fn put(&mut self, index: u32, bytes: &[u8]) -> Result<()> {
        let reference = self.inodes.reference();
        self.inodes.write(bytes, self.compressor)?;
        if let Some(slot) = self.references.get_mut(index as usize) {
            *slot = reference;
        }
        let number = self.number(index);
        if let Some(slot) = self.export.get_mut((number as usize).wrapping_sub(1)) {
            *slot = reference;
        }
        Ok(())
    }

    /// The 16 bytes that all inodes begin with.
    fn head(&mut self, index: u32, node: &Node, kind: u16) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend(kind.to_le_bytes());
        bytes.extend(node.status.mode.to_le_bytes());
        bytes.extend(self.ids.index(node.status.uid)?.to_le_bytes());
        bytes.extend(self.ids.index(node.status.gid)?.to_le_bytes());
        bytes.extend(node.status.mtime.to_le_bytes());
        bytes.extend(self.number(index).to_le_bytes());
        Ok(bytes)
    }

    /// Writes the inode of anything but a directory, once for all its names.
    fn write_leaf(&mut self, name: u32) -> Result<()> {
        // The first name of a file may come later in this order than another; the inode is written for
        // whichever comes first.
        let index = self.node(name)?.link;
        let node = self.node(index)?;
        if self.reference(index) != UNKNOWN {
            return Ok(());
        }
        let set = self.contents.xattrs.get(&index).or(node.xattrs.as_ref());
        let xattr = self.xattrs.index(set, self.compressor)?;
        let extended = if xattr == NONE { 0 } else { EXTENDED };
        let kind = basic_type(&node.kind);
        let bytes = match &node.kind {
            NodeKind::Directory(_) => return Ok(()),
            NodeKind::Regular(size) => {
                let place = self.contents.places.get(index as usize);
                self.regular(index, node, *size, place.copied().unwrap_or(Place::EMPTY), xattr)?
            }
            NodeKind::Symlink(target) => {
                let mut bytes = self.head(index, node, kind + extended)?;
                bytes.extend(node.names.to_le_bytes());
                bytes.extend((target.len() as u32).to_le_bytes());
                bytes.extend_from_slice(target);
                bytes
            }
            NodeKind::BlockDevice(device) | NodeKind::CharDevice(device) => {
                let mut bytes = self.head(index, node, kind + extended)?;
                bytes.extend(node.names.to_le_bytes());
                bytes.extend(device.to_le_bytes());
                bytes
            }
            NodeKind::Fifo | NodeKind::Socket => {
                let mut bytes = self.head(index, node, kind + extended)?;
                bytes.extend(node.names.to_le_bytes());
                bytes
            }
        };
        let mut bytes = bytes;
        if extended != 0 && !matches!(node.kind, NodeKind::Regular(_)) {
            bytes.extend(xattr.to_le_bytes());
        }
        self.put(index, &bytes)
    }

    fn regular(&mut self, index: u32, node: &Node, size: u64, place: Place, xattr: u32) -> Result<Vec<u8>> {
        let written: &'a Written = self.written;
        let extent = written.extents.get(place.extent as usize);
        let (start, sizes) = extent.map_or((0, &[][..]), |extent| {
            let sizes = written.sizes.get(extent.first..extent.first + extent.blocks);
            (extent.start, sizes.unwrap_or_default())
        });
        let mut sparse = 0;
        for (block, &stored) in sizes.iter().enumerate() {
            if stored == 0 {
                sparse += self.block_bytes.min(size - block as u64 * self.block_bytes);
            }
        }
        // A file of holes alone begins nowhere.
        let start = if sizes.iter().all(|&stored| stored == 0) { 0 } else { start };
        let small = u32::try_from(start).ok().zip(u32::try_from(size).ok());
        let mut bytes;
        match small {
            Some((start, size)) if node.names == 1 && xattr == NONE && sparse == 0 => {
                bytes = self.head(index, node, REGULAR)?;
                for field in [start, place.fragment, place.fragment_offset, size] {
                    bytes.extend(field.to_le_bytes());
                }
            }
            _ => {
                bytes = self.head(index, node, REGULAR + EXTENDED)?;
                for field in [start, size, sparse] {
                    bytes.extend(field.to_le_bytes());
                }
                for field in [node.names, place.fragment, place.fragment_offset, xattr] {
                    bytes.extend(field.to_le_bytes());
                }
            }
        }
        bytes.extend(sizes.iter().flat_map(|size| size.to_le_bytes()));
        Ok(bytes)
    }

    fn write_directory(&mut self, index: u32) -> Result<()> {
        let node = self.node(index)?;
        let listing = self.write_listing(index)?;
        let xattr = self.xattrs.index(node.xattrs.as_ref(), self.compressor)?;
        let links = 2 + listing.subdirectories;
        // Readers count "." and ".." as three bytes.
        let size = u32::try_from(listing.bytes + 3).map_err(|_| {
            Error::new(Kind::Io, format!("cannot pack directory {:?}: too many entries", self.shown(node)))
        })?;
        let (start, offset) = listing.start;
        let start = u32::try_from(start)
            .map_err(|_| Error::new(Kind::Io, "cannot pack more than 4 GiB of directories"))?;
        let parent = self.number(node.parent);
        let parent = if index == 0 { self.export.len() as u32 + 1 } else { parent };
        let mut bytes;
        match u16::try_from(size) {
            Ok(size) if listing.index.is_empty() && xattr == NONE => {
                bytes = self.head(index, node, DIRECTORY)?;
                bytes.extend(start.to_le_bytes());
                bytes.extend(links.to_le_bytes());
                bytes.extend(size.to_le_bytes());
                bytes.extend(offset.to_le_bytes());
                bytes.extend(parent.to_le_bytes());
            }
            _ => {
                bytes = self.head(index, node, DIRECTORY + EXTENDED)?;
                for field in [links, size, start, parent] {
                    bytes.extend(field.to_le_bytes());
                }
                bytes.extend((listing.index.len() as u16).to_le_bytes());
                bytes.extend(offset.to_le_bytes());
                bytes.extend(xattr.to_le_bytes());
                for Index { place, block, name } in &listing.index {
                    for field in [*place, *block, name.len() as u32 - 1] {
                        bytes.extend(field.to_le_bytes());
                    }
                    bytes.extend_from_slice(name);
                }
            }
        }
        self.put(index, &bytes)
    }

    fn shown(&self, node: &Node) -> String {
        String::from_utf8_lossy(self.tree.name(node)).into_owned()
    }

    fn entry(&self, index: u32) -> Result<Entry<'a>> {
        let node = self.node(index)?;
        let tree: &'a Tree = self.tree;
        Ok(Entry {
            name: tree.name(node),
            kind: basic_type(&node.kind),
            number: self.number(node.link),
            reference: self.reference(node.link),
        })
    }

    fn write_listing(&mut self, directory: u32) -> Result<Listing<'a>> {
        let entries = self.entries(directory).map(|index| self.entry(index)).collect::<Result<Vec<_>>>()?;
        let subdirectories = entries.iter().filter(|entry| entry.kind == DIRECTORY).count() as u32;
        let start = self.directories.position();
        let mut listing = Listing { start, bytes: 0, index: Vec::new(), subdirectories };
        // Where the stretch began that the next index entry will end.
        let mut stretch = 0;
        let mut rest = entries.as_slice();
        while let Some(first) = rest.first() {
            let begin = listing.bytes;
            if begin > 0 && begin + 12 + entry_bytes(first) - stretch > METADATA_BYTES as u64 {
                stretch = begin;
                // The inode counts its index in 16 bits; what comes after is found by reading on.
                if listing.index.len() < usize::from(u16::MAX) {
                    let block = self.directories.position().0 as u32;
                    listing.index.push(Index { place: begin as u32, block, name: first.name });
                }
            }
            let (count, bytes) = group(rest, METADATA_BYTES as u64 - (begin - stretch));
            let (group, after) = rest.split_at(count);
            let mut out = Vec::with_capacity(bytes as usize);
            out.extend((count as u32 - 1).to_le_bytes());
            out.extend(((first.reference >> 16) as u32).to_le_bytes());
            out.extend(first.number.to_le_bytes());
            for entry in group {
                out.extend((entry.reference as u16).to_le_bytes());
                out.extend((entry.number.wrapping_sub(first.number) as u16).to_le_bytes());
                out.extend(entry.kind.to_le_bytes());
                out.extend((entry.name.len() as u16 - 1).to_le_bytes());
                out.extend_from_slice(entry.name);
            }
            self.directories.write(&out, self.compressor)?;
            listing.bytes += bytes;
            rest = after;
        }
        Ok(listing)
    }
}

fn entry_bytes(entry: &Entry<'_>) -> u64 {
    8 + entry.name.len() as u64
}

/// How many of these entries one header can cover, and how long the header and they are.
fn group(entries: &[Entry<'_>], room: u64) -> (usize, u64) {
    let mut count = 0;
    let mut bytes = 12;
    let Some(first) = entries.first() else { return (0, 0) };
    for entry in entries.iter().take(HEADER_ENTRIES) {
        let apart = i64::from(entry.number) - i64::from(first.number);
        let fits = entry.reference >> 16 == first.reference >> 16
            && i16::try_from(apart).is_ok()
            && bytes + entry_bytes(entry) <= room;
        if count > 0 && !fits {
            break;
        }
        count += 1;
        bytes += entry_bytes(entry);
    }
    (count, bytes)
}

fn basic_type(kind: &NodeKind) -> u16 {
    match kind {
        NodeKind::Directory(_) => DIRECTORY,
        NodeKind::Regular(_) => REGULAR,
        NodeKind::Symlink(_) => SYMLINK,
        NodeKind::BlockDevice(_) => BLOCK_DEVICE,
        NodeKind::CharDevice(_) => CHAR_DEVICE,
        NodeKind::Fifo => FIFO,
        NodeKind::Socket => SOCKET,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(numbers: &[(u32, u64)]) -> Vec<Entry<'static>> {
        let make = |&(number, block): &(u32, u64)| Entry {
            name: b"name",
            kind: REGULAR,
            number,
            reference: block << 16,
        };
        numbers.iter().map(make).collect()
    }

    #[test]
    fn a_header_covers_at_most_256_entries_of_one_block_and_near_numbers() {
        let many: Vec<_> = (0..300).map(|number| (number, 0)).collect();
        assert_eq!(group(&entries(&many), 8192), (256, 12 + 256 * 12));
        assert_eq!(group(&entries(&[(1, 0), (2, 0), (3, 50)]), 8192), (2, 36));
        assert_eq!(group(&entries(&[(1, 0), (32_768, 0), (32_769, 0)]), 8192).0, 2);
        assert_eq!(group(&entries(&[(40_000, 0), (7232, 0), (7231, 0)]), 8192).0, 2);
        assert_eq!(group(&entries(&[(1, 0), (2, 0), (3, 0)]), 36).0, 2);
        // One entry fits always, or it would never be written.
        assert_eq!(group(&entries(&[(1, 0)]), 0).0, 1);
    }
}
