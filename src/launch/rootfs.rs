//! Assembles the container's root directory from the plan and enters it.
//!
//! ```text
//! stage (a tmpfs of this container)   image/   the image, or the sandbox directory, read-only
//!                                     points/  empty mount points that the image lacks
//!                                     made/N   files made for this container (passwd, group)
//!                                     root/    overlay of points over image, where the image's root lacks some;
//!                                              else image is the root, with overlays where it lacks any
//! ```
//!
//! Sources on the host are cloned before the stage is mounted, because it hides a directory and must not be part of
//! what is bound; targets are opened inside the root, as if it were `/`, right before each is mounted on.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::MountFlags;

use crate::error::{Context, Error, Kind, Result};
use crate::plan::{Mount, MountKind, MountPoint, RunPlan, TargetKind};
use crate::sys::mount::{self, Extent};

/// What lies below everything else.
pub enum Lower {
    /// The image's root, a detached mount.
    Mount(OwnedFd),
    /// A sandbox directory of the host.
    Directory(PathBuf),
}

/// The stage hides this directory of the process's own copy of the host: every host has it, and what is bound from
/// it was cloned before.
const STAGE_AT: &str = "/dev";

/// Builds the root and makes it the root directory of this process.
pub fn assemble_and_enter(plan: &RunPlan, lower: Lower) -> Result<()> {
    let sources = clone_sources(&plan.mounts)?;
    let lower = match lower {
        Lower::Mount(mount) => mount,
        Lower::Directory(path) => {
            let trying = || format!("cannot use the sandbox {path:?}");
            let mount = mount::clone_mount(&path, Extent::Mount).tried(trying)?;
            mount::make_read_only(mount.as_fd(), false, true).context(Kind::Host, trying)?;
            mount
        }
    };
    let staging = || "cannot prepare the container's root directory".to_owned();
    mount::mount_new("tmpfs", STAGE_AT, MountFlags::NOSUID | MountFlags::NODEV, "mode=0755")
        .context(Kind::Host, staging)?;
    // Everything of the stage is named relative to it from here on.
    rustix::process::chdir(STAGE_AT).context(Kind::Host, staging)?;
    let image = make_directory("image").context(Kind::Host, staging)?;
    mount::attach(lower.as_fd(), image.as_fd()).context(Kind::Host, staging)?;
    let root = lay_mount_points(plan)?;
    for (number, (mount, source)) in plan.mounts.iter().zip(sources).enumerate() {
        let done = apply(root.as_fd(), number, mount, source.as_ref());
        if let Err(error) = done
            && !mount.optional
        {
            return Err(error);
        }
    }
    rustix::process::fchdir(&root).context(Kind::Host, staging)?;
    mount::enter_current_directory_as_root()
        .context(Kind::Host, || "cannot make the image the root directory".into())
}

/// A detached copy of each bind's source, `None` for what has none or is optional and missing.
fn clone_sources(mounts: &[Mount]) -> Result<Vec<Option<OwnedFd>>> {
    mounts
        .iter()
        .map(|mount| match &mount.what {
            MountKind::Bind { source, read_only } => {
                let cloned = mount::clone_mount(&source.0, Extent::Tree).and_then(|tree| {
                    if *read_only {
                        mount::make_read_only(tree.as_fd(), true, false)?;
                    }
                    Ok(tree)
                });
                match cloned {
                    Ok(tree) => Ok(Some(tree)),
                    Err(_) if mount.optional => Ok(None),
                    Err(error) => {
                        Err(Error::new(Kind::Io, format!("cannot bind {:?}", source.0)).because(error))
                    }
                }
            }
            MountKind::File { .. } | MountKind::Tmpfs { .. } => Ok(None),
        })
        .collect()
}

