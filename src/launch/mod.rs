//! Carries a [`RunPlan`] out and becomes the user's program. Decides nothing.
//!
//! ```text
//! meet the image's server ─┬─ joined: its user namespace, own copy of the caller's mounts, its template's image
//!                          └─ first:  new user namespace, own copy, new template, mount "fuse", hand over
//! assemble the root        tmpfs with mount points and made files, overlay if the image lacks any, mounts in order
//! enter it                 pivot_root, old root away
//! finish the template      first: image alone in it, others may join
//! become the program       working directory, no_new_privs, SIGPIPE as it was, execve
//! ```
//!
//! All of it happens in the process that the caller started: there is no child, and what fails is returned.

mod namespaces;
mod process;
mod rootfs;

use std::convert::Infallible;
use std::fs::File;

use crate::error::{Context, Result};
use crate::plan::{Root, RunPlan};

/// Runs `plan`; `image` is its image, opened: the file of a [`Root::Image`]. Returns only when something failed.
///
/// # Errors
/// What the host does not allow, mounts that cannot be made, a program that cannot be executed.
pub fn exec(plan: &RunPlan, image: &File) -> Result<Infallible> {
    let (lower, template) = match &plan.root {
        Root::Image { path, .. } => {
            let image = image.try_clone().tried(|| format!("cannot use the image {:?}", path.0))?;
            let (root, template) = namespaces::enter_with_image(plan, image)?;
            (rootfs::Lower::Mount(root), template)
        }
        Root::Directory(path) => {
            namespaces::enter(plan)?;
            (rootfs::Lower::Directory(path.0.clone()), None)
        }
    };
    // What is made for the container has the modes that the plan says, not what the caller's mask leaves of them.
    let mask = rustix::process::umask(rustix::fs::Mode::empty());
    rootfs::assemble_and_enter(plan, lower)?;
    rustix::process::umask(mask);
    if let Some(template) = template {
        template.finish()?;
    }
    process::become_program(&plan.process)
}
