//! The document: SPDX 2.3 as JSON.
//!
//! ```text
//! SPDXRef-DOCUMENT ──DESCRIBES──▶ SPDXRef-Image ──CONTAINS──▶ SPDXRef-OperatingSystem
//!                                                └─CONTAINS──▶ SPDXRef-Package-KIND-NAME-DIGEST ...
//! ```
//!
//! An id is made of what the package is, so that it is the same in every document.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::super::cache::key::Digest;
use super::licence::Reference;
use super::{About, Package, System};
use crate::image::calendar::Moment;

/// The last second that is written with four digits of year.
const LAST_SECOND: i64 = 253_402_300_799;
const NO_ASSERTION: &str = "NOASSERTION";

/// Writes the document. `packages` are sorted and no two are the same.
pub(super) fn document(about: &About, system: &System, packages: &[Package], notes: &[String]) -> Vec<u8> {
    let mut all = vec![image(about)];
    let mut relations = vec![relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Image")];
    if !system.id.is_empty() {
        all.push(operating_system(system));
        relations.push(relation("SPDXRef-Image", "CONTAINS", "SPDXRef-OperatingSystem"));
    }
    let mut references: BTreeMap<&str, &Reference> = BTreeMap::new();
    for package in packages {
        let id = id(package);
        relations.push(relation("SPDXRef-Image", "CONTAINS", &id));
        references.extend(package.licence.references.iter().map(|one| (one.id.as_str(), one)));
        all.push(describe(package, &id, system));
    }
    let mut document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": text(&about.name, "image"),
        "creationInfo": {
            "created": date(about.created),
            "creators": [concat!("Tool: skiff-", env!("CARGO_PKG_VERSION"))],
        },
        "comment": comment(notes),
        "packages": all,
        "relationships": relations,
    });
    if !references.is_empty() {
        document["hasExtractedLicensingInfos"] = references.values().map(|one| extracted(one)).collect();
    }
    let digest = Digest::of(Sha256::digest(document.to_string()).into());
    document["documentNamespace"] =
        format!("https://spdx.org/spdxdocs/skiff/{}-{}", encoded(&about.name), uuid(digest)).into();
    // An object of a map of strings has no key that JSON could not have.
    let mut bytes = serde_json::to_vec_pretty(&document).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn image(about: &About) -> Value {
    json!({
        "SPDXID": "SPDXRef-Image",
        "name": text(&about.name, "image"),
        "downloadLocation": NO_ASSERTION,
        "filesAnalyzed": false,
        "licenseConcluded": NO_ASSERTION,
        "licenseDeclared": NO_ASSERTION,
        "copyrightText": NO_ASSERTION,
        "primaryPackagePurpose": "CONTAINER",
    })
}

fn operating_system(system: &System) -> Value {
    let mut value = json!({
        "SPDXID": "SPDXRef-OperatingSystem",
        "name": plain(&system.id),
        "downloadLocation": NO_ASSERTION,
        "filesAnalyzed": false,
        "licenseConcluded": NO_ASSERTION,
        "licenseDeclared": NO_ASSERTION,
        "copyrightText": NO_ASSERTION,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
    });
    let fields = [("versionInfo", &system.version), ("summary", &system.name)];
    fields.into_iter().filter(|(_, text)| !text.is_empty()).for_each(|(name, text)| {
        value[name] = plain(text).into();
    });
    value
}

fn describe(package: &Package, id: &str, system: &System) -> Value {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| {
        fields.insert(name.to_owned(), value);
    };
    put("SPDXID", id.into());
    put("name", plain(&package.name).into());
    put("downloadLocation", NO_ASSERTION.into());
    put("filesAnalyzed", false.into());
    put("licenseConcluded", NO_ASSERTION.into());
    put("licenseDeclared", text(&package.licence.expression, NO_ASSERTION).into());
    put("copyrightText", NO_ASSERTION.into());
    put("supplier", text(&package.supplier, NO_ASSERTION).into());
    put(
        "externalRefs",
        json!([{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": purl(package, system),
        }]),
    );
    let source = match package.source.as_str() {
        "" => format!("found in {}", package.from),
        source => format!("found in {}; built from {source}", package.from),
    };
    put("sourceInfo", plain(&source).into());
    for (name, value) in [
        ("versionInfo", &package.version),
        ("originator", &package.originator),
        ("summary", &package.summary),
    ] {
        if !value.is_empty() {
            put(name, plain(value.lines().next().unwrap_or_default()).into());
        }
    }
    if is_address(&package.homepage) {
        put("homepage", package.homepage.as_str().into());
    }
    Value::Object(fields)
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

fn extracted(reference: &Reference) -> Value {
    json!({
        "licenseId": reference.id,
        "name": plain(&reference.name),
        "extractedText": plain(&format!("The licence that {} calls {:?}.", reference.from, reference.name)),
    })
}

fn comment(notes: &[String]) -> String {
    let mut comment =
        "Packages as the package managers in the image (dpkg, apk, rpm, Python's) have written them down. \
        Software that was put there in another way is not listed."
            .to_owned();
    for note in notes {
        comment.push_str(&format!(" Not complete: {}.", plain(note)));
    }
    comment
}

/// Letters, digits, dots and dashes, unlike that of any other package.
fn id(package: &Package) -> String {
    let readable = |text: &str| -> String {
        text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).take(60).collect()
    };
    // Two that differ in anything at all are two.
    let digest = Digest::of(Sha256::digest(format!("{package:?}")).into()).to_string();
    format!("SPDXRef-Package-{}-{}-{}", package.kind, readable(&package.name), &digest[..16])
}

