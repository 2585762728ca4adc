//! --bind, --mount, --home, --no-home, --cwd, --no-mount, --dns, --hostname's file.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use super::*;
use crate::harness::{able, busybox_tree, give, user};

#[test]
fn a_bound_directory_is_the_hosts_and_what_is_written_belongs_to_the_caller() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-bind");
    place.busybox_image();
    directory(&place, "in", "file", "text\n");
    for who in Who::all() {
        let name = format!("{who:?}");
        let script = format!("cat /data/in/file; stat -c %d:%i /data/in; echo new >/data/in/{name}");
        let printed = who.run(&place, &["--bind", "in:/data/in"], &script).ok();
        assert_eq!(printed, format!("text\n{}\n", identity(&place.work("in"))), "{who:?}");
        let made = fs::metadata(place.work("in").join(name)).expect("it is on the host");
        assert_eq!(made.uid(), if who == Who::Root { 0 } else { user().uid }, "{who:?}");
    }
}

#[test]
fn a_read_only_bind_cannot_be_written_nor_what_is_mounted_below_it() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-bind-ro");
    place.busybox_image();
    directory(&place, "in", "file", "text\n");
    for who in Who::all() {
        let flags = ["--bind", "in:/in:ro,/dev:/devices:ro"];
        let script = "cat /in/file; (echo >/in/new) 2>&1; (echo >>/in/file) 2>&1; cat /proc/self/mountinfo";
        let printed = who.run(&place, &flags, script).ok();
        let mut lines = printed.lines();
        assert_eq!(lines.next(), Some("text"));
        for _ in 0..2 {
            let line = lines.next().expect("a line");
            assert!(line.ends_with("Read-only file system"), "{who:?}: {line}");
        }
        let mounts = mounts(&lines.collect::<Vec<_>>().join("\n"));
        let bound: Vec<_> = mounts.iter().filter(|(target, _)| target.starts_with("/devices")).collect();
        assert!(bound.len() > 1, "/dev has mounts below it: {bound:?}");
        assert!(bound.iter().all(|(_, mount)| mount.has("ro")), "{who:?}: {bound:?}");
        // The same directory, bound by default, is as it was.
        assert!(mounts["/dev"].has("rw"), "{who:?}");
    }
}

#[test]
fn files_are_bound_over_files_and_where_the_image_has_nothing() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-bind-file");
    place.busybox_image();
    place.write("one", "1\n");
    place.write("odd:na,me", "odd\n");
    for who in Who::all() {
        let binds = "one:/etc/group:ro,one:/etc/hosts,one:/opt/deep/down/one,odd\\:na\\,me:/odd";
        let script = "cat /etc/group /etc/hosts /opt/deep/down/one /odd; echo 2 >>/opt/deep/down/one; \
                      (echo >/etc/group) 2>&1; ls /bin/busybox";
        let printed = who.run(&place, &["-B", binds], script).ok();
        let expected = "1\n1\n1\nodd\nsh: can't create /etc/group: Read-only file system\n/bin/busybox\n";
        assert_eq!(printed, expected, "{who:?}");
        assert_eq!(fs::read_to_string(place.work("one")).expect("the file"), "1\n2\n");
        place.write("one", "1\n");
    }
}

#[test]
fn binds_into_binds_work_in_any_order_and_the_last_of_a_target_wins() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-bind-nested");
    place.busybox_image();
    directory(&place, "outer/sub", "hidden", "");
    directory(&place, "outer", "seen", "");
    directory(&place, "inner", "file", "");
    directory(&place, "other", "other", "");
    for binds in [["inner:/x/sub", "outer:/x"], ["outer:/x", "inner:/x/sub"]] {
        let printed = inside(&place, &["-B", binds[0], "-B", binds[1]], "find /x | sort");
        assert_eq!(printed, "/x\n/x/seen\n/x/sub\n/x/sub/file\n");
    }
    let printed = inside(&place, &["-B", "inner:/x", "-B", "other:/x"], "ls /x");
    assert_eq!(printed, "other\n");
}

