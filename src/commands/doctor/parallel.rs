//! What `skiff doctor` says of programs with many ranks: batch system, MPI, fabrics, shared memory, GPUs.

use std::path::Path;

use super::checks::good;
use super::{Check, State};
use crate::host::Host;
use crate::host::gpu::{Gpus, Vendor, nvidia_module};
use crate::host::parallel::DEVICES;
use crate::plan::gpu::expect::cuda_of;
use crate::plan::mpi::expect::SHARED_BYTES;
use crate::plan::mpi::find;

const PARALLEL: &str = "MPI and GPUs";

/// The group, in the order of the screen.
pub fn all(host: &Host) -> Vec<Check> {
    let mut checks = vec![batch_system(host), mpi(host), fabrics(host), single_copy(host)];
    checks.extend(shared_memory(host));
    checks.extend(gpus(host));
    checks
}

fn batch_system(host: &Host) -> Check {
    let name = "batch system";
    let flavours = host.pmi_flavours();
    let srun = host.on_path("srun");
    let other = ["flux", "qsub", "bsub", "palsd"].iter().find_map(|name| host.on_path(name));
    let Some((srun, _)) = srun else {
        return match other {
            Some((path, _)) => good(PARALLEL, name, path.display().to_string()),
            None => good(PARALLEL, name, "none on the PATH"),
        };
    };
    let munge = if host.look(Path::new("/run/munge/munge.socket.2")).is_ok() { ", munge runs" } else { "" };
    let srun = srun.display();
    if flavours.is_empty() {
        return good(
            PARALLEL,
            name,
            format!("Slurm ({srun}){munge}; 'srun --mpi=list' names its PMI flavours"),
        );
    }
    good(PARALLEL, name, format!("Slurm ({srun}){munge}; srun --mpi={}", flavours.join("|")))
}

fn mpi(host: &Host) -> Check {
    let mut launchers: Vec<_> = ["mpirun", "mpiexec"].iter().filter_map(|name| host.on_path(name)).collect();
    // Two names of one program.
    launchers.dedup_by(|one, other| one.1 == other.1);
    let shown = launchers.iter().map(|(path, real)| match path == real {
        true => path.display().to_string(),
        false => format!("{} ({})", path.display(), real.display()),
    });
    let mut shown: Vec<String> = shown.collect();
    // What cannot be read is none that --mpi could bring in; why, 'skiff mpi IMAGE' says.
    let found = find::host_mpi_of(host).ok().flatten();
    shown.extend(found.map(|mpi| format!("--mpi brings in {mpi}, {}", mpi.library.real.display())));
    match shown.is_empty() {
        true => good(PARALLEL, "MPI", "no mpirun on the PATH: the image's, or the one that a module brings"),
        false => good(PARALLEL, "MPI", shown.join("; ")),
    }
}

fn fabrics(host: &Host) -> Check {
    let found: Vec<String> = DEVICES
        .iter()
        .filter_map(|(directory, begin, what)| {
            let names = host.names(Path::new(directory), begin);
            (!names.is_empty()).then(|| format!("{what} ({})", names.join(" ")))
        })
        .collect();
    match found.is_empty() {
        true => good(PARALLEL, "fabric", "none: ranks on several nodes speak TCP"),
        false => good(
            PARALLEL,
            "fabric",
            format!("{}; 'skiff mpi IMAGE' says whether an image can use it", found.join(", ")),
        ),
    }
}

/// How ranks of a node copy from each other.
fn single_copy(host: &Host) -> Check {
    let modules: Vec<&str> = ["xpmem", "knem"]
        .into_iter()
        .filter(|name| host.look(&Path::new("/dev").join(name)).is_ok())
        .collect();
    let also = if modules.is_empty() { String::new() } else { format!("; also by {}", modules.join(", ")) };
    let name = "memory of ranks";
    match host.sysctl("kernel.yama.ptrace_scope").as_deref() {
        None | Some("0") => good(PARALLEL, name, format!("ranks of a step read each other's (CMA){also}")),
        Some("1") => {
            let found = "ranks of a step read each other's (CMA) where their MPI allows it, as Open MPI and UCX do \
                         (kernel.yama.ptrace_scope is 1)";
            good(PARALLEL, name, format!("{found}{also}"))
        }
        Some(scope) => {
            let found =
                format!("kernel.yama.ptrace_scope is {scope}: ranks copy twice, or fail with EPERM{also}");
            good(PARALLEL, name, found).but(State::Less, "sysctl kernel.yama.ptrace_scope=0")
        }
    }
}

/// What Open MPI and MPICH take of it for sixteen ranks.
const LITTLE_SHARED: u64 = 16 * SHARED_BYTES;

fn shared_memory(host: &Host) -> Option<Check> {
    let free = host.directory(Path::new("/dev/shm")).ok()?.free;
    let check = good(PARALLEL, "/dev/shm", format!("{} MiB free, in which ranks meet", free >> 20));
    Some(match free < LITTLE_SHARED {
        true => check.but(State::Less, "remove what is left in it, or mount -o remount,size=8G /dev/shm"),
        false => check,
    })
}

