//! Numbers of the SquashFS 4.0 format as the writer needs them (little-endian throughout).
//!
//! ```text
//! superblock (96 bytes)
//! compressor options       one uncompressed metadata block, if the flag says so
//! data and fragment blocks
//! inode table              metadata blocks
//! directory table          metadata blocks
//! fragment table           metadata blocks, then the u64 places of these blocks  <- superblock
//! export table             likewise
//! id table                 likewise
//! xattr table              names and values, set table, header, places of the set table's blocks
//! ```
//!
//! A metadata block holds 8192 bytes before compression; on disk a u16 precedes it: its size, with bit 15
//! set if it is stored as is. A data block's size is a u32 with bit 24 for the same purpose; size 0 is a
//! hole. Source: `Documentation/filesystems/squashfs.rst` and `fs/squashfs/squashfs_fs.h` of Linux.

/// "hsqs".
pub const MAGIC: u32 = 0x7371_7368;
/// The superblock's length.
pub const SUPERBLOCK_BYTES: usize = 96;
/// What a metadata block holds before compression.
pub const METADATA_BYTES: usize = 8192;
/// Set in a metadata block's length when it is stored as is.
pub const METADATA_RAW: u16 = 0x8000;
/// Set in a data block's size when it is stored as is.
pub const DATA_RAW: u32 = 1 << 24;
/// "No fragment", "no xattrs".
pub const NONE: u32 = u32::MAX;
/// A table that the image does not have.
pub const NO_TABLE: u64 = u64::MAX;

/// Superblock flag: identical files were stored once.
pub const FLAG_DUPLICATES: u16 = 0x0040;
/// Superblock flag: there is an export table.
pub const FLAG_EXPORTABLE: u16 = 0x0080;
/// Superblock flag: compressor options follow the superblock.
pub const FLAG_OPTIONS: u16 = 0x0400;

/// Inode types of the basic forms; the extended form of each is 7 higher.
pub const DIRECTORY: u16 = 1;
/// A regular file.
pub const REGULAR: u16 = 2;
/// A symbolic link.
pub const SYMLINK: u16 = 3;
/// A block device.
pub const BLOCK_DEVICE: u16 = 4;
/// A character device.
pub const CHAR_DEVICE: u16 = 5;
/// A named pipe.
pub const FIFO: u16 = 6;
/// A socket.
pub const SOCKET: u16 = 7;
/// What is added to a basic type for its extended form.
pub const EXTENDED: u16 = 7;

/// Entries that one directory header can announce.
pub const HEADER_ENTRIES: usize = 256;
