//! What leaves: the server after its last container.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Need, Place, able, wait_for_exit};
use crate::serve::named;

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
