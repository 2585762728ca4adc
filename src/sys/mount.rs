//! Mounts by descriptor: what rustix lacks or what needs more than one call.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

/// The path under which a mount call can name a descriptor.
pub(super) fn by_descriptor(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// What of a mount tree is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// The mount alone.
    Mount,
    /// The mount and all that is mounted below it.
    Tree,
}

/// What a mount may not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Nothing is written.
    pub read_only: bool,
    /// Device files are not opened.
    pub no_devices: bool,
}

impl Limits {
    /// As mount_setattr(2) takes them; set-user-id programs are never allowed.
    fn attributes(self) -> u64 {
        let mut attributes = libc::MOUNT_ATTR_NOSUID;
        if self.read_only {
            attributes |= libc::MOUNT_ATTR_RDONLY;
        }
        if self.no_devices {
            attributes |= libc::MOUNT_ATTR_NODEV;
        }
        attributes
    }

    /// As mount(2) takes them.
    fn flags(self) -> MountFlags {
        let mut flags = MountFlags::NOSUID;
        flags.set(MountFlags::RDONLY, self.read_only);
        flags.set(MountFlags::NODEV, self.no_devices);
        flags
    }
}

/// A detached copy of the mount at `path` in the current mount namespace, from `path` on.
///
/// # Errors
/// ENOSYS before kernel 5.2; EINVAL when, of a copy without what is mounted below, that would uncover what a user
/// namespace must not see.
pub fn clone_mount(path: &std::path::Path, extent: Extent) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, extent == Extent::Tree);
    Ok(rustix::mount::open_tree(CWD, path, flags)?)
}

/// Something that is mounted already and is to be mounted elsewhere too.
#[derive(Debug)]
pub enum Taken {
    /// A detached copy; and before kernel 5.12 the limits that it gets once it is attached: a remount knows no detached
    /// mounts.
    Detached(OwnedFd, Option<(Limits, Extent)>),
    /// Before kernel 5.2: where it is; it is copied when it is attached.
    Named(super::compat::Named),
}

/// Takes the mount at `path`, from `path` on, with `limits` for the copy. What is mounted over `path` later is not
/// part of it.
///
/// # Errors
/// As [`clone_mount`] and [`limit`], but for ENOSYS.
pub fn take(path: &std::path::Path, extent: Extent, limits: Option<Limits>) -> io::Result<Taken> {
    if !super::compat::has_mount_descriptors() {
        return Ok(Taken::Named(super::compat::Named::open(path, extent, limits)?));
    }
    let mount = clone_mount(path, extent)?;
    match limits {
        Some(limits) if super::features::has_mount_attributes() => limit(mount.as_fd(), limits, extent)?,
        Some(limits) => return Ok(Taken::Detached(mount, Some((limits, extent)))),
        None => {}
    }
    Ok(Taken::Detached(mount, None))
}

impl Taken {
    /// Mounts it at `target`; `top` opens what is mounted there afterwards.
    ///
    /// # Errors
    /// Those of move_mount(2), or of mount(2) and [`limit`].
    pub fn attach(
        &self,
        target: BorrowedFd<'_>,
        top: impl FnOnce() -> io::Result<OwnedFd>,
    ) -> io::Result<()> {
        match self {
            Self::Detached(mount, later) => {
                attach(mount.as_fd(), target)?;
                later.map_or(Ok(()), |(limits, extent)| limit(top()?.as_fd(), limits, extent))
            }
            Self::Named(named) => named.attach(target, top),
        }
    }
}

/// Mounts a detached mount at the directory `target`.
///
/// # Errors
/// Those of move_mount(2).
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::mount::move_mount(
        mount,
        "",
        target,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )?)
}

/// Binds the file `source` on `target`.
///
/// # Errors
/// Those of mount(2); EINVAL when `source` belongs to another mount namespace.
pub fn bind_file(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::mount::mount_bind(by_descriptor(source), by_descriptor(target))?)
}

/// Takes `limits` from a mount, or from a tree of mounts. `mount` is any descriptor of its root, opened after it was
/// mounted. Nothing is given back: what the mount did not allow before, it does not allow after.
///
/// # Errors
/// Those of mount_setattr(2), or, before kernel 5.12, of mount(2) with MS_REMOUNT, which treats the topmost
/// mount only.
pub fn limit(mount: BorrowedFd<'_>, limits: Limits, extent: Extent) -> io::Result<()> {
    let attributes =
        libc::mount_attr { attr_set: limits.attributes(), attr_clr: 0, propagation: 0, userns_fd: 0 };
    let how = libc::AT_EMPTY_PATH | if extent == Extent::Tree { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated empty string and the attributes are valid for the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            how,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // EPERM is also what the filters of some outer containers answer to calls that they do not know.
    let missing = match error.raw_os_error() {
        Some(libc::ENOSYS) => true,
        Some(libc::EPERM) => !super::features::has_mount_attributes(),
        _ => false,
    };
    if !missing {
        return Err(error);
    }
    let flags = MountFlags::BIND | limits.flags() | super::compat::locked_flags(mount)?;
    Ok(rustix::mount::mount_remount(by_descriptor(mount), flags, "")?)
}

/// Opens `path` inside `root` for mounting on it, as if `root` were the root directory: links cannot lead out.
///
/// # Errors
/// Those of openat2(2); see [`super::compat::open_in_root`] for kernels before 5.6, and filters of outer containers that
/// do not know the call, whose answer is EPERM. (The call itself has no such answer to a path.)
pub fn open_target(root: BorrowedFd<'_>, path: &std::path::Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match rustix::fs::openat2(
        root,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    ) {
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => super::compat::open_in_root(root, path),
        other => Ok(other?),
    }
}

/// Makes the directory that is the current one the root directory and takes the old root away.
///
/// # Errors
/// Those of the calls; where the root is the kernel's initial ramfs, pivot_root(2) gives EINVAL and the mount is
/// moved over it instead, as diskless cluster nodes need.
pub fn enter_current_directory_as_root() -> io::Result<()> {
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => {
            // The old root is now stacked on the new one at "."; nothing of it may stay reachable.
            rustix::mount::unmount(".", UnmountFlags::DETACH)?;
        }
        Err(rustix::io::Errno::INVAL) => super::compat::move_current_directory_to_root()?,
        Err(error) => return Err(error.into()),
    }
    Ok(rustix::process::chdir("/")?)
}

/// Mounts a new file system at `target`.
///
/// # Errors
/// Those of mount(2).
pub fn mount_new(kind: &str, target: &str, flags: MountFlags, data: &str) -> io::Result<()> {
    let data = super::process::c_string(data.as_ref())?;
    Ok(rustix::mount::mount(kind, target, kind, flags, Some(data.as_c_str()))?)
}

/// The same at a descriptor.
///
/// # Errors
/// Those of mount(2).
pub fn mount_new_at(kind: &str, target: BorrowedFd<'_>, flags: MountFlags, data: &str) -> io::Result<()> {
    mount_new(kind, &by_descriptor(target.as_fd()), flags, data)
}
