//! `skiff sbom`: what is in Debian trees, in those of other systems, and in hostile ones; and the rules of SPDX 2.3.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::Value;
use skiff::build::sbom::{self, About};
use skiff::image::Tree;
use skiff::image::tree::Directory;

use crate::harness::{Need, Place, able, debian_image, debian_tree, finish};

/// Writes a file and the directories above it.
fn write(top: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = top.join(name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory can be made");
    fs::write(path, content).expect("a file can be written");
}

/// The document of a tree, checked, and what could not be read.
#[track_caller]
fn of(top: &Path) -> (Value, Vec<String>) {
    let tree = Tree::Directory(Directory::open(top).expect("a directory"));
    let made = sbom::of_tree(&tree, &About { name: "image".into(), created: 1_700_000_000 });
    let document: Value = serde_json::from_slice(&made.json).expect("JSON");
    check(&document);
    assert_eq!(made.packages, packages(&document).len());
    (document, made.notes)
}

fn packages(document: &Value) -> Vec<&Value> {
    let all = document["packages"].as_array().expect("a list").iter();
    all.filter(|package| text(&package["SPDXID"]).starts_with("SPDXRef-Package-")).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// The package of that name.
#[track_caller]
fn named<'a>(document: &'a Value, name: &str) -> &'a Value {
    let all = packages(document);
    all.into_iter().find(|package| package["name"] == name).unwrap_or_else(|| panic!("no {name}"))
}

fn purl(package: &Value) -> &str {
    text(&package["externalRefs"][0]["referenceLocator"])
}

/// The rules of SPDX 2.3 for what is written: <https://spdx.github.io/spdx-spec/v2.3/>.
#[track_caller]
fn check(document: &Value) {
    assert_eq!(document["spdxVersion"], "SPDX-2.3");
    assert_eq!(document["dataLicense"], "CC0-1.0");
    assert_eq!(document["SPDXID"], "SPDXRef-DOCUMENT");
    assert!(!text(&document["name"]).is_empty());
    let namespace = text(&document["documentNamespace"]);
    assert!(namespace.starts_with("https://") && !namespace.contains('#') && namespace.is_ascii());
    let created = text(&document["creationInfo"]["created"]);
    let shape: String = created.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00Z");
    assert!(text(&document["creationInfo"]["creators"][0]).starts_with("Tool: skiff-"));

    let mut ids = BTreeSet::from(["SPDXRef-DOCUMENT"]);
    let plain = |id: &str| id.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-');
    let references: BTreeSet<&str> = document["hasExtractedLicensingInfos"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| {
            assert!(!text(&one["extractedText"]).is_empty() && !text(&one["name"]).is_empty());
            let id = text(&one["licenseId"]);
            assert!(id.starts_with("LicenseRef-") && plain(id), "{id}");
            id
        })
        .collect();
    let mut used = BTreeSet::new();
    for package in document["packages"].as_array().expect("a list") {
        let id = text(&package["SPDXID"]);
        assert!(id.starts_with("SPDXRef-") && plain(id), "{id}");
        assert!(ids.insert(id), "{id} is there twice");
        assert!(!text(&package["name"]).is_empty() && package["downloadLocation"] == "NOASSERTION");
        assert_eq!(package["filesAnalyzed"], false);
        assert!(package.get("packageVerificationCode").is_none(), "not without the files");
        for party in ["supplier", "originator"] {
            let Some(party) = package.get(party) else { continue };
            let kinds = ["Person: ", "Organization: "];
            let kind = kinds.iter().find_map(|kind| text(party).strip_prefix(kind));
            assert!(party == "NOASSERTION" || kind.is_some_and(|name| !name.trim().is_empty()), "{party}");
        }
        for word in text(&package["licenseDeclared"]).split([' ', '(', ')']).filter(|word| !word.is_empty()) {
            assert!(plain(word.trim_end_matches('+')), "{word}");
            if word.starts_with("LicenseRef-") {
                assert!(references.contains(word), "{word} is not explained");
                used.insert(word);
            }
        }
        for reference in package["externalRefs"].as_array().into_iter().flatten() {
            assert_eq!(reference["referenceCategory"], "PACKAGE-MANAGER");
            let purl = text(&reference["referenceLocator"]);
            assert!(
                purl.starts_with("pkg:") && purl.is_ascii() && !purl.contains([' ', '\n', '"']),
                "{purl}"
            );
        }
    }
    assert_eq!(used, references, "all that is explained is used");
    let relations = document["relationships"].as_array().expect("a list");
    for relation in relations {
        for end in ["spdxElementId", "relatedSpdxElement"] {
            assert!(ids.contains(text(&relation[end])), "{relation}");
        }
    }
    let described =
        |one: &&Value| one["relationshipType"] == "DESCRIBES" && one["spdxElementId"] == "SPDXRef-DOCUMENT";
    assert_eq!(relations.iter().filter(described).count(), 1);
    assert_eq!(relations.len(), ids.len() - 1);
}

