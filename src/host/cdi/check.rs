//! Whether a CDI file keeps to the specification: versions, names, and what edits may hold.
//!
//! A file says which version of the specification it needs; one that uses what a later version brought is refused,
//! since a tool of that version would pass over it.

use super::spec::{DeviceNode, Edits, Hook, IntelRdt, Spec};

/// The versions of the specification, the oldest first.
pub const VERSIONS: [&str; 8] = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", LATEST];
/// The last of them.
const LATEST: &str = "1.1.0";
/// When hooks are run.
const HOOK_NAMES: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
/// As long as a name of DNS may be.
const MAX_VENDOR: usize = 253;
/// As long as a label of DNS may be.
const MAX_CLASS: usize = 63;
/// What is wrong, to follow "FILE: ".
type Fault = String;

/// Checks a file.
///
/// # Errors
/// What is wrong with it.
pub fn check(spec: &Spec) -> Result<(), Fault> {
    check_kind(&spec.kind)?;
    let version = version(&spec.cdi_version)?;
    let (needed, because) = needed_version(spec);
    if needed > version {
        return Err(format!(
            "{because} needs cdiVersion {}, and the file says {:?}",
            VERSIONS[needed], spec.cdi_version
        ));
    }
    if spec.devices.is_empty() {
        return Err("it describes no device".to_owned());
    }
    check_edits(&spec.container_edits, version)?;
    for (number, device) in spec.devices.iter().enumerate() {
        let name = &device.name;
        check_name(name)?;
        let within = |fault| format!("device {name:?}: {fault}");
        if spec.devices[..number].iter().any(|other| other.name == *name) {
            return Err(within("it is described twice".to_owned()));
        }
        if device.container_edits.is_empty() {
            return Err(within("its containerEdits do nothing".to_owned()));
        }
        check_edits(&device.container_edits, version).map_err(within)?;
    }
    Ok(())
}

/// Where in [`VERSIONS`] a version is.
fn version(text: &str) -> Result<usize, Fault> {
    let plain = text.strip_prefix('v').unwrap_or(text);
    VERSIONS.iter().position(|known| *known == plain).ok_or_else(|| {
        format!("cdiVersion {text:?} is not known here: versions are {} to {LATEST}", VERSIONS[0])
    })
}

/// The version that a file needs, and what for.
fn needed_version(spec: &Spec) -> (usize, &'static str) {
    let edits = || spec.devices.iter().map(|device| &device.container_edits).chain([&spec.container_edits]);
    let any = |uses: fn(&Edits) -> bool| edits().any(uses);
    let annotated =
        !spec.annotations.is_empty() || spec.devices.iter().any(|device| !device.annotations.is_empty());
    let (_, class) = spec.kind.split_once('/').unwrap_or(("", &spec.kind));
    let digit = |name: &str| !name.starts_with(|first: char| first.is_ascii_alphabetic());
    let newer_rdt = |rdt: &IntelRdt| !rdt.schemata.is_empty() || rdt.enable_monitoring.is_some();
    let uses = [
        (any(|edits| !edits.net_devices.is_empty()), "1.1.0", "netDevices"),
        (
            edits().any(|edits| edits.intel_rdt.as_ref().is_some_and(newer_rdt)),
            "1.1.0",
            "intelRdt with schemata or enableMonitoring",
        ),
        (any(|edits| edits.intel_rdt.is_some()), "0.7.0", "intelRdt"),
        (any(|edits| !edits.additional_gids.is_empty()), "0.7.0", "additionalGids"),
        (annotated, "0.6.0", "an annotation"),
        (class.contains('.'), "0.6.0", "a dot in the class"),
        (
            any(|edits| edits.device_nodes.iter().any(|node| !node.host_path.is_empty())),
            "0.5.0",
            "hostPath of a device node",
        ),
        (
            spec.devices.iter().any(|device| digit(&device.name)),
            "0.5.0",
            "a device's name that begins with no letter",
        ),
        (any(|edits| edits.mounts.iter().any(|mount| !mount.kind.is_empty())), "0.4.0", "type of a mount"),
    ];
    let first = uses.into_iter().find(|(used, ..)| *used);
    let number = |text| VERSIONS.iter().position(|known| *known == text).unwrap_or(0);
    first.map_or((0, ""), |(_, version, what)| (number(version), what))
}

