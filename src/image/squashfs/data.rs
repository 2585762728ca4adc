//! File contents: data blocks, holes, and tail ends in fragment blocks.
//!
//! ```text
//! file of 3.4 blocks:   [ block 0 | block 1 | hole | tail end ]
//! inode: start ─────────► ▓▓▓▓▓▓▓   ▓▓▓▓      -    └► fragment number, offset in the decoded fragment
//!        sizes u32          23456     11234     0        bit 24: stored uncompressed, 0: a hole
//! ```
//!
//! Where a block lies on disk is the sum of the sizes before it. The list of sizes is never held in
//! memory: it is read from the (cached) metadata blocks, from the nearest mark on. Marks are kept every 64
//! blocks, or further apart in giant files, so that there are at most 4096 and an inode's memory is
//! bounded whatever size it claims.
//!
//! Decoded blocks are cached by place, shared as [`Bytes`], and their memory is used again for the next
//! block when the last user is gone.

use super::codec;
use super::inode::{Content, Inode};
use super::meta::Table;
use super::{Squashfs, Superblock};
use crate::error::{Error, Kind, Result};
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

/// The bit of a block size that says "stored uncompressed".
pub(super) const UNCOMPRESSED: u32 = 1 << 24;
/// At most this many marks are kept for a file.
const MARKS: u64 = 4096;

/// Where a regular file's data is.
#[derive(Debug)]
pub struct FileData {
    pub(super) blocks: BlockList,
    pub(super) fragment: Option<Fragment>,
}

impl FileData {
    /// The number of the fragment block that holds the file's tail end, if one does.
    pub fn fragment(&self) -> Option<u32> {
        self.fragment.map(|fragment| fragment.index)
    }
}

/// A tail end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fragment {
    pub index: u32,
    pub offset: u32,
}

/// The list of a file's block sizes in the inode table.
#[derive(Debug)]
pub(super) struct BlockList {
    /// Number of whole blocks, and the short last one if the tail is not a fragment.
    pub count: u64,
    start: Mark,
    /// Blocks from one mark to the next.
    stride: u64,
    /// The marks found so far: number `i` is of block `(i + 1) * stride`.
    marks: Mutex<Vec<Mark>>,
}

/// Where the list goes on, and where the block that comes next lies on disk.
#[derive(Debug, Clone, Copy)]
struct Mark {
    list: (u64, usize),
    data: u64,
}

impl BlockList {
    pub fn new(list: (u64, usize), count: u64, data: u64) -> Self {
        let stride = (count / MARKS + 1).max(64);
        Self { count, start: Mark { list, data }, stride, marks: Mutex::new(Vec::new()) }
    }

    /// Where the first block lies.
    pub fn data(&self) -> u64 {
        self.start.data
    }

    /// Where the list begins.
    pub fn place(&self) -> (u64, usize) {
        self.start.list
    }

    pub fn cost(&self) -> usize {
        (self.count / self.stride) as usize * size_of::<Mark>()
    }

    fn mark_before(&self, index: u64) -> (u64, Mark) {
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let known = (index / self.stride).min(marks.len() as u64);
        match known.checked_sub(1).and_then(|last| marks.get(last as usize)) {
            Some(mark) => (known * self.stride, *mark),
            None => (0, self.start),
        }
    }

    fn add_mark(&self, index: u64, mark: Mark) {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have walked the same way.
        if index / self.stride == marks.len() as u64 + 1 {
            marks.push(mark);
        }
    }
}

/// A part of a file that is one block of the image, decoded.
#[derive(Debug, Clone)]
pub enum Block {
    /// Bytes in the cache's own memory.
    Data(Bytes),
    /// So many zero bytes that are not stored.
    Hole(usize),
}

impl Block {
    /// How many bytes of the file it is.
    pub fn len(&self) -> usize {
        match self {
            Self::Data(bytes) => bytes.len(),
            Self::Hole(length) => *length,
        }
    }

