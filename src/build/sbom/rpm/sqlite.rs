//! The rows of a table of SQLite, as far as rpm's data base needs it.
//!
//! ```text
//! page       first one: 100 bytes of header, page size at 16 (1 is 65536), unused bytes at each page's end at 20
//! b-tree     type, -, -, cells: u16, content: u16, fragments; in inner pages the rightmost child: u32; offsets of cells
//!            5 inner: child: u32, row number    13 leaf: length, row number, record, overflow page: u32
//! record     length of its header, types of its columns; columns
//! overflow   next page: u32, bytes
//! ```
//!
//! Numbers are big endian; lengths, row numbers and types have one to nine bytes of seven bits. As in
//! <https://www.sqlite.org/fileformat2.html>.

/// A b-tree of the largest file is no deeper.
const DEPTH: u32 = 40;

struct File<'a> {
    bytes: &'a [u8],
    page_bytes: usize,
    usable: usize,
}

/// What a function of rows may say.
#[derive(PartialEq, Eq)]
enum Next {
    More,
    Enough,
}

/// The blobs of the table Packages.
pub(super) fn headers(bytes: &[u8], take: &mut dyn FnMut(&[u8]) -> bool) -> bool {
    read(bytes, take).is_some()
}

fn read(bytes: &[u8], take: &mut dyn FnMut(&[u8]) -> bool) -> Option<()> {
    let file = File::open(bytes)?;
    let mut root = None;
    file.rows(1, &mut |record| {
        // type, name, table's name, root page, statement
        let [kind, name, _, page, ..] = columns(record)[..] else { return Next::More };
        if kind.1 == b"table" && name.1 == b"Packages" && (1..=6).contains(&page.0) {
            root = Some(page.1.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)));
        }
        Next::More
    })?;
    file.rows(usize::try_from(root?).ok()?, &mut |record| {
        let blob = columns(record).into_iter().map(|(_, value)| value).max_by_key(|value| value.len());
        if take(blob.unwrap_or_default()) { Next::More } else { Next::Enough }
    })
}

impl<'a> File<'a> {
    fn open(bytes: &'a [u8]) -> Option<Self> {
        if !bytes.starts_with(b"SQLite format 3\0") {
            return None;
        }
        let page_bytes = match u16_at(bytes, 16)? {
            1 => 65536,
            other => other as usize,
        };
        let usable = page_bytes.checked_sub(usize::from(*bytes.get(20)?))?;
        (page_bytes.is_power_of_two() && page_bytes >= 512 && usable >= 480).then_some(Self {
            bytes,
            page_bytes,
            usable,
        })
    }

    /// Pages count from 1.
    fn page(&self, number: usize) -> Option<&'a [u8]> {
        let start = number.checked_sub(1)?.checked_mul(self.page_bytes)?;
        self.bytes.get(start..)?.get(..self.page_bytes)
    }

    /// Gives the records of the table that begins on a page to a function.
    fn rows(&self, root: usize, take: &mut dyn FnMut(&[u8]) -> Next) -> Option<()> {
        // Each page is looked at once; more would be a circle.
        let mut left = self.bytes.len() / self.page_bytes;
        let mut ahead = vec![(root, 0)];
        while let Some((number, depth)) = ahead.pop() {
            left = left.checked_sub(1)?;
            if depth > DEPTH {
                return None;
            }
            let page = self.page(number)?;
            let head = page.get(if number == 1 { 100 } else { 0 }..)?;
            let count = u16_at(head, 3)? as usize;
            match head.first()? {
                5 => {
                    ahead.push((super::big(head, 8)? as usize, depth + 1));
                    for cell in (0..count).rev() {
                        let at = u16_at(head, 12 + cell * 2)? as usize;
                        ahead.push((super::big(page, at)? as usize, depth + 1));
                    }
                }
                13 => {
                    for cell in 0..count {
                        let at = u16_at(head, 8 + cell * 2)? as usize;
                        if take(&self.record(page.get(at..self.usable)?)?) == Next::Enough {
                            return Some(());
                        }
                    }
                }
                _ => return None,
            }
        }
        Some(())
    }

    /// The record of a cell, with what of it lies on other pages.
    fn record(&self, cell: &[u8]) -> Option<Vec<u8>> {
        let (length, rest) = varint(cell)?;
        let (_, rest) = varint(rest)?;
        let length = usize::try_from(length).ok().filter(|length| *length <= self.bytes.len())?;
        let most = self.usable - 35;
        if length <= most {
            return Some(rest.get(..length)?.to_vec());
        }
        let least = (self.usable - 12) * 32 / 255 - 23;
        let here = least + (length - least) % (self.usable - 4);
        let here = if here <= most { here } else { least };
        let mut record = rest.get(..here)?.to_vec();
        let mut next = super::big(rest, here)?;
        while record.len() < length {
            let page = self.page(next as usize)?;
            next = super::big(page, 0)?;
            let wanted = (length - record.len()).min(self.usable - 4);
            record.extend_from_slice(page.get(4..4 + wanted)?);
        }
        Some(record)
    }
}

/// The columns of a record, each with its type; those before the first that is damaged.
fn columns(record: &[u8]) -> Vec<(u64, &[u8])> {
    let mut found = Vec::new();
    let Some((length, mut types)) = varint(record) else { return found };
    let Some(mut values) = usize::try_from(length).ok().and_then(|length| record.get(length..)) else {
        return found;
    };
    let Some(end) = types.len().checked_sub(values.len()) else { return found };
    types = &types[..end];
    while let Some((kind, rest)) = varint(types) {
        types = rest;
        let bytes = match kind {
            0 | 8 | 9 => 0,
            1..=4 => kind,
            5 => 6,
            6 | 7 => 8,
            10 | 11 => return found,
            _ => (kind - 12) / 2,
        };
        let Some(value) = usize::try_from(bytes).ok().and_then(|bytes| values.get(..bytes)) else {
            return found;
        };
        values = &values[value.len()..];
        found.push((kind, value));
    }
    found
}

/// A number of one to nine bytes, and what follows it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(9).enumerate() {
        if index == 8 {
            return Some((value << 8 | u64::from(*byte), &bytes[9..]));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?)))
}
