//! Why a program could not be executed: execve(2) answers with one number for several reasons, and names neither
//! the interpreter that is missing nor the processor that a program is for. Everything here is read inside the
//! container, and only after execve has failed.
//!
//! ```text
//! ENOENT    the name is nowhere in PATH ─▶ the nearest names │ no such file │ the interpreter of the file is missing
//! EACCES    a directory │ not executable │ a file system of which nothing is executed │ what lies on the way is closed
//! ENOEXEC   an ELF file for another processor │ a damaged one
//! EIO       a damaged image
//! ```

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;

use crate::error::{Error, Kind};

/// Interpreters of interpreters that are followed; the kernel follows 4.
const DEEPEST: usize = 5;
/// As much of a first line as the kernel reads.
const LINE_BYTES: u64 = 256;
const MOST_SEGMENTS: u64 = 128;
const PT_INTERP: u64 = 3;

/// The error of a program that could not be executed; `path` is where it was searched.
pub fn explain(name: &OsStr, path: &OsStr, error: io::Error) -> Error {
    let errno = error.raw_os_error().unwrap_or_default();
    let failed = Error::new(Kind::Program, format!("cannot run {name:?} in the container"));
    let found = find(name, path);
    // Of an empty name the kernel gets the directories of PATH themselves.
    let searched =
        found.is_none() && !name.as_bytes().contains(&b'/') && (errno == libc::ENOENT || name.is_empty());
    // Clients look for these words, which other tools say.
    let failed =
        if searched { failed.because("executable file not found in $PATH") } else { failed.because(error) };
    let hint = match (found, errno) {
        (_, libc::E2BIG) => {
            Some("arguments and environment are longer than the kernel allows (see ulimit -s)".into())
        }
        (_, libc::EIO) => {
            Some("the image is damaged, or the file system it is on fails; copy or download it again".into())
        }
        (None, _) if name.is_empty() => {
            Some("the name of the program is empty; is a variable of your script not set?".into())
        }
        (None, libc::EACCES) => closed_way(name, path),
        (None, _) if name.as_bytes().contains(&b'/') => Some(no_such_file(name)),
        (None, _) => Some(not_in_path(name, path)),
        (Some(file), libc::ENOENT) => missing_interpreter(&file, 0),
        (Some(file), libc::EACCES) => not_executable(&file),
        (Some(file), libc::ENOEXEC) => Some(other_machine(&file)),
        _ => None,
    };
    match hint {
        Some(hint) => failed.hint(hint),
        None => failed,
    }
}

/// The file that is meant: the name as a path, or the first of PATH.
fn find(name: &OsStr, path: &OsStr) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(name)).filter(|file| file.exists());
    }
    directories(path).map(|directory| directory.join(name)).find(|file| file.is_file())
}

fn directories(path: &OsStr) -> impl Iterator<Item = &Path> {
    path.as_bytes().split(|byte| *byte == b':').map(|directory| {
        let directory = if directory.is_empty() { b"." } else { directory };
        Path::new(OsStr::from_bytes(directory))
    })
}

fn no_such_file(name: &OsStr) -> String {
    let bring = "files of the host are in it only where they are bound (--bind)";
    match std::env::current_dir() {
        Ok(here) if Path::new(name).is_relative() => {
            format!("the container has no such file below {here:?}, where it starts; {bring}")
        }
        _ => format!("the container has no such file; {bring}"),
    }
}

fn not_in_path(name: &OsStr, path: &OsStr) -> String {
    let searched = format!("the container has no such program in its PATH ({})", path.to_string_lossy());
    let near = nearest(&name.to_string_lossy(), path);
    if near.is_empty() { searched } else { format!("{searched}; it has {}", near.join(", ")) }
}

/// Programs of PATH whose names differ in one letter, or go on with a version: `python3`, `gcc-14`.
fn nearest(name: &str, path: &OsStr) -> Vec<String> {
    let near = |other: &str| {
        let version = other.strip_prefix(name).is_some_and(|rest| {
            rest.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '.') && rest.len() <= 5
        });
        version || (name.len() > 2 && strsim::damerau_levenshtein(name, other) == 1)
    };
    let listed =
        directories(path).filter_map(|directory| std::fs::read_dir(directory).ok()).flatten().flatten();
    let mut names: Vec<String> =
        listed.filter_map(|entry| entry.file_name().into_string().ok()).filter(|other| near(other)).collect();
    names.sort();
    names.dedup();
    names.truncate(4);
    names
}

