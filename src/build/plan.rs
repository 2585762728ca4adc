//! A definition as what is to be done: stages in order, each a list of steps in the order they are carried out.
//!
//! ```text
//! %pre                     run on the host
//! Bootstrap, From          the base
//! %files from STAGE        copied from an earlier stage
//! %setup                   run on the host, with the root file system in SKIFF_ROOTFS
//! %files, %appfiles        copied from the host
//! %post, %appinstall       run inside
//! %environment, %run...    written into the image
//! %test                    run inside
//! ```
//!
//! Plain data: printed as text by its `Display`, as JSON by serde, compared in tests. Whether files exist and
//! what patterns match is not asked here.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use super::definition::{Definition, HeaderKey, Part, Section, Shape, Stage};

/// What runs a script that does not say it itself.
pub const SHELL: &str = "/bin/sh -ex";

/// A build, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BuildPlan {
    /// The file it is made from, as it was named.
    pub definition: String,
    /// The stages in order; the last becomes the image.
    pub stages: Vec<StagePlan>,
}

/// A stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StagePlan {
    /// Its number, from 1.
    pub number: usize,
    /// Its name.
    pub name: Option<String>,
    /// The values its templates took.
    pub arguments: BTreeMap<String, String>,
    /// What is done, in order.
    pub steps: Vec<Step>,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The section it comes from, or `Bootstrap`.
    pub section: String,
    /// The app it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// Where the section begins.
    pub line: u32,
    /// The character there.
    pub column: u32,
    /// What is done.
    #[serde(flatten)]
    pub what: What,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum What {
    /// The root file system comes into being.
    Base {
        /// The bootstrap agent.
        agent: &'static str,
        /// The header's other keys, in order.
        keys: Vec<Key>,
    },
    /// A script is run.
    Run {
        /// Where.
        place: Place,
        /// The program that reads it, with its arguments.
        by: String,
        /// The script.
        text: Vec<Lines>,
    },
    /// Files are copied into the root file system.
    Copy {
        /// The stage they come from; none for the host.
        from: Option<String>,
        /// The directory of the root file system that targets are meant from.
        into: String,
        /// The files.
        files: Vec<CopyStep>,
    },
    /// A file of the image is written.
    Write {
        /// Its path.
        path: String,
        /// What runs it, for a script.
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        /// Its text.
        text: Vec<Lines>,
    },
    /// Labels are written.
    Label {
        /// The file they go to.
        path: String,
        /// The labels.
        labels: Vec<LabelStep>,
    },
}

/// Where a script is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// On the host, as the caller.
    Host,
    /// In a container of what is being built.
    Inside,
}

/// A key of a header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Key {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
    /// Its line.
    pub line: u32,
    /// Where its value begins.
    pub column: u32,
}

/// Some lines of a text, and where the first of them stands in the definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lines {
    /// The line.
    pub line: u32,
    /// The text.
    pub text: String,
}

/// Something to copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CopyStep {
    /// Its path.
    pub source: String,
    /// The pattern that finds the sources, when it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// Where to; none for the same path.
    pub target: Option<String>,
    /// The line that asks for it.
    pub line: u32,
    /// The character there.
    pub column: u32,
}

/// A label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LabelStep {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// The line that sets it.
    pub line: u32,
}

/// Decides what a definition asks for. `name` is what the file is called.
pub fn plan_build(definition: &Definition, name: &str) -> BuildPlan {
    let stages = definition.stages.iter().enumerate();
    let stages = stages.map(|(index, stage)| plan_stage(stage, index + 1)).collect();
    BuildPlan { definition: name.to_owned(), stages }
}

