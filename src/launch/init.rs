//! Process 1 of a container with processes of its own: it starts the program, reaps what nobody else does, hands on
//! signals, and ends with the program, which ends the container.
//!
//! ```text
//! to init    two bytes: a signal for the program, or 0: is it stopped? | how many stops of it were told
//! from init  two bytes: STARTED 0 | STOPPED signal | NOW signal or 0 | EXITED status | KILLED signal
//! ```

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::wait::WaitPidFlag;
use rustix::event::{PollFd, PollFlags};

use super::supervise::First;
use crate::error::{Context, Kind, Result};
use crate::sys::process::{self, Change, Ended, Fork};
use crate::sys::signals::{self, Action, Watch};

const STARTED: u8 = b'r';
const STOPPED: u8 = b's';
const NOW: u8 = b'n';
const EXITED: u8 = b'e';
const KILLED: u8 = b'k';

/// What init tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// The program runs.
    Started,
    /// It was stopped by this signal.
    Stopped(i32),
    /// The answer to [`ask`]: it is stopped by this signal, or by 0: it is not.
    Now(i32),
    /// It ended.
    Ended(Ended),
}

impl Report {
    fn bytes(self) -> [u8; 2] {
        match self {
            Self::Started => [STARTED, 0],
            Self::Stopped(signal) => [STOPPED, signal as u8],
            Self::Now(signal) => [NOW, signal as u8],
            Self::Ended(Ended::Exited(status)) => [EXITED, status as u8],
            Self::Ended(Ended::Killed(signal)) => [KILLED, signal as u8],
        }
    }

    fn of(bytes: [u8; 2]) -> Option<Self> {
        let [kind, value] = bytes.map(i32::from);
        match u8::try_from(kind).ok()? {
            STARTED => Some(Self::Started),
            STOPPED => Some(Self::Stopped(value)),
            NOW => Some(Self::Now(value)),
            EXITED => Some(Self::Ended(Ended::Exited(value))),
            KILLED => Some(Self::Ended(Ended::Killed(value))),
            _ => None,
        }
    }
}

/// The next report of the init at the other end; `None` when it is gone.
pub fn receive(control: &OwnedFd) -> Option<Report> {
    Report::of(receive_bytes(control)?)
}

fn receive_bytes(control: &OwnedFd) -> Option<[u8; 2]> {
    let mut bytes = [0; 2];
    let mut got = 0;
    while got < bytes.len() {
        match rustix::io::read(control, &mut bytes[got..]) {
            Ok(0) | Err(_) => return None,
            Ok(count) => got += count,
        }
    }
    Some(bytes)
}

/// Tells the init at the other end to signal the program; `stops` reports of its being stopped have arrived. An init
/// that is gone has no program any more.
pub fn send_signal(control: &OwnedFd, signal: i32, stops: u8) {
    let _ = rustix::net::send(control, &[signal as u8, stops], rustix::net::SendFlags::NOSIGNAL);
}

/// Asks the init at the other end whether the program is stopped.
pub fn ask(control: &OwnedFd) {
    send_signal(control, 0, 0);
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
    let mut init = Init { program, control, watch, stopped: 0, stops: 0, group_goes_on: false };
    init.tell(Report::Started)?;
    loop {
        let [said, _] = wait_for(Some(control), &init.watch)?;
        init.heed_signals()?;
        if said {
            init.obey()?;
        }
    }
}

struct Init<'a> {
    program: libc::pid_t,
    control: &'a OwnedFd,
    watch: Watch,
    /// The signal that the program is stopped by; 0 when it is not.
    stopped: i32,
    /// How often it was stopped, as far as a byte tells.
    stops: u8,
    /// The whole process group was continued, or is being stopped again: the program knows by itself.
    group_goes_on: bool,
}

impl Init<'_> {
    fn tell(&self, report: Report) -> io::Result<()> {
        rustix::net::send(self.control, &report.bytes(), rustix::net::SendFlags::NOSIGNAL)?;
        Ok(())
    }

    fn heed_signals(&mut self) -> io::Result<()> {
        while let Some(caught) = self.watch.next()? {
            let from_inside = !caught.by_kernel && caught.sender != 0;
            match caught.signal {
                libc::SIGCHLD => self.reap()?,
                // Somebody in the container means the container. Signals from outside went to the program already.
                signal if from_inside => signals::send(self.program, signal),
                libc::SIGCONT => self.group_goes_on = true,
                // It has put an end to a SIGCONT that waited.
                signal if signals::default_action(signal) == Action::Stop && self.stopped == 0 => {
                    self.group_goes_on = true;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Does what P says.
    fn obey(&mut self) -> io::Result<()> {
        // Without an answer, whoever was to be told is gone.
        let Some([signal, told]) = receive_bytes(self.control) else { process::exit(255) };
        self.heed_signals()?;
        self.reap()?;
        match i32::from(signal) {
            0 => self.tell(Report::Now(self.stopped))?,
            // It would undo a stop that has come since: a shell continues the whole group, and by the time that P
            // hears of it, Ctrl-Z may have been pressed again.
            libc::SIGCONT if self.stopped != 0 && self.stops != told => {}
            libc::SIGCONT if std::mem::take(&mut self.group_goes_on) => {}
            signal => signals::send(self.program, signal),
        }
        Ok(())
    }

    /// Sees what has become of all children: reaps those that ended, and tells of the program.
    fn reap(&mut self) -> io::Result<()> {
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED | WaitPidFlag::WCONTINUED;
        while let Some((pid, change)) = process::look_at_any(flags)? {
            match change {
                _ if pid != self.program => {}
                Change::Ended(ended) => {
                    self.tell(Report::Ended(ended))?;
                    process::exit(0);
                }
                Change::Stopped(signal) => {
                    (self.stopped, self.stops, self.group_goes_on) =
                        (signal, self.stops.wrapping_add(1), false);
                    self.tell(Report::Stopped(signal))?;
                }
                Change::Continued => self.stopped = 0,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_arrive_as_they_were_sent() {
        let all = (0..=255).map(|status| Report::Ended(Ended::Exited(status)));
        let all = all.chain([
            Report::Started,
            Report::Stopped(20),
            Report::Now(0),
            Report::Ended(Ended::Killed(64)),
        ]);
        for report in all {
            assert_eq!(Report::of(report.bytes()), Some(report));
        }
        assert_eq!(Report::of(*b"xx"), None);
    }
}
