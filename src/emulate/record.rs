//! What is recorded of a file, as extended attributes on it, so that it goes wherever the file goes:
//!
//! | attribute | on | what |
//! |---|---|---|
//! | `user.skiff.owner` | files, directories | `UID:GID`, where it is not 0:0 |
//! | `user.skiff.owner.NAME` | the directory of a link, pipe or socket NAME, which can have none itself | the same |
//! | `user.skiff.device` | an empty file in place of a device | `c:MAJOR:MINOR` or `b:MAJOR:MINOR` |
//! | `user.skiff.xattr.NAME` | files, directories | the value of an attribute NAME that users may not set |
//!
//! A file system that keeps no such attributes (tmpfs before 6.6, network file systems) keeps no record, and the call
//! succeeds all the same. So it is for files of others: they are none of the image's.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;

use super::target::{Outcome, by_descriptor};

const OWNER: &str = "user.skiff.owner";
const DEVICE: &str = "user.skiff.device";
const XATTR: &str = "user.skiff.xattr.";
/// File capabilities, which the kernel takes away where a file changes hands.
const CAPABILITY: &str = "security.capability";
/// The longest name of an attribute (`XATTR_NAME_MAX`).
const NAME_BYTES: usize = 255;

/// A file, and where its attributes are.
pub struct Entry {
    object: OwnedFd,
    facts: Stat,
}

/// User and group; root's where nothing else is said.
#[derive(Default, Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub user: u32,
    pub group: u32,
}

/// Where a record is kept: attribute `name` of what `path` leads to.
struct Place {
    path: String,
    name: Vec<u8>,
    /// Held, for `path` to mean it.
    _directory: Option<OwnedFd>,
}

impl Entry {
    pub fn new(object: OwnedFd) -> Outcome<Self> {
        let facts = rustix::fs::fstat(&object)?;
        Ok(Self { object, facts })
    }

    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.facts.st_mode)
    }

    fn has_attributes(&self) -> bool {
        matches!(self.kind(), FileType::RegularFile | FileType::Directory)
    }

    /// Whether its owner is not the one that is mapped.
    pub fn is_foreign(&self) -> bool {
        self.facts.st_uid != 0
    }

    /// A path that leads to it.
    pub fn path(&self) -> String {
        by_descriptor(&self.object)
    }

    /// Does what the kernel does at every change of owner, other than changing it: copy the file up, clear its
    /// set-user-id bits and capabilities, tell whoever watches it.
    pub fn touch_owner(&self) -> Outcome<()> {
        match rustix::fs::chownat(&self.object, "", None, None, AtFlags::EMPTY_PATH) {
            Err(Errno::PERM | Errno::ACCESS) if self.is_foreign() => Ok(()),
            other => other,
        }
    }

    /// The recorded owner.
    pub fn owner(&self) -> Owner {
        let recorded = self.owner_place().and_then(|place| place.get()).and_then(|text| parse_owner(&text));
        recorded.unwrap_or_default()
    }

    /// Records an owner.
    pub fn set_owner(&self, owner: Owner) -> Outcome<()> {
        if let Some(place) = self.owner_place() {
            let Owner { user, group } = owner;
            let text = format!("{user}:{group}");
            let kept = if owner == Owner::default() { place.remove() } else { place.set(text.as_bytes()) };
            // The attributes of a directory are one block in some file systems: it must not be full of links that
            // nothing can be done for.
            let full = !self.has_attributes() && kept == Err(Errno::NOSPC);
            if !full {
                self.forgive(kept)?;
            }
        }
        if self.kind() == FileType::RegularFile {
            self.forgive(self.own_place(&[XATTR, CAPABILITY].concat()).remove())?;
        }
        Ok(())
    }

    /// An attribute that a user may not set: really, where that is possible after all, else as a record.
    pub fn set_xattr(&self, name: &str, value: &[u8], flags: XattrFlags) -> Outcome<()> {
        let record = [XATTR, name].concat();
        match rustix::fs::setxattr(self.path(), name, value, flags) {
            Ok(()) => self.forgive(self.remove_record(&record)),
            Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) if self.may_record(&record) => {
                self.forgive(rustix::fs::setxattr(self.path(), record, value, flags))
            }
            Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => Ok(()),
            other => other,
        }
    }

    /// Takes such an attribute away, and its record.
    pub fn remove_xattr(&self, name: &str) -> Outcome<()> {
        let record = [XATTR, name].concat();
        let recorded = self.may_record(&record) && self.own_place(&record).get().is_some();
        let removed = rustix::fs::removexattr(self.path(), name);
        if recorded {
            return self.remove_record(&record);
        }
        removed
    }

    fn may_record(&self, record: &str) -> bool {
        self.has_attributes() && record.len() <= NAME_BYTES
    }

    fn remove_record(&self, record: &str) -> Outcome<()> {
        if self.may_record(record) { self.own_place(record).remove() } else { Ok(()) }
    }

    fn own_place(&self, name: &str) -> Place {
        Place { path: self.path(), name: name.into(), _directory: None }
    }

    /// Where its owner is recorded; `None`: nowhere.
    fn owner_place(&self) -> Option<Place> {
        match self.kind() {
            FileType::RegularFile | FileType::Directory => Some(self.own_place(OWNER)),
            // Devices are the host's, and others (of a process, of nothing) have no name.
            FileType::Symlink | FileType::Fifo | FileType::Socket if !self.is_foreign() => {
                self.parent_place()
            }
            _ => None,
        }
    }

    /// The name that the kernel has for it, if it still is its name.
    fn parent_place(&self) -> Option<Place> {
        let path = rustix::fs::readlinkat(rustix::fs::CWD, self.path(), Vec::new()).ok()?.into_bytes();
        let slash = path.iter().rposition(|byte| *byte == b'/')?;
        let (before, name) = (&path[..slash.max(1)], &path[slash + 1..]);
        let how = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(before, how, Mode::empty()).ok()?;
        let named = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let same = (named.st_dev, named.st_ino) == (self.facts.st_dev, self.facts.st_ino);
        let attribute = [OWNER.as_bytes(), b".", name].concat();
        (path.starts_with(b"/") && same && attribute.len() <= NAME_BYTES).then(|| Place {
            path: by_descriptor(&directory),
            name: attribute,
            _directory: Some(directory),
        })
    }

    /// What is nowhere to be kept is no error.
    fn forgive(&self, kept: Outcome<()>) -> Outcome<()> {
        match kept {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(Errno::PERM | Errno::ACCESS) if self.is_foreign() || !self.has_attributes() => Ok(()),
            other => other,
        }
    }
}

