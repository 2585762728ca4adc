//! An image, opened once: so far a directory only. `Tree::entry` (the last link not followed, no links in
//! the parents) and `Tree::link` (its target) are what the plan walks a container's paths with.
pub mod sif;
pub mod source;
pub mod squashfs {
    //! The kinds of files that an image can have.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[allow(missing_docs)]
    pub enum FileKind {
        Directory,
        Regular,
        Symlink,
        BlockDevice,
        CharDevice,
        Fifo,
        Socket,
    }
}
#[allow(missing_docs)]
mod directory {
    use super::squashfs::FileKind;
    use crate::error::*;
    use std::ffi::OsString;
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    #[derive(Debug, PartialEq, Eq, Clone, Copy)]
    pub enum Format {
        Sif,
        Squashfs,
        Sandbox,
    }
    pub struct Image {
        pub path: PathBuf,
        pub format: Format,
        pub file: Arc<File>,
        pub partition: Option<super::source::Source>,
        pub sif: Option<super::sif::Sif>,
    }
    pub fn open(path: &Path) -> Result<Image> {
        let file = File::open(path).tried(|| format!("cannot open image {path:?}"))?;
        Ok(Image {
            path: path.to_owned(),
            format: Format::Sandbox,
            file: Arc::new(file),
            partition: None,
            sif: None,
        })
    }
    impl Image {
        pub fn tree(&self) -> Result<Tree> {
            Ok(Tree::Directory(self.path.clone()))
        }
    }
    pub enum Tree {
        Directory(PathBuf),
    }
    pub struct Entry {
        pub path: PathBuf,
        pub kind: FileKind,
        pub mode: u32,
        pub size: u64,
    }
    impl Tree {
        fn real(&self, path: &Path) -> PathBuf {
            let Tree::Directory(root) = self;
            root.join(path.strip_prefix("/").unwrap_or(path))
        }
        pub fn entry(&self, path: &Path) -> Result<Option<Entry>> {
            let Ok(m) = std::fs::symlink_metadata(self.real(path)) else { return Ok(None) };
            let kind = if m.is_dir() {
                FileKind::Directory
            } else if m.is_symlink() {
                FileKind::Symlink
            } else {
                FileKind::Regular
            };
            Ok(Some(Entry { path: path.to_owned(), kind, mode: m.mode() & 0o7777, size: m.len() }))
        }
        pub fn link(&self, path: &Path) -> Result<Option<PathBuf>> {
            Ok(std::fs::read_link(self.real(path)).ok())
        }
        pub fn lookup(&self, path: &Path) -> Result<Option<Entry>> {
            let mut cur = PathBuf::from("/");
            let mut left: Vec<_> = path.components().rev().map(|c| c.as_os_str().to_owned()).collect();
            let mut n = 0;
            while let Some(c) = left.pop() {
                if c == "/" {
                    cur = "/".into();
                    continue;
                }
                if c == ".." {
                    cur.pop();
                    continue;
                }
                cur.push(&c);
                if let Some(l) = self.link(&cur)? {
                    n += 1;
                    if n > 40 {
                        return Err(Error::image("too many links"));
                    }
                    cur.pop();
                    left.extend(l.components().rev().map(|c| c.as_os_str().to_owned()));
                }
            }
            self.entry(&cur)
        }
        pub fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
            let Some(e) = self.lookup(path)? else { return Ok(None) };
            assert!(e.size <= limit);
            Ok(Some(std::fs::read(self.real(&e.path)).tried(|| "read".into())?))
        }
        pub fn list(&self, path: &Path) -> Result<Vec<OsString>> {
            let Some(e) = self.lookup(path)? else { return Ok(vec![]) };
            Ok(std::fs::read_dir(self.real(&e.path))
                .tried(|| "list".into())?
                .flatten()
                .map(|e| e.file_name())
                .collect())
        }
    }
}
pub use directory::*;
