//! Any bytes as a CDI file: refused with a reason, or a file whose names and versions keep to the specification.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff::host::cdi::check::{VERSIONS, check_kind, check_name};
use skiff::host::cdi::parse;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for json in [false, true] {
        match parse(text, json) {
            Err(fault) => assert!(!fault.is_empty()),
            Ok(spec) => {
                let version = spec.cdi_version.strip_prefix('v').unwrap_or(&spec.cdi_version);
                assert!(VERSIONS.contains(&version));
                assert!(check_kind(&spec.kind).is_ok() && !spec.devices.is_empty());
                for device in &spec.devices {
                    assert!(check_name(&device.name).is_ok());
                    let edits = &device.container_edits;
                    assert!(edits.device_nodes.iter().all(|node| node.path.starts_with('/')));
                    assert!(edits.mounts.iter().all(|mount| mount.container_path.starts_with('/')));
                }
            }
        }
    }
});
