//! Metadata blocks: the 8 KiB pieces that inodes, directories and tables are stored in.
//!
//! ```text
//! | u16: bytes that follow, bit 15 = stored uncompressed | those bytes | u16 | ...
//! ```
//!
//! Decoded, each is exactly 8192 bytes, but the last of a table. A structure is addressed by the position
//! of a block (relative to its table) and an offset in the decoded block, and may run on into the next
//! blocks; [`Cursor`] reads it. Decoded blocks are cached by position.
//!
//! A lookup table (ids, fragments, export, xattrs) is an array in metadata blocks whose positions stand,
//! uncompressed, in an index; [`Metadata::table_entry`] reads one entry through it without the rest.

use super::cache::Cache;
use super::codec::{self, Compressor};
use crate::error::{Error, Kind, Result};
use crate::image::source::Source;
use std::sync::Arc;

/// Bytes of a decoded metadata block.
pub(super) const METADATA_BYTES: usize = 8192;
/// Entries of a lookup table's index that are read and kept together.
const INDEX_PIECE: u64 = 512;
/// Marks cache keys of index pieces; no position in a file has this bit.
const INDEX_KEY: u64 = 1 << 63;

/// A decoded metadata block.
pub(super) struct MetadataBlock {
    pub bytes: Vec<u8>,
    /// Position of the block that follows this one on disk.
    pub next: u64,
}

/// The metadata of one image: reads, decodes and caches its blocks.
pub(super) struct Metadata {
    source: Source,
    compressor: Compressor,
    bytes_used: u64,
    cache: Cache<u64, Arc<MetadataBlock>>,
}

/// Where a table of the image is.
#[derive(Clone, Copy)]
pub(super) struct Table {
    pub name: &'static str,
    /// Position of the index.
    pub index: u64,
    /// How many entries the table has.
    pub entries: u64,
}

impl Metadata {
    pub fn new(source: Source, compressor: Compressor, bytes_used: u64, cache_bytes: usize) -> Self {
        // Room for a few blocks in every shard, however little was asked for.
        let capacity = cache_bytes.max(16 * METADATA_BYTES);
        let shards = (capacity / (64 * METADATA_BYTES)).clamp(1, 16);
        Self { source, compressor, bytes_used, cache: Cache::new(capacity, shards) }
    }

    /// The block at `position` of the image.
    pub fn block(&self, position: u64) -> Result<Arc<MetadataBlock>> {
        // The hit first: it must not pay for what the miss needs.
        match self.cache.get(&position) {
            Some(block) => Ok(block),
            None => self.cache.get_or_load(position, || self.load(position)),
        }
    }

    fn load(&self, position: u64) -> Result<(Arc<MetadataBlock>, usize)> {
        let wrong = |what: &str| Error::image(format!("metadata block at {position:#x}: {what}"));
        let rest = self.bytes_used.checked_sub(position).ok_or_else(|| wrong("outside the image"))?;
        // One read for header and contents costs less than two, though it mostly fetches too much.
        let length = rest.min(2 + METADATA_BYTES as u64) as usize;
        let mut bytes = Vec::new();
        let stored = codec::with_input(length, |input| {
            self.source.read_exact_at(input, position).map_err(|e| {
                Error::new(Kind::Image, format!("cannot read metadata at {position:#x}")).because(e)
            })?;
            let (header, body) = input.split_first_chunk().ok_or_else(|| wrong("outside the image"))?;
            let header = u16::from_le_bytes(*header);
            let stored = usize::from(header & 0x7fff);
            let body = body.get(..stored).ok_or_else(|| wrong("longer than a metadata block may be"))?;
            if header & 0x8000 != 0 {
                bytes.extend_from_slice(body);
            } else {
                codec::decode(self.compressor, body, &mut bytes, METADATA_BYTES).map_err(|e| {
                    wrong(&format!("cannot decode its {stored} bytes of {}", self.compressor.name()))
                        .because(e)
                })?;
            }
            Ok::<_, Error>(stored)
        })?;
        // So every step along a chain of blocks brings something.
        if bytes.is_empty() {
            return Err(wrong("empty"));
        }
        let next = position + 2 + stored as u64;
        let cost = bytes.capacity() + 96;
        Ok((Arc::new(MetadataBlock { bytes, next }), cost))
    }

