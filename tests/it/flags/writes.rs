//! --writable-tmpfs, --overlay, --writable: where what is written to the image goes.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::harness::{able, user};

/// A directory for --overlay with a file in its upper layer.
fn overlay(place: &Place, name: &str, file: &str, content: &str) {
    directory(place, &format!("{name}/upper"), file, content);
    crate::harness::give(&place.work(name));
}

/// Changes a file, adds one, removes one.
const CHANGE: &str = "echo changed >/etc/hostname; echo new >/etc/new; rm /bin/vi; mkdir /top; ls -d /top";
/// Shows what [`CHANGE`] did.
const SHOW: &str = "cat /etc/hostname /etc/new; ls /bin/vi 2>/dev/null; ls -d /top";

#[test]
fn an_image_is_read_only_for_everybody() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-read-only");
    place.busybox_image();
    for who in Who::all() {
        let script = "(echo >/new) 2>&1; (echo >/etc/new) 2>&1; rm /bin/vi 2>&1; mkdir /usr/new 2>&1";
        let printed = who.run(&place, &[], script).stdout;
        assert_eq!(printed.matches("Read-only file system").count(), 4, "{who:?}: {printed}");
    }
}

#[test]
fn what_is_written_to_memory_is_gone_at_the_end() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-writable-tmpfs");
    place.busybox_image();
    for who in Who::all() {
        let printed = who.run(&place, &["--writable-tmpfs"], &format!("{CHANGE}; {SHOW}")).ok();
        assert_eq!(printed, "/top\nchanged\nnew\n/top\n", "{who:?}");
        let after = who.run(&place, &["--writable-tmpfs"], "ls /bin/vi; ls /top 2>/dev/null").stdout;
        assert_eq!(after, "/bin/vi\n", "{who:?}");
    }
    for variable in ["SKIFF_WRITABLE_TMPFS", "APPTAINER_WRITABLE_TMPFS", "SINGULARITY_WRITABLE_TMPFS"] {
        assert_eq!(with_variables(&place, &[(variable, "1")], "echo x >/new; cat /new"), "x\n");
    }
}

#[test]
fn root_inside_adds_users_to_an_image_that_is_written() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-writable-accounts");
    place.busybox_image();
    // As adduser does: a new file takes the place of the old one, which a mount would not let it.
    let script = "cd /etc; for f in passwd group; do cp $f $f+; echo worker:x:5: >>$f+; mv $f+ $f; done; \
                  grep -c worker passwd group";
    let printed = Who::Fakeroot.run(&place, &["--writable-tmpfs"], script).ok();
    assert_eq!(printed, "passwd:1\ngroup:1\n");
}

#[test]
fn an_overlay_keeps_what_is_written_for_the_next_container() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-overlay");
    place.busybox_image();
    for who in Who::all() {
        let name = format!("kept-{who:?}");
        directory(&place, &name, "unrelated", "");
        assert_eq!(who.run(&place, &["--overlay", &name], CHANGE).ok(), "/top\n");
        let kept = fs::metadata(place.work(&name).join("upper/etc/new")).expect("it is on the host");
        assert_eq!(kept.uid(), if who == Who::Root { 0 } else { user().uid }, "{who:?}");
        assert_eq!(who.run(&place, &["-o", &name], SHOW).ok(), "changed\nnew\n/top\n", "{who:?}");
        let script = format!("{SHOW}; (echo >/other) 2>&1");
        let printed = who.run(&place, &["-o", &format!("{name}:ro")], &script).stdout;
        let expected = "changed\nnew\n/top\nsh: can't create /other: Read-only file system\n";
        assert_eq!(printed, expected, "{who:?}");
    }
    // The image itself is as it was.
    assert_eq!(inside(&place, &[], "ls /bin/vi"), "/bin/vi\n");
    for variable in ["SKIFF_OVERLAY", "APPTAINER_OVERLAY", "SINGULARITY_OVERLAYIMAGE"] {
        assert_eq!(with_variables(&place, &[(variable, "kept-User")], "cat /etc/new"), "new\n", "{variable}");
    }
}