#[test]
fn a_mount_point_missing_below_a_directory_of_the_host_is_made_there() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-bind-made");
    place.busybox_image();
    directory(&place, "in", "file", "text\n");
    for who in Who::all() {
        let deep = place.work(format!("{who:?}/deep"));
        let name = deep.to_str().expect("text");
        let flags = ["-B", &format!("in:{name}/dir,in/file:{name}/file:ro"), "-S", &format!("{name}/fast")];
        let script = format!("cd {name}; cat dir/file file; ls -A fast; echo >fast/new; ls");
        assert_eq!(who.run(&place, &flags, &script).ok(), "text\ntext\ndir\nfast\nfile\n", "{who:?}");
        // On the host they are empty, and the caller's.
        let left: Vec<_> =
            ["dir", "fast", "file"].map(|name| fs::metadata(deep.join(name)).expect("made")).into();
        assert!(left[0].is_dir() && left[1].is_dir() && left[2].len() == 0, "{who:?}");
        let owner = if who == Who::Root { 0 } else { user().uid };
        assert!(left.iter().all(|made| made.uid() == owner), "{who:?}");
        assert_eq!(fs::read_dir(deep.join("dir")).expect("a directory").count(), 0, "{who:?}");
        // A second time they are there.
        who.run(&place, &flags, &script).ok();
    }
    // Where the caller may not, it is said.
    if user().uid != 0 {
        let error = refused(&place, &["-B", "/etc:/x,in:/x/none"]);
        assert!(error.contains("cannot make the directory \"/etc/none\" on the host"), "{error}");
        assert!(error.contains("permission denied"), "{error}");
    }
    assert!(refused(&place, &["-B", "in:/proc/none"]).contains("it is below the mount"));
}

#[test]
fn a_bind_on_a_link_of_the_image_lands_where_it_leads_inside_the_image() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-bind-link");
    let tree = place.work("tree");
    busybox_tree(&tree);
    fs::create_dir_all(tree.join("srv/real")).expect("a directory can be made");
    symlink("/srv/real", tree.join("input")).expect("a link can be made");
    // On the host this leads out of everything.
    symlink("../../../../../srv", tree.join("up")).expect("a link can be made");
    give(&tree);
    place.build("busybox.sif", &tree);
    directory(&place, "in", "file", "");
    let printed = inside(&place, &["-B", "in:/input,in:/up/new"], "ls /input /srv /srv/new");
    assert_eq!(printed, "/input:\nfile\n\n/srv:\nnew\nreal\n\n/srv/new:\nfile\n");
}

#[test]
fn mount_says_the_same_by_name() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-mount");
    place.busybox_image();
    directory(&place, "in", "file", "text\n");
    directory(&place, "a,b", "comma", "");
    let flags = [
        "--mount",
        "type=bind,source=in,destination=/in,ro",
        "--mount",
        "type=bind,\"src=a,b\",dst=/comma,readonly=false",
    ];
    let script = "cat /in/file; (echo >/in/new) 2>&1; ls /comma; echo >/comma/new";
    let printed = inside(&place, &flags, script);
    assert_eq!(printed, "text\nsh: can't create /in/new: Read-only file system\ncomma\n");
    assert!(place.work("a,b/new").exists());
    let error = refused(&place, &["--mount", "type=tmpfs,destination=/x"]);
    assert!(error.contains("type \"tmpfs\" is not there"), "{error}");
}

#[test]
fn binds_of_variables_are_added_to_those_of_flags() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-bind-variables");
    place.busybox_image();
    directory(&place, "in", "file", "");
    for [bind, path, mount] in [
        ["SKIFF_BIND", "SKIFF_BINDPATH", "SKIFF_MOUNT"],
        ["APPTAINER_BIND", "APPTAINER_BINDPATH", "APPTAINER_MOUNT"],
        ["SINGULARITY_BIND", "SINGULARITY_BINDPATH", "SINGULARITY_MOUNT"],
    ] {
        let mut command = Who::User.command(&place, &["-B", "in:/e"], "ls -d /a/* /b/* /c/* /d/* /e/*");
        command.env(bind, "in:/a,in:/b").env(path, "in:/c").env(mount, "type=bind,src=in,dst=/d");
        assert_eq!(finish(&mut command).ok(), "/a/file\n/b/file\n/c/file\n/d/file\n/e/file\n", "{bind}");
    }
    let printed = with_variables(&place, &[("APPTAINER_BIND", "in:/a")], "echo $APPTAINER_BIND $SKIFF_BIND");
    assert_eq!(printed, "/a /a\n");
}

