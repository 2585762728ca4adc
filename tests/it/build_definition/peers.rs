//! Images of skiff in Apptainer, and what Apptainer writes for the same definition.

use std::path::Path;
use std::process::Command;

use super::{NEEDS, build, place};
use crate::harness::{Need, Output, Place, able, finish, user};

/// The root that holds other tools, and the script that runs something in it.
const ROOT: &str = "/opt/peers";

/// Runs a command in the root of the other tools, as the ordinary user, in the work directory.
fn peer(place: &Place, script: &str) -> Option<Output> {
    let enter = std::env::var("SKIFF_PEERS_ENTER").ok()?;
    if !Path::new(ROOT).join("usr/bin/apptainer").exists() {
        return None;
    }
    let work = place.work("");
    let mut command = Command::new(enter);
    command.args(["--root", ROOT, "--user", &user().name, "--bind", "/var/tmp", "--cwd"]).arg(&work);
    command.args(["--", "sh", "-c", script]);
    Some(finish(&mut command))
}

const TEXT: &str = "%labels\n  Author Ada\n%help\n  ask Ada\n%environment\n  export COLOUR=blue\n\
    %runscript\n  echo \"run $COLOUR $*\"\n%startscript\n  echo start\n%test\n  echo tested\n\
    %post\n  echo made >/made\n  echo 'export LATE=1' >>$APPTAINER_ENVIRONMENT\n  echo 'weather fine' >>$APPTAINER_LABELS\n\
    %apprun one\n echo app $ONE\n%appenv one\n export ONE=1\n%apphelp one\n help\n%apptest one\n echo t\n\
    %applabels one\n size small\n";

#[test]
fn apptainer_runs_what_skiff_builds_and_writes_the_same_files() {
    if !able(&NEEDS) || !able(&[Need::Root]) {
        return;
    }
    let place = place("def-peer");
    build(&place, &[], TEXT).ok();
    let run = "apptainer run new.sif a; apptainer test new.sif; apptainer run --app one new.sif; \
               apptainer run-help new.sif; apptainer exec new.sif sh -c 'echo $COLOUR $LATE'; apptainer inspect new.sif | grep Author";
    let Some(said) = peer(&place, run) else {
        eprintln!("SKIP: SKIFF_PEERS_ENTER names no way to other tools");
        return;
    };
    assert_eq!(said.ok(), "run blue a\ntested\napp 1\n  ask Ada\nblue 1\nAuthor: Ada\n");
    peer(&place, "apptainer build --sandbox theirs new.def").expect("it was there").ok();
    place.run(["build", "--sandbox", "ours", "new.def"]).ok();
    let list = |tree: &str| {
        let script = format!(
            "cd {tree}; find . -path ./made -prune -o -printf '%m %y %p %l\\n' | grep -v '91-environment\\|resolv.conf' | sort -k3"
        );
        finish(place.command("sh").args(["-c", &script])).ok()
    };
    assert_eq!(list("ours"), list("theirs"));
    // What sections say, byte for byte.
    for file in [
        ".singularity.d/runscript",
        ".singularity.d/startscript",
        ".singularity.d/test",
        ".singularity.d/runscript.help",
        ".singularity.d/Singularity",
        ".singularity.d/env/91-environment.sh",
        "scif/apps/one/scif/runscript",
        "scif/apps/one/scif/runscript.help",
        "scif/apps/one/scif/test",
        "scif/apps/one/scif/labels.json",
        "scif/apps/one/scif/env/90-environment.sh",
    ] {
        finish(place.command("cmp").args([format!("ours/{file}"), format!("theirs/{file}")])).ok();
    }
}
