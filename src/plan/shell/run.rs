//! Commands to variables.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::parse::{parse, parse_quoted};
use super::{Command, List, Otherwise, Part, Step, Unsupported, When, Word, is_name};
use crate::plan::TargetKind;

/// No script runs more commands.
const MAX_STEPS: u32 = 100_000;
/// No value is longer.
const MAX_VALUE_BYTES: usize = 1 << 20;
/// All values that a script puts together are not longer: `A=$A$A` doubles.
const MAX_WORK_BYTES: usize = 16 << 20;
/// How deep scripts may read scripts.
const MAX_SCRIPTS: u32 = 8;

/// What scripts may ask of the container's files.
pub trait Files {
    /// What is at this absolute path, links followed.
    fn kind(&mut self, path: &Path) -> Option<TargetKind>;
    /// The content of a script; `None` if it cannot be read or is too long.
    fn script(&mut self, path: &Path) -> Option<Vec<u8>>;
}

/// A shell variable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variable {
    /// Its value; `export NAME` alone gives none.
    pub value: Option<Vec<u8>>,
    /// Programs see it.
    pub exported: bool,
    /// A script has assigned or exported it.
    pub given: bool,
    /// Scripts that set it are not for us: what a real shell does is to stop.
    pub read_only: bool,
}

/// The state of a shell.
#[derive(Debug, Clone, Default)]
pub struct Shell {
    /// The variables, by name.
    pub variables: BTreeMap<Vec<u8>, Variable>,
    steps: u32,
    scripts: u32,
    work_bytes: usize,
}

impl Shell {
    /// The value of a variable, if it is set.
    pub fn value(&self, name: &[u8]) -> Option<&[u8]> {
        self.variables.get(name)?.value.as_deref()
    }

    /// Sets and exports a variable.
    pub fn export(&mut self, name: &[u8], value: impl Into<Vec<u8>>) {
        let read_only = self.variables.get(name).is_some_and(|old| old.read_only);
        let variable = Variable { value: Some(value.into()), exported: true, given: false, read_only };
        self.variables.insert(name.to_vec(), variable);
    }

    /// Runs a script, as `.` does.
    pub fn source(&mut self, script: &[u8], files: &mut dyn Files) -> Result<(), Unsupported> {
        let list = parse(script)?;
        self.scripts += 1;
        if self.scripts > MAX_SCRIPTS {
            return Err(Unsupported { line: 1, what: "scripts that read scripts that read scripts" });
        }
        self.list(&list, files)?;
        self.scripts -= 1;
        Ok(())
    }

    /// `text` as a shell has it in double quotes.
    pub fn expand_quoted(&mut self, text: &[u8]) -> Result<Vec<u8>, Unsupported> {
        let word = parse_quoted(text)?;
        self.joined(&word, 1)
    }

    /// Runs a list; its status is that of the last command run.
    fn list(&mut self, list: &List, files: &mut dyn Files) -> Result<bool, Unsupported> {
        let mut status = true;
        for Step { when, not, command } in list {
            let run = match when {
                When::Always => true,
                When::Succeeded => status,
                When::Failed => !status,
            };
            if run {
                status = self.command(command, files)? != *not;
            }
        }
        Ok(status)
    }

    fn command(&mut self, command: &Command, files: &mut dyn Files) -> Result<bool, Unsupported> {
        self.steps += 1;
        match command {
            Command::Group(list) => self.list(list, files),
            Command::If(arms, otherwise) => {
                for (condition, body) in arms {
                    if self.list(condition, files)? {
                        return self.list(body, files);
                    }
                }
                self.list(otherwise, files)
            }
            Command::Simple { line, assignments, words } => {
                if self.steps > MAX_STEPS {
                    return Err(Unsupported { line: *line, what: "a script of that length" });
                }
                let Some((name, arguments)) = words.split_first() else {
                    for (name, word) in assignments {
                        let value = self.joined(word, *line)?;
                        self.assign(name, value, *line)?;
                    }
                    return Ok(true);
                };
                if !assignments.is_empty() {
                    return Err(Unsupported { line: *line, what: "a command with assignments" });
                }
                self.built_in(&plain(name).unwrap_or_default(), arguments, *line, files)
            }
        }
    }

