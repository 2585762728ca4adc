//! What is in the cache, and making room.
//!
//! An entry goes in two steps: under its lock it is renamed into new/, from which moment nobody finds it, and then it
//! is taken apart. Who is killed in between leaves a directory in new/ that nobody holds.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::keep::{open_to_remove, seconds_now};
use super::key::{Instance, Key};
use super::{About, Cache, Kind, NOW, read_about};
use crate::error::{Context, Result};

const DAY_SECONDS: i64 = 86400;

/// An entry as it is listed.
#[derive(Debug, Clone)]
pub struct Listed {
    /// What it says of itself; none if that cannot be understood.
    pub about: Option<About>,
    /// When it was last used, in seconds since 1970.
    pub used: i64,
    /// Whether a build could still find it: not if what it stands on is gone.
    pub reachable: bool,
    path: PathBuf,
}

/// Which entries are to go.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Those not used for so many days; none for all.
    pub unused_days: Option<u32>,
    /// Those that hold one of these; none for all, damaged ones too.
    pub kinds: Option<Vec<Kind>>,
}

/// What became of an entry.
#[derive(Debug)]
pub enum Outcome {
    /// It is gone, or would be.
    Removed,
    /// A build uses it.
    InUse,
    /// It is not found any more, but some of it is still there.
    Failed(io::Error),
}

/// An entry that was to go.
#[derive(Debug)]
pub struct Cleaned {
    /// The entry.
    pub entry: Listed,
    /// What became of it.
    pub outcome: Outcome,
}

impl Cache {
    /// All entries, the one used last first.
    ///
    /// # Errors
    /// When the cache cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let entries = self.root.join("entries");
        let tried = || format!("cannot list the cache in {:?}", self.place);
        let mut listed = Vec::new();
        for entry in fs::read_dir(&entries).tried(tried)? {
            let path = entry.tried(tried)?.path();
            if path.file_name().and_then(OsStr::to_str).and_then(Key::parse).is_none() {
                continue;
            }
            // Gone in this moment, or never whole.
            let Ok(status) = fs::metadata(path.join("lock")).or_else(|_| fs::metadata(&path)) else {
                continue;
            };
            listed.push(Listed { about: read_about(&path), used: status.mtime(), reachable: true, path });
        }
        let present: HashSet<Instance> =
            listed.iter().filter_map(|entry| Some(entry.about.as_ref()?.instance)).collect();
        for entry in &mut listed {
            let parent = entry.about.as_ref().map(|about| about.made.parent);
            entry.reachable =
                parent.is_some_and(|parent| parent.is_none_or(|parent| present.contains(&parent)));
        }
        listed.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.path.cmp(&b.path)));
        Ok(listed)
    }

    /// Removes the entries that `filter` names and those that no build can find any more; with `dry_run` only says
    /// which. Those that a build uses stay.
    ///
    /// # Errors
    /// When the cache cannot be read. What cannot be removed is an [`Outcome`].
    pub fn clean(&self, filter: &Filter, dry_run: bool) -> Result<Vec<Cleaned>> {
        let now = seconds_now();
        let mut cleaned = Vec::new();
        for entry in self.list()? {
            if entry.used > now && !dry_run {
                // The clock was wrong then, or is now: its age begins anew.
                let lock = File::open(entry.path.join("lock"));
                let _ = lock.map(|lock| rustix::fs::futimens(&lock, &NOW));
            }
            if !filter.takes(&entry, now) {
                continue;
            }
            let outcome = if dry_run { Outcome::Removed } else { self.end(&entry.path) };
            cleaned.push(Cleaned { entry, outcome });
        }
        if !dry_run {
            self.clean_records(filter, now);
            // As above: what stays is tried again.
            let _ = self.sweep();
        }
        Ok(cleaned)
    }

    /// Removes the entry with this key, so that another can take its place. One that a build uses stays.
    pub fn forget(&self, key: &Key) {
        // What could not be removed is found again, and is as good as it was.
        let _ = self.end(&self.path_of(key));
    }

    /// Removes an entry unless it is used.
    fn end(&self, path: &Path) -> Outcome {
        let lock = match open_to_remove(path) {
            Ok(lock) => match lock.try_lock() {
                Ok(()) => Some(lock),
                Err(fs::TryLockError::WouldBlock) => return Outcome::InUse,
                Err(fs::TryLockError::Error(error)) => return Outcome::Failed(error),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Outcome::Failed(error),
        };
        if let Some(lock) = &lock {
            // Somebody else removed it, and perhaps it was made again.
            let identity = |status: fs::Metadata| (status.dev(), status.ino());
            let named = fs::metadata(path.join("lock")).map(identity).ok();
            if named.is_none() || named != lock.metadata().map(identity).ok() {
                return Outcome::Removed;
            }
        }
        match self.remove(path, lock) {
            Ok(()) => Outcome::Removed,
            Err(error) => Outcome::Failed(error),
        }
    }

    /// Removes an entry whose lock is held. No new file is needed for it: it works on a full disk.
    pub(super) fn remove(&self, path: &Path, lock: Option<File>) -> io::Result<()> {
        let leaving = self.root.join("new").join(Instance::random().0.to_string());
        match fs::rename(path, &leaving) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            result => result?,
        }
        let removed = (self.trees.remove)(&leaving);
        drop(lock);
        removed
    }

    /// Removes what killed builds left in new/.
    pub(super) fn sweep(&self) -> io::Result<()> {
        let all = self.lock_all()?;
        // Somebody makes or sweeps a directory just now; the next one will do it.
        if all.try_lock().is_err() {
            return Ok(());
        }
        let mut left = Vec::new();
        for entry in fs::read_dir(self.root.join("new"))? {
            let path = entry?.path();
            match open_to_remove(&path) {
                Ok(lock) if lock.try_lock().is_ok() => left.push((path, Some(lock))),
                // Somebody is at it.
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => left.push((path, None)),
                Err(_) => {}
            }
        }
        drop(all);
        for (path, lock) in left {
            match (self.trees.remove)(&path) {
                // Two that sweep at the same time.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                result => result?,
            }
            drop(lock);
        }
        Ok(())
    }

    /// Removes what is known of builds that were not repeated for as long.
    fn clean_records(&self, filter: &Filter, now: i64) {
        if filter.kinds.is_some() {
            return;
        }
        for entry in fs::read_dir(self.root.join("builds")).into_iter().flatten().flatten() {
            if entry.metadata().is_ok_and(|status| filter.is_old(status.mtime(), now)) {
                // It is only good for saying why a section ran.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

impl Filter {
    fn takes(&self, entry: &Listed, now: i64) -> bool {
        let of_kind = self
            .kinds
            .as_ref()
            .is_none_or(|kinds| entry.about.as_ref().is_some_and(|about| kinds.contains(&about.kind)));
        of_kind && (!entry.reachable || self.is_old(entry.used, now))
    }

    fn is_old(&self, used: i64, now: i64) -> bool {
        self.unused_days.is_none_or(|days| now.saturating_sub(used) >= i64::from(days) * DAY_SECONDS)
    }
}
