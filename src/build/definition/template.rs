//! Templates: `{{ NAME }}` in a definition, and the values they take.
//!
//! ```text
//! --build-arg NAME=VALUE       of two with one name, the later counts
//! --build-arg-file FILE        lines NAME=VALUE
//! %arguments of the stage      lines NAME=VALUE; a value may itself have templates
//! ```
//!
//! What follows a `#` on a line is left as it is, as in Apptainer; `#!` does not count. What is no name between
//! the braces (`{{ .Id }}`, `{{ a b }}`) is no template: other programs have such forms too.
//!
//! Values are worked out when a template asks for them, so a default that another value replaces is never looked
//! at. Depth and size are bounded: values that name each other could double at each step.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::rc::Rc;

use super::lines::{Block, Line, Position, continued, decode};
use super::mistakes::{Mistake, Mistakes, Report};
use super::{RawSection, TEXT_BYTES, sections};

/// The longest value.
const VALUE_BYTES: usize = 1 << 20;
/// How deep values may name each other.
const DEPTH: usize = 32;

/// An argument that was given for this build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Its name.
    pub name: String,
    /// Its value, taken as it is.
    pub value: String,
    /// Who gave it, for messages: `--build-arg`, or a file and line.
    pub origin: String,
}

/// Reads `NAME=VALUE`; none when it is not that. The value is taken as it is.
pub fn argument(text: &str, origin: &str) -> Option<Given> {
    let (name, value) = text.split_once('=')?;
    let name = name.trim();
    is_name(name).then(|| Given { name: name.to_owned(), value: value.to_owned(), origin: origin.to_owned() })
}

/// Reads a file of arguments: lines `NAME=VALUE`, blank lines and comments.
///
/// # Errors
/// Lines that are none of these.
pub fn arguments_of_file(bytes: &[u8], file: &str) -> Result<Vec<Given>, Mistakes> {
    let mut report = Report::default();
    let mut given = Vec::new();
    for line in (Block { first_line: 1, text: decode(bytes)? }).lines() {
        let text = line.text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        match argument(text, &format!("{file}:{}", line.number)) {
            Some(argument) => given.push(trimmed(argument)),
            None => report.mistake(|| no_pair(line)),
        }
    }
    report.finish().map(|_| given)
}

/// In a line there may be blanks around the `=`.
fn trimmed(given: Given) -> Given {
    Given { value: given.value.trim().to_owned(), ..given }
}

fn no_pair(line: Line<'_>) -> Mistake {
    let start = line.text.len() - line.text.trim_start().len();
    let end = line.text.trim_end().len();
    Mistake::at(line, start..end, "this is no argument".into())
        .expected("NAME=VALUE, the name of letters, digits and underscores")
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_word)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The arguments of a build, and which of them were used.
pub struct Values<'g> {
    given: HashMap<&'g str, &'g str>,
    order: Vec<&'g str>,
    used: HashSet<String>,
    names: HashSet<String>,
    /// How much text may still be made.
    budget: usize,
}

impl<'g> Values<'g> {
    /// All arguments of the command line.
    pub fn new(given: &'g [Given]) -> Self {
        Self {
            given: given.iter().map(|given| (given.name.as_str(), given.value.as_str())).collect(),
            order: given.iter().map(|given| given.name.as_str()).collect(),
            used: HashSet::new(),
            names: HashSet::new(),
            budget: TEXT_BYTES,
        }
    }

    /// The given arguments that no template used, in order; and all names that a template used or a stage set.
    pub fn unused(self) -> (Vec<String>, Vec<String>) {
        let mut seen = HashSet::new();
        let unused = self.order.iter().filter(|name| !self.used.contains(**name) && seen.insert(**name));
        let unused = unused.map(|name| (*name).to_owned()).collect();
        let mut names: Vec<String> = self.names.union(&self.used).cloned().collect();
        names.sort();
        (unused, names)
    }
}

/// The values that hold in one stage.
pub struct Scope<'v, 'g> {
    values: &'v mut Values<'g>,
    defaults: HashMap<String, String>,
    taken: BTreeMap<String, Rc<str>>,
}

/// A line with its templates filled in.
pub struct Filled<'a> {
    /// The line as it stands in the file.
    pub line: Line<'a>,
    /// Its text with the values.
    pub text: Cow<'a, str>,
    /// For each template, where its value lies in `text` and where it lies itself in the line.
    shifts: Vec<(Range<usize>, Range<usize>)>,
}

