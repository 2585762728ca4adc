//! The workers, which compress jobs in any order, and the writer, which appends their results in order.

use super::carry::{Copying, Run};
use super::compress::{Compression, Compressor};
use super::format::{DATA_RAW, NONE};
use super::pipeline::{Chunk, Done, Halt, JOB_BLOCKS, Job, Pipeline, Target};
use super::{Progress, ensure_wanted};
use crate::error::{Error, Kind};
use crate::image::source::Source;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use xxhash_rust::xxh3::Xxh3;

/// Compresses jobs until there are no more.
///
/// # Errors
/// A compressor that fails, or a stop from elsewhere.
pub fn compress_jobs(
    pipeline: &Pipeline<'_>,
    compression: Compression,
    block_bytes: u32,
) -> Result<(), Halt> {
    let mut compressor = Compressor::new(compression, block_bytes)?;
    while let Some(Job { number, mut chunk, length, zeros, plain, target }) = pipeline.jobs.pop()? {
        pipeline.check()?;
        let mut sizes = [0_u32; JOB_BLOCKS];
        let mut packed_bytes = 0;
        let (mut blocks, mut stored_whole) = (0, false);
        let Chunk { raw, packed, .. } = &mut chunk;
        let data = raw.get(..length).unwrap_or_default();
        for ((index, block), size) in data.chunks(block_bytes as usize).enumerate().zip(&mut sizes) {
            blocks += 1;
            if zeros >> index & 1 == 1 {
                continue;
            }
            let Some(room) = packed.get_mut(packed_bytes..) else { return Err(Halt::Elsewhere) };
            let shrunk = if plain { None } else { compressor.compress(block, room)? };
            let stored = match shrunk {
                Some(stored) => {
                    *size = stored as u32;
                    stored
                }
                None => {
                    *size = block.len() as u32 | DATA_RAW;
                    stored_whole = block.len() == length;
                    if !stored_whole && let Some(room) = room.get_mut(..block.len()) {
                        room.copy_from_slice(block);
                    }
                    block.len()
                }
            };
            packed_bytes += stored;
        }
        // A job of one block that does not shrink is written from where it was read to.
        if stored_whole {
            std::mem::swap(raw, packed);
        }
        pipeline.done.insert(number, Done { chunk, packed_bytes, sizes, blocks, target })?;
    }
    Ok(())
}

/// How much is copied at a time by the kernel, and by reading and writing. In between the user may cancel.
const KERNEL_PIECE: u64 = 16 << 20;
const PIECE: u64 = 1 << 20;

/// Consecutive data blocks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where the first block is, from the start of the image.
    pub start: u64,
    /// Where its blocks' sizes begin in [`Written::sizes`].
    pub first: usize,
    /// How many blocks.
    pub blocks: usize,
}

/// What the writer wrote where.
#[derive(Debug, Default)]
pub struct Written {
    /// By number.
    pub extents: Vec<Extent>,
    /// Of all blocks of all extents.
    pub sizes: Vec<u32>,
    /// Place and size of each fragment.
    pub fragments: Vec<(u64, u32)>,
}

/// The output file from a place on. Only ever appended to, but for the superblock.
pub struct Output<'a> {
    file: &'a File,
    offset: u64,
    /// Bytes written so far, from the start of the image.
    pub position: u64,
    hash: Option<Xxh3>,
}

impl<'a> Output<'a> {
    /// Appends from `offset + position` on. With `digest`, what is appended is hashed.
    pub fn new(file: &'a File, offset: u64, position: u64, digest: bool) -> Self {
        Self { file, offset, position, hash: digest.then(Xxh3::new) }
    }

