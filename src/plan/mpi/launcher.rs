//! What the variables of a launcher tell, and what is sure to go wrong with it.
//!
//! ```text
//! mpirun of Open MPI 4 (ORTE)    PMIX_NAMESPACE, PMIX_RANK, OMPI_COMM_WORLD_SIZE, OMPI_MCA_orte_*     PMIx
//! mpirun of Open MPI 5 (PRRTE)   the same, PRTE_LAUNCHED                                             PMIx
//! mpirun of MPICH (Hydra)        PMI_FD, PMI_RANK, PMI_SIZE                                          PMI
//! srun --mpi=pmi2                PMI_FD or PMI_JOBID, PMI_RANK, PMI_SIZE                             PMI
//! srun --mpi=pmix                PMIX_NAMESPACE, PMIX_RANK, SLURM_*                                  PMIx
//! ```
//!
//! A library that does not know what its launcher speaks starts as a job of one rank: N programs all of which are rank 0,
//! each computing everything. That is the error worth a sentence before it costs a night.

use std::path::Path;

use super::expect::Given;
use super::library::{Family, Mpi, Speaks, major};
use super::{bring, expect, find};
use crate::error::Result;
use crate::host::Host;
use crate::image::Tree;
use crate::plan::Because;
use crate::plan::inject::{Injection, Place as Where};
use crate::plan::libraries::image_place;
use crate::plan::scheduler;

/// Variables that name directories of the host's MPI. An image's own looks for its plugins there, and finds none, or
/// those of another version.
const PATHS_OF_THE_HOST: &[&str] = &[
    "OPAL_PREFIX",
    "PMIX_INSTALL_PREFIX",
    "PMIX_PREFIX",
    "PRTE_PREFIX",
    "OMPI_MCA_mca_base_component_path",
    "PMIX_MCA_mca_base_component_path",
    "PRTE_MCA_mca_base_component_path",
];

/// Whose launcher has started this process, where it says so.
pub fn family(host: &Host) -> Option<Family> {
    let set = |name: &str| host.variable(name).is_some_and(|value| !value.is_empty());
    if set("OMPI_COMM_WORLD_SIZE") {
        Some(Family::OpenMpi)
    } else if set("HYDI_CONTROL_FD") || set("PMI_FD") && set("MPI_LOCALNRANKS") {
        Some(Family::Mpich)
    } else {
        None
    }
}

/// How many ranks the launcher has started.
fn ranks(host: &Host) -> u64 {
    scheduler::read(host).and_then(|scheduler| scheduler.ranks).unwrap_or(1)
}

/// Whether this is the rank that tells what concerns all.
fn speaks_for_all(host: &Host) -> bool {
    scheduler::read(host).is_none_or(|scheduler| scheduler.speaks_for_all())
}

/// What a container without `--mpi` is told when a launcher has started it: variables that name the host's MPI stay
/// out, and what will go wrong is said. Nothing is read when no launcher did.
///
/// # Errors
/// A file of the image cannot be read.
pub fn without_mpi(program: Option<&Path>, host: &Host, image: &Tree, given: Given<'_>) -> Result<Injection> {
    let mut injection = Injection::default();
    for name in PATHS_OF_THE_HOST {
        if host.variable(name).is_some() {
            injection.unset(name);
            let because = Because::Default("the host's MPI stays outside");
            injection.leave_out(
                format!("variable {name}"),
                "it names a directory of the host's MPI",
                &because,
            );
        }
    }
    let Some(scheduler) = scheduler::read(host) else { return Ok(injection) };
    if scheduler.has_several_ranks() {
        // With a /dev of the container's own the image's MPI would find no fabric, and say nothing of it.
        let because = Because::Default("the fabric's devices, for ranks");
        bring::fabric_devices(host).into_iter().for_each(|path| injection.add(path, Where::Device, &because));
    }
    if scheduler.ranks.unwrap_or(1) < 2 || !scheduler.speaks_for_all() {
        return Ok(injection);
    }
    let begins = |name: &str| given(name).is_some_and(|mode| mode.as_encoded_bytes().starts_with(b"munge"));
    let munge = begins("PMIX_SECURITY_MODE") && given("PMIX_MCA_psec").is_none();
    let place = image_place(image, &host.machine)?;
    let found = find::image_mpis(&place, image, program, host)?;
    let used: Vec<Mpi> = match &found.needs {
        // A script, or a program that starts another: any of the image's.
        None => found.mpis,
        Some(name) => {
            let family = find::family_of_name(name);
            found.mpis.into_iter().filter(|mpi| Some(mpi.family) == family).collect()
        }
    };
    injection.warnings = warnings(host, &used, None);
    if found.needs.is_some() {
        injection.warnings.extend(without_pmi(host, &used.iter().collect::<Vec<_>>()));
    }
    if let Some(mpi) = used.first() {
        injection.warnings.extend(expect::unused_fabric(host, &place, mpi)?);
        injection.warnings.extend(expect::little_shared_memory(host));
    }
    if let (true, Some(mpi)) = (munge, used.first())
        && mpi.family == Family::OpenMpi
        && place.find("libmunge.so.2", mpi.library.elf.platform, None)?.is_none()
    {
        let text = "the launcher's PMIx asks for munge, and the image has no libmunge.so.2: ranks would not reach it; install \
                    libmunge2 in the image, or try --env PMIX_MCA_psec=native";
        injection.warnings.push(text.to_owned());
    }
    Ok(injection)
}

