//! The last step: this process becomes the user's program.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Advice, Mode, OFlags};
use rustix::thread::CapabilitySet;

use super::diagnose;
use crate::emulate::{self, Scope};
use crate::error::{Context, Error, Kind, Result};
use crate::plan::{Capabilities, ContainerPath, Emulated, Process};
use crate::sys::{process, signals};

/// Where programs are searched when the environment has no PATH, as execvp(3) does.
const DEFAULT_PATH: &str = "/usr/local/bin:/bin:/usr/bin";

/// Executes the program. Returns only on failure.
pub fn become_program(plan: &Process) -> Result<Infallible> {
    enter_working_directory(plan)?;
    set_capabilities(&plan.capabilities)?;
    process::set_no_new_privileges().context(Kind::Host, || "cannot give up gaining privileges".into())?;
    signals::restore_sigpipe();
    let name = plan.argv.first().ok_or_else(|| Error::usage("there is no program to run"))?;
    let words = |words: &mut dyn Iterator<Item = OsString>| -> Result<Vec<CString>> {
        words
            .map(|word| process::c_string(&word).context(Kind::Usage, || format!("cannot pass {word:?}")))
            .collect()
    };
    let argv = words(&mut plan.argv.iter().cloned())?;
    let env = words(&mut plan.env.iter().map(|(name, value)| {
        let mut pair = name.clone();
        pair.push("=");
        pair.push(value);
        pair
    }))?;
    let path = plan.env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
    let path = path.unwrap_or(OsStr::new(DEFAULT_PATH));
    // Last: it holds for all that this process does from here on. Less than all is no failure.
    match plan.emulates {
        Emulated::Nothing => {}
        Emulated::Devices => emulate::begin(Scope::Devices).tell(),
        Emulated::Root => emulate::begin(Scope::Root).tell(),
    }
    let error = search(name, path, &argv, &env);
    Err(diagnose::explain(name, path, error))
}

/// Asks the kernel for what the program starts with, so that a server that is new answers while this process goes on.
/// What is not there, or not in the image, does no harm.
pub fn ask_ahead(files: &[ContainerPath]) {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let open = |path: &ContainerPath| rustix::fs::open(&path.0, flags, Mode::empty()).ok();
    // All before any is read: the server answers in order, and a name would wait for what was asked before it.
    for file in files.iter().filter_map(open).collect::<Vec<_>>() {
        let Ok(size) = rustix::fs::fstat(&file).map(|stat| stat.st_size.cast_unsigned()) else { continue };
        for start in (0..size.min(ASKED_BYTES)).step_by(WINDOW_BYTES) {
            let _ = rustix::fs::fadvise(&file, start, NonZeroU64::new(WINDOW_BYTES as u64), Advice::WillNeed);
        }
    }
}

/// The kernel reads no more ahead at one call, for a mount of an ordinary user.
const WINDOW_BYTES: usize = 128 << 10;

/// Of each file.
const ASKED_BYTES: u64 = 2 << 20;

/// Nothing for most: programs of ordinary users lose all capabilities by execve, and those of root have them all.
fn set_capabilities(plan: &Capabilities) -> Result<()> {
    if plan.add.is_empty() && plan.drop.is_empty() {
        return Ok(());
    }
    let trying = || "cannot set the capabilities of the program".to_owned();
    let set = |numbers: &[u8]| {
        CapabilitySet::from_bits_retain(numbers.iter().fold(0, |set, number| set | 1_u64 << number))
    };
    for number in &plan.drop {
        match rustix::thread::remove_capability_from_bounding_set(set(&[*number])) {
            // A capability that is newer than the kernel.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error).context(Kind::Host, trying),
        }
    }
    let mut sets = rustix::thread::capabilities(None).context(Kind::Host, trying)?;
    sets.permitted &= !set(&plan.drop);
    sets.effective &= !set(&plan.drop);
    sets.inheritable = set(&plan.add) & sets.permitted;
    rustix::thread::set_capabilities(None, sets).context(Kind::Host, trying)?;
    for number in &plan.add {
        if sets.inheritable.contains(set(&[*number])) {
            rustix::thread::configure_capability_in_ambient_set(set(&[*number]), true)
                .context(Kind::Host, trying)?;
        }
    }
    Ok(())
}

fn enter_working_directory(plan: &Process) -> Result<()> {
    let mut failed = None;
    for candidate in &plan.cwd {
        match rustix::process::chdir(&candidate.0) {
            Ok(()) => return Ok(()),
            Err(error) => failed = failed.or(Some((candidate, error))),
        }
    }
    match failed {
        Some((path, error)) => {
            Err(Error::new(Kind::Io, format!("cannot enter the directory {:?} in the container", path.0))
                .because(error))
        }
        None => Ok(()),
    }
}

/// execvp(3) with the container's PATH: a missing or forbidden candidate sends it on, and "forbidden" is reported
/// if no later one is found.
fn search(name: &OsStr, path: &OsStr, argv: &[CString], env: &[CString]) -> io::Error {
    if name.as_bytes().contains(&b'/') {
        return execute(name, argv, env);
    }
    let mut error = io::Error::from_raw_os_error(libc::ENOENT);
    for directory in path.as_bytes().split(|byte| *byte == b':') {
        let directory = if directory.is_empty() { b"." } else { directory };
        let this = execute(Path::new(OsStr::from_bytes(directory)).join(name).as_os_str(), argv, env);
        match this.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            Some(libc::EACCES) => error = this,
            _ => return this,
        }
    }
    error
}

fn execute(program: &OsStr, argv: &[CString], env: &[CString]) -> io::Error {
    let Ok(file) = process::c_string(program) else { return io::Error::from_raw_os_error(libc::ENOENT) };
    let error = process::execve(&file, argv, env);
    // A script without a #! line, as shells and execvp(3) treat it.
    if error.raw_os_error() == Some(libc::ENOEXEC) && !diagnose::is_elf(Path::new(program)) {
        let mut words = vec![c"/bin/sh".to_owned(), file];
        words.extend(argv.iter().skip(1).cloned());
        return process::execve(c"/bin/sh", &words, env);
    }
    error
}
