//! What extended attributes say in a layer, beside being attributes: the kernel's overlay keeps its own on the
//! files of its upper directory, and the emulation of root writes down there what the kernel refused.
//!
//! | attribute | on | says |
//! |---|---|---|
//! | `user.overlay.opaque` = `y` | directory | nothing below it counts |
//! | `user.overlay.opaque` = `x` | directory | empty files in it may be whiteouts by attribute (Linux 6.7) |
//! | `user.overlay.whiteout` | empty file | the name is gone |
//! | `user.skiff.…` | | a record ([`crate::records`]) |
//!
//! The usual whiteout is a character device 0:0 and no attribute. None of these names reaches an image, nor does
//! any other that begins with `user.overlay.` or `user.skiff.`.

use super::tree::NodeKind;
use super::xattr::{PREFIXES, XattrSet, Xattrs};
use crate::records::{self, parse_device, parse_owner};
use std::collections::HashMap;
use std::sync::Arc;

const OVERLAY: &[u8] = b"user.overlay.";

/// An owner and a group.
pub use crate::records::Ids as Owner;

/// What the marks of one file say.
#[derive(Debug, Default)]
pub struct Marks {
    /// Nothing below this directory counts.
    pub opaque: bool,
    /// Empty files in this directory may be whiteouts.
    pub has_whiteouts: bool,
    /// This empty file is a whiteout, if its directory may have such.
    pub whiteout: bool,
    /// The owner, instead of the one that the file system knows.
    pub owner: Option<Owner>,
    /// What this empty file stands for.
    pub device: Option<records::Device>,
    /// Owners of entries of this directory.
    pub owners: HashMap<Box<[u8]>, Owner>,
}

impl From<records::Device> for NodeKind {
    fn from(device: records::Device) -> Self {
        let number = device_number(device.major, device.minor);
        if device.block { Self::BlockDevice(number) } else { Self::CharDevice(number) }
    }
}

/// Is this an attribute that no image gets?
pub fn is_mark(name: &[u8]) -> bool {
    name.starts_with(OVERLAY) || name.starts_with(records::PREFIX.as_bytes())
}

/// Takes the marks out of a file's attributes.
///
/// # Errors
/// What is wrong with them, in words that follow the file's name.
pub fn take(xattrs: Xattrs) -> Result<(Xattrs, Marks), String> {
    let mut marks = Marks::default();
    let Some(set) = xattrs.set.as_ref().filter(|set| set.iter().any(|(name, _)| is_mark(name))) else {
        return Ok((xattrs, marks));
    };
    let mut plain = HashMap::new();
    let mut recorded = HashMap::new();
    for (name, value) in set.iter() {
        if let Some(mark) = name.strip_prefix(OVERLAY) {
            marks.read_overlay(mark, value)?;
        } else if name.starts_with(records::PREFIX.as_bytes()) {
            match name.strip_prefix(records::XATTR.as_bytes()) {
                Some(name) if PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !is_mark(name) => {
                    recorded.insert(Box::from(name), value.clone());
                }
                _ => marks.read_record(name, value)?,
            }
        } else {
            plain.insert(name.clone(), value.clone());
        }
    }
    plain.extend(recorded);
    let mut set: XattrSet = plain.into_iter().collect();
    set.sort();
    let set = (!set.is_empty()).then(|| Arc::new(set));
    Ok((Xattrs { set, ..xattrs }, marks))
}

impl Marks {
    fn read_overlay(&mut self, name: &[u8], value: &[u8]) -> Result<(), String> {
        match (name, value) {
            (b"opaque", b"y") => self.opaque = true,
            (b"opaque", b"x") => self.has_whiteouts = true,
            (b"whiteout", _) => self.whiteout = true,
            // Only made by mounts with the options of the same names, which say that the rest is elsewhere.
            (b"redirect" | b"metacopy", _) => {
                let name = String::from_utf8_lossy(name);
                return Err(format!("an overlay with {name} wrote it, and what it points to is elsewhere"));
            }
            _ => {}
        }
        Ok(())
    }

