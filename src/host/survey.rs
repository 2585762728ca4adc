//! Facts that only `skiff doctor` asks for: limits, file systems, control groups. A run reads none of them.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

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
