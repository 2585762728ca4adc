//! What a blob is found by.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// The SHA-256 of a blob's bytes, written `sha256:` and 64 digits (OCI image specification 1.1, "Digests").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// A digest from the sum itself.
    pub fn from_sum(sum: [u8; 32]) -> Self {
        Self(sum)
    }

    /// The 64 digits, without the algorithm's name.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The first 12 digits, to be read by people.
    pub fn short(&self) -> String {
        let mut hex = self.hex();
        hex.truncate(12);
        hex
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for Digest {
    type Err = Error;

    /// # Errors
    /// Anything but `sha256:` and 64 lower-case hexadecimal digits.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::usage(format!("{text:?} is no digest that skiff knows: sha256: and 64 digits"));
        let digits = text.strip_prefix("sha256:").ok_or_else(wrong)?.as_bytes();
        let mut sum = [0; 32];
        let (pairs, rest) = digits.as_chunks::<2>();
        if pairs.len() != sum.len() || !rest.is_empty() {
            return Err(wrong());
        }
        for (byte, [high, low]) in sum.iter_mut().zip(pairs) {
            *byte = nibble(*high).ok_or_else(wrong)? << 4 | nibble(*low).ok_or_else(wrong)?;
        }
        Ok(Self(sum))
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_as_it_is_written() {
        let text = format!("sha256:{}", "0a9f".repeat(16));
        let digest: Digest = text.parse().unwrap();
        assert_eq!(digest.to_string(), text);
        assert_eq!(digest.short(), "0a9f0a9f0a9f");
        for wrong in
            ["", "sha256:", "sha512:00", &text[1..], &text[..70], &text.to_uppercase(), &format!("{text}00")]
        {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
        }
    }
}
