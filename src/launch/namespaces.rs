//! User and mount namespaces: new ones, or those of the image's server.
//!
//! The order is the kernel's: ids are mapped before anything is mounted; /dev/fuse is opened inside the user
//! namespace that mounts it; a mount can be cloned only out of a namespace that the process is in.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::pipe::PipeFlags;

use super::rootfs::Lower;
use super::subordinate;
use crate::error::{Context, Error, Kind, Result};
use crate::plan::{IdMap, RunPlan};
use crate::remedies;
use crate::serve::{Meeting, Namespaces, Starter};
use crate::sys::mount::{self, Extent, Limits, Taken};
use crate::sys::process::{self, Fork};
use crate::sys::{compat, fuse};

/// Gives this process a user namespace and a mount namespace of its own.
pub fn enter(ids: &IdMap) -> Result<()> {
    enter_user_namespace(ids)?;
    new_mount_namespace()
}

/// The same, with the image served; gives the image's root, and what is left to do for those that come later.
pub fn enter_with_image(plan: &RunPlan, server: Meeting) -> Result<(Lower, Option<Template>)> {
    let detached = |mount| Lower::Mount(Taken::Detached(mount, None));
    match server {
        Meeting::Joined(namespaces) => Ok((detached(join(&namespaces)?), None)),
        Meeting::First(starter) if compat::has_mount_descriptors() => {
            begin(plan, starter).map(|(root, template)| (detached(root), Some(template)))
        }
        Meeting::First(starter) => Ok((begin_alone(plan, starter)?, None)),
    }
}

/// The template mount namespace of a new server, which others can join once it is [finished](Template::finish).
pub struct Template {
    starter: Starter,
    namespaces: Namespaces,
    /// The container's own mount namespace.
    own: OwnedFd,
}

/// Another container of this image stands: its user namespace, a fresh copy of the caller's mounts, its image.
fn join(served: &Namespaces) -> Result<OwnedFd> {
    let trying = || "cannot join the image's server".to_owned();
    setns(&served.user, CloneFlags::CLONE_NEWUSER).context(Kind::Host, trying)?;
    new_mount_namespace()?;
    let own = own_mount_namespace()?;
    setns(&served.template, CloneFlags::CLONE_NEWNS).context(Kind::Host, trying)?;
    let root = mount::clone_mount(Path::new("/"), Extent::Mount).context(Kind::Host, trying)?;
    setns(&own, CloneFlags::CLONE_NEWNS).context(Kind::Host, trying)?;
    Ok(root)
}

/// The first container: makes the namespaces and the file system that others will join.
fn begin(plan: &RunPlan, mut starter: Starter) -> Result<(OwnedFd, Template)> {
    let trying = || "cannot mount the image".to_owned();
    let unpacked = if starter.unpacks() { Some(starter.unpacked()?.root.clone()) } else { None };
    enter_user_namespace(&plan.ids)?;
    new_mount_namespace()?;
    let own = own_mount_namespace()?;
    let user: OwnedFd = File::open("/proc/self/ns/user").context(Kind::Host, trying)?.into();
    new_mount_namespace()?;
    let template = own_mount_namespace()?;
    if let Some(root) = unpacked {
        starter.name_users(user.as_fd())?;
        mount_directory(&root).context(Kind::Host, trying)?;
    } else {
        // All opened first: the mount hides /dev.
        let devices = open_devices(starter.devices())?;
        mount_fuse(plan, &devices, MOUNTED_AT)?;
        // With the server gone, requests must fail rather than wait for descriptors that we hold: they are closed.
        starter.hand_over(&devices)?;
    }
    let root = mount::clone_mount(Path::new(MOUNTED_AT), Extent::Mount).context(Kind::Host, trying)?;
    setns(&own, CloneFlags::CLONE_NEWNS).context(Kind::Host, trying)?;
    Ok((root, Template { starter, namespaces: Namespaces { user, template }, own }))
}

/// The only container of its server, before kernel 5.2: without detached mounts, a mount stays in the namespace that
/// it was made in. So there is no template, and the image is mounted where the container's root is assembled.
fn begin_alone(plan: &RunPlan, mut starter: Starter) -> Result<Lower> {
    if starter.unpacks() {
        starter.unpacked()?;
    }
    enter(&plan.ids)?;
    serve_here(starter)
}

