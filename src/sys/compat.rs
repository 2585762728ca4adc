//! Everything that differs between kernels, each with the version that made it unnecessary.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::mount::MountFlags;

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
