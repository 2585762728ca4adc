//! Images on a host without FUSE: unpacked, shared, and gone with the last container.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Need, Place, able, skiff_binary, wait_for_exit};
use crate::serve::{Shell, data_tree, kill_hard, named};

const NEEDS: [Need; 2] = [Need::Userns, Need::Busybox];

/// The name of the process that removes an unpacked image.
const SERVER: &str = "skiff-unpacked";

/// Commands of the caller's on a host without FUSE: `$TESTED` is skiff, what it unpacks is in the directory `unpacked`.
fn without_fuse(place: &Place, circumstances: &str) -> Command {
    fs::create_dir_all(place.work("unpacked")).expect("a directory can be made");
    crate::harness::give(&place.work("unpacked"));
    let mut command = place.command("unshare");
    command
        .args(["-rm", "sh", "-c"])
        .arg(format!("set -e; mount -t tmpfs none /dev; : >/dev/null; {circumstances}\nset +e; exec \"$@\""));
    command.arg("sh").env("TESTED", skiff_binary()).env("SKIFF_TMPDIR", place.work("unpacked"));
    command
}

fn shell(place: &Place) -> Shell {
    let mut command = without_fuse(place, "");
    command.arg("sh");
    Shell::of(command)
}

/// The names of the unpacked images.
fn unpacked(place: &Place) -> Vec<String> {
    let entries = fs::read_dir(place.work("unpacked")).expect("a directory can be listed").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Waits for the servers to end by themselves.
fn wait_for_servers(place: &Place) {
    for pid in named(place, SERVER) {
        assert!(wait_for_exit(pid, Duration::from_secs(20)), "process {pid} stays");
    }
}

#[test]
fn containers_share_an_unpacked_image_and_it_goes_with_the_last() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("unpacked-shared");
    let (_, sums) = data_tree(&place, 3);
    place.build("data.sif", &place.work("tree"));
    let mut host = shell(&place);
    // The first one stays until a file says so.
    let first = "echo here; while [ ! -e go ]; do sleep 0.02; done";
    host.tell(&format!("$TESTED exec data.sif sh -c '{first}' 2>warnings &"));
    assert_eq!(host.line(), "here");
    assert_eq!(unpacked(&place).len(), 1);
    let ask =
        "$TESTED exec data.sif sh -c 'cd / && sha256sum data/* && touch data/new 2>&1' 2>&1 | sed 's/.*: //'";
    host.tell(ask);
    for line in sums.lines() {
        assert_eq!(host.line(), line);
    }
    assert_eq!(host.line(), "Read-only file system");
    assert_eq!((unpacked(&place).len(), named(&place, SERVER).len()), (1, 1), "one for both");
    assert_eq!(host.ask("touch go; wait; echo ended"), "ended");
    host.end();
    wait_for_servers(&place);
    assert_eq!(unpacked(&place), [""; 0]);
    let warnings = fs::read_to_string(place.work("warnings")).expect("the first one warns");
    for word in ["cannot open /dev/fuse", "is unpacked below", " MiB in ", "files", "modprobe fuse"] {
        assert!(warnings.contains(word), "no {word:?} in {warnings}");
    }
}

#[test]
fn a_process_that_outlives_its_container_keeps_an_unpacked_image() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("unpacked-orphan");
    let (_, sums) = data_tree(&place, 1);
    place.build("data.sif", &place.work("tree"));
    let mut host = shell(&place);
    // It makes a user namespace of its own, so that nobody is in that of the container any more.
    let late = "unshare -r sh -c \"while [ ! -e go ]; do sleep 0.02; done; cd /; sha256sum data/000 >/tmp/late\" & exit 0";
    host.tell("mount --bind . /tmp");
    assert_eq!(host.ask(&format!("$TESTED -q exec data.sif sh -c '{late}' >/dev/null; echo ended")), "ended");
    let socket = || fs::read_dir(place.runtime().join("skiff")).map_or(0, Iterator::count);
    while socket() > 0 {
        std::thread::yield_now();
    }
    assert_eq!(unpacked(&place).len(), 1);
    assert_eq!(host.ask("touch go; echo told"), "told");
    host.end();
    wait_for_servers(&place);
    assert_eq!(fs::read_to_string(place.work("late")).expect("the orphan wrote"), sums);
    assert_eq!(unpacked(&place), [""; 0]);
}