/// The home directory: what `HOME` is, whether it is the directory `name` of the place, what passwd says.
const HOME_SCRIPT: &str =
    "echo $HOME; stat -c %d:%i $HOME; grep \"^[^:]*:[^:]*:$(id -u):\" /etc/passwd | cut -d: -f6";

#[test]
fn home_is_the_directory_that_was_asked_for_at_the_place_that_was_asked_for() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-home");
    place.busybox_image();
    directory(&place, "own", "file", "");
    let here = place.work("own");
    let here_name = here.to_str().expect("text");
    for who in Who::all() {
        for (flag, target) in [
            ("own:/home/eve".to_owned(), "/home/eve"),
            (format!("{here_name}:/away/from/here"), "/away/from/here"),
            ("own".to_owned(), here_name),
        ] {
            let printed = who.run(&place, &["-H", &flag], HOME_SCRIPT).ok();
            assert_eq!(printed, format!("{target}\n{}\n{target}\n", identity(&here)), "{who:?} {flag}");
        }
        // With --contain too: it was asked for.
        let printed = who.run(&place, &["--contain", "--home", "own:/home/eve"], HOME_SCRIPT).ok();
        assert_eq!(printed, format!("/home/eve\n{}\n/home/eve\n", identity(&here)), "{who:?}");
    }
    for variable in ["SKIFF_HOME", "APPTAINER_HOME", "SINGULARITY_HOME"] {
        let printed = with_variables(&place, &[(variable, "own:/home/eve")], "echo $HOME; ls $HOME");
        assert_eq!(printed, "/home/eve\nfile\n", "{variable}");
    }
    let error = refused(&place, &["--home", "missing"]);
    assert!(error.contains("missing") && error.contains("--home missing"), "{error}");
}

#[test]
fn home_of_root_inside_is_slash_root() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-home-root");
    place.busybox_image();
    let home = nix::unistd::User::from_name(&user().name).expect("users can be read").expect("the user");
    let printed = Who::Fakeroot.run(&place, &[], HOME_SCRIPT).ok();
    assert_eq!(printed, format!("/root\n{}\n/root\n", identity(&home.dir)));
}

#[test]
fn without_home_the_directory_is_not_there_unless_it_is_the_working_directory() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-no-home");
    place.busybox_image();
    let home = nix::unistd::User::from_name(&user().name).expect("users can be read").expect("the user").dir;
    let script = "echo $HOME; [ -e $HOME ] && echo there || echo not there";
    let home_name = home.display();
    assert_eq!(inside(&place, &["--no-home"], script), format!("{home_name}\nnot there\n"));
    for variable in ["SKIFF_NO_HOME", "APPTAINER_NO_HOME", "SINGULARITY_NO_HOME"] {
        let printed = with_variables(&place, &[(variable, "1")], script);
        assert_eq!(printed, format!("{home_name}\nnot there\n"), "{variable}");
    }
    let image = place.work("busybox.sif");
    let mut command = place.skiff(["exec", "--no-home", image.to_str().expect("text"), "sh", "-c", script]);
    assert_eq!(finish(command.current_dir(&home)).ok(), format!("{home_name}\nthere\n"));
}

#[test]
fn cwd_is_where_the_program_starts() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-cwd");
    place.busybox_image();
    for who in Who::all() {
        for flags in [["--cwd", "/usr"], ["--pwd", "/usr"], ["--cwd", "usr"]] {
            let printed = who.run(&place, &flags, "echo $PWD; readlink /proc/self/cwd").ok();
            assert_eq!(printed, "/usr\n/usr\n", "{who:?}");
        }
    }
    for key in ["CWD", "TARGET_CWD", "PWD", "TARGET_PWD"] {
        for family in ["SKIFF", "APPTAINER", "SINGULARITY"] {
            let variable = format!("{family}_{key}");
            let printed = with_variables(&place, &[(&variable, "/var")], "pwd");
            assert_eq!(printed, "/var\n", "{variable}");
        }
    }
    assert!(refused(&place, &["--cwd", "/none"]).contains("the container has no such directory"));
}

