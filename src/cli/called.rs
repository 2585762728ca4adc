//! By what name skiff was started, and what that makes of its words.
//!
//! ```text
//! skiff              as it is
//! apptainer          the flags before the verb are Apptainer's: -s is --silent, -c FILE its configuration
//! singularity        the same
//! run-singularity    started by the kernel for the first line of a SIF: skiff run IMAGE ARGS...
//!
//! any of them        help [VERB...]      VERB... --help
//!                    version             the version alone
//!                    completion SHELL    completions SHELL
//!                    push, sign, ...     answered (see `elsewhere`)
//! ```
//!
//! Only words up to the verb are looked at; what follows it is the verb's.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::elsewhere::elsewhere;
use crate::error::Error;

/// The version of Apptainer that `apptainer --version` names: the one that skiff's environment and images are
/// compared with.
pub const APPTAINER: &str = "1.4.5";
/// The version of SingularityCE that `singularity --version` names: of the last series before OCI-SIF images, which
/// skiff does not run.
pub const SINGULARITY: &str = "3.11.5";

/// What is to be done.
#[derive(Debug)]
pub enum Called {
    /// Parse these words.
    Words(Vec<OsString>),
    /// Print this line.
    Print(String),
    /// Print this error.
    Answer(Error),
}

/// The names that skiff answers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Skiff,
    Apptainer,
    Singularity,
    RunSingularity,
}

/// Reads the words up to the verb. `argv[0]` decides how.
pub fn read(argv: impl IntoIterator<Item = OsString>) -> Called {
    let mut left = argv.into_iter();
    let Some(program) = left.next() else { return Called::Words(Vec::new()) };
    let name = name_of(&program);
    let mut words = vec![program];
    if name == Name::RunSingularity {
        words.push("run".into());
        words.extend(left);
        return Called::Words(words);
    }
    for word in left.by_ref() {
        let bytes = word.as_bytes();
        if !bytes.starts_with(b"-") {
            return verb(name, words, word, left.collect());
        }
        match name {
            Name::Skiff => words.push(word),
            _ if bytes == b"--version" => return Called::Print(version_line(name)),
            _ => match foreign_flag(bytes) {
                Ok(flag) => words.extend(flag),
                Err(error) => return Called::Answer(error),
            },
        }
    }
    Called::Words(words)
}

fn name_of(program: &OsStr) -> Name {
    match Path::new(program).file_name().map(OsStr::as_bytes) {
        Some(b"apptainer") => Name::Apptainer,
        Some(b"singularity") => Name::Singularity,
        Some(b"run-singularity") => Name::RunSingularity,
        _ => Name::Skiff,
    }
}

/// The name that completions are for.
pub fn completed(program: &OsStr) -> &'static str {
    match name_of(program) {
        Name::Apptainer => "apptainer",
        Name::Singularity => "singularity",
        Name::Skiff | Name::RunSingularity => "skiff",
    }
}

fn verb(name: Name, mut words: Vec<OsString>, verb: OsString, mut rest: Vec<OsString>) -> Called {
    let asks_help = verb == "help";
    let verb = if asks_help && !rest.is_empty() { rest.remove(0) } else { verb };
    let after: Vec<OsString> = std::iter::once(verb.clone()).chain(rest.iter().cloned()).collect();
    match verb.to_str() {
        Some("version") if !asks_help && rest.is_empty() => return Called::Print(version(name)),
        Some("completion") => words.push("completions".into()),
        // Alone, or asked for help about itself.
        Some("help") => {}
        _ => match elsewhere(&after) {
            Some((name, row)) => {
                return Called::Answer(
                    Error::usage(format!("no verb {name:?}: {}", row.why)).hint(row.instead),
                );
            }
            None => words.push(verb),
        },
    }
    words.extend(rest);
    if asks_help {
        words.push("--help".into());
    }
    Called::Words(words)
}

/// The warning about a variable that names a configuration of Apptainer's: it may be set for the whole site.
pub fn no_effect_of_configuration(variable: &str) -> String {
    format!("{variable} has no effect: skiff has settings of its own, in /etc/skiff/config.yaml")
}

/// The error of a flag that names one.
fn no_configuration() -> Error {
    let why = "skiff has settings of its own";
    Error::usage(format!("cannot read a configuration of Apptainer's (--config): {why}"))
        .hint("put them into /etc/skiff/config.yaml or ~/.config/skiff/config.yaml, or give them as flags")
}

