//! What `skiff doctor` looks at, a function a group. Facts come from [`crate::host`], remedies from
//! [`crate::remedies`]; here is decided what is good enough.

use std::path::{Path, PathBuf};

use super::{Check, State};
use crate::build::cache;
use crate::host::Host;
use crate::host::subordinate::{IdRange, Subordinate, Unusable};
use crate::host::survey::{self, Directory};
use crate::host::trial::{self, Refused, Step, Tried};
use crate::remedies;
use crate::serve;
use crate::sys::features;

const NEEDED: &str = "Needed to run images";
const USEFUL: &str = "Useful";
const KERNEL: &str = "Kernel features";
const PLACES: &str = "Directories for temporary files";
const LIMITS: &str = "Limits";

/// Everything, in the order of the screen.
pub fn all(host: &Host) -> Vec<Check> {
    let mut checks = vec![user_namespaces(host), fuse(host), mount_descriptors()];
    checks.extend([overlay(), writable_overlay(), subordinate_ids(host), control_group(host)]);
    checks.extend(kernel_features());
    checks.extend(super::parallel::all(host));
    checks.extend(places(host));
    checks.extend(limits(host));
    checks
}

pub(super) fn good(group: &'static str, name: &str, found: impl Into<String>) -> Check {
    Check { group, name: name.to_owned(), state: State::Ok, found: found.into(), mend: None }
}

impl Check {
    pub(super) fn but(mut self, state: State, mend: impl Into<String>) -> Self {
        (self.state, self.mend) = (state, Some(mend.into()));
        self
    }
}

/// What went wrong, as errors say it.
fn said(errno: i32) -> String {
    crate::error::Error::host("").because(std::io::Error::from_raw_os_error(errno)).to_string()[2..]
        .to_owned()
}

fn user_namespaces(host: &Host) -> Check {
    let (name, root) = ("user namespaces", &host.root);
    let Err(Refused { step, errno }) = trial::namespaces() else {
        let most = host.sysctl("user.max_user_namespaces");
        let most = most.map_or(String::new(), |most| format!("; {most} at most for each user"));
        let filtered =
            if remedies::is_filtered(root) { "; a seccomp filter is on, and lets them be" } else { "" };
        return good(NEEDED, name, format!("one was made, with mounts of its own{most}{filtered}"));
    };
    let (tried, mend) = match step {
        Step::Child => ("cannot start a process", "raise the limit on processes (ulimit -u)".to_owned()),
        Step::UserNamespace => ("cannot be made", remedies::no_user_namespace(errno, root)),
        Step::IdMap => ("ids cannot be mapped in them", remedies::no_id_map(root)),
        Step::MountNamespace => ("mount namespaces cannot be made", remedies::no_mount(errno, root)),
        Step::Memory | Step::Device | Step::Mount => {
            ("nothing can be mounted in them", remedies::no_mount(errno, root))
        }
    };
    good(NEEDED, name, format!("{tried}: {}", said(errno))).but(State::Missing, mend)
}

fn fuse(host: &Host) -> Check {
    let name = "FUSE";
    let Refused { step, errno } = match trial::fuse() {
        Ok(Some(offer)) => {
            let (major, minor) = offer.version;
            let found = format!("mounted; protocol {major}.{minor}");
            let missed: Vec<_> =
                OFFERED.iter().filter(|(bit, _)| offer.flags & bit == 0).map(|(_, what)| *what).collect();
            if missed.is_empty() {
                return good(NEEDED, name, format!("{found}, with all that skiff uses"));
            }
            return good(NEEDED, name, format!("{found}, without {}", missed.join(", ")))
                .but(State::Less, "a newer kernel serves files faster");
        }
        Ok(None) => return good(NEEDED, name, "mounted"),
        Err(refused) => refused,
    };
    match step {
        Step::Device => no_fuse_device(errno),
        Step::Mount => {
            let mend = remedies::no_fuse_mount(errno, &host.root);
            match remedies::not_the_fuse_device(&host.root) {
                Some(what) if errno == libc::EINVAL => {
                    good(NEEDED, name, format!("cannot use /dev/fuse: {what}; {UNPACKED}"))
                        .but(State::Less, mend)
                }
                _ => good(NEEDED, name, format!("cannot be mounted: {}", said(errno)))
                    .but(State::Missing, mend),
            }
        }
        Step::Child | Step::UserNamespace | Step::IdMap | Step::MountNamespace | Step::Memory => {
            let device = std::fs::File::options().read(true).write(true).open(host.root.join("dev/fuse"));
            match device {
                Ok(_) => good(NEEDED, name, "/dev/fuse can be opened; mounting needs a user namespace")
                    .but(State::Less, "mend user namespaces first"),
                Err(error) => no_fuse_device(error.raw_os_error().unwrap_or_default()),
            }
        }
    }
}

