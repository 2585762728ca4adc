//! CDI files as vendors' tools write them, and as they do not.

use super::*;
use crate::host::cdi::check::VERSIONS;

/// As nvidia-ctk writes it: the whole file's edits, and a device by number, by UUID, and for all.
const NVIDIA: &str = r#"---
cdiVersion: 0.6.0
kind: nvidia.com/gpu
containerEdits:
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  deviceNodes:
  - path: /dev/nvidiactl
  - path: /dev/nvidia-uvm
  hooks:
  - hookName: createContainer
    path: /usr/bin/nvidia-cdi-hook
    args: [nvidia-cdi-hook, update-ldcache, --folder, /usr/lib/x86_64-linux-gnu]
  mounts:
  - hostPath: /usr/lib/x86_64-linux-gnu/libcuda.so.570.133.20
    containerPath: /usr/lib/x86_64-linux-gnu/libcuda.so.570.133.20
    options: [ro, nosuid, nodev, bind]
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
- name: GPU-6cf00fa7-59ac-16f2-3e83-d24ccdc56f84
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
- name: "1:0"
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia1
    - path: /dev/nvidia-caps/nvidia-cap30
- name: all
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
    - path: /dev/nvidia1
"#;

/// As amd-ctk writes it, without a device for all.
const AMD: &str = r#"{
  "cdiVersion": "0.6.0", "kind": "amd.com/gpu",
  "devices": [
    {"name": "0", "containerEdits": {"deviceNodes": [
      {"path": "/dev/dri/card1", "hostPath": "/dev/dri/card1", "type": "c", "major": 226, "minor": 1, "permissions": "rw"},
      {"path": "/dev/dri/renderD128", "hostPath": "/dev/dri/renderD128", "permissions": "rw"}]}},
    {"name": "1", "containerEdits": {"deviceNodes": [
      {"path": "/dev/dri/renderD129", "permissions": "rw"}], "hooks": null}}
  ],
  "containerEdits": {"deviceNodes": [{"path": "/dev/kfd", "fileMode": 438, "uid": 0, "gid": 44}]}
}"#;

fn registry(files: &[(&str, &str)]) -> Registry {
    let place = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = place.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    Registry::load(&Host::made_up(place.path()), &DIRECTORIES.map(PathBuf::from))
}

fn nodes(registry: &Registry, names: &[&str]) -> Result<Vec<String>> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    Ok(registry.edits(&names)?.device_nodes.into_iter().map(|node| node.path).collect())
}

#[test]
fn the_files_of_vendors_are_read_and_their_edits_joined() {
    let registry = registry(&[
        ("etc/cdi/nvidia.yaml", NVIDIA),
        ("var/run/cdi/amd.json", AMD),
        ("etc/cdi/note.txt", "x"),
    ]);
    assert!(registry.faults.is_empty(), "{:?}", registry.faults);
    assert_eq!(registry.list().len(), 6);
    assert_eq!(
        nodes(&registry, &["nvidia.com/gpu=0", "nvidia.com/gpu=1:0", "nvidia.com/gpu=0"]).unwrap(),
        [
            "/dev/nvidiactl",
            "/dev/nvidia-uvm",
            "/dev/nvidia0",
            "/dev/nvidia1",
            "/dev/nvidia-caps/nvidia-cap30"
        ]
    );
    assert_eq!(
        nodes(&registry, &["nvidia.com/gpu=all"]).unwrap(),
        ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidia1"]
    );
    // No device of that name: all of the kind.
    assert_eq!(
        nodes(&registry, &["amd.com/gpu=all"]).unwrap(),
        ["/dev/kfd", "/dev/dri/card1", "/dev/dri/renderD128", "/dev/dri/renderD129"]
    );
}

