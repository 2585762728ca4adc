//! How far a build is, on a terminal.
//!
//! The work counts in atomics; a thread that exists only while a bar is shown looks at them ten times a
//! second. Without a terminal there is no thread and no output.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::Global;
use crate::commands::amount;
use crate::oci::transfer::Progress;

/// Time between two looks at the work.
const INTERVAL: Duration = Duration::from_millis(100);
/// The bar's length in parts.
const PARTS: u64 = 1000;

/// What is shown.
pub struct Shown {
    /// What is being done.
    pub verb: &'static str,
    /// Bytes of contents done.
    pub bytes: u64,
    /// Files done.
    pub files: u64,
    /// How much of the whole that is, once it is known.
    pub share: Option<f64>,
}

/// Does `work` and shows how far it is meanwhile, when standard error is a terminal and `--quiet` is not
/// given.
pub fn during<T>(global: &Global, shown: &(dyn Fn() -> Shown + Sync), work: impl FnOnce() -> T) -> T {
    if global.silent() || !io::stderr().is_terminal() {
        return work();
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let drawer = scope.spawn(|| draw(shown, &done));
        let result = work();
        done.store(true, Ordering::Relaxed);
        drawer.thread().unpark();
        result
    })
}

fn draw(shown: &dyn Fn() -> Shown, done: &AtomicBool) {
    let started = Instant::now();
    let bar = ProgressBar::with_draw_target(Some(PARTS), ProgressDrawTarget::stderr());
    // Both templates are constants; a wrong one shows in the first test run on a terminal.
    let style =
        |template| ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let (known, unknown) = (style("{bar:30} {percent:>3} % {msg}"), style("{spinner} {msg}"));
    let mut bar_shown = None;
    while !done.load(Ordering::Relaxed) {
        thread::park_timeout(INTERVAL);
        let now = shown();
        if bar_shown != Some(now.share.is_some()) {
            bar_shown = Some(now.share.is_some());
            bar.set_style(if now.share.is_some() { known.clone() } else { unknown.clone() });
        }
        let rate = now.bytes as f64 / started.elapsed().as_secs_f64().max(0.001);
        let (bytes, files) = (amount(now.bytes), count(now.files));
        bar.set_message(format!("{} {bytes}, {files} files, {}/s", now.verb, amount(rate as u64)));
        bar.set_position((now.share.unwrap_or(0.0).clamp(0.0, 1.0) * PARTS as f64) as u64);
        bar.tick();
    }
    bar.finish_and_clear();
}

/// Does `work` and shows how far each part of a transfer is meanwhile, and all of them; as [`during`].
pub fn transfers<T>(global: &Global, progress: &Progress, work: impl FnOnce() -> T) -> T {
    if global.silent() || !io::stderr().is_terminal() {
        return work();
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let drawer = scope.spawn(|| draw_parts(progress, &done));
        let result = work();
        done.store(true, Ordering::Relaxed);
        drawer.thread().unpark();
        result
    })
}

fn draw_parts(progress: &Progress, done: &AtomicBool) {
    let started = Instant::now();
    let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{prefix:14} {bar:30} {msg}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    let new_bar = |name: &str| {
        let bar = all.add(ProgressBar::new(PARTS).with_style(style.clone()));
        bar.set_prefix(name.to_owned());
        bar
    };
    let mut bars: Vec<ProgressBar> = Vec::new();
    let mut total = None;
    while !done.load(Ordering::Relaxed) {
        thread::park_timeout(INTERVAL);
        let parts = progress.parts();
        let (mut here, mut size) = (0, 0);
        for (number, part) in parts.iter().enumerate() {
            let now = part.done.load(Ordering::Relaxed);
            here += now;
            size += part.size;
            if number >= bars.len() {
                bars.push(new_bar(&part.name));
            }
            show_part(&bars[number], now, part.size);
        }
        if parts.len() > 1 {
            let bar = total.get_or_insert_with(|| new_bar("in all"));
            show_part(bar, here, size);
            let rate = here as f64 / started.elapsed().as_secs_f64().max(0.001);
            bar.set_message(format!("{} of {}, {}/s", amount(here), amount(size), amount(rate as u64)));
        }
    }
    // Nothing is left to be seen, and nobody to be told if that fails.
    let _ = all.clear();
}

fn show_part(bar: &ProgressBar, now: u64, size: u64) {
    bar.set_position((now as f64 / size.max(1) as f64 * PARTS as f64).min(PARTS as f64) as u64);
    bar.set_message(match size {
        0 => amount(now),
        size => format!("{} of {}", amount(now), amount(size)),
    });
}

/// A number with its digits in groups: `59,014`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!([amount(0), amount(999), amount(1000)], ["0 B", "999 B", "1.0 KiB"]);
        assert_eq!([amount(35_861_299), amount(u64::MAX)], ["34.2 MiB", "16384.0 PiB"]);
        assert_eq!(
            [count(0), count(999), count(59_014), count(1_000_000)],
            ["0", "999", "59,014", "1,000,000"]
        );
    }
}
