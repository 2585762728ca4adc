//! Hosts that forbid something, made of namespaces and filters: what `skiff exec` answers, and what `skiff doctor`
//! finds.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use crate::harness::{Need, Output, Place, able, finish, skiff_binary};

const NEEDS: [Need; 3] = [Need::Userns, Need::Fuse, Need::Busybox];

/// skiff with these arguments, after `circumstances`: shell commands in a user and mount namespace of their own.
fn within(place: &Place, circumstances: &str, arguments: &[&str]) -> Command {
    let mut command = place.command("unshare");
    command.args(["-rm", "sh", "-c", &format!("set -e\n{circumstances}\nexec \"$0\" \"$@\"")]);
    command.arg(skiff_binary()).args(arguments);
    command
}

/// Runs a command under a filter that answers EPERM to unshare(CLONE_NEWUSER) and nothing else, as the filters of
/// outer containers do. (unshare(1) asks for more than that at once, and gets it.)
fn filtered(command: Command) -> Output {
    let user_namespace = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        u64::from(libc::CLONE_NEWUSER as u32),
    );
    let rule = SeccompRule::new(vec![user_namespace.expect("a condition")]).expect("a rule");
    under_filter(command, BTreeMap::from([(libc::SYS_unshare, vec![rule])]), libc::EPERM)
}

/// Runs a command under a filter that answers an errno to these calls.
pub fn under_filter(mut command: Command, rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> Output {
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        TargetArch::try_from(std::env::consts::ARCH).expect("a processor with filters"),
    );
    let program: BpfProgram = filter.expect("a filter").try_into().expect("a program");
    // A filter is a thread's own, and what the thread starts inherits it.
    std::thread::spawn(move || {
        seccompiler::apply_filter(&program).expect("a filter can be set");
        finish(&mut command)
    })
    .join()
    .expect("the command runs")
}

/// The checks of a report, by name.
pub fn report(output: Output) -> (Option<i32>, BTreeMap<String, serde_json::Value>) {
    let report: serde_json::Value = serde_json::from_str(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", output.stdout, output.stderr));
    let code = output.status.code();
    assert_eq!(report["able"].as_bool(), Some(code == Some(0)), "{report:#}");
    let checks = report["checks"].as_array().expect("checks").clone();
    let named = |check: serde_json::Value| (check["name"].as_str().expect("a name").to_owned(), check);
    (code, checks.into_iter().map(named).collect())
}

/// What exec and doctor say where something that images need is missing: both fail, with these words.
fn assert_missing(place: &Place, run: impl Fn(&[&str]) -> Output, name: &str, words: &[&str]) {
    let error = run(&["exec", "busybox.sif", "true"]).fails(255);
    let (code, checks) = report(run(&["doctor", "--json"]));
    let check = &checks[name];
    assert_eq!((code, check["state"].as_str()), (Some(1), Some("missing")), "{check:#}");
    let told = format!("{} {}", check["found"], check["mend"]);
    for word in words {
        assert!(error.contains(word), "no {word:?} in {error}");
        assert!(told.contains(word), "no {word:?} in {told}");
    }
    assert!(error.contains("\nhint: "), "{error}");
    // A server that was begun for the container hears of its end a moment later.
    let until = Instant::now() + Duration::from_secs(10);
    while !place.processes().is_empty() {
        assert!(Instant::now() < until, "{:?}", place.processes());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_host_that_allows_everything_is_found_able() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("doctor-able");
    let (code, checks) = report(place.run(["doctor", "--json"]));
    assert_eq!(code, Some(0));
    for name in ["user namespaces", "FUSE", "mount descriptors"] {
        assert_eq!(checks[name]["state"], "ok", "{:#}", checks[name]);
        assert!(checks[name].get("mend").is_none());
    }
    let text = place.run(["doctor"]).ok();
    assert!(text.starts_with("skiff ") && text.contains("\nImages run here"), "{text}");
    assert!(!text.contains('\x1b'), "colours in a pipe: {text:?}");
    let quiet = place.run(["doctor", "--quiet"]).ok();
    assert!(!quiet.contains("  ok "), "{quiet}");
}

#[test]
fn root_is_examined_as_well() {
    if !able(&[Need::Root, Need::Userns, Need::Fuse]) {
        return;
    }
    let place = Place::new("doctor-root");
    let mut command = place.skiff(["doctor", "--json"]);
    command.uid(0).gid(0);
    let (code, checks) = report(finish(&mut command));
    assert_eq!(code, Some(0));
    assert_eq!(checks["subordinate ids"]["found"], "not needed by root");
}

#[test]
fn a_limit_of_no_user_namespaces_is_named() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("hosts-limit");
    place.busybox_image();
    let off = "echo 0 >/proc/sys/user/max_user_namespaces";
    let run = |arguments: &[&str]| finish(&mut within(&place, off, arguments));
    let words = ["no space left", "switched off", "sysctl user.max_user_namespaces=15000"];
    assert_missing(&place, run, "user namespaces", &words);
}

#[test]
fn what_a_filter_or_a_sysctl_or_apparmor_forbids_is_told_apart() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("hosts-forbidden");
    place.busybox_image();
    let words = ["operation not permitted", "a seccomp filter forbids user namespaces"];
    assert_missing(&place, |arguments| filtered(place.skiff(arguments)), "user namespaces", &words);
    // The sysctls of Debian and Ubuntu, which this kernel may not have: the filter does what they would do.
    for (sysctl, value, word) in [
        ("unprivileged_userns_clone", 0, "sysctl kernel.unprivileged_userns_clone=1"),
        ("apparmor_restrict_unprivileged_userns", 1, "AppArmor restricts user namespaces"),
    ] {
        let set = format!("mount -t tmpfs none /proc/sys/kernel; echo {value} >/proc/sys/kernel/{sysctl}");
        let run = |arguments: &[&str]| filtered(within(&place, &set, arguments));
        assert_missing(&place, run, "user namespaces", &["operation not permitted", word]);
    }
}

