//! What flags and variables ask for together: a flag beats its variable, `--containall` and `--compat` stand for
//! several others, and each answer remembers who asked.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Because;
use super::bind::MAKE_IT;
use super::target::tidy;
use crate::cli::run::ContainerFlags;
use crate::error::{Error, Result};
use crate::host::{Host, is_on};

/// Everything about files, namespaces and identity that can be asked for, and who asked.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Few devices, empty temporary directories and home.
    pub contain: Option<Because>,
    /// None of the host's variables.
    pub cleanenv: bool,
    /// Values of variables are literal.
    pub no_eval: bool,
    /// An app of the image.
    pub app: Option<(OsString, Because)>,
    /// A home directory: `SOURCE[:TARGET]`.
    pub home: Option<(OsString, Because)>,
    /// No home directory.
    pub no_home: Option<Because>,
    /// Names and targets of mounts to leave out.
    pub no_mount: Vec<PathBuf>,
    /// Where the host keeps what else would be in memory.
    pub workdir: Option<(PathBuf, Because)>,
    /// Empty directories.
    pub scratch: Vec<(PathBuf, Because)>,
    /// Name servers.
    pub dns: Option<(Vec<String>, Because)>,
    /// The sandbox itself is written.
    pub writable: Option<Because>,
    /// The image is written, in memory.
    pub writable_tmpfs: Option<Because>,
    /// `--compat` alone asks for it, so that another place to write beats it.
    pub writable_by_compat: bool,
    /// Directories over the image: `DIR[:ro]`, the lowest first.
    pub overlays: Vec<(OsString, Because)>,
    /// Own processes.
    pub pid: Option<Because>,
    /// The program is process 1.
    pub no_init: bool,
    /// Own IPC.
    pub ipc: Option<Because>,
    /// Own host name.
    pub uts: Option<Because>,
    /// Which one.
    pub hostname: Option<(OsString, Because)>,
    /// Own network.
    pub net: Option<Because>,
    /// Which one.
    pub network: Option<(OsString, Because)>,
    /// The caller is root inside.
    pub fakeroot: Option<Because>,
    /// The mask 0022.
    pub no_umask: bool,
    /// Capabilities to have.
    pub add_caps: Option<(Vec<String>, Because)>,
    /// Capabilities not to have.
    pub drop_caps: Option<(Vec<String>, Because)>,
    /// No capabilities.
    pub no_privs: bool,
    /// All capabilities.
    pub keep_privs: Option<Because>,
}

/// Reads flags and variables.
pub fn read(flags: &ContainerFlags, host: &Host) -> Asked {
    let (files, own) = (&flags.files, &flags.namespaces);
    let switch = |given, name, keys: &[&str]| switch(host, given, name, keys);
    let containall = switch(files.containall, "--containall", &["CONTAINALL"]);
    let compat = switch(files.compat, "--compat", &["COMPAT"]);
    let all = containall.or_else(|| compat.clone());
    let no_pid = switch(own.no_pid, "--no-pid", &["NO_PID"]).is_some();
    let hostname = text(host, own.hostname.as_deref(), "--hostname", &["HOSTNAME"]);
    let network = text(host, own.network.as_deref(), "--network", &["NETWORK"]);
    let because = |named: &Option<(OsString, Because)>| named.as_ref().map(|(_, because)| because.clone());
    let writable_tmpfs = switch(files.writable_tmpfs, "--writable-tmpfs", &["WRITABLE_TMPFS"]);
    Asked {
        contain: switch(files.contain, "--contain", &["CONTAIN"]).or_else(|| all.clone()),
        cleanenv: all.is_some(),
        no_eval: compat.is_some(),
        app: text(host, flags.app.as_deref(), "--app", app_keys(host)),
        home: text(host, files.home.as_deref(), "--home", &["HOME"]),
        no_home: switch(files.no_home, "--no-home", &["NO_HOME"]),
        no_mount: paths(host, &files.no_mount, "--no-mount", &["NO_MOUNT"])
            .into_iter()
            .map(|(path, _)| path)
            .collect(),
        workdir: text(host, files.workdir.as_deref().map(Path::as_os_str), "--workdir", &["WORKDIR"])
            .map(|(path, because)| (path.into(), because)),
        scratch: paths(host, &files.scratch, "--scratch", &["SCRATCH", "SCRATCHDIR"]),
        dns: words(host, &files.dns, "--dns", &["DNS"]),
        writable: switch(files.writable, "--writable", &["WRITABLE"]),
        writable_by_compat: writable_tmpfs.is_none() && compat.is_some(),
        writable_tmpfs: writable_tmpfs.or_else(|| compat.clone()),
        overlays: texts(host, &files.overlay, "--overlay", &["OVERLAY", "OVERLAYIMAGE"]),
        pid: switch(own.pid, "--pid", &["PID", "UNSHARE_PID"]).or_else(|| all.clone()).filter(|_| !no_pid),
        no_init: compat.is_some() || switch(own.no_init, "--no-init", &["NOSHIMINIT", "NO_INIT"]).is_some(),
        ipc: switch(own.ipc, "--ipc", &["IPC", "UNSHARE_IPC"]).or(all),
        uts: switch(own.uts, "--uts", &["UTS", "UNSHARE_UTS"]).or_else(|| because(&hostname)),
        hostname,
        net: switch(own.net, "--net", &["NET", "UNSHARE_NET"]).or_else(|| because(&network)),
        network,
        fakeroot: fakeroot(flags, host),
        no_umask: compat.is_some() || switch(own.no_umask, "--no-umask", &["NO_UMASK"]).is_some(),
        add_caps: words(host, &own.add_caps, "--add-caps", &["ADD_CAPS"]),
        drop_caps: words(host, &own.drop_caps, "--drop-caps", &["DROP_CAPS"]),
        no_privs: switch(own.no_privs, "--no-privs", &["NO_PRIVS"]).is_some(),
        keep_privs: switch(own.keep_privs, "--keep-privs", &["KEEP_PRIVS"]),
    }
}

