//! Who is in a user namespace.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::MetadataExt;

/// `NS_GET_PARENT` of linux/nsfs.h: `_IO(0xb7, 2)`.
const NS_GET_PARENT: libc::c_ulong = 0xb702;
/// The kernel nests user namespaces no deeper.
const DEEPEST: usize = 33;

/// A namespace, by device and inode of its file in /proc. Both may be used again when nobody holds it any more.
pub type Identity = (u64, u64);

/// The identity of an open namespace.
///
/// # Errors
/// Those of fstat(2).
pub fn identity(namespace: &File) -> io::Result<Identity> {
    let facts = namespace.metadata()?;
    Ok((facts.dev(), facts.ino()))
}

/// The processes in a user namespace or in one below it that this process may look at: those of its own user are
/// among them. Ended ones that nobody has waited for are left out.
///
/// # Errors
/// A /proc that cannot be read.
pub fn processes_in(namespace: Identity) -> io::Result<Vec<libc::pid_t>> {
    let own = File::open("/proc/self/ns/user").and_then(|file| identity(&file))?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let pid = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(pid) = pid
            && is_in(pid, namespace, own)
            && !has_ended(pid)
        {
            found.push(pid);
        }
    }
    Ok(found)
}

fn is_in(pid: libc::pid_t, namespace: Identity, own: Identity) -> bool {
    // Gone meanwhile, or somebody else's.
    let Ok(file) = File::open(format!("/proc/{pid}/ns/user")) else { return false };
    let mut next = Some(file);
    for _ in 0..DEEPEST {
        let Some(file) = next else { return false };
        match identity(&file) {
            Ok(this) if this == namespace => return true,
            Ok(this) if this == own => return false,
            _ => next = parent(&file),
        }
    }
    false
}

/// The user namespace above one, unless it is beyond ours.
fn parent(namespace: &File) -> Option<File> {
    // SAFETY: the ioctl takes no argument and gives a new descriptor.
    let fd = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_PARENT) };
    // SAFETY: the descriptor is new, and nobody else's.
    (fd >= 0).then(|| unsafe { File::from_raw_fd(fd) })
}

/// Whether all that is left is its status, for its parent.
fn has_ended(pid: libc::pid_t) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
    // The first thread may have ended before the others.
    let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    matches!(state, None | Some('Z' | 'X')) && threads() < 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_in_its_own_namespace_and_an_ended_one_in_none() {
        let own = identity(&File::open("/proc/self/ns/user").unwrap()).unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id() as libc::pid_t;
        // Ended, and not waited for yet.
        while !has_ended(pid) {
            std::thread::yield_now();
        }
        let found = processes_in(own).unwrap();
        assert!(found.contains(&(std::process::id() as libc::pid_t)));
        assert!(!found.contains(&pid));
        child.wait().unwrap();
        assert_eq!(processes_in((own.0, u64::MAX)).unwrap(), [0; 0]);
    }
}
