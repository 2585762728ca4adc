//! Output that appears complete or not at all.
//!
//! ```text
//! file        O_TMPFILE in the target's directory, no name -> fsync -> linkat, or linkat and rename over the
//!             old one -> fsync of the directory. Even kill -9 leaves nothing.
//!             Where the file system has no O_TMPFILE (NFS, Lustre): a name of its own, removed on failure.
//! directory   a name of its own beside the target, mode 0700 -> rename, or exchange with the old one,
//!             which then goes. Not synced: a sandbox is a working copy, and a sync would wait for
//!             the disk to write all of it.
//! ```

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, linkat, openat, renameat, renameat_with, statvfs, unlinkat,
};
use rustix::io::Errno;

use crate::commands::amount;
use crate::error::{Context, Error, Result};
use crate::image::unpack::remove_tree;

/// Permission bits of an image before the umask: it is a program.
const FILE_MODE: Mode = Mode::from_raw_mode(0o755);

/// The directory that `target` is or will be in.
pub fn parent(target: &Path) -> &Path {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Where an output goes, its directory open.
#[derive(Debug)]
struct Place {
    target: PathBuf,
    directory: OwnedFd,
    name: OsString,
}

impl Place {
    fn open(target: &Path) -> Result<Self> {
        let Some(name) = target.file_name() else {
            return Err(Error::usage(format!("cannot make {target:?}: it names no file")));
        };
        let parent = parent(target);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, parent, flags, Mode::empty())
            .map_err(io::Error::from)
            .tried(|| format!("cannot use directory {parent:?}"))?;
        Ok(Self { target: target.to_owned(), directory, name: name.to_owned() })
    }

    /// A name beside the target's that says whose it is, different for each `try_number`.
    fn temporary(&self, try_number: u32) -> OsString {
        let mut name = OsString::from(".");
        name.push(&self.name);
        name.push(format!(".skiff-{}-{try_number}", std::process::id()));
        name
    }

    /// Calls `make` with temporary names until one is free.
    fn with_free_name<T>(&self, make: impl Fn(&OsStr) -> Result<T, Errno>) -> Result<(OsString, T), Errno> {
        for try_number in 0..100 {
            let name = self.temporary(try_number);
            match make(&name) {
                Err(Errno::EXIST) => {}
                result => return result.map(|made| (name, made)),
            }
        }
        Err(Errno::EXIST)
    }

    /// Adds to an error for lack of room where it is lacking.
    fn explain(&self, error: Error) -> Error {
        let directory = parent(&self.target);
        let free = || match statvfs(directory) {
            Ok(status) => amount(status.f_bavail.saturating_mul(status.f_frsize)),
            Err(_) => "unknown".to_owned(),
        };
        match error.errno() {
            Some(libc::ENOSPC) => error.hint(format!(
                "the file system of {directory:?} is full (free now that the unfinished output is gone or going: {}); \
                 make room there or write elsewhere",
                free()
            )),
            Some(libc::EDQUOT) => {
                error.hint(format!("your quota on the file system of {directory:?} is used up: make room there"))
            }
            Some(libc::EFBIG) => error.hint("the file size limit is in the way ('ulimit -f' shows it)"),
            _ => error,
        }
    }

    fn sync(&self) -> Result<()> {
        match rustix::fs::fsync(&self.directory) {
            // Some network file systems cannot sync a directory; the entry is theirs to keep.
            Ok(()) | Err(Errno::INVAL | Errno::NOTSUP | Errno::BADF) => Ok(()),
            Err(errno) => Err(io::Error::from(errno)).tried(|| format!("cannot write {:?}", self.target)),
        }
    }
}

fn exists(target: &Path) -> Error {
    Error::usage(format!("{target:?} exists")).hint("--force replaces it")
}

/// A file that gets its name when it is complete. Dropped before, it is gone.
#[derive(Debug)]
pub struct NewFile {
    place: Place,
    /// Its temporary name, where it must have one.
    temporary: Option<OsString>,
    force: bool,
}

