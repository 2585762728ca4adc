//! `--mpi`: the host's MPI in the place of the image's, where their binary interfaces agree.
//!
//! ```text
//! library.rs   what a libmpi is: implementation, interface, version
//! find.rs      the host's MPI (--mpi=PATH, configuration, module, mpirun, loader), the image's, the program's
//! decide.rs    whether the host's can stand in for the image's
//! bring.rs     the host's library, all that it needs, its plugins and data, the fabric's devices
//! fabric.rs    --mpi=libfabric: the host's libfabric or its providers alone, the image keeps its MPI
//! glibc.rs     --mpi-glibc: the host's C library with it, where the image's is older
//! launcher.rs  what the launcher's variables tell, and what is sure to go wrong
//! expect.rs    what else will go wrong: fabric, shared memory, messages to GPUs
//! ```
//!
//! Three models (docs/mpi.md): *hybrid*, the host's mpirun or srun starts ranks whose MPI is the image's, needs nothing of
//! this; *bind*, the same with `--mpi`; *inside*, mpirun runs in one container.
//!
//! Everything is decided from files; nothing of host or image is run. The C library is not brought in unasked: all of a
//! process's C library must be of one build with its loader, so an image's older one is replaced whole, or stays.

pub mod bring;
pub mod decide;
pub mod expect;
pub mod fabric;
pub mod find;
pub mod glibc;
pub mod launcher;
pub mod library;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use self::bring::Taken;
use self::decide::Verdict;
use self::find::{InImage, Wanted};
use self::library::Mpi;
use super::asked::host_path;
use super::inject::Injection;
use super::libraries::{host_place, image_place};
use super::{Action, Because, Request, env};
use crate::cli::run::ContainerFlags;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::{Host, is_on};
use crate::image::Tree;

/// What asks for the host's C library with it.
const GLIBC: &str = "--mpi-glibc";

/// The value of `--mpi` that asks for the host's libfabric alone.
const LIBFABRIC: &str = "libfabric";

/// What `--mpi` or its variable asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The host's MPI, found by itself.
    Any,
    /// The one at this path.
    At(PathBuf),
    /// The host's libfabric.
    Libfabric,
}

/// What is asked for, and who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Which MPI.
    pub what: What,
    /// Who asks.
    pub because: Because,
    /// Whether the host's C library may come along.
    pub glibc: bool,
}

/// All that was found and decided.
pub struct Report {
    /// The host's MPI.
    pub host: Option<Mpi>,
    /// The image's.
    pub image: Vec<Mpi>,
    /// The interface that the program needs, where the program is known.
    pub program: Option<String>,
    /// Whether the program is there, and no script.
    pub program_seen: bool,
    /// What the program was linked with, where it needs an MPI.
    pub linked: Vec<String>,
    /// The host's fabric, and whether the image can use it by itself.
    pub fabric: Option<expect::Fabric>,
    /// Whether the host's can stand in for the image's.
    pub verdict: Verdict,
    /// What is brought in then.
    pub injection: Injection,
}

/// Who asks, and for what.
pub fn asked(flags: &ContainerFlags, host: &Host) -> Option<Asked> {
    let (value, because) = match &flags.mpi {
        Some(value) if value.is_empty() => (value.clone(), Because::Flag("--mpi".to_owned())),
        Some(value) => (value.clone(), Because::Flag(format!("--mpi={}", value.to_string_lossy()))),
        None => {
            let (variable, value) = host.setting("MPI")?;
            let switch = !value.as_encoded_bytes().contains(&b'/') && value != LIBFABRIC;
            if switch && !is_on(value) {
                return None;
            }
            (if switch { OsString::new() } else { value.to_owned() }, Because::Variable(variable))
        }
    };
    let what = match value.as_os_str() {
        value if value.is_empty() => What::Any,
        value if value == OsStr::new(LIBFABRIC) => What::Libfabric,
        value => What::At(value.into()),
    };
    Some(Asked { what, because, glibc: asks_for_glibc(flags, host) })
}

/// Whether the host's C library may come along.
pub fn asks_for_glibc(flags: &ContainerFlags, host: &Host) -> bool {
    super::asked::switch(host, flags.mpi_glibc, GLIBC, &["MPI_GLIBC"]).is_some()
}

/// Decides what of the host's MPI comes into a container.
///
/// # Errors
/// It is asked for and cannot be.
pub fn plan_mpi(request: &Request<'_>, host: &Host, config: &Config, image: &Tree) -> Result<Injection> {
    let program = match request.action {
        Action::Exec => request.words.first().map(Path::new),
        _ => None,
    };
    let given = |name: &str| env::given(request, host, name);
    let Some(asked) = asked(request.flags, host) else {
        let mut injection = launcher::without_mpi(program, host, image, &given)?;
        if asks_for_glibc(request.flags, host) {
            injection.warnings.push(format!("{GLIBC} has no effect without --mpi"));
        }
        return Ok(injection);
    };
    let report = examine(&asked, program, host, config, image)?;
    if let Some(why) = report.verdict.refusal {
        let tried = format!("cannot use the host's MPI in the image {:?}", request.image);
        let error = Error::host(format!("{tried}: {why}"));
        return Err(match report.verdict.remedy {
            Some(remedy) => error.hint(remedy),
            None => error,
        });
    }
    let mut injection = report.injection;
    injection.warnings.extend(match &report.host {
        Some(bound) => launcher::with_mpi(host, bound, &report.linked, &given),
        None => launcher::warnings(host, &report.image, None),
    });
    Ok(injection)
}

/// Finds and decides, and says so in words.
///
/// # Errors
/// A file cannot be read; a path that is asked for has no MPI.
pub fn examine(
    asked: &Asked,
    program: Option<&Path>,
    host: &Host,
    config: &Config,
    image: &Tree,
) -> Result<Report> {
    let Asked { what, because, glibc } = asked;
    let of_host = host_place(host)?;
    let of_image = image_place(image, &host.machine)?;
    let found = find::image_mpis(&of_image, image, program, host)?;
    let linked = found.program.as_ref().map_or(Vec::new(), |(program, _)| program.elf.needed.clone());
    let fabric = match found.mpis.first() {
        Some(mpi) => expect::fabric(host, &of_image, &mpi.library)?,
        None => None,
    };
    let report = |mpi, found: InImage, (verdict, injection)| Report {
        host: mpi,
        image: found.mpis,
        program: found.needs,
        program_seen: found.seen,
        linked,
        fabric,
        verdict,
        injection,
    };
    let places = (host, &of_host, &of_image);
    if *what == What::Libfabric {
        let brought = fabric::bring_libfabric(places, because, *glibc)?;
        return Ok(report(None, found, brought));
    }
    let wanted = Wanted {
        path: match (what, &config.mpi) {
            (What::At(path), _) => Some((host_path(path, host, because)?, because.clone())),
            (_, Some(path)) => Some((path.clone(), Because::Config)),
            _ => None,
        },
        launched_by: launcher::family(host),
        needs: found.needs.clone(),
    };
    let of_the_host = find::host_mpi(host, &of_host, &wanted)?;
    let verdict = decide::decide(&of_the_host, &found, (&of_host, &of_image))?;
    let brought = match (&of_the_host.mpi, verdict.refusal.is_none()) {
        (Some(mpi), true) => {
            let taken = Taken::new(places, because, &found.more).with_glibc(*glibc);
            bring::bring(mpi, taken, verdict)?
        }
        _ => (verdict, Injection::default()),
    };
    Ok(report(of_the_host.mpi, found, brought))
}
