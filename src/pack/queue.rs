//! The two queues that join the stages of the pipeline: first come first served, and by number.
//!
//! Both can be stopped at any moment from any thread: every waiter wakes and gets [`Stopped`]. That one
//! property keeps a failing stage from leaving the others asleep, which is why these are not channels:
//! a channel ends only when all its senders are gone.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Another stage failed or the user cancelled; the reason is kept by the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No critical section here can panic half way, so a poisoned state is still whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condition.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

struct State<T> {
    items: VecDeque<T>,
    finished: bool,
    stopped: bool,
}

/// First in, first out. Its length is bounded by the buffers that circulate, not here.
pub struct Queue<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
}

impl<T> Queue<T> {
    /// A queue that holds `items` already.
    pub fn new(items: impl IntoIterator<Item = T>) -> Self {
        let items = items.into_iter().collect();
        Self { state: Mutex::new(State { items, finished: false, stopped: false }), filled: Condvar::new() }
    }

    /// Adds an item at the end.
    pub fn push(&self, item: T) -> Result<(), Stopped> {
        let mut state = locked(&self.state);
        if state.stopped {
            return Err(Stopped);
        }
        state.items.push_back(item);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// The first item, waiting for one; `None` when the queue is finished and empty.
    pub fn pop(&self) -> Result<Option<T>, Stopped> {
        let mut state = locked(&self.state);
        loop {
            if state.stopped {
                return Err(Stopped);
            }
            if let Some(item) = state.items.pop_front() {
                return Ok(Some(item));
            }
            if state.finished {
                return Ok(None);
            }
            state = wait(&self.filled, state);
        }
    }

    /// Nothing more will be pushed.
    pub fn finish(&self) {
        locked(&self.state).finished = true;
        self.filled.notify_all();
    }

    /// Wakes every waiter with [`Stopped`].
    pub fn stop(&self) {
        locked(&self.state).stopped = true;
        self.filled.notify_all();
    }
}

struct Slots<T> {
    /// `slots[i]` is the item numbered `next + i`, once it is there.
    slots: VecDeque<Option<T>>,
    next: u64,
    end: Option<u64>,
    stopped: bool,
}

/// Items inserted in any order and taken in the order of their numbers, which start at 0 without gaps.
pub struct Ordered<T> {
    state: Mutex<Slots<T>>,
    ready: Condvar,
}

impl<T> Ordered<T> {
    /// An empty queue.
    pub fn new() -> Self {
        let slots = Slots { slots: VecDeque::new(), next: 0, end: None, stopped: false };
        Self { state: Mutex::new(slots), ready: Condvar::new() }
    }

    /// Puts in the item with this number.
    pub fn insert(&self, number: u64, item: T) -> Result<(), Stopped> {
        let mut state = locked(&self.state);
        if state.stopped {
            return Err(Stopped);
        }
        let index = number.saturating_sub(state.next) as usize;
        if state.slots.len() <= index {
            state.slots.resize_with(index + 1, || None);
        }
        if let Some(slot) = state.slots.get_mut(index) {
            *slot = Some(item);
        }
        drop(state);
        // One taker: it wakes only when the item it waits for has come.
        if index == 0 {
            self.ready.notify_one();
        }
        Ok(())
    }

    /// The next item by number, waiting for it; `None` after the last.
    pub fn take(&self) -> Result<Option<T>, Stopped> {
        let mut state = locked(&self.state);
        loop {
            if state.stopped {
                return Err(Stopped);
            }
            if let Some(item) = state.slots.front_mut().and_then(Option::take) {
                state.slots.pop_front();
                state.next += 1;
                return Ok(Some(item));
            }
            if state.end == Some(state.next) {
                return Ok(None);
            }
            state = wait(&self.ready, state);
        }
    }

    /// There will be `count` items in all.
    pub fn finish(&self, count: u64) {
        locked(&self.state).end = Some(count);
        self.ready.notify_all();
    }

    /// Wakes every waiter with [`Stopped`].
    pub fn stop(&self) {
        locked(&self.state).stopped = true;
        self.ready.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn ordered_items_come_out_by_number_whatever_order_they_went_in() {
        let queue = Ordered::new();
        for number in [3_u64, 0, 2, 1] {
            queue.insert(number, number).unwrap();
        }
        queue.finish(4);
        let mut seen = Vec::new();
        while let Some(item) = queue.take().unwrap() {
            seen.push(item);
        }
        assert_eq!(seen, [0, 1, 2, 3]);
    }

    #[test]
    fn a_stop_wakes_those_who_wait() {
        let queue = Queue::<u8>::new([]);
        let ordered = Ordered::<u8>::new();
        thread::scope(|scope| {
            let first = scope.spawn(|| queue.pop());
            let second = scope.spawn(|| ordered.take());
            queue.stop();
            ordered.stop();
            assert_eq!(first.join().unwrap(), Err(Stopped));
            assert_eq!(second.join().unwrap(), Err(Stopped));
        });
        assert_eq!(queue.push(1), Err(Stopped));
        assert_eq!(ordered.insert(0, 1), Err(Stopped));
    }

    #[test]
    fn a_finished_queue_gives_what_it_holds_and_then_none() {
        let queue = Queue::new([1, 2]);
        queue.finish();
        assert_eq!(queue.pop(), Ok(Some(1)));
        assert_eq!(queue.pop(), Ok(Some(2)));
        assert_eq!(queue.pop(), Ok(None));
    }
}
