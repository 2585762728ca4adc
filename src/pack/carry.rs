//! What of a base is carried over as it is stored, neither decoded nor compressed again.
//!
//! It can be where base and output have the same compressor and block size. Only what files still use is copied,
//! in the base's order and in runs as long as can be: where little was changed, that is most of the data in a few
//! pieces. A place in the output follows from the place in the base by the run that it lies in, so that blocks which
//! files share stay shared.
//!
//! ```text
//! base     ▓▓▓▓▓▓▓▓▓▓▓▓▓░░▓▓▓▓▓▓▓▓▓▓▓░▓▓▓▓▓▓▓│ inodes ...         ░ of files that do not show any more
//!          └────┬──────┘  └────┬────┘ └──┬───┘
//! output   new  └──run──┬──run─┴──run────┘
//!          ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓│ inodes ...
//! ```
//!
//! Fragments are shared by many files, so that a change leaves holes in some. Those with the largest holes are taken
//! apart: their tail ends that are in use go through the pipeline into new fragments. As many are as it takes for the
//! holes in the rest to be one part in [`HOLES_SHARE`] of the data, which makes the work grow with the change.

use super::data::{Extent, Written};
use super::sequence::{Contents, Place};
use crate::error::{Error, Kind, Result};
use crate::image::source::Source;
use crate::image::squashfs::{Inode, Squashfs, Tail};
use std::collections::{BTreeMap, HashMap, HashSet};

/// One part in so many of what is carried over may be holes in fragments.
const HOLES_SHARE: u64 = 200;

/// A file whose content is in the base.
struct Carried {
    node: u32,
    /// It may be: whoever reads the file that hides it will tell.
    twin: bool,
    start: u64,
    bytes: u64,
    /// Where its blocks' sizes begin in [`Carry::words`], and how many it has.
    first: usize,
    blocks: usize,
    tail: Option<Tail>,
}

/// Collects what is carried over.
pub struct Carry<'a> {
    image: &'a Squashfs,
    files: Vec<Carried>,
    /// Of all blocks of all files.
    words: Vec<u32>,
    /// How far each fragment is known to reach, decoded: the end of the last tail end met in it.
    ends: HashMap<u32, u32>,
    /// Fragments that are taken apart.
    apart: HashSet<u32>,
}

/// Consecutive bytes to be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Where in the base.
    pub from: u64,
    /// Where in the output, from the start of the image.
    pub to: u64,
    /// How many.
    pub bytes: u64,
}

/// What is to be copied, in the order of both images.
#[derive(Default)]
pub struct Copying<'a> {
    /// What from, if there is anything.
    pub source: Option<&'a Source>,
    /// The pieces.
    pub runs: Vec<Run>,
}

/// A fragment to be taken apart, and the pieces of it that are in use.
pub type Apart = (u32, Vec<(u32, u32)>);

impl<'a> Carry<'a> {
    /// Nothing yet.
    pub fn new(image: &'a Squashfs) -> Self {
        let (files, words) = (Vec::new(), Vec::new());
        Self { image, files, words, ends: HashMap::new(), apart: HashSet::new() }
    }

    /// The content of `node` is that of `inode`.
    pub fn keep(&mut self, node: u32, inode: &Inode) -> Result<()> {
        self.add(node, inode, false)
    }

    /// The content of `node` may be that of `inode`.
    pub fn keep_twin(&mut self, node: u32, inode: &Inode) -> Result<()> {
        self.add(node, inode, true)
    }

    /// The content of `inode` is not needed.
    pub fn leave(&mut self, inode: &Inode) {
        // A damaged file that does not show does no harm.
        if let Ok(Some(tail)) = self.image.stored_tail(inode) {
            self.note_end(tail);
        }
    }

    fn add(&mut self, node: u32, inode: &Inode, twin: bool) -> Result<()> {
        let first = self.words.len();
        // All lists stand in the inode table, four bytes a block: so many can be there if no two share a place.
        let superblock = self.image.superblock();
        let table_blocks = superblock.directory_table.saturating_sub(superblock.inode_table) / 3 + 1;
        let room = (table_blocks.saturating_mul(2048) as usize).saturating_sub(first);
        let (start, bytes) = self.image.stored_blocks(inode, &mut self.words, room)?;
        let tail = self.image.stored_tail(inode)?;
        if let Some(tail) = tail {
            self.note_end(tail);
        }
        let blocks = self.words.len() - first;
        self.files.push(Carried { node, twin, start, bytes, first, blocks, tail });
        Ok(())
    }

    fn note_end(&mut self, tail: Tail) {
        let end = self.ends.entry(tail.fragment).or_default();
        *end = (*end).max(tail.offset + tail.bytes);
    }

    /// Decides which fragments are taken apart, once all files are known.
    ///
    /// # Errors
    /// A fragment that does not exist.
    pub fn plan(&mut self) -> Result<Vec<Apart>> {
        let pieces = self.pieces();
        let mut carried: u64 = self.files.iter().map(|file| file.bytes).sum();
        let mut holes = Vec::new();
        for (&fragment, pieces) in &pieces {
            let stored = self.image.stored_fragment(fragment)?.bytes();
            let used: u32 = pieces.iter().map(|(start, end)| end - start).sum();
            let end = self.ends.get(&fragment).copied().unwrap_or(used).max(1);
            carried += stored;
            holes.push((stored * u64::from(end - used.min(end)) / u64::from(end), fragment));
        }
        holes.sort_unstable_by(|a, b| b.cmp(a));
        let mut left: u64 = holes.iter().map(|(hole, _)| hole).sum();
        for (hole, fragment) in holes {
            if left <= carried / HOLES_SHARE {
                break;
            }
            left -= hole;
            self.apart.insert(fragment);
        }
        Ok(pieces.into_iter().filter(|(fragment, _)| self.apart.contains(fragment)).collect())
    }

