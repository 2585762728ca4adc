//! The process that the caller started, when the container has processes of its own: what its parent sees of it is
//! what the program does.
//!
//! ```text
//! P (started by the shell) ─ fork ─▶ process 1: the program itself, or an init ─ fork ─▶ the program
//!   a signal that somebody sent      ─────────────────────────────────────────────────▶ the program
//!   a signal of the terminal         reaches the program by itself: it is in P's process group
//!   P stops, by the same signal  ◀── the program stopped
//!   P ends the same way          ◀── the program ended: status, or signal
//!   P is killed                  ──▶ process 1 ends, and with it all of the container
//! ```
//!
//! Everything is in P's process group, so that pipelines and job control of the shell see one job. P holds no
//! descriptor of the caller: a pipe ends when the program ends.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::WaitPidFlag;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::PidfdFlags;

use super::init::{self, Report};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::process::{self, Ended, Fork};
use crate::sys::signals::{self, Action, Caught, Watch};

/// What process 1 has of the process that started it.
pub struct First {
    /// What signals did when the caller started us.
    pub inherited: signals::Inherited,
    /// The connection to P; none without init.
    pub control: Option<OwnedFd>,
}

/// Makes a pid namespace and goes on in its process 1; the calling process waits for its end and never returns.
pub fn enter(with_init: bool) -> Result<First> {
    let trying = || "cannot start the container's processes".to_owned();
    unshare(CloneFlags::CLONE_NEWPID).map_err(|error| {
        let failed = Error::host("cannot make a process namespace").because(error);
        match error {
            nix::Error::ENOSPC => {
                failed.hint("the administrator can raise the sysctl user.max_pid_namespaces")
            }
            _ => failed,
        }
    })?;
    let control = if with_init {
        let pair =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        Some(pair.context(Kind::Host, trying)?)
    } else {
        None
    };
    let caller = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty());
    // From here on nothing is lost: what arrives waits for whoever reads it.
    let inherited = signals::hold_all();
    match process::fork().context(Kind::Host, trying)? {
        Fork::Child => {
            if !with_init {
                // An init learns from its connection that P is gone; a program has nothing to learn it from.
                process::end_with_parent().context(Kind::Host, trying)?;
                if caller.is_ok_and(|caller| has_ended(&caller)) {
                    process::exit(255);
                }
            }
            Ok(First { inherited, control: control.map(|(_, theirs)| theirs) })
        }
        Fork::Parent(child) => {
            let ours = control.map(|(ours, _theirs)| ours);
            match Parent::new(child, ours).and_then(|mut parent| parent.wait()) {
                // What cannot be watched must not go on.
                Err(_) => {
                    signals::send(child, libc::SIGKILL);
                    process::exit(255)
                }
                Ok(never) => match never {},
            }
        }
    }
}

/// Whether a process has ended already. (Kernels before 5.3 cannot tell.)
fn has_ended(process: &OwnedFd) -> bool {
    let mut ended = [PollFd::new(process, PollFlags::IN)];
    rustix::event::poll(&mut ended, Some(&Timespec::default())).is_ok_and(|count| count > 0)
}

struct Parent {
    child: libc::pid_t,
    control: Option<OwnedFd>,
    watch: Watch,
    /// The directory of the child in /proc.
    facts: Option<OwnedFd>,
    /// The caller's terminal, when its foreground was ours.
    terminal: Option<OwnedFd>,
    /// The program runs: signals of the terminal reach it.
    started: bool,
    /// Questions to init that are not answered yet.
    asked: u32,
    /// How often the program was stopped, as far as a byte tells.
    stops: u8,
    /// How the program ended.
    ended: Option<Ended>,
    /// A signal that was carried out in place of the kernel, which spares process 1.
    carried_out: Option<i32>,
}

