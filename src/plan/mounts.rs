//! Which mounts a container gets, and where: one table of the defaults, then the binds that were asked for.
//!
//! ```text
//! 1  DEFAULT_MOUNTS, in order        what is missing on the host, or already shown by an earlier row
//!                                    (home inside /tmp, working directory inside home), is left out;
//!                                    --contain puts something empty in the place of some (contain.rs)
//!    what the launchers that are seen need (scheduler.rs)
//! 2  --scratch, then what features bring in (inject.rs)
//! 3  binds: configuration, variables, flags   parents before children; on one target the last one wins,
//!                                    and mounts of 1 and 2 at or below it go, since it was meant
//! 4  mount points                    what the image lacks for these, in one overlay
//! ```
//!
//! Every target is followed through the container as it then stands ([`super::target`]).

use std::path::{Path, PathBuf};

use super::asked::{Asked, container_path, existing_directory};
use super::bind::{self, Bind, MAKE_IT, parse_binds, parse_mounts};
use super::home::Home;
use super::ids::Caller;
use super::inject::{Injection, LeftOut};
use super::namespaces;
use super::overlay::Layers;
use super::scheduler::Scheduler;
use super::target::{From, Spot, View, refused, tidy};
use super::{
    Because, ContainerPath, HostEntry, HostPath, Mount, MountKind, MountPoint, Request, TargetKind, Writes,
};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::{Host, Seen};

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
pub type MakeAccounts = fn(&Caller, &[u8], &dyn Fn(&Path) -> bool) -> Option<Vec<u8>>;

/// Where a default mount comes from.
pub enum Source {
    /// The same path on the host.
    Path(&'static str),
    /// The host's processes, or the container's own.
    Processes,
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
    row("proc",        Source::Processes,                REQUIRED, "the host's processes"),
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

/// What `--no-mount` calls the rows whose own name it does not know.
const NO_MOUNT_NAMES: &[(&str, &str)] =
    &[("var-tmp", "tmp"), ("hosts", "bind-paths"), ("localtime", "bind-paths")];
/// All that `--no-mount` knows besides paths; `hostfs` is never mounted.
const LEAVES_OUT: [&str; 9] = ["proc", "sys", "dev", "devpts", "home", "tmp", "hostfs", "cwd", "bind-paths"];

/// What was decided.
#[derive(Debug)]
pub struct Mounts {
    /// The mounts, in order.
    pub mounts: Vec<Mount>,
    /// What the image lacks for them.
    pub mount_points: Vec<MountPoint>,
    /// The directories of the image that those are laid over.
    pub overlays: Vec<ContainerPath>,
    /// Directories to make on the host.
    pub make: Vec<HostEntry>,
    /// Targets of the binds that the caller asked for, for nested calls.
    pub asked: Vec<PathBuf>,
    /// What the caller should know.
    pub warnings: Vec<String>,
    /// What else the caller may want to know.
    pub not_there: Vec<LeftOut>,
}

/// What the mounts depend on, besides the host and the image.
pub struct Circumstances<'a> {
    /// What flags and variables ask for.
    pub asked: &'a Asked,
    /// The home directory.
    pub home: &'a Home,
    /// Who the caller is inside.
    pub caller: &'a Caller,
    /// What is over the image.
    pub layers: &'a Layers,
    /// What features bring in.
    pub injection: &'a Injection,
    /// The launchers that were seen.
    pub scheduler: Option<&'a Scheduler>,
}

/// Decides the mounts of a container.
pub fn plan_mounts(
    request: &Request<'_>,
    config: &Config,
    given: &Circumstances<'_>,
    host: &Host,
    view: &mut View<'_>,
) -> Result<Mounts> {
    let Circumstances { asked, home, caller, layers, injection, scheduler } = *given;
    let workdir = match &asked.workdir {
        Some((path, because)) => Some(existing_directory(path, host, because)?),
        None => None,
    };
    let mut chosen = Chosen {
        host,
        view,
        asked,
        home,
        caller,
        writes: &layers.writes,
        workdir,
        scheduler,
        covered: Vec::new(),
        make: layers.make.clone(),
        warnings: layers.warnings.clone(),
        not_there: Vec::new(),
    };
    chosen.warn_of_what_has_no_effect();
    for default in DEFAULT_MOUNTS {
        chosen.add_default(default)?;
    }
    chosen.add_hostname()?;
    if let Some(scheduler) = scheduler {
        chosen.add_places(scheduler)?;
    }
    chosen.add_message_queues()?;
    chosen.add_scratch()?;
    chosen.add_injection(injection)?;
    let binds = requested_binds(request, host, config)?;
    let targets = chosen.add_binds(binds)?;
    let Chosen { view, covered, warnings, not_there, make, .. } = chosen;
    let (mount_points, mut overlays) = view.mount_points(&covered)?;
    match &layers.writes {
        // They are made in the sandbox.
        Writes::Sandbox => overlays.clear(),
        Writes::Nowhere if layers.layers.is_empty() => {}
        // One overlay over everything.
        _ => overlays = vec![ContainerPath("/".into())],
    }
    Ok(Mounts {
        mounts: view.mounts.clone(),
        mount_points,
        overlays,
        make,
        asked: targets,
        warnings,
        not_there,
    })
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
    if let Some((variable, list)) = host.setting("MOUNT") {
        binds.extend(parse_mounts(list, &Because::Variable(variable))?);
    }
    for list in &request.flags.bind {
        let flag = format!("--bind {}", list.to_string_lossy());
        binds.extend(parse_binds(list, &Because::Flag(flag))?);
    }
    for list in &request.flags.files.mount {
        let flag = format!("--mount {}", list.to_string_lossy());
        binds.extend(parse_mounts(list, &Because::Flag(flag))?);
    }
    for bind in &mut binds {
        bind::absolute(bind, host)?;
    }
    Ok(binds)
}

/// The mounts chosen so far (in the view) and what goes with them.
pub(super) struct Chosen<'v, 'a> {
    pub(super) host: &'v Host,
    pub(super) view: &'v mut View<'a>,
    pub(super) asked: &'v Asked,
    home: &'v Home,
    caller: &'v Caller,
    writes: &'v Writes,
    /// The directory of `--workdir`.
    pub(super) workdir: Option<PathBuf>,
    /// The launchers that were seen.
    pub(super) scheduler: Option<&'v Scheduler>,
    /// Targets that replace what the image has.
    covered: Vec<PathBuf>,
    /// Directories to make on the host.
    pub(super) make: Vec<HostEntry>,
    warnings: Vec<String>,
    /// What else the caller may want to know.
    not_there: Vec<LeftOut>,
}

impl Chosen<'_, '_> {
    pub(super) fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// Of what nobody asked for the caller is not warned where a sandbox that is to be written is in the way.
    fn tell_not_there(&mut self, target: &Path, what: &str, why: String, because: Because) {
        let quiet = *self.writes == Writes::Sandbox && matches!(because, Because::Default(_));
        match quiet {
            true => self.not_there.push(LeftOut { what: target.display().to_string(), why, because }),
            false => self.warnings.push(format!("{what}: {why}")),
        }
    }

