//! Pure decisions: everything a container is, as plain data.
//!
//! [`RunPlan`] is the contract between the command line and [`crate::launch`]: it is decided here
//! from the arguments, the host's facts and the image's metadata; `launch` carries it out in order and
//! decides nothing. It can be printed (`--dry-run`), compared, and tested without any privilege.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::Serialize;

/// A path on the host, as the caller sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct HostPath(pub PathBuf);

/// An absolute path inside the container, free of symbolic links of the image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ContainerPath(pub PathBuf);

/// One container run, decided.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunPlan {
    /// What becomes the root file system.
    pub root: Root,
    /// Which ids the user namespace maps.
    pub ids: IdMap,
    /// Empty mount points that the image lacks, parents first. Laid over the image in one overlay;
    /// when there are none, there is no overlay.
    pub mount_points: Vec<MountPoint>,
    /// What is mounted into the root, in this order.
    pub mounts: Vec<Mount>,
    /// The user's process.
    pub process: Process,
    /// How the image is served.
    pub serve: ServeOptions,
}

/// The root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Root {
    /// A SquashFS partition of an image file, served by the image server.
    Image {
        /// The image file, for messages; it is opened once, before the plan is made.
        path: HostPath,
        /// Where its file system starts, in bytes.
        offset: u64,
        /// How long its file system is, in bytes.
        length: u64,
    },
    /// A sandbox: a directory of the host, bound read-only.
    Directory(HostPath),
}

/// The ids that the user namespace maps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IdMap {
    /// The caller's uid and gid, each to itself, nothing else.
    Caller {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
    /// Every id to itself: the caller is root.
    Whole,
}

/// An empty file or directory to mount on, made because the image has none there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MountPoint {
    /// Where.
    pub path: ContainerPath,
    /// File or directory.
    pub kind: TargetKind,
    /// Permission bits: those of the image where the path is a directory that the image has too.
    pub mode: u32,
}

/// What a mount point is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
}

/// One mount, with the reason for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// What is mounted.
    pub what: MountKind,
    /// Where in the container. It exists in the image, in `mount_points`, or in an earlier mount.
    pub target: ContainerPath,
    /// Why.
    pub because: Because,
    /// A failure is a warning and not an error (default mounts that a host may lack).
    pub optional: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MountKind {
    /// A file or directory of the host, with all that is mounted below it.
    Bind {
        /// The host's file or directory.
        source: HostPath,
        /// Mounted read-only, with all that is below.
        read_only: bool,
    },
    /// A file made for this container (passwd, group, ...).
    File {
        /// Its content.
        #[serde(serialize_with = "as_text")]
        content: Vec<u8>,
        /// Its permission bits.
        mode: u32,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Permission bits of its root.
        mode: u32,
    },
}

/// Why a mount is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Because {
    /// skiff does so unless told otherwise.
    Default,
    /// The site's or the user's configuration says so.
    Config,
    /// A flag, as it was written (`--bind /data`).
    Flag(String),
    /// A variable of the environment (`SKIFF_BIND`).
    Variable(String),
}

/// The user's process, from the moment the mounts stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Process {
    /// The program and its arguments. A program without a slash is searched in `PATH` of `env`,
    /// inside the container.
    #[serde(serialize_with = "as_texts")]
    pub argv: Vec<OsString>,
    /// The whole environment, in order.
    #[serde(serialize_with = "as_text_pairs")]
    pub env: Vec<(OsString, OsString)>,
    /// The working directories to try, best first.
    pub cwd: Vec<ContainerPath>,
}

/// How the image is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServeOptions {
    /// Which containers may share a server besides using the same image: the Slurm step or the cgroup.
    pub scope: String,
    /// How long the server waits for another container after the last one ended, in milliseconds.
    pub linger_ms: u64,
    /// Where rendezvous sockets may be made, best first.
    pub rendezvous: Vec<HostPath>,
}

fn as_text<S: serde::Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(&String::from_utf8_lossy(bytes))
}

fn as_texts<S: serde::Serializer>(words: &[OsString], out: S) -> Result<S::Ok, S::Error> {
    out.collect_seq(words.iter().map(|word| word.to_string_lossy()))
}

fn as_text_pairs<S: serde::Serializer>(pairs: &[(OsString, OsString)], out: S) -> Result<S::Ok, S::Error> {
    out.collect_map(pairs.iter().map(|(name, value)| (name.to_string_lossy(), value.to_string_lossy())))
}
