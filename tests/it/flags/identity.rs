//! --fakeroot, --no-umask, the capability flags, and what no flag changes: ids, limits, privileges.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::harness::{able, user};

const ALL: &str = "cat /proc/self/status";
const CAPABILITIES: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];

/// The sets of capabilities of a program with these flags: inheritable, permitted, effective, bounding, ambient.
fn capabilities(place: &Place, who: Who, flags: &[&str]) -> [u64; 5] {
    let status = status(&who.run(place, flags, ALL).ok());
    CAPABILITIES.map(|name| u64::from_str_radix(&status[name], 16).expect("a mask"))
}

/// All that this kernel has.
fn every_capability() -> u64 {
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").expect("the kernel tells");
    (1 << (last.trim().parse::<u32>().expect("a number") + 1)) - 1
}

#[test]
fn ids_are_the_callers_own_and_nothing_can_be_gained() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-ids");
    place.busybox_image();
    let (uid, gid) = (user().uid, user().gid);
    for (who, ids, line) in
        [(Who::User, [uid, gid], format!("{uid} {uid} 1")), (Who::Fakeroot, [0, 0], format!("0 {uid} 1"))]
    {
        let printed = who.run(&place, &[], &format!("{ALL}; echo : ; cat /proc/self/uid_map")).ok();
        let (text, map) = printed
            .split_once(":\n")
            .map(|_| printed.rsplit_once("\n:\n").expect("a mark"))
            .expect("two parts");
        let status = status(text);
        let four = |id: u32| format!("{id} {id} {id} {id}");
        assert_eq!(
            (status["Uid"].as_str(), status["Gid"].as_str()),
            (&*four(ids[0]), &*four(ids[1])),
            "{who:?}"
        );
        assert_eq!(map.split_whitespace().collect::<Vec<_>>().join(" "), line, "{who:?}");
        assert_eq!(status["NoNewPrivs"], "1", "{who:?}");
    }
    let names = inside(&place, &[], "id -un; id -gn; whoami");
    assert_eq!(names.lines().next(), Some(user().name.as_str()));
    assert_eq!(Who::Fakeroot.run(&place, &[], "id -un; id -gn; whoami").ok(), "root\nroot\nroot\n");
}

#[test]
fn limits_priority_and_mask_are_those_of_the_caller() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-limits");
    place.busybox_image();
    let set = "ulimit -n 333; ulimit -c 0; umask 027; exec nice -n 3";
    let look = "cat /proc/self/limits; cut -d' ' -f19 /proc/self/stat; grep -E 'Umask|Sig(Blk|Ign)|Cpus_allowed:' /proc/self/status";
    let run = |words: &str| {
        let mut command = place.command("sh");
        finish(command.arg("-c").arg(format!("{set} {words}")).env("LOOK", look)).ok()
    };
    let busybox = crate::harness::busybox().expect("the test has asked for it");
    let outside = run(&format!("{} sh -c \"$LOOK\"", busybox.display()));
    assert!(
        outside.contains("Max open files            333") && outside.contains("Umask:\t0027"),
        "{outside}"
    );
    let skiff = crate::harness::skiff_binary().display();
    assert_eq!(run(&format!("{skiff} exec busybox.sif sh -c \"$LOOK\"")), outside);
    let pid = run(&format!("{skiff} exec --pid busybox.sif sh -c \"$LOOK\""));
    assert_eq!(pid, outside);
}

#[test]
fn files_made_by_root_inside_belong_to_the_caller_outside() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-fakeroot");
    place.busybox_image();
    let script = "echo x >made; chown 0:0 made; stat -c %u:%g made; chown 1:1 made || echo failed; stat -c %u:%g made; echo $HOME $USER; stat -c %u:%g /bin/vi .";
    let printed = Who::Fakeroot.run(&place, &[], script).ok();
    let lines: Vec<&str> = printed.lines().collect();
    // Other owners are recorded, and shown: those of the image too.
    let packed = format!("{}:{}", user().uid, user().gid);
    assert_eq!([lines[0], lines[1], lines[3], lines[4]], ["0:0", "1:1", &packed, "0:0"], "{printed}");
    let made = fs::metadata(place.work("made")).expect("it is on the host");
    assert_eq!((made.uid(), made.gid()), (user().uid, user().gid));
    for variable in ["SKIFF_FAKEROOT", "APPTAINER_FAKEROOT", "SINGULARITY_FAKEROOT"] {
        assert_eq!(with_variables(&place, &[(variable, "1")], "id -u"), "0\n", "{variable}");
    }
}

