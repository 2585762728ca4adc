//! The FUSE protocol as bytes: linux/fuse.h, version 7.43 (kernel 6.14) and what of it older kernels know.
//!
//! ```text
//! request   len u32 | opcode u32 | unique u64 | nodeid u64 | uid gid pid u32 | extlen u16 | pad u16 | arguments
//! answer    len u32 | error i32  | unique u64 | result
//! ```

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub const ROOT_NODE: u64 = 1;
pub const ANSWER_HEADER_BYTES: usize = 16;

/// The operations that a read-only file system sees.
pub mod opcode {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const READLINK: u32 = 5;
    pub const READ: u32 = 15;
    pub const STATFS: u32 = 17;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const INIT: u32 = 26;
    pub const READDIR: u32 = 28;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const BATCH_FORGET: u32 = 42;
    pub const READDIRPLUS: u32 = 44;
}

/// What the kernel may do (`flags` of INIT).
pub mod feature {
    pub const ASYNC_READ: u32 = 1 << 0;
    pub const EXPORT_SUPPORT: u32 = 1 << 4;
    pub const DO_READDIRPLUS: u32 = 1 << 13;
    pub const NO_OPEN_SUPPORT: u32 = 1 << 17;
    pub const PARALLEL_DIROPS: u32 = 1 << 18;
    pub const MAX_PAGES: u32 = 1 << 22;
    pub const CACHE_SYMLINKS: u32 = 1 << 23;
    pub const NO_OPENDIR_SUPPORT: u32 = 1 << 24;
    /// There are more flags, in `flags2`.
    pub const INIT_EXT: u32 = 1 << 30;
    /// Of `flags2`: requests that are not answered in `request_timeout` are given up.
    pub const REQUEST_TIMEOUT: u32 = 1 << (42 - 32);
}

#[derive(FromBytes, KnownLayout, Immutable, Debug, Clone, Copy)]
#[repr(C)]
pub struct RequestHeader {
    pub length: u32,
    pub opcode: u32,
    pub unique: u64,
    pub node: u64,
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
    pub extension_length: u16,
    pub padding: u16,
}

#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct InitIn {
    pub major: u32,
    pub minor: u32,
    pub max_readahead: u32,
    pub flags: u32,
}

#[derive(IntoBytes, Immutable, Default)]
#[repr(C)]
pub struct InitOut {
    pub major: u32,
    pub minor: u32,
    pub max_readahead: u32,
    pub flags: u32,
    pub max_background: u16,
    pub congestion_threshold: u16,
    pub max_write: u32,
    pub time_granularity: u32,
    pub max_pages: u16,
    pub map_alignment: u16,
    pub flags2: u32,
    pub max_stack_depth: u32,
    /// In seconds.
    pub request_timeout: u16,
    pub unused: [u16; 11],
}

#[derive(IntoBytes, Immutable, Default, Clone, Copy)]
#[repr(C)]
pub struct Attributes {
    pub ino: u64,
    pub size: u64,
    pub blocks: u64,
    pub atime: u64,
    pub mtime: u64,
    pub ctime: u64,
    pub atime_nsec: u32,
    pub mtime_nsec: u32,
    pub ctime_nsec: u32,
    pub mode: u32,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub block_size: u32,
    pub flags: u32,
}

#[derive(IntoBytes, Immutable, Default)]
#[repr(C)]
pub struct AttributesOut {
    pub valid_seconds: u64,
    pub valid_nanoseconds: u32,
    pub padding: u32,
    pub attributes: Attributes,
}

#[derive(IntoBytes, Immutable, Default)]
#[repr(C)]
pub struct EntryOut {
    pub node: u64,
    pub generation: u64,
    pub entry_valid_seconds: u64,
    pub attributes_valid_seconds: u64,
    pub entry_valid_nanoseconds: u32,
    pub attributes_valid_nanoseconds: u32,
    pub attributes: Attributes,
}

#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ReadIn {
    pub handle: u64,
    pub offset: u64,
    pub size: u32,
    pub read_flags: u32,
    pub lock_owner: u64,
    pub flags: u32,
    pub padding: u32,
}

#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GetxattrIn {
    pub size: u32,
    pub padding: u32,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub struct GetxattrOut {
    pub size: u32,
    pub padding: u32,
}

#[derive(IntoBytes, Immutable, Default)]
#[repr(C)]
pub struct StatfsOut {
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub block_size: u32,
    pub name_length: u32,
    pub fragment_size: u32,
    pub padding: u32,
    pub spare: [u32; 6],
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub struct DirectoryEntry {
    pub ino: u64,
    pub next: u64,
    pub name_length: u32,
    pub kind: u32,
}

/// What is put into the page cache unasked, followed by its bytes.
#[derive(IntoBytes, Immutable, Default)]
#[repr(C)]
pub struct StoreOut {
    pub node: u64,
    pub offset: u64,
    pub size: u32,
    pub padding: u32,
}

/// `FUSE_NOTIFY_STORE`: in the place of an answer's errno, with a `unique` of 0.
pub const NOTIFY_STORE: i32 = 4;

/// The `flags2` of an INIT: what follows [`InitIn`] since kernel 5.17.
pub fn more_flags(rest: &[u8]) -> u32 {
    rest.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

/// Arguments of a request, if it is long enough for them.
pub fn arguments<T: FromBytes + KnownLayout + Immutable>(request: &[u8]) -> Option<(T, &[u8])> {
    let body = request.get(size_of::<RequestHeader>()..)?;
    let (arguments, rest) = T::read_from_prefix(body).ok()?;
    Some((arguments, rest))
}

/// The header of a request whose length says that it lies wholly in `slot`, and that many bytes.
pub fn request(slot: &[u8]) -> Option<(RequestHeader, &[u8])> {
    let (header, _) = RequestHeader::read_from_prefix(slot).ok()?;
    let bytes = slot.get(..header.length as usize)?;
    (bytes.len() >= size_of::<RequestHeader>()).then_some((header, bytes))
}

/// The header of an answer: `error` is 0 or a negative errno (or the code of a notification), `result_bytes` what follows.
pub fn answer_header(unique: u64, error: i32, result_bytes: usize) -> [u8; ANSWER_HEADER_BYTES] {
    let mut header = [0; ANSWER_HEADER_BYTES];
    header[..4].copy_from_slice(&((ANSWER_HEADER_BYTES + result_bytes) as u32).to_le_bytes());
    header[4..8].copy_from_slice(&error.to_le_bytes());
    header[8..].copy_from_slice(&unique.to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_the_kernel_header() {
        assert_eq!(size_of::<RequestHeader>(), 40);
        assert_eq!(size_of::<InitOut>(), 64);
        assert_eq!(size_of::<Attributes>(), 88);
        assert_eq!(size_of::<AttributesOut>(), 104);
        assert_eq!(size_of::<EntryOut>(), 128);
        assert_eq!(size_of::<ReadIn>(), 40);
        assert_eq!(size_of::<StoreOut>(), 24);
        assert_eq!(size_of::<StatfsOut>(), 80);
        assert_eq!(size_of::<DirectoryEntry>(), 24);
    }

    #[test]
    fn a_request_longer_than_its_slot_is_refused() {
        let mut slot = [0_u8; 64];
        slot[..4].copy_from_slice(&65_u32.to_le_bytes());
        assert!(request(&slot).is_none());
        slot[..4].copy_from_slice(&39_u32.to_le_bytes());
        assert!(request(&slot).is_none());
        slot[..4].copy_from_slice(&40_u32.to_le_bytes());
        assert!(request(&slot).is_some());
    }
}
