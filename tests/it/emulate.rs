//! Root where one user is mapped: what programs see of it (`emulate.c` has the calls one by one), what is recorded, and
//! that nothing of it is left.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use seccompiler::{SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};
use skiff::image::squashfs::{FileKind, OpenOptions, Squashfs};

use crate::harness::{Need, Output, Place, able, busybox_tree, debian_image, finish, give, user};
use crate::hosts::under_filter;
use crate::reader::read_image;
use crate::serve::{Shell, kill_hard, named};

const NEEDS: [Need; 4] = [Need::Userns, Need::Fuse, Need::Busybox, Need::StaticC];

/// A place with an image, and the program of `emulate.c` in its work directory.
fn place(name: &str, compiler: &str) -> Place {
    let place = Place::new(name);
    place.busybox_image();
    place.write("emulate_stat.c", include_str!("emulate_stat.c"));
    let source = place.write("emulate.c", include_str!("emulate.c"));
    let mut compile = Command::new(compiler);
    if compiler == "musl-gcc" {
        // The kernel's headers, which musl brings none of.
        let machine = format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH);
        compile.args(["-idirafter", "/usr/include", "-idirafter", &machine]);
    }
    // It calls what no compiler finds sensible.
    compile.args(["-O1", "-w", "-static", "-pthread", "-o"]).arg(place.work("emulate")).arg(source);
    finish(&mut compile).ok();
    place
}

/// A script of the emulated root's, with these flags, not yet started.
fn command(place: &Place, flags: &[&str], script: &str) -> Command {
    let words = [&["exec", "--fakeroot"], flags, &["busybox.sif", "sh", "-c", script]].concat();
    place.skiff(words)
}

fn run(place: &Place, flags: &[&str], script: &str) -> Output {
    finish(&mut command(place, flags, script))
}

/// An empty directory for an overlay.
fn make_overlay(place: &Place, name: &str) {
    fs::create_dir(place.work(name)).expect("a directory can be made");
    give(&place.work(name));
}

/// An extended attribute; empty when there is none.
fn attribute(path: &Path, name: &str) -> String {
    let mut value = [0; 256];
    match rustix::fs::lgetxattr(path, name, &mut value) {
        Ok(length) => String::from_utf8_lossy(&value[..length]).into_owned(),
        Err(_) => String::new(),
    }
}

const IN_DIRECTORY: &str = "mkdir -p d && cd d && exec ../emulate";

#[test]
fn every_call_of_a_static_program_does_what_it_does_for_root() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("emulate-calls", "gcc");
    assert_eq!(run(&place, &[], &format!("{IN_DIRECTORY} calls")).ok(), "");
    assert_eq!(run(&place, &[], "mkdir t && cd t && exec ../emulate threads").ok(), "");
    // With processes of its own, and in an overlay.
    let inside = "cp emulate /root/ && mkdir /root/d && cd /root/d && exec ../emulate calls";
    let flags = ["--pid", "--no-home", "--writable-tmpfs"];
    assert_eq!(run(&place, &flags, inside).ok(), "");
    // A program that is not emulated fails those checks.
    let out =
        finish(&mut place.skiff(["exec", "busybox.sif", "sh", "-c", "mkdir p && cd p && ../emulate calls"]));
    assert!(out.status.code() == Some(1) && out.stdout.contains("fchown(fd, 7, 7)"), "{out:?}");
}

#[test]
fn every_call_of_a_musl_program_does_what_it_does_for_root() {
    if !able(&NEEDS) || !able(&[Need::Musl]) {
        return;
    }
    let place = place("emulate-musl", "musl-gcc");
    assert_eq!(run(&place, &[], &format!("{IN_DIRECTORY} calls")).ok(), "");
}

#[test]
fn paths_are_followed_without_openat2_too() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("emulate-old", "gcc");
    let rules = [(libc::SYS_openat2, vec![])].into();
    // That filter kills who makes 32-bit calls.
    let script = format!("{IN_DIRECTORY} calls native");
    let out = under_filter(command(&place, &[], &script), rules, libc::ENOSYS);
    assert_eq!(out.ok(), "");
}

#[test]
fn a_hostile_program_ends_and_the_supervisor_lives() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("emulate-hostile", "gcc");
    let printed = run(&place, &[], &format!("{IN_DIRECTORY} hostile")).ok();
    assert!(printed.lines().all(|line| line == "0"), "{printed}");
}