    fn warn_of_what_has_no_effect(&mut self) {
        let known =
            |name: &PathBuf| name.is_absolute() || LEAVES_OUT.iter().any(|known| name == Path::new(known));
        for name in self.asked.no_mount.iter().filter(|name| !known(name)) {
            let known = LEAVES_OUT.join(", ");
            self.warnings
                .push(format!("--no-mount {} has no effect: it knows {known} and paths", name.display()));
        }
        if let Some((path, because)) = &self.asked.workdir
            && self.asked.contain.is_none()
            && self.asked.scratch.is_empty()
        {
            let origin = because.origin();
            self.warnings
                .push(format!("{path:?} is not used ({origin}): neither --contain nor --scratch needs it"));
        }
    }

    /// Whether `--no-mount` leaves a mount out, by the name of its row or by its target.
    pub(super) fn left_out(&self, row: &str, target: &Path) -> bool {
        let name = NO_MOUNT_NAMES.iter().find(|(own, _)| *own == row).map_or(row, |(_, name)| *name);
        self.asked.no_mount.iter().any(|out| out == Path::new(name) || tidy_if_absolute(out) == target)
    }

    fn add_default(&mut self, default: &DefaultMount) -> Result<()> {
        let because = Because::Default(default.reason);
        let (source, target) = match &default.source {
            Source::Path(path) => (PathBuf::from(path), PathBuf::from(path)),
            Source::Processes => ("/proc".into(), "/proc".into()),
            Source::Home => match self.home_mount() {
                Some(paths) => paths,
                None => return Ok(()),
            },
            Source::WorkingDirectory => match self.working_directory() {
                Some(cwd) => (cwd.clone(), cwd),
                None => return Ok(()),
            },
            Source::Accounts(path, make) => return self.add_accounts(Path::new(path), *make, because),
        };
        if self.left_out(default.name, &target) {
            return Ok(());
        }
        if let Some(contain) = self.asked.contain.clone() {
            match default.name {
                "dev" => return self.add_few_devices(&contain),
                "tmp" => return self.add_empty(&target, "tmp", (0o1777, 0o1777), &contain),
                "var-tmp" => return self.add_empty(&target, "var_tmp", (0o1777, 0o1777), &contain),
                "home" if self.home.asked.is_none() => {
                    return self.add_empty(&target, "home", (0o755, 0o700), &contain);
                }
                "cwd" => return Ok(()),
                _ => {}
            }
        }
        match (default.name, &self.asked.dns, self.asked.pid.clone()) {
            ("resolv.conf", Some((servers, because)), _) => self.add_name_servers(servers, because),
            ("proc", _, Some(because)) if !namespaces::processes_are_masked(self.host) => {
                self.add_new(&target, MountKind::Kernel { file_system: "proc", options: "" }, &because)
            }
            ("proc", _, Some(because)) => {
                let origin = because.origin();
                let text = "parts of /proc are hidden on this host, so the container shows the host's processes in it";
                self.warnings.push(format!("{text} ({origin})"));
                self.add_host((source, target), default, because)
            }
            ("home", ..) if self.home.asked.is_some() => {
                let because = self.home.asked.clone().unwrap_or(because);
                let named = DefaultMount { optional: false, source: Source::Home, ..*default };
                self.add_host((source, target), &named, because)
            }
            _ => self.add_host((source, target), default, because),
        }
    }

