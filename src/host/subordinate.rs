//! Subordinate ids: those that the administrator gave to the caller besides the caller's own, and whether they can
//! be mapped into a user namespace.
//!
//! ```text
//! /etc/subuid, /etc/subgid   NAME or UID : first : count        or asked of getsubids(1), where
//! /etc/nsswitch.conf         subid: sss                         names another source
//! newuidmap, newgidmap       write the maps, with the right to do so (set-user-id, or capabilities)
//! ```
//!
//! Read only when a container asks for them, and by `skiff doctor`.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::StatVfsMountFlags;
use serde::Serialize;

use super::Host;
use crate::sys::process;

/// So many ids an image may count on: those of all accounts and `nobody`, which is 65534.
const ENOUGH: u64 = 65_536;

/// A map's text must be shorter than a page of memory (user_namespaces(7)), and a range is at most 33 bytes of it.
const MOST_RANGES: usize = 120;

/// A range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct IdRange {
    /// The first.
    pub first: u32,
    /// How many, at least one. The last one is a valid id.
    pub count: u32,
}

impl IdRange {
    fn last(self) -> u32 {
        self.first + (self.count - 1)
    }
}

impl fmt::Display for IdRange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}", self.first, self.last())
    }
}

/// The caller's subordinate ids, which can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subordinate {
    /// User ids, in the administrator's order.
    pub uids: Vec<IdRange>,
    /// Group ids.
    pub gids: Vec<IdRange>,
    /// The program that maps user ids.
    pub newuidmap: PathBuf,
    /// The program that maps group ids.
    pub newgidmap: PathBuf,
}

/// Why there are none that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unusable {
    /// The caller has too few.
    Few {
        /// The caller's name.
        user: String,
        /// How many there are, and of what.
        count: u64,
        /// `user` or `group`.
        kind: &'static str,
        /// Where it is said.
        source: String,
    },
    /// A program is missing.
    NoProgram(&'static str),
    /// A program has no right to map ids.
    NoRight(PathBuf),
    /// No program gains rights here.
    NoNewPrivileges,
    /// The user namespace that skiff is in does not have them.
    NotOutside(IdRange),
    /// The programs map ids of nobody who is not in the user data base.
    NoAccount(u32),
    /// The programs map ids of nobody who has changed the group.
    OtherGroup {
        /// The current one.
        gid: u32,
        /// The account's.
        primary: u32,
    },
}

impl fmt::Display for Unusable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Few { user, count: 0, kind, source } => {
                write!(out, "{source} has no subordinate {kind} ids for {user}")
            }
            Self::Few { user, count, kind, source } => {
                write!(out, "{source} has only {count} subordinate {kind} ids for {user}, of {ENOUGH} needed")
            }
            Self::NoProgram(name) => write!(out, "there is no program {name} to map subordinate ids"),
            Self::NoRight(path) => write!(out, "{} has no right to map subordinate ids", path.display()),
            Self::NoNewPrivileges => {
                write!(out, "no program gains rights here (no_new_privs), newuidmap neither")
            }
            Self::NotOutside(range) => {
                write!(out, "the outer container does not have the subordinate ids {range}")
            }
            Self::NoAccount(uid) => write!(out, "newuidmap does not know uid {uid}, which has no account"),
            Self::OtherGroup { gid, primary } => {
                write!(out, "newgidmap wants the caller's primary group {primary}, and it is {gid}")
            }
        }
    }
}

impl Host {
    /// The caller's subordinate ids, or why there are none to use.
    ///
    /// # Errors
    /// What is lacking first.
    pub fn subordinate(&self) -> Result<&Subordinate, &Unusable> {
        self.subordinate.get_or_init(|| self.probe_subordinate()).as_ref()
    }