fn gpus(host: &Host) -> Vec<Check> {
    let mut checks = Vec::new();
    let numbered = |names: Vec<String>| {
        names.into_iter().filter(|name| name.ends_with(|end: char| end.is_ascii_digit())).count()
    };
    let seen = Gpus::probe(host).gpus;
    let of = |vendor| seen.iter().filter(|gpu| gpu.vendor == vendor).count();
    let nvidia = numbered(host.names(Path::new("/dev"), "nvidia"));
    match (nvidia_module(host), nvidia) {
        (None, 0) => {}
        (Some(driver), 0) => {
            let found = format!("driver {driver}, and no /dev/nvidia0");
            checks.push(good(PARALLEL, "NVIDIA", found).but(State::Less, "nvidia-modprobe -u -c 0, as root"));
        }
        (Some(driver), many) => {
            let cuda =
                cuda_of(&driver).map_or(String::new(), |(major, minor)| format!(", CUDA {major}.{minor}"));
            checks.push(good(PARALLEL, "NVIDIA", format!("{many} found, driver {driver}{cuda}: --nv")))
        }
        (None, many) => checks.push(good(PARALLEL, "NVIDIA", format!("{many} found, driver unknown: --nv"))),
    }
    if host.look(Path::new("/dev/kfd")).is_ok() {
        let many = numbered(host.names(Path::new("/dev/dri"), "renderD"));
        checks.push(good(PARALLEL, "AMD", format!("/dev/kfd, {many} render devices: --rocm")));
    }
    for (vendor, name, flag) in [(Vendor::Intel, "Intel", "--intel"), (Vendor::Gaudi, "Gaudi", "--intel-hpu")]
    {
        match of(vendor) {
            0 => {}
            many => checks.push(good(PARALLEL, name, format!("{many} found: {flag}"))),
        }
    }
    if checks.is_empty() {
        checks.push(good(PARALLEL, "GPUs", "none seen"));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::made::Made;

    fn found(checks: &[Check], name: &str) -> String {
        checks.iter().find(|check| check.name == name).map(|check| check.found.clone()).unwrap_or_default()
    }

    #[test]
    fn a_bare_machine_and_a_node_are_described() {
        let root = tempfile::tempdir().unwrap();
        let host =
            Host::made_up(&std::fs::canonicalize(root.path()).unwrap()).with_environment(&[("PATH", "/bin")]);
        let bare = all(&host);
        assert!(bare.iter().all(|check| check.state == State::Ok));
        assert_eq!(found(&bare, "fabric"), "none: ranks on several nodes speak TCP");
        assert_eq!(found(&bare, "GPUs"), "none seen");
        for path in [
            "bin/srun",
            "bin/mpirun",
            "usr/lib64/slurm/mpi_pmix.so",
            "run/munge/munge.socket.2",
            "dev/cxi0",
            "dev/cxi1",
            "dev/xpmem",
            "dev/kfd",
            "dev/nvidia0",
            "dev/nvidiactl",
            "proc/sys/kernel/yama/ptrace_scope",
        ] {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "2\n").unwrap();
        }
        for (path, text) in [
            (
                "proc/driver/nvidia/version",
                "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue\n",
            ),
            ("sys/class/drm/renderD128/device/vendor", "0x8086\n"),
            ("sys/class/accel/accel0/device/vendor", "0x1da3\n"),
        ] {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let library = Made { soname: "libmpi.so.40", ..Made::default() };
        library.write(&root.path().join("lib/libmpi.so.40.30.4"));
        std::os::unix::fs::symlink("libmpi.so.40.30.4", root.path().join("lib/libmpi.so.40")).unwrap();
        let node = all(&host);
        assert_eq!(found(&node, "batch system"), "Slurm (/bin/srun), munge runs; srun --mpi=pmix");
        assert_eq!(
            found(&node, "MPI"),
            "/bin/mpirun; --mpi brings in Open MPI 4.1.4, /lib/libmpi.so.40.30.4"
        );
        assert_eq!(
            found(&node, "fabric"),
            "Slingshot (cxi0 cxi1); 'skiff mpi IMAGE' says whether an image can use it"
        );
        let copy = node.iter().find(|check| check.name == "memory of ranks").unwrap();
        assert_eq!(copy.state, State::Less);
        assert!(copy.found.contains("ptrace_scope is 2") && copy.found.ends_with("also by xpmem"));
        assert_eq!(found(&node, "NVIDIA"), "1 found, driver 550.54.15, CUDA 12.4: --nv");
        assert_eq!(found(&node, "AMD"), "/dev/kfd, 0 render devices: --rocm");
        assert_eq!(found(&node, "Intel"), "1 found: --intel");
        assert_eq!(found(&node, "Gaudi"), "1 found: --intel-hpu");
        std::fs::write(root.path().join("proc/sys/kernel/yama/ptrace_scope"), "1\n").unwrap();
        let copy = all(&host).into_iter().find(|check| check.name == "memory of ranks").unwrap();
        assert_eq!(copy.state, State::Ok, "{}", copy.found);
    }
}