/// The root directory: the image, with the mount points it lacks laid over the directories that lack them. The
/// overlays have no upper layer, so they are read-only and files are read from the image's own page cache.
fn lay_mount_points(plan: &RunPlan) -> Result<OwnedFd> {
    let trying = || "cannot add mount points to the image".to_owned();
    make_mount_points(&plan.mount_points)?;
    let whole = plan.overlays.iter().any(|path| path.0 == Path::new("/"));
    let root = if whole {
        make_directory("root").context(Kind::Host, trying)?;
        open_directory("root")
    } else {
        open_directory("image")
    }
    .context(Kind::Host, trying)?;
    for directory in &plan.overlays {
        let at = mount::open_target(root.as_fd(), &directory.0).context(Kind::Host, trying)?;
        let below = escaped(&directory.0);
        let layers = format!("lowerdir=points{below}:image{below},userxattr");
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        mount::mount_new_at("overlay", at.as_fd(), flags, &layers).map_err(|error| {
            let hint = "the image lacks mount points and this kernel allows no overlay to an ordinary user (kernel 5.11 or newer does); make the directories in the image, or leave the binds out";
            Error::host(trying()).because(error).hint(hint)
        })?;
    }
    // Anew, to mean the overlay and not the directory it covers.
    if whole { open_directory("root").context(Kind::Host, trying) } else { Ok(root) }
}

/// A path in the options of an overlay, where `:` and `,` separate.
fn escaped(path: &Path) -> String {
    let mut text = String::new();
    for character in path.to_string_lossy().chars() {
        if matches!(character, ':' | ',' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    if text == "/" { String::new() } else { text }
}

fn make_mount_points(points: &[MountPoint]) -> Result<()> {
    if points.is_empty() {
        return Ok(());
    }
    let below = make_directory("points").context(Kind::Host, || "cannot make mount points".into())?;
    for point in points {
        let path = point.path.0.strip_prefix("/").unwrap_or(&point.path.0);
        let mode = Mode::from(point.mode);
        match point.kind {
            TargetKind::Directory => rustix::fs::mkdirat(&below, path, mode),
            TargetKind::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::openat(&below, path, flags, mode).map(drop)
            }
        }
        .context(Kind::Host, || format!("cannot make the mount point {:?}", point.path.0))?;
    }
    Ok(())
}

fn apply(root: BorrowedFd<'_>, number: usize, mount: &Mount, source: Option<&OwnedFd>) -> Result<()> {
    let target = || format!("cannot mount on {:?} in the container", mount.target.0);
    match &mount.what {
        MountKind::Bind { source: path, .. } => {
            // Optional and missing on this host.
            let Some(source) = source else { return Ok(()) };
            let at = mount::open_target(root, &mount.target.0).context(Kind::Host, target)?;
            mount::attach(source.as_fd(), at.as_fd())
                .context(Kind::Host, || format!("cannot bind {:?} on {:?}", path.0, mount.target.0))
        }
        MountKind::File { content, mode } => {
            let at = mount::open_target(root, &mount.target.0).context(Kind::Host, target)?;
            let made = make_file(number, content, *mode).context(Kind::Host, target)?;
            mount::bind_file(made.as_fd(), at.as_fd()).context(Kind::Host, target)
        }
        MountKind::Tmpfs { mode } => {
            let at = mount::open_target(root, &mount.target.0).context(Kind::Host, target)?;
            let options = format!("mode={mode:04o}");
            mount::mount_new_at("tmpfs", at.as_fd(), MountFlags::NOSUID | MountFlags::NODEV, &options)
                .context(Kind::Host, target)
        }
    }
}

fn make_file(number: usize, content: &[u8], mode: u32) -> std::io::Result<OwnedFd> {
    let name = format!("made-{number}");
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, &name, flags, Mode::from(mode))?;
    let mut file = std::fs::File::from(file);
    std::io::Write::write_all(&mut file, content)?;
    rustix::fs::fchmod(&file, Mode::from(mode))?;
    Ok(file.into())
}

fn make_directory(name: &str) -> std::io::Result<OwnedFd> {
    rustix::fs::mkdirat(CWD, name, Mode::from(0o755))?;
    open_directory(name)
}

fn open_directory(name: &str) -> std::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, name, flags, Mode::empty())?)
}
