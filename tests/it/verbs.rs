//! `test`, `shell`, apps of an image, and where variables come from.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::harness::{Need, Place, able, busybox_tree, collect, describe, finish};

const NEEDS: [Need; 3] = [Need::Userns, Need::Fuse, Need::Busybox];

/// What the image's own script does about apps.
const APPS: &str = "if test -n \"${SINGULARITY_APPNAME:-}\"; then\n\
    PATH=\"/scif/apps/${SINGULARITY_APPNAME:-}/bin:$PATH\"\n\
    . \"/scif/apps/${SINGULARITY_APPNAME:-}/scif/env/90-environment.sh\"\n\
    fi\n";

/// An image with scripts of its own and an app.
fn image(place: &Place) {
    let tree = place.work("tree");
    busybox_tree(&tree);
    let app = "tree/scif/apps/solver/scif";
    for directory in ["tree/.singularity.d/env", &format!("{app}/env"), "tree/scif/apps/bare"] {
        fs::create_dir_all(place.work(directory)).expect("a directory can be made");
    }
    for (name, text) in [
        ("tree/.singularity.d/test", "#!/bin/sh\necho test $TOOL \"$@\"\nexit 3\n"),
        ("tree/.singularity.d/env/90-environment.sh", "export TOOL=image\n"),
        ("tree/.singularity.d/env/95-apps.sh", APPS),
        (&format!("{app}/env/90-environment.sh"), "export TOOL=app\n"),
        (&format!("{app}/runscript"), "#!/bin/sh\necho app $TOOL $SCIF \"$@\"\n"),
        (&format!("{app}/test"), "#!/bin/sh\necho app test \"$@\"\n"),
    ] {
        let path = place.write(name, text);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a mode can be set");
    }
    place.build("a.sif", &tree);
}

#[test]
fn the_images_test_is_run_and_its_status_is_the_answer() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("verbs-test");
    image(&place);
    let output = place.run(["test", "a.sif", "-x", "y"]);
    assert_eq!((output.status.code(), output.stdout.as_str()), (Some(3), "test image -x y\n"));
    assert_eq!(place.run(["test", "--app", "solver", "a.sif", "z"]).ok(), "app test z\n");
    let error = place.run(["test", "--app", "bare", "a.sif"]).fails(255);
    let hint = "name a program: skiff exec --app bare IMAGE PROGRAM; the apps with a test are solver";
    assert!(error.starts_with("skiff: cannot run app \"bare\" of image "), "{error}");
    assert!(error.ends_with(&format!(": it has no test\nhint: {hint}\n")), "{error}");
    place.busybox_image();
    let none = place.run(["test", "busybox.sif"]);
    assert_eq!(
        (none.status.code(), none.stderr.as_str()),
        (Some(0), "skiff: image \"busybox.sif\" has no test\n")
    );
    assert_eq!(place.run(["test", "-q", "busybox.sif"]).stderr, "");
}

#[test]
fn an_app_has_its_own_runscript_and_environment() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("verbs-app");
    image(&place);
    assert_eq!(place.run(["run", "--app", "solver", "a.sif", "1"]).ok(), "app app 1\n");
    let script = "echo $TOOL $SKIFF_APPNAME $APPTAINER_APPNAME; echo $PATH | cut -d: -f1";
    assert_eq!(
        place.run(["exec", "--app", "solver", "a.sif", "sh", "-c", script]).ok(),
        "app solver solver\n/scif/apps/solver/bin\n"
    );
    let mut by_variable = place.skiff(["run", "a.sif"]);
    assert_eq!(finish(by_variable.env("SINGULARITY_APP", "solver")).ok(), "app app\n");
    let error = place.run(["exec", "--app", "solve", "a.sif", "true"]).fails(255);
    assert!(error.ends_with("the image has no such app\nhint: its apps are bare, solver\n"), "{error}");
}

#[test]
fn the_shell_that_is_asked_for_is_started_and_prompts_with_the_images_name() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("verbs-shell");
    image(&place);
    let said = |flags: &[&str]| {
        let mut command =
            place.skiff([&["shell"], flags, &["a.sif", "-c", "echo $0 $SHELL \"$PS1\""]].concat());
        collect(
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts"),
            describe(&command),
        )
        .ok()
    };
    assert_eq!(said(&[]), "/bin/sh /bin/sh a.sif> \n");
    assert_eq!(said(&["-s", "/bin/ash"]), "/bin/ash /bin/ash a.sif> \n");
    let error = place.run(["shell", "--shell", "/bin/fish", "a.sif"]).fails(255);
    assert!(
        error.starts_with("skiff: cannot start the shell \"/bin/fish\": the container has no such"),
        "{error}"
    );
}

