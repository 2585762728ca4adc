//! Whose turn it is to wait for the next request.
//!
//! One thread waits, the *leader*; the others sleep. A leader answers what it has received itself, if that takes
//! microseconds, and is back before the program asks again: handing a request over to another processor, and being
//! woken there, takes longer than most answers. It passes the lead on before work that takes long while others ask, and
//! when requests come without a pause.
//!
//! ```text
//!            ┌───────────── answered ─────────────┐
//!            ▼                                    │
//! asleep ─▶ leader: nothing there ─▶ looks again for a moment ─▶ waits ─▶ a request
//!    ▲                                            │                          │ long, or one of many: lead passed on
//!    └──────── nothing there ◀─────────── works without the lead ◀───────────┘
//! ```
//!
//! *Looks again*: a program that walks a tree asks every few dozen microseconds, and a processor that has gone to sleep
//! meanwhile takes as long to wake. So the leader looks for [`LOOK`], as long as that finds something; when it does not,
//! it waits in the kernel until requests come quickly again. It gives way to whatever else wants its processor, and
//! where that cost a slice of the scheduler's, it does not look again for a good while.
//!
//! Of two processors, one is better kept awake than looked on while a program goes through many files
//! ([`super::walk`]): the leader then has the thread that decodes ahead there do that, keeps off it, and waits.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::walk::Walk;
use super::wire::RequestHeader;
use crate::sys::processors;
use crate::sys::slots::{self, Slot};

/// How long a leader looks for the next request before it waits. `find` spends more than 90 microseconds on one in ten
/// directories of a Python installation; looking for twice as long brought nothing more.
const LOOK: Duration = Duration::from_micros(200);
/// After so long a look, something else ran on the processor.
const SLICE: Duration = Duration::from_micros(500);
/// Requests without a pause after which another thread helps.
const STREAK: u32 = 8;

/// The lead among the threads of a worker.
pub struct Turns {
    state: Mutex<State>,
    passed: Condvar,
    /// There is more than one processor: a leader that looks does not keep the program from asking.
    may_look: bool,
    walk: Arc<Walk>,
}

#[derive(Default)]
struct State {
    led: bool,
    asleep: usize,
}

impl Turns {
    /// Nobody leads yet.
    pub fn new(processors: usize, walk: Arc<Walk>) -> Self {
        Self { state: Mutex::default(), passed: Condvar::new(), may_look: processors > 1, walk }
    }

    /// Waits until nobody leads, and leads.
    fn take(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.led {
            state.asleep += 1;
            state = self.passed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.asleep -= 1;
        }
        state.led = true;
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.led = false;
        let wake = state.asleep > 0;
        drop(state);
        if wake {
            self.passed.notify_one();
        }
    }
}

/// A thread's part in it.
pub struct Turn<'a> {
    turns: &'a Turns,
    leads: bool,
    /// Requests since there was none.
    streak: u32,
    look: Look,
    /// The processor that the thread keeps off, since another keeps it awake.
    kept_off: Option<usize>,
}

impl<'a> Turn<'a> {
    /// Of a thread that does not lead.
    pub fn new(turns: &'a Turns) -> Self {
        Self { turns, leads: false, streak: 0, look: Look::default(), kept_off: None }
    }

    /// Waits for the next request of the queue, and receives it.
    ///
    /// # Errors
    /// As [`Slot::receive`], but for EAGAIN.
    pub fn receive(&mut self, slot: &mut Slot<'_>, queue: BorrowedFd<'_>) -> io::Result<()> {
        loop {
            if let Some(received) = try_receive(slot, queue) {
                self.streak = self.streak.saturating_add(1);
                return received;
            }
            self.streak = 0;
            if !self.leads {
                self.turns.take();
                self.leads = true;
                continue;
            }
            self.keep_off(self.turns.walk.awake());
            let begin = Instant::now();
            if self.kept_off.is_some() {
                slots::wait_for_request(queue);
            } else if self.turns.walk.is_worth_it() && self.turns.walk.begin() {
                continue;
            } else if self.turns.may_look && self.look.is_worth_it() {
                while begin.elapsed() < LOOK {
                    std::thread::yield_now();
                    if let Some(received) = try_receive(slot, queue) {
                        self.look.has_found(begin.elapsed());
                        return received;
                    }
                }
                self.look.has_found_nothing(begin.elapsed());
                slots::wait_for_request(queue);
            } else {
                slots::wait_for_request(queue);
                self.look.has_waited(begin.elapsed());
            }
        }
    }

