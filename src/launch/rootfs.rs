//! Assembles the container's root directory from the plan and enters it.
//!
//! ```text
//! stage (a tmpfs of this container)   image/    the image, or the sandbox directory
//!                                     points/   empty mount points that the image lacks
//!                                     layer-N/  directories that the plan lays over the image
//!                                     changes/  upper and work directory, where the root can be written
//!                                     made-N    files made for this container (passwd, group)
//!                                     root/     overlay of changes, points and layers over image, where there are
//!                                               any or the image's root lacks mount points;
//!                                               else image is the root, with overlays where it lacks any
//! ```
//!
//! Sources on the host are taken before the stage is mounted, because it hides a directory and must not be part of
//! what is bound; targets are opened inside the root, as if it were `/`, right before each is mounted on.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::MountFlags;

use super::namespaces::Unmounted;
use super::root_directory;
use crate::error::{Context, Error, Kind, Result};
use crate::plan::{
    Held, HeldKind, HostEntry, IdMap, Mount, MountKind, MountPoint, RunPlan, TargetKind, Writes,
};
use crate::sys::compat;
use crate::sys::mount::{self, Extent, Limits, Taken};

/// What lies below everything else.
pub enum Lower {
    /// The image's root.
    Mount(Taken),
    /// The image, not mounted yet.
    Unmounted(Unmounted),
    /// A sandbox directory of the host.
    Directory(PathBuf),
}

/// The stage hides this directory of the process's own copy of the host: every host has it, and what is bound from
/// it was taken before.
const STAGE_AT: &str = "/dev";

/// Where in the stage what is written goes.
const CHANGES: &str = "changes";

/// The name of the uppermost of the layers that are only read.
const UPPERMOST: &str = "layer-0";

/// Builds the root and makes it the root directory of this process.
pub fn assemble_and_enter(plan: &RunPlan, lower: Lower) -> Result<()> {
    let (root, _) = assemble(plan, lower, STAGE_AT)?;
    rustix::process::fchdir(&root)
        .context(Kind::Host, || "cannot prepare the container's root directory".into())?;
    mount::enter_current_directory_as_root()
        .context(Kind::Host, || "cannot make the image the root directory".into())
}

/// Builds the root; gives it open, and its name in the stage, which is mounted on the directory `stage`. The working
/// directory is the stage after that.
pub fn assemble(plan: &RunPlan, lower: Lower, stage: &str) -> Result<(OwnedFd, &'static str)> {
    let new = is_new_layer(plan);
    make_on_host(&plan.make)?;
    let sources = take_sources(&plan.mounts)?;
    let layers = take_layers(plan)?;
    let lower = match lower {
        Lower::Directory(path) => Lower::Mount(take_sandbox(&path, plan.writes == Writes::Sandbox)?),
        other => other,
    };
    let staging = || "cannot prepare the container's root directory".to_owned();
    compat::shield_from_binds(stage).context(Kind::Host, staging)?;
    mount::mount_new("tmpfs", stage, MountFlags::NOSUID | MountFlags::NODEV, "mode=0755")
        .context(Kind::Host, staging)?;
    // Everything of the stage is named relative to it from here on.
    rustix::process::chdir(stage).context(Kind::Host, staging)?;
    let image = make_directory("image").context(Kind::Host, staging)?;
    match lower {
        Lower::Mount(mount) => {
            mount.attach(image.as_fd(), || open_directory("image")).context(Kind::Host, staging)?;
        }
        Lower::Unmounted(image) => image.mount_at(plan, "image")?,
        Lower::Directory(_) => return Err(Error::new(Kind::Internal, "the sandbox was not taken")),
    }
    for (name, layer) in &layers {
        let at = make_directory(name).context(Kind::Host, staging)?;
        layer.attach(at.as_fd(), || open_directory(name)).context(Kind::Host, staging)?;
    }
    if new {
        let below = if layers.iter().any(|(name, _)| name == UPPERMOST) { UPPERMOST } else { "image" };
        root_directory::inherit(below, &format!("{CHANGES}/upper")).context(Kind::Host, staging)?;
    }
    let (root, name) = lay_mount_points(plan)?;
    for (number, (mount, source)) in plan.mounts.iter().zip(sources).enumerate() {
        let done = apply(root.as_fd(), number, mount, source.as_ref());
        if let Err(error) = done
            && !mount.optional
        {
            return Err(error);
        }
    }
    Ok((root, name))
}

/// Whether what root writes goes to a directory that is not there yet. To others their own directories stay writable.
fn is_new_layer(plan: &RunPlan) -> bool {
    let root = !matches!(plan.ids, IdMap::Caller { .. });
    matches!(&plan.writes, Writes::Directory(path) if root && !path.0.join("upper").exists())
}

