//! Accelerators, on hosts and images made by hand: several drivers, several classes, missing versions, parts of GPUs,
//! files of CDI. No machine with a GPU is needed, and nothing of a vendor's is run.

use super::super::gpu::{bring_in, expect};
use super::*;
use crate::cli::gpu::GpuFlags;
use crate::elf::cache::tests::new_cache;
use crate::elf::made::Made;
use crate::host::gpu::Gpus;

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

/// A host with NVIDIA's driver, also for 32 bits, and what an older driver left behind.
fn nvidia_host(root: &Path) {
    fill(
        root,
        &[
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
        ],
    );
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
    fill(world.host_files.path(), &["dev/kfd", "dev/accel/accel0", "dev/hl0", "run/nvidia-fabricmanager/"]);
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

#[test]
fn the_libraries_are_those_of_the_kernels_driver_and_of_the_images_class() {
    let world = nvidia().gpu(nv);
    let expected = [
        "LIBS/libGLX_nvidia.so.0 < W/libGLX_nvidia.so.550.54.15",
        "LIBS/libcuda.so < W/libcuda.so.550.54.15",
        "LIBS/libcuda.so.1 < W/libcuda.so.550.54.15",
        "LIBS/libnvidia-ml.so.1 < W/libnvidia-ml.so.550.54.15",
        "LIBS/libnvidia-ptxjitcompiler.so.1 < W/libnvidia-ptxjitcompiler.so.550.54.15",
        "LIBS/libvdpau_nvidia.so.1 < W/vdpau/libvdpau_nvidia.so.550.54.15",
        "LIBS/libGL.so.1 < W/libGL.so.1.7.0",
        "LIBS/libGLdispatch.so.0 < W/libGLdispatch.so.0.0.0",
        "LIBS/libOpenCL.so.1 < W/libOpenCL.so.1.0.0",
        "/usr/bin/nvidia-smi",
        "/usr/share/glvnd/egl_vendor.d/10_nvidia.json",
        "/usr/share/vulkan/icd.d/nvidia_icd.json",
        "/etc/OpenCL/vendors/nvidia.icd",
        "/run/nvidia-persistenced/socket",
        "/dev/nvidia-caps",
        "/dev/nvidia-modeset",
        "/dev/nvidia-uvm",
        "/dev/nvidia-uvm-tools",
        "/dev/nvidia0",
        "/dev/nvidia1",
        "/dev/nvidiactl",
        "/dev/dri",
    ];
    // The image has no X11, so it has no program that would use libGLX_nvidia.
    assert_eq!(world.brought(), expected[1..]);
    assert_eq!(world.left_out(), ["libGLX_nvidia.so.0: it needs libX11.so.6, which the image does not have"]);
    assert_eq!(world.told(), [""; 0]);
    let with_x = nvidia().gpu(nv);
    put(with_x.image_files.path(), WIDE, "libX11.so.6", &library("libX11.so.6", OLD));
    assert_eq!(with_x.brought(), expected);
    // What the list takes away stays away.
    assert!(world.brought().iter().all(|line| !line.contains("gtk")));
}

#[test]
fn a_host_without_proc_goes_by_libcuda_and_an_unfit_one_is_told() {
    let hidden = nvidia().gpu(nv);
    fs::remove_dir_all(hidden.host_file("proc/driver")).unwrap();
    let cuda =
        |world: &World| world.brought().into_iter().find(|line| line.contains("libcuda.so.1")).unwrap();
    assert_eq!(cuda(&hidden), "LIBS/libcuda.so.1 < W/libcuda.so.535.183.01");
    // The libraries were replaced under a kernel that still runs the old module.
    let other = nvidia().gpu(nv);
    fs::write(other.host_file("proc/driver/nvidia/version"), "NVRM version: NVIDIA x  560.35.03  x").unwrap();
    assert_eq!(cuda(&other), "LIBS/libcuda.so.1 < W/libcuda.so.535.183.01");
    assert_eq!(
        other.told(),
        [
            "programs will say 'driver/library version mismatch' (--nv): the kernel's module is 560.35.03, and the host's \
          libraries are 535.183.01; reboot the host, or load the module anew"
        ]
    );
}

#[test]
fn glvnd_is_the_images_or_the_hosts_and_never_a_newer_one_than_its_libc() {
    let own = nvidia().gpu(nv);
    put(own.image_files.path(), WIDE, "libGL.so.1", &library("libGL.so.1", OLD));
    assert!(own.brought().iter().all(|line| !line.contains("libGL.so") && !line.contains("libGLdispatch")));
    assert!(
        own.left_out().contains(
            &"libGLdispatch.so.0: the image has /usr/lib/x86_64-linux-gnu/libGL.so.1 of its own".to_owned()
        ),
        "{:?}",
        own.left_out()
    );
    let old = nvidia().gpu(nv);
    glibc(old.image_files.path(), GLIBC_231);
    assert!(old.brought().iter().all(|line| !line.contains("libGL.so") && !line.contains("libGLdispatch")));
    assert!(old.brought().iter().any(|line| line.contains("libcuda.so.1")));
    assert_eq!(
        old.told(),
        [
            "libGLdispatch.so.0 (GLIBC_2.38) of the host are left out (--nv): libc.so.6 of the image ends at GLIBC_2.31; \
          an image with a newer C library, or with these libraries of its own, has them"
        ]
    );
    // What needs it goes with it.
    assert!(
        old.left_out().iter().any(|line| line.starts_with("libGL.so.1: it needs libGLdispatch.so.0")),
        "{:?}",
        old.left_out()
    );
}

#[test]
fn an_image_of_musl_or_without_a_c_library_is_told() {
    let musl = nvidia().gpu(nv).contained();
    fs::remove_dir_all(musl.image_file("usr/lib")).unwrap();
    fs::write(musl.image_file("lib/ld-musl-x86_64.so.1"), "").unwrap();
    assert!(musl.brought().iter().all(|line| !line.contains("LIBS") && !line.contains("nvidia-smi")));
    assert!(musl.brought().contains(&"/dev/nvidia0".to_owned()));
    assert_eq!(musl.told().len(), 1);
    assert!(musl.told()[0].contains("the image's C library is musl"), "{:?}", musl.told());
    let without = nvidia().gpu(nv);
    fs::remove_dir_all(without.image_file("usr/lib")).unwrap();
    assert!(without.brought().iter().any(|line| line.contains("libGL.so.1")));
    assert!(without.told()[0].contains("brought in unchecked (--nv)"), "{:?}", without.told());
}

#[test]
fn a_driver_in_the_image_is_covered_but_not_one_that_is_there_for_older_drivers() {
    let world = nvidia().gpu(nv);
    put(world.image_files.path(), WIDE, "libcuda.so.470.1", &library("libcuda.so.1", OLD));
    put(world.image_files.path(), "usr/local/cuda/compat", "libcuda.so.560.1", &library("libcuda.so.1", OLD));
    let cache = [
        ("libcuda.so.1", "/usr/local/cuda/compat/libcuda.so.1", 0),
        ("libcuda.so.1", "/usr/lib/x86_64-linux-gnu/libcuda.so.1", 0),
        ("libc.so.6", "/usr/lib/x86_64-linux-gnu/libc.so.6", 0),
    ];
    fs::write(world.image_file("etc/ld.so.cache"), new_cache(&cache)).unwrap();
    let cuda: Vec<String> = world.brought().into_iter().filter(|line| line.contains("libcuda.so.")).collect();
    assert_eq!(
        cuda,
        [
            "LIBS/libcuda.so < W/libcuda.so.550.54.15",
            "W/libcuda.so.470.1 < W/libcuda.so.550.54.15",
            "LIBS/libcuda.so.1 < W/libcuda.so.550.54.15",
        ]
    );
    let plan = world.plan().unwrap();
    let over = plan.mounts.iter().find(|mount| mount.target.0.ends_with("libcuda.so.470.1"));
    assert!(over.is_some_and(|mount| mount.because == Because::Flag("--nv".into())));
}

#[test]
fn libraries_of_32_bits_come_when_they_are_asked_for() {
    let world = nvidia().gpu(|flags| (flags.nv, flags.compat32) = (true, true));
    assert!(world.told()[0].contains("the image has no libc.so.6 for them"), "{:?}", world.told());
    let libc = Made { soname: "libc.so.6", defines: GLIBC_239, ..Made::default() };
    let cache = [
        ("libc.so.6", "/usr/lib/i386-linux-gnu/libc.so.6", 0),
        ("libc.so.6", "/usr/lib/x86_64-linux-gnu/libc.so.6", 0),
    ];
    put(world.image_files.path(), NARROW, "libc.so.6", &narrow(libc));
    fs::write(world.image_file("etc/ld.so.cache"), new_cache(&cache)).unwrap();
    let brought = world.brought();
    assert!(brought.contains(&"LIBS32/libcuda.so.1 < N/libcuda.so.550.54.15".to_owned()), "{brought:?}");
    assert!(brought.contains(&"LIBS/libcuda.so.1 < W/libcuda.so.550.54.15".to_owned()));
    assert_eq!(
        world.value("LD_LIBRARY_PATH").as_deref(),
        Some("/.singularity.d/libs:/.singularity.d/libs32")
    );
    // An image of 32 bits alone has them where others have theirs of 64.
    let small = nvidia().gpu(nv);
    fs::remove_dir_all(small.image_file("usr/lib/x86_64-linux-gnu")).unwrap();
    put(
        small.image_files.path(),
        NARROW,
        "libc.so.6",
        &narrow(Made { soname: "libc.so.6", defines: GLIBC_239, ..Made::default() }),
    );
    fs::write(small.image_file("etc/ld.so.cache"), new_cache(&cache)).unwrap();
    assert!(
        small.brought().contains(&"LIBS/libcuda.so.1 < N/libcuda.so.550.54.15".to_owned()),
        "{:?}",
        small.brought()
    );
}

#[test]
fn a_host_without_a_driver_is_told_unless_a_configuration_asks() {
    let bare = || {
        let world = world(&[], &[]);
        glibc(world.image_files.path(), GLIBC_239);
        world
    };
    let all =
        bare().gpu(|flags| (flags.nv, flags.rocm, flags.intel, flags.intel_hpu) = (true, true, true, true));
    let told = all.told();
    let starts = [
        "this host has no NVIDIA driver (--nv): ",
        "this host has no AMD GPU (--rocm): ",
        "this host has no Intel GPU (--intel): ",
        "this host has no Gaudi accelerator (--intel-hpu): ",
    ];
    assert_eq!(told.len(), starts.len(), "{told:?}");
    for (text, start) in told.iter().zip(starts) {
        assert!(text.starts_with(start), "{text}");
    }
    assert!(all.plan().is_ok() && all.brought().is_empty());
    let mut configured = bare();
    configured.config.gpu = vec!["nv".into(), "rocm".into()];
    assert_eq!(configured.told(), [""; 0]);
    let mut configured = nvidia();
    configured.config.gpu = vec!["nv".into()];
    assert!(configured.brought().contains(&"/dev/nvidiactl".to_owned()));
    assert_eq!(configured.injection().unwrap().items[0].because, Because::Config);
    configured.flags.gpu.no_nv = true;
    assert_eq!(configured.brought(), [""; 0]);
}

#[test]
fn what_will_fail_is_told_before_it_does() {
    for (gone, told) in [
        (
            "dev/nvidia-uvm",
            "CUDA will find no GPU (--nv): /dev/nvidia-uvm is not there; as root: nvidia-modprobe -u -c=0",
        ),
        (
            WIDE,
            "the libraries of the host's NVIDIA driver are not found (--nv): the loader's cache has no libcuda.so.1",
        ),
    ] {
        let world = nvidia().gpu(nv);
        let path = world.host_file(gone);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap()
        } else {
            fs::remove_file(path).unwrap()
        }
        assert!(world.told().iter().any(|line| line.starts_with(told)), "{:?}", world.told());
    }
    let unloaded = nvidia().gpu(nv);
    fs::remove_dir_all(unloaded.host_file("proc/driver")).unwrap();
    fs::remove_file(unloaded.host_file("dev/nvidiactl")).unwrap();
    assert!(
        unloaded.told()[0].contains("/dev/nvidiactl is not there; as root: modprobe nvidia"),
        "{:?}",
        unloaded.told()
    );
    let mut part = nvidia().gpu(nv);
    part.host = part.host.with_environment(&[("CUDA_VISIBLE_DEVICES", "MIG-1234")]);
    assert_eq!(part.told(), [""; 0]);
    fs::remove_dir_all(part.host_file("proc/driver/nvidia/capabilities")).unwrap();
    assert!(part.told()[0].contains("no GPU of this host is divided"), "{:?}", part.told());
}