fn plan_stage(stage: &Stage, number: usize) -> StagePlan {
    let mut steps = Vec::new();
    // Each pass takes the sections of one moment, in the order they stand in the file.
    let pass = |steps: &mut Vec<Step>, wanted: &dyn Fn(&Section) -> bool, what: &dyn Fn(&Section) -> What| {
        let found = stage.sections.iter().filter(|section| wanted(section));
        steps.extend(found.map(|section| step(section, what(section))));
    };
    let named = |name: &'static str| move |section: &Section| section.kind.name == name;
    let run_at = |place| move |section: &Section| run(section, place);
    pass(&mut steps, &named("pre"), &run_at(Place::Host));
    steps.push(base(stage));
    pass(&mut steps, &|section| section.from.is_some(), &copy);
    pass(&mut steps, &named("setup"), &run_at(Place::Host));
    pass(&mut steps, &|section| section.kind.shape == Shape::Files && section.from.is_none(), &copy);
    pass(&mut steps, &named("post"), &run_at(Place::Inside));
    pass(&mut steps, &named("appinstall"), &run_at(Place::Inside));
    pass(&mut steps, &|section| written(section).is_some(), &write);
    pass(&mut steps, &named("test"), &run_at(Place::Inside));
    StagePlan {
        number,
        name: stage.name.as_ref().map(|name| name.value.clone()),
        arguments: stage.arguments.iter().cloned().collect(),
        steps,
    }
}

fn step(section: &Section, what: What) -> Step {
    Step {
        section: section.name(),
        app: section.app.as_ref().map(|app| app.value.clone()),
        line: section.position.line,
        column: section.position.column,
        what,
    }
}

fn base(stage: &Stage) -> Step {
    let key = |key: &HeaderKey| Key {
        key: key.name(),
        value: key.value.value.clone(),
        line: key.value.position.line,
        column: key.value.position.column,
    };
    Step {
        section: "Bootstrap".into(),
        app: None,
        line: stage.agent.position.line,
        column: stage.agent.position.column,
        what: What::Base { agent: stage.agent.value.name, keys: stage.keys.iter().map(key).collect() },
    }
}

fn run(section: &Section, place: Place) -> What {
    What::Run { place, by: run_by(section), text: lines(&section.parts) }
}

fn copy(section: &Section) -> What {
    let files = section.files.iter().map(|copy| CopyStep {
        source: copy.source.value.path.clone(),
        pattern: copy.source.value.pattern.clone(),
        target: copy.target.as_ref().map(|target| target.value.clone()),
        line: copy.source.position.line,
        column: copy.source.position.column,
    });
    What::Copy {
        from: section.from.as_ref().map(|from| from.value.clone()),
        into: section.app.as_ref().map_or_else(|| "/".to_owned(), |app| format!("/scif/apps/{}", app.value)),
        files: files.collect(),
    }
}

/// The file of the image that a section becomes.
fn written(section: &Section) -> Option<String> {
    let file = match section.kind.name {
        "environment" | "appenv" => "env/90-environment.sh",
        "runscript" | "apprun" => "runscript",
        "startscript" | "appstart" => "startscript",
        "test" | "apptest" => "test",
        "labels" | "applabels" => "labels.json",
        "help" | "apphelp" => "runscript.help",
        _ => return None,
    };
    Some(match &section.app {
        Some(app) => format!("/scif/apps/{}/scif/{file}", app.value),
        None => format!("/.singularity.d/{file}"),
    })
}

fn write(section: &Section) -> What {
    let path = written(section).unwrap_or_default();
    if section.kind.shape == Shape::Labels {
        let labels = section.labels.iter().map(|label| LabelStep {
            name: label.name.value.clone(),
            value: label.value.clone(),
            line: label.name.position.line,
        });
        return What::Label { path, labels: labels.collect() };
    }
    let by = section.kind.shebang.then(|| run_by(section));
    What::Write { path, by, text: lines(&section.parts) }
}