    /// Mounts a file or directory of the host.
    fn add_host(
        &mut self,
        paths: (PathBuf, PathBuf),
        default: &DefaultMount,
        because: Because,
    ) -> Result<()> {
        let (source, target) = paths;
        let directory_only = matches!(default.source, Source::Home | Source::WorkingDirectory);
        let seen = match self.host.look(&source) {
            Ok(seen) if seen.directory || !directory_only => seen,
            _ if default.optional => return Ok(()),
            Ok(_) => {
                let tried = format!("cannot use {source:?} ({})", because.origin());
                return Err(Error::usage(format!("{tried}: not a directory")).hint("name a directory"));
            }
            Err(error) => {
                let tried = format!("cannot mount the host's {source:?} ({})", because.origin());
                return Err(Error::host(tried).because(error).hint(MAKE_IT));
            }
        };
        let spot = match self.view.resolve(&target, !default.replace) {
            Ok(spot) => spot,
            Err(_) if default.optional => return Ok(()),
            Err(error) => return Err(error),
        };
        if self.shows(&spot, &seen) {
            return Ok(());
        }
        // Two rows lead to one place (an image whose /var/tmp is a link to /tmp): the first stands.
        if self.view.mounts.iter().any(|mount| mount.target.0 == spot.path) {
            return Ok(());
        }
        let kind = if seen.directory { TargetKind::Directory } else { TargetKind::File };
        let spot = if default.optional { spot } else { self.made_on_host(spot, kind) };
        if let Some(why) = self.refusal(&spot, kind, default.replace) {
            if default.optional {
                let what = format!("{} {target:?} is not in the container", default.reason);
                self.tell_not_there(&target, &what, why, because);
                return Ok(());
            }
            return Err(refused(&target, &spot, &why));
        }
        let what = MountKind::Bind { source: HostPath(source), read_only: false };
        self.push(what, spot, because, default.optional);
        Ok(())
    }

    /// Whether the container has this very file of the host there already.
    pub(super) fn shows(&self, spot: &Spot, seen: &Seen) -> bool {
        let shown = match &spot.from {
            From::Mount(_, Some(shown)) => self.host.look(shown),
            _ => return false,
        };
        shown.is_ok_and(|there| there.identity == seen.identity)
    }

    /// As [`View::refusal`]; and a sandbox that is written has nothing laid over it.
    pub(super) fn refusal(&self, spot: &Spot, kind: TargetKind, replace: bool) -> Option<String> {
        if *self.writes == Writes::Sandbox && replace && self.view.must_cover(&spot.path, kind) {
            return Some("the sandbox has something else there, which is not changed".to_owned());
        }
        self.view.refusal(spot, kind, replace)
    }

    /// The home directory on the host and in the container.
    fn home_mount(&self) -> Option<(PathBuf, PathBuf)> {
        if self.asked.no_home.is_some() {
            return None;
        }
        let source = self.home.source.clone()?;
        let meant = self.home.asked.is_some() || !covers_system(&self.home.target);
        (meant && source != Path::new("/")).then(|| (source, self.home.target.clone()))
    }

    /// The working directory, unless it is one of the system's or cannot be named.
    fn working_directory(&self) -> Option<PathBuf> {
        let cwd = tidy(self.host.cwd.as_deref()?);
        // Reached through a link, it is judged by both names.
        let physical = self.host.follow(&cwd).ok()?;
        (!covers_system(&cwd) && !covers_system(&physical)).then_some(cwd)
    }

