//! `--fakeroot` with subordinate ids. The ordinary user has some, or none, only in a mount namespace of each test's
//! own, where other files lie over /etc/subuid and /etc/subgid; newuidmap and newgidmap are the system's.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::harness::{Need, Place, able, busybox_tree, debian_image, finish, skiff_binary, user};
use crate::hosts::report;

const NEEDS: [Need; 4] = [Need::Userns, Need::Fuse, Need::Busybox, Need::Newuidmap];

/// A skiff in a container needs the host's C library, and settings do not reach it by themselves.
const LIBRARIES: &str = "--bind /lib,/lib64,/usr/lib --env SKIFF_LINGER=0";

/// Where the ranges of a test's user begin.
const FIRST: u32 = 300_000;

/// `script` as the ordinary user who has these ranges, with skiff as `$SKIFF`, after `setup`, which root does.
pub fn with_ranges(place: &Place, ranges: &str, setup: &str, script: &str) -> Command {
    fs::write(place.work("subids"), ranges).expect("a file can be written");
    let become_user = format!("exec setpriv --reuid {} --regid {} --clear-groups", user().uid, user().gid);
    let prepare = "mount --bind subids /etc/subuid\nmount --bind subids /etc/subgid";
    let mut command = place.command("unshare");
    command.args(["--mount", "sh", "-c"]);
    command.arg(format!("set -e\n{prepare}\n{setup}\n{become_user} sh -c \"$0\""));
    command.arg(script).env("SKIFF", skiff_binary()).env_remove("SKIFF_IGNORE_SUBUID");
    command.uid(0).gid(0);
    command
}

pub fn range(count: u32) -> String {
    format!("{}:{FIRST}:{count}\n", user().name)
}

/// The same with ranges that are enough, to its end; what it printed.
#[track_caller]
fn run(place: &Place, script: &str) -> String {
    finish(&mut with_ranges(place, &range(65_536), "", script)).ok()
}

/// The lines of a file like /proc/self/uid_map, as numbers.
fn numbers(text: &str) -> Vec<Vec<u32>> {
    text.lines().map(|line| line.split_whitespace().filter_map(|word| word.parse().ok()).collect()).collect()
}

fn give_to(path: &Path, id: u32) {
    lchown(path, Some(id), Some(id)).expect("root can give files away");
}

#[test]
fn root_has_the_ids_of_the_range_and_gives_files_to_them() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("subids-map");
    place.busybox_image();
    let maps = run(&place, "$SKIFF exec --fakeroot busybox.sif cat /proc/self/uid_map /proc/self/gid_map");
    let (uid, gid) = (user().uid, user().gid);
    let expected = [[0, uid, 1], [1, FIRST, 65_536], [0, gid, 1], [1, FIRST, 65_536]];
    assert_eq!(numbers(&maps), expected);
    let script = "cat /proc/self/setgroups; touch made; chown 33:34 made; stat -c %u:%g made; id -u; \
                  grep ^root: /etc/passwd; echo $HOME";
    let printed = run(&place, &format!("$SKIFF exec --fakeroot busybox.sif sh -c '{script}'"));
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines[..3], ["allow", "33:34", "0"], "{printed}");
    assert!(lines[3].starts_with("root:x:0:0:root:/root:"), "{printed}");
    assert_eq!(lines[4], "/root", "{printed}");
    let made = fs::metadata(place.work("made")).expect("it is on the host");
    assert_eq!((made.uid(), made.gid()), (FIRST + 32, FIRST + 33));
    // Without --fakeroot nothing of it is asked for.
    let alone = run(&place, "$SKIFF exec busybox.sif cat /proc/self/uid_map");
    assert_eq!(numbers(&alone), [[uid, uid, 1]]);
}

