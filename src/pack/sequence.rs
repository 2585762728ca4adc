//! The sequencer: takes what was read in the order of the walk and decides what is stored where.
//!
//! The only stage whose decisions depend on earlier ones, and therefore the only one that is a single
//! thread: duplicates, fragments, the numbers of extents and jobs. It touches data only to copy small
//! files and tails into fragments.
//!
//! ```text
//! file smaller than a block:   ───────────────────────────► a place in a fragment
//! larger file:                 block │ block │ ... │ tail
//!                              extent (consecutive blocks)   a place in a fragment
//! ```
//!
//! Duplicates are found by length and a 128-bit XXH3 with a seed drawn for each run. Two different files
//! pass for one with a chance of about 2^-90 in a tree of 100 million files, and nobody can prepare such a
//! pair, as the seed is not known beforehand. A large file is compared before any of it is stored: if an
//! earlier one of the same length begins with the same part, it is read once more for its hash. One that came
//! from a stream cannot be read again: its blocks are written, and given up if its last part shows that it is equal.

use super::format::NONE;
use super::marks::Owner;
use super::pipeline::{Chunk, Halt, Job, Pipeline, Pool, Target};
use super::read::{Content, FileFacts, Part, ReadUnit, SmallFile, read_at};
use super::units::LargeFile;
use super::xattr::XattrSet;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use xxhash_rust::xxh3::{Xxh3, xxh3_128_with_seed};

/// Where a file's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its whole blocks; [`NONE`] if it has none.
    pub extent: u32,
    /// The fragment with its end, or all of it; [`NONE`] if it has none.
    pub fragment: u32,
    /// Where it begins in there.
    pub fragment_offset: u32,
}

impl Place {
    /// Of a file without content.
    pub const EMPTY: Self = Self { extent: NONE, fragment: NONE, fragment_offset: 0 };
}

/// What the sequencer decided.
#[derive(Debug, Default)]
pub struct Contents {
    /// By node. What is no file, and files after the last with content, have none.
    pub places: Vec<Place>,
    /// By node, for those that have any.
    pub xattrs: HashMap<u32, Arc<XattrSet>>,
    /// By node, for those whose marks say one.
    pub owners: Vec<(u32, Owner)>,
    /// Nodes of files whose content is that of the file of the base which they hide.
    pub twins: Vec<u32>,
    /// Where pieces of the base's fragments, by fragment and offset, came to be: fragment and offset.
    pub tails: BTreeMap<(u32, u32), (u32, u32)>,
    /// Files whose content had been stored already.
    pub duplicates: u64,
    /// Nodes of files that changed between listing and reading.
    pub changed: Vec<u32>,
    /// Nodes of files with access control lists.
    pub access_lists: Vec<u32>,
}

impl Contents {
    /// Contents of a stream were kept by the order in which they came: gives them to the nodes that have them.
    pub fn arrange(&mut self, contents: &[(u32, u32)]) {
        let stored = std::mem::take(&mut self.places);
        for &(node, content) in contents {
            self.set_place(node, stored.get(content as usize).copied().unwrap_or(Place::EMPTY));
        }
    }

    /// Keeps where a file's content is.
    pub fn set_place(&mut self, node: u32, place: Place) {
        let index = node as usize;
        if self.places.len() <= index {
            self.places.resize(index + 1, Place::EMPTY);
        }
        if let Some(slot) = self.places.get_mut(index) {
            *slot = place;
        }
    }
}

/// A 128-bit hash in halves, which spares the padding that a `u128` would bring, and the length.
type SmallKey = (u64, u64, u32);

struct Sequencer<'a> {
    pipeline: &'a Pipeline<'a>,
    block_bytes: usize,
    seed: u64,
    contents: Contents,
    /// The fragment being filled.
    fragment: Option<Chunk>,
    fragment_fill: usize,
    fragments: u32,
    extents: u32,
    jobs: u64,
    /// Hash and length of all small files, and the first node with them.
    small: HashMap<SmallKey, u32>,
    large: HashMap<(u64, u128), Place>,
    /// Length and hash of the first part of all large files.
    heads: HashSet<(u64, u128)>,
    current: Option<Current>,
    scratch: Vec<u8>,
}

/// The large file in the works.
struct Current {
    place: Place,
    /// Of the hashes of its parts.
    hash: Xxh3,
    /// All of it is stored as it is, the tail too.
    plain: bool,
    duplicate: bool,
    /// It may prove to be one at its end.
    may_be_duplicate: bool,
}

impl Current {
    fn new(place: Place, duplicate: bool, seed: u64) -> Self {
        let hash = Xxh3::with_seed(seed);
        Self { place, hash, plain: false, duplicate, may_be_duplicate: false }
    }
}

