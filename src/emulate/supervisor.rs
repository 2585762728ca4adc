//! The process that answers: threads that receive calls one after the other, and each go on with their own.
//!
//! ```text
//! main thread    waits until no filtered process is left, and ends the process
//! one thread     has the turn: receives and answers
//! one thread     takes the turn from who is long at one answer ([`Turn`]), for another thread
//! ```
//!
//! A call may take as long as it likes: its file may lie on a file system that a filtered process serves. It holds up
//! others for some milliseconds, for there is always one more thread, up to [`MOST_THREADS`].

use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::Scope;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::create;
use super::files;
use super::identity::{Capability, Identities, Identity, SAME};
use super::known::Known;
use super::names;
use super::record::Owner;
use super::stat;
use super::table::{self, Call, Set, Which};
use super::target::{self, Outcome, Target, View};
use super::turn::Turn;
use crate::sys::notify::{Answer, Listener, Notification};
use crate::sys::process;

/// So many calls can be under way.
const MOST_THREADS: usize = 64;
/// Threads that wait for the turn; more than that end.
const MOST_WAITING: usize = 2;
const STACK_BYTES: usize = 256 << 10;

struct Supervisor {
    listener: Listener,
    /// What the program starts as: root with the capabilities that it was given, which are this process's too.
    root: Identity,
    identities: Identities,
    known: Known,
    /// So many calls have changed root directories.
    roots: AtomicU64,
    proc: OwnedFd,
    turn: Turn,
    threads: AtomicUsize,
    waiting: AtomicUsize,
}

/// Answers until no filtered process is left, and ends this process.
pub fn run(listener: OwnedFd, proc: OwnedFd) -> ! {
    let Ok(listener) = Listener::new(listener) else { process::exit(1) };
    let supervisor = Supervisor {
        listener,
        root: Identity::root(),
        identities: Identities::default(),
        known: Known::default(),
        roots: AtomicU64::new(0),
        proc,
        turn: Turn::default(),
        threads: AtomicUsize::new(0),
        waiting: AtomicUsize::new(0),
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        let watching = thread.spawn_scoped(scope, || {
            loop {
                supervisor.turn.wait_for_long_answer();
                supervisor.leave_waiting(scope);
            }
        });
        if watching.is_err() || !supervisor.start_thread(scope) {
            process::exit(1);
        }
        // Being hung up is told unasked.
        let mut ended = [PollFd::from_borrowed_fd(supervisor.listener.as_fd(), PollFlags::empty())];
        while !matches!(rustix::event::poll(&mut ended, None), Ok(count) if count > 0) {}
        process::exit(0)
    })
}

impl Supervisor {
    /// False when there can be no more.
    fn start_thread<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> bool {
        if self.threads.fetch_add(1, Ordering::Relaxed) >= MOST_THREADS {
            self.threads.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        let started = thread.spawn_scoped(scope, move || self.work()).is_ok();
        if !started {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.threads.fetch_sub(1, Ordering::Relaxed);
        }
        started
    }

    /// One thread less waits for calls.
    fn leave_waiting<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        if self.waiting.fetch_sub(1, Ordering::Relaxed) == 1 {
            // Where there can be no other thread, the next call waits for one that is done.
            self.start_thread(scope);
        }
    }

