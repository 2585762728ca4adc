//! Steps of a build: a program in a container, or work beside one, done in a process of its own and waited for.
//!
//! ```text
//! B  skiff build      waits; lets go of the leash when it is asked to stop
//!  └─ W  warden       holds back all signals, adopts orphans; ends with the step, when the leash is let go or B is
//!      │              gone; and then every process that the step has left behind is killed
//!      └─ C           enters the namespaces; becomes the program, or does the work and ends
//! ```
//!
//! So nothing of a step outlives it: no daemon that a package's script started, no compiler after Ctrl-C, and no
//! mount, since all of them are in namespaces of those processes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rustix::fs::{Mode, OFlags, inotify};
use rustix::pipe::PipeFlags;
use serde::{Deserialize, Serialize};

use super::rootfs::{self, Lower};
use super::{Server, namespaces, request};
use crate::emulate::{self, Scope};
use crate::error::{Context, Error, Kind, Result};
use crate::plan::{IdMap, Root, RunPlan};
use crate::serve::{self, Meeting};
use crate::sys::process::{self, Change, Fork};
use crate::sys::signals::{self, STOP, Watch};
use crate::sys::{reaper, signals::Inherited};

pub use crate::sys::process::Ended;

/// Runs `plan` as [`super::exec`] does, in a child, feeds it, and waits for its end.
///
/// # Errors
/// As [`super::exec`]; [`Kind::Interrupted`] when skiff was asked to stop.
pub fn run(plan: &RunPlan, server: Option<Server>, feed: Option<&mut Feed>) -> Result<Ended> {
    let (ended, _) = carry_out(true, feed, || match super::exec(plan, server)? {})?;
    Ok(ended)
}

/// What a program reads from a pipe, one packet after the other, while it runs.
#[derive(Debug)]
pub struct Feed {
    packets: VecDeque<Vec<u8>>,
    /// Until all is written and the program has begun to read: without a writer it could not open the pipe.
    write: Option<OwnedFd>,
    /// Has something to read when somebody has read from the pipe (inotify(7)).
    watch: OwnedFd,
}

impl Feed {
    /// `write` is an end of the pipe at `path` that does not block.
    ///
    /// # Errors
    /// Those of inotify(7).
    pub fn new(path: &Path, write: File, packets: VecDeque<Vec<u8>>) -> std::io::Result<Self> {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&watch, path, inotify::WatchFlags::ACCESS)?;
        let mut feed = Self { packets, write: Some(write.into()), watch };
        feed.fill();
        Ok(feed)
    }

    /// Packets that have not gone into the pipe.
    pub fn unwritten(&self) -> usize {
        self.packets.len()
    }

    /// Writes as much as the pipe takes.
    fn fill(&mut self) {
        let Some(write) = &self.write else { return };
        while let Some(packet) = self.packets.front()
            && rustix::io::write(write, packet).is_ok()
        {
            self.packets.pop_front();
        }
    }

    /// Somebody has read.
    fn go_on(&mut self) {
        let mut events = [0; 4096];
        while rustix::io::read(&self.watch, &mut events).is_ok_and(|length| length > 0) {}
        self.fill();
        if self.packets.is_empty() {
            self.write = None;
        }
    }
}

/// A root file system beside which work is done.
pub struct Beside<'a> {
    /// What it is made of; it has no mounts.
    pub plan: &'a RunPlan,
    /// The file of a [`Root::Image`].
    pub image: Option<&'a File>,
    /// An empty directory, where it is put together.
    pub stage: &'a Path,
}