/// A flag of Apptainer's that stands before the verb, in skiff's words.
fn foreign_flag(flag: &[u8]) -> Result<Option<OsString>, Error> {
    match flag {
        // The compiled-in configuration instead of Apptainer's: skiff knows no other.
        b"--build-config" => Ok(None),
        b"--config" => Err(no_configuration()),
        _ if flag.starts_with(b"--config=") => Err(no_configuration()),
        _ if flag.starts_with(b"--") => Ok(Some(OsString::from_vec(flag.to_vec()))),
        _ if flag.contains(&b'c') => Err(no_configuration()),
        _ => {
            let letters = flag.iter().map(|letter| if *letter == b's' { b'q' } else { *letter });
            Ok(Some(OsString::from_vec(letters.collect())))
        }
    }
}

/// What `version` prints: what comes after the plus sign says whose it is, and no comparison of versions looks at it.
fn version(name: Name) -> String {
    let own = env!("CARGO_PKG_VERSION");
    match name {
        Name::Apptainer => format!("{APPTAINER}+skiff.{own}"),
        Name::Singularity => format!("{SINGULARITY}+skiff.{own}"),
        Name::Skiff | Name::RunSingularity => own.to_owned(),
    }
}

/// What `--version` prints.
fn version_line(name: Name) -> String {
    let family = if name == Name::Apptainer { "apptainer" } else { "singularity-ce" };
    format!("{family} version {}", version(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> String {
        match read(line.split(' ').map(OsString::from)) {
            Called::Words(words) => {
                words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
            }
            Called::Print(line) => format!("print {line}"),
            Called::Answer(error) => format!("answer {error}"),
        }
    }

    #[test]
    fn an_image_started_by_the_kernel_is_run() {
        for (given, expected) in [
            ("run-singularity ./a.sif -x", "run-singularity run ./a.sif -x"),
            ("/opt/bin/run-singularity help", "/opt/bin/run-singularity run help"),
            ("skiff exec run-singularity", "skiff exec run-singularity"),
            ("skiff", "skiff"),
        ] {
            assert_eq!(words(given), expected);
        }
    }

    #[test]
    fn flags_before_the_verb_are_those_of_the_name() {
        for (given, expected) in [
            ("singularity -s exec -s a.sif sh -c x", "singularity -q exec -s a.sif sh -c x"),
            ("apptainer -ds --nocolor exec -c a.sif", "apptainer -dq --nocolor exec -c a.sif"),
            ("apptainer --quiet --silent exec a.sif", "apptainer --quiet --silent exec a.sif"),
            ("apptainer --build-config shell a.sif", "apptainer shell a.sif"),
            ("skiff -s exec a.sif", "skiff -s exec a.sif"),
        ] {
            assert_eq!(words(given), expected);
        }
        for given in ["apptainer -c x exec", "/bin/singularity --config=x exec", "apptainer --config x run"] {
            assert!(words(given).starts_with("answer cannot read a configuration"), "{given}");
        }
    }

    #[test]
    fn help_is_asked_for_in_every_way() {
        for (given, expected) in [
            ("skiff help", "skiff --help"),
            ("skiff -q help exec", "skiff -q exec --help"),
            ("apptainer help sif list", "apptainer sif list --help"),
            ("apptainer help help", "apptainer --help"),
            ("apptainer help version", "apptainer version --help"),
            ("apptainer completion bash", "apptainer completions bash"),
            ("apptainer help completion", "apptainer completions --help"),
        ] {
            assert_eq!(words(given), expected);
        }
    }

    #[test]
    fn versions_are_told_as_clients_read_them() {
        let own = env!("CARGO_PKG_VERSION");
        assert_eq!(words("apptainer --version"), format!("print apptainer version {APPTAINER}+skiff.{own}"));
        let line = format!("print singularity-ce version {SINGULARITY}+skiff.{own}");
        assert_eq!(words("/usr/bin/singularity -d --version"), line);
        assert_eq!(words("apptainer version"), format!("print {APPTAINER}+skiff.{own}"));
        assert_eq!(words("skiff version"), format!("print {own}"));
        assert_eq!(words("skiff --version"), "skiff --version");
        assert_eq!(words("apptainer exec a.sif x --version"), "apptainer exec a.sif x --version");
    }

    #[test]
    fn the_documents_name_the_versions() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/drop-in.md");
        let text = std::fs::read_to_string(path).unwrap();
        for name in [Name::Apptainer, Name::Singularity] {
            assert!(text.contains(&format!("`{}`", version_line(name))), "{}", version_line(name));
        }
    }

    #[test]
    fn verbs_that_are_not_there_are_answered_under_every_name() {
        for given in ["skiff search a", "apptainer -q search --help", "singularity help search"] {
            assert!(words(given).starts_with("answer no verb \"search\": "), "{given}: {}", words(given));
        }
        assert!(words("apptainer sif --x add").starts_with("answer no verb \"sif add\""));
        assert_eq!(words("apptainer sif list search"), "apptainer sif list search");
        assert_eq!(words("apptainer exec search pull"), "apptainer exec search pull");
    }
}
