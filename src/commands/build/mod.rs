//! `skiff build`: a definition, a directory or an image into an image or a sandbox.
//!
//! ```text
//! build a.sif a.def              read -> plan -> its steps, in layers -> pack them -> its name
//! build a.sif ./tree             metadata, then pack -> SquashFS, straight into its place in an unnamed SIF -> its name
//! build b.sif a.sif              the same, of an image
//! build b.sif docker://debian    fetched, then converted as the flags say; the same of oci:DIR and its like
//! build --sandbox ./tree a.sif   unpack -> a directory of a name of its own -> its name
//! build --check a.def            parse -> its plan on standard output
//! ```
//!
//! What is half done never has the target's name, and goes when the work fails or is stopped.

mod check;
pub mod convert;
mod definition;
pub mod image;
mod metadata;
pub mod output;
pub mod progress;
mod sandbox;
mod show;
mod variables;

use std::ffi::OsStr;
use std::path::Path;
use std::sync::atomic::Ordering;

use crate::cli::Global;
use crate::cli::build::BuildArgs;
use crate::cli::build_other::BUILD_OTHERS;
use crate::cli::called;
use crate::cli::other::Answer;
use crate::commands::{host_for, obtain, warn};
use crate::error::{Context, Error, Kind, Result};
use crate::host::Host;
use crate::plan::asked::switch;
use crate::sys::signals::STOP;

/// Flags for accelerators, which the containers of a build have.
const OF_CONTAINERS: [&str; 4] = ["nv", "nvccli", "rocm", "compat32"];

/// Runs `skiff build`.
pub fn run(args: &BuildArgs, global: &Global) -> Result<i32> {
    let host = host_for(global);
    let args = &variables::with_variables(args, &host)?;
    let named = match &args.source {
        Some(source) => Path::new(source),
        None => args.target.as_path(),
    };
    let from_definition = check::is_definition(named);
    answer(args, &host, global, from_definition)?;
    if args.check {
        return check::run(args, global);
    }
    if args.dry_run {
        return definition::dry_run(named, args, &host, global);
    }
    let source = args.source.as_deref().unwrap_or(OsStr::new(""));
    let result = if from_definition {
        definition::build(args, named, &host, global)
    } else if args.sandbox {
        sandbox::build(args, source, global)
    } else if let Some(named) = obtain::elsewhere(named)? {
        image::fetch(args, &named, &host, global)
    } else {
        ensure_there(named)?;
        image::build(args, source, global)
    };
    match result {
        // Whatever the stop made fail first.
        Err(error) if STOP.load(Ordering::Relaxed) && error.kind != Kind::Interrupted => {
            Err(Error::new(Kind::Interrupted, "stopped").because(error))
        }
        result => result.map(|()| 0),
    }
    .map_err(|error| match error.kind {
        Kind::Interrupted => error.hint("the target is as it was; the same command starts anew"),
        _ => error,
    })
}

/// What a source may be.
const SOURCES: &str = "skiff builds from definitions (text with a line 'Bootstrap: AGENT'), directories and images, also \
    docker://NAME, oras://NAME, oci:DIR, oci-archive:FILE and docker-archive:FILE";

/// A file that is nothing that can be built from.
fn ensure_there(path: &Path) -> Result<()> {
    if !path.exists() {
        let tried = || format!("cannot build from {path:?}");
        std::fs::metadata(path).tried(tried).map_err(|error| error.hint(SOURCES))?;
    }
    let Err(error) = (if path.is_dir() { Ok(()) } else { crate::image::open(path).map(drop) }) else {
        return Ok(());
    };
    if error.kind == Kind::Image && path.is_file() {
        return Err(error.hint(SOURCES));
    }
    Err(error)
}

/// Answers the flags that skiff does not have, or has no need of.
fn answer(args: &BuildArgs, host: &Host, global: &Global, from_definition: bool) -> Result<()> {
    if let Some((variable, _)) = host.setting("CONFIG_FILE") {
        warn(global, &called::no_effect_of_configuration(&variable));
    }
    for row in BUILD_OTHERS {
        let name = row.names[0];
        let given = args.other.given.iter().any(|(given, _)| *given == name);
        let Some(because) = switch(host, given, &format!("--{name}"), row.keys) else { continue };
        let origin = because.origin();
        match row.answer {
            Answer::Already => {}
            // The reasons are those of packing.
            Answer::NoEffect(_) if args.check || from_definition && name == "fakeroot" => {}
            _ if from_definition && OF_CONTAINERS.contains(&name) => {}
            Answer::NoEffect(why) => warn(global, &format!("{origin} has no effect: {why}")),
            Answer::Later(instead) => {
                return Err(Error::usage(format!("{origin} is not there yet")).hint(instead));
            }
        }
    }
    if from_definition || args.check {
        return Ok(());
    }
    let of_definitions = [
        ("--build-arg", !args.build_args.is_empty() || !args.build_arg_files.is_empty()),
        ("--section", !args.section.is_empty()),
        ("--bind", !args.bind.is_empty()),
        ("--mount", !args.mount.is_empty()),
        ("--writable-tmpfs", args.writable_tmpfs),
        ("--no-cleanup", args.no_cleanup),
        ("--tmpdir", args.tmpdir.as_ref().is_some_and(|path| !path.as_os_str().is_empty())),
        ("--update", args.update),
    ];
    for (name, _) in of_definitions.iter().filter(|(_, given)| *given) {
        warn(global, &format!("{} has no effect: the source is no definition file", args.origin(name)));
    }
    Ok(())
}
