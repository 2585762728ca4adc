//! Builds again: what reruns, that the bytes are the same, and the room that it takes.

use std::fs;

use super::{NEEDS, leavings, place};
use crate::harness::{Place, able, finish};

const BASE: &str = "Bootstrap: localimage\nFrom: busybox.sif\n";

/// Builds `new.def` and gives, for each step of a script or of %files, its stage, section and `begin` or `cached`.
fn steps(place: &Place) -> Vec<(String, String, String)> {
    let said = place.run(["build", "--force", "--json", "new.sif", "new.def"]).ok();
    let text = |line: &serde_json::Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    said.lines()
        .map(|line| serde_json::from_str(line).expect("lines of JSON"))
        .map(|line: serde_json::Value| (text(&line, "stage"), text(&line, "step"), text(&line, "event")))
        .filter(|(_, step, event)| step.starts_with('%') && event != "end")
        .collect()
}

#[test]
fn of_four_stages_only_the_one_that_changed_is_built_again() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("again-stages");
    let stage = |name: &str, files: &str, post: &str| {
        format!("{BASE}Stage: {name}\n{files}%post\n echo {post} >/{name}; date +%N >>/{name}\n")
    };
    let definition = |third: &str, last: &str| {
        stage("one", "", "1")
            + &stage("two", "%files from one\n /one\n", "2")
            + &stage("three", "", third)
            + &stage("four", "%files from two\n /two\n%files from three\n /three\n", last)
            + "%test\n cat /two /three\n"
    };
    let all = |event: [&str; 8]| -> Vec<(String, String, String)> {
        let order = [
            ("one", "%post"),
            ("two", "%files"),
            ("two", "%post"),
            ("three", "%post"),
            ("four", "%files"),
            ("four", "%files"),
            ("four", "%post"),
            ("four", "%test"),
        ];
        order.iter().zip(event).map(|((stage, step), event)| (*stage, *step, event)).map(owned).collect()
    };
    place.write("new.def", definition("3", "4"));
    assert_eq!(steps(&place), all(["begin"; 8]));
    assert_eq!(steps(&place), all(["cached"; 8]));
    place.write("new.def", definition("3", "four"));
    let expected = ["cached", "cached", "cached", "cached", "cached", "cached", "begin", "begin"];
    assert_eq!(steps(&place), all(expected));
    // Of an earlier one, what is copied from it.
    place.write("new.def", definition("three", "four"));
    let expected = ["cached", "cached", "cached", "begin", "cached", "begin", "begin", "begin"];
    assert_eq!(steps(&place), all(expected));
    assert_eq!(steps(&place), all(["cached"; 8]));
    assert_eq!(leavings(&place), Vec::<String>::new());
}

fn owned(of: (&str, &str, &str)) -> (String, String, String) {
    (of.0.to_owned(), of.1.to_owned(), of.2.to_owned())
}

/// Something of all that gets into an image.
const EVERYTHING: &str = "Stage: one\n%post\n mkdir -p /out/a; for n in 1 2 3; do echo $n >/out/a/$n; done\n \
    ln -s 1 /out/a/l; ln /out/a/1 /out/hard\n\
    Bootstrap: localimage\nFrom: busybox.sif\n%files from one\n /out\n%files\n copied /etc/copied\n\
    %post\n mkdir -p /d /var/lib/dpkg; rm /bin/vi; mv /bin/ls /ls; chown 1:2 /d; chmod 4755 /bin/busybox; mknod /n c 1 3\n \
    echo 'export A=1' >>$SKIFF_ENVIRONMENT; echo 'w x' >>$SKIFF_LABELS\n \
    printf 'Package: a\\nStatus: install ok installed\\nVersion: 1\\nArchitecture: all\\n' >/var/lib/dpkg/status\n\
    %environment\n export B=2\n%labels\n a b\n%help\n help\n%runscript\n echo run\n\
    %appinstall foo\n echo foo >foo\n%apprun foo\n cat foo\n%test\n test -e /d\n";

#[test]
fn a_reproducible_image_is_the_same_from_the_cache_under_another_name_and_elsewhere() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("again-bytes");
    place.write("copied", "copied\n");
    place.write("new.def", format!("{BASE}{EVERYTHING}"));
    let build = |target: &str, flags: &[&str], directory: &str| {
        let mut command =
            place.skiff([&["build", "--force", "--reproducible"], flags, &[target, "new.def"]].concat());
        command.env("SOURCE_DATE_EPOCH", "1700000000").current_dir(place.work(directory));
        finish(&mut command).ok();
        fs::read(place.work(directory).join(target)).expect("an image")
    };
    let first = build("one.sif", &[], "");
    // Times go on.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert!(build("two.sif", &[], "") == first, "from the cache");
    assert!(build("three.sif", &["--disable-cache"], "") == first, "without the cache");
    // Another directory, and another time of the base's file.
    let copy = "mkdir else; cp busybox.sif new.def copied else; touch -d 2020-01-01 else/*";
    finish(place.command("sh").args(["-c", copy])).ok();
    assert!(build("one.sif", &["--disable-cache"], "else") == first, "in another directory");
    let other = place.run(["build", "--reproducible", "other.sif", "new.def"]);
    other.ok();
    assert!(fs::read(place.work("other.sif")).unwrap() != first, "the time counts");
}

#[test]
fn a_build_takes_no_more_room_than_what_is_new_and_the_image() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("again-room");
    // 24 MiB that nothing makes smaller: once as files, once in the image.
    place.write(
        "new.def",
        format!("{BASE}%post\n dd if=/dev/urandom of=/a bs=1M count=12\n%post\n dd if=/dev/urandom of=/b bs=1M count=12\n"),
    );
    let image = fs::metadata(place.work("busybox.sif")).unwrap().len();
    let needed = 2 * (24 << 20) + image;
    for (limit, enough) in [(needed * 11 / 10, true), (needed * 9 / 10, false)] {
        let mounts =
            format!("mount -t tmpfs -o size={limit} none small; export SKIFF_CACHEDIR=$PWD/small/cache");
        let arguments = "build --tmpdir small small/new.sif new.def";
        let done = finish(&mut super::bad_luck::with_mounts(&place, &mounts, arguments));
        assert_eq!(done.status.success(), enough, "{limit}: {done:?}");
        assert!(enough || done.stderr.contains("no space left on device"), "{done:?}");
    }
}