    fn probe_subordinate(&self) -> Result<Subordinate, Unusable> {
        let uids = self.subordinate_ranges("user", "subuid", self.uid)?;
        let gids = self.subordinate_ranges("group", "subgid", self.gid)?;
        let newuidmap = self.mapping_program("newuidmap")?;
        let newgidmap = self.mapping_program("newgidmap")?;
        if self.status("NoNewPrivs:").is_some_and(|value| value == "1") {
            return Err(Unusable::NoNewPrivileges);
        }
        self.check_outside("uid_map", &uids)?;
        self.check_outside("gid_map", &gids)?;
        self.check_account()?;
        Ok(Subordinate { uids, gids, newuidmap, newgidmap })
    }

    /// `own`: the caller's own id, which cannot be mapped twice.
    fn subordinate_ranges(&self, kind: &'static str, file: &str, own: u32) -> Result<Vec<IdRange>, Unusable> {
        let user = self.user().name.to_string_lossy().into_owned();
        let read = |path: &str| std::fs::read_to_string(self.root.join(path)).unwrap_or_default();
        let (ranges, source) = if has_other_source(&read("etc/nsswitch.conf")) {
            (self.ranges_of_getsubids(kind, &user), "getsubids".to_owned())
        } else {
            (ranges_of_table(&read(&format!("etc/{file}")), &user, self.uid), format!("/etc/{file}"))
        };
        let ranges = apart(ranges, own);
        let count = ranges.iter().map(|range| u64::from(range.count)).sum();
        if count < ENOUGH {
            return Err(Unusable::Few { user, count, kind, source });
        }
        Ok(ranges)
    }

    /// What the sources that nsswitch.conf names say, by the program that asks them.
    fn ranges_of_getsubids(&self, kind: &str, user: &str) -> Vec<(u64, u64)> {
        let Some(program) = self.program("getsubids") else { return Vec::new() };
        let ask = || {
            let mut command = Command::new(&program);
            if kind == "group" {
                command.arg("-g");
            }
            command.arg(user).stderr(std::process::Stdio::null());
            command.output().map(|output| output.stdout).unwrap_or_default()
        };
        // A program that skiff becomes must have no child that it did not make.
        let said = process::in_silent_child(ask, || ()).map(|((), said)| said).unwrap_or_default();
        ranges_of_answer(&String::from_utf8_lossy(&said))
    }

    fn mapping_program(&self, name: &'static str) -> Result<PathBuf, Unusable> {
        let program = self.program(name).ok_or(Unusable::NoProgram(name))?;
        if self.has_extra_rights(&program) { Ok(program) } else { Err(Unusable::NoRight(program)) }
    }

    /// A program of the caller's PATH, or of where the system has its own.
    fn program(&self, name: &str) -> Option<PathBuf> {
        let path = self.variable("PATH").unwrap_or(OsStr::new("")).to_owned();
        let directories = std::env::split_paths(&path).chain(["/usr/bin".into(), "/usr/sbin".into()]);
        directories.filter(|directory| directory.is_absolute()).map(|directory| directory.join(name)).find(
            |program| {
                std::fs::metadata(self.real(program))
                    .is_ok_and(|status| status.is_file() && status.mode() & 0o111 != 0)
            },
        )
    }

    /// Whether a program runs with more rights than the caller's: by its set-user-id bit or by capabilities, where the
    /// mount that it is on lets them count.
    fn has_extra_rights(&self, program: &Path) -> bool {
        let real = self.real(program);
        let by_owner = std::fs::metadata(&real).is_ok_and(|status| status.mode() & 0o4000 != 0);
        let has = by_owner || rustix::fs::getxattr(&real, "security.capability", &mut [0_u8; 64]).is_ok();
        let ignored =
            || rustix::fs::statvfs(&real).is_ok_and(|on| on.f_flag.contains(StatVfsMountFlags::NOSUID));
        has && !ignored()
    }

    fn status(&self, field: &str) -> Option<String> {
        let status = std::fs::read_to_string(self.root.join("proc/self/status")).ok()?;
        let value = status.lines().find_map(|line| line.strip_prefix(field))?;
        Some(value.trim().to_owned())
    }

