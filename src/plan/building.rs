//! Containers of a build: what a step of it sees.
//!
//! ```text
//! inside    %post, %appinstall, %test    as `skiff exec --fakeroot --overlay LAYER:ro... --overlay NEW BASE`, with
//!                                        none of the caller's variables, home and working directory
//! beside    %setup, %files               the same root file system without any mount in it: what is written to its
//!                                        /tmp is meant for the image
//! ```
//!
//! Devices that a step makes are recorded whatever the ids, since no user namespace makes any.
//!
//! Of the variables that speak to a container tool only those count that Apptainer lets through: binds, devices,
//! messages. A default of the user's for `skiff run` must not change what is in an image.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::{Action, ContainerPath, Emulated, IdMap, Request, Root, RunPlan, Writes, decide};
use crate::cli::files::FileFlags;
use crate::cli::gpu::GpuFlags;
use crate::cli::namespaces::NamespaceFlags;
use crate::cli::run::ContainerFlags;
use crate::config::Config;
use crate::error::Result;
use crate::host::{FAMILIES, Host};
use crate::image::Tree;

/// The settings that reach a build's containers.
const LET_THROUGH: [&str; 10] =
    ["DEBUG", "NV", "NVCCLI", "ROCM", "BIND", "BINDPATH", "MOUNT", "LINGER", "TMPDIR", ONE_ID];

/// The setting that means the same as `--ignore-subuid`.
const ONE_ID: &str = "IGNORE_SUBUID";

/// Mounts that a build's containers do not have: packages replace these files, and what is bound cannot be replaced.
const LEFT_OUT: [&str; 5] = ["cwd", "home", "/etc/localtime", "/etc/passwd", "/etc/group"];

/// The variables of Apptainer by which %post says what goes into the image's environment and labels. (The first is
/// one that every container has.)
const LABELS: &str = "/.build.labels";

/// A root file system that is being built.
#[derive(Debug, Clone)]
pub struct Building {
    /// What lies below everything.
    pub root: Root,
    /// Its path, for messages.
    pub image: PathBuf,
    /// The processor that it is for, where it says so.
    pub machine: Option<String>,
    /// Layers over it, the lowest first.
    pub layers: Vec<PathBuf>,
    /// The layer that is written; none where nothing is, or where the root itself is.
    pub upper: Option<PathBuf>,
    /// The root is a directory that is itself written.
    pub in_place: bool,
}

/// The flags of `skiff build` that shape its containers.
#[derive(Debug, Clone, Default)]
pub struct BuildFlags {
    /// As `--bind`.
    pub bind: Vec<OsString>,
    /// As `--mount`.
    pub mount: Vec<OsString>,
    /// What is written by %test is kept in memory until it ends.
    pub writable_tmpfs: bool,
    /// Names of flags for accelerators (`nv`).
    pub other: Vec<&'static str>,
}

/// The host as a build's containers know it: without settings that are meant for other containers. With
/// `ignore_subuid` root is the caller's id alone in all of them.
pub fn plain_host(host: &Host, ignore_subuid: bool) -> Host {
    let mut host = host.clone();
    host.environment.retain(|(name, _)| {
        let setting = FAMILIES.iter().find_map(|family| name.as_bytes().strip_prefix(family.as_bytes()));
        setting.is_none_or(|rest| {
            LET_THROUGH.iter().any(|known| rest.strip_prefix(b"_") == Some(known.as_bytes()))
        })
    });
    if ignore_subuid {
        host.environment.push((format!("SKIFF_{ONE_ID}").into(), "1".into()));
    }
    host.settings = std::cell::OnceCell::new();
    host
}

/// The ids of the user namespace of a build's steps, and why the caller's is the only one, where it is.
pub fn ids(host: &Host) -> (IdMap, Option<String>) {
    let one_id = super::asked::one_id(&ContainerFlags::default(), host);
    super::ids::id_map(true, one_id.as_ref(), host)
}

