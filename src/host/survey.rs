//! Facts that only `skiff doctor` asks for: limits, file systems, ids, control groups. A run reads none of them.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, StatVfsMountFlags};
use rustix::process::Resource;

use super::Host;

/// A directory that files are written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Its owner.
    pub owner: u32,
    /// Its permission bits.
    pub mode: u32,
    /// Whether the caller may make files in it.
    pub writable: bool,
    /// The kind of file system, as /proc/self/mountinfo calls it.
    pub file_system: String,
    /// Programs in it are not executed.
    pub noexec: bool,
    /// Device files in it are not opened.
    pub nodev: bool,
    /// Bytes that the caller may still write.
    pub free: u64,
}

/// A range of ids that the administrator gave to the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// The control group of the unified hierarchy that this process is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlGroup {
    /// Its path in the hierarchy.
    pub path: String,
    /// Whether the caller may make groups below it and move processes.
    pub delegated: bool,
    /// What can be limited in it.
    pub controllers: Vec<String>,
}

impl Host {
    /// A setting of the kernel below /proc/sys, `None` where the kernel has none of the name.
    pub fn sysctl(&self, name: &str) -> Option<String> {
        let path = self.root.join("proc/sys").join(name.replace('.', "/"));
        std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
    }

    /// What a directory is like.
    ///
    /// # Errors
    /// Those of stat(2); ENOTDIR.
    pub fn directory(&self, path: &Path) -> io::Result<Directory> {
        let real = self.real(path);
        let status = std::fs::metadata(&real)?;
        if !status.is_dir() {
            return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
        }
        let space = rustix::fs::statvfs(&real)?;
        let table = std::fs::read_to_string(self.root.join("proc/self/mountinfo")).unwrap_or_default();
        let resolved = std::fs::canonicalize(&real).unwrap_or(real.clone());
        Ok(Directory {
            owner: status.uid(),
            mode: status.permissions().mode() & 0o7777,
            writable: rustix::fs::access(&real, Access::WRITE_OK | Access::EXEC_OK).is_ok(),
            file_system: file_system_of(&table, &resolved).unwrap_or("unknown").to_owned(),
            noexec: space.f_flag.contains(StatVfsMountFlags::NOEXEC),
            nodev: space.f_flag.contains(StatVfsMountFlags::NODEV),
            free: space.f_bavail.saturating_mul(space.f_frsize),
        })
    }

    /// The ranges of /etc/subuid or /etc/subgid that are the caller's.
    pub fn subordinate_ids(&self, file: &str) -> Vec<IdRange> {
        let table = std::fs::read_to_string(self.root.join("etc").join(file)).unwrap_or_default();
        ranges_of(&table, &self.user().name.to_string_lossy(), self.uid)
    }

    /// A program of the caller's PATH, or of where the system has its own.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        let path = self.variable("PATH").unwrap_or(OsStr::new("")).to_owned();
        let directories = std::env::split_paths(&path).chain(["/usr/bin".into(), "/usr/sbin".into()]);
        directories.filter(|directory| directory.is_absolute()).map(|directory| directory.join(name)).find(
            |program| {
                std::fs::metadata(self.real(program))
                    .is_ok_and(|status| status.is_file() && status.mode() & 0o111 != 0)
            },
        )
    }

    /// Whether a program runs with more rights than the caller's: by its set-user-id bit or by capabilities.
    pub fn has_extra_rights(&self, program: &Path) -> bool {
        let real = self.real(program);
        let by_owner = std::fs::metadata(&real).is_ok_and(|status| status.mode() & 0o4000 != 0);
        by_owner || rustix::fs::getxattr(&real, "security.capability", &mut [0_u8; 64]).is_ok()
    }

    /// The caller's control group in the unified hierarchy, `None` without one.
    pub fn control_group(&self) -> Option<ControlGroup> {
        let read = |path: &str| std::fs::read_to_string(self.root.join(path)).unwrap_or_default();
        let (groups, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
        let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?.to_owned();
        let mounted = mounts.lines().filter_map(Mounted::of).find(|mounted| mounted.kind == "cgroup2")?;
        let directory = self.real(Path::new(&mounted.at)).join(path.trim_start_matches('/'));
        let controllers = std::fs::read_to_string(directory.join("cgroup.controllers")).ok()?;
        let delegated = ["", "cgroup.procs", "cgroup.subtree_control"]
            .iter()
            .all(|name| rustix::fs::access(directory.join(name), Access::WRITE_OK).is_ok());
        let controllers = controllers.split_whitespace().map(str::to_owned).collect();
        Some(ControlGroup { path, delegated, controllers })
    }
}

