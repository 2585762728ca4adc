//! Names of links, pipes and sockets, whose owners are recorded beside their names: who gives one another name moves its
//! record, and a new one begins without the record that an earlier one of its name has left.
//!
//! Other files have their records with them, and these calls are the kernel's.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::create;
use super::record::{self, Entry, Owner};
use super::table::Call;
use super::target::{Outcome, Target};
use crate::sys::notify::Answer;

/// Whether it is one of these calls.
pub fn concerns(call: Call) -> bool {
    use Call::{Bind, Link, Linkat, Rename, Renameat, Renameat2};
    matches!(call, Bind | Link | Linkat | Rename | Renameat | Renameat2)
}

/// Does it with its record, or has the kernel do it.
pub fn answer(target: &mut Target<'_>, call: Call, who: Owner) -> Answer {
    let (here, at, third) = (libc::AT_FDCWD, target.number(0).cast_signed(), target.number(2).cast_signed());
    let old = |index, directory| Named { directory, path: target.argument(index) };
    let done = match call {
        Call::Rename => rename(target, [old(0, here), old(1, here)], 0),
        Call::Renameat => rename(target, [old(1, at), old(3, third)], 0),
        Call::Renameat2 => rename(target, [old(1, at), old(3, third)], target.number(4)),
        Call::Link => link(target, [old(0, here), old(1, here)], 0),
        Call::Linkat => link(target, [old(1, at), old(3, third)], target.number(4)),
        Call::Bind => bind(target, who),
        _ => Ok(false),
    };
    // Whatever is wrong, the kernel knows the right error.
    if matches!(done, Ok(true)) { Answer::Value(0) } else { Answer::Continue }
}

/// A path of the caller's.
#[derive(Clone, Copy)]
struct Named {
    directory: i32,
    path: u64,
}

/// True when it is done.
fn rename(target: &mut Target<'_>, names: [Named; 2], flags: u32) -> Outcome<bool> {
    let flags = RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?;
    if flags.contains(RenameFlags::WHITEOUT) {
        return Ok(false);
    }
    let old = target.read_path(names[0].path)?;
    let is_exchange = flags.contains(RenameFlags::EXCHANGE);
    if !is_exchange && !is_kept_by_name(target, names[0].directory, &old)? {
        return Ok(false);
    }
    let new = target.read_path(names[1].path)?;
    let (from, old) = target.parent(names[0].directory, &old)?;
    let (to, new) = target.parent(names[1].directory, &new)?;
    let moved = owner_at(&from, old)?;
    // What an earlier one of this name has left counts too.
    let other = if is_exchange { owner_at(&to, new)? } else { record::owner_of_name(&to, new) };
    if moved == other && moved == Owner::default() {
        return Ok(false);
    }
    target.still_waits()?;
    rustix::fs::renameat_with(&from, old, &to, new, flags)?;
    record::set_owner_of_name(&from, old, if is_exchange { other } else { Owner::default() });
    record::set_owner_of_name(&to, new, moved);
    for (directory, name) in [(&from, old), (&to, new)] {
        if let Ok(entry) = open(directory, name) {
            target.known.forget(entry.number());
        }
    }
    Ok(true)
}

fn is_kept_by_name(target: &mut Target<'_>, directory: i32, path: &CStr) -> Outcome<bool> {
    let facts = target.glance(directory, path, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(facts.is_none_or(|facts| record::is_kept_by_name(FileType::from_raw_mode(facts.stx_mode.into()))))
}

fn open(directory: &OwnedFd, name: &[u8]) -> Outcome<Entry> {
    let how = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Entry::new(rustix::fs::openat(directory, name, how, Mode::empty())?)
}

/// The owner that is recorded beside a name; root for other files.
fn owner_at(directory: &OwnedFd, name: &[u8]) -> Outcome<Owner> {
    let entry = open(directory, name)?;
    Ok(if entry.is_kept_by_name() && !entry.is_foreign() { entry.owner() } else { Owner::default() })
}

/// Records the owner for the new name, which the kernel makes.
fn link(target: &mut Target<'_>, names: [Named; 2], flags: u32) -> Outcome<bool> {
    let (old, new) = (target.read_path(names[0].path)?, target.read_path(names[1].path)?);
    let follow = flags & libc::AT_SYMLINK_FOLLOW.cast_unsigned() != 0;
    let look = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
    let look = look | (AtFlags::from_bits_truncate(flags) & AtFlags::EMPTY_PATH);
    let entry = Entry::new(target.open(names[0].directory, &old, look)?)?;
    if entry.is_kept_by_name() && !entry.is_foreign() {
        let (directory, name) = target.parent(names[1].directory, &new)?;
        prepare(target, &directory, name, entry.owner())?;
        target.known.forget(entry.number());
    }
    Ok(false)
}

/// Records the owner of what the kernel makes next.
fn prepare(target: &Target<'_>, directory: &OwnedFd, name: &[u8], owner: Owner) -> Outcome<()> {
    match open(directory, name) {
        Err(Errno::NOENT) => {}
        // It is another's name, and stays so.
        _ => return Ok(()),
    }
    target.still_waits()?;
    if record::owner_of_name(directory, name) != owner {
        record::set_owner_of_name(directory, name, owner);
    }
    Ok(())
}

/// The same for a link or pipe that root makes: nothing, and nothing that is left of an earlier one.
pub fn prepare_new(target: &mut Target<'_>, directory: i32, path: &CStr) -> Outcome<()> {
    let (parent, name) = target.parent(directory, path)?;
    prepare(target, &parent, name, Owner::default())
}

/// bind(2) of a socket in the file system: `struct sockaddr_un` is the family as 16 bits, and the path.
fn bind(target: &mut Target<'_>, who: Owner) -> Outcome<bool> {
    const ADDRESS_BYTES: usize = 110;
    let length = target.number(2) as usize;
    if !(3..=ADDRESS_BYTES).contains(&length) {
        return Ok(false);
    }
    let address = target.read(target.argument(1), length)?;
    let (family, path) = address.split_at(2);
    let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
    // A path that begins with a NUL is no name of a file.
    if family != (libc::AF_UNIX as u16).to_ne_bytes() || path.is_empty() {
        return Ok(false);
    }
    let path = CString::new(path).map_err(|_| Errno::INVAL)?;
    let (directory, name) = target.parent(libc::AT_FDCWD, &path)?;
    let owner = create::owner_in(&directory, who)?;
    prepare(target, &directory, name, owner)?;
    Ok(false)
}