/// Decides the container of a step inside. `words` is what it runs; without any it is the image's test.
///
/// # Errors
/// As [`decide`].
pub fn plan_inside(
    building: &Building,
    flags: &BuildFlags,
    words: &[OsString],
    surroundings: (&Host, &Config, &Tree),
) -> Result<RunPlan> {
    let mut container = container_flags(building);
    container.bind.clone_from(&flags.bind);
    container.files.mount.clone_from(&flags.mount);
    container.files.writable_tmpfs = flags.writable_tmpfs && building.upper.is_none() && !building.in_place;
    let given = |name: &str| flags.other.contains(&name);
    container.gpu = GpuFlags {
        nv: given("nv"),
        nvccli: given("nvccli"),
        rocm: given("rocm"),
        compat32: given("compat32"),
        ..GpuFlags::default()
    };
    container.env = FAMILIES.iter().map(|family| format!("{family}_LABELS={LABELS}").into()).collect();
    let action = if words.is_empty() { Action::Test } else { Action::Exec };
    plan(building, &container, (action, words), surroundings)
}

/// Decides the root file system of a step beside.
///
/// # Errors
/// As [`decide`].
pub fn plan_beside(building: &Building, surroundings: (&Host, &Config, &Tree)) -> Result<RunPlan> {
    let container = container_flags(building);
    // What it would run does not matter.
    let mut plan = plan(building, &container, (Action::Exec, &["true".into()]), surroundings)?;
    plan.mounts.clear();
    plan.mount_points.clear();
    let layered = !plan.layers.is_empty() || matches!(plan.writes, Writes::Directory(_));
    plan.overlays = if layered { vec![ContainerPath("/".into())] } else { Vec::new() };
    Ok(plan)
}

fn plan(
    building: &Building,
    container: &ContainerFlags,
    (action, words): (Action, &[OsString]),
    (host, config, tree): (&Host, &Config, &Tree),
) -> Result<RunPlan> {
    let request = Request {
        action,
        flags: container,
        words,
        shell: None,
        image: &building.image,
        root: building.root.clone(),
        machine: building.machine.as_deref(),
    };
    let mut plan = decide(&request, host, config, tree)?;
    // Scripts of packages make devices, and stop where they cannot.
    if plan.process.emulates == Emulated::Nothing {
        plan.process.emulates = Emulated::Devices;
    }
    Ok(plan)
}

fn container_flags(building: &Building) -> ContainerFlags {
    let read_only = |layer: &PathBuf| {
        let mut text = layer.clone().into_os_string();
        text.push(":ro");
        text
    };
    let written = building.upper.iter().map(|upper| {
        let mut text = upper.clone().into_os_string();
        text.push(":rw");
        text
    });
    ContainerFlags {
        cwd: Some("/".into()),
        files: FileFlags {
            overlay: building.layers.iter().map(read_only).chain(written).collect(),
            no_home: true,
            no_mount: LEFT_OUT.iter().map(PathBuf::from).collect(),
            writable: building.in_place,
            ..FileFlags::default()
        },
        namespaces: NamespaceFlags { fakeroot: true, no_umask: true, ..NamespaceFlags::default() },
        cleanenv: true,
        ..ContainerFlags::default()
    }
}

/// The mount that shows a script of the host inside, as `--mount` takes it. Nested calls are not told of it.
pub fn script_mount(script: &Path, inside: &str) -> OsString {
    let mut text = OsString::from("type=bind,\"source=");
    let quoted = script.as_os_str().as_bytes().iter().flat_map(|byte| {
        let twice = *byte == b'"';
        [*byte].into_iter().chain(twice.then_some(b'"'))
    });
    text.push(OsString::from_vec(quoted.collect()));
    text.push(format!("\",destination={inside},ro,nonested"));
    text
}

/// Where %post writes labels.
pub fn labels_file() -> &'static Path {
    Path::new(LABELS)
}