    fn add_accounts(&mut self, path: &Path, make: MakeAccounts, because: Because) -> Result<()> {
        if self.left_out("", path) {
            return Ok(());
        }
        let image = self.view.image();
        // Root adds users to what it can write.
        if self.caller.uid == 0
            && *self.writes != Writes::Nowhere
            && matches!(image.lookup(path), Ok(Some(_)))
        {
            return Ok(());
        }
        let has = |path: &Path| matches!(image.lookup(path), Ok(Some(_)));
        let old = match image.lookup(path) {
            Ok(Some(entry)) if entry.size > MAX_ACCOUNT_BYTES => return Ok(()),
            Ok(Some(_)) => image.read(path, MAX_ACCOUNT_BYTES)?.unwrap_or_default(),
            // A link that leads nowhere, or no such file: the container gets one.
            _ => Vec::new(),
        };
        match make(self.caller, &old, &has) {
            Some(content) => self.add_file(path, content, because),
            None => Ok(()),
        }
    }

    /// Shows a made file, unless there is no place for it.
    pub(super) fn add_file(&mut self, path: &Path, content: Vec<u8>, because: Because) -> Result<()> {
        let Ok(spot) = self.view.resolve(path, false) else { return Ok(()) };
        if let Some(why) = self.refusal(&spot, TargetKind::File, true) {
            let what = format!("{path:?} of the container is the image's");
            self.tell_not_there(path, &what, why, because);
            return Ok(());
        }
        self.push(MountKind::File { content, mode: 0o644 }, spot, because, true);
        Ok(())
    }

    pub(super) fn push(&mut self, what: MountKind, spot: Spot, because: Because, optional: bool) {
        let replaces = matches!(spot.from, From::Image) && spot.kind.is_some();
        let kind = self.view.kind_of(&what);
        let target = ContainerPath(spot.path);
        if replaces && self.view.must_cover(&target.0, kind) {
            self.covered.push(target.0.clone());
        }
        if let (From::Mount(index, _), None) = (spot.from, spot.kind) {
            self.view.hold(index, &target.0, kind);
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
            self.clear(place);
        }
        let mut asked = Vec::new();
        for (_, bind) in placed {
            let because = bind.because.clone();
            if self.add_bind(&bind)? && because != Because::Config && !bind.nonested {
                asked.push(bind.target);
            }
        }
        Ok(asked)
    }

    /// Takes the mounts at and below a place away.
    fn clear(&mut self, place: &Path) {
        self.view.mounts.retain(|mount| !mount.target.0.starts_with(place));
        self.covered.retain(|covered| !covered.starts_with(place));
    }

    fn add_scratch(&mut self) -> Result<()> {
        for (path, because) in &self.asked.scratch {
            let target = container_path(path, because)?;
            let place = self.view.resolve(&target, true)?.path;
            self.clear(&place);
            let below = Path::new("scratch").join(target.strip_prefix("/").unwrap_or(&target));
            self.add_empty(&target, &below, (0o755, 0o755), because)?;
        }
        Ok(())
    }

    fn add_bind(&mut self, bind: &Bind) -> Result<bool> {
        let Bind { source, target, read_only, because, nonested: _ } = bind;
        if *because == Because::Config && self.left_out("bind-paths", target) {
            return Ok(false);
        }
        let seen = match self.host.look(source) {
            Ok(seen) => seen,
            // The site's configuration is written for many machines.
            Err(error) if *because == Because::Config => {
                let left_out = format!("the configured bind {source:?} is left out");
                self.warnings.push(bind::without_source(left_out, source, error, self.host).to_string());
                return Ok(false);
            }
            Err(error) => {
                let tried = format!("cannot bind {source:?} ({})", because.origin());
                return Err(bind::without_source(tried, source, error, self.host));
            }
        };
        let spot = self.view.resolve(target, true)?;
        let kind = if seen.directory { TargetKind::Directory } else { TargetKind::File };
        let spot = self.made_on_host(spot, kind);
        if let Some(why) = self.refusal(&spot, kind, false) {
            return Err(refused(target, &spot, &format!("{why} ({})", because.origin())));
        }
        let what = MountKind::Bind { source: HostPath(source.clone()), read_only: *read_only };
        self.push(what, spot, because.clone(), false);
        Ok(true)
    }
}

fn tidy_if_absolute(path: &Path) -> PathBuf {
    if path.is_absolute() { tidy(path) } else { path.to_owned() }
}

/// Whether a mount at this path would hide the system of the image.
pub fn covers_system(path: &Path) -> bool {
    SYSTEM_DIRECTORIES.iter().any(|system| path == Path::new(system)) || is_virtual(path)
}

/// Whether a path is in one of the kernel's own trees.
pub fn is_virtual(path: &Path) -> bool {
    VIRTUAL_TREES.iter().any(|tree| path.starts_with(tree))
}