/// A line of mountinfo, as far as it matters here.
struct Mounted<'a> {
    at: String,
    kind: &'a str,
}

impl<'a> Mounted<'a> {
    /// `id parent major:minor root AT options [fields] - KIND source options`.
    fn of(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        // Blanks in paths are written as octal numbers.
        let at = left.split(' ').nth(4)?.replace("\\040", " ");
        Some(Self { at, kind: right.split(' ').next()? })
    }
}

/// The file system of the last mount at the longest path above `path`.
fn file_system_of<'a>(table: &'a str, path: &Path) -> Option<&'a str> {
    table
        .lines()
        .filter_map(Mounted::of)
        .filter(|mounted| path.starts_with(&mounted.at))
        // Of equal ones, max_by_key takes the last, which hides the others.
        .max_by_key(|mounted| Path::new(&mounted.at).components().count())
        .map(|mounted| mounted.kind)
}

/// Lines are `name or number:first:count`.
fn ranges_of(table: &str, name: &str, uid: u32) -> Vec<IdRange> {
    let range = |line: &str| {
        let fields: Vec<&str> = line.trim().split(':').collect();
        let [who, first, count] = fields[..] else { return None };
        let own = who == name || who.parse() == Ok(uid);
        let range = IdRange { first: first.parse().ok()?, count: count.parse().ok()? };
        own.then_some(range)
    };
    table.lines().filter_map(range).collect()
}

/// The limit on open files, soft and hard; `None` is none.
pub fn open_files() -> (Option<u64>, Option<u64>) {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    (limit.current, limit.maximum)
}

/// The limit on processes and threads of the user.
pub fn processes() -> Option<u64> {
    rustix::process::getrlimit(Resource::Nproc).current
}

/// Bytes of a page of memory.
pub fn page_bytes() -> usize {
    rustix::param::page_size()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_of_a_path_is_that_of_the_mount_it_is_on() {
        let table = "21 1 8:1 / / rw shared:1 - ext4 /dev/sda rw\n\
                     22 21 0:5 / /tmp rw - tmpfs none rw\n\
                     23 22 0:6 / /tmp/my\\040data rw - nfs4 server:/x rw\n\
                     24 21 0:7 / /tmp rw - xfs /dev/sdb rw\n";
        assert_eq!(file_system_of(table, Path::new("/var/tmp")), Some("ext4"));
        assert_eq!(file_system_of(table, Path::new("/tmp/x")), Some("xfs"));
        assert_eq!(file_system_of(table, Path::new("/tmp/my data/x")), Some("nfs4"));
        assert_eq!(file_system_of(table, Path::new("/tmpx")), Some("ext4"));
        assert_eq!(file_system_of("", Path::new("/")), None);
    }

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let table = "# comment\nada:100000:65536\n1000:300000:10\neve:1:1\nada:x:1\nada:1\n";
        let found: Vec<_> = ranges_of(table, "ada", 1000).iter().map(|r| (r.first, r.count)).collect();
        assert_eq!(found, [(100_000, 65_536), (300_000, 10)]);
        assert!(ranges_of(table, "bob", 7).is_empty());
    }

    #[test]
    fn a_control_group_is_found_where_it_is_mounted() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("sys/fs/cgroup/user.slice/app");
        std::fs::create_dir_all(&group).unwrap();
        std::fs::create_dir_all(root.path().join("proc/self")).unwrap();
        let write = |path: &str, text: &str| std::fs::write(root.path().join(path), text).unwrap();
        write("proc/self/cgroup", "1:name=systemd:/x\n0::/user.slice/app\n");
        let host = Host::made_up(root.path());
        assert_eq!(host.control_group(), None);
        write("proc/self/mountinfo", "30 21 0:9 / /sys/fs/cgroup rw - cgroup2 none rw\n");
        for (name, text) in
            [("cgroup.controllers", "cpu memory\n"), ("cgroup.procs", ""), ("cgroup.subtree_control", "")]
        {
            std::fs::write(group.join(name), text).unwrap();
        }
        let found = host.control_group().unwrap();
        assert_eq!((found.path.as_str(), found.delegated), ("/user.slice/app", true));
        assert_eq!(found.controllers, ["cpu", "memory"]);
    }
}
