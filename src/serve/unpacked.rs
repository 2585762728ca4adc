//! The server of a host without FUSE: the image is unpacked into a private directory, which goes with the last process
//! that uses it.
//!
//! ```text
//! skiff exec (P)                     this process ("skiff-unpacked")
//!   meet ─ no socket: fork twice ──▶ make the directory, unpack the image into it, by all processors
//!   decide the plan                    P ends: stop, remove it
//!   wait  ◀── READY │ FAILED ────────  removed already, in the second case
//!   user namespace ── USERS ───────▶ these use it
//!   bind the directory, template
//!   share ── SHARE ────────────────▶ others join, as they join a keeper
//!   execve                           P, Q, ... ended: linger, take the socket away
//!                                    nobody is in the user namespace any more: remove the directory
//! ```
//!
//! ```text
//! BELOW/skiff-unpacked-UID-…/     0700, locked (flock) by this process
//!                            root/        the image
//!                            users        the user namespace, by device and inode
//! ```
//!
//! A directory whose server was killed is removed by the next server that looks into the same place, unless somebody
//! still uses it. All containers that use the directory are in one user namespace, and so are the processes that
//! outlive them; those that made a user namespace of their own are in one below it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::process::PidfdFlags;
use sha2::{Digest, Sha256};

use super::Namespaces;
use super::door::Open;
use super::keeper::{self, Server};
use super::message::{self, FAILED, Message, READY, SHARE, USERS};
use crate::error::{Context, Error, Kind, Result};
use crate::image::source::Source;
use crate::image::squashfs::{OpenOptions, Squashfs};
use crate::image::unpack::{UnpackOptions, UnpackProgress, UnpackSummary, remove_tree, unpack};
use crate::sys::members::{self, Identity};
use crate::sys::{process, signals};

/// What was unpacked, as the first container is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// The directory with the image's files.
    pub root: PathBuf,
    /// How many files, directories and links.
    pub entries: u64,
    /// Bytes of file contents.
    pub bytes: u64,
}

impl Unpacked {
    fn to_text(&self) -> String {
        // The path is our own, below one that may be any bytes: those that are no text fail when they are used.
        format!("{} {} {}", self.entries, self.bytes, self.root.display())
    }

    fn of_text(text: &str) -> Option<Self> {
        let mut words = text.splitn(3, ' ');
        let (entries, bytes) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Self { root: words.next()?.into(), entries, bytes })
    }
}

/// Waits for the server to have unpacked the image.
///
/// # Errors
/// Why it has not.
pub fn wait(control: BorrowedFd<'_>) -> Result<Unpacked> {
    let trying = || "cannot unpack the image".to_owned();
    let message = message::receive(control).context(Kind::Host, trying)?;
    let Some(message) = message else {
        return Err(Error::host(format!("{}: the process that does it was ended", trying())));
    };
    let kind = message.kind;
    let text = message.text().context(Kind::Host, trying)?;
    match (kind, Unpacked::of_text(&text)) {
        (READY, Some(unpacked)) => Ok(unpacked),
        (FAILED, _) => {
            let (what, hint) = text.split_once('\n').unwrap_or((&text, ""));
            let error = Error::new(Kind::Io, what);
            Err(if hint.is_empty() { error } else { error.hint(hint) })
        }
        _ => Err(Error::new(Kind::Internal, "the image's server gave an answer that makes no sense")),
    }
}

/// Runs the server in this process, which ends with it.
pub fn run(server: Server, below: &Path) -> ! {
    let Server { request, meeting_point, control, .. } = server;
    if let Some((_, place)) = &meeting_point {
        place.remove_others();
    }
    let place = meeting_point.as_ref().map(|(_, place)| place.descriptor().as_fd());
    let listener = meeting_point.as_ref().map(|(listener, _)| listener.as_fd());
    let keep = [Some(request.image.as_fd()), Some(control.as_fd()), place, listener];
    process::become_server(&keep.into_iter().flatten().collect::<Vec<_>>(), c"skiff-unpacked");
    signals::ignore_requests_to_end();
    let source = Source::new(Arc::new(request.image), request.offset, request.length);
    // Now, while its space is needed, and before the container has a user namespace: the kernel gives it the number of
    // one that is gone.
    remove_abandoned(below);
    let made = Directory::make(below, source, &control);
    let told = match &made {
        Ok((_, unpacked)) => message::send_text(control.as_fd(), READY, unpacked.to_text().as_bytes()),
        Err(error) => {
            let hint = error.hint.as_deref().unwrap_or_default();
            message::send_text(control.as_fd(), FAILED, format!("{error}\n{hint}").as_bytes())
        }
    };
    // Whoever is not there any more to be told has no use for it.
    let directory = match (made, told) {
        (Ok((directory, _)), Ok(())) => directory,
        (made, _) => {
            drop(made);
            keeper::give_up(meeting_point)
        }
    };
    let (users, shared) = first_container(&directory, &control);
    match (shared, meeting_point) {
        (Some(first), Some((listener, place))) => {
            let mut door = Some(Open::new(listener, place, request.linger, first));
            while let Some(mut open) = door.take() {
                open.wait(None);
                door = if open.wants_to_close() { open.try_close() } else { Some(open) };
            }
        }
        (None, Some((_, place))) => {
            if let Ok(lock) = place.lock() {
                place.remove(lock);
            }
        }
        (_, None) => {}
    }
    if let Some(users) = users {
        wait_until_empty(&users);
    }
    drop(directory);
    process::exit(0)
}