/// Does `work` in a child that stays in the host's root directory, in a user and a mount namespace of its own; it is
/// given the directories that show the roots. What it returns is handed back.
///
/// # Errors
/// That of `work`; namespaces and mounts that cannot be made; [`Kind::Interrupted`] when skiff was asked to stop.
pub fn beside(
    ids: &IdMap,
    roots: &[Beside<'_>],
    work: impl FnOnce(&[PathBuf]) -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    answer_of(carry_out(true, None, || {
        namespaces::enter(ids)?;
        let roots = roots.iter().map(assemble).collect::<Result<Vec<_>>>()?;
        work(&roots)
    })?)
}

/// Emulates what the ids do not allow, for the programs that this process starts: in work beside a root.
pub fn emulate_root(ids: &IdMap) {
    match ids {
        IdMap::Root { .. } => emulate::begin(Scope::Root).tell(),
        IdMap::Subordinate { .. } | IdMap::Whole => emulate::begin(Scope::Devices).tell(),
        IdMap::Caller { .. } => {}
    }
}

/// Does `work` in a child as the caller, with no namespaces.
///
/// # Errors
/// As [`beside`].
pub fn on_host(work: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    answer_of(carry_out(true, None, work)?)
}

/// Does `work` in a child as root of the user namespace, to the end even when skiff was asked to stop: for what takes
/// away what a build has made.
///
/// # Errors
/// As [`beside`].
pub fn clean_up(ids: &IdMap, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let done = carry_out(false, None, || {
        signals::ignore_requests_to_end();
        namespaces::enter(ids)?;
        work().map(|()| Vec::new())
    })?;
    answer_of(done).map(drop)
}

fn answer_of((ended, answer): (Ended, Vec<u8>)) -> Result<Vec<u8>> {
    match ended {
        Ended::Exited(0) => Ok(answer),
        Ended::Exited(status) => Err(Error::host(format!("a build step ended with status {status}"))),
        Ended::Killed(signal) => Err(Error::host(format!("a build step was killed by signal {signal}"))
            .hint("the system kills processes when memory is used up (dmesg, or the job's log, tells)")),
    }
}

/// Puts a root together; gives the directory that shows it.
fn assemble(root: &Beside<'_>) -> Result<PathBuf> {
    let Beside { plan, image, stage } = root;
    let lower = match (&plan.root, image) {
        (Root::Directory(path), _) => Lower::Directory(path.0.clone()),
        (Root::Image { .. }, Some(image)) => {
            match request(&plan.serving(), image, false)?.map(serve::meet).transpose()? {
                Some(Meeting::First(starter)) => namespaces::serve_here(starter)?,
                _ => return Err(Error::new(Kind::Internal, "the image's server is another's")),
            }
        }
        (Root::Image { .. }, None) => return Err(Error::new(Kind::Internal, "the image has no file")),
    };
    let tried = || "cannot keep the working directory".to_owned();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let here = rustix::fs::open(".", flags, Mode::empty()).tried(tried)?;
    let mask = rustix::process::umask(Mode::empty());
    let (_, name) = rootfs::assemble(plan, lower, &stage.to_string_lossy())?;
    rustix::process::umask(mask);
    rustix::process::fchdir(&here).tried(tried)?;
    Ok(stage.join(name))
}

/// An error on its way from a child.
#[derive(Serialize, Deserialize)]
struct Told {
    kind: u8,
    text: String,
    errno: Option<i32>,
    hint: Option<String>,
}

const KINDS: [Kind; 7] =
    [Kind::Usage, Kind::Image, Kind::Host, Kind::Io, Kind::Program, Kind::Interrupted, Kind::Internal];

/// What begins what a child says: a result, or an error.
const RESULT: u8 = b'+';
const ERROR: u8 = b'-';

fn tell(error: &Error) -> Vec<u8> {
    let kind = KINDS.iter().position(|kind| *kind == error.kind).unwrap_or(KINDS.len() - 1) as u8;
    let told = Told { kind, text: error.to_string(), errno: error.errno(), hint: error.hint.clone() };
    let text = serde_json::to_vec(&told).unwrap_or_default();
    [&[ERROR], text.as_slice()].concat()
}

fn retold(bytes: &[u8]) -> Error {
    let Ok(told) = serde_json::from_slice::<Told>(bytes) else {
        return Error::new(Kind::Internal, "a build step said something that makes no sense");
    };
    let kind = KINDS.get(usize::from(told.kind)).copied().unwrap_or(Kind::Internal);
    let cause = told.errno.map(std::io::Error::from_raw_os_error);
    // The cause ends the text; it is taken from there, to be a cause again.
    let error = match cause {
        Some(cause) => {
            let worded = Error::new(Kind::Io, "")
                .because(std::io::Error::from_raw_os_error(cause.raw_os_error().unwrap_or_default()));
            match told.text.strip_suffix(&worded.to_string()) {
                Some(text) => Error::new(kind, text).because(cause),
                None => Error::new(kind, told.text),
            }
        }
        None => Error::new(kind, told.text),
    };
    Error { hint: told.hint, ..error }
}

/// Does `work` in a child with a warden; gives how it ended and what it returned. With `stops` it ends when skiff is
/// asked to stop.
fn carry_out(
    stops: bool,
    feed: Option<&mut Feed>,
    work: impl FnOnce() -> Result<Vec<u8>>,
) -> Result<(Ended, Vec<u8>)> {
    let tried = || "cannot start a build step".to_owned();
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context(Kind::Host, tried);
    let (heard, say) = pipe()?;
    let (leash_end, leash) = pipe()?;
    let (gone, alive) = pipe()?;
    let held = signals::hold_stop().context(Kind::Host, tried)?;
    match process::fork().context(Kind::Host, tried)? {
        Fork::Child => {
            drop((heard, leash, gone));
            drop(held);
            guard(Ends { say, leash: leash_end, alive }, work)
        }
        Fork::Parent(warden) => {
            drop((work, say, leash_end, alive));
            let answer = listen(stops, feed, (heard, leash), &gone);
            let ended = process::wait_for(warden).context(Kind::Host, tried)?;
            drop(held);
            if stops && STOP.load(Ordering::Relaxed) {
                return Err(Error::new(Kind::Interrupted, "stopped"));
            }
            match answer.context(Kind::Host, tried)?.split_first() {
                Some((&ERROR, told)) => Err(retold(told)),
                Some((_, answer)) => Ok((ended, answer.to_vec())),
                None => Ok((ended, Vec::new())),
            }
        }
    }
}

/// Takes what the child says until the warden is gone, and feeds it; lets go of the leash when skiff is asked to stop.
fn listen(
    stops: bool,
    mut feed: Option<&mut Feed>,
    (heard, leash): (OwnedFd, OwnedFd),
    gone: &OwnedFd,
) -> std::io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut heard = Some(File::from(heard));
    let mut leash = Some(leash);
    let mut buffer = vec![0; 64 << 10];
    loop {
        if stops && STOP.load(Ordering::Relaxed) {
            leash = None;
        }
        let fed = feed.as_deref().filter(|feed| feed.write.is_some()).map(|feed| feed.watch.as_fd());
        let said = heard.as_ref().map(AsFd::as_fd);
        let files: Vec<_> = [Some(gone.as_fd()), said, fed].into_iter().flatten().collect();
        let (said, fed) = (said.map(|_| 1), fed.map(|_| files.len() - 1));
        let ready = signals::wait_for_input(&files)?;
        let is_ready = |index: Option<usize>| index.is_some_and(|index| ready[index]);
        if is_ready(said)
            && let Some(file) = &mut heard
        {
            match file.read(&mut buffer)? {
                0 => heard = None,
                length => answer.extend_from_slice(&buffer[..length]),
            }
        } else if ready[0] {
            drop(leash);
            return Ok(answer);
        } else if is_ready(fed)
            && let Some(feed) = &mut feed
        {
            feed.go_on();
        }
    }
}

