//! Which processors a thread may run on (sched_setaffinity(2)).
//!
//! Only what the image's server does by itself: which processors a container uses is the caller's affair.

/// A set of processors: a bit for each number.
type Processors = [u64; 1024 / 64];

/// Lets this thread run on every processor of its cpuset, whatever affinity it inherited.
pub fn widen() {
    allow(0, &[!0; _]);
}

/// Moves a process that was just forked to another processor than the caller's, where there is one: the scheduler may
/// leave it in the queue behind the caller, who would then wait for what it is to do meanwhile.
pub fn move_away(child: libc::pid_t) {
    allow(child, &all_but(here()));
}

/// Keeps this thread off a processor, where there is another.
pub fn keep_off(processor: usize) {
    allow(0, &all_but(processor));
}

/// Keeps this thread to one of the processors that it may use, counted from 0; where there are not so many, to all.
pub fn keep_to(number: usize) {
    let mut mine: Processors = [0; _];
    // SAFETY: the mask is valid for the length given; what the kernel does not write stays empty.
    unsafe { libc::sched_getaffinity(0, size_of_val(&mine), mine.as_mut_ptr().cast()) };
    let is_mine =
        |processor: &usize| mine.get(processor / 64).is_some_and(|word| word >> (processor % 64) & 1 == 1);
    if let Some(chosen) = (0..size_of_val(&mine) * 8).filter(is_mine).nth(number) {
        let mut one: Processors = [0; _];
        if let Some(word) = one.get_mut(chosen / 64) {
            *word = 1 << (chosen % 64);
        }
        allow(0, &one);
    }
}

/// The processor that this thread runs on.
pub fn here() -> usize {
    // SAFETY: sched_getcpu takes nothing.
    usize::try_from(unsafe { libc::sched_getcpu() }).unwrap_or_default()
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
        let all = std::thread::available_parallelism().map(usize::from).unwrap_or(1);
        let count = || std::thread::available_parallelism().map(usize::from).unwrap_or(0);
        std::thread::spawn(move || {
            keep_to(all);
            assert_eq!(count(), all, "there is none of that number");
            keep_to(all - 1);
            assert_eq!(count(), 1);
            let here = here();
            widen();
            assert!(count() >= all);
            if all > 1 {
                keep_off(here);
                assert_ne!(super::here(), here);
            }
        })
        .join()
        .unwrap();
    }
}
