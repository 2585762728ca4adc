//! The accelerators of this machine, as the kernel tells of them. Nothing is asked of a vendor's library: /proc, /sys
//! and /dev say enough, and say it where the library is missing or of another version.
//!
//! ```text
//! NVIDIA   /proc/driver/nvidia/version                  the kernel module's version: what libraries must match
//!          /proc/driver/nvidia/gpus/BUS/information     model, UUID, number of /dev/nvidiaN
//!          /proc/driver/nvidia/capabilities/gpuN/mig/giG/ciC/access     number of /dev/nvidia-caps/nvidia-capM
//! others   /sys/class/drm/renderD*/device/vendor        0x1002 AMD, 0x8086 Intel, 0x10de NVIDIA
//!          /sys/class/accel/accel*/device/vendor        0x1da3 Habana (Gaudi)
//! ```

use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};
use serde::Serialize;

use super::Host;

/// No file of /proc or /sys that is read here is larger.
const MAX_BYTES: usize = 64 * 1024;

/// Whose accelerator it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Vendor {
    /// NVIDIA.
    Nvidia,
    /// AMD.
    Amd,
    /// Intel's GPUs.
    Intel,
    /// Intel's Gaudi.
    Gaudi,
}

impl Vendor {
    /// The vendor by its number on the PCI bus.
    fn by_number(text: &str) -> Option<Self> {
        match text.trim() {
            "0x10de" => Some(Self::Nvidia),
            "0x1002" => Some(Self::Amd),
            "0x8086" => Some(Self::Intel),
            "0x1da3" => Some(Self::Gaudi),
            _ => None,
        }
    }
}

/// An accelerator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// Whose.
    pub vendor: Vendor,
    /// Its device file.
    pub device: PathBuf,
    /// What it is called, where the kernel says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// NVIDIA's name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Why the caller cannot open its device file, where that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denied: Option<Denied>,
}

/// A part of an NVIDIA GPU (MIG): a compute instance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Part {
    /// The number of its GPU's device file.
    pub gpu: u32,
    /// The GPU instance.
    pub instance: u32,
    /// The compute instance in it.
    pub compute: u32,
    /// The capabilities that a program needs for it.
    pub capabilities: Vec<PathBuf>,
}

/// Why a device file cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Denied {
    /// It is not there.
    Missing,
    /// The job's cgroup does not allow it: it belongs to another job.
    ByCgroup,
    /// Its owner, group and mode do not.
    ByMode {
        /// Its group.
        group: u32,
    },
}

/// What this machine has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Gpus {
    /// The version of NVIDIA's kernel module, where it is loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvidia_module: Option<String>,
    /// Its accelerators.
    pub gpus: Vec<Gpu>,
    /// Parts of NVIDIA's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
}

impl Gpus {
    /// Looks at a host.
    pub fn probe(host: &Host) -> Self {
        let mut gpus = nvidia_gpus(host);
        let known = !gpus.is_empty();
        gpus.extend(rendering(host).into_iter().filter(|gpu| gpu.vendor != Vendor::Nvidia || !known));
        gpus.extend(accelerators(host));
        Self { nvidia_module: nvidia_module(host), gpus, parts: parts(host) }
    }

    /// Whether there is one of a vendor's.
    pub fn has(&self, vendor: Vendor) -> bool {
        self.gpus.iter().any(|gpu| gpu.vendor == vendor)
    }
}

/// The version of NVIDIA's kernel module. Libraries of another version refuse to work with it.
pub fn nvidia_module(host: &Host) -> Option<String> {
    let told = text(host, Path::new("/proc/driver/nvidia/version"));
    let told = told.as_deref().and_then(|told| told.lines().find(|line| line.starts_with("NVRM version:")));
    let word = told.and_then(|line| line.split_whitespace().find(|word| is_version(word)));
    let module = || text(host, Path::new("/sys/module/nvidia/version"));
    word.map(str::to_owned).or_else(|| module().filter(|text| is_version(text)))
}

/// `550.54.15`, `470.256.02`: two or three numbers.
pub fn is_version(word: &str) -> bool {
    let parts: Vec<&str> = word.split('.').collect();
    let number =
        |part: &&str| (1..=5).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    (2..=3).contains(&parts.len()) && parts.iter().all(number)
}

fn nvidia_gpus(host: &Host) -> Vec<Gpu> {
    let mut gpus = Vec::new();
    for bus in host.names(Path::new("/proc/driver/nvidia/gpus"), "") {
        let path = Path::new("/proc/driver/nvidia/gpus").join(bus).join("information");
        let Some(told) = text(host, &path) else { continue };
        let field = |name: &str| {
            let value = told.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_prefix(':'));
            value.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let Some(minor) = field("Device Minor").and_then(|minor| minor.parse::<u32>().ok()) else { continue };
        let device = PathBuf::from(format!("/dev/nvidia{minor}"));
        let denied = denied(host, &device);
        gpus.push((
            minor,
            Gpu { vendor: Vendor::Nvidia, device, model: field("Model"), uuid: field("GPU UUID"), denied },
        ));
    }
    gpus.sort_by_key(|(minor, _)| *minor);
    gpus.into_iter().map(|(_, gpu)| gpu).collect()
}

