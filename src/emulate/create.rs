//! The calls that make files: open(2), mkdir(2), symlink(2), mknod(2) and their like. The kernel gives a new file to
//! whoever makes it, and in a directory with the set-group-id bit to the directory's group. Here it makes them all
//! root's; so for a process that has taken other ids, the supervisor makes them, records whose they are, and hands in
//! the descriptor.
//!
//! What root makes the kernel makes, but in the few directories with the bit and another group.
//!
//! Whatever stands in the way is left to the kernel, which does the call then and knows the right error.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::names;
use super::record::{Entry, Owner};
use super::table::Call;
use super::target::{self, Outcome, Target};
use crate::sys::notify::{Answer, Notification};

/// Whether it is a call that makes something that users may make.
pub fn concerns(notification: &Notification, call: Call) -> bool {
    use Call::{Creat, Mkdir, Mkdirat, Open, Openat, Openat2, Symlink, Symlinkat};
    let argument = |index: usize| notification.arguments[index] as u32;
    match call {
        Call::Mknod => !is_device(argument(1)),
        Call::Mknodat => !is_device(argument(2)),
        _ => matches!(call, Open | Openat | Openat2 | Creat | Mkdir | Mkdirat | Symlink | Symlinkat),
    }
}

fn is_device(mode: u32) -> bool {
    matches!(FileType::from_raw_mode(mode), FileType::CharacterDevice | FileType::BlockDevice)
}

/// Makes what is asked for with its owner, or has the kernel do it.
pub fn answer(target: &mut Target<'_>, call: Call, who: Owner) -> Outcome<Answer> {
    if who == Owner::default() && matches!(is_plain(target, call), Ok(true) | Err(_)) {
        return Ok(Answer::Continue);
    }
    match Making::begin(target, call, who) {
        Ok(Some(making)) => making.finish(target),
        Ok(None) | Err(_) => Ok(Answer::Continue),
    }
}

/// Whether what root makes is root's: if the directory has no set-group-id bit.
fn is_plain(target: &mut Target<'_>, call: Call) -> Outcome<bool> {
    let asked = Asked::new(target, call)?;
    let path = target.read_path(asked.path)?;
    if matches!(asked.what, What::Link(_) | What::Node) {
        // An error means that nothing is made, or that no record can be.
        let _ = names::prepare_new(target, asked.directory, &path);
    }
    let (directory, _, _) = target::split(path.to_bytes())?;
    let directory = if matches!(asked.what, What::Nameless(_)) { path } else { directory };
    let facts = target.glance(asked.directory, &directory, AtFlags::empty())?;
    Ok(facts.is_some_and(|facts| u32::from(facts.stx_mode) & libc::S_ISGID == 0))
}

/// What is made.
#[derive(Clone, Copy)]
enum What {
    File(OFlags),
    /// With no name yet (O_TMPFILE).
    Nameless(OFlags),
    Directory,
    /// A link to the text at this address.
    Link(u64),
    Node,
}

/// How a call says what it makes.
struct Asked {
    directory: i32,
    /// The address of the path.
    path: u64,
    what: What,
    mode: u32,
}

impl Asked {
    fn new(target: &Target<'_>, call: Call) -> Outcome<Self> {
        let (here, at) = (libc::AT_FDCWD, target.number(0).cast_signed());
        let (first, second, third) = (target.argument(0), target.argument(1), target.argument(2));
        let opened = |directory, path, flags, mode| Self { directory, path, what: What::opened(flags), mode };
        let made = |directory, path, what, mode| Self { directory, path, what, mode };
        Ok(match call {
            Call::Open => opened(here, first, target.number(1), target.number(2)),
            Call::Openat => opened(at, second, target.number(2), target.number(3)),
            Call::Openat2 => {
                let [flags, mode] = structure(target)?;
                opened(at, second, flags, mode)
            }
            Call::Creat => made(
                here,
                first,
                What::File(OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC),
                target.number(1),
            ),
            Call::Mkdir => made(here, first, What::Directory, target.number(1)),
            Call::Mkdirat => made(at, second, What::Directory, target.number(2)),
            Call::Symlink => made(here, second, What::Link(first), 0),
            Call::Symlinkat => made(target.number(1).cast_signed(), third, What::Link(first), 0),
            Call::Mknod => made(here, first, What::Node, target.number(1)),
            Call::Mknodat => made(at, second, What::Node, target.number(2)),
            _ => return Err(Errno::NOSYS),
        })
    }
}

impl What {
    fn opened(flags: u32) -> Self {
        let flags = OFlags::from_bits_retain(flags);
        if flags.contains(OFlags::TMPFILE) { Self::Nameless(flags) } else { Self::File(flags) }
    }

    /// Whether it may be made where a link of its name leads.
    fn follows(self) -> bool {
        matches!(self, Self::File(flags) if !flags.intersects(OFlags::EXCL | OFlags::NOFOLLOW))
    }
}

/// `struct open_how` of linux/openat2.h: flags u64 | mode u64 | resolve u64; the first two.
fn structure(target: &Target<'_>) -> Outcome<[u32; 2]> {
    let bytes = target.read(target.argument(2), 24)?;
    let (words, _) = bytes.as_chunks();
    let [flags, mode, resolve] = words.iter().map(|word| u64::from_ne_bytes(*word)).collect::<Vec<_>>()[..]
    else {
        return Err(Errno::FAULT);
    };
    // A longer structure, or a path that is looked up in a way of its own: the kernel can do that alone.
    if target.argument(3) != 24 || resolve != 0 || mode > 0o7777 {
        return Err(Errno::NOSYS);
    }
    let flags = u32::try_from(flags).map_err(|_| Errno::INVAL)?;
    Ok([flags, mode as u32])
}