impl Filled<'_> {
    /// Where in the line a byte of the filled text comes from.
    pub fn origin(&self, offset: usize) -> usize {
        let mut moved = (0, 0);
        for (filled, original) in &self.shifts {
            if offset < filled.start {
                break;
            }
            if filled.contains(&offset) {
                return original.start;
            }
            moved = (filled.end, original.end);
        }
        offset - moved.0 + moved.1
    }

    /// The place of a byte of the filled text.
    pub fn position(&self, offset: usize) -> Position {
        self.line.position(self.origin(offset))
    }

    /// A mistake at some bytes of the filled text.
    pub fn mistake(&self, range: Range<usize>, message: String) -> Mistake {
        let end =
            if range.end > range.start { self.origin(range.end - 1) + 1 } else { self.origin(range.end) };
        let start = self.origin(range.start);
        // The end may be in the middle of a character, or at the start of a template.
        let within = self.shifts.iter().find(|(_, original)| original.start + 1 == end && original.len() > 1);
        let mut end = within.map_or(end, |(_, original)| original.end).max(start).min(self.line.text.len());
        while !self.line.text.is_char_boundary(end) {
            end += 1;
        }
        Mistake::at(self.line, start..end, message)
    }
}

/// Why a template has no value.
enum Trouble {
    Unknown(String),
    Circle(String),
    Deep,
    Large,
}

impl<'v, 'g> Scope<'v, 'g> {
    /// The values of a stage with these sections.
    pub(super) fn new(values: &'v mut Values<'g>, raw: &[RawSection<'_>], report: &mut Report) -> Self {
        let mut defaults = HashMap::new();
        for section in raw.iter().filter(|section| sections::is_arguments(section.head.text)) {
            defaults.extend(read_defaults(section.body, report));
        }
        values.names.extend(defaults.keys().cloned());
        Self { values, defaults, taken: BTreeMap::new() }
    }

    /// The values that templates took.
    pub fn taken(self) -> Vec<(String, String)> {
        self.taken.into_iter().map(|(name, value)| (name, value.to_string())).collect()
    }

    /// Fills in the templates of a line.
    pub fn fill<'a>(&mut self, line: Line<'a>, report: &mut Report) -> Filled<'a> {
        let end = comment(line.text);
        let open = &line.text[..end];
        if end < line.text.len() {
            self.warn_of_hash(line, end, report);
        }
        if !open.contains("{{") {
            return Filled { line, text: Cow::Borrowed(line.text), shifts: Vec::new() };
        }
        let mut text = String::with_capacity(line.text.len());
        let mut shifts = Vec::new();
        let mut done = 0;
        for (range, name) in templates(open) {
            text.push_str(&open[done..range.start]);
            done = range.end;
            match self.value(name) {
                Ok(value) => {
                    let start = text.len();
                    text.push_str(&value);
                    shifts.push((start..text.len(), range));
                }
                Err(trouble) => {
                    report.mistake(|| self.explain(trouble, line, range.clone()));
                    let start = text.len();
                    text.push_str(&line.text[range.clone()]);
                    shifts.push((start..text.len(), range));
                }
            }
        }
        text.push_str(&line.text[done..]);
        Filled { line, text: Cow::Owned(text), shifts }
    }

    /// A `#` within a word makes no comment in the eyes of a shell, but it ends the templates of its line.
    fn warn_of_hash(&self, line: Line<'_>, hash: usize, report: &mut Report) {
        let within_word = line.text[..hash].chars().next_back().is_some_and(|c| !c.is_whitespace());
        if !within_word {
            return;
        }
        if let Some((range, _)) = templates(&line.text[hash..]).next() {
            report.warning(|| {
                Mistake::at(
                    line,
                    hash + range.start..hash + range.end,
                    "this template is left as it is".into(),
                )
                .expected("templates before the first # of a line")
            });
        }
    }

    /// The value of a name, which is used from now on.
    fn value(&mut self, name: &str) -> Result<Rc<str>, Trouble> {
        let value = self.resolve(name, &mut Vec::new())?;
        let Some(left) = self.values.budget.checked_sub(value.len()) else { return Err(Trouble::Large) };
        self.values.budget = left;
        Ok(value)
    }

    fn resolve(&mut self, name: &str, above: &mut Vec<String>) -> Result<Rc<str>, Trouble> {
        if let Some(value) = self.taken.get(name) {
            return Ok(Rc::clone(value));
        }
        self.values.used.insert(name.to_owned());
        let value: Rc<str> = if let Some(given) = self.values.given.get(name) {
            Rc::from(*given)
        } else {
            if above.iter().any(|upper| upper == name) {
                return Err(Trouble::Circle(name.to_owned()));
            }
            if above.len() >= DEPTH {
                return Err(Trouble::Deep);
            }
            let Some(default) = self.defaults.get(name).cloned() else {
                return Err(Trouble::Unknown(name.to_owned()));
            };
            above.push(name.to_owned());
            let mut text = String::new();
            let mut done = 0;
            for (range, inner) in templates(&default) {
                text.push_str(&default[done..range.start]);
                text.push_str(&self.resolve(inner, above)?);
                done = range.end;
                if text.len() > VALUE_BYTES {
                    return Err(Trouble::Large);
                }
            }
            text.push_str(&default[done..]);
            above.pop();
            Rc::from(text)
        };
        self.taken.insert(name.to_owned(), Rc::clone(&value));
        Ok(value)
    }

    fn explain(&self, trouble: Trouble, line: Line<'_>, range: Range<usize>) -> Mistake {
        let at = |message: String| Mistake::at(line, range, message);
        match trouble {
            Trouble::Unknown(name) => {
                let known = self.defaults.keys().map(String::as_str).chain(self.values.order.iter().copied());
                let mut known: Vec<&str> = known.collect();
                known.sort_unstable();
                at(format!("{name:?} has no value"))
                    .expected(&format!(
                        "{name}=VALUE in %arguments of this stage, or --build-arg {name}=VALUE"
                    ))
                    .nearest(&name, known)
            }
            Trouble::Circle(name) => at(format!("the value of {name:?} is made of itself"))
                .expected("values in %arguments that do not name each other in a circle"),
            Trouble::Deep => at("the values in %arguments name each other".into())
                .expected(&format!("at most {DEPTH} steps")),
            Trouble::Large => at("the values are too long".into()).expected(&format!(
                "at most {} MiB a value, {} MiB in all",
                VALUE_BYTES >> 20,
                TEXT_BYTES >> 20
            )),
        }
    }
}

