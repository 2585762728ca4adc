//! Process 1 of a container with processes of its own: it starts the program, reaps what nobody else does, hands on
//! signals, and ends with the program, which ends the container.
//!
//! ```text
//! to init    one byte: a signal for the program
//! from init  two bytes: STARTED 0 | STOPPED signal | EXITED status | KILLED signal
//! ```

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::wait::WaitPidFlag;
use rustix::event::{PollFd, PollFlags};

use super::supervise::First;
use crate::error::{Context, Kind, Result};
use crate::sys::process::{self, Change, Ended, Fork};
use crate::sys::signals::{self, Watch};

const STARTED: u8 = b'r';
const STOPPED: u8 = b's';
const EXITED: u8 = b'e';
const KILLED: u8 = b'k';

/// What init tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// The program runs.
    Started,
    /// It was stopped by this signal.
    Stopped(i32),
    /// It ended.
    Ended(Ended),
}

impl Report {
    fn bytes(self) -> [u8; 2] {
        match self {
            Self::Started => [STARTED, 0],
            Self::Stopped(signal) => [STOPPED, signal as u8],
            Self::Ended(Ended::Exited(status)) => [EXITED, status as u8],
            Self::Ended(Ended::Killed(signal)) => [KILLED, signal as u8],
        }
    }

    fn of(bytes: [u8; 2]) -> Option<Self> {
        let [kind, value] = bytes.map(i32::from);
        match u8::try_from(kind).ok()? {
            STARTED => Some(Self::Started),
            STOPPED => Some(Self::Stopped(value)),
            EXITED => Some(Self::Ended(Ended::Exited(value))),
            KILLED => Some(Self::Ended(Ended::Killed(value))),
            _ => None,
        }
    }
}

/// The next report of the init at the other end; `None` when it is gone.
pub fn receive(control: &OwnedFd) -> Option<Report> {
    let mut bytes = [0; 2];
    let mut got = 0;
    while got < bytes.len() {
        match rustix::io::read(control, &mut bytes[got..]) {
            Ok(0) | Err(_) => return None,
            Ok(count) => got += count,
        }
    }
    Report::of(bytes)
}

/// Tells the init at the other end to signal the program. One that is gone has no program any more.
pub fn send_signal(control: &OwnedFd, signal: i32) {
    let _ = rustix::net::send(control, &[signal as u8], rustix::net::SendFlags::NOSIGNAL);
}

/// Waits until `control` (if there is any) or `watch` has something.
pub fn wait_for(control: Option<&OwnedFd>, watch: &Watch) -> io::Result<[bool; 2]> {
    let watched = watch.as_fd();
    let first = control.map_or(watched, AsFd::as_fd);
    let mut waiting = [first, watched].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    rustix::event::poll(&mut waiting, None)?;
    let [said, caught] = waiting.map(|fd| !fd.revents().is_empty());
    Ok([said && control.is_some(), caught])
}

/// Starts the program and goes on in it. The calling process becomes init and never returns.
pub fn start(first: First) -> Result<()> {
    let trying = || "cannot start the program in the container".to_owned();
    match process::fork().context(Kind::Host, trying)? {
        Fork::Child => {
            first.inherited.restore();
            Ok(())
        }
        Fork::Parent(program) => {
            process::set_name(c"skiff-init");
            let Some(control) = first.control else { process::exit(255) };
            match run(program, &control) {
                // Nothing can be told any more, and the container ends with init.
                Err(_) => process::exit(255),
                Ok(never) => match never {},
            }
        }
    }
}

fn run(program: libc::pid_t, control: &OwnedFd) -> io::Result<Infallible> {
    let watch = Watch::new()?;
    process::close_all_but(&[control.as_fd(), watch.as_fd()])?;
    let tell = |report: Report| rustix::net::send(control, &report.bytes(), rustix::net::SendFlags::NOSIGNAL);
    tell(Report::Started)?;
    loop {
        let [said, caught] = wait_for(Some(control), &watch)?;
        if said {
            let mut signal = [0];
            match rustix::io::read(control, &mut signal)? {
                // Whoever was to be told is gone.
                0 => process::exit(255),
                _ => signals::send(program, i32::from(signal[0])),
            }
        }
        while let Some(caught) = if caught { watch.next()? } else { None } {
            if caught.signal != libc::SIGCHLD {
                // Somebody in the container means the container. Signals from outside went to the program already.
                if !caught.by_kernel && caught.sender != 0 {
                    signals::send(program, caught.signal);
                }
                continue;
            }
            let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED;
            while let Some((pid, change)) = process::look_at_any(flags)? {
                match change {
                    Change::Ended(ended) if pid == program => {
                        tell(Report::Ended(ended))?;
                        process::exit(0);
                    }
                    Change::Stopped(signal) if pid == program => {
                        tell(Report::Stopped(signal))?;
                    }
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_arrive_as_they_were_sent() {
        let all = (0..=255).map(|status| Report::Ended(Ended::Exited(status)));
        let all = all.chain([Report::Started, Report::Stopped(20), Report::Ended(Ended::Killed(64))]);
        for report in all {
            assert_eq!(Report::of(report.bytes()), Some(report));
        }
        assert_eq!(Report::of(*b"xx"), None);
    }
}
