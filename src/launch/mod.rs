//! Carries a [`RunPlan`] out and becomes the user's program. Decides nothing.
//!
//! ```text
//! meet the image's server ─┬─ joined: its user namespace, own copy of the caller's mounts, its template's image
//!                          └─ first:  new user namespace, own copy, new template, mount "fuse", hand over
//! its own IPC, host name, network, where the plan says so; processes: fork, and go on as process 1
//! assemble the root        tmpfs with mount points and made files, overlay if the image lacks any, mounts in order
//! enter it                 pivot_root, old root away
//! ask for the program      first: its files are read into the page cache while this process goes on
//! finish the template      first: image alone in it, others may join
//! become the program       working directory, capabilities, no_new_privs, SIGPIPE as it was, execve
//! ```
//!
//! All of it happens in the process that the caller started: there is no child, and what fails is returned. Only a
//! container with processes of its own needs more: [`supervise`] and [`init`].

mod diagnose;
mod init;
mod namespaces;
mod own;
mod process;
mod root_directory;
mod rootfs;
pub mod step;
mod subordinate;
mod supervise;

use std::convert::Infallible;
use std::fs::File;
use std::time::Duration;

use crate::error::{Context, Error, Kind, Result};
use crate::plan::{IdMap, IdRange, Processes, Root, RunPlan, Serving};
use crate::serve::{self, Meeting, Owner, Unpacked};
use crate::sys::{compat, features};

pub use self::namespaces::enter_user_namespace;

/// The image's server, met or started; no container is in it yet.
pub struct Server(Meeting);

impl Server {
    /// Whether the image is being unpacked for this container, since the host has no FUSE.
    pub fn unpacks(&self) -> bool {
        matches!(&self.0, Meeting::First(starter) if starter.unpacks())
    }

    /// Waits for it to be unpacked; `None` where it is not.
    ///
    /// # Errors
    /// Why it cannot be unpacked; nothing is left then.
    pub fn unpacked(&mut self) -> Result<Option<&Unpacked>> {
        match &mut self.0 {
            Meeting::First(starter) if starter.unpacks() => starter.unpacked().map(Some),
            _ => Ok(None),
        }
    }

    /// Which of the two it is, in words.
    pub fn origin(&self) -> &'static str {
        match self.0 {
            Meeting::Joined(_) => "it was there, and is shared",
            Meeting::First(_) => "it is a new one",
        }
    }
}

/// Finds or starts the server of `image`, the file of a [`Root::Image`]. It is done before the rest of the plan is
/// decided, so that a new server makes itself ready meanwhile; one that is dropped again ends.
///
/// # Errors
/// An image that cannot be looked at, no more processes.
pub fn meet_server(serving: &Serving, image: &File) -> Result<Option<Server>> {
    // Without mounts by descriptors a container cannot take the image from the template that others left, and without
    // a pidfd it cannot show that it lives.
    let shared = compat::has_mount_descriptors() && features::has_pidfds();
    let Some(request) = request(serving, image, shared)? else { return Ok(None) };
    Ok(Some(Server(serve::meet(request)?)))
}

/// What the server of an image has to be; none for a directory.
fn request(serving: &Serving, image: &File, shared: bool) -> Result<Option<serve::Request>> {
    let Serving { root, ids, serve, .. } = serving;
    let Root::Image { path, offset, length } = root else { return Ok(None) };
    let image = image.try_clone().tried(|| format!("cannot use the image {:?}", path.0))?;
    Ok(Some(serve::Request {
        image,
        offset: *offset,
        length: *length,
        owner: owner(ids),
        scope: scope(&serve.scope, ids),
        linger: Duration::from_millis(serve.linger_ms),
        rendezvous: serve.rendezvous.iter().filter(|_| shared).map(|path| path.0.clone()).collect(),
        start: serve.start.iter().map(|path| path.0.clone()).collect(),
        unpack: serve.unpack.as_ref().map(|path| path.0.clone()),
    }))
}

fn owner(ids: &IdMap) -> Owner {
    match ids {
        IdMap::Caller { uid, gid } => Owner::Caller { uid: *uid, gid: *gid },
        IdMap::Root { .. } => Owner::Caller { uid: 0, gid: 0 },
        IdMap::Subordinate { uids, gids, .. } => {
            // One more: 0 is the caller.
            let count =
                |ranges: &[IdRange]| ranges.iter().fold(1_u32, |sum, range| sum.saturating_add(range.count));
            Owner::Mapped { uids: count(uids), gids: count(gids) }
        }
        IdMap::Whole => Owner::Image,
    }
}

/// Who may share a user namespace has the same ids in it: the administrator may have changed them meanwhile.
fn scope(scope: &str, ids: &IdMap) -> String {
    match ids {
        IdMap::Subordinate { uids, gids, .. } => format!("{scope} with {uids:?} {gids:?}"),
        _ => scope.to_owned(),
    }
}

/// Runs `plan` with the server of its image. Returns only when something failed.
///
/// # Errors
/// What the host does not allow, mounts that cannot be made, a program that cannot be executed.
pub fn exec(plan: &RunPlan, server: Option<Server>) -> Result<Infallible> {
    let (lower, template) = match (&plan.root, server) {
        (Root::Image { .. }, Some(server)) => namespaces::enter_with_image(plan, server.0)?,
        (Root::Image { .. }, None) => return Err(Error::new(Kind::Internal, "the image has no server")),
        (Root::Directory(path), _) => {
            namespaces::enter(&plan.ids)?;
            (rootfs::Lower::Directory(path.0.clone()), None)
        }
    };
    own::enter(&plan.namespaces)?;
    let first = match plan.namespaces.processes {
        Processes::Callers => None,
        Processes::OwnWithInit => Some(supervise::enter(true)?),
        Processes::Own => Some(supervise::enter(false)?),
    };
    // What is made for the container has the modes that the plan says, not what the caller's mask leaves of them.
    let mask = rustix::process::umask(rustix::fs::Mode::empty());
    rootfs::assemble_and_enter(plan, lower)?;
    rustix::process::umask(plan.process.umask.map_or(mask, rustix::fs::Mode::from));
    if let Some(template) = template {
        process::ask_ahead(&plan.serve.start);
        template.finish()?;
    }
    if let Some(first) = first {
        init::start(first)?;
    }
    process::become_program(&plan.process)
}
