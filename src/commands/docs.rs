//! `skiff completions` and `skiff docs`: what is written from the command line's types.
//!
//! The command reference (`docs/commands.md`) is printed to standard output by `skiff docs`; a test
//! compares the file with it.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use crate::cli::called;
use crate::cli::{Cli, CompletionsArgs, DocsArgs};
use crate::commands::printed;
use crate::error::{Context, Result};

/// Prints the completions of a shell, for the name that skiff was started by.
pub fn completions(args: &CompletionsArgs) -> Result<i32> {
    let program = std::env::args_os().next().unwrap_or_default();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut shown(), called::completed(&program), &mut script);
    if args.shell == Shell::Bash {
        script = offer_files(&String::from_utf8_lossy(&script)).into_bytes();
    }
    printed(io::stdout().write_all(&script))
}

/// The command line without its hidden verbs, which completions would offer all the same.
fn shown() -> Command {
    let all = Cli::command();
    let mut command = Command::new("skiff").args(all.get_arguments().cloned());
    for verb in all.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        command = command.subcommand(verb.clone());
    }
    command.version(env!("CARGO_PKG_VERSION")).disable_help_subcommand(true)
}

/// The script for bash, which offers flags where nothing has been typed yet. A verb whose words are flags alone takes
/// files there: for those the offer is left to bash.
fn offer_files(script: &str) -> String {
    const OFFER: &str = "COMPREPLY=( $(compgen -W \"${opts}\" -- \"${cur}\") )";
    let mut text = String::with_capacity(script.len());
    let (mut flags_alone, mut offers) = (false, 0);
    for line in script.lines() {
        let bare = line.trim_start();
        if let Some(words) = bare.strip_prefix("opts=\"") {
            flags_alone = words.trim_end_matches('"').split(' ').all(|word| word.starts_with('-'));
            offers = 0;
        }
        offers += usize::from(flags_alone && bare == OFFER);
        match bare.split_once(" || ${COMP_CWORD}") {
            Some((condition, _)) if flags_alone => text.push_str(&format!("{condition} ]] ; then")),
            _ if bare == OFFER && offers == 2 => text.push_str("COMPREPLY=()"),
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

/// Writes the manual pages with `--man DIR`, else prints the command reference.
pub fn run(args: &DocsArgs) -> Result<i32> {
    match &args.man {
        Some(directory) => write_manual(directory).map(|()| 0),
        None => printed(io::stdout().write_all(reference().as_bytes())),
    }
}

fn write_manual(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).tried(|| format!("cannot make directory {directory:?}"))?;
    let tried = || format!("cannot write manual pages to {directory:?}");
    clap_mangen::generate_to(Cli::command(), directory).tried(tried)?;
    for verb in ["exec", "run", "shell", "test", "pull"] {
        let path = directory.join(format!("skiff-{verb}.1"));
        let page = fs::read_to_string(&path).tried(tried)?;
        let page = WORDS.iter().fold(page, |page, (together, apart)| page.replace(together, apart));
        fs::write(&path, page).tried(tried)?;
    }
    Ok(())
}

/// Words of a verb that are one argument for clap ([`crate::cli::run::Words`]), and how a manual page shows them.
const WORDS: [(&str, &str); 3] = [
    (r"<\fIIMAGE COMMAND\fR>", r"<\fIIMAGE\fR> <\fICOMMAND\fR>..."),
    (r"<\fIIMAGE ARGUMENT\fR>", r"<\fIIMAGE\fR> [\fIARGUMENT\fR]..."),
    (r"<\fI[OUTPUT] IMAGE\fR>", r"[\fIOUTPUT\fR] <\fIIMAGE\fR>"),
];

/// The command reference in Markdown.
fn reference() -> String {
    let mut text = String::from(
        "# Commands\n\n\
         Written by `skiff docs` from the types in `src/cli`; change those and run\n\
         `cargo run -- docs >docs/commands.md`.\n\n\
         Exit status: the program's own for `exec`, `run`, `shell` and `test`; 255 for every failure of skiff itself,\n\
         which no batch system mistakes for the program's; 1 from `doctor` when something is missing. What Ctrl-C, SIGTERM or\n\
         SIGHUP stops takes back what it has half done and dies of that signal, so that a shell's loop around it ends, too.\n",
    );
    let mut root = Cli::command().term_width(100).max_term_width(100);
    root.build();
    describe(root, "skiff", &mut text);
    text
}

fn describe(mut command: Command, name: &str, text: &mut String) {
    if command.is_hide_set() {
        return;
    }
    let help = command.render_long_help().to_string();
    // Writing to a String cannot fail.
    let _ = write!(text, "\n## {name}\n\n```text\n{}\n```\n", trimmed(&help));
    for verb in command.get_subcommands() {
        // The flags of every verb are described once, with the program itself.
        let own = verb.clone().mut_args(|flag| if flag.is_global_set() { flag.hide(true) } else { flag });
        describe(own, &format!("{name} {}", verb.get_name()), text);
    }
}

/// Without blanks at line ends, which editors and linters remove.
fn trimmed(help: &str) -> String {
    help.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_reference_is_that_of_the_flags() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/commands.md");
        let written = fs::read_to_string(path).unwrap_or_default();
        assert!(written == reference(), "run: cargo run -- docs >docs/commands.md");
    }

    #[test]
    fn completions_offer_every_verb_that_help_shows_and_no_other() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut shown(), "skiff", &mut script);
            let script = String::from_utf8(script).unwrap();
            for verb in ["exec", "run-help", "doctor", "completions", "--no-color", "--version"] {
                let verb = if shell == Shell::Fish { verb.trim_start_matches('-') } else { verb };
                assert!(script.contains(verb), "{shell}: no {verb}");
            }
            assert!(!script.contains("docs"), "{shell}");
        }
    }

    #[test]
    fn a_manual_page_is_written_for_each_verb() {
        let directory = tempfile::tempdir().unwrap();
        write_manual(directory.path()).unwrap();
        for page in ["skiff.1", "skiff-exec.1", "skiff-build.1", "skiff-sif-list.1"] {
            let text = fs::read_to_string(directory.path().join(page)).unwrap();
            assert!(text.contains(".TH"), "{page}: {text}");
        }
        for entry in fs::read_dir(directory.path()).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            let synopsis = text.lines().skip_while(|line| *line != ".SH SYNOPSIS").nth(1).unwrap();
            let mut words = synopsis.split(r"<\fI").skip(1).filter_map(|word| word.split(r"\fR>").next());
            assert!(words.all(|word| !word.contains(' ')), "{synopsis}");
        }
        let exec = fs::read_to_string(directory.path().join("skiff-exec.1")).unwrap();
        assert!(exec.contains(r" <\fIIMAGE\fR> <\fICOMMAND\fR>..."), "{exec}");
    }
}
