//! What a batch system or an MPI launcher needs of a container: which of its variables pass, which of its directories
//! are shown, and what the ranks of one step share. Tables with reasons; [`super::env`] and [`super::mounts`] ask them.
//!
//! ```text
//! a variable of seen_by is set  ─▶  the launcher is seen  ─▶  its variables pass, even with --cleanenv
//!                                                         ─▶  its directories are bound, even with --contain
//! several ranks                 ─▶  /dev/shm is the host's, even with --contain
//! ```
//!
//! A program that has lost these does not fail: it runs as so many single ones, each of them rank 0.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::asked::Asked;
use super::mounts::Chosen;
use super::target::{View, tidy};
use super::{Because, HostPath, MountKind, TargetKind};
use crate::error::Result;
use crate::host::Host;

/// Something that starts programs, often many at once.
struct Launcher {
    name: &'static str,
    /// It is seen when one of these is set.
    seen_by: &'static [&'static str],
    /// How the names of its variables begin.
    passes: &'static [&'static str],
    /// Where it says which rank a process is, and of how many.
    rank: &'static str,
    ranks: &'static str,
}

const NONE: &str = "";

#[rustfmt::skip]
const LAUNCHERS: &[Launcher] = &[
    Launcher { name: "Slurm", seen_by: &["SLURM_JOB_ID", "SLURM_STEP_ID"], passes: &["SLURM_", "SLURMD_"],
               rank: NONE, ranks: "SLURM_STEP_NUM_TASKS" },
    Launcher { name: "Flux", seen_by: &["FLUX_JOB_ID"], passes: &["FLUX_"],
               rank: "FLUX_TASK_RANK", ranks: "FLUX_JOB_SIZE" },
    Launcher { name: "PALS", seen_by: &["PALS_RANKID", "PALS_APID"], passes: &["PALS_"],
               rank: "PALS_RANKID", ranks: NONE },
    Launcher { name: "PBS", seen_by: &["PBS_JOBID"], passes: &["PBS_"], rank: NONE, ranks: NONE },
    Launcher { name: "LSF", seen_by: &["LSB_JOBID"], passes: &["LSB_", "JSM_"],
               rank: "JSM_NAMESPACE_RANK", ranks: "JSM_NAMESPACE_SIZE" },
    Launcher { name: "Open MPI's mpirun", seen_by: &["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"],
               passes: &["OMPI_", "ORTE_", "PRTE_"],
               rank: "OMPI_COMM_WORLD_RANK", ranks: "OMPI_COMM_WORLD_SIZE" },
    Launcher { name: "MVAPICH's mpirun", seen_by: &["MV2_COMM_WORLD_RANK"], passes: &["MV2_", "MPISPAWN_"],
               rank: "MV2_COMM_WORLD_RANK", ranks: "MV2_COMM_WORLD_SIZE" },
    Launcher { name: "Hydra", seen_by: &["MPI_LOCALRANKID", "HYDI_CONTROL_FD"],
               passes: &["MPI_LOCAL", "HYDI_", "HYDRA_", "I_MPI_", "MPICH_", "MPIR_"], rank: NONE, ranks: NONE },
    Launcher { name: "PMIx", seen_by: &["PMIX_RANK"], passes: &["PMIX_"], rank: "PMIX_RANK", ranks: NONE },
    Launcher { name: "PMI", seen_by: &["PMI_RANK", "PMI_FD", "PMI_PORT"], passes: &["PMI_", "PMI2_"],
               rank: "PMI_RANK", ranks: "PMI_SIZE" },
];

/// Which GPUs of the node are the step's: they pass along with what a launcher says.
const GPUS: &[&str] = &[
    "CUDA_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
];

/// A directory that a launcher's programs reach for, shown where the host has it.
struct Place {
    of: &'static str,
    path: Where,
    reason: &'static str,
}

