//! A process that ends with all of its descendants: what a build step starts must not outlive it.

use std::io;

use crate::sys::process::{self, Ended};
use crate::sys::signals;

/// From here on descendants whose parents end become children of this process.
///
/// # Errors
/// None on kernels since 3.4.
pub fn adopt_orphans() -> io::Result<()> {
    // SAFETY: PR_SET_CHILD_SUBREAPER takes integers only.
    match unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Kills every child until none is left; each one's children become ours, and are next.
pub fn kill_children() {
    loop {
        for child in children() {
            signals::send(child, libc::SIGKILL);
        }
        if process::wait_for_any().is_err() {
            return;
        }
    }
}

/// The children of this process, which has one thread.
fn children() -> Vec<libc::pid_t> {
    let own = std::process::id();
    let listed = std::fs::read_to_string(format!("/proc/self/task/{own}/children"));
    match listed {
        Ok(listed) => listed.split_whitespace().filter_map(|pid| pid.parse().ok()).collect(),
        // A kernel without CONFIG_PROC_CHILDREN: all processes are asked for their parent.
        Err(_) => std::fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| parent_of(*pid) == Some(own))
            .collect(),
    }
}

/// The parent of a process; none when it is gone.
pub fn parent_of(pid: libc::pid_t) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// How this process is to end to say how another did.
pub fn end_as(ended: Ended) -> ! {
    match ended {
        Ended::Exited(status) => process::exit(status),
        Ended::Killed(signal) => signals::die_of(signal),
    }
}