    /// Whether it is past the end of the file.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A block as it is best read.
#[derive(Debug)]
pub enum Part {
    /// It is stored as it is: where it begins in the image.
    Stored(u64),
    /// Decoded, or a hole.
    Block(Block),
}

/// Decoded bytes, shared with the cache: cloning and slicing copy nothing.
#[derive(Clone)]
pub struct Bytes {
    buffer: Arc<Buffer>,
    start: usize,
    end: usize,
}

impl Bytes {
    /// All of a decoded block.
    pub(super) fn all(buffer: Arc<Buffer>) -> Self {
        let end = buffer.bytes.len();
        Self { buffer, start: 0, end }
    }

    /// The part from `start` to before `end`, cut at the end of these bytes.
    #[must_use]
    pub fn slice(&self, start: usize, end: usize) -> Self {
        let end = self.start.saturating_add(end).min(self.end);
        Self { buffer: Arc::clone(&self.buffer), start: self.start.saturating_add(start).min(end), end }
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.buffer.bytes.get(self.start..self.end).unwrap_or_default()
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Bytes({})", self.len())
    }
}

/// The memory of one decoded block; goes back to the pool when nobody has it any more.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    pool: Arc<Pool>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.bytes));
    }
}

/// Memory for whole blocks, used again: getting 128 KiB fresh from the kernel costs a page fault each 4 KiB.
pub(super) struct Pool {
    block_size: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

/// How many buffers wait in the pool at most, and how many bytes.
const POOL_BUFFERS: usize = 16;
const POOL_BYTES: usize = 2 << 20;

impl Pool {
    pub fn new(block_size: usize) -> Self {
        Self { block_size, free: Mutex::new(Vec::new()) }
    }

    /// A vector with room for `length` bytes, whatever it contains.
    fn take(&self, length: usize) -> Vec<u8> {
        // Small pieces get what they need, else a thousand tail blocks would hold a thousand block sizes.
        if length <= self.block_size / 2 {
            return Vec::with_capacity(length);
        }
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| Vec::with_capacity(self.block_size))
    }

    fn give_back(&self, bytes: Vec<u8>) {
        if bytes.capacity() == self.block_size {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            if free.len() < POOL_BUFFERS.min(POOL_BYTES / self.block_size) {
                free.push(bytes);
            }
        }
    }
}

/// Where a block of a file comes from.
enum Origin {
    Hole,
    Stored { position: u64, word: u32, room: usize },
}

impl Squashfs {
    /// Block `index` of a regular file: whole blocks from 0 on, then the short last one. Past the end it is
    /// an empty hole. Decoded at most once while it stays in the cache; a second thread waits for the first.
    pub fn block(&self, file: &Inode, index: u64) -> Result<Block> {
        let length = self.block_length(file, index)?;
        if length == 0 {
            return Ok(Block::Hole(0));
        }
        let origin = self.origin(file, index, length)?;
        self.decode(file, (index, length), origin)
    }

    /// The same, but for a block that is stored as it is, and not in a fragment: that is left where it lies
    /// ([`Squashfs::read_stored`]), since in the cache it would only take the place of one that was decoded.
    pub fn part(&self, file: &Inode, index: u64) -> Result<Part> {
        let length = self.block_length(file, index)?;
        if length == 0 {
            return Ok(Part::Block(Block::Hole(0)));
        }
        let origin = self.origin(file, index, length)?;
        match origin.0 {
            // Anything else about it that is wrong is found where blocks are decoded.
            Origin::Stored { position, word, .. }
                if word == length as u32 | UNCOMPRESSED && index < self.blocks_of(file)?.blocks.count =>
            {
                Ok(Part::Stored(position))
            }
            _ => self.decode(file, (index, length), origin).map(Part::Block),
        }
    }

    /// A block by where it comes from, out of the cache or into it.
    fn decode(
        &self,
        file: &Inode,
        (index, length): (u64, usize),
        (origin, start): (Origin, usize),
    ) -> Result<Block> {
        let Origin::Stored { position, word, room } = origin else { return Ok(Block::Hole(length)) };
        let buffer = match self.data.get(&(position, word)) {
            Some(buffer) => buffer,
            None => self.data.get_or_load((position, word), || self.load_data(position, word, room))?,
        };
        let available = buffer.bytes.len();
        let fits = match index < self.blocks_of(file)?.blocks.count {
            true => available == length,
            false => start <= available && available - start >= length,
        };
        if !fits {
            return Err(Error::image(format!(
                "inode {:#x}: block {index} at {position:#x} decodes to {available} bytes, {length} from {start} needed",
                file.reference.0
            )));
        }
        Ok(Block::Data(Bytes { buffer, start, end: start + length }))
    }

