//! Files that are read one after the other: which ones come next.
//!
//! They are put into the kernel's page cache before anyone asks for them ([`super::store`]), so that reading them
//! costs no request. What comes next is the order of the image: packers write inodes and data in the order of the
//! directories, and `tar`, `cp -r`, `grep -r` and `find | xargs` read them so.
//!
//! ```text
//! inode table   a b c d e f g h i j k …
//! a read        nothing yet: it may be the only one
//! b read        near after a: it may be chance
//! c read        a sequence; c's reader has d and e before we could, so hand over f g h i
//! j read        the sequence goes on: hand over m … t, but for the one in the middle, the mark
//! mark read     the reader has come so far: hand over the next, twice as many
//! ```
//!
//! A read of the mark is the only way to learn that the reader goes on, since the kernel asks nothing about files that
//! it has. A file that the kernel has not looked up yet cannot be handed over, and may be later.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::image::squashfs::{Content, Inode, Squashfs};

/// The longest file that is handed over, in bytes.
const MOST_FILE_BYTES: u64 = 512 << 10;
/// Most files, and most bytes, that are handed over ahead of a reader.
const MOST_FILES: usize = 64;
const MOST_BYTES: u64 = 4 << 20;
/// Files that are handed over first.
const FIRST_FILES: usize = 4;
/// How near, in files, the second file of a sequence is to the first.
const NEAR_FILES: usize = 4;
/// Files right after the one that is read, which are left to the reader: it would ask for them meanwhile.
const LEFT_FILES: usize = 2;
/// Other inodes (directories, links) that are passed over for each file.
const PASSED_OVER: usize = 4;
/// Sequences that are followed at a time.
const READERS: usize = 16;
/// Files that are remembered as handed over, or about to be.
const REMEMBERED: usize = 2048;

/// What is being read in sequence.
#[derive(Default)]
pub struct Follow {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Newest first.
    readers: VecDeque<Reader>,
    /// Places of the files that are handed over, or about to be; and the same in order of arrival.
    given: HashSet<u64>,
    order: VecDeque<u64>,
}

/// One sequence. Places are those of inodes in the table ([`crate::image::squashfs::InodeRef`]).
struct Reader {
    /// The file read last.
    at: u64,
    /// A file up to here goes on with the sequence.
    until: u64,
    /// The file that is left out, so that its read is seen.
    mark: u64,
    /// How many files to hand over next; 0 while there was but one.
    files: usize,
}

impl Follow {
    /// Notes that `inode` is being read from its start, and gives the files to hand over.
    pub fn note(&self, image: &Squashfs, inode: &Arc<Inode>) -> Vec<Arc<Inode>> {
        let place = inode.reference.0;
        let mut state = self.lock();
        let was_given = state.given.remove(&place);
        let found = state.readers.iter().position(|reader| reader.at < place && place <= reader.until);
        let Some(mut reader) = found.and_then(|index| state.readers.remove(index)) else {
            let until = after(image, inode, NEAR_FILES).last().map_or(place, |last| last.reference.0);
            state.readers.push_front(Reader { at: place, until, mark: 0, files: 0 });
            state.readers.truncate(READERS);
            return Vec::new();
        };
        reader.at = place;
        let next = if was_given {
            // The reader is faster than we are: it must not meet us at the next file.
            for file in after(image, inode, LEFT_FILES) {
                state.given.remove(&file.reference.0);
            }
            Vec::new()
        } else {
            state.next_files(image, inode, &mut reader)
        };
        state.readers.push_front(reader);
        next
    }

    /// Whether the file is still to be handed over: its reader may have been faster.
    pub fn is_wanted(&self, inode: &Inode) -> bool {
        self.lock().given.contains(&inode.reference.0)
    }

    /// The file could not be handed over; it may be asked for again.
    pub fn not_given(&self, inode: &Inode) {
        self.lock().given.remove(&inode.reference.0);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The files to hand over now that `inode` was read.
    fn next_files(&mut self, image: &Squashfs, inode: &Arc<Inode>, reader: &mut Reader) -> Vec<Arc<Inode>> {
        let mut next = after(image, inode, LEFT_FILES + reader.files.max(FIRST_FILES));
        if let Some(last) = next.last() {
            reader.until = reader.until.max(last.reference.0);
        }
        if reader.files == 0 {
            reader.files = FIRST_FILES;
            return Vec::new();
        }
        next.drain(..LEFT_FILES.min(next.len()));
        reader.mark = next.get(next.len() / 2).map_or(0, |file| file.reference.0);
        reader.files = (reader.files * 2).min(MOST_FILES);
        next.retain(|file| file.reference.0 != reader.mark && !self.given.contains(&file.reference.0));
        for file in &next {
            self.given.insert(file.reference.0);
            self.order.push_back(file.reference.0);
        }
        while self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.given.remove(&oldest);
        }
        next
    }
}

/// Up to `files` files that come after `inode`, small enough to be handed over.
fn after(image: &Squashfs, inode: &Arc<Inode>, files: usize) -> Vec<Arc<Inode>> {
    let (mut found, mut bytes) = (Vec::with_capacity(files), 0);
    let mut at = Arc::clone(inode);
    for _ in 0..files * PASSED_OVER {
        // What is broken is reported to who really reads it.
        let Ok(Some(next)) = image.inode_after(&at) else { break };
        let Ok(next) = image.inode(next) else { break };
        at = next;
        if matches!(at.content, Content::Regular(_)) && (1..=MOST_FILE_BYTES).contains(&at.size) {
            bytes += at.size;
            found.push(Arc::clone(&at));
            if found.len() == files || bytes > MOST_BYTES {
                break;
            }
        }
    }
    found
}
