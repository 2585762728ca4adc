//! Packages of Python: what pip, conda and the distributions leave beside the modules.
//!
//! ```text
//! PREFIX/lib*/python3*/{site,dist}-packages/NAME-VERSION.dist-info/METADATA
//!                                           NAME-VERSION.egg-info             a file, or a directory with PKG-INFO
//! ```
//!
//! A prefix is `/usr`, `/usr/local`, or any directory that is not deep in the image: virtual environments and condas
//! are put anywhere.

use std::path::{Path, PathBuf};

use super::Package;
use super::fields::{Fields, paragraphs, party};
use super::licence::{self, Found};
use super::look::{Look, PACKAGES};

/// How deep prefixes are looked for.
const DEPTH: usize = 5;
/// Directories that hold no prefix, and many files.
const ELSEWHERE: &[&str] = &[
    "bin", "boot", "dev", "doc", "etc", "include", "libexec", "locale", "man", "pkgs", "proc", "run", "sbin",
    "share", "src", "sys",
];
const METADATA_LIMIT: u64 = 1 << 20;
const WANTED: &[&str] = &[
    "Name",
    "Version",
    "Summary",
    "Home-page",
    "Project-URL",
    "Author",
    "Author-email",
    "Maintainer",
    "Maintainer-email",
    "License",
    "License-Expression",
    "Classifier",
];

pub(super) fn packages(look: &Look<'_>) -> Vec<Package> {
    let mut packages = Vec::new();
    for directory in directories(look) {
        for name in look.list(&directory) {
            let path = directory.join(&name);
            let file = match path.extension().and_then(|ending| ending.to_str()) {
                Some("dist-info") => path.join("METADATA"),
                Some("egg-info") if look.is_directory(&path) => path.join("PKG-INFO"),
                Some("egg-info") => path,
                _ => continue,
            };
            packages.extend(package(look, &file));
            if packages.len() >= PACKAGES {
                look.note(format!("{} and others have more packages of Python", directory.display()));
                return packages;
            }
        }
    }
    packages
}

/// The directories of modules.
fn directories(look: &Look<'_>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut ahead = vec![(PathBuf::from("/"), 0)];
    while let Some((prefix, depth)) = ahead.pop() {
        for name in look.list(&prefix) {
            let path = prefix.join(&name);
            let text = name.to_str().unwrap_or_default();
            // Far down a name with a dot in it is nearly always a file's; .venv is one that is not.
            let dotted = depth > 2 && text.trim_start_matches('.').contains('.');
            let skipped = ELSEWHERE.contains(&text) || dotted;
            if skipped || text.is_empty() || !look.is_own_directory(&path) {
                continue;
            }
            if matches!(text, "lib" | "lib64") {
                found.extend(of_library(look, &path));
            }
            if depth + 1 < DEPTH && !prefix.ends_with("lib") && !prefix.ends_with("lib64") {
                ahead.push((path, depth + 1));
            }
        }
    }
    found.sort_unstable();
    found
}

/// Those below PREFIX/lib.
fn of_library(look: &Look<'_>, library: &Path) -> Vec<PathBuf> {
    let python = |name: &std::ffi::OsString| name.to_str().is_some_and(|name| name.starts_with("python"));
    let versions = look.list(library).into_iter().filter(python).map(|name| library.join(name));
    let both = versions.flat_map(|version| ["site-packages", "dist-packages"].map(|name| version.join(name)));
    both.filter(|path| look.is_own_directory(path)).collect()
}

fn package(look: &Look<'_>, file: &Path) -> Option<Package> {
    let bytes = look.read(file, METADATA_LIMIT)?;
    let text = String::from_utf8_lossy(&bytes);
    let fields = paragraphs(&text, WANTED).next()?;
    let from = file.to_string_lossy().into_owned();
    let field = |name| fields.get(name).lines().next().unwrap_or_default().to_owned();
    let party_of = |name: &str, mail: &str| {
        // Newer tools write both into the second.
        match (fields.get(name), fields.get(mail)) {
            ("", "") => String::new(),
            ("", mail) => party(mail.split(',').next().unwrap_or_default()),
            (name, mail) if mail.contains('@') && !mail.contains(['<', ',']) => {
                party(&format!("{name} <{mail}>"))
            }
            (name, _) => party(name),
        }
    };
    Some(Package {
        kind: "pypi",
        name: field("Name"),
        version: field("Version"),
        qualifiers: Vec::new(),
        supplier: party_of("Maintainer", "Maintainer-email"),
        originator: party_of("Author", "Author-email"),
        licence: licence_of(&fields, &from),
        homepage: homepage(&fields),
        summary: field("Summary"),
        source: String::new(),
        from,
    })
}

fn homepage(fields: &Fields) -> String {
    let page = fields.get("Home-page");
    if !page.is_empty() && page != "UNKNOWN" {
        return page.to_owned();
    }
    let named = fields.all("Project-URL").filter_map(|value| value.split_once(','));
    let mut home = named.filter(|(label, _)| label.trim().eq_ignore_ascii_case("homepage"));
    home.next().map(|(_, page)| page.trim().to_owned()).unwrap_or_default()
}

/// The expression where there is one, else the field when it is a name of a licence, else the classifiers.
fn licence_of(fields: &Fields, from: &str) -> Found {
    let expression = fields.get("License-Expression");
    if !expression.is_empty() {
        return licence::expression(expression, from);
    }
    let field = fields.get("License");
    let found = licence::known(field);
    if found != Found::default() {
        return found;
    }
    let classifiers =
        fields.all("Classifier").filter_map(|value| value.strip_prefix("License :: OSI Approved :: "));
    let all: Vec<Found> = classifiers.map(licence::classifier).collect();
    match all.as_slice() {
        [one] => one.clone(),
        // Whether one or all of them hold is not said.
        _ => Found::default(),
    }
}