#[test]
fn parts_of_gpus_have_their_capabilities_in_a_contained_dev() {
    let world = nvidia().gpu(nv).contained();
    let mounts = world.all_mounts();
    for node in
        ["/dev/nvidia0", "/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-caps", "/dev/dri"]
    {
        assert!(mounts.contains(&node.to_owned()), "{node}: {mounts:?}");
    }
    let parts = Gpus::probe(&world.host).parts;
    assert_eq!(
        parts[0].capabilities,
        [Path::new("/dev/nvidia-caps/nvidia-cap30"), Path::new("/dev/nvidia-caps/nvidia-cap31")]
    );
    // The host's /dev has them anyway.
    assert!(nvidia().gpu(nv).all_mounts().iter().all(|line| !line.starts_with("/dev/nvidia")));
}

#[test]
fn what_chooses_devices_stays_with_a_clean_environment() {
    let mut world = nvidia();
    world.host = world.host.with_environment(&[
        ("CUDA_VISIBLE_DEVICES", "1"),
        ("NVIDIA_VISIBLE_DEVICES", "all"),
        ("ROCR_VISIBLE_DEVICES", "0"),
        ("OTHER", "x"),
    ]);
    world.flags.cleanenv = true;
    assert_eq!(world.value("CUDA_VISIBLE_DEVICES"), None);
    let world = world.gpu(nv);
    assert_eq!(world.value("CUDA_VISIBLE_DEVICES").as_deref(), Some("1"));
    assert_eq!(world.value("NVIDIA_VISIBLE_DEVICES").as_deref(), Some("all"));
    assert_eq!(world.value("ROCR_VISIBLE_DEVICES"), None);
    let mut world = world.gpu(|flags| flags.rocm = true);
    world.flags.cleanenv = false;
    world.flags.files.containall = true;
    assert_eq!(world.value("ROCR_VISIBLE_DEVICES").as_deref(), Some("0"));
    assert_eq!(world.value("OTHER"), None);
}

