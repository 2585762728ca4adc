//! The header of a stage: `Key: value`, the agents that make a base, and which keys each of them takes.
//!
//! A key's case does not matter. A value ends at a `#` or at the line's end; a backslash there joins the next line.

use super::Located;
use super::lines::{Block, Line, Position, continued};
use super::mistakes::{Mistake, Report};
use super::sections::SECTIONS;
use super::template::{Filled, Scope};

/// A bootstrap agent.
#[derive(Debug, PartialEq, Eq)]
pub struct Agent {
    /// Its name, after `Bootstrap:`.
    pub name: &'static str,
    /// The keys it cannot do without.
    pub needs: &'static [&'static str],
    /// The keys it takes besides.
    pub takes: &'static [&'static str],
}

const fn agent(name: &'static str, needs: &'static [&'static str], takes: &'static [&'static str]) -> Agent {
    Agent { name, needs, takes }
}

const SUSE: &[&str] = &[
    "From",
    "OSVersion",
    "MirrorURL",
    "UpdateURL",
    "Include",
    "Product",
    "User",
    "RegCode",
    "ProductPGP",
    "RegisterURL",
    "Modules",
    "OtherURL",
];

/// All agents.
#[rustfmt::skip]
pub const AGENTS: &[Agent] = &[
    agent("arch",           &[],                         &["ConfURL", "Include"]),
    agent("buildkit",       &["From"],                   &["Target", "Frontend", "Filename", "BuildArgs"]),
    agent("busybox",        &["MirrorURL"],              &[]),
    agent("debootstrap",    &["OSVersion"],              &["MirrorURL", "Include"]),
    agent("dnf",            &["MirrorURL"],              &["OSVersion", "UpdateURL", "Include", "SetOpt"]),
    agent("docker",         &["From"],                   &["Registry", "Namespace"]),
    agent("docker-archive", &["From"],                   &[]),
    agent("docker-daemon",  &["From"],                   &[]),
    agent("dockerfile",     &["From"],                   &["Target", "Frontend", "Filename", "BuildArgs"]),
    agent("library",        &["From"],                   &["Library", "Fingerprints"]),
    agent("localimage",     &["From"],                   &["Fingerprints"]),
    agent("oci",            &["From"],                   &[]),
    agent("oci-archive",    &["From"],                   &[]),
    agent("oras",           &["From"],                   &["Registry", "Namespace", "Fingerprints"]),
    agent("scratch",        &[],                         &[]),
    agent("self",           &[],                         &["Exclude"]),
    agent("shub",           &["From"],                   &["Registry", "Namespace", "Fingerprints"]),
    agent("yum",            &["MirrorURL"],              &["OSVersion", "UpdateURL", "Include", "SetOpt"]),
    agent("zypper",         &[],                         SUSE),
];

/// All keys. `OtherURL` stands for itself with a number; `IncludeCmd` is taken and means nothing.
pub const KEYS: &[&str] = &[
    "Bootstrap",
    "From",
    "Stage",
    "Registry",
    "Namespace",
    "Library",
    "MirrorURL",
    "UpdateURL",
    "OSVersion",
    "Include",
    "IncludeCmd",
    "Product",
    "User",
    "RegCode",
    "ProductPGP",
    "RegisterURL",
    "Modules",
    "OtherURL",
    "SetOpt",
    "ConfURL",
    "Fingerprints",
    "Target",
    "Frontend",
    "Filename",
    "BuildArgs",
    "Exclude",
];

/// The highest number of an `OtherURL`.
const URLS: u32 = 99;

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderKey {
    /// Its name as in [`KEYS`].
    pub key: &'static str,
    /// The number after `OtherURL`.
    pub number: Option<u32>,
    /// Its value; may be empty.
    pub value: Located<String>,
}

/// What a header says.
pub struct Header {
    pub name: Option<Located<String>>,
    pub agent: Located<&'static Agent>,
    pub keys: Vec<HeaderKey>,
}

/// A key as it was read, with its line for messages.
struct Read<'a> {
    key: HeaderKey,
    line: Line<'a>,
    /// Where the key stands in the line.
    from: usize,
}

impl Read<'_> {
    fn name_end(&self) -> usize {
        self.line.text[self.from..].find(':').map_or(self.line.text.len(), |at| self.from + at)
    }

    /// A mistake at the key.
    fn at_key(&self, message: String) -> Mistake {
        Mistake::at(self.line, self.from..self.name_end(), message)
    }

    /// A mistake at the value, as far as its first line.
    fn at_value(&self, message: String) -> Mistake {
        let rest = self.line.text.get(self.name_end() + 1..).unwrap_or_default();
        let start = self.line.text.len() - rest.trim_start().len();
        let end = start + before_comment(rest.trim_start()).trim_end().len();
        Mistake::at(self.line, start..end, message)
    }
}

