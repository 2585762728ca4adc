//! What a host forbids, and the command or setting that mends it: the words that the hint of an error and
//! `skiff doctor` share.
//!
//! Each function gets what the kernel answered and looks at the host's settings below `root` (`/` in life, a made-up
//! host's directory in tests) to tell apart what the answer alone leaves open.

use std::path::Path;

use crate::sys::fuse::{self, Device};

/// What the kernel's answer may be explained by: files below `root`.
fn read(root: &Path, path: &str) -> Option<String> {
    std::fs::read_to_string(root.join(path)).ok().map(|text| text.trim().to_owned())
}

/// Whether AppArmor restricts the user namespaces of ordinary users (Ubuntu 23.10 and later).
pub fn apparmor_restricts(root: &Path) -> bool {
    read(root, "proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1")
}

/// Whether a filter of system calls is on this process: an outer container's.
pub fn is_filtered(root: &Path) -> bool {
    let status = read(root, "proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}

/// Whether the caller has no id in the user namespace it is in; such a process can make no further one.
fn is_nobody(root: &Path) -> bool {
    let status = read(root, "proc/self/status").unwrap_or_default();
    let uid =
        status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1)?.parse().ok());
    let (Some(uid), Some(map)) = (uid, read(root, "proc/self/uid_map")) else { return false };
    let covers = |line: &str| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        matches!(numbers[..], [first, _, count] if (first..first.saturating_add(count)).contains(&uid))
    };
    !map.lines().any(covers)
}

const NOBODY: &str = "the caller's id is not mapped in the outer container; map it there (podman run --userns=keep-id, unshare -r)";

const APPARMOR: &str = "AppArmor restricts user namespaces here; the administrator can give skiff a profile with 'userns,' (docs/hosts.md), or allow them to all: sysctl kernel.apparmor_restrict_unprivileged_userns=0";

/// unshare(CLONE_NEWUSER) failed (user_namespaces(7), and the sysctls of distributions).
pub fn no_user_namespace(errno: i32, root: &Path) -> String {
    let is = |sysctl: &str, value: &str| read(root, sysctl).as_deref() == Some(value);
    let why = if is("proc/sys/user/max_user_namespaces", "0") {
        "user namespaces are switched off; the administrator can allow them: sysctl user.max_user_namespaces=15000"
    } else if is("proc/sys/kernel/unprivileged_userns_clone", "0") {
        "user namespaces are for root only here; the administrator can allow them: sysctl kernel.unprivileged_userns_clone=1"
    } else if matches!(errno, libc::EPERM | libc::EACCES) && apparmor_restricts(root) {
        APPARMOR
    } else {
        match errno {
            libc::ENOSPC => {
                "the limit on user namespaces is reached, here or in an outer container; the administrator can raise it: sysctl user.max_user_namespaces=15000"
            }
            libc::EUSERS => "user namespaces are nested too deeply (32 levels); start skiff further out",
            libc::EINVAL => {
                "this kernel is built without user namespaces; use one with CONFIG_USER_NS=y, as those of all distributions are"
            }
            libc::EPERM if is_nobody(root) => NOBODY,
            libc::EPERM if is_filtered(root) => {
                "a seccomp filter forbids user namespaces in this container; start it with them allowed (docker run --security-opt seccomp=unconfined, or podman, whose filter allows them)"
            }
            libc::EPERM => {
                "the kernel forbids user namespaces in a chroot, and by its security module (SELinux: user_namespace); start skiff outside the chroot, or allow it in the policy"
            }
            _ => {
                return format!(
                    "errno {errno} of unshare(2) is not known to skiff; 'skiff doctor' tells more"
                );
            }
        }
    };
    why.to_owned()
}

/// The id map of a new user namespace cannot be written.
pub fn no_id_map(root: &Path) -> String {
    if apparmor_restricts(root) {
        return APPARMOR.to_owned();
    }
    if is_nobody(root) {
        return NOBODY.to_owned();
    }
    "a user namespace was made, but the caller's id cannot be mapped in it: a security module or a filter forbids it; allow it there, or start skiff outside".to_owned()
}

/// A mount was refused in a user namespace of our own.
pub fn no_mount(errno: i32, root: &Path) -> String {
    match errno {
        libc::EPERM | libc::EACCES if apparmor_restricts(root) => APPARMOR.to_owned(),
        libc::EPERM if is_filtered(root) => "a seccomp filter forbids mounts in this container; start it with them allowed (docker run --security-opt seccomp=unconfined)".to_owned(),
        libc::EPERM | libc::EACCES => "an outer container or a security module forbids mounts; start the outer container with mounts allowed (docker run --security-opt apparmor=unconfined)".to_owned(),
        libc::ENOSPC => "the limit on mounts or mount namespaces is reached; the administrator can raise it: sysctl user.max_mnt_namespaces, fs.mount-max".to_owned(),
        libc::ENODEV => "the kernel does not have this file system; load or build it".to_owned(),
        _ => format!("errno {errno} of mount(2) is not known to skiff here"),
    }
}

