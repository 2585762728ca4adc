//! The records of one file ([`crate::records`]): where they are kept, how they are read and changed.
//!
//! A file system that keeps no such attributes (tmpfs before 6.6, network file systems) keeps no record, and the call
//! succeeds all the same. So it is for files of others: they are none of the image's.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;

use super::target::{Outcome, by_descriptor};
use crate::records::{self, DEVICE, Device, NAME_BYTES, OWNER, OWNER_OF, SERVED_OWNER, XATTR};

/// File capabilities, which the kernel takes away where a file changes hands.
const CAPABILITY: &str = "security.capability";

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

/// What is recorded of what a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    pub owner: Owner,
    pub device: Option<Device>,
}

/// Whether the records of such files are kept beside their names.
pub fn is_kept_by_name(kind: FileType) -> bool {
    matches!(kind, FileType::Symlink | FileType::Fifo | FileType::Socket)
}

/// The owner recorded for a name of a link, pipe or socket, whether there is one or not.
pub fn owner_of_name(directory: &OwnedFd, name: &[u8]) -> Owner {
    let value = Place::of_name(by_descriptor(directory), name).and_then(|place| place.get());
    let ids = value.and_then(|value| records::parse_owner(&value));
    ids.map_or(Owner::default(), |(user, group)| Owner { user, group })
}

/// Records it. What is nowhere to be kept is no error.
pub fn set_owner_of_name(directory: &OwnedFd, name: &[u8], owner: Owner) {
    if let Some(place) = Place::of_name(by_descriptor(directory), name) {
        let _ = place.put(owner);
    }
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

    /// Whether its records are kept beside its name.
    pub fn is_kept_by_name(&self) -> bool {
        is_kept_by_name(self.kind())
    }

    /// Device and inode.
    pub fn number(&self) -> (u64, u64) {
        (self.facts.st_dev, self.facts.st_ino)
    }

    /// When it was last changed.
    pub fn changed(&self) -> (i64, u32) {
        (self.facts.st_ctime, self.facts.st_ctime_nsec as u32)
    }

    pub fn object(&self) -> &OwnedFd {
        &self.object
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
        self.recorded_owner().unwrap_or_default()
    }

    fn recorded_owner(&self) -> Option<Owner> {
        let place = self.owner_place()?;
        let served = || {
            let place = self.own_place(SERVED_OWNER);
            self.is_kept_by_name().then(|| place.get()).flatten()
        };
        let (user, group) = records::parse_owner(&place.get().or_else(served)?)?;
        Some(Owner { user, group })
    }

    /// All that is recorded of what it is; none where that is nothing.
    pub fn record(&self) -> Option<Record> {
        let owner = self.recorded_owner();
        let empty = self.kind() == FileType::RegularFile && self.facts.st_size == 0;
        let device = if empty { self.own_place(DEVICE).get() } else { None };
        let device = device.and_then(|text| records::parse_device(&text));
        (owner.is_some() || device.is_some()).then(|| Record { owner: owner.unwrap_or_default(), device })
    }

    /// Records an owner.
    pub fn set_owner(&self, owner: Owner) -> Outcome<()> {
        if let Some(place) = self.owner_place() {
            let mut kept = place.put(owner);
            if kept == Err(Errno::NOSPC) && self.kind() == FileType::Directory {
                self.make_room()?;
                kept = place.put(owner);
            }
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

    /// Takes records of names out of a directory that is full of them: its own counts more.
    fn make_room(&self) -> Outcome<()> {
        /// The kernel gives no longer lists (`XATTR_LIST_MAX`).
        const LIST_BYTES: usize = 64 << 10;
        let mut names = vec![0; LIST_BYTES];
        let length = rustix::fs::listxattr(self.path(), &mut names)?;
        let names = names[..length].split(|byte| *byte == 0);
        // One is longer than that of a directory, as names go; values differ a little.
        for name in names.filter(|name| name.starts_with(OWNER_OF.as_bytes())).take(2) {
            self.forgive(rustix::fs::removexattr(self.path(), name))?;
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
        let place = Place::of_name(by_descriptor(&directory), name)?;
        (path.starts_with(b"/") && same).then_some(Place { _directory: Some(directory), ..place })
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
    /// For what has it beside its name, in the directory of a path. None where the name is too long for it.
    fn of_name(directory: String, name: &[u8]) -> Option<Self> {
        let name = [OWNER_OF.as_bytes(), name].concat();
        (name.len() <= NAME_BYTES).then_some(Self { path: directory, name, _directory: None })
    }

    fn put(&self, owner: Owner) -> Outcome<()> {
        let text = records::owner_text((owner.user, owner.group));
        if owner == Owner::default() { self.remove() } else { self.set(text.as_bytes()) }
    }

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
    let block = FileType::from_raw_mode(mode) == FileType::BlockDevice;
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00);
    let text = records::device_text(Device { block, major, minor });
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