/// Reads a header. None when it has no agent, which has been told then.
/// `first` is the stage's first line, for a header without any.
pub fn parse(
    block: Block<'_>,
    first: Line<'_>,
    scope: &mut Scope<'_, '_>,
    report: &mut Report,
) -> Option<Header> {
    let mut keys = read(block, scope, report);
    let Some(bootstrap) = keys.iter().position(|read| read.key.key == "Bootstrap") else {
        report.mistake(|| {
            let line = keys.first().map_or(first, |read| read.line);
            let end = keys.first().map_or(first.text.trim_end().len(), Read::name_end);
            Mistake::at(line, 0..end, "this stage has no 'Bootstrap:'".into())
                .expected("'Bootstrap: AGENT' as the first key of the header")
        });
        return None;
    };
    if bootstrap > 0 {
        let first = &keys[0];
        report.mistake(|| {
            first
                .at_key(format!("'{}' stands above 'Bootstrap'", first.key.key))
                .expected("'Bootstrap: AGENT' as the first key of the header: a stage begins there")
        });
    }
    let bootstrap = keys.remove(bootstrap);
    let names = || AGENTS.iter().map(|agent| agent.name);
    let wanted = bootstrap.key.value.value.as_str();
    let Some(agent) = AGENTS.iter().find(|agent| agent.name == wanted) else {
        report.mistake(|| {
            bootstrap
                .at_value(format!("unknown bootstrap agent {wanted:?}"))
                .expected(&names().collect::<Vec<_>>().join(", "))
                .nearest(wanted, names())
        });
        return None;
    };
    check_keys(agent, &bootstrap, &keys, report);
    let position = bootstrap.key.value.position;
    let name = keys.iter().position(|read| read.key.key == "Stage").map(|at| keys.remove(at));
    let name = name.filter(|read| !read.key.value.value.is_empty()).map(|read| read.key.value);
    let keys = keys.into_iter().map(|read| read.key).filter(|key| key.key != "IncludeCmd").collect();
    Some(Header { name, agent: Located { value: agent, position }, keys })
}

/// What an agent lacks, and what it does not look at.
fn check_keys(agent: &'static Agent, bootstrap: &Read<'_>, keys: &[Read<'_>], report: &mut Report) {
    for need in agent.needs {
        match keys.iter().find(|read| read.key.key == *need) {
            None => report.mistake(|| {
                bootstrap
                    .at_value(format!("'Bootstrap: {}' needs '{need}'", agent.name))
                    .expected(&format!("a line '{need}: VALUE' below this one"))
            }),
            Some(read) if read.key.value.value.is_empty() => {
                report.mistake(|| {
                    read.at_key(format!("'{need}' has no value"))
                        .expected(&format!("'{need}: VALUE', which 'Bootstrap: {}' needs", agent.name))
                });
            }
            Some(_) => {}
        }
    }
    if agent.name == "self" {
        report.warning(|| {
            bootstrap
                .at_value("no tool makes an image of the host itself any more".into())
                .expected("another agent, for example localimage with a directory")
        });
    }
    let known = |key: &str| {
        ["Stage", "IncludeCmd"].contains(&key) || agent.needs.contains(&key) || agent.takes.contains(&key)
    };
    for read in keys.iter().filter(|read| !known(read.key.key) && !read.key.value.value.is_empty()) {
        report.warning(|| {
            read.at_key(format!("'{}' has no effect with 'Bootstrap: {}'", read.key.key, agent.name))
                .expected(&match [agent.needs, agent.takes].concat().join(", ").as_str() {
                    "" => "no other key but Stage".to_owned(),
                    keys => keys.to_owned(),
                })
        });
    }
}

/// The lines of a header as keys, each once.
fn read<'a>(block: Block<'a>, scope: &mut Scope<'_, '_>, report: &mut Report) -> Vec<Read<'a>> {
    let mut keys: Vec<Read<'a>> = Vec::new();
    // Whether the last line is joined to this one, and to a key that is kept.
    let mut open = false;
    let mut kept = false;
    for line in block.lines() {
        let filled = scope.fill(line, report);
        let trimmed = filled.text.trim();
        if trimmed.starts_with('#') || trimmed.is_empty() && !open {
            continue;
        }
        let text = before_comment(filled.text.as_ref());
        let (text, goes_on) = match continued(text.trim_end()) {
            Some(text) => (text, true),
            None => (text, false),
        };
        if open {
            if let Some(last) = keys.last_mut().filter(|_| kept) {
                let value = &mut last.key.value.value;
                if !value.is_empty() && !text.trim().is_empty() {
                    value.push(' ');
                }
                value.push_str(text.trim());
            }
        } else {
            let key = read_key(&filled, text, report);
            kept = key.is_some();
            if let Some(key) = key {
                keep(&mut keys, key, report);
            }
        }
        open = goes_on;
    }
    keys
}

