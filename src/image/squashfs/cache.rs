//! A cache bounded in bytes for many threads, where two that want the same thing make it once.
//!
//! ```text
//! key -> Ready(value, cost, used)   a hit: one short lock, one clone (values are Arcs)
//!     -> Loading(flight)            someone is at it: wait for the outcome
//!     -> nothing                    load without the lock, others wait
//! ```
//!
//! What goes first is decided by second chance: in order of arrival, but what was used since its last turn
//! is passed over once. So a long sequential read, whose blocks are used once, does not drive out what is
//! used again and again. The keys are spread over shards with a lock each.

use std::borrow::Borrow;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A cache from places in the image to what was decoded there.
pub(super) struct Cache<K, V> {
    shards: Box<[Mutex<Shard<K, V>>]>,
    hashing: PlaceHash,
}

struct Shard<K, V> {
    slots: HashMap<K, Slot<V>, PlaceHash>,
    /// Keys of the ready slots, the next candidate to go in front.
    order: VecDeque<K>,
    held: usize,
    capacity: usize,
}

enum Slot<V> {
    Ready { value: V, cost: usize, used: bool },
    Loading(Arc<Flight<V>>),
}

/// One load that others may wait for.
struct Flight<V> {
    outcome: Mutex<Outcome<V>>,
    landed: Condvar,
}

enum Outcome<V> {
    Running,
    Loaded(V),
    /// Errors are not shared: who waits tries for himself and gets his own.
    Failed,
}

impl<K: Hash + Eq + Copy, V: Clone> Cache<K, V> {
    /// A cache of `capacity` bytes as counted by the costs given with the values. With more `shards`
    /// threads meet less, but no value may cost more than a shard's part if it is to be kept.
    pub fn new(capacity: usize, shards: usize) -> Self {
        let shards = shards.max(1);
        let hashing = PlaceHash;
        let shard = || {
            Mutex::new(Shard {
                slots: HashMap::with_hasher(hashing),
                order: VecDeque::new(),
                held: 0,
                capacity: capacity / shards,
            })
        };
        Self { shards: (0..shards).map(|_| shard()).collect(), hashing }
    }

    fn shard(&self, key: &K) -> MutexGuard<'_, Shard<K, V>> {
        // The map uses the low bits and the top seven; the shard takes some from between.
        let index = (self.hashing.hash_one(key) >> 32) as usize % self.shards.len();
        lock(self.shards[index].borrow())
    }

    /// The value, if it is there.
    pub fn get(&self, key: &K) -> Option<V> {
        match self.shard(key).slots.get_mut(key) {
            Some(Slot::Ready { value, used, .. }) => {
                *used = true;
                Some(value.clone())
            }
            _ => None,
        }
    }

    /// Whether the value is there or being loaded; does not count as a use.
    pub fn has(&self, key: &K) -> bool {
        self.shard(key).slots.contains_key(key)
    }

    /// Puts a value that was made outside, unless the key has one.
    pub fn insert(&self, key: K, value: V, cost: usize) {
        let gone;
        {
            let mut shard = self.shard(&key);
            if shard.slots.contains_key(&key) {
                return;
            }
            gone = shard.keep(key, value, cost);
        }
        drop(gone);
    }

    /// The value, loaded by `load` (which gives it with its cost) if it is not there. When another thread
    /// is loading it, waits for that one.
    pub fn get_or_load<E>(&self, key: K, load: impl FnOnce() -> Result<(V, usize), E>) -> Result<V, E> {
        let flight = loop {
            let flight = {
                let mut shard = self.shard(&key);
                match shard.slots.get_mut(&key) {
                    Some(Slot::Ready { value, used, .. }) => {
                        *used = true;
                        return Ok(value.clone());
                    }
                    Some(Slot::Loading(flight)) => Arc::clone(flight),
                    None => break shard.take_off(key),
                }
            };
            if let Some(value) = flight.wait() {
                return Ok(value);
            }
        };
        self.fly(key, &flight, load)
    }

    /// Loads the value if it is neither there nor being loaded, without ever waiting for another thread.
    pub fn load_ahead<E>(&self, key: K, load: impl FnOnce() -> Result<(V, usize), E>) -> Result<(), E> {
        let flight = {
            let mut shard = self.shard(&key);
            if shard.slots.contains_key(&key) {
                return Ok(());
            }
            shard.take_off(key)
        };
        self.fly(key, &flight, load).map(drop)
    }

    fn fly<E>(
        &self,
        key: K,
        flight: &Arc<Flight<V>>,
        load: impl FnOnce() -> Result<(V, usize), E>,
    ) -> Result<V, E> {
        // Lands in every case, also when `load` panics: nobody may wait for ever.
        let mut landing = Landing { cache: self, key, flight, loaded: None };
        let (value, cost) = load()?;
        landing.loaded = Some((value.clone(), cost));
        Ok(value)
    }

    /// The bytes held now, by the costs given.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).held).sum()
    }
}

struct Landing<'a, K: Hash + Eq + Copy, V: Clone> {
    cache: &'a Cache<K, V>,
    key: K,
    flight: &'a Flight<V>,
    loaded: Option<(V, usize)>,
}