    fn check_outside(&self, file: &str, ranges: &[IdRange]) -> Result<(), Unusable> {
        let Ok(map) = std::fs::read_to_string(self.root.join("proc/self").join(file)) else { return Ok(()) };
        let lacking = ranges.iter().find(|range| !maps(&map, **range));
        lacking.map_or(Ok(()), |range| Err(Unusable::NotOutside(*range)))
    }

    /// Both programs compare the process with the account.
    fn check_account(&self) -> Result<(), Unusable> {
        let primary = self.user().gid.ok_or(Unusable::NoAccount(self.uid))?;
        if primary == self.gid { Ok(()) } else { Err(Unusable::OtherGroup { gid: self.gid, primary }) }
    }
}

/// Whether nsswitch.conf(5) names a source of subordinate ids that is not the files.
fn has_other_source(switch: &str) -> bool {
    let line = switch.lines().find_map(|line| line.trim().strip_prefix("subid:"));
    line.and_then(|sources| sources.split_whitespace().next()).is_some_and(|source| source != "files")
}

/// Lines are `name or number:first:count`.
fn ranges_of_table(table: &str, name: &str, uid: u32) -> Vec<(u64, u64)> {
    let range = |line: &str| {
        let fields: Vec<&str> = line.trim().split(':').collect();
        let [who, first, count] = fields[..] else { return None };
        let own = who == name || who.parse() == Ok(uid);
        own.then_some((first.parse().ok()?, count.parse().ok()?))
    };
    table.lines().filter_map(range).collect()
}

/// Lines are `index: name first count`.
fn ranges_of_answer(answer: &str) -> Vec<(u64, u64)> {
    let range = |line: &str| {
        let mut words = line.split_whitespace().skip(2);
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    };
    answer.lines().filter_map(range).collect()
}

/// Those that are ids of 32 bits and that the kernel maps together: none is mapped twice.
fn apart(ranges: Vec<(u64, u64)>, own: u32) -> Vec<IdRange> {
    let mut kept: Vec<IdRange> = Vec::new();
    for (first, count) in ranges {
        // The highest number is no id: it means none.
        let end = first.saturating_add(count);
        let (Ok(first), Ok(count)) = (u32::try_from(first), u32::try_from(count)) else { continue };
        if count == 0 || end > u64::from(u32::MAX) {
            continue;
        }
        let range = IdRange { first, count };
        let meets = |other: IdRange| range.first <= other.last() && other.first <= range.last();
        if !kept.iter().any(|other| meets(*other)) && !meets(IdRange { first: own, count: 1 }) {
            kept.push(range);
        }
    }
    kept.truncate(MOST_RANGES);
    kept
}

