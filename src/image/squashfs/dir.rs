//! Directories: listings, and finding a name in a large one.
//!
//! ```text
//! listing:  header  entries - 1 u32 | inode block u32 | inode number u32      (at most 256 entries)
//!           entry   inode offset u16 | number - header's i16 | type u16 | name length - 1 u16 | name
//!           entry ...
//!           header ...
//! ```
//!
//! Names are sorted by bytes. A listing over 8 KiB gets an index: a mark each metadata block or so, by
//! which a name is searched in halves and a reader goes on in the middle. The image's own (in extended
//! directory inodes: listing offset u32, block u32, name length - 1 u32, name) is used where it has one;
//! else the listing is walked once. Only offsets are kept, 8 bytes a mark.
//!
//! A cursor is where reading goes on: the listing offset of a header shifted left by 9, and the number of
//! the entry below it. It fits in 31 bits for listings up to 4 MiB, which 32-bit programs need.

use super::Squashfs;
use super::inode::{Content, FileKind, Inode, InodeRef};
use super::meta::{Cursor, METADATA_BYTES};
use crate::error::{Error, Result};
use std::cmp::Ordering;
use std::ops::ControlFlow;
use std::sync::OnceLock;

/// The longest name in a directory, in bytes.
const NAME_BYTES: usize = 256;
/// Most entries that follow one header.
const HEADER_ENTRIES: u32 = 256;
const HEADER_BYTES: u32 = 12;
const ENTRY_BYTES: u32 = 8;
const CURSOR_BITS: u32 = 9;

/// Where a directory's listing is.
#[derive(Debug)]
pub struct Listing {
    start: u64,
    offset: usize,
    bytes: u32,
    pub(super) parent: u32,
    /// Where the image's own index of this listing begins, and how many entries it has.
    pub(super) stored_index: Option<((u64, usize), u16)>,
    index: OnceLock<Index>,
}

/// Marks in a listing, for jumping.
#[derive(Debug)]
struct Index {
    marks: Vec<Place>,
    /// Whether the names at the marks ascend, so that halving finds what is there.
    sorted: bool,
}

/// A header in a listing: its offset there, and the metadata block that it begins in.
#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u32,
    /// Relative to the listing's first block.
    block: u32,
}

impl Listing {
    pub(super) fn new(start: u64, offset: usize, bytes: u32, parent: u32) -> Self {
        Self { start, offset, bytes, parent, stored_index: None, index: OnceLock::new() }
    }

    pub(super) fn cost(&self) -> usize {
        let marks = match self.stored_index {
            Some((_, entries)) => usize::from(entries),
            None => self.bytes as usize / METADATA_BYTES,
        };
        marks * size_of::<Place>()
    }
}

/// One name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The name: 1 to 256 bytes, without `/` and NUL, not `.` or `..`.
    pub name: &'a [u8],
    /// The kind that the directory says the file has.
    pub kind: FileKind,
    /// The file's inode.
    pub reference: InodeRef,
    /// The file's inode number.
    pub number: u32,
    /// The cursor that goes on after this entry.
    pub next: u64,
}

/// The header that entries are read under.
struct Header {
    /// Listing offset of the header.
    offset: u32,
    count: u32,
    block: u32,
    number: u32,
}

/// A listing while it is read.
struct Reader<'a> {
    cursor: Cursor<'a>,
    /// Listing offset of the next byte, and of the end.
    offset: u32,
    bytes: u32,
}

impl Reader<'_> {
    fn take(&mut self, length: u32) -> Result<()> {
        if self.bytes - self.offset < length {
            return Err(Error::image(format!(
                "listing ends in the middle of an entry at {:#x}",
                self.offset
            )));
        }
        self.offset += length;
        Ok(())
    }

    fn header(&mut self) -> Result<Header> {
        let offset = self.offset;
        self.take(HEADER_BYTES)?;
        let count = self.cursor.u32()?;
        if count >= HEADER_ENTRIES {
            return Err(Error::image(format!("header with {} entries at {offset:#x}", u64::from(count) + 1)));
        }
        Ok(Header { offset, count: count + 1, block: self.cursor.u32()?, number: self.cursor.u32()? })
    }

    /// The fixed part of an entry: offset, number, type, length of the name.
    fn entry(&mut self) -> Result<(u16, i16, u16, usize)> {
        self.take(ENTRY_BYTES)?;
        let fields = u64::from_le_bytes(self.cursor.array()?);
        let length = (fields >> 48) as usize + 1;
        if length > NAME_BYTES {
            return Err(Error::image(format!("name of {length} bytes at {:#x}", self.offset)));
        }
        self.take(length as u32)?;
        Ok((fields as u16, (fields >> 16) as i16, (fields >> 32) as u16, length))
    }
}