fn rendering(host: &Host) -> Vec<Gpu> {
    of_class(host, "/sys/class/drm", "renderD", "/dev/dri")
}

fn accelerators(host: &Host) -> Vec<Gpu> {
    of_class(host, "/sys/class/accel", "accel", "/dev/accel")
        .into_iter()
        .filter(|gpu| gpu.vendor == Vendor::Gaudi)
        .collect()
}

/// The devices of one of the kernel's classes whose names are `prefix` and a number.
fn of_class(host: &Host, class: &str, prefix: &str, files: &str) -> Vec<Gpu> {
    let mut found = Vec::new();
    for name in host.names(Path::new(class), "") {
        let Some(number) = name.strip_prefix(prefix).and_then(|number| number.parse::<u32>().ok()) else {
            continue;
        };
        let about = Path::new(class).join(&name).join("device");
        let vendor = text(host, &about.join("vendor")).and_then(|vendor| Vendor::by_number(&vendor));
        let Some(vendor) = vendor else { continue };
        let model = text(host, &about.join("product_name")).map(|model| model.trim().to_owned());
        let model = model.filter(|model| !model.is_empty());
        let device = Path::new(files).join(&name);
        let denied = denied(host, &device);
        found.push((number, Gpu { vendor, device, model, uuid: None, denied }));
    }
    found.sort_by_key(|(number, _)| *number);
    found.into_iter().map(|(_, gpu)| gpu).collect()
}

/// The compute instances of GPUs that are divided.
fn parts(host: &Host) -> Vec<Part> {
    let top = Path::new("/proc/driver/nvidia/capabilities");
    let numbered = |directory: &Path, prefix: &str| -> Vec<(u32, PathBuf)> {
        let number = |name: &String| Some((name.strip_prefix(prefix)?.parse().ok()?, directory.join(name)));
        host.names(directory, "").iter().filter_map(number).collect()
    };
    let capability = |directory: &Path| {
        let told = text(host, &directory.join("access"))?;
        let minor = told.lines().find_map(|line| line.strip_prefix("DeviceFileMinor:"))?;
        let minor: u32 = minor.trim().parse().ok()?;
        Some(PathBuf::from(format!("/dev/nvidia-caps/nvidia-cap{minor}")))
    };
    let mut parts = Vec::new();
    for (gpu, directory) in numbered(top, "gpu") {
        for (instance, directory) in numbered(&directory.join("mig"), "gi") {
            for (compute, below) in numbered(&directory, "ci") {
                let capabilities =
                    [capability(&directory), capability(&below)].into_iter().flatten().collect();
                parts.push(Part { gpu, instance, compute, capabilities });
            }
        }
    }
    parts.sort();
    parts
}

/// Why the caller cannot open a device file. The kernel asks the cgroup first, and answers EPERM then.
pub fn denied(host: &Host, path: &Path) -> Option<Denied> {
    let real = host.real(path);
    let asked = rustix::fs::accessat(CWD, &real, Access::READ_OK | Access::WRITE_OK, AtFlags::EACCESS);
    match asked {
        Ok(()) => None,
        Err(rustix::io::Errno::PERM) => Some(Denied::ByCgroup),
        Err(rustix::io::Errno::ACCESS) => {
            use std::os::unix::fs::MetadataExt;
            let group = std::fs::metadata(&real).map(|status| status.gid()).ok();
            Some(group.map_or(Denied::ByCgroup, |group| Denied::ByMode { group }))
        }
        Err(_) => Some(Denied::Missing),
    }
}

/// The paths of the host that a pattern leads to, by name: `*` in the last part stands for any characters.
pub fn matching(host: &Host, pattern: &Path) -> Vec<PathBuf> {
    let last = pattern.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let directory = pattern.parent().unwrap_or(Path::new("/"));
    if !last.contains('*') {
        let there = std::fs::symlink_metadata(host.real(pattern)).is_ok();
        return if there { vec![pattern.to_owned()] } else { Vec::new() };
    }
    let fits = host.names(directory, "").into_iter().filter(|name| fits(name, &last));
    fits.map(|name| directory.join(name)).collect()
}

/// Whether a name is as a pattern says.
pub fn fits(name: &str, pattern: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return name == pattern };
    let Some(rest) = name.strip_prefix(before) else { return false };
    let starts = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
    let mut tails = starts.map(|at| &rest[at..]);
    tails.any(|tail| fits(tail, after))
}

