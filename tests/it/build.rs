//! `skiff build`: a directory into an image and back, and what is left when that fails.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use crate::harness::{Need, Place, able, collect, describe, finish, give, skiff_binary};

/// What an entry of a tree is, times in seconds, and the first of its names for a hard link.
type Entry = (u32, u64, i64, Vec<u8>, PathBuf);

/// A tree with one of everything that an ordinary user can make. It is the ordinary user's.
fn tree(place: &Place) -> PathBuf {
    let root = place.work("tree");
    for directory in ["bin", "empty", "a/b/c", "closed/inside", "read-only", "many"] {
        fs::create_dir_all(root.join(directory)).expect("a directory can be made");
    }
    let write = |name: &str, content: &[u8]| fs::write(root.join(name), content).expect("a file can be made");
    write("bin/tool", b"#!/bin/sh\n");
    write("nothing", b"");
    write("closed/inside/file", b"hidden");
    write("read-only/file", b"kept");
    // Large enough for several threads, of a period that no block size divides.
    let large: Vec<u8> = (0..20_000_000_u32).map(|n| ((n % 65_521) >> 3) as u8).collect();
    write("a/large", &large);
    for n in 0..700 {
        write(&format!("many/{n}"), format!("content {n}").repeat(n % 50).as_bytes());
    }
    fs::write(root.join(OsStr::from_bytes(b"a/\xff not utf-8 \n")), b"name").expect("any name goes");
    fs::write(root.join("n".repeat(255)), b"long name").expect("a long name goes");
    let sparse = File::create(root.join("a/sparse")).expect("a file can be made");
    sparse.write_all_at(b"middle", 3 << 20).expect("a file can be written");
    sparse.set_len(40 << 20).expect("a file can be lengthened");
    fs::hard_link(root.join("a/large"), root.join("bin/large-too")).expect("a link can be made");
    fs::hard_link(root.join("a/large"), root.join("a/b/c/large-three")).expect("a link can be made");
    symlink("../../../etc/passwd", root.join("a/b/out")).expect("a link can be made");
    symlink("/absolute", root.join("absolute")).expect("a link can be made");
    mkfifo(&root.join("a/pipe"), Mode::from_bits_truncate(0o640)).expect("a pipe can be made");
    give(&root);
    for (name, mode) in [("bin/tool", 0o4755), ("nothing", 0o400), ("a/b", 0o1777), ("empty", 0o2711)] {
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).expect("a mode can be set");
    }
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for name in ["bin/tool", "a/b/c", "read-only/file"] {
        File::open(root.join(name)).and_then(|f| f.set_modified(old)).expect("a time can be set");
    }
    for (name, mode) in [("closed/inside", 0o500), ("read-only", 0o555)] {
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).expect("a mode can be set");
    }
    root
}

fn entries(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut found = BTreeMap::new();
    let mut first_names = BTreeMap::new();
    let mut paths = vec![root.to_owned()];
    while let Some(path) = paths.pop() {
        let facts = fs::symlink_metadata(&path).expect("an entry can be looked at");
        let content = if facts.is_dir() {
            let mut names: Vec<_> =
                fs::read_dir(&path).expect("listing").map(|e| e.expect("an entry").path()).collect();
            names.sort();
            // The last is taken first.
            paths.extend(names.into_iter().rev());
            Vec::new()
        } else if facts.is_symlink() {
            fs::read_link(&path).expect("a link can be read").into_os_string().as_bytes().to_vec()
        } else if facts.is_file() {
            fs::read(&path).expect("a file can be read")
        } else {
            Vec::new()
        };
        let name = path.strip_prefix(root).expect("it is below").to_owned();
        let first: &mut PathBuf = first_names.entry(facts.ino()).or_insert_with(|| name.clone());
        let size = if facts.is_dir() { 0 } else { facts.size() };
        found.insert(name, (facts.mode(), size, facts.mtime(), content, first.clone()));
    }
    found
}

#[track_caller]
fn assert_same(expected: &Path, found: &Path) {
    let (expected, found) = (entries(expected), entries(found));
    for (name, entry) in &expected {
        let got = found.get(name);
        assert!(
            got == Some(entry),
            "{name:?}: {:?} and not {:?}",
            got.map(|e| (e.0, e.1, e.2, &e.4)),
            (entry.0, entry.1, entry.2, &entry.4)
        );
    }
    let names = |all: &BTreeMap<PathBuf, Entry>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&expected), names(&found));
}

