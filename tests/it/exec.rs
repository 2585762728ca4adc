//! `skiff exec`: the user's process is the user's process, and containers of one image share its server.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdout, Stdio};

use crate::harness::{Need, Place, able, busybox, collect, describe, finish, skiff_binary, user};

const NEEDS: [Need; 3] = [Need::Userns, Need::Fuse, Need::Busybox];

/// A container whose program, cat, has said a line and waits for the end of its standard input. (One that a shell becomes
/// after a word is caught by some of those who look in the middle of its execve, where it has no environment.) Its
/// standard output comes along: busybox's cat notices at once when nobody listens any more.
fn waiting(place: &Place) -> (Child, BufReader<ChildStdout>) {
    let mut command = place.skiff(["exec", "busybox.sif", "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("skiff starts");
    writeln!(child.stdin.as_mut().expect("stdin is piped"), "here").expect("the container reads");
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().expect("stdout is piped"));
    out.read_line(&mut line).expect("the container says a line");
    assert_eq!(line, "here\n");
    (child, out)
}

#[test]
fn exit_status_and_streams_are_the_programs_own() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("exec-status");
    place.busybox_image();
    let run = |script: &str| place.run(["exec", "busybox.sif", "sh", "-c", script]);
    for code in [0, 1, 7, 127, 255] {
        assert_eq!(run(&format!("exit {code}")).status.code(), Some(code));
    }
    assert_eq!(run("kill -TERM $$").status.signal(), Some(libc::SIGTERM));
    let both = run("echo out; echo err >&2");
    assert_eq!((both.stdout.as_str(), both.stderr.as_str()), ("out\n", "err\n"));
}

#[test]
fn program_is_the_very_process_that_was_started() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("exec-pid");
    place.busybox_image();
    let mut command = place.skiff(["exec", "busybox.sif", "sh", "-c", "echo $$ $PPID $(ls /proc/$$/task)"]);
    let child = command.stdout(Stdio::piped()).spawn().expect("skiff starts");
    let (pid, parent) = (child.id(), std::process::id());
    let output = collect(child, describe(&command)).ok();
    assert_eq!(output, format!("{pid} {parent} {pid}\n"));
}

#[test]
fn program_sees_no_descriptor_of_skiff_and_keeps_the_callers() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("exec-descriptors");
    place.busybox_image();
    // The same with and without a container: the shell opens 7, and whoever started the tests may have left some.
    let list = |program: &str| {
        let mut command = place.command("sh");
        command.arg("-c").arg(format!("exec 7</dev/null; exec {program} ls /proc/self/fd"));
        finish(&mut command).ok()
    };
    let (outside, skiff) = (busybox().expect("the test has asked for it"), skiff_binary());
    let outside = list(&outside.display().to_string());
    assert!(outside.contains("7\n"), "{outside}");
    assert_eq!(list(&format!("{} exec busybox.sif", skiff.display())), outside);
    // What the caller has closed is closed, so that a program that cannot write says so.
    let closed = |program: &str| {
        let script = "for d in 0 1 2; do [ -e /proc/$$/fd/$d ] && echo $d; done; echo x >&2 || exit 7";
        let mut command = place.command("sh");
        command.arg("-c").arg(format!("{program} sh -c '{script}' <&- 2>&-; echo status $?"));
        finish(&mut command).ok()
    };
    let outside = closed(&busybox().expect("the test has asked for it").display().to_string());
    for flags in ["", "--pid", "--fakeroot"] {
        assert_eq!(closed(&format!("{} exec {flags} busybox.sif", skiff.display())), outside, "{flags}");
    }
    assert_eq!(outside, "1\nstatus 7\n");
}

#[test]
fn files_of_the_current_directory_are_read_and_written_as_the_caller() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("exec-cwd");
    place.busybox_image();
    place.write("input", "data\n");
    let script = "cp input output; id -u; id -g; pwd; touch /bin/new 2>/dev/null || echo read-only";
    let printed = place.run(["exec", "busybox.sif", "sh", "-c", script]).ok();
    let work = place.work("");
    let work = work.to_str().expect("text").trim_end_matches('/');
    assert_eq!(printed, format!("{}\n{}\n{work}\nread-only\n", user().uid, user().gid));
    assert_eq!(std::fs::read_to_string(place.work("output")).expect("the copy"), "data\n");
}

#[test]
fn containers_of_one_image_share_one_server() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("exec-share");
    place.busybox_image();
    let children: Vec<_> = (0..8).map(|_| waiting(&place)).collect();
    let processes = place.processes();
    // Keeper and worker.
    assert_eq!(processes.len(), children.len() + 2, "{processes:#?}");
    for (mut child, out) in children {
        drop(child.stdin.take());
        assert!(child.wait().expect("a child can be waited for").success());
        drop(out);
    }
    // That the server leaves, and takes its socket along, is checked by the place.
}

#[test]
fn what_is_no_image_is_refused_with_a_reason() {
    let place = Place::new("exec-no-image");
    let missing = place.run(["exec", "missing.sif", "true"]).fails(255);
    assert!(missing.contains("missing.sif") && missing.contains("no such file"), "{missing}");
    place.write("text.sif", "this is no image\n".repeat(100));
    let text = place.run(["exec", "text.sif", "true"]).fails(255);
    assert!(text.contains("text.sif") && !text.contains("panicked"), "{text}");
}

#[test]
fn root_runs_programs_as_root() {
    if !able(&[Need::Root, Need::Userns, Need::Fuse, Need::Busybox]) {
        return;
    }
    let place = Place::new("exec-root");
    place.busybox_image();
    let mut command = place.skiff(["exec", "busybox.sif", "id", "-u"]);
    command.uid(0).gid(0);
    assert_eq!(finish(&mut command).ok(), "0\n");
}
