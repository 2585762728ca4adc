//! Pax records: "LENGTH KEY=VALUE\n", one after the other (POSIX.1-2001, pax, "Extended Header").
//!
//! ```text
//! SCHILY.xattr.NAME         an extended attribute as it is
//! LIBARCHIVE.xattr.NAME     one whose name is encoded as in URLs and whose value is in base 64
//! ```
//!
//! Where an attribute comes in both forms the first counts: it is the one that container tools write.

use crate::pack::{XattrSet, is_kept, is_mark};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The kernel's limit for a value.
const VALUE_BYTES: usize = 65_536;

/// Records by key; of equal ones the last.
#[derive(Debug, Clone, Default)]
pub struct Records {
    values: BTreeMap<Box<[u8]>, Vec<u8>>,
    /// The values of `GNU.sparse.offset` and `GNU.sparse.numbytes`, which come in turns.
    sparse: Vec<Vec<u8>>,
}

/// Extended attributes of an entry.
#[derive(Debug, Default)]
pub struct Xattrs {
    /// Those that the image can hold.
    pub set: Option<Arc<XattrSet>>,
    /// There was an access control list.
    pub access_list: bool,
}

impl Records {
    /// Adds the records of a header.
    ///
    /// # Errors
    /// What is no list of records; says so.
    pub fn parse(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        let wrong = || "there is a damaged record before an entry".to_owned();
        while !bytes.is_empty() {
            let blank = bytes.iter().position(|&byte| byte == b' ').ok_or_else(wrong)?;
            let digits = bytes.get(..blank).and_then(|digits| std::str::from_utf8(digits).ok());
            let length: usize = digits.and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
            let record = bytes.get(blank + 1..length).and_then(|record| record.strip_suffix(b"\n"));
            let record = record.ok_or_else(wrong)?;
            let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(wrong)?;
            let (key, value) = record.split_at(equals);
            let value = value.get(1..).unwrap_or_default().to_vec();
            if matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes") {
                self.sparse.push(value);
            } else {
                self.values.insert(key.into(), value);
            }
            bytes = bytes.get(length..).unwrap_or_default();
        }
        Ok(())
    }

    /// The value of a key. One that is empty takes back what was said before.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.values.get(key.as_bytes()).map(Vec::as_slice).filter(|value| !value.is_empty())
    }

    /// Offsets and lengths of the parts of a sparse file (PAX 0.0).
    pub fn sparse_numbers(&self) -> impl Iterator<Item = &[u8]> {
        self.sparse.iter().map(Vec::as_slice)
    }

    /// The extended attributes that these records and those for all entries say.
    ///
    /// # Errors
    /// One that cannot be; says which.
    pub fn xattrs(&self, global: &Self) -> Result<Xattrs, String> {
        let mut found = BTreeMap::<Box<[u8]>, Box<[u8]>>::new();
        for (key, value) in global.values.iter().chain(&self.values) {
            if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                let encoded = || format!("its attribute {:?} is not encoded as it should be", lossy(name));
                let value = base64(value).ok_or_else(encoded)?;
                found.insert(percent(name).ok_or_else(encoded)?.into(), value.into());
            }
        }
        for (key, value) in global.values.iter().chain(&self.values) {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                found.insert(name.into(), value.as_slice().into());
            }
        }
        let access_list = found.keys().any(|name| name.starts_with(b"system.posix_acl_"));
        // Marks say something about layers of another kind.
        found.retain(|name, _| is_kept(name) && !is_mark(name));
        for (name, value) in &found {
            if name.len() > 255 || name.contains(&0) || value.len() > VALUE_BYTES || name.ends_with(b".") {
                return Err(format!("its attribute {:?} is longer than one can be", lossy(name)));
            }
        }
        let set: XattrSet = found.into_iter().collect();
        Ok(Xattrs { set: (!set.is_empty()).then(|| Arc::new(set)), access_list })
    }
}

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name.get(..80).unwrap_or(name)).into_owned()
}

fn percent(text: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        let hex = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
        plain.push(match byte {
            b'%' => (hex(rest.next())? * 16 + hex(rest.next())?) as u8,
            byte => byte,
        });
    }
    Some(plain)
}

/// Base 64 (RFC 4648), the padding optional as libarchive leaves it out.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for &byte in text.trim_ascii_end().iter().filter(|&&byte| byte != b'=') {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            plain.push((bits >> count) as u8);
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
    }

    #[test]
    fn records_are_read_and_the_last_of_equal_ones_counts() {
        let mut records = Records::default();
        let bytes =
            [record("path", b"a=b\nc"), record("uid", b"1"), record("uid", b"70000"), record("x", b"")]
                .concat();
        records.parse(&bytes).unwrap();
        assert_eq!(records.get("path"), Some(&b"a=b\nc"[..]));
        assert_eq!(records.get("uid"), Some(&b"70000"[..]));
        assert_eq!(records.get("x"), None);
        for damaged in
            ["1", "9999999999999999999999 a=b\n", "5 a=b", "0 a=b\n", "4 ab\n", "7 a=b\n", "2 a=b\n"]
        {
            assert!(Records::default().parse(damaged.as_bytes()).is_err(), "{damaged:?}");
        }
    }

    #[test]
    fn attributes_come_in_two_forms() {
        let mut records = Records::default();
        let bytes = [
            record("SCHILY.xattr.user.a", b"\0\x01"),
            record("LIBARCHIVE.xattr.user.b%20c", b"AAEC/w"),
            record("LIBARCHIVE.xattr.user.a", b"AAAA"),
            record("SCHILY.xattr.security.selinux", b"label"),
            record("SCHILY.xattr.user.skiff.owner", b"1:1"),
            record("SCHILY.xattr.system.posix_acl_access", b"x"),
        ];
        records.parse(&bytes.concat()).unwrap();
        let Xattrs { set, access_list } = records.xattrs(&Records::default()).unwrap();
        let set = set.unwrap();
        assert_eq!(set.len(), 2);
        assert_eq!((&*set[0].0, &*set[0].1), (&b"user.a"[..], &b"\0\x01"[..]));
        assert_eq!((&*set[1].0, &*set[1].1), (&b"user.b c"[..], &b"\0\x01\x02\xff"[..]));
        assert!(access_list);
    }
}
