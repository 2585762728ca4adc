//! Everything that differs between kernels, each with the version that made it unnecessary.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::mount::{MountFlags, MountPropagationFlags};

use super::mount::{self, Extent, Limits};

/// Whether mounts can be copied and moved by descriptors (5.2: open_tree, move_mount). Asked of the kernel once.
pub fn has_mount_descriptors() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(super::features::has_mount_descriptors)
}

/// Before 5.2 (open_tree): what would be a detached copy of a mount, kept as a descriptor of the place until it is
/// attached. A bind by that descriptor means the place itself, even if something was mounted over it meanwhile.
#[derive(Debug)]
pub struct Named {
    place: OwnedFd,
    extent: Extent,
    limits: Option<Limits>,
}

impl Named {
    /// # Errors
    /// Those of open(2).
    pub fn open(path: &Path, extent: Extent, limits: Option<Limits>) -> io::Result<Self> {
        let place = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { place, extent, limits })
    }

    /// # Errors
    /// Those of mount(2) and [`mount::limit`].
    pub fn attach(
        &self,
        target: BorrowedFd<'_>,
        top: impl FnOnce() -> io::Result<OwnedFd>,
    ) -> io::Result<()> {
        let (place, target) = (mount::by_descriptor(self.place.as_fd()), mount::by_descriptor(target));
        match self.extent {
            Extent::Mount => rustix::mount::mount_bind(place, target)?,
            Extent::Tree => rustix::mount::mount_bind_recursive(place, target)?,
        }
        match self.limits {
            Some(limits) => mount::limit(top()?.as_fd(), limits, self.extent),
            None => Ok(()),
        }
    }
}

/// Before 5.2: what is mounted over `path` from here on is left out of the copies that recursive binds make, of /dev or
/// of the root directory. (A detached copy is made before there is such a mount.) It is an unbindable mount that does
/// so: the kernel leaves it out with all that is mounted on it, which may itself be bound.
///
/// # Errors
/// Those of mount(2).
pub fn shield_from_binds(path: &str) -> io::Result<()> {
    if has_mount_descriptors() {
        return Ok(());
    }
    mount::mount_new("tmpfs", path, MountFlags::NOSUID | MountFlags::NODEV, "mode=0755")?;
    Ok(rustix::mount::mount_change(path, MountPropagationFlags::UNBINDABLE)?)
}

/// Before 5.12 (mount_setattr): the flags a remount must repeat, because a user namespace may not clear those that
/// a mount had outside.
///
/// # Errors
/// Those of fstatvfs(3).
pub fn locked_flags(mount: BorrowedFd<'_>) -> io::Result<MountFlags> {
    let had = rustix::fs::fstatvfs(mount)?.f_flag;
    let mut flags = MountFlags::empty();
    for (shown, flag) in [
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ] {
        flags.set(flag, had.contains(shown));
    }
    Ok(flags)
}

/// Before 5.6 (openat2): walks `path` below `root` one name at a time without following any link. The plan's
/// targets are free of links, so one that is met was put there by someone else and is refused (ELOOP).
///
/// # Errors
/// Those of openat(2), ELOOP at a symbolic link.
pub fn open_in_root(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut here = rustix::fs::openat(root, ".", flags, Mode::empty())?;
    for component in path.components() {
        match component {
            Component::Normal(name) => here = rustix::fs::openat(&here, name, flags, Mode::empty())?,
            Component::RootDir | Component::CurDir => continue,
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::from_raw_os_error(libc::EXDEV));
            }
        }
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(here.as_fd())?.st_mode);
        if kind == rustix::fs::FileType::Symlink {
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
    }
    Ok(here)
}

/// Where the root directory is the initial ramfs (diskless nodes; any version): pivot_root cannot replace a root
/// that has no parent, so the mount is moved over it.
///
/// # Errors
/// Those of mount(2) and chroot(2).
pub fn move_current_directory_to_root() -> io::Result<()> {
    rustix::mount::mount_move(".", "/")?;
    Ok(rustix::process::chroot(".")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_for_old_kernels_refuses_links_and_parents() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/file"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("link")).unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        assert!(open_in_root(root.as_fd(), Path::new("/a/file")).is_ok());
        let refused = |path: &str| open_in_root(root.as_fd(), Path::new(path)).unwrap_err().raw_os_error();
        assert_eq!(refused("/link/passwd"), Some(libc::ELOOP));
        assert_eq!(refused("/a/../../etc"), Some(libc::EXDEV));
        assert_eq!(refused("/missing"), Some(libc::ENOENT));
    }
}