#[test]
fn a_device_that_cannot_be_made_is_an_error_and_no_file() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("subids-device");
    place.busybox_image();
    let make = "mknod /n c 1 3; echo $?; [ -e /n ] || echo none";
    let script = format!("$SKIFF exec --fakeroot $FLAG --writable-tmpfs busybox.sif sh -c '{make}' 2>&1");
    let printed = run(&place, &script);
    assert_eq!(printed, "mknod: /n: Operation not permitted\n1\nnone\n");
    // Where the caller's id is the only one, it is recorded, and stat tells so.
    let script = format!("FLAG=--ignore-subuid; {}", script.replace("[ -e", "[ -c"));
    assert_eq!(run(&place, &script), "0\n");
}

#[test]
fn several_ranges_follow_each_other() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("subids-several");
    place.busybox_image();
    let (name, uid) = (&user().name, user().uid);
    let ranges = format!("{name}:{FIRST}:65000\nother:1:1\n{uid}:500000:1000\n");
    let script = "$SKIFF exec --fakeroot busybox.sif cat /proc/self/gid_map";
    let maps = finish(&mut with_ranges(&place, &ranges, "", script)).ok();
    assert_eq!(numbers(&maps), [[0, user().gid, 1], [1, FIRST, 65_000], [65_001, 500_000, 1000]]);
}

#[test]
fn another_source_of_ids_is_asked() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("subids-source");
    place.busybox_image();
    let answer = "#!/bin/sh\necho \"$*\" >>asked\necho 0: $1 700000 65536\n";
    place.write("getsubids", answer);
    fs::set_permissions(place.work("getsubids"), fs::Permissions::from_mode(0o755)).expect("a mode");
    place.write("nsswitch.conf", "passwd: files\ngroup: files\nsubid: directory\n");
    let setup = "mount --bind nsswitch.conf /etc/nsswitch.conf";
    let script = "PATH=$PWD:$PATH $SKIFF exec --fakeroot --dry-run busybox.sif true; cat asked";
    let printed = finish(&mut with_ranges(&place, &range(65_536), setup, script)).ok();
    assert!(
        printed.contains("\n         uids 700000-765535 to those from 1 on, by /usr/bin/newuidmap\n"),
        "{printed}"
    );
    let name = &user().name;
    assert!(printed.ends_with(&format!("\n{name}\n-g {name}\n")), "{printed}");
}

#[test]
fn files_of_the_image_have_their_owners_and_those_beyond_the_map_are_nobodys() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("subids-owners");
    let tree = place.work("tree");
    busybox_tree(&tree);
    for (id, directory) in [(0, "srv/roots"), (42, "srv/apts"), (4_000_000, "srv/far")] {
        let directory = tree.join(directory);
        fs::create_dir_all(&directory).expect("a directory can be made");
        fs::write(directory.join("file"), "read\n").expect("a file can be written");
        fs::set_permissions(directory.join("file"), fs::Permissions::from_mode(0o600)).expect("a mode");
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).expect("a mode");
        give_to(&directory.join("file"), id);
        give_to(&directory, id);
    }
    finish(place.skiff(["build", "a.sif", "tree"]).uid(0).gid(0)).ok();
    let look = "stat -c %u:%g srv/*; cat srv/*/file; chown 7:7 srv/far/file; stat -c %u:%g srv/far/file";
    let printed =
        run(&place, &format!("$SKIFF exec --fakeroot --writable-tmpfs --cwd / a.sif sh -c '{look}'"));
    assert_eq!(printed, "42:42\n65534:65534\n0:0\nread\nread\nread\n7:7\n");
    let one = "SKIFF_IGNORE_SUBUID=1 $SKIFF exec --fakeroot --cwd / a.sif sh -c 'stat -c %u:%g srv/*'";
    assert_eq!(run(&place, one), "42:42\n4000000:4000000\n0:0\n");
}

