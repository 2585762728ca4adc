//! Extended attributes of the source, as far as SquashFS can hold them.
//!
//! SquashFS has three name spaces: `user.`, `trusted.` and `security.`. POSIX ACLs (`system.`) and what
//! file systems keep for themselves (`lustre.`, `btrfs.`) have no place in it; ACLs are counted, so that
//! the user hears of them. `security.selinux` is left out as in OCI layers: it is the label that the
//! host's policy gave the file, not a property of the tree, and would differ from host to host.

use super::units::Dir;
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

/// The xattrs of one file, sorted by full name.
pub type XattrSet = Vec<(Box<[u8]>, Box<[u8]>)>;

/// What was found on one file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Xattrs {
    /// Those that the image can hold; `None` if there are none.
    pub set: Option<Arc<XattrSet>>,
    /// There was an access control list, which is lost.
    pub access_list: bool,
}

/// The name spaces by their number on disk.
pub const PREFIXES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

/// Does an image get attributes of this name?
pub fn is_kept(name: &[u8]) -> bool {
    name != b"security.selinux" && PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Reads the xattrs of an open file.
///
/// # Errors
/// The system's, unless it says that there are none.
pub fn read_open(file: impl AsFd) -> Result<Xattrs, Errno> {
    let file = file.as_fd();
    read(|list| rustix::fs::flistxattr(file, list), |name, value| rustix::fs::fgetxattr(file, name, value))
}

/// Reads the xattrs of `name` in `dir` without opening it or following it: a link, a device, a socket.
///
/// There is no `lgetxattrat` before Linux 6.13; the directory is reached by its name in /proc.
///
/// # Errors
/// The system's, unless it says that there are none.
pub fn read_named(dir: &Dir, name: &CStr) -> Result<Xattrs, Errno> {
    let mut path = format!("/proc/self/fd/{}/", dir.file.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    read(
        |list| rustix::fs::llistxattr(path.as_slice(), list),
        |name, value| rustix::fs::lgetxattr(path.as_slice(), name, value),
    )
}

fn read(
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&CStr, &mut [u8]) -> Result<usize, Errno>,
) -> Result<Xattrs, Errno> {
    let names = match read_growing(&list) {
        Ok(names) if names.is_empty() => return Ok(Xattrs::default()),
        Ok(names) => names,
        // The file system has none.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Xattrs::default()),
        Err(error) => return Err(error),
    };
    let mut set = XattrSet::new();
    let mut access_list = false;
    for name in names.split_inclusive(|&byte| byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let bytes = name.to_bytes();
        access_list |= bytes.starts_with(b"system.posix_acl_");
        if !is_kept(bytes) {
            continue;
        }
        match read_growing(&|value: &mut [u8]| get(name, value)) {
            Ok(value) => set.push((bytes.into(), value.into())),
            // Removed since it was listed, or listed to all but readable by root alone (`trusted.`).
            Err(Errno::NODATA) => {}
            Err(Errno::PERM | Errno::ACCESS) if bytes.starts_with(b"trusted.") => {}
            Err(error) => return Err(error),
        }
    }
    set.sort();
    let set = (!set.is_empty()).then(|| Arc::new(set));
    Ok(Xattrs { set, access_list })
}

/// Calls with a small buffer first, and with larger ones as long as the system says "too small".
fn read_growing(call: &impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut small = [0_u8; 256];
    match call(&mut small) {
        Ok(length) => return Ok(small.get(..length).unwrap_or_default().to_vec()),
        Err(Errno::RANGE) => {}
        Err(error) => return Err(error),
    }
    // Linux: names and values are at most 64 KiB.
    let mut large = vec![0_u8; 65_536];
    let length = call(&mut large)?;
    large.truncate(length);
    Ok(large)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_those_without_a_place_are_left_out() {
        let names: &[u8] = b"user.b\0security.selinux\0system.posix_acl_access\0user.a\0lustre.lov\0";
        let list = |buffer: &mut [u8]| {
            buffer[..names.len()].copy_from_slice(names);
            Ok(names.len())
        };
        let get = |name: &CStr, buffer: &mut [u8]| {
            buffer[..1].copy_from_slice(&name.to_bytes()[5..6]);
            Ok(1)
        };
        let found = read(list, get).unwrap();
        assert!(found.access_list);
        let set = found.set.unwrap();
        assert_eq!(set.len(), 2);
        assert_eq!((&*set[0].0, &*set[0].1), (&b"user.a"[..], &b"a"[..]));
        assert_eq!((&*set[1].0, &*set[1].1), (&b"user.b"[..], &b"b"[..]));
    }

    #[test]
    fn a_file_system_without_xattrs_has_none() {
        let found = read(|_| Err(Errno::OPNOTSUPP), |_, _| Ok(0)).unwrap();
        assert_eq!(found, Xattrs::default());
    }
}
