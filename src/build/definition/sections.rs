//! Sections: their names, what each is made of, and the line each begins with.
//!
//! ```text
//! %post -c /bin/bash          arguments: how the script is run
//! %files from build           the stage that files come from
//! %apprun solver              the app
//! ```

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::header::shortened;
use super::lines::Block;
use super::lists::{self, FileCopy, Label};
use super::mistakes::{Mistake, Report};
use super::template::{Filled, Scope};
use super::{Located, Part, Position, RawSection, TEXT_BYTES};

/// What a section is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Values of templates.
    Arguments,
    /// A script that is run; its section line may say by what.
    Script,
    /// Text that is kept.
    Text,
    /// Files to copy.
    Files,
    /// Labels.
    Labels,
}

/// A kind of section.
#[derive(Debug, PartialEq, Eq)]
pub struct SectionKind {
    /// Its name without the `%`.
    pub name: &'static str,
    /// What it is made of.
    pub shape: Shape,
    /// Whether it belongs to an app, whose name follows.
    pub app: bool,
    /// Whether a first line `#!` says what runs the script. It does in scripts that are files of the image.
    pub shebang: bool,
}

const fn kind(name: &'static str, shape: Shape, app: bool, shebang: bool) -> SectionKind {
    SectionKind { name, shape, app, shebang }
}

/// All kinds of sections.
#[rustfmt::skip]
pub const SECTIONS: &[SectionKind] = &[
    kind("arguments",   Shape::Arguments, false, false),
    kind("pre",         Shape::Script,    false, false),
    kind("setup",       Shape::Script,    false, false),
    kind("files",       Shape::Files,     false, false),
    kind("post",        Shape::Script,    false, false),
    kind("environment", Shape::Text,      false, false),
    kind("runscript",   Shape::Script,    false, true),
    kind("startscript", Shape::Script,    false, true),
    kind("test",        Shape::Script,    false, true),
    kind("labels",      Shape::Labels,    false, false),
    kind("help",        Shape::Text,      false, false),
    kind("appinstall",  Shape::Text,      true,  false),
    kind("appfiles",    Shape::Files,     true,  false),
    kind("applabels",   Shape::Labels,    true,  false),
    kind("appenv",      Shape::Text,      true,  false),
    kind("apphelp",     Shape::Text,      true,  false),
    kind("apprun",      Shape::Text,      true,  true),
    kind("appstart",    Shape::Text,      true,  true),
    kind("apptest",     Shape::Text,      true,  true),
];

/// A section of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// What it is.
    pub kind: &'static SectionKind,
    /// Where its first `%` stands.
    pub position: Position,
    /// The app.
    pub app: Option<Located<String>>,
    /// The earlier stage whose files are copied.
    pub from: Option<Located<String>>,
    /// What follows the name, for a script.
    pub arguments: String,
    /// Its text, unless it is a list.
    pub parts: Vec<Part>,
    /// Its files.
    pub files: Vec<FileCopy>,
    /// Its labels.
    pub labels: Vec<Label>,
}

/// The names of stages, as far as a section must know them.
pub struct Stages<'a> {
    /// Those above, which files can come from.
    pub earlier: &'a HashMap<String, usize>,
    /// All of the file.
    pub all: &'a HashSet<String>,
}

/// The name of the section that a line begins.
fn name_of(head: &str) -> &str {
    head.get(1..)
        .unwrap_or_default()
        .split_whitespace()
        .next()
        .filter(|_| !head[1..].starts_with([' ', '\t']))
        .unwrap_or("")
}

/// Whether a line begins `%arguments`.
pub fn is_arguments(head: &str) -> bool {
    name_of(head).eq_ignore_ascii_case("arguments")
}