/// Something that is to be made here.
struct Making {
    what: What,
    mode: u32,
    /// The file mode creation mask.
    mask: u32,
    directory: OwnedFd,
    name: Vec<u8>,
    /// Of a link.
    text: CString,
    owner: Owner,
}

impl Making {
    /// None where nothing is made, or nothing is to be recorded.
    fn begin(target: &mut Target<'_>, call: Call, who: Owner) -> Outcome<Option<Self>> {
        let asked = Asked::new(target, call)?;
        if let What::File(flags) = asked.what
            && (flags.intersects(OFlags::PATH | OFlags::DIRECTORY) || !flags.contains(OFlags::CREATE))
        {
            return Ok(None);
        }
        let path = target.read_path(asked.path)?;
        let Some((directory, name)) = asked.place(target, &path)? else { return Ok(None) };
        let owner = owner_in(&directory, who)?;
        if owner == Owner::default() || target::is_in_proc(&directory)? {
            return Ok(None);
        }
        let text = match asked.what {
            What::Link(text) => target.read_path(text)?,
            _ => CString::default(),
        };
        let (mask, user) = target.mask_and_user()?;
        // Where ids are real, the kernel knows who it is.
        if user != 0 {
            return Ok(None);
        }
        let Asked { what, mode, .. } = asked;
        Ok(Some(Self { what, mode, mask, directory, name, text, owner }))
    }

    fn finish(self, target: &Target<'_>) -> Outcome<Answer> {
        // This thread's own, in which it makes nothing else than this.
        let before = rustix::process::umask(Mode::from_raw_mode(self.mask));
        let made = self.make();
        rustix::process::umask(before);
        let object = match made {
            // Something is there, or is since a moment ago.
            Err(Errno::EXIST) => return Ok(Answer::Continue),
            other => other?,
        };
        let recorded = object.try_clone().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
        let recorded = recorded.and_then(Entry::new).and_then(|entry| {
            entry.set_owner(self.owner)?;
            target.forget(&entry)
        });
        let answered = recorded.and_then(|()| self.hand_in(target, object));
        if answered.is_err() {
            self.unmake();
        }
        answered
    }

    fn make(&self) -> Outcome<OwnedFd> {
        let (directory, name, mode) = (&self.directory, self.name.as_slice(), Mode::from_raw_mode(self.mode));
        match self.what {
            What::File(flags) => {
                let flags = flags | OFlags::EXCL | OFlags::CLOEXEC;
                return rustix::fs::openat(directory, name, flags, mode);
            }
            What::Nameless(flags) => {
                return rustix::fs::openat(directory, name, flags | OFlags::CLOEXEC, mode);
            }
            What::Directory => rustix::fs::mkdirat(directory, name, mode)?,
            What::Link(_) => rustix::fs::symlinkat(self.text.as_c_str(), directory, name)?,
            What::Node => {
                // No type is that of a file.
                let kind = match self.mode & libc::S_IFMT {
                    0 => FileType::RegularFile,
                    _ => FileType::from_raw_mode(self.mode),
                };
                rustix::fs::mknodat(directory, name, kind, mode, 0)?;
            }
        }
        let how = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(directory, name, how, Mode::empty())
    }

    /// The call's value: a descriptor of the caller's, or nothing.
    fn hand_in(&self, target: &Target<'_>, object: OwnedFd) -> Outcome<Answer> {
        let (What::File(flags) | What::Nameless(flags)) = self.what else { return Ok(Answer::Value(0)) };
        let close = flags.contains(OFlags::CLOEXEC);
        let number = target.listener.give(target.notification.id, object.as_fd(), close);
        // Before the caller goes on (so not both in one, SECCOMP_ADDFD_FLAG_SEND): it may execute what it has written
        // and closed, which the kernel refuses while another has it open.
        drop(object);
        match number {
            Ok(number) => Ok(Answer::Value(number.into())),
            Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }

    /// A call that fails makes nothing.
    fn unmake(&self) {
        let flags = match self.what {
            What::Nameless(_) => return,
            What::Directory => AtFlags::REMOVEDIR,
            _ => AtFlags::empty(),
        };
        // Who has removed it meanwhile has done it for us.
        let _ = rustix::fs::unlinkat(&self.directory, self.name.as_slice(), flags);
    }
}

impl Asked {
    /// The directory in which something new is made, and its name; none where nothing new is made.
    fn place(&self, target: &mut Target<'_>, path: &CStr) -> Outcome<Option<(OwnedFd, Vec<u8>)>> {
        if matches!(self.what, What::Nameless(_)) {
            return Ok(Some((target.open(self.directory, path, AtFlags::empty())?, b".".to_vec())));
        }
        // A new directory may be named with slashes.
        let slashes = path.to_bytes().iter().rev().take_while(|byte| **byte == b'/').count();
        let path = match self.what {
            What::Directory if slashes > 0 => {
                CString::new(&path.to_bytes()[..path.count_bytes() - slashes]).map_err(|_| Errno::INVAL)?
            }
            _ => path.to_owned(),
        };
        let (parent, name) = target.parent(self.directory, &path)?;
        if !self.what.follows() {
            return Ok(Some((parent, name.to_vec())));
        }
        match target.open(self.directory, &path, AtFlags::empty()) {
            Err(Errno::NOENT) => target.end_of_links(parent, name).map(Some),
            // It is there, or cannot be.
            _ => Ok(None),
        }
    }
}

/// Whose something is that is made in a directory.
pub fn owner_in(directory: &OwnedFd, who: Owner) -> Outcome<Owner> {
    if rustix::fs::fstat(directory)?.st_mode & libc::S_ISGID == 0 {
        return Ok(who);
    }
    let directory =
        directory.try_clone().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(Owner { group: Entry::new(directory)?.owner().group, ..who })
}
