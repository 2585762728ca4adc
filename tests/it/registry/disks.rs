//! File systems that are full, can only be read, or have no locks: what is pulled is right all the same, or there is an
//! error, and nothing is left.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::Setting;
use super::proxy::{Fault, What};
use super::server::digest;
use crate::harness::{Need, Output, Place, able, collect, describe, finish, give, skiff_binary};
use crate::hosts::under_filter;

const GOING_ON: &str = "going on without the cache";

/// Commands in a mount namespace of their own, `$SKIFF` among them, in a place with the directories `cache`, `scratch`
/// and `out`. What is fetched and made goes into the first two.
fn within(place: &Place, script: &str) -> Command {
    for name in ["cache", "scratch", "out"] {
        fs::create_dir_all(place.work(name)).expect("a directory can be made");
        give(&place.work(name));
    }
    let mut command = place.command("unshare");
    command.args(["-rm", "sh", "-ec", script]).env("SKIFF", skiff_binary());
    command.env("SKIFF_CACHEDIR", place.work("cache")).env("SKIFF_TMPDIR", place.work("scratch"));
    command
}

/// Commands that mount a small file system of that size.
fn small(name: &str, size: &str) -> String {
    format!("mount -t tmpfs -o {size} none {name}\n")
}

/// Lists what is left: all files but those that are whole, and what the caches have beside them.
const LEFT: &str = "find cache/fetched/new scratch -type f 2>/dev/null | wc -l";

/// Whether an image is the small one.
fn assert_small(setting: &Setting, image: &str) {
    let place = &setting.place;
    place.run(["build", "--force", "--sandbox", "box", image]).ok();
    let noise = |tree: &str| fs::read(place.work(tree).join("usr/share/noise")).expect("it is there");
    assert!(noise("box") == noise("tree"), "{image}");
}

#[test]
fn a_cache_that_is_full_is_done_without_and_says_so_once() {
    if !able(&[Need::Userns]) {
        return;
    }
    let Some(setting) = Setting::new("disk-cache", vec![], None) else { return };
    let pull = format!("$SKIFF pull --force a.sif {} && {LEFT}", setting.small());
    // No room for the layer; for the layer and not for the image; for no directory; for a part that was begun.
    let full = "mkdir -p cache/fetched; (cat /dev/zero >cache/filler) 2>/dev/null || true\n";
    for (mounts, what) in [
        (small("cache", "size=600k"), "the layer"),
        (small("cache", "size=1500k"), "the image"),
        (small("cache", "nr_inodes=3"), "a directory"),
        (small("cache", "size=1m") + full, "a byte"),
    ] {
        let said = finish(&mut within(&setting.place, &format!("{mounts}{pull}")));
        assert_eq!(said.stderr.matches(GOING_ON).count(), 1, "{what}: {said:?}");
        assert!(said.stderr.contains("no space left on device"), "{what}: {said:?}");
        assert_eq!(said.ok(), "0\n", "{what}: files are left");
        assert_small(&setting, "a.sif");
    }
}

#[test]
fn where_there_is_no_room_at_all_the_error_says_where_and_the_old_image_stands() {
    if !able(&[Need::Userns]) {
        return;
    }
    let Some(setting) = Setting::new("disk-scratch", vec![], None) else { return };
    let (place, image) = (&setting.place, setting.small());
    place.write("a.sif", "old");
    // The layer has no room; the layer has, and the image has not.
    for size in ["size=600k", "size=1500k"] {
        for flags in ["", "--disable-cache"] {
            let script = format!(
                "{}{}$SKIFF pull --force {flags} a.sif {image} || echo status $?\n{LEFT}; ls -A scratch",
                small("cache", "size=600k"),
                small("scratch", size)
            );
            let said = finish(&mut within(place, &script));
            let named = format!("hint: the file system of \"{}\" is full", place.work("scratch").display());
            assert!(said.stderr.contains("no space left on device"), "{said:?}");
            assert!(said.stderr.contains(&named) && said.stderr.contains("SKIFF_TMPDIR"), "{said:?}");
            assert_eq!(said.ok(), "status 255\n0\n", "{size} {flags}");
            assert_eq!(fs::read(place.work("a.sif")).unwrap(), b"old");
        }
    }
    let error = finish(
        within(place, &format!("$SKIFF pull --disable-cache b.sif {image}")).env("SKIFF_TMPDIR", "/none"),
    );
    let error = error.fails(255);
    assert!(error.contains("cannot write into \"/none\"") && error.contains("SKIFF_TMPDIR names"), "{error}");
}

