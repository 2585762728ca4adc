//! `skiff build --check`: definitions as people write them, and what is said of mistakes in them. Each file of
//! `tests/it/definitions` is compared whole: `NAME.def` with its plan in `NAME.txt` and `NAME.json`, warnings
//! included, and `mistakes/NAME.def` with the message in `mistakes/NAME.txt`.
//!
//! A first line `#: FLAGS` gives the flags. After a change that is meant: `SKIFF_GOLDEN=write cargo test definition`,
//! and read the difference.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::harness::{Output, Place};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/definitions")
}

/// The names of the definitions in a directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("definitions").flatten();
    let files = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> =
        files.filter_map(|file| file.strip_suffix(".def").map(str::to_owned)).collect();
    names.sort();
    names
}

/// Compares with a golden file, or writes it.
fn compare(path: &Path, found: &str, wrong: &mut Vec<String>) {
    if std::env::var_os("SKIFF_GOLDEN").is_some_and(|value| value == "write") {
        fs::write(path, found).expect("a golden file can be written");
    }
    let golden = fs::read_to_string(path).unwrap_or_default();
    if golden != found {
        wrong.push(format!("{}\n--- wanted\n{golden}\n--- found\n{found}", path.display()));
    }
}

/// Brings a definition and the files of values beside it into a place; gives its text and its flags.
fn bring(place: &Place, directory: &Path, name: &str) -> (String, Vec<String>) {
    for entry in fs::read_dir(directory).expect("definitions").flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "args") {
            let file = entry.file_name().into_string().expect("a name in ASCII");
            place.write(&file, fs::read(&path).expect("a file of values"));
        }
    }
    let text = fs::read_to_string(directory.join(format!("{name}.def"))).expect("a definition");
    place.write(&format!("{name}.def"), &text);
    let flags = text.strip_prefix("#: ").and_then(|rest| rest.lines().next()).unwrap_or_default();
    (text.clone(), flags.split_whitespace().map(str::to_owned).collect())
}

fn check(place: &Place, name: &str, flags: &[String]) -> Output {
    let words = ["build".to_owned(), "--check".to_owned()];
    place.run(words.iter().chain(flags).chain([&format!("{name}.def")]))
}

