//! Bind specifications: `SOURCE[:TARGET[:OPTIONS]]`, commas between several, `\` before a comma, colon or
//! backslash that is part of a path. Options are `ro` and `rw`, with commas between them.
//!
//! ```text
//! /data                      /data of the host at /data of the container
//! /data:/input:ro,/scratch   read-only at /input; and /scratch
//! /a\:b:/c                   /a:b at /c
//! ```
//!
//! A word after a comma is an option of the bind before it when it is `ro` or `rw` and that bind has
//! options already, or a target that ends the list; else it begins the next bind.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::Because;
use crate::error::{Error, Result};

/// One bind that somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// The host's path, as written.
    pub source: PathBuf,
    /// The container's path, as written.
    pub target: PathBuf,
    /// Mounted read-only.
    pub read_only: bool,
    /// Who asked.
    pub because: Because,
}

/// Splits a list of binds.
pub fn parse_binds(list: &OsStr, because: &Because) -> Result<Vec<Bind>> {
    let mut binds: Vec<Bind> = Vec::new();
    // Whether the last bind has an option list that a comma may continue.
    let mut options_open = false;
    for item in split(list.as_bytes(), b',') {
        if item.is_empty() {
            continue;
        }
        if options_open
            && let Some(bind) = binds.last_mut()
            && let Some(read_only) = option(&item)
        {
            bind.read_only = read_only;
            continue;
        }
        let (bind, options) = parse_bind(&item, because)?;
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
        Some(word) => option(word)
            .ok_or_else(|| fault(&format!("\"{}\" is no option of a bind", String::from_utf8_lossy(word))))?,
    };
    if fields.len() > 3 {
        return Err(fault("too many colons"));
    }
    let has_options = fields.len() == 3;
    Ok((Bind { source, target, read_only, because: because.clone() }, has_options))
}

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
        // A directory named "ro" of the working directory, since no options were begun.
        assert_eq!(binds("/a,ro"), [same("/a"), same("ro")]);
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
