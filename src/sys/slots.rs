//! The table of requests in flight, in memory that keeper and worker share.
//!
//! One slot a thread. The kernel writes a FUSE request straight into the slot, and the slot's `answered` says which
//! request of it was answered last: when the worker dies, the next one finds in its slot every request that is
//! still waiting for an answer.
//!
//! ```text
//! slot i   0  answered: u64   the `unique` of the last request that was answered
//!          8  blame:    u32   how much the request is suspected of killing workers (see serve::keeper)
//!         12  retrying: u32   1 while a new worker answers it alone
//!       4096  request, 12 KiB: more than max_write and headers, else read(2) gives EINVAL
//! after the last slot
//!          0  may_store: u32  1 when the kernel may be given data unasked (see serve::store)
//!          4  storing:   u32  how many threads are at it
//! ```

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const SLOT_BYTES: usize = 16 << 10;
const REQUEST_AT: usize = 4 << 10;
/// What all threads share, after the slots.
const SHARED_BYTES: usize = 4 << 10;
/// The longest request that fits.
pub const REQUEST_BYTES: usize = SLOT_BYTES - REQUEST_AT;

/// The shared table; [`SlotTable::slot`] gives each thread its own slot.
pub struct SlotTable {
    memory: OwnedFd,
    base: NonNull<u8>,
    slots: usize,
}

// SAFETY: the mapping lives as long as the table, and all shared words in it are atomics. The request bytes are
// touched through a Slot only, and `Slot::receive` needs `&mut`.
unsafe impl Send for SlotTable {}
// SAFETY: as above.
unsafe impl Sync for SlotTable {}

impl SlotTable {
    /// A table of `slots` empty slots.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(slots: usize) -> io::Result<Self> {
        let memory = rustix::fs::memfd_create(c"skiff-requests", rustix::fs::MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&memory, table_bytes(slots) as u64)?;
        let base = map(memory.as_fd(), table_bytes(slots))?;
        Ok(Self { memory, base, slots })
    }

    /// Maps the table anew with every page present, as a worker must right after its fork: a page fault inside
    /// read(2) on /dev/fuse could be cut short by SIGKILL, and the request would be lost.
    ///
    /// # Errors
    /// Out of memory.
    pub fn remapped(&self) -> io::Result<Self> {
        let base = map(self.memory.as_fd(), table_bytes(self.slots))?;
        Ok(Self { memory: self.memory.try_clone()?, base, slots: self.slots })
    }

    /// How many slots there are.
    pub fn len(&self) -> usize {
        self.slots
    }

    /// Whether there is no slot.
    pub fn is_empty(&self) -> bool {
        self.slots == 0
    }

    /// Slot `index`. Each slot is for one thread at a time.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn slot(&self, index: usize) -> Slot<'_> {
        assert!(index < self.slots);
        // SAFETY: the mapping is `slots` times SLOT_BYTES long, so the slot lies inside it.
        let base = unsafe { self.base.add(index * SLOT_BYTES) };
        Slot { base, table: std::marker::PhantomData }
    }

    /// 1 when the kernel may be given data unasked.
    pub fn may_store(&self) -> &AtomicU32 {
        self.shared_word(0)
    }

    /// How many threads are giving the kernel data unasked.
    pub fn storing(&self) -> &AtomicU32 {
        self.shared_word(1)
    }

    fn shared_word(&self, index: usize) -> &AtomicU32 {
        debug_assert!(index < SHARED_BYTES / 4);
        // SAFETY: the mapping goes on for SHARED_BYTES after the slots, is page-aligned and lives as long as the
        // table; the word is only used as an atomic.
        unsafe { AtomicU32::from_ptr(self.base.add(self.slots * SLOT_BYTES + 4 * index).as_ptr().cast()) }
    }

    /// The memory itself, which a server keeps open.
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

impl Drop for SlotTable {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this length and nothing borrows it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), table_bytes(self.slots)) };
    }
}

