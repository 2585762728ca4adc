//! Scripts that fail, builds that are stopped or killed, places that are full: nothing is left.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::{NEEDS, build, inside, leavings, place};
use crate::harness::{Place, able, collect, finish, skiff_binary, wait_for_exit};

#[test]
fn a_script_that_fails_is_shown_with_its_line_and_what_it_built_is_kept_on_demand() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("bad-post");
    let text = "%post\n echo first >/first\n cat /missing\n echo never\n";
    let said = build(&place, &[], text).fails(255);
    assert!(said.contains("+ cat /missing\n"), "{said}");
    assert!(said.contains("skiff: new.def:5: %post failed: exit status 1\nhint: "), "{said}");
    assert!(
        said.contains("hint: the shell had read to line 5: cat /missing; what it printed last"),
        "{said}"
    );
    assert!(said.contains("--no-cleanup keeps"), "{said}");
    // What the shell says of a line is its line in the definition.
    let odd = build(&place, &[], "%post\n true\n\n%post\n\n none-such\n").fails(255);
    assert!(odd.contains("/.post.script: line 8: none-such: not found\n"), "{odd}");
    let app = build(&place, &[], "%appinstall a\n true\n none-such\n").fails(255);
    assert!(app.contains("/.post.script: line 5: none-such: not found\n"), "{app}");
    // A command of several lines, late in a script that the pipe does not hold.
    let many: String = (0..200).map(|_| format!(" : {}\n\n", "x".repeat(500))).collect();
    let text_of_many = format!("%post\n{many} if true; then\n  (exit 3)\n fi\n echo never\n");
    let said = build(&place, &[], &text_of_many).fails(255);
    assert!(said.contains("skiff: new.def:406: %post failed: exit status 3\n"), "{said}");
    assert!(said.contains("hint: the shell had read to line 406: fi; "), "{said}");
    // What reads the script's end is not kept waiting.
    build(&place, &[], "%post\n cat >/made <<X\n a\n").ok();
    let said = build(&place, &[], "%post\n echo 'open\n").fails(255);
    assert!(said.contains("%post failed"), "{said}");
    assert_eq!(leavings(&place), Vec::<String>::new());
    let said = build(&place, &["--no-cleanup"], text).fails(255);
    let shell = said.split("to look around: skiff shell ").nth(1).expect("a command is named").trim();
    let words: Vec<&str> = shell.split(' ').collect();
    let look = [&["exec"], words.as_slice(), &["cat", "/first"]].concat();
    assert_eq!(place.run(look).ok(), "first\n");
    // It is no leaving of a killed build: the next one lets it be.
    build(&place, &[], "%post\n true\n").ok();
    let kept = leavings(&place);
    assert_eq!(kept.len(), 1, "{kept:?}");
    finish(place.command("chmod").args(["-R", "u+rwx"]).args(&kept)).ok();
    finish(place.command("rm").arg("-rf").args(&kept)).ok();
}

#[test]
fn a_script_that_is_killed_is_told_as_such() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("bad-killed");
    let said = build(&place, &[], "%post\n kill -9 $$\n").fails(255);
    assert!(
        said.contains(
            "new.def:4: %post failed: it was killed (signal 9)\nhint: the shell had read to line 4: kill"
        ) && said.contains("the system kills"),
        "{said}"
    );
    let said = build(&place, &[], "%post\n kill -SEGV $$\n").fails(255);
    assert!(said.contains("%post failed: it was killed by signal 11"), "{said}");
}

