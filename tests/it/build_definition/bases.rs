//! What stages stand on.

use std::fs;

use super::{NEEDS, inside, place};
use crate::harness::{able, busybox, give};

#[test]
fn a_scratch_image_has_what_was_copied() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("base-scratch");
    let program = busybox().unwrap();
    let text = format!(
        "Bootstrap: scratch\n%files\n {0} /bin/busybox\n {0} /bin/sh\n%post\n busybox mkdir /made\n%runscript\n echo small\n",
        program.display()
    );
    place.write("new.def", text);
    place.run(["build", "new.sif", "new.def"]).ok();
    assert_eq!(place.run(["run", "new.sif"]).ok(), "small\n");
    assert_eq!(inside(&place, "busybox test -d /made && echo there"), "there\n");
    // Nothing to run: an image all the same.
    place.write("new.def", "Bootstrap: scratch\n%labels\n a b\n");
    place.run(["build", "--force", "new.sif", "new.def"]).ok();
    assert!(place.run(["inspect", "new.sif"]).ok().contains("a: b\n"));
    place.write("new.def", "Bootstrap: scratch\n%post\n true\n");
    let said = place.run(["build", "--force", "new.sif", "new.def"]).fails(255);
    assert!(said.contains("skiff: new.def:2: cannot run \"/bin/sh\" in the container"), "{said}");
}

#[test]
fn a_sandbox_a_squashfs_and_a_sif_are_bases_alike() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("base-kinds");
    place.run(["build", "--sandbox", "tree", "busybox.sif"]).ok();
    let sif = fs::read(place.work("busybox.sif")).unwrap();
    let at = sif.windows(4).position(|four| four == b"hsqs").unwrap();
    place.write("bare.sqfs", &sif[at..]);
    for base in ["tree", "bare.sqfs", "./busybox.sif", "file://busybox.sif"] {
        place.write(
            "new.def",
            format!("Bootstrap: localimage\nFrom: {base}\n%post\n rm /bin/vi; echo x >/x\n"),
        );
        place.run(["build", "--force", "new.sif", "new.def"]).ok();
        assert_eq!(inside(&place, "cat /x; test -e /bin/vi || echo gone"), "x\ngone\n", "{base}");
        place.run(["exec", base.trim_start_matches("file://"), "ls", "/bin/vi"]).ok();
    }
}

#[test]
fn a_base_that_cannot_be_had_is_told() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("base-bad");
    place.write("text", "hello");
    for (header, message) in [
        ("Bootstrap: localimage\nFrom: none.sif", "new.def:2: cannot open image \"none.sif\": no such file"),
        ("Bootstrap: localimage\nFrom: text", "new.def:2: cannot open image \"text\": it is not an image"),
        ("Bootstrap: docker\nFrom: a/../b", "new.def:2: cannot use the image name"),
        (
            "Bootstrap: localimage\nFrom: busybox.sif\nFingerprints: ABC",
            "signatures of images cannot be checked",
        ),
        ("Bootstrap: pacman", "cannot read definition"),
        ("Bootstrap: dnf", "'Bootstrap: dnf' needs 'MirrorURL'"),
        ("Bootstrap: busybox", "'Bootstrap: busybox' needs 'MirrorURL'"),
        ("Bootstrap: localimage", "'Bootstrap: localimage' needs 'From'"),
        ("Bootstrap: zypper", "new.def:1: Bootstrap: zypper needs a value for MirrorURL"),
        (
            "Bootstrap: zypper\nProduct: SLES",
            "new.def:1: Product: registered products of SUSE cannot be built",
        ),
    ] {
        place.write("new.def", format!("{header}\n%post\n true\n"));
        let said = place.run(["build", "new.sif", "new.def"]).fails(255);
        assert!(said.contains(message), "{header}: {said}");
    }
    let agents = [
        ("debootstrap\nOSVersion: trixie", "mmdebstrap"),
        ("dnf\nMirrorURL: http://m", "dnf"),
        ("yum\nMirrorURL: http://m", "yum"),
        ("zypper\nMirrorURL: http://m", "zypper"),
        ("arch", "pacman"),
        ("busybox\nMirrorURL: http://m", "curl"),
    ];
    for (header, package) in agents {
        place.write("new.def", format!("Bootstrap: {header}\n"));
        let mut command = place.skiff(["build", "new.sif", "new.def"]);
        // A host without any of them.
        let programs = place.work("none");
        let said = crate::harness::finish(command.env("PATH", programs)).fails(255);
        // What stands in the system's own directories is found all the same.
        let missing = said.contains("of the host\nhint: install the package ") && said.contains(package);
        let there =
            ["/usr/sbin", "/sbin"].iter().any(|above| std::path::Path::new(above).join(package).exists());
        assert!(missing || there, "{header}: {said}");
    }
}

#[test]
fn an_address_with_a_version_needs_one() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("base-version");
    // Programs that are there: they are not run.
    let programs = place.work("programs");
    fs::create_dir(&programs).expect("a directory");
    for program in ["dnf", "zypper", "sh"] {
        std::os::unix::fs::symlink("/bin/false", programs.join(program)).expect("a link");
    }
    for key in ["MirrorURL: http://m/%{OSVERSION}", "MirrorURL: http://m\nUpdateURL: http://m/%{osVersion}"] {
        for agent in ["dnf", "zypper"] {
            place.write("new.def", format!("Bootstrap: {agent}\n{key}\n"));
            let mut command = place.skiff(["build", "new.sif", "new.def"]);
            let said = crate::harness::finish(command.env("PATH", &programs)).fails(255);
            let needs = format!("skiff: new.def:1: Bootstrap: {agent} needs a value for OSVersion");
            assert!(said.contains(&needs), "{said}");
        }
    }
    assert!(!place.work("new.sif").exists());
}

#[test]
fn a_base_of_another_processor_is_named_when_something_is_to_run_in_it() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("base-machine");
    let mut sif = fs::read(place.work("busybox.sif")).unwrap();
    // Both places say it: the header, and the partition, which is the last of two objects.
    sif[45..47].copy_from_slice(b"11");
    let at = 4096 + 585 + 209;
    sif[at..at + 2].copy_from_slice(b"11");
    place.write("other.sif", &sif);
    let other = "Bootstrap: localimage\nFrom: other.sif\n";
    place.write("new.def", format!("{other}%post\n true\n"));
    let said = place.run(["build", "new.sif", "new.def"]).fails(255);
    assert!(said.contains("new.def:3: cannot run image ") && said.contains(": it is for s390x, "), "{said}");
    place.write("new.def", format!("{other}%labels\n a b\n"));
    place.run(["build", "new.sif", "new.def"]).ok();
}

#[test]
fn a_sandbox_is_updated_in_place() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("base-update");
    place.run(["build", "--sandbox", "tree", "busybox.sif"]).ok();
    place.write("file", "file\n");
    place.write("new.def", "Bootstrap: localimage\nFrom: is-not-looked-at\n%files\n file /copied\n%post\n echo new >/new; rm /bin/vi\n%environment\n export A=1\n%test\n test $A = 1\n");
    place.run(["build", "--update", "tree", "new.def"]).ok();
    assert_eq!(place.run(["exec", "tree", "sh", "-c", "cat /new /copied; echo $A"]).ok(), "new\nfile\n1\n");
    assert!(!place.work("tree/bin/vi").exists() && !place.work("tree/.post.script").exists());
    let said = place.run(["build", "--update", "none", "new.def"]).fails(255);
    assert!(said.contains("cannot update \"none\": it is not a directory\nhint: "), "{said}");
    give(&place.work("tree"));
}