/// A small file of the kernel's.
fn text(host: &Host, path: &Path) -> Option<String> {
    let mut bytes = std::fs::read(host.real(path)).ok()?;
    bytes.truncate(MAX_BYTES);
    Some(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let place = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = place.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let host = Host::made_up(place.path());
        (place, host)
    }

    #[test]
    fn the_kernel_modules_version_is_found_in_all_wordings() {
        for (told, version) in [
            (
                "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version:  gcc version 12.2.0",
                Some("550.54.15"),
            ),
            (
                "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.20  Release Build  (dvs-builder)\n",
                Some("570.133.20"),
            ),
            ("NVRM version: NVIDIA UNIX aarch64 Kernel Module  470.256  x\n", Some("470.256")),
            ("NVRM version: what\nGCC version:  gcc version 12.2.0\n", None),
            ("", None),
        ] {
            let (_place, host) = host(&[("proc/driver/nvidia/version", told)]);
            assert_eq!(nvidia_module(&host).as_deref(), version, "{told}");
        }
        let (_place, host) = host(&[("sys/module/nvidia/version", "535.1.2\n")]);
        assert_eq!(nvidia_module(&host).as_deref(), Some("535.1.2"));
    }

    #[test]
    fn gpus_and_their_parts_are_listed_in_order() {
        let about = |minor: u32| {
            format!(
                "Model: \t\t NVIDIA H100\nIRQ:   \t\t 4\nGPU UUID: \t GPU-{minor}\nDevice Minor: \t {minor}\n"
            )
        };
        let (ten, two) = (about(10), about(2));
        let access =
            |minor: u32| format!("DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n");
        let (gi, ci) = (access(30), access(31));
        let (_place, host) = host(&[
            ("proc/driver/nvidia/gpus/0000:01:00.0/information", &ten),
            ("proc/driver/nvidia/gpus/0000:02:00.0/information", &two),
            ("proc/driver/nvidia/capabilities/mig/config", ""),
            ("proc/driver/nvidia/capabilities/gpu2/mig/gi3/access", &gi),
            ("proc/driver/nvidia/capabilities/gpu2/mig/gi3/ci0/access", &ci),
            ("dev/nvidia2", ""),
            ("sys/class/drm/renderD128/device/vendor", "0x10de\n"),
            ("sys/class/drm/renderD129/device/vendor", "0x1002\n"),
            ("sys/class/drm/renderD130/device/vendor", "0x8086\n"),
            ("sys/class/drm/renderD131/device/vendor", "0x1af4\n"),
            ("sys/class/accel/accel0/device/vendor", "0x1da3\n"),
            ("sys/class/accel/accel1/device/vendor", "0x8086\n"),
        ]);
        let gpus = Gpus::probe(&host);
        let seen: Vec<_> =
            gpus.gpus.iter().map(|gpu| (gpu.vendor, gpu.device.to_str().unwrap(), gpu.denied)).collect();
        let missing = Some(Denied::Missing);
        assert_eq!(
            seen,
            [
                (Vendor::Nvidia, "/dev/nvidia2", None),
                (Vendor::Nvidia, "/dev/nvidia10", missing),
                (Vendor::Amd, "/dev/dri/renderD129", missing),
                (Vendor::Intel, "/dev/dri/renderD130", missing),
                (Vendor::Gaudi, "/dev/accel/accel0", missing),
            ]
        );
        assert_eq!(gpus.gpus[0].model.as_deref(), Some("NVIDIA H100"));
        assert_eq!(gpus.gpus[0].uuid.as_deref(), Some("GPU-2"));
        let caps = |number: u32| PathBuf::from(format!("/dev/nvidia-caps/nvidia-cap{number}"));
        assert_eq!(
            gpus.parts,
            [Part { gpu: 2, instance: 3, compute: 0, capabilities: vec![caps(30), caps(31)] }]
        );
        assert_eq!(Gpus::probe(&Host::made_up(Path::new("/nonexistent"))), Gpus::default());
    }

    #[test]
    fn patterns_match_names_in_one_directory() {
        let (_place, host) =
            host(&[("dev/nvidia0", ""), ("dev/nvidia-caps/nvidia-cap1", ""), ("dev/null", "")]);
        let found = |pattern: &str| -> Vec<String> {
            matching(&host, Path::new(pattern)).iter().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(found("/dev/nvidia*"), ["/dev/nvidia-caps", "/dev/nvidia0"]);
        assert_eq!(found("/dev/nvidia0"), ["/dev/nvidia0"]);
        assert_eq!(found("/dev/nvidia1"), [""; 0]);
        assert_eq!(found("/none/*"), [""; 0]);
        for (name, pattern, expected) in [
            ("a", "a", true),
            ("10_nvidia.json", "*nvidia*.json", true),
            ("nvidia_icd.x86_64.json", "nvidia_icd*.json", true),
            ("ab", "a*b*", true),
            ("ab", "*a", false),
            ("", "*", true),
        ] {
            assert_eq!(fits(name, pattern), expected, "{name} {pattern}");
        }
    }
}
