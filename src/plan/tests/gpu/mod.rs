//! Accelerators, on hosts and images made by hand: several drivers, several classes, missing versions, parts of GPUs,
//! files of CDI. No machine with a GPU is needed, and nothing of a vendor's is run.

mod cdi;
mod expect;
mod libraries;

use super::super::gpu::bring_in;
use super::*;
use crate::cli::gpu::GpuFlags;
use crate::elf::cache::tests::new_cache;
use crate::elf::made::Made;

/// Where libraries of 64 and of 32 bits are on a host of Debian's kind.
const WIDE: &str = "usr/lib/x86_64-linux-gnu";
const NARROW: &str = "usr/lib/i386-linux-gnu";
/// The driver that the kernel runs.
const DRIVER: &str = "550.54.15";

/// A made library's needs: of libc alone, up to this version.
fn library<'a>(soname: &'a str, requires: &'a [(&'a str, &'a [&'a str])]) -> Made<'a> {
    Made { soname, needed: &["libc.so.6"], requires, ..Made::default() }
}

const OLD: &[(&str, &[&str])] = &[("libc.so.6", &["GLIBC_2.2.5"])];
const NEW: &[(&str, &[&str])] = &[("libc.so.6", &["GLIBC_2.2.5", "GLIBC_2.38"])];

/// A file of the driver with the links that ldconfig makes.
fn put(root: &Path, directory: &str, file: &str, made: &Made<'_>) {
    let at = root.join(directory);
    made.write(&at.join(file));
    if !made.soname.is_empty() && made.soname != file {
        let link = at.join(made.soname);
        let _ = fs::remove_file(&link);
        symlink(file, link).unwrap();
    }
}