/// What the first container tells until it is the user's program: its user namespace, and what others need to join.
fn first_container(
    directory: &Directory,
    control: &OwnedFd,
) -> (Option<File>, Option<(Namespaces, OwnedFd)>) {
    let mut users = None;
    loop {
        match message::receive(control.as_fd()) {
            Ok(Some(Message { kind: USERS, mut fds })) => {
                users = fds.pop().map(File::from);
                if let Some(users) = &users {
                    directory.note(users);
                }
                // It waits for this: files that it uses must not be taken for abandoned.
                let _ = message::send(control.as_fd(), USERS, &[]);
            }
            Ok(Some(Message { kind: SHARE, mut fds })) => {
                if let (Some(template), Some(user), Some(member)) = (fds.pop(), fds.pop(), fds.pop()) {
                    return (users, Some((Namespaces { user, template }, member)));
                }
            }
            _ => return (users, None),
        }
    }
}

/// Waits until no process is in the user namespace, which nobody can enter any more.
fn wait_until_empty(users: &File) {
    let Ok(identity) = members::identity(users) else { return };
    while let Some(pid) = members::processes_in(identity).unwrap_or_default().first() {
        let pid = rustix::process::Pid::from_raw(*pid);
        match pid.map(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty())) {
            Some(Ok(member)) => {
                // Interrupted, the next look finds the process again.
                let _ = rustix::event::poll(&mut [PollFd::new(&member, PollFlags::IN)], None);
            }
            // Before kernel 5.3 there is no event to wait for.
            Some(Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM)) => {
                std::thread::sleep(Duration::from_secs(1));
            }
            // It has ended meanwhile.
            _ => {}
        }
    }
}

/// The private directory of an unpacked image; it goes when it is dropped.
struct Directory {
    path: PathBuf,
    /// Held, so that nobody takes it for abandoned. A file system without locks has no abandoned ones either.
    _lock: Option<OwnedFd>,
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed now, the next server tries again.
        let _ = remove_tree(&self.path);
    }
}

impl Directory {
    /// Makes it and unpacks the image into it, unless `control` ends before.
    fn make(below: &Path, source: Source, control: &OwnedFd) -> Result<(Self, Unpacked)> {
        let another = "set SKIFF_TMPDIR to a directory of a local disk with more space";
        let directory = Self::create(below)
            .tried(|| format!("cannot unpack the image into a directory below {below:?}"))
            .map_err(|error| error.hint(another))?;
        let summary = directory.fill(source, control).map_err(|error| {
            let hint = match error.errno() {
                Some(libc::ENOSPC | libc::EDQUOT) => Some(another.to_owned()),
                _ => error.hint.clone(),
            };
            let outer = Error::new(error.kind, format!("cannot unpack the image below {below:?}"));
            Error { hint, ..outer.because(error) }
        })?;
        let unpacked = Unpacked { root: directory.root(), entries: summary.entries, bytes: summary.bytes };
        Ok((directory, unpacked))
    }

    fn create(below: &Path) -> io::Result<Self> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut number = now.as_nanos() as u64;
        let path = loop {
            let path = below.join(format!("{}{number:016x}", prefix()));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => break path,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number = number.wrapping_add(1),
                Err(error) => return Err(error),
            }
        };
        let lock = lock(&path).ok();
        let directory = Self { path, _lock: lock };
        fs::create_dir(directory.root())?;
        Ok(directory)
    }

    fn root(&self) -> PathBuf {
        self.path.join("root")
    }

    fn fill(&self, source: Source, control: &OwnedFd) -> Result<UnpackSummary> {
        let trying = || "cannot unpack the image".to_owned();
        let options = OpenOptions { data_cache_bytes: 8 << 20, meta_cache_bytes: 8 << 20, inode_cache: 4096 };
        let image = Squashfs::open(source, options)?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::open(self.root(), flags, Mode::empty()).tried(trying)?;
        let control = control.try_clone().tried(trying)?;
        let stop = Arc::new(AtomicBool::new(false));
        let heard = Arc::clone(&stop);
        // Lives on when all is unpacked, and then has nobody to tell.
        std::thread::Builder::new()
            .spawn(move || {
                let _ = rustix::event::poll(&mut [PollFd::new(&control, PollFlags::empty())], None);
                heard.store(true, Ordering::Relaxed);
            })
            .tried(trying)?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let owners = rustix::process::geteuid().is_root();
        unpack(&image, root, UnpackOptions { threads, owners }, &UnpackProgress::default(), &stop)
    }

    /// Notes who uses it, for servers that find it abandoned.
    fn note(&self, users: &File) {
        let mut text = String::new();
        if let Ok((device, inode)) = members::identity(users) {
            let _ = write!(text, "{device}:{inode}");
        }
        // Without a note it is taken for unused if this process is killed.
        let _ = fs::write(self.path.join("users"), text);
    }
}

