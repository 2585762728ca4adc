//! The environment of a container is made without a process of the image wherever its scripts allow it.

use std::fs;
use std::path::Path;

use crate::harness::{Need, Place, able, busybox_tree, finish, give, skiff_binary};

/// Environment scripts as builds leave them: assignments with defaults, conditions, a path put together.
const ORDINARY: &[(&str, &str)] = &[
    ("01-base.sh", "# nothing here\n"),
    ("10-docker2singularity.sh", "export PATH=\"/opt/bin:/bin\"\nexport LANG=\"${LANG:-\"C.UTF-8\"}\"\n"),
    ("90-environment.sh", "export VERSION=1.2\nif [ -z \"${MODE:-}\" ]; then MODE=fast; fi\nexport MODE\n"),
    ("95-apps.sh", "[ -d /scif ] && export APPS=yes || :\n"),
    ("99-base.sh", "export LD_LIBRARY_PATH=\"${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/.singularity.d/libs\"\n"),
];

fn image(place: &Place, name: &str, scripts: &[(&str, &str)]) {
    let tree = place.work(format!("{name}-tree"));
    busybox_tree(&tree);
    let directory = tree.join(".singularity.d/env");
    fs::create_dir_all(&directory).expect("a directory can be made");
    for (file, text) in scripts {
        fs::write(directory.join(file), text).expect("a script can be written");
    }
    give(&tree);
    place.build(name, &tree);
}

/// The programs that were executed by skiff and all that it started, in order, and what the last one printed.
fn executed(place: &Place, arguments: &[&str]) -> (Vec<String>, String) {
    let trace = place.work("trace");
    let mut command = place.command("strace");
    command.args(["-f", "-qq", "-s", "200", "-e", "trace=execve,execveat", "-e", "signal=none", "-o"]);
    command.arg(&trace).arg(skiff_binary()).args(arguments);
    let printed = finish(&mut command).ok();
    let text = fs::read_to_string(&trace).expect("strace has written");
    let calls = text.lines().filter(|line| line.trim_end().ends_with("= 0"));
    let program = |line: &str| line.split('"').nth(1).map(str::to_owned);
    (calls.filter_map(program).collect(), printed)
}

#[test]
fn no_shell_is_started_for_ordinary_images() {
    if !able(&[Need::Userns, Need::Fuse, Need::Busybox, Need::Strace]) {
        return;
    }
    let place = Place::new("environment-strace");
    image(&place, "ordinary.sif", ORDINARY);
    let skiff = skiff_binary().display().to_string();
    let flags = ["exec", "--env", "A=version ${VERSION:-0}", "ordinary.sif", "/bin/env"];
    let (programs, printed) = executed(&place, &flags);
    assert_eq!(programs, [skiff.as_str(), "/bin/env"]);
    for line in ["VERSION=1.2", "MODE=fast", "A=version 1.2", "LD_LIBRARY_PATH=/.singularity.d/libs"] {
        assert!(printed.lines().any(|one| one == line), "{line}: {printed}");
    }

    // And one is, in the very process, where a script needs it: so the trace would show it.
    image(&place, "shell.sif", &[("90-environment.sh", "export WORD=$(echo said)\n")]);
    let (programs, printed) = executed(&place, &["exec", "shell.sif", "/bin/env"]);
    assert_eq!(programs, [skiff.as_str(), "/bin/sh", "/bin/env"]);
    assert!(printed.contains("WORD=said\n"), "{printed}");
}

#[test]
fn an_image_without_a_shell_has_its_environment_all_the_same() {
    if !able(&[Need::Userns, Need::Fuse, Need::Busybox]) {
        return;
    }
    let place = Place::new("environment-bare");
    image(&place, "with.sif", ORDINARY);
    let tree = place.work("with.sif-tree");
    for shell in ["sh", "ash", "hush"] {
        let shell = tree.join("bin").join(shell);
        if fs::symlink_metadata(&shell).is_ok() {
            fs::remove_file(&shell).expect("a link can be removed");
        }
    }
    assert!(!Path::new(&tree.join("bin/sh")).exists());
    place.build("bare.sif", &tree);
    let with = place.run(["exec", "with.sif", "env"]).ok();
    assert!(with.contains("VERSION=1.2\n"), "{with}");
    assert_eq!(place.run(["exec", "bare.sif", "env"]).ok(), with.replace("with.sif", "bare.sif"));
    let error = place.run(["exec", "--env", "A=$(id)", "bare.sif", "env"]).fails(255);
    assert!(error.contains("it has no /bin/sh") && error.contains("a command substitution"), "{error}");
}

#[test]
fn a_script_that_ends_the_shell_is_named_and_no_status_of_the_programs() {
    if !able(&[Need::Userns, Need::Fuse, Need::Busybox]) {
        return;
    }
    let place = Place::new("environment-ends");
    for (name, script) in [
        ("unset", "set -u\nexport A=$(:)$NOPE\n"),
        ("syntax", "export A=$(:)\nif [ then\n"),
        ("exit", "$(:) exit 3\n"),
    ] {
        image(&place, "ends.sif", &[("90-environment.sh", script)]);
        let error = place.run(["exec", "ends.sif", "true"]).fails(255);
        let named = "skiff: cannot start the program: /.singularity.d/env/90-environment.sh of the image ended /bin/sh";
        assert!(error.contains(named) && error.contains("\nhint: mend the script"), "{name}: {error}");
        fs::remove_file(place.work("ends.sif")).expect("it is there");
        fs::remove_dir_all(place.work("ends.sif-tree")).expect("it is there");
    }
    image(&place, "goes-on.sif", &[("90-environment.sh", "export A=$(echo $UID-$EUID-$GID)\nfalse\n")]);
    let ids = place
        .run(["exec", "--env", "B=$UID", "goes-on.sif", "sh", "-c", "echo $A $B $(id -u)-$(id -u)-$(id -g)"])
        .ok();
    let [inside, given, known] = ids.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{ids}") };
    assert_eq!((inside, Some(given)), (known, known.split('-').next()), "{ids}");
    // What cannot be started has skiff's status, as without a shell in between.
    for (program, name) in [("nosuch", "nosuch"), ("/etc", "/etc")] {
        let error = place.run(["exec", "goes-on.sif", program]).fails(255);
        assert!(error.contains(&format!("skiff: cannot run \"{name}\" in the container\nhint: ")), "{error}");
    }
    image(&place, "moves.sif", &[("90-environment.sh", "cd /etc; export A=$(pwd)\nexport GID=$(echo 5)\n")]);
    let script = "pwd; env | grep '^A=\\|^PWD=\\|OLDPWD\\|SKIFF_[AHPV]\\|GID'";
    let said = place.run(["exec", "--env", "UID=9", "moves.sif", "sh", "-c", script]).ok();
    let work = place.work("").display().to_string();
    let work = work.trim_end_matches('/');
    let mut lines: Vec<&str> = said.lines().collect();
    lines.sort_unstable();
    let wanted = [work.to_owned(), "A=/etc".into(), "GID=5".into(), format!("PWD={work}")];
    assert_eq!(lines, wanted);
    let error = place.run(["exec", "--env", "B=${NOPE:?none}", "goes-on.sif", "true"]).fails(255);
    assert!(
        error.contains("cannot evaluate the value given for B") && error.contains("--no-eval"),
        "{error}"
    );
}
