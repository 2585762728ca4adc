//! What will fail, as far as it can be seen before anything starts: one sentence each, with what mends it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::super::Because;
use super::bringing::Bringing;
use super::libraries::Found;
use super::lists::List;
use crate::config::Accelerator;
use crate::error::Result;
use crate::host::Host;
use crate::host::gpu::{Denied, Gpus, Vendor, denied};
use crate::image::Tree;

/// The CUDA that came with each branch of the driver: what its libcuda is able to do.
const CUDA_OF_DRIVER: &[(u32, (u32, u32))] = &[
    (450, (11, 0)),
    (455, (11, 1)),
    (460, (11, 2)),
    (465, (11, 3)),
    (470, (11, 4)),
    (495, (11, 5)),
    (510, (11, 6)),
    (515, (11, 7)),
    (520, (11, 8)),
    (525, (12, 0)),
    (530, (12, 1)),
    (535, (12, 2)),
    (545, (12, 3)),
    (550, (12, 4)),
    (555, (12, 5)),
    (560, (12, 6)),
    (565, (12, 7)),
    (570, (12, 8)),
    (575, (12, 9)),
    (580, (13, 0)),
    (590, (13, 1)),
];
/// An image's libcuda for older drivers.
const COMPAT: &str = "/usr/local/cuda/compat";

/// What was seen of one vendor's accelerators.
pub struct Seen<'s> {
    /// What the kernel tells.
    pub gpus: &'s Gpus,
    /// What was found of the driver's libraries.
    pub found: &'s Found,
    /// The devices.
    pub devices: &'s [PathBuf],
}

impl Bringing<'_> {
    /// That a host has nothing of a vendor's: then nothing is brought, not even what would come besides. What is said
    /// of it; nothing where a configuration asks, which is written for many machines.
    ///
    /// # Errors
    /// The host's libraries cannot be read.
    pub fn absent(
        &self,
        set: Accelerator,
        list: &List,
        because: &Because,
        gpus: &Gpus,
    ) -> Result<Option<Vec<String>>> {
        let is_missing = |path: &str| denied(self.host, Path::new(path)) == Some(Denied::Missing);
        let (absent, what, why) = match set {
            Accelerator::Nv => (
                gpus.nvidia_module.is_none() && is_missing("/dev/nvidiactl") && !self.has_cuda(list)?,
                "NVIDIA driver",
                "neither /dev/nvidiactl nor libcuda.so.1 is there",
            ),
            Accelerator::Rocm => {
                (is_missing("/dev/kfd"), "AMD GPU", "/dev/kfd is not there; is the module amdgpu loaded?")
            }
            Accelerator::Intel => (
                !gpus.has(Vendor::Intel),
                "Intel GPU",
                "no /dev/dri/renderD* is Intel's; is the module i915 or xe loaded?",
            ),
            Accelerator::IntelHpu => (
                !gpus.has(Vendor::Gaudi) && is_missing("/dev/accel/accel0") && is_missing("/dev/hl0"),
                "Gaudi accelerator",
                "there is no /dev/accel/accel0; is the module habanalabs loaded?",
            ),
        };
        Ok(match (absent, because) {
            (false, _) => None,
            (true, Because::Config) => Some(Vec::new()),
            (true, _) => Some(vec![format!("this host has no {what} ({}): {why}", because.origin())]),
        })
    }

    /// Tells what will fail with a vendor's accelerators.
    pub fn expect(&mut self, set: Accelerator, because: &Because, seen: &Seen<'_>) {
        let told = match set {
            Accelerator::Nv => self.expect_nvidia(because, seen),
            Accelerator::Rocm => self.openable(because, &[PathBuf::from("/dev/kfd")]),
            Accelerator::Intel | Accelerator::IntelHpu => Vec::new(),
        };
        self.injection.warnings.extend(told);
        let of_vendor = seen.gpus.gpus.iter().filter(|gpu| gpu.vendor == set.vendor());
        let own: Vec<PathBuf> = of_vendor.map(|gpu| gpu.device.clone()).collect();
        let told = self.openable(because, &own);
        self.injection.warnings.extend(told);
    }

    fn expect_nvidia(&self, because: &Because, seen: &Seen<'_>) -> Vec<String> {
        let origin = because.origin();
        let control = Path::new("/dev/nvidiactl");
        let Seen { gpus, found, devices } = seen;
        let has_node = devices.iter().any(|path| path == control);
        let inherited = self.injection.items.iter().any(|item| item.source.ends_with("libcuda.so.1"));
        let module = gpus.nvidia_module.as_deref();
        let mut told = Vec::new();
        match (found.libraries > 0 || inherited, module.is_some() || has_node) {
            (false, true) => told.push(format!(
                "the libraries of the host's NVIDIA driver are not found ({origin}): the loader's cache has no \
                 libcuda.so.1 for the image's processor; as root: ldconfig, or name their directory in /etc/skiff/gpu.yaml"
            )),
            (true, false) => told.push(format!(
                "the host has libraries of NVIDIA and no device ({origin}): /dev/nvidiactl is not there; as root: \
                 modprobe nvidia, nvidia-modprobe -u -c=0"
            )),
            (true, true) | (false, false) => {}
        }
        if let (Some(module), Some(version)) = (module, found.version.as_deref())
            && module != version
        {
            told.push(format!(
                "programs will say 'driver/library version mismatch' ({origin}): the kernel's module is {module}, and \
                 the host's libraries are {version}; reboot the host, or load the module anew"
            ));
        }
        let uvm = Path::new("/dev/nvidia-uvm");
        if has_node && denied(self.host, uvm) == Some(Denied::Missing) {
            told.push(format!(
                "CUDA will find no GPU ({origin}): /dev/nvidia-uvm is not there; as root: nvidia-modprobe -u -c=0"
            ));
        }
        let chosen = self.host.variable("CUDA_VISIBLE_DEVICES").unwrap_or_default().to_string_lossy();
        if chosen.starts_with("MIG-") && gpus.parts.is_empty() {
            told.push(format!(
                "CUDA will find no GPU ({origin}): CUDA_VISIBLE_DEVICES is {chosen}, and no GPU of this host is divided; unset it"
            ));
        }
        told
    }

    /// Tells of devices that the caller cannot open.
    fn openable(&self, because: &Because, devices: &[PathBuf]) -> Vec<String> {
        let origin = because.origin();
        let reasons: Vec<(&PathBuf, Denied)> =
            devices.iter().filter_map(|path| Some((path, denied(self.host, path)?))).collect();
        let of_job = reasons.iter().filter(|(_, denied)| *denied == Denied::ByCgroup).count();
        let mut told = Vec::new();
        if !devices.is_empty() && of_job == devices.len() {
            told.push(format!(
                "no accelerator of this host is the job's ({origin}); ask for one: srun --gpus=1, or --gres=gpu:1"
            ));
        }
        let by_mode = reasons.iter().find_map(|(path, denied)| match denied {
            Denied::ByMode { group } => Some((path, *group)),
            _ => None,
        });
        if let Some((path, group)) = by_mode {
            let name = Host::name_of_group(group).unwrap_or_else(|| group.to_string());
            told.push(format!(
                "{} cannot be opened ({origin}): it is for the group {name}, and you are not in it; the administrator \
                 adds you: usermod -aG {name} {}",
                path.display(),
                self.host.user().name.to_string_lossy()
            ));
        }
        told
    }
}

