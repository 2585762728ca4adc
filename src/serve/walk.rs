//! A walk: one program goes through directories, and reads nothing.
//!
//! `find`, `du` and `ls -R` ask thousands of times for what is answered in two microseconds, and wait for it each time.
//! What they wait for is mostly their processor: one that went idle takes 12 microseconds to run anything again, however
//! soon it is woken (KVM, Linux 6.18: its timer is stopped and set again, each time by the hypervisor), and a switch
//! between two threads one. So the program and the thread that answers do best on the same processor, in turns. The
//! scheduler does not leave them there while another processor is idle. Where there are two, a thread therefore keeps
//! the other one *awake*, and the thread that answers keeps off it. A first `find -ls` takes 0.87 of the time so.
//!
//! What computes on that processor meanwhile shares it: a loop beside `find` had three quarters of a processor, instead of
//! nine tenths. Two threads of one core are no two processors here: the one that is kept awake would slow down the other.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::wire::{RequestHeader, opcode};
use crate::sys::processors;

/// A program (a thread of one, as the kernel names them) that asked within the last so many requests is at it.
const RECENT: u32 = 64;
/// After each such time it is seen whether keeping awake was worth it. `find` asks again within a third of a millisecond 99
/// times of 100; ending and beginning as often as it does not would cost what is won.
const STAY: Duration = Duration::from_millis(2);
/// Requests in that time for which it was.
const ENOUGH: u32 = 8;
/// After so long a step aside, something else ran on the processor.
const STEP_ASIDE: Duration = Duration::from_micros(50);

/// Who asked for what lately, and what is done about it.
pub struct Walk {
    /// There are two processors, each a core of its own.
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
    pub fn new(may_keep_awake: bool) -> Self {
        Self {
            may_keep_awake,
            awake: AtomicUsize::new(NONE),
            count: AtomicU32::new(0),
            last: AtomicU32::new(0),
            changed: AtomicU32::new(0u32.wrapping_sub(RECENT)),
            worked: AtomicU32::new(0),
        }
    }

    /// Notes a request. Those that the kernel makes by itself, and waits for no answer to, are nobody's.
    pub fn note(&self, header: &RequestHeader) {
        if matches!(header.opcode, opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT) {
            return;
        }
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

    fn is_recent(&self, then: &AtomicU32) -> bool {
        // Where another thread notes a request between the two, the difference may wrap: for one look, that is no harm.
        self.count.load(Ordering::Relaxed).wrapping_sub(then.load(Ordering::Relaxed)) < RECENT
    }

    /// The processor that a thread keeps awake.
    pub fn awake(&self) -> Option<usize> {
        Some(self.awake.load(Ordering::Relaxed)).filter(|processor| *processor != NONE)
    }

    /// Keeps the processor that the caller runs on awake as long as that is worth it; `others` go on meanwhile, once
    /// they can see that it is.
    pub fn keep_awake(&self, others: impl FnOnce()) {
        let here = processors::here();
        self.awake.store(here.unwrap_or(NONE), Ordering::Relaxed);
        others();
        let (mut count, mut since) = (self.count.load(Ordering::Relaxed), Instant::now());
        let mut now = since;
        // The scheduler may move it: then the others keep off the wrong one.
        while here.is_some() && self.is_worth_it() && processors::here() == here {
            let before = now;
            std::thread::yield_now();
            now = Instant::now();
            let seen = self.count.load(Ordering::Relaxed);
            let is_over = now - since > STAY;
            if now - before > STEP_ASIDE || (is_over && seen.wrapping_sub(count) < ENOUGH) {
                self.worked.store(seen, Ordering::Relaxed);
            }
            if is_over {
                (count, since) = (seen, now);
            }
        }
        self.awake.store(NONE, Ordering::Relaxed);
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

    fn walking() -> Walk {
        let walk = Walk::new(true);
        (0..=RECENT).for_each(|_| walk.note(&request(7, opcode::READDIRPLUS)));
        walk
    }

    #[test]
    fn a_second_program_counts_for_a_while() {
        let walk = Walk::new(true);
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
        walk.keep_awake(|| seen = walk.awake());
        assert!(seen.is_some() && walk.awake().is_none());
        let end = walking();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| end.keep_awake(|| {}));
            end.note(&request(7, opcode::READ));
            assert!(reader.join().is_ok());
        });
        assert!(!end.is_worth_it());
    }

    #[test]
    fn a_walk_that_asks_too_seldom_is_given_up() {
        let walk = walking();
        // It also ends when the scheduler moves it, and may go on where it is then.
        while walk.is_worth_it() {
            walk.keep_awake(|| {});
        }
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
        walk.note(&request(0, opcode::FORGET));
        assert!(walk.is_worth_it());
    }
}
