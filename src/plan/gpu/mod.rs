//! Accelerators in a container: `--nv`, `--rocm`, `--intel`, `--intel-hpu`, devices of CDI, libraries by name.
//!
//! ```text
//! asked.rs       who asks for what
//! lists.yaml     what each flag brings; lists.rs reads it and the site's additions
//! libraries.rs   which libraries of the host a list means
//! bringing.rs    the check that each library passes, and where it goes
//! files.rs       programs, data, devices
//! cdi.rs         what the files of CDI say; hooks.rs what their hooks do
//! expect.rs      what will fail, told before the start
//! ```
//!
//! All of it is decided from files: the host's /proc, /sys, /dev, its loader's cache, and the ELF headers of what is
//! brought. No program and no library of a vendor is run.

mod asked;
mod bringing;
mod cdi;
pub mod expect;
mod files;
mod hooks;
mod libraries;
pub mod lists;

use self::asked::Asked;
use self::bringing::{Bringing, Libc};
use self::lists::Lists;
use super::Because;
use super::inject::Injection;
use crate::cli::gpu::GpuFlags;
use crate::config::{Accelerator, Config};
use crate::error::Result;
use crate::host::Host;
use crate::host::cdi::Registry;
use crate::host::gpu::{self, Gpus};
use crate::image::Tree;

/// Decides what of the host's accelerators a container of `image` has.
///
/// # Errors
/// A device or library that is asked for is not there; the site's list is damaged; the image cannot be read.
pub fn bring_in(flags: &GpuFlags, host: &Host, config: &Config, image: &Tree) -> Result<Injection> {
    let asked = asked::read(flags, host, config);
    if asked.is_nothing() {
        return Ok(Injection::default());
    }
    let lists = Lists::load(host)?;
    let mut bringing = Bringing::new(host, image, asked.compat32.is_some())?;
    bringing.tell_of_circumstances(&asked);
    let first = asked.sets.first().map(|(_, because)| because.clone());
    if let Some(because) = first.clone().or_else(|| asked.devices.first().map(|name| of_device(name))) {
        bringing.add_inherited(&because)?;
    }
    let gpus = Gpus::probe(host);
    for (set, because) in &asked.sets {
        let list = set.list(&lists);
        if let Some(told) = bringing.absent(*set, list, because, &gpus)? {
            bringing.injection.warnings.extend(told);
            bringing.injection.keep.extend(list.variables.iter().cloned());
            continue;
        }
        let module = gpus.nvidia_module.as_deref().filter(|_| *set == Accelerator::Nv);
        let found = bringing.add_libraries(list, module, because)?;
        bringing.add_programs(list, because)?;
        let devices = bringing.add_files(list, because);
        bringing.expect(*set, because, &expect::Seen { gpus: &gpus, found: &found, devices: &devices });
    }
    if !asked.devices.is_empty() {
        bringing.add_devices(&asked, &lists)?;
    }
    bringing.add_named(&asked.libraries)?;
    bringing.tell_of_unfit();
    Ok(bringing.injection)
}

/// The flags that fit what a host has.
pub fn flags_for(host: &Host) -> GpuFlags {
    let gpus = Gpus::probe(host);
    let has = |set: Accelerator| gpus.has(set.vendor());
    let nvidia = gpus.nvidia_module.is_some()
        || gpu::denied(host, "/dev/nvidiactl".as_ref()) != Some(gpu::Denied::Missing);
    GpuFlags {
        nv: has(Accelerator::Nv) || nvidia,
        rocm: has(Accelerator::Rocm),
        intel: has(Accelerator::Intel),
        intel_hpu: has(Accelerator::IntelHpu),
        ..GpuFlags::default()
    }
}

fn of_device(name: &str) -> Because {
    Because::Flag(format!("--device {name}"))
}

impl Bringing<'_> {
    fn add_devices(&mut self, asked: &Asked, lists: &Lists) -> Result<()> {
        let registry = Registry::load(self.host, &asked.cdi_directories);
        let edits = registry.edits(&asked.devices)?;
        self.add_edits(&edits, &of_device(&asked.devices.join(",")))?;
        // What the scheduler says of the vendor's devices stays, as with the vendor's flag.
        for (vendor, list) in [("nvidia.com/", &lists.nv), ("amd.com/", &lists.rocm), ("intel", &lists.intel)]
        {
            if asked.devices.iter().any(|device| device.starts_with(vendor)) {
                self.injection.keep.extend(list.variables.iter().cloned());
            }
        }
        if asked.devices.iter().any(|device| device.contains("gaudi")) {
            self.injection.keep.extend(lists.intel_hpu.variables.iter().cloned());
        }
        Ok(())
    }

    fn tell_of_circumstances(&mut self, asked: &Asked) {
        if let Some(because) = &asked.nvccli {
            self.injection.warnings.push(format!(
                "{} does what --nv does: skiff needs no nvidia-container-cli",
                because.origin()
            ));
        }
        let origin = asked.sets.first().map(|(_, because)| because.origin().to_owned());
        let origin = origin.or_else(|| asked.devices.first().map(|name| format!("--device {name}")));
        let origin = origin.unwrap_or_else(|| "--containlibs".to_owned());
        match self.libc {
            Libc::Glibc => {}
            Libc::Musl => self.injection.warnings.push(format!(
                "no library and program of the host is brought in ({origin}): the image's C library is musl, and \
                 drivers are made for glibc; use an image of Debian, Ubuntu, Rocky Linux or the like"
            )),
            Libc::Unknown => self.injection.warnings.push(format!(
                "the image's C library was not found, so the host's libraries are brought in unchecked ({origin})"
            )),
        }
    }
}
