//! A file in bounded pieces: what is read of it is kept until it becomes too much.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::error::{Error, Kind, Result};

/// How much is read at a time.
const PIECE: u64 = 64 * 1024;
/// How many pieces are kept: 4 MiB.
const PIECES: usize = 64;

/// Reads at most so many bytes at an offset; fewer only at the end of the file.
pub type ReadAt<'a> = Box<dyn Fn(u64, usize) -> Result<Vec<u8>> + 'a>;

/// A file whose bytes are read as they are asked for.
pub struct Bytes<'a> {
    /// What it is called in messages.
    name: String,
    size: u64,
    read_at: ReadAt<'a>,
    pieces: RefCell<BTreeMap<u64, Vec<u8>>>,
}

impl<'a> Bytes<'a> {
    /// A file of this name and size.
    pub fn new(name: impl Into<String>, size: u64, read_at: ReadAt<'a>) -> Self {
        Self { name: name.into(), size, read_at, pieces: RefCell::new(BTreeMap::new()) }
    }

    /// Bytes that are in memory.
    pub fn of(name: &str, bytes: &'a [u8]) -> Self {
        let read_at = move |offset: u64, length: usize| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            Ok(bytes[start..start.saturating_add(length).min(bytes.len())].to_vec())
        };
        Self::new(name, bytes.len() as u64, Box::new(read_at))
    }

    /// How long the file is.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// An error about this file.
    pub fn damaged(&self, why: &str) -> Error {
        Error::new(Kind::Image, format!("cannot understand the library {:?}: {why}", self.name))
    }

    /// Exactly these bytes.
    ///
    /// # Errors
    /// The file ends before, or cannot be read.
    pub fn exact(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let end = offset.checked_add(length as u64).filter(|end| *end <= self.size);
        let end = end.ok_or_else(|| self.damaged("it is cut off, or damaged"))?;
        let mut out = Vec::with_capacity(length);
        let mut at = offset;
        while at < end {
            let first = at / PIECE * PIECE;
            let skip = (at - first) as usize;
            let take = (end - at).min(PIECE - skip as u64) as usize;
            let mut pieces = self.pieces.borrow_mut();
            if !pieces.contains_key(&first) {
                if pieces.len() >= PIECES {
                    pieces.clear();
                }
                let piece = (self.read_at)(first, PIECE.min(self.size - first) as usize)?;
                pieces.insert(first, piece);
            }
            let piece = pieces.get(&first).and_then(|piece| piece.get(skip..skip + take));
            out.extend_from_slice(piece.ok_or_else(|| self.damaged("it became shorter"))?);
            at += take as u64;
        }
        Ok(out)
    }

    /// The text at an offset, up to its zero byte, which must come within `most` bytes.
    ///
    /// # Errors
    /// There is no end in sight.
    pub fn text(&self, offset: u64, most: usize) -> Result<String> {
        let there = self.size.saturating_sub(offset).min(most as u64) as usize;
        // Names are short: a little at first.
        for length in [there.min(128), there] {
            let bytes = self.exact(offset, length)?;
            if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
                return Ok(String::from_utf8_lossy(&bytes[..end]).into_owned());
            }
        }
        Err(self.damaged("a name in it has no end"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_put_together_and_the_end_is_kept() {
        let whole: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        let bytes = Bytes::of("x", &whole);
        assert_eq!(bytes.exact(65_530, 70_000).unwrap(), &whole[65_530..135_530]);
        assert_eq!(bytes.exact(200_000, 0).unwrap(), b"");
        assert!(bytes.exact(199_999, 2).is_err());
        assert!(bytes.exact(u64::MAX, 2).is_err());
        let error = Bytes::of("x", b"abc").text(0, 9).unwrap_err().to_string();
        assert_eq!(error, "cannot understand the library \"x\": a name in it has no end");
        assert_eq!(Bytes::of("x", b"abc\0d").text(1, 9).unwrap(), "bc");
    }
}
