//! What a build makes and what it tells.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use skiff::cli::Cli;
use skiff::cli::build_other::BUILD_OTHERS;

use super::{NEEDS, build, leavings, place};
use crate::harness::{able, finish, skiff_binary};

#[test]
fn the_old_image_stays_until_the_new_one_is_complete() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("out-atomic");
    place.write("new.sif", "old");
    place.write("new.def", "Bootstrap: localimage\nFrom: busybox.sif\n%post\n true\n");
    let said = place.run(["build", "new.sif", "new.def"]).fails(255);
    assert!(said.contains("\"new.sif\" exists\nhint: --force replaces it"), "{said}");
    build(&place, &[], "%post\n exit 9\n").fails(255);
    assert_eq!(fs::read_to_string(place.work("new.sif")).unwrap(), "old");
    build(&place, &[], "%post\n true\n").ok();
    place.run(["exec", "new.sif", "true"]).ok();
    assert_eq!(leavings(&place), Vec::<String>::new());
    let names: Vec<_> =
        fs::read_dir(place.work("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{names:?}");
}

#[test]
fn a_sandbox_is_made_and_replaced() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("out-sandbox");
    place.write("new.def", "Bootstrap: localimage\nFrom: busybox.sif\n%post\n echo x >/x; rm /bin/vi\n");
    place.run(["build", "--sandbox", "tree", "new.def"]).ok();
    assert_eq!(fs::read_to_string(place.work("tree/x")).unwrap(), "x\n");
    assert!(!place.work("tree/bin/vi").exists());
    let said = place.run(["build", "--sandbox", "tree", "new.def"]).fails(255);
    assert!(said.contains("\"tree\" exists\nhint: --force replaces it, --update changes it"), "{said}");
    place.run(["build", "--force", "--sandbox", "tree", "new.def"]).ok();
    place.run(["exec", "tree", "true"]).ok();
}

#[test]
fn a_sif_has_the_definition_what_it_says_and_the_root_in_that_order() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("out-sif");
    build(&place, &["--compression", "gzip"], "%labels\n a b\n").ok();
    let list = place.run(["sif", "list", "new.sif"]).ok();
    let kinds: Vec<_> = list.lines().skip(3).filter_map(|line| line.split('|').next_back()).collect();
    assert!(
        matches!(kinds[..], ["Def.FILE", "JSON.Generic", "SBOM (spdx-json)", root] if root.starts_with("FS (Squashfs/*System/")),
        "{list}"
    );
    // An image packed anew says the same and shows the same.
    place.run(["build", "--compression", "zstd", "again.sif", "new.sif"]).ok();
    assert_eq!(
        place.run(["inspect", "--deffile", "again.sif"]).ok(),
        place.run(["inspect", "--deffile", "new.sif"]).ok()
    );
    let list = "find / -xdev ! -path '/proc*' ! -path '/dev*' ! -path '/sys*' ! -path '/tmp*' ! -path '/var/tmp*' | sort | xargs ls -ld";
    let files = |image: &str| place.run(["exec", "--no-mount", "tmp,home,cwd", image, "sh", "-c", list]).ok();
    assert_eq!(files("again.sif"), files("new.sif"));
}

#[test]
fn two_reproducible_builds_are_the_same_bytes() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("out-reproducible");
    let text =
        "%post\n mkdir /d; for n in 1 2 3; do echo $n >/d/$n; done; rm /bin/vi\n%environment\n export A=1\n";
    for name in ["one.sif", "two.sif"] {
        place.write("new.def", format!("Bootstrap: localimage\nFrom: busybox.sif\n{text}"));
        let mut command = place.skiff(["build", "--reproducible", name, "new.def"]);
        finish(command.env("SOURCE_DATE_EPOCH", "1700000000")).ok();
    }
    assert!(fs::read(place.work("one.sif")).unwrap() == fs::read(place.work("two.sif")).unwrap());
}

#[test]
fn json_that_is_lost_is_an_error_of_an_image_that_is_made() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("out-json-lost");
    place.write("new.def", "Bootstrap: localimage\nFrom: busybox.sif\n");
    let mut command = place.command("sh");
    let script = "\"$1\" build --json --notest --force new.sif new.def >/dev/full";
    command.args(["-c", script, "sh"]).arg(skiff_binary());
    let said = finish(&mut command).fails(255);
    let words = "cannot write to standard output: no space left on device\nhint: new.sif is made; ";
    assert!(said.contains(words), "{said}");
    place.run(["exec", "new.sif", "true"]).ok();
}

#[test]
fn progress_is_lines_of_json_and_nothing_else() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("out-json");
    let said = build(&place, &["--json"], "%post\n echo to stdout\n%test\n echo tested\n");
    assert!(said.stderr.contains("to stdout\n") && said.stderr.contains("tested\n"), "{said:?}");
    let lines: Vec<serde_json::Value> = said
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let events: Vec<_> = lines.iter().map(|line| (line["event"].as_str(), line["step"].as_str())).collect();
    let step = |event, step| (Some(event), Some(step));
    assert_eq!(
        events,
        [
            step("begin", "Bootstrap"),
            step("end", "Bootstrap"),
            step("begin", "%post"),
            step("end", "%post"),
            step("begin", "%test"),
            step("end", "%test"),
            step("begin", "pack"),
            (Some("done"), None),
        ]
    );
    assert_eq!(lines[2]["line"], 3);
    let size = fs::metadata(place.work("new.sif")).unwrap().len();
    assert_eq!(lines.last().unwrap()["bytes"].as_u64(), Some(size));
}

#[test]
fn a_dry_run_says_where_and_what_and_does_nothing() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("out-dry");
    place.write("new.def", "Bootstrap: localimage\nFrom: none.sif\n%post\n touch /x\n");
    let said = place.run(["build", "--dry-run", "--tmpdir", ".", "new.sif", "new.def"]).ok();
    let work = format!("work     in {}\n", place.work("").display());
    assert!(said.starts_with("target   new.sif (an image)\n"), "{said}");
    assert!(said.contains(work.trim_end().trim_end_matches('/')), "{said}");
    assert!(said.contains("  line 3    inside   %post by /bin/sh -ex, 1 line\n"), "{said}");
    assert!(!place.work("new.sif").exists());
    let said = place.run(["build", "--section", "setpu", "new.sif", "new.def"]).fails(255);
    assert!(said.contains("cannot take the section \"setpu\" (--section)"), "{said}");
    let said = place.run(["build", "--no-cache-from", "%pots", "new.sif", "new.def"]).fails(255);
    assert!(said.contains("cannot take the section \"pots\" (--no-cache-from)"), "{said}");
}

#[test]
fn every_flag_of_build_is_in_the_documents() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/compatibility.md");
    let text = fs::read_to_string(page).expect("the document is there");
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| build ")).collect();
    let mut command = Cli::command();
    command.build();
    let build = command.find_subcommand("build").expect("there is such a verb");
    let own = build.get_arguments().filter_map(|argument| argument.get_long()).map(str::to_owned);
    let others = BUILD_OTHERS.iter().map(|row| row.names[0].to_owned());
    let general = ["help", "verbose", "quiet", "silent", "debug", "nocolor", "no-color"];
    for flag in own.chain(others).filter(|flag| !general.contains(&flag.as_str())) {
        let named = format!("`--{flag}`");
        assert!(rows.iter().any(|row| row.contains(&named)), "docs/compatibility.md lacks --{flag} of build");
    }
}
