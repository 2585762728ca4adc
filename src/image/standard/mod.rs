//! What every image has, whatever it is made from: directories, links, and scripts in `/.singularity.d`.
//!
//! Names and places are those of Apptainer, whose images run here and the reverse; the scripts are our own.

use std::collections::BTreeMap;

/// What images say of themselves, and scripts.
pub const DIRECTORY: &str = "/.singularity.d";
/// Mount points and homes that programs and older runtimes count on, with their permissions.
pub const DIRECTORIES: &[(&str, u32)] = &[
    ("/.singularity.d/libs", 0o755),
    ("/.singularity.d/actions", 0o755),
    ("/.singularity.d/env", 0o755),
    ("/dev", 0o755),
    ("/proc", 0o755),
    ("/root", 0o700),
    ("/tmp", 0o1777),
    ("/var/tmp", 0o1777),
    ("/etc", 0o755),
    ("/sys", 0o755),
    ("/home", 0o755),
];
/// Links and their targets.
pub const LINKS: &[(&str, &str)] = &[
    ("/singularity", ".singularity.d/runscript"),
    ("/.run", ".singularity.d/actions/run"),
    ("/.exec", ".singularity.d/actions/exec"),
    ("/.test", ".singularity.d/actions/test"),
    ("/.shell", ".singularity.d/actions/shell"),
    ("/environment", ".singularity.d/env/90-environment.sh"),
];
/// Files and their contents; with a program's permissions where they begin with `#!`.
pub const FILES: &[(&str, &str)] = &[
    ("/etc/hosts", ""),
    ("/etc/resolv.conf", ""),
    ("/.singularity.d/env/01-base.sh", include_str!("scripts/env/01-base.sh")),
    ("/.singularity.d/env/90-environment.sh", include_str!("scripts/env/90-environment.sh")),
    ("/.singularity.d/env/95-apps.sh", include_str!("scripts/env/95-apps.sh")),
    ("/.singularity.d/env/99-base.sh", include_str!("scripts/env/99-base.sh")),
    ("/.singularity.d/env/99-runtimevars.sh", include_str!("scripts/env/99-runtimevars.sh")),
    ("/.singularity.d/actions/exec", include_str!("scripts/actions/exec")),
    ("/.singularity.d/actions/run", include_str!("scripts/actions/run")),
    ("/.singularity.d/actions/shell", include_str!("scripts/actions/shell")),
    ("/.singularity.d/actions/start", include_str!("scripts/actions/start")),
    ("/.singularity.d/actions/test", include_str!("scripts/actions/test")),
    ("/.singularity.d/runscript", "#!/bin/sh\n\nexec /bin/sh \"$@\"\n"),
    ("/.singularity.d/startscript", "#!/bin/sh\n"),
];
/// Permissions of scripts.
pub const PROGRAM: u32 = 0o755;
/// Permissions of other files.
pub const FILE: u32 = 0o644;

/// The permissions of one of the [`FILES`].
pub fn mode(content: &str) -> u32 {
    if content.starts_with("#!") { PROGRAM } else { FILE }
}

/// Labels as `/.singularity.d/labels.json` has them: one object, indented by tabs.
pub fn labels_json(labels: &BTreeMap<String, serde_json::Value>) -> serde_json::Result<Vec<u8>> {
    let mut text = Vec::new();
    let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, tabs);
    serde::Serialize::serialize(labels, &mut serializer)?;
    Ok(text)
}
