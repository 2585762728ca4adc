//! The environment made by the image's own shell, when its scripts do more than assign.
//!
//! The program is started as `/bin/sh -c SCRIPT sh PROGRAM...`, and SCRIPT takes the steps of
//! [`super::env`], then becomes the program. The host's and the caller's values travel as variables
//! (`SKIFF_HOST_NAME`, `SKIFF_GIVEN_NAME`) and not in the script: one argument is limited to 128 KiB, and a value
//! may be anything. The names are looped over for the same reason; each is a shell variable's name, so that `eval`
//! has nothing to trip over.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::env::{BASE_SCRIPT, DEFAULT_PATH, Environment, Ingredients, Override, USUAL_PROMPTS, is_docker};

/// Where the host's values wait until the image's scripts have run.
const WAITING: &[u8] = b"SKIFF_HOST_";
/// Where the overrides wait, quoted as the shell is to take them.
const GIVEN: &[u8] = b"SKIFF_GIVEN_";

/// The environment and the words that start the image's shell. `place` says why, in a comment.
pub fn with_shell(from: &Ingredients, place: &str) -> Environment {
    let mut script = Vec::new();
    let mut line = |parts: &[&[u8]]| {
        script.extend(parts.concat());
        script.push(b'\n');
    };
    line(&[b"# ", place.replace('\n', " ").as_bytes()]);
    let complete = format!(
        "for d in {}; do case \":$PATH:\" in *\":$d:\"*) ;; *) PATH=\"${{PATH:+$PATH:}}$d\";; esac; done; \
         unset d; export PATH",
        DEFAULT_PATH.replace(':', " ")
    );
    let default_path = format!("[ -n \"${{PATH+x}}\" ] || export PATH={DEFAULT_PATH}");
    // The shell has its own of these, which no script of the image is meant to see.
    line(&[b"unset PATH OLDPWD PS1"]);
    let mut overridden = false;
    for (path, _) in &from.scripts {
        let file = path.file_name().unwrap_or_default();
        if file == "90-environment.sh" {
            line(&[default_path.as_bytes()]);
        }
        line(&[b". ", &single_quoted(path.as_os_str().as_bytes())]);
        if is_docker(path) || path == Path::new("/environment") {
            line(&[complete.as_bytes()]);
        }
        if file == BASE_SCRIPT {
            overrides(from, &mut line);
            overridden = true;
        }
    }
    if !overridden {
        line(&[default_path.as_bytes()]);
        overrides(from, &mut line);
    }
    edit_paths(&mut line);
    restore(from, &mut line);
    for (name, value) in &from.names {
        line(&[b"export ", name, b"=", &single_quoted(value)]);
    }
    if let Some(prompt) = &from.prompt {
        let usual = USUAL_PROMPTS.map(|prompt| format!("'{prompt}'")).join("|");
        let export = [b"export PS1=".as_slice(), &single_quoted(prompt)].concat();
        line(&[b"case \"${PS1:-}\" in ''|", usual.as_bytes(), b") ", &export, b";; esac"]);
    }
    line(&[b"exec \"$@\""]);
    let names = from.start.iter().cloned();
    let waiting = from.host.iter().map(|(name, value)| ([WAITING, name].concat(), value.clone()));
    let given =
        from.overrides.iter().map(|given| ([GIVEN, &given.name].concat(), quoted(given, from.evaluate)));
    let variables = names
        .chain(waiting)
        .chain(given)
        .map(|(name, value)| (OsString::from_vec(name), OsString::from_vec(value)));
    Environment {
        variables: variables.collect(),
        shell: vec!["/bin/sh".into(), "-c".into(), OsString::from_vec(script), "sh".into()],
    }
}

fn overrides(from: &Ingredients, line: &mut impl FnMut(&[&[u8]])) {
    let names: Vec<&[u8]> = from.overrides.iter().map(|given| given.name.as_slice()).collect();
    if !names.is_empty() {
        // A shell ends at once, with a status of its own, where a value is no text that it understands.
        line(&[b"trap 'echo \"skiff: cannot evaluate the value given for $SKIFF_N\" >&2; exit 255' EXIT"]);
        line(&[b"for SKIFF_N in ", &names.join(&b' '), b"; do"]);
        line(&[b"eval \"eval \\\"export $SKIFF_N=\\$", GIVEN, b"$SKIFF_N\\\"; unset ", GIVEN, b"$SKIFF_N\""]);
        line(&[b"done; unset SKIFF_N; trap - EXIT"]);
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
    let asked = |name: &[u8]| from.overrides.iter().any(|given| given.name == name);
    let (asked, others): (Vec<&[u8]>, Vec<&[u8]>) =
        from.host.keys().map(Vec::as_slice).partition(|name| asked(name));
    for (names, nothing) in [(asked, "false"), (others, "eval \"[ -z \\\"\\$$SKIFF_N\\\" ]\"")] {
        if names.is_empty() {
            continue;
        }
        line(&[b"for SKIFF_N in ", &names.join(&b' '), b"; do"]);
        line(&[b"if eval \"[ -z \\\"\\${$SKIFF_N+x}\\\" ]\"; then"]);
        line(&[b"eval \"export $SKIFF_N=\\\"\\$", WAITING, b"$SKIFF_N\\\"\""]);
        line(&[b"elif ", nothing.as_bytes(), b"; then unset $SKIFF_N"]);
        line(&[b"fi; unset ", WAITING, b"$SKIFF_N"]);
        line(&[b"done; unset SKIFF_N"]);
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
