//! What an image's configuration becomes: files in `/.singularity.d`.
//!
//! ```text
//! Env                env/10-docker2singularity.sh   a variable that the caller has set stays; PATH is the image's
//! Entrypoint, Cmd    runscript, startscript         the entrypoint with the arguments; with Cmd where there are none
//! Labels             labels.json                    beside those of skiff
//! User, WorkingDir   nothing                        the caller's own id and directory
//! ```
//!
//! Every byte of a value reaches the program as it is. Besides, images have what all have ([`standard`]).

use std::collections::BTreeMap;

use super::config::{Config, Run};
use super::{Added, Addition};
use crate::error::{Context, Error, Result};
use crate::image::standard::{self, DIRECTORIES, DIRECTORY, FILE, FILES, LINKS, PROGRAM};

/// What is known of an image beside its configuration.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// A definition that says where it came from.
    pub definition: &'a str,
    /// Labels of skiff.
    pub labels: &'a [(String, String)],
    /// The time of the files, in seconds since 1970.
    pub time: i64,
}

/// The files that an image gets.
///
/// # Errors
/// A value that no variable, argument or label can have.
pub fn additions(config: &Config, facts: &Facts<'_>) -> Result<Vec<Addition>> {
    let path = |path: &str| path.trim_start_matches('/').as_bytes().into();
    let add = |at: &str, what, replaces| Addition { path: path(at), what, replaces, time: facts.time };
    let own = |name: &str, mode, content: Vec<u8>| {
        add(&format!("{DIRECTORY}/{name}"), Added::File(mode, content), true)
    };
    let mut labels: BTreeMap<String, serde_json::Value> =
        config.config.labels.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    labels.extend(facts.labels.iter().map(|(name, value)| (name.clone(), value.clone().into())));
    let labels = standard::labels_json(&labels).tried(|| "cannot write labels".into())?;
    let run = runscript(&config.config)?;
    let mut additions = vec![add(DIRECTORY, Added::Directory(0o755), false)];
    additions.extend(DIRECTORIES.iter().map(|(path, mode)| add(path, Added::Directory(*mode), false)));
    additions.extend([
        own("env/10-docker2singularity.sh", PROGRAM, environment(&config.config.env)?.into_bytes()),
        own("runscript", PROGRAM, run.clone().into_bytes()),
        own("startscript", PROGRAM, run.into_bytes()),
        own("labels.json", FILE, labels),
        own("Singularity", FILE, facts.definition.as_bytes().to_vec()),
    ]);
    additions.extend(LINKS.iter().map(|(path, target)| add(path, Added::Link((*target).into()), false)));
    additions.extend(FILES.iter().map(|(path, content)| {
        add(path, Added::File(standard::mode(content), content.as_bytes().to_vec()), false)
    }));
    Ok(additions)
}

/// The script that sets the image's variables. Names that are none for a shell are left out.
fn environment(variables: &[String]) -> Result<String> {
    let mut script = "#!/bin/sh\n# What the OCI image sets.\n".to_owned();
    for variable in variables {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        if !is_name(name) {
            continue;
        }
        ensure_no_nul(&format!("the variable {name}"), value)?;
        let value = in_double_quotes(value);
        let line = match name {
            "PATH" => format!("export PATH=\"{value}\"\n"),
            _ => format!("export {name}=\"${{{name}:-{value}}}\"\n"),
        };
        script.push_str(&line);
    }
    Ok(script)
}

/// The script that runs the entrypoint.
fn runscript(run: &Run) -> Result<String> {
    for argument in run.entrypoint.iter().chain(&run.cmd) {
        ensure_no_nul("an argument of the entrypoint", argument)?;
    }
    let words = |words: &[String]| words.iter().map(|word| format!(" {}", quoted(word))).collect::<String>();
    let usual = match (run.entrypoint.as_slice(), run.cmd.as_slice()) {
        ([], []) => " /bin/sh".to_owned(),
        (_, cmd) => words(cmd),
    };
    let mut script =
        "#!/bin/sh\n# The entrypoint of the OCI image; its command where there are no arguments.\n"
            .to_owned();
    if !usual.is_empty() {
        script.push_str(&format!("if test \"$#\" -eq 0; then\n    set --{usual}\nfi\n"));
    }
    script.push_str(&format!("exec{} \"$@\"\n", words(&run.entrypoint)));
    Ok(script)
}

