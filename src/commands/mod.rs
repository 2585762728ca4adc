//! One file per verb, and what they share: parsing, dispatch, the one place where an error is printed.
//!
//! ```text
//! argv -> cli::Cli -> exec | run | shell | build | sif | doctor | completions | docs -> exit status
//! ```
//!
//! Exit status: the program's own for `exec`, `run` and `shell`; else 0, 255 for every failure of
//! skiff's including a wrong command line, 1 when `doctor` finds something missing, 130 after Ctrl-C, 141 when the reader of our output went away.

pub mod build;
pub mod docs;
pub mod doctor;
pub mod exec;
pub mod obtain;
pub mod sif;

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::cli::{Cli, Global, Verb};
use crate::error::{Context, Error, Result};
use crate::host::FAMILIES;
use crate::plan::Action;
use crate::plan::asked::is_off;

/// The status of a process that SIGPIPE killed: what a shell reports for any tool whose reader left.
const READER_GONE: i32 = 128 + libc::SIGPIPE;

/// Runs the command line `argv` and returns the exit status. Errors are printed here and nowhere else.
pub fn main(argv: impl Iterator<Item = OsString>) -> i32 {
    let mut cli = match Cli::of(&as_called(argv).collect::<Vec<_>>()) {
        Ok(cli) => cli,
        Err(error) => return print_clap(&error),
    };
    heed_variables(&mut cli.global, &|name| std::env::var_os(name));
    match dispatch(&cli) {
        Ok(status) => status,
        Err(error) => {
            print_error(&error, &cli.global);
            error.exit_code()
        }
    }
}

/// Adds what variables say about messages (`SKIFF_DEBUG` and its twins). A flag that does beats them.
fn heed_variables(global: &mut Global, variable: &dyn Fn(&str) -> Option<OsString>) {
    let on = |key| {
        let values = FAMILIES.iter().map(|family| variable(&format!("{family}_{key}")));
        values.flatten().find(|value| !value.is_empty()).is_some_and(|value| !is_off(&value))
    };
    global.no_color |= on("NOCOLOR");
    if !global.silent() && global.detail() == 0 {
        global.debug = on("DEBUG");
        global.verbose = u8::from(on("VERBOSE"));
        global.quiet = on("QUIET") || on("SILENT");
    }
}

fn dispatch(cli: &Cli) -> Result<i32> {
    let global = &cli.global;
    match &cli.verb {
        Verb::Exec(args) => exec::run(args, global, Action::Exec),
        Verb::Run(args) => exec::run(args, global, Action::Run),
        Verb::Shell(args) => exec::run(args, global, Action::Shell),
        Verb::Build(args) => build::run(args, global),
        Verb::Sif(args) => sif::run(args),
        Verb::Doctor(args) => doctor::run(args, global),
        Verb::Completions(args) => docs::completions(args),
        Verb::Docs(args) => docs::run(args),
    }
}

/// The first line of a SIF is `#!/usr/bin/env run-singularity`: started through it, the kernel gives us
/// that name and the image, and what is meant is `skiff run IMAGE ARGS...`.
fn as_called(argv: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    let mut argv = argv.peekable();
    let by_image =
        argv.peek().is_some_and(|name| Path::new(name).file_name() == Some(OsStr::new("run-singularity")));
    let verb = by_image.then(|| OsString::from("run"));
    argv.next().into_iter().chain(verb).chain(argv)
}

/// Prints what clap has to say: help and version (status 0), or a mistake in our own form (status 255).
fn print_clap(error: &clap::Error) -> i32 {
    if !error.use_stderr() {
        return match error.print() {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => READER_GONE,
            _ => 0,
        };
    }
    let text = error.render();
    let text = if colour(&Global::default()) { text.ansi().to_string() } else { text.to_string() };
    // Nobody is left to tell when standard error cannot be written to.
    let _ = io::stderr().write_all(text.replacen("error:", "skiff:", 1).as_bytes());
    Error::usage("").exit_code()
}

fn print_error(error: &Error, global: &Global) {
    let (bold, reset) = if colour(global) { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    let mut text = format!("{bold}skiff:{reset} {error}\n");
    if let Some(hint) = &error.hint {
        text.push_str(&format!("hint: {hint}\n"));
    }
    // Nobody is left to tell when standard error cannot be written to.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Prints a warning to standard error, unless `--quiet`.
pub(crate) fn warn(global: &Global, message: &str) {
    if !global.silent() {
        // Nobody is left to tell when standard error cannot be written to.
        let _ = io::stderr().write_all(format!("skiff: warning: {message}\n").as_bytes());
    }
}

fn colour(global: &Global) -> bool {
    colour_on(global, io::stderr().is_terminal())
}

/// Whether a stream gets colours.
pub(crate) fn colour_on(global: &Global, terminal: bool) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !global.no_color
        && !set("NO_COLOR")
        && std::env::var_os("TERM").is_none_or(|term| term.as_bytes() != b"dumb")
        && terminal
}

/// The exit status of a verb that wrote its result to standard output: a reader that left (`| head`) is
/// no error to talk about.
pub(crate) fn printed(result: io::Result<()>) -> Result<i32> {
    match result.and_then(|()| io::stdout().flush()) {
        Ok(()) => Ok(0),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(READER_GONE),
        Err(error) => Err(error).tried(|| "cannot write to standard output".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(words: &[&str]) -> Vec<String> {
        as_called(words.iter().map(OsString::from)).map(|w| w.into_string().unwrap()).collect()
    }

    #[test]
    fn variables_say_how_much_is_said_unless_a_flag_does() {
        let heed = |global: Global, set: &[(&str, &str)]| {
            let mut global = global;
            heed_variables(&mut global, &|name| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
            });
            (global.detail(), global.silent(), global.no_color)
        };
        let none = Global::default;
        assert_eq!(heed(none(), &[]), (0, false, false));
        assert_eq!(heed(none(), &[("SKIFF_DEBUG", "1")]), (2, false, false));
        assert_eq!(heed(none(), &[("APPTAINER_VERBOSE", "yes")]), (1, false, false));
        assert_eq!(heed(none(), &[("SINGULARITY_QUIET", "1"), ("SKIFF_NOCOLOR", "1")]), (0, true, true));
        assert_eq!(heed(none(), &[("APPTAINER_SILENT", "1")]), (0, true, false));
        assert_eq!(heed(none(), &[("SKIFF_DEBUG", "0"), ("APPTAINER_DEBUG", "1")]), (0, false, false));
        let quiet = Global { quiet: true, ..none() };
        assert_eq!(heed(quiet, &[("APPTAINER_DEBUG", "1")]), (0, true, false));
        let verbose = Global { verbose: 1, ..none() };
        assert_eq!(heed(verbose, &[("APPTAINER_QUIET", "1")]), (1, false, false));
    }

    #[test]
    fn an_image_started_by_the_kernel_is_run() {
        assert_eq!(
            called(&["run-singularity", "./a.sif", "-x"]),
            ["run-singularity", "run", "./a.sif", "-x"]
        );
        assert_eq!(called(&["/opt/bin/run-singularity", "a"]), ["/opt/bin/run-singularity", "run", "a"]);
        assert_eq!(called(&["skiff", "exec", "run-singularity"]), ["skiff", "exec", "run-singularity"]);
        assert_eq!(called(&[]), [""; 0]);
    }
}
