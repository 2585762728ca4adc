//! Lines and places in them: line ends of both kinds, a byte order mark, continuation.
//!
//! Lines and columns count from 1; a column is a character, not a byte.

use super::TEXT_BYTES;
use super::mistakes::{Mistake, Mistakes};

/// A place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The line, from 1.
    pub line: u32,
    /// The character in it, from 1.
    pub column: u32,
}

/// A line without its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    pub number: u32,
    pub text: &'a str,
}

impl Line<'_> {
    /// The place of a byte of this line.
    pub fn position(self, offset: usize) -> Position {
        let before = self.text.char_indices().take_while(|(at, _)| *at < offset).count();
        Position { line: self.number, column: u32::try_from(before + 1).unwrap_or(u32::MAX) }
    }
}

/// Some lines of a file.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// The number of its first line.
    pub first_line: u32,
    /// Its text, with line ends.
    pub text: &'a str,
}

impl<'a> Block<'a> {
    /// Its lines.
    pub fn lines(self) -> impl Iterator<Item = Line<'a>> {
        self.lines_with_starts().map(|(line, _)| line)
    }

    /// Its lines, and where each starts in its text.
    pub fn lines_with_starts(self) -> impl Iterator<Item = (Line<'a>, usize)> {
        let mut start = 0;
        let mut number = self.first_line;
        self.text.split_inclusive('\n').map(move |whole| {
            let text = whole.strip_suffix('\n').unwrap_or(whole);
            let text = text.strip_suffix('\r').unwrap_or(text);
            let found = (Line { number, text }, start);
            start += whole.len();
            number = number.saturating_add(1);
            found
        })
    }
}

/// The bytes of a file as text, without the byte order mark that some editors put before it.
pub fn decode(bytes: &[u8]) -> Result<&str, Mistakes> {
    let only = |mistake: Mistake| Err(Mistakes::from(mistake));
    if bytes.len() > TEXT_BYTES {
        let message = format!("{} bytes are too many", bytes.len());
        return only(
            Mistake::nowhere(message).expected(&format!("at most {} MiB of text", TEXT_BYTES >> 20)),
        );
    }
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let (text, wrong) = match std::str::from_utf8(bytes) {
        Ok(text) => (text, None),
        Err(error) => {
            let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
            (std::str::from_utf8(valid).unwrap_or_default(), bytes.get(error.valid_up_to()))
        }
    };
    if let Some(nul) = text.find('\0') {
        let message = "a NUL byte: this is no text file".to_owned();
        return only(at_byte(text, nul, message).expected("a definition, which is text"));
    }
    match wrong {
        None => Ok(text),
        Some(byte) => {
            let message = format!("byte 0x{byte:02x} is not UTF-8");
            let expected = "text in UTF-8; to convert it: iconv -f LATIN1 -t UTF-8 FILE";
            only(at_byte(text, text.len(), message).expected(expected))
        }
    }
}

fn at_byte(text: &str, offset: usize, message: String) -> Mistake {
    let before = text.get(..offset).unwrap_or(text);
    let number = u32::try_from(before.matches('\n').count() + 1).unwrap_or(u32::MAX);
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    let line = text.get(start..).and_then(|rest| rest.split('\n').next()).unwrap_or_default();
    Mistake::at(Line { number, text: line }, offset - start..offset - start + 1, message)
}

/// A line without the backslash that joins it to the next; none when it ends here. Two backslashes are one
/// that stands for itself.
pub fn continued(text: &str) -> Option<&str> {
    let backslashes = text.len() - text.trim_end_matches('\\').len();
    (backslashes % 2 == 1).then(|| &text[..text.len() - 1])
}
