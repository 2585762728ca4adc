//! stat(2) and its like: what a program is told of a file that has a record. Of others, and of every error, the kernel
//! tells it.

use std::ffi::{CStr, CString};
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Statx};
use rustix::io::Errno;

use super::layout;
use super::record::{Entry, Record};
use super::table::{self, Call};
use super::target::{Outcome, Target};
use crate::sys::features;
use crate::sys::notify::Answer;
use crate::sys::statx::{self, Facts};

/// How a call names its file, and what it wants to know.
struct Asked {
    directory: i32,
    /// The address of the path; none for a descriptor alone.
    path: Option<u64>,
    flags: u32,
    buffer: u64,
    /// The mask of statx(2); none for the others.
    mask: Option<u32>,
}

impl Asked {
    /// None for another call.
    fn new(target: &Target<'_>, call: Call) -> Option<Self> {
        let [first, second, third, fourth] = [0, 1, 2, 3].map(|index| target.argument(index));
        let at = target.number(0).cast_signed();
        let by = |directory, path, flags, buffer| Self { directory, path, flags, buffer, mask: None };
        let nofollow = libc::AT_SYMLINK_NOFOLLOW.cast_unsigned();
        Some(match call {
            Call::Stat => by(libc::AT_FDCWD, Some(first), 0, second),
            Call::Lstat => by(libc::AT_FDCWD, Some(first), nofollow, second),
            Call::Fstat => by(at, None, 0, second),
            Call::Fstatat => by(at, Some(second), fourth as u32, third),
            Call::Statx => {
                let (flags, mask) = (third as u32, Some(fourth as u32));
                Self { directory: at, path: Some(second), flags, buffer: target.argument(4), mask }
            }
            _ => return None,
        })
    }

    /// The path, and what of the flags says what it means.
    fn name(&self, target: &Target<'_>) -> Outcome<(CString, AtFlags)> {
        let known = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT;
        let known = known | if self.mask.is_some() { libc::AT_STATX_SYNC_TYPE } else { 0 };
        if self.flags & !known.cast_unsigned() != 0 {
            return Err(Errno::INVAL);
        }
        let flags =
            AtFlags::from_bits_truncate(self.flags) & (AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH);
        match self.path {
            // AT_FDCWD is no descriptor.
            None if self.directory < 0 => Err(Errno::BADF),
            None => Ok((CString::default(), AtFlags::EMPTY_PATH)),
            Some(0) if flags.contains(AtFlags::EMPTY_PATH) && features::kernel_version() >= (6, 11) => {
                Ok((CString::default(), flags))
            }
            Some(address) => Ok((target.read_path(address)?, flags)),
        }
    }
}

/// Whether it is one of these calls.
pub fn concerns(call: Call) -> bool {
    matches!(call, Call::Stat | Call::Lstat | Call::Fstat | Call::Fstatat | Call::Statx)
}

/// Tells what is recorded, or has the kernel tell what is there.
pub fn answer(target: &mut Target<'_>, call: Call) -> Answer {
    let told = Asked::new(target, call).map(|asked| tell(target, &asked));
    // Whatever is wrong, the kernel knows the right error.
    if matches!(told, Some(Ok(true))) { Answer::Value(0) } else { Answer::Continue }
}

/// False where nothing is recorded.
fn tell(target: &mut Target<'_>, asked: &Asked) -> Outcome<bool> {
    let (path, flags) = asked.name(target)?;
    if let Some(facts) = target.glance(asked.directory, &path, flags)?
        && (!may_have_record(&facts) || target.known.get(number(&facts), changed(&facts)) == Some(None))
    {
        return Ok(false);
    }
    let Some((entry, record)) = find(target, asked.directory, &path, flags)? else { return Ok(false) };
    let Some(architecture) = table::architecture(target.notification.architecture) else { return Ok(false) };
    let sync = asked.flags & libc::AT_STATX_SYNC_TYPE.cast_unsigned();
    let mask = asked.mask.unwrap_or(libc::STATX_BASIC_STATS);
    let facts = Facts::of(entry.object().as_fd(), sync.cast_signed(), mask);
    let mut facts = facts.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    put(&mut facts, record);
    if asked.mask.is_some() {
        target.write_bytes(asked.buffer, facts.bytes())?;
    } else {
        target.write_bytes(asked.buffer, &layout::stat(architecture.layout, &facts))?;
    }
    Ok(true)
}

fn find(
    target: &mut Target<'_>,
    directory: i32,
    path: &CStr,
    flags: AtFlags,
) -> Outcome<Option<(Entry, Record)>> {
    let asked = target.known.now();
    let entry = Entry::new(target.open(directory, path, flags)?)?;
    if entry.is_foreign() {
        return Ok(None);
    }
    let (number, changed) = (entry.number(), entry.changed());
    let record = target.known.get(number, changed).unwrap_or_else(|| {
        let record = entry.record();
        target.known.put(number, changed, record, &asked);
        record
    });
    Ok(record.map(|record| (entry, record)))
}

fn may_have_record(facts: &Statx) -> bool {
    use FileType::{BlockDevice, CharacterDevice};
    let kind = FileType::from_raw_mode(facts.stx_mode.into());
    facts.stx_uid == 0 && !matches!(kind, BlockDevice | CharacterDevice)
}

fn number(facts: &Statx) -> (u64, u64) {
    (rustix::fs::makedev(facts.stx_dev_major, facts.stx_dev_minor), facts.stx_ino)
}

fn changed(facts: &Statx) -> (i64, u32) {
    (facts.stx_ctime.tv_sec, facts.stx_ctime.tv_nsec)
}

/// Makes what a file is what is recorded of it.
fn put(facts: &mut Facts, record: Record) {
    facts.set_u32(statx::USER, record.owner.user);
    facts.set_u32(statx::GROUP, record.owner.group);
    if let Some(device) = record.device {
        let kind = if device.block { libc::S_IFBLK } else { libc::S_IFCHR };
        let mode = facts.u16(statx::MODE) & 0o7777;
        facts.set_u16(statx::MODE, mode | kind as u16);
        facts.set_u32(statx::DEVICE_OF, device.major);
        facts.set_u32(statx::DEVICE_OF + 4, device.minor);
    }
}