#[test]
fn rocm_brings_what_the_image_lacks_and_can_use() {
    let world = world(
        &[
            "dev/kfd",
            "dev/dri/renderD128",
            "dev/dri/card0",
            "usr/share/libdrm/amdgpu.ids",
            "opt/rocm/bin/rocm-smi = #!/usr/bin/python3\nx",
            "opt/rocm/bin/rocminfo = #!/bin/sh\n",
        ],
        &["usr/bin/", "usr/share/"],
    )
    .gpu(|flags| flags.rocm = true)
    .contained();
    glibc(world.image_files.path(), GLIBC_231);
    let host = world.host_files.path();
    put(host, WIDE, "libdrm.so.2.4.0", &library("libdrm.so.2", OLD));
    put(host, WIDE, "libdrm_amdgpu.so.1.0.0", &library("libdrm_amdgpu.so.1", NEW));
    put(host, WIDE, "libnuma.so.1.0.0", &library("libnuma.so.1", OLD));
    let amdocl =
        Made { needed: &["libamd_comgr.so.2", "libhsa-runtime64.so.1"], ..library("libamdocl64.so", OLD) };
    put(host, "opt/rocm/lib", "libamdocl64.so", &amdocl);
    put(host, "opt/rocm/lib", "libamd_comgr.so.2.1", &library("libamd_comgr.so.2", OLD));
    // The image's own counts, whichever version it is of.
    put(world.image_files.path(), WIDE, "libnuma.so.1", &library("libnuma.so.1", OLD));
    assert_eq!(
        world.brought(),
        [
            "LIBS/libdrm.so.2 < W/libdrm.so.2.4.0",
            "LIBS/libamd_comgr.so.2 < /opt/rocm/lib/libamd_comgr.so.2.1",
            "/usr/bin/rocminfo < /opt/rocm/bin/rocminfo",
            "/usr/share/libdrm/amdgpu.ids",
            "/dev/kfd",
            "/dev/dri"
        ]
    );
    let out = world.left_out();
    for line in [
        "libdrm_amdgpu.so.1: it needs GLIBC_2.38 of libc.so.6, and that of the image ends at GLIBC_2.31",
        "libnuma.so.1: the image has /usr/lib/x86_64-linux-gnu/libnuma.so.1 of its own",
        "libamdocl64.so: it needs libhsa-runtime64.so.1, which the image does not have",
        "rocm-smi: it needs /usr/bin/python3, which the image does not have",
    ] {
        assert!(out.contains(&line.to_owned()), "{line}: {out:?}");
    }
    // libamdocl64 is a matter of images with ROCm; libdrm_amdgpu would be missed.
    assert_eq!(world.told().len(), 1, "{:?}", world.told());
}