    fn built_in(
        &mut self,
        name: &[u8],
        arguments: &[Word],
        line: u32,
        files: &mut dyn Files,
    ) -> Result<bool, Unsupported> {
        let foreign = |what| Unsupported { line, what };
        match name {
            b":" | b"true" | b"false" => {
                for word in arguments {
                    self.joined(word, line)?;
                }
                Ok(name != b"false")
            }
            // Alone it prints.
            b"export" if !arguments.is_empty() => {
                arguments.iter().try_for_each(|word| self.export_word(word, line)).map(|()| true)
            }
            b"unset" => {
                for word in arguments {
                    let name = self.field(word, line)?;
                    if !is_name(&name) {
                        return Err(foreign("an unset of this kind"));
                    }
                    if self.variables.remove(&name).is_some_and(|old| old.read_only) {
                        return Err(foreign("an unset of a read-only variable"));
                    }
                }
                Ok(true)
            }
            b"[" | b"test" => {
                let mut words =
                    arguments.iter().map(|word| self.field(word, line)).collect::<Result<Vec<_>, _>>()?;
                if name == b"[" && words.pop().is_none_or(|last| last != b"]") {
                    return Err(foreign("a test without an end"));
                }
                let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
                test(&words, files).ok_or(foreign("a test of this kind"))
            }
            b"." | b"source" => {
                let [word] = arguments else { return Err(foreign("a script with arguments")) };
                let path = PathBuf::from(std::ffi::OsString::from_vec(self.field(word, line)?));
                let script = path.is_absolute().then(|| files.script(&path)).flatten();
                let script = script.ok_or(foreign("a script that is not there"))?;
                // The line that matters to the reader is the one that stands in the first script.
                self.source(&script, files).map_err(|inner| foreign(inner.what)).map(|()| true)
            }
            _ => Err(foreign("a command")),
        }
    }

    /// An argument of `export`: a name, or an assignment, whose value is not split.
    fn export_word(&mut self, word: &Word, line: u32) -> Result<(), Unsupported> {
        let foreign = |what| Unsupported { line, what };
        let Some(Part::Text { text, quoted: false }) = word.first() else {
            return Err(foreign("an export of this kind"));
        };
        let Some(equals) = text.iter().position(|byte| *byte == b'=') else {
            if word.len() > 1 || !is_name(text) {
                return Err(foreign("an export of this kind"));
            }
            let variable = self.variables.entry(text.clone()).or_default();
            (variable.exported, variable.given) = (true, true);
            return Ok(());
        };
        let (name, rest) = text.split_at(equals);
        if !is_name(name) {
            return Err(foreign("an export of this kind"));
        }
        let mut value = rest.get(1..).unwrap_or_default().to_vec();
        value.extend(self.joined_parts(word.get(1..).unwrap_or_default(), line)?);
        self.assign(name, value, line)?;
        self.variables.entry(name.to_vec()).or_default().exported = true;
        Ok(())
    }

    fn assign(&mut self, name: &[u8], value: Vec<u8>, line: u32) -> Result<(), Unsupported> {
        if value.len() > MAX_VALUE_BYTES {
            return Err(Unsupported { line, what: "a value of that length" });
        }
        let variable = self.variables.entry(name.to_vec()).or_default();
        if variable.read_only {
            return Err(Unsupported { line, what: "an assignment to a read-only variable" });
        }
        (variable.value, variable.given) = (Some(value), true);
        Ok(())
    }

    /// The one field that a word becomes; a word that may become none or several is for a real shell.
    fn field(&mut self, word: &Word, line: u32) -> Result<Vec<u8>, Unsupported> {
        let foreign = |what| Unsupported { line, what };
        let mut exists = false;
        let mut field = Vec::new();
        for part in word {
            let text = self.part(part, line)?;
            match part {
                Part::Text { quoted: true, .. } | Part::Value { quoted: true, .. } => exists = true,
                Part::Text { .. } if word.len() == 1 && matches!(&*text, b"[" | b"]") => {}
                _ if text.iter().any(|byte| b"*?[".contains(byte)) => return Err(foreign("a pattern")),
                Part::Value { .. } if text.iter().any(|byte| b" \t\n\\".contains(byte)) => {
                    return Err(foreign("a value that is split"));
                }
                _ => {}
            }
            exists |= !text.is_empty();
            field.extend_from_slice(&text);
        }
        if exists { Ok(field) } else { Err(foreign("a word that vanishes")) }
    }

