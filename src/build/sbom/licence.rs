//! Licences as SPDX names them.
//!
//! What package managers call a licence is turned into an expression of SPDX. A name that SPDX does not have, or that
//! is not known here, becomes a `LicenseRef-...`, with the name and where it is from beside it; nothing is guessed.

use std::collections::BTreeSet;

use super::super::cache::key::Digest;
use sha2::{Digest as _, Sha256};

/// The licence of a package, as it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    /// An expression of SPDX; empty when nothing is known.
    pub(super) expression: String,
    /// The `LicenseRef-...` in it.
    pub(super) references: Vec<Reference>,
}

/// A licence that has no name in SPDX.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reference {
    /// `LicenseRef-...`
    pub(super) id: String,
    /// As it is called there.
    pub(super) name: String,
    /// The file that has its text, or names it.
    pub(super) from: String,
}

/// Longer expressions are taken for a name.
const EXPRESSION_BYTES: usize = 2000;
/// Deeper ones too.
const DEPTH: usize = 20;

/// Names in SPDX's list, those that occur; the list has hundreds of others.
#[rustfmt::skip]
const KNOWN: &[&str] = &[
    "0BSD", "AFL-2.1", "AFL-3.0", "AGPL-3.0-only", "AGPL-3.0-or-later", "Apache-1.1", "Apache-2.0", "APSL-2.0",
    "Artistic-1.0", "Artistic-1.0-Perl", "Artistic-2.0", "Beerware", "Bitstream-Vera", "BlueOak-1.0.0",
    "BSD-1-Clause", "BSD-2-Clause", "BSD-2-Clause-Patent", "BSD-3-Clause", "BSD-3-Clause-Clear", "BSD-3-Clause-LBNL",
    "BSD-4-Clause", "BSD-4-Clause-UC", "BSD-Source-Code", "BSL-1.0", "bzip2-1.0.6", "CC-BY-3.0", "CC-BY-4.0",
    "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC-PDDC", "CC0-1.0", "CDDL-1.0", "CDDL-1.1", "CECILL-2.0", "CECILL-2.1",
    "CECILL-B", "CECILL-C", "CNRI-Python", "CPL-1.0", "curl", "ECL-2.0", "EFL-2.0", "EPL-1.0", "EPL-2.0", "EUPL-1.1",
    "EUPL-1.2", "FSFAP", "FSFUL", "FSFULLR", "FTL", "GFDL-1.1-only", "GFDL-1.1-or-later", "GFDL-1.2-only",
    "GFDL-1.2-or-later", "GFDL-1.3-only", "GFDL-1.3-or-later", "GPL-1.0-only", "GPL-1.0-or-later", "GPL-2.0-only",
    "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later", "HPND", "HPND-sell-variant", "ICU", "IJG", "Info-ZIP",
    "IPL-1.0", "ISC", "Latex2e", "LGPL-2.0-only", "LGPL-2.0-or-later", "LGPL-2.1-only", "LGPL-2.1-or-later",
    "LGPL-3.0-only", "LGPL-3.0-or-later", "libpng-2.0", "Libpng", "libtiff", "LPPL-1.2", "LPPL-1.3c", "MirOS", "MIT",
    "MIT-0", "MIT-CMU", "mpich2", "MPL-1.0", "MPL-1.1", "MPL-2.0", "MS-PL", "NAIST-2003", "NCSA", "Net-SNMP", "NTP",
    "OFL-1.0", "OFL-1.1", "OGL-UK-3.0", "OLDAP-2.8", "OpenSSL", "PHP-3.0", "PHP-3.01", "PostgreSQL", "PSF-2.0",
    "Python-2.0", "Python-2.0.1", "QPL-1.0", "Ruby", "Sendmail", "SGI-B-2.0", "Sleepycat", "SMLNJ", "SSH-OpenSSH",
    "SSH-short", "TCL", "TCP-wrappers", "Unicode-3.0", "Unicode-DFS-2015", "Unicode-DFS-2016", "Unicode-TOU",
    "Unlicense", "UPL-1.0", "Vim", "W3C", "W3C-19980720", "WTFPL", "X11", "XFree86-1.1", "xpp", "Zlib",
    "zlib-acknowledgement", "ZPL-2.0", "ZPL-2.1",
];