#[test]
fn what_a_script_starts_ends_with_it() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("bad-daemons");
    let text = "%post\n setsid sleep 777 &\n setsid sh -c 'trap : TERM INT HUP; sleep 777 & sleep 777; sleep 777' >/dev/null 2>&1 &\n";
    build(&place, &[], text).ok();
    let left: Vec<_> = place.processes().into_iter().filter(|(_, line)| line.contains("sleep 777")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Starts a build in a process group of its own, and waits for a line on its standard error.
fn start(place: &Place, line: &str) -> Child {
    begin(place.skiff(["build", "--force", "new.sif", "new.def"]), line)
}

/// The same with any command.
pub fn begin(mut command: Command, line: &str) -> Child {
    use std::os::unix::process::CommandExt;
    command.process_group(0).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("skiff starts");
    let mut lines = BufReader::new(child.stderr.take().expect("standard error is a pipe")).lines();
    while let Some(Ok(said)) = lines.next() {
        if said.contains(line) {
            // Read on, or the build may be ended by the pipe.
            std::thread::spawn(move || lines.count());
            return child;
        }
    }
    let _ = child.kill();
    let ended = child.wait();
    panic!("{line:?} is never said: {ended:?}");
}

#[test]
fn ctrl_c_in_every_phase_leaves_nothing() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("bad-stopped");
    place.write("new.sif", "old");
    let sleep = "(trap '' INT TERM; sleep 600) & echo begun >&2; sleep 600";
    let phases = [
        format!("%pre\n {sleep}\n"),
        format!("%setup\n {sleep}\n"),
        format!("%post\n {sleep}\n"),
        format!("%appinstall a\n {sleep}\n"),
        format!("%test\n  {sleep}\n"),
    ];
    for text in phases {
        place.write("new.def", format!("Bootstrap: localimage\nFrom: busybox.sif\n{text}"));
        for group in [true, false] {
            let child = start(&place, "begun");
            let pid = Pid::from_raw(child.id() as i32);
            // The terminal's Ctrl-C reaches the group; a batch system may ask skiff alone.
            let ask = || if group { killpg(pid, Signal::SIGINT) } else { kill(pid, Signal::SIGTERM) };
            ask().expect("skiff runs");
            // Who is impatient asks again, while things are taken away.
            std::thread::sleep(Duration::from_millis(3));
            let _ = ask();
            collect(child, text.clone()).dies_of(if group { libc::SIGINT } else { libc::SIGTERM });
            let left: Vec<_> =
                place.processes().into_iter().filter(|(_, line)| line.contains("sleep")).collect();
            assert!(left.is_empty(), "{text}: {left:?}");
            assert_eq!(leavings(&place), Vec::<String>::new(), "{text}");
            assert_eq!(fs::read_to_string(place.work("new.sif")).unwrap(), "old");
        }
    }
}

#[test]
fn ctrl_c_while_an_image_is_packed_or_unpacked_leaves_nothing() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("bad-packing");
    place.write("new.sif", "old");
    // Enough to pack for some seconds with this method, and nothing to make.
    place.write("big", vec![7; 256 << 20]);
    place.write("new.def", "Bootstrap: localimage\nFrom: busybox.sif\n%files\n big\n");
    let slow = ["--force", "--threads", "1", "--compression", "xz"];
    for (flags, target) in [(&slow[..], "new.sif"), (&["--sandbox"], "tree")] {
        for group in [true, false] {
            let words = [&["build", "--disable-cache"], flags, &[target, "new.def"]].concat();
            let child = begin(place.skiff(words), "skiff: packing");
            let pid = Pid::from_raw(child.id() as i32);
            if group { killpg(pid, Signal::SIGINT) } else { kill(pid, Signal::SIGTERM) }.expect("skiff runs");
            collect(child, target.into()).dies_of(if group { libc::SIGINT } else { libc::SIGTERM });
            assert_eq!(leavings(&place), Vec::<String>::new(), "{target}");
            assert_eq!(fs::read_to_string(place.work("new.sif")).unwrap(), "old");
            assert!(!place.work("tree").exists());
        }
    }
    let names: Vec<_> =
        fs::read_dir(place.work("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{names:?}");
}

