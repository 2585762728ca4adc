//! What each FUSE request means for the image.
//!
//! Nothing ever changes: names, attributes, directory listings, link targets and data may be kept by the kernel for
//! ever, and names that do not exist as well. The kernel is told that opening means nothing (ENOSYS once for OPEN
//! and OPENDIR), so that a read of a cached file costs no request at all.
//!
//! A node id is the inode's place in the image plus 2, and 1 for the root; the server remembers no node.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use super::readahead::{ReadAhead, give_way};
use super::store::{LONGEST_REQUEST_SECONDS, Storer};
use super::walk::Walk;
use super::wire::{self, opcode};
use super::worker::{Answer, Options};
use super::{Owner, wire::RequestHeader, xattrs};
use crate::error::Result;
use crate::image::source::Source;
use crate::image::squashfs::{Block, Content, Inode, InodeRef, OpenOptions, Part, Squashfs};

/// Memory for decoded data, in bytes. With the metadata below it and two processes' own needs, the server stays
/// under 64 MiB.
const DATA_CACHE_BYTES: usize = 26 << 20;
const METADATA_CACHE_BYTES: usize = 6 << 20;
/// At about 256 bytes each.
const INODES_KEPT: usize = 16 << 10;

const FOR_EVER: u64 = u64::MAX;
const MAX_PAGES: u16 = 256;
/// Blocks of each file of the start that are decoded before anyone asks.
const START_BLOCKS: u64 = 16;
/// Requests that the kernel may have under way without anyone waiting (read-ahead).
const MAX_BACKGROUND: u16 = 64;

/// The files of the image.
pub struct Files {
    /// None when the image cannot be opened any more: every request is answered EIO.
    image: Option<Squashfs>,
    owner: Owner,
    read_ahead: ReadAhead,
}

impl Files {
    /// Opens the image.
    pub fn new(file: Arc<File>, options: Options, walk: Arc<Walk>) -> Self {
        let source = Source::new(file, options.offset, options.length);
        let caches = OpenOptions {
            data_cache_bytes: DATA_CACHE_BYTES,
            meta_cache_bytes: METADATA_CACHE_BYTES,
            inode_cache: INODES_KEPT,
        };
        let image = Squashfs::open(source, caches).ok();
        Self { image, owner: options.owner, read_ahead: ReadAhead::new(walk) }
    }

    /// Answers one request; false when the kernel waits for no answer.
    pub fn answer(&self, header: &RequestHeader, request: &[u8], answer: &mut Answer) -> bool {
        if matches!(header.opcode, opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT) {
            return false;
        }
        if let Err(errno) = self.dispatch(header, request, answer) {
            answer.error(errno);
        }
        true
    }

    fn dispatch(&self, header: &RequestHeader, request: &[u8], answer: &mut Answer) -> Result<(), i32> {
        if header.opcode == opcode::INIT {
            return init(request, answer);
        }
        let image = self.image.as_ref().ok_or(libc::EIO)?;
        match header.opcode {
            opcode::LOOKUP => self.lookup(image, header.node, request, answer),
            opcode::GETATTR => {
                let inode = inode(image, header.node)?;
                answer.put(&wire::AttributesOut {
                    valid_seconds: FOR_EVER,
                    attributes: self.attributes(&inode),
                    ..Default::default()
                });
                Ok(())
            }
            opcode::READLINK => match &inode(image, header.node)?.content {
                Content::Symlink { target } => {
                    answer.bytes.extend_from_slice(target);
                    Ok(())
                }
                _ => Err(libc::EINVAL),
            },
            opcode::READ => read(image, header.node, request, answer),
            opcode::READDIR | opcode::READDIRPLUS => self.read_dir(image, header, request, answer),
            opcode::GETXATTR | opcode::LISTXATTR if !xattrs::are_shown(image, self.owner) => {
                Err(libc::ENOSYS)
            }
            opcode::GETXATTR => xattrs::get(image, self.owner, &*inode(image, header.node)?, request, answer),
            opcode::LISTXATTR => {
                xattrs::list(image, self.owner, &*inode(image, header.node)?, request, answer)
            }
            opcode::STATFS => {
                answer.put(&statfs(image));
                Ok(())
            }
            opcode::DESTROY => Ok(()),
            // Asked once and never again: OPEN, OPENDIR, ACCESS, FLUSH, LSEEK, ...
            _ => Err(libc::ENOSYS),
        }
    }

    /// Whether an answer may take long: something must be decoded first.
    pub fn takes_long(&self, header: &RequestHeader, request: &[u8]) -> bool {
        let (opcode::READ, Some(image)) = (header.opcode, &self.image) else { return false };
        let Some((read, _)) = wire::arguments::<wire::ReadIn>(request) else { return false };
        let Ok(inode) = inode(image, header.node) else { return false };
        let block_bytes = u64::from(image.superblock().block_size);
        let end = read.offset.saturating_add(u64::from(read.size)).min(inode.size);
        (read.offset / block_bytes..end.div_ceil(block_bytes)).any(|index| !image.is_cached(&inode, index))
    }

