//! The keeper: holds everything that must survive a worker, lets containers join, and ends when nobody is left.
//!
//! It parses nothing of the image. Its states:
//!
//! ```text
//! waiting ─ hand-over ─▶ starting ─ share ─▶ open ─ last member gone ─▶ lingering ─ time is up ─▶ closed ─▶ exit
//!    │ first container gone    │               ▲         a member joins │                         ▲   worker ended
//!    ▼                         │               └────────────────────────┘                         │
//!   exit                       └── first container gone, or nobody can join ─────────────────────┘
//!
//! Closed, it serves on whoever still shows the mount.
//! ```

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::SocketFlags;

use super::message::{self, HAND_OVER, JOIN, Message, SHARE, WELCOME};
use super::rendezvous::Place;
use super::{Namespaces, Request, worker};
use crate::sys::process::{self, Ended, Fork};
use crate::sys::signals;
use crate::sys::slots::SlotTable;

/// Blame at which a request is answered EIO instead of being tried again.
pub const ENOUGH_BLAME: u32 = 32;
/// Blame for a death by the worker's own fault: two while the request is retried are enough.
const BLAME_FOR_FAULT: u32 = 16;
/// Blame for a SIGKILL, which may come from anywhere (out of memory, an administrator).
const BLAME_FOR_KILL: u32 = 1;
/// So many workers that die one after the other without answering anything: something is wrong for good.
const HOPELESS: u32 = 64;

/// What the process that was forked to be the server starts with.
pub struct Server {
    /// What is served, and to whom.
    pub request: Request,
    /// The listening socket and its place; none when nobody else shall join.
    pub meeting_point: Option<(OwnedFd, Place)>,
    /// The connection to the container's process that started the server.
    pub control: OwnedFd,
    /// How many FUSE queues that process will hand over.
    pub queues: usize,
}

/// The processors that this process may use once its affinity is widened to its cpuset.
pub fn processors() -> usize {
    let fallback = || std::thread::available_parallelism().map_or(1, usize::from);
    let status = std::fs::read_to_string("/sys/fs/cgroup/cpuset.cpus.effective")
        .or_else(|_| std::fs::read_to_string("/sys/fs/cgroup/cpuset/cpuset.effective_cpus"));
    status.ok().and_then(|list| count_of_list(list.trim())).unwrap_or_else(fallback)
}

/// How many numbers a list like `0-3,8` names.
fn count_of_list(list: &str) -> Option<usize> {
    let mut count = 0_usize;
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(count)
}

/// Runs the server in this process, which ends with it.
pub fn run(server: Server) -> ! {
    let place = server.meeting_point.as_ref().map(|(_, place)| place.descriptor().as_fd());
    let listener = server.meeting_point.as_ref().map(|(listener, _)| listener.as_fd());
    let keep: Vec<BorrowedFd<'_>> =
        [Some(server.request.image.as_fd()), Some(server.control.as_fd()), place, listener]
            .into_iter()
            .flatten()
            .collect();
    become_server(&keep);
    drop(keep);
    // The worker makes itself ready while the container's process mounts the file system.
    let Some((slots, worker)) = first_worker(&server) else { give_up(server.meeting_point) };
    let handed_over = message::receive(server.control.as_fd());
    let Ok(Some(Message { kind: HAND_OVER, fds: queues })) = handed_over else {
        give_up(server.meeting_point)
    };
    worker.hand_over(&queues);
    Keeper::new(server, slots, queues, worker).serve();
    process::exit(0)
}

/// Nothing of the caller stays: session, descriptors, working directory, signals, affinity.
fn become_server(keep: &[BorrowedFd<'_>]) {
    // None of these can fail in a way that matters: a server that keeps, say, its caller's working directory
    // is ill-mannered, but right.
    let _ = rustix::process::setsid();
    let _ = process::close_all_but(keep);
    let _ = rustix::process::chdir("/");
    signals::reset_for_server();
    process::set_name(c"skiff-keeper");
    process::widen_affinity();
    // Descriptors 0 to 2 must not become an image or a socket that some library writes messages to.
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
        if null.as_raw_fd() < 3 {
            let _ = null.into_raw_fd();
        }
    }
}

/// The container that started the server is gone before it handed over.
fn give_up(meeting_point: Option<(OwnedFd, Place)>) -> ! {
    if let Some((_, place)) = meeting_point
        && let Ok(lock) = place.lock()
    {
        place.remove(lock);
    }
    process::exit(1)
}