#[test]
fn files_of_variables_are_read_and_unwanted_ones_stay_outside() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("verbs-env");
    image(&place);
    place.write("a.env", "A=1\nTOOL=file\nexport WHO=\"$USER and co\"\nB=first\n");
    place.write("b.env", "B=second\nC='$A'\n");
    let script = "echo $A $B $C $TOOL $WHO ${HARNESS_PLACE:-none}; echo ${LANG:-none}";
    let flags = ["exec", "--env-file", "a.env", "--env-file", "b.env", "--env", "A=2", "--no-env", "LANG,X"];
    let said = place.run([&flags[..], &["a.sif", "sh", "-c", script]].concat()).ok();
    let (first, second) = said.split_once('\n').expect("two lines");
    assert!(
        first.starts_with(&format!("2 second 2 file {} and co /", crate::harness::user().name)),
        "{said}"
    );
    assert_eq!(second, "none\n");
    place.write("windows.env", "\u{feff}A=1\r\nB=\"2\"\r\n");
    let said = place.run(["exec", "--env-file", "windows.env", "a.sif", "sh", "-c", "echo $A,$B"]).ok();
    assert_eq!(said, "1,2\n");
    // What the image's shell cannot evaluate: its own status would be taken for the program's.
    for (given, name) in [("A=${", "A"), ("B=${UNSET_HERE?no}", "B")] {
        let error = place.run(["exec", "--env", given, "a.sif", "true"]).fails(255);
        assert!(error.contains(&format!("skiff: cannot evaluate the value given for {name}: ")), "{error}");
    }
    place.write("bad.env", "A=1\nB=`date`\n");
    let error = place.run(["exec", "--env-file", "bad.env", "a.sif", "true"]).fails(255);
    assert!(
        error.contains("\"bad.env\" (--env-file): line 2: a command substitution needs a shell"),
        "{error}"
    );
}

#[test]
fn environments_and_arguments_of_megabytes_arrive() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("verbs-large");
    image(&place);
    let script = "n=0; for a; do n=$((n + ${#a})); done; echo $n; env | wc -c | sed 's/......$//'";
    // A shell that raises its own limit, since the kernel gives arguments a quarter of the stack's.
    let large = "ulimit -s 32768; x=$(head -c 100000 /dev/zero | tr '\\0' x)\n\
        skiff=$1 image=$2 script=$3; set --\n\
        for n in 1 2 3 4 5 6 7 8 9 10 11 12; do set -- \"$@\" \"$x\"; export LARGE_$n=$x SKIFFENV_G$n=$x; done\n\
        exec \"$skiff\" exec \"$image\" sh -c \"$script\" sh \"$@\"";
    let run = |image: &str| {
        let mut command = place.command("sh");
        command.args(["-c", large, "sh"]).arg(crate::harness::skiff_binary()).args([image, script]);
        finish(&mut command).ok()
    };
    assert_eq!(run("a.sif"), "1200000\n2\n");
    place.write("tree/.singularity.d/env/91-environment.sh", "export MADE=$(echo made)\n");
    assert_eq!(run("tree"), "1200000\n2\n");
}

#[test]
fn an_image_without_a_shell_runs_programs_and_says_what_it_cannot() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("verbs-bare");
    fs::create_dir_all(place.work("bare/bin")).expect("a directory can be made");
    fs::create_dir_all(place.work("bare/.singularity.d/env")).expect("a directory can be made");
    let busybox = crate::harness::busybox().expect("the test has asked for it");
    fs::copy(busybox, place.work("bare/bin/env")).expect("a program can be copied");
    place.write("bare/.singularity.d/env/90-environment.sh", "export A=\"${B:-plain}\"\n");
    place.build("bare.sif", &place.work("bare"));
    let all = place.run(["exec", "bare.sif", "env"]).ok();
    assert!(all.lines().any(|line| line == "A=plain"), "{all}");
    let error = place.run(["shell", "bare.sif"]).fails(255);
    assert!(error.contains("it has neither /bin/bash nor /bin/sh\nhint: "), "{error}");
    let error = place.run(["run", "bare.sif"]).fails(255);
    assert!(error.contains("it has neither a runscript nor /bin/sh\nhint: "), "{error}");
    place.write("bare/.singularity.d/env/91-environment.sh", "\nexport A=$(date)\n");
    let error = place.run(["exec", "bare", "env"]).fails(255);
    let why = "it has no /bin/sh, and /.singularity.d/env/91-environment.sh line 2: a command substitution needs one";
    assert!(error.contains(why), "{error}");
}

#[test]
fn verbose_tells_the_steps_and_the_plan_and_quiet_nothing() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("verbs-verbose");
    image(&place);
    let said = |flags: &[&str], image: &str| {
        let output = place.run([&["exec"], flags, &[image, "echo", "hello"]].concat());
        assert_eq!(output.stdout, "hello\n");
        output.stderr
    };
    let steps = said(&["-v"], "a.sif");
    let first =
        "skiff: image opened\nskiff: server of the image: it is a new one\nskiff: planned\nimage    /";
    assert!(steps.starts_with(first) && steps.ends_with("skiff: starting it\n"), "{steps}");
    for part in ["program  echo hello\n", "  /tmp ", "default: temporary files\n", "  TOOL=image\n"] {
        assert!(steps.contains(part), "{part:?} in {steps}");
    }
    assert!(said(&["-vv"], "a.sif").starts_with("skiff: image opened ("), "times");
    assert!(said(&["-v"], "tree").contains("server of the image: a directory needs none\n"));
    // A warning: the flag has no effect.
    assert!(said(&["--unsquash"], "a.sif").starts_with("skiff: warning: --unsquash has no effect"));
    assert_eq!(said(&["-q", "--unsquash"], "a.sif"), "");
    let failed = place.run(["exec", "-q", "missing.sif", "true"]).fails(255);
    assert_eq!(
        failed,
        "skiff: cannot open image \"missing.sif\": no such file or directory\n\
         hint: an image is named by its path; 'skiff build IMAGE DIRECTORY' makes one\n"
    );
}
