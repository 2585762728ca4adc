//! What extended attributes say in a layer, beside being attributes: the kernel's overlay keeps its own on the
//! files of its upper directory, and the emulation of root writes down there what the kernel refused.
//!
//! | attribute | on | says |
//! |---|---|---|
//! | `user.overlay.opaque` = `y` | directory | nothing below it counts |
//! | `user.overlay.opaque` = `x` | directory | empty files in it may be whiteouts by attribute (Linux 6.7) |
//! | `user.overlay.whiteout` | empty file | the name is gone |
//! | `user.skiff.owner` = `UID:GID` | file, directory | its owner |
//! | `user.skiff.owner.NAME` = `UID:GID` | directory | the owner of its link, pipe, socket NAME |
//! | `user.skiff.device` = `c:MAJOR:MINOR` | empty file | it stands for this device; `b:` likewise |
//! | `user.skiff.xattr.NAME` | any | the value of its attribute NAME |
//!
//! The usual whiteout is a character device 0:0 and no attribute. None of these names reaches an image, nor does
//! any other that begins with `user.overlay.` or `user.skiff.`.

use super::tree::NodeKind;
use super::xattr::{PREFIXES, XattrSet, Xattrs};
use std::collections::HashMap;
use std::sync::Arc;

const OVERLAY: &[u8] = b"user.overlay.";
const SKIFF: &[u8] = b"user.skiff.";

/// An owner and a group.
pub type Owner = (u32, u32);

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
    pub device: Option<Device>,
    /// Owners of entries of this directory.
    pub owners: HashMap<Box<[u8]>, Owner>,
}

/// A device, with its number as on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// A block device.
    Block(u32),
    /// A character device.
    Char(u32),
}

impl From<Device> for NodeKind {
    fn from(device: Device) -> Self {
        match device {
            Device::Block(number) => Self::BlockDevice(number),
            Device::Char(number) => Self::CharDevice(number),
        }
    }
}

/// Is this an attribute that no image gets?
pub fn is_mark(name: &[u8]) -> bool {
    name.starts_with(OVERLAY) || name.starts_with(SKIFF)
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
        } else if let Some(name) = name.strip_prefix(SKIFF) {
            match name.strip_prefix(b"xattr.") {
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
            format!("its attribute user.skiff.{name} is {value:?} and not {form}")
        };
        if name == b"owner" {
            self.owner = Some(parse_owner(value).ok_or_else(|| wrong("UID:GID"))?);
        } else if let Some(entry) = name.strip_prefix(b"owner.") {
            let owner = parse_owner(value).ok_or_else(|| wrong("UID:GID"))?;
            self.owners.insert(entry.into(), owner);
        } else if name == b"device" {
            self.device = Some(parse_device(value).ok_or_else(|| wrong("c:MAJOR:MINOR or b:MAJOR:MINOR"))?);
        }
        Ok(())
    }
}

fn parse_number(bytes: &[u8]) -> Option<u32> {
    // `parse` alone would take a sign.
    let digits = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(bytes).ok().filter(|_| digits)?.parse().ok()
}

fn parse_pair(bytes: &[u8]) -> Option<(u32, u32)> {
    let colon = bytes.iter().position(|&byte| byte == b':')?;
    Some((parse_number(bytes.get(..colon)?)?, parse_number(bytes.get(colon + 1..)?)?))
}

fn parse_owner(value: &[u8]) -> Option<Owner> {
    // The highest number is no id: to chown(2) it says "leave it".
    parse_pair(value).filter(|&(uid, gid)| uid != u32::MAX && gid != u32::MAX)
}

fn parse_device(value: &[u8]) -> Option<Device> {
    let (kind, number) = value.split_at_checked(2)?;
    let (major, minor) = parse_pair(number).filter(|&(major, minor)| major < 1 << 12 && minor < 1 << 20)?;
    let number = device_number(major, minor);
    match kind {
        b"c:" => Some(Device::Char(number)),
        b"b:" => Some(Device::Block(number)),
        _ => None,
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
    fn devices_have_twelve_bits_of_major_and_twenty_of_minor() {
        let device = |value: &str| taken(&[("user.skiff.device", value)]).map(|(_, marks)| marks.device);
        assert_eq!(device("c:5:1"), Ok(Some(Device::Char(0x501))));
        assert_eq!(device("b:259:70000"), Ok(Some(Device::Block(device_number(259, 70_000)))));
        for wrong in ["", "c", "c:", "x:1:2", "c:1", "c:1:", "c:+1:2", "c:1:2:3", "c:4096:0", "b:0:1048576"] {
            assert!(device(wrong).unwrap_err().contains("user.skiff.device"), "{wrong}");
        }
    }

    #[test]
    fn owners_that_are_none_are_refused() {
        for wrong in ["", "1", "1:", ":1", "-1:0", "4294967295:0", "0:4294967296", "a:b", "1:2 "] {
            assert!(taken(&[("user.skiff.owner", wrong)]).is_err(), "{wrong}");
            assert!(taken(&[("user.skiff.owner.x", wrong)]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_an_overlay_left_elsewhere_is_an_error() {
        assert!(taken(&[("user.overlay.redirect", "/old")]).unwrap_err().contains("redirect"));
        assert!(taken(&[("user.overlay.metacopy", "")]).unwrap_err().contains("metacopy"));
    }
}