/// Exceptions in SPDX's list, those that occur.
#[rustfmt::skip]
const EXCEPTIONS: &[&str] = &[
    "Autoconf-exception-2.0", "Autoconf-exception-3.0", "Bison-exception-2.2", "Bootloader-exception",
    "Classpath-exception-2.0", "Font-exception-2.0", "GCC-exception-2.0", "GCC-exception-3.1", "Libtool-exception",
    "Linux-syscall-note", "LLVM-exception", "openvpn-openssl-exception", "OCaml-LGPL-linking-exception",
    "Qt-GPL-exception-1.0", "Qt-LGPL-exception-1.1", "Swift-exception", "u-boot-exception-2.0", "WxWindows-exception-3.1",
];

/// Other names of the same.
#[rustfmt::skip]
const ALIASES: &[(&str, &str)] = &[
    ("Apache", "Apache-2.0"), ("Apache-2", "Apache-2.0"), ("Apache 2.0", "Apache-2.0"), ("Apache License 2.0", "Apache-2.0"),
    ("Apache License, Version 2.0", "Apache-2.0"), ("Apache Software License 2.0", "Apache-2.0"), ("ASL-2.0", "Apache-2.0"),
    ("Boost-1.0", "BSL-1.0"), ("BSD-2-clauses", "BSD-2-Clause"), ("BSD-3-clauses", "BSD-3-Clause"),
    ("BSD 3-Clause", "BSD-3-Clause"), ("BSD 2-Clause", "BSD-2-Clause"), ("3-Clause BSD License", "BSD-3-Clause"),
    ("new BSD", "BSD-3-Clause"), ("Modified BSD", "BSD-3-Clause"), ("BSD-4-clauses", "BSD-4-Clause"), ("CC0", "CC0-1.0"),
    ("Expat", "MIT"), ("MIT License", "MIT"), ("MIT/Expat", "MIT"), ("MIT-style", ""), ("PSF", "PSF-2.0"), ("PSF-2", "PSF-2.0"),
    ("Python", "Python-2.0"), ("bzip2", "bzip2-1.0.6"), ("Unicode", ""), ("zlib/libpng", "Zlib"), ("OFL", "OFL-1.1"),
    ("Mozilla Public License 2.0 (MPL 2.0)", "MPL-2.0"), ("ISC License", "ISC"), ("The Unlicense (Unlicense)", "Unlicense"),
];

/// The GNU licences, whose names here and there differ by version and plus sign alone.
const GNU: &[&str] = &["GPL", "LGPL", "AGPL", "GFDL"];

/// What the classifiers of Python packages say when they say enough.
const CLASSIFIERS: &[(&str, &str)] = &[
    ("MIT License", "MIT"),
    ("MIT No Attribution License (MIT-0)", "MIT-0"),
    ("Apache Software License", ""),
    ("BSD License", ""),
    ("ISC License (ISCL)", "ISC"),
    ("Mozilla Public License 2.0 (MPL 2.0)", "MPL-2.0"),
    ("Mozilla Public License 1.1 (MPL 1.1)", "MPL-1.1"),
    ("Python Software Foundation License", "PSF-2.0"),
    ("The Unlicense (Unlicense)", "Unlicense"),
    ("Zope Public License", ""),
    ("GNU General Public License v2 (GPLv2)", "GPL-2.0-only"),
    ("GNU General Public License v2 or later (GPLv2+)", "GPL-2.0-or-later"),
    ("GNU General Public License v3 (GPLv3)", "GPL-3.0-only"),
    ("GNU General Public License v3 or later (GPLv3+)", "GPL-3.0-or-later"),
    ("GNU Lesser General Public License v2 (LGPLv2)", "LGPL-2.0-only"),
    ("GNU Lesser General Public License v2 or later (LGPLv2+)", "LGPL-2.0-or-later"),
    ("GNU Lesser General Public License v3 (LGPLv3)", "LGPL-3.0-only"),
    ("GNU Lesser General Public License v3 or later (LGPLv3+)", "LGPL-3.0-or-later"),
    ("GNU Affero General Public License v3", "AGPL-3.0-only"),
    ("GNU Affero General Public License v3 or later (AGPLv3+)", "AGPL-3.0-or-later"),
    ("Boost Software License 1.0 (BSL-1.0)", "BSL-1.0"),
    ("zlib/libpng License", "Zlib"),
];

/// The name in SPDX of what is called so.
fn name_in_spdx(name: &str) -> Option<String> {
    let same = |known: &&&str| known.eq_ignore_ascii_case(name);
    if let Some(known) = KNOWN.iter().find(same) {
        return Some((*known).to_owned());
    }
    if let Some((_, known)) = ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(name)) {
        return Some((*known).to_owned()).filter(|known| !known.is_empty());
    }
    gnu(name)
}

