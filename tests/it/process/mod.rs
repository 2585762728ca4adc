//! What a program in a container is as a process, seen from inside and outside: how it ends, what it inherits, what it
//! leaves; at a terminal in `terminal.rs`; signals that come early in `arriving.rs`; for callers and in places that lack something in `circumstances.rs`.

mod arriving;
mod circumstances;
mod terminal;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Need, Place, able, busybox, collect, describe, finish, skiff_binary, wait_for_exit};

const NEEDS: [Need; 3] = [Need::Userns, Need::Fuse, Need::Busybox];

/// The ways to run a program that differ in which processes there are.
const WAYS: [&[&str]; 3] = [&[], &["--pid"], &["--pid", "--no-init"]];

/// `skiff exec FLAGS busybox.sif sh -c SCRIPT`.
fn command(place: &Place, flags: &[&str], script: &str) -> Command {
    place.skiff([&["exec"], flags, &["busybox.sif", "sh", "-c", script]].concat())
}

/// The same, started, after it has said its first line: with the rest of what it says.
fn started(command: &mut Command) -> (Child, BufReader<ChildStdout>) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("skiff starts");
    let mut out = BufReader::new(child.stdout.take().expect("stdout is piped"));
    assert_eq!(line(&mut out), "here", "the container says a line");
    (child, out)
}

fn line(out: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    out.read_line(&mut line).expect("the container says a line");
    line.trim_end().to_owned()
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a pid is positive"))
}

/// The processes whose parent is `parent`, with their states.
fn children(parent: Pid) -> Vec<(i32, String)> {
    let all = fs::read_dir("/proc").expect("/proc can be listed").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let facts = pids.filter_map(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
        (fields.get(1)?.parse() == Ok(parent.as_raw())).then(|| (pid, fields[0].to_owned()))
    });
    facts.collect()
}

/// Waits for what is to happen.
#[track_caller]
fn wait_until(what: &str, happened: impl Fn() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while !happened() {
        assert!(std::time::Instant::now() < end, "it never happened that {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a program runs in a container of the place, by its command line.
fn runs(place: &Place, line: &str) -> bool {
    place.processes().iter().any(|(_, running)| running.trim_end() == line)
}

#[test]
fn the_program_is_alone_with_its_parent_and_has_no_child_that_it_did_not_make() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("process-alone");
    place.busybox_image();
    // The first container, which starts the server, and the second, which finds it.
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut command = command(&place, &[], "echo here; exec cat");
        let (child, out) = started(command.env("SKIFF_LINGER", "500"));
        assert_eq!(children(pid(&child)), []);
        let comm = || fs::read_to_string(format!("/proc/{}/comm", child.id())).expect("it lives");
        wait_until("the program is what was started", || comm() == "cat\n");
        let children = children(Pid::this());
        let stray: Vec<_> = children.iter().filter(|(_, state)| state == "Z").collect();
        assert!(stray.is_empty(), "zombies: {stray:?}");
        kept.push((child, out));
    }
    let ours = children(Pid::this()).len();
    assert_eq!(ours, 2, "the server is nobody's child here");
    for (mut child, _out) in kept {
        drop(child.stdin.take());
        assert!(child.wait().expect("a child can be waited for").success());
    }
}

#[test]
fn a_pipeline_ends_with_the_program_and_not_with_the_server() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("process-pipeline");
    place.busybox_image();
    let skiff = skiff_binary().display();
    for flags in ["", "--pid", "--pid --no-init"] {
        let mut command = place.command("sh");
        let script = format!("{skiff} exec {flags} busybox.sif true 2>&1 </dev/null | cat");
        command.arg("-c").arg(script).env("SKIFF_LINGER", "4000");
        assert_eq!(finish(&mut command).ok(), "");
        let names: Vec<String> = place
            .processes()
            .iter()
            .filter_map(|(pid, _)| fs::read_to_string(format!("/proc/{pid}/comm")).ok())
            .collect();
        assert!(
            names.contains(&"skiff-keeper\n".to_owned()),
            "{flags}: the server is still there: {names:?}"
        );
    }
}

