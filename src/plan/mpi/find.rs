//! Where the host's MPI is, and which the image has.
//!
//! ```text
//! host   1  --mpi=PATH, SKIFF_MPI, configuration   a prefix, an mpirun, or the library
//!        2  variables of the loaded module         MPI_HOME, I_MPI_ROOT, CRAY_MPICH_DIR ...
//!        3  mpirun on PATH                         links followed: its name says whose it is, its place where the library is
//!        4  LD_LIBRARY_PATH, the loader's cache
//!        When a launcher has started this process, or the program needs one kind of MPI, that kind is taken.
//! image  what the loader finds by each name of a libmpi, and directories where MPIs are installed by hand
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::library::{Family, Mpi, NAMES, identify};
use crate::elf::{Library, Place, check};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::image::Tree;
use crate::plan::Because;
use crate::plan::env::DEFAULT_PATH;
use crate::plan::libraries::{directories, host_place};

/// Variables that modules set to the prefix of an MPI.
const PREFIXES: &[&str] = &[
    "MPI_HOME",
    "MPI_ROOT",
    "MPI_DIR",
    "I_MPI_ROOT",
    "CRAY_MPICH_DIR",
    "MPICH_DIR",
    "MVAPICH_HOME",
    "OPENMPI_HOME",
    "OMPI_DIR",
    "EBROOTOPENMPI",
    "EBROOTMPICH",
    "EBROOTIMPI",
];
/// Directories of an image in which each directory may be a prefix.
const BY_HAND: &[&str] = &["/opt", "/usr/local"];
/// Directories of an image with libraries of an MPI that its loader does not know.
const KNOWN: &[&str] = &[
    "/usr/lib64/openmpi/lib",
    "/usr/lib64/mpich/lib",
    "/usr/lib64/mvapich2/lib",
    "/usr/local/lib",
    "/usr/local/lib64",
];

/// What the host's MPI is looked for by.
pub struct Wanted {
    /// Where it is, and who says so.
    pub path: Option<(PathBuf, Because)>,
    /// Whose launcher has started this process.
    pub launched_by: Option<Family>,
    /// The name that the program needs.
    pub needs: Option<String>,
}

/// What was found on the host.
pub struct OnHost {
    /// The one that is taken.
    pub mpi: Option<Mpi>,
    /// Where was looked, in words.
    pub looked: Vec<String>,
}

/// What was found in the image.
pub struct InImage {
    /// Each libmpi.
    pub mpis: Vec<Mpi>,
    /// The libmpi that the program needs, where the program is known.
    pub needs: Option<String>,
    /// Whether the program is there, and no script.
    pub seen: bool,
    /// The program, where it needs a libmpi.
    pub program: Option<(Rc<Library>, BTreeSet<String>)>,
    /// Directories that were searched besides the loader's.
    pub more: Vec<PathBuf>,
}

/// Finds the host's MPI.
pub fn host_mpi(host: &Host, place: &Place<'_>, wanted: &Wanted) -> Result<OnHost> {
    let mut looked = Vec::new();
    if let Some((path, because)) = &wanted.path {
        let origin = because.origin();
        let found = at_path(host, place, path, origin, wanted)?;
        return match found {
            Some(mpi) => Ok(OnHost { mpi: Some(mpi), looked }),
            None => Err(Error::host(format!("cannot find an MPI library at {path:?} ({origin})"))
                .hint("name the prefix of an MPI, its mpirun, or its libmpi.so.40 or libmpi.so.12")),
        };
    }
    let mut found: Vec<Mpi> = Vec::new();
    for name in PREFIXES {
        if let Some(prefix) = host.variable(name).map(Path::new).filter(|path| path.is_absolute()) {
            looked.push((*name).to_owned());
            found.extend(in_prefix(host, place, prefix, name)?);
        }
    }
    match mpirun(host) {
        Some(program) => {
            looked.push(format!("{} on PATH", program.display()));
            found.extend(of_program(host, place, &program)?);
        }
        None => looked.push("mpirun on PATH (none)".to_owned()),
    }
    looked.push("the loader's directories".to_owned());
    for (name, _) in NAMES {
        if let Some(library) = of_this_machine(host, place, name)? {
            found.extend(identify(place, library, "the host's loader")?);
        }
    }
    Ok(OnHost { mpi: choose(found, wanted), looked })
}