    /// The value that a word gives where it is neither split nor matched, as in an assignment.
    fn joined(&mut self, word: &Word, line: u32) -> Result<Vec<u8>, Unsupported> {
        self.joined_parts(word, line)
    }

    fn joined_parts(&mut self, parts: &[Part], line: u32) -> Result<Vec<u8>, Unsupported> {
        let mut value = Vec::new();
        for part in parts {
            let text = self.part(part, line)?;
            self.work_bytes += text.len();
            if value.len() + text.len() > MAX_VALUE_BYTES || self.work_bytes > MAX_WORK_BYTES {
                return Err(Unsupported { line, what: "a value of that length" });
            }
            value.extend_from_slice(&text);
        }
        Ok(value)
    }

    fn part<'p>(&mut self, part: &'p Part, line: u32) -> Result<Cow<'p, [u8]>, Unsupported> {
        match part {
            Part::Text { text, .. } => Ok(Cow::Borrowed(text)),
            Part::Foreign { line, what } => Err(Unsupported { line: *line, what }),
            Part::Value { name, otherwise, .. } => {
                let value = self.value(name);
                let Some(Otherwise { operator, empty_too, word }) = otherwise else {
                    return Ok(Cow::Owned(value.unwrap_or_default().to_vec()));
                };
                let there = value.is_some_and(|value| !(*empty_too && value.is_empty()));
                match (operator, there) {
                    (b'+', false) => Ok(Cow::Borrowed(b"")),
                    (b'-' | b'=', true) => Ok(Cow::Owned(value.unwrap_or_default().to_vec())),
                    (b'=', false) => {
                        let value = self.joined(word, line)?;
                        self.assign(name, value.clone(), line)?;
                        Ok(Cow::Owned(value))
                    }
                    _ => Ok(Cow::Owned(self.joined(word, line)?)),
                }
            }
        }
    }
}

/// The text of a word that needs no expansion and no quotes.
fn plain(word: &Word) -> Option<Vec<u8>> {
    match word.as_slice() {
        [Part::Text { text, quoted: false }] => Some(text.clone()),
        _ => None,
    }
}

/// `test`, by the number of words as POSIX has it. `None`: not one of ours.
fn test(words: &[&[u8]], files: &mut dyn Files) -> Option<bool> {
    match words {
        [] => Some(false),
        [word] => Some(!word.is_empty()),
        [b"!", word] => Some(word.is_empty()),
        [b"-n", word] => Some(!word.is_empty()),
        [b"-z", word] => Some(word.is_empty()),
        [operator @ (b"-e" | b"-f" | b"-d"), path] => {
            let path = Path::new(std::ffi::OsStr::from_bytes(path));
            let kind = if path.is_absolute() { files.kind(path) } else { return None };
            match *operator {
                b"-e" => Some(kind.is_some()),
                b"-d" => Some(kind == Some(TargetKind::Directory)),
                // Devices and sockets count as files here, but are none for `test`: only a shell can say.
                _ if path.starts_with("/dev") => None,
                _ => Some(kind == Some(TargetKind::File)),
            }
        }
        [left, b"=" | b"==", right] => Some(left == right),
        [left, b"!=", right] => Some(left != right),
        [left, operator @ (b"-eq" | b"-ne" | b"-lt" | b"-le" | b"-gt" | b"-ge"), right] => {
            let (left, right) = (number(left)?, number(right)?);
            Some(match *operator {
                b"-eq" => left == right,
                b"-ne" => left != right,
                b"-lt" => left < right,
                b"-le" => left <= right,
                b"-gt" => left > right,
                _ => left >= right,
            })
        }
        [b"!", rest @ ..] if rest.len() == 2 || rest.len() == 3 => test(rest, files).map(|result| !result),
        _ => None,
    }
}

/// A number as every shell reads it.
fn number(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let plain = !digits.is_empty() && digits.len() <= 18 && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| plain)?.parse().ok()
}
