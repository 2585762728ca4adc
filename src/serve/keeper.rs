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
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::wait::WaitPidFlag;
use rustix::event::{PollFd, PollFlags};

use super::door::Open;
use super::message::{self, HAND_OVER, Message, SHARE};
use super::rendezvous::Place;
use super::{Namespaces, Request, worker};
use crate::sys::process::{self, Change, Ended, Fork};
use crate::sys::processors::ranges_of_list;
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
    for range in ranges_of_list(list) {
        let (first, last) = range?.into_inner();
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
    process::become_server(&keep, c"skiff-keeper");
    drop(keep);
    // The worker makes itself ready while the container's process mounts the file system.
    let Some((slots, worker)) = first_worker(&server) else { give_up(server.meeting_point) };
    // Before anything runs from it: the end of a short program may be this server's, too.
    if let Some((_, place)) = &server.meeting_point {
        place.remove_others();
    }
    let handed_over = message::receive(server.control.as_fd());
    let Ok(Some(Message { kind: HAND_OVER, fds: devices })) = handed_over else {
        give_up(server.meeting_point)
    };
    worker.hand_over(&devices);
    Keeper::new(server, slots, devices, worker).serve();
    process::exit(0)
}

/// The container that started the server is gone before it handed over.
pub(super) fn give_up(meeting_point: Option<(OwnedFd, Place)>) -> ! {
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
    devices: Vec<OwnedFd>,
    worker: Worker,
    /// Workers that have been killed, of which a thread may still wait for an answer of the present worker.
    leaving: Vec<libc::pid_t>,
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

    /// Gives it the queues to serve, and the device that stores go through.
    fn hand_over(&self, devices: &[OwnedFd]) {
        let devices: Vec<BorrowedFd<'_>> = devices.iter().map(AsFd::as_fd).collect();
        // A worker that is gone already is noticed by its lifeline.
        let _ = message::send(self.lifeline.as_fd(), HAND_OVER, &devices);
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

impl Keeper {
    fn new(server: Server, slots: SlotTable, devices: Vec<OwnedFd>, worker: Worker) -> Self {
        let Server { request, meeting_point, control, .. } = server;
        let options = options(&request);
        let door = match meeting_point {
            Some((listener, place)) => Door::Starting { control, listener, place, linger: request.linger },
            None => Door::Closed,
        };
        Self { image: request.image, options, slots, devices, worker, leaving: vec![], door }
    }

    fn serve(&mut self) {
        let (mut fruitless, mut answered) = (0, self.answered());
        loop {
            if self.wait() {
                let ended = self.end_of_worker();
                if matches!(ended, Ended::Exited(worker::UNMOUNTED)) || fruitless > HOPELESS {
                    break;
                }
                self.put_blame(matches!(ended, Ended::Killed(libc::SIGKILL)));
                fruitless = if answered == self.answered() { fruitless + 1 } else { 0 };
                answered = self.answered();
                let Some(worker) = Worker::spawn(&self.image, self.options, &self.slots, &[]) else { break };
                worker.hand_over(&self.devices);
                self.worker = worker;
            }
            self.leaving.retain(|pid| matches!(process::look_at(*pid, WaitPidFlag::WNOHANG), Ok(None)));
        }
        let place = match &self.door {
            Door::Starting { place, .. } => Some(place),
            Door::Open(open) => Some(open.place()),
            Door::Closed => None,
        };
        if let Some(place) = place
            && let Ok(lock) = place.lock()
        {
            place.remove(lock);
        }
    }

    /// How the worker ended, whose descriptors are closed. A thread that waits for a page until the next worker
    /// answers keeps the process from ending: killed, then, like all its threads.
    fn end_of_worker(&mut self) -> Ended {
        let pid = self.worker.pid;
        loop {
            match process::look_at(pid, WaitPidFlag::WNOHANG) {
                Ok(Some(Change::Ended(ended))) => return ended,
                Ok(_) if self.slots.storing().swap(0, Ordering::SeqCst) == 0 => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(_) => {
                    self.leaving.push(pid);
                    return Ended::Killed(libc::SIGKILL);
                }
                Err(_) => return Ended::Killed(libc::SIGKILL),
            }
        }
    }

    /// Waits for whatever comes next and deals with it; true when the worker is gone.
    fn wait(&mut self) -> bool {
        let lifeline = self.worker.lifeline.as_fd();
        match &mut self.door {
            Door::Closed => wait_until_readable([lifeline]) == [true],
            Door::Open(open) => {
                let worker_gone = open.wait(Some(lifeline));
                if open.wants_to_close()
                    && let Door::Open(open) = std::mem::replace(&mut self.door, Door::Closed)
                    && let Some(open) = open.try_close()
                {
                    self.door = Door::Open(open);
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
            self.door =
                Door::Open(Open::new(listener, place, linger, (Namespaces { user, template }, member)));
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
