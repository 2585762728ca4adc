//! The house rules that a machine can check: who may import whom, how long files and functions may be, where
//! `unsafe` stands, what lies at the top level, what no text may contain.
//!
//! Only the standard library is used, so that `scripts/check` can compile this file alone in a second. It reads
//! sources as `cargo fmt` leaves them: a function ends at the first `}` as far indented as its `fn`.
//!
//! A function of 71 to 120 lines is allowed when it is one flat sequence or one match, and says so with a
//! comment `// flat: REASON` directly above it or among its first lines.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What each module may import besides itself. `*` is everything.
const MAY_USE: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("sys", &[]),
    ("records", &[]),
    ("remedies", &["sys"]),
    ("emulate", &["records", "sys", "error"]),
    ("host", &["sys", "elf", "error"]),
    ("config", &["error"]),
    ("cli", &["error"]),
    ("image", &["error"]),
    ("elf", &["error"]),
    ("serve", &["image", "records", "sys", "error"]),
    ("pack", &["image", "records", "error"]),
    ("trust", &["image", "error"]),
    ("cache", &["sys", "error"]),
    ("oci", &["cache", "pack", "image", "sys", "error"]),
    ("plan", &["cli", "host", "config", "image", "elf", "error"]),
    ("launch", &["plan", "serve", "emulate", "records", "sys", "remedies", "error"]),
    ("build", &["plan", "launch", "pack", "image", "oci", "cache", "host", "config", "error"]),
    ("commands", &["*"]),
    ("main", &["*"]),
    ("lib", &["*"]),
];

/// What may lie at the top level, besides names that begin with a dot.
const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "definitions",
    "docs",
    "scripts",
    "src",
    "tests",
];

const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 70;
const FLAT_FUNCTION_LINES: usize = 120;

/// A source file: its path from the top, and its lines.
struct Source {
    path: PathBuf,
    lines: Vec<String>,
}

impl Source {
    /// The lines before the file's unit tests, which stand at its end.
    fn production(&self) -> &[String] {
        let tests =
            self.lines.windows(2).position(|two| two[0] == "#[cfg(test)]" && two[1].starts_with("mod "));
        &self.lines[..tests.unwrap_or(self.lines.len())]
    }

    /// The module of `src` that it belongs to.
    fn module(&self) -> String {
        let below = self.path.strip_prefix("src").expect("a file of src");
        let first = below.components().next().expect("a name").as_os_str().to_string_lossy();
        first.trim_end_matches(".rs").to_owned()
    }
}

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `directory` whose name ends so, as paths from the top.
fn files(directory: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut ahead = vec![top().join(directory)];
    while let Some(next) = ahead.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                ahead.push(path);
            } else if path.is_file() && path.to_string_lossy().ends_with(ending) {
                found.push(path.strip_prefix(top()).expect("below the top").to_owned());
            }
        }
    }
    found.sort();
    found
}

fn sources(directory: &str) -> Vec<Source> {
    let read = |path: PathBuf| {
        let text = fs::read_to_string(top().join(&path)).expect("a source is text");
        Source { path, lines: text.lines().map(str::to_owned).collect() }
    };
    files(directory, ".rs").into_iter().map(read).collect()
}

/// A line without its comment. A `//` inside a string is taken for a comment; it never hides code here.
fn code(line: &str) -> &str {
    match line.find("//") {
        Some(at) => &line[..at],
        None => line,
    }
}

