//! What a waiting call points to: its caller's memory, and the files that its paths and descriptors name there.
//!
//! Paths mean what they mean to the caller: its root directory becomes that of the thread that looks them up (which has
//! a root and a working directory of its own), its working directory and descriptors are opened through /proc, and the
//! kernel does the rest. Only links of /proc are followed by hand, since `/proc/self` would be ourselves.
//!
//! The working directory of such a thread is always /proc, whatever its root, so that `PID/cwd` and `self/fd/N` are
//! relative paths that need no /proc in the caller's root.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::identity::Executed;
use super::known::Known;
use super::record::Entry;
use crate::sys::notify::{self, Listener, Notification};

/// An errno, or a value.
pub type Outcome<T> = Result<T, Errno>;

/// The longest path with its NUL (`PATH_MAX`).
const PATH_BYTES: usize = 4096;
const SHORT_BYTES: usize = 192;
/// The kernel follows no more links in one path.
const MOST_LINKS: usize = 40;
/// `PROC_SUPER_MAGIC` of linux/magic.h.
const PROC: i64 = 0x9fa0;

/// The root directory and the /proc of one thread of the supervisor.
pub struct View {
    /// Our own /proc.
    proc: OwnedFd,
    /// Which directory is the root now: device, inode, mount.
    root: RootIdentity,
    /// The thread whose root it was found to be, and the count of calls that change roots at that time.
    found: Option<(libc::pid_t, u64)>,
    count: u64,
}

type RootIdentity = (u32, u32, u64, u64);

impl View {
    /// Gives this thread a root and a working directory of its own. The root is still that of the thread that started
    /// it; so /proc is given, opened where it surely is ours ([`own_proc`]).
    ///
    /// # Errors
    /// EPERM where a filter forbids it.
    pub fn new(proc: &OwnedFd) -> Outcome<Self> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)
            .map_err(|error| Errno::from_raw_os_error(error as i32))?;
        let proc = rustix::io::fcntl_dupfd_cloexec(proc, 3)?;
        rustix::process::fchdir(&proc)?;
        let root = identity(&open_path("/")?)?;
        Ok(Self { proc, root, found: None, count: 0 })
    }

    /// So many calls have changed root directories until now.
    pub fn heed(&mut self, count: u64) {
        self.count = count;
    }

    /// Makes the caller's root directory that of this thread.
    fn enter_root_of(&mut self, thread: libc::pid_t) -> Outcome<()> {
        // Most calls come from the same thread as the one before.
        if self.found == Some((thread, self.count)) {
            return Ok(());
        }
        self.found = None;
        let wanted = StatxFlags::INO | StatxFlags::MNT_ID;
        let now = rustix::fs::statx(rustix::fs::CWD, format!("{thread}/root"), AtFlags::empty(), wanted)?;
        if identity_of(&now) == self.root {
            self.found = Some((thread, self.count));
            return Ok(());
        }
        let root = open_path(format!("{thread}/root"))?;
        let identity = identity(&root)?;
        rustix::process::fchdir(&root)?;
        let changed = rustix::process::chroot(".");
        rustix::process::fchdir(&self.proc)?;
        changed?;
        self.root = identity;
        self.found = Some((thread, self.count));
        Ok(())
    }
}

/// The /proc that shows this process under its own number, and so others under theirs.
pub fn own_proc() -> Option<OwnedFd> {
    let how = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open("/proc", how, Mode::empty()).ok()?;
    let link = rustix::fs::readlinkat(&proc, "self", Vec::new()).ok()?;
    (link.as_bytes() == std::process::id().to_string().as_bytes()).then_some(proc)
}

fn identity(directory: &OwnedFd) -> Outcome<RootIdentity> {
    let wanted = StatxFlags::INO | StatxFlags::MNT_ID;
    Ok(identity_of(&rustix::fs::statx(directory, "", AtFlags::EMPTY_PATH, wanted)?))
}

fn identity_of(facts: &Statx) -> RootIdentity {
    (facts.stx_dev_major, facts.stx_dev_minor, facts.stx_ino, facts.stx_mnt_id)
}

fn open_path(path: impl rustix::path::Arg) -> Outcome<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