#[test]
fn a_push_that_has_no_room_for_its_layer_says_where() {
    if !able(&[Need::Userns]) {
        return;
    }
    let Some(setting) = Setting::new("disk-push", vec![], None) else { return };
    let Setting { place, proxy, .. } = &setting;
    place.build("small.sif", &place.work("tree"));
    proxy.clear();
    // Of a directory the image has no room either.
    for source in ["small.sif", "tree"] {
        let target = format!("docker://{}/a:1", proxy.address);
        let push = format!("$SKIFF push {source} {target} || echo status $?; ls -A scratch");
        let said = finish(&mut within(place, &format!("{}{push}", small("scratch", "size=600k"))));
        let named = format!("hint: the file system of \"{}\" is full", place.work("scratch").display());
        assert!(said.stderr.contains("no space left on device") && said.stderr.contains(&named), "{said:?}");
        assert_eq!(said.ok(), "status 255\n", "{source}");
    }
    assert_eq!(proxy.log(), [""; 0]);
}

#[test]
fn where_the_output_has_no_room_the_old_one_stands_and_what_was_fetched_is_kept() {
    if !able(&[Need::Userns]) {
        return;
    }
    let Some(setting) = Setting::new("disk-output", vec![], None) else { return };
    let Setting { place, proxy, .. } = &setting;
    let image = setting.small();
    for command in ["pull --force", "build --force", "build --force --compression gzip"] {
        let script = format!(
            "{}echo old >out/a.sif\n$SKIFF {command} out/a.sif {image} || echo status $?\n{LEFT}; ls -A out; cat out/a.sif",
            small("out", "size=600k")
        );
        let said = finish(&mut within(place, &script));
        assert!(said.stderr.contains("no space left on device"), "{command}: {said:?}");
        assert!(said.stderr.contains("hint: the file system of \"out\" is full"), "{command}: {said:?}");
        assert!(!said.stderr.contains(GOING_ON), "{command}: {said:?}");
        assert_eq!(said.ok(), "status 255\n0\na.sif\nold\n", "{command}");
    }
    proxy.clear();
    finish(&mut within(place, &format!("$SKIFF pull a.sif {image}"))).ok();
    assert_eq!(proxy.count("/blobs/"), 0, "{:?}", proxy.log());
    assert_small(&setting, "a.sif");
}

#[test]
fn a_cache_on_a_file_system_that_can_only_be_read_is_read_and_not_written() {
    if !able(&[Need::Userns]) {
        return;
    }
    let Some(setting) = Setting::new("disk-read", vec![], None) else { return };
    let Setting { place, proxy, .. } = &setting;
    let closed = "(cd cache; mount --bind . .; mount -o remount,bind,ro \"$PWD\"); ";
    let pull = |name: &str| format!("$SKIFF pull {name}.sif {}; {LEFT}", setting.small());
    let said = finish(&mut within(place, &format!("{closed}{}", pull("a"))));
    assert_eq!(said.stderr.matches(GOING_ON).count(), 1, "{said:?}");
    assert!(said.stderr.contains("read-only file system"), "{said:?}");
    assert_eq!(said.ok(), "0\n");
    assert_small(&setting, "a.sif");
    // With what another has put there: the image, or its parts alone.
    finish(&mut within(place, &pull("b"))).ok();
    for (name, also, warned) in [("c", "", 0), ("d", "rm cache/fetched/images/*; ", 1)] {
        proxy.clear();
        let said = finish(&mut within(place, &format!("{also}{closed}{}", pull(name))));
        assert_eq!(said.stderr.matches(GOING_ON).count(), warned, "{said:?}");
        assert_eq!(said.ok(), "0\n");
        assert_eq!(proxy.count("/blobs/"), 0, "{:?}", proxy.log());
        assert_small(&setting, &format!("{name}.sif"));
    }
}

#[test]
fn who_stops_a_fetch_leaves_nothing_where_files_need_names() {
    if !able(&[Need::Userns, Need::Fuse, Need::Bindfs]) {
        return;
    }
    let hold = Fault { when: "/blobs/", times: u32::MAX, what: What::Status(429, "Retry-After: 300\r\n") };
    let Some(setting) = Setting::new("disk-stop", vec![hold], None) else { return };
    let Setting { place, proxy, .. } = &setting;
    fs::create_dir(place.work("seen")).unwrap();
    give(&place.work("seen"));
    // bindfs makes no file without a name.
    for verb in ["pull", "build", "build --compression gzip"] {
        proxy.clear();
        place.write("go", "");
        fs::remove_file(place.work("go")).unwrap();
        let script = format!(
            "bindfs -f out seen & served=$!; until mountpoint -q seen; do kill -0 $served; done
            $SKIFF {verb} seen/a.sif {} & pid=$!
            until [ -e go ]; do kill -0 $pid; done; kill -TERM $pid; wait $pid && echo over
            ls -A seen; umount seen; wait $served",
            setting.small()
        );
        let mut command = within(place, &script);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let (text, child) = (describe(&command), command.spawn().unwrap());
        while proxy.count("/blobs/") == 0 {
            std::thread::yield_now();
        }
        place.write("go", "");
        assert_eq!(collect(child, text).ok(), "", "{verb}");
    }
}

