//! Putting files into the kernel's page cache unasked (FUSE_NOTIFY_STORE).
//!
//! The kernel waits, and cannot be interrupted, while a page that is to be stored is being read by someone: until that
//! read is answered. So:
//!
//! - Threads that answer requests never store.
//! - A thread that stores has descriptors of its own, and of them the image and one device that no request comes
//!   through. When the worker is killed while it waits, all others of the worker's descriptors close, the keeper sees
//!   that and starts a new worker, whose answer ends the wait.
//! - The page is mostly one that its reader is not about to ask for ([`super::follow`]), so that waits are rare.
//! - Where keeper and worker are killed both at just such a moment, nobody would answer, and the wait would never end.
//!   So stores are made only where the kernel itself gives requests up after a time (FUSE_REQUEST_TIMEOUT, Linux
//!   6.14), which is asked to be [`LONGEST_REQUEST_SECONDS`]. The administrator can end it at once by
//!   /sys/fs/fuse/connections/N/abort.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use super::operations::node_of;
use super::wire;
use super::worker::Answer;
use crate::image::squashfs::{Block, Inode, Squashfs};
use crate::sys::process;
use crate::sys::slots::SlotTable;

/// A request that has not been answered for so long never will be.
pub const LONGEST_REQUEST_SECONDS: u16 = 3600;

/// What the threads that store have in common.
pub struct Store<'a> {
    /// The image file, which they go on reading.
    pub image: &'a File,
    /// The device that stores go through, once the file system is mounted.
    pub device: &'a OnceLock<OwnedFd>,
    /// Where the keeper sees that a store is under way.
    pub slots: &'a SlotTable,
}

/// One thread's right to store.
pub struct Storer<'a> {
    shared: &'a Store<'a>,
    /// Whether this thread has descriptors of its own.
    detached: Cell<bool>,
}

impl<'a> Storer<'a> {
    /// For the thread that calls.
    pub fn new(shared: &'a Store<'a>) -> Self {
        Self { shared, detached: Cell::new(false) }
    }

    /// Puts the whole of a file into the page cache.
    ///
    /// # Errors
    /// ENOENT when the kernel has not looked the file up yet, EIO when it is damaged, ENOSYS where stores are not made.
    pub fn store(&self, image: &Squashfs, inode: &Inode) -> io::Result<()> {
        let Store { device, slots, .. } = self.shared;
        let device = device.get().filter(|_| slots.may_store().load(Ordering::Relaxed) == 1);
        let device = device.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSYS))?;
        let broken = |_| io::Error::from_raw_os_error(libc::EIO);
        let size = u32::try_from(inode.size).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
        let mut notice = Answer::default();
        notice.put(&wire::StoreOut { node: node_of(image, inode.reference), size, ..Default::default() });
        for index in 0..inode.block_count() {
            match image.block(inode, index).map_err(broken)? {
                Block::Hole(length) => notice.put_zeroes(length),
                Block::Data(bytes) => notice.put_cached(bytes),
            }
        }
        self.detach(device)?;
        slots.storing().fetch_add(1, Ordering::SeqCst);
        let stored = notice.send_as(device.as_fd(), 0, wire::NOTIFY_STORE);
        slots.storing().fetch_sub(1, Ordering::SeqCst);
        stored
    }

    /// Gives the thread descriptors of its own.
    fn detach(&self, device: &OwnedFd) -> io::Result<()> {
        if !self.detached.get() {
            process::keep_to_itself(&[self.shared.image.as_fd(), device.as_fd()])?;
            self.detached.set(true);
        }
        Ok(())
    }
}