/// The package's address: `pkg:deb/debian/bash@5.2.15-2?arch=amd64&distro=debian-12`.
fn purl(package: &Package, system: &System) -> String {
    let of_system = package.kind != "pypi";
    let mut out = format!("pkg:{}/", package.kind);
    if of_system && !system.id.is_empty() {
        out += &format!("{}/", encoded(&system.id.to_lowercase()));
    }
    let name = match package.kind {
        // Names that the index takes for the same are the same.
        "pypi" => package.name.to_lowercase().replace(['_', '.'], "-"),
        "deb" | "apk" | "alpm" => package.name.to_lowercase(),
        _ => package.name.clone(),
    };
    out += &encoded(&name);
    if !package.version.is_empty() {
        out += &format!("@{}", encoded(&package.version));
    }
    let mut qualifiers: BTreeSet<(&str, String)> =
        package.qualifiers.iter().map(|(name, value)| (*name, encoded(value))).collect();
    if of_system && !system.id.is_empty() {
        let distribution = match system.version.as_str() {
            "" => system.id.clone(),
            version => format!("{}-{version}", system.id),
        };
        qualifiers.insert(("distro", encoded(&distribution)));
    }
    let qualifiers: Vec<String> = qualifiers.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if !qualifiers.is_empty() {
        out += &format!("?{}", qualifiers.join("&"));
    }
    out
}

/// As a part of an address: everything but letters, digits and a few signs in percent.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}

fn is_address(text: &str) -> bool {
    let rest = ["https://", "http://", "ftp://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    rest.is_some_and(|rest| {
        let fits = |byte: u8| byte.is_ascii_graphic() && !b"<>\"{}|\\^`".contains(&byte);
        !rest.is_empty() && !rest.starts_with('/') && rest.bytes().all(fits)
    })
}

fn text(text: &str, otherwise: &str) -> String {
    if text.is_empty() { otherwise.to_owned() } else { plain(text) }
}

/// Without what could steer a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn date(seconds: i64) -> String {
    let Moment { year, month, day, hour, minute, second, .. } = Moment::of(seconds.clamp(0, LAST_SECOND));
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A UUID of version 8, whose bits are the writer's to choose.
fn uuid(digest: Digest) -> String {
    let digits = digest.to_string();
    format!(
        "{}-{}-8{}-a{}-{}",
        &digits[..8],
        &digits[8..12],
        &digits[13..16],
        &digits[17..20],
        &digits[20..32]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_packages_are_escaped() {
        let system = System { id: "debian".into(), version: "12".into(), name: String::new() };
        let package = |kind, name: &str, version: &str| Package {
            kind,
            name: name.into(),
            version: version.into(),
            qualifiers: if kind == "pypi" { vec![] } else { vec![("arch", "amd64".into())] },
            ..Package::default()
        };
        let deb = purl(&package("deb", "libstdc++6", "1:12.2.0~a+b"), &system);
        assert_eq!(deb, "pkg:deb/debian/libstdc%2B%2B6@1%3A12.2.0~a%2Bb?arch=amd64&distro=debian-12");
        assert_eq!(purl(&package("pypi", "Zope.Interface_x", "1"), &system), "pkg:pypi/zope-interface-x@1");
        let hostile = purl(&package("deb", "../?#\n", "@&"), &System::default());
        assert_eq!(hostile, "pkg:deb/..%2F%3F%23%0A@%40%26?arch=amd64");
    }

    #[test]
    fn dates_stay_within_four_digits() {
        assert_eq!(date(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(
            (date(-5), date(i64::MAX)),
            ("1970-01-01T00:00:00Z".into(), "9999-12-31T23:59:59Z".into())
        );
    }

    #[test]
    fn only_addresses_are_home_pages() {
        assert!(is_address("https://www.gnu.org/software/bash/?a=b#c"));
        for text in
            ["", "UNKNOWN", "https://", "https:///x", "http://a b", "javascript:alert(1)", "http://<x>"]
        {
            assert!(!is_address(text), "{text}");
        }
    }
}
