//! Sparse files in tar archives: which parts of a file are in the archive, and where they belong.
//!
//! ```text
//! old GNU      type 'S': four parts in the header, 21 in each block after it, the length at byte 483
//! PAX 0.0      GNU.sparse.size; GNU.sparse.offset and GNU.sparse.numbytes, again and again
//! PAX 0.1      GNU.sparse.size; GNU.sparse.map: "offset,bytes,offset,bytes,..."
//! PAX 1.0      GNU.sparse.realsize; the map precedes the content: "count\noffset\nbytes\n...", padded to blocks
//! ```
//!
//! Source: GNU tar's manual, "Sparse Formats".

use std::collections::VecDeque;

/// No file has more parts: a map of so many is 16 MiB long.
const PARTS: usize = 1 << 20;

/// The parts of a file that are in the archive: offset and length, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Map {
    parts: VecDeque<(u64, u64)>,
}

impl Map {
    /// A file without holes.
    pub fn whole(bytes: u64) -> Self {
        Self { parts: VecDeque::from([(0, bytes)]) }
    }

    /// Adds a part.
    ///
    /// # Errors
    /// There are too many; says why.
    pub fn add(&mut self, offset: u64, bytes: u64) -> Result<(), String> {
        if self.parts.len() >= PARTS {
            return Err(format!("it is a sparse file of more than {PARTS} parts"));
        }
        self.parts.push_back((offset, bytes));
        Ok(())
    }

    /// Adds the parts of an old GNU header, until the first that is empty.
    ///
    /// # Errors
    /// What makes no sense; says why.
    pub fn add_old(&mut self, fields: &[u8]) -> Result<(), String> {
        for field in fields.as_chunks::<24>().0 {
            let (offset, bytes) = field.split_at(12);
            if offset.first() == Some(&0) || bytes.first() == Some(&0) {
                break;
            }
            self.add(number(offset)?, number(bytes)?)?;
        }
        Ok(())
    }

    /// Checks the map against the file's length and what the archive has of it.
    ///
    /// # Errors
    /// Parts that overlap, are out of order, or do not fit; says so.
    pub fn ensure_sound(&self, size: u64, stored: u64) -> Result<(), String> {
        let (mut end, mut sum) = (0_u64, 0_u64);
        for &(offset, bytes) in &self.parts {
            let after = offset.checked_add(bytes).filter(|&after| offset >= end && after <= size);
            end = after.ok_or("it is a sparse file whose map is wrong")?;
            sum += bytes;
        }
        if sum != stored {
            return Err(format!("it is a sparse file whose map has {sum} bytes and whose content {stored}"));
        }
        Ok(())
    }

    /// Of `[at, at + room)`: how many bytes of hole it begins with, and how many of content follow them.
    pub fn next(&mut self, at: u64, room: u64) -> (u64, u64) {
        // Parts are used up in order.
        while self.parts.front().is_some_and(|(offset, bytes)| offset + bytes <= at) {
            self.parts.pop_front();
        }
        match self.parts.front() {
            Some(&(offset, bytes)) if offset < at.saturating_add(room) => {
                let hole = offset.saturating_sub(at);
                let begun = at.saturating_sub(offset);
                (hole, (bytes - begun).min(room - hole))
            }
            _ => (room, 0),
        }
    }
}

/// A number of a header: octal digits, or base 256 where the first bit is set.
///
/// # Errors
/// Says what is wrong.
pub fn number(field: &[u8]) -> Result<u64, String> {
    if let Some(first) = field.first().filter(|byte| *byte & 0x80 != 0) {
        // Bit 6 is the sign, and none of these numbers is negative.
        let bytes = std::iter::once(first & 0x7f).chain(field.iter().skip(1).copied());
        let sum = bytes.fold(0_u128, |number, byte| (number & (u128::MAX >> 8)) << 8 | u128::from(byte));
        return u64::try_from(sum).map_err(|_| "a number in its header is out of range".to_owned());
    }
    let text = field.split(|&byte| byte == 0).next().unwrap_or_default().trim_ascii();
    if text.is_empty() {
        return Ok(0);
    }
    let digits = std::str::from_utf8(text).map_err(|_| "a number in its header is none")?;
    u64::from_str_radix(digits, 8).map_err(|_| format!("a number in its header is none: {digits:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_and_content_take_turns() {
        let mut map = Map::default();
        map.add(10, 5).unwrap();
        map.add(20, 5).unwrap();
        map.add(30, 0).unwrap();
        assert_eq!(map.ensure_sound(30, 10), Ok(()));
        assert_eq!(map.clone().next(0, 12), (10, 2));
        assert_eq!(map.next(12, 100), (0, 3));
        assert_eq!(map.next(15, 3), (3, 0));
        assert_eq!(map.next(18, 100), (2, 5));
        assert_eq!(map.next(25, 5), (5, 0));
    }

    #[test]
    fn maps_that_lie_are_refused() {
        let map = |parts: &[(u64, u64)]| Map { parts: parts.iter().copied().collect() };
        for parts in [&[(5, 5), (0, 5)][..], &[(0, 5), (4, 5)], &[(96, 5)], &[(u64::MAX, 10)], &[(0, 9)]] {
            assert!(map(parts).ensure_sound(100, 10).is_err(), "{parts:?}");
        }
        assert_eq!(map(&[(0, 5), (5, 5)]).ensure_sound(10, 10), Ok(()));
    }

    #[test]
    fn numbers_are_octal_or_binary() {
        assert_eq!(number(b"0000644\0"), Ok(0o644));
        assert_eq!(number(b"  17 \0\0\0"), Ok(0o17));
        assert_eq!(number(b"\0\0\0\0"), Ok(0));
        assert_eq!(number(b"\x80\0\0\0\0\0\0\0\0\0\x01\x02"), Ok(258));
        assert_eq!(number(b"\x80\0\0\0\0\x12\xd6\x87"), Ok(1_234_567));
        assert!(number(b"\xff\0\0\0\0\0\0\0\0\0\x01\x02").is_err());
        assert!(number(b"12x\0").is_err());
    }
}