/// Tells when an image asks for a newer CUDA than the driver has, by the variables that it sets.
pub fn requirement(env: &[(OsString, OsString)], module: Option<&str>, image: &Tree) -> Option<String> {
    let value = |name: &str| {
        let found = env.iter().find(|(one, _)| one == name);
        found.and_then(|(_, value)| value.to_str()).filter(|value| !value.is_empty())
    };
    let (required, module) = (value("NVIDIA_REQUIRE_CUDA")?, module?);
    if value("NVIDIA_DISABLE_REQUIRE").is_some() || satisfied(required, module) {
        return None;
    }
    let (major, minor) = cuda_of(module)?;
    let first = required.split(' ').next().unwrap_or(required);
    let compat = matches!(image.lookup(Path::new(COMPAT)), Ok(Some(_)));
    let instead = match compat {
        true => {
            "on a GPU for data centers, --env PREPEND_LD_LIBRARY_PATH=/usr/local/cuda/compat uses the image's libcuda"
        }
        false => "use an image with an older CUDA, or a host with a newer driver",
    };
    Some(format!(
        "programs may say that the CUDA driver is insufficient: the image wants {first}, and the host's driver {module} \
         has CUDA {major}.{minor}; {instead}"
    ))
}

/// Whether a driver satisfies what an image says: alternatives with blanks between, conditions with commas between.
/// Conditions on what is not known here count as met.
fn satisfied(required: &str, module: &str) -> bool {
    let mut alternatives = required.split_whitespace().peekable();
    alternatives.peek().is_none()
        || alternatives.any(|alternative| alternative.split(',').all(|condition| holds(condition, module)))
}

fn holds(condition: &str, module: &str) -> bool {
    let Some(at) = condition.find(['<', '>', '=', '!']) else { return true };
    let (name, rest) = condition.split_at(at);
    let wanted = rest.trim_start_matches(['<', '>', '=', '!']);
    let sign = &rest[..rest.len() - wanted.len()];
    let has: Vec<u32> = match name {
        "cuda" => match cuda_of(module) {
            Some((major, minor)) => vec![major, minor],
            None => return true,
        },
        "driver" => numbers(module),
        _ => return true,
    };
    let wanted = numbers(wanted);
    // `driver<471` is about the first number alone.
    let has = &has[..has.len().min(wanted.len())];
    let wanted = &wanted[..wanted.len().min(has.len())];
    match sign {
        ">=" => has >= wanted,
        ">" => has > wanted,
        "<=" => has <= wanted,
        "<" => has < wanted,
        "=" | "==" => has == wanted,
        "!=" => has != wanted,
        _ => true,
    }
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}

/// The CUDA of a driver; none for one that is newer than what is known here.
pub fn cuda_of(module: &str) -> Option<(u32, u32)> {
    let branch = *numbers(module).first()?;
    let known = CUDA_OF_DRIVER.iter().rev().find(|(first, _)| *first <= branch)?;
    let (last, _) = CUDA_OF_DRIVER.last()?;
    (branch <= last + 4).then_some(known.1)
}
