//! The calls that change files: chown(2), mknod(2), setxattr(2) and their like.

use std::ffi::CStr;

use rustix::fs::{AtFlags, XattrFlags};
use rustix::io::Errno;

use super::identity::{Capability, Identity, SAME};
use super::record::{self, Entry, Owner};
use super::table::Call;
use super::target::{Outcome, Target};
use crate::records::PREFIX;
use crate::sys::notify::Answer;

/// Carries a call out, or records it.
pub fn answer(target: &mut Target<'_>, call: Call, who: &Identity) -> Outcome<Answer> {
    match call {
        Call::Chown => chown(target, (Some(0), libc::AT_FDCWD), 1, AtFlags::empty(), who),
        Call::Lchown => chown(target, (Some(0), libc::AT_FDCWD), 1, AtFlags::SYMLINK_NOFOLLOW, who),
        Call::Fchown => {
            let descriptor = target.number(0).cast_signed();
            chown(target, (None, descriptor), 1, AtFlags::EMPTY_PATH, who)
        }
        Call::Fchownat => {
            let (directory, flags) = (target.number(0).cast_signed(), flags(target.number(4))?);
            chown(target, (Some(1), directory), 2, flags, who)
        }
        Call::Mknod => mknod(target, (0, libc::AT_FDCWD), who),
        Call::Mknodat => mknod(target, (1, target.number(0).cast_signed()), who),
        Call::Setxattr => set_xattr(target, Named::path(AtFlags::empty()), Value::new(target)),
        Call::Lsetxattr => set_xattr(target, Named::path(AtFlags::SYMLINK_NOFOLLOW), Value::new(target)),
        Call::Fsetxattr => set_xattr(target, Named::descriptor(target), Value::new(target)),
        Call::Setxattrat => {
            let value = Value::of_structure(target)?;
            set_xattr(target, Named::at(target)?, value)
        }
        Call::Removexattr => remove_xattr(target, Named::path(AtFlags::empty())),
        Call::Lremovexattr => remove_xattr(target, Named::path(AtFlags::SYMLINK_NOFOLLOW)),
        Call::Fremovexattr => remove_xattr(target, Named::descriptor(target)),
        Call::Removexattrat => remove_xattr(target, Named::at(target)?),
        _ => Ok(Answer::Continue),
    }
}

fn flags(bits: u32) -> Outcome<AtFlags> {
    let known = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    AtFlags::from_bits(bits).filter(|flags| known.contains(*flags)).ok_or(Errno::INVAL)
}

/// `path` is the argument that has it, none for a descriptor alone; the ids are in arguments `ids` and the next.
fn chown(
    target: &mut Target<'_>,
    (path, directory): (Option<usize>, i32),
    ids: usize,
    flags: AtFlags,
    who: &Identity,
) -> Outcome<Answer> {
    let (user, group) = (target.number(ids), target.number(ids + 1));
    let object = match path {
        Some(index) => {
            let path = target.read_path(target.argument(index))?;
            target.open(directory, &path, flags)?
        }
        None => target.descriptor(directory)?,
    };
    let entry = Entry::new(object)?;
    if user == SAME && group == SAME {
        return entry.touch_owner().map(|()| Answer::Value(0));
    }
    let free = who.has(Capability::Chown);
    let before = if free && user != SAME && group != SAME { None } else { Some(entry.owner()) };
    let owner = match before {
        Some(old) => Owner {
            user: if user == SAME { old.user } else { user },
            group: if group == SAME { old.group } else { group },
        },
        None => Owner { user, group },
    };
    if let (false, Some(old)) = (free, before) {
        // The kernel's rule: one's own file may be given to a group that one is in.
        let own = old.user == who.user.files;
        let user_fits = user == SAME || own && user == old.user;
        let group_fits = group == SAME || own && (group == old.group || who.is_in_group(group));
        if !user_fits || !group_fits {
            return Err(Errno::PERM);
        }
    }
    entry.touch_owner()?;
    entry.set_owner(owner)?;
    target.forget(&entry)?;
    Ok(Answer::Value(0))
}

