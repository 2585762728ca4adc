//! Whether the host's MPI can stand in for the image's.
//!
//! 1. Both are there, and of one family: programs see the same types and constants.
//! 2. The host's has every function that the image's has, or at least all that the program uses, where it is known. So a
//!    newer host's fits, and an older one where nothing newer is used.
//! 3. All that it needs is there, in the versions that it needs ([`super::bring`]).

use super::find::{InImage, OnHost};
use super::library::{Family, Mpi, is_interface, major};
use crate::elf::Place;
use crate::error::Result;

/// What was decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why not, as the end of a sentence; none when it fits.
    pub refusal: Option<String>,
    /// What to do then.
    pub remedy: Option<String>,
    /// What else is to be said.
    pub notes: Vec<String>,
}

/// A verdict that says no.
pub fn refused(why: impl Into<String>, remedy: impl Into<String>) -> Verdict {
    Verdict { refusal: Some(why.into()), remedy: Some(remedy.into()), notes: Vec::new() }
}

const NO_IMAGE_MPI: &str =
    "a program without MPI needs no --mpi; install Open MPI or MPICH in the image to build programs there";
const NO_HOST_MPI: &str = "load the module of the host's MPI, or name its prefix: --mpi=PATH; without --mpi the image's MPI is used";

/// Decides by families and functions.
pub fn decide(host: &OnHost, image: &InImage, places: (&Place<'_>, &Place<'_>)) -> Result<Verdict> {
    let (of_host, of_image) = places;
    let Some(mpi) = &host.mpi else {
        let looked = host.looked.join(", ");
        return Ok(refused(format!("the host has none (looked at: {looked})"), NO_HOST_MPI));
    };
    if image.mpis.is_empty() && image.needs.is_none() {
        return Ok(refused("the image has none that it could replace", NO_IMAGE_MPI));
    }
    if let Some(name) = &image.needs
        && let Some(family) = needed_family(name, image)
        && family != mpi.family
    {
        return Ok(refused(
            format!("the program needs {name}, the interface of {family}, and the host's is {mpi}"),
            another(family),
        ));
    }
    let fitting: Vec<&Mpi> = image.mpis.iter().filter(|other| other.family == mpi.family).collect();
    let Some(first) = fitting.first() else {
        let theirs: Vec<String> = image.mpis.iter().map(Mpi::to_string).collect();
        let theirs = theirs.join(" and ");
        let family = image.mpis.first().map_or(Family::OpenMpi, |mpi| mpi.family);
        return Ok(refused(
            format!("the image's is {theirs} and the host's is {mpi}: programs of one cannot use the other"),
            another(family),
        ));
    };
    let mut verdict = Verdict::default();
    let has = of_host.symbols(&mpi.library, is_interface)?.defined;
    for other in &fitting {
        let lacks: Vec<String> = of_image
            .symbols(&other.library, is_c_interface)?
            .defined
            .into_iter()
            .filter(|name| !has.contains(name))
            .collect();
        if lacks.is_empty() {
            continue;
        }
        let some = shown(&lacks);
        let used = match &image.program {
            Some((_, uses)) => uses
                .iter()
                .filter(|name| !has.contains(*name) && !name.starts_with("mpi_"))
                .cloned()
                .collect(),
            None => lacks.clone(),
        };
        if used.is_empty() {
            verdict.notes.push(format!(
                "the host's {mpi} lacks functions of the image's {other} ({some}); the program uses none of them"
            ));
            continue;
        }
        let why = match &image.program {
            Some(_) => {
                format!("the program uses functions that the host's {mpi} does not have: {}", shown(&used))
            }
            None => format!("the host's {mpi} lacks functions of the image's {other}: {some}"),
        };
        return Ok(refused(why, older(mpi, other, image.program.is_some())));
    }
    if major(mpi) != major(first) && mpi.family == Family::OpenMpi {
        verdict
            .notes
            .push(format!("{mpi} has the interface of {first}; mpirun of the image does not fit it"));
    }
    Ok(verdict)
}

/// Functions of the C interface. The profiling twins, extensions and predefined objects, some of which are for the
/// library's own use, are needed by who uses them.
fn is_c_interface(name: &str) -> bool {
    name.starts_with("MPI_")
}

/// The family of the library that the image has by a name.
fn needed_family(name: &str, image: &InImage) -> Option<Family> {
    let by_name = |mpi: &&Mpi| {
        mpi.library.name() == name || mpi.library.path.file_name().is_some_and(|file| file == name)
    };
    image.mpis.iter().find(by_name).map(|mpi| mpi.family).or_else(|| super::find::family_of_name(name))
}

fn shown(names: &[String]) -> String {
    let first: Vec<&str> = names.iter().take(3).map(String::as_str).collect();
    match names.len() {
        0..=3 => first.join(", "),
        more => format!("{} and {} more", first.join(", "), more - 3),
    }
}

fn another(family: Family) -> String {
    format!(
        "name an MPI of the host with the interface of {family} (--mpi=PATH); or leave --mpi out: ranks then use the \
         image's MPI, started by srun or by the mpirun inside (docs/mpi.md)"
    )
}

fn older(host: &Mpi, image: &Mpi, known: bool) -> String {
    let mut text = String::new();
    if !known {
        text.push_str("name the program itself, so that what it uses can be seen; or ");
    }
    text.push_str(&format!(
        "build the program against {host} or older; without --mpi the image's {image} is used"
    ));
    text
}
