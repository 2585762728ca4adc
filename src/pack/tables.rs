//! Metadata blocks and the tables made of them: ids, fragments, export, xattrs.

use super::compress::Compressor;
use super::format::{METADATA_BYTES, METADATA_RAW, NO_TABLE, NONE};
use super::xattr::{PREFIXES, XattrSet};
use crate::error::{Error, Kind, Result};
use std::collections::HashMap;
use std::sync::Arc;

/// A run of metadata blocks being written to memory.
///
/// ```text
/// out:  u16 size │ ≤ 8192 bytes │ u16 size │ ...        pending: < 8192 bytes not yet compressed
///       ^ a reference is (place of this in out) << 16 | offset in the block before compression
/// ```
pub struct Metadata {
    /// Finished blocks.
    pub out: Vec<u8>,
    /// Where each began.
    pub starts: Vec<u64>,
    pending: Vec<u8>,
    scratch: Vec<u8>,
}

impl Metadata {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { out: Vec::new(), starts: Vec::new(), pending: Vec::new(), scratch: vec![0; METADATA_BYTES] }
    }

    /// Block start and offset of what is written next.
    pub fn position(&self) -> (u64, u16) {
        (self.out.len() as u64, self.pending.len() as u16)
    }

    /// [`Metadata::position`] as one number.
    pub fn reference(&self) -> u64 {
        let (start, offset) = self.position();
        start << 16 | u64::from(offset)
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// A compressor that fails.
    pub fn write(&mut self, mut bytes: &[u8], compressor: &mut Compressor) -> Result<()> {
        while !bytes.is_empty() {
            let room = METADATA_BYTES - self.pending.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.pending.extend_from_slice(now);
            if self.pending.len() == METADATA_BYTES {
                self.flush(compressor)?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Ends the block in the works.
    ///
    /// # Errors
    /// A compressor that fails.
    pub fn flush(&mut self, compressor: &mut Compressor) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.starts.push(self.out.len() as u64);
        match compressor.compress(&self.pending, &mut self.scratch)? {
            Some(length) => {
                self.out.extend((length as u16).to_le_bytes());
                self.out.extend_from_slice(self.scratch.get(..length).unwrap_or_default());
            }
            None => {
                self.out.extend((self.pending.len() as u16 | METADATA_RAW).to_le_bytes());
                self.out.extend_from_slice(&self.pending);
            }
        }
        self.pending.clear();
        Ok(())
    }
}

/// Appends a table to `tail`, which begins at `base` in the image: metadata blocks, then their places.
/// Returns the place of these places, which the superblock states.
///
/// # Errors
/// A compressor that fails.
pub fn write_table(
    tail: &mut Vec<u8>,
    base: u64,
    records: &[u8],
    compressor: &mut Compressor,
) -> Result<u64> {
    let mut metadata = Metadata::new();
    metadata.write(records, compressor)?;
    metadata.flush(compressor)?;
    let start = base + tail.len() as u64;
    tail.extend_from_slice(&metadata.out);
    let places = base + tail.len() as u64;
    tail.extend(metadata.starts.iter().flat_map(|block| (start + block).to_le_bytes()));
    Ok(places)
}

/// Owners and groups, each once; inodes state their index.
#[derive(Default)]
pub struct Ids {
    indexes: HashMap<u32, u16>,
    /// In the order of the indexes.
    pub list: Vec<u32>,
}

impl Ids {
    /// The index of an id.
    ///
    /// # Errors
    /// More than 65536 different ids.
    pub fn index(&mut self, id: u32) -> Result<u16> {
        if let Some(&index) = self.indexes.get(&id) {
            return Ok(index);
        }
        // The superblock counts them in 16 bits.
        let index =
            u16::try_from(self.list.len()).ok().filter(|&index| index < u16::MAX).ok_or_else(|| {
                Error::new(Kind::Io, "cannot pack files of more than 65535 different owners and groups")
                    .hint("give all files one owner")
            })?;
        self.list.push(id);
        self.indexes.insert(id, index);
        Ok(index)
    }
}

/// Sets of xattrs, each once; inodes state their index.
///
/// ```text
/// names and values (metadata):  u16 name space │ u16 length │ name without prefix │ u32 length │ value
/// set table (metadata):         u64 reference to the first │ u32 count │ u32 bytes of all
/// header:                       u64 place of names and values │ u32 sets │ u32 0 │ places of the set table
/// ```
pub struct XattrSets {
    indexes: HashMap<Arc<XattrSet>, u32>,
    pairs: Metadata,
    sets: Vec<u8>,
}

impl XattrSets {
    /// No sets.
    pub fn new() -> Self {
        Self { indexes: HashMap::new(), pairs: Metadata::new(), sets: Vec::new() }
    }

    /// The index of a set, [`NONE`] for none.
    ///
    /// # Errors
    /// A compressor that fails.
    pub fn index(&mut self, set: Option<&Arc<XattrSet>>, compressor: &mut Compressor) -> Result<u32> {
        let Some(set) = set else { return Ok(NONE) };
        if let Some(&index) = self.indexes.get(set) {
            return Ok(index);
        }
        let reference = self.pairs.reference();
        let mut bytes = Vec::new();
        for (name, value) in set.iter() {
            for (space, prefix) in PREFIXES.iter().enumerate() {
                if let Some(name) = name.strip_prefix(*prefix) {
                    bytes.extend((space as u16).to_le_bytes());
                    bytes.extend((name.len() as u16).to_le_bytes());
                    bytes.extend_from_slice(name);
                    bytes.extend((value.len() as u32).to_le_bytes());
                    bytes.extend_from_slice(value);
                }
            }
        }
        self.pairs.write(&bytes, compressor)?;
        self.sets.extend(reference.to_le_bytes());
        self.sets.extend((set.len() as u32).to_le_bytes());
        self.sets.extend((bytes.len() as u32).to_le_bytes());
        let index = self.indexes.len() as u32;
        self.indexes.insert(Arc::clone(set), index);
        Ok(index)
    }

    /// Appends the table to `tail`, which begins at `base`. Returns the place of its header.
    ///
    /// # Errors
    /// A compressor that fails.
    pub fn write(mut self, tail: &mut Vec<u8>, base: u64, compressor: &mut Compressor) -> Result<u64> {
        if self.indexes.is_empty() {
            return Ok(NO_TABLE);
        }
        self.pairs.flush(compressor)?;
        let pairs = base + tail.len() as u64;
        tail.extend_from_slice(&self.pairs.out);
        let mut sets = Metadata::new();
        sets.write(&self.sets, compressor)?;
        sets.flush(compressor)?;
        let start = base + tail.len() as u64;
        tail.extend_from_slice(&sets.out);
        let header = base + tail.len() as u64;
        tail.extend(pairs.to_le_bytes());
        tail.extend((self.indexes.len() as u32).to_le_bytes());
        tail.extend(0_u32.to_le_bytes());
        tail.extend(sets.starts.iter().flat_map(|block| (start + block).to_le_bytes()));
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::compress::Compression;

    #[test]
    fn a_metadata_block_ends_at_8192_bytes_and_references_follow() {
        let mut compressor = Compressor::new(Compression::default(), 131_072).unwrap();
        let mut metadata = Metadata::new();
        assert_eq!(metadata.reference(), 0);
        metadata.write(&[0; 8191], &mut compressor).unwrap();
        assert_eq!(metadata.position(), (0, 8191));
        metadata.write(&[0; 1], &mut compressor).unwrap();
        let length = u16::from_le_bytes([metadata.out[0], metadata.out[1]]);
        assert!(length < 100);
        assert_eq!(metadata.position(), (u64::from(length) + 2, 0));
        metadata.write(&[1, 2, 3], &mut compressor).unwrap();
        metadata.flush(&mut compressor).unwrap();
        // Three bytes do not shrink.
        assert_eq!(metadata.out[usize::from(length) + 2..], [3, 0x80, 1, 2, 3]);
        assert_eq!(metadata.starts, [0, u64::from(length) + 2]);
    }

    #[test]
    fn ids_are_stored_once_and_limited() {
        let mut ids = Ids::default();
        assert_eq!((ids.index(1000).unwrap(), ids.index(0).unwrap(), ids.index(1000).unwrap()), (0, 1, 0));
        for id in 0..65_535 {
            let _ = ids.index(id);
        }
        assert_eq!(ids.list.len(), 65_535);
        assert!(ids.index(1_000_000).is_err());
    }

    #[test]
    fn equal_sets_of_xattrs_share_an_index() {
        let mut compressor = Compressor::new(Compression::default(), 131_072).unwrap();
        let set = |value: &[u8]| -> Arc<XattrSet> { Arc::new(vec![(b"user.a"[..].into(), value.into())]) };
        let mut sets = XattrSets::new();
        assert_eq!(sets.index(None, &mut compressor).unwrap(), NONE);
        assert_eq!(sets.index(Some(&set(b"1")), &mut compressor).unwrap(), 0);
        assert_eq!(sets.index(Some(&set(b"2")), &mut compressor).unwrap(), 1);
        assert_eq!(sets.index(Some(&set(b"1")), &mut compressor).unwrap(), 0);
        let mut tail = Vec::new();
        let header = sets.write(&mut tail, 1000, &mut compressor).unwrap() as usize - 1000;
        assert_eq!(tail[header..header + 8], 1000_u64.to_le_bytes());
        assert_eq!(tail[header + 8..header + 12], 2_u32.to_le_bytes());
        assert_eq!(tail.len(), header + 16 + 8);
    }
}
