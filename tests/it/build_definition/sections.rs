//! What sections do to an image, and the containers that scripts run in.

use super::{NEEDS, build, inside, place};
use crate::harness::able;

#[test]
fn every_section_is_seen_in_the_image() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("def-sections");
    let text = "%labels\n  Author Ada Lovelace\n%help\n  ask Ada\n%environment\n  export COLOUR=blue\n\
                %runscript\n  echo \"run $COLOUR $*\"\n%startscript\n  echo start\n%test\n  echo tested\n\
                %post\n  echo made >/made\n  echo 'export LATE=1' >>$APPTAINER_ENVIRONMENT\n\
                echo 'weather fine day' >>$SKIFF_LABELS\n";
    let said = build(&place, &[], text);
    assert!(said.stderr.contains("skiff: %post (line 15)") && said.stdout.contains("tested\n"), "{said:?}");
    said.ok();
    assert_eq!(place.run(["run", "new.sif", "a", "b"]).ok(), "run blue a b\n");
    assert_eq!(place.run(["test", "new.sif"]).ok(), "tested\n");
    assert_eq!(place.run(["run-help", "new.sif"]).ok(), "  ask Ada\n");
    assert_eq!(inside(&place, "cat /made; echo $LATE"), "made\n1\n");
    let labels = place.run(["inspect", "--labels", "new.sif"]).ok();
    for line in [
        "Author: Ada Lovelace",
        "weather: fine day",
        "org.label-schema.usage.singularity.deffile.from: busybox.sif",
        "org.label-schema.schema-version: 1.0",
    ] {
        assert!(labels.lines().any(|label| label == line), "{line}: {labels}");
    }
    assert_eq!(place.run(["inspect", "--startscript", "new.sif"]).ok(), "#!/bin/sh\n\n  echo start\n");
    let kept = place.run(["inspect", "--deffile", "new.sif"]).ok();
    assert!(kept.contains(text.trim_end()), "{kept}");
    // Where older runtimes look.
    let links = "cd /; for l in singularity .run .exec .test .shell environment; do readlink $l; done; ls .singularity.d/env";
    assert_eq!(
        inside(&place, links),
        ".singularity.d/runscript\n.singularity.d/actions/run\n.singularity.d/actions/exec\n\
         .singularity.d/actions/test\n.singularity.d/actions/shell\n.singularity.d/env/90-environment.sh\n\
         01-base.sh\n90-environment.sh\n91-environment.sh\n95-apps.sh\n99-base.sh\n99-runtimevars.sh\n"
    );
    assert_eq!(
        inside(&place, "test -e /.build.labels || test -e /.post.script || echo neither"),
        "neither\n"
    );
}

#[test]
fn an_image_on_an_image_keeps_what_the_base_says_and_its_history() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("def-history");
    let first = "%environment\n export A=1\n%labels\n who first\n where here\n%runscript\n echo first\n";
    build(&place, &[], first).ok();
    std::fs::rename(place.work("new.sif"), place.work("busybox.sif")).unwrap();
    let second = "%environment\n export B=$A$A\n%labels\n who second\n what new\n";
    let said = build(&place, &[], second);
    assert_eq!(place.run(["run", "new.sif"]).ok(), "first\n");
    assert_eq!(inside(&place, "echo $A $B"), "1 11\n");
    let label = |name: &str| {
        let labels = place.run(["inspect", "--labels", "new.sif"]).ok();
        labels.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
    };
    // --force is given.
    assert_eq!(label("who: ").as_deref(), Some("second"));
    assert_eq!(label("where: ").as_deref(), Some("here"));
    assert!(!said.stderr.contains("stays as the base has it"), "{said:?}");
    let history = inside(&place, "cat /.singularity.d/bootstrap_history/Apptainer0");
    assert!(history.contains("who first"), "{history}");
    // Without it the base's stays, with a warning.
    std::fs::remove_file(place.work("new.sif")).unwrap();
    let said = place.run(["build", "new.sif", "new.def"]);
    assert!(
        said.stderr.contains("warning: the label \"who\" stays as the base has it; --force replaces it\n")
    );
    assert_eq!(label("who: ").as_deref(), Some("first"));
    assert_eq!(label("what: ").as_deref(), Some("new"));
}

#[test]
fn post_is_root_in_a_clean_container() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("def-post");
    let script = "%post\n (id -u; id -g; pwd; umask; echo $HOME; echo \"${STRAY-none} ${SKIFF_OVERLAY-none}\"; \
                  echo $0) >/report\n  cmp /etc/resolv.conf /shown\n\
                  ! touch /shown\n";
    place.write("new.def", format!("Bootstrap: localimage\nFrom: busybox.sif\n{script}"));
    let mut command = place.skiff(["build", "-B", "/etc/resolv.conf:/shown:ro", "new.sif", "new.def"]);
    // Meant for other containers, or not there: none of it may change the image.
    command
        .env("STRAY", "1")
        .env("SKIFFENV_STRAY", "2")
        .env("APPTAINER_OVERLAY", "/none")
        .env("SKIFF_CONTAIN", "1");
    crate::harness::finish(&mut command).ok();
    assert_eq!(inside(&place, "cat /report"), "0\n0\n/\n0022\n/root\nnone none\n/.post.script\n");
    // What was mounted on is not in the image.
    assert_eq!(inside(&place, "test -e /shown || echo gone"), "gone\n");
}

