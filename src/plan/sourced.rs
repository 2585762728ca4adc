//! The environment made by the image's own shell, when its scripts do more than assign.
//!
//! The program is started as `/bin/bash --noprofile --norc -c SCRIPT sh PROGRAM...`, in an image without bash as
//! `/bin/sh -c SCRIPT sh PROGRAM...`, and SCRIPT takes the steps of [`super::env`], then becomes the program. The host's
//! and the caller's values travel as variables (`SKIFF_HOST_NAME`, `SKIFF_GIVEN_NAME`) and not in the script: one
//! argument is limited to 128 KiB, and a value may be anything. The names are looped over for the same reason; each is a
//! shell variable's name, so that `eval` has nothing to trip over.
//!
//! A mistake in a script, or a value that is no text for a shell, ends the shell. The status is skiff's own then: that of
//! the shell would be taken for the program's.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::TargetKind;
use super::env::{
    BASE_SCRIPT, DEFAULT_PATH, Environment, Ingredients, Override, USUAL_PROMPTS, ids, is_docker,
};
use super::target::{From, Spot, View};

/// Where the host's values wait until the image's scripts have run.
const WAITING: &[u8] = b"SKIFF_HOST_";
/// Where the overrides wait, quoted as the shell is to take them.
const GIVEN: &[u8] = b"SKIFF_GIVEN_";

/// A shell of the image.
pub struct Interpreter {
    /// What it is started as.
    pub path: &'static str,
    /// It has some ways of its own.
    pub is_bash: bool,
}

impl Interpreter {
    /// Whether it lets nobody set this variable.
    fn keeps(&self, name: &[u8]) -> bool {
        self.is_bash && READ_ONLY_IN_BASH.iter().any(|kept| kept.as_bytes() == name)
    }
}

/// The shells that may run an image's scripts, best first. Scripts for Apptainer, which runs them by a shell of its own
/// that knows much of bash, are often written for bash.
const SHELLS: [&str; 2] = ["/bin/bash", "/bin/sh"];
/// What one shell or another sets for itself.
const PRESET: &str = "PATH OLDPWD PS1 PS2 PS4 SHLVL TERM SHELL HOSTNAME HOSTTYPE MACHTYPE OSTYPE OPTERR";
/// What bash has by itself, and lets nobody set.
const READ_ONLY_IN_BASH: [&str; 2] = ["UID", "EUID"];

/// The shell of the image that is to run its scripts, if it has one.
pub fn shell_of(from: &Ingredients, view: &mut View<'_>) -> Option<Interpreter> {
    let mut shells = SHELLS.into_iter().filter_map(|path| interpreter(path, view)).collect::<VecDeque<_>>();
    // Bash would not set what the caller asks for.
    if READ_ONLY_IN_BASH.iter().any(|name| from.gives(name.as_bytes()))
        && let Some(other) = shells.iter().position(|shell| !shell.is_bash)
    {
        return shells.remove(other);
    }
    shells.pop_front()
}

/// The shell at this path, if there is one that may be run.
fn interpreter(path: &'static str, view: &mut View<'_>) -> Option<Interpreter> {
    let Ok(Spot { path: found, kind: Some(TargetKind::File), from }) = view.resolve(Path::new(path), true)
    else {
        return None;
    };
    // Another file system's is not looked at more closely.
    let may_run = from != From::Image
        || matches!(view.image().lookup(&found), Ok(Some(entry)) if entry.mode & 0o111 != 0);
    may_run.then(|| Interpreter { path, is_bash: found.file_name().is_some_and(|name| name == "bash") })
}

