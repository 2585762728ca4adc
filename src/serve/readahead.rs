//! Reading ahead: decoding the next blocks before the kernel asks for them, on processors that are idle.
//!
//! Four patterns are seen. *A file read in sequence*: the blocks after the one just read. *Files read in the order
//! of the image* (tar, cp -r): the fragment block after the one just read, since small files that lie together are
//! packed together. *A program or library that is opened*: it is mapped, and read by page faults here and there, each
//! of which would wait for a block to be decoded; so its blocks are decoded at once. *Files one after the other*: those
//! that come next are put into the page cache ([`super::follow`]).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;

use super::follow::Follow;
use super::store::Storer;
use super::walk::{Walk, Watch};
use crate::image::squashfs::{Block, Content, Inode, Part, Squashfs};
use crate::sys::processors;

/// Files whose last read is remembered.
const REMEMBERED: usize = 64;
/// Most blocks ahead of a reader.
const MOST_AHEAD: u64 = 4;
/// Work that waits; more is dropped, since the readers are faster than we are then.
const MOST_WAITING: usize = 32;
/// Blocks of a program or library that are decoded when it is opened.
const PROGRAM_BLOCKS: u64 = 16;

/// One thing to do ahead of a reader.
enum Work {
    Block(Arc<Inode>, u64),
    Fragment(u32),
    /// To be put into the page cache, or tried `again`.
    Files {
        files: Vec<Arc<Inode>>,
        again: bool,
    },
}

/// What was read last, and what is to be decoded.
pub struct ReadAhead {
    state: Mutex<State>,
    follow: Follow,
    walk: Arc<Walk>,
}

#[derive(Default)]
struct State {
    /// Newest first.
    readers: VecDeque<Reader>,
    last_fragment: Option<u32>,
    waiting: VecDeque<Work>,
    asleep: Vec<Sleeper>,
}

/// A thread that waits for work.
struct Sleeper {
    thread: Thread,
    /// The processor that it is kept to.
    processor: Option<usize>,
}

/// One file that is being read.
struct Reader {
    reference: u64,
    /// The block that comes after the last read.
    next: u64,
    /// Up to which block decoding was asked for.
    asked: u64,
    /// How far ahead to go; grows while reading goes on in sequence.
    ahead: u64,
}

impl ReadAhead {
    pub fn new(walk: Arc<Walk>) -> Self {
        Self { state: Mutex::default(), follow: Follow::default(), walk }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `size` bytes of `inode` at `offset` were read, and asks for what comes next; with `store`, also for
    /// the files that do.
    pub fn note(&self, image: &Squashfs, inode: &Arc<Inode>, (offset, size): (u64, u32), store: bool) {
        let block_bytes = u64::from(image.superblock().block_size);
        let blocks = inode.size.div_ceil(block_bytes);
        let end = offset.saturating_add(u64::from(size)).min(inode.size);
        if end <= offset {
            return;
        }
        let (first, after) = (offset / block_bytes, end.div_ceil(block_bytes));
        let program = offset == 0 && end < inode.size && is_program(image, inode);
        let files = if store && offset == 0 { self.follow.note(image, inode) } else { Vec::new() };
        let mut state = self.lock();
        let before = state.waiting.len();
        for index in state.next_blocks(inode.reference.0, first, after, blocks) {
            state.ask(Work::Block(Arc::clone(inode), index));
        }
        for index in after..if program { blocks.min(PROGRAM_BLOCKS) } else { 0 } {
            state.ask(Work::Block(Arc::clone(inode), index));
        }
        if let Some(fragment) = fragment_of(inode).filter(|_| after == blocks)
            && let Some(next) = state.next_fragment(fragment)
        {
            state.ask(Work::Fragment(next));
        }
        if !files.is_empty() {
            state.waiting.push_back(Work::Files { files, again: false });
        }
        let asked = state.waiting.len() - before;
        self.wake(state, asked);
    }

    /// Notes that the kernel is about to be told of `inode`.
    pub fn tell(&self, inode: &Inode) {
        self.follow.tell(inode);
    }

    /// Asks for the files that the kernel was just told of, if they come next.
    pub fn told(&self, image: &Squashfs) {
        for (files, again) in [(self.follow.again(), true), (self.follow.told(image), false)] {
            if !files.is_empty() {
                let mut state = self.lock();
                state.waiting.push_back(Work::Files { files, again });
                self.wake(state, 1);
            }
        }
    }

    /// Wakes up to `wanted` threads, those first that are kept to another processor than the caller's. In a walk one is
    /// awake, and the other processor has enough to do.
    fn wake(&self, mut state: MutexGuard<'_, State>, wanted: usize) {
        if self.walk.awake().is_some() {
            return;
        }
        let here = processors::here();
        let mut next = || {
            let sleepers = &mut state.asleep;
            let elsewhere = sleepers.iter().position(|sleeper| sleeper.processor != here);
            Some(sleepers.swap_remove(elsewhere.or(sleepers.len().checked_sub(1))?).thread)
        };
        let threads: Vec<Thread> = (0..wanted).map_while(|_| next()).collect();
        drop(state);
        threads.iter().for_each(Thread::unpark);
    }

    /// Does what is asked for, for ever, in a thread that is kept to a processor, or to none.
    pub fn work(&self, image: &Squashfs, storer: &Storer<'_>, processor: Option<usize>) {
        let thread = std::thread::current();
        let mut watch = processor.map(|processor| self.walk.watch(processor));
        loop {
            let keeps_awake = watch.as_ref().is_some_and(Watch::is_on);
            let mut state = self.lock();
            // Still there if it was not for work that it was woken.
            state.asleep.retain(|sleeper| sleeper.thread.id() != thread.id());
            let Some(work) = state.waiting.pop_front() else {
                if !keeps_awake {
                    state.asleep.push(Sleeper { thread: thread.clone(), processor });
                }
                drop(state);
                match watch.as_mut().filter(|_| keeps_awake) {
                    Some(watch) => watch.keep_awake(|| !self.lock().waiting.is_empty()),
                    None => std::thread::park(),
                }
                continue;
            };
            drop(state);
            // What cannot be decoded is reported to who really reads it.
            match work {
                Work::Block(inode, index) => drop(image.prefetch_block(&inode, index)),
                Work::Fragment(index) => drop(image.prefetch_fragment(index)),
                Work::Files { files, again } => self.store(image, &files, again, storer),
            }
            give_way();
        }
    }

    fn store(&self, image: &Squashfs, files: &[Arc<Inode>], again: bool, storer: &Storer<'_>) {
        for file in files {
            if self.follow.is_wanted(file) {
                match storer.store(image, file) {
                    Ok(()) => {}
                    Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                        self.follow.not_known(file, again);
                    }
                    Err(_) => self.follow.not_given(file),
                }
            }
            give_way();
        }
    }
}