#[test]
fn ids_that_cannot_be_mapped_are_said() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("hosts-map");
    place.busybox_image();
    // A user namespace without any map: the caller is nobody in it, and nobody can be mapped further.
    let run = |arguments: &[&str]| {
        let mut command = place.command("unshare");
        finish(command.arg("-U").arg(skiff_binary()).args(arguments))
    };
    assert_missing(&place, run, "user namespaces", &["operation not permitted", "unshare -r"]);
}

#[test]
fn each_way_to_have_no_fuse_is_told_apart() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("hosts-fuse");
    place.busybox_image();
    place.write("empty", "");
    for (circumstances, words) in [
        ("mount -t tmpfs none /dev", ["cannot open /dev/fuse: no such file", "modprobe fuse"]),
        // A file of the real root's, who has no name here: as a device that is not for everyone.
        ("mount --bind /etc/shadow /dev/fuse", ["permission denied", "chmod 666 /dev/fuse"]),
        ("mount --bind empty /dev/fuse", ["it is not a device", "mknod /dev/fuse c 10 229"]),
        ("mount --bind /dev/null /dev/fuse", ["another device than 10:229", "mknod /dev/fuse c 10 229"]),
    ] {
        let run = |arguments: &[&str]| finish(&mut within(&place, circumstances, arguments));
        // Images are unpacked instead; both say why.
        let output = run(&["exec", "busybox.sif", "echo", "ran"]);
        let warning = output.stderr.clone();
        assert_eq!(output.ok(), "ran\n");
        let (code, checks) = report(run(&["doctor", "--json"]));
        let check = &checks["FUSE"];
        assert_eq!((code, check["state"].as_str()), (Some(0), Some("less")), "{check:#}");
        let told = format!("{} {}", check["found"], check["mend"]);
        for word in words {
            assert!(warning.contains(word), "no {word:?} in {warning}");
            assert!(told.contains(word), "no {word:?} in {told}");
        }
    }
}

#[test]
fn poor_limits_and_directories_leave_a_host_able() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("doctor-poor");
    let script = "ulimit -n 64; exec \"$0\" doctor --json";
    let mut command = place.command("sh");
    command.args(["-c", script]).arg(skiff_binary());
    command.env("TMPDIR", "relative").env("XDG_RUNTIME_DIR", "/nowhere/at/all");
    let (code, checks) = report(finish(&mut command));
    assert_eq!(code, Some(0));
    for (name, word) in [
        ("open files", "64 (ulimit -n)"),
        ("TMPDIR", "not an absolute path"),
        ("XDG_RUNTIME_DIR", "no such file or directory"),
    ] {
        let check = &checks[name];
        assert_eq!(check["state"], "less", "{check:#}");
        assert!(check["found"].as_str().is_some_and(|found| found.contains(word)), "{check:#}");
        assert!(check["mend"].as_str().is_some_and(|mend| !mend.is_empty()));
    }
}