/// The image of a new server, for the namespaces that this process is in.
pub fn serve_here(mut starter: Starter) -> Result<Lower> {
    let unpacked = if starter.unpacks() { Some(starter.unpacked()?.root.clone()) } else { None };
    if let Some(root) = unpacked {
        let trying = || "cannot mount the image".to_owned();
        let user = File::open("/proc/self/ns/user").context(Kind::Host, trying)?;
        starter.name_users(user.as_fd())?;
        return Ok(Lower::Mount(
            mount::take(&root, Extent::Mount, Some(LIMITS)).context(Kind::Host, trying)?,
        ));
    }
    let devices = open_devices(starter.devices())?;
    Ok(Lower::Unmounted(Unmounted { starter, devices }))
}

/// An image that is served, and that nobody has mounted yet.
pub struct Unmounted {
    starter: Starter,
    devices: Vec<OwnedFd>,
}

impl Unmounted {
    /// Mounts it.
    pub fn mount_at(self, plan: &RunPlan, target: &str) -> Result<()> {
        mount_fuse(plan, &self.devices, target)?;
        self.starter.hand_over(&self.devices)
    }
}

impl Template {
    /// Leaves the image alone in the template and lets others join. Comes last, since it waits for the server,
    /// which starts while this process does its other work. The process is in its own root directory again after.
    pub fn finish(self) -> Result<()> {
        let trying = || "cannot let others share the image's server".to_owned();
        setns(&self.namespaces.template, CloneFlags::CLONE_NEWNS).context(Kind::Host, trying)?;
        leave_only_the_image().context(Kind::Host, || "cannot mount the image".into())?;
        self.starter.share(&self.namespaces);
        setns(&self.own, CloneFlags::CLONE_NEWNS).context(Kind::Host, trying)?;
        Ok(())
    }
}

/// Where the template's FUSE mount is made: the one directory that surely exists, since the device is in it.
const MOUNTED_AT: &str = "/dev";

fn open_devices(count: usize) -> Result<Vec<OwnedFd>> {
    (0..count).map(|_| fuse::open_device()).collect::<Result<_, _>>().map_err(explain_no_device)
}

fn mount_fuse(plan: &RunPlan, devices: &[OwnedFd], target: &str) -> Result<()> {
    let (uid, gid) = match plan.ids {
        IdMap::Caller { uid, gid } => (uid, gid),
        IdMap::Root { .. } | IdMap::Subordinate { .. } | IdMap::Whole => (0, 0),
    };
    let device = devices[0].as_fd();
    let options = format!(
        "fd={},rootmode=40755,user_id={uid},group_id={gid},default_permissions,allow_other,max_read=1048576",
        device.as_raw_fd(),
    );
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::RDONLY;
    mount::mount_new("fuse", target, flags, &options).map_err(explain_no_fuse)?;
    for other in &devices[1..] {
        fuse::attach_queue(other.as_fd(), device)
            .context(Kind::Host, || "cannot attach a queue to the image's mount".into())?;
    }
    Ok(())
}

/// What holds for an unpacked image as for a served one.
const LIMITS: Limits = Limits { read_only: true, no_devices: true };

/// The same for an unpacked image.
fn mount_directory(root: &Path) -> std::io::Result<()> {
    let open = || {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::open(MOUNTED_AT, flags, Mode::empty())?)
    };
    mount::take(root, Extent::Mount, Some(LIMITS))?.attach(open()?.as_fd(), open)
}

/// Makes the image's mount the root of the template, and lets go of the copy of the host's mounts below it.
fn leave_only_the_image() -> std::io::Result<()> {
    // This is the first request to the server, and waits for it.
    rustix::process::chdir(MOUNTED_AT)?;
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => Ok(rustix::mount::unmount(".", UnmountFlags::DETACH)?),
        Err(rustix::io::Errno::INVAL) => compat::move_current_directory_to_root(),
        Err(error) => Err(error.into()),
    }
}

fn own_mount_namespace() -> Result<OwnedFd> {
    let file =
        File::open("/proc/self/ns/mnt").context(Kind::Host, || "cannot open /proc/self/ns/mnt".into())?;
    Ok(file.into())
}

fn new_mount_namespace() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| match error {
        nix::Error::ENOSPC => Error::host("cannot make a mount namespace")
            .because(error)
            .hint("the administrator can raise the sysctl user.max_mnt_namespaces"),
        _ => {
            let hint = remedies::no_mount(error as i32, Path::new("/"));
            Error::host("cannot make a mount namespace").because(error).hint(hint)
        }
    })
}

