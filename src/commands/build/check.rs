//! Definitions of the command line: read, looked through (`skiff build --check`).

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use crate::build::definition::{
    Definition, Given, Mistake, Mistakes, TEXT_BYTES, argument, arguments_of_file, parse,
};
use crate::build::plan::{BuildPlan, plan_build};
use crate::cli::Global;
use crate::cli::build::BuildArgs;
use crate::commands::{json_text, printed, warn};
use crate::error::{Context, Error, Result};

/// How far into a file the first line of a definition is looked for.
const LOOKED_AT: u64 = 64 << 10;

/// Runs `skiff build --check`.
pub fn run(args: &BuildArgs, global: &Global) -> Result<i32> {
    let path = args.source.as_ref().map_or(args.target.as_path(), Path::new);
    let (_, plan) = read_definition(path, args, global)?;
    print(&plan, args.json)
}

/// Prints what a definition asks for.
pub fn print(plan: &BuildPlan, json: bool) -> Result<i32> {
    let text = if json { json_text(plan, "the plan")? } else { plan.to_string() };
    printed(io::stdout().write_all(text.as_bytes()))
}

/// Reads a definition, says what is odd, and gives what it asks for.
pub fn read_definition(path: &Path, args: &BuildArgs, global: &Global) -> Result<(Definition, BuildPlan)> {
    let name = path.display().to_string();
    let bytes = read(path, "definition")?;
    let given = given(args)?;
    let definition = parse(&bytes, &given).map_err(|mistakes| refuse("definition", path, &mistakes))?;
    for warning in &definition.warnings.list {
        warn(global, &warning.show(&name));
    }
    match definition.warnings.left_out {
        0 => {}
        more => warn(global, &format!("{name}: {more} more warnings")),
    }
    answer_unused(args, global, &definition.unused, &given, &definition.names)?;
    let plan = plan_build(&definition, &name);
    Ok((definition, plan))
}

/// Whether a file is a definition: it is text that begins a stage near its start.
pub fn is_definition(path: &Path) -> bool {
    path.metadata().is_ok_and(|status| status.is_file()) && begins_a_stage(path)
}

/// Whether a file has a line that begins a stage, near its start.
fn begins_a_stage(path: &Path) -> bool {
    let mut start = Vec::new();
    // A file that cannot be read is told by who reads it in earnest.
    let read = File::open(path).and_then(|file| file.take(LOOKED_AT).read_to_end(&mut start));
    let text = start.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&start);
    let word = b"bootstrap:";
    read.is_ok()
        && text
            .split(|byte| *byte == b'\n')
            .any(|line| line.get(..word.len()).is_some_and(|first| first.eq_ignore_ascii_case(word)))
}

/// Reads a file, up to a little more than what can be used of it.
fn read(path: &Path, what: &str) -> Result<Vec<u8>> {
    let tried = || format!("cannot read {what} {path:?}");
    let mut bytes = Vec::new();
    let file = File::open(path).tried(tried)?;
    file.take(TEXT_BYTES as u64 + 1).read_to_end(&mut bytes).tried(tried)?;
    Ok(bytes)
}

fn refuse(what: &str, path: &Path, mistakes: &Mistakes) -> Error {
    let count = match mistakes.count() {
        1 => "1 mistake".to_owned(),
        count => format!("{count} mistakes"),
    };
    let shown = mistakes.show(&path.display().to_string());
    Error::usage(format!("cannot read {what} {path:?}: {count}{shown}"))
}

/// The arguments of the command line; those of files first, since the later of two counts.
fn given(args: &BuildArgs) -> Result<Vec<Given>> {
    let mut given = Vec::new();
    for path in &args.build_arg_files {
        let bytes = read(path, "file of arguments")?;
        let arguments = arguments_of_file(&bytes, &path.display().to_string());
        given.extend(arguments.map_err(|mistakes| refuse("file of arguments", path, &mistakes))?);
    }
    for text in &args.build_args {
        let argument = argument(text, "--build-arg").ok_or_else(|| {
            Error::usage(format!("cannot use --build-arg {text:?}: it is not NAME=VALUE"))
                .hint("a name is made of letters, digits and underscores: --build-arg RELEASE=12")
        })?;
        given.push(argument);
    }
    Ok(given)
}

/// An argument that nothing uses is a name written wrong, most often.
fn answer_unused(
    args: &BuildArgs,
    global: &Global,
    unused: &[String],
    given: &[Given],
    names: &[String],
) -> Result<()> {
    let shown = unused.iter().map(|name| {
        let from = given.iter().rfind(|given| given.name == *name).map_or("", |given| &given.origin);
        let known = names.iter().map(String::as_str);
        let nearest = Mistake::nowhere(String::new()).nearest(name, known).nearest;
        let nearest = nearest.map_or_else(String::new, |nearest| format!("; the definition has {nearest:?}"));
        format!("{name:?} ({from}{nearest})")
    });
    let shown: Vec<String> = shown.collect();
    if shown.is_empty() {
        return Ok(());
    }
    let message = format!("the definition does not use {}", shown.join(", "));
    if args.warn_unused_build_args {
        warn(global, &message);
        return Ok(());
    }
    Err(Error::usage(message)
        .hint("leave it out, or write {{ NAME }} where it is meant; --warn-unused-build-args goes on with a warning"))
}
