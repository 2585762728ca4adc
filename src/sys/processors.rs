//! Which processors a thread may run on (sched_setaffinity(2)).
//!
//! Only what the image's server does by itself: which processors a container uses is the caller's affair.

use std::ops::RangeInclusive;

/// A set of processors: a bit for each number.
type Processors = [u64; 1024 / 64];

/// Lets this thread run on every processor of its cpuset, whatever affinity it inherited.
pub fn widen() {
    allow(0, &[!0; _]);
}

/// Moves a process that was just forked to another processor than the caller's, where there is one: the scheduler may
/// leave it in the queue behind the caller, who would then wait for what it is to do meanwhile.
pub fn move_away(child: libc::pid_t) {
    if let Some(here) = here() {
        allow(child, &all_but(here));
    }
}

/// Keeps this thread off a processor, where there is another.
pub fn keep_off(processor: usize) {
    allow(0, &all_but(processor));
}

/// Keeps this thread to one processor.
pub fn keep_to(processor: usize) {
    let mut one: Processors = [0; _];
    if let Some(word) = one.get_mut(processor / 64) {
        *word = 1 << (processor % 64);
    }
    allow(0, &one);
}

/// The numbers of the processors that this thread may run on.
pub fn mine() -> Vec<usize> {
    let mut mine: Processors = [0; _];
    // SAFETY: the mask is valid for the length given; what the kernel does not write stays empty.
    unsafe { libc::sched_getaffinity(0, size_of_val(&mine), mine.as_mut_ptr().cast()) };
    let is_mine = |number: &usize| mine.get(number / 64).is_some_and(|word| word >> (number % 64) & 1 == 1);
    (0..size_of_val(&mine) * 8).filter(is_mine).collect()
}

/// The ranges of a list as the kernel writes it, `0-3,8`; none for what is no range.
pub fn ranges_of_list(list: &str) -> impl Iterator<Item = Option<RangeInclusive<usize>>> {
    list.split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse().ok()?)
    })
}

/// The processor that this thread runs on.
pub fn here() -> Option<usize> {
    // SAFETY: sched_getcpu takes nothing.
    usize::try_from(unsafe { libc::sched_getcpu() }).ok()
}

fn all_but(processor: usize) -> Processors {
    let mut all: Processors = [!0; _];
    if let Some(word) = all.get_mut(processor / 64) {
        *word &= !(1 << (processor % 64));
    }
    all
}

/// Lets a thread (0: this one) run on processors of its cpuset.
fn allow(thread: libc::pid_t, processors: &Processors) {
    // SAFETY: the mask is valid for the length given. The kernel intersects it with the cpuset, and refuses an empty
    // one; failure leaves the mask that was, with which a server is slower but right.
    unsafe { libc::sched_setaffinity(thread, size_of_val(processors), processors.as_ptr().cast()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_to_one_processor_and_off_another() {
        let all = mine();
        std::thread::spawn(move || {
            let last = *all.last().unwrap();
            keep_to(last);
            assert_eq!((mine(), here()), (vec![last], Some(last)));
            keep_to(1023);
            assert_eq!(mine(), [last], "there is none of that number");
            widen();
            assert!(mine().len() >= all.len());
            if all.len() > 1 {
                keep_off(last);
                assert!(!mine().contains(&last) && here() != Some(last));
            }
        })
        .join()
        .unwrap();
    }
}
