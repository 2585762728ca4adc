//! What `skiff doctor` says of programs with many ranks: batch system, MPI, fabrics, shared memory, GPUs.

use std::path::Path;

use super::checks::good;
use super::{Check, State};
use crate::host::Host;
use crate::host::gpu::nvidia_module;
use crate::host::parallel::DEVICES;

const PARALLEL: &str = "MPI and GPUs";

/// The group, in the order of the screen.
pub fn all(host: &Host) -> Vec<Check> {
    let mut checks = vec![batch_system(host), mpi(host), fabrics(host), single_copy(host)];
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
    let launchers = ["mpirun", "mpiexec"].iter().filter_map(|name| host.on_path(name));
    let mut shown: Vec<String> = launchers
        .map(|(path, real)| match path == real {
            true => path.display().to_string(),
            false => format!("{} ({})", path.display(), real.display()),
        })
        .collect();
    shown.dedup();
    match shown.is_empty() {
        true => good(PARALLEL, "MPI", "no mpirun on the PATH: the image's, or the one that a module brings"),
        false => good(PARALLEL, "MPI", shown.join(", ")),
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
        false => good(PARALLEL, "fabric", found.join(", ")),
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
        Some(scope) => {
            let found =
                format!("kernel.yama.ptrace_scope is {scope}: ranks copy twice, or fail with EPERM{also}");
            good(PARALLEL, name, found).but(State::Less, "sysctl kernel.yama.ptrace_scope=0")
        }
    }
}

fn gpus(host: &Host) -> Vec<Check> {
    let mut checks = Vec::new();
    let numbered = |names: Vec<String>| {
        names.into_iter().filter(|name| name.ends_with(|end: char| end.is_ascii_digit())).count()
    };
    let nvidia = numbered(host.names(Path::new("/dev"), "nvidia"));
    match (nvidia_module(host), nvidia) {
        (None, 0) => {}
        (Some(driver), 0) => {
            let found = format!("driver {driver}, and no /dev/nvidia0");
            checks.push(good(PARALLEL, "NVIDIA", found).but(State::Less, "nvidia-modprobe -u -c 0, as root"));
        }
        (Some(driver), many) => {
            checks.push(good(PARALLEL, "NVIDIA", format!("{many} found, driver {driver}")))
        }
        (None, many) => checks.push(good(PARALLEL, "NVIDIA", format!("{many} found, driver unknown"))),
    }
    if host.look(Path::new("/dev/kfd")).is_ok() {
        let many = numbered(host.names(Path::new("/dev/dri"), "renderD"));
        checks.push(good(PARALLEL, "AMD", format!("/dev/kfd, {many} render devices")));
    }
    if checks.is_empty() {
        checks.push(good(PARALLEL, "GPUs", "none seen"));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

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
            std::fs::write(path, "1\n").unwrap();
        }
        let node = all(&host);
        assert_eq!(found(&node, "batch system"), "Slurm (/bin/srun), munge runs; srun --mpi=pmix");
        assert_eq!(found(&node, "MPI"), "/bin/mpirun");
        assert_eq!(found(&node, "fabric"), "Slingshot (cxi0 cxi1)");
        let copy = node.iter().find(|check| check.name == "memory of ranks").unwrap();
        assert_eq!(copy.state, State::Less);
        assert!(copy.found.contains("ptrace_scope is 1") && copy.found.ends_with("also by xpmem"));
        assert_eq!(found(&node, "NVIDIA"), "1 found, driver unknown");
        assert_eq!(found(&node, "AMD"), "/dev/kfd, 0 render devices");
    }
}
