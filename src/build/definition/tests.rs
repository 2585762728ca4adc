//! What the golden files of `tests/it/definitions` do not show: places, patterns, and that no bytes do harm.

use proptest::prelude::*;

use super::*;
use crate::build::plan::plan_build;

fn given(arguments: &[(&str, &str)]) -> Vec<Given> {
    let given = arguments.iter().map(|(name, value)| Given {
        name: (*name).into(),
        value: (*value).into(),
        origin: "--build-arg".into(),
    });
    given.collect()
}

fn read(text: &str) -> Definition {
    parse(text.as_bytes(), &[]).unwrap_or_else(|mistakes| panic!("{}", mistakes.show("a.def")))
}

fn at(line: u32, column: u32) -> Position {
    Position { line, column }
}

#[test]
fn every_value_has_its_place() {
    let text = "\n# ü\n  BootStrap:\tdocker\n From :  debian\nStage: one\n%files from none\n";
    let wrong = parse(text.as_bytes(), &[]).expect_err("no such stage");
    assert_eq!(wrong.list.iter().map(|mistake| mistake.position).collect::<Vec<_>>(), [Some(at(6, 13))]);
    let read = read(
        "Bootstrap: scratch\nStage:  one\nBootstrap: docker\r\nFrom: a\n%files  From\tone\n ü \"x y\"\n\n%apprun  app\n",
    );
    let [first, second] = read.stages.as_slice() else { panic!("two stages") };
    assert_eq!(first.name.as_ref().map(|name| name.position), Some(at(2, 9)));
    assert_eq!((second.agent.position, second.agent.value.name), (at(3, 12), "docker"));
    assert_eq!(second.keys[0].value, Located { value: "a".into(), position: at(4, 7) });
    let [files, app] = second.sections.as_slice() else { panic!("two sections") };
    assert_eq!(files.position, at(5, 1));
    assert_eq!(files.from, Some(Located { value: "one".into(), position: at(5, 14) }));
    assert_eq!(files.files[0].source.position, at(6, 2));
    assert_eq!(files.files[0].target, Some(Located { value: "x y".into(), position: at(6, 4) }));
    assert_eq!(app.app, Some(Located { value: "app".into(), position: at(8, 10) }));
}

#[test]
fn places_are_those_of_the_file_where_templates_are_filled_in() {
    let given = given(&[("LONG", "a long value"), ("E", "")]);
    let text = "Bootstrap: scratch\n%files\n    \"{{ LONG }}\"{{E}} {{ LONG }} {{E}}third\n";
    let wrong = parse(text.as_bytes(), &given).expect_err("too many paths");
    let places: Vec<_> = wrong.list.iter().map(|mistake| mistake.position).collect();
    // The value of the second template is three words, of which the second is one too many.
    assert_eq!(places, [Some(at(3, 23))], "{}", wrong.show("a.def"));
    assert_eq!(wrong.list[0].message, "a third path \"long\"");
}

