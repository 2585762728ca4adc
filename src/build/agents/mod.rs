//! Bootstrap agents: where the root file system of a stage comes from.
//!
//! | agent | base |
//! |---|---|
//! | `localimage` | an image of this machine, served and not unpacked |
//! | `docker`, `oras`, `library`, `docker-archive`, `docker-daemon`, `oci`, `oci-archive` | the same, fetched and converted before |
//! | `scratch` | nothing |
//! | `debootstrap`, `dnf`, `yum`, `zypper`, `arch`, `busybox` | a directory that a program of the host fills |
//!
//! Programs of the host run in a user namespace, where they look like root, and in the host's root directory.

mod debian;
mod localimage;
mod pacman;
mod programs;
mod remote;
mod rpm;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::build::plan::Key;
use crate::build::run::Fetch;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::image::{self, Image, Tree};
use crate::plan::{HostPath, IdMap, Root};

/// What a stage stands on.
#[derive(Debug)]
pub struct Base {
    /// What the kernel is shown.
    pub root: Root,
    /// The image's path, or the directory's.
    pub path: PathBuf,
    /// The open file of an image.
    pub file: Option<Arc<File>>,
    /// The processor that it is for, where it says so, as `uname -m` has it.
    pub machine: Option<String>,
}

impl Base {
    /// A directory.
    pub fn directory(path: PathBuf) -> Self {
        Self { root: Root::Directory(HostPath(path.clone())), path, file: None, machine: None }
    }

    /// An image that is open.
    pub fn image(image: &Image) -> Result<Self> {
        let path = std::path::absolute(&image.path).unwrap_or_else(|_| image.path.clone());
        let Some(partition) = &image.partition else { return Ok(Self::directory(path)) };
        let architecture = image.sif.as_ref().map(|sif| sif.architecture().name());
        Ok(Self {
            root: Root::Image {
                path: HostPath(path.clone()),
                offset: partition.offset(),
                length: partition.length(),
            },
            path,
            file: Some(Arc::clone(&image.file)),
            machine: architecture.and_then(crate::plan::process::machine_of).map(str::to_owned),
        })
    }

    /// Its files.
    pub fn tree(&self) -> Result<Tree> {
        image::open(&self.path)?.tree()
    }
}

/// What an agent is given.
pub struct Order<'a> {
    /// Its name.
    pub agent: &'a str,
    /// The header's keys.
    pub keys: &'a [Key],
    /// An empty directory for it.
    pub directory: &'a Path,
    /// The ids of the user namespace for programs of the host.
    pub ids: &'a IdMap,
    /// This machine.
    pub host: &'a Host,
    /// How an image that is not of this machine is got.
    pub fetch: &'a Fetch<'a>,
}

impl Order<'_> {
    /// The value of a key that is not empty.
    fn key(&self, name: &str) -> Option<&str> {
        let found = self.keys.iter().rev().find(|key| key.key == name && !key.value.is_empty());
        found.map(|key| key.value.as_str())
    }

    fn needed(&self, name: &str) -> Result<&str> {
        self.key(name)
            .ok_or_else(|| Error::usage(format!("Bootstrap: {} needs a value for {name}", self.agent)))
    }
}

/// Whether an agent makes a base, rather than takes one that is there.
pub fn makes(agent: &str) -> bool {
    !matches!(agent, "localimage" | "scratch") && !remote::AGENTS.contains(&agent)
}

/// Makes the base of a stage.
///
/// # Errors
/// A base that is not there or cannot be made; an agent that skiff does not have.
pub fn make(order: &Order<'_>) -> Result<Base> {
    match order.agent {
        "localimage" => localimage::open(order),
        "scratch" => Ok(Base::directory(order.directory.to_owned())),
        "debootstrap" | "dnf" | "yum" | "zypper" | "arch" | "busybox" => {
            programs::fill(order)?;
            Ok(Base::directory(order.directory.to_owned()))
        }
        "self" => Err(Error::usage("Bootstrap: self copies the host, which skiff does not do")
            .hint("pack a directory with skiff build IMAGE DIRECTORY")),
        "shub" => Err(Error::usage("Bootstrap: shub cannot be used: Singularity Hub was shut down in 2021")
            .hint("most of its images were published elsewhere too: look for a docker:// or oras:// name")),
        agent if remote::AGENTS.contains(&agent) => remote::open(order),
        agent => Err(Error::usage(format!("Bootstrap: {agent} is none of skiff's agents"))
            .hint("build the image with another tool, and name its file: Bootstrap: localimage")),
    }
}
