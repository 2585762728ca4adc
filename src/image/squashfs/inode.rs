//! Inodes: what a file is, and where its contents are.
//!
//! ```text
//! every inode: type u16 | mode u16 | uid index u16 | gid index u16 | mtime u32 | number u32
//!  1 directory  start u32, links u32, size u16, offset u16, parent u32
//!  2 file       start u32, fragment u32, offset u32, size u32, block sizes u32...
//!  3 symlink    links u32, length u32, target
//!  4 5 device   links u32, device u32        6 7 fifo, socket  links u32
//!  8 directory  links u32, size u32, start u32, parent u32, index entries u16, offset u16, xattr u32, index
//!  9 file       start u64, size u64, sparse u64, links u32, fragment u32, offset u32, xattr u32, sizes...
//! 10 symlink, 11 12 device, 13 14 fifo, socket: as 3 to 7, with xattr u32 at the end
//! ```
//!
//! An [`Inode`] is small whatever the file's size: block sizes and directory listings stay in the metadata
//! blocks and are read from there when asked for.

use super::Squashfs;
use super::data::{BlockList, FileData, Fragment};
use super::dir::Listing;
use crate::error::{Error, Result};
use std::sync::Arc;

/// "No such thing" in fragment, xattr and export fields.
const NONE: u32 = u32::MAX;

/// An inode's place in the inode table: position of its metadata block relative to the table, shifted
/// left by 16, and the offset in the decoded block. Unique in an image, and below 2^48 where a
/// directory entry gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeRef(pub u64);

/// What kind of file an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A regular file.
    Regular,
    /// A symbolic link.
    Symlink,
    /// A block device node.
    BlockDevice,
    /// A character device node.
    CharDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl FileKind {
    /// From the basic type of an inode or directory entry.
    pub(super) fn from_type(basic: u16) -> Option<Self> {
        Some(match basic {
            1 => Self::Directory,
            2 => Self::Regular,
            3 => Self::Symlink,
            4 => Self::BlockDevice,
            5 => Self::CharDevice,
            6 => Self::Fifo,
            7 => Self::Socket,
            _ => return None,
        })
    }

    /// The file type bits of `st_mode` (`S_IFREG` and so on).
    pub fn mode_bits(self) -> u32 {
        match self {
            Self::Fifo => 0o010_000,
            Self::CharDevice => 0o020_000,
            Self::Directory => 0o040_000,
            Self::BlockDevice => 0o060_000,
            Self::Regular => 0o100_000,
            Self::Symlink => 0o120_000,
            Self::Socket => 0o140_000,
        }
    }
}

/// An inode, decoded.
#[derive(Debug)]
pub struct Inode {
    /// Its place, by which it is asked for.
    pub reference: InodeRef,
    /// Its number, as `ls -i` shows it; counts from 1 in images of the usual tools.
    pub number: u32,
    /// Permission bits with set-uid, set-gid and sticky: the low 12 bits of `st_mode`.
    pub mode: u32,
    /// The owner in the image.
    pub uid: u32,
    /// The group in the image.
    pub gid: u32,
    /// Seconds since 1970, unsigned, as on disk. mksquashfs stores times before 1970 in two's complement;
    /// the kernel and unsquashfs show those 136 years late (1965 as 2101).
    pub mtime: u32,
    /// How many names it has; for directories two and one for each subdirectory.
    pub links: u32,
    /// Its entry in the xattr table.
    pub xattr: Option<u32>,
    /// Bytes of a regular file, length of a link's target; for directories what the disk says (listing
    /// and 3), else 0.
    pub size: u64,
    /// What depends on the kind.
    pub content: Content,
}

/// The part of an inode that depends on its kind.
#[derive(Debug)]
pub enum Content {
    /// Where the listing is.
    Directory(Listing),
    /// Where the data is.
    Regular(FileData),
    /// A symbolic link.
    Symlink {
        /// Where it leads to: any bytes but NUL.
        target: Box<[u8]>,
    },
    /// A device node; `block` tells which kind.
    Device {
        /// Major and minor number as the kernel encodes them in 32 bits (and in FUSE attributes).
        rdev: u32,
        /// Block device, else character device.
        block: bool,
    },
    /// A named pipe, or a socket.
    Ipc {
        /// Socket, else pipe.
        socket: bool,
    },
}

