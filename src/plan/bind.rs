//! Bind specifications: `SOURCE[:TARGET[:OPTIONS]]`, commas between several, `\` before a comma, colon or
//! backslash that is part of a path. Options are `ro` and `rw`, with commas between them.
//!
//! ```text
//! /data                      /data of the host at /data of the container
//! /data:/input:ro,/scratch   read-only at /input; and /scratch
//! /a\:b:/c                   /a:b at /c
//! ```
//!
//! Blanks around a bind do not count: lists in scripts have them after their commas. `--mount` takes a path that ends in
//! one.
//!
//! A word after a comma is an option of the bind before it when it is `ro` or `rw` and that bind has
//! options already, or a target that ends the list; else it begins the next bind.
//!
//! `--mount` says the same by name, one bind a line, with double quotes around what has a comma in it:
//!
//! ```text
//! type=bind,source=/data,destination=/input,ro
//! type=bind,"source=/a,b",dst=/c
//! ```

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::Because;
use super::target::tidy;
use crate::error::{Error, Result};
use crate::host::Host;

/// One bind that somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// The host's path, as written.
    pub source: PathBuf,
    /// The container's path, as written.
    pub target: PathBuf,
    /// Mounted read-only.
    pub read_only: bool,
    /// Not told to nested calls.
    pub nonested: bool,
    /// Who asked.
    pub because: Because,
}

/// What keys of `--mount` and options of `--bind` are answered that take a file out of an image.
const IN_IMAGE: &str = "binds out of image files come later; unpack it: skiff build --sandbox DIR IMAGE";

/// Reads mounts by name, one a line.
pub fn parse_mounts(list: &OsStr, because: &Because) -> Result<Vec<Bind>> {
    let lines = list.as_bytes().split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| parse_mount(line, because)).collect()
}

fn parse_mount(line: &[u8], because: &Because) -> Result<Bind> {
    let fault = |why: &str| {
        let text = String::from_utf8_lossy(line);
        Error::usage(format!("cannot understand the mount \"{text}\" ({}): {why}", because.origin()))
            .hint("a mount is type=bind,source=PATH,destination=PATH[,ro]; put double quotes around a field with a comma")
    };
    let (mut source, mut target) = (None, None);
    let mut kind = None;
    let (mut read_only, mut nonested) = (false, false);
    for field in quoted_fields(line).ok_or_else(|| fault("a quote is missing"))? {
        let equals = field.iter().position(|byte| *byte == b'=');
        let (key, value) = match equals {
            Some(at) => (&field[..at], Some(&field[at + 1..])),
            None => (field.as_slice(), None),
        };
        let path =
            || value.filter(|path| !path.is_empty()).map(|path| PathBuf::from(OsStr::from_bytes(path)));
        match key {
            b"type" => kind = value.map(<[u8]>::to_vec),
            b"source" | b"src" => source = path(),
            b"destination" | b"dst" | b"target" => target = path(),
            b"ro" | b"readonly" => {
                read_only = truth(value).ok_or_else(|| fault("\"ro\" is true or false"))?;
            }
            b"nonested" => nonested = true,
            b"image-src" | b"id" => return Err(fault("it names a file in an image").hint(IN_IMAGE)),
            b"bind-propagation" => {
                return Err(fault(
                    "the host sees no mount that is made in a container, and this cannot be changed",
                ));
            }
            _ => return Err(fault(&format!("\"{}\" is no key of a mount", String::from_utf8_lossy(key)))),
        }
    }
    match kind.as_deref() {
        None | Some(b"bind") => {}
        Some(other) => {
            let other = String::from_utf8_lossy(other);
            return Err(fault(&format!("type \"{other}\" is not there, only bind is")));
        }
    }
    let source = source.ok_or_else(|| fault("no source"))?;
    let target = target.ok_or_else(|| fault("no destination"))?;
    Ok(Bind { source, target, read_only, nonested, because: because.clone() })
}

/// `ro`, `ro=true`, `ro=0`.
fn truth(value: Option<&[u8]>) -> Option<bool> {
    match value {
        None | Some(b"" | b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True") => Some(true),
        Some(b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False") => Some(false),
        Some(_) => None,
    }
}

/// The fields of a line of comma-separated values; `None` when a quote is not closed.
fn quoted_fields(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut fields = vec![Vec::new()];
    let mut quoted = false;
    let mut bytes = line.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' if quoted && bytes.next_if_eq(&b'"').is_some() => fields.last_mut()?.push(b'"'),
            b'"' => quoted = !quoted,
            b',' if !quoted => fields.push(Vec::new()),
            _ => fields.last_mut()?.push(byte),
        }
    }
    fields.retain(|field| !field.is_empty());
    (!quoted).then_some(fields)
}

