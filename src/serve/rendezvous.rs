//! Where containers find their server: a socket in a directory of the user's own, and a lock that decides who
//! is first.
//!
//! ```text
//! $XDG_RUNTIME_DIR/skiff/KEY.sock    or /tmp/skiff-UID/KEY.sock: the keeper listens
//!                       /KEY.lock    held while a socket is made or taken away
//! ```
//!
//! A socket that nobody listens on (its keeper was killed) refuses connections, and the next container that holds
//! the lock replaces it. The lock file is removed by who holds it, so after waiting for the lock one must look
//! whether it is still the file of that name.
//!
//! A server that is killed, as all in a container with processes of its own are when that ends, leaves both. Its key may
//! never come again, so a server looks for such at its beginning and at its end, and takes those away that nobody
//! listens on. (At the end alone were not enough: a batch system kills all that a step has started, each time.)

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// The place of one server.
pub struct Place {
    path: PathBuf,
    directory: OwnedFd,
    key: String,
}

/// The lock of a place; released when dropped.
pub struct Lock(#[expect(dead_code, reason = "its life is its meaning")] OwnedFd);

impl Place {
    /// The first of `candidates` that is, or can be made, a directory of this user that nobody else can enter.
    pub fn open(candidates: &[PathBuf], key: &str) -> Option<Self> {
        candidates.iter().find_map(|path| {
            let directory = private_directory(path).ok()?;
            Some(Self { path: path.clone(), directory, key: key.to_owned() })
        })
    }

    /// A connection to the listening keeper; `None` when there is no such keeper.
    pub fn connect(&self) -> io::Result<Option<OwnedFd>> {
        self.connect_with(SocketFlags::empty())
    }

    fn connect_with(&self, flags: SocketFlags) -> io::Result<Option<OwnedFd>> {
        let socket = new_socket(SocketFlags::CLOEXEC | flags)?;
        match rustix::net::connect(&socket, &self.address()?) {
            Ok(()) => Ok(Some(socket)),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the lock.
    ///
    /// # Errors
    /// ENOENT when the directory was removed meanwhile by the last server in it: open the place again.
    pub fn lock(&self) -> io::Result<Lock> {
        self.lock_with(FlockOperation::LockExclusive)
    }

    /// The lock, if nobody has it.
    pub fn try_lock(&self) -> io::Result<Lock> {
        self.lock_with(FlockOperation::NonBlockingLockExclusive)
    }

    fn lock_with(&self, operation: FlockOperation) -> io::Result<Lock> {
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = rustix::fs::openat(&self.directory, self.name("lock"), flags, Mode::from(0o600))?;
            match rustix::fs::flock(&file, operation) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            }
            let mine = rustix::fs::fstat(&file)?;
            match rustix::fs::statat(&self.directory, self.name("lock"), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(named) if named.st_ino == mine.st_ino && named.st_dev == mine.st_dev => {
                    return Ok(Lock(file));
                }
                // Its last holder removed it while we waited.
                Ok(_) | Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Listens here, in place of a dead keeper if there was one. The backlog holds every rank of a node.
    pub fn listen(&self, _lock: &Lock) -> io::Result<OwnedFd> {
        match rustix::fs::unlinkat(&self.directory, self.name("sock"), AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let socket = new_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        rustix::net::bind(&socket, &self.address()?)?;
        rustix::net::listen(&socket, 4096)?;
        Ok(socket)
    }

    /// Takes socket and lock away, what killed servers have left beside them, and the directory when nothing else is in
    /// it.
    pub fn remove(&self, lock: Lock) {
        self.unlink(lock);
        self.remove_others();
        let _ = rustix::fs::rmdir(&self.path);
    }

    /// Takes away what killed servers have left beside this one.
    pub fn remove_others(&self) {
        for key in self.keys().into_iter().filter(|key| *key != self.key) {
            let Ok(directory) = self.directory.try_clone() else { break };
            Self { path: self.path.clone(), directory, key }.remove_dead();
        }
    }

    fn unlink(&self, _lock: Lock) {
        // Whatever fails here leaves a stale file that the next server replaces.
        let _ = rustix::fs::unlinkat(&self.directory, self.name("sock"), AtFlags::empty());
        let _ = rustix::fs::unlinkat(&self.directory, self.name("lock"), AtFlags::empty());
    }

    fn remove_dead(&self) {
        // Whoever has the lock is about to listen, or to go.
        if let Ok(lock) = self.try_lock()
            && let Ok(None) = self.connect_with(SocketFlags::NONBLOCK)
        {
            self.unlink(lock);
        }
    }

    /// The keys of all sockets and locks in the directory.
    fn keys(&self) -> BTreeSet<String> {
        let entries = rustix::fs::Dir::read_from(&self.directory).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| Some(entry.file_name().to_str().ok()?.to_owned()));
        let keys = names
            .filter_map(|name| Some(name.strip_suffix(".sock").or(name.strip_suffix(".lock"))?.to_owned()));
        keys.collect()
    }

    /// The directory's descriptor, which a server keeps open.
    pub fn descriptor(&self) -> &OwnedFd {
        &self.directory
    }

    fn name(&self, extension: &str) -> String {
        format!("{}.{extension}", self.key)
    }

    /// The address goes through the directory's descriptor: it must fit into 108 bytes, however long the
    /// directory's path is, and must mean the directory that was checked.
    fn address(&self) -> io::Result<SocketAddrUnix> {
        let path = format!("/proc/self/fd/{}/{}", self.directory.as_raw_fd(), self.name("sock"));
        Ok(SocketAddrUnix::new(path)?)
    }
}

fn new_socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

fn private_directory(path: &Path) -> io::Result<OwnedFd> {
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    let facts = rustix::fs::fstat(directory.as_fd())?;
    if facts.st_uid != rustix::process::geteuid().as_raw() || facts.st_mode & 0o077 != 0 {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(directory: &Path) -> Place {
        Place::open(&[directory.join("skiff")], "key").unwrap()
    }

    #[test]
    fn a_listening_keeper_is_found_and_a_dead_one_replaced() {
        let temporary = tempfile::tempdir().unwrap();
        let place = place(temporary.path());
        assert!(place.connect().unwrap().is_none());
        let lock = place.lock().unwrap();
        let listener = place.listen(&lock).unwrap();
        assert!(place.connect().unwrap().is_some());
        drop(listener);
        assert!(place.connect().unwrap().is_none());
        let _listener = place.listen(&lock).unwrap();
        assert!(place.connect().unwrap().is_some());
        place.remove(lock);
        assert!(!temporary.path().join("skiff").exists());
    }

    #[test]
    fn a_removed_lock_is_not_mistaken_for_the_current_one() {
        let temporary = tempfile::tempdir().unwrap();
        let place = place(temporary.path());
        let first = place.lock().unwrap();
        assert!(place.try_lock().is_err());
        std::fs::remove_file(temporary.path().join("skiff/key.lock")).unwrap();
        let _second = place.try_lock().unwrap();
        drop(first);
        assert!(place.try_lock().is_err());
    }

    #[test]
    fn who_leaves_takes_along_what_killed_keepers_have_left() {
        let temporary = tempfile::tempdir().unwrap();
        let last = place(temporary.path());
        let [dead, alive, busy] =
            ["dead", "alive", "busy"].map(|key| Place::open(&[temporary.path().join("skiff")], key).unwrap());
        drop(dead.listen(&dead.lock().unwrap()).unwrap());
        std::fs::write(temporary.path().join("skiff/half.lock"), "").unwrap();
        let listener = alive.listen(&alive.lock().unwrap()).unwrap();
        let lock = busy.lock().unwrap();
        drop(busy.listen(&lock).unwrap());
        last.remove(last.lock().unwrap());
        assert!(last.keys().into_iter().eq(["alive", "busy"]));
        assert!(!temporary.path().join("skiff/dead.lock").exists());
        drop((listener, lock));
        last.remove(last.lock().unwrap());
        assert!(!temporary.path().join("skiff").exists());
    }

    #[test]
    fn directories_of_others_or_open_to_others_are_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let temporary = tempfile::tempdir().unwrap();
        let open = temporary.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o750)).unwrap();
        let link = temporary.path().join("link");
        std::os::unix::fs::symlink(temporary.path(), &link).unwrap();
        assert!(Place::open(&[open, link, temporary.path().join("no/parent")], "key").is_none());
    }
}