    /// Reads from `offset` of a regular file into `buf`; fewer bytes than asked for only at its end.
    pub fn read(&self, file: &Inode, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let block_size = u64::from(self.superblock.block_size);
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let Some(at) = offset.checked_add(done as u64).filter(|&at| at < file.size) else { break };
            let block = self.block(file, at / block_size)?;
            let skip = (at % block_size) as usize;
            let length = block.len().saturating_sub(skip).min(rest.len());
            if length == 0 {
                break;
            }
            match &block {
                Block::Hole(_) => rest[..length].fill(0),
                Block::Data(bytes) => rest[..length].copy_from_slice(&bytes[skip..skip + length]),
            }
            done += length;
        }
        Ok(done)
    }

    /// Decodes block `index` of a file into the cache, for a reader that is expected to want it. Does
    /// nothing when it is there, or another thread is at it, or the file ends before.
    pub fn prefetch_block(&self, file: &Inode, index: u64) -> Result<()> {
        let length = self.block_length(file, index)?;
        if length == 0 {
            return Ok(());
        }
        match self.origin(file, index, length)?.0 {
            Origin::Hole => Ok(()),
            // There is nothing to decode.
            Origin::Stored { word, .. } if word & UNCOMPRESSED != 0 => Ok(()),
            Origin::Stored { position, word, room } => {
                self.data.load_ahead((position, word), || self.load_data(position, word, room))
            }
        }
    }

    /// Decodes fragment block `index` into the cache, as [`Squashfs::prefetch_block`] does. The fragment
    /// after the one that a file's tail was in is what `tar` wants soon.
    pub fn prefetch_fragment(&self, index: u32) -> Result<()> {
        if index >= self.superblock.fragments {
            return Ok(());
        }
        let (position, word) = self.fragment_entry(index)?;
        let room = self.superblock.block_size as usize;
        self.data.load_ahead((position, word), || self.load_data(position, word, room))
    }

    /// Fills `buf` from the image as it is.
    pub fn read_stored(&self, position: u64, buf: &mut [u8]) -> Result<()> {
        let failed = |e| Error::new(Kind::Image, format!("cannot read data at {position:#x}")).because(e);
        self.source.read_exact_at(buf, position).map_err(failed)
    }

    /// Whether block `index` of a file can be read at once: it is decoded, or stored as it is and in the page cache
    /// (holes always can).
    pub fn is_cached(&self, file: &Inode, index: u64) -> bool {
        let origin = self.block_length(file, index).and_then(|length| self.origin(file, index, length));
        match origin {
            Ok((Origin::Stored { position, word, .. }, _)) if word & UNCOMPRESSED != 0 => {
                self.source.is_at_hand(position, u64::from(word & (UNCOMPRESSED - 1)))
            }
            Ok((Origin::Stored { position, word, .. }, _)) => self.data.has(&(position, word)),
            Ok((Origin::Hole, _)) => true,
            Err(_) => false,
        }
    }

    /// Whether fragment block `index` is decoded or being decoded.
    pub fn is_fragment_cached(&self, index: u32) -> bool {
        index < self.superblock.fragments
            && self.fragment_entry(index).is_ok_and(|entry| self.data.has(&entry))
    }

    pub(super) fn blocks_of<'a>(&self, file: &'a Inode) -> Result<&'a FileData> {
        match &file.content {
            Content::Regular(data) => Ok(data),
            _ => Err(Error::image(format!("inode {:#x} is not a regular file", file.reference.0))),
        }
    }

    /// How many bytes of the file block `index` is; 0 past the end.
    fn block_length(&self, file: &Inode, index: u64) -> Result<usize> {
        self.blocks_of(file)?;
        let block_size = u64::from(self.superblock.block_size);
        let rest = index.checked_mul(block_size).and_then(|start| file.size.checked_sub(start));
        Ok(rest.unwrap_or(0).min(block_size) as usize)
    }

    /// Where block `index`, which exists, is stored, and where in the decoded block it begins.
    fn origin(&self, file: &Inode, index: u64, length: usize) -> Result<(Origin, usize)> {
        let data = self.blocks_of(file)?;
        let named = |error: Error| {
            Error::new(error.kind, format!("inode {:#x}: block {index}", file.reference.0)).because(error)
        };
        if index < data.blocks.count {
            let (position, word) = self.locate(&data.blocks, index).map_err(named)?;
            let origin =
                if word == 0 { Origin::Hole } else { Origin::Stored { position, word, room: length } };
            return Ok((origin, 0));
        }
        let Some(fragment) = data.fragment else { return Ok((Origin::Hole, 0)) };
        let (position, word) = self.fragment_entry(fragment.index).map_err(named)?;
        let room = self.superblock.block_size as usize;
        Ok((Origin::Stored { position, word, room }, fragment.offset as usize))
    }

    /// Position and size word of block `index` of a list.
    fn locate(&self, list: &BlockList, index: u64) -> Result<(u64, u32)> {
        let (mut at, mark) = list.mark_before(index);
        let mut position = mark.data;
        let end = self.superblock.directory_table;
        let mut cursor = self.metadata.cursor(mark.list.0, mark.list.1, end, "block list")?;
        loop {
            let word = cursor.u32()?;
            if at == index {
                return Ok((position, word));
            }
            let size = u64::from(word & (UNCOMPRESSED - 1));
            position = position
                .checked_add(size)
                .ok_or_else(|| Error::image(format!("block list: block {at} ends beyond all files")))?;
            at += 1;
            if at.is_multiple_of(list.stride) {
                list.add_mark(at, Mark { list: cursor.place_here(), data: position });
            }
        }
    }

    /// Position and size word of a fragment block, from the fragment table: position u64, size u32, unused u32.
    pub(super) fn fragment_entry(&self, index: u32) -> Result<(u64, u32)> {
        let Superblock { fragments, fragment_table, .. } = self.superblock;
        let table = fragment_table.filter(|_| index < fragments).ok_or_else(|| {
            Error::image(format!("fragment {index} does not exist, the image has {fragments}"))
        })?;
        let table = Table { name: "fragment table", index: table, entries: u64::from(fragments) };
        let entry = u128::from_le_bytes(self.metadata.table_entry::<16>(table, u64::from(index))?);
        Ok((entry as u64, (entry >> 64) as u32))
    }

    /// Reads and decodes the block at `position` that should have at most `room` bytes.
    pub(super) fn load_data(&self, position: u64, word: u32, room: usize) -> Result<(Arc<Buffer>, usize)> {
        let wrong = |what: String| Error::image(format!("data block at {position:#x}: {what}"));
        let failed =
            |e| Error::new(Kind::Image, format!("cannot read data block at {position:#x}")).because(e);
        let stored = (word & (UNCOMPRESSED - 1)) as usize;
        if word & !(2 * UNCOMPRESSED - 1) != 0 || stored == 0 || stored > self.superblock.block_size as usize
        {
            return Err(wrong(format!("impossible size {word:#x}")));
        }
        if position.checked_add(stored as u64).is_none_or(|end| end > self.superblock.bytes_used) {
            return Err(wrong(format!("its {stored} bytes lie outside the image")));
        }
        let mut bytes = self.pool.take(room);
        if word & UNCOMPRESSED != 0 {
            if stored > room {
                return Err(wrong(format!("{stored} bytes are stored where at most {room} may be")));
            }
            bytes.resize(stored, 0);
            self.source.read_exact_at(&mut bytes, position).map_err(failed)?;
        } else {
            let compressor = self.superblock.compressor;
            codec::with_input(stored, |input| {
                self.source.read_exact_at(input, position).map_err(failed)?;
                codec::decode(compressor, input, &mut bytes, room).map_err(|e| {
                    wrong(format!("cannot decode its {stored} bytes of {}", compressor.name())).because(e)
                })
            })?;
        }
        let cost = bytes.capacity() + 128;
        Ok((Arc::new(Buffer { bytes, pool: Arc::clone(&self.pool) }), cost))
    }
}
