//! A small evaluator for the environment scripts of images: assignments, and little more.
//!
//! It exists so that a container's environment needs no process of the image, and no shell in it. What it
//! evaluates, it evaluates as a POSIX shell does; whatever else a script contains is [`Unsupported`], and
//! the image's own shell has to run the scripts then.
//!
//! ```text
//! list     = and-or { (";" | newline) and-or }
//! and-or   = [ "!" ] command { ("&&" | "||") [ "!" ] command }
//! command  = { NAME=word } { word } | "if" list "then" list { "elif" .. } [ "else" list ] "fi" | "{" list "}"
//! word     = text, '..', "..", \x, $NAME, ${NAME}, ${NAME:-word} (also - = := + :+)
//! built in = export, unset, :, true, false, test, [, . (and source)
//! ```
//!
//! Scripts are bytes from outside: sizes, nesting, steps and values are bounded, and nothing panics.
//! [`parse`] reads a script, [`Shell`] runs it; a branch that is not taken may contain any command.

mod parse;
mod run;

pub use parse::parse;
pub use run::{Files, Shell, Variable};

/// No script is longer.
pub const MAX_SCRIPT_BYTES: u64 = 256 << 10;

/// What only a real shell can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsupported {
    /// The line where it stands, from 1.
    pub line: u32,
    /// What it is.
    pub what: &'static str,
}

/// A script, or a part of one.
pub type List = Vec<Step>;

/// One command of a list, with what joins it to the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// When it is run.
    pub when: When,
    /// Its status is turned around.
    pub not: bool,
    /// What is run.
    pub command: Command,
}

/// When a command of a list is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// After the one before, whatever came of it.
    Always,
    /// `&&`
    Succeeded,
    /// `||`
    Failed,
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Assignments, or a built-in with its words.
    Simple {
        /// Where it stands.
        line: u32,
        /// `NAME=word` before the first word.
        assignments: Vec<(Vec<u8>, Word)>,
        /// The name and its arguments; empty for assignments alone.
        words: Vec<Word>,
    },
    /// Conditions with their bodies, and the body of `else`.
    If(Vec<(List, List)>, List),
    /// `{ list; }`
    Group(List),
}

/// A word, to be put together when it is used.
pub type Word = Vec<Part>;

/// A part of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text as it is. `quoted` text is no pattern and not split.
    Text {
        /// The bytes.
        text: Vec<u8>,
        /// Written in quotes or after a backslash.
        quoted: bool,
    },
    /// The value of a variable.
    Value {
        /// Its name.
        name: Vec<u8>,
        /// What is done when it is unset (or set).
        otherwise: Option<Otherwise>,
        /// Written in double quotes.
        quoted: bool,
    },
    /// Something that only a shell can expand.
    Foreign {
        /// Where it stands.
        line: u32,
        /// What it is.
        what: &'static str,
    },
}

/// The operator in `${NAME:-word}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Otherwise {
    /// `-`, `=` or `+`.
    pub operator: u8,
    /// With a colon: an empty value counts as unset.
    pub empty_too: bool,
    /// The word after it.
    pub word: Word,
}