struct Keeper {
    image: File,
    options: worker::Options,
    slots: SlotTable,
    queues: Vec<OwnedFd>,
    worker: Worker,
    door: Door,
}

/// Whether others may join.
enum Door {
    /// Not yet: the first container's process is still at work on the template.
    Starting { control: OwnedFd, listener: OwnedFd, place: Place, linger: Duration },
    /// They may.
    Open(Open),
    /// Not any more, or never.
    Closed,
}

struct Worker {
    pid: libc::pid_t,
    /// Reads end-of-file when the worker is gone (any kernel; a pidfd needs 5.3).
    lifeline: OwnedFd,
}

impl Worker {
    /// Forks a worker, which waits for its queues.
    fn spawn(image: &File, options: worker::Options, slots: &SlotTable, start: &[PathBuf]) -> Option<Self> {
        let (lifeline, workers_end) = message::pair().ok()?;
        match process::fork().ok()? {
            Fork::Parent(pid) => Some(Self { pid, lifeline }),
            Fork::Child => {
                let keep = [image.as_fd(), slots.memory(), workers_end.as_fd()];
                let _ = process::close_all_but(&keep);
                worker::run(image, options, slots, start, workers_end.as_fd())
            }
        }
    }

    /// Gives it the queues to serve.
    fn hand_over(&self, queues: &[OwnedFd]) {
        let queues: Vec<BorrowedFd<'_>> = queues.iter().map(AsFd::as_fd).collect();
        // A worker that is gone already is noticed by its lifeline.
        let _ = message::send(self.lifeline.as_fd(), HAND_OVER, &queues);
    }
}

fn first_worker(server: &Server) -> Option<(SlotTable, Worker)> {
    let slots = SlotTable::new(server.queues).ok()?;
    let request = &server.request;
    let worker = Worker::spawn(&request.image, options(request), &slots, &request.start)?;
    Some((slots, worker))
}

fn options(request: &Request) -> worker::Options {
    worker::Options { offset: request.offset, length: request.length, owner: request.owner }
}

struct Open {
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
    /// When to try to close again, after someone else held the lock.
    retry_at: Option<Instant>,
}

impl Keeper {
    fn new(server: Server, slots: SlotTable, queues: Vec<OwnedFd>, worker: Worker) -> Self {
        let Server { request, meeting_point, control, .. } = server;
        let options = options(&request);
        let door = match meeting_point {
            Some((listener, place)) => Door::Starting { control, listener, place, linger: request.linger },
            None => Door::Closed,
        };
        Self { image: request.image, options, slots, queues, worker, door }
    }

    fn serve(&mut self) {
        let (mut fruitless, mut answered) = (0, self.answered());
        loop {
            if self.wait() {
                let ended = process::wait_for(self.worker.pid);
                if matches!(ended, Ok(Ended::Exited(worker::UNMOUNTED))) || fruitless > HOPELESS {
                    break;
                }
                self.put_blame(matches!(ended, Ok(Ended::Killed(libc::SIGKILL))));
                fruitless = if answered == self.answered() { fruitless + 1 } else { 0 };
                answered = self.answered();
                let Some(worker) = Worker::spawn(&self.image, self.options, &self.slots, &[]) else { break };
                worker.hand_over(&self.queues);
                self.worker = worker;
            }
        }
        if let Door::Starting { place, .. } | Door::Open(Open { place, .. }) = &self.door
            && let Ok(lock) = place.lock()
        {
            place.remove(lock);
        }
    }

    /// Waits for whatever comes next and deals with it; true when the worker is gone.
    fn wait(&mut self) -> bool {
        let lifeline = self.worker.lifeline.as_fd();
        match &mut self.door {
            Door::Closed => wait_until_readable([lifeline]) == [true],
            Door::Open(open) => {
                let worker_gone = open.wait(lifeline);
                if open.wants_to_close() {
                    self.close();
                }
                worker_gone
            }
            Door::Starting { control, .. } => {
                let [worker_gone, said] = wait_until_readable([lifeline, control.as_fd()]);
                if said {
                    let message = message::receive(control.as_fd());
                    self.end_of_start(message.unwrap_or(None));
                }
                worker_gone
            }
        }
    }

