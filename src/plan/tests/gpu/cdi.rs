//! Devices of CDI.

use super::*;

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
            "left out of what the host has (--device nvidia.com/gpu=1): libGLdispatch.so.0 (GLIBC_2.38)"
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