/// What the launcher offers its ranks to find each other by.
fn offered(host: &Host) -> Speaks {
    let set = |name: &&str| host.variable(name).is_some_and(|value| !value.is_empty());
    let pmi = ["PMI_FD", "PMI_RANK", "PMI_JOBID", "PMI_PORT", "PMI_CONTROL_PORT"];
    Speaks { pmi: pmi.iter().any(set), pmix: set(&"PMIX_NAMESPACE") }
}

/// That srun has started a program of MPI's and offers it nothing.
fn without_pmi(host: &Host, used: &[&Mpi]) -> Option<String> {
    let mute = offered(host) == Speaks::default() && family(host).is_none();
    let of_step = host.variable("SLURM_STEP_NUM_TASKS").is_some();
    let (first, ranks) = (used.first()?, ranks(host));
    let way = if first.speaks.pmix { "pmix" } else { "pmi2" };
    (mute && of_step && ranks > 1 && speaks_for_all(host)).then(|| {
        format!(
            "each of the {ranks} ranks would stop, or be rank 0 of 1: srun offers no PMI, and {first} needs one; start \
             with srun --mpi={way} ('srun --mpi=list' names what there is)"
        )
    })
}

/// What is told where the host's MPI is brought in for a program that needs these libraries.
pub fn with_mpi(host: &Host, bound: &Mpi, needed: &[String], given: Given<'_>) -> Vec<String> {
    let mut told = warnings(host, &[], Some(bound));
    if ranks(host) > 1 && speaks_for_all(host) {
        told.extend(without_pmi(host, &[bound]));
        told.extend(expect::little_shared_memory(host));
        told.extend(expect::without_gpu_transport(host, bound, needed, given));
    }
    told
}

/// What is sure to go wrong. `image` are the MPIs that the program may use; `bound` takes their place.
pub fn warnings(host: &Host, image: &[Mpi], bound: Option<&Mpi>) -> Vec<String> {
    let mut out = Vec::new();
    let ranks = ranks(host);
    let used: Vec<&Mpi> = bound.map_or_else(|| image.iter().collect(), |mpi| vec![mpi]);
    let (Some(first), true) = (used.first(), ranks > 1 && speaks_for_all(host)) else { return out };
    let set = |name: &str| host.variable(name).is_some_and(|value| !value.is_empty());
    let offered = offered(host);
    let alone = format!("each of the {ranks} ranks would be rank 0 of 1");
    let all = |family: Family| used.iter().all(|mpi| mpi.family == family);
    if offered.pmi && !offered.pmix && used.iter().all(|mpi| !mpi.speaks.pmi) {
        out.push(format!(
            "{alone}: the launcher offers PMI, and {first} wants PMIx; start with srun --mpi=pmix or the mpirun of Open MPI"
        ));
    } else if offered.pmix && !offered.pmi && used.iter().all(|mpi| !mpi.speaks.pmix) {
        out.push(format!(
            "{alone}: the launcher offers PMIx, and {first} wants PMI; start with srun --mpi=pmi2 or the mpirun of MPICH"
        ));
    } else if all(Family::OpenMpi) && set("PRTE_LAUNCHED") && major(first).is_some_and(|major| major < 5) {
        out.push(format!(
            "{alone}: {first} does not know the launcher of Open MPI 5; start with srun --mpi=pmix, with the mpirun of \
             Open MPI 4, or inside: skiff exec IMAGE mpirun -n {ranks} ..."
        ));
    }
    out
}
