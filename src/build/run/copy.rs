//! `%files`: copying into the root file system of a stage, from the host or from an earlier stage.
//!
//! | | from the host | from a stage |
//! |---|---|---|
//! | a source | relative to the working directory | with the stage as root |
//! | links in a directory that is copied | followed; one that leads nowhere is an error | stay links |
//! | a source that is a link | followed | followed |
//!
//! Targets are meant from the root of the image, and its links are followed within it. What is copied belongs to
//! root and has the permissions of the source that a mask of 0022 leaves, as files that root makes have.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::pattern;
use super::rooted::{Rooted, remove};
use crate::build::plan::CopyStep;
use crate::error::{Context, Error, Kind, Result};
use crate::image::squashfs::FileKind;

/// Deeper trees are links that lead round.
const DEEPEST: usize = 200;

/// Where sources are.
pub enum From<'a> {
    /// On the host.
    Host {
        /// The value of a variable of the caller's.
        variable: &'a dyn Fn(&str) -> Option<String>,
    },
    /// In a stage.
    Stage(&'a Rooted),
}

/// Copies what one line asks for. `into` is what a relative target is meant from.
pub fn copy(step: &CopyStep, from: &From<'_>, into: &Path, target: &Rooted) -> Result<()> {
    let sources = find_sources(step, from)?;
    let several = sources.len() > 1;
    for source in sources {
        let wanted = step.target.as_deref().map_or_else(|| default_target(&source, into), PathBuf::from);
        let wanted = if wanted.is_absolute() && into != Path::new("/") && step.target.is_none() {
            wanted
        } else {
            into.join(wanted.strip_prefix("/").unwrap_or(&wanted))
        };
        let directory = several && step.target.is_some()
            || step.target.as_deref().is_some_and(|text| text.ends_with('/') || text.ends_with("/."));
        copy_one(&source, from, (&wanted, directory), target)?;
    }
    Ok(())
}

/// Without a target the path stays the same; below an app, it is that of the source there.
fn default_target(source: &Path, into: &Path) -> PathBuf {
    let below: PathBuf =
        source.components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect();
    into.join(below)
}

/// The files that a line names.
pub fn find_sources(step: &CopyStep, from: &From<'_>) -> Result<Vec<PathBuf>> {
    let Some(pattern) = &step.pattern else { return Ok(vec![PathBuf::from(&step.source)]) };
    let list_host = |path: &Path| -> Vec<OsString> {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let mut names: Vec<OsString> = entries.map(|entry| entry.file_name()).collect();
        names.sort();
        names
    };
    let found = match from {
        From::Host { variable } => pattern::expand(
            pattern,
            &pattern::Tree {
                list: &list_host,
                exists: &|path: &Path| path.symlink_metadata().is_ok(),
                variable,
            },
        ),
        From::Stage(stage) => {
            let inside = |path: &Path| Path::new("/").join(path);
            pattern::expand(
                pattern,
                &pattern::Tree {
                    list: &|path: &Path| stage.tree().list(&inside(path)).unwrap_or_default(),
                    exists: &|path: &Path| matches!(stage.tree().entry(&inside(path)), Ok(Some(_))),
                    variable: &|_| None,
                },
            )
        }
    };
    if found.is_empty() {
        return Err(Error::usage(format!("cannot copy {:?}: no file matches", step.source)).hint(
            match from {
                From::Host { .. } => "a relative path is meant from the working directory",
                From::Stage(_) => "paths are meant from the root of that stage",
            },
        ));
    }
    Ok(found)
}

/// Copies a source to its target, into it if that is a directory.
fn copy_one(
    source: &Path,
    from: &From<'_>,
    (wanted, directory): (&Path, bool),
    target: &Rooted,
) -> Result<()> {
    let real = real_source(source, from)?;
    let status = fs::metadata(&real).tried(|| format!("cannot copy {source:?}"))?;
    let contents = source.as_os_str().as_bytes().ends_with(b"/.") || source == Path::new(".");
    let there = target.tree().lookup(wanted)?;
    let is_directory = there.as_ref().is_some_and(|entry| entry.kind == FileKind::Directory);
    let below = if directory && !is_directory { Some(target.make_directory(wanted)?) } else { None };
    let into = match (below, there) {
        (Some(made), _) => Some(made),
        (None, Some(entry)) if is_directory => Some(entry.path),
        _ => None,
    };
    let keep_links = matches!(from, From::Stage(_));
    let copier = Copier { target, keep_links };
    match into {
        Some(into) if contents && status.is_dir() => copier.copy_contents(&real, &into, 0),
        Some(into) => {
            let name = real_name(source, &real);
            copier.copy(&real, &into.join(name), true, 0)
        }
        None => {
            let above = target.make_directory(wanted.parent().unwrap_or(Path::new("/")))?;
            copier.copy(&real, &above.join(wanted.file_name().unwrap_or_default()), true, 0)
        }
    }
}