#[test]
fn ctrl_c_while_a_program_of_the_host_makes_the_base_leaves_nothing() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("bad-agent");
    fs::create_dir(place.work("bin")).unwrap();
    let program = place.write(
        "bin/mmdebstrap",
        "#!/bin/sh\nfor last; do :; done\nmkdir -m 0 closed\n(trap '' INT TERM; sleep 600) &\necho begun >&2\nsleep 600\n",
    );
    fs::set_permissions(program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    place.write("new.def", "Bootstrap: debootstrap\nOSVersion: trixie\nMirrorURL: http://localhost\n");
    for group in [true, false] {
        let mut command = place.skiff(["build", "new.sif", "new.def"]);
        command.env("PATH", format!("{}:/usr/bin:/bin", place.work("bin").display()));
        let child = begin(command, "begun");
        let pid = Pid::from_raw(child.id() as i32);
        if group { killpg(pid, Signal::SIGINT) } else { kill(pid, Signal::SIGTERM) }.expect("skiff runs");
        collect(child, "a base".into()).dies_of(if group { libc::SIGINT } else { libc::SIGTERM });
        let left: Vec<_> = place.processes().into_iter().filter(|(_, line)| line.contains("sleep")).collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(leavings(&place), Vec::<String>::new());
        assert!(!place.work("new.sif").exists());
        fs::remove_dir(place.work("closed")).unwrap();
    }
}

#[test]
fn mistakes_of_a_definition_are_told_before_anything_is_done() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("bad-mistakes");
    for (text, place_of_it) in [
        ("Bootstrap: localimage\nFrom: busybox.sif\n%post\n touch {{ NAME }}\n", "new.def:4:8: "),
        ("Bootstrap: localimage\n%post\n true\n", "new.def:1:12: "),
        ("Bootstrap: localimage\nFrom: busybox.sif\n%psot\n true\n", "new.def:3:1: unknown section"),
        ("Bootstrap: localimage\nForm: busybox.sif\n%post\n true\n", "new.def:2:1: unknown"),
    ] {
        place.write("new.def", format!("{text}%pre\n touch done\n"));
        let said = place.run(["build", "new.sif", "new.def"]).fails(255);
        assert!(said.contains(place_of_it), "{text}: {said}");
        assert!(!place.work("done").exists() && !place.work("new.sif").exists());
    }
}

#[test]
fn definitions_of_windows_and_large_ones_are_built() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("bad-forms");
    let text = "\u{feff}Bootstrap: localimage\r\nFrom: busybox.sif\r\n%files\r\n  new.def /copied\r\n%post\r\n  echo made >/made\r\n\
        %labels\r\n  a b\r\n%runscript\r\n  echo run \"$@\"";
    place.write("new.def", text);
    place.run(["build", "new.sif", "new.def"]).ok();
    assert_eq!(place.run(["run", "new.sif", "a"]).ok(), "run a\n");
    assert_eq!(inside(&place, "cat /made; test -e /copied && echo copied"), "made\ncopied\n");
    // 10 MB.
    let line = "  : a line of a script that has very many of them, to see that its length does no harm\n";
    let text = format!(
        "%post -c /bin/sh\n{}  echo end >/end\n%runscript\n{0}  echo run\n",
        line.repeat((5 << 20) / line.len())
    );
    build(&place, &[], &text).ok();
    assert!(fs::metadata(place.work("new.def")).unwrap().len() > 10_000_000);
    assert_eq!(inside(&place, "cat /end"), "end\n");
    assert_eq!(place.run(["run", "new.sif"]).ok(), "run\n");
    let kept = place.run(["inspect", "--deffile", "new.sif"]).ok();
    assert!(kept.len() > 10_000_000);
}

#[test]
fn a_killed_build_takes_its_processes_along_and_the_next_one_removes_its_files() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("bad-sigkill");
    place.write(
        "new.def",
        "Bootstrap: localimage\nFrom: busybox.sif\n%post\n mkdir -m 0 /closed; echo begun >&2; sleep 600\n",
    );
    let mut child = start(&place, "begun");
    child.kill().expect("skiff runs");
    child.wait().expect("a child can be waited for");
    let steps: Vec<i32> = place.processes().iter().map(|(pid, _)| *pid).collect();
    for pid in steps {
        assert!(wait_for_exit(pid, Duration::from_secs(20)), "process {pid} stays");
    }
    assert_eq!(leavings(&place).len(), 2, "a directory and its lock");
    build(&place, &[], "%post\n true\n").ok();
    assert_eq!(leavings(&place), Vec::<String>::new());
}