#[test]
fn every_exit_status_is_the_programs() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("process-status");
    place.busybox_image();
    let skiff = skiff_binary().display();
    // One shell starts them all, and says which are not as they should be.
    let script = format!(
        "i=0; while [ $i -lt 256 ]; do {skiff} exec $FLAGS busybox.sif sh -c \"exit $i\"; s=$?; \
         [ $s = $i ] || echo $i: $s; i=$((i+1)); done; echo done"
    );
    for flags in ["", "--pid"] {
        let mut command = place.command("sh");
        command.arg("-c").arg(&script).env("FLAGS", flags).env("SKIFF_LINGER", "1000");
        assert_eq!(finish(&mut command).ok(), "done\n", "{flags}");
    }
}

/// How a program ended that sent itself a signal: the signal, or else the status.
fn ending(status: ExitStatus) -> (Option<i32>, Option<i32>) {
    (status.signal(), status.code())
}

#[test]
fn death_by_each_signal_is_seen_as_without_a_container() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("process-signals");
    place.busybox_image();
    let program = busybox().expect("the test has asked for it");
    let stops = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
    for signal in (1..=31).chain([34, 50, 64]).filter(|signal| !stops.contains(signal)) {
        let script = format!("ulimit -c 0; kill -{signal} $$; exit 77");
        let outside = finish(place.command(&program).args(["sh", "-c", &script])).status;
        for flags in [&[][..], &["--pid"]] {
            let mut command = command(&place, flags, &script);
            let inside = finish(command.env("SKIFF_LINGER", "1000")).status;
            assert_eq!(ending(inside), ending(outside), "signal {signal} {flags:?}");
        }
    }
}

#[test]
fn a_signal_that_somebody_sends_reaches_the_program() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("process-sent");
    place.busybox_image();
    for flags in WAYS {
        // Heeded: the program's own affair.
        let script = "trap 'echo caught; exit 9' TERM; echo here; while :; do sleep 0.02; done";
        let (mut child, mut out) = started(&mut command(&place, flags, script));
        kill(pid(&child), Signal::SIGTERM).expect("it lives");
        assert_eq!(line(&mut out), "caught", "{flags:?}");
        assert_eq!(child.wait().expect("it ends").code(), Some(9), "{flags:?}");
        // Not heeded: it dies of it, even as process 1.
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGKILL, Signal::SIGUSR2] {
            let words = [&["exec"], flags, &["busybox.sif", "sleep", "1000"]].concat();
            let mut child = place.skiff(words).spawn().expect("skiff starts");
            wait_until("the program runs", || runs(&place, "sleep 1000"));
            kill(pid(&child), signal).expect("it lives");
            let status = child.wait().expect("it ends");
            assert_eq!(status.signal(), Some(signal as i32), "{flags:?} {signal}");
        }
        // That nothing of the container goes on is checked by the place.
    }
}

#[test]
fn a_stopped_program_goes_on() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("process-stopped");
    place.busybox_image();
    for flags in WAYS {
        let script = "echo here; while read word; do echo $word; done";
        let (mut child, mut out) = started(&mut command(&place, flags, script));
        let path = format!("/proc/{}/stat", child.id());
        let stopped = || fs::read_to_string(&path).expect("it lives").contains(") T ");
        kill(pid(&child), Signal::SIGTSTP).expect("it lives");
        wait_until("it stops", stopped);
        kill(pid(&child), Signal::SIGCONT).expect("it lives");
        wait_until("it goes on", || !stopped());
        writeln!(child.stdin.as_mut().expect("stdin is piped"), "again").expect("it reads");
        assert_eq!(line(&mut out), "again", "{flags:?}");
        drop(child.stdin.take());
        assert!(child.wait().expect("it ends").success());
    }
}

#[test]
fn standard_input_is_read_by_the_program_alone() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("process-stdin");
    place.busybox_image();
    let skiff = skiff_binary().display();
    let run = |script: String| {
        let mut command = place.command("sh");
        finish(command.arg("-c").arg(script)).ok()
    };
    for flags in ["", "--pid", "--pid --no-init"] {
        // What the program leaves is there for the next.
        let script = format!(
            "printf 'one\\ntwo\\n' | ({skiff} exec {flags} busybox.sif sh -c 'read x; echo $x'; cat)"
        );
        assert_eq!(run(script), "one\ntwo\n", "{flags}");
        let closed = format!(
            "{skiff} exec {flags} busybox.sif sh -c 'echo x; ls /proc/self/fd | tr \"\\n\" \" \"' <&-"
        );
        assert!(run(closed).starts_with("x\n"), "{flags}");
    }
    let large = run(format!("head -c 3000000 /dev/zero | {skiff} exec busybox.sif wc -c"));
    assert_eq!(large.trim(), "3000000");
}

