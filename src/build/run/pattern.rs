//! Patterns of `%files`: what a shell makes of an unquoted word, matched in a given root.
//!
//! ```text
//! {a,b}c            first, into several words       ac bc
//! ~/x  $NAME  ${N}  then, from the caller's variables
//! *  ?  [a-z]       at last, against what is there; a name that begins with a dot only where the dot is written
//! ```

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// As many words as braces may make.
const MOST_WORDS: usize = 10_000;

/// Looks into the tree that a pattern is matched in.
pub struct Tree<'a> {
    /// The names in a directory, sorted; empty for what is none.
    pub list: &'a dyn Fn(&Path) -> Vec<std::ffi::OsString>,
    /// Whether there is something.
    pub exists: &'a dyn Fn(&Path) -> bool,
    /// The value of a variable.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
}

/// The paths that match, sorted within each word. A word without `*`, `?` and `[` stands for itself.
pub fn expand(pattern: &str, tree: &Tree<'_>) -> Vec<PathBuf> {
    let mut words = Vec::new();
    braces(pattern, &mut words);
    let mut found = Vec::new();
    for word in words {
        let word = variables(&word, tree.variable);
        if has_wildcard(&word) {
            found.extend(matches(&word, tree));
        } else {
            found.push(PathBuf::from(unescaped(&word)));
        }
    }
    found
}

