//! A walk: one program goes through many files, one after the other.
//!
//! `find`, `du` and `tar` ask thousands of times for what is answered in two microseconds, and wait for it each time.
//! What they wait for is mostly their processor: one that went idle takes 12 microseconds to run anything again, however
//! soon it is woken (KVM, Linux 6.18: its timer is stopped and set again, each time by the hypervisor), and a switch
//! between two threads one. So the program and the thread that answers do best on the same processor, in turns, and all
//! that is done ahead of the program on another. The scheduler does not leave them there while the other is idle. Where
//! there are two processors, the thread that decodes ahead on the other therefore keeps that *awake* when it has nothing
//! to decode, and the thread that answers keeps off it. A first `find -ls` takes 0.87 of the time so, `tar` 0.89.
//!
//! What computes on that processor meanwhile shares it: a loop beside `find` had three quarters of a processor, instead of
//! nine tenths. Two threads of one core are no two processors here: the one that is kept awake would slow down the other.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::wire::{self, ReadIn, RequestHeader, opcode};
use crate::sys::processors;

/// A program (a thread of one, as the kernel names them) that asked within the last so many requests is at it.
const RECENT: u32 = 64;
/// After each such time it is seen whether keeping awake was worth it. `find` asks again within a third of a millisecond 99
/// times of 100; ending and beginning as often as it does not would cost what is won.
const STAY: Duration = Duration::from_millis(2);
/// Requests in that time for which it was.
const ENOUGH: u32 = 8;
/// After so long a step aside, something that computes ran on the processor. What reads a pipe that `tar` writes to runs
/// for 50 microseconds.
const STEP_ASIDE: Duration = Duration::from_micros(100);
/// What the kernel reads ahead by itself, in bytes. A program that reads more at a time waits for nothing but data, and
/// both processors are better used to decode them.
const WINDOW: u32 = 128 << 10;

/// Who asked for what lately, and what is done about it.
pub struct Walk {
    /// There are two processors, each a core of its own.
    may_keep_awake: bool,
    /// The processor that is kept awake, or [`NONE`].
    awake: AtomicUsize,
    /// The threads that are kept to a processor each, and can keep it awake.
    threads: Mutex<Vec<(usize, Thread)>>,
    /// Requests so far, modulo 2^32.
    count: AtomicU32,
    /// Who made the last one.
    last: AtomicU32,
    /// The count when it was another than the one before.
    changed: AtomicU32,
    /// The count when a processor was needed for something else, or keeping it awake brought nothing.
    worked: AtomicU32,
}

const NONE: usize = usize::MAX;

impl Walk {
    /// Nobody walks yet.
    pub fn new(may_keep_awake: bool) -> Self {
        Self {
            may_keep_awake,
            awake: AtomicUsize::new(NONE),
            threads: Mutex::default(),
            count: AtomicU32::new(0),
            last: AtomicU32::new(0),
            changed: AtomicU32::new(0u32.wrapping_sub(RECENT)),
            worked: AtomicU32::new(0),
        }
    }

    /// Notes a request (`bytes` of it). Those that the kernel makes by itself, and waits for no answer to, are nobody's.
    pub fn note(&self, header: &RequestHeader, bytes: &[u8]) {
        if matches!(header.opcode, opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT) {
            return;
        }
        let count = self.count.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        if self.last.swap(header.pid, Ordering::Relaxed) != header.pid {
            self.changed.store(count, Ordering::Relaxed);
        }
        let in_bulk = |(read, _): (ReadIn, &[u8])| read.size > WINDOW;
        if header.opcode == opcode::READ && wire::arguments(bytes).is_some_and(in_bulk) {
            self.worked.store(count, Ordering::Relaxed);
        }
    }

    /// Whether more than one program asked lately.
    pub fn others_ask(&self) -> bool {
        self.is_recent(&self.changed)
    }

