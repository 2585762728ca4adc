//! --pid, --no-init, --ipc, --uts, --hostname, --net, --network, --userns.

use std::os::unix::process::ExitStatusExt;

use super::*;
use crate::harness::able;

/// The namespaces of the container that are not the caller's.
fn own(place: &Place, who: Who, flags: &[&str]) -> Vec<String> {
    let printed =
        who.run(place, flags, "cd /proc/self/ns && for n in *; do echo $n $(readlink $n); done").ok();
    let own = |line: &str| {
        let (name, link) = line.split_once(' ')?;
        let outside = std::fs::read_link(format!("/proc/self/ns/{name}")).ok()?;
        (outside.to_str()? != link).then(|| name.to_owned())
    };
    // pid_for_children and time_for_children say what those without the ending do.
    printed.lines().filter_map(own).filter(|name| !name.ends_with("_children")).collect()
}

#[test]
fn a_container_has_the_namespaces_that_were_asked_for_and_no_other() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-namespaces");
    place.busybox_image();
    for who in Who::all() {
        for (flags, expected) in [
            (&[][..], &["mnt", "user"][..]),
            (&["--userns"], &["mnt", "user"]),
            (&["--pid"], &["mnt", "pid", "user"]),
            (&["--pid", "--no-init"], &["mnt", "pid", "user"]),
            (&["--ipc"], &["ipc", "mnt", "user"]),
            (&["--uts"], &["mnt", "user", "uts"]),
            (&["--hostname", "boat"], &["mnt", "user", "uts"]),
            (&["--network", "none"], &["mnt", "net", "user"]),
            (&["-n", "--network", "none", "-p", "-i"], &["ipc", "mnt", "net", "pid", "user"]),
            (&["--contain"], &["mnt", "user"]),
            (&["--containall"], &["ipc", "mnt", "pid", "user"]),
            (&["--containall", "--no-pid"], &["ipc", "mnt", "user"]),
            (&["--compat"], &["ipc", "mnt", "pid", "user"]),
        ] {
            assert_eq!(own(&place, who, flags), expected, "{who:?} {flags:?}");
        }
    }
}

#[test]
fn namespaces_are_asked_for_by_variables_too() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-namespace-variables");
    place.busybox_image();
    for family in ["SKIFF", "APPTAINER", "SINGULARITY"] {
        for (keys, kind) in [
            (["PID", "UNSHARE_PID"], "pid"),
            (["IPC", "UNSHARE_IPC"], "ipc"),
            (["UTS", "UNSHARE_UTS"], "uts"),
            (["NETWORK=none", "UNSHARE_NET"], "net"),
        ] {
            for key in keys {
                let (key, value) = key.split_once('=').unwrap_or((key, "1"));
                let variable = format!("{family}_{key}");
                let mut variables = vec![(variable.as_str(), value)];
                if key == "UNSHARE_NET" {
                    variables.push(("SKIFF_NETWORK", "none"));
                }
                let inside = with_variables(&place, &variables, &format!("readlink /proc/self/ns/{kind}"));
                let outside = std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("a link");
                assert_ne!(inside.trim(), outside.to_str().expect("text"), "{variable}");
            }
        }
    }
}

#[test]
fn an_own_proc_shows_the_containers_processes_alone() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-pid");
    place.busybox_image();
    // With --fakeroot there is the one that answers for root, too.
    let script = "cd /proc; for p in [0-9]*; do read name <$p/comm; [ $name = skiff-emulate ] || echo $name; done; \
                  echo $$ $PPID; grep -c . /proc/self/mountinfo >/dev/null";
    for who in Who::all() {
        assert_eq!(who.run(&place, &["--pid"], script).ok(), "skiff-init\nsh\n2 1\n", "{who:?}");
        assert_eq!(who.run(&place, &["-p", "--no-init"], script).ok(), "sh\n1 0\n", "{who:?}");
    }
    for variable in ["SKIFF_NO_INIT", "APPTAINER_NOSHIMINIT", "SINGULARITY_NOSHIMINIT"] {
        let variables = [("SKIFF_PID", "1"), (variable, "1")];
        assert_eq!(with_variables(&place, &variables, "echo $$"), "1\n", "{variable}");
    }
}