/// What happens instead of serving.
const UNPACKED: &str = "images in files are unpacked before they run";

fn no_fuse_device(errno: i32) -> Check {
    good(NEEDED, "FUSE", format!("cannot open /dev/fuse: {}; {UNPACKED}", said(errno)))
        .but(State::Less, remedies::no_fuse_device(errno))
}

/// What of FUSE a server of images is faster with, by the bits of linux/fuse.h.
const OFFERED: &[(u32, &str)] = &[
    (1 << 13, "READDIRPLUS (3.9)"),
    (1 << 17, "NO_OPEN (3.15)"),
    (1 << 18, "PARALLEL_DIROPS (4.7)"),
    (1 << 22, "MAX_PAGES (4.20)"),
    (1 << 23, "CACHE_SYMLINKS (4.20)"),
    (1 << 24, "NO_OPENDIR (5.1)"),
];

fn mount_descriptors() -> Check {
    let name = "mount descriptors";
    if features::has_mount_descriptors() {
        return good(USEFUL, name, "open_tree, move_mount: containers share an image server");
    }
    good(USEFUL, name, "no open_tree: each container has an image server of its own").but(
        State::Less,
        "use a kernel from 5.2 on, and an outer container whose seccomp filter knows open_tree",
    )
}

/// A check of something that is tried in namespaces of its own.
fn tried(name: &str, outcome: Tried, works: &str, fails: &str, mend: &str) -> Check {
    match outcome {
        Ok(()) => good(USEFUL, name, works),
        Err(Refused { step: Step::Mount, errno }) => {
            good(USEFUL, name, format!("{}: {fails}", said(errno))).but(State::Less, mend)
        }
        Err(_) => good(USEFUL, name, "cannot be tried without namespaces and mounts")
            .but(State::Less, "mend user namespaces first"),
    }
}

fn overlay() -> Check {
    tried(
        "overlays",
        trial::overlay(false),
        "mounted: binds work where the image has no directory for them",
        "binds work only where the image has a directory for them",
        remedies::NO_OVERLAY,
    )
}

fn writable_overlay() -> Check {
    tried(
        "overlays in memory",
        trial::overlay(true),
        "mounted: --writable-tmpfs works",
        "no --writable-tmpfs",
        "use kernel 6.6 or newer, whose tmpfs has user extended attributes; or --overlay DIR on a local disk",
    )
}

fn subordinate_ids(host: &Host) -> Check {
    let name = "subordinate ids";
    if host.uid == 0 {
        return good(USEFUL, name, "not needed by root");
    }
    match host.subordinate() {
        Ok(Subordinate { uids, gids, newuidmap, newgidmap }) => {
            let count = |ranges: &[IdRange]| ranges.iter().map(|range| u64::from(range.count)).sum::<u64>();
            let (users, groups) = (count(uids), count(gids));
            let (newuidmap, newgidmap) = (newuidmap.display(), newgidmap.display());
            good(
                USEFUL,
                name,
                format!("{users} user ids and {groups} group ids, {newuidmap} and {newgidmap}"),
            )
        }
        Err(unusable) => good(USEFUL, name, format!("{unusable}; with --fakeroot a container has one id"))
            .but(State::Less, mend_subordinate_ids(unusable)),
    }
}

