//! Definition files: the text that says what an image is made of.
//!
//! ```text
//! Bootstrap: docker          a stage begins at each line `bootstrap:`      header.rs
//! From: debian:{{ RELEASE }} values of templates                           template.rs
//! Stage: build
//!
//! %arguments                 a section begins at each line whose first     sections.rs
//!     RELEASE=12             character is `%`, and goes to the next
//! %files from other          lists: words, quotes, continuation lines      lists.rs
//!     "/a file" /opt/
//! %post -c /bin/bash         scripts: kept as they are
//!     make
//! ```
//!
//! Parsing takes bytes and gives data: it reads no file and expands no path. Every value keeps its place
//! ([`Position`]), and what is wrong is told with it (`mistakes.rs`): all mistakes of a file at once, the first
//! [`MISTAKES_SHOWN`] in full. Sizes are bounded, and the work grows with the size of the file alone.
//!
//! The stage and section lines are found before templates are filled in: a value never adds a section. The
//! language as skiff reads it, and where that differs from Apptainer: `docs/definitions.md`.

mod header;
mod lines;
mod lists;
mod mistakes;
mod sections;
mod template;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

pub use header::{AGENTS, Agent, HeaderKey};
pub use lines::Position;
pub use lists::{FileCopy, Label, Source};
pub use mistakes::{MISTAKES_SHOWN, Mistake, Mistakes};
pub use sections::{SECTIONS, Section, SectionKind, Shape};
pub use template::{Given, argument, arguments_of_file};

use lines::{Block, Line};
use mistakes::Report;
use template::{Scope, Values};

/// The largest definition, with its templates filled in. 10 MB is far beyond what anybody writes.
pub const TEXT_BYTES: usize = 64 << 20;

/// A value, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it begins.
    pub position: Position,
}

/// Text of a section, and the line where it begins. A section has more than one part when it stands in the file
/// more than once, or when the value of a template has lines of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The line of the file that the first line of `text` is.
    pub line: u32,
    /// Whole lines, templates filled in.
    pub text: String,
}

/// A definition file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The stages in order; the last becomes the image.
    pub stages: Vec<Stage>,
    /// What is odd, but no mistake.
    pub warnings: Mistakes,
    /// The names of the given arguments that no template uses.
    pub unused: Vec<String>,
    /// The names that templates use or stages set; what a wrong name is compared with.
    pub names: Vec<String>,
    /// All of its text, templates filled in.
    pub text: String,
}

/// A stage: a base, and what is done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The name given by `Stage:`.
    pub name: Option<Located<String>>,
    /// How the base is made.
    pub agent: Located<&'static Agent>,
    /// All keys of the header besides `Bootstrap` and `Stage`, in order.
    pub keys: Vec<HeaderKey>,
    /// The values that templates took, by name.
    pub arguments: Vec<(String, String)>,
    /// The sections in order of their first appearance, those of one name joined.
    pub sections: Vec<Section>,
}

/// The lines of a stage, cut into its header and its sections.
struct RawStage<'a> {
    header: Block<'a>,
    sections: Vec<RawSection<'a>>,
}

/// The lines of a section.
#[derive(Clone, Copy)]
struct RawSection<'a> {
    head: Line<'a>,
    body: Block<'a>,
}