/// Gives this process a user namespace of its own with these ids, and nothing else. It must have one thread.
///
/// # Errors
/// What the host does not allow.
pub fn enter_user_namespace(ids: &IdMap) -> Result<()> {
    match ids {
        IdMap::Caller { uid, gid } => new_user_namespace_with((*uid, *gid), (*uid, *gid)),
        IdMap::Root { uid, gid } => new_user_namespace_with((0, 0), (*uid, *gid)),
        IdMap::Subordinate { uid, gid, uids, gids, newuidmap, newgidmap } => {
            subordinate::new_user_namespace(&[
                subordinate::Map::new(newuidmap, *uid, uids),
                subordinate::Map::new(newgidmap, *gid, gids),
            ])
        }
        IdMap::Whole => new_user_namespace_with_all_ids(),
    }
}

/// One user and one group.
fn new_user_namespace_with(inside: (u32, u32), outside: (u32, u32)) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER).map_err(explain_no_user_namespace)?;
    // Required since kernel 3.19 before an ordinary user may map a group (CVE-2014-8989).
    write_own("setgroups", "deny")?;
    write_own("uid_map", &format!("{} {} 1", inside.0, outside.0))?;
    write_own("gid_map", &format!("{} {} 1", inside.1, outside.1))
}

/// All ids, each to itself. Only a process outside the new namespace may write such a map, so a child does it,
/// which has ended when this returns.
fn new_user_namespace_with_all_ids() -> Result<()> {
    let trying = || "cannot map all ids of root".to_owned();
    let (wait, go) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context(Kind::Host, trying)?;
    let own = rustix::process::getpid().as_raw_nonzero();
    match process::fork_silently().context(Kind::Host, trying)? {
        Fork::Child => {
            drop(go);
            // Nothing arrives; the end of the pipe is the sign.
            let _ = rustix::io::read(&wait, &mut [0_u8; 1]);
            let mapped = ["uid_map", "gid_map"].iter().all(|file| {
                // The same ids as outside: a nested root may have fewer than all.
                std::fs::read_to_string(format!("/proc/self/{file}"))
                    .and_then(|outside| std::fs::write(format!("/proc/{own}/{file}"), same_ids(&outside)))
                    .is_ok()
            });
            process::exit(i32::from(!mapped))
        }
        Fork::Parent(child) => {
            let unshared = unshare(CloneFlags::CLONE_NEWUSER);
            drop(go);
            let ended = process::wait_for(child);
            unshared.map_err(explain_no_user_namespace)?;
            match ended {
                Ok(process::Ended::Exited(0)) => Ok(()),
                _ => Err(Error::host(trying()).hint("run skiff as an ordinary user, or give this root the capabilities CAP_SETUID and CAP_SETGID")),
            }
        }
    }
}

/// An id map that shows inside what `outside` (a map as /proc/self/uid_map shows it) has, under the same numbers.
fn same_ids(outside: &str) -> String {
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        let (first, count) = (fields.next()?, fields.nth(1)?);
        Some(format!("{first} {first} {count}\n"))
    };
    outside.lines().filter_map(line).collect()
}

fn write_own(file: &str, text: &str) -> Result<()> {
    let path = format!("/proc/self/{file}");
    std::fs::write(&path, text).map_err(|error| {
        Error::host(format!("cannot write {text:?} to {path}"))
            .because(error)
            .hint(remedies::no_id_map(Path::new("/")))
    })
}

pub fn explain_no_user_namespace(error: nix::Error) -> Error {
    let hint = remedies::no_user_namespace(error as i32, Path::new("/"));
    Error::host("cannot make a user namespace").because(error).hint(hint)
}

/// What to do without FUSE.
const UNPACK: &str = "or unpack the image with 'skiff build --sandbox DIR IMAGE' and run the directory";

fn explain_no_device(error: std::io::Error) -> Error {
    let mend = remedies::no_fuse_device(error.raw_os_error().unwrap_or_default());
    Error::host("cannot open /dev/fuse").because(error).hint(format!("{mend}; {UNPACK}"))
}

fn explain_no_fuse(error: std::io::Error) -> Error {
    let root = Path::new("/");
    let errno = error.raw_os_error().unwrap_or_default();
    let mend = remedies::no_fuse_mount(errno, root);
    let failed = match remedies::not_the_fuse_device(root) {
        Some(what) if errno == libc::EINVAL => Error::host(format!("cannot use /dev/fuse: {what}")),
        _ => Error::host("cannot mount the image with FUSE").because(error),
    };
    failed.hint(format!("{mend}; {UNPACK}"))
}