#[test]
fn without_enough_ids_the_callers_is_the_only_one_and_the_plan_says_why() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("subids-none");
    place.busybox_image();
    let uid = user().uid;
    let look = "$SKIFF exec --fakeroot $FLAG busybox.sif cat /proc/self/uid_map; \
                $SKIFF exec --fakeroot $FLAG --dry-run busybox.sif true | grep ^ids";
    let (none, few, enough) = (String::new(), range(1000), range(65_536));
    let over = "mount --bind unable /usr/bin/newgidmap";
    place.write("unable", "");
    fs::set_permissions(place.work("unable"), fs::Permissions::from_mode(0o755)).expect("a mode");
    for (ranges, setup, flag, why) in [
        (&none, "", "", "/etc/subuid has no subordinate user ids for"),
        (&few, "", "", "/etc/subuid has only 1000 subordinate user ids for"),
        (&enough, "umount /etc/subgid; mount --bind /dev/null /etc/subgid", "", "/etc/subgid has no"),
        (&enough, over, "", "/usr/bin/newgidmap has no right to map"),
        (&enough, "", "--ignore-subuid", "--ignore-subuid"),
    ] {
        let mut command = with_ranges(&place, ranges, setup, look);
        let printed = finish(command.env("FLAG", flag)).ok();
        let (map, said) = printed.split_once('\n').expect("two lines");
        assert_eq!(numbers(map), [[0, uid, 1]], "{printed}");
        let expected = format!("ids      uid {uid} and gid {} to 0, no others: {why}", user().gid);
        assert!(said.starts_with(&expected), "{said:?} is not {expected:?}");
    }
    // Circumstances of the process, not of the host.
    for (circumstance, why) in [
        ("setpriv --no-new-privs", "no_new_privs"),
        (&format!("$SKIFF exec {LIBRARIES} busybox.sif"), "/etc/subuid has no"),
    ] {
        let script = format!("{circumstance} $SKIFF exec --fakeroot --dry-run busybox.sif true | grep ^ids");
        let printed = run(&place, &script);
        assert!(printed.contains("to 0, no others:") && printed.contains(why), "{printed}");
    }
    let other = with_ranges(&place, &enough, "", "$SKIFF exec --fakeroot busybox.sif cat /proc/self/gid_map");
    let mut other = regrouped(other);
    assert_eq!(numbers(&finish(&mut other).ok()), [[0, 12, 1]]);
}

/// The same with another group than the account's.
fn regrouped(command: Command) -> Command {
    let own = format!("--regid {}", user().gid);
    let mut changed = Command::new(command.get_program());
    let words = command.get_args().map(|word| word.to_str().expect("text").replace(&own, "--regid 12"));
    changed.args(words).current_dir(command.get_current_dir().expect("a directory")).env_clear();
    changed.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    changed
}

#[test]
fn a_program_that_refuses_to_map_is_quoted() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("subids-refused");
    place.busybox_image();
    for (text, said) in [
        ("echo newuidmap: not today >&2; exit 1", "/usr/bin/newuidmap said: newuidmap: not today"),
        ("exit 3", "/usr/bin/newuidmap: exit status: 3"),
    ] {
        place.write("broken", format!("#!/bin/sh\n{text}\n"));
        fs::set_permissions(place.work("broken"), fs::Permissions::from_mode(0o4755)).expect("a mode");
        let setup = "mount --bind broken /usr/bin/newuidmap";
        let refused = |flag: &str| {
            let script = format!("$SKIFF exec --fakeroot {flag} busybox.sif id -u");
            finish(&mut with_ranges(&place, &range(65_536), setup, &script))
        };
        let error = refused("").fails(255);
        assert!(error.contains(&format!("cannot map the caller's subordinate ids: {said}")), "{error}");
        assert!(error.contains("\nhint: ") && error.contains("--ignore-subuid"), "{error}");
        assert_eq!(refused("--ignore-subuid").ok(), "0\n");
    }
}

