//! The superblock: 96 bytes, little endian, at the start of the file system.
//!
//! ```text
//!  0 magic "hsqs"      4 inodes u32       8 time u32        12 block size u32
//! 16 fragments u32    20 compressor u16  22 block log u16   24 flags u16    26 ids u16
//! 28 major u16 = 4    30 minor u16 = 0   32 root inode u64  40 bytes used u64
//! 48 id table u64     56 xattr table     64 inode table     72 directory table
//! 80 fragment table   88 export table      (u64::MAX: the image has none)
//! [96 the compressor's options, one metadata block, when flag 0x400 is set]
//! ```
//!
//! Follows `Documentation/filesystems/squashfs.rst` of Linux and `squashfs_fs.h` of squashfs-tools 4.7.

use super::codec::Compressor;
use crate::error::{Error, Result};

/// The length of a superblock in bytes.
pub const SUPERBLOCK_BYTES: usize = 96;
/// The first four bytes of a SquashFS file system.
pub const MAGIC: [u8; 4] = *b"hsqs";
/// The first four bytes of the big-endian file systems of versions 1 to 3.
const MAGIC_BIG_ENDIAN: [u8; 4] = *b"sqsh";
/// Where a table that the image does not have is said to be.
const ABSENT: u64 = u64::MAX;

/// The superblock's fields, checked against each other and the image's length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// How many inodes the image has (as it says; nothing relies on it).
    pub inodes: u32,
    /// When the image was made, seconds since 1970.
    pub time: u32,
    /// Bytes of a data block: a power of two from 4 KiB to 1 MiB.
    pub block_size: u32,
    /// Its logarithm.
    pub block_log: u32,
    /// How many fragment blocks the fragment table lists.
    pub fragments: u32,
    /// What metadata and data are compressed with.
    pub compressor: Compressor,
    /// Flags as on disk, see the constants.
    pub flags: u16,
    /// How many user and group ids the id table lists.
    pub ids: u16,
    /// Place of the root directory's inode.
    pub root: u64,
    /// Bytes from the superblock to the end of the last table; padding may follow.
    pub bytes_used: u64,
    /// Where the id table's index is.
    pub id_table: u64,
    /// Where the xattr table's header is, if there is one.
    pub xattr_table: Option<u64>,
    /// Where the inodes begin.
    pub inode_table: u64,
    /// Where the directory listings begin: the end of the inodes.
    pub directory_table: u64,
    /// Where the fragment table's index is, if there are fragments.
    pub fragment_table: Option<u64>,
    /// Where the export table's index is, if there is one.
    pub export_table: Option<u64>,
}

impl Superblock {
    /// Flag: inodes are stored uncompressed (`-noI`).
    pub const FLAG_UNCOMPRESSED_INODES: u16 = 0x1;
    /// Flag: data blocks are stored uncompressed (`-noD`).
    pub const FLAG_UNCOMPRESSED_DATA: u16 = 0x2;
    /// Flag: fragment blocks are stored uncompressed (`-noF`).
    pub const FLAG_UNCOMPRESSED_FRAGMENTS: u16 = 0x8;
    /// Flag: the image has no fragments (`-no-fragments`).
    pub const FLAG_NO_FRAGMENTS: u16 = 0x10;
    /// Flag: the image has an export table.
    pub const FLAG_EXPORTABLE: u16 = 0x80;
    /// Flag: a metadata block with the compressor's options follows the superblock.
    pub const FLAG_COMPRESSOR_OPTIONS: u16 = 0x400;

    /// Reads a superblock from its 96 bytes; `length` is how many bytes the image has from here on.
    pub fn parse(bytes: &[u8; SUPERBLOCK_BYTES], length: u64) -> Result<Self> {
        check_version(bytes)?;
        let compressor = Compressor::from_id(u16_at(bytes, 20))?;
        let table = |at| Some(u64_at(bytes, at)).filter(|&start| start != ABSENT);
        let superblock = Self {
            inodes: u32_at(bytes, 4),
            time: u32_at(bytes, 8),
            block_size: u32_at(bytes, 12),
            block_log: u32::from(u16_at(bytes, 22)),
            fragments: u32_at(bytes, 16),
            compressor,
            flags: u16_at(bytes, 24),
            ids: u16_at(bytes, 26),
            root: u64_at(bytes, 32),
            bytes_used: u64_at(bytes, 40),
            id_table: u64_at(bytes, 48),
            xattr_table: table(56),
            inode_table: u64_at(bytes, 64),
            directory_table: u64_at(bytes, 72),
            fragment_table: table(80).filter(|_| u32_at(bytes, 16) != 0),
            export_table: table(88),
        };
        superblock.check(length)?;
        Ok(superblock)
    }