    /// Whether keeping a processor awake is worth its time.
    pub fn is_worth_it(&self) -> bool {
        self.may_keep_awake && !self.is_recent(&self.changed) && !self.is_recent(&self.worked)
    }

    fn is_recent(&self, then: &AtomicU32) -> bool {
        // Where another thread notes a request between the two, the difference may wrap: for one look, that is no harm.
        self.count.load(Ordering::Relaxed).wrapping_sub(then.load(Ordering::Relaxed)) < RECENT
    }

    /// The processor that a thread keeps awake.
    pub fn awake(&self) -> Option<usize> {
        Some(self.awake.load(Ordering::Relaxed)).filter(|processor| *processor != NONE)
    }

    /// Of the calling thread, which is kept to that processor, and asks for it whenever it is unparked.
    pub fn watch(&self, processor: usize) -> Watch<'_> {
        self.threads().push((processor, std::thread::current()));
        Watch { walk: self, processor, seen: 0, since: Instant::now() }
    }

    fn threads(&self) -> MutexGuard<'_, Vec<(usize, Thread)>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the caller's processor kept awake by the thread that is kept to it; false if there is none.
    pub fn begin(&self) -> bool {
        let here = processors::here();
        let threads = self.threads();
        let Some((processor, thread)) = threads.iter().find(|(processor, _)| Some(*processor) == here) else {
            return false;
        };
        self.awake.store(*processor, Ordering::Relaxed);
        thread.unpark();
        true
    }
}

/// A thread's part in it, which can keep one processor awake.
pub struct Watch<'a> {
    walk: &'a Walk,
    processor: usize,
    /// When it was last seen whether that is worth it, and the count then.
    since: Instant,
    seen: u32,
}

impl Watch<'_> {
    /// Whether the processor is to be kept awake. Ends that once it is not worth it any more.
    pub fn is_on(&self) -> bool {
        let is_on = self.walk.awake() == Some(self.processor);
        if is_on && !self.walk.is_worth_it() {
            self.end();
            return false;
        }
        is_on
    }

    fn end(&self) {
        self.walk.awake.store(NONE, Ordering::Relaxed);
    }

    /// Keeps the processor awake until there is work for the thread, which will do that as well, or the walk is over.
    pub fn keep_awake(&mut self, has_work: impl Fn() -> bool) {
        let mut now = Instant::now();
        while self.is_on() && !has_work() {
            let before = now;
            std::thread::yield_now();
            now = Instant::now();
            let count = self.walk.count.load(Ordering::Relaxed);
            let is_over = now - self.since > STAY;
            if now - before > STEP_ASIDE || (is_over && count.wrapping_sub(self.seen) < ENOUGH) {
                self.walk.worked.store(count, Ordering::Relaxed);
            }
            if is_over {
                (self.seen, self.since) = (count, now);
            }
        }
    }
}

/// A thread that ends, by a mistake of ours, keeps nothing awake.
impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.walk.threads().retain(|(processor, _)| *processor != self.processor);
        if self.walk.awake() == Some(self.processor) {
            self.end();
        }
    }
}

/// Whether two processors are threads of one core.
pub fn share_a_core(one: usize, other: usize) -> bool {
    let list = format!("/sys/devices/system/cpu/cpu{one}/topology/thread_siblings_list");
    std::fs::read_to_string(list).is_ok_and(|list| is_in_list(other, list.trim()))
}