/// Whether a line of a map (inside, outside, count) has all of a range.
fn maps(map: &str, range: IdRange) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let [inside, _, count] = numbers[..] else { return false };
        inside <= u64::from(range.first) && u64::from(range.last()) < inside.saturating_add(count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(ranges: &[(u32, u32)]) -> Vec<IdRange> {
        ranges.iter().map(|(first, count)| IdRange { first: *first, count: *count }).collect()
    }

    /// A host that lacks nothing, as files; a test takes away or changes one.
    const ABLE: &[(&str, &str)] = &[
        ("etc/subuid", "eve:1:1\nada:100000:65536\n1000:300000:10\n"),
        ("etc/subgid", "ada:200000:65536\n"),
        ("usr/bin/newuidmap", ""),
        ("usr/bin/newgidmap", ""),
        ("proc/self/status", "NoNewPrivs:\t0\n"),
        ("proc/self/uid_map", "0 0 4294967295\n"),
        ("proc/self/gid_map", "0 0 4294967295\n"),
    ];

    fn probed(changes: &[(&str, &str)], change: impl FnOnce(&mut Host)) -> Result<Subordinate, Unusable> {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        for (path, text) in ABLE.iter().chain(changes) {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            let mode =
                if path.ends_with("newuidmap") || path.ends_with("newgidmap") { 0o4755 } else { 0o644 };
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let mut host = Host::made_up(root.path());
        change(&mut host);
        host.subordinate().cloned().map_err(Clone::clone)
    }

    fn why(changes: &[(&str, &str)]) -> String {
        probed(changes, |_| ()).unwrap_err().to_string()
    }

    #[test]
    fn a_host_that_lacks_nothing_gives_all_ranges() {
        let found = probed(&[], |_| ()).unwrap();
        assert_eq!(found.uids, ranges(&[(100_000, 65_536), (300_000, 10)]));
        assert_eq!(found.gids, ranges(&[(200_000, 65_536)]));
        assert_eq!(found.newuidmap, Path::new("/usr/bin/newuidmap"));
        assert_eq!(found.uids[0].to_string(), "100000-165535");
    }

    #[test]
    fn what_is_lacking_is_named() {
        assert_eq!(
            why(&[("etc/subuid", "eve:100000:65536\n")]),
            "/etc/subuid has no subordinate user ids for ada"
        );
        assert_eq!(
            why(&[("etc/subgid", "ada:100000:65535\n")]),
            "/etc/subgid has only 65535 subordinate group ids for ada, of 65536 needed"
        );
        assert!(why(&[("proc/self/status", "NoNewPrivs:\t1\n")]).contains("no_new_privs"));
        assert_eq!(
            why(&[("proc/self/gid_map", "0 1000 1\n1 100000 65536\n")]),
            "the outer container does not have the subordinate ids 200000-265535"
        );
        // A source that this made-up host has no program to ask.
        let switch = [("etc/nsswitch.conf", "passwd: files\nsubid: nothing\n")];
        let asked = probed(&switch, |host| host.environment = vec![("PATH".into(), "/".into())]);
        assert!(asked.unwrap_err().to_string().starts_with("getsubids has no subordinate user ids"));
    }

    #[test]
    fn programs_must_be_there_and_have_the_right() {
        use std::os::unix::fs::PermissionsExt;
        let with = |change: &dyn Fn(&Path)| {
            probed(&[], |host| change(&host.root.join("usr/bin/newgidmap"))).unwrap_err()
        };
        let gone = with(&|path| std::fs::remove_file(path).unwrap());
        assert_eq!(gone, Unusable::NoProgram("newgidmap"));
        let plain = |path: &Path| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        assert_eq!(with(&plain), Unusable::NoRight("/usr/bin/newgidmap".into()));
    }

    #[test]
    fn the_account_must_be_there_and_its_group_be_the_callers() {
        let other = probed(&[], |host| host.gid = 50);
        assert_eq!(other, Err(Unusable::OtherGroup { gid: 50, primary: 1000 }));
        let none = probed(&[], |host| {
            let user = super::super::User { gid: None, ..host.user().clone() };
            host.user = std::cell::OnceCell::from(user);
        });
        assert_eq!(none, Err(Unusable::NoAccount(1000)));
    }

    #[test]
    fn ranges_that_meet_or_are_no_ids_are_left_out() {
        let given =
            vec![(10, 5), (14, 3), (0, 0), (4_294_967_290, 5), (4_294_967_280, 16), (u64::MAX, 2), (1, 4)];
        assert_eq!(apart(given, 3), ranges(&[(10, 5), (4_294_967_290, 5)]));
        assert_eq!(apart((0..500).map(|n| (n * 2, 1)).collect(), 1).len(), MOST_RANGES);
    }

    #[test]
    fn tables_and_answers_are_read() {
        let table = "# comment\nada:100000:65536\n1000:300000:10\neve:1:1\nada:x:1\nada:1\n";
        assert_eq!(ranges_of_table(table, "ada", 1000), [(100_000, 65_536), (300_000, 10)]);
        assert_eq!(ranges_of_table(table, "bob", 7), []);
        assert_eq!(ranges_of_answer("0: ada 100000 65536\n1: ada 7 9\nx\n"), [(100_000, 65_536), (7, 9)]);
        assert!(has_other_source("a\n subid: sss # x\n"));
        assert!(!has_other_source("subid: files sss\n") && !has_other_source("passwd: sss\n"));
    }
}
