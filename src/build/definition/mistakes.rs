//! How a mistake is told: where, the line with a mark under the place, what was expected, the nearest known name.
//!
//! ```text
//! a.def:3:1: unknown key "Form"
//!   3 | Form: debian:12
//!     | ^^^^
//!   expected: a key of a header
//!   nearest: From
//! ```
//!
//! A mistake holds the part of the line that is shown, so it can be printed without the file. Control characters
//! are not: the file may be a stranger's, and the reader is a terminal.

use std::fmt::Write;
use std::ops::Range;

use super::lines::{Line, Position};

/// How many mistakes of a file are told in full.
pub const MISTAKES_SHOWN: usize = 20;

/// How much of a line is shown, in characters.
const SHOWN_CHARS: usize = 100;
/// How much of it before the place.
const SHOWN_BEFORE: usize = 60;
/// A name that was meant is looked for among so many known ones, none of them longer than that.
const NAMES_COMPARED: usize = 1000;
const NAME_BYTES: usize = 64;

/// Something wrong or odd in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where; none for something that has no place in the file.
    pub position: Option<Position>,
    /// What.
    pub message: String,
    /// What belongs there.
    pub expected: Option<String>,
    /// The known name that is most like the wrong one.
    pub nearest: Option<String>,
    /// The line, or a part of it, with the place that is marked: its first character and how many.
    shown: Option<(String, usize, usize)>,
}

/// All that is wrong, or odd, in a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mistakes {
    /// In the order they were found, at most [`MISTAKES_SHOWN`].
    pub list: Vec<Mistake>,
    /// How many more there are.
    pub left_out: usize,
}

impl Mistake {
    /// A mistake at the bytes `range` of a line.
    pub(super) fn at(line: Line<'_>, range: Range<usize>, message: String) -> Self {
        let position = line.position(range.start);
        let first = position.column as usize - 1;
        let length = line.text.get(range).map_or(1, |text| text.chars().count()).max(1);
        let skipped = if first > SHOWN_CHARS - 20 { first - SHOWN_BEFORE } else { 0 };
        let mut text = plain(&line.text.chars().skip(skipped).take(SHOWN_CHARS).collect::<String>());
        let mut mark = first - skipped;
        if skipped > 0 {
            text.insert_str(0, "...");
            mark += 3;
        }
        let shown = text.chars().count();
        let length = length.min(shown.saturating_sub(mark).max(1));
        Self {
            position: Some(position),
            message,
            expected: None,
            nearest: None,
            shown: Some((text, mark, length)),
        }
    }

    /// A mistake without a place.
    pub fn nowhere(message: String) -> Self {
        Self { position: None, message, expected: None, nearest: None, shown: None }
    }

    /// Adds what belongs there.
    #[must_use]
    pub fn expected(mut self, text: &str) -> Self {
        self.expected = Some(text.to_owned());
        self
    }

    /// Adds the known name that is most like `name`, if one is like it at all.
    #[must_use]
    pub fn nearest<'a>(mut self, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        self.nearest = nearest(name, known).map(str::to_owned);
        self
    }

    /// As it is printed; without a line end after it.
    pub fn show(&self, file: &str) -> String {
        let message = plain(&self.message);
        let mut out = match self.position {
            Some(Position { line, column }) => format!("{file}:{line}:{column}: {message}"),
            None => format!("{file}: {message}"),
        };
        if let (Some((text, mark, length)), Some(position)) = (&self.shown, self.position) {
            let number = position.line.to_string();
            let pad = " ".repeat(number.len());
            let mark = format!("{}{}", " ".repeat(*mark), "^".repeat(*length));
            // Writing to a string cannot fail.
            let _ = write!(out, "\n  {number} | {}\n  {pad} | {mark}", text.trim_end());
        }
        for (label, text) in [("expected", &self.expected), ("nearest", &self.nearest)] {
            if let Some(text) = text {
                let _ = write!(out, "\n  {label}: {}", plain(text));
            }
        }
        out
    }
}

impl From<Mistake> for Mistakes {
    fn from(mistake: Mistake) -> Self {
        Self { list: vec![mistake], left_out: 0 }
    }
}

impl Mistakes {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.list.len() + self.left_out
    }

    /// All of them as they are printed, a blank line before each; without a line end after the last.
    pub fn show(&self, file: &str) -> String {
        let mut out: String = self.list.iter().map(|mistake| format!("\n\n{}", mistake.show(file))).collect();
        if self.left_out > 0 {
            let _ = write!(out, "\n\nand {} more", self.left_out);
        }
        out
    }

    fn add(&mut self, mistake: impl FnOnce() -> Mistake) {
        // Not even made: finding the column and the nearest name costs more than the rest of the work.
        if self.list.len() < MISTAKES_SHOWN {
            self.list.push(mistake());
        } else {
            self.left_out += 1;
        }
    }
}

/// What was found while a file is read.
#[derive(Default)]
pub struct Report {
    mistakes: Mistakes,
    warnings: Mistakes,
}

impl Report {
    /// Something wrong.
    pub fn mistake(&mut self, mistake: impl FnOnce() -> Mistake) {
        self.mistakes.add(mistake);
    }

    /// Something odd.
    pub fn warning(&mut self, mistake: impl FnOnce() -> Mistake) {
        self.warnings.add(mistake);
    }

    /// The warnings, or else the mistakes in the order of the file.
    pub fn finish(mut self) -> Result<Mistakes, Mistakes> {
        self.mistakes.list.sort_by_key(|mistake| mistake.position);
        self.warnings.list.sort_by_key(|mistake| mistake.position);
        if self.mistakes.list.is_empty() { Ok(self.warnings) } else { Err(self.mistakes) }
    }
}

fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The known name that is most like `name`: a few letters wrong, missing or exchanged, or the case.
fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.is_empty() || name.len() > NAME_BYTES {
        return None;
    }
    let lower = name.to_lowercase();
    let limit = (lower.chars().count() / 3).max(1);
    let compared = known.into_iter().take(NAMES_COMPARED).filter(|known| known.len() <= NAME_BYTES);
    let near = compared.map(|known| (strsim::damerau_levenshtein(&lower, &known.to_lowercase()), known));
    near.filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}
