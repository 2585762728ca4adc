//! Facts about this machine and the process that calls, read once and never decided upon here.
//!
//! [`Host::probe`] reads what every run needs (a few system calls, no file but `/proc/self/cgroup`, and
//! that only when asked); names of users and groups go through NSS, so that LDAP and sssd answer, and are
//! looked up at the first question. A user without a passwd entry, a home, an `XDG_RUNTIME_DIR` or a
//! reachable working directory is a normal user.
//!
//! The host's files are looked at through [`Host::look`], below [`Host::root`]: `/` in life, a made-up
//! host's directory in tests.

pub mod cdi;
pub mod gpu;
pub mod parallel;
pub mod subordinate;
pub mod survey;
pub mod trial;

use std::cell::OnceCell;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::sys::fuse::{self, Device};

use self::subordinate::{Subordinate, Unusable};

/// The prefixes of the variables that speak to a container tool, our own first.
pub const FAMILIES: [&str; 3] = ["SKIFF", "APPTAINER", "SINGULARITY"];

/// Names of a directory of devices or plugins; more is a mistake.
const MAX_NAMES: usize = 4096;

/// Whether a setting that is a switch is on: it is set, and not to what means no.
pub fn is_on(value: &OsStr) -> bool {
    !["", "0", "f", "false", "no", "off"].iter().any(|off| value.eq_ignore_ascii_case(off))
}

/// What is known about this machine and the calling process.
#[derive(Debug, Clone)]
pub struct Host {
    /// Where the host's files are looked for: `/`, or the directory of a made-up host.
    pub root: PathBuf,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Supplementary groups, as the kernel gives them.
    pub groups: Vec<u32>,
    /// The environment, in order.
    pub environment: Vec<(OsString, OsString)>,
    /// The working directory as the user calls it: `PWD` when it is the same inode, else the kernel's
    /// path; `None` when it cannot be named (removed, or not below our root).
    pub cwd: Option<PathBuf>,
    /// Switches that the command line turns off (`--nv`): their variables do not count.
    pub off: Vec<String>,
    /// `uname -m`.
    pub machine: String,
    /// `uname -r`.
    pub kernel: String,
    /// `uname -n`.
    pub hostname: String,
    /// See [`Host::user`].
    pub user: OnceCell<User>,
    /// See [`Host::group_names`].
    pub group_names: OnceCell<Vec<(u32, OsString)>>,
    /// See [`Host::cgroup`].
    pub cgroup: OnceCell<String>,
    /// See [`Host::has_settings`].
    pub settings: OnceCell<bool>,
    /// See [`Host::terminal`].
    pub terminal: OnceCell<Option<PathBuf>>,
    /// See [`Host::no_fuse`].
    pub no_fuse: OnceCell<Option<i32>>,
    /// See [`Host::subordinate`].
    pub subordinate: OnceCell<Result<Subordinate, Unusable>>,
}

/// The caller's passwd entry, or what stands in for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: OsString,
    /// Full name and more; may be empty.
    pub gecos: OsString,
    /// Home directory; `None` when there is neither an entry nor an absolute `HOME`.
    pub home: Option<PathBuf>,
    /// Login shell; may be empty.
    pub shell: PathBuf,
    /// The primary group; `None` without an entry.
    pub gid: Option<u32>,
}

/// A file of the host that exists, links followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// A directory, and not a file, device or socket.
    pub directory: bool,
    /// Device and inode: two names of one file have the same.
    pub identity: (u64, u64),
}

impl Host {
    /// Reads the facts of this machine and process.
    pub fn probe() -> Self {
        let name = rustix::system::uname();
        let text = |field: &std::ffi::CStr| field.to_string_lossy().into_owned();
        let mut groups: Vec<u32> =
            rustix::process::getgroups().unwrap_or_default().into_iter().map(|gid| gid.as_raw()).collect();
        groups.sort_unstable();
        groups.dedup();
        Self {
            root: PathBuf::from("/"),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups,
            environment: std::env::vars_os().collect(),
            cwd: logical_cwd(std::env::var_os("PWD").map(PathBuf::from)),
            off: Vec::new(),
            machine: text(name.machine()),
            kernel: text(name.release()),
            hostname: text(name.nodename()),
            user: OnceCell::new(),
            group_names: OnceCell::new(),
            cgroup: OnceCell::new(),
            settings: OnceCell::new(),
            terminal: OnceCell::new(),
            no_fuse: OnceCell::new(),
            subordinate: OnceCell::new(),
        }
    }

