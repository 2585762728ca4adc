//! Process 1 of a container with processes of its own: it starts the program, reaps what nobody else does, hands on
//! signals, and ends with the program, which ends the container.
//!
//! ```text
//! to init    eight bytes, once: the signals that came before it was there, and that it may go on
//!            two bytes: a signal for the program, or 0: is it stopped? | how many stops of it were told
//! from init  two bytes: STOPPED signal | NOW signal or 0 | EXITED status | KILLED signal
//! ```
//!
//! A signal that comes to P is for the program; but what was sent to the whole process group has come to the program
//! already. Init can tell: it is in that group, and the kernel signals the newest process of a group first, so that
//! init has such a signal before P can tell of it.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::wait::WaitPidFlag;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::pipe::PipeFlags;

use super::supervise::First;
use crate::error::{Context, Kind, Result};
use crate::sys::process::{self, Change, Ended, Fork};
use crate::sys::signals::{self, Action, Caught, Set, Watch};

const STOPPED: u8 = b's';
const NOW: u8 = b'n';
const EXITED: u8 = b'e';
const KILLED: u8 = b'k';

/// What init tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
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
            Self::Stopped(signal) => [STOPPED, signal as u8],
            Self::Now(signal) => [NOW, signal as u8],
            Self::Ended(Ended::Exited(status)) => [EXITED, status as u8],
            Self::Ended(Ended::Killed(signal)) => [KILLED, signal as u8],
        }
    }

    fn of(bytes: [u8; 2]) -> Option<Self> {
        let [kind, value] = bytes.map(i32::from);
        match u8::try_from(kind).ok()? {
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

fn receive_bytes<const COUNT: usize>(from: &OwnedFd) -> Option<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    let mut got = 0;
    while got < bytes.len() {
        match rustix::io::read(from, &mut bytes[got..]) {
            Err(Errno::INTR) => {}
            Ok(0) | Err(_) => return None,
            Ok(count) => got += count,
        }
    }
    Some(bytes)
}

/// Lets the process 1 at the other end go on. One that is gone is heard of by SIGCHLD.
pub fn let_go(control: &OwnedFd, earlier: Set) {
    let _ = rustix::net::send(control, &earlier.bytes(), SendFlags::NOSIGNAL);
}

/// Waits for [`let_go`]; `None` when P is gone.
pub fn wait_to_go(control: &OwnedFd) -> Option<Set> {
    receive_bytes(control).map(Set::of)
}

/// Whether P is gone.
pub fn is_gone(control: &OwnedFd) -> bool {
    let mut gone = [PollFd::new(control, PollFlags::empty())];
    let polled = rustix::event::poll(&mut gone, Some(&Timespec::default()));
    polled.is_ok() && gone[0].revents().contains(PollFlags::HUP)
}

/// Tells the init at the other end to signal the program; `stops` reports of its being stopped have arrived. An init
/// that is gone has no program any more.
pub fn send_signal(control: &OwnedFd, signal: i32, stops: u8) {
    let _ = rustix::net::send(control, &[signal as u8, stops], SendFlags::NOSIGNAL);
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
    match rustix::event::poll(&mut waiting, None) {
        Ok(_) | Err(Errno::INTR | Errno::AGAIN) => {}
        Err(error) => return Err(error.into()),
    }
    let [said, caught] = waiting.map(|fd| !fd.revents().is_empty());
    Ok([said && control.is_some(), caught])
}

/// Goes on as the program. With an init, that is a new process, and the calling one becomes init and never returns.
pub fn start(first: First) -> Result<()> {
    if !first.with_init {
        return settle(&first);
    }
    let trying = || "cannot start the program in the container".to_owned();
    let (told, tell) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context(Kind::Host, trying)?;
    match process::fork().context(Kind::Host, trying)? {
        Fork::Child => {
            drop(tell);
            // An init that is gone has said why, or was killed; nothing in here goes on without it.
            let Some(earlier) = receive_bytes(&told) else { process::exit(255) };
            signals::let_wait(Set::of(earlier));
            first.inherited.restore();
            Ok(())
        }
        Fork::Parent(program) => {
            process::set_name(c"skiff-init");
            let watch = Watch::new().and_then(|watch| {
                process::close_all_but(&[first.control.as_fd(), watch.as_fd(), tell.as_fd()])?;
                Ok(watch)
            });
            let watch = watch.context(Kind::Host, trying)?;
            let init =
                Init { program, control: &first.control, watch, stopped: 0, stops: 0, came: Set::default() };
            match init.run(first.earlier, tell) {
                // There is nowhere to say why, and the container ends with init. It must not look like an end of the
                // program's.
                Err(_) => process::exit(128 + libc::SIGABRT),
                Ok(never) => match never {},
            }
        }
    }
}

/// Lets the signals that came early do what they do by default to every process but process 1, and those that come do
/// what they did for the caller.
fn settle(first: &First) -> Result<()> {
    let control = &first.control;
    let told =
        |report: Report| tell(control, report).context(Kind::Host, || "cannot reach the caller".into());
    let mut kept = Set::default();
    for signal in first.earlier.followed_by(signals::waiting()).iter() {
        match first.inherited.action(signal) {
            None => kept.insert(signal),
            Some(Action::Ignore) => {}
            Some(Action::Stop) => told(Report::Stopped(signal))?,
            Some(Action::End) => {
                told(Report::Ended(Ended::Killed(signal)))?;
                process::exit(255);
            }
        }
    }
    signals::let_wait(kept);
    first.inherited.restore();
    Ok(())
}

fn tell(control: &OwnedFd, report: Report) -> io::Result<()> {
    rustix::net::send(control, &report.bytes(), SendFlags::NOSIGNAL)?;
    Ok(())
}

struct Init<'a> {
    program: libc::pid_t,
    control: &'a OwnedFd,
    watch: Watch,
    /// The signal that the program is stopped by; 0 when it is not.
    stopped: i32,
    /// How often it was stopped, as far as a byte tells.
    stops: u8,
    /// What came to the whole process group: the program has it, and when P tells of it, it is old.
    came: Set,
}