fn mknod(target: &mut Target<'_>, (path, directory): (usize, i32), who: &Identity) -> Outcome<Answer> {
    let (mode, device) = (target.number(path + 1), target.number(path + 2));
    let path = target.read_path(target.argument(path))?;
    let (mask, user) = target.mask_and_user()?;
    let (parent, name) = target.parent(directory, &path)?;
    // Where ids are real, the kernel knows who it is.
    if !who.has(Capability::Mknod) || user != 0 {
        let there = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        return Err(if there { Errno::EXIST } else { Errno::PERM });
    }
    record::make_device(&parent, name, mode & !mask, device)?;
    target.known.forget_all();
    Ok(Answer::Value(0))
}

/// How a call on an extended attribute names its file, and where its arguments are.
struct Named {
    /// The argument with the path; none for a descriptor alone.
    path: Option<usize>,
    directory: i32,
    flags: AtFlags,
    /// The argument with the attribute's name.
    name: usize,
}

impl Named {
    fn path(flags: AtFlags) -> Self {
        Self { path: Some(0), directory: libc::AT_FDCWD, flags, name: 1 }
    }

    fn descriptor(target: &Target<'_>) -> Self {
        Self { path: None, directory: target.number(0).cast_signed(), flags: AtFlags::empty(), name: 1 }
    }

    /// setxattrat(2): directory, path, flags, name.
    fn at(target: &Target<'_>) -> Outcome<Self> {
        let directory = target.number(0).cast_signed();
        Ok(Self { path: Some(1), directory, flags: flags(target.number(2))?, name: 3 })
    }

    fn open(&self, target: &mut Target<'_>) -> Outcome<Entry> {
        let object = match self.path {
            Some(index) => {
                let path = target.read_path(target.argument(index))?;
                target.open(self.directory, &path, self.flags)?
            }
            None => target.descriptor(self.directory)?,
        };
        Entry::new(object)
    }
}

/// Where an attribute's value is.
struct Value {
    address: u64,
    length: u64,
    flags: u32,
}

impl Value {
    fn new(target: &Target<'_>) -> Self {
        Self { address: target.argument(2), length: target.argument(3), flags: target.number(4) }
    }

    /// `struct xattr_args` of linux/xattr.h: value u64 | size u32 | flags u32.
    fn of_structure(target: &Target<'_>) -> Outcome<Self> {
        let bytes = target.read(target.argument(4), 16)?;
        let (address, rest) = bytes.split_first_chunk().ok_or(Errno::FAULT)?;
        let (length, rest) = rest.split_first_chunk().ok_or(Errno::FAULT)?;
        let (flags, _) = rest.split_first_chunk().ok_or(Errno::FAULT)?;
        Ok(Self {
            address: u64::from_ne_bytes(*address),
            length: u64::from(u32::from_ne_bytes(*length)),
            flags: u32::from_ne_bytes(*flags),
        })
    }
}

/// The longest value, and the longest name with its NUL (linux/limits.h).
const VALUE_BYTES: u64 = 64 << 10;
const NAME_BYTES: usize = 256;

/// The attribute's name; `None` when the kernel can do the call.
fn privileged_name(target: &Target<'_>, named: &Named) -> Outcome<Option<String>> {
    // Whatever is wrong with it, the kernel says.
    let name = target.read_text(target.argument(named.name), NAME_BYTES).unwrap_or(None);
    let name = name.and_then(|name| CStr::to_str(&name).ok().map(str::to_owned));
    if name.as_ref().is_some_and(|name| name.starts_with(PREFIX)) {
        // A program that copies attributes.
        target.known.forget_all();
    }
    Ok(name.filter(|name| {
        let bare = name.strip_prefix("security.").or_else(|| name.strip_prefix("trusted."));
        bare.is_some_and(|bare| !bare.is_empty())
    }))
}

fn set_xattr(target: &mut Target<'_>, named: Named, value: Value) -> Outcome<Answer> {
    let Some(name) = privileged_name(target, &named)? else { return Ok(Answer::Continue) };
    let flags = XattrFlags::from_bits(value.flags).ok_or(Errno::INVAL)?;
    if value.length > VALUE_BYTES {
        return Err(Errno::TOOBIG);
    }
    let bytes = target.read(value.address, value.length as usize)?;
    named.open(target)?.set_xattr(&name, &bytes, flags)?;
    Ok(Answer::Value(0))
}

fn remove_xattr(target: &mut Target<'_>, named: Named) -> Outcome<Answer> {
    let Some(name) = privileged_name(target, &named)? else { return Ok(Answer::Continue) };
    named.open(target)?.remove_xattr(&name)?;
    Ok(Answer::Value(0))
}