/// How the names begin of those directories whose users this process can see: of this user, on this machine since it
/// was started, in the same process and user namespace. The place may be shared with other machines.
fn prefix() -> String {
    let mut seen_from = fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    for path in ["/proc/self/ns/pid", "/proc/self/ns/user"] {
        seen_from.extend(fs::metadata(path).map_or(0, |facts| facts.ino()).to_ne_bytes());
    }
    let digest = Sha256::digest(&seen_from);
    let hex = digest.iter().take(4).fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    format!("skiff-unpacked-{}-{hex}-", rustix::process::geteuid().as_raw())
}

/// The lock of a directory of this user's own.
fn lock(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    if rustix::fs::fstat(&directory)?.st_uid != rustix::process::geteuid().as_raw() {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    Ok(directory)
}

/// What killed servers have left below a directory, each locked.
fn locked_abandoned(below: &Path) -> impl Iterator<Item = (PathBuf, OwnedFd)> {
    fs::read_dir(below).into_iter().flatten().flatten().filter_map(|entry| {
        let path = entry.path();
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix()));
        if !ours || entry.metadata().is_ok_and(|facts| facts.uid() != rustix::process::geteuid().as_raw()) {
            return None;
        }
        let lock = lock(&path).ok()?;
        (!read_users(&path).is_some_and(is_used)).then_some((path, lock))
    })
}

/// Directories of the caller's with unpacked images, whose servers were killed. The next image that is unpacked there
/// takes them away.
pub fn abandoned(below: &Path) -> Vec<PathBuf> {
    locked_abandoned(below).map(|(path, _lock)| path).collect()
}

fn remove_abandoned(below: &Path) {
    for (path, _lock) in locked_abandoned(below) {
        // Whoever cannot be removed now is found by the next.
        let _ = remove_tree(&path);
    }
}

fn read_users(path: &Path) -> Option<Identity> {
    let text = fs::read_to_string(path.join("users")).ok()?;
    let (device, inode) = text.split_once(':')?;
    Some((device.parse().ok()?, inode.parse().ok()?))
}

fn is_used(users: Identity) -> bool {
    members::processes_in(users).map_or(true, |processes| !processes.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_first_container_is_told_arrives() {
        let (here, there) = message::pair().unwrap();
        let unpacked = Unpacked { root: "/tmp/a b/root".into(), entries: 7, bytes: 1 << 40 };
        message::send_text(here.as_fd(), READY, unpacked.to_text().as_bytes()).unwrap();
        assert_eq!(wait(there.as_fd()).unwrap(), unpacked);
        message::send_text(here.as_fd(), FAILED, b"cannot do it\ndo that").unwrap();
        let error = wait(there.as_fd()).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.hint.as_deref()), ("cannot do it", Some("do that")));
        drop(here);
        assert!(wait(there.as_fd()).unwrap_err().to_string().contains("was ended"));
    }

    #[test]
    fn only_what_nobody_holds_or_uses_is_abandoned() {
        let place = tempfile::tempdir().unwrap();
        let held = Directory::create(place.path()).unwrap();
        let own = File::open("/proc/self/ns/user").unwrap();
        let names = ["used", "left"].map(|name| place.path().join(prefix() + name));
        for path in &names {
            fs::create_dir_all(path.join("root/closed")).unwrap();
        }
        let (device, inode) = members::identity(&own).unwrap();
        fs::write(names[0].join("users"), format!("{device}:{inode}")).unwrap();
        fs::create_dir(place.path().join("skiff-other")).unwrap();
        assert_eq!(abandoned(place.path()), [names[1].clone()]);
        remove_abandoned(place.path());
        assert!(held.root().is_dir() && names[0].exists() && !names[1].exists());
        assert!(place.path().join("skiff-other").exists());
        let path = held.path.clone();
        drop(held);
        assert!(!path.exists());
    }
}