#[test]
fn a_debian_tree_and_the_image_of_it_have_the_packages_that_dpkg_knows() {
    if !able(&[Need::Debian]) {
        return;
    }
    let (document, notes) = of(&debian_tree());
    assert_eq!(notes, Vec::<String>::new());
    let status = fs::read(debian_tree().join("var/lib/dpkg/status")).expect("a status");
    let status = String::from_utf8_lossy(&status);
    let installed = status.lines().filter(|line| *line == "Status: install ok installed").count();
    let debs: Vec<&Value> = packages(&document)
        .into_iter()
        .filter(|package| purl(package).starts_with("pkg:deb/debian/"))
        .collect();
    assert_eq!(debs.len(), installed);
    let bash = named(&document, "bash");
    let version = text(&bash["versionInfo"]);
    assert!(status.contains("Package: bash\n") && status.contains(&format!("Version: {version}\n")));
    assert!(purl(bash).starts_with(&format!("pkg:deb/debian/bash@{}?arch=", version.replace('+', "%2B"))));
    assert!(text(&bash["licenseDeclared"]).contains("GPL-3.0-or-later"), "{bash}");
    assert!(text(&bash["supplier"]).contains('@'), "{bash}");
    // The same of the packed image, by the program.
    let place = Place::new("sbom-debian");
    let printed = |image: &Path| {
        let mut command = place.skiff(["sbom".as_ref(), image.as_os_str()]);
        command.env("SOURCE_DATE_EPOCH", "1700000000");
        finish(&mut command).ok()
    };
    let link = place.work("image.sif");
    symlink(debian_image(), &link).expect("a link can be made");
    let of_image: Value = serde_json::from_str(&printed(&link)).expect("JSON");
    assert_eq!(of_image, document);
    assert_eq!(printed(&link), printed(&link));
}

#[test]
fn pythons_packages_are_found_wherever_a_python_is() {
    let place = Place::new("sbom-python");
    let top = place.work("tree");
    let metadata = |name: &str, more: &str| {
        format!("Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{more}\n\nText: no\n")
    };
    for (path, name, more) in [
        (
            "usr/lib/python3/dist-packages/A_b-1.0.dist-info/METADATA",
            "A_b",
            "License-Expression: MIT OR Apache-2.0",
        ),
        (
            "opt/venv-3.11/lib64/python3.11/site-packages/c.egg-info/PKG-INFO",
            "c",
            "License: MIT\nAuthor: Ada\nAuthor-email: a@b.c",
        ),
        (
            "home/u/.venv/lib/python3.12/site-packages/d-1.0.egg-info",
            "d",
            "Classifier: License :: OSI Approved :: ISC License (ISCL)",
        ),
        ("usr/local/lib/python3.12/site-packages/e-1.0.dist-info/METADATA", "e", "License: very\n long"),
        ("usr/share/x/lib/python3/site-packages/no-1.0.dist-info/METADATA", "no", ""),
    ] {
        write(&top, path, metadata(name, more));
    }
    let (document, notes) = of(&top);
    assert_eq!((packages(&document).len(), notes.len()), (4, 0));
    assert_eq!(purl(named(&document, "A_b")), "pkg:pypi/a-b@1.0");
    let licence = |name| text(&named(&document, name)["licenseDeclared"]).to_owned();
    assert_eq!(["A_b", "c", "d", "e"].map(licence), ["MIT OR Apache-2.0", "MIT", "ISC", "NOASSERTION"]);
    assert_eq!(named(&document, "c")["originator"], "Person: Ada (a@b.c)");
}