/// The host's MPI that `--mpi` finds by itself.
pub fn host_mpi_of(host: &Host) -> Result<Option<Mpi>> {
    let wanted = Wanted { path: None, launched_by: super::launcher::family(host), needs: None };
    Ok(host_mpi(host, &host_place(host)?, &wanted)?.mpi)
}

/// The first one of the kind that is wanted; or just the first.
fn choose(found: Vec<Mpi>, wanted: &Wanted) -> Option<Mpi> {
    let needed = wanted.needs.as_deref().and_then(family_of_name);
    let kind = wanted.launched_by.or(needed);
    let position = kind.and_then(|kind| found.iter().position(|mpi| mpi.family == kind)).unwrap_or(0);
    found.into_iter().nth(position)
}

/// The family that a soname usually stands for.
pub fn family_of_name(name: &str) -> Option<Family> {
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, family)| *family)
}

/// A library of this machine's processor: the first that is found of the host's own class.
fn of_this_machine(host: &Host, place: &Place<'_>, name: &str) -> Result<Option<Rc<Library>>> {
    let like = platform(host, place)?;
    match like {
        Some(platform) => place.find(name, platform, None),
        None => Ok(None),
    }
}

/// The platform of the host's C library.
fn platform(host: &Host, place: &Place<'_>) -> Result<Option<crate::elf::Platform>> {
    let machine = match host.machine.as_str() {
        "x86_64" => 62,
        "aarch64" => 183,
        "ppc64le" => 21,
        "riscv64" => 243,
        "s390x" => 22,
        _ => 0,
    };
    let known = machine != 0;
    let platform = crate::elf::Platform { wide: true, big_endian: host.machine == "s390x", machine };
    if known {
        return Ok(Some(platform));
    }
    // Another processor: that of the host's shell.
    Ok(place.library(Path::new("/bin/sh"))?.map(|shell| shell.elf.platform))
}

/// A path that somebody names: a library, a program, a prefix.
fn at_path(
    host: &Host,
    place: &Place<'_>,
    path: &Path,
    origin: &str,
    wanted: &Wanted,
) -> Result<Option<Mpi>> {
    let seen = host.look(path);
    let seen = seen.map_err(|error| {
        Error::host(format!("cannot find an MPI at {path:?} ({origin})"))
            .because(error)
            .hint("name the prefix of an MPI, its mpirun, or its libmpi.so.40 or libmpi.so.12")
    })?;
    if seen.directory {
        return Ok(choose(in_prefix(host, place, path, origin)?, wanted));
    }
    if let Some(library) = place.library(path)?
        && let Some(mpi) = identify(place, library, origin)?
    {
        return Ok(Some(mpi));
    }
    Ok(choose(of_program(host, place, path)?, wanted))
}

/// The libraries of a prefix.
fn in_prefix(host: &Host, place: &Place<'_>, prefix: &Path, origin: &str) -> Result<Vec<Mpi>> {
    let debian = format!("lib/{}-linux-gnu", host.machine);
    let below = ["lib64", "lib", debian.as_str(), "lib/release", "intel64/lib/release", "."];
    let mut found: Vec<Mpi> = Vec::new();
    for directory in below {
        for (name, _) in NAMES {
            let path = prefix.join(directory).join(name);
            if let Some(library) = place.library(&path)?
                && let Some(mpi) = identify(place, library, origin)?
                && !found.iter().any(|other| other.library.real == mpi.library.real)
            {
                found.push(mpi);
            }
        }
    }
    Ok(found)
}

/// The libraries of the MPI that an mpirun belongs to.
fn of_program(host: &Host, place: &Place<'_>, program: &Path) -> Result<Vec<Mpi>> {
    let origin = program.display().to_string();
    let Ok(real) = host.follow(program) else { return Ok(Vec::new()) };
    let names = link_names(host, program);
    let has = |words: &[&str]| names.iter().any(|name| words.iter().any(|word| name.contains(word)));
    let family = if has(&["openmpi", "orterun", "prterun", "prte"]) {
        Some(Family::OpenMpi)
    } else if has(&["mpich", "hydra"]) {
        Some(Family::Mpich)
    } else {
        None
    };
    let mut found = Vec::new();
    for bin in [program.parent(), real.parent()].into_iter().flatten() {
        if let Some(prefix) = bin.parent() {
            found.extend(in_prefix(host, place, prefix, &origin)?);
        }
    }
    let of_family = |mpi: &Mpi| family.is_none_or(|family| mpi.family == family);
    // First the program's own kind; others of the prefix are for a program that needs them.
    found.sort_by_key(|mpi| !of_family(mpi));
    Ok(found)
}