impl NewFile {
    /// Starts a file that will be `target`, or what the link `target` leads to; gives it open for reading
    /// and writing.
    ///
    /// # Errors
    /// When `target` exists and `force` is not set, when it is no regular file, or its directory cannot be
    /// written to.
    pub fn create(target: &Path, force: bool) -> Result<(Self, File)> {
        let real = if target.is_symlink() {
            fs::canonicalize(target).unwrap_or(target.to_owned())
        } else {
            target.to_owned()
        };
        match fs::symlink_metadata(&real) {
            Ok(old) if old.is_dir() => {
                return Err(Error::usage(format!("cannot make image {target:?}: it is a directory"))
                    .hint("--sandbox unpacks an image into a directory"));
            }
            Ok(old) if !old.is_file() => {
                return Err(Error::usage(format!("cannot make image {target:?}: it is not a regular file")));
            }
            Ok(_) if !force => return Err(exists(target)),
            _ => {}
        }
        let place = Place::open(&real)?;
        let failed = || format!("cannot make image {target:?}");
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let proc = Path::new("/proc/self/fd").exists();
        let (temporary, file) = match openat(&place.directory, c".", flags | OFlags::TMPFILE, FILE_MODE) {
            Ok(file) if proc => (None, file),
            // No such thing here; or a failure that the other way will tell.
            _ => {
                let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let made = place.with_free_name(|name| openat(&place.directory, name, flags, FILE_MODE));
                let (name, file) = made.map_err(|errno| place.explain(io_error(errno, failed())))?;
                (Some(name), file)
            }
        };
        Ok((Self { place, temporary, force }, File::from(file)))
    }

    /// Adds to an error for lack of room where it is lacking.
    pub fn explain(&self, error: Error) -> Error {
        self.place.explain(error)
    }

    /// Gives `file`, which [`NewFile::create`] gave, its name when it is on disk.
    ///
    /// # Errors
    /// When it cannot be written to disk, or something of that name has appeared and `force` is not set.
    pub fn finish(mut self, file: &File) -> Result<()> {
        let message = format!("cannot write {:?}", self.place.target);
        file.sync_all().tried(|| message.clone()).map_err(|error| self.place.explain(error))?;
        self.give_name(file).map_err(|errno| match errno {
            Errno::EXIST => exists(&self.place.target),
            errno => self.place.explain(io_error(errno, message)),
        })?;
        self.temporary = None;
        self.place.sync()
    }

    fn give_name(&mut self, file: &File) -> Result<(), Errno> {
        let Place { directory, name, .. } = &self.place;
        if self.temporary.is_none() {
            let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
            let link = |name: &OsStr| linkat(CWD, unnamed.as_str(), directory, name, AtFlags::SYMLINK_FOLLOW);
            match link(name) {
                Err(Errno::EXIST) if self.force => {}
                result => return result,
            }
            // linkat does not replace: a name of its own first.
            self.temporary = Some(self.place.with_free_name(link)?.0);
        }
        let temporary = self.temporary.as_deref().unwrap_or_default();
        if !self.force {
            match renameat_with(directory, temporary, directory, name, RenameFlags::NOREPLACE) {
                // The file system does not know the flag.
                Err(Errno::INVAL | Errno::NOSYS) => {}
                result => return result,
            }
        }
        renameat(directory, temporary, directory, name)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(name) = &self.temporary {
            // There is an error already that brought us here.
            let _ = unlinkat(&self.place.directory, name, AtFlags::empty());
        }
    }
}

fn io_error(errno: Errno, tried: String) -> Error {
    Error::new(crate::error::Kind::Io, tried).because(io::Error::from(errno))
}

/// A directory that gets its name when it is complete. Dropped before, it is gone.
#[derive(Debug)]
pub struct NewDirectory {
    place: Place,
    temporary: Option<OsString>,
    force: bool,
}