fn word_at(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// The names directly after `prefix::` in code, also of a group: `crate::{a::X, b}` gives a and b.
fn names_after(code: &str, prefix: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            names.push(word_at(rest).to_owned());
            continue;
        };
        let mut depth = 1;
        let mut expects_name = true;
        for (place, letter) in group.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' if depth == 1 => break,
                '}' => depth -= 1,
                ',' if depth == 1 => expects_name = true,
                c if expects_name && !c.is_whitespace() => {
                    names.push(word_at(&group[place..]).to_owned());
                    expects_name = false;
                }
                _ => {}
            }
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Arrows between modules that the table does not have.
fn forbidden_imports(source: &Source) -> Vec<String> {
    let module = source.module();
    // A reader's unit tests may make what they read by its writer.
    let text = source.production().iter().map(|line| code(line)).collect::<Vec<_>>().join("\n");
    let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
        return vec![format!("{}: the module '{module}' is not in the table", source.path.display())];
    };
    // `crate::error::Result` may be written `crate::Result`, and macros name `crate` too: only modules count.
    let is_module = |name: &String| MAY_USE.iter().any(|(module, _)| module == name);
    let mut wrong = Vec::new();
    for name in names_after(&text, "crate::").into_iter().filter(is_module) {
        if name != module && !allowed.contains(&name.as_str()) && !allowed.contains(&"*") {
            wrong.push(format!("{}: {module} may not use {name}", source.path.display()));
        }
    }
    // A verb knows no other verb, except the one step that all share.
    if module == "commands" && !source.path.ends_with("mod.rs") {
        let own = source.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let siblings =
            names_after(&text, "crate::commands::").into_iter().chain(names_after(&text, "super::"));
        for name in siblings {
            let verb = top().join(format!("src/commands/{name}.rs")).exists();
            if verb && name != own && name != "obtain" {
                wrong.push(format!("{}: a command may not use the command '{name}'", source.path.display()));
            }
        }
    }
    wrong
}

/// The name that a line defines a function by.
fn function_name(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    for word in ["pub(crate) ", "pub(super) ", "pub ", "const ", "async ", "unsafe ", "extern \"C\" "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    rest.strip_prefix("fn ").map(word_at)
}

/// Functions that are too long.
fn long_functions(source: &Source) -> Vec<String> {
    let lines = source.production();
    let mut wrong = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = line.len() - line.trim_start().len();
        let end = format!("{}}}", " ".repeat(indent));
        // A function on one line, or a declaration without a body, has no such end before the next function.
        if line.ends_with('}') || line.ends_with(';') {
            continue;
        }
        let Some(length) = lines[start..].iter().position(|later| *later == end) else { continue };
        let length = length + 1;
        let above = lines[..start].iter().rev().take_while(|l| {
            let l = l.trim_start();
            l.starts_with("//") || l.starts_with("#[")
        });
        let first = lines[start..].iter().take(8);
        let flat = above.chain(first).any(|l| l.trim_start().starts_with("// flat: "));
        let limit = if flat { FLAT_FUNCTION_LINES } else { FUNCTION_LINES };
        if length > limit {
            wrong.push(format!(
                "{}:{}: {name} has {length} lines, more than {limit}",
                source.path.display(),
                start + 1
            ));
        }
    }
    wrong
}

/// A use of the keyword outside comments and strings, apart from lint names such as `unsafe_code`.
fn says_unsafe(line: &str) -> bool {
    let code = code(line);
    code.match_indices("unsafe").any(|(at, word)| {
        let free =
            |c: Option<char>| !c.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '"' || c == '`');
        free(code[..at].chars().next_back()) && free(code[at + word.len()..].chars().next())
    })
}

fn assert_none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn modules_import_only_what_the_table_allows() {
    assert_none(sources("src").iter().flat_map(forbidden_imports).collect());
}

#[test]
fn files_and_functions_keep_their_ceilings() {
    let mut wrong = Vec::new();
    for source in sources("src").into_iter().chain(sources("tests")) {
        let lines = source.production().len();
        if lines > FILE_LINES {
            wrong.push(format!("{}: {lines} lines, more than {FILE_LINES}", source.path.display()));
        }
        wrong.extend(long_functions(&source));
    }
    assert_none(wrong);
}

#[test]
fn every_source_opens_with_what_it_is_for() {
    let all = sources("src").into_iter().chain(sources("tests/it"));
    let mute = all.filter(|s| !s.lines.first().is_some_and(|line| line.starts_with("//!")));
    assert_none(mute.map(|s| format!("{}: no //! header", s.path.display())).collect());
}

