//! --contain, --containall, --compat, --workdir, --scratch.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::harness::{able, user};

#[test]
fn contained_programs_have_few_devices_and_empty_directories_in_memory() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-contain");
    place.busybox_image();
    place.write("file", "");
    let devices = "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero";
    for who in Who::all() {
        let script = "echo $(ls /dev); for d in /tmp /var/tmp $HOME /dev/shm; do ls -A $d; echo x >$d/new; \
                      rm $d/new; done; pwd; echo $HOME; ls -d /var/tmp/* 2>&1; cat /proc/self/mountinfo";
        let printed = who.run(&place, &["--contain"], script).ok();
        let mut lines = printed.lines();
        assert_eq!(lines.next(), Some(devices), "{who:?}");
        let (cwd, home) = (lines.next(), lines.next());
        assert_eq!(cwd, home, "{who:?}: the working directory is the home");
        assert_eq!(lines.next(), Some("ls: /var/tmp/*: No such file or directory"), "{who:?}");
        let mounts = mounts(&lines.collect::<Vec<_>>().join("\n"));
        for directory in ["/dev", "/dev/shm", "/tmp", "/var/tmp", home.expect("a line")] {
            assert_eq!(mounts[directory].kind, "tmpfs", "{who:?}: {directory}");
        }
        assert_eq!(mounts["/dev/pts"].kind, "devpts");
        // Still the host's.
        assert_eq!((mounts["/proc"].kind.as_str(), mounts["/sys"].kind.as_str()), ("proc", "sysfs"));
    }
    assert_eq!(inside(&place, &["-c"], "cat </dev/zero | head -c 3 | wc -c; echo x >/dev/null"), "3\n");
    for variable in ["SKIFF_CONTAIN", "APPTAINER_CONTAIN", "SINGULARITY_CONTAIN"] {
        assert_eq!(with_variables(&place, &[(variable, "1")], "echo $(ls /dev)"), format!("{devices}\n"));
        let off = with_variables(&place, &[(variable, "false")], "ls file");
        assert_eq!(off, "file\n", "{variable}=false");
    }
}

#[test]
fn containall_has_own_processes_ipc_and_none_of_the_hosts_variables() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-containall");
    place.busybox_image();
    for who in Who::all() {
        let script = "echo $$ ${HOSTS_OWN-unset}; cat /proc/1/comm; stat -f -c %T /dev/mqueue; ls -A /tmp";
        let printed = finish(who.command(&place, &["--containall"], script).env("HOSTS_OWN", "x")).ok();
        assert_eq!(printed, "2 unset\nskiff-init\nUNKNOWN\n", "{who:?}");
        let printed = who.run(&place, &["-C", "--no-pid"], "cat /proc/1/comm").ok();
        assert_ne!(printed, "skiff-init\n", "{who:?}");
    }
}

#[test]
fn compat_is_what_docker_does() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-compat");
    place.busybox_image();
    let script = "echo $$ $(umask) $A ${HOSTS_OWN-unset}; ls -A /tmp $HOME; echo x >/new && cat /new";
    let mut command = Who::User.command(&place, &["--compat", "--env", "A=$HOME"], script);
    let printed = finish(command.env("HOSTS_OWN", "x")).ok();
    assert!(printed.starts_with("1 0022 $HOME unset\n") && printed.ends_with("\nx\n"), "{printed}");
}

#[test]
fn a_work_directory_keeps_what_would_be_in_memory() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-workdir");
    place.busybox_image();
    let mode = |name: &str| fs::metadata(place.work("w").join(name)).expect("it was made").mode() & 0o7777;
    directory(&place, "w", "own", "");
    let flags = ["--contain", "--workdir", "w", "--scratch", "/fast/disk"];
    inside(&place, &flags, "for d in /tmp /var/tmp $HOME /fast/disk; do echo $d >$d/kept; done");
    for (name, bits) in [("tmp", 0o1777), ("var_tmp", 0o1777), ("home", 0o700), ("scratch/fast/disk", 0o755)]
    {
        assert_eq!(mode(name), bits, "{name}");
        let kept = fs::metadata(place.work("w").join(name).join("kept")).expect("it was kept");
        assert_eq!(kept.uid(), user().uid);
    }
    // A second container finds it.
    let printed = inside(&place, &flags, "cat /tmp/kept /var/tmp/kept /fast/disk/kept; ls $HOME");
    assert_eq!(printed, "/tmp\n/var/tmp\n/fast/disk\nkept\n");
    let variables = [("APPTAINER_CONTAIN", "yes"), ("APPTAINER_WORKDIR", "w")];
    assert_eq!(with_variables(&place, &variables, "cat /tmp/kept"), "/tmp\n");
    let error = refused(&place, &["--contain", "--workdir", "missing"]);
    assert!(error.contains("missing") && error.contains("--workdir"), "{error}");
    let unused = Who::User.run(&place, &["--workdir", "w"], "true");
    assert!(unused.stderr.contains("warning") && unused.status.success(), "{unused:?}");
}

#[test]
fn scratch_directories_are_empty_writable_and_gone_at_the_end() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-scratch");
    place.busybox_image();
    for who in Who::all() {
        let script = "for d in /one /deep/two /home /usr; do ls -A $d; echo x >$d/new; cat $d/new; done; \
                      cat /proc/self/mountinfo";
        let printed = who.run(&place, &["-S", "/one,/deep/two", "--scratch", "/home,/usr"], script).ok();
        let rest = printed.strip_prefix("x\nx\nx\nx\n").unwrap_or_else(|| panic!("{who:?}: {printed}"));
        let mounts = mounts(rest);
        for directory in ["/one", "/deep/two", "/home", "/usr"] {
            assert_eq!(mounts[directory].kind, "tmpfs", "{who:?}: {directory}");
        }
    }
    for variable in ["SKIFF_SCRATCH", "APPTAINER_SCRATCHDIR", "SINGULARITY_SCRATCH"] {
        let script = "stat -f -c %T /one /two";
        let printed = with_variables(&place, &[(variable, "/one,/two")], script);
        assert_eq!(printed, "tmpfs\ntmpfs\n", "{variable}");
    }
    assert!(refused(&place, &["--scratch", "relative"]).contains("not an absolute path"));
}