impl NewDirectory {
    /// Starts a directory that will be `target`; gives it open.
    ///
    /// # Errors
    /// When `target` is a directory with something in it and `force` is not set, when it is no directory,
    /// or its parent cannot be written to.
    pub fn create(target: &Path, force: bool) -> Result<(Self, OwnedFd)> {
        let tried = || format!("cannot make sandbox {target:?}");
        // "tree/" and "tree/." have a name too.
        let real = match fs::symlink_metadata(target) {
            Ok(_) => fs::canonicalize(target).tried(tried)?,
            Err(_) => target.to_owned(),
        };
        ensure_replaceable(target, &real, force)?;
        let place = Place::open(&real)?;
        let made = place.with_free_name(|name| rustix::fs::mkdirat(&place.directory, name, Mode::RWXU));
        let (temporary, ()) = made.map_err(|errno| place.explain(io_error(errno, tried())))?;
        let new = Self { place, temporary: Some(temporary.clone()), force };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = openat(&new.place.directory, &temporary, flags, Mode::empty());
        let root = root.map_err(|errno| io_error(errno, tried()))?;
        Ok((new, root))
    }

    /// Adds to an error for lack of room where it is lacking.
    pub fn explain(&self, error: Error) -> Error {
        self.place.explain(error)
    }

    /// Gives the directory its name; the old one, if there is one, is removed after that.
    ///
    /// # Errors
    /// When something of that name has appeared and `force` is not set, or the old one cannot be removed.
    pub fn finish(mut self) -> Result<()> {
        let Place { directory, name, .. } = &self.place;
        let temporary = self.temporary.as_deref().unwrap_or_default();
        // Replaces an empty directory, and nothing else.
        match renameat(directory, temporary, directory, name) {
            Ok(()) => {
                self.temporary = None;
                return Ok(());
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) if self.force => {}
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => return Err(exists(&self.place.target)),
            Err(errno) => {
                return Err(io_error(errno, format!("cannot make sandbox {:?}", self.place.target)));
            }
        }
        let result = self.exchange();
        result.map_err(|errno| io_error(errno, format!("cannot replace {:?}", self.place.target)))?;
        let old = self.temporary.take().unwrap_or_default();
        let old = parent(&self.place.target).join(old);
        remove_tree(&old).tried(|| format!("cannot remove the old sandbox, now {old:?}"))
    }

    /// The new and the old directory change names; `temporary` is then the old one's.
    fn exchange(&mut self) -> Result<(), Errno> {
        let Place { directory, name, .. } = &self.place;
        let temporary = self.temporary.as_deref().unwrap_or_default();
        match renameat_with(directory, temporary, directory, name, RenameFlags::EXCHANGE) {
            Err(Errno::INVAL | Errno::NOSYS) => {}
            result => return result,
        }
        // A file system that cannot exchange: for a moment there is none.
        let aside = self.place.with_free_name(|aside| {
            renameat_with(directory, name, directory, aside, RenameFlags::NOREPLACE)
                .or_else(|_| renameat(directory, name, directory, aside))
        })?;
        match renameat(directory, temporary, directory, name) {
            Ok(()) => {
                self.temporary = Some(aside.0);
                Ok(())
            }
            Err(errno) => {
                renameat(directory, &aside.0, directory, name)?;
                Err(errno)
            }
        }
    }
}

impl Drop for NewDirectory {
    fn drop(&mut self) {
        if let Some(name) = &self.temporary {
            // There is an error already that brought us here.
            let _ = remove_tree(&parent(&self.place.target).join(name));
        }
    }
}

