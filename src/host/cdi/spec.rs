//! One CDI file as it is written: JSON or YAML, every field known.
//!
//! ```text
//! cdiVersion: 0.6.0                     the version of the specification that the file needs
//! kind: vendor.com/class
//! devices:                              asked for as vendor.com/class=NAME
//! - name: "0"
//!   containerEdits: {env, deviceNodes, mounts, hooks, ...}     for this device
//! containerEdits: {...}                 for each container that has any of the devices
//! ```
//!
//! The specification says that a field nobody knows makes the file unusable: it may be the one that matters.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

/// A file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Spec {
    /// The version of the specification.
    pub cdi_version: String,
    /// `vendor.com/class`.
    pub kind: String,
    /// Notes for others.
    #[serde(default, deserialize_with = "or_nothing")]
    pub annotations: BTreeMap<String, IgnoredAny>,
    /// What can be asked for.
    #[serde(default, deserialize_with = "or_nothing")]
    pub devices: Vec<Device>,
    /// What each container gets that has any of the devices.
    #[serde(default, deserialize_with = "or_nothing")]
    pub container_edits: Edits,
}

/// A device that can be asked for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Notes for others.
    #[serde(default, deserialize_with = "or_nothing")]
    pub annotations: BTreeMap<String, IgnoredAny>,
    /// What a container gets that has it.
    #[serde(default, deserialize_with = "or_nothing")]
    pub container_edits: Edits,
}

/// What is done to a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Edits {
    /// `NAME=VALUE`.
    #[serde(default, deserialize_with = "or_nothing")]
    pub env: Vec<String>,
    /// Device nodes.
    #[serde(default, deserialize_with = "or_nothing")]
    pub device_nodes: Vec<DeviceNode>,
    /// Network devices that are moved into the container.
    #[serde(default, deserialize_with = "or_nothing")]
    pub net_devices: Vec<NetDevice>,
    /// Programs of the host that prepare the container.
    #[serde(default, deserialize_with = "or_nothing")]
    pub hooks: Vec<Hook>,
    /// Files and directories of the host.
    #[serde(default, deserialize_with = "or_nothing")]
    pub mounts: Vec<Mount>,
    /// Limits on the processor's caches.
    #[serde(default)]
    pub intel_rdt: Option<IntelRdt>,
    /// Groups that the program is given.
    #[serde(default, alias = "additionalGIDs", deserialize_with = "or_nothing")]
    pub additional_gids: Vec<u32>,
}

/// A device node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DeviceNode {
    /// Where it is in the container.
    pub path: String,
    /// Where it is on the host, unless at the same path.
    #[serde(default, deserialize_with = "or_nothing")]
    pub host_path: String,
    /// `b`, `c`, `u`, `p`.
    #[serde(default, rename = "type", deserialize_with = "or_nothing")]
    pub kind: String,
    /// Its number; the host's own counts here.
    #[serde(default, deserialize_with = "or_nothing")]
    pub major: i64,
    /// Its number.
    #[serde(default, deserialize_with = "or_nothing")]
    pub minor: i64,
    /// Its mode; the host's own counts here.
    #[serde(default)]
    pub file_mode: Option<u32>,
    /// What a cgroup would allow: of `rwm`, or `none`.
    #[serde(default, deserialize_with = "or_nothing")]
    pub permissions: String,
    /// Its owner; the host's own counts here.
    #[serde(default)]
    pub uid: Option<u32>,
    /// Its group.
    #[serde(default)]
    pub gid: Option<u32>,
}

/// A mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Mount {
    /// Where it is on the host.
    pub host_path: String,
    /// Where it is in the container.
    pub container_path: String,
    /// `ro`, `bind`, ...
    #[serde(default, deserialize_with = "or_nothing")]
    pub options: Vec<String>,
    /// The file system, unless it is a bind.
    #[serde(default, rename = "type", deserialize_with = "or_nothing")]
    pub kind: String,
}

/// A program of the host that prepares the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Hook {
    /// When it would be run: `createContainer`, ...
    pub hook_name: String,
    /// The program.
    pub path: String,
    /// Its words, its own name the first of them.
    #[serde(default, deserialize_with = "or_nothing")]
    pub args: Vec<String>,
    /// Its variables.
    #[serde(default, deserialize_with = "or_nothing")]
    pub env: Vec<String>,
    /// Seconds that it may take.
    #[serde(default)]
    pub timeout: Option<i64>,
}

/// Limits on the processor's caches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntelRdt {
    /// The class of service.
    #[serde(default, rename = "closID", deserialize_with = "or_nothing")]
    pub clos_id: String,
    /// Its share of the third level.
    #[serde(default, rename = "l3CacheSchema", deserialize_with = "or_nothing")]
    pub l3_cache_schema: String,
    /// Its share of the bandwidth.
    #[serde(default, rename = "memBwSchema", deserialize_with = "or_nothing")]
    pub mem_bw_schema: String,
    /// Lines of schemata, since 1.1.0.
    #[serde(default, deserialize_with = "or_nothing")]
    pub schemata: Vec<String>,
    /// Since 1.1.0.
    #[serde(default, rename = "enableMonitoring")]
    pub enable_monitoring: Option<bool>,
    /// Before 1.1.0.
    #[serde(default, rename = "enableCMT")]
    pub enable_cmt: Option<bool>,
    /// Before 1.1.0.
    #[serde(default, rename = "enableMBM")]
    pub enable_mbm: Option<bool>,
}

/// A network device that is moved into the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NetDevice {
    /// Its name on the host.
    pub host_interface_name: String,
    /// Its name in the container.
    pub name: String,
}

/// Writers of such files give `null` for an empty list now and then.
fn or_nothing<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Edits {
    /// Whether nothing is done.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what another one does.
    pub fn add(&mut self, other: &Self) {
        self.env.extend_from_slice(&other.env);
        self.device_nodes.extend_from_slice(&other.device_nodes);
        self.net_devices.extend_from_slice(&other.net_devices);
        self.hooks.extend_from_slice(&other.hooks);
        self.mounts.extend_from_slice(&other.mounts);
        if other.intel_rdt.is_some() {
            self.intel_rdt.clone_from(&other.intel_rdt);
        }
        self.additional_gids.extend_from_slice(&other.additional_gids);
    }
}
