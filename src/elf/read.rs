//! One ELF file, as much as the dynamic loader uses of it (elf(5), and the gABI's chapter on dynamic linking).
//!
//! ```text
//! header ─► program headers ─► PT_INTERP   the loader
//!                           ├► PT_LOAD     where an address is in the file
//!                           └► PT_DYNAMIC  tag, value; ends with DT_NULL
//!                                ├ DT_STRTAB   all names
//!                                ├ DT_SONAME, DT_NEEDED, DT_RPATH, DT_RUNPATH   offsets of names
//!                                ├ DT_VERNEED  versions that it needs, by library     ┐ chains of records, each with
//!                                └ DT_VERDEF   versions that it has                   ┘ the distance to the next
//! ```
//!
//! Every chain is bounded by a number of steps and goes forward only.

use super::bytes::Bytes;
use crate::error::Result;

/// No file has as many program headers.
const MAX_HEADERS: u16 = 512;
/// Entries of the dynamic segment that are looked at.
const MAX_DYNAMIC: usize = 4096;
/// Libraries that a file may need.
const MAX_NEEDED: usize = 1024;
/// Records of one chain of versions, and names below one record.
const MAX_VERSIONS: usize = 4096;
/// A name; search paths are the longest.
const MAX_NAME: usize = 64 * 1024;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;

const DT_NEEDED: u64 = 1;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_SONAME: u64 = 14;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
const DT_VERDEF: u64 = 0x6fff_fffc;
const DT_VERDEFNUM: u64 = 0x6fff_fffd;
const DT_VERNEED: u64 = 0x6fff_fffe;
const DT_VERNEEDNUM: u64 = 0x6fff_ffff;

/// The version record that names the library itself.
const VER_FLG_BASE: u16 = 1;
/// A version whose absence the loader only warns of.
const VER_FLG_WEAK: u16 = 2;

/// What has to be equal for two files to be of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Platform {
    /// 64 bits, and not 32.
    pub wide: bool,
    /// The most significant byte first.
    pub big_endian: bool,
    /// The processor, `e_machine`.
    pub machine: u16,
}

/// A library that has to have some versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// Its name, as in `DT_NEEDED`.
    pub library: String,
    /// The versions, without those that may be missing.
    pub versions: Vec<String>,
}

/// What is known of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elf {
    /// What it runs on.
    pub platform: Platform,
    /// The name that others need it by.
    pub soname: Option<String>,
    /// The libraries that it needs, in order.
    pub needed: Vec<String>,
    /// Directories to search first, unless there is a `runpath`.
    pub rpath: Vec<String>,
    /// Directories to search after `LD_LIBRARY_PATH`.
    pub runpath: Vec<String>,
    /// The loader that a program asks for.
    pub interpreter: Option<String>,
    /// The versions that it needs.
    pub requires: Vec<Requirement>,
    /// The versions that it has.
    pub defines: Vec<String>,
    pub(super) tables: Tables,
}

/// Where the symbols are in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tables {
    pub symbols: Option<u64>,
    pub names: Option<u64>,
    pub hash: Option<u64>,
    pub gnu_hash: Option<u64>,
}

/// Numbers of a file, in its byte order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbers {
    pub platform: Platform,
}

impl Numbers {
    pub fn u16(self, bytes: &[u8], at: usize) -> u16 {
        let field = bytes.get(at..at + 2).and_then(|field| field.try_into().ok()).unwrap_or_default();
        if self.platform.big_endian { u16::from_be_bytes(field) } else { u16::from_le_bytes(field) }
    }

    pub fn u32(self, bytes: &[u8], at: usize) -> u32 {
        let field = bytes.get(at..at + 4).and_then(|field| field.try_into().ok()).unwrap_or_default();
        if self.platform.big_endian { u32::from_be_bytes(field) } else { u32::from_le_bytes(field) }
    }

    /// An address or offset: 8 bytes, or 4.
    pub fn word(self, bytes: &[u8], at: usize) -> u64 {
        if !self.platform.wide {
            return u64::from(self.u32(bytes, at));
        }
        let field = bytes.get(at..at + 8).and_then(|field| field.try_into().ok()).unwrap_or_default();
        if self.platform.big_endian { u64::from_be_bytes(field) } else { u64::from_le_bytes(field) }
    }
}