/// Refuses to replace what is not an empty directory, unless forced; and even then what is in use.
fn ensure_replaceable(target: &Path, real: &Path, force: bool) -> Result<()> {
    let Ok(old) = fs::symlink_metadata(real) else { return Ok(()) };
    if !old.is_dir() {
        return Err(Error::usage(format!(
            "cannot make sandbox {target:?}: it exists and is not a directory"
        )));
    }
    let mut entries = fs::read_dir(real).tried(|| format!("cannot look into {target:?}"))?;
    if entries.next().is_none() {
        return Ok(());
    }
    if !force {
        return Err(Error::usage(format!("{target:?} exists and is not empty")).hint("--force replaces it"));
    }
    let inside = [std::env::current_dir().ok(), std::env::var_os("HOME").map(PathBuf::from)];
    if inside.iter().flatten().any(|path| path.starts_with(real)) {
        return Err(Error::usage(format!(
            "cannot replace {target:?}: it holds the home or working directory"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(directory: &Path) -> Vec<OsString> {
        let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_has_its_name_when_it_is_finished() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("a.sif");
        let (new, mut file) = NewFile::create(&target, false).unwrap();
        file.write_all(b"content").unwrap();
        assert!(!target.exists());
        new.finish(&file).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"content");
        assert_eq!(names(place.path()), ["a.sif"]);
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o700, 0o700);
    }

    #[test]
    fn an_unfinished_file_leaves_the_old_one_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("a.sif");
        fs::write(&target, b"old").unwrap();
        let error = NewFile::create(&target, false).unwrap_err();
        assert_eq!(error.hint.as_deref(), Some("--force replaces it"));
        let (new, mut file) = NewFile::create(&target, true).unwrap();
        file.write_all(b"new").unwrap();
        drop(new);
        assert_eq!(fs::read(&target).unwrap(), b"old");
        let (new, mut file) = NewFile::create(&target, true).unwrap();
        file.write_all(b"new").unwrap();
        new.finish(&file).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(names(place.path()), ["a.sif"]);
    }

    #[test]
    fn a_named_temporary_does_the_same() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("a.sif");
        let create = || {
            let place = Place::open(&target).unwrap();
            let temporary = place.temporary(0);
            let file = File::create_new(parent(&target).join(&temporary)).unwrap();
            (NewFile { place, temporary: Some(temporary), force: false }, file)
        };
        let (new, _file) = create();
        drop(new);
        assert_eq!(names(place.path()), [""; 0]);
        let (new, file) = create();
        new.finish(&file).unwrap();
        assert_eq!(names(place.path()), ["a.sif"]);
        let (new, file) = create();
        assert!(new.finish(&file).unwrap_err().to_string().ends_with("exists"));
        assert_eq!(names(place.path()), ["a.sif"]);
    }

    #[test]
    fn a_link_to_an_image_stays_a_link() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("real.sif"), b"old").unwrap();
        let link = place.path().join("link.sif");
        std::os::unix::fs::symlink("real.sif", &link).unwrap();
        let (new, mut file) = NewFile::create(&link, true).unwrap();
        file.write_all(b"new").unwrap();
        new.finish(&file).unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(place.path().join("real.sif")).unwrap(), b"new");
    }

    #[test]
    fn devices_and_directories_are_no_place_for_an_image() {
        for target in ["/dev/null", "/tmp"] {
            assert!(NewFile::create(Path::new(target), true).is_err(), "{target}");
        }
        assert!(NewFile::create(Path::new("/nowhere/at/all.sif"), true).is_err());
        assert!(NewFile::create(Path::new(".."), true).is_err());
    }

    #[test]
    fn a_directory_replaces_an_empty_one_and_another_only_by_force() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("tree");
        fs::create_dir(&target).unwrap();
        let fill = |force| {
            let (new, _) = NewDirectory::create(&target, force)?;
            let inside = parent(&target).join(new.temporary.as_deref().unwrap()).join("file");
            fs::write(inside, b"x").unwrap();
            Ok::<_, Error>(new)
        };
        fill(false).unwrap().finish().unwrap();
        assert_eq!(names(&target), ["file"]);
        assert!(fill(false).is_err());
        fs::write(target.join("other"), b"").unwrap();
        fs::create_dir(target.join("closed")).unwrap();
        fs::set_permissions(target.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
        drop(fill(true).unwrap());
        assert_eq!(names(&target), ["closed", "file", "other"]);
        fill(true).unwrap().finish().unwrap();
        assert_eq!(names(&target), ["file"]);
        assert_eq!(names(place.path()), ["tree"]);
    }

    #[test]
    fn the_working_directory_is_not_replaced() {
        let error = NewDirectory::create(Path::new("."), true).unwrap_err();
        assert!(error.to_string().contains("home or working directory"), "{error}");
    }
}
