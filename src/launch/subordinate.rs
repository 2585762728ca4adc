//! A user namespace with subordinate ids.
//!
//! ```text
//! this process                      a child of a silent child, outside the new namespace
//!   unshare(NEWUSER)                  waits
//!   close the pipe ─────────────────▶ newuidmap PID 0 UID 1  1 FIRST COUNT ...
//!   waits                             newgidmap PID 0 GID 1  1 FIRST COUNT ...
//!   ◀──────────────────────────────── what went wrong, or nothing
//! ```
//!
//! The two programs have a right that this process lacks: to write a map of ids that are not its own. They check
//! that the ids are the caller's, and leave setgroups(2) allowed.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::process::{Child, Command, Output, Stdio};

use nix::sched::{CloneFlags, unshare};
use rustix::pipe::PipeFlags;

use super::namespaces::explain_no_user_namespace;
use crate::error::{Context, Error, Kind, Result};
use crate::plan::{HostPath, IdRange};
use crate::sys::process;

/// What is to be mapped, from 0 on: the caller's own id, then the ranges; and the program that may do it.
pub struct Map<'a> {
    program: &'a HostPath,
    own: u32,
    ranges: &'a [IdRange],
}

impl<'a> Map<'a> {
    /// One of the two.
    pub fn new(program: &'a HostPath, own: u32, ranges: &'a [IdRange]) -> Self {
        Self { program, own, ranges }
    }

    /// The program's words after the process: inside, outside, count.
    fn words(&self) -> Vec<String> {
        let mut words = vec!["0".to_owned(), self.own.to_string(), "1".to_owned()];
        let mut inside = 1_u64;
        for IdRange { first, count } in self.ranges {
            words.extend([inside.to_string(), first.to_string(), count.to_string()]);
            inside += u64::from(*count);
        }
        words
    }
}

/// Makes it. This process must have one thread.
pub fn new_user_namespace(maps: &[Map<'_>]) -> Result<()> {
    let trying = || "cannot map the caller's subordinate ids".to_owned();
    let (wait, go) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context(Kind::Host, trying)?;
    let own = rustix::process::getpid().as_raw_nonzero().to_string();
    let work = || {
        // Nothing arrives; the end of the pipe is the sign.
        let _ = rustix::io::read(&wait, &mut [0_u8; 1]);
        run(&own, maps).into_bytes()
    };
    let meanwhile = move || {
        let unshared = unshare(CloneFlags::CLONE_NEWUSER);
        drop(go);
        unshared
    };
    let (unshared, wrong) = process::in_silent_child(work, meanwhile).context(Kind::Host, trying)?;
    unshared.map_err(explain_no_user_namespace)?;
    if wrong.is_empty() {
        return Ok(());
    }
    let wrong = String::from_utf8_lossy(&wrong);
    Err(Error::host(format!("{}: {}", trying(), wrong.trim_end())).hint(
        "'skiff doctor' tells what they need; with --ignore-subuid the container has the caller's id alone",
    ))
}

/// Runs the programs at once, and says what went wrong.
fn run(process: &str, maps: &[Map<'_>]) -> String {
    let started: Vec<io::Result<Child>> = maps.iter().map(|map| start(process, map)).collect();
    let mut wrong = String::new();
    for (map, started) in maps.iter().zip(started) {
        let program = map.program.0.display();
        let _ = match started.and_then(Child::wait_with_output) {
            Ok(Output { status, .. }) if status.success() => Ok(()),
            Ok(Output { status, stderr, .. }) if stderr.trim_ascii().is_empty() => {
                writeln!(wrong, "{program}: {status}")
            }
            Ok(Output { stderr, .. }) => {
                writeln!(wrong, "{program} said: {}", String::from_utf8_lossy(stderr.trim_ascii()))
            }
            Err(error) => writeln!(wrong, "{program}: {error}"),
        };
    }
    wrong
}

fn start(process: &str, map: &Map<'_>) -> io::Result<Child> {
    Command::new(map.program.0.as_os_str())
        .args([OsStr::new(process)])
        .args(map.words())
        .env_clear()
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_each_other_inside() {
        let program = HostPath("/usr/bin/newuidmap".into());
        let ranges = [IdRange { first: 100_000, count: 65_536 }, IdRange { first: 500_000, count: 10 }];
        let words = Map::new(&program, 1000, &ranges).words().join(" ");
        assert_eq!(words, "0 1000 1 1 100000 65536 65537 500000 10");
    }
}