#[test]
fn packages_of_alpine_are_listed() {
    let place = Place::new("sbom-apk");
    let top = place.work("tree");
    write(&top, "etc/os-release", "ID=alpine\nVERSION_ID=3.19.1\nPRETTY_NAME=\"Alpine Linux v3.19\"\n");
    let installed = "C:Q1xx=\nP:musl\nV:1.2.4_git20230717-r4\nA:x86_64\nT:the musl c library\nU:https://musl.libc.org/\n\
        L:MIT\no:musl\nm:Timo <t@x.org>\np:so:libc.musl-x86_64.so.1=1\nF:lib\nR:libc.so\n\n\
        P:busybox\nV:1.36.1-r15\nA:x86_64\nL:GPL-2.0-only AND custom\n\n";
    write(&top, "lib/apk/db/installed", installed);
    let (document, _) = of(&top);
    assert_eq!(packages(&document).len(), 2);
    let musl = named(&document, "musl");
    assert_eq!(purl(musl), "pkg:apk/alpine/musl@1.2.4_git20230717-r4?arch=x86_64&distro=alpine-3.19.1");
    assert_eq!(
        (&musl["licenseDeclared"], &musl["supplier"]),
        (&"MIT".into(), &"Person: Timo (t@x.org)".into())
    );
    let busybox = text(&named(&document, "busybox")["licenseDeclared"]);
    assert!(busybox.starts_with("GPL-2.0-only AND LicenseRef-custom-"), "{busybox}");
    assert_eq!(document["packages"][1]["primaryPackagePurpose"], "OPERATING-SYSTEM");
}

#[test]
fn packages_of_arch_are_listed() {
    let place = Place::new("sbom-pacman");
    let top = place.work("tree");
    write(&top, "etc/os-release", "ID=arch\nPRETTY_NAME=\"Arch Linux\"\n");
    let desc = "%NAME%\ngcc-libs\n\n%VERSION%\n1:13.2.1-3\n\n%BASE%\ngcc\n\n%DESC%\nRuntime libraries\n\n%URL%\n\
        https://gcc.gnu.org\n\n%ARCH%\nx86_64\n\n%PACKAGER%\nAda <a@b.c>\n\n%LICENSE%\nMIT\nISC\n\n%DEPENDS%\nglibc>=2.27\n";
    write(&top, "var/lib/pacman/local/gcc-libs-1:13.2.1-3/desc", desc);
    write(&top, "var/lib/pacman/local/base-3-1/desc", "%NAME%\nbase\n\n%VERSION%\n3-1");
    write(&top, "var/lib/pacman/local/empty-1-1/desc", "");
    write(&top, "var/lib/pacman/local/ALPM_DB_VERSION", "9\n");
    let (document, notes) = of(&top);
    assert_eq!((packages(&document).len(), notes.len()), (2, 0));
    let libraries = named(&document, "gcc-libs");
    assert_eq!(purl(libraries), "pkg:alpm/arch/gcc-libs@1%3A13.2.1-3?arch=x86_64&distro=arch");
    assert_eq!(
        ["licenseDeclared", "supplier", "summary", "homepage"].map(|field| text(&libraries[field])),
        ["MIT AND ISC", "Person: Ada (a@b.c)", "Runtime libraries", "https://gcc.gnu.org"]
    );
    assert_eq!(purl(named(&document, "base")), "pkg:alpm/arch/base@3-1?distro=arch");
}

/// Data bases with the same two packages: one that rpm made, and its headers in one that Berkeley DB made.
const SQLITE: &[u8] = include_bytes!("rpm/rpmdb.sqlite.zst");
const BERKELEY: &[u8] = include_bytes!("rpm/Packages.zst");

fn unpacked(bytes: &[u8]) -> Vec<u8> {
    zstd::decode_all(bytes).expect("it is whole")
}

/// The headers, as rpm's own data base has them: 2 pages of slots, then blobs at multiples of 16.
fn ndb(headers: &[Vec<u8>]) -> Vec<u8> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let magic = |text: &[u8; 4]| u32::from_le_bytes(*text);
    let mut file = words(&[magic(b"RpmP"), 0, 5, 1, 3, 0, 0, 0]);
    let mut blobs = Vec::new();
    for (index, header) in headers.iter().enumerate() {
        let package = index as u32 + 1;
        let place = (4096 + blobs.len() as u32) / 16;
        blobs.extend(words(&[magic(b"BlbS"), package, 5, header.len() as u32]));
        blobs.extend_from_slice(header);
        blobs.resize(blobs.len().next_multiple_of(16), 0);
        file.extend(words(&[magic(b"Slot"), package, place, (header.len() as u32 + 16).div_ceil(16)]));
    }
    while file.len() < 4096 {
        file.extend(words(&[magic(b"Slot"), 0, 0, 0]));
    }
    file.extend(blobs);
    file
}