#[test]
fn overlays_are_combined_the_later_over_the_earlier() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-overlays");
    place.busybox_image();
    overlay(&place, "one", "both", "1\n");
    overlay(&place, "two", "both", "2\n");
    fs::write(place.work("one/upper/one"), "1\n").expect("a file can be written");
    directory(&place, "top", "unrelated", "");
    let both = ["-o", "one:ro", "-o", "two:ro"];
    assert_eq!(inside(&place, &both, "cat /both /one"), "2\n1\n");
    let reversed = ["-o", "two:ro,one:ro"];
    assert_eq!(inside(&place, &reversed, "cat /both /one"), "1\n1\n");
    // One of them, wherever it stands, takes what is written and is over all.
    for flags in [["-o", "one:ro", "-o", "top"], ["-o", "top", "-o", "one:ro"]] {
        inside(&place, &flags, "cat /both; echo 3 >/both");
        assert_eq!(inside(&place, &flags, "cat /both"), "3\n");
        fs::remove_file(place.work("top/upper/both")).expect("it was written");
    }
    // Without an upper directory it is a layer itself.
    assert_eq!(inside(&place, &["-o", "one/upper:ro"], "cat /both"), "1\n");
    // Or memory does.
    let printed = inside(&place, &["-o", "one:ro", "--writable-tmpfs"], "echo 3 >/both; cat /both");
    assert_eq!(printed, "3\n");
    assert_eq!(fs::read_to_string(place.work("one/upper/both")).expect("the layer"), "1\n");
    for (flags, word) in [
        (&["-o", "one", "-o", "two"][..], "place for what is written\nhint: "),
        (&["-o", "one", "--writable-tmpfs"], "place for what is written\nhint: "),
        (&["-o", "missing"], "no such file or directory"),
        (&["-o", "busybox.sif"], "it is a file"),
    ] {
        let error = refused(&place, flags);
        assert!(error.contains(word), "{flags:?}: {error}");
    }
}

#[test]
fn a_sandbox_is_written_itself_when_that_is_asked_for() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-writable");
    crate::harness::busybox_tree(&place.work("busybox.sif"));
    place.write("one", "1\n");
    for who in Who::all() {
        let refused = who.run(&place, &[], "(echo >/new) 2>&1").stdout;
        assert!(refused.contains("Read-only file system"), "{who:?}: {refused}");
        let printed = who.run(&place, &["--writable"], "echo new >/new; cat /new").ok();
        assert_eq!(printed, "new\n", "{who:?}");
        fs::remove_file(place.work("busybox.sif/new")).expect("it is in the sandbox");
        let printed = who.run(&place, &["-w", "-B", "one:/opt/made/one"], "cat /opt/made/one").ok();
        assert_eq!(printed, "1\n", "{who:?}");
    }
    let said = Who::User.run(&place, &["-w", "--writable-tmpfs"], "echo kept >/kept");
    let warning = "--writable-tmpfs has no effect: the sandbox itself is written (--writable)";
    assert!(said.stderr.contains(warning), "{said:?}");
    assert_eq!(fs::read_to_string(place.work("busybox.sif/kept")).expect("it is in the sandbox"), "kept\n");
    for variable in ["SKIFF_WRITABLE", "APPTAINER_WRITABLE", "SINGULARITY_WRITABLE"] {
        assert_eq!(with_variables(&place, &[(variable, "1")], "echo x >/new; cat /new"), "x\n");
    }
}

#[test]
fn an_image_file_is_never_written_itself() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-writable-file");
    place.busybox_image();
    let error = refused(&place, &["--writable"]);
    assert!(error.contains("it is an image file") && error.contains("--writable-tmpfs"), "{error}");
}