/// Reads the sections of a stage; those of one name become one, but for files: what is copied later may replace what
/// came before, so they stay in order.
pub(super) fn parse(
    raw: &[RawSection<'_>],
    stages: &Stages<'_>,
    scope: &mut Scope<'_, '_>,
    report: &mut Report,
) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut places: HashMap<(&str, Option<String>), usize> = HashMap::new();
    let mut text_bytes = 0_usize;
    for section in raw {
        let Some(kind) = find(section, report) else { continue };
        if kind.shape == Shape::Arguments {
            continue;
        }
        let filled = scope.fill(section.head, report);
        let Some(head) = read_head(kind, &filled, stages, report) else { continue };
        let app = head.app.as_ref().map(|app| app.value.clone());
        let place = match kind.shape {
            Shape::Files => sections.len(),
            _ => *places.entry((kind.name, app)).or_insert(sections.len()),
        };
        if place == sections.len() {
            sections.push(head);
        } else if !head.arguments.is_empty() && sections[place].arguments != head.arguments {
            report.warning(|| {
                let line = sections[place].position.line;
                filled
                    .mistake(0..filled.text.len(), format!("'%{}' begins in line {line} already", kind.name))
                    .expected("what runs a script said once, where the section begins first")
            });
        }
        let into = &mut sections[place];
        match kind.shape {
            Shape::Files => into.files.extend(lists::files(section.body, scope, report)),
            Shape::Labels => into.labels.extend(lists::labels(section.body, scope, report)),
            _ => {
                if kind.name != "help" && kind.name != "apphelp" {
                    warn_of_indented(section.body, report);
                }
                let parts = text(section.body, scope, report);
                text_bytes = parts.iter().map(|part| part.text.len()).fold(text_bytes, usize::saturating_add);
                into.parts.extend(parts);
                if kind.shape == Shape::Script && !kind.shebang {
                    warn_of_shebang(kind, section, report);
                }
            }
        }
    }
    if text_bytes > TEXT_BYTES {
        let message = format!("{text_bytes} bytes are too many, with the templates filled in");
        report.mistake(|| Mistake::nowhere(message).expected(&format!("at most {} MiB", TEXT_BYTES >> 20)));
    }
    sections
}

/// The kind of a section.
fn find(section: &RawSection<'_>, report: &mut Report) -> Option<&'static SectionKind> {
    let name = name_of(section.head.text);
    let found = SECTIONS.iter().find(|kind| kind.name.eq_ignore_ascii_case(name));
    if found.is_none() {
        report.mistake(|| {
            let message = match name {
                "" => "a section without a name".to_owned(),
                name => format!("unknown section \"%{}\"", shortened(name)),
            };
            let names: Vec<String> = SECTIONS.iter().map(|kind| format!("%{}", kind.name)).collect();
            Mistake::at(section.head, 0..1 + name.len(), message)
                .expected("a section; a line of text is indented when it begins with %")
                .nearest(&format!("%{name}"), names.iter().map(String::as_str))
        });
    }
    found
}

/// Reads the rest of a section line.
fn read_head(
    kind: &'static SectionKind,
    filled: &Filled<'_>,
    stages: &Stages<'_>,
    report: &mut Report,
) -> Option<Section> {
    let text = filled.text.as_ref();
    let end = text
        .match_indices('#')
        .find(|(at, _)| text[..*at].ends_with([' ', '\t']))
        .map_or(text.len(), |(at, _)| at);
    let start = 1 + kind.name.len();
    let rest = text.get(start..end).unwrap_or_default();
    let words = first_words(text, start..end);
    let located =
        |(at, word): (usize, &str)| Located { value: word.to_owned(), position: filled.position(at) };
    let mut section = empty(kind, filled.position(0));
    let all = || start + rest.len() - rest.trim_start().len()..start + rest.trim_end().len();
    match (kind.app, kind.shape, words.as_slice()) {
        (true, _, [app]) => section.app = Some(app_name(kind, *app, filled, located(*app), report)?),
        (true, _, []) => {
            report.mistake(|| {
                filled
                    .mistake(0..text.trim_end().len(), format!("'%{}' names no app", kind.name))
                    .expected(&format!("'%{} APP'", kind.name))
            });
            return None;
        }
        (true, _, [_, ..]) => {
            report.mistake(|| {
                filled
                    .mistake(all(), "the name of an app is one word".into())
                    .expected(&format!("'%{} APP'", kind.name))
            });
            return None;
        }
        (_, Shape::Files, []) => {}
        (_, Shape::Files, [(_, from), stage]) if from.eq_ignore_ascii_case("from") => {
            check_stage(filled, *stage, stages, report);
            section.from = Some(located(*stage));
        }
        (_, Shape::Files, _) => {
            report.mistake(|| {
                filled
                    .mistake(all(), format!("'%files' does not take {:?}", shortened(rest.trim())))
                    .expected("'%files', or '%files from STAGE'; the files follow in lines of their own")
            });
            return None;
        }
        (_, Shape::Script, [(at, "-c")]) => {
            report.mistake(|| {
                filled
                    .mistake(*at..*at + 2, "'-c' names no program".into())
                    .expected(&format!("'%{} -c PROGRAM', for example /bin/bash", kind.name))
            });
            return None;
        }
        (_, Shape::Script, _) => rest.trim().clone_into(&mut section.arguments),
        (_, _, []) => {}
        _ => report.warning(|| {
            filled
                .mistake(all(), "this has no effect".into())
                .expected(&format!("'%{}' alone; the text follows in lines of its own", kind.name))
        }),
    }
    Some(section)
}

/// The first three words of a part of a text, and where they begin: no section takes more than two.
fn first_words(text: &str, part: Range<usize>) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut from = part.start;
    for piece in text.get(part).unwrap_or_default().split_inclusive(char::is_whitespace) {
        let word = piece.trim_end();
        if !word.is_empty() && found.len() < 3 {
            found.push((from, word));
        }
        from += piece.len();
    }
    found
}

