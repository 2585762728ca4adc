//! What every image has: `/.singularity.d`, the directories to mount on, and the places of apps.
//!
//! ```text
//! after the base     directories, links, env/*.sh, actions/*, runscript, startscript   where they are missing
//!                    /scif/apps/APP, /scif/data/APP, env/94-appsbase.sh                 for each app
//! after %post        env/90-environment.sh   what %environment says is put at the end of what the base has
//!                    runscript, startscript, test, runscript.help                       in place of the base's
//!                    labels.json             the base's, those of this build, %labels, what %post says
//!                    Singularity             the definition; that of the base goes to bootstrap_history
//! ```
//!
//! What is the same in all images is in [`standard`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::rooted::Rooted;
use crate::build::plan::{LabelStep, Lines, StagePlan, Step, What};
use crate::error::{Context, Result};
use crate::image::standard::{self, DIRECTORIES, DIRECTORY, FILE, FILES, LINKS, PROGRAM};
use crate::plan::building::labels_file;

/// Adds what the root lacks of what every image has, and the places of the stage's apps.
pub fn write_base(root: &Rooted, apps: &BTreeSet<&str>) -> Result<()> {
    for (path, mode) in DIRECTORIES {
        let path = Path::new(path);
        if !root.has(path)? {
            let made = root.outside(&root.make_directory(path)?);
            let mode = std::os::unix::fs::PermissionsExt::from_mode(*mode);
            std::fs::set_permissions(&made, mode).tried(|| format!("cannot make {path:?} in the image"))?;
        }
    }
    for (path, target) in LINKS {
        if !root.has(Path::new(path))? {
            root.link(Path::new(path), target)?;
        }
    }
    for (path, content) in FILES {
        if !root.has(Path::new(path))? {
            root.write(Path::new(path), content.as_bytes(), standard::mode(content))?;
        }
    }
    for app in apps {
        write_app(root, app)?;
    }
    Ok(())
}

/// The apps that a stage's sections name.
pub fn apps(stage: &StagePlan) -> BTreeSet<&str> {
    stage.steps.iter().filter_map(|step| step.app.as_deref()).collect()
}

fn write_app(root: &Rooted, app: &str) -> Result<()> {
    let home = format!("/scif/apps/{app}");
    for directory in [
        format!("{home}/bin"),
        format!("{home}/lib"),
        format!("{home}/scif/env"),
        format!("/scif/data/{app}/input"),
        format!("/scif/data/{app}/output"),
    ] {
        root.make_directory(Path::new(&directory))?;
    }
    let own = [
        ("APPNAME", app.to_owned()),
        ("APPROOT", home.clone()),
        ("APPMETA", format!("{home}/scif")),
        ("DATA", "/scif/data".to_owned()),
        ("APPDATA", format!("/scif/data/{app}")),
        ("APPINPUT", format!("/scif/data/{app}/input")),
        ("APPOUTPUT", format!("/scif/data/{app}/output")),
    ];
    let lines: String = own.iter().map(|(name, value)| format!("export SCIF_{name}=\"{value}\"\n")).collect();
    let script = format!("#!/bin/sh\n\n{lines}");
    root.write(Path::new(&format!("{home}/scif/env/01-base.sh")), script.as_bytes(), PROGRAM)?;
    add_to_global(root, app, &home)
}

/// What every container of the image learns of an app.
fn add_to_global(root: &Rooted, app: &str, home: &str) -> Result<()> {
    let path = format!("{DIRECTORY}/env/94-appsbase.sh");
    let path = Path::new(&path);
    let mut text = match root.read(path)? {
        Some(old) => String::from_utf8_lossy(&old).into_owned(),
        None => "#!/bin/sh\n".to_owned(),
    };
    let title = format!("# variables of the app {app}\n");
    if text.contains(&title) || !is_shell_name(app) {
        return Ok(());
    }
    text.push('\n');
    text.push_str(&title);
    let facts = [
        ("DATA", format!("/scif/data/{app}")),
        ("META", format!("{home}/scif")),
        ("ROOT", home.to_owned()),
        ("BIN", format!("{home}/bin")),
        ("LIB", format!("{home}/lib")),
        ("ENV", format!("{home}/scif/env/90-environment.sh")),
        ("LABELS", format!("{home}/scif/labels.json")),
        ("RUN", format!("{home}/scif/runscript")),
    ];
    text.extend(facts.iter().map(|(name, value)| format!("export SCIF_APP{name}_{app}=\"{value}\"\n")));
    root.write(path, text.as_bytes(), PROGRAM)
}

/// Whether a name can be part of a variable's.
fn is_shell_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// What the files of an image say besides its sections.
pub struct Facts<'a> {
    /// The definition's text.
    pub definition: &'a str,
    /// Labels of this build: they replace those of the base.
    pub labels: &'a [(String, String)],
    /// Labels of the definition replace those of the base.
    pub force: bool,
}