/// Reads a definition. `given` are the arguments of the command line; of two with one name the later counts.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file.
pub fn parse(bytes: &[u8], given: &[Given]) -> Result<Definition, Mistakes> {
    let text = lines::decode(bytes)?;
    let mut report = Report::default();
    let mut values = Values::new(given);
    let mut stages: Vec<Stage> = Vec::new();
    let mut named: HashMap<String, usize> = HashMap::new();
    let raw = cut(text);
    let filled_in = text.contains("{{");
    let mut filled = String::new();
    if raw.is_empty() {
        report.mistake(|| {
            let first = Line { number: 1, text: text.lines().next().unwrap_or_default() };
            Mistake::at(first, 0..0, "the definition is empty".into())
                .expected("a header, which begins with 'Bootstrap: AGENT'")
        });
    }
    let later: HashSet<String> = raw.iter().filter_map(|stage| header::stage_name(stage.header)).collect();
    for raw in &raw {
        let mut scope = Scope::new(&mut values, &raw.sections, &mut report);
        let first = raw.header.lines().next().or(raw.sections.first().map(|section| section.head));
        let first = first.unwrap_or(Line { number: raw.header.first_line, text: "" });
        let header = header::parse(raw.header, first, &mut scope, &mut report);
        let known = sections::Stages { earlier: &named, all: &later };
        let sections = sections::parse(&raw.sections, &known, &mut scope, &mut report);
        if filled_in {
            fill(raw, &mut scope, &mut filled);
        }
        let arguments = scope.taken();
        let Some(header) = header else { continue };
        if let Some(name) = &header.name
            && let Some(first) = named.insert(name.value.clone(), stages.len())
        {
            let line = stages.get(first).and_then(|stage| stage.name.as_ref()).map_or(0, |n| n.position.line);
            report.mistake(|| {
                let line_text = header::line_at(raw.header, name.position.line);
                let from = line_text.text.find(name.value.as_str()).unwrap_or(0);
                let message = format!("two stages are called {:?}; the first is in line {line}", name.value);
                Mistake::at(line_text, from..from + name.value.len(), message)
                    .expected("a name of its own for each stage")
            });
        }
        stages.push(Stage { name: header.name, agent: header.agent, keys: header.keys, arguments, sections });
    }
    let (unused, names) = values.unused();
    let warnings = report.finish()?;
    let text = if filled_in { filled } else { text.to_owned() };
    Ok(Definition { stages, warnings, unused, names, text })
}

/// Adds the lines of a stage with their templates filled in. What is wrong with those has been told.
fn fill(raw: &RawStage<'_>, scope: &mut Scope<'_, '_>, out: &mut String) {
    let mut report = Report::default();
    let mut add = |line: Line<'_>, fill: bool| {
        let text = if fill { scope.fill(line, &mut report).text } else { line.text.into() };
        out.push_str(&text);
        out.push('\n');
    };
    raw.header.lines().for_each(|line| add(line, true));
    for section in &raw.sections {
        let fill = !sections::is_arguments(section.head.text);
        add(section.head, fill);
        section.body.lines().for_each(|line| add(line, fill));
    }
}

/// Cuts the text at each line `bootstrap:` and at each line that begins with `%`.
fn cut(text: &str) -> Vec<RawStage<'_>> {
    let whole = Block { first_line: 1, text };
    let mut stages: Vec<RawStage<'_>> = Vec::new();
    // Where the block that is being read begins, and the head of its section; none for a header.
    let mut begin: Option<(u32, usize)> = None;
    let mut head: Option<Line<'_>> = None;
    let mut bootstrapped = false;
    for (line, start) in whole.lines_with_starts() {
        let new_section = line.text.starts_with('%');
        let new_stage = !new_section && begins_stage(line.text);
        let blank = line.text.trim().is_empty() || line.text.trim_start().starts_with('#');
        let first = begin.is_none() && !blank;
        if !(new_section || new_stage || first) {
            continue;
        }
        // Keys above the first `bootstrap:` belong to its stage, whose header then says that they stand wrong.
        if new_stage && !bootstrapped && begin.is_some() && head.is_none() {
            bootstrapped = true;
            continue;
        }
        bootstrapped |= new_stage;
        close(&mut stages, text, begin, start, head);
        if new_section {
            if stages.is_empty() {
                stages.push(RawStage {
                    header: Block { first_line: line.number, text: "" },
                    sections: Vec::new(),
                });
            }
            head = Some(line);
            begin = Some((line.number + 1, after(text, start)));
        } else {
            head = None;
            begin = Some((line.number, start));
        }
    }
    close(&mut stages, text, begin, text.len(), head);
    stages
}

/// Whether a line is the first of a stage.
fn begins_stage(line: &str) -> bool {
    const WORD: &str = "bootstrap:";
    line.get(..WORD.len()).is_some_and(|start| start.eq_ignore_ascii_case(WORD))
}

/// The start of the line after the one that starts at `start`.
fn after(text: &str, start: usize) -> usize {
    text.get(start..).and_then(|rest| rest.find('\n')).map_or(text.len(), |end| start + end + 1)
}

/// Ends the block that was being read.
fn close<'a>(
    stages: &mut Vec<RawStage<'a>>,
    text: &'a str,
    begin: Option<(u32, usize)>,
    end: usize,
    head: Option<Line<'a>>,
) {
    let Some((first_line, start)) = begin else { return };
    let block = Block { first_line, text: text.get(start..end).unwrap_or_default() };
    match (head, stages.last_mut()) {
        (Some(head), Some(stage)) => stage.sections.push(RawSection { head, body: block }),
        _ => stages.push(RawStage { header: block, sections: Vec::new() }),
    }
}