/// Takes what was read, gives out jobs.
///
/// # Errors
/// A file that cannot be read a second time, or a stop from elsewhere.
pub fn sequence(pipeline: &Pipeline<'_>, block_bytes: usize, seed: u64) -> Result<Contents, Halt> {
    let mut sequencer = Sequencer {
        pipeline,
        block_bytes,
        seed,
        contents: Contents::default(),
        fragment: None,
        fragment_fill: 0,
        fragments: 0,
        extents: 0,
        jobs: 0,
        small: HashMap::new(),
        large: HashMap::new(),
        heads: HashSet::new(),
        current: None,
        scratch: Vec::new(),
    };
    while let Some(ReadUnit { content, chunk }) = pipeline.read.take()? {
        pipeline.check()?;
        match content {
            Content::Small(files) => sequencer.take_small(files, chunk)?,
            Content::Part(part) => sequencer.take_part(part, chunk)?,
            Content::Tails { fragment, pieces } => sequencer.take_tails(fragment, &pieces, chunk)?,
        }
    }
    sequencer.flush_fragment()?;
    pipeline.jobs.finish();
    pipeline.done.finish(sequencer.jobs);
    Ok(sequencer.contents)
}

impl Sequencer<'_> {
    fn take_small(&mut self, files: Vec<SmallFile>, chunk: Chunk) -> Result<(), Halt> {
        let mut at = 0;
        for file in files {
            if file.is_twin {
                at += file.bytes;
                self.contents.twins.push(file.node);
                self.keep(file.node, Place::EMPTY, file.facts);
                continue;
            }
            let key = ((file.hash >> 64) as u64, file.hash as u64, file.bytes as u32);
            let first = self.small.get(&key).copied();
            let place = match first.and_then(|node| self.contents.places.get(node as usize)) {
                Some(&place) => {
                    self.contents.duplicates += 1;
                    place
                }
                None => {
                    let data = chunk.raw.get(at..at + file.bytes).unwrap_or_default();
                    let (fragment, fragment_offset) = self.add_to_fragment(data)?;
                    self.small.insert(key, file.node);
                    Place { extent: NONE, fragment, fragment_offset }
                }
            };
            at += file.bytes;
            self.keep(file.node, place, file.facts);
        }
        Ok(self.pipeline.recycle(chunk)?)
    }

    /// Pieces of one of the base's fragments: its files are equal already where they can be.
    fn take_tails(&mut self, fragment: u32, pieces: &[(u32, u32)], chunk: Chunk) -> Result<(), Halt> {
        let mut at = 0;
        for &(start, end) in pieces {
            let bytes = (end - start) as usize;
            let data = chunk.raw.get(at..at + bytes).unwrap_or_default();
            let place = self.add_to_fragment(data)?;
            self.contents.tails.insert((fragment, start), place);
            at += bytes;
        }
        Ok(self.pipeline.recycle(chunk)?)
    }

    fn take_part(&mut self, part: Part, chunk: Chunk) -> Result<(), Halt> {
        let mut current = match self.current.take() {
            Some(current) if part.offset > 0 => current,
            _ => self.begin(&part)?,
        };
        let size = part.file.entry.size;
        let (node, bytes) = (part.file.entry.node, part.bytes);
        let mut chunk = Some(chunk);
        if !current.duplicate {
            current.hash.update(&part.hash.to_le_bytes());
            if current.may_be_duplicate && part.facts.is_some() {
                chunk = self.give_up(&mut current, size, chunk.take().ok_or(Halt::Elsewhere)?)?;
            }
        }
        match chunk {
            Some(chunk) if current.duplicate => self.pipeline.recycle(chunk)?,
            Some(chunk) => self.store(&mut current, bytes, part.zeros, chunk)?,
            None => {}
        }
        let Some(facts) = part.facts else {
            self.current = Some(current);
            return Ok(());
        };
        if !current.duplicate {
            self.large.insert((size, current.hash.digest128()), current.place);
        }
        self.keep(node, current.place, facts);
        Ok(())
    }

    /// Stores the next part of a large file: `bytes` of a chunk.
    fn store(&mut self, current: &mut Current, bytes: usize, zeros: u32, chunk: Chunk) -> Result<(), Halt> {
        let tail = bytes % self.block_bytes;
        // A tail of zeros is a short hole.
        let hole = tail > 0 && zeros >> (bytes / self.block_bytes) & 1 == 1;
        if tail == 0 || hole || current.plain {
            return self.give_blocks(current, chunk, bytes, zeros);
        }
        let data = chunk.raw.get(bytes - tail..bytes).unwrap_or_default();
        (current.place.fragment, current.place.fragment_offset) =
            if self.fragment_fill + tail <= self.block_bytes {
                let place = self.add_to_fragment(data)?;
                self.give_blocks(current, chunk, bytes - tail, zeros)?;
                place
            } else {
                // The full fragment must not come between the extent's blocks: the last ones go first.
                let data = data.to_vec();
                self.give_blocks(current, chunk, bytes - tail, zeros)?;
                self.add_to_fragment(&data)?
            };
        Ok(())
    }

    /// The first part of a large file: is there one like it?
    fn begin(&mut self, part: &Part) -> Result<Current, Halt> {
        let size = part.file.entry.size;
        if part.is_twin {
            self.contents.twins.push(part.file.entry.node);
            return Ok(Current::new(Place::EMPTY, true, self.seed));
        }
        let mut current = Current::new(Place::EMPTY, false, self.seed);
        current.plain = part.file.entry.plain;
        if !self.heads.insert((size, part.hash)) {
            if !part.file.entry.is_lasting() {
                current.may_be_duplicate = true;
                return Ok(current);
            }
            let hash = self.hash_all(&part.file, part)?;
            if let Some(&place) = self.large.get(&(size, hash)) {
                part.file.skip.store(true, Ordering::Relaxed);
                self.contents.duplicates += 1;
                return Ok(Current::new(place, true, self.seed));
            }
        }
        Ok(current)
    }

    /// The last part of a large file from a stream: if an earlier one is equal, its place is this one's, and
    /// what has been stored of this one is given up.
    fn give_up(&mut self, current: &mut Current, size: u64, chunk: Chunk) -> Result<Option<Chunk>, Halt> {
        let Some(&place) = self.large.get(&(size, current.hash.digest128())) else { return Ok(Some(chunk)) };
        self.contents.duplicates += 1;
        if current.place.extent == NONE {
            self.pipeline.recycle(chunk)?;
        } else {
            self.give(chunk, (0, 0), false, Target::GiveUp)?;
            // Extents are counted as the writer keeps them.
            self.extents -= 1;
        }
        (current.place, current.duplicate) = (place, true);
        Ok(None)
    }

    fn hash_all(&mut self, file: &LargeFile, first: &Part) -> Result<u128, Halt> {
        let mut hash = Xxh3::with_seed(self.seed);
        hash.update(&first.hash.to_le_bytes());
        let size = file.entry.size;
        let mut offset = first.bytes as u64;
        if let Some(opened) = file.file.get() {
            while offset < size {
                self.pipeline.check()?;
                let bytes = (size - offset).min(first.bytes as u64) as usize;
                self.scratch.resize(bytes, 0);
                read_at(opened, &file.entry, offset, &mut self.scratch, self.pipeline)?;
                hash.update(&xxh3_128_with_seed(&self.scratch, self.seed).to_le_bytes());
                offset += bytes as u64;
            }
        }
        Ok(hash.digest128())
    }

    /// Sends the first `length` bytes of a chunk to the workers as the next blocks of an extent.
    fn give_blocks(
        &mut self,
        current: &mut Current,
        chunk: Chunk,
        length: usize,
        zeros: u32,
    ) -> Result<(), Halt> {
        if length == 0 {
            return Ok(self.pipeline.recycle(chunk)?);
        }
        if current.place.extent == NONE {
            current.place.extent = self.extents;
            self.extents += 1;
        }
        self.give(chunk, (length, zeros), current.plain, Target::Extent(current.place.extent))
    }

    fn give(
        &mut self,
        chunk: Chunk,
        (length, zeros): (usize, u32),
        plain: bool,
        target: Target,
    ) -> Result<(), Halt> {
        self.pipeline.jobs.push(Job { number: self.jobs, chunk, length, zeros, plain, target })?;
        self.jobs += 1;
        Ok(())
    }

    fn add_to_fragment(&mut self, data: &[u8]) -> Result<(u32, u32), Halt> {
        if self.fragment_fill + data.len() > self.block_bytes {
            self.flush_fragment()?;
        }
        let mut chunk = match self.fragment.take() {
            Some(chunk) => chunk,
            None => self.pipeline.fragments.pop()?.ok_or(Halt::Elsewhere)?,
        };
        let offset = self.fragment_fill;
        if let Some(target) = chunk.raw.get_mut(offset..offset + data.len()) {
            target.copy_from_slice(data);
        }
        self.fragment_fill += data.len();
        self.fragment = Some(chunk);
        Ok((self.fragments, offset as u32))
    }

    fn flush_fragment(&mut self) -> Result<(), Halt> {
        let Some(chunk) = self.fragment.take() else { return Ok(()) };
        debug_assert_eq!(chunk.pool, Pool::Fragments);
        let length = std::mem::take(&mut self.fragment_fill);
        self.fragments += 1;
        self.give(chunk, (length, 0), false, Target::Fragment)
    }

    fn keep(&mut self, node: u32, place: Place, facts: FileFacts) {
        if facts.changed {
            self.contents.changed.push(node);
        }
        if facts.xattrs.access_list {
            self.contents.access_lists.push(node);
        }
        if let Some(owner) = facts.owner {
            self.contents.owners.push((node, owner));
        }
        if let Some(set) = facts.xattrs.set {
            self.contents.xattrs.insert(node, set);
        }
        self.contents.set_place(node, place);
        self.pipeline.progress.files_read.fetch_add(1, Ordering::Relaxed);
    }
}
