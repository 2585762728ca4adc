//! The readers: fill each unit's buffer, hash it, look for zeros and holes.
//!
//! Everything here depends on the unit alone and runs in any order. Several readers pay where opening a
//! file takes long (network file systems), not where the tree is in the page cache.

use super::marks::{self, Owner};
use super::pipeline::{Chunk, Halt, Pipeline};
use super::units::{FileEntry, LargeFile, Origin, Unit, UnitJob, cannot, shrunk};
use super::walk::{identity, mistaken};
use super::xattr::{self, Xattrs};
use crate::error::Error;
use crate::image::squashfs::{Block, Inode};
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// A unit after reading.
pub struct ReadUnit {
    /// What was read.
    pub content: Content,
    /// The data.
    pub chunk: Chunk,
}

/// What a buffer holds.
pub enum Content {
    /// Whole small files, one after the other.
    Small(Vec<SmallFile>),
    /// A part of a large one.
    Part(Part),
    /// Pieces of a fragment of the base, one after the other.
    Tails {
        /// Which fragment.
        fragment: u32,
        /// Where each begins and ends in that.
        pieces: Vec<(u32, u32)>,
    },
}

/// A small file: its bytes follow those of the one before it.
pub struct SmallFile {
    /// Its place in the tree.
    pub node: u32,
    /// Its length.
    pub bytes: usize,
    /// Of its content.
    pub hash: u128,
    /// Its content is that of the file of the base which it hides.
    pub is_twin: bool,
    /// Its extended attributes, and whether it changed meanwhile.
    pub facts: FileFacts,
}

/// A part of a large file.
pub struct Part {
    /// Whose.
    pub file: Arc<LargeFile>,
    /// Where it begins in the file.
    pub offset: u64,
    /// Its length.
    pub bytes: usize,
    /// Of this part.
    pub hash: u128,
    /// Bit `i` is set if the part's block `i` is all zeros.
    pub zeros: u32,
    /// With the first part: the whole file's content is that of the file of the base which it hides.
    pub is_twin: bool,
    /// With the last part.
    pub facts: Option<FileFacts>,
}

/// What is known of a file once it is read.
#[derive(Default)]
pub struct FileFacts {
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// Its owner, if its marks say one.
    pub owner: Option<Owner>,
    /// It is not what it was when it was listed.
    pub changed: bool,
}

/// What readers need to know of the options.
#[derive(Debug, Clone, Copy)]
pub struct ReadOptions {
    /// The image's block size.
    pub block_bytes: usize,
    /// Makes the hashes unpredictable, so that nobody can prepare two files that pass for one.
    pub seed: u64,
    /// Attributes that are marks count as such.
    pub marked: bool,
}

/// A file ready to be read.
#[derive(Debug)]
pub enum Opened {
    /// Of a directory.
    File(File),
    /// Of the base image.
    Base(Arc<Inode>),
    /// In the buffer already.
    Here,
}

/// Reads units until there are no more.
///
/// # Errors
/// The first file that cannot be read, or a stop from elsewhere.
pub fn read_units(pipeline: &Pipeline<'_>, options: ReadOptions) -> Result<(), Halt> {
    while let Some(UnitJob { number, unit, mut chunk }) = pipeline.units.pop()? {
        pipeline.check()?;
        let content = match unit {
            Unit::Small(files) => Content::Small(read_small(files, &mut chunk.raw, options, pipeline)?),
            Unit::Part { file, offset, length } => {
                Content::Part(read_part(file, offset, length, &mut chunk.raw, options, pipeline)?)
            }
            Unit::Tails { fragment, pieces } => {
                read_tails(fragment, &pieces, &mut chunk.raw, pipeline)?;
                Content::Tails { fragment, pieces }
            }
        };
        pipeline.read.insert(number, ReadUnit { content, chunk })?;
    }
    Ok(())
}

fn open(entry: &FileEntry, pipeline: &Pipeline<'_>) -> Result<Opened, Halt> {
    match &entry.origin {
        Origin::Dir { dir, name, .. } => {
            // NONBLOCK: if a pipe has taken the file's place since, opening it must not wait for a writer.
            let flags =
                OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
            rustix::fs::openat(&dir.file, name, flags, Mode::empty())
                .map(|file| Opened::File(file.into()))
                .map_err(|errno| cannot("open", &entry.path(), errno))
        }
        Origin::Base(reference) => Ok(Opened::Base(pipeline.base()?.inode(*reference)?)),
        Origin::Stream => Ok(Opened::Here),
    }
}