/// A header of rpm with a name, a version and a release, and nothing else.
fn header(name: &str) -> Vec<u8> {
    let data = format!("{name}\01.2\03\0");
    let places = [(1000_u32, 0), (1001, name.len() + 1), (1002, name.len() + 5)];
    let mut bytes: Vec<u8> =
        [places.len() as u32, data.len() as u32].iter().flat_map(|n| n.to_be_bytes()).collect();
    for (tag, place) in places {
        bytes.extend([tag, 6, place as u32, 1].iter().flat_map(|n| n.to_be_bytes()));
    }
    bytes.extend(data.bytes());
    bytes
}

#[test]
fn packages_of_rpm_are_listed_from_each_of_its_data_bases() {
    let place = Place::new("sbom-rpm");
    for (index, (name, bytes)) in [
        ("usr/lib/sysimage/rpm/rpmdb.sqlite", unpacked(SQLITE)),
        ("var/lib/rpm/Packages", unpacked(BERKELEY)),
    ]
    .into_iter()
    .enumerate()
    {
        let top = place.work(format!("tree-{index}"));
        write(&top, "etc/os-release", "ID=\"fedora\"\nVERSION_ID=41\n");
        write(&top, name, bytes);
        let (document, notes) = of(&top);
        assert_eq!((packages(&document).len(), notes), (2, vec![]), "{name}");
        let one = named(&document, "sample-1");
        assert_eq!(purl(one), "pkg:rpm/fedora/sample-1@1.2-3.fc41?arch=noarch&distro=fedora-41");
        assert_eq!(one["licenseDeclared"], "MIT AND GPL-2.0-or-later");
        assert_eq!(one["supplier"], "Organization: Fedora Project");
        assert_eq!(
            (&one["homepage"], &one["summary"]),
            (&"https://example.org/1".into(), &"A sample package".into())
        );
        let two = named(&document, "sample-2");
        assert_eq!(purl(two), "pkg:rpm/fedora/sample-2@2.2-3.fc42?arch=noarch&distro=fedora-41&epoch=7");
        assert!(text(&two["licenseDeclared"]).starts_with("LicenseRef-BSD-and-Public-Domain-"), "{two}");
    }
    let top = place.work("tree-ndb");
    write(&top, "var/lib/rpm/Packages.db", ndb(&["one", "two", "gpg-pubkey"].map(header)));
    let (document, notes) = of(&top);
    let purls: Vec<&str> = packages(&document).into_iter().map(purl).collect();
    assert_eq!((purls, notes), (vec!["pkg:rpm/one@1.2-3", "pkg:rpm/two@1.2-3"], vec![]));
}