/// A path for the calls that know no descriptors of this kind: it means what was opened, links too.
pub fn by_descriptor(object: &OwnedFd) -> String {
    format!("self/fd/{}", object.as_raw_fd())
}

/// A waiting call, and who waits.
pub struct Target<'a> {
    pub listener: &'a Listener,
    pub notification: &'a Notification,
    pub view: &'a mut View,
    pub known: &'a Known,
}

impl Target<'_> {
    /// An argument.
    pub fn argument(&self, index: usize) -> u64 {
        self.notification.arguments[index]
    }

    /// An argument that is an id, a descriptor's number, flags.
    pub fn number(&self, index: usize) -> u32 {
        self.notification.arguments[index] as u32
    }

    fn thread(&self) -> libc::pid_t {
        self.notification.thread
    }

    /// What was looked at before this is the caller's, if it still waits.
    pub fn still_waits(&self) -> Outcome<()> {
        if self.listener.waits(self.notification.id) { Ok(()) } else { Err(Errno::SRCH) }
    }

    /// Bytes of its memory, all of them.
    pub fn read(&self, address: u64, length: usize) -> Outcome<Vec<u8>> {
        let mut bytes = vec![0; length];
        if length > 0 && self.read_some(address, &mut bytes)? < length {
            return Err(Errno::FAULT);
        }
        Ok(bytes)
    }

    fn read_some(&self, address: u64, bytes: &mut [u8]) -> Outcome<usize> {
        let got = notify::read_memory(self.thread(), address, bytes)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::FAULT))?;
        self.still_waits()?;
        Ok(got)
    }

    /// Text of its memory up to a NUL, shorter than `most`; `None` when it is longer.
    pub fn read_text(&self, address: u64, most: usize) -> Outcome<Option<CString>> {
        // Most are short.
        for length in [most.min(SHORT_BYTES), most] {
            let mut bytes = vec![0; length];
            let got = self.read_some(address, &mut bytes)?;
            bytes.truncate(got);
            match CStr::from_bytes_until_nul(&bytes) {
                Ok(text) => return Ok(Some(text.to_owned())),
                Err(_) if got < length => return Err(Errno::FAULT),
                Err(_) => {}
            }
        }
        Ok(None)
    }

    /// A path of its memory.
    pub fn read_path(&self, address: u64) -> Outcome<CString> {
        self.read_text(address, PATH_BYTES)?.ok_or(Errno::NAMETOOLONG)
    }

    /// Writes 32-bit words to its memory.
    pub fn write(&self, address: u64, words: &[u32]) -> Outcome<()> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        if bytes.is_empty() { self.still_waits() } else { self.write_bytes(address, &bytes) }
    }

    /// Writes to its memory.
    pub fn write_bytes(&self, address: u64, bytes: &[u8]) -> Outcome<()> {
        self.still_waits()?;
        notify::write_memory(self.thread(), address, bytes)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::FAULT))
    }

    /// A file that may have a record since now: the one that it is after its owner was changed, in an overlay.
    pub fn forget(&self, entry: &Entry) -> Outcome<()> {
        let now = rustix::fs::fstat(entry.object())?;
        self.known.forget((now.st_dev, now.st_ino));
        Ok(())
    }

    /// What one of its descriptors is open on.
    pub fn descriptor(&self, fd: i32) -> Outcome<OwnedFd> {
        let opened = open_path(format!("{}/fd/{fd}", self.thread()));
        let opened = opened.map_err(|error| if error == Errno::NOENT { Errno::BADF } else { error })?;
        self.still_waits()?;
        Ok(opened)
    }

    /// The directory that a relative path starts in, or what an empty one means.
    fn start(&self, directory: i32) -> Outcome<OwnedFd> {
        if directory != libc::AT_FDCWD {
            return self.descriptor(directory);
        }
        let opened = open_path(format!("{}/cwd", self.thread()))?;
        self.still_waits()?;
        Ok(opened)
    }

    /// What the kernel says of a file, by one look where that can do: at most [`Target::open`] would find another file,
    /// where links lead through /proc. None where a closer look is needed.
    pub fn glance(&mut self, directory: i32, path: &CStr, flags: AtFlags) -> Outcome<Option<Statx>> {
        let thread = self.thread();
        let start = match directory {
            libc::AT_FDCWD => format!("{thread}/cwd"),
            fd => format!("{thread}/fd/{fd}"),
        };
        let bytes = path.to_bytes();
        if bytes.is_empty() {
            let empty = flags.contains(AtFlags::EMPTY_PATH);
            return if empty {
                look(start.as_bytes(), AtFlags::empty()).map(Some)
            } else {
                Err(Errno::NOENT)
            };
        }
        self.view.enter_root_of(thread)?;
        let flags = flags & AtFlags::SYMLINK_NOFOLLOW;
        match bytes {
            [b'/', ..] if bytes.starts_with(b"/proc/") || bytes.starts_with(b"/dev/") => Ok(None),
            [b'/', ..] => look(bytes, flags).map(Some),
            // It may be too long with what is put before it.
            _ if bytes.len() + start.len() + 2 > PATH_BYTES => Ok(None),
            _ => look(&[start.as_bytes(), b"/", bytes].concat(), flags).map(Some),
        }
    }

    /// What a path means to it. An empty one means `directory` itself, where `flags` allow that.
    pub fn open(&mut self, directory: i32, path: &CStr, flags: AtFlags) -> Outcome<OwnedFd> {
        if path.is_empty() {
            return if flags.contains(AtFlags::EMPTY_PATH) {
                self.view.enter_root_of(self.thread())?;
                self.start(directory)
            } else {
                Err(Errno::NOENT)
            };
        }
        self.view.enter_root_of(self.thread())?;
        let absolute = path.to_bytes().starts_with(b"/");
        let start = if absolute { open_path("/")? } else { self.start(directory)? };
        self.still_waits()?;
        self.open_from(start, path, flags)
    }

    /// The same from a directory that is open here, which an absolute path must start in too.
    fn open_from(&self, start: OwnedFd, path: &CStr, flags: AtFlags) -> Outcome<OwnedFd> {
        let follow = !flags.contains(AtFlags::SYMLINK_NOFOLLOW);
        let nofollow = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        let how = OFlags::PATH | OFlags::CLOEXEC | nofollow;
        match rustix::fs::openat2(&start, path, how, Mode::empty(), ResolveFlags::NO_MAGICLINKS) {
            // A link of /proc, or what it leads to is not there for us; or too many links; or there is no such call.
            Err(Errno::LOOP | Errno::NOENT | Errno::NOSYS | Errno::PERM) => {
                self.walk(start, path.to_bytes(), follow)
            }
            other => other,
        }
    }

    /// Looks a path up name by name, with links of /proc as they are for the caller.
    fn walk(&self, start: OwnedFd, path: &[u8], follow: bool) -> Outcome<OwnedFd> {
        let mut here = start;
        let mut ahead: VecDeque<Vec<u8>> = names(path);
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            let next = rustix::fs::openat(
                &here,
                name.as_slice(),
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&next)?.st_mode);
            if kind != rustix::fs::FileType::Symlink || (ahead.is_empty() && !follow) {
                here = next;
                continue;
            }
            links += 1;
            if links > MOST_LINKS {
                return Err(Errno::LOOP);
            }
            if let Some(there) = self.follow_in_proc(&here, &next, &name)? {
                here = there;
                continue;
            }
            let link = rustix::fs::readlinkat(&next, "", Vec::new())?;
            if link.as_bytes().starts_with(b"/") {
                here = open_path("/")?;
            }
            for name in names(link.as_bytes()).into_iter().rev() {
                ahead.push_front(name);
            }
        }
        Ok(here)
    }

    /// Where a link leads that is one of /proc and no text; `None` for another link.
    fn follow_in_proc(&self, directory: &OwnedFd, link: &OwnedFd, name: &[u8]) -> Outcome<Option<OwnedFd>> {
        if !is_in_proc(link)? {
            return Ok(None);
        }
        if name == b"self" || name == b"thread-self" {
            // The directory of a thread has what the one of its process has.
            return open_path(self.thread().to_string()).map(Some);
        }
        let how = OFlags::PATH | OFlags::CLOEXEC;
        match rustix::fs::openat2(directory, name, how, Mode::empty(), ResolveFlags::NO_MAGICLINKS) {
            Err(Errno::LOOP | Errno::NOSYS | Errno::PERM) => {
                rustix::fs::openat(directory, name, how, Mode::empty()).map(Some)
            }
            // `mounts`, `net`: text that leads through `self`.
            _ => Ok(None),
        }
    }

    /// The directory that a path's last name is in, and that name. The name is none where it cannot be a new one.
    pub fn parent<'p>(&mut self, directory: i32, path: &'p CStr) -> Outcome<(OwnedFd, &'p [u8])> {
        let (before, name, more) = split(path.to_bytes())?;
        let parent = self.open(directory, &before, AtFlags::empty())?;
        if name.is_empty() || name == b"." || name == b".." {
            return Err(Errno::EXIST);
        }
        if more {
            // "name/" is a directory, or nothing.
            let there = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW);
            return Err(there.map_or(Errno::NOENT, |_| Errno::EXIST));
        }
        Ok((parent, name))
    }

    /// Where something new is made that is to be named `name`, which may be a link to what is not there yet: directory
    /// and name.
    pub fn end_of_links(&self, parent: OwnedFd, name: &[u8]) -> Outcome<(OwnedFd, Vec<u8>)> {
        let (mut parent, mut name) = (parent, name.to_vec());
        for _ in 0..MOST_LINKS {
            let link = match rustix::fs::readlinkat(&parent, name.as_slice(), Vec::new()) {
                Ok(link) => link,
                Err(Errno::NOENT) => return Ok((parent, name)),
                Err(Errno::INVAL) => return Err(Errno::EXIST),
                Err(error) => return Err(error),
            };
            let (before, last, more) = split(link.as_bytes())?;
            let start = if link.as_bytes().starts_with(b"/") { open_path("/")? } else { parent };
            parent = self.open_from(start, &before, AtFlags::empty())?;
            if more || last.is_empty() || last == b"." || last == b".." {
                return Err(Errno::ISDIR);
            }
            name = last.to_vec();
        }
        Err(Errno::LOOP)
    }

    /// Its file mode creation mask, and the user that it truly acts as.
    pub fn mask_and_user(&self) -> Outcome<(u32, u32)> {
        let status = std::fs::read_to_string(format!("{}/status", self.thread())).map_err(|_| Errno::SRCH)?;
        self.still_waits()?;
        let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
        // The kernel says it since 4.7.
        let mask = mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o022);
        let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        let user = ids.and_then(|ids| ids.split_whitespace().nth(1)?.parse().ok());
        Ok((mask, user.unwrap_or(u32::MAX)))
    }
}

