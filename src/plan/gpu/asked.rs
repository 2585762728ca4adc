//! Which accelerators are asked for: flags, variables, configuration.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::super::Because;
use super::super::asked::{paths, switch, texts};
use super::lists::{List, Lists};
use crate::cli::gpu::GpuFlags;
use crate::config::{Accelerator, Config};
use crate::host::Host;
use crate::host::cdi;
use crate::host::gpu::Vendor;

impl Accelerator {
    /// Whose accelerators it is for.
    pub fn vendor(self) -> Vendor {
        match self {
            Self::Nv => Vendor::Nvidia,
            Self::Rocm => Vendor::Amd,
            Self::Intel => Vendor::Intel,
            Self::IntelHpu => Vendor::Gaudi,
        }
    }

    /// What it brings.
    pub fn list(self, lists: &Lists) -> &List {
        match self {
            Self::Nv => &lists.nv,
            Self::Rocm => &lists.rocm,
            Self::Intel => &lists.intel,
            Self::IntelHpu => &lists.intel_hpu,
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The flags, and who asks.
    pub sets: Vec<(Accelerator, Because)>,
    /// Devices of CDI.
    pub devices: Vec<String>,
    /// Where their files are.
    pub cdi_directories: Vec<PathBuf>,
    /// Libraries for 32-bit programs, too.
    pub compat32: Option<Because>,
    /// Libraries by name.
    pub libraries: Vec<(OsString, Because)>,
    /// Asked for by `--nvccli`.
    pub nvccli: Option<Because>,
}

impl Asked {
    /// Whether nothing is.
    pub fn is_nothing(&self) -> bool {
        self.sets.is_empty() && self.devices.is_empty() && self.libraries.is_empty()
    }
}

/// Reads flags, variables and configuration.
pub fn read(flags: &GpuFlags, host: &Host, config: &Config) -> Asked {
    let on = |given, name, keys: &[&str]| switch(host, given, name, keys);
    let nvccli = on(flags.nvccli, "--nvccli", &["NVCCLI"]);
    let off = [
        (Accelerator::Nv, on(flags.no_nv, "--no-nv", &["NV_OFF", "NO_NV"])),
        (Accelerator::Rocm, on(flags.no_rocm, "--no-rocm", &["ROCM_OFF", "NO_ROCM"])),
    ];
    let is_off = |set: Accelerator| off.iter().any(|(one, off)| *one == set && off.is_some());
    let asked = [
        (Accelerator::Nv, "--nv", on(flags.nv, "--nv", &["NV"]).or_else(|| nvccli.clone())),
        (Accelerator::Rocm, "--rocm", on(flags.rocm, "--rocm", &["ROCM"])),
        (Accelerator::Intel, "--intel", on(flags.intel, "--intel", &["INTEL"])),
        (Accelerator::IntelHpu, "--intel-hpu", on(flags.intel_hpu, "--intel-hpu", &["INTEL_HPU"])),
    ];
    let configured = |set: Accelerator, flag: &str| {
        (config.gpu.contains(&set) && !host.turns_off(flag)).then_some(Because::Config)
    };
    let sets = asked
        .into_iter()
        .filter(|(set, ..)| !is_off(*set))
        .filter_map(|(set, flag, because)| Some((set, because.or_else(|| configured(set, flag))?)))
        .collect();
    let directories = paths(host, &flags.cdi_dirs, "--cdi-dirs", &[]);
    let directories: Vec<PathBuf> = directories.into_iter().map(|(path, _)| path).collect();
    Asked {
        sets,
        devices: flags.device.iter().filter(|device| !device.is_empty()).cloned().collect(),
        cdi_directories: match directories.is_empty() {
            true => cdi::DIRECTORIES.map(PathBuf::from).to_vec(),
            false => directories.iter().map(|path| absolute(path, host)).collect(),
        },
        compat32: on(flags.compat32, "--compat32", &["COMPAT32"]),
        libraries: texts(host, &flags.containlibs, "--containlibs", &["CONTAINLIBS"]),
        nvccli,
    }
}

/// A path of the host; one that cannot be made absolute stays as it is, and leads nowhere.
fn absolute(path: &Path, host: &Host) -> PathBuf {
    match &host.cwd {
        Some(cwd) if path.is_relative() => cwd.join(path),
        _ => path.to_owned(),
    }
}
