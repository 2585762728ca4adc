//! Kernels that lack calls, made by filters: containers are the same there as on this one.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use crate::harness::{Need, Output, Place, able, busybox_tree, finish, give};
use crate::hosts::{report, under_filter};

const NEEDS: [Need; 3] = [Need::Userns, Need::Fuse, Need::Busybox];

/// open_tree(2), the first of the calls that came after kernel 5.1; all of them have numbers from here on, on
/// every processor.
const AFTER_5_1: std::ops::Range<i64> = 428..500;

/// Runs a command as on kernel 5.1: later calls do not exist.
fn on_5_1(command: Command) -> Output {
    under_filter(command, AFTER_5_1.map(|call| (call, vec![])).collect(), libc::ENOSYS)
}

/// Runs a command where mounts by descriptors alone are forbidden, as the filters of some outer containers do.
fn without_open_tree(command: Command) -> Output {
    let rules: BTreeMap<i64, _> = (428..434).chain([442]).map(|call| (call, vec![])).collect();
    under_filter(command, rules, libc::EPERM)
}

/// Runs a command in an outer container whose filter knows no call from `first` on, and answers EPERM. (Filters answer
/// ENOSYS to clone3(2): no C library starts a thread otherwise.)
fn in_old_container(command: Command, first: i64) -> Output {
    let unknown = (first..AFTER_5_1.end).filter(|call| *call != libc::SYS_clone3);
    let rules: BTreeMap<i64, _> = unknown.chain([libc::SYS_statx]).map(|call| (call, vec![])).collect();
    under_filter(command, rules, libc::EPERM)
}

/// What a container sees mounted, sorted: root within the file system, where, options, kind. Mounts have numbers, and
/// their order, by when they were made.
const MOUNTED: &str = "sed 's/ - / -/' /proc/self/mountinfo | cut -d' ' -f4-6,8- | sort";

#[test]
fn containers_see_the_same_mounts_on_a_kernel_without_open_tree() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("old-same");
    let tree = place.work("busybox-tree");
    place.busybox_image();
    fs::create_dir_all(place.work("data/below")).expect("a directory can be made");
    fs::write(place.work("data/file"), "content").expect("a file can be written");
    give(&place.work("data"));
    let tree = tree.to_str().expect("text");
    for flags in [
        &[][..],
        &["--bind", "data:/mnt/data:ro,data/file:/etc/hosts,/:/host"],
        &["--contain", "--bind", "/dev:/host-dev"],
        &["--pid", "--writable-tmpfs", "--ipc"],
        &["--fakeroot", "--overlay", "data"],
    ] {
        for image in ["busybox.sif", tree] {
            let command =
                |program: &str| place.skiff([&["exec"], flags, &[image, "sh", "-c", program]].concat());
            // Of an overlay that was never used before, the kernel says more.
            let _first = finish(&mut command("true")).ok();
            let expected = finish(&mut command(MOUNTED)).ok();
            assert!(expected.lines().count() > 3, "{expected}");
            assert_eq!(on_5_1(command(MOUNTED)).ok(), expected, "{flags:?} {image}");
            assert_eq!(without_open_tree(command(MOUNTED)).ok(), expected, "{flags:?} {image}");
            let listed = "ls /dev | wc -l; touch /bin/new 2>&1; cat /etc/hosts";
            assert_eq!(on_5_1(command(listed)).ok(), finish(&mut command(listed)).ok(), "{flags:?} {image}");
        }
    }
}

#[test]
fn calls_that_an_outer_container_forbids_are_done_without() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("old-forbidden");
    place.busybox_image();
    fs::create_dir(place.work("data")).expect("a directory can be made");
    give(&place.work("data"));
    // From the first of the calls on that came after 5.1; those that came with 5.2 are there; openat2(2) is missing.
    for first in [AFTER_5_1.start, libc::SYS_pidfd_open, libc::SYS_openat2] {
        for flags in [&["--bind", "data:/mnt/data:ro"][..], &["--pid", "--writable-tmpfs"], &["--fakeroot"]] {
            let command = || place.skiff([&["exec"], flags, &["busybox.sif", "sh", "-c", MOUNTED]].concat());
            let expected = finish(&mut command()).ok();
            assert_eq!(in_old_container(command(), first).ok(), expected, "{first} {flags:?}");
            // Two at a time.
            let mut both = place.command("sh");
            let script = "\"$@\" & \"$@\" & wait";
            both.args(["-c", script, "sh"]).arg(crate::harness::skiff_binary());
            both.args([&["exec"], flags, &["busybox.sif", "echo", "here"]].concat());
            assert_eq!(in_old_container(both, first).ok(), "here\nhere\n", "{first} {flags:?}");
        }
    }
}

