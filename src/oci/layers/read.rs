//! A tar stream, entry by entry: ustar (POSIX.1-1988), pax (POSIX.1-2001), GNU, and what came before them.
//!
//! ```text
//! header block │ content, padded to blocks │ header block │ ... │ two blocks of zeros
//! ```
//!
//! Records that precede an entry (pax `x`, GNU `L` and `K`) say what its own header has no room for; pax `g` says
//! something about all that follow. Numbers are checked before they are used, and nothing is kept that is longer
//! than a path or an attribute may be.

use super::decode::Decoded;
use super::entry::{Attributes, Entry, What, plain, target, wrong};
use super::pax::{Records, Xattrs};
use super::sparse::{Map, number};
use crate::error::{Error, Result};
use crate::pack::device_number;
use std::io::{self, Read};
use tar::Header;

const BLOCK_BYTES: u64 = 512;
/// No record is longer: what it holds is a path, or attributes of 64 KiB each.
const RECORD_BYTES: u64 = 1 << 20;
/// No entry has more records before it.
const RECORDS: usize = 16;
/// No old sparse file's map has more blocks.
const MAP_BLOCKS: usize = 1 << 16;

/// The entries of a layer, in order.
pub struct Entries {
    input: Decoded,
    global: Records,
    /// Of the last entry's content: where it has been read to, its length, what the archive has of it.
    at: u64,
    size: u64,
    map: Map,
    /// What follows before the next header, in bytes of the archive.
    left: u64,
    /// What sparse files may still add to what the layer expands to.
    room: u64,
}

/// A header and the records before it.
struct Raw {
    header: Header,
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    records: Records,
}

impl Entries {
    /// Of a stream that may expand to `limit` bytes.
    pub fn new(input: Decoded, limit: u64) -> Self {
        let global = Records::default();
        Self { input, global, at: 0, size: 0, map: Map::default(), left: 0, room: limit }
    }

    /// The next entry; `None` after the last. What is left of the content of the one before is passed over.
    ///
    /// # Errors
    /// A stream that is damaged or cut short; an entry that makes no sense, which is named.
    pub fn next(&mut self) -> Result<Option<Entry>> {
        let left = std::mem::take(&mut self.left);
        (self.at, self.size) = (0, 0);
        if self.input.skip(left).map_err(damaged)? < left {
            return Err(cut_short());
        }
        let Some(raw) = self.raw()? else { return Ok(None) };
        let path = raw.path(&self.global);
        self.entry(&raw, &path).map(Some).map_err(|reason| wrong(&path, &reason))
    }

