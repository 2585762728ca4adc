//! Files of variables (`--env-file`): read on the host, in the syntax of a shell.
//!
//! Each file is evaluated by itself, sees the host's variables, and gives those that it assigns or exports. Commands
//! are not run: a file of variables that needs a shell is an error that says where.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::asked::{host_path, paths};
use super::shell::{Files, MAX_SCRIPT_BYTES, Shell, is_name};
use super::{Because, TargetKind};
use crate::cli::run::ContainerFlags;
use crate::error::{Context, Error, Kind, Result};
use crate::host::Host;

/// No file is longer.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// Never taken from a file: the container's own, or the shell's business.
const NEVER: &[&[u8]] = &[b"EUID", b"GID", b"HOME", b"IFS", b"OPTIND", b"PWD", b"UID"];

/// The variables of all files; a later file wins.
pub fn read(flags: &ContainerFlags, host: &Host) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut variables = BTreeMap::new();
    for (path, because) in paths(host, &flags.env_file, "--env-file", &["ENV_FILE"]) {
        variables.extend(evaluate(&path, &because, host)?);
    }
    Ok(variables)
}

fn evaluate(path: &Path, because: &Because, host: &Host) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let tried = || match because {
        Because::Variable(name) => format!("cannot read the variables in {path:?} ({name})"),
        _ => format!("cannot read the variables in {path:?} (--env-file)"),
    };
    let text = contents(&host.real(&host_path(path, host, because)?), MAX_FILE_BYTES)
        .tried(tried)
        .map_err(|error| error.hint("it is a file of the host, for you to read, with lines NAME=VALUE"))?;
    let text = unix_text(&text);
    let mut shell = Shell::default();
    for (name, value) in &host.environment {
        if is_name(name.as_bytes()) {
            shell.export(name.as_bytes(), value.as_bytes());
        }
    }
    shell.source(&text, &mut HostFiles(host)).map_err(|fault| {
        Error::new(Kind::Usage, format!("{}: line {}: {} needs a shell", tried(), fault.line, fault.what))
            .hint("it may assign, expand variables and use if; quote values with blanks, and give what needs a command as --env NAME=\"$(...)\"")
    })?;
    let given = shell
        .variables
        .into_iter()
        .filter(|(name, variable)| variable.given && !NEVER.contains(&name.as_slice()));
    Ok(given.filter_map(|(name, variable)| Some((name, variable.value?))).collect())
}

/// Without what editors of other systems add: a mark at the beginning, and carriage returns at the ends of lines.
fn unix_text(text: &[u8]) -> Vec<u8> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let plain =
        lines.map(|line| line.strip_suffix(b"\r\n").map_or(line.to_vec(), |line| [line, b"\n"].concat()));
    let mut plain: Vec<u8> = plain.flatten().collect();
    if plain.ends_with(b"\r") {
        plain.pop();
    }
    plain
}

fn contents(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut text)?;
    if text.len() as u64 > limit {
        return Err(std::io::Error::other(format!("it is longer than {limit} bytes")));
    }
    Ok(text)
}

/// The host's files, as the file of variables may ask for them.
struct HostFiles<'a>(&'a Host);

impl Files for HostFiles<'_> {
    fn kind(&mut self, path: &Path) -> Option<TargetKind> {
        let seen = self.0.look(path).ok()?;
        Some(if seen.directory { TargetKind::Directory } else { TargetKind::File })
    }

    fn script(&mut self, path: &Path) -> Option<Vec<u8>> {
        contents(&self.0.real(path), MAX_SCRIPT_BYTES).ok()
    }
}