#[test]
fn the_mask_is_0022_when_that_is_asked_for() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-umask");
    place.busybox_image();
    let skiff = crate::harness::skiff_binary().display();
    let masked = |flags: &str| {
        let mut command = place.command("sh");
        finish(
            command
                .arg("-c")
                .arg(format!("umask 077; exec {skiff} exec {flags} busybox.sif sh -c 'umask; touch made'")),
        )
        .ok()
    };
    let mode = || {
        let bits = fs::metadata(place.work("made")).expect("it was made").mode() & 0o777;
        fs::remove_file(place.work("made")).expect("it can be removed");
        bits
    };
    assert_eq!((masked(""), mode()), ("0077\n".into(), 0o600));
    assert_eq!((masked("--no-umask"), mode()), ("0022\n".into(), 0o644));
    assert_eq!((masked("--pid --no-umask"), mode()), ("0022\n".into(), 0o644));
    for variable in ["SKIFF_NO_UMASK", "APPTAINER_NO_UMASK", "SINGULARITY_NO_UMASK"] {
        let mut command = place.command("sh");
        command
            .arg("-c")
            .arg(format!("umask 077; exec {skiff} exec busybox.sif sh -c umask"))
            .env(variable, "1");
        assert_eq!(finish(&mut command).ok(), "0022\n", "{variable}");
    }
}

#[test]
fn programs_have_no_capabilities_and_those_of_root_all() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-capabilities");
    place.busybox_image();
    let all = every_capability();
    let [inheritable, permitted, effective, _, ambient] = capabilities(&place, Who::User, &[]);
    assert_eq!([inheritable, permitted, effective, ambient], [0; 4]);
    for who in Who::all().into_iter().filter(|who| *who != Who::User) {
        assert_eq!(capabilities(&place, who, &[]), [0, all, all, all, 0], "{who:?}");
        assert_eq!(capabilities(&place, who, &["--keep-privs"]), [0, all, all, all, 0], "{who:?}");
    }
}

#[test]
fn capabilities_are_added_and_dropped() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-capabilities-changed");
    place.busybox_image();
    let all = every_capability();
    let (net_raw, sys_ptrace, chown) = (1 << 13, 1 << 19, 1);
    let added = net_raw | sys_ptrace;
    for names in ["CAP_NET_RAW,CAP_SYS_PTRACE", "net_raw,Sys_Ptrace"] {
        let [inheritable, permitted, effective, _, ambient] =
            capabilities(&place, Who::User, &["--add-caps", names]);
        assert_eq!([inheritable, permitted, effective, ambient], [added; 4], "{names}");
    }
    for who in Who::all().into_iter().filter(|who| *who != Who::User) {
        let left = all & !chown & !net_raw;
        let dropped = capabilities(&place, who, &["--drop-caps", "CAP_CHOWN", "--drop-caps", "net_raw"]);
        assert_eq!(dropped, [0, left, left, left, 0], "{who:?}");
    }
    for who in Who::all() {
        assert_eq!(capabilities(&place, who, &["--no-privs"]), [0; 5], "{who:?}");
        assert_eq!(capabilities(&place, who, &["--drop-caps", "all"]), [0; 5], "{who:?}");
    }
    // What is dropped is not had, even if it is asked for.
    let both = ["--add-caps", "net_raw,sys_ptrace", "--drop-caps", "net_raw"];
    assert_eq!(capabilities(&place, Who::User, &both)[2], sys_ptrace);
    for (key, value, expected) in [("ADD_CAPS", "net_raw", net_raw), ("NO_PRIVS", "1", 0)] {
        for family in ["SKIFF", "APPTAINER", "SINGULARITY"] {
            let variable = format!("{family}_{key}");
            let status = status(&with_variables(&place, &[(&variable, value)], ALL));
            let effective = u64::from_str_radix(&status["CapEff"], 16).expect("a mask");
            assert_eq!(effective, expected, "{variable}");
        }
    }
    assert!(refused(&place, &["--add-caps", "CAP_NONE"]).contains("no capability is called \"CAP_NONE\""));
    assert!(refused(&place, &["--keep-privs"]).contains("the caller has none"));
}

#[test]
fn a_capability_can_be_used() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-capability-used");
    place.busybox_image();
    // Binding a low port needs CAP_NET_BIND_SERVICE over the network namespace.
    let listen = "nc -l -p 80 -e true & sleep 0.1; nc 127.0.0.1 80 && echo listened";
    let net = ["--network", "none"];
    let without = Who::User.run(&place, &net, listen).stdout;
    let with =
        Who::User.run(&place, &[&net[..], &["--add-caps", "net_bind_service"]].concat(), listen).stdout;
    assert_eq!((without.as_str(), with.as_str()), ("", "listened\n"));
}
