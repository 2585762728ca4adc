//! Pure decisions: everything a container is, as plain data.
//!
//! [`RunPlan`] is the contract between the command line and [`crate::launch`]: it is decided here
//! from the arguments, the host's facts and the image's metadata; `launch` carries it out in order and
//! decides nothing. It can be printed (`--dry-run`), compared, and tested without any privilege.

pub mod alone;
pub mod answers;
pub mod app;
pub mod asked;
pub mod bind;
pub mod building;
mod contain;
pub mod env;
pub mod env_file;
pub mod explain;
pub mod gpu;
pub mod home;
pub mod ids;
pub mod inject;
pub mod libraries;
pub mod mounts;
pub mod mpi;
mod names;
pub mod namespaces;
pub mod overlay;
pub mod process;
pub mod scheduler;
pub mod shell;
pub mod sourced;
pub mod target;
mod unpack;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Serialize;

use self::asked::Asked;
use self::inject::{Injection, LeftOut};
use self::scheduler::Scheduler;
use crate::cli::run::ContainerFlags;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::host::Host;
pub use crate::host::subordinate::IdRange;
use crate::image::Tree;

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
    /// Where what the program writes to the root goes.
    pub writes: Writes,
    /// Directories of the host laid over the image, the topmost first.
    pub layers: Vec<HostPath>,
    /// Which ids the user namespace maps.
    pub ids: IdMap,
    /// Why root inside is the caller's id alone, where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_id_because: Option<String>,
    /// What else the container has of its own.
    pub namespaces: Namespaces,
    /// Directories and empty files to make on the host, if they are not there, parents first.
    pub make: Vec<HostEntry>,
    /// Empty mount points that the image lacks, parents first.
    pub mount_points: Vec<MountPoint>,
    /// The directories of the image that the mount points are laid over, each by an overlay of its own; none is
    /// below another. The rest of the image is reached without one, which halves the cost of looking up names.
    pub overlays: Vec<ContainerPath>,
    /// What is mounted into the root, in this order.
    pub mounts: Vec<Mount>,
    /// The user's process.
    pub process: Process,
    /// How the image is served.
    pub serve: ServeOptions,
    /// What of the host could have been brought in and is not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// The batch system and the MPI launcher that were seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
    /// What the caller should be told before the start.
    pub warnings: Vec<String>,
}

impl RunPlan {
    /// The part that the image's server needs.
    pub fn serving(&self) -> Serving {
        let Self { root, ids, one_id_because, serve, .. } = self;
        Serving {
            root: root.clone(),
            ids: ids.clone(),
            one_id_because: one_id_because.clone(),
            serve: serve.clone(),
        }
    }
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
    /// The caller's uid and gid, both to 0, nothing else: the caller looks like root.
    Root {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
    /// The caller's uid and gid, both to 0, and from 1 on the ids that the administrator gave to the caller.
    Subordinate {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
        /// The user ids that follow, in this order.
        uids: Vec<IdRange>,
        /// The group ids that follow.
        gids: Vec<IdRange>,
        /// The program that may map the user ids.
        newuidmap: HostPath,
        /// The program that may map the group ids.
        newgidmap: HostPath,
    },
    /// Every id to itself: the caller is root.
    Whole,
}

/// Where what is written to the root goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Writes {
    /// The root cannot be written.
    #[default]
    Nowhere,
    /// Memory: gone at the end.
    Memory,
    /// The directory `upper` of this directory, whose `work` the kernel uses meanwhile.
    Directory(HostPath),
    /// The sandbox that is the image.
    Sandbox,
}

/// What a container has of its own besides its mounts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Namespaces {
    /// Whose processes it sees.
    pub processes: Processes,
    /// Own IPC.
    pub ipc: bool,
    /// Own host name.
    pub uts: bool,
    /// Which one, unless the host's.
    pub hostname: Option<String>,
    /// Own network, with the loopback device alone.
    pub network: bool,
}

/// Whose processes a container sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Processes {
    /// The caller's: the program is the very process that was started.
    #[default]
    Callers,
    /// Its own, and an init is process 1.
    OwnWithInit,
    /// Its own, and the program is process 1.
    Own,
}

/// Capabilities of the program, by number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// Those that a program of an ordinary user gets.
    pub add: Vec<u8>,
    /// Those that nobody in the container can have.
    pub drop: Vec<u8>,
}

/// A directory or an empty file to make on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostEntry {
    /// Where.
    pub path: HostPath,
    /// File or directory.
    pub kind: TargetKind,
    /// Permission bits, if it is made.
    pub mode: u32,
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
    /// A file system in memory, empty but for mount points and links.
    Tmpfs {
        /// Permission bits of its root.
        mode: u32,
        /// What it holds, parents first.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        holds: Vec<Held>,
    },
    /// A file system of the kernel, new for this container. Where the kernel refuses a new proc, the host's is bound.
    Kernel {
        /// `proc`, `devpts`, `mqueue`.
        file_system: &'static str,
        /// Its options.
        options: &'static str,
    },
}

