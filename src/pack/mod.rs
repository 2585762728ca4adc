//! The write side: a tree becomes a SquashFS 4.0 image in one streaming pass.
//!
//! ```text
//! walk         walks directories, layers, the base of layers; says what is to be read
//!                marks (what layers say in attributes), base (an image as it is walked), units (buffers' worths)
//! stream       in place of the walk: takes contents as they come, and the tree after them
//! read         reads, hashes, finds zeros and holes              several threads
//! sequence     duplicates, fragments, order                      one thread; all decisions
//! data         compresses (not what is plain);  appends to the output                 all cores; one thread
//! carry        copies what a base has stored already             after the data, beside the tables
//! inodes       inode and directory tables                        after the data
//! tables       metadata blocks; id, fragment, export, xattr tables
//! ```
//!
//! The image goes straight to its place in the output; the superblock is written last, so that an
//! unfinished image is none. Nothing else is written. How the threads work together, and why their number
//! does not show in the result, is in [`pipeline`].

mod base;
mod carry;
pub mod compress;
mod data;
mod format;
mod inodes;
mod layers;
pub mod limits;
mod marks;
mod pipeline;
mod plain;
mod queue;
mod read;
mod sequence;
mod sides;
mod stream;
mod tables;
mod tree;
mod units;
mod walk;
mod xattr;

pub use compress::{Compression, CompressionKind};
pub use layers::{Layers, pack_layers};
pub use marks::{device_number, is_mark};
pub use pipeline::Halt;
pub use stream::{Content, Feed, Streamed, pack_stream};
pub use tree::{NodeKind, Status, Tree};
pub use xattr::{XattrSet, is_kept};

use crate::error::{Error, Kind, Result};
use crate::image::squashfs::Squashfs;
use carry::Copying;
use compress::Compressor;
use data::{Output, Written};
use format::{
    FLAG_DUPLICATES, FLAG_EXPORTABLE, FLAG_OPTIONS, MAGIC, METADATA_RAW, NO_TABLE, SUPERBLOCK_BYTES,
};
use inodes::Inodes;
use pipeline::{JOB_BLOCKS, Pipeline};
use sequence::Contents;
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};
use walk::{Roots, Walked};

/// How to pack.
#[derive(Debug, Clone)]
pub struct PackOptions {
    /// Compressor and level.
    pub compression: Compression,
    /// Block size: a power of two from 4 KiB to 1 MiB.
    pub block_bytes: u32,
    /// Threads that compress. [`limits::threads`] gives the usual number.
    pub threads: usize,
    /// Bound for the buffers. [`limits::memory_bytes`] gives the usual number. The tree itself comes on top:
    /// about 200 bytes a file.
    pub memory_bytes: u64,
    /// Seconds since 1970 (`SOURCE_DATE_EPOCH`): the image's own time, and the latest time of any file in
    /// it. Without it the image's time is now, and files keep theirs.
    pub time: Option<i64>,
    /// Owner and group of everything, instead of each file's own.
    pub one_owner: Option<(u32, u32)>,
    /// Fill in [`PackSummary::content_digest`].
    pub digest: bool,
}

impl Default for PackOptions {
    fn default() -> Self {
        let threads = limits::threads();
        Self {
            compression: Compression::default(),
            block_bytes: 128 * 1024,
            threads,
            memory_bytes: limits::memory_bytes(threads),
            time: None,
            one_owner: None,
            digest: false,
        }
    }
}

impl PackOptions {
    /// What is read and handed on at a time: a block, or as many small ones as make 128 KiB.
    fn unit_bytes(&self) -> usize {
        (self.block_bytes as usize).max(JOB_BLOCKS * 4096)
    }

    /// How many buffers circulate: for units, for fragments.
    fn buffers(&self) -> (usize, usize) {
        let threads = self.threads.max(1);
        let fragments = threads + 2;
        let fragment_bytes = fragments as u64 * 2 * u64::from(self.block_bytes);
        let fit = self.memory_bytes.saturating_sub(fragment_bytes) / (2 * self.unit_bytes() as u64);
        // Enough that nobody waits; each may hold a file and four directories open.
        let enough = (8 * threads + 16).min(192);
        ((fit as usize).clamp(threads + 2, enough), fragments)
    }

    /// More than one even on one core: they wait for the file system, for a server's above all.
    fn readers(&self) -> usize {
        self.threads.clamp(4, 8)
    }

    fn ensure_sensible(&self) -> Result<()> {
        if !self.block_bytes.is_power_of_two() || !(4096..=1 << 20).contains(&self.block_bytes) {
            return Err(Error::usage(format!("cannot pack with blocks of {} bytes", self.block_bytes))
                .hint("choose a power of two from 4096 to 1048576"));
        }
        self.compression.level().map(|_| ())
    }
}