#[test]
fn what_cannot_be_found_is_told_with_what_there_is() {
    let registry = registry(&[("etc/cdi/nvidia.yaml", NVIDIA), ("etc/cdi/bad.yaml", "kind: [")]);
    let told = |name: &str| {
        let error = nodes(&registry, &[name]).unwrap_err();
        format!("{error} | {}", error.hint.as_deref().unwrap_or_default())
    };
    let none = told("nvidia.com/gpu=7");
    assert!(
        none.contains("nvidia.com/gpu has no device of this name here | it has 0, 1:0, GPU-6cf"),
        "{none}"
    );
    let kind = told("amd.com/gpu=0");
    assert!(kind.contains("no file describes amd.com/gpu here | as root: amd-ctk"), "{kind}");
    assert!(kind.contains("\"/etc/cdi/bad.yaml\" cannot be used"), "{kind}");
    for name in
        ["/dev/nvidia0", "nvidia.com/gpu", "gpu=0", "1x/gpu=0", "a.b/c=", "a.b/c=x/y", "a.b/=x", "a/b/c=x"]
    {
        assert!(told(name).contains("is called VENDOR/CLASS=NAME"), "{}", told(name));
    }
}

#[test]
fn the_later_directory_counts_and_rivals_in_one_are_a_conflict() {
    let file = |node: &str| AMD.replace("/dev/kfd", node);
    let later = registry(&[("etc/cdi/a.json", AMD), ("var/run/cdi/z.json", &file("/dev/later"))]);
    assert_eq!(nodes(&later, &["amd.com/gpu=1"]).unwrap(), ["/dev/later", "/dev/dri/renderD129"]);
    let rivals = registry(&[("etc/cdi/a.json", AMD), ("etc/cdi/b.json", &file("/dev/b"))]);
    let told = nodes(&rivals, &["amd.com/gpu=1"]).unwrap_err().to_string();
    assert!(told.ends_with("\"/etc/cdi/a.json\" and \"/etc/cdi/b.json\" describe it both"), "{told}");
    assert!(rivals.list().iter().all(|listed| listed.conflict));
    // Rivals below do not matter.
    let above = registry(&[
        ("etc/cdi/a.json", AMD),
        ("etc/cdi/b.json", AMD),
        ("var/run/cdi/c.json", &file("/dev/c")),
    ]);
    assert_eq!(nodes(&above, &["amd.com/gpu=1"]).unwrap(), ["/dev/c", "/dev/dri/renderD129"]);
}

