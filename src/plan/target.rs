//! Where a mount's target really is: the container as it will stand when the mount is made.
//!
//! A path is walked component by component through what covers it:
//!
//! ```text
//! /data/in  ->  image: /data is a link to /tmp/x     links of the image stay inside the image
//!               mount: /tmp comes from the host       so "x" is looked up in the host's /tmp
//!               host:  /tmp/x is a link to /big       and its target is walked from the container's root
//! ```
//!
//! so that two mounts of one directory are seen to be one, and a target is made (see
//! [`super::MountPoint`]) only where it really is missing.

use std::collections::btree_map::{BTreeMap, Entry as Slot};
use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::{ContainerPath, Held, HeldKind, Mount, MountKind, MountPoint, TargetKind};
use crate::error::{Context, Error, Kind, Result};
use crate::host::Host;
use crate::image::Tree;
use crate::image::squashfs::FileKind;

/// As many symbolic links as the kernel follows in one path.
const MAX_LINKS: usize = 40;
/// The mode of a directory that skiff makes.
pub const NEW_DIRECTORY: u32 = 0o755;
/// The mode of a file that skiff makes.
pub const NEW_FILE: u32 = 0o644;

/// The container's file tree: the image, and the mounts decided so far, in order.
pub struct View<'a> {
    host: &'a Host,
    image: &'a Tree,
    /// What the image has at a path that was walked; most walks share their first components.
    seen: BTreeMap<PathBuf, Option<Node>>,
    /// The mounts decided so far.
    pub mounts: Vec<Mount>,
    /// What will be there on the host, because it is made before anything is mounted.
    pub made: BTreeMap<PathBuf, TargetKind>,
}

/// Something that the image has.
#[derive(Debug, Clone)]
enum Node {
    Directory { mode: u32 },
    File,
    Link(PathBuf),
}

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    /// The path, free of symbolic links.
    pub path: PathBuf,
    /// What is there; `None` when nothing is.
    pub kind: Option<TargetKind>,
    /// Who provides it, or would.
    pub from: From,
}

/// Who provides a path of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// The image.
    Image,
    /// The mount of this index, with the host's path that is shown there (none for a file made by skiff
    /// and for an empty file system).
    Mount(usize, Option<PathBuf>),
}

impl<'a> View<'a> {
    /// The image alone.
    pub fn new(host: &'a Host, image: &'a Tree) -> Self {
        Self { host, image, seen: BTreeMap::new(), mounts: Vec::new(), made: BTreeMap::new() }
    }

