//! Making an entry.
//!
//! ```text
//! new/NAME/            made and locked
//!   about.json         written
//!   layer | image      moved in; copied from another file system
//! entries/KEY          the new name of all this
//! ```
//!
//! When any of this fails, what was to be kept is where it was.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::copy::copy_file;
use super::key::{FORMAT, Instance, Key};
use super::{About, Cache, Entry, Kind, Made, lock_list};
use crate::error::{Context, Error, Kind as ErrorKindOf, Result};

/// How often the name of an entry is tried for. Each time but the last somebody else was at it in the same moment.
const TRIES: usize = 16;

/// No text of what made an entry is kept longer.
const TEXT_CHARACTERS: usize = 500;

/// A directory of new/, locked. It goes with this value, unless it became an entry.
pub(super) struct Draft<'a> {
    pub(super) path: PathBuf,
    pub(super) lock: Option<File>,
    cache: &'a Cache,
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if self.lock.is_some() {
            // What stays is removed by the next build.
            let _ = (self.cache.trees.remove)(&self.path);
        }
    }
}

impl Cache {
    /// Keeps a layer: `layer` is a directory with the `upper` of an overlay that is not mounted any more. It is
    /// moved into the cache, or copied if it is on another file system. If there is an entry with this key already,
    /// that is the one that counts, and `layer` may stay or go.
    ///
    /// # Errors
    /// When it cannot be kept (no space, no right to write): `layer` is where and as it was.
    pub fn keep_layer(&self, key: &Key, layer: &Path, made: &Made) -> Result<Entry> {
        self.keep(key, Kind::Layer, layer, made)
    }

    /// Keeps an image: a file, moved or copied in the same way.
    ///
    /// # Errors
    /// As [`Cache::keep_layer`].
    pub fn keep_image(&self, key: &Key, file: &Path, made: &Made) -> Result<Entry> {
        self.keep(key, Kind::Image, file, made)
    }

    fn keep(&self, key: &Key, kind: Kind, from: &Path, made: &Made) -> Result<Entry> {
        if let Some(entry) = self.find(key) {
            return Ok(entry);
        }
        let tried = || format!("cannot keep {:?} in the cache in {:?}", made.section, self.place);
        let draft = self.draft().tried(tried)?;
        let about = self.describe(key, kind, from, made);
        let json = serde_json::to_vec(&about).tried(tried)?;
        File::create(draft.path.join("about.json"))
            .and_then(|mut file| file.write_all(&json))
            .tried(tried)?;
        let inside = draft.path.join(if kind == Kind::Layer { "layer" } else { "image" });
        let moved = self.bring(kind, from, &inside).tried(tried)?;
        if kind == Kind::Layer {
            // The overlay's own, empty since it was unmounted. Other people's leftovers in it go with the entry.
            let _ = fs::remove_dir(inside.join("work/work"));
            let _ = fs::remove_dir(inside.join("work"));
        }
        self.publish(draft, about).map_err(|(draft, error)| {
            // Within one file system and with both names just used, this works.
            let back = if moved { fs::rename(&inside, from) } else { Ok(()) };
            drop(draft);
            Error::new(ErrorKindOf::Io, tried()).because(back.err().unwrap_or(error))
        })
    }

    fn describe(&self, key: &Key, kind: Kind, from: &Path, made: &Made) -> About {
        let (bytes, files) = measure(&if kind == Kind::Layer { from.join("upper") } else { from.to_owned() });
        About {
            format: FORMAT,
            key: *key,
            instance: Instance::random(),
            kind,
            made: made.shortened(),
            created: seconds_now(),
            bytes,
            files,
            boot: self.boot.clone(),
        }
    }