fn names(directory: &Path) -> Vec<OsString> {
    let mut names: Vec<_> =
        fs::read_dir(directory).expect("listing").map(|e| e.expect("an entry").file_name()).collect();
    names.sort();
    names
}

#[test]
fn a_tree_survives_packing_and_unpacking() {
    let place = Place::new("build-round");
    let tree = tree(&place);
    for (n, flags) in [
        &["--compression", "gzip", "--block-size", "4K", "--threads", "3"][..],
        &["--compression", "lz4", "--block-size", "1M"],
        &["--compression", "xz", "--level", "1"],
        &["--level", "1", "--threads", "1"],
    ]
    .iter()
    .enumerate()
    {
        let (image, sandbox) = (format!("{n}.sif"), format!("{n}"));
        let words = ["build"].iter().chain(*flags).copied().chain([image.as_str(), "tree"]);
        let output = place.run(words);
        assert!(output.stderr.starts_with(&image), "{}", output.stderr);
        output.ok();
        place.run(["-q", "build", "--sandbox", "--threads", "4", &sandbox, &image]).ok();
        assert_same(&tree, &place.work(&sandbox));
        let sparse = fs::metadata(place.work(&sandbox).join("a/sparse")).expect("it is there");
        assert!(sparse.blocks() < 2048 * 3, "a hole takes {} blocks", sparse.blocks());
    }
}

#[test]
fn the_same_tree_gives_the_same_bytes() {
    let place = Place::new("build-same");
    tree(&place);
    for threads in ["1", "2", "8"] {
        let image = format!("{threads}.sif");
        let mut build = place.skiff(["build", "--reproducible", "--threads", threads, &image, "tree"]);
        finish(build.env("SOURCE_DATE_EPOCH", "1600000000")).ok();
    }
    let bytes = |name: &str| fs::read(place.work(name)).expect("there is an image");
    assert!(bytes("1.sif") == bytes("2.sif"), "1 and 2 threads differ");
    assert!(bytes("1.sif") == bytes("8.sif"), "1 and 8 threads differ");
    let mut build = place.skiff(["build", "other.sif", "tree"]);
    let error = finish(build.env("SOURCE_DATE_EPOCH", "yesterday")).fails(255);
    assert!(error.contains("SOURCE_DATE_EPOCH is \"yesterday\""), "{error}");
}

#[test]
fn nothing_is_replaced_without_force_nor_packed_into_itself() {
    let place = Place::new("build-refuse");
    tree(&place);
    place.write("old.sif", "old");
    let hint = "hint: --force replaces it\n";
    let error = place.run(["build", "old.sif", "tree"]).fails(255);
    assert_eq!(error, format!("skiff: \"old.sif\" exists\n{hint}"));
    assert_eq!(fs::read(place.work("old.sif")).expect("it is there"), b"old");
    let error = place.run(["build", "tree/bin/a.sif", "tree"]).fails(255);
    assert!(error.contains("the directory it is made of"), "{error}");
    let error = place.run(["build", "a.sif", "old.sif"]).fails(255);
    assert!(error.contains("cannot open image \"old.sif\": it is not an image"), "{error}");
    let error = place.run(["build", "a.sif", "shub://vsoch/hello-world"]).fails(255);
    assert!(error.contains("Singularity Hub"), "{error}");
    let error = place.run(["build", "a.sif", "missing"]).fails(255);
    assert_eq!(
        error,
        "skiff: cannot build from \"missing\": no such file or directory\nhint: skiff builds from definitions (text with a line 'Bootstrap: AGENT'), directories and images, also docker://NAME, oras://NAME, oci:DIR, oci-archive:FILE and docker-archive:FILE\n"
    );
    let error = place.run(["build", "none/a.sif", "tree"]).fails(255);
    assert_eq!(error, "skiff: cannot use directory \"none\": no such file or directory\n");
    let error = place.run(["build", "--level", "99", "a.sif", "tree"]).fails(255);
    assert!(error.contains("level"), "{error}");
    let error = place.run(["build", "--sandbox", "copy", "tree"]).fails(255);
    assert!(error.contains("it is a directory already"), "{error}");
    place.run(["build", "--force", "old.sif", "tree"]).ok();
    let error = place.run(["build", "--sandbox", "tree", "old.sif"]).fails(255);
    assert_eq!(error, format!("skiff: \"tree\" exists and is not empty\n{hint}"));
    fs::write(place.work("tree/bin/extra"), b"").expect("a file can be made");
    place.run(["build", "--force", "--sandbox", "tree", "old.sif"]).ok();
    assert!(!place.work("tree/bin/extra").exists());
    let error = place.run(["build", "--sandbox", "x", "damaged.sif"]).fails(255);
    assert!(error.contains("no such file"), "{error}");
    assert_eq!(names(&place.work("")), ["old.sif", "tree"]);
}

