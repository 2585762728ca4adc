//! Why a section ran: the last build of the same definition, remembered in small, beside this one.
//!
//! Nothing is decided here. A record that is lost or cannot be read costs a word of explanation.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::super::plan::Lines;
use super::Cache;
use super::files::{FileRecord, Known};
use super::key::{Base, Chain, Digest, Facts, Hash, Ids, Key, text_lines};
use crate::error::{Context, Result};

/// No record is longer.
const RECORD_LIMIT: u64 = 64 << 20;

/// What a build was made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// Its steps that could be cached, in order.
    pub steps: Vec<StepRecord>,
    /// It ended in an error, in the last of these steps or after it.
    #[serde(default)]
    pub failed: bool,
}

/// What a step was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The stage's name or number.
    pub stage: String,
    /// The section's name; `Bootstrap` for a base.
    pub section: String,
    /// The app it is for.
    pub app: Option<String>,
    /// What it was found by.
    pub key: Key,
    /// What it stood on.
    pub after: Digest,
    /// Its base, for the first of a stage: a change there is named so.
    pub first: bool,
    /// The program that reads its text.
    pub by: String,
    /// Of each line of its text.
    pub lines: Vec<String>,
    /// The binds.
    pub binds: Vec<String>,
    /// How root was given to it.
    pub ids: Ids,
    /// The architecture.
    pub architecture: String,
    /// What was copied where.
    pub copied: Vec<(String, Digest)>,
    /// The files of that.
    pub files: Vec<FileRecord>,
}

/// Why a step ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Nothing was to be taken from the cache: the flag that said so.
    Flag(&'static str),
    /// This definition was not built before, or it is not known any more.
    FirstBuild,
    /// The last build had no such section.
    New,
    /// This line of the definition is another one, or a new one.
    Line(u32),
    /// Lines went.
    LinesRemoved,
    /// It is read by another program.
    Interpreter,
    /// This file that is copied holds something else.
    File(String),
    /// Other files are copied, or to another place.
    Files,
    /// Other things of the host are brought in.
    Binds,
    /// Root is given to it in another way.
    Ids,
    /// It is for another architecture.
    Architecture,
    /// The base is another one.
    Base,
    /// It stands on something else than the last time.
    Earlier,
    /// It is where the last build ended, and nothing of it changed.
    Failed,
    /// It is all as it was.
    NotThere,
}

impl Display for Why {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => out.write_str(flag),
            Self::FirstBuild => out.write_str("first build"),
            Self::New => out.write_str("it is new"),
            Self::Line(line) => write!(out, "line {line} changed"),
            Self::LinesRemoved => out.write_str("lines were removed"),
            Self::Interpreter => out.write_str("its interpreter changed"),
            Self::File(path) => write!(out, "copied file {} changed", plain(path)),
            Self::Files => out.write_str("other files are copied"),
            Self::Binds => out.write_str("the binds changed"),
            Self::Ids => out.write_str("root is emulated in another way"),
            Self::Architecture => out.write_str("the architecture changed"),
            Self::Base => out.write_str("base image changed"),
            Self::Earlier => out.write_str("an earlier step ran"),
            Self::Failed => out.write_str("it failed the last time"),
            Self::NotThere => out.write_str("not in the cache any more"),
        }
    }
}

fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl StepRecord {
    /// Of a step that is done at `chain`; `first` says that the base is what it stands on. `files` are those of
    /// [`super::files::look`].
    pub fn new(stage: &str, chain: &Chain, first: bool, facts: &Facts<'_>, files: Vec<FileRecord>) -> Self {
        Self {
            stage: stage.to_owned(),
            section: facts.section.to_owned(),
            app: facts.app.map(str::to_owned),
            key: chain.key(facts),
            after: chain.digest(),
            first,
            by: facts.by.to_owned(),
            lines: text_lines(facts.text).map(|(_, line)| short(line)).collect(),
            binds: facts.binds.to_vec(),
            ids: facts.ids,
            architecture: facts.architecture.to_owned(),
            copied: facts.copied.clone(),
            files,
        }
    }

    /// Of the base that an agent makes. `keys` are those of the header, a line for each.
    pub fn of_base(stage: &str, base: &Base, keys: &[Lines]) -> Self {
        let (ids, architecture) = match base {
            Base::Agent { ids, architecture, .. } => (*ids, architecture.clone()),
            _ => (Ids::Root, String::new()),
        };
        Self {
            stage: stage.to_owned(),
            section: "Bootstrap".to_owned(),
            app: None,
            key: base.key(),
            after: Chain::new(&Base::Scratch).digest(),
            first: true,
            by: String::new(),
            lines: text_lines(keys).map(|(_, line)| short(line)).collect(),
            binds: Vec::new(),
            ids,
            architecture,
            copied: Vec::new(),
            files: Vec::new(),
        }
    }

    fn is_of(&self, other: &Self) -> bool {
        (&self.stage, &self.section, &self.app) == (&other.stage, &other.section, &other.app)
    }
}