/// A part of the file that is shown in memory.
struct Load {
    address: u64,
    offset: u64,
    length: u64,
}

/// The program headers, sorted by use.
#[derive(Default)]
struct Segments {
    loads: Vec<Load>,
    dynamic: Option<(u64, u64)>,
    interpreter: Option<(u64, u64)>,
}

impl Segments {
    /// Where an address is in the file.
    fn offset(&self, address: u64) -> Option<u64> {
        let load = self
            .loads
            .iter()
            .find(|load| address.checked_sub(load.address).is_some_and(|distance| distance < load.length))?;
        load.offset.checked_add(address - load.address)
    }
}

/// Reads a file; `None` when it is no ELF file, or one that is never loaded (an object, a core).
///
/// # Errors
/// It is one, and damaged.
pub fn parse_elf(bytes: &Bytes<'_>) -> Result<Option<Elf>> {
    if bytes.size() < 52 {
        return Ok(None);
    }
    let head = bytes.exact(0, 64.min(bytes.size() as usize))?;
    let (Some(b"\x7fELF"), Some(class @ 1..=2), Some(data @ 1..=2)) =
        (head.get(..4), head.get(4), head.get(5))
    else {
        return Ok(None);
    };
    let mut platform = Platform { wide: *class == 2, big_endian: *data == 2, machine: 0 };
    platform.machine = Numbers { platform }.u16(&head, 18);
    let numbers = Numbers { platform };
    // ET_EXEC, ET_DYN
    if !matches!(numbers.u16(&head, 16), 2 | 3) {
        return Ok(None);
    }
    let segments = segments(bytes, numbers, &head)?;
    let interpreter = match segments.interpreter {
        Some((offset, length)) => Some(bytes.text(offset, (length as usize).min(4096))?),
        None => None,
    };
    let mut elf = Elf {
        platform,
        soname: None,
        needed: Vec::new(),
        rpath: Vec::new(),
        runpath: Vec::new(),
        interpreter,
        requires: Vec::new(),
        defines: Vec::new(),
        tables: Tables::default(),
    };
    if let Some((offset, length)) = segments.dynamic {
        read_dynamic(bytes, numbers, &segments, (offset, length), &mut elf)?;
    }
    Ok(Some(elf))
}

fn segments(bytes: &Bytes<'_>, numbers: Numbers, head: &[u8]) -> Result<Segments> {
    let wide = numbers.platform.wide;
    let (at, entry, count) = if wide {
        (numbers.word(head, 32), numbers.u16(head, 54), numbers.u16(head, 56))
    } else {
        (numbers.word(head, 28), numbers.u16(head, 42), numbers.u16(head, 44))
    };
    let least = if wide { 56 } else { 32 };
    if count > MAX_HEADERS || count > 0 && entry < least {
        return Err(bytes.damaged("its program headers make no sense"));
    }
    let table = bytes.exact(at, usize::from(count) * usize::from(entry))?;
    let mut segments = Segments::default();
    for header in table.chunks_exact(usize::from(entry.max(1))) {
        let (offset, address, length) = if wide {
            (numbers.word(header, 8), numbers.word(header, 16), numbers.word(header, 32))
        } else {
            (numbers.word(header, 4), numbers.word(header, 8), numbers.word(header, 16))
        };
        match numbers.u32(header, 0) {
            PT_LOAD => segments.loads.push(Load { address, offset, length }),
            PT_DYNAMIC => segments.dynamic = Some((offset, length)),
            PT_INTERP => segments.interpreter = Some((offset, length)),
            _ => {}
        }
    }
    Ok(segments)
}

