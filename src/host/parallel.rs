//! Facts about parallel programs that only `skiff doctor` asks for: batch system, MPI, fabrics, GPUs. Names of files
//! and a few lines of /proc; nothing is run.

use std::path::{Path, PathBuf};

use super::Host;

/// Where Slurm's plugins lie, by distribution.
const PLUGINS: [&str; 6] = [
    "/usr/lib64/slurm",
    "/usr/lib/slurm",
    "/usr/lib/{}-linux-gnu/slurm",
    "/usr/lib/{}-linux-gnu/slurm-wlm",
    "/opt/slurm/lib/slurm",
    "/usr/local/lib/slurm",
];

/// Devices by which fabrics are reached and memory is shared, and what they are.
pub const DEVICES: &[(&str, &str, &str)] = &[
    // Where, how the name begins, what.
    ("/sys/class/infiniband", "", "InfiniBand or RoCE"),
    ("/dev", "cxi", "Slingshot"),
    ("/dev", "hfi1_", "Omni-Path"),
    ("/dev/infiniband", "uverbs", "verbs"),
];

impl Host {
    /// A program of the caller's `PATH`, with where its links end.
    pub fn on_path(&self, name: &str) -> Option<(PathBuf, PathBuf)> {
        let path = self.variable("PATH")?;
        let found = std::env::split_paths(path)
            .map(|directory| directory.join(name))
            .find(|path| path.is_absolute() && self.look(path).is_ok_and(|seen| !seen.directory))?;
        let real = self.follow(&found).ok()?;
        Some((found, real))
    }

    /// The flavours of PMI that this machine's Slurm has plugins for, as `srun --mpi` takes them.
    pub fn pmi_flavours(&self) -> Vec<String> {
        let mut found = Vec::new();
        for directory in PLUGINS {
            let directory = directory.replace("{}", &self.machine);
            let names = self.names(Path::new(&directory), "mpi_");
            found.extend(names.iter().filter_map(|name| Some(name[4..].strip_suffix(".so")?.to_owned())));
        }
        found.retain(|name| name != "none");
        found.sort();
        found.dedup();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::gpu::nvidia_module;

    #[test]
    fn what_a_node_has_is_named() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let host = Host::made_up(&std::fs::canonicalize(root.path()).unwrap())
            .with_environment(&[("PATH", "/none:/bin")]);
        assert!(
            host.pmi_flavours().is_empty()
                && host.on_path("mpirun").is_none()
                && nvidia_module(&host).is_none()
        );
        for name in ["mpi_pmix.so", "mpi_pmi2.so", "mpi_none.so", "task_none.so"] {
            write(&format!("usr/lib64/slurm/{name}"), "");
        }
        write("bin/mpirun.openmpi", "");
        std::os::unix::fs::symlink("mpirun.openmpi", root.path().join("bin/mpirun")).unwrap();
        write(
            "proc/driver/nvidia/version",
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5\nGCC version: 12.2.0\n",
        );
        assert_eq!(host.pmi_flavours(), ["pmi2", "pmix"]);
        assert_eq!(host.on_path("mpirun").unwrap(), ("/bin/mpirun".into(), "/bin/mpirun.openmpi".into()));
        assert_eq!(nvidia_module(&host).as_deref(), Some("550.54.15"));
    }
}