/// The file is there, but something that is needed to start it is not.
fn missing_interpreter(file: &Path, depth: usize) -> Option<String> {
    let (what, interpreter) = match read_interpreter(file) {
        Some(Interpreter::Line(name)) => ("the program of its first line", name),
        Some(Interpreter::Loader(name)) => ("its dynamic loader", name),
        None if is_elf(file) => return None,
        None => {
            return Some(format!(
                "{file:?} has no first line that names a program, and the container has no /bin/sh"
            ));
        }
    };
    if interpreter.exists() {
        return if depth < DEEPEST { missing_interpreter(&interpreter, depth + 1) } else { None };
    }
    let missing = format!("{file:?} is there, but {what}, {interpreter:?}, is not in the container");
    let mend = match what {
        _ if interpreter.as_os_str().as_bytes().ends_with(b"\r") => {
            "its lines end as those of Windows; convert it with dos2unix"
        }
        "its dynamic loader" => {
            "run it in an image with the C library that it was built for, or link it statically"
        }
        _ => "install it in the image, or change the line",
    };
    Some(format!("{missing}; {mend}"))
}

/// The program is nowhere to be seen, and one of the places where it may be is closed.
fn closed_way(name: &OsStr, path: &OsStr) -> Option<String> {
    let named = name.as_bytes().contains(&b'/');
    let places: Vec<PathBuf> = if named {
        vec![PathBuf::from(name)]
    } else {
        directories(path).map(|directory| directory.join(name)).collect()
    };
    let closed = places.iter().find_map(|place| first_closed(place))?;
    let mut parent = closed.parent().unwrap_or(Path::new("/"));
    if parent.as_os_str().is_empty() {
        parent = Path::new(".");
    }
    if !may_enter(parent) {
        let only = if named { "" } else { "; elsewhere in the container's PATH there is no such program" };
        return Some(format!(
            "the directory {parent:?} is closed to this user (its owner opens it: chmod a+x){only}"
        ));
    }
    // Of a directory of the upper layer over one of the image, the kernel notes which it lies over, when it is looked
    // up first: an attribute (ovl_fix_origin), which only its owner may set.
    if rustix::fs::statfs(parent).is_ok_and(|facts| facts.f_type == libc::OVERLAYFS_SUPER_MAGIC) {
        return Some(format!(
            "in the overlay {closed:?} is another user's, as --fakeroot leaves it, and the kernel has to mark it; use --fakeroot here too, or, where others may look into it, --overlay DIR:ro"
        ));
    }
    Some(format!("the file system does not let this user see {closed:?}"))
}

/// The first of what leads to a file, through links too, that may not be looked at.
fn first_closed(file: &Path) -> Option<PathBuf> {
    /// The kernel follows as many.
    const MOST_LINKS: usize = 40;
    let mut left = file.to_path_buf();
    for _ in 0..=MOST_LINKS {
        let mut walked = PathBuf::new();
        let mut parts = left.components();
        let link = loop {
            walked.push(parts.next()?);
            match std::fs::symlink_metadata(&walked) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Some(walked),
                Err(_) => return None,
                Ok(facts) if facts.is_symlink() => break std::fs::read_link(&walked).ok()?,
                Ok(_) => {}
            }
        };
        left = walked.parent()?.join(link).join(parts.as_path());
    }
    None
}

fn may_enter(directory: &Path) -> bool {
    rustix::fs::access(directory, rustix::fs::Access::EXEC_OK).is_ok()
}

fn not_executable(file: &Path) -> Option<String> {
    let status = std::fs::metadata(file).ok()?;
    if status.is_dir() {
        return Some(format!("{file:?} is a directory; name a program in it"));
    }
    if status.permissions().mode() & 0o111 == 0 {
        return Some(format!(
            "{file:?} is not executable; make it so (chmod +x), or give it to its interpreter (sh {})",
            file.display()
        ));
    }
    let flags = rustix::fs::statvfs(file).ok()?.f_flag;
    flags.contains(StatVfsMountFlags::NOEXEC).then(|| {
        format!("{file:?} is on a file system of which nothing is executed (noexec); copy it elsewhere")
    })
}