#[test]
fn intel_devices_come_and_a_site_may_add_libraries() {
    let world = world(
        &[
            "dev/dri/renderD128",
            "dev/accel/accel0",
            "dev/accel/accel_controlD0",
            "dev/hl0",
            "sys/class/drm/renderD128/device/vendor = 0x8086",
            "sys/class/accel/accel0/device/vendor = 0x1da3",
            "etc/skiff/gpu.yaml = intel:\n  missing: [[libze_loader.so, libze_intel_gpu.so]]\n",
        ],
        &[],
    )
    .gpu(|flags| (flags.intel, flags.intel_hpu) = (true, true))
    .contained();
    glibc(world.image_files.path(), GLIBC_231);
    put(world.host_files.path(), WIDE, "libze_loader.so.1.2", &library("libze_loader.so.1", OLD));
    put(world.host_files.path(), WIDE, "libze_intel_gpu.so.1.3", &library("libze_intel_gpu.so.1", OLD));
    assert_eq!(
        world.brought(),
        [
            "LIBS/libze_intel_gpu.so.1 < W/libze_intel_gpu.so.1.3",
            "LIBS/libze_loader.so.1 < W/libze_loader.so.1.2",
            "/dev/dri",
            "/dev/accel",
            "/dev/hl0"
        ]
    );
    assert_eq!(world.told(), [""; 0]);
}