/// Adds a key; one that is there already is replaced.
fn keep<'a>(keys: &mut Vec<Read<'a>>, new: Read<'a>, report: &mut Report) {
    let same = |old: &Read<'_>| old.key.key == new.key.key && old.key.number == new.key.number;
    if let Some(at) = keys.iter().position(same) {
        let line = keys[at].line.number;
        report.warning(|| {
            new.at_key(format!("'{}' stands in line {line} already; this one counts", new.key.key))
                .expected("each key once")
        });
        keys.remove(at);
    }
    keys.push(new);
}

/// The key of a line, and the part of its value that stands there.
fn read_key<'a>(filled: &Filled<'a>, text: &str, report: &mut Report) -> Option<Read<'a>> {
    let start = text.len() - text.trim_start().len();
    let end = text.trim_end().len();
    let Some(colon) = text.find(':') else {
        report.mistake(|| {
            let word = text.trim();
            let mistake = filled.mistake(start..end, format!("{:?} is no key", shortened(word)));
            let section = SECTIONS.iter().find(|section| section.name == word.to_lowercase());
            match section {
                Some(section) => mistake.expected(&format!("'%{}' to begin a section", section.name)),
                None => mistake.expected("'Key: value', or a line that begins with % and begins a section"),
            }
        });
        return None;
    };
    let name = text[start..colon].trim_end();
    let lower = name.to_ascii_lowercase();
    let numbered = lower
        .strip_prefix("otherurl")
        .and_then(|digits| digits.parse::<u32>().ok())
        .filter(|number| *number <= URLS);
    let found = match numbered {
        Some(_) => Some("OtherURL"),
        None => KEYS.iter().copied().find(|key| *key != "OtherURL" && key.eq_ignore_ascii_case(name)),
    };
    let Some(key) = found else {
        report.mistake(|| {
            filled
                .mistake(start..start + name.len(), format!("unknown key {:?}", shortened(name)))
                .expected("a key of a header, such as Bootstrap, From, Stage, OSVersion, MirrorURL, Include")
                .nearest(name, KEYS.iter().copied())
        });
        return None;
    };
    let value = text[colon + 1..].trim();
    let value_start = text.len() - text[colon + 1..].trim_start().len();
    let at = if value.is_empty() { colon } else { value_start };
    warn_of_hash(filled, text.len(), report);
    let value = Located { value: value.to_owned(), position: filled.position(at) };
    let from = filled.origin(start);
    Some(Read { key: HeaderKey { key, number: numbered, value }, line: filled.line, from })
}

/// A `#` within a word ends the value too, which may not be meant.
fn warn_of_hash(filled: &Filled<'_>, end: usize, report: &mut Report) {
    let text = filled.text.as_ref();
    if text[end..].starts_with('#') && text[..end].chars().next_back().is_some_and(|c| !c.is_whitespace()) {
        report.warning(|| {
            filled
                .mistake(end..text.len(), "this is a comment, and no part of the value".into())
                .expected("a blank before a comment; a value without #")
        });
    }
}

fn before_comment(text: &str) -> &str {
    text.split('#').next().unwrap_or_default()
}

/// A text of the file as it can stand in a message.
pub fn shortened(text: &str) -> String {
    const CHARS: usize = 40;
    let mut short: String = text.chars().take(CHARS).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short
}

/// The name of a stage as its header has it, before anything else is known of it.
pub fn stage_name(block: Block<'_>) -> Option<String> {
    let named = block.lines().filter_map(|line| {
        let (key, value) = line.text.split_once(':')?;
        key.trim().eq_ignore_ascii_case("stage").then(|| before_comment(value).trim().to_owned())
    });
    named.last()
}

/// A line of a block by its number.
pub fn line_at(block: Block<'_>, number: u32) -> Line<'_> {
    block.lines().find(|line| line.number == number).unwrap_or(Line { number, text: "" })
}

impl HeaderKey {
    /// The key with its number.
    pub fn name(&self) -> String {
        self.number.map_or_else(|| self.key.to_owned(), |number| format!("{}{number}", self.key))
    }

    /// Where the value begins.
    pub fn position(&self) -> Position {
        self.value.position
    }
}