    /// A new directory in new/ that nobody else touches.
    pub(super) fn draft(&self) -> io::Result<Draft<'_>> {
        // Between mkdir and flock it would look like the leavings of somebody killed.
        let all = self.lock_all()?;
        all.lock_shared()?;
        let path = self.root.join("new").join(Instance::random().0.to_string());
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        let lock = File::create_new(path.join("lock")).and_then(|lock| lock.lock_shared().map(|()| lock));
        match lock {
            // Shared, so that it can be used under its new name at once; against who removes, that is enough.
            Ok(lock) => Ok(Draft { path, lock: Some(lock), cache: self }),
            Err(error) => {
                // Empty, or with an empty file.
                let _ = fs::remove_file(path.join("lock"));
                let _ = fs::remove_dir(&path);
                Err(error)
            }
        }
    }

    pub(super) fn lock_all(&self) -> io::Result<File> {
        // NFS gives shared locks to readers alone, and the other kind to writers.
        File::options().create(true).truncate(false).read(true).write(true).open(self.root.join("lock"))
    }

    /// Brings a layer or an image in. True if it was moved, false if copied.
    fn bring(&self, kind: Kind, from: &Path, to: &Path) -> io::Result<bool> {
        match fs::rename(from, to) {
            Err(error) if error.kind() == ErrorKind::CrossesDevices => {}
            result => return result.map(|()| true),
        }
        match kind {
            Kind::Image => copy_file(from, to)?,
            Kind::Layer => {
                fs::create_dir(to)?;
                (self.trees.copy)(&from.join("upper"), &to.join("upper"))?;
            }
        }
        Ok(false)
    }

    /// Gives a draft the name of its key, or takes the entry that has it.
    fn publish<'a>(&self, mut draft: Draft<'a>, about: About) -> Result<Entry, (Draft<'a>, io::Error)> {
        let path = self.path_of(&about.key);
        for _ in 0..TRIES {
            match rename_new(&draft.path, &path) {
                Ok(()) => {
                    lock_list(&self.unsettled).push(path.clone());
                    let Some(lock) = draft.lock.take() else { break };
                    return Ok(Entry { about, path, _lock: lock });
                }
                Err(error) if is_taken(&error) => {}
                Err(error) => return Err((draft, error)),
            }
            if let Some(entry) = self.find(&about.key) {
                return Ok(entry);
            }
            // One that is damaged, was cut off by a power failure, or is just going.
            if let Err(error) = self.give_way(&path) {
                return Err((draft, error));
            }
        }
        Err((draft, io::Error::other("another machine uses an entry with this key that is not whole here")))
    }

    /// Removes an entry that cannot be used, or waits for who is removing it.
    fn give_way(&self, path: &Path) -> io::Result<()> {
        match open_to_remove(path) {
            Ok(lock) => match lock.try_lock() {
                Ok(()) => self.remove(path, Some(lock)),
                // It is free when it has another name, or nobody is at it any more.
                Err(fs::TryLockError::WouldBlock) => lock.lock_shared(),
                Err(fs::TryLockError::Error(error)) => Err(error),
            },
            Err(error) if error.kind() == ErrorKind::NotFound && path.exists() => self.remove(path, None),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The lock of an entry, for who wants it for himself: on NFS it must be open for writing.
pub(super) fn open_to_remove(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).open(path.join("lock"))
}

/// Renames to a name that nothing has.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system without that flag. A directory that is not empty is never replaced.
        Err(Errno::INVAL | Errno::NOSYS) => fs::rename(from, to),
        result => Ok(result?),
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty)
}

impl Made {
    /// As it is written down: texts of people may be of any length.
    fn shortened(&self) -> Self {
        let short = |text: &String| text.chars().take(TEXT_CHARACTERS).collect();
        Self {
            definition: short(&self.definition),
            stage: short(&self.stage),
            section: short(&self.section),
            line: short(&self.line),
            parent: self.parent,
        }
    }
}

/// Seconds since 1970.
pub(super) fn seconds_now() -> i64 {
    let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    since(SystemTime::now())
}

/// Bytes on disk and number of files of a tree, hard links counted once. Directories that are closed to the caller
/// count as one.
pub(super) fn measure(path: &Path) -> (u64, u64) {
    let (mut bytes, mut files) = (0, 0);
    let mut seen = std::collections::HashSet::new();
    let mut ahead = vec![path.to_owned()];
    while let Some(path) = ahead.pop() {
        let Ok(status) = fs::symlink_metadata(&path) else { continue };
        if status.nlink() > 1 && !status.is_dir() && !seen.insert((status.dev(), status.ino())) {
            continue;
        }
        bytes += status.blocks() * 512;
        files += 1;
        if status.is_dir() {
            ahead.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    (bytes, files)
}
