//! Whether a library of one place would load among those of another: every version that it needs must be there.
//!
//! glibc's libraries say which of its versions they need (`GLIBC_2.34`), and the loader refuses to start a program when
//! one is missing: "version `GLIBC_2.38' not found". The same is told here before anything starts.

use std::fmt;
use std::rc::Rc;

use super::place::{Library, Place};
use super::read::Elf;
use crate::error::Result;

/// What glibc is known by.
pub const LIBC: &str = "libc.so.6";
/// The rest of glibc, but for its loader. Some are empty in newer ones, and programs of older images need them by name.
pub const BESIDE_LIBC: &[&str] = &[
    "libm.so.6",
    "libmvec.so.1",
    "libpthread.so.0",
    "libdl.so.2",
    "librt.so.1",
    "libresolv.so.2",
    "libutil.so.1",
    "libanl.so.1",
    "libBrokenLocale.so.1",
    "libthread_db.so.1",
    "libnsl.so.1",
    "libnss_files.so.2",
    "libnss_dns.so.2",
];
/// Hashes of passwords: glibc's once, and a library of its own since, which a newer glibc does without.
const LIBCRYPT: &str = "libcrypt.so.1";

/// Whether a library belongs to the C library, or is the loader. They fit one another, and never come from elsewhere
/// alone.
pub fn is_libc(name: &str) -> bool {
    name == LIBC
        || name == LIBCRYPT
        || BESIDE_LIBC.contains(&name)
        || name.starts_with("ld-linux")
        || name.starts_with("ld64.so")
        || name.starts_with("ld.so")
        || name.starts_with("linux-vdso")
        || name.starts_with("libc.musl-")
        || name.starts_with("ld-musl")
}

/// Something that a library needs and does not find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    /// The library that needs it.
    pub library: String,
    /// The library that it is needed of.
    pub of: String,
    /// The versions that are missing there; none when the whole library is.
    pub versions: Vec<String>,
    /// The newest version of that kind that is there (`GLIBC_2.36`).
    pub newest: Option<String>,
    /// Where it was looked for.
    pub place: String,
}

impl fmt::Display for Unmet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { library, of, versions, newest, place } = self;
        match (versions.last(), newest) {
            (None, _) => write!(out, "{library} needs {of}, which {place} does not have"),
            (Some(version), Some(newest)) => {
                write!(out, "{library} needs {version} of {of}, and that of {place} ends at {newest}")
            }
            (Some(version), None) => {
                write!(out, "{library} needs {version} of {of}, which that of {place} does not have")
            }
        }
    }
}

/// What a library needs and `place` does not give. `provider` says which library will be there for a name, where it is
/// not the place's own.
///
/// # Errors
/// A file of the place cannot be read.
pub fn unmet(
    library: &Library,
    place: &Place<'_>,
    provider: &dyn Fn(&str) -> Option<Rc<Library>>,
) -> Result<Vec<Unmet>> {
    let mut missing = Vec::new();
    let unmet = |of: &str, versions: Vec<String>, newest| Unmet {
        library: library.name(),
        of: of.to_owned(),
        versions,
        newest,
        place: place.name.clone(),
    };
    for name in &library.elf.needed {
        let found = match provider(name) {
            Some(found) => Some(found),
            None => place.find(name, library.elf.platform, None)?,
        };
        let Some(found) = found else {
            missing.push(unmet(name, Vec::new(), None));
            continue;
        };
        let Some(required) = library.elf.requires.iter().find(|required| required.library == *name) else {
            continue;
        };
        let mut versions = missing_versions(&required.versions, &found.elf);
        if !versions.is_empty() {
            versions.sort_by_key(|version| numbers(version));
            let kind = versions.last().and_then(|version| kind(version)).map(str::to_owned);
            let newest = kind.and_then(|kind| newest(&found.elf, &kind));
            missing.push(unmet(name, versions, newest));
        }
    }
    Ok(missing)
}

/// The versions that a library does not have. One that has none at all takes every version, as the loader says.
pub fn missing_versions(wanted: &[String], of: &Elf) -> Vec<String> {
    if of.defines.is_empty() {
        return Vec::new();
    }
    wanted.iter().filter(|version| !of.defines.contains(version)).cloned().collect()
}

/// The newest of the versions `KIND_1.2.3` that a library has.
pub fn newest(of: &Elf, wanted: &str) -> Option<String> {
    let of_kind = of.defines.iter().filter(|version| kind(version) == Some(wanted));
    of_kind.max_by_key(|version| numbers(version)).cloned()
}

/// `GLIBC` of `GLIBC_2.34`; none where no number follows (`GLIBC_ABI_DT_RELR`).
fn kind(version: &str) -> Option<&str> {
    let (kind, number) = version.rsplit_once('_')?;
    number.starts_with(|c: char| c.is_ascii_digit()).then_some(kind)
}

/// The numbers of a version, to compare it by.
pub fn numbers(version: &str) -> Vec<u64> {
    let number = version.rsplit_once('_').map_or(version, |(_, number)| number);
    number.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}