#[test]
fn a_full_disk_and_a_place_that_is_none_leave_nothing() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("unpacked-full");
    place.busybox_image();
    let small = "mount -t tmpfs -o size=400k none unpacked";
    let mut command = without_fuse(&place, small);
    command.args([
        "sh",
        "-c",
        "$TESTED exec busybox.sif true; echo $?; ls -A unpacked; df unpacked | tail -1",
    ]);
    let output = crate::harness::finish(&mut command);
    let (error, printed) = (output.stderr.clone(), output.ok());
    for word in ["cannot write \"", "no space left on device", "hint: set SKIFF_TMPDIR"] {
        assert!(error.contains(word), "no {word:?} in {error}");
    }
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!((lines.len(), lines[0]), (2, "255"), "{printed}");
    assert!(lines[1].contains(" 0% "), "something is left: {printed}");
    let mut command = without_fuse(&place, "");
    command.arg(skiff_binary()).args(["exec", "busybox.sif", "true"]).env("SKIFF_TMPDIR", "/none");
    let error = crate::harness::finish(&mut command).fails(255);
    assert!(error.contains("below \"/none\": no such file or directory"), "{error}");
}

#[test]
fn an_interrupt_while_unpacking_leaves_nothing() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("unpacked-interrupt");
    data_tree(&place, 60);
    place.build("data.sif", &place.work("tree"));
    let mut command = without_fuse(&place, "");
    command.arg(skiff_binary()).args(["exec", "data.sif", "cat"]).stdin(Stdio::piped());
    let mut child = command.spawn().expect("skiff starts");
    let pid = child.id();
    let server = loop {
        if let (Some(server), false) = (named(&place, SERVER).first(), unpacked(&place).is_empty()) {
            break Pid::from_raw(*server);
        }
        std::thread::yield_now();
    };
    kill(server, Signal::SIGSTOP).expect("the server can be stopped");
    let program = fs::read_link(format!("/proc/{pid}/exe")).expect("skiff runs");
    assert_eq!(program, skiff_binary(), "it still unpacks");
    // As Ctrl-C does: the server has a session of its own, and is not hit.
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid is positive")), Signal::SIGINT).expect("a signal");
    let status = child.wait().expect("a child can be waited for");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGINT));
    kill(server, Signal::SIGCONT).expect("the server goes on");
    wait_for_servers(&place);
    assert_eq!(unpacked(&place), [""; 0]);
}

#[test]
fn what_a_killed_server_leaves_is_removed_by_the_next_unless_it_is_used() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("unpacked-killed");
    place.busybox_image();
    let mut host = shell(&place);
    let first = "echo here; while [ ! -e go ]; do sleep 0.02; done; ls /bin | grep -c .";
    host.tell(&format!("$TESTED -q exec busybox.sif sh -c '{first}' >said &"));
    while fs::read_to_string(place.work("said")).unwrap_or_default() != "here\n" {
        std::thread::yield_now();
    }
    kill_hard(named(&place, SERVER)[0]);
    let left = unpacked(&place);
    assert_eq!(left.len(), 1);
    // Used: it stays, and another is made and removed.
    assert_eq!(host.ask("$TESTED -q exec busybox.sif echo second"), "second");
    wait_for_servers(&place);
    assert_eq!(unpacked(&place), left);
    let told = "$TESTED doctor | grep -c 'an image unpacked by a server that was killed'";
    assert_eq!(host.ask(told), "0");
    assert_eq!(host.ask("touch go; wait; tail -1 said").parse::<u32>().map(|count| count > 100), Ok(true));
    // Until then it is said.
    assert_eq!(host.ask(told), "1");
    assert_eq!(host.ask("$TESTED -q exec busybox.sif echo third"), "third");
    wait_for_servers(&place);
    assert_eq!(unpacked(&place), [""; 0]);
    host.end();
}
