//! What the ranks of a program will run into, as far as files tell before anything starts: one sentence each, with what
//! mends it. What launcher and library make of each other is [`super::launcher`]'s.
//!
//! ```text
//! a fabric that the image's MPI cannot use      ranks on several nodes speak TCP: slow, and no error
//! little room in /dev/shm                       SIGBUS, or PMIx's OUT-OF-RESOURCE
//! Cray MPICH that is told of GPUs, without GTL  it ends in MPI_Init
//! ```

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::library::Mpi;
use crate::elf::{Library, Place};
use crate::error::Result;
use crate::host::Host;
use crate::plan::scheduler;

/// Gives the value that a variable will have in the container.
pub type Given<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// A fabric by its devices, and the library without which no MPI uses it; the fastest first.
struct Known {
    name: &'static str,
    directory: &'static str,
    begin: &'static str,
    library: &'static str,
}

const FABRICS: &[Known] = &[
    Known { name: "Slingshot", directory: "/dev", begin: "cxi", library: "libcxi.so.1" },
    Known { name: "Omni-Path", directory: "/dev", begin: "hfi1_", library: "libpsm2.so.2" },
    Known {
        name: "InfiniBand or RoCE",
        directory: "/dev/infiniband",
        begin: "uverbs",
        library: "libibverbs.so.1",
    },
];

/// The host's fabric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fabric {
    /// What it is, and its devices: `Slingshot (cxi0 cxi1)`.
    pub name: String,
    /// The library that the image would need and has not.
    pub lacks: Option<&'static str>,
}

/// The host's fastest fabric, and whether the image can use it by itself. `like` is a library of the image.
///
/// # Errors
/// A file of the image cannot be read.
pub fn fabric(host: &Host, of_image: &Place<'_>, like: &Library) -> Result<Option<Fabric>> {
    for known in FABRICS {
        let devices = host.names(Path::new(known.directory), known.begin);
        if devices.is_empty() {
            continue;
        }
        let has = of_image.find(known.library, like.elf.platform, None)?.is_some();
        let name = format!("{} ({})", known.name, devices.join(" "));
        return Ok(Some(Fabric { name, lacks: (!has).then_some(known.library) }));
    }
    Ok(None)
}

/// That ranks of several nodes will not use the fabric.
///
/// # Errors
/// A file of the image cannot be read.
pub fn unused_fabric(host: &Host, of_image: &Place<'_>, mpi: &Mpi) -> Result<Option<String>> {
    if !on_several_nodes(host) {
        return Ok(None);
    }
    let Some(Fabric { name, lacks: Some(library) }) = fabric(host, of_image, &mpi.library)? else {
        return Ok(None);
    };
    Ok(Some(format!(
        "ranks of different nodes would speak TCP: the host has {name}, and the image has no {library} to use it; --mpi \
         brings in the host's MPI with it, and --mpi=libfabric the host's network alone"
    )))
}

/// What Open MPI and MPICH take of /dev/shm for each rank, at least.
pub const SHARED_BYTES: u64 = 4 << 20;
const SHARED: &str = "/dev/shm";

/// That the ranks of this node have too little memory to share.
pub fn little_shared_memory(host: &Host) -> Option<String> {
    let here = on_this_node(host).filter(|ranks| *ranks > 1)?;
    too_little(host.directory(Path::new(SHARED)).ok()?.free, here)
}

fn too_little(free: u64, here: u64) -> Option<String> {
    (free < here.saturating_mul(SHARED_BYTES)).then(|| {
        format!(
            "{SHARED} has {} MiB left for the {here} ranks of this node, which may end by SIGBUS or PMIx's \
             OUT-OF-RESOURCE; remove what is left in it, or have it made larger: mount -o remount,size=8G {SHARED}",
            free >> 20
        )
    })
}

