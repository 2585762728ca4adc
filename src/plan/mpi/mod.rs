//! `--mpi`: the host's MPI in the place of the image's, where their binary interfaces agree.
//!
//! ```text
//! library.rs   what a libmpi is: implementation, interface, version
//! find.rs      the host's MPI (--mpi=PATH, configuration, module, mpirun, loader), the image's, the program's
//! decide.rs    whether the host's can stand in for the image's
//! bring.rs     the host's library, all that it needs, its plugins and data, the fabric's devices
//! fabric.rs    --mpi=libfabric: the host's libfabric or its providers alone, the image keeps its MPI
//! launcher.rs  what the launcher's variables tell, and what is sure to go wrong
//! ```
//!
//! Three models (docs/mpi.md): *hybrid*, the host's mpirun or srun starts ranks whose MPI is the image's, needs nothing of
//! this; *bind*, the same with `--mpi`; *inside*, mpirun runs in one container.
//!
//! Everything is decided from files; nothing of host or image is run. The C library is never brought in: all of a
//! process's C library must be of one build with its loader, so an image's older one would have to be replaced whole.

pub mod bring;
pub mod decide;
pub mod fabric;
pub mod find;
pub mod launcher;
pub mod library;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use self::decide::Verdict;
use self::find::Wanted;
use self::library::Mpi;
use super::asked::host_path;
use super::inject::Injection;
use super::libraries::{host_place, image_place};
use super::{Action, Because, Request};
use crate::cli::run::ContainerFlags;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::{Host, is_on};
use crate::image::Tree;

/// The value of `--mpi` that asks for the host's libfabric alone.
const LIBFABRIC: &str = "libfabric";

/// What `--mpi` or its variable asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// The host's MPI, found by itself.
    Any,
    /// The one at this path.
    At(PathBuf),
    /// The host's libfabric.
    Libfabric,
}

/// All that was found and decided.
pub struct Report {
    /// The host's MPI.
    pub host: Option<Mpi>,
    /// The image's.
    pub image: Vec<Mpi>,
    /// The interface that the program needs, where the program is known.
    pub program: Option<String>,
    /// Whether the host's can stand in for the image's.
    pub verdict: Verdict,
    /// What is brought in then.
    pub injection: Injection,
}

/// Who asks, and for what.
pub fn asked(flags: &ContainerFlags, host: &Host) -> Option<(Asked, Because)> {
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
    let asked = match value.as_os_str() {
        value if value.is_empty() => Asked::Any,
        value if value == OsStr::new(LIBFABRIC) => Asked::Libfabric,
        value => Asked::At(value.into()),
    };
    Some((asked, because))
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
    let Some((asked, because)) = asked(request.flags, host) else {
        return launcher::without_mpi(program, host, image);
    };
    let report = examine(&(asked, because), program, host, config, image)?;
    if let Some(why) = report.verdict.refusal {
        let tried = format!("cannot use the host's MPI in the image {:?}", request.image);
        let error = Error::host(format!("{tried}: {why}"));
        return Err(match report.verdict.remedy {
            Some(remedy) => error.hint(remedy),
            None => error,
        });
    }
    let mut injection = report.injection;
    injection.warnings.extend(launcher::warnings(host, &report.image, report.host.as_ref()));
    Ok(injection)
}

/// Finds and decides, and says so in words.
///
/// # Errors
/// A file cannot be read; a path that is asked for has no MPI.
pub fn examine(
    asked: &(Asked, Because),
    program: Option<&Path>,
    host: &Host,
    config: &Config,
    image: &Tree,
) -> Result<Report> {
    let (asked, because) = asked;
    let of_host = host_place(host)?;
    let of_image = image_place(image, &host.machine)?;
    let found = find::image_mpis(&of_image, image, program, host)?;
    if *asked == Asked::Libfabric {
        let (verdict, injection) = fabric::bring_libfabric(host, &of_host, &of_image, because)?;
        return Ok(Report { host: None, image: found.mpis, program: found.needs, verdict, injection });
    }
    let wanted = Wanted {
        path: match (asked, &config.mpi) {
            (Asked::At(path), _) => Some((host_path(path, host, because)?, because.clone())),
            (_, Some(path)) => Some((path.clone(), Because::Config)),
            _ => None,
        },
        launched_by: launcher::family(host),
        needs: found.needs.clone(),
    };
    let of_the_host = find::host_mpi(host, &of_host, &wanted)?;
    let verdict = decide::decide(&of_the_host, &found, (&of_host, &of_image))?;
    let (verdict, injection) = match (&of_the_host.mpi, verdict.refusal.is_none()) {
        (Some(mpi), true) => bring::bring(mpi, &found, (host, &of_host, &of_image), because, verdict)?,
        _ => (verdict, Injection::default()),
    };
    Ok(Report { host: of_the_host.mpi, image: found.mpis, program: found.needs, verdict, injection })
}
