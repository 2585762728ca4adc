//! What stays of what was fetched: the cache.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use super::Setting;
use crate::harness::finish;

#[test]
fn what_was_fetched_is_listed_and_goes() {
    let Some(setting) = Setting::new("stay-list", vec![], None) else { return };
    let Setting { place, .. } = &setting;
    place.run(["pull", "a.sif", &setting.small()]).ok();
    let listed = place.run(["cache", "list"]).ok();
    assert!(listed.contains(&setting.small()), "{listed}");
    let json: serde_json::Value = serde_json::from_str(&place.run(["cache", "list", "--json"]).ok()).unwrap();
    let types = |json: &serde_json::Value| -> Vec<String> {
        let entries = json["entries"].as_array().unwrap();
        entries.iter().map(|entry| entry["type"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(types(&json), ["oci", "blob", "blob", "blob"]);
    place.run(["cache", "clean", "--type", "blob", "--force"]).ok();
    let json: serde_json::Value = serde_json::from_str(&place.run(["cache", "list", "--json"]).ok()).unwrap();
    assert_eq!(types(&json), ["oci"]);
    place.run(["cache", "clean", "--days", "1", "--force"]).ok();
    assert!(place.run(["cache", "list"]).ok().contains("1 entry"));
    // What the name meant is forgotten with everything, and not before.
    let names = || fs::read_dir(place.home().join(".cache/skiff/fetched/tags")).unwrap().count();
    assert_eq!(names(), 1);
    place.run(["cache", "clean", "--force"]).ok();
    assert!(place.run(["cache", "list"]).ok().contains("0 entries"));
    assert_eq!(names(), 0);
}

#[test]
fn a_cache_that_cannot_be_written_to_is_done_without() {
    let Some(setting) = Setting::new("stay-closed", vec![], None) else { return };
    let Setting { place, .. } = &setting;
    let closed = place.work("closed");
    fs::create_dir(&closed).unwrap();
    if nix::unistd::geteuid().is_root() {
        chown(&closed, Some(crate::harness::user().uid), Some(crate::harness::user().gid)).unwrap();
    }
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).unwrap();
    let mut command = place.skiff(["pull", "a.sif", &setting.small()]);
    let said = finish(command.env("SKIFF_CACHEDIR", &closed));
    assert!(said.stderr.contains("going on without the cache"), "{said:?}");
    said.ok();
    // One that was used before and has become closed is read.
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let mut command = place.skiff(["pull", "b.sif", &setting.small()]);
    finish(command.env("SKIFF_CACHEDIR", &closed)).ok();
    for directory in ["blobs", "images", "new", "locks", "tags"] {
        fs::set_permissions(closed.join("fetched").join(directory), fs::Permissions::from_mode(0o500))
            .unwrap();
    }
    setting.proxy.clear();
    let mut command = place.skiff(["pull", "c.sif", &setting.small()]);
    finish(command.env("SKIFF_CACHEDIR", &closed)).ok();
    assert_eq!(setting.proxy.count("/blobs/"), 0);
}
