//! Where a build keeps its layers while it runs.
//!
//! ```text
//! PLACE/skiff-build-UID/     private; gone when it is empty
//!   NAME.lock                held (flock) by the build that it belongs to, until its directory is gone
//!   NAME/                    layers, stages, scripts
//! ```
//!
//! A lock that nobody holds is that of a killed build: the next build in that place removes what it left. PLACE is
//! what the caller says (`--tmpdir`, `SKIFF_TMPDIR` and its twins, `TMPDIR`); else the cache directory where the
//! kernel's overlays can write to it, else /var/tmp.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, StatVfsMountFlags, XattrFlags};

use crate::error::{Context, Error, Kind, Result};
use crate::host::Host;
use crate::plan::overlay::unwritable_file_system;

/// A build with less room than this cannot end well.
const LEAST_BYTES: u64 = 16 << 20;

/// What mends a place that cannot be used.
const ELSEWHERE: &str = "name a directory on a local disk with --tmpdir, SKIFF_TMPDIR or TMPDIR";

/// Removes a tree that a build has left, in the user namespace that can.
pub type Remove<'a> = &'a dyn Fn(&Path) -> Result<()>;

/// The work directory of a build, locked.
#[derive(Debug)]
pub struct WorkDirectory {
    /// Where it is.
    pub path: PathBuf,
    lock: PathBuf,
    _held: File,
}

/// Makes the work directory, after what killed builds have left there is gone.
///
/// # Errors
/// A place that cannot be used, and why.
pub fn create(asked: Option<&Path>, host: &Host, remove: Remove<'_>) -> Result<WorkDirectory> {
    let (place, origin) = choose(asked, host)?;
    let parent = place.join(format!("skiff-build-{}", host.uid));
    let tried = || format!("cannot use {parent:?} for the build ({origin})");
    for _ in 0..100 {
        match fs::DirBuilder::new().mode(0o700).create(&parent) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).tried(tried).map_err(|error| error.hint(ELSEWHERE));
            }
            _ => {}
        }
        let status = fs::symlink_metadata(&parent).tried(tried)?;
        if !status.is_dir() || status.uid() != host.uid || status.permissions().mode() & 0o077 != 0 {
            return Err(Error::host(format!("{}: it is not a private directory of yours", tried()))
                .hint(format!("remove it, or {ELSEWHERE}")));
        }
        remove_leavings(&parent, remove);
        match make(&parent) {
            Ok(made) => {
                ensure_able(&made.path, &origin)?;
                return Ok(made);
            }
            // Another build that ended took the directory away, or took our lock for a leaving.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) => {}
            Err(error) => return Err(error).tried(tried).map_err(|error| error.hint(ELSEWHERE)),
        }
    }
    Err(Error::host(format!("{}: no name is free", tried())))
}

fn make(parent: &Path) -> io::Result<WorkDirectory> {
    let nanoseconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    let name = format!("{}-{nanoseconds:08x}", std::process::id());
    let lock = parent.join(format!("{name}.lock"));
    let held = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&lock)?;
    rustix::fs::flock(&held, FlockOperation::LockExclusive)?;
    if held.metadata()?.nlink() == 0 {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    let path = parent.join(name);
    fs::DirBuilder::new().mode(0o700).create(&path)?;
    Ok(WorkDirectory { path, lock, _held: held })
}

/// Removes the directories whose locks nobody holds.
fn remove_leavings(parent: &Path, remove: Remove<'_>) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for lock in entries.flatten().map(|entry| entry.path()) {
        if lock.extension().is_none_or(|extension| extension != "lock") {
            continue;
        }
        let Ok(file) = File::open(&lock) else { continue };
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        let directory = lock.with_extension("");
        // What cannot be removed (yet: a process of the killed build may still be ending) is tried again by the next.
        if !directory.exists() || remove(&directory).is_ok() {
            let _ = fs::remove_file(&lock);
        }
    }
}

