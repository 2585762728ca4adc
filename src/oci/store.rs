//! Where the blobs of a local image are: files of a directory, or members of an archive, which are read in place.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{Mode, OFlags};

use super::{Blob, Digest};
use crate::error::{Context, Error, Result};

/// Where the members of an archive begin, and their lengths, by name.
pub type Members = BTreeMap<Box<[u8]>, (u64, u64)>;

/// A place that has blobs by name.
#[derive(Debug)]
pub enum Store {
    /// A directory.
    Directory(PathBuf),
    /// An archive: where its members begin, and their lengths.
    Archive {
        /// For messages.
        path: PathBuf,
        /// The archive, decompressed.
        file: File,
        /// By name.
        members: Members,
    },
}

impl Store {
    /// For messages.
    pub fn path(&self) -> &Path {
        match self {
            Self::Directory(path) | Self::Archive { path, .. } => path,
        }
    }

    /// The blob of a name, unchecked; `None` if there is none.
    ///
    /// # Errors
    /// It cannot be opened, or is no file.
    pub fn find(&self, name: &str) -> Result<Option<Blob>> {
        let (file, offset, size) = match self {
            Self::Directory(directory) => {
                let path = directory.join(name);
                let tried = || format!("cannot open {path:?}");
                // Not blocking, in case it is a pipe.
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
                let file = match rustix::fs::open(&path, flags, Mode::empty()) {
                    Ok(file) => File::from(file),
                    Err(rustix::io::Errno::NOENT) => return Ok(None),
                    Err(errno) => return Err(io::Error::from(errno)).tried(tried),
                };
                let metadata = file.metadata().tried(tried)?;
                if !metadata.is_file() {
                    return Err(Error::image(format!("cannot use {path:?}: it is no file")));
                }
                (file, 0, metadata.len())
            }
            Self::Archive { path, file, members } => {
                let Some(&(offset, size)) = members.get(name.as_bytes()) else { return Ok(None) };
                (file.try_clone().tried(|| format!("cannot open {path:?} again"))?, offset, size)
            }
        };
        let digest = Digest::from_sum([0; 32]);
        Ok(Some(Blob { digest, media_type: String::new(), size, file, offset }))
    }

    /// The same, where there has to be one.
    ///
    /// # Errors
    /// As [`Store::find`], and where there is none.
    pub fn get(&self, name: &str) -> Result<Blob> {
        let missing = || Error::image(format!("cannot use {:?}: it has no {name:?}", self.path()));
        self.find(name)?.ok_or_else(|| missing().hint("it is damaged, or not what it is said to be"))
    }
}

/// What is to be checked: a blob, and the digest that it has to have, if that is known.
pub type Check<'a> = (&'a mut Blob, Option<Digest>);

/// Reads all blobs, several at once, and sets their digests.
///
/// # Errors
/// A digest that is another than it has to be.
pub fn check(blobs: Vec<Check<'_>>) -> Result<()> {
    let threads = crate::pack::limits::threads().min(blobs.len());
    let failure = Mutex::new(None);
    let next = AtomicUsize::new(0);
    let blobs: Vec<Mutex<Check<'_>>> = blobs.into_iter().map(Mutex::new).collect();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(check) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // Each is taken by one thread, and none of them panics while it has one.
                    let Ok(mut check) = check.lock() else { return };
                    let (blob, wanted) = &mut *check;
                    if let Err(error) = check_one(blob, *wanted)
                        && let Ok(mut failure) = failure.lock()
                    {
                        failure.get_or_insert(error);
                        return;
                    }
                }
            });
        }
    });
    match failure.into_inner() {
        Ok(None) => Ok(()),
        Ok(Some(error)) => Err(error),
        Err(_) => Err(Error::new(crate::error::Kind::Internal, "a thread that checked a blob panicked")),
    }
}

fn check_one(blob: &mut Blob, wanted: Option<Digest>) -> Result<()> {
    blob.digest = blob.sum().tried(|| "cannot read a blob of the image".into())?;
    match wanted {
        Some(wanted) if wanted != blob.digest => {
            Err(Error::image(format!("blob {wanted} of the image is {} instead", blob.digest))
                .hint("it was changed or damaged: make or fetch the image again"))
        }
        _ => Ok(()),
    }
}