#[test]
fn plans_of_definitions_are_golden() {
    let place = Place::new("definition-plans");
    let mut wrong = Vec::new();
    let names = names(&directory());
    assert!(names.len() >= 12, "{names:?}");
    for name in &names {
        let (_, mut flags) = bring(&place, &directory(), name);
        let output = check(&place, name, &flags);
        assert!(output.status.success(), "{name}: {}", output.stderr);
        let text = format!("{}{}", output.stdout, output.stderr);
        compare(&directory().join(format!("{name}.txt")), &text, &mut wrong);
        flags.push("--json".into());
        let output = check(&place, name, &flags);
        assert!(output.status.success(), "{name}: {}", output.stderr);
        compare(&directory().join(format!("{name}.json")), &output.stdout, &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn mistakes_in_definitions_are_told_in_golden_words() {
    let place = Place::new("definition-mistakes");
    let mut wrong = Vec::new();
    let directory = directory().join("mistakes");
    let names = names(&directory);
    assert!(names.len() >= 30, "{names:?}");
    for name in &names {
        let (_, flags) = bring(&place, &directory, name);
        let output = check(&place, name, &flags);
        assert_eq!(output.status.code(), Some(255), "{name}: {}", output.stdout);
        assert_eq!(output.stdout, "", "{name}");
        compare(&directory.join(format!("{name}.txt")), &output.stderr, &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn line_ends_a_byte_order_mark_and_a_missing_last_line_end_change_nothing() {
    let place = Place::new("definition-line-ends");
    for name in names(&directory()) {
        let (text, mut flags) = bring(&place, &directory(), &name);
        flags.push("--json".into());
        let plain = check(&place, &name, &flags).stdout;
        assert!(plain.starts_with('{'), "{name}");
        let file = format!("{name}.def");
        place.write(&file, text.replace('\n', "\r\n"));
        assert_eq!(check(&place, &name, &flags).stdout, plain, "{name} with CRLF");
        place.write(&file, format!("\u{feff}{text}"));
        assert_eq!(check(&place, &name, &flags).stdout, plain, "{name} with a byte order mark");
        place.write(&file, text.strip_suffix('\n').expect("a last line end"));
        assert_eq!(check(&place, &name, &flags).stdout, plain, "{name} without a last line end");
    }
}

#[test]
fn unused_values_are_a_warning_when_asked_for() {
    let place = Place::new("definition-unused");
    place.write("a.def", "Bootstrap: scratch\n%labels\n    A {{ ONE }}\n");
    let words = ["build", "--check", "--build-arg", "ONE=1", "--build-arg", "ONCE=2", "a.def"];
    let error = place.run(words).fails(255);
    assert_eq!(
        error,
        "skiff: the definition does not use \"ONCE\" (--build-arg; the definition has \"ONE\")\n\
         hint: leave it out, or write {{ NAME }} where it is meant; --warn-unused-build-args goes on with a warning\n"
    );
    let output = place.run(words.iter().chain(&["--warn-unused-build-args"]));
    assert!(output.status.success());
    assert_eq!(
        output.stderr,
        "skiff: warning: the definition does not use \"ONCE\" (--build-arg; the definition has \"ONE\")\n"
    );
    assert!(output.stdout.contains("A: 1"), "{}", output.stdout);
}

#[test]
fn a_later_build_argument_counts_and_keeps_its_commas_and_lines() {
    let place = Place::new("definition-arguments");
    place.write("values", "A=file\n");
    place.write("a.def", "Bootstrap: scratch\n%post\n    {{ A }}\n    two\n");
    let words =
        ["build", "--check", "--json", "--build-arg", "A=one", "--build-arg", "A= x,B=2\n  y", "a.def"];
    let output = place.run(words.iter().chain(&["--build-arg-file", "values"]));
    let plan: serde_json::Value = serde_json::from_str(output.stdout.as_str()).expect("JSON");
    let text = &plan["stages"][0]["steps"][1]["text"];
    let expected = serde_json::json!([
        {"line": 3, "text": "     x,B=2\n  y\n"},
        {"line": 4, "text": "    two\n"},
    ]);
    assert_eq!(*text, expected, "{}", output.stderr);
}

#[test]
fn what_is_no_text_is_refused() {
    let place = Place::new("definition-bytes");
    let cases: [(&[u8], &str); 3] = [
        (b"Bootstrap: scratch\n%post\n echo \xe9t\xe9\n", "a.def:3:7: byte 0xe9 is not UTF-8"),
        (b"Bootstrap: scratch\n\0", "a.def:2:1: a NUL byte: this is no text file"),
        (b"hsqs\0\0\xff", "a.def:1:5: a NUL byte: this is no text file"),
    ];
    for (bytes, wanted) in cases {
        place.write("a.def", bytes);
        let error = place.run(["build", "--check", "a.def"]).fails(255);
        assert!(error.contains(wanted), "{error}");
    }
    let error = place.run(["build", "--check", "missing.def"]).fails(255);
    assert_eq!(error, "skiff: cannot read definition \"missing.def\": no such file or directory\n");
    let error = place.run(["build", "--check", "."]).fails(255);
    assert_eq!(error, "skiff: cannot read definition \".\": is a directory\n");
}

#[test]
fn ten_megabytes_of_definition_are_read() {
    let place = Place::new("definition-large");
    let bytes = 10_000_000;
    let head = "Bootstrap: scratch\n%post\n";
    let cases = [
        ("a long script", "    echo {{ A }} and more of it\n"),
        ("many sections", "%post\n"),
        ("many apps", "%apprun APP\n"),
        ("blank lines", "\n"),
        ("one line", "{{ A }} "),
        ("stages", "Bootstrap: scratch\n"),
        ("braces", "{{{{{{{{"),
        ("hashes", "# {{ A }} "),
    ];
    for (what, piece) in cases {
        let mut text = head.to_owned();
        let mut count = 0;
        while text.len() < bytes {
            match piece {
                "%apprun APP\n" => text.push_str(&format!("%apprun app{count}\n")),
                piece => text.push_str(piece),
            }
            count += 1;
        }
        place.write("a.def", &text);
        let begin = Instant::now();
        let mut command =
            place.skiff(["build", "--check", "--build-arg", "A=1", "--warn-unused-build-args", "a.def"]);
        let output = super::harness::finish(&mut command);
        assert!(output.status.success(), "{what}: {}", output.stderr);
        // Work that grows with the square of the size would take hours.
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}: {:?}", begin.elapsed());
    }
    // As many mistakes as lines.
    place.write("a.def", format!("{head}{}", "    {{ A }} {{ B }} {{ C }}\n".repeat(bytes / 28)));
    let error = place.run(["build", "--check", "a.def"]).fails(255);
    assert!(
        error.ends_with(&format!("\nand {} more\n", bytes / 28 * 3 - 20)),
        "{}",
        &error[error.len() - 200..]
    );
}

#[test]
fn a_definition_is_looked_through_with_the_images_name_before_it() {
    let place = Place::new("definition-build");
    place.write("a.def", "# a comment\nbootstrap: scratch\n");
    // As the build is called.
    assert!(place.run(["build", "--check", "a.sif", "a.def"]).status.success());
    assert!(!place.work("a.sif").exists());
}