/// Checks `vendor.com/class`.
///
/// # Errors
/// What is wrong with it.
pub fn check_kind(kind: &str) -> Result<(), Fault> {
    let Some((vendor, class)) = kind.split_once('/') else {
        return Err(format!("kind {kind:?} is not VENDOR/CLASS"));
    };
    let fits = |text: &str, longest: usize| {
        text.len() <= longest
            && text.starts_with(|first: char| first.is_ascii_alphabetic())
            && text.ends_with(|last: char| last.is_ascii_alphanumeric())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    if !fits(vendor, MAX_VENDOR) {
        return Err(format!("vendor {vendor:?} is none: letters, digits and - _ . between, a letter first"));
    }
    if !fits(class, MAX_CLASS) {
        return Err(format!("class {class:?} is none: letters, digits and - _ . between, a letter first"));
    }
    Ok(())
}

/// Checks a device's name.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), Fault> {
    let edge = |at: Option<char>| at.is_some_and(|at| at.is_ascii_alphanumeric());
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if edge(name.chars().next()) && edge(name.chars().next_back()) && name.bytes().all(inside) {
        return Ok(());
    }
    Err(format!("device name {name:?} is none: letters and digits, with - _ . : between"))
}

fn check_edits(edits: &Edits, version: usize) -> Result<(), Fault> {
    check_variables(&edits.env)?;
    edits.device_nodes.iter().try_for_each(check_node)?;
    edits.hooks.iter().try_for_each(check_hook)?;
    for mount in &edits.mounts {
        if !mount.host_path.starts_with('/') && mount.kind != "tmpfs" {
            return Err(format!("mount of {:?}: hostPath is not an absolute path", mount.host_path));
        }
        if !mount.container_path.starts_with('/') {
            return Err(format!(
                "mount of {:?}: containerPath {:?} is not an absolute path",
                mount.host_path, mount.container_path
            ));
        }
    }
    for device in &edits.net_devices {
        if device.host_interface_name.is_empty() || device.name.is_empty() {
            return Err("a network device has no name".to_owned());
        }
    }
    edits.intel_rdt.as_ref().map_or(Ok(()), |rdt| check_rdt(rdt, version))
}

fn check_variables(variables: &[String]) -> Result<(), Fault> {
    match variables.iter().find(|variable| variable.find('=').unwrap_or(0) == 0 || variable.contains('\0')) {
        Some(variable) => Err(format!("variable {variable:?} is not NAME=VALUE")),
        None => Ok(()),
    }
}

fn check_node(node: &DeviceNode) -> Result<(), Fault> {
    let within = |fault: &str| Err(format!("device node {:?}: {fault}", node.path));
    if !node.path.starts_with('/') || !node.host_path.is_empty() && !node.host_path.starts_with('/') {
        return within("its path is not absolute");
    }
    if !["", "b", "c", "u", "p"].contains(&node.kind.as_str()) {
        return within(&format!("type {:?} is none of b, c, u, p", node.kind));
    }
    if node.major < 0 || node.minor < 0 {
        return within("its number is negative");
    }
    if node.permissions != "none" && !node.permissions.trim_matches(['r', 'w', 'm']).is_empty() {
        return within(&format!("permissions {:?} are none of r, w, m", node.permissions));
    }
    Ok(())
}

fn check_hook(hook: &Hook) -> Result<(), Fault> {
    let within = |fault: &str| Err(format!("hook {:?}: {fault}", hook.path));
    if !HOOK_NAMES.contains(&hook.hook_name.as_str()) {
        return within(&format!("hookName {:?} is none of {}", hook.hook_name, HOOK_NAMES.join(", ")));
    }
    if !hook.path.starts_with('/') {
        return within("its path is not absolute");
    }
    if hook.timeout.is_some_and(|seconds| seconds < 0) {
        return within("its timeout is negative");
    }
    check_variables(&hook.env)
}

fn check_rdt(rdt: &IntelRdt, version: usize) -> Result<(), Fault> {
    let id = rdt.clos_id.as_str();
    if id != "/" && (id.len() >= 4096 || id == "." || id == ".." || id.contains(['/', '\n'])) {
        return Err(format!("intelRdt: closID {id:?} is no file name"));
    }
    // Fields that 1.1.0 took away are fields that nobody knows, from then on.
    if VERSIONS[version] == LATEST && (rdt.enable_cmt.is_some() || rdt.enable_mbm.is_some()) {
        return Err("intelRdt: enableCMT and enableMBM are gone since cdiVersion 1.1.0".to_owned());
    }
    Ok(())
}
