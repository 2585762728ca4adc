//! Packages of Arch: `/var/lib/pacman/local/NAME-VERSION/desc`, a `%FIELD%` a line, its values on the lines below.

use std::path::Path;

use super::Package;
use super::fields::{party, shortened};
use super::licence;
use super::look::{Look, PACKAGES};

const DIRECTORY: &str = "/var/lib/pacman/local";
const LIMIT: u64 = 1 << 20;

pub(super) fn packages(look: &Look<'_>) -> Vec<Package> {
    let mut packages = Vec::new();
    for name in look.list(Path::new(DIRECTORY)).into_iter().take(PACKAGES) {
        let above = Path::new(DIRECTORY).join(name);
        // A file beside them says which version the data base has.
        if !look.is_own_directory(&above) {
            continue;
        }
        let path = above.join("desc");
        let Some(bytes) = look.read(&path, LIMIT) else { continue };
        packages.push(package(&String::from_utf8_lossy(&bytes), &path.to_string_lossy()));
    }
    packages
}

fn package(text: &str, from: &str) -> Package {
    let values = |name: &str| -> Vec<&str> {
        let below = text.lines().skip_while(|line| *line != name).skip(1);
        below.take_while(|line| !line.is_empty()).collect()
    };
    let field = |name: &str| shortened(values(name).first().unwrap_or(&"").trim());
    // All of them hold.
    let bracketed = |one: &&str| if one.contains(' ') { format!("({one})") } else { (*one).to_owned() };
    let licences = values("%LICENSE%").iter().map(bracketed).collect::<Vec<_>>().join(" AND ");
    let qualifiers = Some(("arch", field("%ARCH%"))).filter(|(_, value)| !value.is_empty());
    Package {
        kind: "alpm",
        name: field("%NAME%"),
        version: field("%VERSION%"),
        qualifiers: qualifiers.into_iter().collect(),
        supplier: party(&field("%PACKAGER%")),
        originator: String::new(),
        licence: licence::expression(&licences, from),
        homepage: field("%URL%"),
        summary: field("%DESC%"),
        source: field("%BASE%"),
        from: from.to_owned(),
    }
}