/// The names on the way from a link to a file.
fn link_names(host: &Host, path: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut here = path.to_owned();
    for _ in 0..40 {
        names.extend(here.file_name().map(|name| name.to_string_lossy().into_owned()));
        let Ok(target) = std::fs::read_link(host.real(&here)) else { break };
        here = here.parent().unwrap_or(Path::new("/")).join(target);
    }
    names
}

fn mpirun(host: &Host) -> Option<PathBuf> {
    let path = host.variable("PATH").map_or(Vec::new(), directories);
    let names = ["mpirun", "mpiexec"];
    let candidates = path.iter().flat_map(|directory| names.map(|name| directory.join(name)));
    candidates.into_iter().find(|program| host.look(program).is_ok_and(|seen| !seen.directory))
}

/// Finds each MPI of the image, and what of it the program needs.
pub fn image_mpis(place: &Place<'_>, image: &Tree, program: Option<&Path>, host: &Host) -> Result<InImage> {
    let mut more: Vec<PathBuf> = KNOWN.iter().map(PathBuf::from).collect();
    for top in BY_HAND {
        // What is no directory has nothing in it.
        for name in image.list(Path::new(top)).unwrap_or_default() {
            more.extend(["lib", "lib64"].map(|lib| Path::new(top).join(&name).join(lib)));
        }
    }
    let program = match program {
        Some(words) => read_program(place, words, host)?,
        None => None,
    };
    let mut needs = None;
    if let Some(program) = &program {
        // A host's program is searched for among the image's libraries, where it will run.
        for name in std::iter::once(program).flat_map(|library| library.elf.needed.clone()) {
            needs = needs.or(family_of_name(&name).map(|_| name));
        }
        if needs.is_none() {
            let closure = place.closure(std::slice::from_ref(program), &check::is_libc)?;
            needs = closure.into_iter().map(|(name, _)| name).find(|name| family_of_name(name).is_some());
        }
        more.extend(program.elf.rpath.iter().chain(&program.elf.runpath).map(PathBuf::from));
    }
    let platform = platform(host, place)?;
    let mut mpis: Vec<Mpi> = Vec::new();
    for (name, _) in NAMES {
        let Some(platform) = platform else { break };
        for library in place.all(name, platform, &more)? {
            if let Some(mpi) = identify(place, library, "the image")?
                && !mpis.iter().any(|other| other.library.real == mpi.library.real)
            {
                mpis.push(mpi);
            }
        }
    }
    let seen = program.is_some();
    let program = match program {
        Some(library) if needs.is_some() => {
            let wanted = super::library::is_interface;
            let undefined = symbols_of(place, &library, host, wanted)?;
            Some((library, undefined))
        }
        _ => None,
    };
    Ok(InImage { mpis, needs, seen, program, more })
}

/// The program as a file: of the image, or of the host where a bind shows it.
fn read_program(place: &Place<'_>, program: &Path, host: &Host) -> Result<Option<Rc<Library>>> {
    if program.components().count() == 1 && program.is_relative() && !program.starts_with(".") {
        for directory in DEFAULT_PATH.split(':') {
            if let Some(library) = place.library(&Path::new(directory).join(program))? {
                return Ok(Some(library));
            }
        }
        return Ok(None);
    }
    let path = match &host.cwd {
        Some(cwd) => cwd.join(program),
        None => program.to_owned(),
    };
    match host_place(host)?.library(&path)? {
        Some(library) => Ok(Some(library)),
        None => place.library(&path),
    }
}

fn symbols_of(
    place: &Place<'_>,
    library: &Library,
    host: &Host,
    wanted: fn(&str) -> bool,
) -> Result<BTreeSet<String>> {
    let here = host_place(host)?;
    let on_host = here.library(&library.path)?.is_some_and(|other| other.elf == library.elf);
    let symbols = if on_host { here.symbols(library, wanted)? } else { place.symbols(library, wanted)? };
    Ok(symbols.undefined)
}