fn narrow(made: Made<'_>) -> Made<'_> {
    Made { narrow: true, machine: 3, ..made }
}

/// Devices, what the kernel tells of them, and data of the driver.
const NVIDIA_FILES: &[&str] = &[
    "dev/nvidia0",
    "dev/nvidia1",
    "dev/nvidiactl",
    "dev/nvidia-uvm",
    "dev/nvidia-uvm-tools",
    "dev/nvidia-modeset",
    "dev/nvidia-caps/nvidia-cap1",
    "dev/nvidia-caps/nvidia-cap30",
    "dev/nvidia-caps/nvidia-cap31",
    "dev/dri/renderD128",
    "dev/null",
    "proc/driver/nvidia/version = NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar",
    "proc/driver/nvidia/gpus/0000:01:00.0/information = Model: NVIDIA H100\nGPU UUID: GPU-1\nDevice Minor: 0",
    "proc/driver/nvidia/capabilities/gpu0/mig/gi1/access = DeviceFileMinor: 30",
    "proc/driver/nvidia/capabilities/gpu0/mig/gi1/ci0/access = DeviceFileMinor: 31",
    "etc/OpenCL/vendors/nvidia.icd = libnvidia-opencl.so.1",
    "usr/share/glvnd/egl_vendor.d/10_nvidia.json = {}",
    "usr/share/vulkan/icd.d/nvidia_icd.json = {}",
    "run/nvidia-persistenced/socket",
];

/// A host with NVIDIA's driver, also for 32 bits, and what an older driver left behind.
fn nvidia_host(root: &Path) {
    fill(root, NVIDIA_FILES);
    library("", OLD).write(&root.join("usr/bin/nvidia-smi"));
    for version in ["535.183.01", DRIVER] {
        for (base, soname) in [
            ("libcuda.so", "libcuda.so.1"),
            ("libnvidia-ml.so", "libnvidia-ml.so.1"),
            ("libnvidia-ptxjitcompiler.so", "libnvidia-ptxjitcompiler.so.1"),
            ("libnvidia-gtk3.so", ""),
        ] {
            let own = format!("{base}.{version}");
            let soname = if soname.is_empty() { &own } else { soname };
            put(root, WIDE, &format!("{base}.{version}"), &library(soname, OLD));
            if version == DRIVER {
                put(root, NARROW, &format!("{base}.{version}"), &narrow(library(soname, OLD)));
            }
        }
    }
    // What the older driver left: its library still has the name by which programs look for it.
    for soname in ["libcuda.so.1", "libnvidia-ml.so.1"] {
        let link = root.join(WIDE).join(soname);
        fs::remove_file(&link).unwrap();
        symlink(format!("{}.535.183.01", soname.strip_suffix(".1").unwrap()), link).unwrap();
    }
    symlink(format!("libcuda.so.{DRIVER}"), root.join(WIDE).join("libcuda.so")).unwrap();
    put(root, WIDE, "vdpau/libvdpau_nvidia.so.550.54.15", &library("libvdpau_nvidia.so.1", OLD));
    let glx = Made { needed: &["libX11.so.6", "libc.so.6"], ..library("libGLX_nvidia.so.0", OLD) };
    put(root, WIDE, "libGLX_nvidia.so.550.54.15", &glx);
    // The distribution's own: built against the host's C library.
    put(root, WIDE, "libGLdispatch.so.0.0.0", &library("libGLdispatch.so.0", NEW));
    let gl = Made { needed: &["libGLdispatch.so.0", "libc.so.6"], ..library("libGL.so.1", OLD) };
    put(root, WIDE, "libGL.so.1.7.0", &gl);
    put(root, WIDE, "libOpenCL.so.1.0.0", &library("libOpenCL.so.1", OLD));
    let wide = |name: &str| format!("/{WIDE}/{name}");
    let narrow = |name: &str| format!("/{NARROW}/{name}");
    let names = [
        // The 32-bit ones come first, as on hosts where the cache was made so.
        ("libcuda.so.1", narrow("libcuda.so.1")),
        ("libcuda.so.1", wide("libcuda.so.1")),
        ("libcuda.so", wide("libcuda.so")),
        ("libnvidia-ml.so.1", narrow("libnvidia-ml.so.1")),
        ("libnvidia-ml.so.1", wide("libnvidia-ml.so.1")),
        ("libGL.so.1", wide("libGL.so.1")),
        ("libGLdispatch.so.0", wide("libGLdispatch.so.0")),
        ("libOpenCL.so.1", wide("libOpenCL.so.1")),
    ];
    let entries: Vec<(&str, &str, u64)> =
        names.iter().map(|(name, path)| (*name, path.as_str(), 0)).collect();
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/ld.so.cache"), new_cache(&entries)).unwrap();
}

/// An image's C library with these versions.
fn glibc(root: &Path, versions: &[&str]) {
    let libc = Made { soname: "libc.so.6", defines: versions, ..Made::default() };
    put(root, WIDE, "libc.so.6", &libc);
}

const GLIBC_231: &[&str] = &["GLIBC_2.2.5", "GLIBC_2.31"];
const GLIBC_239: &[&str] = &["GLIBC_2.2.5", "GLIBC_2.38", "GLIBC_2.39"];

fn nvidia() -> World {
    let world = world(&[], &["usr/bin/", "opt/", ".singularity.d/libs/"]);
    nvidia_host(world.host_files.path());
    glibc(world.image_files.path(), GLIBC_239);
    world
}

/// Accelerators of all vendors for a made world, and an image that has not all that their libraries need.
pub fn furnish(world: &World) {
    nvidia_host(world.host_files.path());
    fill(
        world.host_files.path(),
        &[
            "dev/kfd",
            "dev/dri/renderD129",
            "sys/class/drm/renderD129/device/vendor = 0x8086",
            "dev/accel/accel0",
            "dev/hl0",
            "run/nvidia-fabricmanager/",
        ],
    );
    fs::write(world.host_file("etc/cdi/nvidia.yaml"), CDI).unwrap();
    glibc(world.image_files.path(), GLIBC_231);
}

impl World {
    fn gpu(mut self, change: impl Fn(&mut GpuFlags)) -> Self {
        change(&mut self.flags.gpu);
        self
    }

    fn contained(mut self) -> Self {
        self.flags.files.contain = true;
        self
    }

    fn injection(&self) -> Result<Injection> {
        let tree = Tree::Directory(Directory::open(self.image_files.path()).unwrap());
        bring_in(&self.flags.gpu, &self.host, &self.config, &tree)
    }

    /// What is brought: `target < source`, both without the usual directories.
    fn brought(&self) -> Vec<String> {
        let short = |path: &Path| {
            let text = path.display().to_string();
            let text =
                text.replace("/.singularity.d/libs/", "LIBS/").replace("/.singularity.d/libs32/", "LIBS32/");
            text.replace("/usr/lib/x86_64-linux-gnu/", "W/").replace("/usr/lib/i386-linux-gnu/", "N/")
        };
        let injection = self.injection().unwrap();
        let items = injection.items.iter().map(|item| {
            let (target, source) = (item.target(), &item.source);
            if target == *source { short(source) } else { format!("{} < {}", short(&target), short(source)) }
        });
        items.collect()
    }

    fn told(&self) -> Vec<String> {
        self.injection().unwrap().warnings
    }

    fn left_out(&self) -> Vec<String> {
        let injection = self.injection().unwrap();
        injection.left_out.iter().map(|out| format!("{}: {}", out.what, out.why)).collect()
    }

    fn image_file(&self, name: &str) -> PathBuf {
        let path = self.image_files.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn host_file(&self, name: &str) -> PathBuf {
        let path = self.host_files.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }
}

fn nv(flags: &mut GpuFlags) {
    flags.nv = true;
}

/// A CDI file as nvidia-ctk writes it for the made host.
const CDI: &str = r#"
cdiVersion: 0.6.0
kind: nvidia.com/gpu
containerEdits:
  env: [NVIDIA_VISIBLE_DEVICES=void, "NVIDIA_CTK_LIBCUDA_DIR=/usr/lib/x86_64-linux-gnu"]
  deviceNodes:
  - path: /dev/nvidia-uvm
  - path: /dev/nvidiactl
  hooks:
  - {hookName: createContainer, path: /usr/bin/nvidia-cdi-hook, args: [nvidia-cdi-hook, create-symlinks, --link, "libcuda.so.1::/usr/lib/x86_64-linux-gnu/libcuda.so", --link, "../libnvidia-ml.so.1::/usr/lib/x86_64-linux-gnu/gbm/ml.so", --link, "nothing::/usr/lib/none"]}
  - {hookName: createContainer, path: /usr/bin/nvidia-cdi-hook, args: [nvidia-cdi-hook, enable-cuda-compat, --host-driver-version=550.54.15]}
  - {hookName: createContainer, path: /usr/bin/nvidia-cdi-hook, args: [nvidia-cdi-hook, update-ldcache, --folder, /usr/lib/x86_64-linux-gnu]}
  - {hookName: createContainer, path: /usr/bin/nvidia-cdi-hook, args: [nvidia-cdi-hook, disable-device-node-modification]}
  mounts:
  - {hostPath: /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15, containerPath: /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15, options: [ro, nosuid, nodev, bind]}
  - {hostPath: /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.550.54.15, containerPath: /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.550.54.15, options: [ro, bind]}
  - {hostPath: /usr/lib/x86_64-linux-gnu/libGLdispatch.so.0.0.0, containerPath: /usr/lib/x86_64-linux-gnu/libGLdispatch.so.0.0.0, options: [ro, bind]}
  - {hostPath: /usr/bin/nvidia-smi, containerPath: /usr/bin/nvidia-smi, options: [ro, bind]}
  - {hostPath: /run/nvidia-persistenced/socket, containerPath: /run/nvidia-persistenced/socket, options: [rw, bind, noexec]}
  - {hostPath: /run/nvidia-fabricmanager/socket, containerPath: /run/nvidia-fabricmanager/socket, options: [ro, bind]}
devices:
- {name: "0", containerEdits: {deviceNodes: [{path: /dev/nvidia0}, {path: /dev/dri/renderD128}], hooks: [{hookName: createContainer, path: /usr/bin/nvidia-ctk, args: [nvidia-ctk, hook, create-symlinks, --link, "../renderD128::/dev/dri/by-path/pci-0000:01:00.0-render"]}]}}
- {name: "1", containerEdits: {deviceNodes: [{path: /dev/nvidia1, hostPath: /dev/nvidia1}]}}
"#;
