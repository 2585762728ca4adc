//! Layers of an OCI image, packed without being unpacked.
//!
//! ```text
//! layer n   ── decode ──► entries ──► content that shows ──► Feed      newest first, a thread for each decoder
//! ...
//! layer 0   ── decode ──► entries ──► content that shows ──► Feed
//!                           └─ merge, the oldest first: the tree; contents that the guess has missed are fetched
//! ```
//!
//! `hidden` guesses from the names in newer layers what shows, so that each file is compressed once; `merge` knows.
//! The order of contents is that of the layers, so the result does not depend on the number of threads.

mod decode;
mod entry;
mod hidden;
mod merge;
mod pax;
mod read;
mod sparse;
mod tree;

pub use decode::{FREE_BYTES, decompress, is_compressed};
pub use entry::plain as plain_path;

use super::{Addition, Blob};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::pack::{self, Content, Feed, Halt, PackOptions, PackSummary, Progress, Streamed};
use decode::Decoded;
use entry::{Entry, Name, What, meaning, names};
use hidden::Hidden;
use merge::{Data, Kept, Kind, Merged, Place};
use read::Entries;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::sync::atomic::AtomicBool;
use std::thread::Scope;

/// What headers may take in memory, in bytes. The largest images have a few millions of files.
const HEADERS_BYTES: u64 = 4 << 30;
/// Decoders at once; each may have a window of 128 MiB for zstd.
const DECODERS: usize = 4;

/// What is to be packed.
#[derive(Debug, Clone, Copy)]
pub struct Layers<'a> {
    /// The layers, the oldest first.
    pub blobs: &'a [Blob],
    /// What is laid over them.
    pub additions: &'a [Addition],
    /// What each may expand to whatever its length: [`FREE_BYTES`].
    pub free_bytes: u64,
}

/// Packs what `layers` show into a SquashFS image in `output` from `offset` on.
///
/// # Errors
/// A layer that is damaged, or an entry that makes no sense: it is named. And as [`pack::pack_stream`].
pub fn pack_layers(
    layers: &Layers<'_>,
    output: &File,
    offset: u64,
    options: &PackOptions,
    watch: (&Progress, &AtomicBool),
) -> Result<PackSummary> {
    let source = |feed: &mut Feed<'_>| give(layers, feed, options);
    pack::pack_stream(source, output, offset, options, watch)
}

/// Gives all contents, then the tree.
fn give(layers: &Layers<'_>, feed: &mut Feed<'_>, options: &PackOptions) -> Result<Streamed, Halt> {
    let mut hidden = Hidden::default();
    let mut headers_bytes = 0;
    let mut kept = Vec::new();
    let newest_first: Vec<&Blob> = layers.blobs.iter().rev().collect();
    let decoders = Decoders::of(layers, options);
    decoders.read_each(&newest_first, &mut |blob, mut entries| {
        kept.push(
            read_layer(&mut entries, &mut hidden, &mut headers_bytes, feed).map_err(|halt| of(blob, halt))?,
        );
        hidden.next_layer();
        Ok(())
    })?;
    drop(hidden);
    let mut merged = Merged::new();
    for ((number, blob), entries) in layers.blobs.iter().enumerate().zip(kept.into_iter().rev()) {
        feed.check()?;
        merged.apply(number, entries).map_err(|error| of(blob, error.into()))?;
    }
    fetch_missing(layers, &mut merged, decoders, feed)?;
    for addition in layers.additions {
        tree::add(&mut merged, addition, feed)?;
    }
    Ok(tree::streamed(&merged, options)?)
}

/// What is wrong with a layer.
fn of(blob: &Blob, halt: Halt) -> Halt {
    match halt {
        Halt::Failed(error) if error.kind == ErrorKind::Image => {
            let hint = "the image was made wrong, or is hostile; nothing of it was written";
            let hint = error.hint.clone().unwrap_or_else(|| hint.into());
            let whole = Error::image(format!("cannot unpack layer {}", blob.digest.short()));
            Halt::Failed(whole.because(error).hint(hint))
        }
        halt => halt,
    }
}

/// How layers are decoded.
#[derive(Debug, Clone, Copy)]
struct Decoders {
    /// So many at once.
    count: usize,
    free_bytes: u64,
}

impl Decoders {
    fn of(layers: &Layers<'_>, options: &PackOptions) -> Self {
        Self { count: options.threads.clamp(1, DECODERS), free_bytes: layers.free_bytes }
    }