fn ensure_no_nul(what: &str, value: &str) -> Result<()> {
    match value.contains('\0') {
        true => Err(Error::image(format!("cannot use the image's configuration: {what} has a NUL in it"))),
        false => Ok(()),
    }
}

fn is_name(name: &str) -> bool {
    let mut letters = name.bytes();
    letters.next().is_some_and(|letter| letter.is_ascii_alphabetic() || letter == b'_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == b'_')
}

/// A text as it has to stand between double quotes, also within an expansion.
fn in_double_quotes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '\\' | '"' | '$' | '`' | '}') {
            plain.push('\\');
        }
        plain.push(letter);
    }
    plain
}

/// A word that is nothing but itself to a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const SHELLS: [&[&str]; 2] = [&["sh"], &["bash"]];

    fn odd() -> String {
        let ascii: String = (1..128_u8).map(char::from).collect();
        format!("{ascii}äß}}{{$HOME`id`\\\"'!a\\\n ${{x}}\u{20ac}")
    }

    fn output(shell: &[&str], script: &str, set: Option<&str>) -> Vec<u8> {
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).args(["-c", script]).env_clear().env("PATH", "/usr/bin:/bin");
        command.envs(set.map(|value| ("K", value)));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    #[test]
    fn variables_reach_the_program_as_they_are_unless_the_caller_has_them() {
        let script =
            environment(&[format!("K={}", odd()), "1X=y".into(), "A-B=1".into(), "E".into()]).unwrap();
        assert!(!script.contains("1X") && !script.contains("A-B"));
        let script = format!("{script}printf %s \"$K\"");
        for shell in SHELLS {
            assert_eq!(String::from_utf8_lossy(&output(shell, &script, None)), odd());
            assert_eq!(output(shell, &script, Some("own")), b"own");
        }
        let script = environment(&["PATH=/a b:/usr/bin".into()]).unwrap();
        assert!(script.ends_with("export PATH=\"/a b:/usr/bin\"\n"), "{script}");
        assert!(environment(&["A=\0".into()]).is_err());
    }

    #[test]
    fn the_entrypoint_gets_the_arguments_or_the_command() {
        let run = |entrypoint: &[&str], cmd: &[&str], arguments: &str| {
            let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
            let run = Run { entrypoint: words(entrypoint), cmd: words(cmd), ..Run::default() };
            let script = runscript(&run).unwrap();
            String::from_utf8(output(&["sh"], &format!("set -- {arguments}\n{script}"), None)).unwrap()
        };
        let echo = ["printf", "[%s]"];
        assert_eq!(run(&echo, &["a b", "$HOME", "it's"], ""), "[a b][$HOME][it's]");
        assert_eq!(run(&echo, &["a b"], "x '' 'y z'"), "[x][][y z]");
        assert_eq!(run(&[], &["printf", "%s", &odd()], ""), odd());
        assert_eq!(run(&[], &["false"], "printf 1"), "1");
        assert_eq!(run(&echo, &[], ""), "[]");
    }

    #[test]
    fn labels_are_those_of_the_image_and_of_skiff() {
        let mut config = Config::default();
        config.config.labels = [("a", "1"), ("b", "2")].map(|(a, b)| (a.into(), b.into())).into();
        let labels = [("b".to_owned(), "3".to_owned())];
        let facts = Facts { definition: "x", labels: &labels, time: 7 };
        let additions = additions(&config, &facts).unwrap();
        let found = additions.iter().find(|one| &*one.path == b".singularity.d/labels.json").unwrap();
        assert_eq!(found.what, Added::File(FILE, b"{\n\t\"a\": \"1\",\n\t\"b\": \"3\"\n}".to_vec()));
        assert!(additions.iter().any(|one| &*one.path == b"environment" && !one.replaces));
    }
}
