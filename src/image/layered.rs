//! Looking at what layers over an image will show when they are laid over it: directories as the kernel's overlays
//! write them.
//!
//! A layer's device of number 0:0 says that there is nothing, whatever is below; a directory with the attribute
//! `user.overlay.opaque` shows nothing of those below. Other directories are joined.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::path::{self, Last, Step};
use super::squashfs::FileKind;
use super::tree::{Entry, Tree};
use crate::error::{Context, Result, is_absent};

/// An image with layers over it.
#[derive(Debug)]
pub struct Layered {
    base: Box<Tree>,
    /// The topmost first.
    layers: Vec<PathBuf>,
}

/// A path without links, and which parts show something there: layers by number, the base after the last of them.
/// Of what is no directory there is one part.
#[derive(Debug, Clone)]
pub struct Node {
    path: PathBuf,
    parts: Vec<usize>,
}

/// A regular file, looked for.
pub(super) enum Opened {
    /// In a layer.
    File(fs::File),
    /// In the base, if it is there, at this path.
    InBase(PathBuf),
    /// There is none.
    Nothing,
}

/// What a part has at a path.
enum Look {
    Nothing,
    Removed,
    Directory { opaque: bool },
    Link(PathBuf),
    Other,
}

impl Layered {
    /// `layers` (the topmost first) over `base`.
    pub fn new(base: Tree, layers: Vec<PathBuf>) -> Self {
        Self { base: Box::new(base), layers }
    }

    /// Where `path` leads; none if there is nothing.
    pub(super) fn resolve(&self, path: &Path, last: Last) -> Result<Option<(PathBuf, Node)>> {
        let root = Node { path: "/".into(), parts: (0..=self.layers.len()).collect() };
        path::resolve(root, path, last, |here, name| self.enter(here, name))
    }

    fn enter(&self, here: &Node, name: &OsStr) -> Result<Option<(Node, Step)>> {
        let path = here.path.join(name);
        let mut parts = Vec::new();
        for &part in &here.parts {
            match self.look(part, &path)? {
                Look::Nothing => {}
                Look::Removed => break,
                Look::Directory { opaque } => {
                    parts.push(part);
                    if opaque {
                        break;
                    }
                }
                // Hidden by a directory.
                Look::Link(_) | Look::Other if !parts.is_empty() => break,
                Look::Link(target) => {
                    return Ok(Some((Node { path, parts: vec![part] }, Step::Link(target.into()))));
                }
                Look::Other => return Ok(Some((Node { path, parts: vec![part] }, Step::Other))),
            }
        }
        Ok((!parts.is_empty()).then_some((Node { path, parts }, Step::Directory)))
    }

    /// The file of a layer; none for the base.
    fn file(&self, part: usize, path: &Path) -> Option<PathBuf> {
        Some(self.layers.get(part)?.join(path.strip_prefix("/").unwrap_or(path)))
    }

    fn look(&self, part: usize, path: &Path) -> Result<Look> {
        let Some(file) = self.file(part, path) else {
            return Ok(match self.base.entry(path)?.map(|entry| entry.kind) {
                None => Look::Nothing,
                Some(FileKind::Directory) => Look::Directory { opaque: false },
                Some(FileKind::Symlink) => Look::Link(self.base.link(path)?.unwrap_or_default()),
                Some(_) => Look::Other,
            });
        };
        let status = match fs::symlink_metadata(&file) {
            Ok(status) => status,
            Err(error) if is_absent(&error) => return Ok(Look::Nothing),
            Err(error) => return Err(error).tried(|| format!("cannot look at {file:?}")),
        };
        let kind = status.file_type();
        Ok(if kind.is_char_device() && status.rdev() == 0 {
            Look::Removed
        } else if kind.is_dir() {
            Look::Directory { opaque: is_opaque(&file) }
        } else if kind.is_symlink() {
            Look::Link(fs::read_link(&file).tried(|| format!("cannot read the link {file:?}"))?)
        } else {
            Look::Other
        })
    }

    pub(super) fn find(&self, path: &Path, last: Last) -> Result<Option<Entry>> {
        let Some((path, node)) = self.resolve(path, last)? else { return Ok(None) };
        let Some(file) = node.parts.first().and_then(|part| self.file(*part, &path)) else {
            return Ok(self.base.entry(&path)?.map(|entry| Entry { path, ..entry }));
        };
        let status = fs::symlink_metadata(&file).tried(|| format!("cannot look at {file:?}"))?;
        let kind = match status.file_type() {
            kind if kind.is_dir() => FileKind::Directory,
            kind if kind.is_symlink() => FileKind::Symlink,
            kind if kind.is_block_device() => FileKind::BlockDevice,
            kind if kind.is_char_device() => FileKind::CharDevice,
            kind if kind.is_fifo() => FileKind::Fifo,
            kind if kind.is_socket() => FileKind::Socket,
            _ => FileKind::Regular,
        };
        let size = if kind == FileKind::Regular { status.size() } else { 0 };
        Ok(Some(Entry { path, kind, mode: status.mode() & 0o7777, size }))
    }