/// Enough of a digest to see a change, and nothing of a value that may be secret.
fn short(text: &str) -> String {
    let mut hash = Hash::new("text");
    hash.bytes("text", text.as_bytes());
    hash.finish().to_string().chars().take(16).collect()
}

/// Why the step with this index in `now`, which was not in the cache, runs. `text` is its text, for the numbers of
/// lines.
pub fn why(last: Option<&Build>, now: &Build, step: usize, text: &[Lines]) -> Why {
    let Some(last) = last else { return Why::FirstBuild };
    let Some(this) = now.steps.get(step) else { return Why::New };
    // Sections may stand there more than once.
    let nth = now.steps[..step].iter().filter(|other| other.is_of(this)).count();
    let Some(before) = last.steps.iter().filter(|other| other.is_of(this)).nth(nth) else {
        return if last.failed { Why::Earlier } else { Why::New };
    };
    own_change(before, this, text).unwrap_or_else(|| match before.after == this.after {
        true if last.failed && last.steps.last() == Some(before) => Why::Failed,
        true => Why::NotThere,
        false if this.first => Why::Base,
        false => Why::Earlier,
    })
}

fn own_change(before: &StepRecord, this: &StepRecord, text: &[Lines]) -> Option<Why> {
    if before.by != this.by {
        return Some(Why::Interpreter);
    }
    if before.lines != this.lines {
        let differs = this.lines.iter().zip(&before.lines).position(|(one, other)| one != other);
        let at = differs.unwrap_or(before.lines.len());
        return Some(match text_lines(text).nth(at) {
            Some((line, _)) => Why::Line(line),
            None => Why::LinesRemoved,
        });
    }
    if before.copied != this.copied {
        return Some(changed_file(before, this));
    }
    let others = [
        (before.binds != this.binds, Why::Binds),
        (before.ids != this.ids, Why::Ids),
        (before.architecture != this.architecture, Why::Architecture),
    ];
    others.into_iter().find_map(|(changed, why)| changed.then_some(why))
}

fn changed_file(before: &StepRecord, this: &StepRecord) -> Why {
    let digests = |step: &'_ StepRecord| -> BTreeMap<String, Digest> {
        step.files.iter().map(|file| (file.path.clone(), file.digest)).collect()
    };
    let (old, new) = (digests(before), digests(this));
    let changed = new.iter().find(|(path, digest)| old.get(*path) != Some(digest)).map(|(path, _)| path);
    let gone = old.keys().find(|path| !new.contains_key(*path));
    match changed.or(gone) {
        Some(path) if !old.is_empty() && !new.is_empty() => Why::File(path.clone()),
        _ => Why::Files,
    }
}

impl Build {
    /// The files of the host that this build read.
    pub fn known(&self) -> Known {
        Known::of(self.steps.iter().flat_map(|step| &step.files))
    }
}

impl Cache {
    /// What the last build of this definition was made of.
    pub fn last_build(&self, definition: &Path) -> Option<Build> {
        let path = self.record(definition);
        let status = fs::metadata(&path).ok().filter(|status| status.len() <= RECORD_LIMIT);
        serde_json::from_slice(&status.and_then(|_| fs::read(&path).ok())?).ok()
    }

