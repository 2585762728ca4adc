//! skiff under the names of Apptainer and SingularityCE: what their clients call, word by word, and what shells and
//! manuals make of what skiff writes about itself.

use std::ffi::OsStr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use crate::harness::{Need, Output, Place, able, busybox_tree, finish, give, skiff_binary};

const NEEDS: [Need; 3] = [Need::Userns, Need::Fuse, Need::Busybox];

/// Links to skiff under the names that clients look for, in a directory for PATH.
fn links(place: &Place) -> PathBuf {
    let bin = place.work("links");
    std::fs::create_dir(&bin).expect("a directory can be made");
    for name in ["apptainer", "singularity", "run-singularity", "skiff"] {
        symlink(skiff_binary(), bin.join(name)).expect("a link can be made");
    }
    give(&bin);
    bin
}

/// A client: a shell command with the links first on PATH.
fn client(place: &Place, script: &str) -> Command {
    let mut command = place.command("bash");
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", place.work("links").display());
    command.args(["-c", script]).env("PATH", path);
    command
}

fn run(place: &Place, script: &str) -> Output {
    finish(&mut client(place, script))
}

/// A busybox image that runs the program it is given, as images made from those of registries do, and sets a
/// variable.
fn image(place: &Place) -> PathBuf {
    let tree = place.work("tree");
    busybox_tree(&tree);
    let scripts = tree.join(".singularity.d/env");
    std::fs::create_dir_all(&scripts).expect("a directory can be made");
    std::fs::write(scripts.join("90-environment.sh"), "export IMAGE=\"${IMAGE:-its own}\"\n")
        .expect("written");
    let runscript = tree.join(".singularity.d/runscript");
    std::fs::write(&runscript, "#!/bin/sh\nexec \"$@\"\n").expect("written");
    std::fs::set_permissions(&runscript, PermissionsExt::from_mode(0o755)).expect("mode can be set");
    give(&tree);
    place.build("a.sif", &tree)
}

#[test]
fn versions_are_read_by_clients() {
    let place = Place::new("dropin-version");
    links(&place);
    // cwltool takes what stands before " version " and the digits and dots after it; Snakemake the last word.
    for (name, family, least) in
        [("apptainer", "apptainer", "1.1"), ("singularity", "singularity-ce", "3.10")]
    {
        let line = run(&place, &format!("{name} --version")).ok();
        let (said, version) = line.trim_end().split_once(" version ").expect("a version");
        assert_eq!((said, version.contains(' ')), (family, false), "{line}");
        let number = |text: &str| text.split('.').map_while(|part| part.parse().ok()).collect::<Vec<u32>>();
        let digits: String = version.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        assert!(number(&digits) >= number(least), "{line}");
        assert_eq!(run(&place, &format!("{name} version")).ok().trim_end(), version);
    }
}

#[test]
fn command_lines_of_clients_are_understood() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("dropin-clients");
    links(&place);
    image(&place);
    std::fs::create_dir_all(place.work("out")).expect("a directory can be made");
    std::fs::create_dir_all(place.work("tmp")).expect("a directory can be made");
    give(&place.work("out"));
    give(&place.work("tmp"));
    place.write("input", "data\n");
    let cwltool = "SINGULARITYENV_TMPDIR=/tmp SINGULARITYENV_X='a $HOME' singularity --quiet run --contain --ipc \
        --cleanenv --no-eval --userns --home $PWD/out:/made --mount=type=bind,source=$PWD/tmp,target=/tmp \
        --mount=type=bind,source=$PWD/input,target=/in/a/input,readonly --pwd /made --net --network none \
        a.sif sh -c 'cat /in/a/input >copy; echo $PWD $HOME $TMPDIR \"$X\" $IMAGE; echo >/in/a/input'";
    let said = run(&place, cwltool);
    assert_eq!(said.stdout, "/made /made /tmp a $HOME its own\n", "{}", said.stderr);
    assert!(said.stderr.contains("Read-only file system"), "{}", said.stderr);
    assert_eq!(std::fs::read_to_string(place.work("out/copy")).expect("the output"), "data\n");

    let snakemake = "SINGULARITYENV_X=1 apptainer --quiet --silent exec --home $PWD --bind $PWD/out a.sif \
        sh -c 'set -euo pipefail; echo $HOME $PWD $X'";
    let work = place.work("").display().to_string().trim_end_matches('/').to_owned();
    assert_eq!(run(&place, snakemake).ok(), format!("{work} {work} 1\n"));

    let nextflow = "env - PATH=\"$PATH\" SKIFF_LINGER=0 XDG_RUNTIME_DIR=$XDG_RUNTIME_DIR SINGULARITYENV_TMP=/tmp \
        singularity exec --no-home --pid -B $PWD a.sif sh -c \"cd $PWD; cat input; echo \\$\\$ \\$TMP\"";
    let said = run(&place, nextflow).ok();
    let pid: u32 = said.split(['\n', ' ']).nth(1).and_then(|pid| pid.parse().ok()).expect("a pid");
    assert!(said.starts_with("data\n") && said.ends_with(" /tmp\n") && pid < 10, "{said}");

    let galaxy = "SINGULARITYENV_HOME=$PWD/out SINGULARITYENV_X=1 singularity -s exec --contain --pwd $PWD/out \
        --cleanenv --ipc --pid --no-mount tmp -B $PWD:$PWD:ro -B $PWD/out:$PWD/out \
        --home $PWD/out:$PWD/out a.sif sh -c 'echo $X >made; pwd; touch ../made 2>&1'";
    let said = run(&place, galaxy);
    assert!(said.stdout.starts_with(&format!("{work}/out\n")), "{}{}", said.stdout, said.stderr);
    assert!(said.stdout.contains("Read-only file system"), "{}", said.stdout);
    assert_eq!(std::fs::read_to_string(place.work("out/made")).expect("the output"), "1\n");
}