#[test]
fn the_program_stays_the_process_that_was_started_and_has_no_child() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("subids-process");
    place.busybox_image();
    let busybox = crate::harness::busybox().expect("the test has asked for it");
    let look = "cat /proc/self/stat /proc/self/task/*/children /proc/self/status";
    for ignored in ["", "trap \"\" CHLD;"] {
        // Of the first line the number and the parent's, of the rest what is said of signals.
        let facts = |program: &str| {
            let printed = run(&place, &format!("{ignored} echo $$; exec {program} sh -c 'exec {look}'"));
            let mut lines = printed.lines();
            let (started, stat) = (lines.next().expect("a line"), lines.next().expect("a line"));
            let words: Vec<&str> = stat.split(' ').collect();
            assert_eq!(words[0], started, "{printed}");
            // No child: no line stands between.
            assert!(lines.next().is_some_and(|line| line.starts_with("Name:")), "{printed}");
            let signals = lines.filter(|line| line.starts_with("Sig") || line.starts_with("ShdPnd"));
            signals.map(str::to_owned).collect::<Vec<_>>()
        };
        let outside = facts(&format!("{}", busybox.display()));
        assert!(outside.len() >= 5, "{outside:?}");
        assert_eq!(facts("$SKIFF exec --fakeroot busybox.sif"), outside);
    }
}

#[test]
fn containers_of_an_image_share_its_server_and_their_ids() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("subids-joined");
    place.busybox_image();
    let script = "mkfifo up go
        $SKIFF exec --fakeroot busybox.sif sh -c 'readlink /proc/self/ns/user; echo >up; read x <go' &
        read x <up
        $SKIFF -v exec --fakeroot --pid busybox.sif sh -c 'readlink /proc/self/ns/user; cat /proc/self/uid_map' 2>told
        SKIFF_IGNORE_SUBUID=1 $SKIFF exec --fakeroot busybox.sif readlink /proc/self/ns/user
        echo >go
        wait";
    let printed = run(&place, script);
    let lines: Vec<&str> = printed.lines().collect();
    assert!(lines[0].starts_with("user:[") && lines[0] == lines[1], "{printed}");
    assert_eq!(numbers(lines[3]), [[1, FIRST, 65_536]], "{printed}");
    assert_ne!(lines[4], lines[0], "another kind of ids has a namespace of its own");
    let told = fs::read_to_string(place.work("told")).expect("it was told");
    assert!(told.contains("server of the image: it was there, and is shared"), "{told}");
}

#[test]
fn containers_within_have_the_same_ids() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("subids-nested");
    place.busybox_image();
    let look = "sh -c 'cat /proc/self/uid_map; touch made; chown 33 made; stat -c %u made'";
    let nested =
        format!("$SKIFF exec --fakeroot {LIBRARIES} busybox.sif $SKIFF exec --fakeroot busybox.sif {look}");
    let printed = run(&place, &nested);
    assert_eq!(numbers(&printed), [vec![0, 0, 1], vec![1, 1, 65_536], vec![33]], "{printed}");
    assert_eq!(fs::metadata(place.work("made")).expect("it is on the host").uid(), FIRST + 32);
}

#[test]
fn what_was_written_under_other_ids_is_removed_in_the_same_way() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("subids-removed");
    place.busybox_image();
    let write = "mkdir -m 700 /srv /srv/d; echo x >/srv/d/f; chown -R 33:33 /srv";
    run(
        &place,
        &format!(
            "mkdir over; $SKIFF exec --fakeroot --overlay over busybox.sif sh -c '{write}'; rm -rf over 2>/dev/null || :"
        ),
    );
    let kept = fs::metadata(place.work("over/upper/srv")).expect("the caller alone cannot remove it");
    assert_eq!(kept.uid(), FIRST + 32);
    run(&place, "$SKIFF exec --fakeroot busybox.sif rm -rf over");
    assert!(!place.work("over").exists());
}