/// What is happening, for whoever wants to show it. All counters only grow.
#[derive(Debug, Default)]
pub struct Progress {
    /// Files, directories and so on that the walk has met.
    pub entries_found: AtomicU64,
    /// The sum of their contents.
    pub bytes_found: AtomicU64,
    /// The walk is over: the two above are final.
    pub walk_done: AtomicBool,
    /// Content read so far.
    pub bytes_read: AtomicU64,
    /// Files read so far.
    pub files_read: AtomicU64,
    /// Content written so far, after compression.
    pub bytes_written: AtomicU64,
}

/// How often something happened, and where first.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// How often.
    pub count: u64,
    /// Where first.
    pub first: Option<PathBuf>,
}

impl Tally {
    /// Once more, at a path that is asked for the first time alone.
    pub fn count(&mut self, path: impl FnOnce() -> PathBuf) {
        self.count += 1;
        if self.first.is_none() {
            self.first = Some(path());
        }
    }
}

/// What did not go into the image as it was.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Warnings {
    /// Times of change before 1970 or after 2106, set to the nearest that an image can state.
    pub clamped_times: Tally,
    /// Files that changed while they were packed. As much as they had when listed is in the image.
    pub changed: Tally,
    /// POSIX access control lists, which SquashFS cannot hold.
    pub access_lists: Tally,
    /// The image itself lies in the tree and was left out.
    pub skipped_output: Tally,
}

impl fmt::Display for Warnings {
    /// One line each; nothing if there is nothing to say.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = [
            (&self.clamped_times, "times lie before 1970 or after 2106 and were set to the nearest possible"),
            (&self.changed, "files changed while they were packed"),
            (&self.access_lists, "files have access control lists, which an image cannot hold"),
            (&self.skipped_output, "file is the image itself and was left out"),
        ];
        for (tally, text) in lines {
            if let Some(first) = &tally.first {
                writeln!(out, "{} {text} (first: {first:?})", tally.count)?;
            }
        }
        Ok(())
    }
}

/// What was packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackSummary {
    /// How much of the output the image occupies from its offset on, rounded up to 4096.
    pub bytes: u64,
    /// Inodes: files, directories and so on, those with several names once.
    pub inodes: u64,
    /// Files whose content was stored already for another.
    pub duplicates: u64,
    /// What did not go in as it was.
    pub warnings: Warnings,
    /// SHA-256 over a 128-bit XXH3 of all that was written and the superblock: equal for equal images. Not
    /// a checksum of the bytes; for deriving identifiers. With [`PackOptions::digest`].
    pub content_digest: Option<[u8; 32]>,
}

/// What the pipeline leaves for the tables.
struct Packed<'a> {
    walked: Walked<'a>,
    contents: Contents,
    written: Written,
}

/// Packs the directory `root` into a SquashFS image in `output` from `offset` on.
///
/// `root` may be named by a symbolic link; below it none is followed, and mounted file systems are entered.
/// The image is complete when this returns; before, there is no superblock. On failure the output holds
/// rubbish from `offset` on, and all threads have ended.
///
/// # Errors
/// An entry that cannot be read, shrank or vanished; a write that fails; [`Kind::Interrupted`] after `cancel`
/// is set; [`Kind::Usage`] for options out of range.
pub fn pack_directory(
    root: &Path,
    output: &File,
    offset: u64,
    options: &PackOptions,
    watch: (&Progress, &AtomicBool),
) -> Result<PackSummary> {
    let roots = Roots { base: None, directories: &[root.to_owned()], marked: false };
    pack(roots, output, offset, options, watch)
}

/// Packs what the walk of `roots` finds.
fn pack(
    roots: Roots<'_>,
    output: &File,
    offset: u64,
    options: &PackOptions,
    watch: (&Progress, &AtomicBool),
) -> Result<PackSummary> {
    let find = |pipeline: &Pipeline<'_>| walk::walk(roots, pipeline, options);
    run(Source { find, base: roots.base, marked: roots.marked }, output, offset, options, watch)
}

/// Where files come from.
struct Source<'a, F> {
    /// Finds them, and hands out the units in order.
    find: F,
    /// The image that some of them are in.
    base: Option<&'a Squashfs>,
    /// Attributes that are marks count as such.
    marked: bool,
}

