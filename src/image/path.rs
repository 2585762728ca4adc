//! Following a path inside an image, with the image as its root.
//!
//! One step at a time, each name looked up in a directory that is already held; link targets are put in
//! front of what remains, an absolute one starts again at the root, and `..` at the root stays there. So
//! nothing outside can be reached, whatever links an image has, and on any kernel.

use crate::error::{Error, Kind, Result};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// As many links are followed in one path, as by the kernel.
const LINKS: usize = 40;
/// Longer paths, and link targets, cannot be used with Linux.
const PATH_BYTES: usize = 4096;

/// What a name in a directory leads to.
pub(super) enum Step {
    /// A directory: the path may go on below it.
    Directory,
    /// A symbolic link with its target.
    Link(OsString),
    /// Anything else: the path must end here.
    Other,
}

/// What to do with a link that the whole path ends in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    /// It is followed.
    Follow,
    /// It is what was asked for.
    Stay,
}

/// Follows `path` from `root`. `enter` looks a name up in a directory. Gives the path free of links and
/// what is there; none when a name is missing or lies below something that is no directory. More than 40
/// links are an error with `ELOOP`.
pub(super) fn resolve<N: Clone>(
    root: N,
    path: &Path,
    last: Last,
    mut enter: impl FnMut(&N, &OsStr) -> Result<Option<(N, Step)>>,
) -> Result<Option<(PathBuf, N)>> {
    let failed = |errno: i32| {
        let cause = std::io::Error::from_raw_os_error(errno);
        Err(Error::new(Kind::Image, format!("cannot follow {path:?} in the image")).because(cause))
    };
    // Names still to be entered, the next one last.
    let mut names: Vec<OsString> = Vec::new();
    // Directories from the root to where we are, with their names.
    let mut way: Vec<(OsString, N)> = Vec::new();
    // Set when the last name was no directory: then nothing may follow.
    let mut end: Option<(OsString, N)> = None;
    let mut links = 0;
    push(&mut names, path.as_os_str());
    while let Some(name) = names.pop() {
        if end.is_some() {
            return Ok(None);
        }
        match name.as_bytes() {
            b"." => continue,
            b".." => {
                way.pop();
                continue;
            }
            _ => {}
        }
        let here = way.last().map_or(&root, |(_, dir)| dir);
        match enter(here, &name)? {
            None => return Ok(None),
            Some((node, Step::Directory)) => way.push((name, node)),
            Some((node, Step::Link(_))) if last == Last::Stay && names.is_empty() => end = Some((name, node)),
            Some((node, Step::Other)) => end = Some((name, node)),
            Some((_, Step::Link(target))) => {
                links += 1;
                if links > LINKS {
                    return failed(libc::ELOOP);
                }
                if target.is_empty() {
                    return Ok(None);
                }
                if target.len() >= PATH_BYTES {
                    return failed(libc::ENAMETOOLONG);
                }
                if target.as_bytes().first() == Some(&b'/') {
                    way.clear();
                }
                push(&mut names, &target);
            }
        }
    }
    let mut found = vec![];
    for (name, _) in way.iter().chain(&end) {
        found.push(b'/');
        found.extend_from_slice(name.as_bytes());
    }
    if found.is_empty() {
        found.push(b'/');
    }
    let node = end.or_else(|| way.pop()).map_or(root, |(_, node)| node);
    Ok(Some((PathBuf::from(OsString::from_vec(found)), node)))
}

/// Puts the names of a path on the stack. A slash at the end asks for a directory, which "." does too.
fn push(names: &mut Vec<OsString>, path: &OsStr) {
    let bytes = path.as_bytes();
    if bytes.last() == Some(&b'/') {
        names.push(".".into());
    }
    let parts = bytes.rsplit(|&byte| byte == b'/').filter(|part| !part.is_empty());
    names.extend(parts.map(|part| OsStr::from_bytes(part).to_owned()));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree in which a directory is its path, for: /d/f, /d/up -> .., /abs -> /d/f, /out -> ../../d,
    /// /loop -> loop, /dir -> d/
    fn lookup(path: &str) -> Result<Option<(PathBuf, String)>> {
        follow(path, Last::Follow)
    }

    fn follow(path: &str, last: Last) -> Result<Option<(PathBuf, String)>> {
        resolve(String::new(), Path::new(path), last, |dir, name| {
            let here = format!("{dir}/{}", name.to_str().unwrap());
            let step = match here.as_str() {
                "/d" => Step::Directory,
                "/d/f" => Step::Other,
                "/d/up" => Step::Link("..".into()),
                "/abs" => Step::Link("/d/f".into()),
                "/out" => Step::Link("../../d".into()),
                "/loop" => Step::Link("loop".into()),
                "/dir" => Step::Link("d/".into()),
                "/file" => Step::Link("d/f/".into()),
                "/empty" => Step::Link("".into()),
                "/long" => Step::Link("x/".repeat(2048).into()),
                _ => return Ok(None),
            };
            Ok(Some((here, step)))
        })
    }

    #[test]
    fn links_are_followed_inside_and_never_leave() {
        for (path, there) in [
            ("/", "/"),
            ("", "/"),
            ("d/f", "/d/f"),
            ("//d/./f", "/d/f"),
            ("/../../d/f", "/d/f"),
            ("/abs", "/d/f"),
            ("/out/f", "/d/f"),
            ("/d/up/d/up/abs", "/d/f"),
            ("/dir/f", "/d/f"),
            ("/d/", "/d"),
        ] {
            assert_eq!(lookup(path).unwrap().unwrap().0, Path::new(there), "{path}");
        }
    }

    #[test]
    fn the_last_link_is_kept_on_demand_but_those_before_are_followed() {
        for (path, there) in [("/abs", "/abs"), ("/out/up", "/d/up"), ("/dir/", "/d"), ("/d/f", "/d/f")] {
            assert_eq!(follow(path, Last::Stay).unwrap().unwrap().0, Path::new(there), "{path}");
        }
    }

    #[test]
    fn what_is_missing_or_no_directory_is_none() {
        for path in ["/x", "/d/x", "/d/f/", "/d/f/..", "/d/f/x", "/file", "/empty"] {
            assert!(lookup(path).unwrap().is_none(), "{path}");
        }
    }

    #[test]
    fn too_many_links_and_too_long_targets_are_errors() {
        assert_eq!(lookup("/loop").unwrap_err().errno(), Some(libc::ELOOP));
        assert_eq!(lookup("/long").unwrap_err().errno(), Some(libc::ENAMETOOLONG));
    }
}