/// Whether there is a backslash before the byte at `at`, which takes its meaning.
fn is_escaped(text: &[u8], at: usize) -> bool {
    text[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

fn braces(word: &str, out: &mut Vec<String>) {
    let bytes = word.as_bytes();
    let open = |from: usize| (from..bytes.len()).find(|&at| bytes[at] == b'{' && !is_escaped(bytes, at));
    let mut from = 0;
    while let Some(start) = open(from) {
        // `${` begins a variable.
        if start > 0 && bytes[start - 1] == b'$' && !is_escaped(bytes, start - 1) {
            from = start + 1;
            continue;
        }
        let Some((end, parts)) = alternatives(word, start) else {
            from = start + 1;
            continue;
        };
        for part in parts {
            if out.len() >= MOST_WORDS {
                return;
            }
            braces(&format!("{}{part}{}", &word[..start], &word[end + 1..]), out);
        }
        return;
    }
    out.push(word.to_owned());
}

/// The end of a brace and the parts in it; none when it has no comma or no end.
fn alternatives(word: &str, start: usize) -> Option<(usize, Vec<&str>)> {
    let bytes = word.as_bytes();
    let (mut depth, mut parts, mut from) = (0, Vec::new(), start + 1);
    for at in start..bytes.len() {
        if is_escaped(bytes, at) {
            continue;
        }
        match bytes[at] {
            b'{' => depth += 1,
            b',' if depth == 1 => {
                parts.push(&word[from..at]);
                from = at + 1;
            }
            b'}' if depth == 1 => {
                parts.push(&word[from..at]);
                return (parts.len() > 1).then_some((at, parts));
            }
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn variables(word: &str, value: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut rest = word;
    if let Some(after) = rest.strip_prefix('~')
        && (after.is_empty() || after.starts_with('/'))
        && let Some(home) = value("HOME")
    {
        out.push_str(&escaped(&home));
        rest = after;
    }
    while let Some(at) = rest.find(['$', '\\']) {
        out.push_str(&rest[..at]);
        let tail = &rest[at..];
        if tail.starts_with('\\') {
            let end = tail.char_indices().nth(2).map_or(tail.len(), |(end, _)| end);
            out.push_str(&tail[..end]);
            rest = &tail[end..];
            continue;
        }
        let (name, end) = match tail[1..].strip_prefix('{') {
            Some(inner) => match inner.find('}') {
                Some(end) => (&inner[..end], end + 3),
                None => ("", 1),
            },
            None => {
                let end = tail[1..].find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                let end = end.unwrap_or(tail.len() - 1);
                (&tail[1..=end], end + 1)
            }
        };
        match name {
            "" => out.push_str("\\$"),
            name => out.push_str(&escaped(&value(name).unwrap_or_default())),
        }
        rest = &tail[end..];
    }
    out.push_str(rest);
    out
}

/// A value, which is text and no pattern.
fn escaped(value: &str) -> String {
    value.chars().flat_map(|c| ("*?[\\".contains(c)).then_some('\\').into_iter().chain([c])).collect()
}

fn unescaped(word: &str) -> String {
    let mut out = String::new();
    let mut letters = word.chars();
    while let Some(letter) = letters.next() {
        out.extend(if letter == '\\' { letters.next() } else { Some(letter) });
    }
    out
}

fn has_wildcard(word: &str) -> bool {
    let bytes = word.as_bytes();
    (0..bytes.len()).any(|at| b"*?[".contains(&bytes[at]) && !is_escaped(bytes, at))
}

fn matches(word: &str, tree: &Tree<'_>) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from(if word.starts_with('/') { "/" } else { "" })];
    for part in word.split('/').filter(|part| !part.is_empty()) {
        let mut next = Vec::new();
        for above in found {
            if !has_wildcard(part) {
                let path = above.join(unescaped(part));
                if (tree.exists)(&path) {
                    next.push(path);
                }
                continue;
            }
            let names = (tree.list)(if above.as_os_str().is_empty() { Path::new(".") } else { &above });
            let fits = |name: &OsStr| {
                (!name.as_bytes().starts_with(b".") || part.starts_with('.'))
                    && fits(part.as_bytes(), name.as_bytes())
            };
            next.extend(names.iter().filter(|name| fits(name)).map(|name| above.join(name)));
        }
        found = next;
    }
    found
}

/// Whether a name fits a pattern without slashes.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to go on after the last `*`, should the rest not fit.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        match pattern.get(p) {
            None if n == name.len() => return true,
            Some(b'*') => {
                retry = Some((p + 1, n));
                p += 1;
                continue;
            }
            Some(_) if n < name.len() => {
                if let Some(length) = fits_one(&pattern[p..], name[n]) {
                    p += length;
                    n += 1;
                    continue;
                }
            }
            _ => {}
        }
        match retry {
            Some((after, from)) if from < name.len() => {
                retry = Some((after, from + 1));
                (p, n) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

/// How long the pattern's first piece is, when it fits a byte.
fn fits_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', literal, ..] => (*literal == byte).then_some(2),
        [b'[', set @ ..] => {
            let negated = matches!(set.first(), Some(b'!' | b'^'));
            let start = usize::from(negated);
            // A bracket right at the start is one of the set.
            let end = (start + 1..set.len()).find(|&at| set[at] == b']');
            let Some(end) = end else { return (byte == b'[').then_some(1) };
            let members = &set[start..end];
            let mut at = 0;
            let mut inside = false;
            while at < members.len() {
                if at + 2 < members.len() && members[at + 1] == b'-' {
                    inside |= (members[at]..=members[at + 2]).contains(&byte);
                    at += 3;
                } else {
                    inside |= members[at] == byte;
                    at += 1;
                }
            }
            (inside != negated).then_some(end + 2)
        }
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(pattern: &str, files: &[&str]) -> Vec<String> {
        let list = |directory: &Path| {
            let directory = directory.strip_prefix(".").unwrap_or(directory);
            let below = files.iter().filter_map(|file| Path::new(file).strip_prefix(directory).ok());
            let mut names: Vec<_> = below
                .filter_map(|rest| rest.components().next().map(|name| name.as_os_str().to_owned()))
                .collect();
            names.sort();
            names.dedup();
            names
        };
        let exists = |path: &Path| files.iter().any(|file| Path::new(file).starts_with(path));
        let variable = |name: &str| match name {
            "HOME" => Some("/home/*".to_owned()),
            "N" => Some("7".to_owned()),
            _ => None,
        };
        let tree = Tree { list: &list, exists: &exists, variable: &variable };
        expand(pattern, &tree).iter().map(|path| path.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn words_become_what_a_shell_makes_of_them() {
        assert_eq!(expanded("{a,b{1,2}}c", &[]), ["ac", "b1c", "b2c"]);
        assert_eq!(expanded("{a}${N}-$N.$none\\$N", &[]), ["{a}7-7.$N"]);
        assert_eq!(expanded("~/x", &[]), ["/home/*/x"]);
        assert_eq!(expanded("a~", &[]), ["a~"]);
        assert_eq!(expanded("é\\*$", &[]), ["é*$"]);
    }

    #[test]
    fn names_are_matched_a_directory_at_a_time() {
        let files = ["src/a.c", "src/b.c", "src/.hidden.c", "src/b.h", "lib/a.c", "x]y", "star*"];
        assert_eq!(expanded("src/*.c", &files), ["src/a.c", "src/b.c"]);
        assert_eq!(expanded("*/a.?", &files), ["lib/a.c", "src/a.c"]);
        assert_eq!(expanded("src/.h*", &files), ["src/.hidden.c"]);
        assert_eq!(expanded("src/[!b].*", &files), ["src/a.c"]);
        assert_eq!(expanded("src/[a-b].[ch]", &files), ["src/a.c", "src/b.c", "src/b.h"]);
        assert_eq!(expanded("s*\\*", &files), ["star*"]);
        assert_eq!(expanded("x[]]y", &files), ["x]y"]);
        assert!(expanded("none/*", &files).is_empty() && expanded("src/*.d", &files).is_empty());
    }

    #[test]
    fn many_stars_cost_no_more_than_their_product() {
        assert!(!fits(&b"*a".repeat(200), &b"a".repeat(150)));
        assert!(fits(&b"*a".repeat(100), &b"a".repeat(150)));
    }
}