impl<K: Hash + Eq + Copy, V: Clone> Drop for Landing<'_, K, V> {
    fn drop(&mut self) {
        let (outcome, gone) = {
            let mut shard = self.cache.shard(&self.key);
            shard.slots.remove(&self.key);
            match self.loaded.take() {
                Some((value, cost)) => (Outcome::Loaded(value.clone()), shard.keep(self.key, value, cost)),
                None => (Outcome::Failed, Vec::new()),
            }
        };
        *lock(&self.flight.outcome) = outcome;
        self.flight.landed.notify_all();
        // Freeing, or giving buffers back, happens outside all locks.
        drop(gone);
    }
}

impl<V: Clone> Flight<V> {
    fn wait(&self) -> Option<V> {
        let mut outcome = lock(&self.outcome);
        loop {
            match &*outcome {
                Outcome::Running => {
                    outcome = self.landed.wait(outcome).unwrap_or_else(PoisonError::into_inner);
                }
                Outcome::Loaded(value) => return Some(value.clone()),
                Outcome::Failed => return None,
            }
        }
    }
}

impl<K: Hash + Eq + Copy, V> Shard<K, V> {
    fn take_off(&mut self, key: K) -> Arc<Flight<V>> {
        let flight = Arc::new(Flight { outcome: Mutex::new(Outcome::Running), landed: Condvar::new() });
        self.slots.insert(key, Slot::Loading(Arc::clone(&flight)));
        flight
    }

    /// Makes room and keeps the value; returns what had to go, to be dropped without the lock.
    fn keep(&mut self, key: K, value: V, cost: usize) -> Vec<V> {
        let mut gone = Vec::new();
        if cost > self.capacity {
            return gone;
        }
        while self.held + cost > self.capacity {
            let Some(candidate) = self.order.pop_front() else { break };
            match self.slots.get_mut(&candidate) {
                Some(Slot::Ready { used, .. }) if *used => {
                    *used = false;
                    self.order.push_back(candidate);
                }
                Some(Slot::Ready { .. }) => {
                    if let Some(Slot::Ready { value, cost, .. }) = self.slots.remove(&candidate) {
                        self.held -= cost;
                        gone.push(value);
                    }
                }
                // Only ready slots are in the order.
                _ => {}
            }
        }
        self.held += cost;
        self.order.push_back(key);
        self.slots.insert(key, Slot::Ready { value, cost, used: false });
        gone
    }
}

/// A lock whose data stays whole when a thread panics: every change under it is complete before it ends.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A hash for places in a file: cheap, and spreading neighbours widely. An image made to collide only
/// slows itself: the maps are small.
#[derive(Clone, Copy, Default)]
pub(super) struct PlaceHash;

/// The state of [`PlaceHash`].
pub(super) struct PlaceHasher(u64);

impl BuildHasher for PlaceHash {
    type Hasher = PlaceHasher;
    fn build_hasher(&self) -> PlaceHasher {
        PlaceHasher(0)
    }
}

impl Hasher for PlaceHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }
    fn write_u64(&mut self, value: u64) {
        // The finaliser of splitmix64.
        let mut mixed = (self.0 ^ value).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.0 = mixed ^ (mixed >> 31);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    type Numbers = Cache<u64, Arc<u64>>;

    fn fine(value: u64, cost: usize) -> Result<(Arc<u64>, usize), ()> {
        Ok((Arc::new(value), cost))
    }

    #[test]
    fn what_is_held_never_exceeds_the_capacity() {
        let cache = Numbers::new(100, 1);
        for key in 0..1000 {
            assert_eq!(*cache.get_or_load(key, || fine(key, 1 + key as usize % 40)).unwrap(), key);
            assert!(cache.held() <= 100);
        }
        let shard = lock(&cache.shards[0]);
        assert_eq!(shard.order.len(), shard.slots.len());
    }

    #[test]
    fn a_value_larger_than_the_cache_is_given_but_not_kept() {
        let cache = Numbers::new(10, 1);
        assert_eq!(*cache.get_or_load(1, || fine(7, 11)).unwrap(), 7);
        assert!(!cache.has(&1) && cache.held() == 0);
    }

    #[test]
    fn what_is_used_outlives_what_is_read_once() {
        let cache = Numbers::new(10, 1);
        cache.insert(1000, Arc::new(0), 1);
        for key in 0..100 {
            assert!(cache.get(&1000).is_some(), "gone before {key}");
            cache.insert(key, Arc::new(key), 1);
        }
    }

    #[test]
    fn threads_that_want_the_same_load_it_once() {
        let cache = Numbers::new(100, 4);
        let (loads, start) = (AtomicUsize::new(0), Barrier::new(8));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    let value = cache.get_or_load(5, || {
                        loads.fetch_add(1, Ordering::Relaxed);
                        std::thread::yield_now();
                        fine(50, 1)
                    });
                    assert_eq!(*value.unwrap(), 50);
                });
            }
        });
        assert_eq!(loads.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_failed_or_panicked_load_leaves_nothing_and_can_be_tried_again() {
        let cache = Numbers::new(100, 1);
        assert_eq!(cache.get_or_load(1, || Err("no")), Err("no"));
        assert_eq!(cache.load_ahead(1, || Err("no")), Err("no"));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _never: Result<_, ()> = cache.get_or_load(1, || panic!("as the test wants"));
        }));
        assert!(panicked.is_err() && !cache.has(&1));
        assert_eq!(*cache.get_or_load(1, || fine(9, 1)).unwrap(), 9);
        cache.load_ahead::<()>(1, || panic!("it is there")).unwrap();
    }
}