    fn read_record(&mut self, name: &[u8], value: &[u8]) -> Result<(), String> {
        let wrong = |form| {
            let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
            format!("its attribute {name} is {value:?} and not {form}")
        };
        if name == records::OWNER.as_bytes() {
            self.owner = Some(parse_owner(value).ok_or_else(|| wrong("UID:GID"))?);
        } else if let Some(entry) = name.strip_prefix(records::OWNER_OF.as_bytes()) {
            let owner = parse_owner(value).ok_or_else(|| wrong("UID:GID"))?;
            self.owners.insert(entry.into(), owner);
        } else if name == records::DEVICE.as_bytes() {
            self.device = Some(parse_device(value).ok_or_else(|| wrong("c:MAJOR:MINOR or b:MAJOR:MINOR"))?);
        }
        Ok(())
    }
}

/// A device number as the kernel writes it to disk: 12 bits of major, 20 bits of minor, interleaved.
pub fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pairs: &[(&str, &str)]) -> Result<(Vec<(String, String)>, Marks), String> {
        let mut set: XattrSet =
            pairs.iter().map(|(name, value)| (name.as_bytes().into(), value.as_bytes().into())).collect();
        set.sort();
        let set = (!set.is_empty()).then(|| Arc::new(set));
        let (left, marks) = take(Xattrs { set, access_list: false })?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let left = left.set.iter().flat_map(|set| set.iter()).map(|(n, v)| (text(n), text(v))).collect();
        Ok((left, marks))
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.into(), value.into())
    }

    #[test]
    fn marks_are_taken_out_and_records_become_what_they_record() {
        let (left, marks) = taken(&[
            ("user.mine", "1"),
            ("user.overlay.opaque", "y"),
            ("user.overlay.origin", ""),
            ("user.skiff.owner", "5:70000"),
            ("user.skiff.owner.a:b", "0:6"),
            ("user.skiff.xattr.security.capability", "cap"),
            ("security.capability", "old"),
            ("user.skiff.xattr.user.overlay.opaque", "y"),
            ("user.skiff.later", "?"),
        ])
        .unwrap();
        assert_eq!(left, [pair("security.capability", "cap"), pair("user.mine", "1")]);
        assert!(marks.opaque && !marks.has_whiteouts && !marks.whiteout);
        assert_eq!(marks.owner, Some((5, 70_000)));
        assert_eq!(marks.owners.get(&b"a:b"[..]), Some(&(0, 6)));
    }

    #[test]
    fn attributes_without_marks_stay_as_they_are() {
        let (left, marks) = taken(&[("user.overlays", "y"), ("user.skiffs", "1")]).unwrap();
        assert_eq!(left, [pair("user.overlays", "y"), pair("user.skiffs", "1")]);
        assert!(!marks.opaque && marks.owner.is_none());
        assert!(taken(&[]).unwrap().0.is_empty());
    }

    #[test]
    fn a_device_has_its_number_as_on_disk() {
        let device = |value: &str| {
            let taken = taken(&[("user.skiff.device", value)]);
            taken.map(|(_, marks)| marks.device.map(NodeKind::from))
        };
        assert!(matches!(device("c:5:1"), Ok(Some(NodeKind::CharDevice(0x501)))));
        let number = device_number(259, 70_000);
        assert!(matches!(device("b:259:70000"), Ok(Some(NodeKind::BlockDevice(block))) if block == number));
        assert!(device("c:1").unwrap_err().contains("user.skiff.device"));
    }

    #[test]
    fn owners_that_are_none_are_refused() {
        for name in ["user.skiff.owner", "user.skiff.owner.x"] {
            assert!(taken(&[(name, "1:-2")]).unwrap_err().contains(name));
        }
    }

    #[test]
    fn what_an_overlay_left_elsewhere_is_an_error() {
        assert!(taken(&[("user.overlay.redirect", "/old")]).unwrap_err().contains("redirect"));
        assert!(taken(&[("user.overlay.metacopy", "")]).unwrap_err().contains("metacopy"));
    }
}
