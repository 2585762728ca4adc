//! Files of the cache: finding, locking, making.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Kind as ErrorKindOf, Result};

/// What backup programs look for: <https://bford.info/cachedir/>.
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # Layers of skiff's builds, images that it fetched. 'skiff cache list' shows them, 'skiff cache clean' removes them.\n";
/// No description is longer.
const ABOUT_LIMIT: u64 = 64 << 10;
/// What nobody has written to for so long is nobody's any more.
pub(super) const ABANDONED: Duration = Duration::from_secs(86400);
/// The directories, the first of them that of the rest.
const DIRECTORIES: [&str; 6] = ["", "blobs", "images", "tags", "new", "locks"];

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Bytes with the digest that is the key.
    Blob,
    /// An image.
    Image,
}

impl Kind {
    pub(super) fn directory(self) -> &'static str {
        match self {
            Self::Blob => "blobs",
            Self::Image => "images",
        }
    }
}

/// What an image says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// The name that it was first made for.
    pub from: String,
}

/// What a name meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meant {
    /// The name, as it was asked for.
    pub name: String,
    /// The digest of its manifest.
    pub digest: String,
    /// When, in seconds since 1970.
    pub asked: i64,
}

/// The cache, open.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    /// Why nothing more is written into it.
    given_up: OnceLock<i32>,
}

/// The right to make something, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    /// Nothing where the file system has no locks.
    file: Option<File>,
}

impl Lock {
    /// Whether nobody else of this machine can be at it.
    pub fn excludes(&self) -> bool {
        self.file.is_some()
    }
}

/// A file that is being made.
#[derive(Debug)]
pub struct NewFile {
    /// The file, open for reading and writing.
    pub file: File,
    path: PathBuf,
    /// Left where it is when it is dropped, for who takes it up again.
    stays: bool,
    named: bool,
}