    /// The same for a command line that turns these switches off.
    #[must_use]
    pub fn with_off(self, off: &[String]) -> Self {
        Self { off: off.to_vec(), ..self }
    }

    /// A variable of the environment.
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        self.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str())
    }

    /// A setting of ours from the environment, `SKIFF_NAME` before its Apptainer and Singularity twins,
    /// with the variable that gave it. An empty value is no setting.
    pub fn setting(&self, name: &str) -> Option<(String, &OsStr)> {
        if !self.has_settings() {
            return None;
        }
        FAMILIES.iter().find_map(|family| {
            let variable = format!("{family}_{name}");
            let value = self.variable(&variable).filter(|value| !value.is_empty())?;
            Some((variable, value))
        })
    }

    /// Whether the command line turns this switch off (`--nv`).
    pub fn turns_off(&self, switch: &str) -> bool {
        self.off.iter().any(|off| off == switch)
    }

    /// Whether there is any variable that may be a setting.
    pub fn has_settings(&self) -> bool {
        *self.settings.get_or_init(|| {
            self.environment
                .iter()
                .any(|(name, _)| FAMILIES.iter().any(|family| name.as_bytes().starts_with(family.as_bytes())))
        })
    }

    /// The terminal that the caller's standard streams lead to.
    pub fn terminal(&self) -> Option<&Path> {
        self.terminal.get_or_init(terminal).as_deref()
    }

    /// Why FUSE cannot be used: the errno of opening its device, or EINVAL where something else has its name.
    pub fn no_fuse(&self) -> Option<i32> {
        *self.no_fuse.get_or_init(|| open_fuse(&self.real(Path::new("/dev/fuse"))).err())
    }

    /// The kind of file system that a path is on, by the number that statfs(2) gives.
    pub fn file_system(&self, path: &Path) -> io::Result<u64> {
        // Numbers of 32 bits, which some processors give as negative ones.
        Ok(u64::from(rustix::fs::statfs(self.real(path))?.f_type as u32))
    }

    /// Who calls, by NSS; without an entry, by the environment.
    pub fn user(&self) -> &User {
        self.user.get_or_init(|| {
            // An NSS module that fails (a directory server that is down) is no better than no entry.
            match nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(self.uid)) {
                Ok(Some(user)) => User {
                    name: user.name.into(),
                    gecos: OsString::from_vec(user.gecos.into_bytes()),
                    home: Some(user.dir).filter(|home| home.is_absolute()),
                    shell: user.shell,
                    gid: Some(user.gid.as_raw()),
                },
                _ => self.user_without_entry(),
            }
        })
    }

    fn user_without_entry(&self) -> User {
        let called = ["USER", "LOGNAME"]
            .into_iter()
            .find_map(|name| self.variable(name).filter(|value| is_login_name(value.as_bytes())));
        User {
            name: called.map_or_else(|| format!("user{}", self.uid).into(), OsStr::to_owned),
            gecos: OsString::new(),
            home: self.variable("HOME").map(PathBuf::from).filter(|home| home.is_absolute()),
            shell: PathBuf::new(),
            gid: None,
        }
    }

    /// The caller's group and supplementary groups with their names; those without a name are left out.
    pub fn group_names(&self) -> &[(u32, OsString)] {
        self.group_names.get_or_init(|| {
            let mut ids = vec![self.gid];
            ids.extend(self.groups.iter().filter(|gid| **gid != self.gid));
            ids.into_iter().filter_map(|gid| Some((gid, Self::name_of_group(gid)?.into()))).collect()
        })
    }

    /// The name of a group, by NSS.
    pub fn name_of_group(gid: u32) -> Option<String> {
        nix::unistd::Group::from_gid(nix::unistd::Gid::from_raw(gid)).ok()?.map(|group| group.name)
    }

    /// The path of our cgroup: of the unified tree, or of the first controller that is not at its root.
    pub fn cgroup(&self) -> &str {
        self.cgroup.get_or_init(|| {
            let table = std::fs::read_to_string(self.root.join("proc/self/cgroup")).unwrap_or_default();
            cgroup_path(&table).to_owned()
        })
    }

    /// The Slurm job and step that this process is in.
    pub fn slurm_step(&self) -> Option<(&OsStr, &OsStr)> {
        let set = |name| self.variable(name).filter(|value| !value.is_empty());
        Some((set("SLURM_JOB_ID")?, set("SLURM_STEP_ID").unwrap_or(OsStr::new("batch"))))
    }

    /// A path of the host as it is opened: below [`Host::root`].
    pub fn real(&self, path: &Path) -> PathBuf {
        if self.root == Path::new("/") {
            return path.to_owned();
        }
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Where a path of the host leads, free of links, as the caller names it.
    ///
    /// # Errors
    /// Those of realpath(3).
    pub fn follow(&self, path: &Path) -> io::Result<PathBuf> {
        let real = std::fs::canonicalize(self.real(path))?;
        Ok(match real.strip_prefix(&self.root) {
            Ok(below) => Path::new("/").join(below),
            Err(_) => real,
        })
    }

    /// The names in a directory that begin so, sorted; none where it is missing. No more than 4096 are read.
    pub fn names(&self, directory: &Path, begin: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.real(directory)).into_iter().flatten().flatten().take(MAX_NAMES);
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.starts_with(begin)).collect();
        names.sort();
        names
    }

    /// What a path of the host is, links followed. Errors are those of stat(2).
    pub fn look(&self, path: &Path) -> io::Result<Seen> {
        let status = std::fs::metadata(self.real(path))?;
        Ok(Seen { directory: status.is_dir(), identity: (status.dev(), status.ino()) })
    }

    /// What a path names, if it is a link.
    pub fn link(&self, path: &Path) -> Option<PathBuf> {
        std::fs::read_link(self.real(path)).ok()
    }
}