impl Squashfs {
    /// Calls `visit` with the entries of a directory in order, from `cursor` (0: the beginning; else the
    /// `next` of an entry) until it breaks. `.` and `..` are not among them. A cursor that no entry gave
    /// yields wrong entries or an error, as the bytes have it.
    pub fn read_dir(
        &self,
        dir: &Inode,
        cursor: u64,
        visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        self.read_listing(dir, cursor, visit).map_err(|error| in_directory(dir, error))
    }

    /// The inode that a directory has under `name`.
    pub fn lookup(&self, dir: &Inode, name: &[u8]) -> Result<Option<InodeRef>> {
        self.find(dir, name).map_err(|error| in_directory(dir, error))
    }

    fn read_listing(
        &self,
        dir: &Inode,
        cursor: u64,
        visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let listing = listing_of(dir)?;
        let start = u32::try_from(cursor >> CURSOR_BITS).unwrap_or(u32::MAX);
        let mut passed = (cursor & ((1 << CURSOR_BITS) - 1)) as u32;
        if start >= listing.bytes {
            return Ok(());
        }
        let mut reader = self.reader(listing, start)?;
        let mut scratch = [0; NAME_BYTES];
        while reader.offset < reader.bytes {
            let header = reader.header()?;
            for number in 0..header.count {
                let (offset, delta, kind, length) = reader.entry()?;
                if passed > 0 {
                    reader.cursor.skip(length)?;
                    passed -= 1;
                    continue;
                }
                let next = match number + 1 == header.count {
                    true => u64::from(reader.offset) << CURSOR_BITS,
                    false => u64::from(header.offset) << CURSOR_BITS | u64::from(number + 1),
                };
                let name = reader.cursor.slice(length, &mut scratch)?;
                check_name(name)?;
                let entry = DirEntry {
                    name,
                    kind: FileKind::from_type(kind)
                        .ok_or_else(|| Error::image(format!("entry of the unknown type {kind}")))?,
                    reference: InodeRef(u64::from(header.block) << 16 | u64::from(offset)),
                    number: header.number.wrapping_add_signed(i32::from(delta)),
                    next,
                };
                if visit(entry).is_break() {
                    return Ok(());
                }
            }
            // What a made-up cursor would pass over beyond its header does not exist.
            passed = 0;
        }
        Ok(())
    }

    fn find(&self, dir: &Inode, name: &[u8]) -> Result<Option<InodeRef>> {
        let listing = listing_of(dir)?;
        let (Some(&first), true) = (name.first(), listing.bytes > 0 && name.len() <= NAME_BYTES) else {
            return Ok(None);
        };
        let mut reader = match self.mark_before(listing, name)? {
            Some(place) => self.reader_at(listing, place, place.offset)?,
            None => self.reader(listing, 0)?,
        };
        let mut scratch = [0; NAME_BYTES];
        while reader.offset < reader.bytes {
            let header = reader.header()?;
            for _ in 0..header.count {
                let (offset, _, _, length) = reader.entry()?;
                let here = reader.cursor.slice(length, &mut scratch)?;
                if here == name {
                    check_name(here)?;
                    return Ok(Some(InodeRef(u64::from(header.block) << 16 | u64::from(offset))));
                }
                // As the kernel does: sorted by the first byte is relied upon, more is not.
                if here.first().is_some_and(|&byte| byte > first) {
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    /// A reader at the header at `offset` of the listing.
    fn reader(&self, listing: &Listing, offset: u32) -> Result<Reader<'_>> {
        let beginning = Place { offset: 0, block: 0 };
        // Within the first blocks walking is as good, and asks for no index.
        if (offset as usize) < 2 * METADATA_BYTES {
            return self.reader_at(listing, beginning, offset);
        }
        let marks = &self.index(listing)?.marks;
        let after = marks.partition_point(|mark| mark.offset <= offset);
        let place = after.checked_sub(1).and_then(|before| marks.get(before)).unwrap_or(&beginning);
        self.reader_at(listing, *place, offset)
    }

    /// A reader at `offset`, found by walking the chain of blocks from `place`, which is not behind it.
    fn reader_at(&self, listing: &Listing, place: Place, offset: u32) -> Result<Reader<'_>> {
        let block = listing.start + u64::from(place.block);
        let end = self.superblock.table_end(self.superblock.directory_table);
        // The last block's start is what counts: its own offset is the listing's, wrapped at each block.
        let in_block = (listing.offset + place.offset as usize) % METADATA_BYTES;
        let in_block = if place.offset == 0 { listing.offset } else { in_block };
        let mut cursor = self.metadata.cursor(block, in_block, end, "directory listing")?;
        cursor.skip((offset - place.offset) as usize)?;
        Ok(Reader { cursor, offset, bytes: listing.bytes })
    }

    /// The last mark whose first name is not behind `name`, if the listing is large enough to have marks.
    fn mark_before(&self, listing: &Listing, name: &[u8]) -> Result<Option<Place>> {
        if listing.bytes as usize <= METADATA_BYTES {
            return Ok(None);
        }
        let index = self.index(listing)?;
        if !index.sorted {
            return Ok(None);
        }
        let (mut low, mut high) = (0, index.marks.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let Some(mark) = index.marks.get(middle) else { break };
            match self.compare_first_name(listing, *mark, name)? {
                Ordering::Greater => high = middle,
                _ => low = middle + 1,
            }
        }
        Ok(low.checked_sub(1).and_then(|before| index.marks.get(before)).copied())
    }

    fn compare_first_name(&self, listing: &Listing, mark: Place, name: &[u8]) -> Result<Ordering> {
        let mut reader = self.reader_at(listing, mark, mark.offset)?;
        reader.header()?;
        let (.., length) = reader.entry()?;
        Ok(reader.cursor.slice(length, &mut [0; NAME_BYTES])?.cmp(name))
    }

    fn index<'a>(&self, listing: &'a Listing) -> Result<&'a Index> {
        if let Some(index) = listing.index.get() {
            return Ok(index);
        }
        let index = match listing.stored_index {
            Some((place, entries)) => self.read_index(listing, place, entries)?,
            None => self.walk_for_index(listing)?,
        };
        // Two threads may have made it; both are the same.
        Ok(listing.index.get_or_init(|| index))
    }