#[test]
fn two_builds_at_once_do_not_mind_each_other() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("bad-parallel");
    place.write("new.def", "Bootstrap: localimage\nFrom: busybox.sif\n%post\n echo $$ >/x\n");
    let builds: Vec<Child> = (0..4)
        .map(|number| {
            let mut command = place.skiff(["build", &format!("{number}.sif"), "new.def"]);
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("skiff starts")
        })
        .collect();
    for child in builds {
        collect(child, "a build beside others".into()).ok();
    }
    assert_eq!(leavings(&place), Vec::<String>::new());
}

/// skiff as root of a user namespace, after `mounts`.
pub fn with_mounts(place: &Place, mounts: &str, arguments: &str) -> Command {
    let mut command = place.command("unshare");
    let script = format!("set -e; mkdir -p small; {mounts}; exec {} {arguments}", skiff_binary().display());
    command.args(["-rm", "sh", "-c", &script]);
    command
}

#[test]
fn a_place_that_cannot_be_used_is_named_before_anything_is_done() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("bad-places");
    place.write("new.def", "Bootstrap: localimage\nFrom: busybox.sif\n%post\n echo x >/x\n");
    let build = "build --tmpdir small new.sif new.def";
    for (mounts, why) in [
        (
            "mount -t tmpfs -o noexec none small",
            "nothing on that file system can be executed (it is mounted noexec)",
        ),
        ("mount -t tmpfs -o size=4m none small", "MiB are free there, and a build needs more"),
        ("mount -t tmpfs -o ro none small", "read-only file system"),
        ("rm -rf small; : >small", "it is not a directory"),
    ] {
        let said = finish(&mut with_mounts(&place, mounts, build)).fails(255);
        let named = format!("cannot build in \"{}\" (--tmpdir)", place.work("small").display());
        assert!(
            said.contains(&named) && said.contains(why) && said.contains("\nhint: name a directory"),
            "{mounts}: {said}"
        );
        finish(place.command("rm").args(["-rf", "small"])).ok();
    }
    let mut command = place.skiff(["build", "new.sif", "new.def"]);
    let said = finish(command.env("SKIFF_TMPDIR", "/none")).fails(255);
    assert!(said.contains("cannot build in \"/none\" (SKIFF_TMPDIR): no such file or directory"), "{said}");
}

#[test]
fn a_full_place_is_named() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("bad-full");
    place.write(
        "new.def",
        "Bootstrap: localimage\nFrom: busybox.sif\n%post\n dd if=/dev/urandom of=/big bs=1M count=100\n",
    );
    let mounts = "mount -t tmpfs -o size=32m none small";
    let said = finish(&mut with_mounts(&place, mounts, "build --tmpdir small new.sif new.def")).fails(255);
    assert!(said.contains("No space left on device"), "{said}");
    assert!(
        said.contains("%post failed: exit status 1\nhint: the file system of ")
            && said.contains("is full: make room"),
        "{said}"
    );
    assert!(!place.work("new.sif").exists());
    // Room for the layers, but not for the image.
    place.write(
        "new.def",
        "Bootstrap: localimage\nFrom: busybox.sif\n%post\n dd if=/dev/urandom of=/big bs=1M count=12\n",
    );
    let mounts = "mount -t tmpfs -o size=8m none small";
    let said = finish(&mut with_mounts(&place, mounts, "build small/new.sif new.def")).fails(255);
    assert!(said.contains("no space left on device\nhint: the file system of \"small\" is full"), "{said}");
    assert_eq!(leavings(&place), Vec::<String>::new());
}