/// `PWD` when it names the working directory, else the kernel's name of it.
fn logical_cwd(claimed: Option<PathBuf>) -> Option<PathBuf> {
    let identity = |path: &Path| std::fs::metadata(path).map(|status| (status.dev(), status.ino())).ok();
    let here = identity(Path::new("."));
    if let Some(path) = claimed
        && path.is_absolute()
        && here.is_some()
        && identity(&path) == here
    {
        return Some(path);
    }
    // The kernel names a directory outside our root "(unreachable)/...".
    std::env::current_dir().ok().filter(|path| path.is_absolute())
}

/// The name of the terminal on standard input, output or error.
fn terminal() -> Option<PathBuf> {
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let name = streams.into_iter().find_map(|stream| rustix::termios::ttyname(stream, Vec::new()).ok())?;
    Some(PathBuf::from(OsString::from_vec(name.into_bytes())))
}

/// Whether the FUSE device can be opened.
fn open_fuse(path: &Path) -> Result<(), i32> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    let opened = opened.map(std::fs::File::from).map_err(io::Error::from);
    let status = opened.and_then(|file| file.metadata());
    let status = status.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
    if fuse::device(&status) == Device::Fuse { Ok(()) } else { Err(libc::EINVAL) }
}

fn is_login_name(name: &[u8]) -> bool {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-@+\\".contains(byte) || *byte >= 0x80;
    !name.is_empty() && name.len() <= 256 && name.iter().all(fits) && name[0] != b'-' && name != b"root"
}

/// The path of `/proc/self/cgroup` that says most about us. Lines are `id:controllers:path`.
fn cgroup_path(table: &str) -> &str {
    let paths = || table.lines().filter_map(|line| line.splitn(3, ':').nth(2).map(|path| (line, path)));
    let unified = paths().find(|(line, path)| line.starts_with("0::") && *path != "/");
    unified.or_else(|| paths().find(|(_, path)| *path != "/")).map_or("/", |(_, path)| path)
}