    /// Writes at the end.
    ///
    /// # Errors
    /// The system's, with what to do when the disk is full.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all_at(bytes, self.offset + self.position).map_err(cannot_write)?;
        self.position += bytes.len() as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        Ok(())
    }

    /// Goes back to an earlier end: what was written since is given up.
    ///
    /// # Errors
    /// As [`Output::append`].
    fn go_back(&mut self, position: u64) -> Result<(), Error> {
        self.position = position;
        self.file.set_len(self.offset + position).map_err(cannot_write)
    }

    /// Copies the runs to the end, by the kernel where it can and nobody wants to see the bytes.
    ///
    /// # Errors
    /// As [`Output::append`]; a base that cannot be read or is cut short.
    pub fn copy(
        &mut self,
        copying: &Copying<'_>,
        (progress, cancel): (&Progress, &AtomicBool),
    ) -> Result<(), Error> {
        let Some(source) = copying.source else { return Ok(()) };
        let mut by_kernel = self.hash.is_none();
        let mut buffer = Vec::new();
        for &Run { from, to, bytes } in &copying.runs {
            debug_assert_eq!(to, self.position);
            let mut done = 0;
            while done < bytes {
                ensure_wanted(cancel)?;
                let before = self.position;
                let left = bytes - done;
                // A file system that cannot, or an error: then reading and writing say which of the two it is.
                by_kernel = by_kernel && self.copy_by_kernel(source, from + done, left.min(KERNEL_PIECE));
                if !by_kernel {
                    buffer.resize(left.min(PIECE) as usize, 0);
                    source.read_exact_at(&mut buffer, from + done).map_err(cannot_read)?;
                    self.append(&buffer)?;
                }
                done += self.position - before;
                progress.bytes_written.fetch_add(self.position - before, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn copy_by_kernel(&mut self, source: &Source, from: u64, bytes: u64) -> bool {
        let (mut from, mut to) = (source.offset() + from, self.offset + self.position);
        let (file, bytes) = (&**source.file(), bytes as usize);
        match rustix::fs::copy_file_range(file, Some(&mut from), self.file, Some(&mut to), bytes) {
            Ok(count) if count > 0 => {
                self.position += count as u64;
                true
            }
            _ => false,
        }
    }

    /// Writes at the start of the image.
    ///
    /// # Errors
    /// As [`Output::append`].
    pub fn write_first(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all_at(bytes, self.offset).map_err(cannot_write)?;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        Ok(())
    }

    /// Of all that was written, if it was asked for.
    pub fn digest(&self) -> Option<u128> {
        self.hash.as_ref().map(Xxh3::digest128)
    }
}

fn cannot_read(error: io::Error) -> Error {
    let result = Error::new(Kind::Image, "cannot read the base image").because(error);
    result.hint("if it is cut short, copy, download or build it again")
}

fn cannot_write(error: io::Error) -> Error {
    let full = matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    );
    let result = Error::new(Kind::Io, "cannot write the image").because(error);
    if full { result.hint("free some space, or write the image to another file system") } else { result }
}

/// Appends the results of all jobs in order.
///
/// # Errors
/// A write that fails, or a stop from elsewhere.
pub fn write_jobs(pipeline: &Pipeline<'_>, output: &mut Output<'_>) -> Result<Written, Halt> {
    let mut written = Written::default();
    let mut extent = NONE;
    while let Some(done) = pipeline.done.take()? {
        pipeline.check()?;
        let start = output.position;
        let sizes = done.sizes.get(..done.blocks).unwrap_or_default();
        match done.target {
            Target::Extent(number) => {
                if number != extent {
                    extent = number;
                    let first = written.sizes.len();
                    written.extents.push(Extent { start, first, blocks: 0 });
                }
                if let Some(extent) = written.extents.last_mut() {
                    extent.blocks += sizes.len();
                }
                written.sizes.extend_from_slice(sizes);
            }
            Target::Fragment => written.fragments.extend(sizes.iter().map(|&size| (start, size))),
            // Nothing else has been written since it began.
            Target::GiveUp => {
                extent = NONE;
                if let Some(Extent { start, first, .. }) = written.extents.pop() {
                    written.sizes.truncate(first);
                    output.go_back(start)?;
                }
            }
        }
        output.append(done.chunk.packed.get(..done.packed_bytes).unwrap_or_default())?;
        pipeline.progress.bytes_written.fetch_add(done.packed_bytes as u64, Ordering::Relaxed);
        pipeline.recycle(done.chunk)?;
    }
    Ok(written)
}
