//! Who could still come: whether a server is alone in its control group.
//!
//! Lingering serves the next container that some process of the group starts. A batch system that keeps a step's
//! processes in a group kills what is left in it as soon as the step's own have ended; a server that is alone there
//! leaves at once, mostly before that, and takes its socket along.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::sys::reaper::parent_of;

/// Whether no process but this one and its children is in the smallest group that holds it. Where there are no groups,
/// or one holds everything, somebody may always come.
pub fn are_none() -> bool {
    let table = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = std::process::id();
    directories(&table).iter().any(|directory| {
        let processes = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        let pids: HashSet<libc::pid_t> = processes.lines().filter_map(|line| line.parse().ok()).collect();
        let is_ours = |pid: libc::pid_t| pid.cast_unsigned() == own || parent_of(pid) == Some(own);
        pids.contains(&own.cast_signed()) && pids.into_iter().all(is_ours)
    })
}

/// Where the groups of `/proc/self/cgroup` may be mounted. Lines are `id:controllers:path`.
fn directories(table: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in table.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        if path == "/" || path.contains("/..") {
            continue;
        }
        let hierarchies = if controllers.is_empty() { ["", "unified"] } else { [controllers, controllers] };
        found.extend(hierarchies.map(|hierarchy| PathBuf::from(format!("/sys/fs/cgroup/{hierarchy}{path}"))));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_looked_for_in_both_hierarchies() {
        let table = "6:freezer:/slurm_n1/step_0\n4:memory:/\n1:name=systemd:/x/../y\n0::/user.slice/a:b\n";
        let places: Vec<String> =
            directories(table).into_iter().map(|path| path.display().to_string()).collect();
        let freezer = "/sys/fs/cgroup/freezer/slurm_n1/step_0";
        let unified = ["/sys/fs/cgroup//user.slice/a:b", "/sys/fs/cgroup/unified/user.slice/a:b"];
        assert_eq!(places, [freezer, freezer, unified[0], unified[1]]);
    }

    #[test]
    fn a_process_with_a_parent_in_its_group_is_not_alone() {
        // The test runner started it, and stays.
        assert!(!are_none());
        assert_eq!(parent_of(std::process::id().cast_signed()), Some(std::os::unix::process::parent_id()));
    }
}