    /// Fills a buffer with the next bytes of the content, holes included.
    ///
    /// # Errors
    /// A stream that is damaged or cut short.
    pub fn fill(&mut self, mut buffer: &mut [u8]) -> Result<()> {
        while !buffer.is_empty() {
            let (hole, bytes) = self.map.next(self.at, buffer.len() as u64);
            let (zeros, rest) = std::mem::take(&mut buffer).split_at_mut(hole as usize);
            let (content, rest) = rest.split_at_mut(bytes as usize);
            zeros.fill(0);
            self.input.read_exact(content).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => cut_short(),
                _ => damaged(error),
            })?;
            self.at += hole + bytes;
            self.left -= bytes;
            buffer = rest;
        }
        Ok(())
    }

    /// The next block; `None` at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK_BYTES as usize]>> {
        let mut block = [0; BLOCK_BYTES as usize];
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.input.read(rest).map_err(damaged)? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(cut_short()),
                count => filled += count,
            }
        }
        Ok(Some(block))
    }

    /// The next header, with the records before it.
    fn raw(&mut self) -> Result<Option<Raw>> {
        let mut raw =
            Raw { header: Header::new_old(), long_path: None, long_link: None, records: Records::default() };
        for _ in 0..RECORDS {
            // Some writers leave the end out.
            let Some(block) = self.block()? else { return Ok(None) };
            if block.iter().all(|&byte| byte == 0) {
                return match self.block()? {
                    Some(next) if next.iter().any(|&byte| byte != 0) => {
                        Err(Error::image("there is an empty block between its entries"))
                    }
                    _ => Ok(None),
                };
            }
            raw.header = Header::from_byte_slice(&block).clone();
            ensure_sum(&block)?;
            let kind = raw.header.as_bytes().get(156).copied().unwrap_or_default();
            if !matches!(kind, b'x' | b'X' | b'g' | b'L' | b'K') {
                return Ok(Some(raw));
            }
            let content = self.record(&raw.header)?;
            let text = |content: &[u8]| content.split(|&byte| byte == 0).next().unwrap_or_default().to_vec();
            match kind {
                b'L' => raw.long_path = Some(text(&content)),
                b'K' => raw.long_link = Some(text(&content)),
                b'g' => self.global.parse(&content).map_err(Error::image)?,
                _ => raw.records.parse(&content).map_err(Error::image)?,
            }
        }
        Err(Error::image(format!("there are {RECORDS} records in a row before an entry")))
    }

    /// The content of a record.
    fn record(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size = number(field(header, 124, 12)).map_err(Error::image)?;
        if size > RECORD_BYTES {
            return Err(Error::image(format!("there is a record of {size} bytes before an entry")));
        }
        let mut content = vec![0; size.next_multiple_of(BLOCK_BYTES) as usize];
        self.input.read_exact(&mut content).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => cut_short(),
            _ => damaged(error),
        })?;
        content.truncate(size as usize);
        Ok(content)
    }

    /// What a header says, its records taken into account.
    fn entry(&mut self, raw: &Raw, path: &[u8]) -> Result<Entry, String> {
        let header = &raw.header;
        let kind = header.as_bytes().get(156).copied().unwrap_or_default();
        let value = |key: &str| raw.records.get(key).or_else(|| self.global.get(key));
        let stored = match value("size") {
            Some(size) => decimal(size)?,
            None => number(field(header, 124, 12))?,
        };
        let what = match kind {
            // Before ustar, directories were files whose names end with a slash.
            0 | b'0' | b'7' if path.ends_with(b"/") && raw.sparse(b'0').is_none() => What::Directory,
            0 | b'0' | b'7' | b'S' => {
                let size = self.begin_content(raw, kind, stored)?;
                What::Regular(size)
            }
            b'1' => {
                What::Link(plain(&raw.link(&self.global)).map_err(|reason| format!("its target: {reason}"))?)
            }
            b'2' => What::Symlink(target(&raw.link(&self.global))?),
            b'3' => What::CharDevice(device(header)?),
            b'4' => What::BlockDevice(device(header)?),
            b'5' => What::Directory,
            b'6' => What::Fifo,
            _ => return Err(format!("it is of the unknown type {:?}", char::from(kind))),
        };
        let Xattrs { set, access_list } = raw.records.xattrs(&self.global)?;
        let attributes = Attributes {
            mode: match what {
                // As file systems have them, whatever the layer says.
                What::Symlink(_) => 0o777,
                _ => number(field(header, 100, 8))? as u32 & 0o7777,
            },
            owner: (self.id(raw, "uid", 108)?, self.id(raw, "gid", 116)?),
            mtime: match raw.records.get("mtime").or_else(|| self.global.get("mtime")) {
                Some(text) => seconds(text)?,
                None => header_seconds(field(header, 136, 12))?,
            },
            xattrs: set,
            access_list,
        };
        Ok(Entry { path: plain(path)?, attributes, what })
    }

    /// Prepares for the content of a regular file; gives its length.
    fn begin_content(&mut self, raw: &Raw, kind: u8, stored: u64) -> Result<u64, String> {
        self.left = stored.checked_next_multiple_of(BLOCK_BYTES).ok_or("its size is out of range")?;
        let Some(sparse) = raw.sparse(kind) else {
            (self.size, self.map) = (stored, Map::whole(stored));
            return Ok(stored);
        };
        let (size, map, used) = match sparse {
            Sparse::Old => self.old_map(&raw.header)?,
            Sparse::Pax { size, map } => (decimal(&size)?, pax_map(&raw.records, map.as_deref())?, 0),
            Sparse::PaxInContent { size } => {
                let (map, used) = self.map_in_content(stored)?;
                self.left -= used;
                (decimal(&size)?, map, used)
            }
        };
        let content =
            stored.checked_sub(used).ok_or("it is a sparse file whose map is longer than its content")?;
        map.ensure_sound(size, content)?;
        self.room = self.room.checked_sub(size).ok_or("sparse files make the layer expand too much")?;
        (self.size, self.map) = (size, map);
        Ok(size)
    }

    /// The map of an old GNU header, and the file's length.
    fn old_map(&mut self, header: &Header) -> Result<(u64, Map, u64), String> {
        let mut map = Map::default();
        map.add_old(field(header, 386, 96))?;
        let mut more = field(header, 482, 1) != [0];
        // Blocks without a part could go on forever.
        for _ in 0..MAP_BLOCKS {
            if !more {
                return Ok((number(field(header, 483, 12))?, map, 0));
            }
            let block = self.block().map_err(|error| error.to_string())?.ok_or("the layer is cut short")?;
            map.add_old(block.get(..504).unwrap_or_default())?;
            more = block.get(504) != Some(&0);
        }
        Err("it is a sparse file whose map has no end".into())
    }

    /// The map that precedes the content (PAX 1.0), and how long it is in the archive.
    fn map_in_content(&mut self, stored: u64) -> Result<(Map, u64), String> {
        let mut map = Map::default();
        let (mut digits, mut used) = (Vec::new(), 0);
        let (mut parts, mut offset) = (None::<u64>, None);
        while parts != Some(0) {
            if used >= stored {
                return Err("it is a sparse file whose map is longer than its content".into());
            }
            let block = self.block().map_err(|error| error.to_string())?.ok_or("the layer is cut short")?;
            used += BLOCK_BYTES;
            // What follows the last number is padding.
            for byte in block {
                if parts == Some(0) {
                    break;
                }
                if byte.is_ascii_digit() && digits.len() < 20 {
                    digits.push(byte);
                    continue;
                }
                if byte != b'\n' {
                    return Err("it is a sparse file whose map is no list of numbers".into());
                }
                let number = decimal(&std::mem::take(&mut digits))?;
                match (&mut parts, offset.take()) {
                    (None, _) => parts = Some(number),
                    (Some(_), None) => offset = Some(number),
                    (Some(left), Some(offset)) => {
                        map.add(offset, number)?;
                        *left -= 1;
                    }
                }
            }
        }
        Ok((map, used))
    }

    /// An owner or a group.
    fn id(&self, raw: &Raw, key: &str, offset: usize) -> Result<u32, String> {
        let id = match raw.records.get(key).or_else(|| self.global.get(key)) {
            Some(text) => decimal(text)?,
            None => number(field(&raw.header, offset, 8))?,
        };
        u32::try_from(id).ok().filter(|&id| id != u32::MAX).ok_or(format!("its {key} {id} is none"))
    }
}

