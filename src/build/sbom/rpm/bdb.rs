//! A hash of Berkeley DB, as rpm used it before: `Packages`.
//!
//! ```text
//! page 0    number at 12 that tells hashes and the order of bytes; page size at 20, last page at 32
//! page      at 16 next page, at 20 entries: u16, at 22 bytes: u16, at 25 type: u8, from 26 on places of entries: u16
//!           13 (and 2) of a hash: keys and values in turn, the first byte of each its kind
//!              3 elsewhere: three unused bytes, page: u32, length: u32
//!           7 overflow: bytes from 26 on, as many as `bytes` says
//! ```
//!
//! Values that are long enough to be a header lie on pages of their own.

const HASH_MAGIC: u32 = 0x0006_1561;
const HASH: [u8; 2] = [2, 13];
const OVERFLOW: u8 = 7;
const ELSEWHERE: u8 = 3;
const START: usize = 26;

struct File<'a> {
    bytes: &'a [u8],
    page_bytes: usize,
    big: bool,
}

pub(super) fn headers(bytes: &[u8], take: &mut dyn FnMut(&[u8]) -> bool) -> bool {
    read(bytes, take).is_some()
}

fn read(bytes: &[u8], take: &mut dyn FnMut(&[u8]) -> bool) -> Option<()> {
    let big = match (super::little(bytes, 12)?, super::big(bytes, 12)?) {
        (HASH_MAGIC, _) => false,
        (_, HASH_MAGIC) => true,
        _ => return None,
    };
    let mut file = File { bytes, page_bytes: 0, big };
    file.page_bytes = file.u32(bytes, 20)? as usize;
    if !file.page_bytes.is_power_of_two() || !(512..=65536).contains(&file.page_bytes) {
        return None;
    }
    // The same value in two places would be read twice, which a hostile file could do very often.
    let mut left = bytes.len();
    for page in bytes.chunks_exact(file.page_bytes).skip(1).filter(|page| HASH.contains(&page[25])) {
        let count = file.u16(page, 20)?;
        for value in (1..count).step_by(2) {
            let entry = page.get(file.u16(page, START + value * 2)?..)?;
            if *entry.first()? != ELSEWHERE {
                continue;
            }
            let length = file.u32(entry, 8)? as usize;
            left = left.checked_sub(length)?;
            if !take(&file.overflow(file.u32(entry, 4)? as usize, length)?) {
                return Some(());
            }
        }
    }
    Some(())
}

impl File<'_> {
    fn u32(&self, bytes: &[u8], at: usize) -> Option<u32> {
        if self.big { super::big(bytes, at) } else { super::little(bytes, at) }
    }

    fn u16(&self, bytes: &[u8], at: usize) -> Option<usize> {
        let two = *bytes.get(at..)?.first_chunk()?;
        Some(usize::from(if self.big { u16::from_be_bytes(two) } else { u16::from_le_bytes(two) }))
    }

    fn overflow(&self, first: usize, length: usize) -> Option<Vec<u8>> {
        let mut value = Vec::new();
        let mut next = first;
        while value.len() < length {
            let page = self.bytes.get(next.checked_mul(self.page_bytes)?..)?.get(..self.page_bytes)?;
            if page[25] != OVERFLOW {
                return None;
            }
            let part = page.get(START..)?.get(..self.u16(page, 22)?)?;
            // One without bytes might lead to itself.
            value.extend_from_slice((!part.is_empty()).then_some(part)?);
            next = self.u32(page, 16)? as usize;
        }
        value.truncate(length);
        Some(value)
    }
}
