//! The build cache: what steps of earlier builds gave, so that only what changed is done again.
//!
//! ```text
//! CACHE/                        0700, the caller's alone
//!   CACHEDIR.TAG                says to programs that make backups what this is
//!   v1/
//!     lock                      held for the moment in which a directory of new/ gets its own lock
//!     entries/KEY/              an entry: whole, or not there
//!       lock                    held shared by who uses it; its time is when the entry was last used
//!       about.json              what it is
//!       settled                 is there when the rest is on the disk for good
//!       layer/upper             a layer: the upper directory of an overlay as it was left
//!       image                   or an image: one SquashFS file
//!     new/NAME/                 an entry that is being made or removed; `lock` is held while somebody is at it
//!     builds/DIGEST.json        what the last build of a definition was made of (see `why`)
//! ```
//!
//! There is no daemon and no table: the directories are all there is, and `rename` is what makes and ends an entry.
//!
//! - Of two builds that make the same entry the second finds that the name is taken, drops its own and goes on with
//!   the other's: everything after it stands on that one.
//! - An entry is removed by whoever gets its lock for himself, which nobody does while it is used: it is renamed into
//!   new/, where nobody looks for entries, and then taken apart.
//! - Who is killed loses his locks. What lies in new/ unlocked is nobody's and goes with the next build.
//! - What is written is not flushed to the disk at once, since that would hold up every step. An entry says in which
//!   boot of the machine it was made, and counts in no other until it is settled ([`Cache::settle`], once a build).
//! - Nothing is decided by the clock except which entries are old.
//!
//! | you look for | open |
//! |---|---|
//! | where it is | `place` |
//! | what a result is found by | [`key`] |
//! | whether a base is the same, what files hold | [`identity`], [`files`] |
//! | why a section ran | [`why`] |
//! | making entries | `keep` |
//! | listing and removing them | `clean` |

mod clean;
mod copy;
pub mod files;
pub mod identity;
mod keep;
pub mod key;
mod place;
pub mod why;

pub use clean::{Cleaned, Filter, Listed, Outcome};
pub use copy::copy_tree;
pub use place::place;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Timespec, Timestamps, UTIME_NOW};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Kind as ErrorKindOf, Result};
use crate::image::unpack::remove_tree;
use key::{FORMAT, Instance, Key};

/// No description of an entry is longer.
const ABOUT_LIMIT: u64 = 64 << 10;
/// What backup programs look for: <https://bford.info/cachedir/>.
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # Layers of skiff's builds. 'skiff cache list' shows them, 'skiff cache clean' removes them.\n";

type RemoveTree = dyn Fn(&Path) -> io::Result<()> + Send + Sync;
type CopyTree = dyn Fn(&Path, &Path) -> io::Result<()> + Send + Sync;

/// How trees are removed and copied. Layers may hold files of subordinate ids, which only a process in a user
/// namespace that maps them can remove: whoever knows of such ids brings ways of his own.
pub struct Trees {
    /// Removes a tree.
    pub remove: Box<RemoveTree>,
    /// Copies a tree to a name that is not there yet, with everything that [`copy_tree`] keeps.
    pub copy: Box<CopyTree>,
}

impl Default for Trees {
    fn default() -> Self {
        Self { remove: Box::new(remove_tree), copy: Box::new(copy_tree) }
    }
}

/// The user's cache, open.
pub struct Cache {
    place: PathBuf,
    root: PathBuf,
    trees: Trees,
    boot: String,
    unsettled: Mutex<Vec<PathBuf>>,
}

/// What an entry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// What a step changed.
    Layer,
    /// A packed base or stage.
    Image,
}

/// What made an entry, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Made {
    /// The definition's name.
    pub definition: String,
    /// The stage's name or number.
    pub stage: String,
    /// The section, with its app.
    pub section: String,
    /// The first line of its text.
    pub line: String,
    /// What it stands on: none for a base.
    pub parent: Option<Instance>,
}

/// What an entry says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Of what format it is; others do not count.
    pub format: u32,
    /// What it is found by.
    pub key: Key,
    /// Which of those with that key it is.
    pub instance: Instance,
    /// What it holds.
    pub kind: Kind,
    /// What made it.
    pub made: Made,
    /// When, in seconds since 1970.
    pub created: i64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Files, directories and so on.
    pub files: u64,
    /// The boot of the machine that it was made in.
    pub boot: String,
}

/// An entry that is in use: it stays as it is while this lives.
#[derive(Debug)]
pub struct Entry {
    /// What it says of itself.
    pub about: About,
    path: PathBuf,
    _lock: File,
}

impl Entry {
    /// The upper directory of a layer.
    pub fn upper(&self) -> PathBuf {
        self.path.join("layer/upper")
    }

    /// The file of an image.
    pub fn image(&self) -> PathBuf {
        self.path.join("image")
    }