/// Where the comment of a line begins, for templates: at the first `#` that no `!` follows.
fn comment(text: &str) -> usize {
    let found = text.match_indices('#').find(|(at, _)| text.as_bytes().get(at + 1) != Some(&b'!'));
    found.map_or(text.len(), |(at, _)| at)
}

/// The templates of a text: where each stands, and its name.
fn templates(text: &str) -> impl Iterator<Item = (Range<usize>, &str)> {
    let bytes = text.as_bytes();
    let mut from = 0;
    std::iter::from_fn(move || {
        loop {
            let start = from + text.get(from..)?.find("{{")?;
            let skip = |mut at: usize, wanted: fn(u8) -> bool| {
                while bytes.get(at).copied().is_some_and(wanted) {
                    at += 1;
                }
                at
            };
            let blank = |byte: u8| byte == b' ' || byte == b'\t';
            let name = skip(start + 2, blank);
            let name_end = skip(name, is_word);
            let end = skip(name_end, blank);
            if name_end > name && bytes.get(end..end + 2) == Some(b"}}") {
                from = end + 2;
                return Some((start..end + 2, &text[name..name_end]));
            }
            from = start + 1;
        }
    })
}

/// The lines `NAME=VALUE` of `%arguments`.
fn read_defaults(body: Block<'_>, report: &mut Report) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = false;
    for line in body.lines() {
        let (text, goes_on) = match continued(line.text) {
            Some(text) => (text.trim(), true),
            None => (line.text.trim(), false),
        };
        if open {
            if let Some((_, value)) = found.last_mut() {
                let value: &mut String = value;
                value.push(' ');
                value.push_str(text);
            }
        } else if !text.is_empty() && !text.starts_with('#') {
            match argument(text, "").map(trimmed) {
                Some(argument) => found.push((argument.name, argument.value)),
                None => report.mistake(|| no_pair(line)),
            }
        } else {
            continue;
        }
        open = goes_on;
    }
    found
}
