//! What is told before the start, and what chooses devices.

use super::*;
use crate::config::Accelerator;
use crate::host::gpu::Gpus;
use crate::plan::gpu::expect;

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
    // A host with libraries that any desktop has is none with a driver.
    put(all.host_files.path(), WIDE, "libGL.so.1", &library("libGL.so.1", OLD));
    put(all.host_files.path(), WIDE, "libdrm.so.2", &library("libdrm.so.2", OLD));
    assert!(all.plan().is_ok() && all.brought().is_empty());
    let mut configured = bare();
    configured.config.gpu = vec![Accelerator::Nv, Accelerator::Rocm];
    assert_eq!(configured.told(), [""; 0]);
    let mut configured = nvidia();
    configured.config.gpu = vec![Accelerator::Nv];
    assert!(configured.brought().contains(&"/dev/nvidiactl".to_owned()));
    assert_eq!(configured.injection().unwrap().items[0].because, Because::Config);
    configured.flags.gpu.no_nv = true;
    assert_eq!(configured.brought(), [""; 0]);
    configured.flags.gpu.no_nv = false;
    configured.host.off = vec!["--nv".to_owned()];
    assert_eq!(configured.brought(), [""; 0], "--nv=false");
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