    /// What the next key is made from.
    pub fn instance(&self) -> Instance {
        self.about.instance
    }
}

impl Cache {
    /// Opens the cache in `place`, made if it is not there, and clears away what killed builds left.
    ///
    /// # Errors
    /// When it cannot be used: the caller says so and builds without it. A cache that can be read and not written
    /// is no error.
    pub fn open(place: &Path, trees: Trees) -> Result<Self> {
        let tried = || format!("cannot use the cache in {place:?}");
        let hint = "name another directory in SKIFF_CACHEDIR";
        let root = place.join("v1");
        for directory in [place, &root, &root.join("entries"), &root.join("new"), &root.join("builds")] {
            make_directory(directory).tried(tried).map_err(|error| error.hint(hint))?;
        }
        let status = fs::metadata(&root).tried(tried)?;
        let own = rustix::process::geteuid().as_raw();
        if status.uid() != own || status.mode() & 0o022 != 0 {
            let why = if status.uid() == own { "others may write there" } else { "it is another user's" };
            return Err(Error::new(ErrorKindOf::Io, tried()).because(why).hint(hint));
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot = boot.trim_end().to_owned();
        let cache = Self { place: place.to_owned(), root, trees, boot, unsettled: Mutex::new(Vec::new()) };
        match File::create_new(place.join("CACHEDIR.TAG")) {
            Ok(mut file) => io::Write::write_all(&mut file, TAG.as_bytes()).tried(tried)?,
            // A cache that cannot be written to may be read.
            Err(error) if is_unwritable(&error) || error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).tried(tried).map_err(|error| error.hint(hint)),
        }
        // What cannot be removed now is tried again by the next one.
        let _ = cache.sweep();
        Ok(cache)
    }

    /// Where it is.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// The entry with this key, if it is there and whole.
    pub fn find(&self, key: &Key) -> Option<Entry> {
        let path = self.path_of(key);
        let lock = File::open(path.join("lock")).ok()?;
        // Held by who removes it.
        lock.try_lock_shared().ok()?;
        let entry = Entry { about: self.usable(&path, key, &lock)?, path, _lock: lock };
        // Its owner alone may do this, and a cache that can only be read has no times.
        let _ = rustix::fs::futimens(&entry._lock, &NOW);
        if entry.about.boot == self.boot && !entry.path.join("settled").exists() {
            lock_list(&self.unsettled).push(entry.path.clone());
        }
        Some(entry)
    }

    /// What a locked entry says of itself, when it can be used.
    fn usable(&self, path: &Path, key: &Key, lock: &File) -> Option<About> {
        // It may have been removed, and even made again, between finding its lock and getting it.
        let (named, held) = (fs::metadata(path.join("lock")).ok()?, lock.metadata().ok()?);
        if (named.dev(), named.ino()) != (held.dev(), held.ino()) {
            return None;
        }
        let about = read_about(path)?;
        let settled = path.join("settled").exists();
        let lasts = settled || (about.boot == self.boot && !self.boot.is_empty());
        let there = match about.kind {
            Kind::Layer => path.join("layer/upper").is_dir(),
            Kind::Image => path.join("image").is_file(),
        };
        (about.format == FORMAT && about.key == *key && lasts && there).then_some(about)
    }

    fn path_of(&self, key: &Key) -> PathBuf {
        self.root.join("entries").join(key.to_string())
    }

    /// Sees to it that what was kept is still there after a power failure. For the end of a build.
    ///
    /// # Errors
    /// When the disk says so: the entries count until the machine is started anew.
    pub fn settle(&self) -> Result<()> {
        let unsettled = std::mem::take(&mut *lock_list(&self.unsettled));
        if unsettled.is_empty() {
            return Ok(());
        }
        let tried = || format!("cannot write the cache in {:?} to the disk", self.place);
        rustix::fs::syncfs(File::open(&self.root).tried(tried)?).tried(tried)?;
        for path in unsettled {
            match File::create(path.join("settled")) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).tried(tried),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Sets the time of a file to now.
const NOW: Timestamps = {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    Timestamps { last_access: now, last_modification: now }
};

fn lock_list(list: &Mutex<Vec<PathBuf>>) -> MutexGuard<'_, Vec<PathBuf>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

fn make_directory(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
        // mkdir(2) on a read-only file system says so before it says that the directory is there.
        Err(_) if path.is_dir() => Ok(()),
        result => result,
    }
}

fn is_unwritable(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied)
        || error.raw_os_error() == Some(libc::EPERM)
}

/// What an entry says of itself; none if it says nothing that can be understood.
fn read_about(path: &Path) -> Option<About> {
    let mut text = Vec::new();
    File::open(path.join("about.json")).ok()?.take(ABOUT_LIMIT).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}