#[test]
fn records_lie_in_the_overlay_beside_the_owners_of_the_image() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("emulate-overlay", "gcc");
    make_overlay(&place, "changes");
    let script = "chown 5:7 /etc/passwd; chmod 640 /etc/group; chown 0:0 /bin/busybox; mknod /dev-null c 1 3; \
                  ln -s x /link; chown -h 8:9 /link; rm /bin/ls; stat -c %u:%g /etc/passwd";
    let made = run(&place, &["--overlay", "changes"], script).ok();
    assert_eq!(made, "5:7\n");
    let upper = place.work("changes/upper");
    let owner = |name: &str| attribute(&upper.join(name), "user.skiff.owner");
    assert_eq!(owner("etc/passwd"), "5:7");
    // The image was packed by the ordinary user.
    assert_eq!(owner("etc/group"), format!("{}:{}", user().uid, user().gid));
    assert_eq!(owner("bin/busybox"), "");
    assert!(upper.join("bin/busybox").exists());
    assert_eq!(attribute(&upper.join("dev-null"), "user.skiff.device"), "c:1:3");
    assert_eq!(attribute(&upper, "user.skiff.owner.link"), "8:9");
    // A directory of the image cannot be renamed: programs copy it, as what it says it is.
    make_overlay(&place, "moved");
    let script = "chown 3:4 /bin; chown 5:7 /bin/busybox; mv /bin /moved && /moved/busybox stat -c %u:%g /moved /moved/busybox";
    assert_eq!(run(&place, &["--overlay", "moved"], script).ok(), "3:4\n5:7\n");
    assert_eq!(attribute(&place.work("moved/upper/moved/busybox"), "user.skiff.owner"), "5:7");
}

#[test]
fn what_another_user_makes_is_that_users_in_the_image() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("emulate-makes", "gcc");
    let text = "Bootstrap: localimage\nFrom: busybox.sif\n%files\n emulate /emulate\n\
                %post\n umask 022\n mkdir -p /d/root && cd /d && /emulate man\n";
    place.write("new.def", text);
    place.run(["build", "new.sif", "new.def"]).ok();
    let partition = skiff::image::open(&place.work("new.sif")).expect("an image").partition;
    let image = Squashfs::open(partition.expect("a root"), OpenOptions::default()).expect("one");
    let made: Vec<_> = read_image(&image)
        .into_iter()
        .filter_map(|(path, file)| {
            let name = path.strip_prefix("/d").ok()?.display().to_string();
            Some((name, file.kind, file.mode & 0o7777, file.owner))
        })
        .collect();
    let expected = [
        ("", FileKind::Directory, 0o755, (0, 0)),
        ("cache", FileKind::Directory, 0o2755, (6, 12)),
        ("cache/cat2", FileKind::Directory, 0o2755, (6, 12)),
        ("cache/cat2/link", FileKind::Symlink, 0o777, (6, 12)),
        ("cache/cat2/page", FileKind::Regular, 0o644, (6, 12)),
        ("cache/cat2/pipe", FileKind::Fifo, 0o644, (6, 12)),
        ("plain", FileKind::Directory, 0o700, (6, 12)),
        ("root", FileKind::Directory, 0o755, (0, 0)),
        ("shared", FileKind::Directory, 0o2777, (0, 50)),
        ("shared/index", FileKind::Regular, 0o644, (6, 50)),
    ];
    assert_eq!(made, expected.map(|(name, kind, mode, owner)| (name.to_owned(), kind, mode, owner)));
    // Links and pipes of an image are whose they were, and stay so where they are moved.
    make_overlay(&place, "changes");
    let script = "cd /d/cache/cat2; stat -c %u:%g page link pipe; mv link ..; mv pipe ../other; rm page; ln -s x page; \
                  stat -c %u:%g ../link ../other page";
    let words = ["exec", "--fakeroot", "--overlay", "changes", "new.sif", "sh", "-c", script];
    assert_eq!(place.run(words).ok(), "6:12\n6:12\n6:12\n6:12\n6:12\n0:12\n");
    assert_eq!(attribute(&place.work("changes/upper/d/cache"), "user.skiff.owner.link"), "6:12");
}