/// What to do where something cannot be made on the host: it is for what a flag names.
const NOT_MADE: &str = "--overlay, --workdir and mount points below a bind need a directory that you can write to; name another one";

fn make_on_host(entries: &[HostEntry]) -> Result<()> {
    for HostEntry { path, kind, mode } in entries {
        let (what, made) = match kind {
            TargetKind::Directory => ("directory", rustix::fs::mkdir(&path.0, Mode::from(*mode))),
            TargetKind::File => ("file", make_empty_file(CWD, &path.0, Mode::from(*mode))),
        };
        match made {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => {
                let tried = || format!("cannot make the {what} {:?} on the host", path.0);
                return Err(error).tried(tried).map_err(|error| error.hint(NOT_MADE));
            }
        }
    }
    Ok(())
}

fn take_sandbox(path: &Path, writable: bool) -> Result<Taken> {
    let limits = Limits { read_only: !writable, no_devices: true };
    mount::take(path, Extent::Mount, Some(limits)).tried(|| format!("cannot use the sandbox {path:?}"))
}

/// The layers, and of the directory for what is written, with their names in the stage.
fn take_layers(plan: &RunPlan) -> Result<Vec<(String, Taken)>> {
    let layers = plan.layers.iter().enumerate().map(|(number, path)| (format!("layer-{number}"), path));
    let changes = match &plan.writes {
        Writes::Directory(path) => Some((CHANGES.to_owned(), path)),
        Writes::Nowhere | Writes::Memory | Writes::Sandbox => None,
    };
    layers
        .chain(changes)
        .map(|(name, path)| {
            let trying = || format!("cannot use the overlay {:?}", path.0);
            Ok((name, mount::take(&path.0, Extent::Tree, None).tried(trying)?))
        })
        .collect()
}

/// Each bind's source, `None` for what has none or is optional and missing.
fn take_sources(mounts: &[Mount]) -> Result<Vec<Option<Taken>>> {
    mounts
        .iter()
        .map(|mount| match &mount.what {
            MountKind::Bind { source, read_only } => {
                let limits = read_only.then_some(Limits { read_only: true, no_devices: false });
                match mount::take(&source.0, Extent::Tree, limits) {
                    Ok(tree) => Ok(Some(tree)),
                    Err(_) if mount.optional => Ok(None),
                    Err(error) => {
                        Err(Error::new(Kind::Io, format!("cannot bind {:?}", source.0)).because(error))
                    }
                }
            }
            MountKind::File { .. } | MountKind::Tmpfs { .. } | MountKind::Kernel { .. } => Ok(None),
        })
        .collect()
}

/// The root directory: the image, with the mount points it lacks laid over the directories that lack them. The
/// overlays have no upper layer, so they are read-only and files are read from the image's own page cache.
fn lay_mount_points(plan: &RunPlan) -> Result<(OwnedFd, &'static str)> {
    let trying = || "cannot add mount points to the image".to_owned();
    if plan.writes == Writes::Sandbox {
        make_mount_points(&open_directory("image").context(Kind::Host, trying)?, &plan.mount_points)?;
    } else if !plan.mount_points.is_empty() {
        make_mount_points(&make_directory("points").context(Kind::Host, trying)?, &plan.mount_points)?;
    }
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
        let mut options = format!("lowerdir={}image{below},userxattr", upper_layers(plan, &below));
        let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
        if plan.writes == Writes::Nowhere {
            flags |= MountFlags::RDONLY;
        } else {
            options.push_str(&format!(",upperdir={CHANGES}/upper,workdir={CHANGES}/work"));
        }
        if plan.writes == Writes::Memory {
            make_changes().context(Kind::Host, trying)?;
        }
        mount::mount_new_at("overlay", at.as_fd(), flags, &options)
            .map_err(|error| explain_no_overlay(plan, error))?;
    }
    // Anew, to mean the overlay and not the directory it covers.
    if whole {
        Ok((open_directory("root").context(Kind::Host, trying)?, "root"))
    } else {
        Ok((root, "image"))
    }
}

/// What comes before the image in the list of layers.
fn upper_layers(plan: &RunPlan, below: &str) -> String {
    let points = if plan.mount_points.is_empty() { String::new() } else { format!("points{below}:") };
    let layers = (0..plan.layers.len()).map(|number| format!("layer-{number}:"));
    layers.fold(points, |list, layer| list + &layer)
}

/// The directories for what is written to memory.
fn make_changes() -> std::io::Result<()> {
    for name in ["changes", "changes/upper", "changes/work"] {
        make_directory(name)?;
    }
    Ok(())
}