fn mend_subordinate_ids(unusable: &Unusable) -> String {
    match unusable {
        Unusable::Few { user, .. } => {
            format!("usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}")
        }
        Unusable::NoProgram(_) => {
            "install the package uidmap (Debian, Ubuntu) or shadow-utils (Fedora, RHEL, SUSE: shadow)".into()
        }
        Unusable::NoRight(path) => {
            format!("on a file system without nosuid: chmod u+s {}", path.display())
        }
        Unusable::NoNewPrivileges | Unusable::NotOutside(_) => {
            "start skiff outside that container, or as its root".into()
        }
        Unusable::NoAccount(_) => "make the account known on this host (nsswitch.conf, sssd)".into(),
        Unusable::OtherGroup { .. } => "start skiff with the primary group: newgrp".into(),
    }
}

fn control_group(host: &Host) -> Check {
    let name = "control groups";
    let Some(group) = host.control_group() else {
        return good(USEFUL, name, "no unified hierarchy is mounted").but(
            State::Less,
            "boot with systemd.unified_cgroup_hierarchy=1; the batch system's limits hold all the same",
        );
    };
    let controllers =
        if group.controllers.is_empty() { "no controllers".to_owned() } else { group.controllers.join(" ") };
    let found = format!("{:?}: {controllers}", group.path);
    if group.delegated {
        return good(USEFUL, name, format!("delegated, {found}"));
    }
    good(USEFUL, name, format!("not delegated, {found}")).but(
        State::Less,
        "start it in a group of its own: systemd-run --user --scope -p Delegate=yes skiff ...",
    )
}

/// Calls that skiff uses where the kernel has them, with what it does without.
fn kernel_features() -> Vec<Check> {
    let landlock = features::landlock_version();
    let found = [
        ("pidfds", "5.3", features::has_pidfds(), "each container has an image server of its own"),
        ("openat2", "5.6", features::has_openat2(), "paths are walked one name at a time"),
        ("close_range", "5.9", features::has_close_range(), "descriptors are closed one by one"),
        (
            "mount_setattr",
            "5.12",
            features::has_mount_attributes(),
            "what is mounted below a read-only bind stays writable",
        ),
        ("Landlock", "5.13", landlock.is_some(), "an image server is confined by seccomp alone"),
        (
            "seccomp filters",
            "4.14",
            features::has_seccomp_filters(),
            "an image server is confined by Landlock alone",
        ),
        (
            "seccomp notification",
            "5.0",
            features::has_seccomp_notification(),
            "with --fakeroot, owners are not recorded",
        ),
    ];
    let mut there: Vec<String> = Vec::new();
    let mut checks = Vec::new();
    for (name, since, has, without) in found {
        match (has, landlock) {
            (true, Some(version)) if name == "Landlock" => there.push(format!("Landlock {version}")),
            (true, _) => there.push(name.to_owned()),
            (false, _) => checks.push(good(KERNEL, name, format!("no; {without}")).but(
                State::Less,
                format!("kernel {since} has it, if it is built in and no outer container forbids it"),
            )),
        }
    }
    if !there.is_empty() {
        checks.insert(0, good(KERNEL, "used", there.join(", ")));
    }
    checks
}

fn places(host: &Host) -> Vec<Check> {
    let named = |name: &str| host.variable(name).filter(|value| !value.is_empty()).map(Path::new);
    let mut checks = Vec::new();
    if let Some((variable, path)) = host.setting("TMPDIR") {
        checks.push(place(host, &variable, Path::new(path)));
    }
    if let Some(path) = named("TMPDIR") {
        checks.push(place(host, "TMPDIR", path));
    }
    checks.push(place(host, "/tmp", Path::new("/tmp")));
    checks.push(place(host, "/var/tmp", Path::new("/var/tmp")));
    checks.push(match named("XDG_RUNTIME_DIR") {
        Some(path) => place(host, "XDG_RUNTIME_DIR", path),
        None => good(
            PLACES,
            "XDG_RUNTIME_DIR",
            format!("not set; image servers are met in /tmp/skiff-{}", host.uid),
        ),
    });
    checks.push(cache(host));
    checks
}

/// File systems of servers, which all nodes share.
const SHARED: &[&str] = &[
    "nfs",
    "nfs4",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "fuse.ceph",
    "cifs",
    "afs",
    "panfs",
    "wekafs",
    "pvfs2",
];