/// The environment and the words that start the image's `shell`. `place` says why, in a comment.
pub fn with_shell(from: &Ingredients, shell: &Interpreter, place: &str) -> Environment {
    let mut script = Vec::new();
    let mut line = |parts: &[&[u8]]| {
        script.extend(parts.concat());
        script.push(b'\n');
    };
    line(&[b"# ", place.replace('\n', " ").as_bytes()]);
    // The shell has its own of these, which no script of the image is meant to see.
    line(&[b"unset ", PRESET.as_bytes()]);
    if shell.is_bash {
        // As which it runs where it is called sh.
        line(&[b"set +o posix"]);
    }
    line(&[b"SKIFF_PWD=$PWD"]);
    // Bash ends so where a signal ends it, too.
    line(&[b"trap 'printf \"skiff: %s with status $?\\nhint: %s\\n\" \"$SKIFF_AT\" \"$SKIFF_HINT\" >&2; exit 255' EXIT"]);
    let ids = own_ids(from, shell);
    for (name, id) in &ids {
        line(&[name.as_bytes(), b"=", id.to_string().as_bytes()]);
    }
    run_scripts(from, shell, &mut line);
    edit_paths(&mut line);
    for (name, _) in ids.iter().filter(|(name, _)| !from.gives(name.as_bytes())) {
        let unset = format!("case \"$(export -p)\" in *' {name}='*) ;; *) unset {name};; esac");
        line(&[unset.as_bytes()]);
    }
    restore(from, &mut line);
    for name in READ_ONLY_IN_BASH.into_iter().filter(|name| shell.keeps(name.as_bytes())) {
        if from.gives(name.as_bytes()) {
            let told = format!(
                "echo 'skiff: warning: the value given for {name} has no effect: bash has its own' >&2"
            );
            line(&[told.as_bytes()]);
        } else if from.host.contains_key(name.as_bytes()) {
            line(&[b"export ", name.as_bytes()]);
        }
    }
    for (name, value) in &from.names {
        line(&[b"export ", name, b"=", &single_quoted(value)]);
    }
    if let Some(prompt) = &from.prompt {
        let usual = USUAL_PROMPTS.map(|prompt| format!("'{prompt}'")).join("|");
        let export = [b"export PS1=".as_slice(), &single_quoted(prompt)].concat();
        line(&[b"case \"${PS1:-}\" in ''|", usual.as_bytes(), b") ", &export, b";; esac"]);
    }
    line(&[b"[ \"$PWD\" = \"$SKIFF_PWD\" ] || { cd \"$SKIFF_PWD\" && unset OLDPWD; }"]);
    line(&[b"unset SKIFF_AT SKIFF_HINT SKIFF_PWD SKIFF_V"]);
    become_program(shell, &mut line);
    // Bash reads a file of the user's even for -c where its standard input is a socket.
    let flags = if shell.is_bash { &["--noprofile", "--norc", "-c"][..] } else { &["-c"] };
    let words = std::iter::once(&shell.path).chain(flags).map(OsString::from);
    Environment {
        variables: travelling(from, shell),
        shell: words.chain([OsString::from_vec(script), "sh".into()]).collect(),
    }
}

/// The image's scripts, and the overrides after the one that they follow.
fn run_scripts(from: &Ingredients, shell: &Interpreter, line: &mut impl FnMut(&[&[u8]])) {
    let complete = format!(
        "for SKIFF_N in {}; do case \":$PATH:\" in *\":$SKIFF_N:\"*) ;; *) PATH=\"${{PATH:+$PATH:}}$SKIFF_N\";; esac; \
         done; unset SKIFF_N; export PATH",
        DEFAULT_PATH.replace(':', " ")
    );
    let default_path = format!("[ -n \"${{PATH+x}}\" ] || export PATH={DEFAULT_PATH}");
    let hint: &[u8] = match shell.is_bash {
        true => b"mend the script in the image, unless it was a signal",
        false => b"mend the script in the image; if it is written for bash, the image needs /bin/bash",
    };
    let mut overridden = false;
    for (path, _) in &from.scripts {
        let file = path.file_name().unwrap_or_default();
        if file == "90-environment.sh" {
            line(&[default_path.as_bytes()]);
        }
        let said = format!("cannot start the program: {} of the image ended {}", path.display(), shell.path);
        line(&[b"SKIFF_AT=", &single_quoted(said.as_bytes()), b" SKIFF_HINT=", &single_quoted(hint)]);
        line(&[b". ", &single_quoted(path.as_os_str().as_bytes())]);
        if is_docker(path) || path == Path::new("/environment") {
            line(&[complete.as_bytes()]);
        }
        if file == BASE_SCRIPT {
            overrides(from, shell, line);
            overridden = true;
        }
    }
    if !overridden {
        line(&[default_path.as_bytes()]);
        overrides(from, shell, line);
    }
}

/// The last step. A shell has statuses of its own for a program that it cannot start; they would be taken for the
/// program's.
fn become_program(shell: &Interpreter, line: &mut impl FnMut(&[&[u8]])) {
    let said = r#"printf 'skiff: cannot run "%s" in the container\nhint: the shell says why, above\n' "$1" >&2; exit 255"#;
    if shell.is_bash {
        // Its exec counts this down, and makes it 0 where there is none; but an array is no program's.
        line(&[b"case \"${SHLVL-}\" in [1-9]|[1-9][0-9]|[1-9][0-9][0-9]) SHLVL=$((SHLVL + 1));; \
                 '') unset SHLVL; declare -a SHLVL;; esac"]);
        line(&[b"trap - EXIT; shopt -s execfail; exec -- \"$@\"; ", said.as_bytes()]);
    } else {
        line(&[b"trap ", &single_quoted(said.as_bytes()), b" EXIT; exec \"$@\""]);
    }
}

/// The variables that the shell starts with, and takes its values from.
fn travelling(from: &Ingredients, shell: &Interpreter) -> Vec<(OsString, OsString)> {
    let names = from.start.iter().cloned();
    let waiting = from.host.iter().map(|(name, value)| ([WAITING, name].concat(), value.clone()));
    let given = set(from, shell).map(|given| ([GIVEN, &given.name].concat(), quoted(given, from.evaluate)));
    let all = names.chain(waiting).chain(given);
    all.map(|(name, value)| (OsString::from_vec(name), OsString::from_vec(value))).collect()
}

