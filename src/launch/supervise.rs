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
//!
//! No signal is lost while these processes come to be, and none counts twice. All of them hold their signals until the
//! program is there. One that comes before a fork waits in the parent alone, one that comes after it in both; so a
//! parent tells its child, once that exists, what has waited until then, and what the child has of it already counts
//! once. P does so before process 1 goes on, and init before the program does:
//!
//! ```text
//! P          fork ─ what waits ──▶│
//! process 1                       └ assembles the root ─ fork ─ what waits, and what P told ──▶│
//! program                                                                                      └ execve
//! ```

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::WaitPidFlag;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::init::{self, Report};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::process::{self, Ended, Fork};
use crate::sys::signals::{self, Action, Caught, Watch};

/// What process 1 has of the process that started it.
pub struct First {
    /// What signals did when the caller started us.
    pub inherited: signals::Inherited,
    /// The connection to P.
    pub control: OwnedFd,
    /// Process 1 is to be an init, and not the program itself.
    pub with_init: bool,
    /// Signals that came to P before this process was there, or since.
    pub earlier: signals::Set,
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
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .context(Kind::Host, trying)?;
    // From here on nothing is lost: what arrives waits for whoever reads it.
    let inherited = signals::hold_all();
    match process::fork().context(Kind::Host, trying)? {
        Fork::Child => {
            drop(ours);
            if !with_init {
                // An init learns from its connection that P is gone; a program has nothing to learn it from.
                process::end_with_parent().context(Kind::Host, trying)?;
            }
            let earlier = init::wait_to_go(&theirs).filter(|_| with_init || !init::is_gone(&theirs));
            // The caller was killed, or says itself why it cannot go on.
            let Some(earlier) = earlier else { process::exit(255) };
            Ok(First { inherited, control: theirs, with_init, earlier })
        }
        Fork::Parent(child) => {
            drop(theirs);
            let started = Parent::new(child, ours, with_init).and_then(|mut parent| {
                parent.let_go()?;
                Ok(parent)
            });
            match started.map(Parent::wait) {
                // What cannot be watched must not go on.
                Err(error) => {
                    signals::send(child, libc::SIGKILL);
                    Err(error).context(Kind::Host, || "cannot watch the container's processes".to_owned())
                }
                // There is nowhere to say why any more. It must not look like an end of the program's.
                Ok(Err(_)) => {
                    signals::send(child, libc::SIGKILL);
                    signals::die_of(libc::SIGABRT)
                }
                Ok(Ok(never)) => match never {},
            }
        }
    }
}

struct Parent {
    child: libc::pid_t,
    /// The connection to process 1. The program itself closes it by execve.
    control: Option<OwnedFd>,
    with_init: bool,
    watch: Watch,
    /// The directory of the child in /proc.
    facts: Option<OwnedFd>,
    /// The caller's terminal, when its foreground was ours.
    terminal: Option<OwnedFd>,
    /// What came while a process 1 without init was not the program yet.
    early: signals::Set,
    /// What of it came to P alone.
    unsent: signals::Set,
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
    /// Process 1 waits meanwhile: /proc and /dev become the container's for this process too, with the root.
    fn new(child: libc::pid_t, control: OwnedFd, with_init: bool) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let facts = rustix::fs::open(format!("/proc/{child}"), flags, Mode::empty()).ok();
        let terminal = File::open("/dev/tty").ok().map(OwnedFd::from);
        // A group that has no number here (a caller in an outer process namespace) is 0, and not ours to set.
        let own = nix::unistd::getpgrp();
        let ours = |tty: &OwnedFd| own.as_raw() > 0 && nix::unistd::tcgetpgrp(tty) == Ok(own);
        let terminal = terminal.filter(ours);
        let watch = Watch::new()?;
        let kept = [Some(&control), facts.as_ref(), terminal.as_ref()];
        let kept: Vec<_> = kept.into_iter().flatten().map(AsFd::as_fd).chain([watch.as_fd()]).collect();
        process::close_all_but(&kept)?;
        // The caller's directory must not be kept busy by us.
        let _ = rustix::process::chdir("/");
        Ok(Self {
            child,
            control: Some(control),
            with_init,
            watch,
            facts,
            terminal,
            early: signals::Set::default(),
            unsent: signals::Set::default(),
            asked: 0,
            stops: 0,
            ended: None,
            carried_out: None,
        })
    }

    /// Tells process 1 what came while it may not have been there, and lets it go on.
    fn let_go(&mut self) -> io::Result<()> {
        let mut earlier = signals::Set::default();
        while let Some(caught) = self.watch.next()? {
            match caught.signal {
                libc::SIGCHLD => self.look_at_child()?,
                signal => {
                    let mut only = signals::Set::default();
                    only.insert(signal);
                    earlier = earlier.followed_by(only);
                }
            }
        }
        if let Some(control) = &self.control {
            init::let_go(control, earlier);
        }
        Ok(())
    }

    fn wait(mut self) -> io::Result<Infallible> {
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

    /// What process 1 has to say.
    fn listen(&mut self) {
        let Some(control) = &self.control else { return };
        match init::receive(control) {
            // It stopped by a signal that came early, as far as it can.
            Some(Report::Stopped(signal)) if !self.with_init => {
                self.early.take(signal);
                self.stop_child(signal);
            }
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
            // It is ending; its end is told by SIGCHLD. Or it is the program now.
            None => {
                self.control = None;
                for signal in std::mem::take(&mut self.early).iter() {
                    let alone = self.unsent.take(signal);
                    self.hand_on(signal, alone);
                }
            }
        }
    }

    fn take(&mut self, caught: &Caught) -> io::Result<()> {
        if caught.signal == libc::SIGCHLD {
            return self.look_at_child();
        }
        match &self.control {
            // Init knows what came to the whole group; nobody needs to tell it what always does.
            Some(control) if self.with_init && !caught.from_terminal() => {
                init::send_signal(control, caught.signal, self.stops);
            }
            _ if self.with_init => {}
            // One that a process sent to the whole group counts twice: nothing tells it from one for us alone.
            None => self.hand_on(caught.signal, !caught.from_terminal()),
            // It has told of this one.
            Some(_) if self.carried_out == Some(caught.signal) => {}
            Some(_) => {
                self.early.insert(caught.signal);
                if !caught.from_terminal() {
                    self.unsent.insert(caught.signal);
                }
            }
        }
        Ok(())
    }

    /// Hands a signal on to a program that is process 1. (One of the terminal that comes in the moment between execve
    /// and the program's own first step is lost: the kernel spares process 1, and when we look, it heeds the signal.)
    fn hand_on(&mut self, signal: i32, came_to_us_alone: bool) {
        let in_vain = !self.heeds(signal);
        if came_to_us_alone {
            signals::send(self.child, signal);
        }
        if in_vain {
            self.carry_out(signal);
        }
    }

    /// Does what the kernel does by default for every process but process 1, to a program that does not heed a signal.
    fn carry_out(&mut self, signal: i32) {
        match signals::default_action(signal) {
            Action::Ignore => {}
            Action::Stop => self.stop_child(signal),
            Action::End => {
                self.carried_out = Some(signal);
                signals::send(self.child, libc::SIGKILL);
            }
        }
    }

    fn stop_child(&mut self, signal: i32) {
        self.carried_out = Some(signal);
        signals::send(self.child, libc::SIGSTOP);
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
                // Its last words may still wait.
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