#[test]
fn a_damaged_image_leaves_no_sandbox() {
    let place = Place::new("build-damaged");
    tree(&place);
    place.run(["build", "a.sif", "tree"]).ok();
    let mut bytes = fs::read(place.work("a.sif")).expect("there is an image");
    // The inodes: where the superblock says, behind the two bytes of the first block's length.
    let field = bytes[32768 + 64..].first_chunk().expect("there is a superblock");
    let inodes = 32768 + u64::from_le_bytes(*field) as usize + 2;
    bytes[inodes..inodes + 64].fill(0xa5);
    place.write("damaged.sif", bytes);
    let error = place.run(["build", "--sandbox", "x", "damaged.sif"]).fails(255);
    assert!(error.starts_with("skiff: cannot unpack \"damaged.sif\": "), "{error}");
    assert!(error.ends_with("\nhint: the image is damaged; copy, download or build it again\n"), "{error}");
    assert_eq!(names(&place.work("")), ["a.sif", "damaged.sif", "tree"]);
}

/// Starts skiff, waits until it has taken charge of Ctrl-C, and presses it.
fn interrupt(place: &Place, words: &[&str]) -> crate::harness::Output {
    let mut command = place.skiff(words);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("skiff starts");
    let status = format!("/proc/{}/status", child.id());
    let end = Instant::now() + Duration::from_secs(20);
    let catches = || {
        let status = fs::read_to_string(&status).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t"))?;
        Some(u64::from_str_radix(caught, 16).ok()? & 2 != 0)
    };
    while catches() != Some(true) {
        assert!(Instant::now() < end, "skiff does not catch Ctrl-C");
        std::thread::yield_now();
    }
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("skiff runs");
    collect(child, describe(&command))
}

#[test]
fn ctrl_c_leaves_the_old_output_and_nothing_half_done() {
    let place = Place::new("build-ctrl-c");
    let root = tree(&place);
    // Seconds of work: random bytes under xz.
    let mut noise = vec![0_u8; 24 << 20];
    let mut state = 1_u64;
    for byte in &mut noise {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (state >> 56) as u8;
    }
    for n in 0..4 {
        fs::write(root.join(format!("many/noise{n}")), &noise).expect("a file can be made");
        noise.rotate_left(7777);
    }
    place.write("a.sif", "old");
    let output = interrupt(&place, &["build", "--force", "--compression", "xz", "a.sif", "tree"]);
    let error = output.dies_of(libc::SIGINT);
    let words = "interrupted\nhint: the target is as it was; the same command starts anew\n";
    assert!(error.starts_with("skiff: ") && error.ends_with(words), "{error}");
    assert_eq!(fs::read(place.work("a.sif")).expect("it is there"), b"old");
    assert_eq!(names(&place.work("")), ["a.sif", "tree"]);
    place.run(["build", "--force", "--level", "1", "a.sif", "tree"]).ok();
    interrupt(&place, &["build", "--threads", "1", "--sandbox", "x", "a.sif"]).dies_of(libc::SIGINT);
    assert_eq!(names(&place.work("")), ["a.sif", "tree"]);
}

#[test]
fn a_full_disk_leaves_the_old_output_and_says_so() {
    if !able(&[Need::Userns]) {
        return;
    }
    let place = Place::new("build-full");
    tree(&place);
    fs::create_dir(place.work("small")).expect("a directory can be made");
    let script = "mount -t tmpfs -o size=300k none small && echo old >small/a.sif
        \"$0\" build --force --compression lz4 small/a.sif tree; echo status $?; cat small/a.sif; ls -A small
        \"$0\" build -q ../work/b.sif tree && \"$0\" build --sandbox small/x b.sif; echo status $?; ls -A small";
    let mut command = place.command("unshare");
    command.args(["-rm", "sh", "-c", script]).arg(skiff_binary());
    let output = finish(&mut command);
    assert_eq!(output.stdout, "status 255\nold\na.sif\nstatus 255\na.sif\n", "{}", output.stderr);
    assert_eq!(output.stderr.matches("no space left on device").count(), 2, "{}", output.stderr);
    assert_eq!(
        output.stderr.matches("hint: the file system of \"small\" is full").count(),
        2,
        "{}",
        output.stderr
    );
}