/// Fills `buffer` from `offset` on.
fn read_exact(file: &File, entry: &FileEntry, mut offset: u64, mut buffer: &mut [u8]) -> Result<(), Halt> {
    while !buffer.is_empty() {
        match rustix::io::pread(file, &mut *buffer, offset) {
            Ok(0) => return Err(shrunk(&entry.path(), entry.size)),
            Ok(count) => {
                offset += count as u64;
                buffer = buffer.get_mut(count..).unwrap_or_default();
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(cannot("read", &entry.path(), errno)),
        }
    }
    Ok(())
}

/// Reads the xattrs and looks whether the file is still what was listed.
fn facts(opened: &Opened, entry: &FileEntry, options: ReadOptions) -> Result<FileFacts, Halt> {
    // The walk knows all about files of the base.
    let (Opened::File(file), Some(listed)) = (opened, entry.facts()) else { return Ok(FileFacts::default()) };
    let failed = |verb| move |errno| cannot(verb, &entry.path(), errno);
    let mut xattrs = xattr::read_open(file).map_err(failed("read the xattrs of"))?;
    let mut owner = None;
    if options.marked {
        let (plain, marks) = marks::take(xattrs).map_err(|reason| mistaken(&entry.path(), &reason))?;
        (xattrs, owner) = (plain, marks.owner);
    }
    let stat = rustix::fs::fstat(file).map_err(failed("examine"))?;
    if u64::try_from(stat.st_size).is_ok_and(|size| size < entry.size) {
        return Err(shrunk(&entry.path(), entry.size));
    }
    let changed = identity(&stat) != listed.identity || u64::try_from(stat.st_size) != Ok(entry.size);
    Ok(FileFacts { xattrs, owner, changed })
}

fn read_small(
    files: Vec<FileEntry>,
    buffer: &mut [u8],
    options: ReadOptions,
    pipeline: &Pipeline<'_>,
) -> Result<Vec<SmallFile>, Halt> {
    let mut rest = buffer;
    let mut read = Vec::with_capacity(files.len());
    for entry in files {
        pipeline.check()?;
        let bytes = entry.size as usize;
        let (target, after) = std::mem::take(&mut rest).split_at_mut(bytes);
        let opened = open(&entry, pipeline)?;
        read_at(&opened, &entry, 0, target, pipeline)?;
        let facts = facts(&opened, &entry, options)?;
        let hash = xxh3_128_with_seed(target, options.seed);
        let is_twin = equals_twin(&opened, &entry, target, pipeline)?;
        read.push(SmallFile { node: entry.node, bytes, hash, is_twin, facts });
        pipeline.progress.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
        rest = after;
    }
    Ok(read)
}

fn read_part(
    file: Arc<LargeFile>,
    offset: u64,
    bytes: usize,
    buffer: &mut [u8],
    options: ReadOptions,
    pipeline: &Pipeline<'_>,
) -> Result<Part, Halt> {
    let entry = &file.entry;
    let last = offset + bytes as u64 >= entry.size;
    pipeline.progress.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
    let opened = match file.file.get() {
        Some(opened) => opened,
        None => {
            let opened = open(entry, pipeline)?;
            file.file.get_or_init(|| opened)
        }
    };
    // A duplicate's parts are dropped by the sequencer: it has what it needs.
    let skip = file.skip.load(Ordering::Relaxed);
    let target = buffer.get_mut(..if skip { 0 } else { bytes }).unwrap_or_default();
    read_at(opened, entry, offset, target, pipeline)?;
    let hash = xxh3_128_with_seed(target, options.seed);
    let is_twin = offset == 0 && equals_twin(opened, entry, target, pipeline)?;
    if is_twin {
        file.skip.store(true, Ordering::Relaxed);
    }
    let mut zeros = 0;
    for (index, block) in target.chunks(options.block_bytes).enumerate() {
        zeros |= u32::from(is_zero(block)) << index;
    }
    let facts = if last { Some(facts(opened, entry, options)?) } else { None };
    Ok(Part { file, offset, bytes, hash, zeros, is_twin, facts })
}

/// Fills `buffer` from `offset` on, without reading where the file has a hole.
///
/// # Errors
/// The file became shorter, or cannot be read.
pub fn read_at(
    opened: &Opened,
    entry: &FileEntry,
    offset: u64,
    buffer: &mut [u8],
    pipeline: &Pipeline<'_>,
) -> Result<(), Halt> {
    match opened {
        Opened::File(file) => {
            if entry.facts().is_some_and(|facts| facts.sparse) && is_hole(file, offset, buffer.len() as u64) {
                buffer.fill(0);
                return Ok(());
            }
            read_exact(file, entry, offset, buffer)
        }
        Opened::Base(inode) => match pipeline.base()?.read(inode, offset, buffer)? {
            count if count == buffer.len() => Ok(()),
            _ => Err(shrunk(&entry.path(), entry.size)),
        },
        Opened::Here => Ok(()),
    }
}

/// Is a file's content that of the file of the base which it hides? `head` is what it begins with.
fn equals_twin(
    opened: &Opened,
    entry: &FileEntry,
    head: &[u8],
    pipeline: &Pipeline<'_>,
) -> Result<bool, Halt> {
    let Some(twin) = entry.facts().and_then(|facts| facts.twin) else { return Ok(false) };
    let base = pipeline.base()?;
    let inode = base.inode(twin)?;
    let (mut offset, mut read) = (0_u64, Vec::new());
    while offset < entry.size {
        pipeline.check()?;
        // Block by block, so that a difference near the beginning is found soon. A damaged block equals nothing.
        let Ok(block) = base.block(&inode, offset / u64::from(base.superblock().block_size)) else {
            return Ok(false);
        };
        let end = offset + block.len() as u64;
        let data = match head.get(offset as usize..end as usize) {
            Some(data) => data,
            None => {
                read.resize(block.len(), 0);
                read_at(opened, entry, offset, &mut read, pipeline)?;
                &read
            }
        };
        let equal = match &block {
            Block::Data(bytes) => **bytes == *data,
            Block::Hole(_) => is_zero(data),
        };
        if !equal || block.is_empty() {
            return Ok(false);
        }
        offset = end;
    }
    Ok(true)
}

/// Takes pieces out of a fragment of the base.
fn read_tails(
    fragment: u32,
    pieces: &[(u32, u32)],
    mut buffer: &mut [u8],
    pipeline: &Pipeline<'_>,
) -> Result<(), Halt> {
    let decoded = pipeline.base()?.fragment(fragment)?;
    for &(start, end) in pieces {
        let piece = decoded.get(start as usize..end as usize);
        let (Some(piece), Some((target, rest))) =
            (piece, buffer.split_at_mut_checked((end - start) as usize))
        else {
            return Err(Error::image(format!("fragment {fragment} of the base is too short")).into());
        };
        target.copy_from_slice(piece);
        buffer = rest;
    }
    Ok(())
}

/// Does the file system know that there is nothing but a hole here?
fn is_hole(file: &File, offset: u64, bytes: u64) -> bool {
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(data) => data >= offset + bytes,
        // No data after this place. (Any other error: read it and see.)
        Err(errno) => errno == Errno::NXIO,
    }
}

/// Are all bytes zero?
fn is_zero(block: &[u8]) -> bool {
    // Almost every block that has data shows it at once; the rest compares a block with itself, shifted.
    match block.get(..16) {
        Some(head) if head.iter().all(|&byte| byte == 0) => block.get(16..) == block.get(..block.len() - 16),
        Some(_) => false,
        None => block.iter().all(|&byte| byte == 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_told_from_data_at_every_place() {
        assert!(is_zero(&[]));
        assert!(is_zero(&[0; 5]));
        assert!(is_zero(&[0; 4096]));
        for place in [0, 1, 15, 16, 17, 100, 4094, 4095] {
            let mut block = vec![0; 4096];
            block[place] = 1;
            assert!(!is_zero(&block), "{place}");
        }
    }
}