impl Inode {
    /// What kind of file this is.
    pub fn kind(&self) -> FileKind {
        match self.content {
            Content::Directory(_) => FileKind::Directory,
            Content::Regular(_) => FileKind::Regular,
            Content::Symlink { .. } => FileKind::Symlink,
            Content::Device { block: true, .. } => FileKind::BlockDevice,
            Content::Device { block: false, .. } => FileKind::CharDevice,
            Content::Ipc { socket: false } => FileKind::Fifo,
            Content::Ipc { socket: true } => FileKind::Socket,
        }
    }

    /// The fragment block that the file's tail end is in, to have it decoded ahead.
    pub fn fragment(&self) -> Option<u32> {
        match &self.content {
            Content::Regular(data) => data.fragment.map(|fragment| fragment.index),
            _ => None,
        }
    }

    /// How many blocks [`Squashfs::block`] has for this file, the tail end counted.
    pub fn block_count(&self) -> u64 {
        match &self.content {
            Content::Regular(data) => data.blocks.count + u64::from(data.fragment.is_some()),
            _ => 0,
        }
    }

    /// The inode number of a directory's parent; of other inodes none.
    pub fn parent_number(&self) -> Option<u32> {
        match &self.content {
            Content::Directory(listing) => Some(listing.parent),
            _ => None,
        }
    }

    /// Bytes of memory that it takes, also those that it may come to take.
    pub(super) fn cost(&self) -> usize {
        let beside = match &self.content {
            Content::Directory(listing) => listing.cost(),
            Content::Regular(data) => data.blocks.cost(),
            Content::Symlink { target } => target.len(),
            _ => 0,
        };
        // The inode, its counters, and its place in the cache.
        size_of::<Self>() + 80 + beside
    }
}

impl Squashfs {
    /// The inode at a place that a directory entry or [`Squashfs::root`] gave.
    pub fn inode(&self, reference: InodeRef) -> Result<Arc<Inode>> {
        if let Some(inode) = self.inodes.get(&reference.0) {
            return Ok(inode);
        }
        let inode = self
            .parse_inode(reference)
            .map_err(|error| Error::new(error.kind, format!("inode {:#x}", reference.0)).because(error))?;
        let inode = Arc::new(inode);
        self.inodes.insert(reference.0, Arc::clone(&inode), inode.cost());
        Ok(inode)
    }

    /// The inode that comes after `inode` in the inode table, none after the last. Packers write the table in the
    /// order in which they pack, so it is the file whose data comes next, and that a reader of everything wants next.
    pub fn inode_after(&self, inode: &Inode) -> Result<Option<InodeRef>> {
        let superblock = &self.superblock;
        // All types share 16 bytes; a regular file's list of blocks is known already.
        let (block, offset, rest) = match &inode.content {
            Content::Regular(data) => {
                let (block, offset) = data.blocks.place();
                (block, offset, data.blocks.count.saturating_mul(4))
            }
            _ => {
                let block = superblock.inode_table.saturating_add(inode.reference.0 >> 16);
                let offset = (inode.reference.0 & 0xffff) as usize;
                let mut at = self.metadata.cursor(block, offset, superblock.directory_table, "inode")?;
                let kind = at.u16()?;
                at.skip(14)?;
                let rest = match kind {
                    1 => 16,
                    3 | 10 => 8 + inode.size + if kind == 10 { 4 } else { 0 },
                    4 | 5 => 8,
                    6 | 7 => 4,
                    11 | 12 => 12,
                    13 | 14 => 8,
                    8 => {
                        at.skip(16)?;
                        let entries = at.u16()?;
                        at.skip(6)?;
                        for _ in 0..entries {
                            at.skip(8)?;
                            let name = at.u32()?;
                            at.skip((name as usize).saturating_add(1))?;
                        }
                        0
                    }
                    _ => return Ok(None),
                };
                let (block, offset) = at.place_here();
                (block, offset, rest)
            }
        };
        let mut at = self.metadata.cursor(block, offset, superblock.directory_table, "inode")?;
        at.skip(usize::try_from(rest).unwrap_or(usize::MAX))?;
        if at.is_at_end() {
            return Ok(None);
        }
        let (block, offset) = at.place()?;
        Ok(Some(InodeRef((block - superblock.inode_table) << 16 | offset as u64)))
    }

