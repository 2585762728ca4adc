//! Sections that are lists: files to copy, labels.
//!
//! ```text
//! %files                      %labels
//!     SOURCE [TARGET]             NAME VALUE...
//!     "/a file" '/b file'         Author Ada Lovelace
//!     /long \                     # a comment stands in a line of its own
//!       /name    # a comment
//! ```
//!
//! Words are as in a shell: quotes of both kinds, a backslash before a character takes its meaning. What is
//! unquoted and means more than itself (`* ? [ {`, a `~` at the start, `$`) makes a source a pattern, which is
//! matched where the files are; here it is kept. A backslash at a line's end joins the next line.

use std::ops::Range;

use super::Located;
use super::lines::{Block, Position, continued};
use super::mistakes::{Mistake, Report};
use super::template::{Filled, Scope};

/// A file or directory to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileCopy {
    /// What is copied.
    pub source: Located<Source>,
    /// Where to; none for the same path.
    pub target: Option<Located<String>>,
}

/// What is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its path, without quotes.
    pub path: String,
    /// When it is a pattern: the same with a backslash before each character that was quoted and would else have
    /// a meaning.
    pub pattern: Option<String>,
}

/// A label of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub name: Located<String>,
    /// Its value; may be empty.
    pub value: String,
}

/// A word of a line.
struct Word {
    range: Range<usize>,
    path: String,
    pattern: String,
    is_pattern: bool,
    position: Position,
}

/// Reads the lines of `%files` and `%appfiles`.
pub fn files(body: Block<'_>, scope: &mut Scope<'_, '_>, report: &mut Report) -> Vec<FileCopy> {
    let mut found: Vec<FileCopy> = Vec::new();
    // Whether the last line is joined to this one; how many words its entry has.
    let mut open = false;
    let mut count = 0;
    for line in body.lines() {
        let filled = scope.fill(line, report);
        let (text, goes_on) = match continued(&filled.text) {
            Some(text) => (text, true),
            None => (filled.text.as_ref(), false),
        };
        if !open {
            count = 0;
        }
        open = goes_on;
        let words = match words(text, &filled) {
            Ok(words) => words,
            Err((range, message)) => {
                report.mistake(|| {
                    filled
                        .mistake(range, message.into())
                        .expected("SOURCE [TARGET], a quote closed on its line")
                });
                continue;
            }
        };
        for word in words {
            count += 1;
            match (count, found.last_mut()) {
                (1, _) => found.push(FileCopy { source: source(&word), target: None }),
                (2, Some(copy)) => {
                    copy.target = Some(Located { value: word.path, position: word.position });
                }
                // One mistake a line is enough.
                (3, _) => report.mistake(|| third(&filled, &word)),
                _ => {}
            }
        }
    }
    found
}

fn source(word: &Word) -> Located<Source> {
    let pattern = word.is_pattern.then(|| word.pattern.clone());
    Located { value: Source { path: word.path.clone(), pattern }, position: word.position }
}

fn third(filled: &Filled<'_>, word: &Word) -> Mistake {
    let message = format!("a third path {:?}", super::header::shortened(&word.path));
    filled
        .mistake(word.range.clone(), message)
        .expected("SOURCE [TARGET], one pair a line; a path with blanks stands in quotes")
}

/// The words of a line.
fn words(text: &str, filled: &Filled<'_>) -> Result<Vec<Word>, (Range<usize>, &'static str)> {
    let mut found: Vec<Word> = Vec::new();
    let mut letters = text.char_indices().peekable();
    while let Some((start, first)) = letters.next() {
        if first.is_whitespace() {
            continue;
        }
        if first == '#' {
            break;
        }
        // A fourth word adds nothing: the third is a mistake already.
        if found.len() == 3 {
            break;
        }
        let mut word = Word {
            range: start..text.len(),
            path: String::new(),
            pattern: String::new(),
            is_pattern: first == '~',
            position: filled.position(start),
        };
        let mut quote: Option<(usize, char)> = None;
        let mut next = Some((start, first));
        while let Some((at, letter)) = next {
            match (quote, letter) {
                (None, c) if c.is_whitespace() => {
                    word.range.end = at;
                    break;
                }
                (None, '"' | '\'') => quote = Some((at, letter)),
                (Some((_, open)), c) if c == open => quote = None,
                (None | Some((_, '"')), '\\') => match letters.next() {
                    Some((_, escaped)) => {
                        // Between double quotes a backslash is one, except before what has a meaning there.
                        if quote.is_some() && !"\"\\$`".contains(escaped) {
                            word.push('\\', true);
                        }
                        word.push(escaped, true);
                    }
                    None => return Err((at..at + 1, "a backslash with nothing after it")),
                },
                (Some((_, '"')), '$') => word.push('$', false),
                (quoted, c) => word.push(c, quoted.is_some()),
            }
            next = letters.next();
        }
        if let Some((at, _)) = quote {
            return Err((at..text.len(), "a quote that is not closed"));
        }
        found.push(word);
    }
    Ok(found)
}

impl Word {
    fn push(&mut self, letter: char, quoted: bool) {
        const MEANS_MORE: &str = "*?[]{},~$\\\"'`";
        self.path.push(letter);
        if quoted && MEANS_MORE.contains(letter) {
            self.pattern.push('\\');
        }
        self.pattern.push(letter);
        self.is_pattern |= !quoted && "*?[{$".contains(letter);
    }
}

/// Reads the lines of `%labels` and `%applabels`.
pub fn labels(body: Block<'_>, scope: &mut Scope<'_, '_>, report: &mut Report) -> Vec<Label> {
    let mut found: Vec<Label> = Vec::new();
    let mut open = false;
    for line in body.lines() {
        let filled = scope.fill(line, report);
        let (text, goes_on) = match continued(&filled.text) {
            Some(text) => (text, true),
            None => (filled.text.as_ref(), false),
        };
        let trimmed = text.trim();
        if !open && (trimmed.is_empty() || trimmed.starts_with('#')) {
            continue;
        }
        match found.last_mut().filter(|_| open) {
            Some(label) => {
                if !label.value.is_empty() && !trimmed.is_empty() {
                    label.value.push(' ');
                }
                label.value.push_str(trimmed);
            }
            None => {
                let start = text.len() - text.trim_start().len();
                let (name, value) = trimmed.split_once(char::is_whitespace).unwrap_or((trimmed, ""));
                if value.is_empty() && name.contains('=') && !goes_on {
                    report.warning(|| {
                        let message = format!("the label {:?} has no value", super::header::shortened(name));
                        filled.mistake(start..start + name.len(), message).expected("NAME VALUE, without '='")
                    });
                }
                found.push(Label {
                    name: Located { value: name.to_owned(), position: filled.position(start) },
                    value: value.trim().to_owned(),
                });
            }
        }
        open = goes_on;
    }
    found
}
