//! SquashFS 4.0, reading: lazy, bounded in memory, for many threads at once.
//!
//! ```text
//! | superblock | options | data and fragment blocks | inodes | directories | fragment, export, id, xattr tables |
//!   superblock   codec      data                      inode    dir           meta (lookup tables)       xattr
//! ```
//!
//! Opening reads the superblock and nothing else; all the rest is found when asked for, through the caches
//! of `cache`, so that an image of two million inodes opens as fast as one of ten. Everything takes `&self`.
//!
//! Images are hostile: all arithmetic on what they say is checked, every count is bounded before memory is
//! taken by it, chains only lead forward, and memory is bounded by the [`OpenOptions`] and not by the
//! image. What is wrong gives an error of kind `Image` that names the structure and its place.
//!
//! Follows `Documentation/filesystems/squashfs.rst` of Linux, its `fs/squashfs`, and squashfs-tools 4.7.

mod cache;
mod codec;
mod data;
mod dir;
mod inode;
mod meta;
mod stored;
mod superblock;
mod walk;
mod xattr;

pub use codec::Compressor;
pub use data::{Block, Bytes, FileData, Part};
pub use dir::{DirEntry, Listing};
pub use inode::{Content, FileKind, Inode, InodeRef};
pub use stored::{StoredBlock, Tail};
pub use superblock::{MAGIC, SUPERBLOCK_BYTES, Superblock};

use crate::error::{Error, Kind, Result};
use crate::image::path;
use crate::image::source::Source;
use cache::Cache;
use data::{Buffer, Pool};
use meta::{METADATA_BYTES, Metadata, MetadataBlock, Table};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// How much memory an open image may hold. Beside the caches it takes at most 2 MiB of spare buffers, 256
/// KiB of ids, and for each thread the decompressor's state and one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenOptions {
    /// Bytes of decoded data and fragment blocks; at least four blocks are held.
    pub data_cache_bytes: usize,
    /// Bytes of decoded metadata; at least 16 metadata blocks are held.
    pub meta_cache_bytes: usize,
    /// How many inodes are kept parsed, at about 256 bytes each; large directories count as many.
    pub inode_cache: usize,
}

impl Default for OpenOptions {
    /// 24 MiB of data, 8 MiB of metadata, 16384 inodes (4 MiB).
    fn default() -> Self {
        Self { data_cache_bytes: 24 << 20, meta_cache_bytes: 8 << 20, inode_cache: 16384 }
    }
}

/// What an inode in the cache is reckoned to take, for the option's number.
const INODE_BYTES: usize = 256;

/// An open SquashFS file system.
pub struct Squashfs {
    source: Source,
    superblock: Superblock,
    metadata: Metadata,
    /// Decoded data and fragment blocks by position and size word: hostile inodes that disagree about
    /// what is at a position do not meet.
    data: Cache<(u64, u32), Arc<Buffer>>,
    pool: Arc<Pool>,
    inodes: Cache<u64, Arc<Inode>>,
    /// The id table's metadata blocks, 2048 ids each: at most 32, kept once read.
    ids: Box<[OnceLock<Arc<MetadataBlock>>]>,
}

impl std::fmt::Debug for Squashfs {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Squashfs").field("superblock", &self.superblock).finish_non_exhaustive()
    }
}

impl Squashfs {
    /// Opens the file system that fills `source`, padding after it allowed. Reads the superblock only.
    pub fn open(source: Source, options: OpenOptions) -> Result<Self> {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        source.read_exact_at(&mut bytes, 0).map_err(|e| {
            Error::new(Kind::Image, "cannot read the SquashFS superblock")
                .because(e)
                .hint("the image is cut short; copy, download or build it again")
        })?;
        let superblock = Superblock::parse(&bytes, source.length())?;
        let block_size = superblock.block_size as usize;
        let data_bytes = options.data_cache_bytes.max(4 * (block_size + 128));
        // Shards must hold many blocks each, or neighbours drive each other out.
        let shards = (data_bytes / (32 * block_size)).clamp(1, 8);
        let metadata = Metadata::new(
            source.clone(),
            superblock.compressor,
            superblock.bytes_used,
            options.meta_cache_bytes,
        );
        let id_blocks = (usize::from(superblock.ids) * 4).div_ceil(METADATA_BYTES);
        Ok(Self {
            metadata,
            data: Cache::new(data_bytes, shards),
            pool: Arc::new(Pool::new(block_size)),
            inodes: Cache::new(options.inode_cache.max(64) * INODE_BYTES, 16),
            ids: (0..id_blocks).map(|_| OnceLock::new()).collect(),
            source,
            superblock,
        })
    }