fn look(path: &[u8], flags: AtFlags) -> Outcome<Statx> {
    rustix::fs::statx(rustix::fs::CWD, path, flags, StatxFlags::BASIC_STATS)
}

/// A path's directory, its last name, and whether slashes follow.
pub fn split(path: &[u8]) -> Outcome<(CString, &[u8], bool)> {
    if path.is_empty() {
        return Err(Errno::NOENT);
    }
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    let start = path[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let before = match &path[..start] {
        [] if end == 0 => b"/".as_slice(),
        [] => b".",
        before => before,
    };
    let before = CString::new(before).map_err(|_| Errno::INVAL)?;
    Ok((before, &path[start..end], end < path.len()))
}

/// Whether something is the kernel's account of processes, where nothing can be made.
pub fn is_in_proc(object: &OwnedFd) -> Outcome<bool> {
    Ok(rustix::fs::fstatfs(object)?.f_type as i64 == PROC)
}

/// What a thread has executed: where its stack began, which is new, by chance, at every execve. (proc_pid_stat(5), 28)
pub fn executed(thread: libc::pid_t) -> Option<Executed> {
    let stat = std::fs::read_to_string(format!("{thread}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(25)?.parse().ok()
}

/// The names of a path. A slash at its end is a name `.`, for which what comes before must be a directory.
fn names(path: &[u8]) -> VecDeque<Vec<u8>> {
    let mut names: VecDeque<Vec<u8>> =
        path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect();
    if path.ends_with(b"/") && !names.is_empty() {
        names.push_back(b".".to_vec());
    }
    names
}