#[test]
fn processes_that_outlive_the_program_are_ended_by_nobody_but_an_own_process_namespace() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("process-background");
    place.busybox_image();
    // The child reads from the image after the program's end; its standard input tells it when.
    let script = "exec 3<&0; (read go <&3; sha256sum /bin/busybox | cut -c1-8) & echo here; exit 3";
    let (mut child, mut out) = started(&mut command(&place, &[], script));
    let mut input = child.stdin.take().expect("stdin is piped");
    assert_eq!(child.wait().expect("it ends").code(), Some(3));
    writeln!(input, "go").expect("the child reads");
    assert_eq!(line(&mut out).len(), 8);
    let (mut child, mut out) = started(&mut command(&place, &["--pid"], script));
    let mut input = child.stdin.take().expect("stdin is piped");
    assert_eq!(child.wait().expect("it ends").code(), Some(3));
    // Nobody is there to read, and nothing is said any more.
    assert!(writeln!(input, "go").is_err());
    assert_eq!(line(&mut out), "");
}

#[test]
fn a_caller_that_is_killed_takes_its_container_along() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("process-killed");
    place.busybox_image();
    for flags in &WAYS[1..] {
        let script = "sleep 1000 & sleep 1001 & echo here; exec sleep 1002";
        let (mut child, _out) = started(&mut command(&place, flags, script));
        let inside: Vec<i32> = place.processes().iter().map(|(pid, _)| *pid).collect();
        kill(pid(&child), Signal::SIGKILL).expect("it lives");
        child.wait().expect("it ends");
        for pid in inside {
            assert!(wait_for_exit(pid, Duration::from_secs(20)), "{flags:?}: process {pid} stays");
        }
    }
}

#[test]
fn signals_that_the_caller_ignores_stay_ignored() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("process-nohup");
    place.busybox_image();
    let skiff = skiff_binary().display();
    let look = "grep SigIgn /proc/self/status";
    let run = |ignored: &str, words: String| {
        let mut command = place.command("sh");
        finish(command.arg("-c").arg(format!("trap '' {ignored}; exec {words}"))).ok()
    };
    for ignored in ["HUP", "INT QUIT", "PIPE", "CHLD"] {
        let outside = run(ignored, look.to_owned());
        for flags in ["", "--pid", "--pid --no-init"] {
            let inside = run(ignored, format!("{skiff} exec {flags} busybox.sif {look}"));
            assert_eq!(inside, outside, "{ignored} {flags}");
        }
    }
}

#[test]
fn a_server_ends_although_the_directory_where_it_is_met_was_removed() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("process-removed-directory");
    place.busybox_image();
    let mut command = command(&place, &[], "true");
    finish(command.env("SKIFF_LINGER", "500")).ok();
    // As logind does with a session's directory, and a batch system with a job's.
    fs::remove_dir_all(place.runtime().join("skiff")).expect("the server is met there");
    for (pid, line) in place.processes() {
        assert!(wait_for_exit(pid, Duration::from_secs(20)), "{line} stays");
    }
}

#[test]
fn a_thousand_runs_and_sixty_four_at_once_leave_nothing() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("process-many");
    place.busybox_image();
    let skiff = skiff_binary().display();
    let mut command = place.command("sh");
    let script = format!(
        "i=0; while [ $i -lt 1000 ]; do {skiff} exec busybox.sif true || echo failed $i; i=$((i+1)); done; echo done"
    );
    command.arg("-c").arg(script).env("SKIFF_LINGER", "1000");
    assert_eq!(finish(&mut command).ok(), "done\n");
    let start = |number: usize| {
        let flags = WAYS[number % WAYS.len()];
        let mut command = self::command(&place, flags, "echo here");
        let text = describe(&command);
        (command.stdout(Stdio::piped()).process_group(0).spawn().expect("skiff starts"), text)
    };
    for (child, text) in (0..64).map(start).collect::<Vec<_>>() {
        assert_eq!(collect(child, text).ok(), "here\n");
    }
    // The place looks for processes, mounts, sockets and files.
}
