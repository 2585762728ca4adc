//! The container's side: find the image's server, or start one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags};

use super::keeper::{self, Server};
use super::message::{self, HAND_OVER, JOIN, Message, SHARE, USERS, WELCOME};
use super::rendezvous::Place;
use super::unpacked::{self, Unpacked};
use super::{Request, key};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::process::{self, Fork};
use crate::sys::processors;

/// Most threads that serve one image.
const MOST_QUEUES: usize = 8;

/// The namespaces that all containers of one server share.
pub struct Namespaces {
    /// The user namespace that owns the image's mount.
    pub user: OwnedFd,
    /// A mount namespace that holds the image's mount and nothing else.
    pub template: OwnedFd,
}

/// What came of looking for a server.
pub enum Meeting {
    /// One stands.
    Joined(Namespaces),
    /// None stood: one was started, and waits for the file system that this process mounts.
    First(Starter),
}

/// A server that was started and serves nothing yet. When it is dropped the server ends.
pub struct Starter {
    control: OwnedFd,
    shared: bool,
    queues: usize,
    /// The process between this one and the server. It ends at once, and is waited for when that takes no time.
    between: libc::pid_t,
    /// Without FUSE: the server unpacks the image.
    unpacks: bool,
    /// What it has unpacked, once that was waited for.
    unpacked: Option<Unpacked>,
}

/// Finds the image's server or starts one.
///
/// # Errors
/// When the image cannot be looked at or no process can be started. A rendezvous directory that cannot be used is
/// no error: the server is this container's alone then.
pub fn meet(request: Request) -> Result<Meeting> {
    let key = key::of(&request)?;
    // A server that ends while we join it sends us round once more; one that dies each time must not do so
    // for ever.
    for _ in 0..16 {
        let Some(place) = Place::open(&request.rendezvous, &key) else { break };
        if let Some(namespaces) = join(&place)? {
            return Ok(Meeting::Joined(namespaces));
        }
        let lock = match place.lock() {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(_) => break,
        };
        // Someone else may have started it while we waited for the lock.
        if let Some(socket) = place.connect().unwrap_or(None) {
            drop(lock);
            if let Some(namespaces) = greet(&socket)? {
                return Ok(Meeting::Joined(namespaces));
            }
            continue;
        }
        let Ok(listener) = place.listen(&lock) else { break };
        return start(request, Some((listener, place)));
    }
    start(request, None)
}

fn join(place: &Place) -> Result<Option<Namespaces>> {
    match place.connect() {
        Ok(Some(socket)) => greet(&socket),
        // EACCES, EMFILE and the like: a server of our own is the way out.
        Ok(None) | Err(_) => Ok(None),
    }
}

/// Asks the keeper behind `socket` for its namespaces; `None` when it is about to end.
fn greet(socket: &OwnedFd) -> Result<Option<Namespaces>> {
    let trying = || "cannot join the image's server".to_owned();
    let own = own_pidfd().context(Kind::Host, trying)?;
    if message::send(socket.as_fd(), JOIN, &[own.as_fd()]).is_err() {
        return Ok(None);
    }
    let Some(answer) = message::receive(socket.as_fd()).context(Kind::Host, trying)? else { return Ok(None) };
    let mut fds = answer.fds.into_iter();
    match (answer.kind, fds.next(), fds.next()) {
        (WELCOME, Some(user), Some(template)) => Ok(Some(Namespaces { user, template })),
        _ => Err(Error::new(Kind::Internal, "the image's server gave an answer that makes no sense")),
    }
}

fn own_pidfd() -> io::Result<OwnedFd> {
    let own = Pid::from_raw(rustix::process::getpid().as_raw_nonzero().get());
    let own = own.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    Ok(rustix::process::pidfd_open(own, PidfdFlags::empty())?)
}