#[test]
fn each_name_of_no_mount_leaves_its_mounts_out() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-no-mount");
    place.busybox_image();
    let home = nix::unistd::User::from_name(&user().name).expect("users can be read").expect("the user").dir;
    let home = home.to_str().expect("text");
    // Without /proc the mounts cannot be seen, so what is looked at is bound elsewhere.
    let look = ["--bind", "/proc:/look"];
    let seen = |flags: &[&str]| {
        let printed = inside(&place, &[&look, flags].concat(), "cat /look/self/mountinfo");
        mounts(&printed).into_keys().collect::<Vec<_>>()
    };
    let has = |all: &[String], path: &str| all.iter().any(|target| target == path);
    let usual = seen(&[]);
    for (name, targets) in [
        ("proc", &["/proc"][..]),
        ("sys", &["/sys"]),
        ("dev", &["/dev"]),
        ("home", &[home]),
        ("tmp", &["/tmp", "/var/tmp"]),
        ("bind-paths", &["/etc/hosts", "/etc/localtime"]),
        ("/etc/resolv.conf", &["/etc/resolv.conf"]),
        ("/etc/hosts", &["/etc/hosts"]),
        ("/etc/passwd", &["/etc/passwd"]),
        ("/tmp", &["/tmp"]),
        ("hostfs", &[]),
    ] {
        let left = seen(&["--no-mount", name]);
        let gone: Vec<&String> = usual.iter().filter(|target| !left.contains(target)).collect();
        for target in targets {
            assert!(has(&usual, target) && !has(&left, target), "{name}: {target} in {left:?}");
        }
        // Nothing else goes but what is mounted below those.
        let meant = |gone: &&&String| targets.iter().any(|target| gone.starts_with(target));
        assert!(gone.iter().all(|gone| meant(&gone)), "{name}: {gone:?}");
    }
    let both = seen(&["--no-mount", "tmp,home", "--no-mount", "sys"]);
    assert!(!["/tmp", "/sys", home].into_iter().any(|target| has(&both, target)), "{both:?}");
    for variable in ["SKIFF_NO_MOUNT", "APPTAINER_NO_MOUNT", "SINGULARITY_NO_MOUNT"] {
        let printed = with_variables(&place, &[(variable, "tmp,sys")], "ls /tmp /sys");
        assert_eq!(printed, "/sys:\n\n/tmp:\n", "{variable}");
    }
}

#[test]
fn no_mount_cwd_leaves_the_working_directory_out_and_devpts_the_new_terminals() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-no-mount-cwd");
    place.busybox_image();
    place.write("file", "");
    let script = "[ -e file ] && echo there || echo not there";
    // The place is in /var/tmp: without that the working directory has a mount of its own.
    assert_eq!(inside(&place, &["--no-mount", "tmp"], script), "there\n");
    assert_eq!(inside(&place, &["--no-mount", "tmp,cwd"], script), "not there\n");
    let terminals =
        |flags: &[&str]| inside(&place, flags, "ls /dev/pts 2>/dev/null | head -n 1; ls -d /dev/pts");
    assert_eq!(terminals(&["--contain"]), "ptmx\n/dev/pts\n");
    let none = Who::User.run(&place, &["--contain", "--no-mount", "devpts"], "ls -d /dev/pts");
    assert!(none.stderr.contains("No such file"), "{none:?}");
}

#[test]
fn dns_takes_the_place_of_the_hosts_name_servers() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-dns");
    place.busybox_image();
    let expected = "nameserver 192.0.2.1\nnameserver 2001:db8::1\n";
    for who in Who::all() {
        let printed = who.run(&place, &["--dns", "192.0.2.1, 2001:db8::1"], "cat /etc/resolv.conf").ok();
        assert_eq!(printed, expected, "{who:?}");
    }
    for variable in ["SKIFF_DNS", "APPTAINER_DNS", "SINGULARITY_DNS"] {
        let variables = [(variable, "192.0.2.1,2001:db8::1")];
        assert_eq!(with_variables(&place, &variables, "cat /etc/resolv.conf"), expected, "{variable}");
    }
    let error = refused(&place, &["--dns", "ns.example.org"]);
    assert!(error.contains("\"ns.example.org\"") && error.contains("--dns"), "{error}");
}