#[test]
fn unsafe_stands_only_in_sys() {
    let mut wrong = Vec::new();
    for source in sources("src").iter().filter(|source| source.module() != "sys") {
        for (number, line) in source.lines.iter().enumerate().filter(|(_, line)| says_unsafe(line)) {
            wrong.push(format!("{}:{}: {}", source.path.display(), number + 1, line.trim()));
        }
    }
    assert_none(wrong);
}

#[test]
fn nothing_else_lies_at_the_top_level() {
    let arguments = ["ls-files", "--cached", "--others", "--exclude-standard"];
    let listed = Command::new("git").args(arguments).current_dir(top()).output();
    // A source archive has no git; then there is nothing to keep out.
    let Ok(listed) = listed else { return };
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let tops = text.lines().map(|path| path.split('/').next().unwrap_or(path));
    let foreign = tops.filter(|name| !name.starts_with('.') && !TOP_LEVEL.contains(name));
    assert_none(foreign.map(|name| format!("'{name}' does not belong at the top level")).collect());
}

#[test]
fn nothing_is_put_off() {
    // Put together here, so that this file does not find itself.
    let words = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["XX", "X"].concat()];
    let mut wrong = Vec::new();
    let endings = [("src", ".rs"), ("tests", ".rs"), ("scripts", ""), ("docs", ".md"), ("definitions", "")];
    for path in endings.iter().flat_map(|(directory, ending)| files(directory, ending)) {
        let text = fs::read(top().join(&path)).expect("a file can be read");
        for (number, line) in String::from_utf8_lossy(&text).lines().enumerate() {
            let put_off = |word: &String| {
                line.match_indices(word.as_str()).any(|(at, _)| {
                    let before = line[..at].chars().next_back();
                    let after = line[at + word.len()..].chars().next();
                    !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
                })
            };
            if words.iter().any(put_off) {
                wrong.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert_none(wrong);
}

#[test]
fn every_dependency_is_justified() {
    let manifest = fs::read_to_string(top().join("Cargo.toml")).expect("Cargo.toml");
    let page = fs::read_to_string(top().join("docs/dependencies.md")).expect("docs/dependencies.md");
    let mut wrong = Vec::new();
    let mut section = "";
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section.ends_with("dependencies]")
            && let Some((name, _)) = line.split_once(" = ")
            && !page.contains(&format!("| `{name}` |"))
        {
            wrong.push(format!("docs/dependencies.md says nothing about '{name}'"));
        }
    }
    assert_none(wrong);
}

#[test]
fn the_checks_find_what_they_look_for() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let source = |path: &str, text: &str| Source { path: Path::new(path).to_owned(), lines: lines(text) };
    let grouped = source("src/image/mod.rs", "use crate::{error::Error, sys::{mount, x}, plan};");
    assert_eq!(
        forbidden_imports(&grouped),
        ["src/image/mod.rs: image may not use sys", "src/image/mod.rs: image may not use plan"]
    );
    let path = source("src/sys/mount.rs", "fn f() -> crate::error::Error { g() } // crate::plan");
    assert_eq!(forbidden_imports(&path), ["src/sys/mount.rs: sys may not use error"]);
    let body = "    x();\n".repeat(70);
    let long = source("src/host.rs", &format!("pub fn f() {{\n{body}}}\n"));
    assert_eq!(long_functions(&long), ["src/host.rs:1: f has 72 lines, more than 70"]);
    let flat = source("src/host.rs", &format!("// flat: one step a line\npub fn f() {{\n{body}}}\n"));
    assert_eq!(long_functions(&flat), Vec::<String>::new());
    assert!(says_unsafe("    unsafe { read() }") && says_unsafe("unsafe fn f() {"));
    assert!(!says_unsafe("#![deny(unsafe_code)]") && !says_unsafe("// unsafe { }"));
}