    /// The image's own files.
    pub fn image(&self) -> &'a Tree {
        self.image
    }

    /// Whether the image's entry at `target` cannot be mounted on: a link, or a directory where a file
    /// comes (or the reverse). A mount point of the right kind is laid over it then.
    pub fn must_cover(&self, target: &Path, kind: TargetKind) -> bool {
        match self.seen.get(target) {
            Some(Some(Node::Link(_))) => true,
            Some(Some(Node::Directory { .. })) => kind == TargetKind::File,
            Some(Some(Node::File)) => kind == TargetKind::Directory,
            _ => false,
        }
    }

    /// Follows `path` (absolute) to where it leads. With `last_link` false, a link at the very end is not
    /// followed and counts as a file of its own.
    pub fn resolve(&mut self, path: &Path, last_link: bool) -> Result<Spot> {
        let mut left: VecDeque<OsString> = components(path);
        let mut here = Spot { path: "/".into(), kind: Some(TargetKind::Directory), from: From::Image };
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            if name == ".." {
                here.path.pop();
                here = self.at(here.path)?.0;
                continue;
            }
            if here.kind == Some(TargetKind::File) {
                return Err(Error::usage(format!(
                    "cannot use {path:?} in the container: {:?} is a file there",
                    here.path
                ))
                .hint("choose a path that does not lead through a file"));
            }
            here.path.push(&name);
            let (spot, link) = self.at(here.path)?;
            here = spot;
            let Some(link) = link else { continue };
            if left.is_empty() && !last_link {
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                let message = format!("cannot follow {path:?} in the container: too many links");
                return Err(Error::image(message).hint("the links lead in a circle; choose another path"));
            }
            for name in components(&link).into_iter().rev() {
                left.push_front(name);
            }
            let parent = here.path.parent().unwrap_or(Path::new("/"));
            here = self.at(if link.is_absolute() { "/".into() } else { parent.to_owned() })?.0;
        }
        Ok(here)
    }

    /// What is at `path`, whose parents hold no link; and where it points if it is a link itself.
    fn at(&mut self, path: PathBuf) -> Result<(Spot, Option<PathBuf>)> {
        let Some((index, mount)) =
            self.mounts.iter().enumerate().rev().find(|(_, mount)| path.starts_with(&mount.target.0))
        else {
            let node = self.image_node(&path)?;
            let (kind, link) = match node {
                None => (None, None),
                Some(Node::Directory { .. }) => (Some(TargetKind::Directory), None),
                Some(Node::File) => (Some(TargetKind::File), None),
                Some(Node::Link(target)) => (Some(TargetKind::File), Some(target)),
            };
            return Ok((Spot { path, kind, from: From::Image }, link));
        };
        let below = path.strip_prefix(&mount.target.0).unwrap_or(Path::new(""));
        let top = below.as_os_str().is_empty();
        let (kind, link, shown) = match &mount.what {
            MountKind::Bind { source, .. } => {
                let shown = if top { source.0.clone() } else { source.0.join(below) };
                let (kind, link) = self.host_node(&shown, top)?;
                (kind, link, Some(shown))
            }
            MountKind::File { .. } => (top.then_some(TargetKind::File), None, None),
            _ if top => (Some(TargetKind::Directory), None, None),
            MountKind::Tmpfs { holds, .. } => match holds.iter().find(|held| held.path == below) {
                None => (None, None, None),
                Some(Held { kind: HeldKind::Directory, .. }) => (Some(TargetKind::Directory), None, None),
                Some(Held { kind: HeldKind::File, .. }) => (Some(TargetKind::File), None, None),
                Some(Held { kind: HeldKind::Link(target), .. }) => {
                    (Some(TargetKind::File), Some(target.clone()), None)
                }
            },
            // A new /proc has the same files as the host's, as far as scripts ask for them.
            MountKind::Kernel { file_system: "proc", .. } => {
                let (kind, link) = self.host_node(&path, false)?;
                (kind, link, None)
            }
            MountKind::Kernel { .. } => (None, None, None),
        };
        Ok((Spot { path, kind, from: From::Mount(index, shown) }, link))
    }

    /// What the host has at `path`. A bind's own source is followed, as the kernel does when it mounts.
    fn host_node(&self, path: &Path, follow: bool) -> Result<(Option<TargetKind>, Option<PathBuf>)> {
        let real = self.host.real(path);
        let status = if follow { std::fs::metadata(&real) } else { std::fs::symlink_metadata(&real) };
        match status {
            Ok(status) if status.is_symlink() => {
                let link = std::fs::read_link(&real).tried(|| format!("cannot read link {path:?}"))?;
                Ok((Some(TargetKind::File), Some(link)))
            }
            Ok(status) if status.is_dir() => Ok((Some(TargetKind::Directory), None)),
            Ok(_) => Ok((Some(TargetKind::File), None)),
            // Not there, or not for us to see: nothing can be mounted there either way.
            Err(_) => Ok((self.made.get(path).copied(), None)),
        }
    }

    /// Lets the new file system in memory that is mount `index` hold a mount point, with its parents.
    pub fn hold(&mut self, index: usize, path: &Path, kind: TargetKind) {
        let Some(Mount { what: MountKind::Tmpfs { holds, .. }, target, .. }) = self.mounts.get_mut(index)
        else {
            return;
        };
        let below = path.strip_prefix(&target.0).unwrap_or(path);
        let mut parents: Vec<&Path> =
            below.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
        parents.reverse();
        for parent in parents {
            if !holds.iter().any(|held| held.path == parent) {
                holds.push(Held { path: parent.to_owned(), kind: HeldKind::Directory, mode: NEW_DIRECTORY });
            }
        }
        let (kind, mode) = match kind {
            TargetKind::Directory => (HeldKind::Directory, NEW_DIRECTORY),
            TargetKind::File => (HeldKind::File, NEW_FILE),
        };
        holds.push(Held { path: below.to_owned(), kind, mode });
    }

    fn image_node(&mut self, path: &Path) -> Result<Option<Node>> {
        match self.seen.entry(path.to_owned()) {
            Slot::Occupied(known) => Ok(known.get().clone()),
            Slot::Vacant(slot) => {
                let node = match self.image.entry(path)? {
                    None => None,
                    Some(entry) if entry.kind == FileKind::Directory => {
                        Some(Node::Directory { mode: entry.mode })
                    }
                    Some(entry) if entry.kind == FileKind::Symlink => self.image.link(path)?.map(Node::Link),
                    Some(_) => Some(Node::File),
                };
                Ok(slot.insert(node).clone())
            }
        }
    }

    /// Whether something of `kind` can be mounted at `spot`, which may have to be made first.
    /// The reason, if not, completes "cannot mount on PATH: ...".
    pub fn refusal(&self, spot: &Spot, kind: TargetKind, replace: bool) -> Option<String> {
        match (&spot.from, spot.kind) {
            (_, Some(_)) if spot.path == Path::new("/") => Some("it is the container's root".to_owned()),
            (_, Some(there)) if there == kind => None,
            (From::Image, None) => None,
            (From::Image, Some(_)) if replace => None,
            (_, Some(TargetKind::Directory)) => Some("it is a directory in the container".to_owned()),
            (_, Some(TargetKind::File)) => Some("it is a file in the container".to_owned()),
            (From::Mount(index, shown), None) => {
                let mount = self.mounts.get(*index);
                if matches!(mount, Some(Mount { what: MountKind::Tmpfs { .. }, .. })) {
                    return None;
                }
                let above = mount.map_or(Path::new("/"), |mount| &mount.target.0);
                Some(match shown {
                    Some(source) => {
                        format!("it is below the mount {above:?}, and the host has no {source:?}")
                    }
                    None => format!("it is below {above:?}, which is made new for the container"),
                })
            }
        }
    }

    /// The mount points that the image lacks for the mounts decided, parents first, each once, and the directories
    /// of the image that they are laid over. `covered` are the targets that replace what the image has there.
    pub fn mount_points(&mut self, covered: &[PathBuf]) -> Result<(Vec<MountPoint>, Vec<ContainerPath>)> {
        let mut overlays: BTreeSet<PathBuf> = BTreeSet::new();
        let mut points: BTreeMap<PathBuf, (TargetKind, u32)> = BTreeMap::new();
        for index in 0..self.mounts.len() {
            let target = self.mounts[index].target.0.clone();
            // Below an earlier mount it exists, or it would have been refused.
            if self.mounts[..index].iter().any(|earlier| target.starts_with(&earlier.target.0)) {
                continue;
            }
            let replaced = covered.contains(&target);
            if !replaced && self.image_node(&target)?.is_some() {
                continue;
            }
            let kind = self.kind_of(&self.mounts[index].what);
            let mode = if kind == TargetKind::File { NEW_FILE } else { NEW_DIRECTORY };
            points.insert(target.clone(), (kind, mode));
            overlays.insert(self.nearest_directory(&target)?);
            for parent in target.ancestors().skip(1).filter(|parent| parent.parent().is_some()) {
                let mode = match self.image_node(parent)? {
                    Some(Node::Directory { mode }) => mode,
                    _ => NEW_DIRECTORY,
                };
                points.entry(parent.to_owned()).or_insert((TargetKind::Directory, mode));
            }
        }
        // A path sorts before those below it.
        let point = |(path, (kind, mode))| MountPoint { path: ContainerPath(path), kind, mode };
        let points = points.into_iter().map(point).collect();
        // A path sorts before those below it, so each needs to be compared with the last one kept.
        let mut kept: Vec<ContainerPath> = Vec::new();
        for path in overlays {
            if !kept.last().is_some_and(|above| path.starts_with(&above.0)) {
                kept.push(ContainerPath(path));
            }
        }
        Ok((points, kept))
    }

    /// The directory of the image that is the nearest above `path`.
    fn nearest_directory(&mut self, path: &Path) -> Result<PathBuf> {
        for parent in path.ancestors().skip(1) {
            if let Some(Node::Directory { .. }) = self.image_node(parent)? {
                return Ok(parent.to_owned());
            }
        }
        Ok("/".into())
    }

    /// Whether it is a directory that is mounted, or a file.
    pub fn kind_of(&self, what: &MountKind) -> TargetKind {
        match what {
            MountKind::Tmpfs { .. } | MountKind::Kernel { .. } => TargetKind::Directory,
            MountKind::File { .. } => TargetKind::File,
            MountKind::Bind { source, .. } if self.made.contains_key(&source.0) => self.made[&source.0],
            MountKind::Bind { source, .. } => match self.host.look(&source.0) {
                Ok(seen) if seen.directory => TargetKind::Directory,
                _ => TargetKind::File,
            },
        }
    }
}

/// The names of a path, without `.`, with `..` kept.
fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

/// `path` without `.`, empty components and a final slash; `..` stays, since a link may stand before it.
pub fn tidy(path: &Path) -> PathBuf {
    debug_assert!(path.as_os_str().as_bytes().first() == Some(&b'/'));
    path.components().filter(|part| *part != Component::CurDir).collect()
}

/// An error about a mount's target.
pub fn refused(target: &Path, spot: &Spot, why: &str) -> Error {
    let at =
        if spot.path == target { format!("{target:?}") } else { format!("{target:?} ({:?})", spot.path) };
    let hint = match spot.kind {
        None => "choose another path in the container, or make this one on the host first",
        Some(_) => "choose another path; a file goes on a file, a directory on a directory",
    };
    Error::new(Kind::Usage, format!("cannot mount on {at} in the container: {why}")).hint(hint)
}