#[test]
fn cwltool_learns_that_user_namespaces_work() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("dropin-userns");
    links(&place);
    image(&place);
    let said = run(&place, "singularity exec --userns a.sif no-such-program").fails(255);
    assert!(said.contains("executable file not found in"), "{said}");
}

#[test]
fn an_image_runs_as_a_program() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("dropin-program");
    links(&place);
    let image = image(&place);
    std::fs::set_permissions(&image, PermissionsExt::from_mode(0o755)).expect("mode can be set");
    let said = run(&place, "./a.sif sh -c 'echo \"$SINGULARITY_COMMAND $0 $*\"; exit 7' --help -q");
    assert_eq!((said.stdout.as_str(), said.status.code()), ("run --help -q\n", Some(7)), "{}", said.stderr);
    // The first word after the image is no flag of skiff's either.
    let said = run(&place, "./a.sif -c 'echo no'");
    assert!(
        said.stdout.is_empty() && said.stderr.contains("runscript") && said.stderr.contains("-c"),
        "{said:?}"
    );
    assert_eq!(run(&place, "apptainer shell a.sif -c 'echo shell'").ok(), "shell\n");
}

#[test]
fn what_is_not_there_is_answered_and_never_passed_over() {
    let place = Place::new("dropin-answers");
    links(&place);
    for command in [
        "apptainer search a",
        "apptainer push a.sif library://a/b/c",
        "apptainer pull a.sif shub://a/b",
        "singularity instance start a.sif db",
        "apptainer key newpair",
        "skiff sign a.sif",
        "apptainer sif add a.sif b",
        "apptainer -c conf exec a.sif true",
        "apptainer --config=conf exec a.sif true",
        "apptainer help search",
        "apptainer exec docker://127.0.0.1:1/debian true",
        "apptainer exec instance://db true",
        "apptainer build a.sif ipfs://a",
    ] {
        let said = run(&place, command);
        assert_eq!(said.stdout, "", "{command}");
        let error = said.fails(255);
        assert!(error.starts_with("skiff: ") && error.contains("\nhint: "), "{command}: {error}");
        assert_eq!(error.lines().count(), 2, "{command}: {error}");
    }
    for command in ["apptainer nosuch", "apptainer exec --nosuch a.sif true", "apptainer --nosuch exec a.sif"]
    {
        let error = run(&place, command).fails(255);
        assert!(error.contains("nosuch"), "{command}: {error}");
    }
}