/// That Cray MPICH is told of GPUs and lacks the part for them. `needed` is what the program was linked with.
pub fn without_gpu_transport(host: &Host, mpi: &Mpi, needed: &[String], given: Given<'_>) -> Option<String> {
    let told = || given("MPICH_GPU_SUPPORT_ENABLED").is_some_and(|value| value == "1");
    let preloads = || given("LD_PRELOAD").unwrap_or_default().to_string_lossy().contains("libmpi_gtl");
    let linked = needed.iter().any(|name| name.starts_with("libmpi_gtl"));
    // The flags and files that a variable may come from are read for this one MPI alone.
    if mpi.product != "Cray MPICH" || linked || !told() || preloads() {
        return None;
    }
    let found = transports(host, &mpi.library.real);
    let first = found.first().map_or("DIR/libmpi_gtl_cuda.so".to_owned(), |path| path.display().to_string());
    let name = first.rsplit('/').next().unwrap_or(&first).to_owned();
    Some(format!(
        "Cray MPICH would end in MPI_Init: MPICH_GPU_SUPPORT_ENABLED is 1, and the program is not linked with its part for \
         GPUs; add --containlibs {first} --env LD_PRELOAD={name}, or --env MPICH_GPU_SUPPORT_ENABLED=0"
    ))
}

/// Cray's libraries that carry messages to and from GPUs: beside its MPIs.
fn transports(host: &Host, library: &Path) -> Vec<PathBuf> {
    let nvidia = host.look(Path::new("/dev/nvidiactl")).is_ok();
    let names = if nvidia || host.look(Path::new("/dev/kfd")).is_err() {
        ["libmpi_gtl_cuda.so", "libmpi_gtl_hsa.so"]
    } else {
        ["libmpi_gtl_hsa.so", "libmpi_gtl_cuda.so"]
    };
    let directories: Vec<PathBuf> = library.ancestors().skip(1).map(|above| above.join("gtl/lib")).collect();
    let paths = names.iter().flat_map(|name| directories.iter().map(move |directory| directory.join(name)));
    paths.filter(|path| host.look(path).is_ok()).collect()
}

fn number(host: &Host, names: &[&str]) -> Option<u64> {
    names.iter().find_map(|name| host.variable(name)?.to_str()?.trim().parse().ok())
}

/// How many ranks share this node, where the launcher says so.
fn on_this_node(host: &Host) -> Option<u64> {
    let own = ["OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_LOCAL_SIZE"];
    // `2(x3),1`: the most that any node has.
    let of_step = || {
        let tasks = host.variable("SLURM_STEP_TASKS_PER_NODE")?.to_str()?;
        tasks.split(',').filter_map(|one| one.split('(').next()?.trim().parse::<u64>().ok()).max()
    };
    number(host, &own).or_else(of_step)
}

fn on_several_nodes(host: &Host) -> bool {
    let ranks = scheduler::read(host).and_then(|scheduler| scheduler.ranks);
    let more = ranks.zip(on_this_node(host)).is_some_and(|(all, here)| all > here);
    more || number(host, &["SLURM_STEP_NUM_NODES", "FLUX_JOB_NNODES"]).is_some_and(|nodes| nodes > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_must_do_for_all_ranks_of_the_node() {
        assert_eq!(too_little(256 << 20, 64), None);
        let told = too_little(60 << 20, 64).unwrap();
        assert!(told.starts_with("/dev/shm has 60 MiB left for the 64 ranks of this node"), "{told}");
    }

    #[test]
    fn how_the_ranks_lie_is_told_by_the_launcher() {
        let host = |pairs: &[(&str, &str)]| Host::made_up(Path::new("/nowhere")).with_environment(pairs);
        let step =
            [("SLURM_STEP_NUM_TASKS", "7"), ("SLURM_JOB_ID", "1"), ("SLURM_STEP_TASKS_PER_NODE", "2(x3),1")];
        assert_eq!((on_this_node(&host(&step)), on_several_nodes(&host(&step))), (Some(2), true));
        let inner = [("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_LOCAL_SIZE", "4")];
        assert_eq!((on_this_node(&host(&inner)), on_several_nodes(&host(&inner))), (Some(4), false));
        assert_eq!((on_this_node(&host(&[])), on_several_nodes(&host(&[]))), (None, false));
    }
}