enum Where {
    Fixed(&'static str),
    /// What this variable says.
    Variable(&'static str),
}

const PLACES: &[Place] = &[
    Place { of: "PMIx", path: Where::Variable("PMIX_SERVER_TMPDIR"), reason: "the step's PMIx server" },
    Place { of: "Slurm", path: Where::Fixed("/run/munge"), reason: "munge, by which Slurm knows who calls" },
    Place { of: "Slurm", path: Where::Fixed("/run/slurm"), reason: "Slurm's configuration" },
    Place { of: "Slurm", path: Where::Fixed("/var/spool/slurmd"), reason: "slurmd's files of the step" },
    Place { of: "Slurm", path: Where::Fixed("/var/spool/slurm"), reason: "slurmd's files of the step" },
    Place { of: "PALS", path: Where::Fixed("/run/palsd"), reason: "the files of PALS" },
    Place { of: "Flux", path: Where::Fixed("/run/flux"), reason: "Flux's sockets" },
];

/// Why the host's shared memory is shown in a contained program.
const SHARED_MEMORY: &str = "memory that the ranks share";

/// Where libraries lie in an image.
const LIBRARIES: &[&str] = &["/usr/lib64", "/usr/lib", "/usr/lib/{}-linux-gnu", "/usr/local/lib"];

/// The launchers that were seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Scheduler {
    /// Each by name, with the variable that tells.
    pub seen: Vec<Seen>,
    /// Which rank this is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<u64>,
    /// How many there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranks: Option<u64>,
    /// The variables that `--cleanenv` leaves for them, by name or `NAME*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keeps: Vec<String>,
    /// What may go wrong, and what to do about it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

/// A launcher that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// What it is called.
    pub name: &'static str,
    /// The variable that tells.
    pub because: &'static str,
}

/// Looks for launchers; `None` where there are none.
pub fn read(host: &Host) -> Option<Scheduler> {
    let set = |name: &str| host.variable(name).filter(|value| !value.is_empty());
    let number = |name: &str| set(name)?.to_str()?.trim().parse::<u64>().ok();
    let mut found = Scheduler::default();
    for launcher in LAUNCHERS {
        let Some(because) = launcher.seen_by.iter().find(|name| set(name).is_some()) else { continue };
        found.seen.push(Seen { name: launcher.name, because });
        // The later stand closer to the program: within a job of Slurm's mpirun starts its ranks by a step of one process
        // a node.
        found.rank = number(launcher.rank).or(found.rank);
        found.ranks = number(launcher.ranks).or(found.ranks);
    }
    // A batch script has Slurm's numbers too, and is no rank.
    if found.ranks.is_some() {
        found.rank = found.rank.or_else(|| number("SLURM_PROCID"));
    }
    (!found.seen.is_empty()).then_some(found)
}

/// Which containers may share a server besides using one image: those of a step, else of a job, else of a cgroup. A
/// batch system kills what a step has started when it ends; a server that another one uses must not die with it.
pub fn scope(host: &Host) -> String {
    if let Some((job, step)) = host.slurm_step() {
        return format!("slurm:{}.{}", job.to_string_lossy(), step.to_string_lossy());
    }
    let set = |name: &str| host.variable(name).filter(|value| !value.is_empty());
    for name in ["PALS_APID", "FLUX_JOB_ID", "PBS_JOBID", "LSB_JOBID"] {
        if let Some(job) = set(name) {
            return format!("{name}:{} in cgroup:{}", job.to_string_lossy(), host.cgroup());
        }
    }
    format!("cgroup:{}", host.cgroup())
}

impl Scheduler {
    /// Whether this is one of several ranks, as far as can be told.
    pub fn has_several_ranks(&self) -> bool {
        self.rank.is_some() && self.ranks != Some(1)
    }

    /// Whether this is the rank that tells what concerns all of them; it may look for it longer than the others.
    pub fn speaks_for_all(&self) -> bool {
        self.rank.unwrap_or(0) == 0
    }

    fn launchers(&self) -> impl Iterator<Item = &'static Launcher> {
        LAUNCHERS.iter().filter(|launcher| self.seen.iter().any(|seen| seen.name == launcher.name))
    }

    /// Whether a variable of the host passes whatever is asked for.
    pub fn passes(&self, name: &OsStr) -> bool {
        let begins = |prefix: &&str| name.as_bytes().starts_with(prefix.as_bytes());
        GPUS.iter().any(|gpu| name == *gpu) || self.launchers().any(|one| one.passes.iter().any(begins))
    }