/// Whether `name` is a shell variable's name.
pub fn is_name(name: &[u8]) -> bool {
    let letter = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    name.first().is_some_and(letter) && name.iter().all(|byte| letter(byte) || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::process::Command as Process;

    use proptest::prelude::*;

    use super::*;
    use crate::plan::TargetKind;

    struct NoFiles;

    impl Files for NoFiles {
        fn kind(&mut self, path: &Path) -> Option<TargetKind> {
            (path == Path::new("/")).then_some(TargetKind::Directory)
        }
        fn script(&mut self, path: &Path) -> Option<Vec<u8>> {
            (path == Path::new("/loop")).then(|| b". /loop".to_vec())
        }
    }

    type Values = BTreeMap<Vec<u8>, Vec<u8>>;

    fn run(script: &[u8]) -> Result<Values, Unsupported> {
        let mut shell = Shell::default();
        shell.source(script, &mut NoFiles)?;
        let exported = shell.variables.into_iter().filter(|(_, variable)| variable.exported);
        Ok(exported.filter_map(|(name, variable)| Some((name, variable.value?))).collect())
    }

    /// What a real shell exports after the same script.
    fn real(shell: &str, script: &[u8]) -> Option<Values> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), script).unwrap();
        let out = Process::new(shell)
            .args(["-c", ". \"$1\"; exec /usr/bin/env -0", "sh"])
            .arg(file.path())
            .env_clear()
            .output()
            .unwrap();
        let pairs = out.stdout.split(|byte| *byte == 0).filter_map(|pair| {
            let at = pair.iter().position(|byte| *byte == b'=')?;
            Some((pair[..at].to_vec(), pair[at + 1..].to_vec()))
        });
        let own = |name: &[u8]| matches!(name, b"PWD" | b"OLDPWD" | b"SHLVL" | b"_");
        out.status.success().then(|| pairs.filter(|(name, _)| !own(name)).collect())
    }

    fn value(script: &str) -> String {
        let values = run(script.as_bytes()).unwrap_or_else(|fault| panic!("{script:?}: {fault:?}"));
        String::from_utf8(values.get(b"A".as_slice()).cloned().unwrap_or_else(|| b"(unset)".to_vec()))
            .unwrap()
    }

    #[test]
    fn assignments_and_expansions_are_those_of_a_shell() {
        for (script, expected) in [
            ("export A=b", "b"),
            ("A=b", "(unset)"),
            ("A=b; export A", "b"),
            ("export A='x $y' # comment", "x $y"),
            (r#"export A="x \$y \"q\" \n""#, r#"x $y "q" \n"#),
            (r"export A=a\ b\\c", r"a b\c"),
            ("B=1 C=$B$B; export A=${C}2", "112"),
            (r#"export A="${B:-d e}""#, "d e"),
            (r#"B=; export A="${B-d}${B:-e}${B:+f}${B+g}""#, "eg"),
            (r#"export A="${A:-"in ner"}""#, "in ner"),
            (r#": "${B:=v}"; export A=$B"#, "v"),
            ("A=1; export A; unset A", "(unset)"),
            ("export A=1\\\n2", "12"),
            ("A=a;export A", "a"),
            ("export A=a#b", "a#b"),
            ("export A=$", "$"),
            ("export A B=1; A=2", "2"),
        ] {
            assert_eq!(value(script), expected, "{script:?}");
        }
    }

    #[test]
    fn conditions_are_those_of_a_shell() {
        for (script, expected) in [
            (r#"if [ -z "${B:-}" ]; then export A=empty; else export A=full; fi"#, "empty"),
            (r#"if test -n "$B"; then export A=1; elif [ x = x ]; then export A=2; fi"#, "2"),
            ("[ 2 -gt 10 ] || export A=numbers", "numbers"),
            ("[ a != a ] && export A=no; ! false && { A=yes; export A; }", "yes"),
            ("if [ -d / ] && [ ! -e /none ]; then\n export A=files\nfi", "files"),
            ("if false; then trap x; for; fi; export A=1", "(fault)"),
            ("if false; then echo \"$@\"; exit 1; . x; fi; export A=skipped", "skipped"),
        ] {
            if expected == "(fault)" {
                assert!(run(script.as_bytes()).is_err(), "{script:?}");
            } else {
                assert_eq!(value(script), expected, "{script:?}");
            }
        }
    }

    #[test]
    fn what_only_a_shell_can_do_is_named_with_its_line() {
        for (script, line, what) in [
            ("A=1\nexport B=$(date)", 2, "a command substitution"),
            ("export B=`date`", 1, "a command substitution"),
            ("f() { :; }", 1, "a parenthesis"),
            ("\n\nmodule load x", 3, "a command"),
            ("echo a >b", 1, "a redirection"),
            ("export A=~/x", 1, "a tilde"),
            ("A='unfinished", 1, "a quote without an end"),
            ("for a in b; do :; done", 1, "a loop, case or function"),
            ("A=${B%x}", 1, "an expansion of this kind"),
            ("A=x | cat", 1, "a pipe"),
            ("set -e", 1, "a command"),
            ("[ -f ]x", 1, "a test without an end"),
            ("exit 1", 1, "a command"),
        ] {
            assert_eq!(run(script.as_bytes()), Err(Unsupported { line, what }), "{script:?}");
        }
    }

    #[test]
    fn bombs_are_refused_quickly() {
        let doubling = "A=xxxxxxxxxxxxxxxx\n".to_owned() + &"A=$A$A\n".repeat(60);
        assert_eq!(run(doubling.as_bytes()).unwrap_err().what, "a value of that length");
        let many = "A=$B\n".repeat(200_000);
        assert!(run(many.as_bytes()).is_err());
        let deep = "{ ".repeat(100_000);
        assert_eq!(run(deep.as_bytes()).unwrap_err().what, "deep nesting");
        let braces = "A=".to_owned() + &"${B:-".repeat(100_000);
        assert_eq!(run(braces.as_bytes()).unwrap_err().what, "deep nesting");
        let quotes = "A=\"".to_owned() + &"${B:-\"".repeat(100_000);
        assert_eq!(run(quotes.as_bytes()).unwrap_err().what, "deep nesting");
        assert!(run(b". /loop").is_err());
    }

    /// Pieces of scripts, to be thrown together.
    fn soup() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            "A=",
            "B=",
            "C=",
            "export ",
            "export A=",
            "unset A",
            "\"",
            "'",
            "\\",
            "$A",
            "$B",
            "${A}",
            "${B:-",
            "${A:+",
            "${C-",
            "${A:=",
            "}",
            ";",
            "\n",
            "\n",
            " ",
            "x",
            "y z",
            "1",
            "#",
            ":",
            "/bin",
            "~",
            "[ ",
            " ]",
            "-z ",
            "-n ",
            "\"$A\"",
            " = ",
            " && ",
            " || ",
            "! ",
            "if ",
            "; then ",
            "; else ",
            "; fi\n",
            "{ ",
            "; }\n",
            "true",
            "false",
            "$",
            "*",
            "\\\n",
            "é",
            "\t",
            "test ",
            "\r",
            "=",
            "!",
            "@",
        ]);
        prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat().into_bytes())
    }

    /// Scripts that are mostly well-formed.
    fn script() -> impl Strategy<Value = Vec<u8>> {
        let name = prop::sample::select(vec!["A", "B", "C"]);
        let text = "[ -~é]{0,6}";
        let quoted = text.prop_map(|text| format!("'{}'", text.replace('\'', "")));
        let double = (
            text,
            name.clone(),
            "[ a-z'/:]{0,5}",
            prop::sample::select(vec![":-", "-", ":+", "+", ":=", "="]),
        )
            .prop_map(|(text, name, word, operator)| {
                let text = text.replace(['"', '`', '$', '\\'], "");
                format!("\"{text}${{{name}{operator}{word}}}\\$\\\\${name}\"")
            });
        let word = prop_oneof![quoted, double, "[a-z0-9/:.]{0,5}".prop_map(String::from)];
        let statement = (name.clone(), word.clone(), word, name, 0..6u8).prop_map(
            |(a, word, other, b, kind)| match kind {
                0 => format!("{a}={word}"),
                1 => format!("export {a}={word}{other} {b}"),
                2 => format!("[ -z \"${{{a}:-}}\" ] && export {b}={word}"),
                3 => format!("if [ \"${a}\" = {word}\"\" ]; then {b}={other}; else export {a}={other}; fi"),
                4 => format!("unset {a}; {b}={word} {a}=${b}"),
                _ => format!("! test -n \"${a}\" || {{ export {b}={word}; }} # {a}"),
            },
        );
        prop::collection::vec(statement, 1..8)
            .prop_map(|lines| (lines.join("\n") + "\nexport A B C\n").into_bytes())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn well_formed_scripts_do_what_they_do_in_a_shell(script in script()) {
            let ours = run(&script);
            prop_assert!(ours.is_ok(), "{ours:?}");
            prop_assert_eq!(ours.ok(), real("/bin/sh", &script));
        }

        #[test]
        fn whatever_is_evaluated_is_what_a_shell_makes_of_it(script in soup()) {
            if let Ok(ours) = run(&script) {
                prop_assert_eq!(Some(ours), real("/bin/sh", &script));
            }
        }

        #[test]
        fn no_bytes_are_too_strange(script in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = run(&script);
            let _ = Shell::default().expand_quoted(&script);
        }
    }
}