    /// Decodes the layers in this order, some of them ahead, and hands on each.
    fn read_each<'b>(
        self,
        blobs: &[&'b Blob],
        act: &mut dyn FnMut(&'b Blob, Entries) -> Result<(), Halt>,
    ) -> Result<(), Halt> {
        let count = self.count.min(blobs.len());
        std::thread::scope(|scope| {
            let mut ahead = VecDeque::new();
            let mut waiting = blobs.iter().copied();
            for blob in waiting.by_ref().take(count) {
                ahead.push_back((blob, self.start(scope, blob)?));
            }
            while let Some((blob, entries)) = ahead.pop_front() {
                act(blob, entries)?;
                if let Some(next) = waiting.next() {
                    ahead.push_back((next, self.start(scope, next)?));
                }
            }
            Ok(())
        })
    }

    fn start<'s>(self, scope: &'s Scope<'s, '_>, blob: &'s Blob) -> Result<Entries> {
        let limit = decode::limit(blob.size, self.free_bytes);
        Ok(Entries::new(Decoded::start(scope, blob, self.count, limit)?, limit))
    }
}

/// Reads a layer: keeps its entries, gives the contents that show.
fn read_layer(
    entries: &mut Entries,
    hidden: &mut Hidden,
    headers_bytes: &mut u64,
    feed: &mut Feed<'_>,
) -> Result<Vec<Kept>, Halt> {
    let mut kept = Vec::new();
    while let Some(entry) = entries.next()? {
        *headers_bytes += weight(&entry);
        if *headers_bytes > HEADERS_BYTES {
            let message =
                format!("its entries and those of newer layers take more than {HEADERS_BYTES} bytes");
            return Err(Error::image(message).into());
        }
        let meaning = meaning(&entry.path)?;
        hidden.note(&entry.path, meaning, &entry.what);
        let content = match entry.what {
            What::Regular(size) if size > 0 && meaning == Name::File && !hidden.hides(&entry.path) => {
                Some(give_content(entries, &entry, size, feed)?)
            }
            _ => None,
        };
        kept.push(Kept { entry, content });
    }
    Ok(kept)
}

fn give_content(
    entries: &mut Entries,
    entry: &Entry,
    size: u64,
    feed: &mut Feed<'_>,
) -> Result<Content, Halt> {
    feed.give(size, names(&entry.path).rev(), &mut |buffer| {
        entries.fill(buffer).map_err(|error| entry::wrong(&entry.path, "cannot read it").because(error))
    })
}

/// About what an entry takes in memory.
fn weight(entry: &Entry) -> u64 {
    let target = match &entry.what {
        What::Link(target) | What::Symlink(target) => target.len(),
        _ => 0,
    };
    let xattrs = entry.attributes.xattrs.iter().flat_map(|set| set.iter());
    let xattrs: usize = xattrs.map(|(name, value)| name.len() + value.len() + 32).sum();
    (256 + 2 * entry.path.len() + target + xattrs) as u64
}

/// Reads once more the layers that have files which show although their names are hidden.
fn fetch_missing(
    layers: &Layers<'_>,
    merged: &mut Merged,
    decoders: Decoders,
    feed: &mut Feed<'_>,
) -> Result<(), Halt> {
    let mut missing = BTreeMap::<Place, u32>::new();
    for inode in tree::reachable(merged) {
        if let Some(Kind::Regular(_, Data::Missing(place))) =
            merged.inodes.get(inode as usize).map(|i| &i.kind)
        {
            missing.insert(*place, inode);
        }
    }
    for (number, blob) in layers.blobs.iter().enumerate().rev() {
        let place = |entry| Place { layer: number, entry };
        let wanted = missing.range(place(0)..=place(usize::MAX)).map(|(place, inode)| (place.entry, *inode));
        let wanted: BTreeMap<usize, u32> = wanted.collect();
        if wanted.is_empty() {
            continue;
        }
        decoders.read_each(&[blob], &mut |blob, mut entries| {
            fetch(&mut entries, &wanted, merged, feed).map_err(|halt| of(blob, halt))
        })?;
    }
    Ok(())
}

/// Gives the contents of some entries of a layer.
fn fetch(
    entries: &mut Entries,
    wanted: &BTreeMap<usize, u32>,
    merged: &mut Merged,
    feed: &mut Feed<'_>,
) -> Result<(), Halt> {
    let mut number = 0;
    while let Some(entry) = entries.next()? {
        if let Some(&inode) = wanted.get(&number)
            && let What::Regular(size) = entry.what
        {
            let content = give_content(entries, &entry, size, feed)?;
            if let Some(inode) = merged.inodes.get_mut(inode as usize) {
                inode.kind = Kind::Regular(size, Data::Packed(content));
            }
        }
        number += 1;
    }
    Ok(())
}