    /// Notes what `--cleanenv` leaves in the environment.
    pub fn keep(&mut self, host: &Host) {
        let prefixes = self.launchers().flat_map(|one| one.passes).map(|prefix| format!("{prefix}*"));
        let gpus = GPUS.iter().filter(|name| host.variable(name).is_some()).map(|name| (*name).to_owned());
        let keeps = prefixes.chain(gpus).filter(|kept| {
            let begin = kept.trim_end_matches('*').as_bytes();
            host.environment.iter().any(|(name, _)| name.as_bytes().starts_with(begin))
        });
        self.keeps = keeps.collect();
    }

    /// What the caller should be told; by one rank, since each says the same.
    pub fn warnings(&mut self, asked: &Asked, host: &Host, view: &View<'_>) -> Vec<String> {
        if !self.speaks_for_all() {
            return Vec::new();
        }
        self.hints = self.hints(host, view);
        let mut warnings = Vec::new();
        if self.has_several_ranks() {
            if let Some(because) = &asked.pid {
                warnings.push(format!(
                    "ranks with processes of their own ({}) take each other for themselves, crash or copy twice: leave it \
                     out, or add --no-pid",
                    because.origin()
                ));
            }
            if let Some(because) = &asked.ipc {
                warnings.push(format!(
                    "ranks with an IPC of their own ({}) have no System V shared memory in common: leave it out",
                    because.origin()
                ));
            }
            if let Some(because) = &asked.net {
                warnings.push(format!(
                    "ranks with a network of their own ({}) reach neither the launcher's PMIx nor other nodes: leave it out",
                    because.origin()
                ));
            }
            let pmix = self.seen.iter().any(|seen| seen.name == "PMIx");
            if let (Some(because), true) = (&asked.fakeroot, pmix && host.uid != 0) {
                warnings.push(format!(
                    "ranks as root ({}) are refused by the launcher's PMIx, which knows them by your own id, and end in \
                     MPI_Init: leave it out",
                    because.origin()
                ));
            }
        }
        warnings
    }

    fn hints(&self, host: &Host, view: &View<'_>) -> Vec<String> {
        let mut hints = Vec::new();
        if !self.has_several_ranks() {
            return hints;
        }
        let yama = host.sysctl("kernel.yama.ptrace_scope");
        if let Some(scope) = yama.filter(|scope| scope != "0") {
            // At 1 a process may be read that says so by prctl(PR_SET_PTRACER).
            let whose = if scope == "1" {
                "ranks whose MPI does not allow it (Open MPI and UCX do)"
            } else {
                "ranks"
            };
            hints.push(format!(
                "kernel.yama.ptrace_scope is {scope}: {whose} may not read each other's memory (CMA), and copy twice; \
                 the administrator can set it to 0"
            ));
        }
        // srun by itself says nothing that an MPI program understands.
        let speaks = ["PMIx", "PMI", "Open MPI's mpirun", "MVAPICH's mpirun", "Hydra"];
        if !self.seen.iter().any(|seen| speaks.contains(&seen.name)) && has_library(host, view, "libmpi.so") {
            hints.push(
                "the image has an MPI, and the launcher offers no PMI: if each process calls itself rank 0, start it \
                 with srun --mpi=pmix (or what 'srun --mpi=list' names)"
                    .to_owned(),
            );
        }
        hints
    }
}

/// Whether the image has a library, by the beginning of its file's name.
fn has_library(host: &Host, view: &View<'_>, name: &str) -> bool {
    LIBRARIES.iter().any(|directory| {
        let directory = PathBuf::from(directory.replace("{}", &host.machine));
        let names = view.image().list(&directory).unwrap_or_default();
        names.iter().any(|file| file.as_bytes().starts_with(name.as_bytes()))
    })
}

impl Chosen<'_, '_> {
    /// Shows the directories of the launchers that were seen.
    pub(super) fn add_places(&mut self, scheduler: &Scheduler) -> Result<()> {
        for place in PLACES.iter().filter(|place| scheduler.seen.iter().any(|seen| seen.name == place.of)) {
            let (path, because) = match place.path {
                Where::Fixed(path) => (PathBuf::from(path), Because::Default(place.reason)),
                Where::Variable(name) => match self.host.variable(name).map(Path::new) {
                    Some(path) if path.is_absolute() => (tidy(path), Because::Variable(name.to_owned())),
                    _ => continue,
                },
            };
            self.add_place(&path, place.reason, because)?;
        }
        Ok(())
    }