#[test]
fn flags_of_build_are_warned_of_or_refused() {
    let place = Place::new("dropin-build");
    links(&place);
    std::fs::create_dir(place.work("tree")).expect("a directory can be made");
    give(&place.work("tree"));
    let said = run(&place, "apptainer -s build --notest --fakeroot -F a.sif tree");
    assert_eq!((said.stderr.as_str(), said.status.code()), ("", Some(0)));
    let said = run(&place, "singularity build -F --fakeroot --nv a.sif tree").stderr;
    assert!(
        said.contains("warning: --fakeroot has no effect: owners") && said.contains("--nv has no effect"),
        "{said}"
    );
    let before = std::fs::read(place.work("a.sif")).expect("the image");
    for flag in ["--mksquashfs-args='-comp xz'", "--fix-perms", "-e", "--remote"] {
        let error = run(&place, &format!("apptainer build {flag} -F a.sif tree")).fails(255);
        assert!(error.contains(" is not there yet\nhint: "), "{flag}: {error}");
    }
    for key in ["MKSQUASHFS_ARGS", "FIXPERMS", "DATA"] {
        let error = run(&place, &format!("APPTAINER_{key}=1 apptainer build -F a.sif tree")).fails(255);
        assert!(error.contains(&format!("APPTAINER_{key} is not there yet\nhint: ")), "{key}: {error}");
    }
    let said = run(&place, "APPTAINER_CONFIG_FILE=/x apptainer build c.sif tree");
    assert!(said.stderr.contains("warning: APPTAINER_CONFIG_FILE has no effect: "), "{said:?}");
    assert_eq!(said.status.code(), Some(0), "{said:?}");
    let said =
        run(&place, "cp a.sif b.sif; SINGULARITY_SECTION=post APPTAINER_FORCE=1 apptainer build b.sif tree");
    assert!(said.stderr.contains("warning: SINGULARITY_SECTION has no effect: the source"), "{said:?}");
    assert_eq!(said.status.code(), Some(0), "{said:?}");
    run(&place, "APPTAINER_FORCE=1 apptainer build --force=false a.sif tree").fails(255);
    let error = run(&place, "apptainer pull --sandbox docker://x").fails(255);
    assert!(error.contains("--sandbox is not there yet\nhint: "), "{error}");
    assert!(std::fs::read(place.work("a.sif")).expect("the image") == before, "a.sif is another");
}

#[test]
fn help_is_the_same_by_every_road() {
    let place = Place::new("dropin-help");
    links(&place);
    let help = run(&place, "skiff exec --help").ok();
    assert!(help.contains("--bind") && help.contains("Examples:"), "{help}");
    assert_eq!(run(&place, "skiff help exec").ok(), help);
    let theirs = run(&place, "apptainer help exec").ok();
    assert_eq!(theirs, help.replace("Usage: skiff", "Usage: apptainer"));
    assert_eq!(run(&place, "skiff help").ok(), run(&place, "skiff --help").ok());
    assert!(run(&place, "singularity help sif list").ok().contains("Usage: singularity sif list"));
}

#[test]
fn completions_complete_in_bash() {
    let place = Place::new("dropin-completions");
    links(&place);
    // What bash would offer after these words, the last of them unfinished.
    let offered = |name: &str, words: &[&str]| {
        let count = words.len() - 1;
        let script = format!(
            "source <({name} {} bash) && complete -p {name} >/dev/null || exit 1\n\
             COMP_WORDS=({}) COMP_CWORD={count} COMP_LINE='' COMP_POINT=0\n\
             _{name} {name} {} {} && printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            if name == "skiff" { "completions" } else { "completion" },
            words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
            format_args!("'{}'", words[count]),
            format_args!("'{}'", words[count - 1]),
        );
        let said = run(&place, &script);
        assert_eq!(said.stderr, "");
        said.ok().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    for name in ["skiff", "apptainer", "singularity"] {
        assert_eq!(offered(name, &[name, "ex"]), ["exec"]);
        assert_eq!(offered(name, &[name, "exec", "--clea"]), ["--cleanenv"]);
        assert_eq!(offered(name, &[name, "sif", "he"]), ["header"]);
    }
    assert!(offered("skiff", &["skiff", "build", "--compression", "z"]).contains(&"zstd".to_owned()));
    // Files are bash's own offer (`complete -o default`), where the function makes none.
    for words in [&["skiff", "exec", ""][..], &["skiff", "exec", "a.si"], &["skiff", "sif", "list", ""]] {
        assert_eq!(offered("skiff", words), [""], "{words:?}");
    }
    assert!(offered("skiff", &["skiff", "sif", ""]).contains(&"list".to_owned()));
}

#[test]
fn manual_pages_have_their_parts() {
    let place = Place::new("dropin-manual");
    place.run([OsStr::new("docs"), OsStr::new("--man"), place.work("man").as_os_str()]).ok();
    let page = place.work("man").join("skiff-exec.1");
    let text = std::fs::read_to_string(&page).expect("the page");
    for part in [".TH skiff-exec 1", ".SH SYNOPSIS", "\\-\\-bind", "skiff exec debian.sif"] {
        assert!(text.contains(part), "{part} is missing");
    }
}