impl Init<'_> {
    fn run(mut self, earlier: Set, tell: OwnedFd) -> io::Result<Infallible> {
        // What came before the program was there, and what came since, which it has too.
        let mut waited = Set::default();
        while let Some(caught) = self.watch.next()? {
            if caught.signal != libc::SIGCHLD {
                waited.insert(caught.signal);
                if !earlier.contains(caught.signal) {
                    self.note(&caught);
                }
            }
        }
        // A program that was killed needs none.
        let _ = rustix::io::write(&tell, &earlier.followed_by(waited).bytes());
        drop(tell);
        loop {
            // Whatever became of it until here.
            self.reap()?;
            let [said, _] = wait_for(Some(self.control), &self.watch)?;
            self.heed_signals()?;
            if said {
                self.obey()?;
            }
        }
    }

    fn tell(&self, report: Report) -> io::Result<()> {
        tell(self.control, report)
    }

    fn heed_signals(&mut self) -> io::Result<()> {
        while let Some(caught) = self.watch.next()? {
            let from_inside = !caught.by_kernel && caught.sender != 0;
            match caught.signal {
                libc::SIGCHLD => self.reap()?,
                // Somebody in the container means the container.
                signal if from_inside => signals::send(self.program, signal),
                _ => self.note(&caught),
            }
        }
        Ok(())
    }

    /// Notes what came from outside, and so to the whole process group.
    fn note(&mut self, caught: &Caught) {
        if !caught.from_terminal() {
            self.came.insert(caught.signal);
        }
        // It has put an end to a SIGCONT that waited.
        if signals::default_action(caught.signal) == Action::Stop && self.stopped == 0 {
            self.came.insert(libc::SIGCONT);
        }
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
            signal if self.came.take(signal) && self.is_in_the_group() => {}
            signal => signals::send(self.program, signal),
        }
        Ok(())
    }

    /// Whether the program is in the process group that P and init are in. Its number is of an outer namespace, and 0
    /// here for both.
    fn is_in_the_group(&self) -> bool {
        let program = nix::unistd::Pid::from_raw(self.program);
        nix::unistd::getpgid(Some(program)) == Ok(nix::unistd::getpgrp())
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
                    (self.stopped, self.stops) = (signal, self.stops.wrapping_add(1));
                    self.came.take(libc::SIGCONT);
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
        let all = all.chain([Report::Stopped(20), Report::Now(0), Report::Ended(Ended::Killed(64))]);
        for report in all {
            assert_eq!(Report::of(report.bytes()), Some(report));
        }
        assert_eq!(Report::of(*b"xx"), None);
    }
}