#[test]
fn scripts_are_read_by_the_program_that_they_name() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("def-programs");
    let text = "%post -c /bin/busybox awk -f\n BEGIN { print \"by awk\" >\"/made\" }\n\
                %runscript\n#!/bin/cat\nshown by cat\n\
                %test -c /bin/busybox sh\n echo $0\n";
    build(&place, &[], text).ok();
    assert_eq!(inside(&place, "cat /made"), "by awk\n");
    assert_eq!(place.run(["run", "new.sif"]).ok(), "#!/bin/cat\nshown by cat\n");
    assert_eq!(place.run(["test", "new.sif"]).ok(), "/.singularity.d/test\n");
    // Flags of the section's line go to the shell.
    let said = build(&place, &[], "%post -u\n echo $NOT_SET\n").fails(255);
    assert!(said.contains("skiff: new.def:4: %post failed: exit status "), "{said}");
}

#[test]
fn host_scripts_run_on_the_host_and_setup_has_the_root() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("def-host");
    let text = "%pre\n echo pre >from-pre; id -u >>from-pre\n\
                %setup\n cp from-pre $SKIFF_ROOTFS/tmp/in-tmp; id -u >$APPTAINER_ROOTFS/uid\n\
                test \"$SKIFF_ROOTFS\" = \"$SINGULARITY_ROOTFS\"; ls $SKIFF_ROOTFS/proc >$SKIFF_ROOTFS/proc-list\n\
                mkdir -p $SKIFF_ROOTFS/a/b; ln -s b $SKIFF_ROOTFS/a/l; rm $SKIFF_ROOTFS/bin/vi\n";
    build(&place, &[], text).ok();
    let user = crate::harness::user().uid;
    assert_eq!(std::fs::read_to_string(place.work("from-pre")).unwrap(), format!("pre\n{user}\n"));
    // /tmp is the image's, and not the host's.
    assert_eq!(
        inside(&place, "cat /tmp/in-tmp /uid /proc-list; readlink /a/l"),
        format!("pre\n{user}\n0\nb\n")
    );
    assert_eq!(inside(&place, "test -e /bin/vi || echo gone"), "gone\n");
    let said = build(&place, &[], "%setup\n exit 7\n").fails(255);
    assert!(said.contains("skiff: new.def:3: %setup failed: exit status 7\n"), "{said}");
}

#[test]
fn a_test_sees_the_image_and_leaves_nothing() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("def-test");
    let text = "%environment\n export A=1\n%test\n test $A = 1\n echo x >/written && echo wrote\n true\n";
    let said = build(&place, &[], text);
    assert!(!said.stdout.contains("wrote"), "{said:?}");
    said.ok();
    let said = build(&place, &["--writable-tmpfs"], text);
    assert!(said.stdout.contains("wrote"), "{said:?}");
    said.ok();
    assert_eq!(inside(&place, "test -e /written || echo gone"), "gone\n");
    std::fs::remove_file(place.work("new.sif")).unwrap();
    let said = build(&place, &[], "%test\n exit 3\n").fails(255);
    assert!(said.contains("new.def:3: %test failed: exit status 3"), "{said}");
    assert!(!place.work("new.sif").exists());
    build(&place, &["--notest"], "%test\n exit 3\n").ok();
    build(&place, &["--section", "post,environment"], "%test\n exit 3\n").ok();
    place.run(["test", "new.sif"]).ok();
}

#[test]
fn apps_are_installed_and_run() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("def-apps");
    place.write("data", "data\n");
    let text = "%appinstall one\n pwd >where; echo $SCIF_APPNAME >>where; echo '#!/bin/sh\necho tool' >bin/tool; chmod 755 bin/tool\n\
                %appfiles one\n data\n data sub/d\n%apprun one\n tool; echo \"one $ONE\"\n%appenv one\n export ONE=1\n\
                %applabels one\n size small\n%apphelp one\n help of one\n%apptest one\n echo test of one\n\
                %apprun two\n echo two $SCIF_APPDATA $SCIF_APPDATA_one\n";
    build(&place, &[], text).ok();
    let app = "cat /scif/apps/one/where /scif/apps/one/data /scif/apps/one/sub/d; ls -d /scif/data/*/*";
    assert_eq!(
        inside(&place, app),
        "/scif/apps/one\none\ndata\ndata\n/scif/data/one/input\n/scif/data/one/output\n\
         /scif/data/two/input\n/scif/data/two/output\n"
    );
    assert_eq!(place.run(["run", "--app", "one", "new.sif"]).ok(), "tool\none 1\n");
    assert_eq!(place.run(["run", "--app", "two", "new.sif"]).ok(), "two /scif/data/two /scif/data/one\n");
    assert_eq!(place.run(["test", "--app", "one", "new.sif"]).ok(), "test of one\n");
    assert_eq!(place.run(["run-help", "--app", "one", "new.sif"]).ok(), " help of one\n");
    assert_eq!(place.run(["inspect", "--list-apps", "new.sif"]).ok(), "one\ntwo\n");
    let labels = place.run(["inspect", "--app", "one", "--labels", "new.sif"]).ok();
    assert_eq!(labels, "SCIF_APP_NAME: one\nsize: small\n");
}

#[test]
fn templates_are_filled_in_before_and_kept_filled_in() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("def-templates");
    let text = "%arguments\n WHAT=nothing\n%post\n echo {{ WHAT }} >/made\n%runscript\n echo {{ WHAT }}\n";
    build(&place, &["--build-arg", "WHAT=all of it"], text).ok();
    assert_eq!(place.run(["run", "new.sif"]).ok(), "all of it\n");
    assert_eq!(inside(&place, "cat /made; grep -c WHAT /.singularity.d/Singularity"), "all of it\n1\n");
}