/// Lets a thread that was woken on this core answer its request first: the scheduler would let a busy thread finish its
/// slice, milliseconds in which a reader waits for an answer of microseconds.
pub fn give_way() {
    std::thread::yield_now();
}

/// Whether the file is an ELF file that has to be decoded; its first block was just read.
fn is_program(image: &Squashfs, inode: &Inode) -> bool {
    matches!(image.part(inode, 0), Ok(Part::Block(Block::Data(bytes))) if bytes.starts_with(b"\x7fELF"))
}

fn fragment_of(inode: &Inode) -> Option<u32> {
    match &inode.content {
        Content::Regular(data) => data.fragment(),
        _ => None,
    }
}

impl State {
    /// The blocks worth decoding after blocks `first..after` of a file of `blocks` were read.
    fn next_blocks(&mut self, reference: u64, first: u64, after: u64, blocks: u64) -> std::ops::Range<u64> {
        let known = self.readers.iter().position(|reader| reader.reference == reference);
        let mut reader = match known.and_then(|index| self.readers.remove(index)) {
            // The kernel reads ahead itself and may ask for two pieces at once, in either order.
            Some(reader) if first <= reader.next && first + 2 >= reader.next => {
                Reader { ahead: (reader.ahead * 2).min(MOST_AHEAD), next: after.max(reader.next), ..reader }
            }
            // Elsewhere in the file: ahead once the next read shows a sequence. From its start: at once.
            _ => Reader { reference, next: after, asked: after, ahead: u64::from(first == 0) },
        };
        let from = reader.asked.max(reader.next);
        let to = (reader.next + reader.ahead).min(blocks).max(from);
        reader.asked = to;
        reader.ahead = reader.ahead.max(1);
        self.readers.push_front(reader);
        self.readers.truncate(REMEMBERED);
        from..to
    }

    /// The fragment block worth decoding after one was read.
    fn next_fragment(&mut self, fragment: u32) -> Option<u32> {
        let last = self.last_fragment.replace(fragment);
        (last.is_some_and(|last| last.checked_add(1) == Some(fragment))).then(|| fragment.saturating_add(1))
    }

    fn ask(&mut self, work: Work) {
        if self.waiting.len() < MOST_WAITING {
            self.waiting.push_back(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_goes_ever_further_ahead_and_never_asks_twice() {
        let mut state = State::default();
        assert_eq!(state.next_blocks(7, 0, 1, 100), 1..2);
        assert_eq!(state.next_blocks(7, 1, 2, 100), 2..4);
        assert_eq!(state.next_blocks(7, 2, 3, 100), 4..7);
        // The kernel asked for the block after the next before the next.
        assert_eq!(state.next_blocks(7, 3, 4, 100), 7..8);
        assert_eq!(state.next_blocks(7, 98, 99, 100), 99..99);
        assert_eq!(state.next_blocks(7, 99, 100, 100), 100..100);
    }

    #[test]
    fn reads_here_and_there_decode_nothing() {
        let mut state = State::default();
        for block in [50, 10, 90, 30] {
            assert!(state.next_blocks(7, block, block + 1, 100).is_empty());
        }
    }

    #[test]
    fn fragments_in_order_bring_the_next() {
        let mut state = State::default();
        assert_eq!(state.next_fragment(4), None);
        assert_eq!(state.next_fragment(4), None);
        assert_eq!(state.next_fragment(5), Some(6));
        assert_eq!(state.next_fragment(9), None);
    }
}
