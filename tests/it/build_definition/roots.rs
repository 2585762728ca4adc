//! The three ways to be root: images built as root, with subordinate ids and with a single id have the same owners,
//! permissions, devices and capabilities; in new files, and in changes of a base that belongs to several users.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::bad_luck::begin;
use super::leavings;
use crate::harness::{Need, Place, able, busybox_tree, collect, finish, wait_for_exit};
use crate::subids::{range, with_ranges};

const NEEDS: [Need; 6] =
    [Need::Userns, Need::Fuse, Need::Busybox, Need::Newuidmap, Need::Root, Need::StaticC];

/// Gives a file the capability to open raw sockets, as setcap(8) does.
const SETCAP: &str = r#"
#include <sys/xattr.h>
int main(int count, char **words) {
    unsigned char raw[20] = {1, 0, 0, 2, 0, 0x20};
    return setxattr(words[1], "security.capability", raw, sizeof raw, 0) != 0;
}"#;

/// Ways to be root.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Root,
    Subordinate,
    Single,
}

const WAYS: [Way; 3] = [Way::Root, Way::Subordinate, Way::Single];

/// A place with `base.sif`, in which several users own files.
fn place(name: &str) -> Place {
    let place = Place::new(name);
    let source = place.write("setcap.c", SETCAP);
    let tree = place.work("tree");
    busybox_tree(&tree);
    let mut compile = Command::new("gcc");
    finish(compile.args(["-static", "-o"]).arg(tree.join("bin/setcap")).arg(source)).ok();
    let own = "chown -R 0:0 tree; cd tree; mkdir -p srv/a/sub srv/b srv/c; echo 1 >srv/a/1; echo 2 >srv/a/sub/2; echo 3 >srv/b/3\n\
        ln srv/b/3 srv/b/hard; ln -s 3 srv/b/link; mkfifo srv/b/fifo; echo tool >srv/tool; chmod 755 srv/tool\n\
        setpriv true; chown -hR 42:43 srv/a; chown -hR 1000:50 srv/b; chown 7:7 srv/c; chmod 2775 srv/c; chmod 1777 .; chown 3:4 .";
    let mut owned = place.command("sh");
    finish(owned.args(["-ec", own]).uid(0).gid(0)).ok();
    let raw = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(tree.join("srv/tool"), "security.capability", &raw, flags).expect("root may");
    finish(place.skiff(["build", "base.sif", "tree"]).uid(0).gid(0)).ok();
    place
}

/// A build in one of the ways, with a cache of its own.
fn command(place: &Place, way: Way, arguments: &str) -> Command {
    let cache = format!("SKIFF_CACHEDIR={}", place.work(format!("cache-{way:?}")).display());
    if way == Way::Subordinate {
        let mut command = with_ranges(place, &range(65_536), "", &format!("exec $SKIFF build {arguments}"));
        command.env("SKIFF_CACHEDIR", cache.trim_start_matches("SKIFF_CACHEDIR="));
        return command;
    }
    let mut command = place.skiff(["build"].into_iter().chain(arguments.split(' ')));
    command.env("SKIFF_CACHEDIR", cache.trim_start_matches("SKIFF_CACHEDIR="));
    if way == Way::Root {
        command.uid(0).gid(0);
    }
    command
}

/// Every entry of an image with kind, permissions, owner, device and path, and then the capabilities.
fn entries(place: &Place, image: &str) -> Vec<String> {
    let bytes = fs::read(place.work(image)).expect("an image");
    let at = bytes.chunks(4096).position(|page| page.starts_with(b"hsqs")).expect("a file system") * 4096;
    let mut list = Command::new("unsquashfs");
    list.args(["-o", &at.to_string(), "-lln"]).arg(place.work(image));
    let text = finish(&mut list).ok();
    let mut lines: Vec<String> = text
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            // A device has a word more; sizes and times may differ.
            let path = line.find("squashfs-root").map_or("", |at| &line[at..]);
            let device = if line.starts_with(['b', 'c']) { words[2..4].concat() } else { String::new() };
            format!("{} {} {device} {path}", words[0], words[1])
        })
        .collect();
    let out = place.work("unpacked");
    let _ = fs::remove_dir_all(&out);
    let mut unpack = Command::new("unsquashfs");
    unpack.args(["-q", "-n", "-o", &at.to_string(), "-d"]).arg(&out).arg(place.work(image));
    finish(&mut unpack).ok();
    let mut capable = Command::new("getcap");
    let text = finish(capable.args(["-r", "."]).current_dir(&out)).ok();
    lines.extend(text.lines().map(str::to_owned));
    lines
}