impl Place {
    fn get(&self) -> Option<Vec<u8>> {
        let mut value = [0_u8; 64];
        let length = rustix::fs::getxattr(&self.path, self.name.as_slice(), &mut value).ok()?;
        value.get(..length).map(<[u8]>::to_vec)
    }

    fn set(&self, value: &[u8]) -> Outcome<()> {
        rustix::fs::setxattr(&self.path, self.name.as_slice(), value, XattrFlags::empty())
    }

    /// Most files have none, and looking is cheaper than removing.
    fn remove(&self) -> Outcome<()> {
        match rustix::fs::getxattr_query(&self.path, self.name.as_slice()) {
            Ok(_) => match rustix::fs::removexattr(&self.path, self.name.as_slice()) {
                Err(Errno::NODATA) => Ok(()),
                other => other,
            },
            Err(_) => Ok(()),
        }
    }
}

/// Makes an empty file that stands for a device. `mode` has the type and the permissions.
pub fn make_device(directory: &OwnedFd, name: &[u8], mode: u32, device: u32) -> Outcome<()> {
    let how = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let permissions = Mode::from_raw_mode(mode & 0o7777);
    let made = match rustix::fs::openat(directory, name, how, permissions) {
        Err(Errno::PERM | Errno::ACCESS) if rustix::fs::fstat(directory)?.st_uid != 0 => return Ok(()),
        other => other?,
    };
    let kind = if FileType::from_raw_mode(mode) == FileType::BlockDevice { 'b' } else { 'c' };
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00);
    let text = format!("{kind}:{major}:{minor}");
    let kept = rustix::fs::setxattr(by_descriptor(&made), DEVICE, text.as_bytes(), XattrFlags::empty());
    match kept {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(error) => {
            // An ordinary file must not stand there.
            let _ = rustix::fs::unlinkat(directory, name, AtFlags::empty());
            Err(error)
        }
    }
}

/// `UID:GID`.
fn parse_owner(text: &[u8]) -> Option<Owner> {
    let (user, group) = std::str::from_utf8(text).ok()?.split_once(':')?;
    Some(Owner { user: user.parse().ok()?, group: group.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_two_numbers() {
        assert_eq!(parse_owner(b"42:7"), Some(Owner { user: 42, group: 7 }));
        for wrong in ["", "42", "42:", ":7", "a:b", "1:2:3", "-1:0", "4294967296:0"] {
            assert_eq!(parse_owner(wrong.as_bytes()), None, "{wrong:?}");
        }
    }
}