impl NewFile {
    /// Takes it away, also where it would stay.
    pub fn discard(mut self) {
        self.stays = false;
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.stays && !self.named {
            // There is an error already that brought us here.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Store {
    /// Opens the cache in `place`, made if it is not there. One that can be read and not written is no error.
    ///
    /// # Errors
    /// When it cannot be used at all: the caller says so and does without.
    pub fn open(place: &Path) -> Result<Self> {
        let tried = || format!("cannot use the cache in {place:?}");
        let hint = "name another directory in SKIFF_CACHEDIR";
        let hinted = |error: Error| error.hint(hint);
        let root = place.join("fetched");
        if !root.join(DIRECTORIES[DIRECTORIES.len() - 1]).is_dir() {
            make_directory(place).tried(tried).map_err(hinted)?;
            for directory in DIRECTORIES {
                make_directory(&root.join(directory)).tried(tried).map_err(hinted)?;
            }
            // Only for other programs.
            let _ = File::create_new(place.join("CACHEDIR.TAG"))
                .and_then(|mut file| io::Write::write_all(&mut file, TAG.as_bytes()));
        }
        let status = fs::metadata(&root).tried(tried)?;
        let own = rustix::process::geteuid().as_raw();
        // Who may write there chooses what others run.
        if ![own, 0].contains(&status.uid()) || status.mode() & 0o022 != 0 {
            let why = if status.uid() == own { "others may write there" } else { "it is another user's" };
            return Err(Error::new(ErrorKindOf::Io, tried()).because(why).hint(hint));
        }
        Ok(Self { root, given_up: OnceLock::new() })
    }

    /// Nothing more is written into it by this process, and what to say of that; nothing the second time.
    pub fn give_up(&self, error: &io::Error) -> Option<String> {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        self.given_up.set(errno).ok().map(|()| {
            let place = self.root.parent().unwrap_or(&self.root);
            let what = Error::new(ErrorKindOf::Io, format!("going on without the cache in {place:?}"));
            let full = [libc::ENOSPC, libc::EDQUOT].contains(&errno);
            let how = if full { "'skiff cache clean' makes room; " } else { "" };
            let why = what.because(io::Error::from_raw_os_error(errno));
            format!("{why}; {how}SKIFF_CACHEDIR names another directory")
        })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where a file is or would be.
    pub fn path(&self, kind: Kind, key: &str) -> PathBuf {
        self.root.join(kind.directory()).join(key)
    }

    /// A file that is there; of another size it is none.
    pub fn find(&self, kind: Kind, key: &str, size: Option<u64>) -> Option<File> {
        let file = File::open(self.path(kind, key)).ok()?;
        let status = file.metadata().ok()?;
        if !status.is_file()
            || size.is_some_and(|size| size != status.len())
            || status.len() == 0 && size.is_none()
        {
            return None;
        }
        // It is when it was last used: of an image the time of access, since its time of change is what running
        // containers know it by. A cache that can only be read keeps no such time.
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let _ = rustix::fs::futimens(&file, &Timestamps { last_access: now, last_modification: omit });
        Some(file)
    }

    /// Waits until nobody else makes what has this key; `waits` is called once if that takes time.
    pub fn lock(&self, key: &str, waits: &dyn Fn()) -> Lock {
        let path = self.root.join("locks").join(key);
        loop {
            let opened =
                File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
            let Ok(file) = opened else { return Lock { file: None } };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    waits();
                    if file.lock().is_err() {
                        return Lock { file: None };
                    }
                }
                // A file system without locks.
                Err(TryLockError::Error(_)) => return Lock { file: None },
            }
            // Whoever clears away takes the lock before he removes its file.
            let same = |named: fs::Metadata| file.metadata().is_ok_and(|held| held.ino() == named.ino());
            if fs::metadata(&path).is_ok_and(same) {
                return Lock { file: Some(file) };
            }
        }
    }

    /// Begins a file. With a lock that excludes others of this machine, `resumes` says that what an earlier attempt
    /// has left of it is to be gone on with: it is then not empty.
    ///
    /// # Errors
    /// Those of open(2): a cache that is full or can only be read, or was given up.
    pub fn begin(&self, key: &str, resumes: bool) -> io::Result<NewFile> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if let Some(errno) = self.given_up.get() {
            return Err(io::Error::from_raw_os_error(*errno));
        }
        let machine = machine();
        let own = match resumes {
            true => String::new(),
            false => format!(".{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)),
        };
        let path = self.root.join("new").join(format!("{key}.{machine}{own}"));
        let file =
            File::options().read(true).write(true).create(true).truncate(!resumes).mode(0o600).open(&path)?;
        // Says to who clears away that somebody is at it.
        let _ = file.try_lock_shared();
        Ok(NewFile { file, path, stays: resumes, named: false })
    }

    /// Removes what processes that were killed have left of something, so that it is not for ever: who holds its lock
    /// knows that nobody of this machine is at it; of others' what has not been written to for a day.
    pub fn sweep(&self, key: &str, lock: &Lock) {
        let own = format!("{key}.{}.", machine());
        // What cannot be looked at or removed is in nobody's way.
        for entry in fs::read_dir(self.root.join("new")).into_iter().flatten().flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            let bytes = name.as_encoded_bytes();
            let left = lock.excludes() && bytes.starts_with(own.as_bytes());
            if left || bytes.starts_with(format!("{key}.").as_bytes()) && is_older(&path, ABANDONED) {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Gives a file its name, when it is on the disk; gives it open for reading alone.
    ///
    /// # Errors
    /// Those of fsync(2) and rename(2).
    pub fn finish(&self, mut new: NewFile, kind: Kind, key: &str) -> io::Result<File> {
        new.file.sync_data()?;
        let path = self.path(kind, key);
        fs::rename(&new.path, &path)?;
        new.named = true;
        File::open(path)
    }

    /// Writes down what an image was made of. It is for people alone, so that it may fail.
    pub fn describe(&self, key: &str, about: &About) {
        let path = self.root.join("images").join(format!("{key}.json"));
        if let Ok(text) = serde_json::to_vec(about) {
            let _ = self.replace(&path, &text);
        }
    }

    pub(super) fn about(&self, key: &str) -> Option<About> {
        read_json(&self.root.join("images").join(format!("{key}.json")))
    }

    /// What a name meant when it was last asked for; `key` is made of all that the answer depends on.
    pub fn meant(&self, key: &str) -> Option<Meant> {
        read_json(&self.root.join("tags").join(key))
    }

    /// Remembers what a name means. What cannot be kept is asked for again.
    pub fn remember(&self, key: &str, meant: &Meant) {
        if let Ok(text) = serde_json::to_vec(meant) {
            let _ = self.replace(&self.root.join("tags").join(key), &text);
        }
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut new = self.begin("text", false)?;
        io::Write::write_all(&mut new.file, bytes)?;
        fs::rename(&new.path, path)?;
        new.named = true;
        Ok(())
    }
}

/// Whether an error says that there is no room in the cache, or no leave to write there.
pub fn is_unwritable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ReadOnlyFilesystem
            | ErrorKind::PermissionDenied
            | ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::FileTooLarge
    )
}

/// Whether a file was not written to for so long.
pub(super) fn is_older(path: &Path, age: Duration) -> bool {
    let modified = fs::symlink_metadata(path).and_then(|status| status.modified());
    modified.is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|since| since > age))
}

