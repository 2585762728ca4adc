//! `skiff inspect` and `run-help`: a directory says the same as the image packed from it.

use std::fs;

use crate::harness::Place;

/// A tree with everything that an image can say of itself.
fn tree(place: &Place) {
    let meta = "tree/.singularity.d";
    for directory in
        [format!("{meta}/env"), "tree/scif/apps/solver/scif/env".into(), "tree/scif/apps/bare".into()]
    {
        fs::create_dir_all(place.work(directory)).expect("a directory can be made");
    }
    let app = "tree/scif/apps/solver/scif";
    for (name, text) in [
        (format!("{meta}/runscript"), "#!/bin/sh\nexec \"$@\"\n\n"),
        (format!("{meta}/test"), "#!/bin/sh\ntrue\n"),
        (format!("{meta}/runscript.help"), "Help.\n\n"),
        (format!("{meta}/Singularity"), "Bootstrap: scratch\n"),
        (format!("{meta}/labels.json"), "{\"Version\": \"<1>\", \"Author\": \"Ada\"}"),
        (format!("{meta}/env/90-environment.sh"), "export A=1\n"),
        (format!("{app}/labels.json"), "{\"Kind\": \"app\"}"),
        (format!("{app}/runscript.help"), "Help of the solver.\n"),
        (format!("{app}/env/90-environment.sh"), "B=2\n"),
    ] {
        place.write(&name, text);
    }
}

#[test]
fn an_image_says_what_its_files_say_and_what_it_was_packed_with() {
    let place = Place::new("inspect-text");
    tree(&place);
    place.build("a.sif", &place.work("tree"));
    for image in ["tree", "a.sif"] {
        let inspect = |flags: &[&str]| place.run([&["inspect"], flags, &[image]].concat()).ok();
        assert!(inspect(&["-l"]).contains("Author: Ada\nVersion: <1>\n"), "{image}");
        assert!(inspect(&[]).contains("Author: Ada\n"), "{image}");
        assert_eq!(
            inspect(&["-d", "-r", "-s", "-t", "-H", "-e"]),
            "Bootstrap: scratch\n#!/bin/sh\nexec \"$@\"\n#!/bin/sh\ntrue\nHelp.\n\
             === /.singularity.d/env/90-environment.sh ===\nexport A=1\n\n"
        );
        assert_eq!(inspect(&["--list-apps"]), "bare\nsolver\n");
        assert_eq!(inspect(&["--app", "solver"]), "Kind: app\n");
        assert_eq!(inspect(&["--app", "bare", "--runscript", "--environment"]), "");
        assert_eq!(
            inspect(&["--app", "solver", "-e"]),
            "=== /scif/apps/solver/scif/env/90-environment.sh ===\nB=2\n\n"
        );
        assert_eq!(
            inspect(&["--runscript", "--app", "solver", "--json"]),
            "{\n\t\"data\": {\n\t\t\"attributes\": {\n\t\t\t\"apps\": {\n\t\t\t\t\"solver\": {}\n\t\t\t}\n\t\t}\n\t},\n\
             \t\"type\": \"container\"\n}\n"
        );
        let all: serde_json::Value = serde_json::from_str(&inspect(&["--all"])).expect("JSON is printed");
        let all = &all["data"]["attributes"];
        assert_eq!(all["labels"]["Version"], "<1>");
        assert_eq!(all["apps"]["solver"]["labels"]["Kind"], "app");
        assert_eq!(all["helpfile"], "Help.");
        assert_eq!(all["startscript"], serde_json::Value::Null);
        assert_eq!(place.run(["run-help", image]).ok(), "Help.\n");
        assert_eq!(place.run(["run-help", "--app", "solver", image]).ok(), "Help of the solver.\n");
        let none = "No help sections were defined for this image\n";
        assert_eq!(place.run(["run-help", "--app", "bare", image]).ok(), none);
        let error = place.run(["inspect", "--app", "solvr", image]).fails(255);
        let expected =
            format!("skiff: no app \"solvr\" in image \"{image}\"\nhint: its apps are bare, solver\n");
        assert_eq!(error, expected);
    }
}

#[test]
fn short_d_is_the_definition_after_the_verb_and_debug_before_it() {
    let place = Place::new("inspect-debug");
    tree(&place);
    assert_eq!(place.run(["-d", "inspect", "-d", "tree"]).ok(), "Bootstrap: scratch\n");
    assert_eq!(place.run(["inspect", "--debug", "-d", "tree"]).ok(), "Bootstrap: scratch\n");
    let missing = place.run(["inspect", "missing.sif"]).fails(255);
    assert_eq!(
        missing,
        "skiff: cannot open image \"missing.sif\": no such file or directory\n\
         hint: an image is named by its path; 'skiff build IMAGE DIRECTORY' makes one\n"
    );
}

#[test]
fn a_packed_image_carries_the_definition_and_what_the_tree_says() {
    let place = Place::new("inspect-packed");
    tree(&place);
    let build = |image: &str| {
        let mut build = place.skiff(["build", "--reproducible", image, "tree"]);
        crate::harness::finish(build.env("SOURCE_DATE_EPOCH", "1700000000")).ok();
        fs::read(place.work(image)).expect("there is an image")
    };
    assert!(build("a.sif") == build("b.sif"), "the same tree gives the same bytes");
    let objects: serde_json::Value =
        serde_json::from_str(&place.run(["sif", "list", "--json", "a.sif"]).ok()).expect("JSON is printed");
    let field = |name: &str| -> Vec<&str> {
        let objects = objects.as_array().expect("a list").iter();
        objects.map(|object| object[name].as_str().expect("text")).collect()
    };
    assert_eq!(field("type"), ["Def.FILE", "JSON.Generic", "FS"]);
    assert_eq!(field("name"), ["", "inspect-metadata.json", ""]);
    assert_eq!(place.run(["sif", "dump", "1", "a.sif"]).ok(), "Bootstrap: scratch\n");
    let labels = place.run(["inspect", "a.sif"]).ok();
    let version = env!("CARGO_PKG_VERSION");
    // That of this machine, since the tree has no program.
    let here = labels.lines().find(|line| line.starts_with("org.label-schema.build-arch: "));
    assert_eq!(
        labels.replace(&format!("{}\n", here.expect("there is an architecture")), ""),
        format!(
            "Author: Ada\nVersion: <1>\norg.label-schema.build-date: Tuesday_14_November_2023_22:13:20_UTC\n\
             org.label-schema.schema-version: 1.0\norg.label-schema.usage.skiff.version: {version}\n"
        )
    );
    // Without the objects the files of the image say it.
    let whole = fs::read(place.work("a.sif")).expect("there is an image");
    let name = b"inspect-metadata.json";
    let at = whole.windows(name.len()).position(|part| part == name).expect("the object has a name");
    let mut renamed = whole;
    renamed[at] = b'x';
    place.write("renamed.sif", renamed);
    assert_eq!(place.run(["inspect", "renamed.sif"]).ok(), "Author: Ada\nVersion: <1>\n");
    // And without a root file system that can be looked at, the objects say it.
    let mut bytes = fs::read(place.work("a.sif")).expect("there is an image");
    let offset = objects[2]["offset"].as_u64().expect("a number") as usize;
    bytes[offset..offset + 96].fill(0xff);
    place.write("damaged.sif", bytes);
    assert_eq!(place.run(["inspect", "damaged.sif"]).ok(), labels);
}