    /// The first container's process has finished the template, or ended without.
    fn end_of_start(&mut self, message: Option<Message>) {
        let Door::Starting { listener, place, linger, .. } = std::mem::replace(&mut self.door, Door::Closed)
        else {
            return;
        };
        if let Some(Message { kind: SHARE, mut fds }) = message
            && let (Some(template), Some(user), Some(member)) = (fds.pop(), fds.pop(), fds.pop())
        {
            self.door = Door::Open(Open {
                listener,
                place,
                namespaces: Namespaces { user, template },
                linger,
                callers: vec![],
                members: vec![member],
                alone_since: None,
                retry_at: None,
            });
        } else if let Ok(lock) = place.lock() {
            place.remove(lock);
        }
    }

    /// A number that changes whenever a request is answered.
    fn answered(&self) -> u64 {
        (0..self.slots.len())
            .map(|index| self.slots.slot(index).answered().load(Ordering::Acquire))
            .fold(0, u64::wrapping_add)
    }

    /// Notes against each request that the dead worker was trying again that it may be what kills workers.
    fn put_blame(&self, by_kill: bool) {
        for index in 0..self.slots.len() {
            let slot = self.slots.slot(index);
            if slot.retrying().swap(0, Ordering::Relaxed) == 1 {
                let blame = if by_kill { BLAME_FOR_KILL } else { BLAME_FOR_FAULT };
                slot.blame().fetch_add(blame, Ordering::Relaxed);
            }
        }
    }

    /// Takes the socket away and lets the namespaces go, unless someone is just about to join.
    fn close(&mut self) {
        let Door::Open(mut open) = std::mem::replace(&mut self.door, Door::Closed) else { return };
        // Whoever holds the lock is about to connect to us; waiting for it here could wait for each other.
        let lock = match open.place.try_lock() {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                open.retry_at = Some(Instant::now() + Duration::from_millis(5));
                self.door = Door::Open(open);
                return;
            }
            // The directory was removed, as those of a session and of a job are: nobody finds us by it any more.
            Err(_) => return,
        };
        if open.accept() {
            self.door = Door::Open(open);
            return;
        }
        open.place.remove(lock);
    }
}

impl Open {
    /// Waits for whatever comes next and deals with it; true when the worker is gone.
    fn wait(&mut self, lifeline: BorrowedFd<'_>) -> bool {
        let timeout = self.deadline().map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        let fixed = [lifeline, self.listener.as_fd()];
        let (callers, members) = (self.callers.len(), self.members.len());
        let others = self.callers.iter().chain(&self.members).map(AsFd::as_fd);
        let mut waiting: Vec<PollFd<'_>> =
            fixed.into_iter().chain(others).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        if rustix::event::poll(&mut waiting, timeout.as_ref()).is_err() {
            return false;
        }
        let ready: Vec<bool> = waiting.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(waiting);
        let (ready_callers, ready_members) = (&ready[2..2 + callers], &ready[2 + callers..]);
        // Members first: those that are gone must not be counted with those that come.
        retain_not_ready(&mut self.members, &ready_members[..members]);
        self.answer_callers(ready_callers);
        if ready[1] {
            self.accept();
        }
        match (self.members.is_empty() && self.callers.is_empty(), self.alone_since) {
            (true, None) => self.alone_since = Some(Instant::now()),
            (false, Some(_)) => (self.alone_since, self.retry_at) = (None, None),
            _ => {}
        }
        ready[0]
    }

    /// When to close, if nobody comes.
    fn deadline(&self) -> Option<Instant> {
        self.alone_since.map(|since| self.retry_at.unwrap_or(since + self.linger))
    }

    fn wants_to_close(&mut self) -> bool {
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

/// Waits for any of the descriptors to have something to say, or to have ended, and tells which.
fn wait_until_readable<const N: usize>(fds: [BorrowedFd<'_>; N]) -> [bool; N] {
    let mut waiting = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    // Interrupted, nothing is ready: the caller comes again.
    let _ = rustix::event::poll(&mut waiting, None);
    waiting.map(|fd| !fd.revents().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_lists_are_counted() {
        assert_eq!(count_of_list("0-3,8"), Some(5));
        assert_eq!(count_of_list("7"), Some(1));
        assert_eq!(count_of_list(""), None);
        assert_eq!(count_of_list("3-1"), None);
    }
}