/// Something in a new file system in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Where, from the root of that file system.
    pub path: PathBuf,
    /// What.
    pub kind: HeldKind,
    /// Permission bits.
    pub mode: u32,
}

/// What is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldKind {
    /// A directory.
    Directory,
    /// An empty file.
    File,
    /// A symbolic link.
    Link(PathBuf),
}

/// Why a mount is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Because {
    /// skiff does so unless told otherwise, for this reason.
    Default(&'static str),
    /// The site's or the user's configuration says so.
    Config,
    /// A flag, as it was written (`--bind /data`).
    Flag(String),
    /// A variable of the environment (`SKIFF_BIND`).
    Variable(String),
}

impl Because {
    /// Who is behind it, in one or two words: the flag as written, the variable's name.
    pub fn origin(&self) -> &str {
        match self {
            Self::Default(reason) => reason,
            Self::Config => "configuration",
            Self::Flag(text) | Self::Variable(text) => text,
        }
    }
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
    /// The working directories to try, best first. `PWD` in `env` is the first of them.
    pub cwd: Vec<ContainerPath>,
    /// The file mode creation mask, unless the caller's.
    pub umask: Option<u32>,
    /// Its capabilities.
    pub capabilities: Capabilities,
    /// What is recorded, where the kernel does not allow it to a user.
    pub emulates: Emulated,
}

/// What a program asks for as root and is recorded instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Emulated {
    /// Nothing.
    Nothing,
    /// Device nodes, which no user namespace allows: in a build, whose image has them.
    Devices,
    /// Changes of owner, device nodes and other ids, which one mapped id does not allow.
    Root,
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
    /// What the program starts with, as far as its name tells, in the order of use: a new server decodes these while
    /// the container is prepared. Some may not exist.
    pub start: Vec<ContainerPath>,
    /// The directory of the host below which the image is unpacked instead of being served, where FUSE is missing.
    pub unpack: Option<HostPath>,
}

/// The part of the plan that the image's server needs. It is decided first, so that a new server makes itself ready
/// while the rest is decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Serving {
    /// What becomes the root file system.
    pub root: Root,
    /// Which ids the user namespace maps.
    pub ids: IdMap,
    /// Why root inside is the caller's id alone, where it is.
    pub one_id_because: Option<String>,
    /// How the image is served.
    pub serve: ServeOptions,
}

/// What the program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The words given.
    Exec,
    /// What the image says it is for.
    Run,
    /// A shell.
    Shell,
    /// The test that the image brings along.
    Test,
}

/// What is asked for: the command line, and what the image says of itself.
pub struct Request<'a> {
    /// What the program is.
    pub action: Action,
    /// The flags that shape the container.
    pub flags: &'a ContainerFlags,
    /// The words after the image.
    pub words: &'a [OsString],
    /// The shell that is asked for.
    pub shell: Option<&'a Path>,
    /// The image's path, absolute.
    pub image: &'a Path,
    /// What becomes the root file system.
    pub root: Root,
    /// The processor that the image is for, as `uname -m` says it, where the image says so.
    pub machine: Option<&'a str>,
}

/// Whether `skiff test` has something to run: the image has a test, or an app is asked for, which must have one.
pub fn has_test(request: &Request<'_>, host: &Host, image: &Tree) -> bool {
    let mut view = target::View::new(host, image);
    asked::read(request.flags, host).app.is_some()
        || process::is_file(&mut view, Path::new(process::TEST_SCRIPT))
}

/// Decides a container run.
pub fn decide(request: &Request<'_>, host: &Host, config: &Config, image: &Tree) -> Result<RunPlan> {
    process::check_machine(request, host)?;
    let injection = bring_in(request, host, config, image)?;
    decide_with(request, host, config, image, &injection)
}