/// /dev/fuse cannot be opened.
pub fn no_fuse_device(errno: i32) -> &'static str {
    match errno {
        libc::ENOENT => {
            "load the kernel's fuse module (modprobe fuse), or give the outer container the device (podman or docker run --device /dev/fuse)"
        }
        libc::EACCES => "the administrator can open it to users: chmod 666 /dev/fuse",
        libc::EPERM => {
            "the outer container forbids the device; give it to that container (podman or docker run --device /dev/fuse)"
        }
        libc::ENODEV | libc::ENXIO => "load the kernel's fuse module (modprobe fuse)",
        _ => "it must be the character device 10:229 (mknod /dev/fuse c 10 229; chmod 666 /dev/fuse)",
    }
}

/// What /dev/fuse is instead of the FUSE device, if it is something else: its mount is refused with EINVAL then.
pub fn not_the_fuse_device(root: &Path) -> Option<&'static str> {
    match fuse::device(&std::fs::metadata(root.join("dev/fuse")).ok()?) {
        Device::Fuse => None,
        Device::Other => Some("it is another device than 10:229"),
        Device::None => Some("it is not a device: something else lies at /dev/fuse"),
    }
}

/// A FUSE file system cannot be mounted.
pub fn no_fuse_mount(errno: i32, root: &Path) -> String {
    match errno {
        libc::EINVAL if not_the_fuse_device(root).is_some() => no_fuse_device(libc::EINVAL).to_owned(),
        libc::ENODEV => no_fuse_device(libc::ENODEV).to_owned(),
        libc::EPERM if !is_filtered(root) && !apparmor_restricts(root) => {
            "FUSE in a user namespace needs kernel 4.18 or newer, and an outer container that allows mounts"
                .to_owned()
        }
        _ => no_mount(errno, root),
    }
}

/// An overlay cannot be mounted.
pub const NO_OVERLAY: &str =
    "overlays of ordinary users need kernel 5.11 or newer with its overlay module (modprobe overlay)";

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn each_way_to_switch_user_namespaces_off_is_told_apart() {
        for (files, errno, word) in [
            (
                &[("proc/sys/user/max_user_namespaces", "0\n")][..],
                libc::ENOSPC,
                "user.max_user_namespaces=15000",
            ),
            (&[("proc/sys/user/max_user_namespaces", "99\n")], libc::ENOSPC, "limit on user namespaces"),
            (&[("proc/sys/kernel/unprivileged_userns_clone", "0\n")], libc::EPERM, "userns_clone=1"),
            (
                &[("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n")],
                libc::EACCES,
                "AppArmor restricts",
            ),
            (&[("proc/self/status", "Name:\tx\nSeccomp:\t2\n")], libc::EPERM, "a seccomp filter forbids"),
            (&[("proc/self/status", "Name:\tx\nSeccomp:\t0\n")], libc::EPERM, "in a chroot"),
            (
                &[("proc/self/status", "Uid:\t9\t9\t9\t9\n"), ("proc/self/uid_map", "0 1000 9\n")],
                libc::EPERM,
                "not mapped",
            ),
            (
                &[("proc/self/status", "Uid:\t8\t8\t8\t8\n"), ("proc/self/uid_map", "0 1000 9\n")],
                libc::EPERM,
                "in a chroot",
            ),
            (&[], libc::EINVAL, "CONFIG_USER_NS"),
            (&[], libc::EUSERS, "32 levels"),
        ] {
            let root = host(files);
            let hint = no_user_namespace(errno, root.path());
            assert!(hint.contains(word), "{files:?}, {errno}: {hint}");
        }
    }

    #[test]
    fn apparmor_is_named_where_it_lets_the_namespace_be_but_not_be_used() {
        let root = host(&[("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n")]);
        assert_eq!(no_id_map(root.path()), APPARMOR);
        assert_eq!(no_mount(libc::EACCES, root.path()), APPARMOR);
        assert_eq!(no_fuse_mount(libc::EPERM, root.path()), APPARMOR);
        assert!(no_id_map(host(&[]).path()).contains("cannot be mapped"));
    }

    #[test]
    fn what_lies_at_dev_fuse_is_looked_at() {
        let root = host(&[("dev/fuse", "")]);
        assert!(not_the_fuse_device(root.path()).is_some_and(|what| what.contains("not a device")));
        assert!(no_fuse_mount(libc::EINVAL, root.path()).contains("10:229"));
        assert_eq!(not_the_fuse_device(host(&[]).path()), None);
    }
}