/// The source's own name: that of the link, where it is one.
fn real_name(source: &Path, real: &Path) -> OsString {
    source.file_name().or_else(|| real.file_name()).unwrap_or_default().to_owned()
}

/// Where a source is on the host.
fn real_source(source: &Path, from: &From<'_>) -> Result<PathBuf> {
    match from {
        From::Host { .. } => {
            fs::metadata(source).tried(|| format!("cannot copy {source:?}")).map_err(|error| {
                let link = source.symlink_metadata().is_ok_and(|status| status.is_symlink());
                match (error.errno(), link) {
                    (Some(libc::ENOENT), true) => error.hint("it is a link that leads nowhere"),
                    (Some(libc::ENOENT), false) if source.is_relative() => {
                        error.hint("a relative path is meant from the working directory")
                    }
                    _ => error,
                }
            })?;
            Ok(source.to_owned())
        }
        From::Stage(stage) => match stage.tree().lookup(&Path::new("/").join(source))? {
            Some(entry) => Ok(stage.outside(&entry.path)),
            None => Err(Error::usage(format!("cannot copy {source:?}: the stage has no such file"))
                .hint("paths are meant from the root of that stage, and so are its links")),
        },
    }
}

struct Copier<'a> {
    target: &'a Rooted,
    keep_links: bool,
}

impl Copier<'_> {
    /// Copies `source` to `path` in the root, whose directory is there and free of links. `follow` a source that is
    /// a link even where links are kept.
    fn copy(&self, source: &Path, path: &Path, follow: bool, depth: usize) -> Result<()> {
        let tried = || format!("cannot copy {source:?}");
        if depth > DEEPEST {
            return Err(Error::new(Kind::Io, format!("{}: a link in it leads round", tried())));
        }
        let status =
            if follow || !self.keep_links { fs::metadata(source) } else { fs::symlink_metadata(source) };
        let status = status.tried(tried).map_err(|error| match error.errno() {
            Some(libc::ENOENT) => error.hint("it is a link that leads nowhere; leave it out, or mend it"),
            _ => error,
        })?;
        let kind = status.file_type();
        let outside = self.target.outside(path);
        let mode = status.permissions().mode() & 0o755;
        if kind.is_dir() {
            let path = self.target.make_directory(path)?;
            let fresh = fs::read_dir(self.target.outside(&path)).tried(tried)?.next().is_none();
            self.copy_contents(source, &path, depth)?;
            if fresh {
                let outside = self.target.outside(&path);
                fs::set_permissions(&outside, fs::Permissions::from_mode(mode)).tried(tried)?;
            }
            return Ok(());
        }
        if kind.is_symlink() {
            let leads = fs::read_link(source).tried(tried)?;
            remove(&outside).tried(tried)?;
            return symlink(leads, &outside).tried(tried);
        }
        if !kind.is_file() && !kind.is_fifo() {
            return Err(Error::new(Kind::Io, format!("{}: it is neither a file nor a directory", tried())));
        }
        // A file is written where a link of the image leads to, within the image.
        let outside = match self.target.tree().lookup(path)? {
            Some(entry) if entry.kind == FileKind::Directory => {
                return Err(Error::new(
                    Kind::Io,
                    format!("{}: {path:?} of the image is a directory", tried()),
                ));
            }
            Some(entry) => self.target.outside(&entry.path),
            None => outside,
        };
        remove(&outside).tried(tried)?;
        if kind.is_fifo() {
            return rustix::fs::mknodat(
                rustix::fs::CWD,
                &outside,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::from_raw_mode(mode),
                0,
            )
            .tried(tried);
        }
        fs::copy(source, &outside).tried(|| format!("cannot copy {source:?} to {path:?} in the image"))?;
        fs::set_permissions(&outside, fs::Permissions::from_mode(mode)).tried(tried)
    }

    fn copy_contents(&self, source: &Path, path: &Path, depth: usize) -> Result<()> {
        let tried = || format!("cannot copy {source:?}");
        let mut names = Vec::new();
        for entry in fs::read_dir(source).tried(tried)? {
            names.push(entry.tried(tried)?.file_name());
        }
        names.sort();
        for name in names {
            self.copy(&source.join(&name), &path.join(&name), false, depth + 1)?;
        }
        Ok(())
    }
}
