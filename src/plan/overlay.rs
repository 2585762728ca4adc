//! Whether the root can be written and where what is written goes, and the directories laid over the image.
//!
//! ```text
//! --writable-tmpfs     memory
//! --overlay DIR        DIR/upper, with DIR/work for the kernel's own use; both made when missing
//! --overlay DIR:ro     DIR/upper is laid over the image, under whatever is written; DIR itself where it has none
//! --writable           the sandbox itself
//! ```

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::asked::{Asked, host_path};
use super::{Because, HostEntry, HostPath, Request, Root, TargetKind, Writes};
use crate::error::{Context, Error, Kind, Result};
use crate::host::Host;

/// File systems that cannot hold what is written to an overlay, by the number that statfs(2) gives. GPFS and Lustre
/// accept it and lose files later.
const NO_UPPER: &[(u64, &str)] = &[
    (0x6969, "NFS"),
    (0x6573_5546, "FUSE"),
    (0xf15f, "eCryptfs"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0xaad7_aaea, "PanFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x00c3_6400, "Ceph"),
    (0x1983_0326, "BeeGFS"),
    (0x794c_7630, "overlayfs"),
];
/// Those that cannot even be a layer.
const NO_LAYER: [&str; 4] = ["eCryptfs", "Lustre", "GPFS", "PanFS"];

/// The name of a file system that cannot hold what is written to an overlay.
pub fn unwritable_file_system(kind: u64) -> Option<&'static str> {
    NO_UPPER.iter().find(|(number, _)| *number == kind).map(|(_, name)| *name)
}

/// What was decided.
#[derive(Debug, Default)]
pub struct Layers {
    /// Where what is written goes.
    pub writes: Writes,
    /// Directories laid over the image, the topmost first.
    pub layers: Vec<HostPath>,
    /// Directories to make on the host.
    pub make: Vec<HostEntry>,
    /// What the caller should know.
    pub warnings: Vec<String>,
}

/// Decides it.
pub fn plan_layers(asked: &Asked, request: &Request<'_>, host: &Host) -> Result<Layers> {
    let mut layers = Layers::default();
    let mut written: Option<(Writes, &Because)> = None;
    let mut write = |writes: Writes, because| match written.replace((writes, because)) {
        None => Ok(()),
        Some((_, other)) => Err(two_places(because, other)),
    };
    if let Some(because) = &asked.writable {
        if let Root::Image { path, .. } = &request.root {
            return Err(Error::usage(format!("cannot write to {:?} ({}): it is an image file", path.0, because.origin()))
                .hint("use --writable-tmpfs to write in memory, --overlay DIR to keep what is written in a directory, or unpack the image: skiff build --sandbox DIR IMAGE"));
        }
        write(Writes::Sandbox, because)?;
    }
    for (text, because) in &asked.overlays {
        let (directory, read_only) = parse(text.as_bytes());
        let directory = host_path(directory, host, because)?;
        check(&directory, read_only, host, because)?;
        let upper = directory.join("upper");
        if read_only {
            let written_before = host.look(&upper).is_ok_and(|seen| seen.directory);
            layers.layers.insert(0, HostPath(if written_before { upper } else { directory }));
        } else {
            let made = |path| HostEntry { path: HostPath(path), kind: TargetKind::Directory, mode: 0o755 };
            layers.make.extend([made(upper), made(directory.join("work"))]);
            write(Writes::Directory(HostPath(directory)), because)?;
        }
    }
    if let Some(because) = &asked.writable_tmpfs
        && !(asked.writable_by_compat && written.is_some())
    {
        match written {
            None => written = Some((Writes::Memory, because)),
            // Sites set one of the two for all jobs: the other one keeps what is written.
            Some((Writes::Sandbox, other)) => layers.warnings.push(format!(
                "{} has no effect: the sandbox itself is written ({})",
                because.origin(),
                other.origin()
            )),
            Some((_, other)) => return Err(two_places(because, other)),
        }
    }
    if matches!(written, Some((Writes::Sandbox, _))) && !layers.layers.is_empty() {
        return Err(Error::usage("cannot lay an overlay over a sandbox that is written itself (--writable)")
            .hint("leave --writable out, and give --overlay DIR to keep what is written in a directory"));
    }
    layers.writes = written.map_or(Writes::Nowhere, |(writes, _)| writes);
    Ok(layers)
}

fn two_places(one: &Because, other: &Because) -> Error {
    Error::usage(format!(
        "cannot use {} with {}: there is one place for what is written",
        one.origin(),
        other.origin()
    ))
    .hint("leave one of them out; an overlay that is only read can stay: --overlay DIR:ro")
}

/// `DIR[:ro|:rw]`.
fn parse(text: &[u8]) -> (&Path, bool) {
    let path = |bytes| Path::new(std::ffi::OsStr::from_bytes(bytes));
    match (text.strip_suffix(b":ro"), text.strip_suffix(b":rw")) {
        (Some(directory), _) => (path(directory), true),
        (_, Some(directory)) => (path(directory), false),
        _ => (path(text), false),
    }
}

fn check(directory: &PathBuf, read_only: bool, host: &Host, because: &Because) -> Result<()> {
    let tried = || format!("cannot use {directory:?} as an overlay ({})", because.origin());
    let seen = host.look(directory).context(Kind::Usage, tried).map_err(|error| {
        error.hint("make the directory first; or use --writable-tmpfs, which keeps nothing")
    })?;
    if !seen.directory {
        return Err(Error::usage(format!("{}: it is a file", tried())).hint(
            "overlays in image files come later; use a directory (--overlay DIR), or --writable-tmpfs",
        ));
    }
    let kind = host.file_system(directory).context(Kind::Host, tried)?;
    let Some(name) = unwritable_file_system(kind) else { return Ok(()) };
    if read_only && !NO_LAYER.contains(&name) {
        return Ok(());
    }
    Err(Error::host(format!("{}: it is on {name}, which the kernel's overlays cannot use so", tried()))
        .hint("use a directory on a local disk (/tmp, $TMPDIR), or --writable-tmpfs"))
}