#[test]
fn nested_containers_inherit_what_the_outer_one_was_given() {
    // The outer container is the host here: no cache lists what it was given.
    let world = world(&["dev/nvidiactl", "dev/nvidia-uvm"], &["opt/"]).gpu(nv);
    glibc(world.image_files.path(), GLIBC_239);
    let host = world.host_files.path();
    put(host, ".singularity.d/libs", "libcuda.so.1", &library("libcuda.so.1", OLD));
    put(host, ".singularity.d/libs", "libOpenCL.so.1", &library("libOpenCL.so.1", OLD));
    put(host, ".singularity.d/libs", "libother.so.1", &library("libother.so.1", OLD));
    put(world.image_files.path(), WIDE, "libother.so.1", &library("libother.so.1", OLD));
    let brought = world.brought();
    assert_eq!(
        brought[..2],
        ["/.singularity.d/libs/libcuda.so.1", "/.singularity.d/libs/libOpenCL.so.1"]
            .map(|path| path.replace("/.singularity.d/libs/", "LIBS/"))
    );
    assert!(brought.iter().all(|line| !line.contains("libother")));
    assert_eq!(world.told(), [""; 0]);
}

#[test]
fn libraries_asked_for_by_name_are_brought_or_an_error() {
    let world = nvidia().gpu(|flags| flags.containlibs = vec!["libOpenCL.so.1".into()]);
    assert_eq!(world.brought(), ["LIBS/libOpenCL.so.1 < W/libOpenCL.so.1.0.0"]);
    let by_path = format!("/{WIDE}/libcuda.so.{DRIVER}");
    let world = nvidia().gpu(|flags| flags.containlibs = vec![by_path.clone().into()]);
    assert_eq!(
        world.brought(),
        ["LIBS/libcuda.so.1 < W/libcuda.so.550.54.15", "LIBS/libcuda.so.550.54.15 < W/libcuda.so.550.54.15"]
    );
    let none = nvidia().gpu(|flags| flags.containlibs = vec!["libnone.so".into()]);
    assert_eq!(
        none.error(),
        "cannot bring in the library \"libnone.so\" (--containlibs libnone.so): the host has no such library"
    );
    let small = format!("/{NARROW}/libcuda.so.{DRIVER}");
    let small = nvidia().gpu(|flags| flags.containlibs = vec![small.clone().into()]);
    assert!(
        small.error().ends_with("it is for another processor than the image's programs"),
        "{}",
        small.error()
    );
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

fn with_cdi(text: &str, devices: &[&str]) -> World {
    let world = nvidia().gpu(|flags| flags.device = devices.iter().map(|name| (*name).to_owned()).collect());
    fs::write(world.host_file("etc/cdi/nvidia.yaml"), text).unwrap();
    world
}

#[test]
fn a_device_of_cdi_is_what_its_file_says_done_without_its_hooks() {
    let world = with_cdi(CDI, &["nvidia.com/gpu=0"]).contained();
    assert_eq!(
        world.brought(),
        [
            "/dev/nvidia-uvm",
            "/dev/nvidiactl",
            "/dev/nvidia0",
            "/dev/dri/renderD128",
            "W/libcuda.so.550.54.15",
            "W/libnvidia-ml.so.550.54.15",
            "W/libGLdispatch.so.0.0.0",
            "/usr/bin/nvidia-smi",
            "/run/nvidia-persistenced/socket",
            "LIBS/libcuda.so.1 < W/libcuda.so.550.54.15",
            "LIBS/libnvidia-ml.so.1 < W/libnvidia-ml.so.550.54.15",
            "LIBS/libGLdispatch.so.0 < W/libGLdispatch.so.0.0.0",
            "W/gbm/ml.so < W/libnvidia-ml.so.550.54.15",
            "W/libcuda.so < W/libcuda.so.550.54.15",
            "/dev/dri/by-path/pci-0000:01:00.0-render < /dev/dri/renderD128",
        ]
    );
    assert_eq!(
        world.left_out(),
        [
            "/run/nvidia-fabricmanager/socket: this host does not have it now",
            "/usr/lib/none: it would lead to /usr/lib/nothing, which is not brought in"
        ]
    );
    assert_eq!(world.told(), [""; 0]);
    assert_eq!(world.value("NVIDIA_VISIBLE_DEVICES").as_deref(), Some("void"));
    let mounts = world.all_mounts();
    for line in [
        "/dev/nvidia0",
        "/dev/dri/by-path/pci-0000:01:00.0-render < /dev/dri/renderD128",
        "/usr/lib/x86_64-linux-gnu/libcuda.so < /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15 ro",
        "/run/nvidia-persistenced/socket",
    ] {
        assert!(mounts.contains(&line.to_owned()), "{line}: {mounts:#?}");
    }
    assert!(mounts.iter().all(|line| !line.contains("/dev/nvidia1")));
    assert_eq!(world.value("LD_LIBRARY_PATH").as_deref(), Some("/.singularity.d/libs"));
}

#[test]
fn libraries_of_a_cdi_file_pass_the_same_check() {
    let world = with_cdi(CDI, &["nvidia.com/gpu=1"]);
    glibc(world.image_files.path(), GLIBC_231);
    assert!(world.brought().iter().all(|line| !line.contains("libGLdispatch")), "{:?}", world.brought());
    assert!(
        world.told()[0].starts_with(
            "libGLdispatch.so.0 (GLIBC_2.38) of the host are left out (--device nvidia.com/gpu=1)"
        ),
        "{:?}",
        world.told()
    );
}

#[test]
fn a_newer_cuda_of_the_image_is_preferred_where_the_hook_asks_for_it() {
    for (compat, path) in [
        ("560.35.03", "/usr/local/cuda/compat:/.singularity.d/libs"),
        ("550.99", "/.singularity.d/libs"),
        ("99.1", "/.singularity.d/libs"),
    ] {
        let world = with_cdi(CDI, &["nvidia.com/gpu=1"]);
        put(
            world.image_files.path(),
            "usr/local/cuda/compat",
            &format!("libcuda.so.{compat}"),
            &library("libcuda.so.1", OLD),
        );
        assert_eq!(world.value("LD_LIBRARY_PATH").as_deref(), Some(path), "{compat}");
    }
}

#[test]
fn what_a_cdi_file_names_and_the_host_lacks_is_an_error_with_what_to_do() {
    let stale = with_cdi(&CDI.replace("550.54.15", "550.54.14"), &["nvidia.com/gpu=0"]);
    let error = stale.plan().unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot use --device nvidia.com/gpu=0: its file names \"/usr/lib/x86_64-linux-gnu/libcuda.so.550.54.14\", which this host does not have"
    );
    assert!(error.hint.unwrap().contains("nvidia-ctk cdi generate"));
    let node = with_cdi(&CDI.replace("/dev/nvidia1", "/dev/nvidia7"), &["nvidia.com/gpu=1"]);
    assert!(node.error().contains("\"/dev/nvidia7\""), "{}", node.error());
    let unknown = nvidia().gpu(|flags| flags.device = vec!["nvidia.com/gpu=all".into()]);
    let error = unknown.plan().unwrap_err();
    assert!(error.to_string().ends_with("no file describes nvidia.com/gpu here"), "{error}");
    assert!(error.hint.unwrap().contains("or use --nv"));
}

