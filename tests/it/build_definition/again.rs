//! A definition that is built again: what is taken from the cache, what is not, and what must never be.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{NEEDS, build, inside, place};
use crate::harness::{Output, able};

/// The steps that a build did not take from the cache.
fn done(output: Output) -> Vec<String> {
    let said = output.stderr.clone();
    output.ok();
    let steps = said.lines().filter(|line| line.contains("(line ") && !line.ends_with(": from the cache"));
    steps.map(str::to_owned).collect()
}

/// Whether a step with this name is among them.
fn among(steps: &[String], name: &str) -> bool {
    steps.iter().any(|step| step.contains(name))
}

#[test]
fn a_stage_that_was_copied_from_counts_with_the_files_of_its_sections() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("again-stages");
    let text = |value: &str| {
        format!(
            "Stage: one\n%environment\n export A={value}\n\nBootstrap: localimage\nFrom: busybox.sif\nStage: two\n\
             %files from one\n /.singularity.d/env/90-environment.sh /copied\n"
        )
    };
    build(&place, &[], &text("first")).ok();
    assert!(!among(&done(build(&place, &[], &text("first"))), "%files"));
    assert!(among(&done(build(&place, &[], &text("second"))), "%files"));
    assert!(inside(&place, "cat /copied").contains("A=second"));
}

#[test]
fn a_test_that_passed_without_the_other_sections_is_done_with_them() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("again-test");
    let text = "%environment\n export A=bad\n%test\n test \"${A:-good}\" = good\n";
    build(&place, &["--section", "test"], text).ok();
    build(&place, &[], text).fails(255);
}

#[test]
fn nothing_after_a_setup_is_kept() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("again-setup");
    let text = "%setup\n touch $SKIFF_ROOTFS/x\n%post\n ls /x\n";
    build(&place, &[], text).ok();
    assert!(among(&done(build(&place, &[], text)), "%post"));
    let entries = fs::read_dir(place.home().join(".cache/skiff/v1/entries")).unwrap().count();
    assert_eq!(entries, 0, "what nobody can find fills the disk");
}

#[test]
fn a_sandbox_with_a_closed_directory_is_built_on_without_the_cache() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("again-closed");
    place.run(["build", "--sandbox", "tree", "busybox.sif"]).ok();
    fs::create_dir(place.work("tree/closed")).unwrap();
    crate::harness::give(&place.work("tree"));
    fs::set_permissions(place.work("tree/closed"), fs::Permissions::from_mode(0o0)).unwrap();
    place.write("new.def", "Bootstrap: localimage\nFrom: tree\n%post\n echo x >/x\n");
    place.run(["build", "--force", "new.sif", "new.def"]).ok();
    assert_eq!(inside(&place, "cat /x"), "x\n");
}