/// Whether all that the cache has under a digest has that digest, and nothing is left of what was begun.
fn assert_sound(cache: &Path) {
    let files = |name: &str| fs::read_dir(cache.join("fetched").join(name)).expect("a cache").flatten();
    let blobs: Vec<_> = files("blobs").collect();
    assert!(blobs.len() >= 3, "manifest, configuration, layer: {blobs:?}");
    for blob in blobs {
        let name = format!("sha256:{}", blob.file_name().to_string_lossy());
        assert_eq!(name, digest(&fs::read(blob.path()).expect("a blob can be read")));
    }
    assert_eq!(files("images").filter(|image| image.path().extension().is_none()).count(), 1);
    assert_eq!(files("new").map(|new| new.file_name()).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn without_locks_several_fetch_the_same_and_no_file_is_broken() {
    let Some(setting) = Setting::new("disk-locks", vec![], None) else { return };
    let (place, image) = (&setting.place, setting.small());
    for (number, errno) in [libc::ENOLCK, libc::ENOSYS, libc::EOPNOTSUPP].into_iter().enumerate() {
        let cut = Fault { when: "/blobs/", times: 6, what: What::Cut(300_000) };
        setting.proxy.faults(vec![cut]);
        let cache = place.work(format!("cache-{number}"));
        let run = |words: &[&str]| -> Output {
            let mut command = place.skiff(words);
            command.env("SKIFF_CACHEDIR", &cache);
            under_filter(command, [(libc::SYS_flock, vec![])].into(), errno)
        };
        std::thread::scope(|scope| {
            for name in 0..8 {
                let (run, image) = (&run, &image);
                scope.spawn(move || run(&["pull", "--force", &format!("{name}.sif"), image]).ok());
            }
        });
        assert_sound(&cache);
        (0..8).for_each(|name| assert_small(&setting, &format!("{name}.sif")));
        // What somebody may be at stays, and goes when nobody has been at it for a day.
        let begun = cache.join("fetched/new/0.other-00000000.1-0");
        fs::write(&begun, "x").unwrap();
        give(&begun);
        run(&["cache", "clean", "--force"]).ok();
        assert!(begun.exists());
        fs::File::options()
            .write(true)
            .open(&begun)
            .unwrap()
            .set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
        run(&["cache", "clean", "--force"]).ok();
        assert!(!begun.exists());
        assert!(run(&["cache", "list"]).ok().contains("0 entries"));
    }
}

#[test]
fn where_locks_hold_within_a_node_alone_each_node_fetches_once() {
    if !able(&[Need::Userns, Need::Fuse, Need::Bindfs]) {
        return;
    }
    let cut = Fault { when: "/blobs/", times: 4, what: What::Cut(300_000) };
    let Some(setting) = Setting::new("disk-nodes", vec![cut], None) else { return };
    let Setting { place, proxy, .. } = &setting;
    fs::create_dir(place.work("shared")).unwrap();
    give(&place.work("shared"));
    // A node sees the directory by a file system that has locks of its own, as FUSE has where nobody hands them on.
    let script = "hostname $1; mkdir $1; bindfs -f shared $1 & served=$!
        until mountpoint -q $1; do kill -0 $served; done
        touch ready-$1; until [ -e ready-one ] && [ -e ready-two ]; do :; done
        for name in 1 2 3 4; do SKIFF_CACHEDIR=$PWD/$1 $SKIFF pull $1-$name.sif $IMAGE & pulls=\"$pulls $!\"; done
        for pull in $pulls; do wait $pull; done
        umount $1; wait $served";
    let nodes: Vec<_> = ["one", "two"]
        .into_iter()
        .map(|node| {
            let mut command = place.command("unshare");
            command.args(["-rmu", "sh", "-ec", script, "sh", node]).env("SKIFF", skiff_binary());
            command.env("IMAGE", setting.small()).stdout(Stdio::piped()).stderr(Stdio::piped());
            (describe(&command), command.spawn().unwrap())
        })
        .collect();
    for (text, child) in nodes {
        collect(child, text).ok();
    }
    assert_sound(&place.work("shared"));
    let whole =
        proxy.log().iter().filter(|line| line.contains("/blobs/") && !line.contains("bytes=")).count();
    assert!((2..=4).contains(&whole), "configuration and layer, once a node: {:?}", proxy.log());
    for name in ["one-1.sif", "one-4.sif", "two-1.sif", "two-4.sif"] {
        assert_small(&setting, name);
    }
}