    /// Keeps off this processor alone.
    fn keep_off(&mut self, processor: Option<usize>) {
        if std::mem::replace(&mut self.kept_off, processor) == processor {
            return;
        }
        match processor {
            Some(processor) => processors::keep_off(processor),
            None => processors::widen(),
        }
    }

    /// Before a request (`bytes` of it) is answered: passes the lead on if that may take long and others would wait for
    /// it, or if there is more than one thread can do.
    pub fn share(
        &mut self,
        header: &RequestHeader,
        bytes: &[u8],
        takes_long: impl FnOnce() -> bool,
        queue: BorrowedFd<'_>,
    ) {
        self.turns.walk.note(header, bytes);
        let others_wait = || takes_long() && (self.turns.walk.others_ask() || slots::has_request(queue));
        if self.leads && (self.streak >= STREAK || others_wait()) {
            self.turns.pass();
            self.leads = false;
            self.keep_off(None);
        }
    }
}

/// A thread that ends, by a mistake of ours, does not take the lead with it: the others go on.
impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.leads {
            self.turns.pass();
        }
    }
}

/// `None` when there is no request.
fn try_receive(slot: &mut Slot<'_>, queue: BorrowedFd<'_>) -> Option<io::Result<()>> {
    match slot.receive(queue) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        received => Some(received.map(|_| ())),
    }
}

/// Whether looking again is worth the processor's time: from 0 on it is.
#[derive(Default)]
struct Look(i32);

impl Look {
    fn is_worth_it(&self) -> bool {
        self.0 >= 0
    }

    fn has_found(&mut self, after: Duration) {
        match after < SLICE {
            true => self.0 = (self.0 + 1).min(2),
            false => self.0 = -64,
        }
    }

    fn has_found_nothing(&mut self, after: Duration) {
        self.0 = if after < SLICE { self.0 - 2 } else { -64 };
    }

    /// A wait without a look ended: looking would have been worth it if it was short, the time to be woken included.
    fn has_waited(&mut self, waited: Duration) {
        if waited < 3 * LOOK {
            self.0 += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn one_leads_at_a_time_and_all_have_their_turn() {
        let turns = Turns::new(2, Arc::new(Walk::new(true)));
        let (leaders, total) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        turns.take();
                        assert_eq!(leaders.fetch_add(1, Ordering::SeqCst), 0);
                        total.fetch_add(1, Ordering::SeqCst);
                        leaders.fetch_sub(1, Ordering::SeqCst);
                        turns.pass();
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4000);
    }

    #[test]
    fn a_leader_that_fails_leaves_the_lead() {
        let turns = Turns::new(2, Arc::new(Walk::new(true)));
        let failed = std::thread::scope(|scope| {
            let failing = || {
                let mut turn = Turn::new(&turns);
                turns.take();
                turn.leads = true;
                panic!("meant");
            };
            scope.spawn(failing).join().is_err()
        });
        assert!(failed);
        turns.take();
    }

    #[test]
    fn looking_goes_on_while_it_finds_something() {
        let short = Duration::from_micros(20);
        let mut look = Look::default();
        look.has_found(short);
        assert!(look.is_worth_it());
        look.has_found_nothing(LOOK);
        assert!(!look.is_worth_it(), "it found nothing");
        look.has_waited(Duration::from_millis(5));
        assert!(!look.is_worth_it(), "requests are slow");
        look.has_waited(short);
        assert!(look.is_worth_it(), "they are quick again");
        look.has_found(Duration::from_millis(3));
        (0..10).for_each(|_| look.has_waited(short));
        assert!(!look.is_worth_it(), "the processor is wanted by others");
    }
}