#[test]
fn damaged_data_bases_of_rpm_are_said_to_be_so_and_end() {
    let place = Place::new("sbom-damaged");
    let top = place.work("tree");
    fs::create_dir_all(top.join("var/lib/rpm")).expect("a directory can be made");
    let bases = [
        ("rpmdb.sqlite", unpacked(SQLITE)),
        ("Packages", unpacked(BERKELEY)),
        ("Packages.db", ndb(&["one", "two"].map(header))),
    ];
    for (name, whole) in bases {
        let path = top.join("var/lib/rpm").join(name);
        // A simple sequence of numbers, the same in every run.
        let mut number = 12345_u64;
        let mut next = |below: usize| {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (number >> 33) as usize % below
        };
        let mut noted = 0;
        for round in 0..150 {
            let mut bytes = whole.clone();
            if round % 5 == 0 {
                bytes.truncate(next(whole.len()));
            }
            for _ in 0..1 + round {
                // Numbers that say where things are stand at the beginnings of pages.
                let at = if round % 2 == 0 {
                    next(whole.len())
                } else {
                    next(whole.len() / 4096) * 4096 + next(128)
                };
                let value = [0, 0xff, 0x7f, next(256) as u8][next(4)];
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            fs::write(&path, bytes).expect("written");
            noted += of(&top).1.len();
        }
        assert!(noted > 10, "{name}: {noted}");
        fs::remove_file(path).expect("removed");
    }
}

#[test]
fn hostile_data_is_bounded_and_named() {
    let place = Place::new("sbom-hostile");
    let top = place.work("tree");
    let status = top.join("var/lib/dpkg/status");
    write(&top, "var/lib/dpkg/status", "");
    let file = fs::File::options().write(true).open(&status).expect("a file");
    file.set_len(100 << 20).expect("a long file");
    fs::create_dir_all(top.join("lib/apk/db")).expect("a directory can be made");
    symlink("installed", top.join("lib/apk/db/installed")).expect("a link can be made");
    write(
        &top,
        "usr/lib/python3/site-packages/x-1.dist-info/METADATA",
        b"Name: \xff\x1b[2J\"\n\nVersion: 2\n",
    );
    write(&top, "usr/lib/python3/site-packages/nothing.dist-info/METADATA", "");
    symlink("/", top.join("usr/all")).expect("a link can be made");
    let (document, notes) = of(&top);
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].contains("/var/lib/dpkg/status is too long"), "{notes:?}");
    assert!(notes[1].contains("/lib/apk/db/installed cannot be read"), "{notes:?}");
    let comment = text(&document["comment"]);
    assert!(comment.contains("Not complete: /var/lib/dpkg/status is too long"), "{comment}");
    assert_eq!(text(&packages(&document)[0]["name"]), "\u{fffd} [2J\"");
    // The program says so, and succeeds.
    let output = place.run(["sbom", "tree"]);
    assert!(
        output.status.success() && output.stderr.contains("warning: the list is not complete"),
        "{output:?}"
    );
    // Names of packages that would lead elsewhere, paragraphs without end, values without end.
    let mut text_of_status =
        "Package: ../../../../etc\nStatus: install ok installed\nVersion: 1\n\n".to_owned();
    text_of_status.push_str(&format!("Package: long\nDescription: {}\n", "x".repeat(1 << 20)));
    text_of_status.push_str(&" y\n".repeat(1 << 20));
    text_of_status
        .push_str("\nPackage: gone\nStatus: deinstall ok config-files\n\nPackage: last\nMaintainer: <>\n");
    write(&top, "var/lib/dpkg/status", text_of_status);
    write(&top, "etc/copyright", "Format: x\nLicense: MIT\n");
    let (document, _) = of(&top);
    assert_eq!(named(&document, "../../../../etc")["licenseDeclared"], "NOASSERTION");
    assert!(text(&named(&document, "long")["summary"]).len() < 5000);
    assert_eq!(named(&document, "last")["supplier"], "NOASSERTION");
    assert!(packages(&document).iter().all(|package| package["name"] != "gone"));
}

#[test]
fn an_image_that_carries_a_document_has_it_printed() {
    let place = Place::new("sbom-carried");
    write(&place.work("tree"), "etc/os-release", "ID=x\n");
    let image = place.build("a.sif", &place.work("tree"));
    let made = place.run(["sbom", "a.sif"]).ok();
    assert!(made.contains("\"SPDX-2.3\"") && !made.contains("carried"));
    let document = place.write("document", "{\"carried\": true}\n");
    add(&image, &document);
    assert_eq!(place.run(["sbom", "a.sif"]).ok(), "{\"carried\": true}\n");
    assert_eq!(place.run(["sbom", "--fresh", "a.sif"]).ok(), made);
    let objects = place.run(["sif", "list", "a.sif"]).ok();
    assert!(objects.contains("SBOM"), "{objects}");
    let wrong = place.run(["sbom", "--format", "cyclonedx", "a.sif"]).fails(255);
    assert!(wrong.contains("spdx-json"), "{wrong}");
    assert!(place.run(["sbom", "none.sif"]).fails(255).contains("no such file"));
}

/// Adds a document to an image.
fn add(image: &Path, document: &Path) {
    use skiff::image::sif::{self, DataType, Extra, NewObject};
    let file = fs::File::options().read(true).write(true).open(image).expect("an image");
    let object = NewObject::new(DataType::SBOM, "sbom.spdx.json", Extra::Sbom(sbom::FORMAT));
    sif::add(&file, object, &fs::read(document).expect("a document"), 1_700_000_000).expect("added");
}
