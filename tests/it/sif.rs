//! `skiff sif`, and what every verb does with a wrong command line.

use std::fs;

use crate::harness::{Place, finish};

/// An image of a tree with one file, the same on every machine.
fn image(place: &Place) {
    fs::create_dir_all(place.work("tree/bin")).expect("a directory can be made");
    // The start of a 64-bit little-endian ELF file for machine 183: the image is of that architecture.
    let mut elf = *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xb7\0";
    place.write("tree/bin/sh", elf);
    elf[18] = 62;
    place.write("tree/bin/zz", elf);
    let mut build = place.skiff(["build", "--reproducible", "--all-root", "a.sif", "tree"]);
    finish(build.env("SOURCE_DATE_EPOCH", "1700000000")).ok();
}

#[test]
fn listings_are_those_of_apptainer() {
    let place = Place::new("sif-list");
    image(&place);
    let end = fs::metadata(place.work("a.sif")).expect("there is an image").len();
    let rule = "-".repeat(78);
    let version = env!("CARGO_PKG_VERSION");
    let metadata = format!(
        "{{\"data\":{{\"attributes\":{{\"labels\":{{\"org.label-schema.build-arch\":\"arm64\",\
         \"org.label-schema.build-date\":\"Tuesday_14_November_2023_22:13:20_UTC\",\
         \"org.label-schema.schema-version\":\"1.0\",\"org.label-schema.usage.skiff.version\":\"{version}\"}}}}}},\
         \"type\":\"container\"}}"
    );
    assert_eq!(place.run(["sif", "dump", "1", "a.sif"]).ok(), metadata);
    let list = format!(
        "{rule}\nID   |GROUP   |LINK    |SIF POSITION (start-end)  |TYPE\n{rule}\n\
         1    |1       |NONE    |{:<26}|JSON.Generic\n\
         2    |1       |NONE    |{:<26}|FS (Squashfs/*System/arm64)\n",
        format!("32176-{}", 32176 + metadata.len()),
        format!("32768-{end}")
    );
    assert_eq!(place.run(["sif", "list", "a.sif"]).ok(), list);
    let header = place.run(["sif", "header", "a.sif"]).ok();
    let (before, after) = header.split_once("ID:                   ").expect("a header has an ID");
    assert_eq!(
        before,
        "Launch Script:        #!/usr/bin/env run-singularity\n\
         Version:              01\n\
         Primary Architecture: arm64\n"
    );
    assert_eq!(
        after.split_once('\n').expect("the ID is a line").1,
        format!(
            "Created At:           2023-11-14 22:13:20 +0000 UTC\n\
             Modified At:          2023-11-14 22:13:20 +0000 UTC\n\
             Descriptors Free:     46\n\
             Descriptors Total:    48\n\
             Descriptors Offset:   4096\n\
             Descriptors Size:     27 KiB\n\
             Data Offset:          32176\n\
             Data Size:            {:.0} KiB\n",
            (end - 32176) as f64 / 1024.0
        )
    );
    let size = end - 32768;
    assert_eq!(
        place.run(["sif", "info", "2", "a.sif"]).ok(),
        format!(
            "  Data Type:        FS\n  ID:               2\n  Group ID:         1\n  Linked ID:        NONE\n  \
             Offset:           32768\n  Size:             {size}\n  \
             Created At:       2023-11-14 22:13:20 +0000 UTC\n  \
             Modified At:      2023-11-14 22:13:20 +0000 UTC\n  \
             Filesystem Type:  Squashfs\n  Partition Type:   *System\n  Architecture:     arm64\n"
        )
    );
    let json = place.run(["sif", "list", "--json", "a.sif"]).ok();
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON is printed");
    assert_eq!(json[1]["architecture"], "arm64");
    assert_eq!(json[1]["offset"], 32768);
    let json = place.run(["sif", "header", "--json", "a.sif"]).ok();
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON is printed");
    assert_eq!(json["created"], 1_700_000_000);
}

#[test]
fn dump_gives_the_bytes_and_ends_quietly_with_its_reader() {
    let place = Place::new("sif-dump");
    image(&place);
    let script = "\"$0\" sif dump 2 a.sif >part && tail -c +32769 a.sif | cmp - part";
    let skiff = crate::harness::skiff_binary();
    finish(place.command("sh").args(["-c", script]).arg(skiff)).ok();
    let head = "\"$0\" sif list a.sif | true; \"$0\" sif dump 2 a.sif | head -c 4";
    let output = finish(place.command("sh").args(["-c", head]).arg(skiff));
    assert_eq!(output.stderr, "");
    assert_eq!(output.ok(), "hsqs");
    let full = "\"$0\" sif list a.sif >/dev/full";
    let error = finish(place.command("sh").args(["-c", full]).arg(skiff)).fails(255);
    assert_eq!(error, "skiff: cannot write to standard output: no space left on device\n");
}

#[test]
fn what_is_no_sif_or_not_whole_is_said() {
    let place = Place::new("sif-bad");
    image(&place);
    let bytes = fs::read(place.work("a.sif")).expect("there is an image");
    place.write("short.sif", &bytes[..33000]);
    let missing = bytes.len() - 33000;
    assert_eq!(
        place.run(["sif", "list", "short.sif"]).fails(255),
        format!(
            "skiff: \"short.sif\": SIF file is truncated: object 2 ends at byte {}, but the file has 33000 \
             ({missing} bytes are missing)\nhint: copy or download it again\n",
            bytes.len()
        )
    );
    place.write("text", "x".repeat(200));
    let error = place.run(["sif", "list", "text"]).fails(255);
    assert_eq!(
        error,
        "skiff: \"text\": not a SIF file: \"SIF_MAGIC\" is not where it should be\n\
         hint: SquashFS files and directories are images, too, but have nothing that 'skiff sif' could show\n"
    );
    let error = place.run(["sif", "info", "7", "a.sif"]).fails(255);
    assert_eq!(error, "skiff: no object 7 in SIF file\nhint: its objects are 1, 2\n");
    let error = place.run(["sif", "list", "nothing.sif"]).fails(255);
    assert_eq!(
        error,
        "skiff: cannot open SIF file \"nothing.sif\": no such file or directory\n\
         hint: an image is named by its path; 'skiff build IMAGE DIRECTORY' makes one\n"
    );
}

#[test]
fn a_wrong_command_line_exits_255_and_help_0() {
    let place = Place::new("sif-usage");
    let error = place.run(["sif", "lst", "a.sif"]).fails(255);
    assert!(error.starts_with("skiff: ") && error.contains("'list'"), "{error}");
    let error = place.run(["build", "--compresion", "xz", "a", "b"]).fails(255);
    assert!(error.contains("'--compression'"), "{error}");
    let none: [&str; 0] = [];
    assert!(place.run(none).fails(255).contains("Usage: skiff"));
    assert!(place.run(["--version"]).ok().starts_with("skiff "));
    for verb in ["exec", "run", "shell", "build", "sif", "completions"] {
        assert!(place.run([verb, "--help"]).ok().contains("Usage: skiff"), "{verb}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(place.run(["completions", shell]).ok().contains("skiff"), "{shell}");
    }
}