/// `GPL-2+`, `GPL-2.0`, `GPLv3+`, `LGPL-2.1+`.
fn gnu(name: &str) -> Option<String> {
    let (family, version) = GNU.iter().find_map(|family| {
        let start = name.get(..family.len()).filter(|start| start.eq_ignore_ascii_case(family))?;
        Some((*family, name[start.len()..].trim_start_matches('-').trim_start_matches(['v', 'V'])))
    })?;
    let (version, later) = match version.strip_suffix('+') {
        Some(version) => (version, "or-later"),
        None => (version, "only"),
    };
    let version = if version.contains('.') { version.to_owned() } else { format!("{version}.0") };
    let whole = format!("{family}-{version}-{later}");
    KNOWN.contains(&whole.as_str()).then_some(whole)
}

/// The licences of a copyright file of Debian's: all of them hold, each for its files.
pub(super) fn debian(names: BTreeSet<String>, from: &str) -> Found {
    join(names.iter().map(|name| expression(name, from)))
}

/// All of these hold.
fn join(all: impl Iterator<Item = Found>) -> Found {
    let mut expressions = BTreeSet::new();
    let mut references = BTreeSet::new();
    for found in all.filter(|found| !found.expression.is_empty()) {
        // Files say in turn what holds for other files too.
        match found.expression.contains(['(', ')']) || found.expression.contains(" OR ") {
            true => _ = expressions.insert(found.expression),
            false => expressions.extend(found.expression.split(" AND ").map(str::to_owned)),
        }
        references.extend(found.references);
    }
    let alone = expressions.len() == 1;
    let bracketed = expressions.into_iter().map(|expression| match expression.contains(" OR ") {
        true if !alone => format!("({expression})"),
        _ => expression,
    });
    let expression = bracketed.collect::<Vec<_>>().join(" AND ");
    Found { expression, references: references.into_iter().collect() }
}

/// Reads an expression; what is none is the name of a licence.
pub(super) fn expression(text: &str, from: &str) -> Found {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() || text == "UNKNOWN" || text.eq_ignore_ascii_case("none") {
        return Found::default();
    }
    if let Some(name) = name_in_spdx(&text) {
        return Found { expression: name, references: Vec::new() };
    }
    // "A or B, and C": the comma is stronger than both.
    if let Some((first, second)) = text.split_once(", and ")
        && text.len() <= EXPRESSION_BYTES
    {
        return join([expression(first, from), expression(second, from)].into_iter());
    }
    let spaced = text.replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader { tokens: &tokens, from, references: BTreeSet::new() };
    if text.len() <= EXPRESSION_BYTES
        && let Some(expression) = reader.any(0)
        && reader.tokens.is_empty()
    {
        return Found { expression, references: reader.references.into_iter().collect() };
    }
    let reference = reference(&text, from);
    Found { expression: reference.id.clone(), references: vec![reference] }
}

/// A licence whose name is known; nothing else.
pub(super) fn known(text: &str) -> Found {
    let text = text.trim().trim_end_matches('.');
    Found { expression: name_in_spdx(text).unwrap_or_default(), references: Vec::new() }
}

/// What a classifier says, if it says enough.
pub(super) fn classifier(text: &str) -> Found {
    let found = CLASSIFIERS.iter().find(|(name, _)| *name == text.trim());
    Found { expression: found.map_or("", |(_, known)| known).to_owned(), references: Vec::new() }
}

struct Reader<'a> {
    tokens: &'a [&'a str],
    from: &'a str,
    references: BTreeSet<Reference>,
}

impl Reader<'_> {
    fn word(&mut self, words: &[&str]) -> bool {
        match self.tokens.split_first() {
            Some((first, rest)) if words.iter().any(|word| word.eq_ignore_ascii_case(first)) => {
                self.tokens = rest;
                true
            }
            _ => false,
        }
    }

    fn any(&mut self, depth: usize) -> Option<String> {
        let mut all = vec![self.every(depth)?];
        while self.word(&["or"]) {
            all.push(self.every(depth)?);
        }
        Some(all.join(" OR "))
    }

    fn every(&mut self, depth: usize) -> Option<String> {
        let mut all = vec![self.one(depth)?];
        while self.word(&["and", "and/or"]) {
            all.push(self.one(depth)?);
        }
        Some(all.join(" AND "))
    }

    fn one(&mut self, depth: usize) -> Option<String> {
        if depth > DEPTH {
            return None;
        }
        if self.word(&["("]) {
            let inner = self.any(depth + 1)?;
            return self.word(&[")"]).then(|| format!("({inner})"));
        }
        let (name, rest) = self.tokens.split_first()?;
        if ["and", "or", "with", ")", "and/or"].iter().any(|word| word.eq_ignore_ascii_case(name)) {
            return None;
        }
        self.tokens = rest;
        let known = name_in_spdx(name);
        if self.word(&["with"]) {
            let (exception, rest) = self.tokens.split_first()?;
            let exception = EXCEPTIONS.iter().find(|known| known.eq_ignore_ascii_case(exception))?;
            self.tokens = rest;
            return known.map(|name| format!("{name} WITH {exception}"));
        }
        Some(known.unwrap_or_else(|| {
            let reference = reference(name, self.from);
            self.references.insert(reference.clone());
            reference.id
        }))
    }
}