/// Where builds and pulls keep what may be used again.
fn cache(host: &Host) -> Check {
    let path = match cache::place(host) {
        Ok(path) => path,
        Err(error) => return good(PLACES, "cache", error.to_string()).but(State::Less, "set SKIFF_CACHEDIR"),
    };
    // It is made when it is needed.
    match path.ancestors().find_map(|above| host.directory(above).ok()) {
        Some(directory) => judge_cache(&path, &directory),
        None => good(PLACES, "cache", path.display().to_string()),
    }
}

fn judge_cache(path: &Path, directory: &Directory) -> Check {
    let Directory { file_system, free, writable, .. } = directory;
    let found = format!("{}: {file_system}, {} free", path.display(), size(*free));
    let check = good(PLACES, "cache", found.clone());
    if !writable {
        let found = format!("{found}; it cannot be written to, so nothing is kept");
        return good(PLACES, "cache", found)
            .but(State::Less, "set SKIFF_CACHEDIR to a directory of your own");
    }
    if SHARED.contains(&file_system.as_str()) {
        let found = format!("{found}; it is a server's, so builds and pulls wait for it");
        return good(PLACES, "cache", found)
            .but(State::Less, "set SKIFF_CACHEDIR to a directory on a local disk");
    }
    check
}

fn place(host: &Host, name: &str, path: &Path) -> Check {
    let shown = if Path::new(name) == path { String::new() } else { format!("{} ", path.display()) };
    let mend = format!("make it a directory of your own, or give {name} another value");
    if path.is_relative() {
        return good(PLACES, name, format!("{shown}is not an absolute path")).but(State::Less, mend);
    }
    match host.directory(path) {
        Err(error) => {
            let why = said(error.raw_os_error().unwrap_or_default());
            good(PLACES, name, format!("{shown}cannot be used: {why}")).but(State::Less, mend)
        }
        Ok(directory) => {
            let check = judge(name, &shown, &directory, host.uid);
            if check.state == State::Ok {
                without_litter(check, &serve::abandoned(&host.real(path)))
            } else {
                check
            }
        }
    }
}

/// What servers of unpacked images leave when they are killed takes space.
fn without_litter(check: Check, left: &[PathBuf]) -> Check {
    let Some(first) = left.first() else { return check };
    let many = if left.len() == 1 { "an image".to_owned() } else { format!("{} images", left.len()) };
    let found = format!("{}; {many} unpacked by a server that was killed", check.found);
    let names: Vec<String> = left.iter().map(|path| format!("'{}'", path.display())).collect();
    let names = if names.len() > 3 { format!("'{}' and so on", first.display()) } else { names.join(" ") };
    Check { found, ..check }.but(State::Less, format!("chmod -R u+rwX {names}; rm -r {names}"))
}

/// Below this, unpacking or a build will soon end with a full disk.
const LITTLE_SPACE: u64 = 1 << 30;

fn judge(name: &str, shown: &str, directory: &Directory, uid: u32) -> Check {
    let Directory { owner, mode, writable, file_system, noexec, nodev, free } = directory;
    let mut words = vec![file_system.clone(), format!("{} free", size(*free))];
    words.extend(noexec.then(|| "noexec".to_owned()));
    words.extend(nodev.then(|| "nodev".to_owned()));
    let check = good(PLACES, name, format!("{shown}{}", words.join(", ")));
    let private = name == "XDG_RUNTIME_DIR";
    if !writable {
        let found = format!("{}; it cannot be written to (owner {owner}, mode {mode:04o})", check.found);
        return good(PLACES, name, found).but(State::Less, "set TMPDIR to a directory of your own");
    }
    if private && (*owner != uid || mode & 0o077 != 0) {
        let found = format!("{}; it is not yours alone (owner {owner}, mode {mode:04o})", check.found);
        return good(PLACES, name, found).but(State::Less, "chmod 700 it, or leave XDG_RUNTIME_DIR unset");
    }
    if !private && *free < LITTLE_SPACE {
        return check.but(State::Less, "free some space, or set TMPDIR to a roomier place");
    }
    check
}