/// Splits a list of binds.
pub fn parse_binds(list: &OsStr, because: &Because) -> Result<Vec<Bind>> {
    let mut binds: Vec<Bind> = Vec::new();
    // Whether the last bind has an option list that a comma may continue.
    let mut options_open = false;
    for item in split(list.as_bytes(), b',') {
        let item = item.trim_ascii();
        if item.is_empty() {
            continue;
        }
        if options_open
            && let Some(bind) = binds.last_mut()
            && let Some(read_only) = option(item)
        {
            bind.read_only = read_only;
            continue;
        }
        let (bind, options) = parse_bind(item, because)?;
        options_open = options;
        binds.push(bind);
    }
    Ok(binds)
}

/// One bind, and whether it has options.
fn parse_bind(item: &[u8], because: &Because) -> Result<(Bind, bool)> {
    let fault = |why: &str| {
        let text = String::from_utf8_lossy(item);
        Error::usage(format!("cannot understand the bind \"{text}\" ({}): {why}", because.origin()))
            .hint("a bind is SOURCE[:TARGET[:ro|rw]]; write \\: and \\, for a colon and a comma in a path")
    };
    let fields = split(item, b':');
    let path = |index: usize| fields.get(index).map(|field| PathBuf::from(unescape(field)));
    let source = path(0).filter(|path| !path.as_os_str().is_empty()).ok_or_else(|| fault("no source"))?;
    let target = path(1).filter(|path| !path.as_os_str().is_empty()).unwrap_or_else(|| source.clone());
    let read_only = match fields.get(2) {
        None => false,
        Some(word) if word.starts_with(b"image-src=") || word.starts_with(b"id=") => {
            return Err(fault("it names a file in an image").hint(IN_IMAGE));
        }
        Some(word) => option(word)
            .ok_or_else(|| fault(&format!("\"{}\" is no option of a bind", String::from_utf8_lossy(word))))?,
    };
    if fields.len() > 3 {
        return Err(fault("too many colons"));
    }
    let has_options = fields.len() == 3;
    Ok((Bind { source, target, read_only, nonested: false, because: because.clone() }, has_options))
}

/// What to do about a source that is missing or closed.
const NO_SOURCE: &str = "it must be there on the host, for you to see; make it, or leave the bind out";

/// The error of a bind whose source cannot be looked at. "No such file" is true of a link that is there, and puzzling.
pub fn without_source(tried: String, source: &Path, error: io::Error, host: &Host) -> Error {
    let error = match host.link(source) {
        Some(named) if error.kind() == io::ErrorKind::NotFound => {
            Error::usage(tried).because(format!("it is a link to {named:?}, which does not exist"))
        }
        _ => Error::usage(tried).because(error),
    };
    error.hint(NO_SOURCE)
}

/// A relative source is relative to the working directory; a relative target is a mistake unless it came
/// from the source.
pub fn absolute(bind: &mut Bind, host: &Host) -> Result<()> {
    let from_source = bind.source == bind.target;
    if bind.source.is_relative() {
        let cwd = host.cwd.as_deref().ok_or_else(|| {
            Error::usage(format!("cannot bind {:?}: the working directory is unknown", bind.source))
                .hint("name it from the root: /DIRECTORY/...")
        })?;
        bind.source = cwd.join(&bind.source);
    }
    bind.source = tidy(&bind.source);
    if from_source {
        bind.target = bind.source.clone();
    }
    if bind.target.is_relative() {
        return Err(Error::usage(format!(
            "cannot bind {:?} on {:?} ({}): the target is not an absolute path",
            bind.source,
            bind.target,
            bind.because.origin()
        ))
        .hint("begin it with a slash: SOURCE:/TARGET"));
    }
    bind.target = tidy(&bind.target);
    Ok(())
}

/// What to do about a directory that a flag names and the host lacks.
pub const MAKE_IT: &str = "make the directory first (mkdir -p), or name another one";

fn option(word: &[u8]) -> Option<bool> {
    match word {
        b"ro" => Some(true),
        b"rw" => Some(false),
        _ => None,
    }
}

/// The parts between unescaped separators, still escaped.
fn split(text: &[u8], separator: u8) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte == separator {
            parts.push(Vec::new());
            continue;
        }
        let Some(part) = parts.last_mut() else { break };
        part.push(byte);
        if byte == b'\\' {
            part.extend(bytes.next());
        }
    }
    parts
}

