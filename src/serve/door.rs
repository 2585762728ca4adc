//! The door of a server: who may join it, who has, and when it closes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::SocketFlags;

use super::Namespaces;
use super::message::{self, JOIN, WELCOME};
use super::others;
use super::rendezvous::Place;

/// Others may join.
pub struct Open {
    listener: OwnedFd,
    place: Place,
    namespaces: Namespaces,
    linger: Duration,
    /// Connections that have not said anything yet.
    callers: Vec<OwnedFd>,
    /// The pidfds of the processes that joined and live.
    members: Vec<OwnedFd>,
    /// When the last member was gone.
    alone_since: Option<Instant>,
    /// Whether there are processes that may start another one.
    others: bool,
    /// When to try to close again, after someone else held the lock.
    retry_at: Option<Instant>,
}

impl Open {
    /// The door of a server that others find at `place`; the first container's process is its first member.
    pub fn new(listener: OwnedFd, place: Place, linger: Duration, first: (Namespaces, OwnedFd)) -> Self {
        let (namespaces, member) = first;
        Self {
            listener,
            place,
            namespaces,
            linger,
            callers: vec![],
            members: vec![member],
            alone_since: None,
            others: true,
            retry_at: None,
        }
    }

    /// Where others find it.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Takes the socket away and lets the namespaces go, unless someone is just about to join: then it stays open.
    pub fn try_close(mut self) -> Option<Self> {
        // Whoever holds the lock is about to connect to us; waiting for it here could wait for each other.
        let lock = match self.place.try_lock() {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.retry_at = Some(Instant::now() + Duration::from_millis(5));
                return Some(self);
            }
            // The directory was removed, as those of a session and of a job are: nobody finds us by it any more.
            Err(_) => return None,
        };
        if self.accept() {
            return Some(self);
        }
        self.place.remove(lock);
        None
    }

    /// Waits for whatever comes next and deals with it; true when `lifeline` has ended.
    pub fn wait(&mut self, lifeline: Option<BorrowedFd<'_>>) -> bool {
        let timeout = self.deadline().map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        let (callers, members) = (self.callers.len(), self.members.len());
        let others = self.callers.iter().chain(&self.members).map(AsFd::as_fd);
        let all = std::iter::once(self.listener.as_fd()).chain(others).chain(lifeline);
        let mut waiting: Vec<PollFd<'_>> =
            all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        if rustix::event::poll(&mut waiting, timeout.as_ref()).is_err() {
            return false;
        }
        let ready: Vec<bool> = waiting.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(waiting);
        let (ready_callers, rest) = ready[1..].split_at(callers);
        let (ready_members, ready_lifeline) = rest.split_at(members);
        // Members first: those that are gone must not be counted with those that come.
        retain_not_ready(&mut self.members, ready_members);
        self.answer_callers(ready_callers);
        if ready[0] {
            self.accept();
        }
        match (self.members.is_empty(), self.alone_since) {
            (true, None) => {
                self.alone_since = Some(Instant::now());
                self.others = !others::are_none();
            }
            (false, Some(_)) => (self.alone_since, self.retry_at) = (None, None),
            _ => {}
        }
        ready_lifeline == [true]
    }

    /// When to close, if nobody comes. Who is at the door is waited for; one that only looks whether somebody is there
    /// begins no new time.
    fn deadline(&self) -> Option<Instant> {
        let waits = self.callers.is_empty();
        let linger = if self.others { self.linger } else { Duration::ZERO };
        self.alone_since.filter(|_| waits).map(|since| self.retry_at.unwrap_or(since + linger))
    }

    /// Whether nobody is left, and the time to linger is over.
    pub fn wants_to_close(&mut self) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Takes in whoever is at the door; true if there was anyone.
    fn accept(&mut self) -> bool {
        let before = self.callers.len();
        while let Ok(caller) =
            rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        {
            let own = rustix::process::geteuid();
            if rustix::net::sockopt::socket_peercred(&caller).is_ok_and(|peer| peer.uid == own) {
                self.callers.push(caller);
            }
        }
        self.callers.len() > before
    }

    fn answer_callers(&mut self, ready: &[bool]) {
        let callers = std::mem::take(&mut self.callers);
        for (index, caller) in callers.into_iter().enumerate() {
            if !ready.get(index).copied().unwrap_or(false) {
                self.callers.push(caller);
                continue;
            }
            // A caller that says anything else than the one right thing is dropped.
            let Ok(Some(mut message)) = message::receive(caller.as_fd()) else { continue };
            let (JOIN, Some(member)) = (message.kind, message.fds.pop()) else { continue };
            let namespaces = [self.namespaces.user.as_fd(), self.namespaces.template.as_fd()];
            if message::send(caller.as_fd(), WELCOME, &namespaces).is_ok() {
                self.members.push(member);
            }
        }
    }
}

fn retain_not_ready(fds: &mut Vec<OwnedFd>, ready: &[bool]) {
    let mut index = 0;
    fds.retain(|_| {
        index += 1;
        !ready[index - 1]
    });
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::process::{PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn who_only_looks_whether_somebody_is_there_keeps_nobody_from_leaving() {
        let temporary = tempfile::tempdir().unwrap();
        let place = || Place::open(&[temporary.path().join("skiff")], "key").unwrap();
        let listener = place().listen(&place().lock().unwrap()).unwrap();
        rustix::fs::fcntl_setfl(&listener, rustix::fs::OFlags::NONBLOCK).unwrap();
        let mut member = std::process::Command::new("true").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&member);
        let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        member.wait().unwrap();
        let namespace = || OwnedFd::from(File::open("/proc/self/ns/user").unwrap());
        let namespaces = Namespaces { user: namespace(), template: namespace() };
        let linger = Duration::from_millis(200);
        let mut open = Open::new(listener, place(), linger, (namespaces, process));
        let begin = Instant::now();
        while !open.wants_to_close() {
            assert!(begin.elapsed() < Duration::from_secs(20), "it stays");
            drop(place().connect().unwrap());
            // It is let in, and gone.
            open.wait(None);
            open.wait(None);
        }
        assert!(begin.elapsed() >= linger);
        assert!(open.try_close().is_none());
        assert!(!temporary.path().join("skiff").exists());
    }
}
