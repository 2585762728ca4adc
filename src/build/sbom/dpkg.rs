//! Packages of Debian and what is made of it.
//!
//! ```text
//! /var/lib/dpkg/status          a paragraph for each package
//! /var/lib/dpkg/status.d/NAME   the same, a file for each: images without dpkg
//! /usr/share/doc/NAME/copyright its licences, for programs to read if it begins with Format:
//! ```

use std::collections::BTreeSet;
use std::path::Path;

use super::Package;
use super::fields::{Fields, paragraphs, party};
use super::licence::{self, Found};
use super::look::{Look, PACKAGES};

const STATUS: &str = "/var/lib/dpkg/status";
const STATUS_LIMIT: u64 = 64 << 20;
const DIRECTORY: &str = "/var/lib/dpkg/status.d";
const FILE_LIMIT: u64 = 1 << 20;
/// No more licences of a package are listed.
const LICENCES: usize = 100;

const WANTED: &[&str] = &[
    "Package",
    "Status",
    "Version",
    "Architecture",
    "Source",
    "Maintainer",
    "Homepage",
    "Description",
    "Original-Maintainer",
];

pub(super) fn packages(look: &Look<'_>) -> Vec<Package> {
    let mut packages = Vec::new();
    if let Some(bytes) = look.read(Path::new(STATUS), STATUS_LIMIT) {
        let text = String::from_utf8_lossy(&bytes);
        let all = paragraphs(&text, WANTED).filter(is_installed);
        packages.extend(all.take(PACKAGES).map(|fields| package(look, &fields, STATUS)));
    }
    for name in look.list(Path::new(DIRECTORY)).into_iter().take(PACKAGES) {
        let path = Path::new(DIRECTORY).join(&name);
        if path.extension().is_some_and(|ending| ending == "md5sums") {
            continue;
        }
        let Some(bytes) = look.read(&path, FILE_LIMIT) else { continue };
        let text = String::from_utf8_lossy(&bytes);
        let from = path.to_string_lossy();
        packages.extend(paragraphs(&text, WANTED).next().map(|fields| package(look, &fields, &from)));
    }
    packages
}

/// Removed packages whose settings are kept are in the file too.
fn is_installed(fields: &Fields) -> bool {
    let status = fields.get("Status");
    status.is_empty() || status.split_whitespace().nth(2) == Some("installed")
}

fn package(look: &Look<'_>, fields: &Fields, from: &str) -> Package {
    let field = |name| fields.get(name).lines().next().unwrap_or_default().to_owned();
    let name = field("Package");
    let source = match field("Source") {
        source if source.is_empty() => name.clone(),
        source => source,
    };
    let architecture = field("Architecture");
    let qualifiers = Some(("arch", architecture)).filter(|(_, value)| !value.is_empty());
    Package {
        kind: "deb",
        version: field("Version"),
        qualifiers: qualifiers.into_iter().collect(),
        supplier: party(fields.get("Maintainer")),
        originator: party(fields.get("Original-Maintainer")),
        licence: licence_of(look, &name),
        homepage: field("Homepage"),
        summary: field("Description"),
        source,
        from: from.to_owned(),
        name,
    }
}

fn licence_of(look: &Look<'_>, name: &str) -> Found {
    // The name comes from the image: it must not lead anywhere else.
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Found::default();
    }
    let path = Path::new("/usr/share/doc").join(name).join("copyright");
    let Some(bytes) = look.read(&path, FILE_LIMIT) else { return Found::default() };
    if !bytes.starts_with(b"Format") {
        return Found::default();
    }
    let text = String::from_utf8_lossy(&bytes);
    // Paragraphs without files give the texts of the licences.
    let all = paragraphs(&text, &["Files", "License", "Format"])
        .filter(|fields| !fields.get("Files").is_empty() || !fields.get("Format").is_empty());
    let names: BTreeSet<String> = all
        .filter_map(|fields| fields.get("License").lines().next().map(|line| line.trim().to_owned()))
        .filter(|name| !name.is_empty())
        .take(LICENCES)
        .collect();
    licence::debian(names, &path.to_string_lossy())
}