    /// Remembers what a build was made of, in the place of the one before.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remember(&self, definition: &Path, build: &Build) -> Result<()> {
        let path = self.record(definition);
        let tried = || format!("cannot write to the cache in {:?}", self.place);
        let json = serde_json::to_vec(build).tried(tried)?;
        let directory = path.parent().unwrap_or(&self.root);
        let mut file = tempfile::NamedTempFile::new_in(directory).tried(tried)?;
        file.write_all(&json).tried(tried)?;
        file.persist(&path).map_err(|error| error.error).tried(tried)?;
        Ok(())
    }

    fn record(&self, definition: &Path) -> PathBuf {
        let path = fs::canonicalize(definition).unwrap_or_else(|_| definition.to_owned());
        let name = Digest::of(Sha256::digest(path.as_os_str().as_bytes()).into());
        self.root.join("builds").join(format!("{name}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::Instance;
    use super::*;

    /// A build of one stage with these steps, each its section, its text and a file it copies.
    fn build(steps: &[(&str, &str, &str)], chain: Chain) -> Build {
        let mut chain = chain;
        let mut build = Build::default();
        for (index, (section, text, file)) in steps.iter().enumerate() {
            let text = lines(text);
            let digest = |text: &str| Base::Image(Digest::of(Sha256::digest(text).into())).key().0;
            let record = FileRecord { path: format!("src/{section}"), digest: digest(file), seen: None };
            let facts = Facts {
                section,
                app: None,
                by: "/bin/sh",
                text: &text,
                binds: &[],
                ids: Ids::Single,
                architecture: "amd64",
                copied: vec![("/a".into(), digest(file))],
            };
            let step = StepRecord::new("1", &chain, index == 0, &facts, vec![record]);
            chain = chain.then(Instance(step.key.0));
            build.steps.push(step);
        }
        build
    }

    fn lines(text: &str) -> Vec<Lines> {
        vec![Lines { line: 10, text: text.into() }]
    }

    const STEPS: [(&str, &str, &str); 3] = [("files", "", "1"), ("post", "a\nb\n", ""), ("post", "c", "")];

    fn said(change: impl Fn(&mut Build), step: usize, text: &str) -> String {
        let last = build(&STEPS, Chain::new(&Base::Scratch));
        let mut now = last.clone();
        change(&mut now);
        why(Some(&last), &now, step, &lines(text)).to_string()
    }

    #[test]
    fn the_nearest_reason_is_told() {
        let start = Chain::new(&Base::Scratch);
        let with = |steps: &'static [(&str, &str, &str)]| move |now: &mut Build| *now = build(steps, start);
        let edited = with(&[("files", "", "1"), ("post", "a\nx\n", ""), ("post", "c", "")]);
        assert_eq!(said(edited, 1, "a\nx\n"), "line 11 changed");
        assert_eq!(said(edited, 2, "c"), "an earlier step ran");
        let shorter = with(&[("files", "", "1"), ("post", "a", ""), ("post", "c", "")]);
        assert_eq!(said(shorter, 1, "a"), "lines were removed");
        let file = with(&[("files", "", "2"), ("post", "a\nb\n", ""), ("post", "c", "")]);
        assert_eq!(said(file, 0, ""), "copied file src/files changed");
        assert_eq!(said(file, 1, "a\nb\n"), "an earlier step ran");
        let more = with(&[("files", "", "1"), ("post", "a\nb\n", ""), ("post", "c", ""), ("post", "d", "")]);
        assert_eq!(said(more, 3, "d"), "it is new");
        assert_eq!(said(|_| {}, 2, "c"), "not in the cache any more");
        let base = |now: &mut Build| *now = build(&STEPS, Chain::new(&Base::Image(start.digest())));
        assert_eq!(said(base, 0, ""), "base image changed");
        assert_eq!(said(base, 1, "a\nb\n"), "an earlier step ran");
        assert_eq!(said(|now| now.steps[1].by = "x".into(), 1, "a\nb\n"), "its interpreter changed");
        assert_eq!(said(|now| now.steps[1].binds = vec!["/a".into()], 1, ""), "the binds changed");
        assert_eq!(said(|now| now.steps[1].files.clear(), 1, "a\nb\n"), "not in the cache any more");
        let now = build(&STEPS, start);
        assert_eq!(why(None, &now, 0, &[]).to_string(), "first build");
        assert_eq!(Why::Flag("--disable-cache").to_string(), "--disable-cache");
    }

    #[test]
    fn a_key_of_the_header_is_a_line() {
        let base = |value: &str| {
            let keys = vec![("osversion".to_owned(), value.to_owned())];
            let base = Base::Agent {
                agent: "debootstrap".into(),
                keys,
                architecture: "amd64".into(),
                ids: Ids::Root,
            };
            let text = lines(&format!("osversion: {value}"));
            (Build { steps: vec![StepRecord::of_base("1", &base, &text)], failed: false }, text)
        };
        let ((last, _), (now, text)) = (base("bookworm"), base("trixie"));
        assert_ne!(last.steps[0].key, now.steps[0].key);
        assert_eq!(why(Some(&last), &now, 0, &text), Why::Line(10));
        assert_eq!(why(Some(&last), &last, 0, &text), Why::NotThere);
    }

    #[test]
    fn records_hold_no_text() {
        let steps = [("post", "export PASSWORD=secret", "")];
        let json = serde_json::to_string(&build(&steps, Chain::new(&Base::Scratch))).unwrap();
        assert!(json.contains("post") && !json.contains("secret"), "{json}");
    }

    #[test]
    fn a_build_that_failed_is_told_from_one_whose_layers_went() {
        let start = Chain::new(&Base::Scratch);
        let failed = Build { failed: true, ..build(&STEPS[..2], start) };
        let now = build(&STEPS, start);
        let said = |step, text| why(Some(&failed), &now, step, &lines(text)).to_string();
        assert_eq!(said(1, "a\nb\n"), "it failed the last time");
        assert_eq!(said(2, "c"), "an earlier step ran");
        assert_eq!(said(0, ""), "not in the cache any more");
    }
}