#[test]
fn patterns_keep_what_was_quoted() {
    let cases = [
        ("plain", "plain", None),
        ("a*b", "a*b", Some("a*b")),
        ("'a*'b", "a*b", None),
        ("'a*'?", "a*?", Some(r"a\*?")),
        (r"a\*[b]", "a*[b]", Some(r"a\*[b]")),
        ("\"$HOME/a*\"", "$HOME/a*", Some(r"$HOME/a\*")),
        (r"'$HOME'", "$HOME", None),
        (r#""\$HOME""#, "$HOME", None),
        (r#""a\b""#, r"a\b", None),
        ("~/x", "~/x", Some("~/x")),
        ("'~'/x", "~/x", None),
        ("a#b", "a#b", None),
    ];
    for (word, path, pattern) in cases {
        let definition = read(&format!("Bootstrap: scratch\n%files\n {word} /x\n"));
        let source = &definition.stages[0].sections[0].files[0].source.value;
        assert_eq!((source.path.as_str(), source.pattern.as_deref()), (path, pattern), "{word}");
    }
}

#[test]
fn scripts_keep_their_lines_and_their_numbers() {
    let definition = read("Bootstrap: scratch\r\n%post\r\n  a \\\r\n# b\r\n%help\nx\n%post\n\tc");
    let post = &definition.stages[0].sections[0];
    assert_eq!(
        post.parts,
        [Part { line: 3, text: "  a \\\n# b\n".into() }, Part { line: 8, text: "\tc\n".into() },]
    );
    assert_eq!(post.text(), "  a \\\n# b\n\tc\n");
}

#[test]
fn a_value_never_adds_a_section_or_a_stage() {
    let given = given(&[("A", "\n%post\nBootstrap: scratch\n")]);
    let text = "Bootstrap: scratch\n%help\n{{ A }}\n%environment\n A=1\n";
    let definition = parse(text.as_bytes(), &given).expect("a definition");
    let names: Vec<_> = definition.stages[0].sections.iter().map(Section::name).collect();
    assert_eq!((definition.stages.len(), names), (1, vec!["%help".to_owned(), "%environment".to_owned()]));
}

#[test]
fn arguments_of_the_command_line_hide_defaults_that_are_wrong() {
    let text = "Bootstrap: scratch\n%arguments\n A={{ MISSING }}\n%labels\n A {{ A }}\n";
    assert!(parse(text.as_bytes(), &[]).is_err());
    let definition = parse(text.as_bytes(), &given(&[("A", "{{ MISSING }}")])).expect("a definition");
    assert_eq!(definition.stages[0].sections[0].labels[0].value, "{{ MISSING }}");
    assert_eq!(definition.names, ["A"]);
}

#[test]
fn sizes_are_bounded() {
    let mut text = "Bootstrap: scratch\n%post\n".to_owned();
    text.push_str(&"{{ A }}".repeat(100));
    let wrong = parse(text.as_bytes(), &given(&[("A", &"x".repeat(1 << 20))])).expect_err("too long");
    assert_eq!(wrong.list[0].message, "the values are too long");
    let wrong = parse(&vec![b'\n'; TEXT_BYTES + 1], &[]).expect_err("too long");
    assert_eq!(wrong.list[0].message, "67108865 bytes are too many");
}

/// Pieces of definitions, right and wrong.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        proptest::sample::select(vec![
            "Bootstrap: docker\n",
            "bootstrap:",
            "From: a\n",
            "Stage: s",
            "OtherURL1: x",
            "%post",
            "%files",
            "%files from s",
            "%labels\n",
            "%arguments\n",
            "%apprun ",
            "%",
            "\n",
            "\r\n",
            " ",
            "\t",
            "\\",
            "\\\n",
            "#",
            "#!",
            "{{",
            "}}",
            "{{ A }}",
            "{{ B }}",
            "A={{ B }}\n",
            "B={{ A }}\n",
            "A=1\n",
            "\"",
            "'",
            "*",
            "ü",
            "\u{1b}",
            "-c ",
            "a b c ",
        ])
        .prop_map(str::to_owned),
        "[ -~\\n]{0,8}",
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_with_places_in_it(text in pieces()) {
        let lines = text.lines().count() as u32;
        let (found, plan) = match parse(text.as_bytes(), &given(&[("B", "b\nc ü")])) {
            Ok(definition) => {
                let plan = plan_build(&definition, "a.def");
                (definition.warnings, plan.to_string())
            }
            Err(mistakes) => {
                prop_assert!(mistakes.count() > 0);
                (mistakes, String::new())
            }
        };
        let shown = found.show("a.def") + &plan;
        prop_assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
        for mistake in &found.list {
            if let Some(position) = mistake.position {
                prop_assert!(position.line >= 1 && position.line <= lines.max(1), "{shown}");
                let line = text.lines().nth(position.line as usize - 1).unwrap_or_default();
                prop_assert!(position.column as usize <= line.chars().count() + 1, "{shown}");
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let found = parse(&bytes, &[]);
        prop_assert_eq!(found.is_ok(), parse(&bytes, &[]).is_ok());
    }
}
