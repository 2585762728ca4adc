//! `docs/compatibility.md` says what becomes of each flag of Apptainer's: the table, the command line's types and the
//! list of flags that are answered in a sentence say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use skiff::cli::Cli;
use skiff::cli::other::{Answer, OTHERS};

/// The verbs that start a container.
const VERBS: [&str; 4] = ["exec", "run", "shell", "test"];

/// A row of the tables of flags.
#[derive(Debug)]
struct Row {
    keys: Vec<String>,
    state: String,
    note: String,
}

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The words of a cell that stand between backquotes.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The rows of the tables of flags, by each of their flags.
fn table() -> BTreeMap<String, Row> {
    let text = fs::read_to_string(top().join("docs/compatibility.md")).expect("the table is there");
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `-")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [flags, keys, state, note] = cells[..] else { panic!("four cells: {line}") };
        for flag in quoted(flags) {
            let row = Row { keys: quoted(keys), state: state.to_owned(), note: note.to_owned() };
            // `-s` and `-c` mean one thing before the verb and another after it.
            let twice = rows.insert(flag.clone(), row).is_some();
            assert!(!twice || matches!(flag.as_str(), "-s" | "-c"), "{flag} stands twice");
        }
    }
    assert!(rows.len() > 100, "{} rows", rows.len());
    rows
}

/// All flags that the command line knows, long and short, with their aliases.
fn known() -> BTreeSet<String> {
    let mut command = Cli::command();
    command.build();
    let verbs = VERBS.iter().filter_map(|verb| command.find_subcommand(verb));
    let arguments = command.get_arguments().chain(verbs.flat_map(clap::Command::get_arguments));
    let mut flags: BTreeSet<String> = OTHERS
        .iter()
        .flat_map(|other| [other.name, other.alias])
        .filter(|name| !name.is_empty())
        .map(|name| format!("--{name}"))
        .collect();
    for argument in arguments {
        flags.extend(
            argument.get_long_and_visible_aliases().into_iter().flatten().map(|long| format!("--{long}")),
        );
        flags.extend(argument.get_all_aliases().into_iter().flatten().map(|long| format!("--{long}")));
        flags.extend(argument.get_short().map(|short| format!("-{short}")));
    }
    for own in ["--help", "-h", "--version", "-V"] {
        flags.remove(own);
    }
    flags
}

#[test]
fn every_flag_of_the_command_line_is_in_the_table() {
    let table = table();
    let missing: Vec<String> = known().into_iter().filter(|flag| !table.contains_key(flag)).collect();
    assert!(missing.is_empty(), "docs/compatibility.md lacks {missing:?}");
}

#[test]
fn every_flag_that_works_is_known_to_the_command_line() {
    let known = known();
    for (flag, row) in table() {
        match row.state.as_str() {
            "works" => {}
            "differs" | "later" => assert!(!row.note.is_empty(), "{flag}: how?"),
            other => panic!("{flag}: {other:?} is no state"),
        }
        assert!(row.state == "later" || known.contains(&flag), "{flag} {}, and is unknown", row.state);
    }
}

#[test]
fn the_table_says_what_the_flags_are_answered() {
    let table = table();
    for other in OTHERS {
        let row = &table[&format!("--{}", other.name)];
        let state = match other.answer {
            Answer::Already => "works",
            Answer::NoEffect(_) => "differs",
            Answer::Later(_) | Answer::Devices(..) => "later",
        };
        assert_eq!(
            (row.state.as_str(), row.keys.iter().map(String::as_str).collect::<Vec<_>>()),
            (state, other.keys.to_vec()),
            "--{}",
            other.name
        );
    }
}

/// All sources below a directory, one after the other.
fn sources(directory: &Path) -> String {
    let mut text = String::new();
    for entry in
        fs::read_dir(directory).expect("a directory of src").map(|entry| entry.expect("an entry").path())
    {
        if entry.is_dir() {
            text += &sources(&entry);
        } else {
            text += &fs::read_to_string(&entry).expect("a source");
        }
    }
    text
}

#[test]
fn the_variables_of_flags_that_work_are_read() {
    let text = ["src/cli", "src/plan", "src/commands"].map(|part| sources(&top().join(part))).concat();
    for (flag, row) in table().into_iter().filter(|(_, row)| row.state != "later") {
        for key in row.keys {
            assert!(text.contains(&format!("\"{key}\"")), "{flag}: nothing reads the variable {key}");
        }
    }
}