    /// The image's own index.
    fn read_index(&self, listing: &Listing, place: (u64, usize), entries: u16) -> Result<Index> {
        let end = self.superblock.directory_table;
        let mut cursor = self.metadata.cursor(place.0, place.1, end, "directory index")?;
        let mut marks: Vec<Place> = Vec::with_capacity(usize::from(entries));
        for _ in 0..entries {
            let offset = cursor.u32()?;
            let block = u64::from(cursor.u32()?) + self.superblock.directory_table;
            let length = cursor.u32()?;
            if length >= NAME_BYTES as u32 {
                return Err(Error::image("directory index: name is too long"));
            }
            cursor.skip(length as usize + 1)?;
            let block = block.checked_sub(listing.start).and_then(|block| u32::try_from(block).ok());
            let ascends = marks.last().is_none_or(|last| last.offset < offset);
            match block {
                Some(block) if ascends && offset < listing.bytes => marks.push(Place { offset, block }),
                _ => {
                    return Err(Error::image(format!(
                        "directory index: mark at {offset:#x} is out of order"
                    )));
                }
            }
        }
        Ok(Index { marks, sorted: true })
    }

    /// An index made by walking the listing once.
    fn walk_for_index(&self, listing: &Listing) -> Result<Index> {
        let mut index = Index { marks: Vec::new(), sorted: true };
        let mut reader = self.reader_at(listing, Place { offset: 0, block: 0 }, 0)?;
        let mut scratch = [0; NAME_BYTES];
        let mut marked_name: Vec<u8> = Vec::new();
        let mut marked = 0;
        while reader.offset < reader.bytes {
            let block = reader.cursor.place()?.0;
            let header = reader.header()?;
            let due = header.offset - marked >= METADATA_BYTES as u32;
            for number in 0..header.count {
                let (.., length) = reader.entry()?;
                let name = reader.cursor.slice(length, &mut scratch)?;
                if due && number == 0 {
                    index.sorted &= marked_name.as_slice() < name;
                    marked_name = name.to_vec();
                    marked = header.offset;
                    // Four GiB of listing on disk would not fit in the relative place.
                    let block = u32::try_from(block - listing.start)
                        .map_err(|_| Error::image("listing is too long"))?;
                    index.marks.push(Place { offset: header.offset, block });
                }
            }
        }
        Ok(index)
    }
}

fn listing_of(dir: &Inode) -> Result<&Listing> {
    match &dir.content {
        Content::Directory(listing) => Ok(listing),
        _ => Err(Error::image("not a directory")),
    }
}

fn in_directory(dir: &Inode, error: Error) -> Error {
    Error::new(error.kind, format!("directory inode {:#x}", dir.reference.0)).because(error)
}

/// Names that would lead elsewhere, or nowhere, when used as a path component.
fn check_name(name: &[u8]) -> Result<()> {
    if matches!(name, b"" | b"." | b"..") || name.iter().any(|&byte| byte == b'/' || byte == 0) {
        let name = String::from_utf8_lossy(name);
        return Err(Error::image(format!("entry with the impossible name {name:?}")));
    }
    Ok(())
}