fn explain_no_overlay(plan: &RunPlan, error: std::io::Error) -> Error {
    let (trying, hint) = match &plan.writes {
        Writes::Nowhere if plan.layers.is_empty() => (
            "cannot add mount points to the image".to_owned(),
            "the image lacks mount points and this kernel allows no overlay to an ordinary user (kernel 5.11 or newer does); make the directories in the image, or leave the binds out",
        ),
        Writes::Directory(path) => (
            format!("cannot write to the overlay {:?}", path.0),
            "the directory must be on a file system of this machine that can hold extended attributes, such as ext4 or xfs, and no other container may write to it; overlays of ordinary users need kernel 5.11 or newer",
        ),
        _ => (
            "cannot lay an overlay over the image".to_owned(),
            "overlays of ordinary users need kernel 5.11 or newer; or unpack the image and write to that: skiff build --sandbox DIR IMAGE, skiff exec --writable DIR",
        ),
    };
    Error::host(trying).because(error).hint(hint)
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

fn make_mount_points(below: &OwnedFd, points: &[MountPoint]) -> Result<()> {
    for point in points {
        let path = point.path.0.strip_prefix("/").unwrap_or(&point.path.0);
        let mode = Mode::from(point.mode);
        let made = match point.kind {
            TargetKind::Directory => rustix::fs::mkdirat(below, path, mode),
            TargetKind::File => make_empty_file(below, path, mode),
        };
        // In a sandbox that is written, the directories above a new one are there.
        match made {
            Err(rustix::io::Errno::EXIST) => Ok(()),
            other => other,
        }
        .context(Kind::Host, || format!("cannot make the mount point {:?}", point.path.0))?;
    }
    Ok(())
}

fn make_empty_file(below: impl AsFd, path: &Path, mode: Mode) -> rustix::io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(below, path, flags, mode).map(drop)
}

fn apply(root: BorrowedFd<'_>, number: usize, mount: &Mount, source: Option<&Taken>) -> Result<()> {
    let target = || format!("cannot mount on {:?} in the container", mount.target.0);
    match &mount.what {
        MountKind::Bind { source: path, .. } => {
            // Optional and missing on this host.
            let Some(source) = source else { return Ok(()) };
            let at = mount::open_target(root, &mount.target.0).context(Kind::Host, target)?;
            source
                .attach(at.as_fd(), || mount::open_target(root, &mount.target.0))
                .context(Kind::Host, || format!("cannot bind {:?} on {:?}", path.0, mount.target.0))
        }
        MountKind::File { content, mode } => {
            let at = mount::open_target(root, &mount.target.0).context(Kind::Host, target)?;
            let made = make_file(number, content, *mode).context(Kind::Host, target)?;
            mount::bind_file(made.as_fd(), at.as_fd()).context(Kind::Host, target)
        }
        MountKind::Tmpfs { mode, holds } => {
            let at = mount::open_target(root, &mount.target.0).context(Kind::Host, target)?;
            let options = format!("mode={mode:04o}");
            mount::mount_new_at("tmpfs", at.as_fd(), MountFlags::NOSUID | MountFlags::NODEV, &options)
                .context(Kind::Host, target)?;
            if holds.is_empty() {
                return Ok(());
            }
            // Anew, to mean what is mounted there now.
            let top = mount::open_target(root, &mount.target.0).context(Kind::Host, target)?;
            fill(&top, holds).context(Kind::Host, target)
        }
        MountKind::Kernel { file_system, options } => {
            let at = mount::open_target(root, &mount.target.0).context(Kind::Host, target)?;
            let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
            match mount::mount_new_at(file_system, at.as_fd(), flags, options) {
                // A new one would show what the host's hides (mount_too_revealing in the kernel).
                Err(error) if *file_system == "proc" && error.raw_os_error() == Some(libc::EPERM) => {
                    mount::take(Path::new("/proc"), Extent::Tree, None)
                        .and_then(|hosts| {
                            hosts.attach(at.as_fd(), || mount::open_target(root, &mount.target.0))
                        })
                        .context(Kind::Host, target)
                }
                made => made.context(Kind::Host, target),
            }
        }
    }
}

/// Makes what a new file system holds.
fn fill(top: &OwnedFd, holds: &[Held]) -> rustix::io::Result<()> {
    for held in holds {
        let mode = Mode::from(held.mode);
        match &held.kind {
            HeldKind::Directory => rustix::fs::mkdirat(top, &held.path, mode)?,
            HeldKind::File => make_empty_file(top, &held.path, mode)?,
            HeldKind::Link(target) => rustix::fs::symlinkat(target, top, &held.path)?,
        }
    }
    Ok(())
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