#[test]
fn capabilities_of_the_images_files_survive_a_change_as_root_and_hinder_none_as_user() {
    if !able(&NEEDS) || !able(&[Need::Root]) {
        return;
    }
    let place = Place::new("emulate-capabilities");
    let tree = place.work("tree");
    busybox_tree(&tree);
    fs::write(tree.join("bin/tool"), "").expect("a file can be written");
    give(&tree);
    let net_raw = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(tree.join("bin/tool"), "security.capability", &net_raw, flags).expect("root may");
    rustix::fs::setxattr(tree.join("bin/tool"), "security.other", b"value", flags).expect("root may");
    place.build("busybox.sif", &tree);
    make_overlay(&place, "root");
    make_overlay(&place, "user");
    let tool = |overlay: &str| place.work(overlay).join("upper/bin/tool");
    run(&place, &["--overlay", "root"], "chmod 700 /bin/tool").ok();
    // Of version 3: with the user who is root there.
    let mut value = [0_u8; 64];
    let length = rustix::fs::getxattr(tool("root"), "security.capability", &mut value).expect("copied");
    assert_eq!((length, value[3], value[5]), (24, 3, 0x20));
    assert_eq!(attribute(&tool("root"), "user.skiff.xattr.security.other"), "value");
    place.run(["exec", "--overlay", "user", "busybox.sif", "chmod", "700", "/bin/tool"]).ok();
    assert_eq!(fs::metadata(tool("user")).expect("copied").permissions().mode() & 0o777, 0o700);
    assert_eq!(attribute(&tool("user"), "security.capability"), "");
}

#[test]
fn the_program_is_the_process_that_was_started_and_has_no_trace_of_the_supervisor() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("emulate-trace", "gcc");
    let look = "echo $$; cat /proc/$$/task/$$/children; echo; ls /proc/$$/fd; true";
    let seen = |mut command: Command| {
        let child = command.stdout(std::process::Stdio::piped()).spawn().expect("skiff starts");
        let pid = child.id().to_string();
        let printed = String::from_utf8(child.wait_with_output().expect("it ends").stdout).expect("text");
        let mut lines = printed.lines().map(str::to_owned);
        assert_eq!(lines.next(), Some(pid));
        // The one child is `cat` itself.
        let children = lines.next().expect("a line").split_whitespace().count();
        assert_eq!(children, 1, "{printed}");
        lines.collect::<Vec<_>>()
    };
    let plain = seen(place.skiff(["exec", "busybox.sif", "sh", "-c", look]));
    assert_eq!(seen(command(&place, &[], look)), plain);
    // As process 1, and below an init.
    for flags in [&["--pid", "--no-init"][..], &["--pid"]] {
        let words = [&["exec", "--fakeroot"], flags, &["busybox.sif", "./emulate", "children"]].concat();
        assert_eq!(place.run(words).ok(), format!("{}\n", libc::ECHILD), "{flags:?}");
        assert_eq!(run(&place, flags, "./emulate ask").ok(), "0\n", "{flags:?}");
    }
}

#[test]
fn without_its_supervisor_a_program_gets_errors_and_does_not_hang() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("emulate-killed", "gcc");
    let mut shell = Shell::of(place.skiff(["exec", "--fakeroot", "busybox.sif", "sh"]));
    assert_eq!(shell.ask("./emulate ask"), "0");
    let supervisors = named(&place, "skiff-emulate");
    assert_eq!(supervisors.len(), 1);
    kill_hard(supervisors[0]);
    assert_eq!(shell.ask("./emulate ask"), libc::ENOSYS.to_string());
    assert_eq!(shell.ask("echo goes on"), "goes on");
    shell.end();
}

#[test]
fn a_thousand_programs_leave_no_process() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("emulate-many", "gcc");
    let script = "i=0; while [ $i -lt 1000 ]; do /bin/id -u; i=$((i+1)); done | sort | uniq -c; \
                  for i in 1 2 3 4 5 6 7 8; do ./emulate chowns 100 >/dev/null & done; wait";
    assert_eq!(run(&place, &[], script).ok().trim(), "1000 0");
    for _ in 0..20 {
        run(&place, &[], "true").ok();
    }
    // A child that outlives its container is emulated as before.
    let script = "(while [ ! -e go ]; do sleep 0.01; done; ./emulate ask >late) </dev/null >/dev/null 2>&1 &";
    run(&place, &[], script).ok();
    assert_eq!(named(&place, "skiff-emulate").len(), 1);
    place.write("go", "");
    while !fs::read_to_string(place.work("late")).is_ok_and(|text| text.ends_with('\n')) {
        std::thread::yield_now();
    }
    assert_eq!(fs::read_to_string(place.work("late")).expect("written"), "0\n");
}

#[test]
fn capabilities_that_are_dropped_are_not_emulated() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("emulate-dropped", "gcc");
    let eperm = format!("{}\n", libc::EPERM);
    assert_eq!(run(&place, &["--drop-caps", "CAP_CHOWN"], "./emulate ask").ok(), eperm);
    assert_eq!(run(&place, &["--drop-caps", "CAP_NET_RAW"], "./emulate ask").ok(), "0\n");
}

