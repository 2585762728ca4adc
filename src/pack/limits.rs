//! How much of this machine packing may use: the affinity mask's and control group's share, not the whole.

use std::fs;
use std::path::Path;
use std::thread;

/// Threads to compress with: the cores of the affinity mask, or fewer where the control group's quota
/// allows no more.
pub fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Memory for buffers: 16 MiB and 8 MiB a thread, but no more than an eighth of what the control group has
/// left for us.
pub fn memory_bytes(threads: usize) -> u64 {
    let wanted = (16 + 8 * threads as u64) << 20;
    cgroup_memory_left(Path::new("/proc/self/cgroup"), Path::new("/sys/fs/cgroup"))
        .map_or(wanted, |left| wanted.min(left / 8))
}

/// The least room left in the process's control group and those above it, of version 2 or 1; `None` if
/// there is no limit.
fn cgroup_memory_left(membership: &Path, root: &Path) -> Option<u64> {
    let membership = fs::read_to_string(membership).ok()?;
    let mut least = None;
    for line in membership.lines() {
        // "0::/path" (version 2) or "4:memory:/path".
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next(), fields.next()?, fields.next()?);
        let (root, limit, usage) = match controllers {
            "" => (root.to_owned(), "memory.max", "memory.current"),
            "memory" => (root.join("memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
            _ => continue,
        };
        let group = root.join(path.trim_start_matches('/'));
        for group in group.ancestors().take_while(|group| group.starts_with(&root)) {
            let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
            // "max" is no number; version 1 says "no limit" with a number near 2^63.
            if let Some(limit) = number(limit).filter(|&limit| limit < 1 << 60) {
                // The page cache is counted as used but is given back when needed: half the limit is ours.
                let left = limit.saturating_sub(number(usage).unwrap_or(0)).max(limit / 2);
                least = Some(least.map_or(left, |least: u64| least.min(left)));
            }
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(files: &[(&str, &str)], membership: &str) -> Option<u64> {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        fs::write(dir.path().join("membership"), membership).unwrap();
        cgroup_memory_left(&dir.path().join("membership"), dir.path())
    }

    #[test]
    fn the_tightest_group_above_counts() {
        let files = [
            ("job/memory.max", "1000\n"),
            ("job/memory.current", "100\n"),
            ("job/step/memory.max", "max\n"),
            ("job/step/memory.current", "50\n"),
        ];
        assert_eq!(group(&files, "0::/job/step\n"), Some(900));
        assert_eq!(group(&files, "0::/elsewhere\n"), None);
        assert_eq!(group(&[], ""), None);
    }

    #[test]
    fn version_1_knows_a_number_for_no_limit() {
        let files = [
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/job/memory.limit_in_bytes", "2000\n"),
            ("memory/job/memory.usage_in_bytes", "1900\n"),
        ];
        assert_eq!(group(&files, "5:cpuset:/x\n4:memory:/job\n0::/\n"), Some(1000));
        assert_eq!(group(&files[..1], "4:memory:/job\n"), None);
    }
}