/// The variables that ask for an app. `APPNAME` says in a container which app that one has, which is none of the
/// next one's business.
fn app_keys(host: &Host) -> &'static [&'static str] {
    if host.setting("CONTAINER").is_some() { &["APP"] } else { &["APP", "APPNAME"] }
}

/// Whether the caller is to be root inside.
pub fn fakeroot(flags: &ContainerFlags, host: &Host) -> Option<Because> {
    switch(host, flags.namespaces.fakeroot, "--fakeroot", &["FAKEROOT"])
}

/// Whether root inside is to be the caller's id alone.
pub fn one_id(flags: &ContainerFlags, host: &Host) -> Option<Because> {
    switch(host, flags.namespaces.ignore_subuid, "--ignore-subuid", &["IGNORE_SUBUID"])
}

/// Whether a switch is on, by its flag or by a variable that does not say no.
pub fn switch(host: &Host, given: bool, name: &str, keys: &[&str]) -> Option<Because> {
    if given {
        return Some(Because::Flag(name.to_owned()));
    }
    if host.turns_off(name) {
        return None;
    }
    let (variable, value) = keys.iter().find_map(|key| host.setting(key))?;
    is_on(value).then_some(Because::Variable(variable))
}

/// A word: that of the flag, or else of the variable. An empty one is none: scripts write `--workdir "$DIR"`.
fn text(
    host: &Host,
    given: Option<impl AsRef<OsStr>>,
    name: &str,
    keys: &[&str],
) -> Option<(OsString, Because)> {
    if let Some(given) = given.map(|given| given.as_ref().to_owned()).filter(|given| !given.is_empty()) {
        let flag = format!("{name} {}", given.to_string_lossy());
        return Some((given, Because::Flag(flag)));
    }
    let (variable, value) = keys.iter().find_map(|key| host.setting(key))?;
    Some((value.to_owned(), Because::Variable(variable)))
}

/// A list: the flags' words that are not empty, or else those of the variable, with commas between.
pub fn texts(
    host: &Host,
    given: &[impl AsRef<OsStr>],
    name: &str,
    keys: &[&str],
) -> Vec<(OsString, Because)> {
    let words: Vec<_> = given.iter().filter_map(|word| text(host, Some(word), name, &[])).collect();
    if !words.is_empty() {
        return words;
    }
    let Some((variable, list)) = keys.iter().find_map(|key| host.setting(key)) else { return Vec::new() };
    let words = list.as_bytes().split(|byte| *byte == b',').filter(|word| !word.is_empty());
    words.map(|word| (OsStr::from_bytes(word).to_owned(), Because::Variable(variable.clone()))).collect()
}

/// As [`texts`], for paths.
pub fn paths(host: &Host, given: &[PathBuf], name: &str, keys: &[&str]) -> Vec<(PathBuf, Because)> {
    texts(host, given, name, keys).into_iter().map(|(path, because)| (path.into(), because)).collect()
}

fn words(host: &Host, given: &[String], name: &str, keys: &[&str]) -> Option<(Vec<String>, Because)> {
    let mut all = texts(host, given, name, keys);
    let because = match all.first_mut() {
        Some((_, Because::Variable(variable))) => Because::Variable(std::mem::take(variable)),
        Some(_) => Because::Flag(format!("{name} {}", given.join(","))),
        None => return None,
    };
    Some((all.into_iter().map(|(word, _)| word.to_string_lossy().into_owned()).collect(), because))
}

/// A path of the host, absolute: a relative one is relative to the working directory.
pub fn host_path(path: &Path, host: &Host, because: &Because) -> Result<PathBuf> {
    if path.is_absolute() {
        return Ok(tidy(path));
    }
    let cwd = host.cwd.as_deref().ok_or_else(|| {
        Error::usage(format!("cannot use {path:?} ({}): the working directory is unknown", because.origin()))
            .hint("name it from the root: /DIRECTORY/...")
    })?;
    Ok(tidy(&cwd.join(path)))
}

/// The same of a directory that is there.
pub fn existing_directory(path: &Path, host: &Host, because: &Because) -> Result<PathBuf> {
    let path = host_path(path, host, because)?;
    let tried = || format!("cannot use {path:?} as work directory ({})", because.origin());
    match host.look(&path) {
        Ok(seen) if seen.directory => Ok(path),
        Ok(_) => Err(Error::usage(format!("{}: it is a file", tried())).hint("name a directory")),
        Err(error) => Err(Error::usage(tried()).because(error).hint(MAKE_IT)),
    }
}

/// A path of the container, which must be absolute.
pub fn container_path(path: &Path, because: &Because) -> Result<PathBuf> {
    if path.is_absolute() {
        return Ok(tidy(path));
    }
    Err(Error::usage(format!("cannot use {path:?} ({}): it is not an absolute path", because.origin()))
        .hint("paths of the container begin with a slash"))
}