#[test]
fn what_no_container_of_a_user_can_have_is_told() {
    let text = r#"{"cdiVersion": "1.1.0", "kind": "acme.com/nic", "devices": [{"name": "a", "containerEdits": {
        "netDevices": [{"hostInterfaceName": "eth9", "name": "e0"}], "intelRdt": {"closID": "x"}, "additionalGids": [0, 1000, 44],
        "mounts": [{"hostPath": "tmpfs", "containerPath": "/x", "type": "tmpfs"}],
        "deviceNodes": [{"path": "/dev/acme0", "hostPath": "/dev/null"}],
        "hooks": [{"hookName": "createRuntime", "path": "/opt/acme/hook", "args": ["hook", "go"]}]}}]}"#;
    let world = nvidia().gpu(|flags| {
        flags.device = vec!["acme.com/nic=a".into()];
        flags.cdi_dirs = vec!["/opt/cdi".into()];
    });
    let world = world.contained();
    fs::write(world.host_file("opt/cdi/acme.json"), text).unwrap();
    let told = world.told();
    for (line, start) in told.iter().zip([
        "the hook \"hook go\" (--device acme.com/nic=a) is not run",
        "the network device \"eth9\" (--device acme.com/nic=a) is not moved",
        "intelRdt (--device acme.com/nic=a) has no effect",
        "the group 44 (--device acme.com/nic=a) is not given",
    ]) {
        assert!(line.starts_with(start), "{line}");
    }
    assert_eq!(told.len(), 4, "{told:?}");
    assert_eq!(
        world.left_out(),
        ["/x: its file asks for a file system of type tmpfs, and skiff makes binds alone"]
    );
    assert!(world.all_mounts().contains(&"/dev/acme0 < /dev/null".to_owned()));
}