#[test]
fn where_nobody_can_answer_calls_succeed_and_nothing_is_recorded() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("emulate-less", "gcc");
    let ask = "./emulate ask; mknod device c 1 3; [ ! -e device ] && echo none; id -u";
    // An outer supervisor: there can be one alone.
    let listening = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let asked =
        SeccompCondition::new(1, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(listening), listening);
    let rule = SeccompRule::new(vec![asked.expect("a condition")]).expect("a rule");
    let rules = || [(libc::SYS_seccomp, vec![rule.clone()])].into();
    assert_eq!(under_filter(command(&place, &[], ask), rules(), libc::EBUSY).ok(), "0\nnone\n0\n");
    assert_eq!(attribute(&place.work("asked"), "user.skiff.owner"), "");
    let told = |flags: &[&str]| {
        let words =
            [&["-v", "exec", "--fakeroot"], flags, &["busybox.sif", "sh", "-c", "./emulate ask"]].concat();
        place.skiff(words)
    };
    let out = under_filter(told(&[]), rules(), libc::EBUSY);
    assert!(
        out.stderr.contains("not recorded: cannot answer system calls") && out.stderr.contains("busy"),
        "{out:?}"
    );
    // No /proc to look at a caller by.
    let out = finish(&mut told(&["--no-mount", "proc"]));
    assert!(out.stderr.contains("/proc is missing"), "{out:?}");
    assert_eq!(out.ok(), "0\n");
    // No filters at all: the kernel says no.
    let out = under_filter(told(&[]), [(libc::SYS_seccomp, vec![])].into(), libc::ENOSYS);
    assert!(out.stderr.contains("root is not emulated: "), "{out:?}");
    assert_eq!(out.ok(), format!("{}\n", libc::EINVAL));
}

#[test]
fn debian_packages_with_users_devices_and_capabilities_install() {
    if !able(&[Need::Userns, Need::Fuse, Need::Debian, Need::Mirror]) {
        return;
    }
    let place = Place::new("emulate-debian");
    make_overlay(&place, "changes");
    let image = debian_image();
    let image = image.to_str().expect("the path is text");
    // A mirror may be a snapshot whose Release file has run out.
    let script = "set -e; export DEBIAN_FRONTEND=noninteractive; apt-config dump APT::Sandbox::User; \
                  apt-get -q -o Acquire::Check-Valid-Until=false update; \
                  apt-get -q install -y libcap2-bin; apt-get -q install -y openssh-server iputils-ping man-db dbus sudo; setcap cap_net_raw+ep /usr/bin/ping; \
                  su man -s /bin/sh -c 'id -un'; ls -l /usr/bin/sudo; dpkg --audit";
    let words = ["exec", "--fakeroot", "--overlay", "changes", image, "sh", "-c", script];
    let out = place.run(words);
    let stderr = out.stderr.clone();
    let printed = out.ok();
    assert!(printed.starts_with("APT::Sandbox::User \"_apt\";\n"), "{printed}");
    assert!(printed.contains("\nman\n-rwsr-xr-x"), "{printed}");
    assert!(!stderr.contains("unsandboxed") && !printed.contains("Could not switch"), "{stderr}");
    assert_eq!(printed.lines().last().map(|line| line.contains("/usr/bin/sudo")), Some(true), "{printed}");
    let upper = place.work("changes/upper");
    // messagebus; the group of ssh-agent; the user man.
    let owner = attribute(&upper.join("usr/lib/dbus-1.0/dbus-daemon-launch-helper"), "user.skiff.owner");
    assert!(owner.starts_with("0:") && owner != "0:0", "{owner}");
    let owner = attribute(&upper.join("usr/bin/ssh-agent"), "user.skiff.owner");
    assert!(owner.starts_with("0:") && owner != "0:0", "{owner}");
    assert_eq!(attribute(&upper.join("var/cache/man"), "user.skiff.owner"), "6:12");
    // What mandb made, which its package runs as that user.
    assert_eq!(attribute(&upper.join("var/cache/man/cat1"), "user.skiff.owner"), "6:12");
    assert_eq!(attribute(&upper.join("var/cache/man/CACHEDIR.TAG"), "user.skiff.owner"), "6:12");
    let mut value = [0_u8; 64];
    let length = rustix::fs::getxattr(upper.join("usr/bin/ping"), "security.capability", &mut value);
    assert_eq!(length, Ok(24), "ping has its capability");
}