fn start(request: Request, meeting_point: Option<(OwnedFd, Place)>) -> Result<Meeting> {
    let trying = || "cannot start the image's server".to_owned();
    let (control, servers_end) = message::pair().context(Kind::Host, trying)?;
    let shared = meeting_point.is_some();
    let queues = queue_count();
    let below = request.unpack.clone();
    let unpacks = below.is_some();
    // Twice, so that the server is nobody's child here; silently, so that the user's program finds no trace.
    match process::fork_silently().context(Kind::Host, trying)? {
        Fork::Parent(between) => {
            // The server widens what it may run on again.
            processors::move_away(between);
            Ok(Meeting::First(Starter { control, shared, queues, between, unpacks, unpacked: None }))
        }
        Fork::Child => match process::fork() {
            Ok(Fork::Parent(_)) => process::exit(0),
            Err(_) => process::exit(1),
            Ok(Fork::Child) => {
                drop(control);
                let server = Server { request, meeting_point, control: servers_end, queues };
                match below {
                    Some(below) => unpacked::run(server, &below),
                    None => keeper::run(server),
                }
            }
        },
    }
}

/// As many queues as processors may be used, since idle threads cost nothing.
fn queue_count() -> usize {
    keeper::processors().clamp(1, MOST_QUEUES)
}

impl Starter {
    /// How many FUSE devices the server wants: its queues, and last one that only goes to the kernel.
    pub fn devices(&self) -> usize {
        self.queues + 1
    }

    /// Gives the server the devices of its file system: from here on it answers.
    ///
    /// # Errors
    /// When the server has ended already.
    pub fn hand_over(&self, devices: &[OwnedFd]) -> Result<()> {
        self.wait_for_start()?;
        let fds: Vec<BorrowedFd<'_>> = devices.iter().map(AsFd::as_fd).collect();
        message::send(self.control.as_fd(), HAND_OVER, &fds)
            .context(Kind::Internal, || "the image's server ended before it served".into())
    }

    /// Whether the image is unpacked and not served.
    pub fn unpacks(&self) -> bool {
        self.unpacks
    }

    /// Waits for the image to be unpacked.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn unpacked(&mut self) -> Result<&Unpacked> {
        if self.unpacked.is_none() {
            self.wait_for_start()?;
            self.unpacked = Some(unpacked::wait(self.control.as_fd())?);
        }
        self.unpacked.as_ref().ok_or_else(|| Error::new(Kind::Internal, "the image was not unpacked"))
    }

    /// Tells the server of an unpacked image who uses it: the processes of this user namespace.
    ///
    /// # Errors
    /// When the server has ended already, and taken the files away.
    pub fn name_users(&self, user: BorrowedFd<'_>) -> Result<()> {
        let ended = || "the process that unpacked the image was ended".to_owned();
        message::send(self.control.as_fd(), USERS, &[user]).context(Kind::Host, ended)?;
        match message::receive(self.control.as_fd()).context(Kind::Host, ended)? {
            Some(Message { kind: USERS, .. }) => Ok(()),
            _ => Err(Error::host(ended())),
        }
    }

    fn wait_for_start(&self) -> Result<()> {
        match process::wait_for(self.between) {
            Ok(process::Ended::Exited(0)) => Ok(()),
            // The caller ignores SIGCHLD, so the kernel has reaped it; what comes next tells if it failed.
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(()),
            _ => Err(Error::host("cannot start the image's server")
                .hint("raise the limit on processes (ulimit -u)")),
        }
    }

    /// Lets others join, now that the template holds the image alone. Where nobody can (no rendezvous, or a kernel
    /// without pidfds, before 5.3), the server stays this container's own.
    pub fn share(self, namespaces: &Namespaces) {
        if let (true, Ok(own)) = (self.shared, own_pidfd()) {
            let fds = [own.as_fd(), namespaces.user.as_fd(), namespaces.template.as_fd()];
            // A server that is gone is noticed by the next look at the image.
            let _ = message::send(self.control.as_fd(), SHARE, &fds);
        }
    }
}