/// This machine as long as it runs. Its name alone may be that of others too, and where locks hold within a machine
/// only, two of one name would write into one file.
fn machine() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().replace('/', "_");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    format!("{host}-{}", boot.get(..8).unwrap_or_default())
}

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Option<T> {
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(File::open(path).ok()?, ABOUT_LIMIT), &mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        // mkdir(2) on a read-only file system says so before it says that the directory is there.
        Err(_) if path.is_dir() => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(&place.path().join("cache")).unwrap();
        (place, store)
    }

    #[test]
    fn a_file_is_there_when_it_is_whole() {
        let (_place, store) = store();
        let mut new = store.begin("ab", false).unwrap();
        new.file.write_all(b"12345").unwrap();
        assert!(store.find(Kind::Blob, "ab", None).is_none());
        store.finish(new, Kind::Blob, "ab").unwrap();
        assert!(store.find(Kind::Blob, "ab", Some(5)).is_some());
        assert!(store.find(Kind::Blob, "ab", Some(6)).is_none());
        assert!(store.find(Kind::Image, "ab", None).is_none());
        drop(store.begin("cd", false).unwrap());
        store.begin("cd", true).unwrap().discard();
        assert_eq!(fs::read_dir(store.root.join("new")).unwrap().count(), 0);
    }

    #[test]
    fn what_was_killed_is_swept_away_and_what_others_make_is_not() {
        let (_place, store) = store();
        let new = store.root.join("new");
        let own = format!("ab.{}", machine());
        for name in
            [&own, &format!("{own}.1-0"), "ab.other-01234567.1-0", "abc.1", &format!("cd.{}.1-0", machine())]
        {
            fs::write(new.join(name), b"x").unwrap();
        }
        File::create(new.join("ab.old-01234567.1-0")).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let there = || fs::read_dir(&new).unwrap().count();
        store.sweep("ab", &Lock { file: None });
        assert_eq!(there(), 5, "what is old is gone");
        store.sweep("ab", &store.lock("ab", &|| {}));
        assert_eq!(there(), 4);
        assert!(new.join(&own).exists(), "what can be gone on with stays");
    }

    #[test]
    fn a_cache_is_given_up_once() {
        let (_place, store) = store();
        let full = io::Error::from_raw_os_error(libc::ENOSPC);
        assert!(store.give_up(&full).unwrap().contains("skiff cache clean"));
        assert_eq!(store.give_up(&full), None);
        assert_eq!(store.begin("ab", false).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    }

    #[test]
    fn what_was_cut_is_gone_on_with() {
        let (_place, store) = store();
        store.begin("ab", true).unwrap().file.write_all(b"123").unwrap();
        let new = store.begin("ab", true).unwrap();
        assert_eq!(new.file.metadata().unwrap().len(), 3);
    }

    #[test]
    fn one_makes_and_the_others_wait() {
        let (_place, store) = store();
        let count = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let lock = store.lock("ab", &|| {});
                    assert!(lock.excludes());
                    if store.find(Kind::Blob, "ab", None).is_none() {
                        count.fetch_add(1, Ordering::Relaxed);
                        let mut new = store.begin("ab", true).unwrap();
                        new.file.write_all(b"x").unwrap();
                        store.finish(new, Kind::Blob, "ab").unwrap();
                    }
                });
            }
        });
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn names_are_remembered_and_others_may_not_write() {
        let (place, store) = store();
        let meant = Meant { name: "a".into(), digest: "b".into(), asked: 1 };
        store.remember("ab", &meant);
        assert_eq!(store.meant("ab"), Some(meant));
        fs::set_permissions(&store.root, fs::Permissions::from_mode(0o777)).unwrap();
        let error = Store::open(&place.path().join("cache")).unwrap_err();
        assert!(error.to_string().contains("others may write"), "{error}");
    }
}
