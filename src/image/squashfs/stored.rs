//! Files as they are stored, for who copies them without decoding.
//!
//! What comes from here has been compared with the image's length: it can be read. That it can be decoded is another
//! matter.

use super::Squashfs;
use super::data::{Bytes, UNCOMPRESSED};
use super::inode::{Content, Inode};
use crate::error::{Error, Result};
use crate::image::source::Source;

/// A block as it lies in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredBlock {
    /// Where it begins, from the start of the image.
    pub position: u64,
    /// Its size as the image states it: bytes, and bit 24 if they are not compressed.
    pub word: u32,
}

impl StoredBlock {
    /// How many bytes it takes in the image.
    pub fn bytes(self) -> u64 {
        u64::from(self.word & (UNCOMPRESSED - 1))
    }
}

/// Where the end of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// The fragment block.
    pub fragment: u32,
    /// Where it begins in that, decoded.
    pub offset: u32,
    /// Its length.
    pub bytes: u32,
}

impl Squashfs {
    /// The file that the image is read from, and where in it.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Appends the size words of a regular file's blocks to `words`, at most `room` of them. Gives the position of
    /// the first block, which the others follow, and how many bytes they take together.
    pub fn stored_blocks(&self, file: &Inode, words: &mut Vec<u32>, room: usize) -> Result<(u64, u64)> {
        let list = &self.blocks_of(file)?.blocks;
        let wrong =
            |what: &str| Error::image(format!("inode {:#x}: its block list {what}", file.reference.0));
        if list.count > room as u64 {
            return Err(wrong("overlaps those of others"));
        }
        let (block, offset) = list.place();
        let mut bytes = 0_u64;
        if list.count > 0 {
            let end = self.superblock.directory_table;
            let mut cursor = self.metadata.cursor(block, offset, end, "block list")?;
            for _ in 0..list.count {
                let word = cursor.u32()?;
                self.check_word(word).map_err(|_| wrong(&format!("has the impossible size {word:#x}")))?;
                bytes += u64::from(word & (UNCOMPRESSED - 1));
                words.push(word);
            }
        }
        let start = list.data();
        if bytes > 0 && start.checked_add(bytes).is_none_or(|end| end > self.superblock.bytes_used) {
            return Err(wrong("leads outside the image"));
        }
        Ok((start, bytes))
    }

    /// Where the end of a regular file is, if it is in a fragment.
    ///
    /// # Errors
    /// It does not fit into a fragment.
    pub fn stored_tail(&self, file: &Inode) -> Result<Option<Tail>> {
        let Content::Regular(data) = &file.content else { return Ok(None) };
        let Some(fragment) = data.fragment else { return Ok(None) };
        let block_size = self.superblock.block_size;
        let bytes = (file.size % u64::from(block_size)) as u32;
        if fragment.offset.checked_add(bytes).is_none_or(|end| end > block_size) {
            let what = format!("inode {:#x}: its end leaves its fragment", file.reference.0);
            return Err(Error::image(what));
        }
        Ok(Some(Tail { fragment: fragment.index, offset: fragment.offset, bytes }))
    }

    /// Where a fragment block is stored.
    pub fn stored_fragment(&self, index: u32) -> Result<StoredBlock> {
        let (position, word) = self.fragment_entry(index)?;
        let block = StoredBlock { position, word };
        let inside = position.checked_add(block.bytes()).is_some_and(|end| end <= self.superblock.bytes_used);
        match inside && word != 0 && self.check_word(word).is_ok() {
            true => Ok(block),
            false => Err(Error::image(format!("fragment {index} at {position:#x} lies outside the image"))),
        }
    }

    /// A fragment block, decoded.
    pub fn fragment(&self, index: u32) -> Result<Bytes> {
        let (position, word) = self.fragment_entry(index)?;
        let room = self.superblock.block_size as usize;
        let load = || self.load_data(position, word, room);
        Ok(Bytes::all(self.data.get_or_load((position, word), load)?))
    }

    /// No bits but those of a size, which is a block's at most.
    fn check_word(&self, word: u32) -> Result<(), ()> {
        let fits = word & (UNCOMPRESSED - 1) <= self.superblock.block_size && word != UNCOMPRESSED;
        if fits && word & !(2 * UNCOMPRESSED - 1) == 0 { Ok(()) } else { Err(()) }
    }
}
