//! What leaves: the server after its last container, and the image's file system under a server.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Need, Place, able, finish, wait_for_exit};
use crate::serve::{data_tree, kill_hard, named, nested_shell, nested_workers, parent};

const NEEDS: [Need; 3] = [Need::Userns, Need::Fuse, Need::Busybox];

/// A busy machine gets this long to run processes that have nothing to wait for; it is shorter than what process 1
/// of some machines takes to collect an ended one.
const AT_ONCE: Duration = Duration::from_secs(1);

/// How long keeper and worker outlive a container. What counts is when they end, and not when process 1 collects
/// them: until then they are in /proc.
fn server_outlives(place: &Place, mut command: Command) -> Duration {
    let mut child = command.stdin(Stdio::piped()).spawn().expect("skiff starts");
    let server = || [named(place, "skiff-keeper"), named(place, "skiff-worker")].concat();
    while server().len() < 2 {
        std::thread::yield_now();
    }
    let server = server();
    drop(child.stdin.take());
    assert!(child.wait().expect("a child can be waited for").success());
    let ended = Instant::now();
    for pid in server {
        assert!(wait_for_exit(pid, Duration::from_secs(20)), "process {pid} stays");
    }
    ended.elapsed()
}

#[test]
fn a_server_that_does_not_linger_ends_at_once_and_one_that_does_right_after() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("leaving-server");
    place.busybox_image();
    for arguments in [
        // The image alone, and under overlays, whose mounts hold it as well.
        &["exec", "busybox.sif", "cat"][..],
        &["exec", "--bind", ".:/not/in/the/image", "busybox.sif", "cat"],
        &["exec", "--pid", "--writable-tmpfs", "busybox.sif", "cat"],
    ] {
        let outlived = server_outlives(&place, place.skiff(arguments));
        assert!(outlived < AT_ONCE, "{arguments:?}: {outlived:?}");
        let mut command = place.skiff(arguments);
        command.env("SKIFF_LINGER", "500");
        let (outlived, linger) = (server_outlives(&place, command), Duration::from_millis(500));
        assert!(outlived > linger.mul_f32(0.9) && outlived < linger + AT_ONCE, "{arguments:?}: {outlived:?}");
    }
}

#[test]
fn an_image_whose_file_system_goes_away_gives_eio_and_the_server_lives() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("leaving-image");
    // The file system is that of an outer container, and goes away with its server.
    let (tree, sums) = data_tree(&place, 40);
    let mut shell = nested_shell(&place, &tree);
    let sum = |name: &str| {
        let line = sums.lines().find(|line| line.ends_with(name)).expect("the file is in the tree");
        line.split(' ').next().unwrap_or_default().to_owned()
    };
    assert_eq!(shell.ask("sha256sum </data/000 | cut -d' ' -f1"), sum("data/000"));
    let [outer_worker, inner_worker] = nested_workers(&place);
    let inner_keeper = parent(inner_worker);
    // The keeper first, which would start another worker.
    kill_hard(parent(outer_worker));
    kill_hard(outer_worker);
    assert_eq!(shell.ask("cat /data/039 2>&1 >/dev/null | sed 's/.*: //'"), "Input/output error");
    assert_eq!(shell.ask("cat /data/038 2>&1 >/dev/null | sed 's/.*: //'"), "Input/output error");
    // What was read before is still there, and the server is the same.
    assert_eq!(shell.ask("sha256sum </data/000 | cut -d' ' -f1"), sum("data/000"));
    assert_eq!(named(&place, "skiff-worker"), [inner_worker]);
    assert_eq!(named(&place, "skiff-keeper"), [inner_keeper]);
    shell.end();
    assert!(wait_for_exit(inner_keeper, Duration::from_secs(20)), "the server stays");
    // A killed keeper takes nothing away.
    finish(place.command("rm").arg("-rf").arg(place.runtime().join("skiff"))).ok();
}
