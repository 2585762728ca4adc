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
    assert_eq!(missing, "skiff: cannot open image \"missing.sif\": no such file or directory\n");
}
