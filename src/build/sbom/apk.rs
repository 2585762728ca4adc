//! Packages of Alpine: `/lib/apk/db/installed`, a paragraph for each, fields of one letter.

use std::path::Path;

use super::Package;
use super::fields::party;
use super::licence;
use super::look::{Look, PACKAGES};

/// The second since Alpine 3.22, where /lib is a link into /usr.
const FILES: [&str; 2] = ["/lib/apk/db/installed", "/usr/lib/apk/db/installed"];
const LIMIT: u64 = 64 << 20;

pub(super) fn packages(look: &Look<'_>) -> Vec<Package> {
    let found = FILES.iter().find_map(|path| Some((path, look.read(Path::new(path), LIMIT)?)));
    let Some((path, bytes)) = found else { return Vec::new() };
    let text = String::from_utf8_lossy(&bytes);
    // Letters in the two cases mean different things: p is what it provides, P its name.
    let all = text.split("\n\n").filter_map(|paragraph| {
        let field = |letter: char| {
            let value = paragraph.lines().find_map(|line| line.strip_prefix(letter)?.strip_prefix(':'));
            super::fields::shortened(value.unwrap_or_default().trim())
        };
        let name = field('P');
        let qualifiers = Some(("arch", field('A'))).filter(|(_, value)| !value.is_empty());
        (!name.is_empty()).then(|| Package {
            kind: "apk",
            version: field('V'),
            qualifiers: qualifiers.into_iter().collect(),
            supplier: party(&field('m')),
            originator: String::new(),
            licence: licence::expression(&field('L'), path),
            homepage: field('U'),
            summary: field('T'),
            source: field('o'),
            from: (*path).to_owned(),
            name,
        })
    });
    all.take(PACKAGES).collect()
}
