//! Writing below a root directory that is not ours: links of it are followed as if it were `/`, so that none leads
//! out. Nothing else runs in the root meanwhile: what a step started has ended with it.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use crate::error::{Context, Error, Kind, Result};
use crate::image::squashfs::FileKind;
use crate::image::tree::{Directory, Tree};

/// The mode of directories that are made on the way.
const DIRECTORY_MODE: u32 = 0o755;

/// A root directory.
pub struct Rooted {
    path: PathBuf,
    tree: Tree,
}

impl Rooted {
    /// Opens it.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), tree: Tree::Directory(Directory::open(path)?) })
    }

    /// Where it is on the host.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its files.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The path on the host of a path without links.
    pub fn outside(&self, path: &Path) -> PathBuf {
        self.path.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The directory that `path` leads to, made with those above it where it is missing. A path without links.
    pub fn make_directory(&self, path: &Path) -> Result<PathBuf> {
        let mut here = PathBuf::from("/");
        for component in path.components() {
            match component {
                Component::Normal(name) => here.push(name),
                Component::ParentDir => drop(here.pop()),
                _ => continue,
            }
            match self.tree.lookup(&here)? {
                Some(entry) if entry.kind == FileKind::Directory => here = entry.path,
                Some(_) => {
                    return Err(Error::new(
                        Kind::Io,
                        format!("cannot make the directory {path:?} in the image"),
                    )
                    .because(format!("{here:?} is no directory")));
                }
                None => {
                    let outside = self.outside(&here);
                    self.clear_link(&outside)?;
                    let tried = || format!("cannot make the directory {here:?} in the image");
                    fs::create_dir(&outside).tried(tried)?;
                    fs::set_permissions(&outside, fs::Permissions::from_mode(DIRECTORY_MODE)).tried(tried)?;
                }
            }
        }
        Ok(here)
    }

    /// A link that leads nowhere gives way.
    fn clear_link(&self, outside: &Path) -> Result<()> {
        match fs::symlink_metadata(outside) {
            Ok(status) if status.is_symlink() => {
                fs::remove_file(outside).tried(|| format!("cannot replace {outside:?}"))
            }
            _ => Ok(()),
        }
    }

    /// Writes a file in place of what is there, unless that is a directory; directories above are made.
    pub fn write(&self, path: &Path, content: &[u8], mode: u32) -> Result<()> {
        let outside = self.place(path)?;
        let tried = || format!("cannot write {path:?} in the image");
        remove(&outside).tried(tried)?;
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&outside).tried(tried)?;
        file.write_all(content).tried(tried)?;
        file.set_permissions(fs::Permissions::from_mode(mode)).tried(tried)
    }

    /// Makes a link in place of what is there, unless that is a directory.
    pub fn link(&self, path: &Path, target: &str) -> Result<()> {
        let outside = self.place(path)?;
        let tried = || format!("cannot make the link {path:?} in the image");
        remove(&outside).tried(tried)?;
        symlink(target, &outside).tried(tried)
    }

    /// Where an entry of the root is on the host, its directory made and free of links.
    pub fn place(&self, path: &Path) -> Result<PathBuf> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::new(Kind::Io, format!("cannot write {path:?} in the image")));
        };
        Ok(self.outside(&self.make_directory(above)?.join(name)))
    }

    /// The content of a file, if there is one.
    pub fn read(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        self.tree.read(path, 16 << 20)
    }

    /// Whether something is there, if only a link.
    pub fn has(&self, path: &Path) -> Result<bool> {
        Ok(self.tree.entry(path)?.is_some())
    }
}

/// Removes a file, if there is one.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