#[test]
fn an_overlay_that_another_user_must_mark_says_so() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("subids-unmarked");
    place.busybox_image();
    run(&place, "mkdir over; $SKIFF exec --fakeroot --overlay over busybox.sif touch /bin/new");
    // As fuse-overlayfs leaves it: of another user, and without the kernel's marks.
    let bin = place.work("over/upper/bin");
    give_to(&bin, FIRST + 999);
    for mark in ["origin", "impure"] {
        let removed = rustix::fs::removexattr(&bin, format!("user.overlay.{mark}"));
        assert!(matches!(removed, Ok(()) | Err(rustix::io::Errno::NODATA)), "{removed:?}");
    }
    let exec = |flags: &str, name: &str| {
        let script = format!("$SKIFF exec {flags} busybox.sif {name}");
        finish(&mut with_ranges(&place, &range(65_536), "", &script))
    };
    for name in ["true", "/bin/true"] {
        let error = exec("--overlay over", name).fails(255);
        assert!(
            error.contains("permission denied\nhint: in the overlay \"/bin\" is another user's"),
            "{error}"
        );
        assert!(error.contains("--fakeroot") && error.contains(":ro"), "{error}");
    }
    exec("--overlay over:ro", "true").ok();
    exec("--fakeroot --overlay over", "true").ok();
    exec("--overlay over", "true").ok();
}

#[test]
fn a_directory_is_an_image_too() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("subids-sandbox");
    busybox_tree(&place.work("tree"));
    let look = "touch /new; chown 33 /new; stat -c %u /new /bin";
    let printed = run(&place, &format!("$SKIFF exec --fakeroot --writable --cwd / tree sh -c '{look}'"));
    assert_eq!(printed, "33\n0\n");
    assert_eq!(fs::metadata(place.work("tree/new")).expect("it was made").uid(), FIRST + 32);
}

#[test]
fn apt_installs_and_gives_up_its_rights_for_real() {
    if !able(&[&NEEDS[..], &[Need::Debian]].concat()) {
        return;
    }
    let place = Place::new("subids-apt");
    let image = debian_image();
    // A package whose script does what those of daemons do: an account, a directory of its own, a set-group-id file.
    let script = r#"set -e
mkdir -p p/DEBIAN p/usr/share/heed repo
printf 'Package: heed\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n' >p/DEBIAN/control
printf '#!/bin/sh\nset -e\nuseradd --system heed\ninstall -d -o heed -g heed -m 2750 /var/lib/heed\n' >p/DEBIAN/postinst
echo text >p/usr/share/heed/file
chmod 755 p/DEBIAN/postinst
dpkg-deb --build --root-owner-group p repo/heed.deb >/dev/null
(cat p/DEBIAN/control; echo Filename: ./heed.deb; echo Size: $(stat -c %s repo/heed.deb)
 echo SHA256: $(sha256sum repo/heed.deb | cut -d' ' -f1)) >repo/Packages
echo "deb [trusted=yes] file:$PWD/repo ./" >/etc/apt/sources.list
apt-get update -q >said 2>&1 || { cat said; exit 1; }
apt-get install -q -y heed >>said 2>&1 || { cat said; exit 1; }
grep -i -e unsandboxed -e 'could not switch' said || :
stat -c '%U %G %a' /var/lib/heed /usr/share/heed/file /var/lib/apt/lists/partial
setpriv --reuid heed --regid heed --clear-groups id -un
"#;
    place.write("script", script);
    let command = format!("$SKIFF exec --fakeroot --writable-tmpfs {} bash script", image.display());
    let printed = run(&place, &command);
    assert_eq!(printed, "heed heed 2750\nroot root 644\n_apt root 700\nheed\n");
}

#[test]
fn doctor_says_what_there_is_and_what_is_lacking() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("subids-doctor");
    for (ranges, state, found) in [
        (
            range(65_536),
            "ok",
            "65536 user ids and 65536 group ids, /usr/bin/newuidmap and /usr/bin/newgidmap",
        ),
        (range(10), "less", "/etc/subuid has only 10 subordinate user ids for"),
    ] {
        let (_, checks) = report(finish(&mut with_ranges(&place, &ranges, "", "$SKIFF doctor --json")));
        let check = &checks["subordinate ids"];
        assert_eq!(check["state"], state, "{check:#}");
        assert!(check["found"].as_str().is_some_and(|text| text.starts_with(found)), "{check:#}");
        let mend = check["mend"].as_str().unwrap_or_default();
        assert_eq!(mend.contains("usermod --add-subuids"), state == "less", "{check:#}");
    }
}