fn other_machine(file: &Path) -> String {
    let here = rustix::system::uname().machine().to_string_lossy().into_owned();
    match machine_of(file) {
        Some(machine) if machine != here => format!(
            "{file:?} is for {machine}, this machine is {here}; use an image for {here}, or have qemu-user-static registered in binfmt_misc on this machine"
        ),
        _ => format!("{file:?} is damaged or incomplete; copy or build it again"),
    }
}

/// Who starts a file.
#[derive(Debug, PartialEq, Eq)]
enum Interpreter {
    /// Its first line, `#!/bin/sh -e`, names it.
    Line(PathBuf),
    /// The dynamic loader that an ELF file names.
    Loader(PathBuf),
}

fn read_interpreter(file: &Path) -> Option<Interpreter> {
    let mut file = File::open(file).ok()?;
    let mut start = Vec::new();
    Read::by_ref(&mut file).take(LINE_BYTES).read_to_end(&mut start).ok()?;
    if let Some(line) = start.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next()?;
        let words = line.split(|byte| matches!(byte, b' ' | b'\t'));
        let name = words.into_iter().find(|word| !word.is_empty())?;
        return Some(Interpreter::Line(path_of(name)));
    }
    let elf = Elf::parse(&start)?;
    for index in 0..elf.segments.min(MOST_SEGMENTS) {
        let at = elf.table.checked_add(index.checked_mul(elf.segment_bytes)?)?;
        let segment = read_at(&mut file, at, 56)?;
        if elf.number(&segment, 0, 4)? == PT_INTERP {
            let (offset, length) = if elf.wide { ((8, 8), (32, 8)) } else { ((4, 4), (16, 4)) };
            let offset = elf.number(&segment, offset.0, offset.1)?;
            let length = elf.number(&segment, length.0, length.1)?.min(libc::PATH_MAX as u64);
            let name = read_at(&mut file, offset, length)?;
            return Some(Interpreter::Loader(path_of(name.split(|byte| *byte == 0).next()?)));
        }
    }
    None
}

fn path_of(bytes: &[u8]) -> PathBuf {
    OsString::from_vec(bytes.to_vec()).into()
}

fn read_at(file: &mut File, at: u64, length: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(at)).ok()?;
    file.take(length).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The header of an ELF file, as far as it matters here.
struct Elf {
    wide: bool,
    big: bool,
    machine: u64,
    /// Where the program headers are, how long each is, how many.
    table: u64,
    segment_bytes: u64,
    segments: u64,
}

impl Elf {
    fn parse(start: &[u8]) -> Option<Self> {
        if !start.starts_with(b"\x7fELF") {
            return None;
        }
        let (wide, big) = (*start.get(4)? == 2, *start.get(5)? == 2);
        let mut elf = Self { wide, big, machine: 0, table: 0, segment_bytes: 0, segments: 0 };
        elf.machine = elf.number(start, 18, 2)?;
        // A file that ends here still says which machine it is for.
        let (table, sizes) = if wide { ((32, 8), (54, 56)) } else { ((28, 4), (42, 44)) };
        elf.table = elf.number(start, table.0, table.1).unwrap_or(0);
        elf.segment_bytes = elf.number(start, sizes.0, 2).unwrap_or(0);
        elf.segments = elf.number(start, sizes.1, 2).unwrap_or(0);
        Some(elf)
    }

    fn number(&self, bytes: &[u8], at: usize, length: usize) -> Option<u64> {
        let field = bytes.get(at..at.checked_add(length)?)?;
        let join = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Some(if self.big { field.iter().fold(0, join) } else { field.iter().rev().fold(0, join) })
    }
}

/// Whether a file is an ELF file.
pub fn is_elf(file: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(file).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && &magic == b"\x7fELF"
}

/// Numbers of ELF, whether 64 bits, whether big endian, and the name as `uname -m` has it.
const MACHINES: &[(u64, bool, bool, &str)] = &[
    (3, false, false, "i386"),
    (62, true, false, "x86_64"),
    (40, false, false, "arm"),
    (183, true, false, "aarch64"),
    (21, true, true, "ppc64"),
    (21, true, false, "ppc64le"),
    (8, false, true, "mips"),
    (8, false, false, "mipsel"),
    (8, true, true, "mips64"),
    (8, true, false, "mips64el"),
    (22, true, true, "s390x"),
    (243, true, false, "riscv64"),
    (258, true, false, "loongarch64"),
];