    // flat: one match over the inode types, field after field as they stand on disk.
    fn parse_inode(&self, reference: InodeRef) -> Result<Inode> {
        let superblock = &self.superblock;
        let block = superblock
            .inode_table
            .checked_add(reference.0 >> 16)
            .ok_or_else(|| Error::image("lies outside the inode table"))?;
        let offset = (reference.0 & 0xffff) as usize;
        let mut at = self.metadata.cursor(block, offset, superblock.directory_table, "inode")?;
        let kind = at.u16()?;
        let mode = u32::from(at.u16()? & 0o7777);
        let (uid, gid) = (at.u16()?, at.u16()?);
        let (mtime, number) = (at.u32()?, at.u32()?);
        let mut inode = Inode {
            reference,
            number,
            mode,
            uid: self.id(uid)?,
            gid: self.id(gid)?,
            mtime,
            links: 1,
            xattr: None,
            size: 0,
            content: Content::Ipc { socket: false },
        };
        let mut xattr = NONE;
        match kind {
            1 => {
                let start = at.u32()?;
                inode.links = at.u32()?;
                inode.size = u64::from(at.u16()?);
                let (offset, parent) = (at.u16()?, at.u32()?);
                inode.content = Content::Directory(self.listing(start, offset, inode.size, parent));
            }
            8 => {
                inode.links = at.u32()?;
                inode.size = u64::from(at.u32()?);
                let (start, parent) = (at.u32()?, at.u32()?);
                let (indexes, offset) = (at.u16()?, at.u16()?);
                xattr = at.u32()?;
                let mut listing = self.listing(start, offset, inode.size, parent);
                listing.stored_index = (indexes > 0).then(|| (at.place_here(), indexes));
                inode.content = Content::Directory(listing);
            }
            2 => {
                let start = u64::from(at.u32()?);
                let (fragment, offset) = (at.u32()?, at.u32()?);
                inode.size = u64::from(at.u32()?);
                inode.content = self.file_data(start, inode.size, (fragment, offset), at.place_here())?;
            }
            9 => {
                let start = at.u64()?;
                inode.size = at.u64()?;
                // How much of the file is holes, for st_blocks; the block sizes tell as much.
                at.u64()?;
                inode.links = at.u32()?;
                let (fragment, offset) = (at.u32()?, at.u32()?);
                xattr = at.u32()?;
                inode.content = self.file_data(start, inode.size, (fragment, offset), at.place_here())?;
            }
            3 | 10 => {
                inode.links = at.u32()?;
                let length = at.u32()?;
                // Longer ones cannot be made: PATH_MAX is 4096, and a metadata block ends writers' patience.
                if length > 65535 {
                    return Err(Error::image(format!("link target of {length} bytes")));
                }
                let target = at.vec(length as usize)?;
                if target.contains(&0) {
                    return Err(Error::image("link target with a NUL byte"));
                }
                inode.size = u64::from(length);
                inode.content = Content::Symlink { target: target.into() };
                if kind == 10 {
                    xattr = at.u32()?;
                }
            }
            4 | 5 | 11 | 12 => {
                inode.links = at.u32()?;
                inode.content = Content::Device { rdev: at.u32()?, block: matches!(kind, 4 | 11) };
                if kind > 7 {
                    xattr = at.u32()?;
                }
            }
            6 | 7 | 13 | 14 => {
                inode.links = at.u32()?;
                inode.content = Content::Ipc { socket: matches!(kind, 7 | 14) };
                if kind > 7 {
                    xattr = at.u32()?;
                }
            }
            _ => return Err(Error::image(format!("unknown inode type {kind}"))),
        }
        inode.xattr = Some(xattr).filter(|&index| index != NONE);
        Ok(inode)
    }

    fn listing(&self, start: u32, offset: u16, size: u64, parent: u32) -> Listing {
        // The size on disk counts "." and ".." as three bytes; an empty directory's start means nothing.
        let bytes = size.saturating_sub(3) as u32;
        Listing::new(self.superblock.directory_table + u64::from(start), usize::from(offset), bytes, parent)
    }

    fn file_data(&self, start: u64, size: u64, tail: (u32, u32), list: (u64, usize)) -> Result<Content> {
        let block_size = u64::from(self.superblock.block_size);
        let tail_bytes = size % block_size;
        let has_fragment = tail.0 != NONE;
        let count = if has_fragment { size / block_size } else { size.div_ceil(block_size) };
        // Each metadata block on disk is at least a header and a byte, and holds 2048 block sizes: a file
        // with more blocks than could stand in the rest of the inode table is a lie.
        let rest = self.superblock.directory_table.saturating_sub(list.0) / 3 + 1;
        if count > rest.saturating_mul(2048) {
            return Err(Error::image(format!(
                "block list runs past the table ({count} blocks for {size} bytes)"
            )));
        }
        let fragment = (has_fragment && tail_bytes > 0).then_some(Fragment { index: tail.0, offset: tail.1 });
        Ok(Content::Regular(FileData { blocks: BlockList::new(list, count, start), fragment }))
    }
}