#[test]
fn a_file_must_say_the_version_that_it_needs() {
    let with = |version: &str, kind: &str, edits: &str, name: &str| {
        let text = format!(
            "{{\"cdiVersion\": {version:?}, \"kind\": {kind:?}, \"devices\": [{{\"name\": {name:?}, \"containerEdits\": {{{edits}}}}}]}}"
        );
        parse(&text, true)
    };
    let env = r#""env": ["A=1"]"#;
    for (version, kind, edits, name, needs) in [
        ("0.3.0", "v.com/c", env, "x", None),
        (
            "0.3.0",
            "v.com/c",
            r#""mounts": [{"hostPath": "/a", "containerPath": "/a", "type": "none"}]"#,
            "x",
            Some("0.4.0"),
        ),
        ("0.4.0", "v.com/c", env, "0", Some("0.5.0")),
        ("0.4.0", "v.com/c", r#""deviceNodes": [{"path": "/a", "hostPath": "/b"}]"#, "x", Some("0.5.0")),
        ("0.5.0", "v.com/c.d", env, "x", Some("0.6.0")),
        ("0.6.0", "v.com/c", r#""additionalGids": [4]"#, "x", Some("0.7.0")),
        ("0.6.0", "v.com/c", r#""intelRdt": {"closID": "a"}"#, "x", Some("0.7.0")),
        ("1.0.0", "v.com/c", r#""intelRdt": {"schemata": ["L3:0=f"]}"#, "x", Some("1.1.0")),
        (
            "1.0.0",
            "v.com/c",
            r#""netDevices": [{"hostInterfaceName": "eth0", "name": "e"}]"#,
            "x",
            Some("1.1.0"),
        ),
        ("1.0.0", "v.com/c", r#""intelRdt": {"enableCMT": true}"#, "x", None),
    ] {
        match (with(version, kind, edits, name), needs) {
            (Ok(_), None) => {}
            (Err(fault), Some(needs)) => {
                assert!(fault.contains(&format!("needs cdiVersion {needs}")), "{fault}")
            }
            (other, _) => panic!("{version} {edits}: {other:?}"),
        }
        with("1.1.0", kind, &edits.replace("enableCMT", "enableMonitoring"), name).unwrap();
    }
    assert!(with("1.1.0", "v.com/c", r#""intelRdt": {"enableCMT": true}"#, "x").is_err());
    for version in VERSIONS {
        with(version, "v.com/c", env, "x").unwrap();
        with(&format!("v{version}"), "v.com/c", env, "x").unwrap();
    }
    for version in ["0.2.9", "1.1.1", "2.0.0", "", "0.6"] {
        assert!(with(version, "v.com/c", env, "x").unwrap_err().contains("is not known here"), "{version}");
    }
}

#[test]
fn what_is_not_of_the_specification_is_refused_with_the_reason() {
    let good = NVIDIA;
    parse(good, false).unwrap();
    for (from, to, told) in [
        ("  env:\n", "  envs:\n", "unknown field `envs`"),
        ("kind: nvidia.com/gpu", "kind: nvidia.com", "is not VENDOR/CLASS"),
        ("kind: nvidia.com/gpu", "kind: nvidia.com/-gpu", "class \"-gpu\" is none"),
        ("NVIDIA_VISIBLE_DEVICES=void", "=void", "is not NAME=VALUE"),
        ("path: /dev/nvidiactl", "path: dev/nvidiactl", "its path is not absolute"),
        ("hookName: createContainer", "hookName: later", "hookName \"later\" is none of"),
        ("path: /usr/bin/nvidia-cdi-hook", "path: nvidia-cdi-hook", "its path is not absolute"),
        ("name: all", "name: \"0\"", "device \"0\": it is described twice"),
        ("name: all", "name: a/b", "device name \"a/b\" is none"),
        ("containerPath: /usr", "containerPath: usr", "is not an absolute path"),
        (
            "- path: /dev/nvidia-uvm\n",
            "- path: /dev/nvidia-uvm\n    type: d\n",
            "type \"d\" is none of b, c, u, p",
        ),
        ("- path: /dev/nvidia-uvm\n", "- path: /dev/nvidia-uvm\n    minor: -1\n", "its number is negative"),
        ("- path: /dev/nvidia-uvm\n", "- path: /dev/nvidia-uvm\n    permissions: rx\n", "permissions \"rx\""),
    ] {
        assert!(good.contains(from), "{from}");
        let fault = parse(&good.replacen(from, to, 1), false).unwrap_err();
        assert!(fault.contains(told), "{to}: {fault}");
    }
    assert!(
        parse(r#"{"cdiVersion": "0.6.0", "kind": "a.b/c"}"#, true)
            .unwrap_err()
            .contains("describes no device")
    );
    let empty = r#"{"cdiVersion": "0.6.0", "kind": "a.b/c", "devices": [{"name": "x"}]}"#;
    assert!(parse(empty, true).unwrap_err().contains("its containerEdits do nothing"));
}

#[test]
fn damaged_and_huge_files_are_told_and_hinder_nobody() {
    let place = tempfile::tempdir().unwrap();
    let at = place.path().join("etc/cdi");
    std::fs::create_dir_all(at.join("dir.yaml")).unwrap();
    std::fs::write(at.join("good.json"), AMD).unwrap();
    std::fs::write(at.join("half.json"), &AMD[..200]).unwrap();
    std::fs::write(at.join("empty.yaml"), "").unwrap();
    std::fs::write(at.join("binary.yaml"), b"\xff\xfe\x00").unwrap();
    std::fs::File::create(at.join("huge.json")).unwrap().set_len(MAX_BYTES + 1).unwrap();
    std::os::unix::fs::symlink("nowhere", at.join("link.json")).unwrap();
    let registry = Registry::load(&Host::made_up(place.path()), &[PathBuf::from("/etc/cdi")]);
    let faulty: Vec<_> =
        registry.faults.iter().map(|(path, _)| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(faulty, ["binary.yaml", "dir.yaml", "empty.yaml", "half.json", "huge.json", "link.json"]);
    assert!(registry.faults.iter().all(|(_, fault)| !fault.contains("os error")), "{:?}", registry.faults);
    nodes(&registry, &["amd.com/gpu=0"]).unwrap();
}