/// Decides a container run, given what features bring in.
// flat: the parts of the plan, each after those that it needs
fn decide_with(
    request: &Request<'_>,
    host: &Host,
    config: &Config,
    image: &Tree,
    injection: &Injection,
) -> Result<RunPlan> {
    let Serving { root, ids, one_id_because, serve } = decide_serving(request, host, config)?;
    let mut warnings = answers::answer(&request.flags.other, host)?;
    let asked = asked::read(request.flags, host);
    let home = home::plan_home(&asked, host)?;
    let layers = overlay::plan_layers(&asked, request, host)?;
    let caller = ids::Caller::inside(&ids, &home, host);
    let mut view = target::View::new(host, image);
    let Injection { left_out, warnings: of_injection, .. } = injection;
    warnings.extend(of_injection.iter().cloned());
    let mut scheduler = scheduler::read(host);
    let given = mounts::Circumstances {
        asked: &asked,
        home: &home,
        caller: &caller,
        layers: &layers,
        injection,
        scheduler: scheduler.as_ref(),
    };
    let mounts = mounts::plan_mounts(request, config, &given, host, &mut view)?;
    warnings.extend(mounts.warnings);
    let cwd = process::working_directories(request, host, &home.target, &mut view)?;
    warnings.extend(process::starts_elsewhere(&asked, request, host, &cwd));
    let app = app::plan_app(&asked, request, &mut view)?;
    let argv = process::plan_argv(request, host, app, &mut view)?;
    let facts = env::Facts {
        cwd: cwd.first().map_or(Path::new("/"), PathBuf::as_path),
        home: &home.target,
        ids: (caller.uid, caller.gid),
        asked: &mounts.asked,
        program: argv.first().map_or("".as_ref(), |word| word),
        app,
        injection,
        scheduler: scheduler.as_ref(),
    };
    let flags = with_implied(request.flags, &asked);
    let request = &Request { flags: &flags, root: request.root.clone(), ..*request };
    warnings.extend(env::kept_names(request, host));
    let env::Environment { variables: env, shell } = env::compose(request, host, &facts, &mut view)?;
    if injection.has_libraries() {
        let module = crate::host::gpu::nvidia_module(host);
        warnings.extend(gpu::expect::requirement(&env, module.as_deref(), image));
    }
    if let Some(scheduler) = &mut scheduler {
        warnings.extend(scheduler.warnings(&asked, host, &view));
        if env::is_clean(request, host) {
            scheduler.keep(host);
        }
    }
    Ok(RunPlan {
        root,
        writes: layers.writes,
        layers: layers.layers,
        namespaces: namespaces::plan_namespaces(&asked)?,
        make: mounts.make,
        mount_points: mounts.mount_points,
        overlays: mounts.overlays,
        mounts: mounts.mounts,
        process: Process {
            argv: shell.into_iter().chain(argv).collect(),
            env,
            cwd: cwd.into_iter().map(ContainerPath).collect(),
            umask: asked.no_umask.then_some(0o022),
            capabilities: namespaces::plan_capabilities(&asked, &ids)?,
            emulates: match ids {
                IdMap::Root { .. } => Emulated::Root,
                // Of device nodes the program hears from the kernel: one that is only recorded would look like a file.
                IdMap::Subordinate { .. } | IdMap::Caller { .. } | IdMap::Whole => Emulated::Nothing,
            },
        },
        ids,
        one_id_because,
        serve,
        left_out: left_out.iter().chain(&mounts.not_there).cloned().collect(),
        scheduler,
        warnings,
    })
}

/// What of the host the features that are asked for bring in.
fn bring_in(request: &Request<'_>, host: &Host, config: &Config, image: &Tree) -> Result<Injection> {
    let mut injection = mpi::plan_mpi(request, host, config, image)?;
    injection.extend(gpu::bring_in(&request.flags.gpu, host, config, image)?);
    Ok(injection)
}

/// The flags, with those of the environment that `--containall` and `--compat` stand for.
fn with_implied(flags: &ContainerFlags, asked: &Asked) -> ContainerFlags {
    let mut flags = flags.clone();
    flags.cleanenv |= asked.cleanenv;
    flags.no_eval |= asked.no_eval;
    flags
}

/// Milliseconds that a server waits for another container unless told otherwise.
const LINGER_MS: u64 = 10_000;

/// Decides how the image is served, which depends on the least.
pub fn decide_serving(request: &Request<'_>, host: &Host, config: &Config) -> Result<Serving> {
    let scope = scheduler::scope(host);
    let linger_ms = match host.variable("SKIFF_LINGER").filter(|value| !value.is_empty()) {
        None => config.linger_ms.unwrap_or(LINGER_MS),
        Some(value) => value.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| {
            Error::new(
                Kind::Usage,
                format!("cannot use SKIFF_LINGER={value:?}: not a number of milliseconds"),
            )
        })?,
    };
    let mut rendezvous = Vec::new();
    if let Some(directory) = host.variable("XDG_RUNTIME_DIR").map(Path::new).filter(|path| path.is_absolute())
    {
        rendezvous.push(HostPath(directory.join("skiff")));
    }
    rendezvous.push(HostPath(format!("/tmp/skiff-{}", host.uid).into()));
    let start = process::start_files(request, host);
    let unpack = unpack::place(&request.root, host);
    let serve = ServeOptions { scope, linger_ms, rendezvous, start, unpack };
    let fakeroot = asked::fakeroot(request.flags, host).is_some();
    let one_id = asked::one_id(request.flags, host);
    let (ids, one_id_because) = ids::id_map(fakeroot, one_id.as_ref(), host);
    Ok(Serving { root: request.root.clone(), ids, one_id_because, serve })
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

#[cfg(test)]
mod tests;
