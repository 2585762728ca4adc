//! What the stages of the pipeline share: the queues between them, the buffers, and the first failure.
//!
//! ```text
//!          units             read                jobs               done
//!  walk ──────────► readers ──────► sequencer ──────────► workers ──────► writer ──► output
//!   ▲    (queue)     1..8  (ordered)           (queue)     1..n  (ordered)  │
//!   └───────────────────────────── chunks ◄──────────────────────────────────┘
//! ```
//!
//! Determinism: the walk numbers the units by the order of names; the sequencer takes them in that order
//! and decides alone what is a duplicate, what goes into which fragment, and the number of each job; the
//! writer appends the jobs' results by these numbers. What readers and workers do (read, hash, compress)
//! depends on the unit or job alone. So the number of threads and their timing change when something
//! happens, never what is written.
//!
//! No deadlock: a unit takes its buffer before it is numbered, and a fragment has buffers of its own, so the
//! stage that holds the lowest number always has what it needs to go on. A stage that fails stops all
//! queues, and everyone who waits on one wakes.

use super::queue::{Ordered, Queue, Stopped};
use super::units::UnitJob;
use super::{PackOptions, Progress};
use crate::error::{Error, Kind};
use crate::image::squashfs::Squashfs;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

/// Why a stage ends early.
#[derive(Debug)]
pub enum Halt {
    /// Another stage failed.
    Elsewhere,
    /// This one failed.
    Failed(Error),
}

impl From<Stopped> for Halt {
    fn from(_: Stopped) -> Self {
        Self::Elsewhere
    }
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Which pool a chunk belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// [`Pipeline::chunks`].
    Units,
    /// [`Pipeline::fragments`].
    Fragments,
}

/// A pair of buffers that circulates: what was read, and what it was compressed to.
pub struct Chunk {
    /// Where it goes back to.
    pub pool: Pool,
    /// Data as read: one or more whole blocks' worth.
    pub raw: Vec<u8>,
    /// The blocks after compression, one after the other.
    pub packed: Vec<u8>,
}

/// More blocks than this are not in one job: unit_bytes / smallest block size.
pub const JOB_BLOCKS: usize = 32;

/// Blocks to be compressed.
pub struct Job {
    /// Its place in the order of writing.
    pub number: u64,
    /// The data.
    pub chunk: Chunk,
    /// How much of `chunk.raw` counts.
    pub length: usize,
    /// Bit `i` is set if block `i` is all zeros.
    pub zeros: u32,
    /// The blocks are stored as they are.
    pub plain: bool,
    /// What it belongs to.
    pub target: Target,
}

/// What a job's blocks belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The next blocks of the extent with this number.
    Extent(u32),
    /// The next fragment.
    Fragment,
    /// None: what the last extent has is stored already for another file, and is given up.
    GiveUp,
}

/// Blocks ready to be written.
pub struct Done {
    /// The data: `packed_bytes` of `chunk.packed`.
    pub chunk: Chunk,
    /// How much there is to write.
    pub packed_bytes: usize,
    /// Each block's size as the image states it.
    pub sizes: [u32; JOB_BLOCKS],
    /// How many blocks.
    pub blocks: usize,
    /// What they belong to.
    pub target: Target,
}

/// Shared by all stages.
pub struct Pipeline<'a> {
    /// From the walk to the readers.
    pub units: Queue<UnitJob>,
    /// From the readers to the sequencer.
    pub read: Ordered<super::read::ReadUnit>,
    /// From the sequencer to the workers.
    pub jobs: Queue<Job>,
    /// From the workers to the writer.
    pub done: Ordered<Done>,
    /// Buffers for units.
    pub chunks: Queue<Chunk>,
    /// Buffers for fragments.
    pub fragments: Queue<Chunk>,
    /// For whoever watches.
    pub progress: &'a Progress,
    /// Device and inode of the image being written, which may lie inside the tree.
    pub output_identity: (u64, u64),
    base: Option<&'a Squashfs>,
    cancel: &'a AtomicBool,
    failure: Mutex<Option<Error>>,
}

impl<'a> Pipeline<'a> {
    /// A pipeline at rest, with as many buffers as the options' memory allows.
    pub fn new(
        options: &PackOptions,
        (progress, cancel): (&'a Progress, &'a AtomicBool),
        output_identity: (u64, u64),
        base: Option<&'a Squashfs>,
    ) -> Self {
        let chunk = |pool, bytes: usize| Chunk { pool, raw: vec![0; bytes], packed: vec![0; bytes] };
        let (units, fragments) = options.buffers();
        Self {
            units: Queue::new([]),
            read: Ordered::new(),
            jobs: Queue::new([]),
            done: Ordered::new(),
            chunks: Queue::new((0..units).map(|_| chunk(Pool::Units, options.unit_bytes()))),
            fragments: Queue::new(
                (0..fragments).map(|_| chunk(Pool::Fragments, options.block_bytes as usize)),
            ),
            progress,
            output_identity,
            base,
            cancel,
            failure: Mutex::new(None),
        }
    }

    /// Has the user cancelled?
    ///
    /// # Errors
    /// [`Kind::Interrupted`] if so.
    pub fn check(&self) -> Result<(), Halt> {
        Ok(super::ensure_wanted(self.cancel)?)
    }

    /// The base image, for a file that says it is in there.
    pub fn base(&self) -> Result<&'a Squashfs, Halt> {
        self.base.ok_or_else(|| Error::new(Kind::Internal, "a file of the base without a base").into())
    }

    /// Puts a chunk back where it belongs.
    pub fn recycle(&self, chunk: Chunk) -> Result<(), Stopped> {
        match chunk.pool {
            Pool::Units => self.chunks.push(chunk),
            Pool::Fragments => self.fragments.push(chunk),
        }
    }

    /// Runs a stage to its end. Its failure, or its panic, stops all others.
    pub fn run<T>(&self, stage: impl FnOnce() -> Result<T, Halt>) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(stage)) {
            Ok(Ok(result)) => return Some(result),
            Ok(Err(Halt::Elsewhere)) => {}
            Ok(Err(Halt::Failed(error))) => self.fail(error),
            Err(panic) => self.fail(Error::new(Kind::Internal, describe(panic.as_ref()))),
        }
        None
    }

    /// Keeps the first failure and stops every queue.
    pub fn fail(&self, error: Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.units.stop();
        self.read.stop();
        self.jobs.stop();
        self.done.stop();
        self.chunks.stop();
        self.fragments.stop();
    }

    /// What went wrong first.
    pub fn into_failure(self) -> Option<Error> {
        self.failure.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

fn describe(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("a packing thread panicked: {}", text.unwrap_or_else(|| "no message".into()))
}