/// Packs what `source` finds.
fn run<'a, F>(
    source: Source<'a, F>,
    output: &File,
    offset: u64,
    options: &PackOptions,
    watch: (&Progress, &AtomicBool),
) -> Result<PackSummary>
where
    F: FnOnce(&Pipeline<'_>) -> Result<Walked<'a>, Halt> + Send,
{
    options.ensure_sensible()?;
    let metadata = output
        .metadata()
        .map_err(|error| Error::new(Kind::Io, "cannot examine the output file").because(error))?;
    let pipeline = Pipeline::new(options, watch, (metadata.dev(), metadata.ino()), source.base);
    let mut position = SUPERBLOCK_BYTES as u64;
    let mut compressor_options = Vec::new();
    if let Some(bytes) = options.compression.options()? {
        compressor_options.extend((bytes.len() as u16 | METADATA_RAW).to_le_bytes());
        compressor_options.extend(bytes);
    }
    let mut output = Output::new(output, offset, position, options.digest);
    output.append(&compressor_options)?;
    position = output.position;
    debug_assert!(position < 200);
    let packed = run_pipeline(source, pipeline, options, &mut output)?;
    finish(packed, output, options, watch)
}

/// Starts all threads, waits for them, gives what they made or the first failure.
fn run_pipeline<'a, F>(
    source: Source<'a, F>,
    pipeline: Pipeline<'_>,
    options: &PackOptions,
    output: &mut Output<'_>,
) -> Result<Packed<'a>>
where
    F: FnOnce(&Pipeline<'_>) -> Result<Walked<'a>, Halt> + Send,
{
    let Source { find, marked, .. } = source;
    let read_options = read::ReadOptions {
        block_bytes: options.block_bytes as usize,
        seed: RandomState::new().hash_one(0),
        marked,
    };
    let shared = &pipeline;
    let (walked, contents, written) = thread::scope(|scope| {
        let spawned = |error| shared.fail(no_thread(error));
        let walk =
            thread::Builder::new().name("walk".into()).spawn_scoped(scope, || shared.run(|| find(shared)));
        let writer = thread::Builder::new()
            .name("write".into())
            .spawn_scoped(scope, || shared.run(|| data::write_jobs(shared, output)));
        for _ in 0..options.readers() {
            let reader = thread::Builder::new()
                .name("read".into())
                .spawn_scoped(scope, || shared.run(|| read::read_units(shared, read_options)));
            reader.map(drop).unwrap_or_else(spawned);
        }
        for _ in 0..options.threads.max(1) {
            let worker = thread::Builder::new().name("compress".into()).spawn_scoped(scope, || {
                shared.run(|| data::compress_jobs(shared, options.compression, options.block_bytes))
            });
            worker.map(drop).unwrap_or_else(spawned);
        }
        let walk = walk.map_err(spawned).ok();
        let writer = writer.map_err(spawned).ok();
        let contents = shared.run(|| sequence::sequence(shared, read_options.block_bytes, read_options.seed));
        // `run` lets no panic through, so a join cannot fail.
        let walked = walk.and_then(|walk| walk.join().ok().flatten());
        let written = writer.and_then(|writer| writer.join().ok().flatten());
        (walked, contents, written)
    });
    if let Some(failure) = pipeline.into_failure() {
        return Err(failure);
    }
    let (Some(walked), Some(contents), Some(written)) = (walked, contents, written) else {
        return Err(Error::new(Kind::Internal, "packing ended without a result and without an error"));
    };
    Ok(Packed { walked, contents, written })
}

fn no_thread(error: std::io::Error) -> Error {
    Error::new(Kind::Host, "cannot start a thread")
        .because(error)
        .hint("the limit of processes is reached (ulimit -u, or pids.max of the control group)")
}

/// Copies what is carried over, writes the tables and the superblock.
fn finish(
    packed: Packed<'_>,
    mut output: Output<'_>,
    options: &PackOptions,
    watch: (&Progress, &AtomicBool),
) -> Result<PackSummary> {
    let Packed { walked, mut contents, mut written } = packed;
    let Walked { mut tree, mut warnings, carry, arranged } = walked;
    if let Some(arranged) = &arranged {
        contents.arrange(arranged);
    }
    for &(node, owner) in contents.owners.iter().filter(|_| options.one_owner.is_none()) {
        if let Some(node) = tree.nodes.get_mut(node as usize) {
            (node.status.uid, node.status.gid) = owner;
        }
    }
    for (tally, nodes) in
        [(&mut warnings.changed, &contents.changed), (&mut warnings.access_lists, &contents.access_lists)]
    {
        for &node in nodes {
            tally.count(|| tree.path(node));
        }
    }
    let position = output.position;
    let copying = match carry {
        Some(carry) => carry.settle(&mut contents, &mut written, position)?,
        None => Copying::default(),
    };
    let tables_at = position + copying.bytes();
    let build = || Tables::build((&tree, &contents, &written), tables_at, options, watch.1);
    // Where everything will be is known: the tables need not wait for the copy.
    let tables = thread::scope(|scope| {
        let copied = thread::Builder::new()
            .name("copy".into())
            .spawn_scoped(scope, || output.copy(&copying, watch))
            .map_err(no_thread)?;
        let tables = build();
        copied.join().unwrap_or_else(|_| Err(Error::new(Kind::Internal, "the copying thread panicked")))?;
        tables
    })?;
    output.append(&tables.bytes)?;
    output.write_first(&tables.superblock.encode(options)?)?;
    Ok(PackSummary {
        bytes: output.position,
        inodes: u64::from(tables.superblock.inodes),
        duplicates: contents.duplicates,
        warnings,
        content_digest: output.digest().map(|hash| Sha256::digest(hash.to_le_bytes()).into()),
    })
}

/// All that follows the data, and what the superblock says of it.
struct Tables {
    bytes: Vec<u8>,
    superblock: Superblock,
}

impl Tables {
    /// Makes the tables that will be at `base` in the image.
    fn build(
        (tree, contents, written): (&Tree, &Contents, &Written),
        base: u64,
        options: &PackOptions,
        cancel: &AtomicBool,
    ) -> Result<Self> {
        let mut compressor = Compressor::new(options.compression, options.block_bytes)?;
        let compressor = &mut compressor;
        let mut inodes = Inodes::new(tree, contents, written, compressor, options.block_bytes);
        let root = inodes.write(|| ensure_wanted(cancel))?;
        let Inodes { inodes: inode_table, directories, ids, xattrs, export, .. } = inodes;
        let mut tail = inode_table.out;
        let directory_start = base + tail.len() as u64;
        tail.extend_from_slice(&directories.out);
        let mut records = Vec::with_capacity(written.fragments.len() * 16);
        for (start, size) in &written.fragments {
            records.extend(start.to_le_bytes());
            records.extend(size.to_le_bytes());
            records.extend(0_u32.to_le_bytes());
        }
        let fragment_start = match written.fragments.is_empty() {
            true => NO_TABLE,
            false => tables::write_table(&mut tail, base, &records, compressor)?,
        };
        let records: Vec<u8> = export.iter().flat_map(|reference| reference.to_le_bytes()).collect();
        let export_start = tables::write_table(&mut tail, base, &records, compressor)?;
        let records: Vec<u8> = ids.list.iter().flat_map(|id| id.to_le_bytes()).collect();
        let id_start = tables::write_table(&mut tail, base, &records, compressor)?;
        let xattr_start = xattrs.write(&mut tail, base, compressor)?;
        let bytes_used = base + tail.len() as u64;
        // A loop device shows whole sectors only, and mksquashfs pads to 4096.
        tail.resize((bytes_used.next_multiple_of(4096) - base) as usize, 0);
        let superblock = Superblock {
            inodes: export.len() as u32,
            fragments: written.fragments.len() as u32,
            ids: ids.list.len() as u16,
            root,
            bytes_used,
            tables: [id_start, xattr_start, base, directory_start, fragment_start, export_start],
        };
        Ok(Self { bytes: tail, superblock })
    }
}

/// Has the user cancelled?
///
/// # Errors
/// [`Kind::Interrupted`] if so.
fn ensure_wanted(cancel: &AtomicBool) -> Result<()> {
    match cancel.load(Ordering::Relaxed) {
        true => Err(Error::new(Kind::Interrupted, "packing was interrupted")),
        false => Ok(()),
    }
}

/// What varies in a superblock.
struct Superblock {
    inodes: u32,
    fragments: u32,
    ids: u16,
    root: u64,
    bytes_used: u64,
    /// Places of: ids, xattrs, inodes, directories, fragments, export.
    tables: [u64; 6],
}

impl Superblock {
    fn encode(&self, options: &PackOptions) -> Result<Vec<u8>> {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs() as i64);
        let time = options.time.unwrap_or_else(now).clamp(0, i64::from(u32::MAX)) as u32;
        let mut flags = FLAG_DUPLICATES | FLAG_EXPORTABLE;
        if options.compression.options()?.is_some() {
            flags |= FLAG_OPTIONS;
        }
        let mut bytes = Vec::with_capacity(SUPERBLOCK_BYTES);
        for field in [MAGIC, self.inodes, time, options.block_bytes, self.fragments] {
            bytes.extend(field.to_le_bytes());
        }
        let block_log = options.block_bytes.trailing_zeros() as u16;
        for field in [options.compression.kind.id(), block_log, flags, self.ids, 4, 0] {
            bytes.extend(field.to_le_bytes());
        }
        for field in [self.root, self.bytes_used].iter().chain(&self.tables) {
            bytes.extend(field.to_le_bytes());
        }
        Ok(bytes)
    }
}