/// Which machine an ELF file is for.
fn machine_of(file: &Path) -> Option<String> {
    let start = read_at(&mut File::open(file).ok()?, 0, 64)?;
    let elf = Elf::parse(&start)?;
    let known = MACHINES.iter().find(|row| (row.0, row.1, row.2) == (elf.machine, elf.wide, elf.big));
    Some(known.map_or_else(|| format!("machine {} of ELF", elf.machine), |row| row.3.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(name: &Path, errno: i32) -> String {
        explain(name.as_os_str(), OsStr::new("/bin"), io::Error::from_raw_os_error(errno))
            .hint
            .unwrap_or_default()
    }

    #[test]
    fn own_loader_is_found_and_own_machine() {
        let own = Path::new("/proc/self/exe");
        let Some(Interpreter::Loader(loader)) = read_interpreter(own) else { panic!("no loader") };
        assert!(loader.exists(), "{loader:?}");
        assert_eq!(machine_of(own).as_deref(), rustix::system::uname().machine().to_str().ok());
        assert_eq!(missing_interpreter(own, 0), None);
    }

    #[test]
    fn an_empty_name_is_no_program() {
        let error = explain(OsStr::new(""), OsStr::new("/bin"), io::Error::from_raw_os_error(libc::EACCES));
        assert!(error.to_string().ends_with("executable file not found in $PATH"), "{error}");
        assert!(error.hint.unwrap().contains("is empty"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let place = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &[u8]| {
            let path = place.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let inner = write("inner", b"#! /none/at-all -x\n");
        let outer = write("outer", [b"#!", inner.as_os_str().as_bytes(), b"\n"].concat().as_slice());
        assert!(hint(&outer, libc::ENOENT).contains("\"/none/at-all\", is not in the container"));
        let dos = write("dos", b"#!/bin/sh\r\nexit\r\n");
        assert!(hint(&dos, libc::ENOENT).contains("dos2unix"));
        assert!(hint(&dos, libc::EACCES).contains("chmod +x"));
        assert!(hint(place.path(), libc::EACCES).contains("is a directory"));
        let arm = write("arm", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xf3\0");
        assert!(hint(&arm, libc::ENOEXEC).contains("is for riscv64, this machine is"));
        assert!(hint(&write("cut", b"\x7fELF"), libc::ENOEXEC).contains("damaged"));
    }

    #[test]
    fn what_is_closed_on_the_way_is_found_through_links() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        std::fs::create_dir(at("usr")).unwrap();
        std::os::unix::fs::symlink("usr", at("bin")).unwrap();
        std::os::unix::fs::symlink(at("bin/../usr/loop"), at("usr/loop")).unwrap();
        assert_eq!(first_closed(&at("bin/none")), None);
        assert_eq!(first_closed(&at("bin/loop")), None);
        std::fs::set_permissions(at("usr"), PermissionsExt::from_mode(0o600)).unwrap();
        // Nothing is closed to root.
        if !may_enter(&at("usr")) {
            assert_eq!(first_closed(&at("bin/sh")), Some(at("usr/sh")));
            assert!(hint(&at("bin/sh"), libc::EACCES).contains("is closed to this user"));
        }
        std::fs::set_permissions(at("usr"), PermissionsExt::from_mode(0o700)).unwrap();
    }

    #[test]
    fn damaged_elf_files_name_nothing_and_do_no_harm() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("elf");
        let own = std::fs::read("/proc/self/exe").unwrap();
        for at in 0..64 {
            for byte in [0, 0x7f, 0xff] {
                let mut bytes = own[..4096].to_vec();
                bytes[at] = byte;
                std::fs::write(&path, bytes).unwrap();
                let _ = (read_interpreter(&path), machine_of(&path));
            }
        }
    }

    #[test]
    fn near_names_are_offered() {
        let place = tempfile::tempdir().unwrap();
        for name in ["python3", "python3.13", "pythonista", "gcc-14", "lss", "xargs"] {
            std::fs::write(place.path().join(name), "").unwrap();
        }
        let near = |name| nearest(name, place.path().as_os_str());
        assert_eq!(near("python"), ["python3", "python3.13"]);
        assert_eq!(near("gcc"), ["gcc-14"]);
        assert_eq!(near("xagrs"), ["xargs"]);
        assert!(near("ls").is_empty() && near("none").is_empty());
    }
}