fn table_bytes(slots: usize) -> usize {
    slots * SLOT_BYTES + SHARED_BYTES
}

fn map(memory: BorrowedFd<'_>, bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a new shared mapping at an address of the kernel's choice; MAP_POPULATE faults its pages in.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_POPULATE,
            memory.as_raw_fd(),
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(base.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
}

/// Waits until there is a request in `queue`, or the file system is unmounted, or for no reason.
pub fn wait_for_request(queue: BorrowedFd<'_>) {
    poll(queue, None);
}

/// Whether there is a request in `queue`.
pub fn has_request(queue: BorrowedFd<'_>) -> bool {
    poll(queue, Some(libc::timespec { tv_sec: 0, tv_nsec: 0 })) > 0
}

/// By ppoll(2), which every architecture has.
fn poll(queue: BorrowedFd<'_>, limit: Option<libc::timespec>) -> i32 {
    let mut waiting = libc::pollfd { fd: queue.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: one pollfd, and a limit that is null or outlives the call; the signal mask is left as it is.
    unsafe { libc::ppoll(&raw mut waiting, 1, limit, std::ptr::null()) }
}

/// One thread's slot.
pub struct Slot<'table> {
    base: NonNull<u8>,
    table: std::marker::PhantomData<&'table SlotTable>,
}

// SAFETY: see SlotTable.
unsafe impl Send for Slot<'_> {}

impl Slot<'_> {
    /// The `unique` of the request answered last.
    pub fn answered(&self) -> &AtomicU64 {
        // SAFETY: the slot is page-aligned and mapped for the table's life; the word is only used as an atomic.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().cast()) }
    }

    /// How much the request is suspected of killing workers.
    pub fn blame(&self) -> &AtomicU32 {
        // SAFETY: as `answered`; offset 8 is aligned for u32.
        unsafe { AtomicU32::from_ptr(self.base.add(8).as_ptr().cast()) }
    }

    /// 1 while a new worker answers it alone.
    pub fn retrying(&self) -> &AtomicU32 {
        // SAFETY: as `answered`; offset 12 is aligned for u32.
        unsafe { AtomicU32::from_ptr(self.base.add(12).as_ptr().cast()) }
    }

    /// The bytes of the slot's request, of which the first four are its length.
    pub fn request(&self) -> &[u8] {
        // SAFETY: the range lies in the slot and is initialised (a new memfd is zeroes). Only this thread's
        // `receive`, which needs `&mut self`, changes it.
        unsafe { std::slice::from_raw_parts(self.base.add(REQUEST_AT).as_ptr(), REQUEST_BYTES) }
    }

    /// Reads the next request of `queue` into the slot.
    ///
    /// # Errors
    /// EAGAIN when there is none; ENODEV when the file system is unmounted; ENOENT and EINTR when there was none after
    /// all.
    pub fn receive(&mut self, queue: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: the range is the slot's request area, which nothing else borrows while `self` is mutable.
        let read = unsafe {
            libc::read(queue.as_raw_fd(), self.base.add(REQUEST_AT).as_ptr().cast(), REQUEST_BYTES)
        };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }

    /// Notes that the request `unique` needs no answer any more.
    pub fn finish(&self, unique: u64) {
        self.blame().store(0, Ordering::Relaxed);
        self.answered().store(unique, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_second_mapping_sees_what_the_first_received() {
        let table = SlotTable::new(2).unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"request").unwrap();
        let mut slot = table.slot(1);
        assert_eq!(slot.receive(reader.as_fd()).unwrap(), 7);
        slot.finish(42);
        let other = table.remapped().unwrap();
        assert_eq!(&other.slot(1).request()[..7], b"request");
        assert_eq!(other.slot(1).answered().load(Ordering::Acquire), 42);
        assert_eq!(other.slot(0).request()[0], 0);
        table.storing().fetch_add(3, Ordering::Relaxed);
        assert_eq!(
            (other.storing().load(Ordering::Relaxed), other.may_store().load(Ordering::Relaxed)),
            (3, 0)
        );
    }
}