fn empty(kind: &'static SectionKind, position: Position) -> Section {
    Section {
        kind,
        position,
        app: None,
        from: None,
        arguments: String::new(),
        parts: Vec::new(),
        files: Vec::new(),
        labels: Vec::new(),
    }
}

/// An app's name becomes the name of a directory.
fn app_name(
    kind: &SectionKind,
    (at, word): (usize, &str),
    filled: &Filled<'_>,
    name: Located<String>,
    report: &mut Report,
) -> Option<Located<String>> {
    if !word.contains('/') && word != "." && word != ".." {
        return Some(name);
    }
    report.mistake(|| {
        filled
            .mistake(at..at + word.len(), format!("{:?} cannot be the name of an app", shortened(word)))
            .expected(&format!("'%{} APP', a name without '/'", kind.name))
    });
    None
}

/// Files can come from an earlier stage alone.
fn check_stage(filled: &Filled<'_>, (at, name): (usize, &str), stages: &Stages<'_>, report: &mut Report) {
    if stages.earlier.contains_key(name) {
        return;
    }
    report.mistake(|| {
        let mut known: Vec<&str> = stages.earlier.keys().map(String::as_str).collect();
        known.sort_unstable();
        let shown = shortened(name);
        let message = match stages.all.contains(name) {
            true => format!("stage {shown:?} is not built before this one"),
            false => format!("there is no stage {shown:?}"),
        };
        let expected = match known.len() {
            0 => "an earlier stage, whose header has 'Stage: NAME'".to_owned(),
            1..=10 => format!("an earlier stage: {}", known.join(", ")),
            count => format!("one of the {count} earlier stages"),
        };
        filled.mistake(at..at + name.len(), message).expected(&expected).nearest(name, known)
    });
}

/// A known section's name behind blanks is text here.
fn warn_of_indented(body: Block<'_>, report: &mut Report) {
    for line in body.lines() {
        let trimmed = line.text.trim_start();
        if !trimmed.starts_with('%') || trimmed.len() == line.text.len() {
            continue;
        }
        let name = name_of(trimmed);
        if SECTIONS.iter().any(|kind| kind.name.eq_ignore_ascii_case(name)) {
            let start = line.text.len() - trimmed.len();
            report.warning(|| {
                let message = format!("'%{}' is text of the section above", name.to_lowercase());
                Mistake::at(line, start..start + 1 + name.len(), message)
                    .expected("no blanks before the % that begins a section")
            });
        }
    }
}

/// A first line `#!` of a script that a shell reads.
fn warn_of_shebang(kind: &SectionKind, section: &RawSection<'_>, report: &mut Report) {
    let first = section.body.lines().find(|line| !line.text.trim().is_empty());
    if let Some(line) = first.filter(|line| line.text.trim_start().starts_with("#!")) {
        let start = line.text.len() - line.text.trim_start().len();
        let program = line.text.trim_start()[2..].trim();
        if ["/bin/sh", "/usr/bin/env sh"].contains(&program) {
            return;
        }
        report.warning(|| {
            let message = format!("'#!' has no effect in '%{}', which /bin/sh reads", kind.name);
            Mistake::at(line, start..line.text.trim_end().len(), message).expected(&format!(
                "'%{} -c {}'",
                kind.name,
                shortened(program)
            ))
        });
    }
}

/// The text of a section, with Unix line ends and an end after its last line.
fn text(body: Block<'_>, scope: &mut Scope<'_, '_>, report: &mut Report) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut part = Part { line: body.first_line, text: String::with_capacity(body.text.len() + 1) };
    for line in body.lines() {
        let filled = scope.fill(line, report);
        part.text.push_str(&filled.text);
        part.text.push('\n');
        // A value with lines of its own moves all that follows: the next line begins a part.
        if filled.text.contains('\n') {
            parts.push(std::mem::replace(&mut part, Part { line: line.number + 1, text: String::new() }));
        }
    }
    if !part.text.is_empty() {
        parts.push(part);
    }
    parts
}

impl Section {
    /// Its name as it is written.
    pub fn name(&self) -> String {
        format!("%{}", self.kind.name)
    }

    /// All its text.
    pub fn text(&self) -> String {
        self.parts.iter().map(|part| part.text.as_str()).collect()
    }
}