#[test]
fn flags_and_devices_of_cdi_go_together() {
    let world = with_cdi(CDI, &["nvidia.com/gpu=0"]).gpu(nv).contained();
    let brought = world.brought();
    for line in [
        "LIBS/libOpenCL.so.1 < W/libOpenCL.so.1.0.0",
        "/dev/nvidia1",
        "W/libcuda.so < W/libcuda.so.550.54.15",
    ] {
        assert!(brought.contains(&line.to_owned()), "{line}");
    }
    let plan = world.plan().unwrap();
    let mut targets: Vec<_> = plan.mounts.iter().map(|mount| &mount.target.0).collect();
    let all = targets.len();
    targets.sort();
    targets.dedup();
    assert_eq!(targets.len(), all, "nothing is mounted twice");
    assert_eq!(world.value("NVIDIA_VISIBLE_DEVICES").as_deref(), Some("void"));
}

#[test]
fn an_image_that_wants_a_newer_cuda_is_told() {
    let told = |wanted: &str, driver: &str, more: &[(&str, &str)]| {
        let world = world(&[], &[]);
        let tree = Tree::Directory(Directory::open(world.image_files.path()).unwrap());
        let mut env = vec![(OsString::from("NVIDIA_REQUIRE_CUDA"), OsString::from(wanted))];
        env.extend(more.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        expect::requirement(&env, Some(driver), &tree)
    };
    let wanted = "cuda>=12.4 brand=tesla,driver>=470,driver<471 brand=unknown,driver>=470,driver<471";
    assert_eq!(
        told(wanted, "535.183.01", &[]).unwrap(),
        "programs may say that the CUDA driver is insufficient: the image wants cuda>=12.4, and the host's driver \
         535.183.01 has CUDA 12.2; use an image with an older CUDA, or a host with a newer driver"
    );
    for (wanted, driver) in [
        (wanted, "550.54.15"),
        (wanted, "470.256.02"),
        (wanted, "999.1"),
        ("cuda>=11.0", "450.80"),
        ("", "450.80"),
        ("what,ever", "450.80"),
        ("driver>=535.100", "535.183.01"),
    ] {
        assert_eq!(told(wanted, driver, &[]), None, "{wanted} {driver}");
    }
    assert!(told("driver>=535.200", "535.183.01", &[]).is_some());
    assert_eq!(told(wanted, "535.183.01", &[("NVIDIA_DISABLE_REQUIRE", "1")]), None);
    // In a plan it is the image's own variable that counts.
    let world = nvidia().gpu(nv);
    fs::write(
        world.image_file(".singularity.d/env/10-docker2singularity.sh"),
        "export NVIDIA_REQUIRE_CUDA=\"cuda>=13.1\"\n",
    )
    .unwrap();
    let warnings = world.plan().unwrap().warnings;
    assert!(
        warnings[0].contains("the image wants cuda>=13.1, and the host's driver 550.54.15 has CUDA 12.4"),
        "{warnings:?}"
    );
}

#[test]
fn a_plan_with_nothing_asked_for_reads_nothing_of_it() {
    let world = nvidia();
    fs::write(world.host_file("etc/skiff/gpu.yaml"), "nonsense: [").unwrap();
    assert_eq!(world.injection().unwrap(), Injection::default());
    assert!(world.gpu(nv).error().contains("gpu.yaml"));
}