/// The variables of the caller's ids that somebody asks for, and that the shell does not have by itself.
fn own_ids(from: &Ingredients, shell: &Interpreter) -> Vec<(&'static str, u32)> {
    let texts =
        || from.scripts.iter().map(|(_, text)| text).chain(from.overrides.iter().map(|given| &given.value));
    let is_asked =
        |name: &str| texts().any(|text| text.windows(name.len()).any(|word| word == name.as_bytes()));
    ids(from).into_iter().filter(|(name, _)| is_asked(name) && !shell.keeps(name.as_bytes())).collect()
}

/// The overrides that the shell sets.
fn set<'a>(from: &'a Ingredients, shell: &'a Interpreter) -> impl Iterator<Item = &'a Override> {
    from.overrides.iter().filter(|given| !shell.keeps(&given.name))
}

fn overrides(from: &Ingredients, shell: &Interpreter, line: &mut impl FnMut(&[&[u8]])) {
    let names: Vec<&[u8]> = set(from, shell).map(|given| given.name.as_slice()).collect();
    if !names.is_empty() {
        line(&[b"for SKIFF_N in ", &names.join(&b' '), b"; do"]);
        line(&[b"SKIFF_AT=\"cannot evaluate the value given for $SKIFF_N: it ended the shell\""]);
        line(&[b"SKIFF_HINT='--no-eval takes values as they are'"]);
        // Bash goes on after a value that it does not understand, and complains of a locale that the image lacks.
        line(&[
            b"eval \"eval \\\"export SKIFF_V=\\$",
            GIVEN,
            b"$SKIFF_N\\\" || exit 2; unset ",
            GIVEN,
            b"$SKIFF_N\"",
        ]);
        line(&[b"export \"$SKIFF_N=$SKIFF_V\" 2>&-"]);
        line(&[b"done; unset SKIFF_N"]);
    }
}

/// An override as the shell takes it: evaluated, or as it is.
fn quoted(given: &Override, evaluate: bool) -> Vec<u8> {
    let mut value = if evaluate { double_quoted(&given.value) } else { single_quoted(&given.value) };
    if given.name == b"LD_LIBRARY_PATH" && !given.value.is_empty() {
        value.extend_from_slice(b":/.singularity.d/libs");
    }
    value
}

/// The host's variables where the image left them unset; set to nothing by the image, they go, unless the caller
/// has asked for that.
fn restore(from: &Ingredients, line: &mut impl FnMut(&[&[u8]])) {
    let (asked, others): (Vec<&[u8]>, Vec<&[u8]>) =
        from.host.keys().map(Vec::as_slice).partition(|name| from.gives(name));
    for (names, nothing) in [(asked, "false"), (others, "eval \"[ -z \\\"\\$$SKIFF_N\\\" ]\"")] {
        if names.is_empty() {
            continue;
        }
        line(&[b"for SKIFF_N in ", &names.join(&b' '), b"; do"]);
        line(&[b"if eval \"[ -z \\\"\\${$SKIFF_N+x}\\\" ]\"; then"]);
        line(&[b"eval \"export $SKIFF_N=\\\"\\$", WAITING, b"$SKIFF_N\\\"\""]);
        line(&[b"elif ", nothing.as_bytes(), b"; then unset $SKIFF_N"]);
        line(&[b"fi; unset \"", WAITING, b"$SKIFF_N\""]);
        line(&[b"done 2>&-; unset SKIFF_N"]);
    }
}

/// What [`super::env`] does when the image's last script has not taken the edits.
fn edit_paths(line: &mut impl FnMut(&[&[u8]])) {
    for (edit, target, value) in [
        ("SING_USER_DEFINED_PREPEND_PATH", "PATH", "$edit${PATH:+:$PATH}"),
        ("SING_USER_DEFINED_APPEND_PATH", "PATH", "${PATH:+$PATH:}$edit"),
        ("PREPEND_LD_LIBRARY_PATH", "LD_LIBRARY_PATH", "$edit${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"),
        ("APPEND_LD_LIBRARY_PATH", "LD_LIBRARY_PATH", "${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$edit"),
        ("SING_USER_DEFINED_PATH", "PATH", "$edit"),
    ] {
        let value = value.replace("$edit", &format!("${edit}"));
        let default =
            if target == "PATH" { format!(": \"${{PATH:={DEFAULT_PATH}}}\"; ") } else { String::new() };
        let text = format!(
            "if [ -n \"${{{edit}:-}}\" ]; then {default}export {target}=\"{value}\"; fi; unset {edit}"
        );
        line(&[text.as_bytes()]);
    }
}

/// Text that a shell takes as it is.
fn single_quoted(text: &[u8]) -> Vec<u8> {
    let mut out = vec![b'\''];
    for byte in text {
        if *byte == b'\'' {
            out.extend_from_slice(b"'\\''");
        } else {
            out.push(*byte);
        }
    }
    out.push(b'\'');
    out
}

/// Text that a shell expands, as one word; its own double quotes are literal.
fn double_quoted(text: &[u8]) -> Vec<u8> {
    let mut out = vec![b'"'];
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => match bytes.next() {
                Some(next) => out.extend_from_slice(&[b'\\', next]),
                // It would take the closing quote away.
                None => out.extend_from_slice(b"\\\\"),
            },
            _ => out.push(byte),
        }
    }
    out.push(b'"');
    out
}