/// Writes the files that the sections of a stage become; gives what the caller should know.
pub fn write_sections(
    root: &Rooted,
    stage: &StagePlan,
    wanted: &dyn Fn(&Step) -> bool,
    facts: &Facts<'_>,
) -> Result<Vec<String>> {
    for step in stage.steps.iter().filter(|step| wanted(step)) {
        if let What::Write { path, by, text } = &step.what {
            write_section(root, Path::new(path), by.as_deref(), &joined(text), step.app.is_some())?;
        }
    }
    let mut warnings = Vec::new();
    for app in apps(stage) {
        let labels = labels_of(stage, Some(app), wanted);
        let own = [("SCIF_APP_NAME".to_owned(), app.to_owned())];
        let path = format!("/scif/apps/{app}/scif/labels.json");
        warnings.extend(write_labels(root, Path::new(&path), &own, &labels, true)?);
    }
    keep_definition(root, facts.definition)?;
    let mut labels = labels_of(stage, None, wanted);
    labels.extend(take_written_labels(root)?);
    let mut own = facts.labels.to_vec();
    if root.has(Path::new("/.singularity.d/runscript.help"))? {
        let help = "/.singularity.d/runscript.help".to_owned();
        own.push(("org.label-schema.usage".to_owned(), help.clone()));
        own.push(("org.label-schema.usage.skiff.runscript.help".to_owned(), help));
    }
    let path = format!("{DIRECTORY}/labels.json");
    warnings.extend(write_labels(root, Path::new(&path), &own, &labels, facts.force)?);
    Ok(warnings)
}

/// The text of a section.
pub fn joined(text: &[Lines]) -> String {
    text.iter().map(|lines| lines.text.as_str()).collect()
}

fn write_section(root: &Rooted, path: &Path, by: Option<&str>, text: &str, app: bool) -> Result<()> {
    let name = path.file_name().unwrap_or_default();
    if name == "90-environment.sh" && !app {
        let mut script = root.read(path)?.unwrap_or_else(|| b"#!/bin/sh\n".to_vec());
        script.extend_from_slice(format!("\n{text}\n").as_bytes());
        return root.write(path, &script, PROGRAM);
    }
    if app && by.is_none() {
        let mode = if name == "90-environment.sh" { PROGRAM } else { FILE };
        return root.write(path, text.as_bytes(), mode);
    }
    let Some(by) = by else { return root.write(path, format!("{text}\n").as_bytes(), FILE) };
    let has_line = text.lines().find(|line| !line.trim().is_empty());
    let script = match has_line {
        Some(line) if line.trim_start().starts_with("#!") => text.trim_start().to_owned(),
        _ => format!("#!{by}\n\n{text}\n"),
    };
    root.write(path, script.as_bytes(), PROGRAM)
}

fn labels_of(stage: &StagePlan, app: Option<&str>, wanted: &dyn Fn(&Step) -> bool) -> Vec<(String, String)> {
    let steps = stage.steps.iter().filter(|step| step.app.as_deref() == app && wanted(step));
    let labels = steps.filter_map(|step| match &step.what {
        What::Label { labels, .. } => Some(labels),
        _ => None,
    });
    let pair = |label: &LabelStep| (label.name.clone(), label.value.clone());
    labels.flatten().map(pair).collect()
}

/// The labels that %post has written, a line each; their file does not stay.
fn take_written_labels(root: &Rooted) -> Result<Vec<(String, String)>> {
    let Some(text) = root.read(labels_file())? else { return Ok(Vec::new()) };
    let outside = root.place(labels_file())?;
    super::rooted::remove(&outside).tried(|| format!("cannot remove {:?}", labels_file()))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let pair = |line: &str| match line.split_once(char::is_whitespace) {
        Some((name, value)) => (name.to_owned(), value.trim().to_owned()),
        None => (line.to_owned(), String::new()),
    };
    Ok(lines.map(pair).collect())
}

/// Writes labels over those that are there: `own` always, `asked` where the name is new or `force` says so.
fn write_labels(
    root: &Rooted,
    path: &Path,
    own: &[(String, String)],
    asked: &[(String, String)],
    force: bool,
) -> Result<Vec<String>> {
    let old = root.read(path)?.unwrap_or_default();
    let mut labels: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&old).unwrap_or_default();
    let base: BTreeSet<String> = labels.keys().cloned().collect();
    labels.extend(own.iter().map(|(name, value)| (name.clone(), value.clone().into())));
    let mut warnings = Vec::new();
    for (name, value) in asked {
        let differs = labels.get(name).is_some_and(|old| old != value.as_str());
        if base.contains(name) && !force {
            if differs {
                warnings.push(format!("the label {name:?} stays as the base has it; --force replaces it"));
            }
            continue;
        }
        labels.insert(name.clone(), value.clone().into());
    }
    if labels.is_empty() {
        return Ok(warnings);
    }
    let text = standard::labels_json(&labels).tried(|| "cannot write labels".to_owned())?;
    root.write(path, &text, FILE)?;
    Ok(warnings)
}

/// Puts the definition where the image keeps it; that of the base becomes history.
fn keep_definition(root: &Rooted, text: &str) -> Result<()> {
    let path = format!("{DIRECTORY}/Singularity");
    let path = Path::new(&path);
    if let Some(old) = root.read(path)? {
        let history = format!("{DIRECTORY}/bootstrap_history");
        let free = (0..1000).map(|number| format!("{history}/Apptainer{number}"));
        for name in free {
            if !root.has(Path::new(&name))? {
                root.write(Path::new(&name), &old, FILE)?;
                break;
            }
        }
    }
    root.write(path, text.as_bytes(), FILE)
}