/// Whether a list like `0-3,8` has a number.
fn is_in_list(number: usize, list: &str) -> bool {
    processors::ranges_of_list(list).flatten().any(|range| range.contains(&number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    fn request(pid: u32, opcode: u32) -> RequestHeader {
        RequestHeader { pid, opcode, ..FromZeros::new_zeroed() }
    }

    fn note(walk: &Walk, pid: u32, opcode: u32) {
        walk.note(&request(pid, opcode), &[]);
    }

    fn note_read(walk: &Walk, size: u32) {
        let mut bytes = [0; size_of::<RequestHeader>() + size_of::<ReadIn>()];
        let place = size_of::<RequestHeader>() + std::mem::offset_of!(ReadIn, size);
        bytes[place..place + 4].copy_from_slice(&size.to_le_bytes());
        walk.note(&request(7, opcode::READ), &bytes);
    }

    fn walking() -> Walk {
        let walk = Walk::new(true);
        (0..=RECENT).for_each(|_| note(&walk, 7, opcode::READDIRPLUS));
        walk
    }

    #[test]
    fn a_second_program_counts_for_a_while() {
        let walk = Walk::new(true);
        let others_ask = |pid| {
            note(&walk, pid, opcode::READDIRPLUS);
            walk.others_ask()
        };
        assert!(others_ask(7), "the first is new");
        let alone = (0..2 * RECENT).position(|_| !others_ask(7));
        assert_eq!(alone, Some(RECENT as usize - 1));
        assert!(others_ask(8) && others_ask(8));
    }

    #[test]
    fn a_walk_is_one_program_that_does_not_read_in_bulk() {
        let walk = walking();
        note_read(&walk, WINDOW);
        assert!(walk.is_worth_it());
        note(&walk, 8, opcode::READDIRPLUS);
        assert!(!walk.is_worth_it(), "there are two programs");
        let walk = walking();
        note_read(&walk, WINDOW + 1);
        assert!(!walk.is_worth_it(), "both processors decode");
        (0..RECENT).for_each(|_| note(&walk, 7, opcode::LOOKUP));
        assert!(walk.is_worth_it(), "that was a while ago");
    }

    #[test]
    fn a_processor_is_kept_awake_until_there_is_work_or_the_walk_ends() {
        let walk = walking();
        assert!(!walk.begin() && walk.awake().is_none(), "by nobody");
        let mut watches: Vec<Watch<'_>> =
            processors::mine().into_iter().map(|processor| walk.watch(processor)).collect();
        assert!(walk.begin());
        let here = walk.awake().unwrap();
        let watch = watches.iter_mut().find(|watch| watch.processor == here).unwrap();
        watch.keep_awake(|| true);
        assert!(watch.is_on(), "the work keeps it awake");
        std::thread::scope(|scope| {
            let other = scope.spawn(|| watch.keep_awake(|| false));
            note(&walk, 8, opcode::READ);
            assert!(other.join().is_ok());
        });
        assert!(walk.awake().is_none());
    }

    #[test]
    fn a_walk_that_asks_too_seldom_is_given_up_also_with_work_in_between() {
        let walk = walking();
        let mut watch = walk.watch(0);
        walk.awake.store(0, Ordering::Relaxed);
        let has_work = std::cell::Cell::new(false);
        while watch.is_on() {
            watch.keep_awake(|| has_work.replace(!has_work.get()));
        }
        assert!(!walk.is_worth_it() && walk.awake().is_none());
    }

    #[test]
    fn a_thread_that_ends_keeps_nothing_awake() {
        let walk = walking();
        let watch = walk.watch(5);
        walk.awake.store(5, Ordering::Relaxed);
        drop(watch);
        assert!(walk.awake().is_none() && walk.threads().is_empty());
    }

    #[test]
    fn only_where_there_are_two_cores_is_one_kept_awake() {
        assert!(!Walk { may_keep_awake: false, ..walking() }.is_worth_it());
        assert!(is_in_list(5, "0-3,5") && is_in_list(2, "0-3,5") && is_in_list(64, "0,64"));
        assert!(!is_in_list(4, "0-3,5") && !is_in_list(1, "0,64") && !is_in_list(0, ""));
    }

    #[test]
    fn what_the_kernel_says_by_itself_is_no_other_program() {
        let walk = walking();
        note(&walk, 0, opcode::FORGET);
        assert!(walk.is_worth_it());
    }
}