/// Builds a definition over `base.sif` in every way; the entries of the images, which are the same.
#[track_caller]
fn build_in_every_way(place: &Place, sections: &str) -> Vec<String> {
    place.write("new.def", format!("Bootstrap: localimage\nFrom: base.sif\n{sections}"));
    let built = WAYS.map(|way| {
        let name = format!("{way:?}.sif");
        finish(&mut command(place, way, &format!("{name} new.def"))).ok();
        assert_eq!(leavings(place), Vec::<String>::new());
        entries(place, &name)
    });
    let [root, subordinate, single] = built;
    for (other, way) in [(&subordinate, Way::Subordinate), (&single, Way::Single)] {
        let missing: Vec<_> = root.iter().filter(|entry| !other.contains(entry)).collect();
        let more: Vec<_> = other.iter().filter(|entry| !root.contains(entry)).collect();
        assert!(missing.is_empty() && more.is_empty(), "{way:?}: lacks {missing:#?}, has {more:#?}");
    }
    root
}

#[track_caller]
fn has(entries: &[String], wanted: &[&str]) {
    for line in wanted {
        assert!(entries.iter().any(|entry| entry == line), "{line:?} is not in {entries:#?}");
    }
}

#[test]
fn new_files_have_the_owners_devices_and_capabilities_that_they_were_given() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("roots-new");
    let text = "%post\n mknod /null c 1 3; mknod -m 640 /loop b 7 12; mkdir /d; mknod -m 600 /d/null c 1 3\n \
        echo x >/o; chown 1000:1001 /o; chmod 6755 /o; ln /o /d/hard; mkdir -m 3770 /d/m; chown 5:6 /d/m\n \
        ln -s o /d/l; chown -h 7:8 /d/l; ln -s o /l; chown -h 7:8 /l; mkfifo /fifo; chown 3:4 /fifo\n \
        cp /bin/busybox /cap; setcap /cap; cp /bin/busybox /lost; setcap /lost; chown 9:9 /lost\n\
        %setup\n mknod $SKIFF_ROOTFS/host c 5 1; chown 12:13 $SKIFF_ROOTFS/host; echo y >$SKIFF_ROOTFS/own; chown 14:15 $SKIFF_ROOTFS/own\n\
        %test\n true\n";
    let entries = build_in_every_way(&place, text);
    has(
        &entries,
        &[
            "crw-r--r-- 0/0 1,3 squashfs-root/null",
            "brw-r----- 0/0 7,12 squashfs-root/loop",
            "crw------- 0/0 1,3 squashfs-root/d/null",
            "-rwsr-sr-x 1000/1001  squashfs-root/o",
            "-rwsr-sr-x 1000/1001  squashfs-root/d/hard",
            "drwxrws--T 5/6  squashfs-root/d/m",
            "lrwxrwxrwx 7/8  squashfs-root/d/l -> o",
            "lrwxrwxrwx 7/8  squashfs-root/l -> o",
            "prw-r--r-- 3/4  squashfs-root/fifo",
            "crw-r--r-- 12/13 5,1 squashfs-root/host",
            "-rw-r--r-- 14/15  squashfs-root/own",
            // The root directory is the base's.
            "drwxrwxrwt 3/4  squashfs-root",
            "./cap cap_net_raw=ep",
            "./srv/tool cap_net_raw=ep",
        ],
    );
    assert!(!entries.iter().any(|entry| entry.contains("./lost")), "a new owner takes capabilities away");
}

