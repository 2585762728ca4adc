//! The worker: parses the image and answers requests, a thread for each queue. It may die at any moment.
//!
//! A thread reads a request into its slot, answers it, and notes in the slot that it did. What a dead worker left
//! unanswered in a slot the next one answers first. A request that was being tried again when a worker died is
//! blamed ([`super::keeper`]); a blamed one is tried alone, so that blame falls on no other; with enough blame it
//! is answered EIO.

use std::fs::File;
use std::io::IoSlice;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::Scope;

use zerocopy::{Immutable, IntoBytes};

use super::keeper::ENOUGH_BLAME;
use super::message::{self, HAND_OVER, Message};
use super::operations::{self, Files};
use super::store::{Store, Storer};
use super::turns::{Turn, Turns};
use super::walk::{Walk, share_a_core};
use super::{Owner, sandbox, wire};
use crate::image::squashfs::Bytes;
use crate::sys::slots::{Slot, SlotTable};
use crate::sys::{process, processors};

/// The worker's exit status when the file system was unmounted: its work is done.
pub const UNMOUNTED: i32 = 0;
/// The worker's exit status when it could not start or a queue failed.
const FAILED: i32 = 1;

/// Most threads that decode ahead of readers; they sleep while there is nothing to do.
const MOST_AHEAD: usize = 4;
const STACK_BYTES: usize = 512 << 10;

/// What a worker must know besides its descriptors.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Where the file system starts in the image file, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
    /// Whom the files belong to.
    pub owner: Owner,
}

/// Makes itself ready, waits for the keeper's queues and serves them until the file system is unmounted. Ends the
/// process.
pub fn run(
    image: &File,
    options: Options,
    slots: &SlotTable,
    start: &[PathBuf],
    keeper: BorrowedFd<'_>,
) -> ! {
    process::set_name_of_server(c"skiff-worker");
    process::tune_allocator();
    let (Ok(slots), Ok(image)) = (slots.remapped(), image.try_clone()) else { process::exit(FAILED) };
    let mine = processors::mine();
    let two_cores = matches!(*mine, [one, other] if !share_a_core(one, other));
    // Before any thread is started: each inherits what is forbidden.
    sandbox::enter();
    let image = Arc::new(image);
    let walk = Arc::new(Walk::new(two_cores));
    let files = Files::new(Arc::clone(&image), options, Arc::clone(&walk));
    let (device, slots) = (OnceLock::new(), &slots);
    let store = Store { image: &image, device: &device, slots };
    let processors = mine.len().max(1);
    let (alone, turns) = (Mutex::new(()), Turns::new(processors, walk));
    let shared = Shared { files: &files, slots, alone: &alone, turns: &turns };
    std::thread::scope(|scope| {
        let (files, shared, store, mine) = (&files, &shared, &store, mine.as_slice());
        // All threads wait for work before there is any: any slot may hold a request of a dead worker, and the
        // first container waits for its first answer.
        for number in 0..processors.min(MOST_AHEAD) {
            spawn(scope, move || {
                if number == 0 {
                    files.decode_start(start);
                }
                // A processor that expects to idle for less than half a millisecond takes no work from another's queue:
                // of two, one was often seen idle while both of these threads were queued on the other.
                let processor = mine.get(number).copied().filter(|_| mine.len() == 2);
                if let Some(processor) = processor {
                    processors::keep_to(processor);
                }
                files.read_ahead(&Storer::new(store), processor);
            });
        }
        let others: Vec<Sender<OwnedFd>> = (1..slots.len())
            .map(|index| {
                let (give, take) = channel();
                spawn(scope, move || {
                    if let Ok(queue) = take.recv() {
                        serve_queue(shared, index, &queue);
                    }
                });
                give
            })
            .collect();
        // The keeper ended before there was anything to serve.
        let Ok(Some(Message { kind: HAND_OVER, mut fds })) = message::receive(keeper) else {
            process::exit(UNMOUNTED)
        };
        let Some(last) = fds.pop() else { process::exit(FAILED) };
        device.get_or_init(|| last);
        let mut queues = fds.into_iter();
        let Some(first) = queues.next() else { process::exit(FAILED) };
        for (other, queue) in others.iter().zip(queues) {
            // Its receiver is a thread of this process that waits for it.
            let _ = other.send(queue);
        }
        serve_queue(shared, 0, &first);
    });
    process::exit(FAILED)
}

fn spawn<'scope>(scope: &'scope Scope<'scope, '_>, work: impl FnOnce() + Send + 'scope) {
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).name("skiff-worker".into());
    if thread.spawn_scoped(scope, work).is_err() {
        process::exit(FAILED);
    }
}

/// What the threads that serve queues have in common.
struct Shared<'a> {
    files: &'a Files,
    slots: &'a SlotTable,
    /// Held by who tries a request that is blamed.
    alone: &'a Mutex<()>,
    turns: &'a Turns,
}