    fn work(&self) {
        // Without the programs' ENOSYS it would go on without answers.
        let Ok(mut view) = View::new(&self.proc) else { process::exit(1) };
        loop {
            self.answer_in_turn(&mut view);
            if self.waiting.fetch_add(1, Ordering::Relaxed) >= MOST_WAITING {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                self.threads.fetch_sub(1, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Waits for the turn, and answers calls until it is lost.
    fn answer_in_turn(&self, view: &mut View) {
        let token = self.turn.take();
        loop {
            let notification = match self.listener.receive() {
                Ok(notification) => notification,
                // Killed before it was heard, or nobody is left: the main thread will tell.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::ENOENT)) => {
                    std::thread::yield_now();
                    continue;
                }
                Err(_) => process::exit(1),
            };
            let architecture = table::architecture(notification.architecture);
            let call = architecture.and_then(|architecture| architecture.call(notification.number));
            self.turn.begin(&token);
            let answer = match call {
                // A mistake here is one failed call, not a program that waits for ever.
                Some(call) if notification.thread > 0 => {
                    catch_unwind(AssertUnwindSafe(|| self.answer(&notification, call, view)))
                }
                // A thread that has no number here cannot be looked at.
                _ => Ok(Answer::Continue),
            };
            let held = self.turn.end(&token);
            self.listener.answer(notification.id, answer.unwrap_or(Answer::Error(libc::EIO)));
            if !held {
                return;
            }
        }
    }

    fn who(&self, thread: libc::pid_t) -> Identity {
        let set = self.identities.of(thread);
        let who = set.map_or_else(|| self.root.clone(), |who| Identity::clone(&who));
        who.without_kept(|| target::executed(thread))
    }

    /// Whose are the files that it makes.
    fn owner_of_files(&self, thread: libc::pid_t) -> Owner {
        let who = self.identities.of(thread);
        who.map_or(Owner::default(), |who| Owner { user: who.user.files, group: who.group.files })
    }

    fn may_set(who: &Identity, which: Which) -> bool {
        who.has(match which {
            Which::User => Capability::Setuid,
            Which::Group => Capability::Setgid,
        })
    }

    fn set_ids(&self, notification: &Notification, which: Which, set: Set) -> Answer {
        let mut who = self.who(notification.thread);
        let [first, second, third, ..] = notification.arguments.map(|argument| argument as u32);
        let before = *who.ids(which);
        let after = match before.after(set, [first, second, third], Self::may_set(&who, which)) {
            Ok(after) => after,
            Err(errno) => return Answer::Error(errno),
        };
        let value = if set == Set::Files { i64::from(before.files) } else { 0 };
        if after == before {
            return Answer::Value(value);
        }
        match which {
            Which::User => who.set_user(after, set),
            Which::Group => who.group = after,
        }
        match self.identities.set(notification.thread, who) {
            Ok(()) => Answer::Value(value),
            Err(errno) => Answer::Error(errno),
        }
    }

    fn answer(&self, notification: &Notification, call: Call, view: &mut View) -> Answer {
        view.heed(self.roots.load(Ordering::Relaxed));
        let mut target = Target { listener: &self.listener, notification, view, known: &self.known };
        let thread = notification.thread;
        let answer = match call {
            Call::Get(which, get) => Ok(match self.identities.of(thread) {
                Some(who) => Answer::Value(i64::from(who.get(which, get))),
                // The kernel knows.
                None => Answer::Continue,
            }),
            Call::Set(which, set) => Ok(self.set_ids(notification, which, set)),
            Call::GetThree(which) => self.get_three(&target, which),
            Call::Getgroups => self.get_groups(&target),
            Call::Setgroups => self.set_groups(&target),
            Call::Capset => self.set_capabilities(&target),
            Call::EnterRoot => {
                self.roots.fetch_add(1, Ordering::Relaxed);
                Ok(Answer::Continue)
            }
            _ if stat::concerns(call) => Ok(stat::answer(&mut target, call)),
            _ if names::concerns(call) => Ok(names::answer(&mut target, call, self.owner_of_files(thread))),
            _ if create::concerns(notification, call) => {
                create::answer(&mut target, call, self.owner_of_files(thread))
            }
            _ => files::answer(&mut target, call, &self.who(thread)),
        };
        answer.unwrap_or_else(|errno| Answer::Error(errno.raw_os_error()))
    }

    fn get_three(&self, target: &Target<'_>, which: Which) -> Outcome<Answer> {
        let Some(who) = self.identities.of(target.notification.thread) else { return Ok(Answer::Continue) };
        let ids = who.ids(which);
        for (index, id) in [ids.real, ids.effective, ids.saved].into_iter().enumerate() {
            target.write(target.argument(index), &[id])?;
        }
        Ok(Answer::Value(0))
    }

    fn get_groups(&self, target: &Target<'_>) -> Outcome<Answer> {
        let who = self.identities.of(target.notification.thread);
        let Some(groups) = who.and_then(|who| who.groups.clone()) else { return Ok(Answer::Continue) };
        let room = target.number(0).cast_signed();
        if room < 0 || room > 0 && (room as usize) < groups.len() {
            return Err(Errno::INVAL);
        }
        if room > 0 {
            target.write(target.argument(1), &groups)?;
        }
        Ok(Answer::Value(groups.len() as i64))
    }

    fn set_groups(&self, target: &Target<'_>) -> Outcome<Answer> {
        /// `NGROUPS_MAX` of linux/limits.h.
        const MOST_GROUPS: u32 = 65536;
        let mut who = self.who(target.notification.thread);
        if !Self::may_set(&who, Which::Group) {
            return Err(Errno::PERM);
        }
        let count = target.number(0);
        if count > MOST_GROUPS {
            return Err(Errno::INVAL);
        }
        let bytes = target.read(target.argument(1), count as usize * 4)?;
        let (words, _) = bytes.as_chunks();
        let mut groups: Vec<u32> = words.iter().map(|word| u32::from_ne_bytes(*word)).collect();
        if groups.contains(&SAME) {
            return Err(Errno::INVAL);
        }
        groups.sort_unstable();
        who.groups = Some(groups.into());
        self.identities
            .set(target.notification.thread, who)
            .map(|()| Answer::Value(0))
            .map_err(Errno::from_raw_os_error)
    }

    /// The kernel does it, or says what is wrong with it: really everybody is root.
    fn set_capabilities(&self, target: &Target<'_>) -> Outcome<Answer> {
        let thread = target.notification.thread;
        if let (Some(who), Ok(effective)) = (self.identities.of(thread), target.read(target.argument(1), 4)) {
            let mut who = Identity::clone(&who);
            let word = effective.try_into().map_err(|_| Errno::FAULT)?;
            who.set_capabilities(u32::from_ne_bytes(word), target::executed(thread));
            self.identities.set(thread, who).map_err(Errno::from_raw_os_error)?;
        }
        Ok(Answer::Continue)
    }
}