fn read_dynamic(
    bytes: &Bytes<'_>,
    numbers: Numbers,
    segments: &Segments,
    (offset, length): (u64, u64),
    elf: &mut Elf,
) -> Result<()> {
    let word = if numbers.platform.wide { 8 } else { 4 };
    let there = length.min((MAX_DYNAMIC * 2 * word) as u64).min(bytes.size().saturating_sub(offset));
    let table = bytes.exact(offset, there as usize)?;
    let entries: Vec<(u64, u64)> = table
        .chunks_exact(2 * word)
        .map(|entry| (numbers.word(entry, 0), numbers.word(entry, word)))
        .take_while(|(tag, _)| *tag != 0)
        .collect();
    let value = |wanted: u64| entries.iter().find(|(tag, _)| *tag == wanted).map(|(_, value)| *value);
    let place = |wanted: u64| segments.offset(value(wanted)?);
    elf.tables = Tables {
        symbols: place(DT_SYMTAB),
        names: place(DT_STRTAB),
        hash: place(DT_HASH),
        gnu_hash: place(DT_GNU_HASH),
    };
    let Some(names) = elf.tables.names else { return Ok(()) };
    let name = |at: u64| match names.checked_add(at) {
        Some(at) => bytes.text(at, MAX_NAME),
        None => Err(bytes.damaged("a name lies outside it")),
    };
    for (tag, at) in &entries {
        match *tag {
            DT_NEEDED if elf.needed.len() < MAX_NEEDED => elf.needed.push(name(*at)?),
            DT_NEEDED => return Err(bytes.damaged("it needs too many libraries")),
            DT_SONAME => elf.soname = Some(name(*at)?),
            DT_RPATH => elf.rpath = directories(&name(*at)?),
            DT_RUNPATH => elf.runpath = directories(&name(*at)?),
            _ => {}
        }
    }
    if let Some(at) = place(DT_VERNEED) {
        let count = value(DT_VERNEEDNUM).unwrap_or(0);
        elf.requires = read_requirements(bytes, numbers, (at, count), &name)?;
    }
    if let Some(at) = place(DT_VERDEF) {
        let count = value(DT_VERDEFNUM).unwrap_or(0);
        elf.defines = read_definitions(bytes, numbers, (at, count), &name)?;
    }
    Ok(())
}

fn directories(list: &str) -> Vec<String> {
    list.split(':').filter(|directory| !directory.is_empty()).map(str::to_owned).collect()
}

/// Records of 16 bytes, each with `next` in its last field, and below each a chain of 16 byte records.
fn read_requirements(
    bytes: &Bytes<'_>,
    numbers: Numbers,
    (mut at, count): (u64, u64),
    name: &dyn Fn(u64) -> Result<String>,
) -> Result<Vec<Requirement>> {
    let mut requires = Vec::new();
    let mut steps = 0;
    for _ in 0..count.min(MAX_VERSIONS as u64) {
        let record = bytes.exact(at, 16)?;
        let library = name(numbers.u32(&record, 4).into())?;
        let mut below = forward(bytes, at, numbers.u32(&record, 8))?;
        let mut versions = Vec::new();
        for _ in 0..numbers.u16(&record, 2) {
            steps += 1;
            if steps > MAX_VERSIONS {
                return Err(bytes.damaged("it needs too many versions"));
            }
            let version = bytes.exact(below, 16)?;
            if numbers.u16(&version, 4) & VER_FLG_WEAK == 0 {
                versions.push(name(numbers.u32(&version, 8).into())?);
            }
            match numbers.u32(&version, 12) {
                0 => break,
                next => below = forward(bytes, below, next)?,
            }
        }
        requires.push(Requirement { library, versions });
        match numbers.u32(&record, 12) {
            0 => break,
            next => at = forward(bytes, at, next)?,
        }
    }
    Ok(requires)
}

/// Records of 20 bytes; the first name below each is the version's, the others those of its parents.
fn read_definitions(
    bytes: &Bytes<'_>,
    numbers: Numbers,
    (mut at, count): (u64, u64),
    name: &dyn Fn(u64) -> Result<String>,
) -> Result<Vec<String>> {
    let mut defines = Vec::new();
    for _ in 0..count.min(MAX_VERSIONS as u64) {
        let record = bytes.exact(at, 20)?;
        if numbers.u16(&record, 2) & VER_FLG_BASE == 0 && numbers.u16(&record, 6) > 0 {
            let first = bytes.exact(forward(bytes, at, numbers.u32(&record, 12))?, 8)?;
            defines.push(name(numbers.u32(&first, 0).into())?);
        }
        match numbers.u32(&record, 16) {
            0 => break,
            next => at = forward(bytes, at, next)?,
        }
    }
    Ok(defines)
}

fn forward(bytes: &Bytes<'_>, at: u64, distance: u32) -> Result<u64> {
    at.checked_add(distance.into()).ok_or_else(|| bytes.damaged("a record lies outside it"))
}