/// Bytes with a unit that leaves two or three digits.
fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let step = (0..units.len() - 1).find(|step| bytes >> (10 * step) < 1024).unwrap_or(units.len() - 1);
    format!("{} {}", bytes >> (10 * step), units[step])
}

/// Queues, sockets and containers of one image server, and some more.
const FEW_FILES: u64 = 256;
/// A node's cores, each with a container and a server's threads.
const FEW_PROCESSES: u64 = 256;
/// The kernel's own default, below which large programs run out of mappings.
const FEW_MAPPINGS: u64 = 65_530;

fn limits(host: &Host) -> Vec<Check> {
    let number = |limit: Option<u64>| limit.map_or("no limit".to_owned(), |limit| limit.to_string());
    let (soft, hard) = survey::open_files();
    let files = good(LIMITS, "open files", format!("{} (ulimit -n), {} at most", number(soft), number(hard)));
    let files = match soft {
        Some(soft) if soft < FEW_FILES => files.but(
            State::Less,
            match hard {
                Some(hard) if hard < FEW_FILES => {
                    "the administrator can raise it: nofile in /etc/security/limits.conf"
                }
                _ => "ulimit -n 1024",
            },
        ),
        _ => files,
    };
    let most = survey::processes();
    let processes = good(LIMITS, "processes", format!("{} (ulimit -u)", number(most)));
    let processes = match most {
        Some(most) if most < FEW_PROCESSES => {
            processes.but(State::Less, "ulimit -u 4096, or nproc in /etc/security/limits.conf")
        }
        _ => processes,
    };
    let mut checks = vec![good(LIMITS, "page size", size(survey::page_bytes() as u64)), files, processes];
    let sysctl = |name: &str| host.sysctl(name).and_then(|text| text.parse::<u64>().ok());
    if let Some(mappings) = sysctl("vm.max_map_count") {
        let check = good(LIMITS, "mappings", format!("{mappings} a process (vm.max_map_count)"));
        checks.push(if mappings < FEW_MAPPINGS {
            check.but(State::Less, format!("sysctl vm.max_map_count={FEW_MAPPINGS}"))
        } else {
            check
        });
    }
    let parameter = "sys/module/fuse/parameters/max_user_bgreq";
    if let Ok(text) = std::fs::read_to_string(host.root.join(parameter)) {
        checks.push(good(
            LIMITS,
            "FUSE requests",
            format!("{} ahead for each user (max_user_bgreq)", text.trim()),
        ));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_fitting_unit() {
        assert_eq!([0, 1023, 4096, 1 << 30, 5 << 40].map(size), ["0 B", "1023 B", "4 KiB", "1 GiB", "5 TiB"]);
    }

    #[test]
    fn a_runtime_directory_must_be_the_users_alone() {
        let directory = Directory {
            owner: 1000,
            mode: 0o755,
            writable: true,
            file_system: "tmpfs".into(),
            noexec: true,
            nodev: false,
            free: 1 << 20,
        };
        let check = judge("XDG_RUNTIME_DIR", "/run/x ", &directory, 1000);
        assert_eq!(
            (check.state, check.found.as_str()),
            (State::Less, "/run/x tmpfs, 1 MiB free, noexec; it is not yours alone (owner 1000, mode 0755)")
        );
        let directory = Directory { mode: 0o700, ..directory };
        assert_eq!(judge("XDG_RUNTIME_DIR", "", &directory, 1000).state, State::Ok);
        let check = judge("/tmp", "", &directory, 1000);
        assert!(check.mend.is_some_and(|mend| mend.contains("free some space")));
        let cache = |directory: &Directory| judge_cache(Path::new("/home/ada/.cache/skiff"), directory);
        assert_eq!(cache(&directory).state, State::Ok);
        let shared = Directory { file_system: "lustre".into(), ..directory.clone() };
        assert_eq!(cache(&shared).state, State::Less);
        assert!(cache(&shared).mend.is_some_and(|mend| mend.contains("local disk")));
        let closed = Directory { writable: false, ..directory };
        assert!(cache(&closed).found.contains("nothing is kept"));
        assert!(judge("/tmp", "", &closed, 7).found.contains("cannot be written to"));
    }
}