    pub(super) fn link(&self, path: &Path) -> Result<Option<PathBuf>> {
        let Some((path, node)) = self.resolve(path, Last::Stay)? else { return Ok(None) };
        let Some(part) = node.parts.first() else { return Ok(None) };
        Ok(match self.look(*part, &path)? {
            Look::Link(target) => Some(target),
            _ => None,
        })
    }

    /// What is below the layers.
    pub(super) fn base(&self) -> &Tree {
        &self.base
    }

    /// Opens the regular file that `path` leads to.
    pub(super) fn open(&self, path: &Path) -> Result<Opened> {
        let Some((path, node)) = self.resolve(path, Last::Follow)? else { return Ok(Opened::Nothing) };
        let Some(file) = node.parts.first().and_then(|part| self.file(*part, &path)) else {
            return Ok(Opened::InBase(path));
        };
        let tried = || format!("cannot read {file:?}");
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let opened = fs::File::options().read(true).custom_flags(flags).open(&file).tried(tried)?;
        Ok(if opened.metadata().tried(tried)?.is_file() { Opened::File(opened) } else { Opened::Nothing })
    }

    pub(super) fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        let opened = match self.open(path)? {
            Opened::File(opened) => opened,
            Opened::InBase(path) => return self.base.read(&path, limit),
            Opened::Nothing => return Ok(None),
        };
        let mut contents = Vec::new();
        let tried = || format!("cannot read {path:?} of the image");
        opened.take(limit.saturating_add(1)).read_to_end(&mut contents).tried(tried)?;
        if contents.len() as u64 > limit {
            return Err(crate::error::Error::image(format!("{path:?} is longer than {limit} bytes")));
        }
        Ok(Some(contents))
    }

    /// The names in a directory; none if it is none.
    pub(super) fn list(&self, path: &Path) -> Result<Option<Vec<OsString>>> {
        let Some((path, node)) = self.resolve(path, Last::Follow)? else { return Ok(None) };
        let mut names: BTreeMap<OsString, ()> = BTreeMap::new();
        let mut removed: BTreeSet<OsString> = BTreeSet::new();
        for part in node.parts {
            let Some(directory) = self.file(part, &path) else {
                let kept = self.base.list(&path)?.into_iter().filter(|name| !removed.contains(name));
                names.extend(kept.map(|name| (name, ())));
                break;
            };
            let tried = || format!("cannot list {directory:?}");
            if !directory.is_dir() {
                return Ok(None);
            }
            for entry in fs::read_dir(&directory).tried(tried)? {
                let name = entry.tried(tried)?.file_name();
                if names.contains_key(&name) || removed.contains(&name) {
                    continue;
                }
                match self.look(part, &path.join(&name))? {
                    Look::Removed => drop(removed.insert(name)),
                    _ => drop(names.insert(name, ())),
                }
            }
        }
        Ok(Some(names.into_keys().collect()))
    }
}

fn is_opaque(directory: &Path) -> bool {
    let mut value = [0_u8; 1];
    rustix::fs::lgetxattr(directory.as_os_str().as_bytes(), "user.overlay.opaque", &mut value)
        .is_ok_and(|length| length == 1 && value[0] == b'y')
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::image::tree::Directory;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_topmost_layer_that_has_a_name_counts() {
        let place = tempfile::tempdir().unwrap();
        let (base, low, top) =
            (place.path().join("base"), place.path().join("low"), place.path().join("top"));
        write(&base.join("etc/passwd"), "base");
        write(&base.join("etc/group"), "base");
        write(&base.join("lib/a/x"), "base");
        write(&low.join("etc/passwd"), "low");
        write(&low.join("new/deep/file"), "low");
        write(&top.join("etc/hosts"), "top");
        symlink("/new/deep", top.join("way")).unwrap();
        // A directory of the top layer hides a link of a lower one, and the reverse.
        symlink("/etc", low.join("was-link")).unwrap();
        fs::create_dir(top.join("was-link")).unwrap();
        symlink("new", top.join("lib")).unwrap();
        let tree = Tree::Directory(Directory::open(&base).unwrap());
        let tree = Tree::Layered(Layered::new(tree, vec![top, low]));
        let read = |path: &str| {
            tree.read(Path::new(path), 100).unwrap().map(|text| String::from_utf8(text).unwrap())
        };
        assert_eq!(read("/etc/passwd").as_deref(), Some("low"));
        assert_eq!(read("/etc/group").as_deref(), Some("base"));
        assert_eq!(read("/way/file").as_deref(), Some("low"));
        assert_eq!(read("/lib/deep/file").as_deref(), Some("low"));
        assert_eq!(read("/lib/a/x"), None);
        assert_eq!(read("/was-link/passwd"), None);
        assert_eq!(tree.list(Path::new("/etc")).unwrap(), ["group", "hosts", "passwd"]);
        assert_eq!(tree.link(Path::new("/lib")).unwrap(), Some("new".into()));
        assert_eq!(tree.lookup(Path::new("/way/file")).unwrap().unwrap().path, Path::new("/new/deep/file"));
        assert!(tree.list(Path::new("/none")).is_err());
    }
}
