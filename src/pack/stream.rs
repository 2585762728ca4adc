//! The tree source "stream": contents come one after the other and cannot be read again; where they belong is known
//! after the last.
//!
//! ```text
//! source ── contents in order ──► Feed ── units, filled ──► readers (hash) ──► sequencer ...
//!        └─ the tree, at the end
//! ```
//!
//! A content is known by its number until the tree says whose it is. One that the tree has no use for stays in the
//! image as bytes that no file has.

use super::pipeline::{Chunk, Halt, Pipeline};
use super::plain::is_plain;
use super::tree::Tree;
use super::units::{FileEntry, LargeFile, Origin, Unit, UnitJob};
use super::walk::Walked;
use super::{PackOptions, PackSummary, Progress, Source, Warnings, run};
use crate::error::{Error, Kind, Result};
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// No unit has more small files.
const UNIT_FILES: usize = 96;

/// The number of a content that was given to a [`Feed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content(u32);

/// What a source has to say after its contents.
#[derive(Debug, Default)]
pub struct Streamed {
    /// All files.
    pub tree: Tree,
    /// The files with content: node, and which.
    pub contents: Vec<(u32, Content)>,
    /// What there was to complain about.
    pub warnings: Warnings,
}

/// Takes contents.
pub struct Feed<'a> {
    pipeline: &'a Pipeline<'a>,
    block_bytes: u64,
    unit_bytes: u64,
    /// The unit being gathered: small files, and the buffer that they are in.
    small: Option<(Vec<FileEntry>, Chunk)>,
    small_bytes: usize,
    units: u64,
    contents: u32,
}

impl<'a> Feed<'a> {
    fn new(pipeline: &'a Pipeline<'a>, options: &PackOptions) -> Self {
        Self {
            pipeline,
            block_bytes: u64::from(options.block_bytes),
            unit_bytes: options.unit_bytes() as u64,
            small: None,
            small_bytes: 0,
            units: 0,
            contents: 0,
        }
    }

    /// Takes the next content: `size` bytes, at least one. `names` are those of a file that has it, from its own up to
    /// the root: they tell whether it is stored as it is ([`super::plain`]). `fill` is called with buffers until it has
    /// put all of them there, and fills each whole.
    ///
    /// # Errors
    /// Those of `fill`; more contents than an image can have; a stop from elsewhere.
    pub fn give<'n>(
        &mut self,
        size: u64,
        names: impl Iterator<Item = &'n [u8]>,
        fill: &mut dyn FnMut(&mut [u8]) -> Result<()>,
    ) -> Result<Content, Halt> {
        let number = self.contents;
        self.contents = number
            .checked_add(1)
            .ok_or_else(|| Error::new(Kind::Io, "cannot pack more than 4294967295 files into one image"))?;
        let progress = self.pipeline.progress;
        progress.entries_found.fetch_add(1, Ordering::Relaxed);
        progress.bytes_found.fetch_add(size, Ordering::Relaxed);
        let entry = FileEntry { node: number, size, plain: is_plain(names), origin: Origin::Stream };
        if entry.is_small(self.block_bytes) {
            self.give_small(entry, fill)?
        } else {
            self.give_large(entry, fill)?
        }
        Ok(Content(number))
    }

    fn give_small(
        &mut self,
        entry: FileEntry,
        fill: &mut dyn FnMut(&mut [u8]) -> Result<()>,
    ) -> Result<(), Halt> {
        let bytes = entry.size as usize;
        let full = self.small.as_ref().is_some_and(|(files, _)| files.len() >= UNIT_FILES);
        if full || self.small_bytes + bytes > self.unit_bytes as usize {
            self.flush_small()?;
        }
        let (mut files, mut chunk) = match self.small.take() {
            Some(gathered) => gathered,
            None => (Vec::new(), self.chunk()?),
        };
        let room = chunk.raw.get_mut(self.small_bytes..self.small_bytes + bytes).unwrap_or_default();
        fill(room)?;
        self.small_bytes += bytes;
        files.push(entry);
        self.small = Some((files, chunk));
        Ok(())
    }

    fn give_large(
        &mut self,
        entry: FileEntry,
        fill: &mut dyn FnMut(&mut [u8]) -> Result<()>,
    ) -> Result<(), Halt> {
        self.flush_small()?;
        let size = entry.size;
        let file = Arc::new(LargeFile { entry, file: OnceLock::new(), skip: AtomicBool::new(false) });
        let mut offset = 0;
        while offset < size {
            let length = (size - offset).min(self.unit_bytes) as usize;
            let mut chunk = self.chunk()?;
            fill(chunk.raw.get_mut(..length).unwrap_or_default())?;
            self.push(Unit::Part { file: Arc::clone(&file), offset, length }, chunk)?;
            offset += length as u64;
        }
        Ok(())
    }

    fn flush_small(&mut self) -> Result<(), Halt> {
        self.small_bytes = 0;
        match self.small.take() {
            Some((files, chunk)) => self.push(Unit::Small(files), chunk),
            None => Ok(()),
        }
    }

    /// A buffer, taken before its unit is numbered.
    fn chunk(&self) -> Result<Chunk, Halt> {
        self.pipeline.check()?;
        self.pipeline.chunks.pop()?.ok_or(Halt::Elsewhere)
    }

    fn push(&mut self, unit: Unit, chunk: Chunk) -> Result<(), Halt> {
        self.pipeline.units.push(UnitJob { number: self.units, unit, chunk })?;
        self.units += 1;
        Ok(())
    }

    /// For long work without contents.
    ///
    /// # Errors
    /// The user has cancelled.
    pub fn check(&self) -> Result<(), Halt> {
        self.pipeline.check()
    }
}

/// Packs what `source` gives into a SquashFS image in `output` from `offset` on.
///
/// The same contents in the same order and the same tree give the same bytes.
///
/// # Errors
/// Those of `source`, and as [`super::pack_directory`].
pub fn pack_stream(
    source: impl FnOnce(&mut Feed<'_>) -> Result<Streamed, Halt> + Send,
    output: &File,
    offset: u64,
    options: &PackOptions,
    watch: (&Progress, &AtomicBool),
) -> Result<PackSummary> {
    let find = |pipeline: &Pipeline<'_>| {
        let mut feed = Feed::new(pipeline, options);
        let Streamed { tree, contents, warnings } = source(&mut feed)?;
        feed.flush_small()?;
        pipeline.units.finish();
        pipeline.read.finish(feed.units);
        pipeline.progress.walk_done.store(true, Ordering::Relaxed);
        let arranged = contents.into_iter().map(|(node, Content(number))| (node, number)).collect();
        Ok(Walked { tree, warnings, carry: None, arranged: Some(arranged) })
    };
    run(Source { find, base: None, marked: false }, output, offset, options, watch)
}