/// How a sparse file's map is told.
enum Sparse {
    Old,
    Pax { size: Vec<u8>, map: Option<Vec<u8>> },
    PaxInContent { size: Vec<u8> },
}

impl Raw {
    /// The path as the layer has it.
    fn path(&self, global: &Records) -> Vec<u8> {
        let named = self.records.get("GNU.sparse.name").or_else(|| self.records.get("path"));
        match (named.or_else(|| global.get("path")), &self.long_path) {
            (Some(path), _) => path.to_vec(),
            (None, Some(path)) => path.clone(),
            (None, None) => self.header.path_bytes().into_owned(),
        }
    }

    /// The target of a link.
    fn link(&self, global: &Records) -> Vec<u8> {
        match (self.records.get("linkpath").or_else(|| global.get("linkpath")), &self.long_link) {
            (Some(path), _) => path.to_vec(),
            (None, Some(path)) => path.clone(),
            (None, None) => {
                let field = field(&self.header, 157, 100);
                field.split(|&byte| byte == 0).next().unwrap_or_default().to_vec()
            }
        }
    }

    fn sparse(&self, kind: u8) -> Option<Sparse> {
        if kind == b'S' {
            return Some(Sparse::Old);
        }
        let value = |key: &str| self.records.get(key).map(<[u8]>::to_vec);
        if value("GNU.sparse.major").as_deref() == Some(b"1") {
            return Some(Sparse::PaxInContent { size: value("GNU.sparse.realsize").unwrap_or_default() });
        }
        let size = value("GNU.sparse.size")?;
        Some(Sparse::Pax { size, map: value("GNU.sparse.map") })
    }
}

