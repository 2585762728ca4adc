//! Accelerators as a user brings them in, on machines that need have none: devices by a CDI file of the user's own,
//! libraries by name, and what is said where there is no driver.

use std::path::Path;

use crate::harness::{Need, Place, able, debian_image, finish};

const NEEDS: [Need; 3] = [Need::Userns, Need::Fuse, Need::Busybox];

/// A file that describes a device: the host's /dev/zero by another name, a file, links to both, a variable.
fn describe(place: &Place) {
    std::fs::create_dir_all(place.work("cdi")).expect("a directory can be made");
    place.write("data", "of the host\n");
    let data = place.work("data").display().to_string();
    let text = format!(
        r#"cdiVersion: "0.6.0"
kind: acme.com/card
devices:
- name: "0"
  containerEdits:
    env: [ACME=card 0]
    deviceNodes:
    - {{path: /dev/acme0, hostPath: /dev/zero}}
    - {{path: /dev/full}}
    mounts:
    - {{hostPath: {data}, containerPath: /opt/acme/lib/data.1, options: [ro, bind]}}
    hooks:
    - {{hookName: createContainer, path: /usr/bin/nvidia-cdi-hook, args: [nvidia-cdi-hook, create-symlinks, --link, "data.1::/opt/acme/lib/data", --link, "../zero::/dev/acme/by-name"]}}
    - {{hookName: createContainer, path: /opt/acme/hook, args: [hook]}}
"#
    );
    place.write("cdi/acme.yaml", text);
    crate::harness::give(&place.work("cdi"));
}

#[test]
fn a_device_of_a_cdi_file_is_there_with_all_that_its_file_says() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("gpu-cdi");
    place.busybox_image();
    describe(&place);
    let script = "echo $ACME; stat -c %t:%T /dev/acme0 /dev/acme/by-name; head -c 2 /dev/acme0 | od -An -tx1; \
                  cat /opt/acme/lib/data; ls /dev | grep -c null; (echo x >>/opt/acme/lib/data.1) 2>&1 | tail -c 22";
    let words = [
        "exec",
        "--contain",
        "--device",
        "acme.com/card=0",
        "--cdi-dirs",
        "cdi",
        "busybox.sif",
        "sh",
        "-c",
        script,
    ];
    let output = place.run(words);
    assert_eq!(
        output.stdout, "card 0\n1:5\n1:5\n 00 00\nof the host\n1\nRead-only file system\n",
        "{}",
        output.stderr
    );
    let said = &output.stderr;
    assert!(said.contains("warning: the hook \"hook\" (--device acme.com/card=0) is not run"), "{said}");
    for (device, told) in [
        ("acme.com/card=1", "acme.com/card has no device of this name here\nhint: it has 0"),
        ("acme.com/disk=0", "no file describes acme.com/disk here"),
        ("/dev/zero", "is called VENDOR/CLASS=NAME"),
    ] {
        let said =
            place.run(["exec", "--device", device, "--cdi-dirs", "cdi", "busybox.sif", "true"]).fails(255);
        assert!(said.contains(told), "{said}");
    }
}

#[test]
fn the_host_and_what_an_image_would_get_are_shown() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("gpu-show");
    place.busybox_image();
    describe(&place);
    place.write("cdi/bad.json", "{");
    crate::harness::give(&place.work("cdi"));
    let shown = place.run(["gpu", "--cdi-dirs", "cdi"]).ok();
    assert!(shown.contains("devices for --device\n  acme.com/card=0 (cdi/acme.yaml)\n"), "{shown}");
    assert!(shown.contains("cdi/bad.json cannot be used: EOF while parsing"), "{shown}");
    let json = place.run(["gpu", "--json", "--cdi-dirs", "cdi"]).ok();
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["cdi"]["devices"][0]["name"], "acme.com/card=0");
    assert!(json["accelerators"]["gpus"].is_array());
    let asked = ["gpu", "--device", "acme.com/card=0", "--cdi-dirs", "cdi", "busybox.sif"];
    let shown = place.run(asked).stdout;
    assert!(shown.contains("/opt/acme/lib/data.1") && shown.contains("ACME=card 0"), "{shown}");
    let json = place.run([&asked[..], &["--json"]].concat()).ok();
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["brought"][0]["target"], "/dev/acme0");
    assert_eq!(json["variables"]["ACME"], "card 0");
}

#[test]
fn without_a_driver_the_program_starts_and_it_is_said_why_it_finds_no_gpu() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("gpu-none");
    place.busybox_image();
    for (flag, device, told) in [
        (
            "--nv",
            "/dev/nvidiactl",
            "this host has no NVIDIA driver (--nv): neither /dev/nvidiactl nor libcuda.so.1",
        ),
        ("--rocm", "/dev/kfd", "this host has no AMD GPU (--rocm): /dev/kfd is not there"),
    ] {
        let output = place.run(["exec", flag, "busybox.sif", "echo", "started"]);
        assert_eq!(output.stdout, "started\n", "{}", output.stderr);
        assert_eq!(output.stderr.contains(told), !Path::new(device).exists(), "{}", output.stderr);
    }
    if Path::new("/dev/nvidiactl").exists() {
        return;
    }
    let mut by_variable = place.skiff(["exec", "busybox.sif", "true"]);
    let said = finish(by_variable.env("SINGULARITY_NV", "1")).stderr;
    assert!(said.contains("this host has no NVIDIA driver (SINGULARITY_NV)"), "{said}");
    let mut off = place.skiff(["exec", "--no-nv", "busybox.sif", "true"]);
    assert_eq!(finish(off.env("SINGULARITY_NV", "1")).stderr, "");
}

#[test]
fn libraries_of_the_host_are_found_by_programs_of_the_image() {
    if !able(&[Need::Userns, Need::Fuse, Need::Debian]) {
        return;
    }
    let place = Place::new("gpu-libraries");
    let image = debian_image().display().to_string();
    let script = "ls /.singularity.d/libs; echo $LD_LIBRARY_PATH; \
                  LD_PRELOAD=libutil.so.1 LD_DEBUG=files ls 2>&1 | grep -c '/.singularity.d/libs/libutil.so.1'";
    let printed = place.run(["exec", "--containlibs", "libutil.so.1", &image, "sh", "-c", script]).ok();
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines[0], "libutil.so.1");
    assert!(lines[1].ends_with("/.singularity.d/libs"), "{printed}");
    assert_ne!(lines[2], "0");
    let said = place.run(["exec", "--containlibs", "libnone.so.9", &image, "true"]).fails(255);
    assert!(said.contains("cannot bring in the library \"libnone.so.9\""), "{said}");
}