    /// What follows an answer: reading ahead of what was read; with `store`, also into the page cache.
    pub fn after(&self, header: &RequestHeader, request: &[u8], store: bool) {
        let Some(image) = &self.image else { return };
        if header.opcode == opcode::READDIRPLUS && store {
            self.read_ahead.told(image);
        } else if header.opcode == opcode::READ
            && let Some((read, _)) = wire::arguments::<wire::ReadIn>(request)
            && let Ok(inode) = inode(image, header.node)
        {
            self.read_ahead.note(image, &inode, (read.offset, read.size), store);
        }
    }

    /// Decodes the first blocks of the files that a program is about to start with.
    pub fn decode_start(&self, paths: &[PathBuf]) {
        let Some(image) = &self.image else { return };
        for path in paths {
            give_way();
            // What is missing or broken is reported to who really reads it.
            if let Ok(Some((_, inode))) = image.resolve(path) {
                for block in
                    0..inode.size.div_ceil(u64::from(image.superblock().block_size)).min(START_BLOCKS)
                {
                    let _ = image.prefetch_block(&inode, block);
                    give_way();
                }
            }
        }
    }

    /// Decodes and stores ahead of readers, for ever: the life of one thread.
    pub fn read_ahead(&self, storer: &Storer<'_>, processor: Option<usize>) {
        if let Some(image) = &self.image {
            self.read_ahead.work(image, storer, processor);
        }
    }

    fn lookup(&self, image: &Squashfs, node: u64, request: &[u8], answer: &mut Answer) -> Result<(), i32> {
        let directory = inode(image, node)?;
        let name = name_of(request).ok_or(libc::EINVAL)?;
        match image.lookup(&directory, name).map_err(|_| libc::EIO)? {
            Some(found) => {
                let inode = image.inode(found).map_err(|_| libc::EIO)?;
                self.read_ahead.tell(&inode);
                answer.put(&self.entry(image, &inode));
            }
            // Node 0 is "no such name", and as lasting as everything else here.
            None => answer.put(&wire::EntryOut { entry_valid_seconds: FOR_EVER, ..Default::default() }),
        }
        Ok(())
    }

    fn read_dir(
        &self,
        image: &Squashfs,
        header: &RequestHeader,
        request: &[u8],
        answer: &mut Answer,
    ) -> Result<(), i32> {
        let (read, _) = wire::arguments::<wire::ReadIn>(request).ok_or(libc::EINVAL)?;
        let directory = inode(image, header.node)?;
        if !matches!(directory.content, Content::Directory(_)) {
            return Err(libc::ENOTDIR);
        }
        let with_attributes = header.opcode == opcode::READDIRPLUS;
        let most = read.size as usize;
        let mut failed = None;
        image
            .read_dir(&directory, read.offset, &mut |entry| {
                let mut bytes = size_of::<wire::DirectoryEntry>() + entry.name.len().next_multiple_of(8);
                if with_attributes {
                    bytes += size_of::<wire::EntryOut>();
                }
                if answer.bytes.len() + bytes > most {
                    return ControlFlow::Break(());
                }
                if with_attributes {
                    match image.inode(entry.reference) {
                        Ok(inode) => {
                            self.read_ahead.tell(&inode);
                            answer.put(&self.entry(image, &inode));
                        }
                        // The name is listed; looking it up will tell what is wrong with it.
                        Err(error) if answer.bytes.is_empty() => {
                            failed = Some(error);
                            return ControlFlow::Break(());
                        }
                        Err(_) => answer.put(&wire::EntryOut::default()),
                    }
                }
                answer.put(&wire::DirectoryEntry {
                    ino: u64::from(entry.number),
                    next: entry.next,
                    name_length: entry.name.len() as u32,
                    kind: entry.kind.mode_bits() >> 12,
                });
                answer.bytes.extend_from_slice(entry.name);
                let padding = entry.name.len().next_multiple_of(8) - entry.name.len();
                answer.bytes.extend_from_slice(&[0; 8][..padding]);
                ControlFlow::Continue(())
            })
            .map_err(|_| libc::EIO)?;
        failed.map_or(Ok(()), |_| Err(libc::EIO))
    }

    fn entry(&self, image: &Squashfs, inode: &Inode) -> wire::EntryOut {
        wire::EntryOut {
            node: node_of(image, inode.reference),
            entry_valid_seconds: FOR_EVER,
            attributes_valid_seconds: FOR_EVER,
            attributes: self.attributes(inode),
            ..Default::default()
        }
    }

    fn attributes(&self, inode: &Inode) -> wire::Attributes {
        let (uid, gid) = match self.owner {
            Owner::Caller { uid, gid } => (uid, gid),
            Owner::Mapped { uids, gids } => (mapped(inode.uid, uids), mapped(inode.gid, gids)),
            Owner::Image => (inode.uid, inode.gid),
        };
        let mtime = u64::from(inode.mtime);
        wire::Attributes {
            ino: u64::from(inode.number),
            size: inode.size,
            blocks: inode.size.div_ceil(512),
            atime: mtime,
            mtime,
            ctime: mtime,
            mode: inode.kind().mode_bits() | (inode.mode & 0o7777),
            links: inode.links,
            uid,
            gid,
            rdev: match inode.content {
                Content::Device { rdev, .. } => rdev,
                _ => 0,
            },
            block_size: 128 << 10,
            ..Default::default()
        }
    }
}

