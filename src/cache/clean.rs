//! What is in the cache of what was fetched, and making room.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use super::store::{ABANDONED, Kind, Store, is_older};
use crate::error::{Context, Result};

const DAY_SECONDS: i64 = 86400;

/// A file as it is listed.
#[derive(Debug, Clone)]
pub struct Listed {
    /// What it is.
    pub kind: Kind,
    /// What it is found by.
    pub key: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// When it was last used, in seconds since 1970.
    pub used: i64,
    /// What it was made of, where that is known.
    pub from: Option<String>,
    /// It is not whole: what a cut transfer has left.
    pub unfinished: bool,
    path: PathBuf,
}

impl Store {
    /// All files, by kind, the last used first.
    ///
    /// # Errors
    /// When the directories cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for (directory, kind) in [("images", Kind::Image), ("blobs", Kind::Blob), ("new", Kind::Blob)] {
            let path = self.root().join(directory);
            for entry in fs::read_dir(&path).tried(|| format!("cannot read the cache in {path:?}"))? {
                let Ok(entry) = entry else { continue };
                let Ok(status) = entry.metadata() else { continue };
                let name = entry.file_name().to_string_lossy().into_owned();
                if !status.is_file() || name.ends_with(".json") {
                    continue;
                }
                let seconds = |time: io::Result<std::time::SystemTime>| {
                    time.ok()
                        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
                        .map(|since| since.as_secs() as i64)
                };
                let from =
                    (directory == "images").then(|| self.about(&name)).flatten().map(|about| about.from);
                listed.push(Listed {
                    kind,
                    bytes: status.blocks() * 512,
                    created: seconds(status.created()).unwrap_or(status.mtime()),
                    used: status.atime().max(status.mtime()),
                    from,
                    unfinished: directory == "new",
                    key: name,
                    path: entry.path(),
                });
            }
        }
        listed.sort_by_key(|entry| (entry.kind == Kind::Blob, entry.unfinished, -entry.used));
        Ok(listed)
    }

    /// Removes a file. False when somebody is making it at this moment.
    ///
    /// # Errors
    /// Those of unlink(2).
    pub fn remove(&self, entry: &Listed) -> io::Result<bool> {
        if entry.unfinished {
            match File::open(&entry.path).map(|file| file.try_lock()) {
                Ok(Err(TryLockError::WouldBlock)) => return Ok(false),
                // Without locks nobody can say.
                Ok(Err(TryLockError::Error(_))) if !is_older(&entry.path, ABANDONED) => return Ok(false),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        let gone = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        };
        gone(fs::remove_file(&entry.path))?;
        if entry.kind == Kind::Image {
            gone(fs::remove_file(self.root().join("images").join(format!("{}.json", entry.key))))?;
        }
        self.forget_lock(&entry.key);
        Ok(true)
    }

    /// Forgets what names meant, those that were learnt so many days ago, and locks that nobody holds.
    pub fn forget_names(&self, days: Option<u32>) {
        let age = Duration::from_secs(days.map_or(0, |days| u64::from(days) * DAY_SECONDS.unsigned_abs()));
        let names =
            |directory: &str| fs::read_dir(self.root().join(directory)).into_iter().flatten().flatten();
        for tag in
            names("tags").map(|entry| entry.path()).filter(|path| days.is_none() || is_older(path, age))
        {
            // What stays is a few bytes that are asked for again.
            let _ = fs::remove_file(tag);
        }
        names("locks").for_each(|lock| self.forget_lock(&lock.file_name().to_string_lossy()));
    }

    /// The lock file of what is gone; who waits for it looks whether it still has its name.
    fn forget_lock(&self, key: &str) {
        let path = self.root().join("locks").join(key);
        if let Ok(file) = File::options().read(true).write(true).open(&path)
            && file.try_lock().is_ok()
        {
            // An empty file is no harm.
            let _ = fs::remove_file(&path);
        }
    }
}

impl Listed {
    /// Whether it was not used for so many days.
    pub fn is_unused_for(&self, days: u32, now: i64) -> bool {
        now - self.used >= i64::from(days) * DAY_SECONDS
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::cache::store::{About, Meant};

    #[test]
    fn what_is_there_is_listed_and_goes() {
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(place.path()).unwrap();
        for (kind, key) in [(Kind::Blob, "b"), (Kind::Image, "i")] {
            let mut new = store.begin(key, false).unwrap();
            new.file.write_all(b"x").unwrap();
            store.finish(new, kind, key).unwrap();
        }
        store.describe("i", &About { from: "docker://x".into() });
        store.begin("u", true).unwrap().file.write_all(b"x").unwrap();
        let listed = store.list().unwrap();
        let shown: Vec<_> =
            listed.iter().map(|one| (one.kind, one.from.as_deref(), one.unfinished)).collect();
        assert_eq!(
            shown,
            [(Kind::Image, Some("docker://x"), false), (Kind::Blob, None, false), (Kind::Blob, None, true)]
        );
        assert!(listed.iter().all(|entry| !entry.is_unused_for(1, entry.used + 86399)));
        let busy = store.begin("u", true).unwrap();
        assert!(!store.remove(&listed[2]).unwrap());
        drop(busy);
        for entry in &listed {
            assert!(store.remove(entry).unwrap());
        }
        assert!(store.list().unwrap().is_empty());
        store.remember("t", &Meant { name: "t".into(), digest: "i".into(), asked: 1 });
        let held = store.lock("held", &|| {});
        drop(store.lock("free", &|| {}));
        store.forget_names(Some(1));
        assert!(store.meant("t").is_some());
        store.forget_names(None);
        assert!(store.meant("t").is_none());
        let locks = || fs::read_dir(store.root().join("locks")).unwrap().count();
        assert_eq!(locks(), 1);
        drop(held);
        store.forget_names(None);
        assert_eq!(locks(), 0);
    }
}