#[test]
fn doctor_finds_such_a_kernel_able_and_says_what_it_lacks() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("old-doctor");
    let (code, checks) = report(on_5_1(place.skiff(["doctor", "--json"])));
    assert_eq!(code, Some(0));
    let words = [
        ("mount descriptors", "server of its own"),
        ("pidfds", "server of its own"),
        ("openat2", "one name"),
    ];
    for (name, word) in words {
        let check = &checks[name];
        assert_eq!(check["state"], "less", "{check:#}");
        assert!(check["found"].as_str().is_some_and(|found| found.contains(word)), "{check:#}");
    }
}

#[test]
fn a_read_only_bind_is_read_only_and_its_neighbour_is_not() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("old-read-only");
    place.busybox_image();
    for name in ["closed", "open"] {
        fs::create_dir(place.work(name)).expect("a directory can be made");
        give(&place.work(name));
    }
    let script = "touch /mnt/closed/x 2>&1; touch /mnt/open/x && echo written";
    let binds = "closed:/mnt/closed:ro,open:/mnt/open";
    let command = place.skiff(["exec", "--bind", binds, "busybox.sif", "sh", "-c", script]);
    assert_eq!(on_5_1(command).ok(), "touch: /mnt/closed/x: Read-only file system\nwritten\n");
    assert!(place.work("open/x").exists() && !place.work("closed/x").exists());
}

#[test]
fn containers_of_one_image_run_side_by_side_with_and_without_open_tree() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("old-beside");
    place.busybox_image();
    // One that others can join is there; who cannot join must not try.
    let script = "echo here; cat";
    let mut first = place.skiff(["exec", "busybox.sif", "sh", "-c", script]);
    let mut first = first.stdin(std::process::Stdio::piped()).spawn().expect("skiff starts");
    let both = "\"$0\" exec busybox.sif echo one & \"$0\" exec busybox.sif echo two & wait";
    let mut command = place.command("sh");
    command.args(["-c", both]).arg(crate::harness::skiff_binary());
    let said = on_5_1(command).ok();
    let mut lines: Vec<&str> = said.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["one", "two"]);
    drop(first.stdin.take());
    assert!(first.wait().expect("a child can be waited for").success());
}

#[test]
fn without_open_tree_and_without_fuse_an_image_is_unpacked_and_removed() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("old-unpacked");
    busybox_tree(&place.work("tree"));
    place.build("busybox.sif", &place.work("tree"));
    fs::create_dir(place.work("unpacked")).expect("a directory can be made");
    give(&place.work("unpacked"));
    let mut command = place.command("unshare");
    let script = "mount -t tmpfs none /dev && exec \"$0\" exec busybox.sif sh -c 'ls / | grep -c bin; touch /bin/x 2>&1'";
    command.args(["-rm", "sh", "-c", script]).arg(crate::harness::skiff_binary());
    command.env("SKIFF_TMPDIR", place.work("unpacked"));
    let output = on_5_1(command);
    assert!(output.stderr.contains("is unpacked below"), "{}", output.stderr);
    // grep counts /bin alone.
    assert_eq!(output.stdout, "1\ntouch: /bin/x: Read-only file system\n");
    for pid in crate::serve::named(&place, "skiff-unpacked") {
        assert!(crate::harness::wait_for_exit(pid, std::time::Duration::from_secs(20)));
    }
    assert_eq!(fs::read_dir(place.work("unpacked")).expect("a directory can be listed").count(), 0);
}

#[test]
fn a_caller_that_is_slow_to_watch_its_container_watches_it_all_the_same() {
    if !able(&[Need::Userns, Need::Fuse, Need::Busybox, Need::Strace]) {
        return;
    }
    let place = Place::new("old-slow");
    place.busybox_image();
    for flags in [&["--pid"][..], &["--pid", "--no-init"]] {
        // Descriptors are closed by what /proc says of them, and /proc becomes the container's.
        let mut command = place.command("strace");
        command.args(["-f", "-o", "/dev/null", "-e", "trace=signalfd4,close_range"]);
        command.args(["-e", "inject=signalfd4:delay_enter=50000", "-e", "inject=close_range:error=ENOSYS"]);
        command.arg(crate::harness::skiff_binary()).arg("exec").args(flags);
        let output = finish(command.args(["busybox.sif", "sh", "-c", "exit 7"]));
        assert_eq!(output.status.code(), Some(7), "{output:?}");
    }
}
