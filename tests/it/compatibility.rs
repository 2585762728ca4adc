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
    // Read by name (`cli/called.rs`), and not by the parser.
    flags.insert("--build-config".to_owned());
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
            Answer::Later(_) => "later",
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

/// The words of capitals in a text that are the only thing between two quotes.
fn capitals(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.match_indices('"').filter_map(|(at, _)| {
        let word = text[at + 1..].split('"').next()?;
        let fits = |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_';
        (word.len() > 1
            && word.starts_with(|letter: char| letter.is_ascii_uppercase())
            && word.chars().all(fits))
        .then_some((at, word))
    })
}

/// The variables that a source reads: named in a call that reads one, or in a list of names.
fn variables_read(source: &str) -> BTreeSet<String> {
    const CALLS: [&str; 9] =
        ["variable(", "absolute(", "setting(", "var_os(", "env::var(", " on(", " set(", "!set(", "named("];
    let is_read = |before: &str| {
        let in_list = before.rsplit(['[', ']', ';', '(']).next().is_some_and(|list| {
            list.split(',').all(|word| word.trim().is_empty() || capitals(word.trim()).count() == 1)
        });
        let list = before.rfind('[').filter(|_| in_list && before.rfind('[') > before.rfind('('));
        // What is kept of an environment or left out is no setting, nor are placeholders.
        let of_constant = |at: usize| {
            before[..at]
                .rsplit(";\n")
                .next()
                .is_some_and(|line| line.contains("const ") || line.ends_with("value_names("))
        };
        CALLS.iter().any(|call| before.ends_with(call)) || list.is_some_and(|at| !of_constant(at))
    };
    let found = capitals(source).filter(|(at, _)| is_read(&source[..*at]));
    found.map(|(_, word)| word.to_owned()).collect()
}

/// The sources without comments and unit tests.
fn production() -> Vec<String> {
    let all = [
        "src/build/cache",
        "src/cli",
        "src/plan",
        "src/commands",
        "src/host",
        "src/host.rs",
        "src/config.rs",
        "src/launch",
        "src/serve",
    ];
    let mut files = Vec::new();
    let mut waiting: Vec<PathBuf> = all.iter().map(|part| top().join(part)).collect();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            let entries =
                fs::read_dir(&path).expect("a directory of src").flatten().map(|entry| entry.path());
            waiting.extend(entries.filter(|path| !path.ends_with("tests")));
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source");
        let text = text.split("#[cfg(test)]\nmod ").next().expect("there is a first part");
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        files.push(code.collect::<Vec<_>>().join("\n"));
    }
    files
}

#[test]
fn every_variable_that_is_read_is_in_the_documents_and_no_other() {
    let sources = production();
    let text = fs::read_to_string(top().join("docs/environment.md")).expect("the document is there");
    let (read, _) = text.split_once("## Set in the container").expect("two parts");
    // Names without the family; and the list of longer names has none.
    let documented: BTreeSet<String> = quoted(read)
        .into_iter()
        .map(|word| word.strip_prefix("SKIFF_").unwrap_or(&word).to_owned())
        .filter(|word| {
            word.chars().all(|letter| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_')
        })
        .collect();
    let of_flags: BTreeSet<String> = table().into_values().flat_map(|row| row.keys).collect();
    let found: BTreeSet<String> = sources.iter().flat_map(|source| variables_read(source)).collect();
    assert!(
        found.len() > 60 && found.contains("XDG_RUNTIME_DIR") && found.contains("TARGET_PWD"),
        "{found:?}"
    );
    let missing: Vec<&String> = found
        .iter()
        .filter(|name| {
            !documented.contains(name.strip_prefix("SKIFF_").unwrap_or(name)) && !of_flags.contains(*name)
        })
        .collect();
    assert!(missing.is_empty(), "docs/environment.md lacks {missing:?}");
    // The document's own letter for any name, and the edits of PATH, whose family stands before `ENV_`.
    let patterns = [
        "X",
        "SKIFFENV_NAME",
        "SKIFFENV_PREPEND_PATH",
        "SKIFFENV_APPEND_PATH",
        "SKIFFENV_PATH",
        "NAME",
        "APPTAINER_X",
        "SINGULARITY_X",
    ];
    let whole = sources.concat();
    let known =
        |name: &str| whole.contains(&format!("\"{name}\"")) || whole.contains(&format!("\"SKIFF_{name}\""));
    let nothing_reads: Vec<&String> =
        documented.iter().filter(|name| !patterns.contains(&name.as_str()) && !known(name)).collect();
    assert!(nothing_reads.is_empty(), "docs/environment.md names {nothing_reads:?}, which nothing reads");
    // The twins are read wherever the name is.
    for family in ["APPTAINER_", "SINGULARITY_"] {
        assert!(!whole.contains(&format!("\"{family}")), "{family} is read by itself");
    }
}

#[test]
fn variables_are_found_in_sources() {
    let source = r#"
const KEPT: &[&str] = &["HTTP_PROXY", "NO_PROXY"];
fn f() { switch(x, "--pid", &["PID", "UNSHARE_PID"]); host.setting("BIND"); g("WORD"); h("A B");
    for key in ["CWD", "PWD"] { host.setting(key); } column("NONE", 1) }
"#;
    let found: Vec<String> = variables_read(source).into_iter().collect();
    assert_eq!(found, ["BIND", "CWD", "PID", "PWD", "UNSHARE_PID"]);
}