/// An id that the user namespace does not map belongs to nobody there, not even to root: such a file could be neither
/// read nor given to someone. So it is shown as belonging to the one whom everybody calls nobody, who is mapped.
fn mapped(id: u32, count: u32) -> u32 {
    if id < count { id } else { NOBODY }
}

/// The kernel's overflow id.
const NOBODY: u32 = 65_534;

/// Whether a kernel that sends this INIT gives up requests that nobody answers.
pub fn gives_up(header: &RequestHeader, request: &[u8]) -> bool {
    use super::wire::feature;
    header.opcode == opcode::INIT
        && wire::arguments::<wire::InitIn>(request).is_some_and(|(kernel, rest)| {
            kernel.flags & feature::INIT_EXT != 0 && wire::more_flags(rest) & feature::REQUEST_TIMEOUT != 0
        })
}

fn init(request: &[u8], answer: &mut Answer) -> Result<(), i32> {
    use super::wire::feature;
    let (kernel, rest) = wire::arguments::<wire::InitIn>(request).ok_or(libc::EINVAL)?;
    let wanted = feature::ASYNC_READ
        | feature::EXPORT_SUPPORT
        | feature::DO_READDIRPLUS
        | feature::NO_OPEN_SUPPORT
        | feature::PARALLEL_DIROPS
        | feature::MAX_PAGES
        | feature::CACHE_SYMLINKS
        | feature::NO_OPENDIR_SUPPORT
        | feature::INIT_EXT;
    answer.put(&wire::InitOut {
        major: 7,
        minor: 43.min(kernel.minor),
        max_readahead: kernel.max_readahead,
        flags: wanted & kernel.flags,
        max_background: MAX_BACKGROUND,
        congestion_threshold: MAX_BACKGROUND * 3 / 4,
        // Nothing is written, and a small value keeps the slots small.
        max_write: 4096,
        time_granularity: 1_000_000_000,
        max_pages: MAX_PAGES,
        flags2: feature::REQUEST_TIMEOUT & wire::more_flags(rest),
        request_timeout: LONGEST_REQUEST_SECONDS,
        ..Default::default()
    });
    Ok(())
}

fn read(image: &Squashfs, node: u64, request: &[u8], answer: &mut Answer) -> Result<(), i32> {
    let (read, _) = wire::arguments::<wire::ReadIn>(request).ok_or(libc::EINVAL)?;
    let inode = inode(image, node)?;
    if !matches!(inode.content, Content::Regular(_)) {
        return Err(libc::EINVAL);
    }
    let block_bytes = u64::from(image.superblock().block_size);
    let end = read.offset.saturating_add(u64::from(read.size)).min(inode.size);
    let mut at = read.offset;
    while at < end {
        let from = at % block_bytes;
        let to = (end - at + from).min(block_bytes);
        match image.part(&inode, at / block_bytes).map_err(|_| libc::EIO)? {
            Part::Stored(position) => {
                let room = answer.put_stored((to - from) as usize);
                image.read_stored(position + from, room).map_err(|_| libc::EIO)?;
            }
            Part::Block(Block::Hole(_)) => answer.put_zeroes((to - from) as usize),
            // A block shorter than its file says would shift all that follows.
            Part::Block(Block::Data(bytes)) if (bytes.len() as u64) < to => return Err(libc::EIO),
            Part::Block(Block::Data(bytes)) => answer.put_cached(bytes.slice(from as usize, to as usize)),
        }
        at += to - from;
    }
    Ok(())
}

fn statfs(image: &Squashfs) -> wire::StatfsOut {
    let superblock = image.superblock();
    wire::StatfsOut {
        blocks: superblock.bytes_used.div_ceil(u64::from(superblock.block_size)),
        files: u64::from(superblock.inodes),
        block_size: superblock.block_size,
        fragment_size: superblock.block_size,
        name_length: 256,
        ..Default::default()
    }
}

fn inode(image: &Squashfs, node: u64) -> Result<Arc<Inode>, i32> {
    let reference = match node {
        wire::ROOT_NODE => image.root(),
        node => InodeRef(node.checked_sub(2).ok_or(libc::ESTALE)?),
    };
    image.inode(reference).map_err(|_| libc::EIO)
}

/// The node id of an inode.
pub fn node_of(image: &Squashfs, reference: InodeRef) -> u64 {
    if reference == image.root() { wire::ROOT_NODE } else { reference.0 + 2 }
}

/// The name of a LOOKUP, without its final NUL.
fn name_of(request: &[u8]) -> Option<&[u8]> {
    request.get(size_of::<RequestHeader>()..)?.split(|byte| *byte == 0).next()
}