#[test]
fn changes_of_a_base_of_several_users_keep_their_owners() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("roots-base");
    // One layer each: what the second one sees is a change of the first.
    let text = "%post\n chown -R 100:101 /srv/a; chmod 700 /srv/b/3; echo more >>/srv/tool; chmod 750 /srv/c; rm /srv/b/fifo\n \
        mv /srv/b/hard /srv/c/moved; ln /srv/b/3 /srv/c/linked; chown -h 60:61 /srv/b/link; chown 20:21 /; echo new >/srv/b/new\n\
        %appinstall one\n chmod 711 /srv/a/sub; rm -r /srv/a/sub/2\n";
    let entries = build_in_every_way(&place, text);
    has(
        &entries,
        &[
            "drwxrwxrwt 20/21  squashfs-root",
            "drwxr-xr-x 100/101  squashfs-root/srv/a",
            "-rw-r--r-- 100/101  squashfs-root/srv/a/1",
            "drwx--x--x 100/101  squashfs-root/srv/a/sub",
            "drwxr-xr-x 1000/50  squashfs-root/srv/b",
            "-rw-r--r-- 0/0  squashfs-root/srv/b/new",
            "-rwx------ 1000/50  squashfs-root/srv/b/3",
            "-rwx------ 1000/50  squashfs-root/srv/c/linked",
            "drwxr-x--- 7/7  squashfs-root/srv/c",
        ],
    );
}

#[test]
fn files_of_subordinate_ids_are_removed_whatever_ends_the_build() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("roots-removed");
    let owned = "mkdir -m 700 /d; echo x >/d/f; chmod 0 /d/f; chown -R 33:33 /d; chmod 500 /d";
    for (end, status) in [("exit 3", 255), ("kill -9 $$", 255)] {
        place.write("new.def", format!("Bootstrap: localimage\nFrom: base.sif\n%post\n {owned}; {end}\n"));
        finish(&mut command(&place, Way::Subordinate, "--tmpdir . new.sif new.def")).fails(status);
        assert_eq!(below(&place), Vec::<String>::new(), "{end}");
    }
    let slow = format!("Bootstrap: localimage\nFrom: base.sif\n%post\n {owned}; echo begun >&2; sleep 600\n");
    let start = || {
        place.write("new.def", &slow);
        begin(command(&place, Way::Subordinate, "--tmpdir . new.sif new.def"), "begun")
    };
    let child = start();
    killpg(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("skiff runs");
    collect(child, "Ctrl-C".into()).dies_of(libc::SIGINT);
    assert_eq!(below(&place), Vec::<String>::new());
    // Killed: the next build removes them.
    let mut child = start();
    child.kill().expect("skiff runs");
    child.wait().expect("a child can be waited for");
    for (pid, _) in place.processes() {
        assert!(wait_for_exit(pid, Duration::from_secs(20)), "process {pid} stays");
    }
    assert_eq!(below(&place).len(), 1);
    place.write("new.def", format!("Bootstrap: localimage\nFrom: base.sif\n%post\n {owned}\n"));
    finish(&mut command(&place, Way::Subordinate, "--tmpdir . new.sif new.def")).ok();
    assert_eq!(below(&place), Vec::<String>::new());
    // What the cache has of them goes too.
    let clean = "SKIFF_CACHEDIR=$PWD/cache-Subordinate exec $SKIFF cache clean --force";
    finish(&mut with_ranges(&place, &range(65_536), "", clean)).ok();
    let entries = fs::read_dir(place.work("cache-Subordinate/v1/entries")).expect("it is there");
    assert_eq!(entries.count(), 0);
}

/// Work directories in the place's own.
fn below(place: &Place) -> Vec<String> {
    let entries = fs::read_dir(place.work("")).expect("it is there").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("skiff-build-")).collect()
}

#[test]
fn the_callers_mask_does_not_reach_the_image() {
    if !able(&NEEDS[..3]) {
        return;
    }
    let place = super::place("roots-mask");
    let owner = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o7777;
    fs::set_permissions(place.work("busybox-tree"), fs::Permissions::from_mode(0o751)).expect("a mode");
    place.build("base.sif", &place.work("busybox-tree"));
    for (base, mode) in [("localimage\nFrom: base.sif", 0o751), ("scratch", 0o755)] {
        let copied = "%files\n busybox-tree/bin/busybox /bin/busybox\n%setup\n mkdir $SKIFF_ROOTFS/made\n";
        place.write("new.def", format!("Bootstrap: {base}\n{copied}"));
        let mut masked = place.command("sh");
        let script = "umask 077; exec $0 build --force --sandbox new new.def";
        finish(masked.args(["-c", script]).arg(crate::harness::skiff_binary())).ok();
        let modes =
            ["", "made", ".singularity.d", "bin/busybox"].map(|path| owner(&place.work("new").join(path)));
        assert_eq!(modes, [mode, 0o755, 0o755, 0o755], "{base}");
    }
}