    fn check(&self, length: u64) -> Result<()> {
        let wrong = |what: String| Err(Error::image(format!("SquashFS superblock: {what}")));
        if !(12..=20).contains(&self.block_log) || self.block_size != 1 << self.block_log {
            return wrong(format!("impossible block size {} (log {})", self.block_size, self.block_log));
        }
        if self.bytes_used > length {
            return Err(Error::image(format!(
                "the image is truncated: its SquashFS needs {} bytes and only {length} are there",
                self.bytes_used
            ))
            .hint("copy, download or build it again"));
        }
        if self.bytes_used > i64::MAX as u64 {
            return wrong(format!("impossible size {}", self.bytes_used));
        }
        if self.ids == 0 {
            return wrong("no user and group ids".into());
        }
        let tables = [
            ("inode table", Some(self.inode_table)),
            ("directory table", Some(self.directory_table)),
            ("id table", Some(self.id_table)),
            ("fragment table", self.fragment_table),
            ("export table", self.export_table),
            ("xattr table", self.xattr_table),
        ];
        for (name, start) in tables {
            if let Some(start) = start
                && (start < SUPERBLOCK_BYTES as u64 || start >= self.bytes_used)
            {
                return wrong(format!("{name} at {start:#x} lies outside the image"));
            }
        }
        if self.inode_table >= self.directory_table {
            return wrong("the directory table does not follow the inode table".into());
        }
        if self.root >> 16 >= self.directory_table - self.inode_table || self.root & 0xffff >= 8192 {
            return wrong(format!("the root inode {:#x} lies outside the inode table", self.root));
        }
        Ok(())
    }

    /// The end of the metadata that begins at `start`: the next table's index, or the end of the image.
    pub(super) fn table_end(&self, start: u64) -> u64 {
        [
            Some(self.directory_table),
            self.fragment_table,
            self.export_table,
            Some(self.id_table),
            self.xattr_table,
        ]
        .into_iter()
        .flatten()
        .filter(|&table| table > start)
        .min()
        .unwrap_or(self.bytes_used)
    }
}

/// Refuses what is not SquashFS 4.0, saying what it is instead.
fn check_version(bytes: &[u8; SUPERBLOCK_BYTES]) -> Result<()> {
    let magic = bytes.first_chunk::<4>();
    if magic == Some(&MAGIC_BIG_ENDIAN) {
        return Err(Error::image("this is a big-endian SquashFS of version 1 to 3")
            .hint("unpack it with 'unsquashfs' and build the image again; skiff reads SquashFS 4.0"));
    }
    if magic != Some(&MAGIC) {
        return Err(Error::image("this is not a SquashFS file system (bad magic)"));
    }
    // The version stands in the same place in all versions.
    let (major, minor) = (u16_at(bytes, 28), u16_at(bytes, 30));
    if (major, minor) != (4, 0) {
        return Err(Error::image(format!("this is a SquashFS of version {major}.{minor}"))
            .hint("unpack it with 'unsquashfs' and build the image again; skiff reads SquashFS 4.0"));
    }
    Ok(())
}

// Fixed places in a fixed array: the indexes below are constants of the format and always inside.
fn u16_at(bytes: &[u8; SUPERBLOCK_BYTES], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8; SUPERBLOCK_BYTES], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8; SUPERBLOCK_BYTES], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A superblock that passes: tables at 100 (inodes), 200 (directories), 300 (ids), 1000 bytes in all.
    fn valid() -> [u8; SUPERBLOCK_BYTES] {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &MAGIC);
        put(12, &131_072u32.to_le_bytes());
        put(20, &6u16.to_le_bytes());
        put(22, &17u16.to_le_bytes());
        put(26, &1u16.to_le_bytes());
        put(28, &4u16.to_le_bytes());
        put(40, &1000u64.to_le_bytes());
        put(48, &300u64.to_le_bytes());
        put(64, &100u64.to_le_bytes());
        put(72, &200u64.to_le_bytes());
        for absent in [56, 80, 88] {
            put(absent, &u64::MAX.to_le_bytes());
        }
        bytes
    }

    fn message(change: impl Fn(&mut [u8; SUPERBLOCK_BYTES])) -> String {
        let mut bytes = valid();
        change(&mut bytes);
        Superblock::parse(&bytes, 1000).unwrap_err().to_string()
    }

    #[test]
    fn a_valid_superblock_is_read_whole() {
        let superblock = Superblock::parse(&valid(), 1000).unwrap();
        assert_eq!((superblock.block_size, superblock.compressor), (131_072, Compressor::Zstd));
        assert_eq!(
            (superblock.xattr_table, superblock.fragment_table, superblock.export_table),
            (None, None, None)
        );
        assert_eq!(
            (superblock.table_end(100), superblock.table_end(200), superblock.table_end(300)),
            (200, 300, 1000)
        );
    }

    #[test]
    fn other_versions_endianness_and_compressors_are_refused_by_name() {
        assert!(message(|b| b[0..4].copy_from_slice(b"sqsh")).contains("big-endian"));
        assert!(message(|b| b[28] = 3).contains("version 3.0"));
        assert!(message(|b| b[0] = 0).contains("not a SquashFS"));
        assert!(message(|b| b[20] = 2).contains("lzma"));
        assert!(message(|b| b[20] = 9).contains("compressor 9"));
    }

    #[test]
    fn impossible_fields_are_refused() {
        assert!(message(|b| b[22] = 18).contains("block size"));
        assert!(message(|b| b[40..48].copy_from_slice(&1001u64.to_le_bytes())).contains("truncated"));
        assert!(message(|b| b[26] = 0).contains("ids"));
        assert!(message(|b| b[48..56].copy_from_slice(&5000u64.to_le_bytes())).contains("id table"));
        assert!(message(|b| b[64] = 201).contains("does not follow"));
        assert!(message(|b| b[34] = 200).contains("root inode"));
        assert!(message(|b| b[32..34].copy_from_slice(&8192u16.to_le_bytes())).contains("root inode"));
    }
}
