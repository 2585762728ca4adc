//! What a verb or flag that is not known may have been meant to be: those that are nearest, two letters that have
//! changed places being one mistake.
//!
//! clap's own suggestions measure likeness in a way that misses `rnu` and finds `--rocm` in `--oci`, and offer hidden
//! verbs, and flags that are answered with an error.

use std::ffi::OsString;
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};

/// Verbs that no description has: they are taken from the command line before it is parsed.
const MORE_VERBS: [&str; 2] = ["help", "version"];

/// An error of clap's about `argv`, with suggestions of ours in the place of its own.
pub fn suggested(mut error: clap::Error, skiff: Command, argv: &[OsString]) -> clap::Error {
    let (unknown, suggestions) = match error.kind() {
        ErrorKind::InvalidSubcommand => (ContextKind::InvalidSubcommand, ContextKind::SuggestedSubcommand),
        ErrorKind::UnknownArgument => (ContextKind::InvalidArg, ContextKind::SuggestedArg),
        _ => return error,
    };
    let Some(ContextValue::String(word)) = error.get(unknown).cloned() else { return error };
    let mut skiff = match argv.first().map(Path::new).and_then(Path::file_name) {
        Some(name) => skiff.bin_name(name.to_string_lossy().into_owned()),
        None => skiff,
    };
    skiff.build();
    let (mut verb, depth) = verb_of(&skiff, argv);
    let near = match word.strip_prefix("--") {
        Some(flag) => nearest(flag, &flags(&verb)).into_iter().map(|flag| format!("--{flag}")).collect(),
        None if unknown == ContextKind::InvalidSubcommand => nearest(&word, &verbs(&verb, depth == 0)),
        None => Vec::new(),
    };
    without_false_tip(&mut error);
    // The usage is that of the flag which clap suggests.
    if error.remove(suggestions).is_some() {
        error.insert(ContextKind::Usage, ContextValue::StyledStr(verb.render_usage()));
    }
    if !near.is_empty() {
        error.insert(suggestions, ContextValue::Strings(near));
    }
    error
}

/// Of a flag that is not known, clap says how to pass it as a value; where one is, it would be an image's name.
fn without_false_tip(error: &mut clap::Error) {
    if let Some(ContextValue::StyledStrs(tips)) = error.remove(ContextKind::Suggested) {
        let kept: Vec<_> = tips.into_iter().filter(|tip| !tip.to_string().contains("as a value")).collect();
        if !kept.is_empty() {
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(kept));
        }
    }
}

/// The verb that a command line is of, as far as it is known, and how many words name it.
fn verb_of(skiff: &Command, argv: &[OsString]) -> (Command, usize) {
    let words = argv.iter().skip(1).filter(|word| !word.as_encoded_bytes().starts_with(b"-"));
    let (mut verb, mut depth) = (skiff, 0);
    for word in words {
        let Some(inner) = verb.find_subcommand(word) else { break };
        (verb, depth) = (inner, depth + 1);
    }
    (verb.clone(), depth)
}

fn verbs(of: &Command, top: bool) -> Vec<String> {
    let shown = of.get_subcommands().filter(|verb| !verb.is_hide_set());
    let names = shown.flat_map(|verb| std::iter::once(verb.get_name()).chain(verb.get_visible_aliases()));
    names.chain(MORE_VERBS.into_iter().filter(|_| top)).map(str::to_owned).collect()
}

fn flags(of: &Command) -> Vec<String> {
    let names = |arg: &Arg| {
        let long = arg.get_long().into_iter();
        long.chain(arg.get_all_aliases().into_iter().flatten()).map(str::to_owned).collect::<Vec<_>>()
    };
    of.get_arguments().filter(|arg| !arg.is_hide_set()).flat_map(names).collect()
}

/// The known words that are nearest to `word`, if at most a third of it is wrong.
fn nearest(word: &str, known: &[String]) -> Vec<String> {
    let most = (word.chars().count() / 3).max(1);
    let distances = known.iter().map(|name| (strsim::damerau_levenshtein(word, name), name));
    let near: Vec<_> = distances.filter(|(distance, _)| *distance <= most).collect();
    let least = near.iter().map(|(distance, _)| *distance).min();
    near.into_iter().filter(|(distance, _)| Some(*distance) == least).map(|(_, name)| name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;

    fn told(line: &str) -> String {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        Cli::of(&words).unwrap_err().to_string()
    }

    #[test]
    fn what_is_nearest_is_suggested_and_nothing_that_is_far() {
        for (line, nearest) in [
            ("skiff rnu", "'run'"),
            ("skiff verison", "'version'"),
            ("skiff hepl", "'help'"),
            ("skiff docter", "exists: 'doctor'"),
            ("skiff pul", "exists: 'pull'"),
            ("skiff registry logni", "exists: 'login'"),
            ("skiff sif lsit a.sif", "'list'"),
            ("skiff exec --bnid x a.sif", "'--bind'"),
            ("skiff -q exec --pdw=/x a.sif", "'--pwd'"),
            ("skiff --verbsoe exec a.sif", "'--verbose'"),
        ] {
            assert!(told(line).contains(nearest), "{line}: {}", told(line));
        }
        for line in [
            "skiff xy",
            "skiff dcos",
            "skiff nonsense",
            "skiff exec --foo a.sif",
            "skiff exec --proot a.sif",
            "skiff exec --syos a.sif",
            "skiff exec --memroy=4G a.sif",
            "skiff build --fix-prems a b",
        ] {
            let told = told(line);
            assert!(!told.contains("tip:"), "{line}: {told}");
            assert!(told.contains("Usage: skiff "), "{line}: {told}");
        }
    }

    #[test]
    fn the_usage_is_the_verbs_and_of_the_name_that_was_called() {
        let usage = "\n\nUsage: apptainer exec [OPTIONS] <IMAGE> [COMMAND]...\n";
        for flag in ["--bnd", "--syos"] {
            let told = told(&format!("/usr/bin/apptainer exec {flag} a.sif"));
            assert!(told.contains(usage), "{told}");
        }
    }
}