impl Parent {
    fn new(child: libc::pid_t, control: Option<OwnedFd>) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let facts = rustix::fs::open(format!("/proc/{child}"), flags, Mode::empty()).ok();
        let terminal = File::open("/dev/tty").ok().map(OwnedFd::from);
        // A group that has no number here (a caller in an outer process namespace) is 0, and not ours to set.
        let own = nix::unistd::getpgrp();
        let ours = |tty: &OwnedFd| own.as_raw() > 0 && nix::unistd::tcgetpgrp(tty) == Ok(own);
        let terminal = terminal.filter(ours);
        let started = control.is_none();
        let watch = Watch::new()?;
        let parent = Self {
            child,
            control,
            watch,
            facts,
            terminal,
            started,
            asked: 0,
            stops: 0,
            ended: None,
            carried_out: None,
        };
        let kept = [parent.control.as_ref(), parent.facts.as_ref(), parent.terminal.as_ref()];
        let kept: Vec<_> =
            kept.into_iter().flatten().map(AsFd::as_fd).chain([parent.watch.as_fd()]).collect();
        process::close_all_but(&kept)?;
        // The caller's directory must not be kept busy by us.
        let _ = rustix::process::chdir("/");
        Ok(parent)
    }

    fn wait(&mut self) -> io::Result<Infallible> {
        loop {
            let [said, caught] = init::wait_for(self.control.as_ref(), &self.watch)?;
            if said {
                self.listen();
            }
            if caught {
                while let Some(caught) = self.watch.next()? {
                    self.take(&caught)?;
                }
            }
        }
    }

    /// What init has to say.
    fn listen(&mut self) {
        let Some(control) = &self.control else { return };
        match init::receive(control) {
            Some(Report::Started) => self.started = true,
            // It may have been continued since, with us: a report that waited while we were stopped is old. So what is
            // it now? The answer to the last question counts.
            Some(Report::Stopped(_)) => {
                init::ask(control);
                self.asked += 1;
                self.stops = self.stops.wrapping_add(1);
            }
            Some(Report::Now(signal)) => {
                self.asked -= 1;
                if self.asked == 0 && signal != 0 {
                    signals::stop_self(signal);
                }
            }
            Some(Report::Ended(ended)) => self.ended = Some(ended),
            // It is ending; its end is told by SIGCHLD.
            None => self.control = None,
        }
    }

    fn take(&mut self, caught: &Caught) -> io::Result<()> {
        if caught.signal == libc::SIGCHLD {
            return self.look_at_child();
        }
        if self.control.is_some() {
            if !caught.by_kernel || !self.started {
                self.forward(caught.signal);
            }
            return Ok(());
        }
        if !caught.by_kernel {
            signals::send(self.child, caught.signal);
        }
        self.carry_out(caught.signal);
        Ok(())
    }

    fn forward(&self, signal: i32) {
        if let Some(control) = &self.control {
            init::send_signal(control, signal, self.stops);
        }
    }

    /// Does what the kernel does by default for every process but process 1.
    fn carry_out(&mut self, signal: i32) {
        if self.heeds(signal) {
            return;
        }
        match signals::default_action(signal) {
            Action::Ignore => {}
            Action::Stop => {
                self.carried_out = Some(signal);
                signals::send(self.child, libc::SIGSTOP);
            }
            Action::End => {
                self.carried_out = Some(signal);
                signals::send(self.child, libc::SIGKILL);
            }
        }
    }

    /// Whether the program catches, ignores or blocks a signal, so that it is its own affair.
    fn heeds(&self, signal: i32) -> bool {
        let Some(facts) = &self.facts else { return true };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let mut text = String::new();
        let read = rustix::fs::openat(facts, "status", flags, Mode::empty())
            .map_err(io::Error::from)
            .and_then(|file| File::from(file).read_to_string(&mut text));
        read.is_err() || heeded(&text, signal)
    }

    fn look_at_child(&mut self) -> io::Result<()> {
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED;
        match process::look_at(self.child, flags)? {
            None | Some(process::Change::Continued) => Ok(()),
            Some(process::Change::Stopped(signal)) => {
                signals::stop_self(self.carried_out.take().unwrap_or(signal));
                Ok(())
            }
            Some(process::Change::Ended(ended)) => {
                // Init's last words may still wait.
                while self.ended.is_none() && self.control.is_some() {
                    self.listen();
                }
                let carried_out = self.carried_out.filter(|_| ended == Ended::Killed(libc::SIGKILL));
                let ended = self.ended.or(carried_out.map(Ended::Killed)).unwrap_or(ended);
                self.end(ended)
            }
        }
    }

    /// Ends as the program did.
    fn end(&self, ended: Ended) -> ! {
        if let Some(terminal) = &self.terminal {
            // A shell in the container made itself the foreground; it could not give that back, since our process
            // group has no number in there. SIGTTOU is blocked.
            let _ = nix::unistd::tcsetpgrp(terminal, nix::unistd::getpgrp());
        }
        match ended {
            Ended::Exited(status) => process::exit(status),
            Ended::Killed(signal) => signals::die_of(signal),
        }
    }
}

/// Whether the lines `SigBlk`, `SigIgn` or `SigCgt` of a `status` in /proc have a signal.
fn heeded(status: &str, signal: i32) -> bool {
    status.lines().filter_map(|line| line.split_once(':')).any(|(name, mask)| {
        matches!(name, "SigBlk" | "SigIgn" | "SigCgt")
            && u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask >> (signal - 1) & 1 == 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_masks_are_read() {
        let status = "Name:\tx\nSigPnd:\tffffffffffffffff\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000000002\n";
        let heeded: Vec<i32> = (1..=64).filter(|signal| heeded(status, *signal)).collect();
        assert_eq!(heeded, [libc::SIGHUP, libc::SIGINT, libc::SIGPIPE]);
    }
}