impl WorkDirectory {
    /// Removes it, with all that is in it.
    ///
    /// # Errors
    /// What cannot be removed; it is still there.
    pub fn remove(self, remove: Remove<'_>) -> Result<()> {
        remove(&self.path)?;
        fs::remove_file(&self.lock).tried(|| format!("cannot remove {:?}", self.lock))?;
        if let Some(parent) = self.path.parent() {
            // Another build may use it.
            let _ = fs::remove_dir(parent);
        }
        Ok(())
    }

    /// Leaves it where it is; gives its path. The next build does not take it for a leaving.
    ///
    /// # Errors
    /// When the lock cannot be removed.
    pub fn keep(self) -> Result<PathBuf> {
        fs::remove_file(&self.lock).tried(|| format!("cannot remove {:?}", self.lock))?;
        Ok(self.path)
    }

    /// A new directory in it.
    ///
    /// # Errors
    /// Those of mkdir(2).
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::DirBuilder::new().mode(0o755).create(&path).tried(|| format!("cannot make {path:?}"))?;
        Ok(path)
    }
}

/// Where work directories would be made.
///
/// # Errors
/// As [`create`].
pub fn place(asked: Option<&Path>, host: &Host) -> Result<PathBuf> {
    choose(asked, host).map(|(place, _)| place)
}

/// The place, and who chose it.
fn choose(asked: Option<&Path>, host: &Host) -> Result<(PathBuf, String)> {
    let named = asked.map(|path| (path.to_owned(), "--tmpdir".to_owned()));
    let named =
        named.or_else(|| host.setting("TMPDIR").map(|(variable, path)| (PathBuf::from(path), variable)));
    let tmpdir = || host.variable("TMPDIR").filter(|path| !path.is_empty());
    let named = named.or_else(|| tmpdir().map(|path| (PathBuf::from(path), "TMPDIR".to_owned())));
    if let Some((path, origin)) = named {
        let path = std::path::absolute(&path).tried(|| format!("cannot use {path:?} ({origin})"))?;
        ensure_usable(&path, &origin, host)?;
        return Ok((path, origin));
    }
    if let Ok(cache) = super::cache::place(host)
        && fs::DirBuilder::new().recursive(true).mode(0o700).create(&cache).is_ok()
        && ensure_usable(&cache, "the cache directory", host).is_ok()
    {
        return Ok((cache, "the cache directory".to_owned()));
    }
    let place = PathBuf::from("/var/tmp");
    ensure_usable(&place, "the usual place", host)?;
    Ok((place, "the usual place".to_owned()))
}

/// Whether a place can hold a build, as far as it can be told before anything is written.
fn ensure_usable(place: &Path, origin: &str, host: &Host) -> Result<()> {
    let tried = || format!("cannot build in {place:?} ({origin})");
    let refused = |why: &str| Err(Error::host(format!("{}: {why}", tried())).hint(ELSEWHERE));
    let status = fs::metadata(place).tried(tried).map_err(|error| error.hint(ELSEWHERE))?;
    if !status.is_dir() {
        return refused("it is not a directory");
    }
    rustix::fs::access(place, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
        .tried(tried)
        .map_err(|error| error.hint(ELSEWHERE))?;
    let kind = host.file_system(place).context(Kind::Host, tried)?;
    if let Some(name) = unwritable_file_system(kind) {
        return refused(&format!("it is on {name}, which the kernel's overlays cannot write to"));
    }
    let room = rustix::fs::statvfs(place).context(Kind::Host, tried)?;
    if room.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        return refused("nothing on that file system can be executed (it is mounted noexec)");
    }
    if room.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return refused("that file system is read-only");
    }
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    if free < LEAST_BYTES {
        return refused(&format!("{} MiB are free there, and a build needs more", free >> 20));
    }
    Ok(())
}

/// What an overlay needs of the file system and only shows when it is tried.
fn ensure_able(path: &Path, origin: &str) -> Result<()> {
    let set = rustix::fs::setxattr(path, "user.skiff.trial", b"y", XattrFlags::empty())
        .and_then(|()| rustix::fs::removexattr(path, "user.skiff.trial"));
    set.context(Kind::Host, || format!("cannot build in {path:?} ({origin})")).map_err(|error| {
        error.hint(format!("its file system holds no extended attributes of users; {ELSEWHERE}"))
    })
}
