//! A file of an image, read in pieces where it is wanted, not as a whole.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::layered::Opened;
use super::squashfs::{Block, Content, Inode, Squashfs};
use super::tree::Tree;
use crate::error::{Context, Result};

/// A regular file of an image, open.
#[derive(Debug)]
pub struct OpenFile<'a> {
    /// Where it is: absolute in the image, free of links.
    pub path: PathBuf,
    /// Its length in bytes.
    pub size: u64,
    contents: Contents<'a>,
}

#[derive(Debug)]
enum Contents<'a> {
    Squashfs(&'a Squashfs, Arc<Inode>),
    File(File),
}

impl Tree {
    /// Opens the regular file that `path` leads to; none if there is no such file, or it is of another kind.
    pub fn open(&self, path: &Path) -> Result<Option<OpenFile<'_>>> {
        let of_file = |path: PathBuf, file: File| -> Result<Option<OpenFile<'_>>> {
            let size = file.metadata().tried(|| format!("cannot look at {path:?} of the image"))?.len();
            Ok(Some(OpenFile { path, size, contents: Contents::File(file) }))
        };
        match self {
            Self::Directory(directory) => match directory.open_file(path)? {
                Some((found, file)) => of_file(found, file),
                None => Ok(None),
            },
            Self::Layered(layered) => match layered.open(path)? {
                Opened::File(file) => of_file(path.to_owned(), file),
                Opened::InBase(path) => layered.base().open(&path),
                Opened::Nothing => Ok(None),
            },
            Self::Squashfs(squashfs) => {
                let Some((path, inode)) = squashfs.resolve(path)? else { return Ok(None) };
                if !matches!(inode.content, Content::Regular(_)) {
                    return Ok(None);
                }
                let size = inode.size;
                Ok(Some(OpenFile { path, size, contents: Contents::Squashfs(squashfs, inode) }))
            }
        }
    }
}

impl OpenFile<'_> {
    /// At most `length` bytes from `offset` on; fewer only where the file ends.
    pub fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        match &self.contents {
            Contents::File(file) => {
                out.resize(length.min(self.size.saturating_sub(offset) as usize), 0);
                let mut done = 0;
                while done < out.len() {
                    let read = file.read_at(&mut out[done..], offset + done as u64);
                    match read.tried(|| format!("cannot read {:?} of the image", self.path))? {
                        0 => break,
                        read => done += read,
                    }
                }
                out.truncate(done);
            }
            Contents::Squashfs(squashfs, inode) => {
                let block_bytes = u64::from(squashfs.superblock().block_size).max(1);
                let end = offset.saturating_add(length as u64).min(self.size);
                let mut at = offset;
                while at < end {
                    let skip = (at % block_bytes) as usize;
                    let block = squashfs.block(inode, at / block_bytes)?;
                    let take = block.len().saturating_sub(skip).min((end - at) as usize);
                    if take == 0 {
                        break;
                    }
                    match &block {
                        Block::Hole(_) => out.resize(out.len() + take, 0),
                        Block::Data(bytes) => out.extend_from_slice(&bytes[skip..skip + take]),
                    }
                    at += take as u64;
                }
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tree::Directory;

    #[test]
    fn pieces_of_a_file_in_a_directory_are_read_up_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), b"0123456789").unwrap();
        std::os::unix::fs::symlink("file", dir.path().join("link")).unwrap();
        let tree = Tree::Directory(Directory::open(dir.path()).unwrap());
        let file = tree.open(Path::new("/link")).unwrap().unwrap();
        assert_eq!((file.path.as_path(), file.size), (Path::new("/file"), 10));
        assert_eq!(file.read_at(3, 4).unwrap(), b"3456");
        assert_eq!(file.read_at(8, 4).unwrap(), b"89");
        assert_eq!(file.read_at(11, 4).unwrap(), b"");
        assert!(tree.open(Path::new("/")).unwrap().is_none());
        assert!(tree.open(Path::new("/none")).unwrap().is_none());
    }
}
