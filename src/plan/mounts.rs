//! Which mounts a container gets, and where: one table of the defaults, then the binds that were asked for.
//!
//! ```text
//! 1  DEFAULT_MOUNTS, in order        what is missing on the host, or already shown by an earlier row
//!                                    (home inside /tmp, working directory inside home), is left out
//! 2  binds: configuration, variables, flags   parents before children; on one target the last one wins,
//!                                    and defaults at or below it go, since it was meant
//! 3  mount points                    what the image lacks for these, in one overlay
//! ```
//!
//! Every target is followed through the container as it then stands ([`super::target`]).

use std::path::{Path, PathBuf};

use super::bind::{Bind, parse_binds};
use super::target::{From, Spot, View, refused, tidy};
use super::{Because, ContainerPath, HostPath, Mount, MountKind, MountPoint, Request, TargetKind};
use crate::config::Config;
use crate::error::{Context, Error, Kind, Result};
use crate::host::Host;

/// A mount that every container gets unless something speaks against it.
pub struct DefaultMount {
    /// What it is called.
    pub name: &'static str,
    /// Where it comes from.
    pub source: Source,
    /// Left out without a word when the host lacks it or the image has no place for it.
    pub optional: bool,
    /// Takes the place of whatever the image has there, be it a link or a directory. (Else a link is
    /// followed: an image's `/etc/localtime` would have its zone replaced in `/usr/share/zoneinfo`, its
    /// `/etc/resolv.conf` would grow directories in `/run`.)
    pub replace: bool,
    /// Why it is there.
    pub reason: &'static str,
}

/// Makes an account file from the image's own, given a way to ask whether the image has some file.
/// `None`: the image's is left as it is.
pub type MakeAccounts = fn(&Host, &[u8], &dyn Fn(&Path) -> bool) -> Option<Vec<u8>>;