#[cfg(test)]
impl Host {
    /// A host made of a directory: uid 1000, user `ada`, home `/home/ada`, no groups but her own.
    pub fn made_up(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            uid: 1000,
            gid: 1000,
            groups: vec![],
            environment: vec![],
            cwd: None,
            off: vec![],
            machine: "x86_64".to_owned(),
            kernel: "6.1.0".to_owned(),
            hostname: "node1".to_owned(),
            user: OnceCell::from(User {
                name: "ada".into(),
                gecos: "Ada".into(),
                home: Some(PathBuf::from("/home/ada")),
                shell: PathBuf::from("/bin/bash"),
                gid: Some(1000),
            }),
            group_names: OnceCell::from(vec![(1000, "ada".into())]),
            cgroup: OnceCell::from("/user.slice".to_owned()),
            settings: OnceCell::from(true),
            terminal: OnceCell::from(None),
            no_fuse: OnceCell::from(None),
            subordinate: OnceCell::new(),
        }
    }

    /// The same with these variables set.
    pub fn with_environment(mut self, pairs: &[(&str, &str)]) -> Self {
        self.environment.extend(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logical_working_directory_is_kept_when_it_is_the_same_inode() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(std::env::current_dir().unwrap(), &link).unwrap();
        assert_eq!(logical_cwd(Some(link.clone())), Some(link));
        let here = std::env::current_dir().ok();
        assert_eq!(logical_cwd(Some("/".into())), here);
        assert_eq!(logical_cwd(Some(".".into())), here);
        assert_eq!(logical_cwd(None), here);
    }

    #[test]
    fn our_own_settings_come_before_their_twins_and_empty_ones_are_none() {
        let host = Host::made_up(Path::new("/")).with_environment(&[
            ("SINGULARITY_BIND", "c"),
            ("APPTAINER_BIND", "b"),
            ("SKIFF_BIND", ""),
        ]);
        assert_eq!(host.setting("BIND"), Some(("APPTAINER_BIND".to_owned(), OsStr::new("b"))));
        assert_eq!(host.setting("OTHER"), None);
    }

    #[test]
    fn a_user_without_entry_gets_a_name_and_perhaps_a_home() {
        let mut host = Host::made_up(Path::new("/"));
        host.uid = 4_000_123;
        host.user = OnceCell::new();
        assert_eq!(host.user().name, "user4000123");
        assert_eq!(host.user().home, None);
        let mut host = host.with_environment(&[("USER", "eve:x"), ("LOGNAME", "eve"), ("HOME", "/h/eve")]);
        host.user = OnceCell::new();
        assert_eq!(host.user().name, "eve");
        assert_eq!(host.user().home, Some(PathBuf::from("/h/eve")));
    }

    #[test]
    fn the_cgroup_that_says_most_is_taken() {
        assert_eq!(cgroup_path("0::/user.slice/a:b\n"), "/user.slice/a:b");
        assert_eq!(cgroup_path("4:memory:/job/7\n1:cpu:/\n0::/\n"), "/job/7");
        assert_eq!(cgroup_path("0::/\n"), "/");
        assert_eq!(cgroup_path(""), "/");
    }

    #[test]
    fn a_step_needs_a_job() {
        let host = |pairs: &[(&str, &str)]| Host::made_up(Path::new("/")).with_environment(pairs);
        assert!(host(&[("SLURM_STEP_ID", "0")]).slurm_step().is_none());
        let step = host(&[("SLURM_JOB_ID", "7"), ("SLURM_STEP_ID", "2")]);
        assert_eq!(step.slurm_step(), Some((OsStr::new("7"), OsStr::new("2"))));
        let batch = host(&[("SLURM_JOB_ID", "7")]);
        assert_eq!(batch.slurm_step(), Some((OsStr::new("7"), OsStr::new("batch"))));
    }
}
