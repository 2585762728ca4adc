//! One file per verb, and what they share: parsing, dispatch, the one place where an error is printed.
//!
//! ```text
//! argv -> cli::called -> cli::Cli
//!     -> exec | run | shell | test | inspect | pull | push | tag | registry | build | cache | sif | sbom | mpi | gpu | broadcast | doctor
//!        | completions | docs -> exit status
//! ```
//!
//! Exit status: the program's own for `exec`, `run`, `shell` and `test`; else 0, 255 for every failure of
//! skiff's including a wrong command line, 1 when `doctor` finds something missing, 141 when the reader of our
//! output went away. What Ctrl-C, SIGTERM or SIGHUP stopped takes back what it has half done, and dies of the signal.

pub mod broadcast;
pub mod build;
pub mod cache;
pub mod docs;
pub mod doctor;
pub mod exec;
pub mod gpu;
pub mod inspect;
pub mod mpi;
pub mod obtain;
pub mod pull;
pub mod push;
pub mod registry;
pub mod sbom;
pub mod sif;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;

use serde::Serialize;

use crate::cli::called::{self, Called};
use crate::cli::{Cli, Global, Verb};
use crate::error::{Context, Error, Kind, Result};
use crate::host::{FAMILIES, Host, is_on};
use crate::plan::Action;
use crate::sys::signals::die_of_stop;

/// The status of a process that SIGPIPE killed: what a shell reports for any tool whose reader left.
const READER_GONE: i32 = 128 + libc::SIGPIPE;

/// Runs the command line `argv` and returns the exit status. Errors are printed here and nowhere else.
pub fn main(argv: impl Iterator<Item = OsString>) -> i32 {
    let words = match called::read(argv) {
        Called::Words(words) => words,
        Called::Print(line) => return ended(printed(writeln!(io::stdout(), "{line}")), &Global::default()),
        Called::Answer(error) => return ended(Err(error), &Global::default()),
    };
    let mut cli = match Cli::of(&words) {
        Ok(cli) => cli,
        Err(error) => {
            // What stands there is known by its words alone.
            let no_color = words.iter().any(|word| word == "--no-color" || word == "--nocolor");
            let mut global = Global { no_color, ..Global::default() };
            global.add_settings(setting);
            return print_clap(&error, &global);
        }
    };
    cli.global.add_settings(setting);
    ended(dispatch(&cli), &cli.global)
}

/// The exit status that a result means, after its error has been printed. What a signal stopped dies of it.
fn ended(result: Result<i32>, global: &Global) -> i32 {
    match result {
        Ok(status) => status,
        Err(error) => {
            print_error(&error, global);
            if error.kind == Kind::Interrupted {
                // What a signal ends writes nothing any more; that it cannot be written is nothing to add here.
                let _ = io::stdout().flush();
                die_of_stop();
            }
            error.exit_code()
        }
    }
}

/// This machine and the caller, for a command line: the variables of switches that it turns off do not count.
pub(crate) fn host_for(global: &Global) -> Host {
    Host::probe().with_off(&global.off)
}

/// Whether `SKIFF_NAME` or one of its twins is set to what means yes.
pub(crate) fn setting(name: &str) -> bool {
    FAMILIES
        .iter()
        .filter_map(|family| std::env::var_os(format!("{family}_{name}")))
        .find(|value| !value.is_empty())
        .is_some_and(|value| is_on(&value))
}

fn dispatch(cli: &Cli) -> Result<i32> {
    let global = &cli.global;
    match &cli.verb {
        Verb::Exec(args) => exec::run(args, global, Action::Exec, None),
        Verb::Run(args) => exec::run(args, global, Action::Run, None),
        Verb::Shell(args) => {
            let shell = args.shell.as_deref().filter(|path| !path.as_os_str().is_empty());
            exec::run(&args.run, global, Action::Shell, shell)
        }
        Verb::Test(args) => exec::run(args, global, Action::Test, None),
        Verb::RunHelp(args) => inspect::run_help(args, global),
        Verb::Inspect(args) => inspect::run(&args.0, global),
        Verb::Pull(args) => pull::run(args, global),
        Verb::Push(args) => push::run(args, global),
        Verb::Tag(args) => push::tag(args, global),
        Verb::Registry(args) => registry::run(args, global),
        Verb::Build(args) => build::run(args, global),
        Verb::Cache(args) => cache::run(args, global),
        Verb::Sif(args) => sif::run(args),
        Verb::Sbom(args) => sbom::run(args, global),
        Verb::Mpi(args) => mpi::run(args, global),
        Verb::Gpu(args) => gpu::run(args, global),
        Verb::Broadcast(args) => broadcast::run(args, global),
        Verb::Doctor(args) => doctor::run(args, global),
        Verb::Completions(args) => docs::completions(args),
        Verb::Docs(args) => docs::run(args),
    }
}

/// Prints what clap has to say: help and version (status 0), or a mistake in our own form (status 255).
fn print_clap(error: &clap::Error, global: &Global) -> i32 {
    let text = |colours: bool| {
        let text = error.render();
        if colours { text.ansi().to_string() } else { text.to_string() }
    };
    if !error.use_stderr() {
        let text = text(colour_on(global, io::stdout().is_terminal()));
        let result = printed(io::stdout().write_all(text.as_bytes()));
        return ended(result, global);
    }
    // Nobody is left to tell when standard error cannot be written to.
    let _ = io::stderr().write_all(text(colour(global)).replacen("error:", "skiff:", 1).as_bytes());
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
    say(global, &format!("skiff: warning: {message}"));
}

/// Prints a line to standard error, unless `--quiet`.
pub(crate) fn say(global: &Global, line: &str) {
    if !global.silent() {
        // Nobody is left to tell when standard error cannot be written to.
        let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
    }
}

/// Bytes for people: `34.2 MiB`.
pub(crate) fn amount(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} PiB")
}

/// Prints something that is good to know to standard error, unless `--quiet`.
pub(crate) fn note(global: &Global, message: &str) {
    if !global.silent() {
        // Nobody is left to tell when standard error cannot be written to.
        let _ = io::stderr().write_all(format!("skiff: {message}\n").as_bytes());
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

/// A value as a verb prints it with `--json`; `what` is it in messages.
pub(crate) fn json_text(value: &impl Serialize, what: &str) -> Result<String> {
    let text = serde_json::to_string_pretty(value).tried(|| format!("cannot write {what} as JSON"))?;
    Ok(text + "\n")
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