/// Removes the backslash before a comma, colon or backslash; any other backslash is one.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut bytes = field.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte == b'\\'
            && let Some(next) = bytes.next_if(|next| matches!(next, b',' | b':' | b'\\'))
        {
            out.push(next);
        } else {
            out.push(byte);
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binds(list: &str) -> Vec<(String, String, bool)> {
        let parsed = parse_binds(OsStr::new(list), &Because::Config).unwrap();
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        parsed.into_iter().map(|bind| (text(bind.source), text(bind.target), bind.read_only)).collect()
    }

    fn same(path: &str) -> (String, String, bool) {
        (path.into(), path.into(), false)
    }

    #[test]
    fn lists_targets_options_and_escapes() {
        assert_eq!(binds("/data"), [same("/data")]);
        assert_eq!(binds("/a,/b"), [same("/a"), same("/b")]);
        assert_eq!(binds("/a:/b:ro,/c"), [("/a".into(), "/b".into(), true), same("/c")]);
        assert_eq!(binds("/a:/b:ro,rw"), [("/a".into(), "/b".into(), false)]);
        assert_eq!(binds("/a::ro"), [("/a".into(), "/a".into(), true)]);
        assert_eq!(binds(r"/a\:b:/c\,d"), [("/a:b".into(), "/c,d".into(), false)]);
        assert_eq!(binds(r"/a\\,/b\x"), [same(r"/a\"), same(r"/b\x")]);
        assert_eq!(binds(",/a,"), [same("/a")]);
        assert_eq!(binds(" /a:/b:ro, rw, /c d "), [("/a".into(), "/b".into(), false), same("/c d")]);
        // A directory named "ro" of the working directory, since no options were begun.
        assert_eq!(binds("/a,ro"), [same("/a"), same("ro")]);
    }

    #[test]
    fn mounts_are_read_by_name() {
        let mount = |line: &str| parse_mounts(OsStr::new(line), &Because::Config);
        let bind = |line: &str| {
            let mut binds = mount(line).unwrap();
            let bind = binds.pop().unwrap();
            let text = |path: PathBuf| path.to_str().unwrap().to_owned();
            (text(bind.source), text(bind.target), bind.read_only, bind.nonested)
        };
        let is =
            |source: &str, target: &str, ro, nonested| (source.to_owned(), target.to_owned(), ro, nonested);
        assert_eq!(bind("type=bind,source=/a,destination=/b"), is("/a", "/b", false, false));
        assert_eq!(bind("type=bind,src=/a:x,dst=/b,ro"), is("/a:x", "/b", true, false));
        assert_eq!(bind("dst=/b,type=bind,src=/a,readonly=0,nonested"), is("/a", "/b", false, true));
        assert_eq!(bind(r#"type=bind,"source=/a,b ""c""",target=/d"#), is("/a,b \"c\"", "/d", false, false));
        assert_eq!(mount("type=bind,src=/a,dst=/b\ntype=bind,src=/c,dst=/d\n").unwrap().len(), 2);
        for (line, why) in [
            ("type=tmpfs,dst=/x", "type \"tmpfs\" is not there, only bind is"),
            ("type=bind,dst=/b", "no source"),
            ("type=bind,src=/b", "no destination"),
            ("type=bind,src=/a,dst=/b,ro=maybe", "\"ro\" is true or false"),
            ("type=bind,src=/a,dst=/b,size=4", "\"size\" is no key of a mount"),
            ("type=bind,\"src=/a,dst=/b", "a quote is missing"),
            ("type=bind,src=/a,dst=/b,image-src=/c", "it names a file in an image"),
        ] {
            let error = mount(line).unwrap_err().to_string();
            assert!(error.ends_with(&format!(": {why}")), "{error}");
        }
    }

    #[test]
    fn mistakes_name_the_bind_and_who_asked() {
        let fails = |list: &str| {
            parse_binds(OsStr::new(list), &Because::Variable("SKIFF_BIND".into())).unwrap_err().to_string()
        };
        let said =
            |bind: &str, why: &str| format!("cannot understand the bind \"{bind}\" (SKIFF_BIND): {why}");
        assert_eq!(fails("/a:/b:rx"), said("/a:/b:rx", "\"rx\" is no option of a bind"));
        assert_eq!(fails("/a:/b:ro:x"), said("/a:/b:ro:x", "too many colons"));
        assert_eq!(fails(":/b"), said(":/b", "no source"));
    }
}
