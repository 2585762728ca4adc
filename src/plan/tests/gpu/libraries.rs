//! Which libraries, programs and files come.

use super::*;

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
            "left out of what the host has (--nv): libGLdispatch.so.0 (GLIBC_2.38), since libc.so.6 of the image ends at \
             GLIBC_2.31; an image with a newer C library, or with these of its own, has them"
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