/// A licence that SPDX does not know by this name.
fn reference(name: &str, from: &str) -> Reference {
    let name: String = name.chars().take(EXPRESSION_BYTES).collect();
    let plain = name.strip_prefix("LicenseRef-").unwrap_or(&name);
    let fit: String =
        plain.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let fit: String = fit.trim_matches('-').chars().take(60).collect();
    // The same name in two files may be two licences; and two names may look the same like this.
    let digest = Digest::of(Sha256::digest(format!("{name}\0{from}")).into()).to_string();
    let id = format!("LicenseRef-{fit}-{}", &digest[..8]);
    Reference { id: id.replace("--", "-"), name, from: from.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        let mut expression = expression(text, "/file").expression;
        // The digest at the end of a reference is of no interest.
        while let Some(at) = expression.find("LicenseRef-") {
            let end = expression[at..].find([' ', ')']).map_or(expression.len(), |end| at + end);
            let name = expression[at + 11..end - 9].to_owned();
            expression.replace_range(at..end, &format!("<{name}>"));
        }
        expression
    }

    #[test]
    fn names_and_expressions_of_others_become_those_of_spdx() {
        for (text, expected) in [
            ("Expat", "MIT"),
            ("GPL-2+", "GPL-2.0-or-later"),
            ("GPL-2", "GPL-2.0-only"),
            ("LGPL-2.1+", "LGPL-2.1-or-later"),
            ("GPLv3+", "GPL-3.0-or-later"),
            ("GPL-3.0-or-later", "GPL-3.0-or-later"),
            ("GFDL-1.3+", "GFDL-1.3-or-later"),
            ("gpl", "<gpl>"),
            ("bsd-3-clause", "BSD-3-Clause"),
            ("GPL-2+ and MIT or Expat", "GPL-2.0-or-later AND MIT OR MIT"),
            ("GPL-2.0-only AND (MIT OR Zlib)", "GPL-2.0-only AND (MIT OR Zlib)"),
            ("Apache-2.0 WITH LLVM-exception", "Apache-2.0 WITH LLVM-exception"),
            ("GPL-2+ with OpenSSL exception", "<GPL-2-with-OpenSSL-exception>"),
            ("MIT AND custom", "MIT AND <custom>"),
            ("MIT AND", "<MIT-AND>"),
            ("GPL2+ MIT", "<GPL2-MIT>"),
            ("(MIT", "<MIT>"),
            ("MIT or Zlib, and ISC", "ISC AND (MIT OR Zlib)"),
            ("", ""),
            ("UNKNOWN", ""),
            ("bös<e>\u{1b}", "<b-s-e>"),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        let deep = format!("{}MIT{}", "(".repeat(500), ")".repeat(500));
        assert!(expression(&deep, "").expression.starts_with("LicenseRef-MIT-"));
    }

    #[test]
    fn licences_of_files_are_joined() {
        let names = ["GPL-2+", "MIT or Zlib", "odd", "Expat", "MIT"].map(str::to_owned);
        let found = debian(BTreeSet::from(names), "/file");
        let (start, end) = ("GPL-2.0-or-later AND LicenseRef-odd-", " AND MIT AND (MIT OR Zlib)");
        assert!(found.expression.starts_with(start) && found.expression.ends_with(end), "{found:?}");
        assert_eq!((found.references.len(), found.references[0].name.as_str()), (1, "odd"));
        assert_eq!(debian(BTreeSet::from(["MIT or Zlib".to_owned()]), "").expression, "MIT OR Zlib");
        assert_eq!(debian(BTreeSet::new(), ""), Found::default());
    }

    #[test]
    fn classifiers_that_do_not_say_which_are_none() {
        assert_eq!(classifier("BSD License"), Found::default());
        assert_eq!(classifier("MIT License").expression, "MIT");
        assert_eq!(
            (known("new BSD").expression.as_str(), known("See file")),
            ("BSD-3-Clause", Found::default())
        );
    }
}