/// Ends the process when the queue does.
fn serve_queue(shared: &Shared<'_>, index: usize, queue: &OwnedFd) {
    let Shared { files, slots, alone, turns } = *shared;
    let (mut slot, queue) = (slots.slot(index), queue.as_fd());
    let mut answer = Answer::default();
    take_over(files, &slot, queue, alone, &mut answer);
    let mut turn = Turn::new(turns);
    loop {
        match turn.receive(&mut slot, queue) {
            Ok(()) => {}
            Err(error) => match error.raw_os_error() {
                Some(libc::ENODEV) => process::exit(UNMOUNTED),
                // The request was interrupted before it was read, or the read was.
                Some(libc::ENOENT | libc::EINTR) => continue,
                _ => process::exit(FAILED),
            },
        }
        if let Some((header, bytes)) = wire::request(slot.request()) {
            turn.share(&header, bytes, || files.takes_long(&header, bytes), queue);
            if operations::gives_up(&header, bytes) {
                slots.may_store().store(1, Ordering::Relaxed);
            }
            answer_request(files, &slot, queue, &mut answer);
            slot.finish(header.unique);
            let store = slots.may_store().load(Ordering::Relaxed) == 1;
            files.after(&header, bytes, store);
        }
    }
}

/// Answers what the worker before this one left unanswered in the slot.
fn take_over(files: &Files, slot: &Slot<'_>, queue: BorrowedFd<'_>, alone: &Mutex<()>, answer: &mut Answer) {
    let Some((header, _)) = wire::request(slot.request()) else { return };
    if header.unique == slot.answered().load(Ordering::Acquire) {
        return;
    }
    let blame = slot.blame().load(Ordering::Relaxed);
    if blame >= ENOUGH_BLAME {
        answer.error(libc::EIO);
        answer.send(queue, header.unique);
    } else {
        let _alone = (blame > 0).then(|| alone.lock());
        slot.retrying().store(1, Ordering::Relaxed);
        answer_request(files, slot, queue, answer);
        slot.retrying().store(0, Ordering::Relaxed);
    }
    slot.finish(header.unique);
}

fn answer_request(files: &Files, slot: &Slot<'_>, queue: BorrowedFd<'_>, answer: &mut Answer) {
    let Some((header, bytes)) = wire::request(slot.request()) else { return };
    // A panic is a bug, and the reader's answer to it is EIO; other requests go on.
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        answer.clear();
        files.answer(&header, bytes, answer)
    }));
    let wants_answer = outcome.unwrap_or_else(|_| {
        answer.error(libc::EIO);
        true
    });
    if wants_answer {
        answer.send(queue, header.unique);
    }
}

/// The answer to one request; its buffers are used again for the next.
#[derive(Default)]
pub struct Answer {
    errno: i32,
    /// The result of everything but READ.
    pub bytes: Vec<u8>,
    /// The result of READ: parts of cached blocks, sent as they are, and of [`Answer::stored`].
    pieces: Vec<Piece>,
    /// What is read from blocks that are not compressed; only so much of it counts.
    stored: Vec<u8>,
    stored_bytes: usize,
}

/// A part of a READ's result.
enum Piece {
    Bytes(Bytes),
    Stored(Range<usize>),
    Zeroes(usize),
}

/// What a hole is sent from.
static ZEROES: [u8; 128 << 10] = [0; 128 << 10];

impl Answer {
    fn clear(&mut self) {
        self.errno = 0;
        self.bytes.clear();
        self.pieces.clear();
        self.stored_bytes = 0;
    }

    /// The answer is this errno and nothing else.
    pub fn error(&mut self, errno: i32) {
        self.clear();
        self.errno = errno;
    }

    /// Adds a fixed structure to the result.
    pub fn put(&mut self, structure: &(impl IntoBytes + Immutable)) {
        self.bytes.extend_from_slice(structure.as_bytes());
    }

    /// Adds bytes of a cached block to the result of a READ.
    pub fn put_cached(&mut self, bytes: Bytes) {
        self.pieces.push(Piece::Bytes(bytes));
    }

    /// Adds so many bytes to the result of a READ, to be filled.
    pub fn put_stored(&mut self, length: usize) -> &mut [u8] {
        let part = self.stored_bytes..self.stored_bytes + length;
        if self.stored.len() < part.end {
            self.stored.resize(part.end, 0);
        }
        self.stored_bytes = part.end;
        self.pieces.push(Piece::Stored(part.clone()));
        self.stored.get_mut(part).unwrap_or_default()
    }

    /// Adds zeroes to the result of a READ.
    pub fn put_zeroes(&mut self, mut length: usize) {
        while length > 0 {
            let piece = length.min(ZEROES.len());
            self.pieces.push(Piece::Zeroes(piece));
            length -= piece;
        }
    }

    /// Sends it. A failure means that the request is not waited for any more: it was interrupted, answered by
    /// the worker before this one (ENOENT), or the file system is gone, which the next read of the queue tells.
    fn send(&mut self, queue: BorrowedFd<'_>, unique: u64) {
        if self.errno != 0 {
            self.bytes.clear();
            self.pieces.clear();
        }
        let _ = self.send_as(queue, unique, -self.errno);
        self.pieces.clear();
    }

    /// Sends what was put in, with this header.
    pub fn send_as(&self, device: BorrowedFd<'_>, unique: u64, code: i32) -> std::io::Result<()> {
        let pieces = self.pieces.iter().map(|piece| match piece {
            Piece::Bytes(bytes) => bytes,
            Piece::Stored(part) => self.stored.get(part.clone()).unwrap_or_default(),
            Piece::Zeroes(length) => &ZEROES[..*length],
        });
        let bytes: Vec<&[u8]> = std::iter::once(self.bytes.as_slice()).chain(pieces).collect();
        let length = bytes.iter().map(|bytes| bytes.len()).sum();
        let header = wire::answer_header(unique, code, length);
        let parts: Vec<IoSlice<'_>> =
            std::iter::once(header.as_slice()).chain(bytes).map(IoSlice::new).collect();
        rustix::io::writev(device, &parts)?;
        Ok(())
    }
}