/// The program that reads a script: that of its first line `#!` where that counts, that of `-c PROGRAM`, or the
/// shell, with the section line's arguments.
fn run_by(section: &Section) -> String {
    let first = section.parts.iter().flat_map(|part| part.text.lines()).find(|line| !line.trim().is_empty());
    if section.kind.shebang
        && let Some(program) = first.and_then(|line| line.trim_start().strip_prefix("#!"))
    {
        return program.trim().to_owned();
    }
    let arguments: Vec<&str> = section.arguments.split_whitespace().collect();
    // A script that is a file of the image is started by its first line, which has no flags but those given.
    let shell = if section.kind.shebang { "/bin/sh" } else { SHELL };
    match arguments.as_slice() {
        ["-c", program @ ..] => program.join(" "),
        [] => shell.to_owned(),
        others => format!("{shell} {}", others.join(" ")),
    }
}

fn lines(parts: &[Part]) -> Vec<Lines> {
    parts.iter().map(|part| Lines { line: part.line, text: part.text.clone() }).collect()
}

impl Display for BuildPlan {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let count = self.stages.len();
        match count {
            1 => writeln!(out, "{}: 1 stage", plain(&self.definition))?,
            _ => writeln!(out, "{}: {count} stages; the last becomes the image", plain(&self.definition))?,
        }
        for stage in &self.stages {
            match &stage.name {
                Some(name) => writeln!(out, "\nstage {} '{}'", stage.number, plain(name))?,
                None => writeln!(out, "\nstage {}", stage.number)?,
            }
            for (name, value) in &stage.arguments {
                writeln!(out, "  {:<10}{:<9}{name}={}", "", "argument", plain(value))?;
            }
            for step in &stage.steps {
                step.show(out)?;
            }
        }
        Ok(())
    }
}

impl Step {
    fn show(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let app = self.app.as_ref().map_or_else(String::new, |app| format!(" {}", plain(app)));
        let section = format!("{}{app}", self.section);
        match &self.what {
            What::Base { agent, keys } => {
                row(out, self.line, "base", agent)?;
                for key in keys {
                    row(out, key.line, "", &format!("{}: {}", key.key, plain(&key.value)))?;
                }
                Ok(())
            }
            What::Run { place, by, text } => {
                let place = if *place == Place::Host { "host" } else { "inside" };
                row(out, self.line, place, &format!("{section} by {}, {}", plain(by), count(text)))
            }
            What::Copy { from, into, files } => {
                let from = from
                    .as_ref()
                    .map_or_else(|| "host".to_owned(), |from| format!("stage '{}'", plain(from)));
                for file in files {
                    let pattern = if file.pattern.is_some() { "what matches " } else { "" };
                    let source = plain(&file.source);
                    let target = match (&file.target, into.as_str()) {
                        (Some(target), "/") => plain(target),
                        (Some(target), into) => format!("{} below {}", plain(target), plain(into)),
                        (None, "/") => "the same path".to_owned(),
                        (None, into) => plain(into),
                    };
                    row(out, file.line, "copy", &format!("{from}: {pattern}{source} -> {target}"))?;
                }
                Ok(())
            }
            What::Write { path, by, text } => {
                let by = by.as_ref().map_or_else(String::new, |by| format!(" by {}", plain(by)));
                row(out, self.line, "write", &format!("{section} -> {}{by}, {}", plain(path), count(text)))
            }
            What::Label { path, labels } => {
                row(out, self.line, "write", &format!("{section} -> {}", plain(path)))?;
                for label in labels {
                    row(out, label.line, "", &format!("{}: {}", plain(&label.name), plain(&label.value)))?;
                }
                Ok(())
            }
        }
    }
}

fn row(out: &mut Formatter<'_>, line: u32, verb: &str, rest: &str) -> fmt::Result {
    let line = format!("line {line}");
    writeln!(out, "  {line:<10}{verb:<9}{}", rest.trim_end())
}

/// The lines of a script that are not blank.
fn count(text: &[Lines]) -> String {
    let lines = text.iter().flat_map(|lines| lines.text.lines()).filter(|line| !line.trim().is_empty());
    match lines.count() {
        0 => "empty".to_owned(),
        1 => "1 line".to_owned(),
        many => format!("{many} lines"),
    }
}

/// A text of the definition without what could steer a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