/// The ends of pipes that a warden has.
struct Ends {
    say: OwnedFd,
    leash: OwnedFd,
    /// Closed by the warden's end.
    alive: OwnedFd,
}

/// The warden: starts the child, waits for its end or that of the leash, and ends what is left.
fn guard(ends: Ends, work: impl FnOnce() -> Result<Vec<u8>>) -> ! {
    let Ends { say, leash, alive } = ends;
    let inherited = signals::hold_all();
    let ready = reaper::adopt_orphans().and_then(|()| process::fork());
    let child = match ready {
        Ok(Fork::Child) => {
            drop((leash, alive));
            work_and_end(&inherited, say, work)
        }
        Ok(Fork::Parent(child)) => child,
        Err(error) => {
            let error = Error::host("cannot start a build step").because(error);
            let _ = File::from(say).write_all(&tell(&error));
            process::exit(255)
        }
    };
    drop(work);
    process::set_name(c"skiff-step");
    let ended = Watch::new().and_then(|watch| {
        process::close_all_but(&[leash.as_fd(), alive.as_fd(), watch.as_fd()])?;
        wait_for_end(child, &leash, &watch)
    });
    reaper::kill_children();
    match ended {
        Ok(Some(ended)) => reaper::end_as(ended),
        Ok(None) => reaper::end_as(Ended::Killed(libc::SIGKILL)),
        Err(_) => process::exit(255),
    }
}

/// How the child ended; none when the leash was let go before.
fn wait_for_end(child: libc::pid_t, leash: &OwnedFd, watch: &Watch) -> std::io::Result<Option<Ended>> {
    use nix::sys::wait::WaitPidFlag;
    use rustix::event::{PollFd, PollFlags};
    loop {
        let mut files = [PollFd::new(leash, PollFlags::IN), PollFd::new(watch, PollFlags::IN)];
        match rustix::event::poll(&mut files, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !files[0].revents().is_empty() {
            return Ok(None);
        }
        while watch.next()?.is_some() {}
        // Others than the child are orphans, which need a parent to be gone.
        while let Some((pid, change)) = process::look_at_any(WaitPidFlag::WNOHANG)? {
            if let (true, Change::Ended(ended)) = (pid == child, change) {
                return Ok(Some(ended));
            }
        }
    }
}

fn work_and_end(inherited: &Inherited, say: OwnedFd, work: impl FnOnce() -> Result<Vec<u8>>) -> ! {
    signals::release_stop();
    inherited.restore();
    let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    let (status, said) = match worked {
        Ok(Ok(answer)) => (0, [&[RESULT], answer.as_slice()].concat()),
        Ok(Err(error)) => (255, tell(&error)),
        Err(_) => (255, tell(&Error::new(Kind::Internal, "a build step panicked"))),
    };
    // The parent is gone, or hears nothing and says so.
    let _ = File::from(say).write_all(&said);
    process::exit(status)
}
