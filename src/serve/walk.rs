//! A walk: one program goes through directories, and reads nothing.
//!
//! `find`, `du` and `ls -R` ask thousands of times for what is answered in two microseconds, and wait for it each time.
//! What they wait for is mostly their processor: one that went idle takes 12 microseconds to run anything again, however
//! soon it is woken (KVM, Linux 6.18: its timer is stopped and set again, each time by the hypervisor), and a switch
//! between two threads one. So the program and the thread that answers do best on the same processor, in turns. The
//! scheduler does not leave them there while another processor is idle. Where there are two, a thread therefore keeps
//! the second one *awake*, and the thread that answers keeps off it. A first `find -ls` takes 0.87 of the time so.
//!
//! Whoever else wants that processor gets it at once, and then it is awake without us.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::wire::{RequestHeader, opcode};
use crate::sys::processors;

/// A program that asked within the last so many requests is at it.
const RECENT: u32 = 64;
/// How long a processor is kept awake for a program that does not ask. `find` asks again within a third of a
/// millisecond 99 times of 100; ending and beginning as often as it does not cost what was won.
const STAY: Duration = Duration::from_millis(2);
/// After so long a step aside, something else ran on the processor.
const STEP_ASIDE: Duration = Duration::from_micros(50);

/// Who asked for what lately, and what is done about it.
pub struct Walk {
    /// There are two processors.
    may_keep_awake: bool,
    /// The processor that is kept awake, or [`NONE`].
    awake: AtomicUsize,
    /// Requests so far, modulo 2^32.
    count: AtomicU32,
    /// Who made the last one.
    last: AtomicU32,
    /// The count when it was another than the one before.
    changed: AtomicU32,
    /// The count when there was something else to do than to answer a walk.
    worked: AtomicU32,
}

const NONE: usize = usize::MAX;

impl Walk {
    /// Nobody walks yet.
    pub fn new(processors: usize) -> Self {
        Self {
            may_keep_awake: processors == 2,
            awake: AtomicUsize::new(NONE),
            count: AtomicU32::new(0),
            last: AtomicU32::new(0),
            changed: AtomicU32::new(0u32.wrapping_sub(RECENT)),
            worked: AtomicU32::new(0),
        }
    }

    /// Notes a request.
    pub fn note(&self, header: &RequestHeader) {
        let count = self.count.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        if self.last.swap(header.pid, Ordering::Relaxed) != header.pid {
            self.changed.store(count, Ordering::Relaxed);
        }
        if header.opcode == opcode::READ {
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

    fn is_recent(&self, count: &AtomicU32) -> bool {
        self.count.load(Ordering::Relaxed).wrapping_sub(count.load(Ordering::Relaxed)) < RECENT
    }

    /// The processor that a thread keeps awake.
    pub fn awake(&self) -> Option<usize> {
        Some(self.awake.load(Ordering::Relaxed)).filter(|processor| *processor != NONE)
    }

    /// Keeps the processor that the caller runs on awake as long as that is worth it; `others` go on meanwhile, once
    /// they can see that it is.
    pub fn keep_awake(&self, others: impl FnOnce()) {
        self.awake.store(processors::here(), Ordering::Relaxed);
        others();
        let (mut count, mut asked) = (self.count.load(Ordering::Relaxed), Instant::now());
        let mut now = asked;
        while self.is_worth_it() && now - asked < STAY {
            let before = now;
            std::thread::yield_now();
            now = Instant::now();
            let seen = self.count.load(Ordering::Relaxed);
            if now - before > STEP_ASIDE {
                self.worked.store(seen, Ordering::Relaxed);
            }
            if seen != count {
                (count, asked) = (seen, now);
            }
        }
        self.awake.store(NONE, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    fn request(pid: u32, opcode: u32) -> RequestHeader {
        RequestHeader { pid, opcode, ..FromZeros::new_zeroed() }
    }

    fn walking() -> Walk {
        let walk = Walk::new(2);
        (0..=RECENT).for_each(|_| walk.note(&request(7, opcode::READDIRPLUS)));
        walk
    }

    #[test]
    fn a_second_program_counts_for_a_while() {
        let walk = Walk::new(2);
        let others_ask = |pid| {
            walk.note(&request(pid, opcode::READDIRPLUS));
            walk.others_ask()
        };
        assert!(others_ask(7), "the first is new");
        let alone = (0..2 * RECENT).position(|_| !others_ask(7));
        assert_eq!(alone, Some(RECENT as usize - 1));
        assert!(others_ask(8) && others_ask(8));
    }

    #[test]
    fn a_walk_is_one_program_that_reads_nothing() {
        assert!(walking().is_worth_it());
        let walk = walking();
        walk.note(&request(8, opcode::READDIRPLUS));
        assert!(!walk.is_worth_it(), "there are two programs");
        let walk = walking();
        walk.note(&request(7, opcode::READ));
        assert!(!walk.is_worth_it(), "data is decoded");
        (0..RECENT).for_each(|_| walk.note(&request(7, opcode::LOOKUP)));
        assert!(walk.is_worth_it(), "that was a while ago");
    }

    #[test]
    fn a_processor_is_kept_awake_until_the_walk_ends() {
        let walk = walking();
        let mut seen = None;
        let begin = Instant::now();
        walk.keep_awake(|| seen = walk.awake());
        assert!(seen.is_some() && walk.awake().is_none());
        // It also ends when something else wants the processor, as in a test run.
        assert!(begin.elapsed() > STEP_ASIDE);
        let end = walking();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| end.keep_awake(|| {}));
            end.note(&request(7, opcode::READ));
            assert!(reader.join().is_ok());
        });
        assert!(!end.is_worth_it());
    }

    #[test]
    fn only_the_second_of_two_processors_can_be_kept_awake() {
        for processors in [1, 3, 64] {
            let walk = Walk { may_keep_awake: Walk::new(processors).may_keep_awake, ..walking() };
            assert!(!walk.is_worth_it());
        }
    }
}