/// Where a default mount comes from.
pub enum Source {
    /// The same path on the host.
    Path(&'static str),
    /// The caller's home directory.
    Home,
    /// The caller's working directory.
    WorkingDirectory,
    /// A file made from the image's own and the caller's entry.
    Accounts(&'static str, MakeAccounts),
}

const fn row(
    name: &'static str,
    source: Source,
    (optional, replace): (bool, bool),
    reason: &'static str,
) -> DefaultMount {
    DefaultMount { name, source, optional, replace, reason }
}

const REQUIRED: (bool, bool) = (false, false);
const OPTIONAL: (bool, bool) = (true, false);
const FILE: (bool, bool) = (true, true);

/// The defaults, in the order they are made. `/tmp` stands before the home directory, which may be in it.
#[rustfmt::skip]
pub const DEFAULT_MOUNTS: &[DefaultMount] = &[
    row("dev",         Source::Path("/dev"),             REQUIRED, "the host's devices"),
    row("proc",        Source::Path("/proc"),            REQUIRED, "the host's processes"),
    row("sys",         Source::Path("/sys"),             OPTIONAL, "the host's hardware"),
    row("tmp",         Source::Path("/tmp"),             OPTIONAL, "temporary files"),
    row("var-tmp",     Source::Path("/var/tmp"),         OPTIONAL, "temporary files"),
    row("home",        Source::Home,                     OPTIONAL, "home directory"),
    row("cwd",         Source::WorkingDirectory,         OPTIONAL, "working directory"),
    row("hosts",       Source::Path("/etc/hosts"),       FILE,     "names of the host's network"),
    row("resolv.conf", Source::Path("/etc/resolv.conf"), FILE,     "name servers of the host"),
    row("localtime",   Source::Path("/etc/localtime"),   FILE,     "time zone of the host"),
    row("passwd",      Source::Accounts("/etc/passwd", super::ids::passwd), FILE, "the caller's name"),
    row("group",       Source::Accounts("/etc/group", super::ids::group),   FILE, "the caller's groups"),
];

/// Directories of the system that no home or working directory may cover: the image would be gone.
const SYSTEM_DIRECTORIES: &[&str] = &[
    "/",
    "/bin",
    "/boot",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/mnt",
    "/opt",
    "/run",
    "/sbin",
    "/usr",
    "/usr/bin",
    "/usr/games",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local",
    "/usr/sbin",
    "/usr/share",
    "/var",
    "/var/lib",
    "/var/run",
];
/// Trees of the kernel, shown by mounts of their own.
const VIRTUAL_TREES: &[&str] = &["/dev", "/proc", "/sys"];

/// No account file of an image is larger than this; a larger one is left as it is.
const MAX_ACCOUNT_BYTES: u64 = 1 << 20;

/// What was decided.
#[derive(Debug)]
pub struct Mounts {
    /// The mounts, in order.
    pub mounts: Vec<Mount>,
    /// What the image lacks for them.
    pub mount_points: Vec<MountPoint>,
    /// The directories of the image that those are laid over.
    pub overlays: Vec<ContainerPath>,
    /// Targets of the binds that the caller asked for, for nested calls.
    pub asked: Vec<PathBuf>,
    /// What the caller should know.
    pub warnings: Vec<String>,
}

/// Decides the mounts of a container.
pub fn plan_mounts(
    request: &Request<'_>,
    host: &Host,
    config: &Config,
    view: &mut View<'_>,
) -> Result<Mounts> {
    let mut chosen = Chosen { host, view, covered: Vec::new(), warnings: Vec::new() };
    for default in DEFAULT_MOUNTS {
        chosen.add_default(default)?;
    }
    let binds = requested_binds(request, host, config)?;
    let asked = chosen.add_binds(binds)?;
    let Chosen { view, covered, warnings, .. } = chosen;
    let (mount_points, overlays) = view.mount_points(&covered)?;
    Ok(Mounts { mounts: view.mounts.clone(), mount_points, overlays, asked, warnings })
}

/// The binds that were asked for, in the order in which they count.
fn requested_binds(request: &Request<'_>, host: &Host, config: &Config) -> Result<Vec<Bind>> {
    let mut binds = Vec::new();
    for list in &config.bind {
        binds.extend(parse_binds(list.as_ref(), &Because::Config)?);
    }
    for key in ["BINDPATH", "BIND"] {
        if let Some((variable, list)) = host.setting(key) {
            binds.extend(parse_binds(list, &Because::Variable(variable))?);
        }
    }
    for list in &request.flags.bind {
        let flag = format!("--bind {}", list.to_string_lossy());
        binds.extend(parse_binds(list, &Because::Flag(flag))?);
    }
    for bind in &mut binds {
        absolute(bind, host)?;
    }
    Ok(binds)
}

/// A relative source is relative to the working directory; a relative target is a mistake unless it came
/// from the source.
fn absolute(bind: &mut Bind, host: &Host) -> Result<()> {
    let from_source = bind.source == bind.target;
    if bind.source.is_relative() {
        let cwd = host.cwd.as_deref().ok_or_else(|| {
            Error::usage(format!("cannot bind {:?}: the working directory is unknown", bind.source))
        })?;
        bind.source = cwd.join(&bind.source);
    }
    bind.source = tidy(&bind.source);
    if from_source {
        bind.target = bind.source.clone();
    }
    if bind.target.is_relative() {
        return Err(Error::usage(format!(
            "cannot bind {:?} on {:?} ({}): the target is not an absolute path",
            bind.source,
            bind.target,
            bind.because.origin()
        )));
    }
    bind.target = tidy(&bind.target);
    Ok(())
}

/// The mounts chosen so far (in the view) and what goes with them.
struct Chosen<'v, 'a> {
    host: &'v Host,
    view: &'v mut View<'a>,
    /// Targets that replace what the image has.
    covered: Vec<PathBuf>,
    warnings: Vec<String>,
}

impl Chosen<'_, '_> {
    fn add_default(&mut self, default: &DefaultMount) -> Result<()> {
        let because = Because::Default(default.reason);
        let path = match &default.source {
            Source::Path(path) => PathBuf::from(path),
            Source::Home => match self.host.user().home.as_deref().map(tidy) {
                Some(home) if !covers_system(&home) => home,
                _ => return Ok(()),
            },
            Source::WorkingDirectory => match self.working_directory() {
                Some(cwd) => cwd,
                None => return Ok(()),
            },
            Source::Accounts(path, make) => return self.add_accounts(Path::new(path), *make, because),
        };
        let directory_only = matches!(default.source, Source::Home | Source::WorkingDirectory);
        let seen = match self.host.look(&path) {
            Ok(seen) if seen.directory || !directory_only => seen,
            Ok(_) => return Ok(()),
            Err(_) if default.optional => return Ok(()),
            Err(error) => {
                return Err(error).context(Kind::Host, || format!("cannot mount the host's {path:?}"));
            }
        };
        let spot = match self.view.resolve(&path, !default.replace) {
            Ok(spot) => spot,
            Err(_) if default.optional => return Ok(()),
            Err(error) => return Err(error),
        };
        if let From::Mount(_, Some(shown)) = &spot.from
            && self.host.look(shown).is_ok_and(|there| there.identity == seen.identity)
        {
            return Ok(());
        }
        // Two rows lead to one place (an image whose /var/tmp is a link to /tmp): the first stands.
        if self.view.mounts.iter().any(|mount| mount.target.0 == spot.path) {
            return Ok(());
        }
        let kind = if seen.directory { TargetKind::Directory } else { TargetKind::File };
        if let Some(why) = self.view.refusal(&spot, kind, default.replace) {
            if default.optional {
                self.warnings.push(format!("{} {path:?} is not in the container: {why}", default.reason));
                return Ok(());
            }
            return Err(refused(&path, &spot, &why));
        }
        let what = MountKind::Bind { source: HostPath(path), read_only: false };
        self.push(what, spot, because, default.optional);
        Ok(())
    }

    /// The working directory, unless it is one of the system's or cannot be named.
    fn working_directory(&self) -> Option<PathBuf> {
        let cwd = tidy(self.host.cwd.as_deref()?);
        // Reached through a link, it is judged by both names.
        let physical = std::fs::canonicalize(self.host.real(&cwd)).ok()?;
        let physical = match physical.strip_prefix(&self.host.root) {
            Ok(below) => Path::new("/").join(below),
            Err(_) => physical,
        };
        (!covers_system(&cwd) && !covers_system(&physical)).then_some(cwd)
    }

    fn add_accounts(&mut self, path: &Path, make: MakeAccounts, because: Because) -> Result<()> {
        let image = self.view.image();
        let has = |path: &Path| matches!(image.lookup(path), Ok(Some(_)));
        let old = match image.lookup(path) {
            Ok(Some(entry)) if entry.size > MAX_ACCOUNT_BYTES => return Ok(()),
            Ok(Some(_)) => image.read(path, MAX_ACCOUNT_BYTES)?.unwrap_or_default(),
            // A link that leads nowhere, or no such file: the container gets one.
            _ => Vec::new(),
        };
        let Some(content) = make(self.host, &old, &has) else { return Ok(()) };
        let Ok(spot) = self.view.resolve(path, false) else { return Ok(()) };
        if self.view.refusal(&spot, TargetKind::File, true).is_some() {
            return Ok(());
        }
        self.push(MountKind::File { content, mode: 0o644 }, spot, because, true);
        Ok(())
    }

    fn push(&mut self, what: MountKind, spot: Spot, because: Because, optional: bool) {
        let replaces = matches!(spot.from, From::Image) && spot.kind.is_some();
        let target = ContainerPath(spot.path);
        if replaces && self.view.must_cover(&target.0, &what) {
            self.covered.push(target.0.clone());
        }
        self.view.mounts.push(Mount { what, target, because, optional });
    }

    /// Adds the binds that were asked for; gives the targets of those that came from the caller.
    fn add_binds(&mut self, binds: Vec<Bind>) -> Result<Vec<PathBuf>> {
        // Where each leads without the others: what counts for order and for "the same target".
        let mut placed: Vec<(PathBuf, Bind)> = Vec::with_capacity(binds.len());
        for bind in binds {
            let place = self.view.resolve(&bind.target, true)?.path;
            placed.retain(|(other, _)| *other != place);
            placed.push((place, bind));
        }
        placed.sort_by_key(|(place, _)| place.components().count());
        for (place, _) in &placed {
            let default = |mount: &Mount| matches!(mount.because, Because::Default(_));
            self.view.mounts.retain(|mount| !(default(mount) && mount.target.0.starts_with(place)));
            self.covered.retain(|covered| !covered.starts_with(place));
        }
        let mut asked = Vec::new();
        for (_, bind) in placed {
            let because = bind.because.clone();
            if self.add_bind(&bind)? && because != Because::Config {
                asked.push(bind.target);
            }
        }
        Ok(asked)
    }

    fn add_bind(&mut self, bind: &Bind) -> Result<bool> {
        let Bind { source, target, read_only, because } = bind;
        let seen = match self.host.look(source) {
            Ok(seen) => seen,
            // The site's configuration is written for many machines.
            Err(error) if *because == Because::Config => {
                self.warnings.push(format!("the configured bind {source:?} is left out: {error}"));
                return Ok(false);
            }
            Err(error) => {
                let origin = because.origin();
                return Err(error).context(Kind::Usage, || format!("cannot bind {source:?} ({origin})"));
            }
        };
        let spot = self.view.resolve(target, true)?;
        let kind = if seen.directory { TargetKind::Directory } else { TargetKind::File };
        if let Some(why) = self.view.refusal(&spot, kind, false) {
            let error = refused(target, &spot, &format!("{why} ({})", because.origin()));
            return Err(match (&spot.from, spot.kind) {
                (From::Mount(_, Some(shown)), None) => {
                    error.hint(format!("make {shown:?} on the host first"))
                }
                _ => error,
            });
        }
        let what = MountKind::Bind { source: HostPath(source.clone()), read_only: *read_only };
        self.push(what, spot, because.clone(), false);
        Ok(true)
    }
}

/// Whether a mount at this path would hide the system of the image.
fn covers_system(path: &Path) -> bool {
    SYSTEM_DIRECTORIES.iter().any(|system| path == Path::new(system))
        || VIRTUAL_TREES.iter().any(|tree| path.starts_with(tree))
}