    /// The parts of each fragment that are in use. Tail ends that overlap, as equal files' do, are one.
    fn pieces(&self) -> BTreeMap<u32, Vec<(u32, u32)>> {
        let mut tails: Vec<Tail> = self.files.iter().filter_map(|file| file.tail).collect();
        tails.sort_unstable_by_key(|tail| (tail.fragment, tail.offset));
        let mut pieces: BTreeMap<u32, Vec<(u32, u32)>> = BTreeMap::new();
        for tail in tails {
            let here = pieces.entry(tail.fragment).or_default();
            let end = tail.offset + tail.bytes;
            match here.last_mut().filter(|last| tail.offset < last.1) {
                Some(last) => last.1 = last.1.max(end),
                None => here.push((tail.offset, end)),
            }
        }
        pieces
    }

    /// Says where all that is carried over will be, if it is copied to `position`: tells `contents` and `written`, and
    /// gives what is to be copied.
    ///
    /// # Errors
    /// A fragment that does not exist.
    pub fn settle(
        mut self,
        contents: &mut Contents,
        written: &mut Written,
        position: u64,
    ) -> Result<Copying<'a>> {
        let equal: HashSet<u32> = contents.twins.iter().copied().collect();
        self.files.retain(|file| !file.twin || equal.contains(&file.node));
        let tails = self.files.iter().filter_map(|file| file.tail).map(|tail| tail.fragment);
        let mut whole: Vec<u32> = tails.filter(|fragment| !self.apart.contains(fragment)).collect();
        whole.sort_unstable();
        whole.dedup();
        let mut fragments = HashMap::new();
        let mut ranges: Vec<(u64, u64)> = self.files.iter().map(|file| (file.start, file.bytes)).collect();
        for (number, &fragment) in (written.fragments.len() as u32..).zip(&whole) {
            let block = self.image.stored_fragment(fragment)?;
            ranges.push((block.position, block.bytes()));
            fragments.insert(fragment, (number, block));
        }
        let runs = plan_runs(ranges, position);
        for fragment in &whole {
            if let Some((_, block)) = fragments.get(fragment) {
                written.fragments.push((new_place(&runs, block.position)?, block.word));
            }
        }
        let words = written.sizes.len();
        written.sizes.append(&mut self.words);
        for file in &self.files {
            let mut place = Place::EMPTY;
            if file.blocks > 0 {
                place.extent = written.extents.len() as u32;
                let start = if file.bytes > 0 { new_place(&runs, file.start)? } else { 0 };
                written.extents.push(Extent { start, first: words + file.first, blocks: file.blocks });
            }
            if let Some(tail) = file.tail {
                (place.fragment, place.fragment_offset) = match fragments.get(&tail.fragment) {
                    Some(&(number, _)) => (number, tail.offset),
                    None => contents.tail(tail)?,
                };
            }
            contents.set_place(file.node, place);
        }
        Ok(Copying { source: Some(self.image.source()), runs })
    }
}

/// Orders the ranges, joins those that touch, and gives them places one after the other.
fn plan_runs(mut ranges: Vec<(u64, u64)>, position: u64) -> Vec<Run> {
    ranges.retain(|&(_, bytes)| bytes > 0);
    ranges.sort_unstable();
    let mut runs: Vec<Run> = Vec::new();
    let mut to = position;
    for (from, bytes) in ranges {
        match runs.last_mut().filter(|last| from <= last.from + last.bytes) {
            Some(last) => {
                let more = (from + bytes).saturating_sub(last.from + last.bytes);
                last.bytes += more;
                to += more;
            }
            None => {
                runs.push(Run { from, to, bytes });
                to += bytes;
            }
        }
    }
    runs
}

/// Where a place of the base comes to be.
fn new_place(runs: &[Run], from: u64) -> Result<u64> {
    let after = runs.partition_point(|run| run.from <= from);
    let run = after.checked_sub(1).and_then(|before| runs.get(before));
    let run = run.ok_or_else(|| Error::new(Kind::Internal, "a block of the base is in no run"))?;
    Ok(run.to + (from - run.from))
}

impl Contents {
    /// Where the end of a file of the base came to be, whose fragment was taken apart.
    fn tail(&self, tail: Tail) -> Result<(u32, u32)> {
        let pieces = self.tails.range(..=(tail.fragment, tail.offset));
        match pieces.last() {
            Some((&(fragment, start), &(number, offset))) if fragment == tail.fragment => {
                Ok((number, offset + (tail.offset - start)))
            }
            _ => Err(Error::new(Kind::Internal, "the end of a file of the base was lost")),
        }
    }
}

impl Copying<'_> {
    /// How much there is to copy.
    pub fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_or_overlap_become_one_run() {
        let ranges = vec![(500, 10), (96, 4), (100, 50), (120, 100), (130, 5), (0, 0), (220, 1), (505, 5)];
        let runs = plan_runs(ranges, 1000);
        assert_eq!(runs, [Run { from: 96, to: 1000, bytes: 125 }, Run { from: 500, to: 1125, bytes: 10 }]);
        assert_eq!(new_place(&runs, 96).unwrap(), 1000);
        assert_eq!(new_place(&runs, 130).unwrap(), 1034);
        assert_eq!(new_place(&runs, 505).unwrap(), 1130);
        assert!(new_place(&runs, 95).is_err());
        assert!(plan_runs(Vec::new(), 7).is_empty());
    }
}