    /// The superblock.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The root directory's inode.
    pub fn root(&self) -> InodeRef {
        InodeRef(self.superblock.root)
    }

    /// The inode with a number, by the export table; none if the image has no such table or inode.
    pub fn inode_by_number(&self, number: u32) -> Result<Option<InodeRef>> {
        let Some(index) = self.superblock.export_table else { return Ok(None) };
        if number == 0 || number > self.superblock.inodes {
            return Ok(None);
        }
        let table = Table { name: "export table", index, entries: u64::from(self.superblock.inodes) };
        let entry = u64::from_le_bytes(self.metadata.table_entry(table, u64::from(number - 1))?);
        Ok(Some(InodeRef(entry)).filter(|reference| reference.0 != u64::MAX))
    }

    /// The bytes of the compressor's options that follow the superblock, when it has any. Nothing here
    /// needs them: streams carry what their decoders must know.
    pub fn compressor_options(&self) -> Result<Option<Vec<u8>>> {
        if self.superblock.flags & Superblock::FLAG_COMPRESSOR_OPTIONS == 0 {
            return Ok(None);
        }
        let block = self.metadata.block(SUPERBLOCK_BYTES as u64)?;
        Ok(Some(block.bytes.clone()))
    }

    /// Follows `path` with the image as root: links in it, and the last one, lead where they would for a
    /// process whose root the image is. Gives the path without links, and the inode; none if there is none.
    pub fn resolve(&self, path: &Path) -> Result<Option<(PathBuf, Arc<Inode>)>> {
        self.resolve_to(path, path::Last::Follow)
    }

    /// [`Squashfs::resolve`], with a choice about a link at the end.
    pub(super) fn resolve_to(&self, path: &Path, last: path::Last) -> Result<Option<(PathBuf, Arc<Inode>)>> {
        let root = self.inode(self.root())?;
        path::resolve(root, path, last, |dir, name| {
            let Some(reference) = self.lookup(dir, name.as_bytes())? else { return Ok(None) };
            let inode = self.inode(reference)?;
            let step = match &inode.content {
                Content::Directory(_) => path::Step::Directory,
                Content::Symlink { target } => path::Step::Link(OsStr::from_bytes(target).to_owned()),
                _ => path::Step::Other,
            };
            Ok(Some((inode, step)))
        })
    }

    /// Whether any file may belong to another user or group than 0.
    pub fn has_owners(&self) -> bool {
        self.superblock.ids > 1 || self.id(0).map_or(true, |id| id != 0)
    }

    /// The user or group id with this index in the id table.
    fn id(&self, index: u16) -> Result<u32> {
        let missing =
            || Error::image(format!("id {index} does not exist, the image has {}", self.superblock.ids));
        if index >= self.superblock.ids {
            return Err(missing());
        }
        let byte = usize::from(index) * 4;
        let slot = self.ids.get(byte / METADATA_BYTES).ok_or_else(missing)?;
        let block = match slot.get() {
            Some(block) => block,
            None => {
                let entries = u64::from(self.superblock.ids);
                let table = Table { name: "id table", index: self.superblock.id_table, entries };
                let block = self.metadata.table_block::<4>(table, (byte / METADATA_BYTES) as u64)?;
                slot.get_or_init(|| block)
            }
        };
        let entry = block.bytes.get(byte % METADATA_BYTES..).and_then(|rest| rest.first_chunk());
        entry.map(|bytes| u32::from_le_bytes(*bytes)).ok_or_else(missing)
    }
}