/// The map of PAX 0.1, or of 0.0 where there is none.
fn pax_map(records: &Records, list: Option<&[u8]>) -> Result<Map, String> {
    let mut map = Map::default();
    let mut numbers = Vec::new();
    match list {
        Some(list) => {
            let fields = list.split(|&byte| byte == b',').filter(|field| !field.is_empty());
            for field in fields {
                numbers.push(decimal(field)?);
            }
        }
        None => {
            for value in records.sparse_numbers() {
                numbers.push(decimal(value)?);
            }
        }
    }
    for pair in numbers.chunks(2) {
        let &[offset, bytes] = pair else { return Err("it is a sparse file whose map is wrong".into()) };
        map.add(offset, bytes)?;
    }
    Ok(map)
}

fn field(header: &Header, offset: usize, bytes: usize) -> &[u8] {
    header.as_bytes().get(offset..offset + bytes).unwrap_or_default()
}

/// The sum of a header's bytes, its own field taken as blanks. Old writers counted signed bytes.
fn ensure_sum(block: &[u8; BLOCK_BYTES as usize]) -> Result<()> {
    let stated = number(block.get(148..156).unwrap_or_default()).ok();
    let bytes =
        || block.iter().enumerate().map(|(at, &byte)| if (148..156).contains(&at) { b' ' } else { byte });
    let unsigned: u64 = bytes().map(u64::from).sum();
    let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
    if stated.is_some_and(|stated| stated == unsigned || i64::try_from(stated) == Ok(signed)) {
        return Ok(());
    }
    Err(Error::image("it is no tar stream, or a damaged one: a header's checksum is wrong"))
}

/// A device's number.
fn device(header: &Header) -> Result<u32, String> {
    let (major, minor) = (number(field(header, 329, 8))?, number(field(header, 337, 8))?);
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) if major < 1 << 12 && minor < 1 << 20 => Ok(device_number(major, minor)),
        _ => Err(format!("its device number {major}:{minor} is none")),
    }
}

fn decimal(text: &[u8]) -> Result<u64, String> {
    let digits = std::str::from_utf8(text).unwrap_or_default();
    digits
        .parse()
        .map_err(|_| format!("a number of its records is none: {:?}", String::from_utf8_lossy(text)))
}

/// Seconds since 1970 of a decimal fraction, rounded down as file systems do.
fn seconds(text: &[u8]) -> Result<i64, String> {
    let wrong = || format!("its time is none: {:?}", String::from_utf8_lossy(text));
    let text = std::str::from_utf8(text).map_err(|_| wrong())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let seconds: i64 = whole.parse().map_err(|_| wrong())?;
    let below = whole.starts_with('-') && fraction.bytes().any(|byte| byte != b'0');
    Ok(seconds.saturating_sub(i64::from(below)))
}

/// Seconds since 1970 of a header: base 256 is in two's complement.
fn header_seconds(field: &[u8]) -> Result<i64, String> {
    match field.first() {
        Some(0xff) => {
            let low = field.iter().rev().take(8).rev();
            Ok(low.fold(0_u64, |number, &byte| number << 8 | u64::from(byte)).cast_signed())
        }
        _ => number(field).map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX)),
    }
}

fn damaged(error: io::Error) -> Error {
    Error::image("it cannot be decoded").because(error)
}

fn cut_short() -> Error {
    Error::image("it is cut short")
}