    /// A cursor at `offset` of the block at `position`; the structure's blocks all begin before `end`.
    /// `what` names the structure in errors.
    pub fn cursor(&self, position: u64, offset: usize, end: u64, what: &'static str) -> Result<Cursor<'_>> {
        if position >= end {
            return Err(Error::image(format!("{what} at {position:#x} lies outside its table")));
        }
        let block = self.block(position)?;
        if offset > block.bytes.len() {
            return Err(Error::image(format!(
                "{what} at {position:#x}:{offset:#x} lies past its metadata block"
            )));
        }
        Ok(Cursor { metadata: self, block, position, offset, end, what })
    }

    /// Entry `number` of a lookup table, `N` bytes. The caller has compared `number` with the count.
    pub fn table_entry<const N: usize>(&self, table: Table, number: u64) -> Result<[u8; N]> {
        let byte = number * N as u64;
        let block_number = byte / METADATA_BYTES as u64;
        let position = self.index_entry::<N>(table, block_number)?;
        let offset = (byte % METADATA_BYTES as u64) as usize;
        self.cursor(position, offset, self.bytes_used, table.name)?.array()
    }

    /// Block `number` of a lookup table of `N`-byte entries.
    pub fn table_block<const N: usize>(&self, table: Table, number: u64) -> Result<Arc<MetadataBlock>> {
        self.block(self.index_entry::<N>(table, number)?)
    }

    /// The position of block `number` of a table of `N`-byte entries, from the table's index.
    fn index_entry<const N: usize>(&self, table: Table, number: u64) -> Result<u64> {
        let wrong =
            || Error::image(format!("{}: its index at {:#x} runs past the image", table.name, table.index));
        let blocks = (table.entries * N as u64).div_ceil(METADATA_BYTES as u64);
        let first = number - number % INDEX_PIECE;
        let position = table.index.checked_add(first * 8).ok_or_else(wrong)?;
        let length = (blocks.saturating_sub(first)).min(INDEX_PIECE) * 8;
        if position.checked_add(length).is_none_or(|end| end > self.bytes_used) {
            return Err(wrong());
        }
        let piece = self.cache.get_or_load(position | INDEX_KEY, || {
            let mut bytes = vec![0; length as usize];
            self.source.read_exact_at(&mut bytes, position).map_err(|e| wrong().because(e))?;
            let cost = bytes.capacity() + 96;
            Ok::<_, Error>((Arc::new(MetadataBlock { bytes, next: 0 }), cost))
        })?;
        let at = (number - first) as usize * 8;
        let entry = piece.bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or_else(wrong)?;
        let entry = u64::from_le_bytes(*entry);
        if entry >= self.bytes_used {
            return Err(Error::image(format!(
                "{}: block {number} at {entry:#x} lies outside the image",
                table.name
            )));
        }
        Ok(entry)
    }
}

/// Reads a structure that begins somewhere in a metadata block and may run on into the next ones.
pub(super) struct Cursor<'a> {
    metadata: &'a Metadata,
    block: Arc<MetadataBlock>,
    position: u64,
    offset: usize,
    end: u64,
    what: &'static str,
}

impl Cursor<'_> {
    /// Position of the block that the next byte is in, and its offset there.
    pub fn place(&mut self) -> Result<(u64, usize)> {
        self.refill()?;
        Ok((self.position, self.offset))
    }

    /// The place as far as it was read: the offset may be the end of the block.
    pub fn place_here(&self) -> (u64, usize) {
        (self.position, self.offset)
    }

    /// Whether the table ends here.
    pub fn is_at_end(&self) -> bool {
        self.offset >= self.block.bytes.len() && self.block.next >= self.end
    }

    /// Goes on to the next block when this one is used up.
    fn refill(&mut self) -> Result<()> {
        if self.offset < self.block.bytes.len() {
            return Ok(());
        }
        let next = self.block.next;
        if next >= self.end || self.block.bytes.len() != METADATA_BYTES {
            return Err(Error::image(format!("{}: runs past its table at {:#x}", self.what, self.position)));
        }
        self.block = self.metadata.block(next)?;
        self.position = next;
        self.offset = 0;
        Ok(())
    }

    /// The next `N` bytes.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        if let Some(bytes) = self.block.bytes.get(self.offset..).and_then(|rest| rest.first_chunk::<N>()) {
            self.offset += N;
            return Ok(*bytes);
        }
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// The next two bytes as a number.
    pub fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// The next four bytes as a number.
    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next eight bytes as a number.
    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Fills `out` with the next bytes.
    pub fn fill(&mut self, mut out: &mut [u8]) -> Result<()> {
        while !out.is_empty() {
            self.refill()?;
            let rest = self.block.bytes.get(self.offset..).unwrap_or_default();
            let length = rest.len().min(out.len());
            let (now, later) = out.split_at_mut(length);
            now.copy_from_slice(&rest[..length]);
            self.offset += length;
            out = later;
        }
        Ok(())
    }

    /// The next `length` bytes without a copy where they lie in one block, else through `scratch`, which
    /// must be that long.
    #[inline]
    pub fn slice<'s>(&'s mut self, length: usize, scratch: &'s mut [u8]) -> Result<&'s [u8]> {
        let start = self.offset;
        if self.block.bytes.len() - start >= length {
            self.offset += length;
            return Ok(&self.block.bytes[start..start + length]);
        }
        let what = self.what;
        let scratch = scratch
            .get_mut(..length)
            .ok_or_else(|| Error::image(format!("{what}: {length} bytes are too many here")))?;
        self.fill(scratch)?;
        Ok(scratch)
    }

    /// Passes over `length` bytes.
    pub fn skip(&mut self, mut length: usize) -> Result<()> {
        while length > 0 {
            self.refill()?;
            let step = length.min(self.block.bytes.len() - self.offset);
            self.offset += step;
            length -= step;
        }
        Ok(())
    }

    /// The next `length` bytes in a vector of their own. The caller bounds `length`.
    pub fn vec(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
}