#[test]
fn init_reaps_what_the_program_leaves_and_ends_the_rest_with_it() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-init");
    place.busybox_image();
    // The middle process ends at once, so that its child is init's; init reaps it when it has ended.
    let script = "sh -c 'true & exec true'; (sleep 0.05 & exec true); sleep 0.2; \
                  for p in /proc/[0-9]*; do grep -s '^State:.*zombie' $p/status; done; echo looked; sleep 1000 & exit 5";
    let output = Who::User.run(&place, &["--pid"], script);
    // That the sleep is gone as well, is checked by the place.
    assert_eq!((output.status.code(), output.stdout.as_str()), (Some(5), "looked\n"));
}

#[test]
fn exit_status_and_death_by_a_signal_are_seen_through_own_processes() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-pid-status");
    place.busybox_image();
    for flags in [&["--pid"][..], &["--pid", "--no-init"]] {
        for code in [0, 1, 127, 128, 255] {
            let output = Who::User.run(&place, flags, &format!("exit {code}"));
            assert_eq!(output.status.code(), Some(code), "{flags:?}");
        }
    }
    for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGUSR1] {
        let output = Who::User.run(&place, &["--pid"], &format!("kill -{signal} $$"));
        assert_eq!(output.status.signal(), Some(signal));
    }
}

#[test]
fn a_host_name_is_the_containers_own() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-hostname");
    place.busybox_image();
    let outside = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("the host has a name");
    for who in Who::all() {
        let script = "hostname; cat /etc/hostname /proc/sys/kernel/hostname";
        let printed = who.run(&place, &["--hostname", "boat.sea"], script).ok();
        assert_eq!(printed, "boat.sea\nboat.sea\nboat.sea\n", "{who:?}");
        assert_eq!(who.run(&place, &["--uts"], "hostname").ok(), outside, "{who:?}");
    }
    for variable in ["SKIFF_HOSTNAME", "APPTAINER_HOSTNAME", "SINGULARITY_HOSTNAME"] {
        assert_eq!(with_variables(&place, &[(variable, "boat")], "hostname"), "boat\n", "{variable}");
    }
    // Root of the container may change it, and the host's stays.
    assert_eq!(Who::Fakeroot.run(&place, &["--uts"], "hostname ship; hostname").ok(), "ship\n");
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a name"), outside);
    let error = refused(&place, &["--hostname", "a b"]);
    assert!(error.contains("\"a b\"") && error.contains("--hostname"), "{error}");
}

#[test]
fn a_flag_with_an_empty_value_is_as_one_that_is_not_given() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-empty");
    place.busybox_image();
    // Scripts write --workdir "$DIR" where DIR may be unset.
    let outside = own(&place, Who::User, &[]);
    for flag in [
        "--hostname",
        "--network",
        "--workdir",
        "--home",
        "--overlay",
        "--scratch",
        "--dns",
        "--bind",
        "--cwd",
        "--no-mount",
        "--mount",
    ] {
        assert_eq!(own(&place, Who::User, &[flag, ""]), outside, "{flag}");
    }
}

#[test]
fn a_network_without_connections_has_the_loopback_device_alone() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-net");
    place.busybox_image();
    let script = "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; ping -c 1 127.0.0.1 | grep -c ' 0% packet loss'; \
                  nc -l -p 8080 -e echo hello & sleep 0.1; nc 127.0.0.1 8080";
    for flags in [&["--net", "--network", "none"][..], &["--network", "none"]] {
        let printed = Who::Fakeroot.run(&place, flags, script).ok();
        assert_eq!(printed, "lo\n1\nhello\n", "{flags:?}");
    }
    // What Apptainer does where it may not make a bridge.
    assert!(
        Who::Fakeroot.run(&place, &["--net"], "tail -n +3 /proc/net/dev | cut -d: -f1").ok().contains("lo")
    );
    for flags in [&["--net"][..], &["--network", "bridge"]] {
        let error = refused(&place, flags);
        assert!(error.contains("\"bridge\"") && error.contains("--network none"), "{error}");
    }
}

#[test]
fn own_ipc_shows_none_of_the_hosts_segments() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-ipc");
    place.busybox_image();
    let made = finish(place.command("ipcmk").args(["-M", "4096"])).ok();
    let id = made.trim().rsplit(' ').next().expect("ipcmk says the id").to_owned();
    let count = "tail -n +2 /proc/sysvipc/shm | wc -l";
    let (shared, own) = (inside(&place, &[], count), inside(&place, &["--ipc"], count));
    finish(place.command("ipcrm").args(["-m", &id])).ok();
    assert_ne!(shared, "0\n");
    assert_eq!(own, "0\n");
}
