//! Switches with a word, `--nv=true` and `--contain=false`, as scripts write `--nv=$USE_GPU` for Apptainer, whose flags
//! all take one.
//!
//! ```text
//! --nv            on; never followed by a word of its own
//! --nv=true       the same                  1 t T TRUE true True
//! --nv=false      off, and its variable does not count
//!                                           0 f F FALSE false False
//! ```
//!
//! The types say nothing of it: `--help` would show a word at every switch. A command line that has such a word is
//! parsed by a description in which switches take one ([`taken`]).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::builder::Resettable;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

const YES: [&str; 6] = ["1", "t", "T", "TRUE", "true", "True"];
const NO: [&str; 6] = ["0", "f", "F", "FALSE", "false", "False"];

/// Whether a word may be a switch with a word.
pub fn may_be_one(word: &OsStr) -> bool {
    word.as_bytes().starts_with(b"-") && word.as_bytes().contains(&b'=')
}

/// Lets the switches of `command` and its verbs take a word. Verbs that are described late are to be built before.
pub fn taken(command: Command, argv: &[OsString]) -> Command {
    command.mut_args(|arg| with_word(arg, argv)).mut_subcommands(|verb| taken(verb, argv))
}

fn with_word(arg: Arg, argv: &[OsString]) -> Arg {
    let given = |words: &[&str]| {
        let is = |word: &OsString, long: &str, value: &str| *word == *format!("--{long}={value}");
        let longs = arg.get_long_and_visible_aliases().unwrap_or_default();
        longs.iter().any(|long| words.iter().any(|value| argv.iter().any(|word| is(word, long, value))))
    };
    let (off, any) = (given(&NO), given(&[&YES[..], &NO[..]].concat()));
    let arg = match arg.get_action() {
        ArgAction::SetTrue => arg.value_parser(parse),
        // One that is counted goes on being counted where it has no word.
        ArgAction::Count if any => arg.value_parser(|word: &str| parse(word).map(u8::from)),
        _ => return arg,
    };
    // What is off contradicts nothing.
    let arg = if off { arg.conflicts_with(Resettable::Reset).requires(Resettable::Reset) } else { arg };
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .value_name("true|false")
        .default_value(NO[0])
        .default_missing_value(YES[0])
}

fn parse(word: &str) -> Result<bool, String> {
    match word {
        yes if YES.contains(&yes) => Ok(true),
        no if NO.contains(&no) => Ok(false),
        _ => Err("true or false is expected".to_owned()),
    }
}

/// The switches that a command line turns off (`--contain`), each once: those of every verb stand with the verb's, too.
pub fn off(mut matches: &ArgMatches) -> Vec<String> {
    let mut off = Vec::new();
    loop {
        let is_off = |id: &str| {
            let switch = matches.try_get_one::<bool>(id).ok().flatten() == Some(&false);
            let count = || matches.try_get_one::<u8>(id).ok().flatten() == Some(&0);
            matches.value_source(id) == Some(ValueSource::CommandLine) && (switch || count())
        };
        let ids = matches.ids().map(clap::Id::as_str).filter(|id| is_off(id));
        off.extend(ids.map(|id| format!("--{}", id.replace('_', "-"))));
        match matches.subcommand() {
            Some((_, inner)) => matches = inner,
            None => break,
        }
    }
    off.sort_unstable();
    off.dedup();
    off
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Verb};

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        Cli::of(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn a_switch_takes_the_words_of_apptainers() {
        for word in YES.iter().chain(&NO) {
            let cli = parsed(&format!("skiff exec --contain={word} -e={word} a.sif true")).unwrap();
            let Verb::Exec(args) = &cli.verb else { panic!("{cli:?}") };
            let on = YES.contains(word);
            assert_eq!((args.container.files.contain, args.container.cleanenv), (on, on), "{word}");
            assert_eq!(cli.global.off.len(), if on { 0 } else { 2 }, "{:?}", cli.global.off);
        }
        for word in ["maybe", "", "yes", "2"] {
            let error = parsed(&format!("skiff exec --contain={word} a.sif true")).unwrap_err().to_string();
            assert!(error.contains("true|false"), "{error}");
        }
    }

    #[test]
    fn the_last_of_several_counts_and_no_switch_takes_the_next_word() {
        for (line, contain) in [
            ("--contain --contain=false", false),
            ("-c=0 --contain", true),
            ("--nv=false -ce", true),
            ("--nv=true --contain=t", true),
        ] {
            let cli = parsed(&format!("apptainer exec {line} true false --contain=false")).unwrap();
            let Verb::Exec(args) = &cli.verb else { panic!("{cli:?}") };
            assert_eq!(args.container.files.contain, contain, "{line}");
            assert_eq!(args.words.image.to_str(), Some("true"));
            assert_eq!(args.words.command, ["false", "--contain=false"]);
        }
    }

    #[test]
    fn every_verb_has_them_and_what_is_off_contradicts_nothing() {
        for line in [
            "skiff --quiet=true -d inspect --json=true --debug=false a.sif",
            "skiff pull --force=1 --nohttps=false docker://a",
            "skiff build --sandbox=false --compression xz --nv=true --fix-perms=false a.sif tree",
            "skiff build --update=false --force a.sif tree",
            "skiff registry login --no-https=true h",
            "skiff sif list --json=F a.sif",
            "skiff cache clean --force=true",
            "skiff doctor --json=true",
            "skiff exec --sharens=false --nohttps=true a.sif true",
        ] {
            parsed(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        let Verb::Build(args) = parsed("skiff build --nv=true --fix-perms=false a b").unwrap().verb else {
            panic!()
        };
        assert_eq!(args.other.given.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["nv"]);
        let global = parsed("skiff -vv --quiet=false exec --nv=false a.sif").unwrap().global;
        assert_eq!((global.verbose, global.off), (2, vec!["--nv".into(), "--quiet".into()]));
        let global = parsed("skiff exec --verbose=false a.sif").unwrap().global;
        assert_eq!((global.verbose, global.off), (0, vec!["--verbose".into()]));
        assert!(parsed("skiff build --sandbox=true --compression xz a.sif tree").is_err());
        let error = parsed("skiff exec --nosuch=true a.sif").unwrap_err();
        assert_eq!(error.kind(), clap::error::ErrorKind::UnknownArgument);
    }
}