    fn add_place(&mut self, path: &Path, reason: &str, because: Because) -> Result<()> {
        let Ok(seen) = self.host.look(path) else { return Ok(()) };
        if self.left_out(path.to_str().unwrap_or_default(), path) || super::mounts::covers_system(path) {
            return Ok(());
        }
        let Ok(spot) = self.view.resolve(path, true) else { return Ok(()) };
        if self.shows(&spot, &seen) {
            return Ok(());
        }
        let kind = if seen.directory { TargetKind::Directory } else { TargetKind::File };
        let spot = self.made_on_host(spot, kind);
        if let Some(why) = self.refusal(&spot, kind, false) {
            self.warn(format!("{reason} {path:?} is not in the container: {why}"));
            return Ok(());
        }
        let what = MountKind::Bind { source: HostPath(path.to_owned()), read_only: false };
        self.push(what, spot, because, true);
        Ok(())
    }

    /// The shared memory of a contained program: its own, or the host's where ranks meet in it.
    pub(super) fn add_shared_memory(&mut self, contain: &Because) -> Result<()> {
        let shm = Path::new("/dev/shm");
        if self.scheduler.is_some_and(Scheduler::has_several_ranks) && self.host.look(shm).is_ok() {
            let what = MountKind::Bind { source: HostPath(shm.to_owned()), read_only: false };
            return self.add_new(shm, what, &Because::Default(SHARED_MEMORY));
        }
        self.add_new(shm, MountKind::Tmpfs { mode: 0o1777, holds: vec![] }, contain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(pairs: &[(&str, &str)]) -> Option<Scheduler> {
        read(&Host::made_up(Path::new("/nowhere")).with_environment(pairs))
    }

    #[test]
    fn launchers_are_seen_by_their_variables() {
        assert_eq!(seen(&[("SLURM_JOB_ID", ""), ("SLURM_NTASKS", "4")]), None);
        let batch = seen(&[("SLURM_JOB_ID", "7"), ("SLURM_NTASKS", "4"), ("SLURM_PROCID", "0")]).unwrap();
        assert!(!batch.has_several_ranks(), "a batch script is no rank");
        let rank = [("SLURM_STEP_NUM_TASKS", "4"), ("SLURM_PROCID", "3"), ("SLURM_STEP_ID", "0")];
        let step = seen(&rank).unwrap();
        assert_eq!((step.rank, step.ranks, step.has_several_ranks()), (Some(3), Some(4), true));
        let inner =
            [("OMPI_COMM_WORLD_SIZE", "8"), ("OMPI_COMM_WORLD_RANK", "5"), ("SLURM_STEP_NUM_TASKS", "1")];
        let inner =
            seen(&[inner.as_slice(), &[("SLURM_PROCID", "0"), ("SLURM_STEP_ID", "1")]].concat()).unwrap();
        assert_eq!((inner.rank, inner.ranks), (Some(5), Some(8)), "mpirun in a job");
        let alone = seen(&[("PMI_RANK", "0"), ("PMI_SIZE", "1")]).unwrap();
        assert!(!alone.has_several_ranks());
        // Without a number of ranks there may be others.
        assert!(seen(&[("PMIX_RANK", "0")]).unwrap().has_several_ranks());
    }

    #[test]
    fn the_variables_of_a_launcher_pass_where_it_is_seen() {
        let pmix = seen(&[("PMIX_RANK", "0")]).unwrap();
        for (name, passes) in [
            ("PMIX_NAMESPACE", true),
            ("CUDA_VISIBLE_DEVICES", true),
            ("SLURM_JOB_ID", false),
            ("PMIXER", false),
        ] {
            assert_eq!(pmix.passes(OsStr::new(name)), passes, "{name}");
        }
    }

    #[test]
    fn jobs_of_other_batch_systems_do_not_share_servers() {
        let scope =
            |pairs: &[(&str, &str)]| scope(&Host::made_up(Path::new("/nowhere")).with_environment(pairs));
        assert_eq!(scope(&[("SLURM_JOB_ID", "7"), ("PBS_JOBID", "x")]), "slurm:7.batch");
        assert_ne!(scope(&[("PBS_JOBID", "1")]), scope(&[("PBS_JOBID", "2")]));
        assert_eq!(scope(&[]), "cgroup:/user.slice");
    }
}
