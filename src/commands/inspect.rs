//! `skiff inspect` and `run-help`: what an image says of itself, read without running anything of it.
//!
//! Text and JSON are those of Apptainer, byte for byte. An app that the image does not have is an error here.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use crate::cli::Global;
use crate::cli::inspect::{InspectArgs, RunHelpArgs};
use crate::commands::{obtain, printed};
use crate::error::{Error, Result};
use crate::image;
use crate::image::metadata::{self, App, Attributes, Texts};
use crate::image::sif;
use crate::image::source::Source;

/// Runs `skiff inspect`.
pub fn run(args: &InspectArgs, global: &Global) -> Result<i32> {
    let all = read(&obtain::path(&args.image, global)?)?;
    if let Some(app) = &args.app {
        app_of(&all, app, &args.image)?;
    }
    let shown = if args.all { all } else { selected(args, &all) };
    let text = if args.json || args.all {
        metadata::to_pretty_json(&shown)? + "\n"
    } else {
        text(&shown, args.app.as_deref(), args.list_apps)
    };
    printed(io::stdout().write_all(text.as_bytes()))
}

/// Runs `skiff run-help`.
pub fn run_help(args: &RunHelpArgs, global: &Global) -> Result<i32> {
    let all = read(&obtain::path(&args.image, global)?)?;
    let help = match &args.app {
        Some(app) => &app_of(&all, app, &args.image)?.helpfile,
        None => &all.helpfile,
    };
    let help = if help.is_empty() { "No help sections were defined for this image" } else { help };
    printed(io::stdout().write_all(format!("{help}\n").as_bytes()))
}

/// A SIF says it without being looked into, so that an image which cannot be run can be inspected all the same.
fn read(path: &Path) -> Result<Attributes> {
    // Not blocking: a pipe without a writer would keep us here.
    if let Ok(file) = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)
        && file.metadata().is_ok_and(|status| status.is_file())
        && let Ok(whole) = Source::whole(Arc::new(file))
        && let Ok(sif) = sif::read(&whole)
        && let Some(attributes) = metadata::of_sif(&sif, &whole)?
    {
        return Ok(attributes);
    }
    let image = image::open(path)?;
    metadata::read(&image).map_err(|error| image.named(error))
}

fn app_of<'a>(all: &'a Attributes, app: &str, image: &Path) -> Result<&'a App> {
    all.apps.get(app).ok_or_else(|| {
        let names: Vec<&str> = all.apps.keys().map(String::as_str).collect();
        let hint = match names.is_empty() {
            true => "the image has no apps at all".to_owned(),
            false => format!("its apps are {}", names.join(", ")),
        };
        Error::usage(format!("no app {app:?} in image {image:?}")).hint(hint)
    })
}

/// What the flags ask for; the labels when they ask for nothing.
fn selected(args: &InspectArgs, all: &Attributes) -> Attributes {
    let parts = [
        args.labels,
        args.deffile,
        args.runscript,
        args.startscript,
        args.test,
        args.environment,
        args.helpfile,
        args.list_apps,
    ];
    let labels = args.labels || !parts.contains(&true);
    let text = |asked: bool, text: &String| if asked { text.clone() } else { String::new() };
    let texts = |asked: bool, texts: &Texts| if asked { texts.clone() } else { Texts::new() };
    let mut shown = Attributes { deffile: text(args.deffile, &all.deffile), ..Attributes::default() };
    match &args.app {
        None => {
            shown.environment = texts(args.environment, &all.environment);
            shown.labels = texts(labels, &all.labels);
            shown.runscript = text(args.runscript, &all.runscript);
            shown.test = text(args.test, &all.test);
            shown.helpfile = text(args.helpfile, &all.helpfile);
            shown.startscript = text(args.startscript, &all.startscript);
        }
        Some(name) => {
            let app = all.apps.get(name).cloned().unwrap_or_default();
            let app = App {
                environment: texts(args.environment, &app.environment),
                labels: texts(labels, &app.labels),
                runscript: text(args.runscript, &app.runscript),
                startscript: text(args.startscript, &app.startscript),
                test: text(args.test, &app.test),
                helpfile: text(args.helpfile, &app.helpfile),
            };
            shown.apps = BTreeMap::from([(name.clone(), app)]);
        }
    }
    if args.list_apps {
        shown.apps = all.apps.clone();
    }
    shown
}

fn text(shown: &Attributes, app: Option<&str>, list_apps: bool) -> String {
    let mut out = String::new();
    let names = shown.apps.keys().filter(|_| list_apps);
    names.for_each(|name| line(&mut out, name));
    line(&mut out, &shown.deffile);
    let (scripts, environment, labels) = match app.and_then(|app| shown.apps.get(app)) {
        Some(app) => {
            ([&app.runscript, &app.startscript, &app.test, &app.helpfile], &app.environment, &app.labels)
        }
        None => (
            [&shown.runscript, &shown.startscript, &shown.test, &shown.helpfile],
            &shown.environment,
            &shown.labels,
        ),
    };
    scripts.into_iter().for_each(|script| line(&mut out, script));
    for (path, script) in environment {
        // Writing to a String cannot fail.
        let _ = write!(out, "=== {path} ===\n{script}\n\n");
    }
    for (name, value) in labels {
        let _ = writeln!(out, "{name}: {value}");
    }
    out
}

/// Adds a text that is there, as a line.
fn line(out: &mut String, text: &str) {
    if !text.is_empty() {
        out.push_str(text);
        out.push('\n');
    }
}
