//! Root's powers over owners, devices and ids, emulated where one user is all that the namespace maps: what a program
//! asks for succeeds, and is recorded, and is true for it from then on.
//!
//! ```text
//! P, about to be the program        between ─ fork ─▶ supervisor: own session, no descriptor of P's
//!   fork, without trace ──────────▶   ends            is /proc there, can P's memory be read?
//!   filter with a listener    ◀──────────────────────  ready
//!   ── listener ──────────────────────────────────────▶ for each call of P and its descendants:
//!   execve                                              look, record, answer ([`supervisor`])
//!                                   the last of them has ended ─▶ the supervisor ends
//! ```
//!
//! - [`table`]: which calls; [`filter`]: as a program for the kernel. All others cost nothing.
//! - [`identity`]: set*id(2) and get*id(2). [`files`], with [`target`] and [`record`]: the calls on files. [`create`]:
//!   those that make files, which the kernel would give to whoever made them. [`stat`]: those that say what a file is.
//!   [`names`]: those that give names to files whose records lie beside their names.
//!
//! The supervisor has the program's own user, namespaces and capabilities, so nothing is gained by asking it. It is no
//! barrier either: what it reads the program may change meanwhile.
//!
//! A supervisor that is killed leaves calls that fail with ENOSYS. Where it cannot work (a kernel before 5.9, another
//! listener above us, /proc missing or of other processes) a filter alone lets the calls succeed and do nothing;
//! without filters they fail as the kernel has it.
//!
//! Asked is what is written in the call: signals without SA_RESTART that arrive before the supervisor has heard of a
//! call end it with EINTR, and before kernel 5.19 also those that arrive later.

mod create;
mod files;
mod filter;
mod identity;
mod known;
mod layout;
mod names;
mod record;
mod stat;
mod supervisor;
mod table;
mod target;
mod turn;

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use crate::error::{Error, Result};
use crate::sys::process::{self, Fork};
use crate::sys::{features, notify};
use filter::Action;

/// What is emulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All that one mapped id does not allow.
    Root,
    /// Making device nodes, which no user namespace allows.
    Devices,
}

/// How well root is emulated.
#[derive(Debug)]
pub enum Emulation {
    /// Fully.
    Full,
    /// The calls succeed and do nothing, for this reason.
    Pretended(Error),
    /// Not at all, for these reasons: that of `Pretended`, and the last one.
    None(Error, Error),
}

/// Whether to say when root is emulated less than fully.
pub static TELLS: AtomicBool = AtomicBool::new(false);

impl Emulation {
    /// Says so on standard error, where that is wanted ([`TELLS`]).
    pub fn tell(&self) {
        let text = match self {
            Self::Full => return,
            Self::Pretended(why) => format!("owners, devices and other ids are not recorded: {why}"),
            Self::None(why, last) => format!("root is not emulated: {why}; {last}"),
        };
        if TELLS.load(Ordering::Relaxed) {
            // Nobody is left to tell when standard error cannot be written to.
            let _ = io::Write::write_all(&mut io::stderr(), format!("skiff: {text}\n").as_bytes());
        }
    }
}

/// Emulates root for the program that this process executes next, and for all that it starts.
pub fn begin(scope: Scope) -> Emulation {
    match begin_fully(scope) {
        Ok(()) => Emulation::Full,
        Err(why) => match pretend(scope) {
            Ok(()) => Emulation::Pretended(why),
            Err(last) => Emulation::None(why, last),
        },
    }
}

fn pretend(scope: Scope) -> Result<()> {
    let trying = || "cannot install a filter of system calls";
    let program = filter::program(std::env::consts::ARCH, scope, Action::Pretend)
        .ok_or_else(|| Error::host(format!("{}: the processor is not known", trying())))?;
    notify::install(&program).map_err(|error| Error::host(trying()).because(error))
}

fn begin_fully(scope: Scope) -> Result<()> {
    let trying = || "cannot answer system calls in place of the kernel";
    let program = filter::program(std::env::consts::ARCH, scope, Action::Ask)
        .ok_or_else(|| Error::host(format!("{}: the processor is not known", trying())))?;
    // Before, a listener is not told that nobody is left.
    if features::kernel_version() < (5, 9) || !features::has_seccomp_notification() {
        return Err(Error::host(format!("{}: the kernel is older than 5.9", trying())));
    }
    let failed = |error: io::Error| Error::host(trying()).because(error);
    let pair =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (ours, theirs) = pair.map_err(|error| failed(error.into()))?;
    start_supervisor(theirs).map_err(failed)?;
    if receive(&ours).map_err(failed)?.is_none() {
        return Err(Error::host(format!(
            "{}: /proc is missing or shows other processes, or the memory of processes cannot be read",
            trying()
        )));
    }
    let listener = notify::install_listening(&program).map_err(failed)?;
    send(&ours, Some(&listener)).map_err(failed)
}

/// Starts the process that will answer: nobody's child here, so that the program finds no trace of it.
fn start_supervisor(control: OwnedFd) -> io::Result<()> {
    let program = rustix::process::getpid();
    let first = program.is_init();
    match process::fork_silently()? {
        // Process 1 would become its parent again. So the one between stays, which is no child that is waited for.
        Fork::Parent(_) if first => Ok(()),
        Fork::Parent(between) => match process::wait_for(between) {
            Err(error) if error.raw_os_error() != Some(libc::ECHILD) => Err(error),
            // What failed there is seen by what does not come.
            _ => Ok(()),
        },
        Fork::Child => {
            if first {
                // Before the program goes on, which hears from the supervisor alone.
                process::become_server(&[control.as_fd()], c"skiff-emulate");
            }
            match process::fork() {
                Ok(Fork::Child) => supervise(&control, program.as_raw_nonzero().get()),
                Ok(Fork::Parent(supervisor)) if first => {
                    drop(control);
                    let _ = process::wait_for(supervisor);
                    process::exit(0)
                }
                Ok(Fork::Parent(_)) => process::exit(0),
                Err(_) => process::exit(1),
            }
        }
    }
}

/// The supervisor's life.
fn supervise(control: &OwnedFd, program: libc::pid_t) -> ! {
    process::become_server(&[control.as_fd()], c"skiff-emulate");
    // What is made for a program has the mode that the program's mask leaves.
    rustix::process::umask(rustix::fs::Mode::empty());
    let here = 0_u64;
    let readable = notify::read_memory(program, &raw const here as u64, &mut [0]).is_ok();
    let (true, Some(proc)) = (readable, target::own_proc()) else { process::exit(1) };
    if send(control, None).is_err() {
        process::exit(1);
    }
    match receive(control) {
        Ok(Some(Some(listener))) => supervisor::run(listener, proc),
        // There was none to be had, or the program's process is gone.
        _ => process::exit(1),
    }
}

fn send(socket: &OwnedFd, fd: Option<&OwnedFd>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<_> = fd.into_iter().map(AsFd::as_fd).collect();
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(b".")], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next message, with its descriptor if it has one; `None` when the other side is gone.
fn receive(socket: &OwnedFd) -> io::Result<Option<Option<OwnedFd>>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = loop {
        let buffers = &mut [IoSliceMut::new(&mut byte)];
        match rustix::net::recvmsg(socket, buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            other => break other?,
        }
    };
    if received.bytes == 0 {
        return Ok(None);
    }
    let fds = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => rights.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    Ok(Some(fds.last()))
}
