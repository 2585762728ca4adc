//! Layers, layouts and archives that lie: each is an error that names the entry, and nothing is touched.

use std::fs;
use std::path::Path;

use tar::EntryType;

use super::super::reader::scratch;
use super::made::{File, config, entry, gzip, header, layout, tar};
use super::{image, pack};

/// What is said of an image with this layer.
fn said(layer: &[u8]) -> String {
    let place = scratch();
    let layout = layout(&place.path().join("image"), &[layer.to_vec()], &config(&[]));
    let image = image(&format!("oci:{}", layout.display())).unwrap();
    let error = pack(&image, &place.path().join("output"), 2).unwrap_err();
    assert!(error.hint.is_some(), "{error}");
    error.to_string()
}

fn regular(name: &str, content: &[u8]) -> Vec<u8> {
    entry(header(EntryType::Regular, content.len() as u64), name.as_bytes(), b"", content)
}

fn link(kind: EntryType, name: &str, target: &str) -> Vec<u8> {
    entry(header(kind, 0), name.as_bytes(), target.as_bytes(), &[])
}

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    entry(header(EntryType::new(kind), content.len() as u64), b"record", b"", content)
}

/// A file with its record before it.
fn with_record(text: &str) -> Vec<u8> {
    [record(b'x', text.as_bytes()), regular("file", b"x")].concat()
}

// flat: a case a line.
#[test]
fn hostile_entries_are_named() {
    let long = "x".repeat(99);
    let deep: String = (0..60).map(|_| format!("{long}/")).collect();
    let claims = |size: u64| entry(header(EntryType::Regular, size), b"claims", b"", b"little");
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("upwards", regular("a/../../etc/passwd", b"x"), &["etc/passwd", "leads upwards"]),
        ("upwards at once", regular("../evil", b"x"), &["../evil", "leads upwards"]),
        ("upwards in a record", with_record("15 path=../../x"), &["damaged record"]),
        ("upwards in a whole record", with_record("15 path=../../\n"), &["../../", "leads upwards"]),
        ("a link upwards", link(EntryType::Link, "a", "../../etc/shadow"), &["\"a\"", "leads upwards"]),
        ("a link to nothing", link(EntryType::Link, "a", "/etc/shadow"), &["\"a\"", "not there"]),
        (
            "a link to a directory",
            [tar(&[("d", File::Directory)])[..512].to_vec(), link(EntryType::Link, "a", "d")].concat(),
            &["\"a\"", "directory"],
        ),
        ("a whiteout of .", regular("d/.wh..", b""), &["d/.wh..", "whiteout of no file"]),
        ("a whiteout of ..", regular(".wh...", b""), &[".wh...", "whiteout of no file"]),
        ("a whiteout of nothing", regular("d/.wh.", b""), &["d/.wh.", "whiteout of no file"]),
        ("a root that is a file", regular(".", b"x"), &["\"/\"", "root's place"]),
        ("below a file", [regular("a", b"x"), regular("a/b", b"x")].concat(), &["a/b", "no directory"]),
        (
            "links in a circle",
            [link(EntryType::Symlink, "a", "b"), link(EntryType::Symlink, "b", "a"), regular("a/x", b"")]
                .concat(),
            &["a/x", "too many links"],
        ),
        ("a size that is not there", claims(1 << 32), &["claims", "cut short"]),
        ("a size out of range", claims(u64::MAX), &["claims"]),
        (
            "a deep path",
            [record(b'L', format!("{deep}\0").as_bytes()), regular("x", b"")].concat(),
            &["xxx", "4096 bytes"],
        ),
        (
            "a long name",
            [record(b'L', "n".repeat(300).as_bytes()), regular("x", b"")].concat(),
            &["nnn", "longer than 255"],
        ),
        (
            "a huge record",
            entry(header(EntryType::new(b'x'), 1 << 40), b"r", b"", b""),
            &["record of 1099511627776 bytes"],
        ),
        ("records without an entry", record(b'x', b"").repeat(100), &["records in a row"]),
        ("an unknown type", link(EntryType::new(b'M'), "multi", ""), &["multi", "unknown type 'M'"]),
        ("no tar", b"this is no tar file at all".repeat(100), &["checksum"]),
        ("cut short", regular("a", &[1; 2000])[..1500].to_vec(), &["\"a\"", "cut short"]),
        (
            "a device that is none",
            {
                let mut header = header(EntryType::Char, 0);
                header.set_device_major(0o777_7777).unwrap();
                entry(header, b"dev", b"", b"")
            },
            &["dev", "device number"],
        ),
        ("an owner that is none", with_record("18 uid=4294967295\n"), &["file", "uid 4294967295"]),
        ("a time that is none", with_record("15 mtime=1.2.3\n"), &["file", "time"]),
        (
            "a value that is too long",
            with_record(&{
                let value = "v".repeat(70_000);
                format!("70027 SCHILY.xattr.user.a={value}\n")
            }),
            &["file", "longer than one can be"],
        ),
        (
            "a sparse map that lies",
            with_record("22 GNU.sparse.size=10\n28 GNU.sparse.map=0,5,2,900\n"),
            &["file", "map is wrong"],
        ),
        (
            "a sparse file of 8 EiB",
            with_record("39 GNU.sparse.size=9000000000000000000\n23 GNU.sparse.map=0,1,\n"),
            &["file"],
        ),
        ("a link to a path that is none", link(EntryType::Symlink, "a", ""), &["\"a\"", "no path"]),
    ];
    for (what, mut layer, expected) in cases {
        layer.resize(layer.len() + if what == "cut short" { 0 } else { 1024 }, 0);
        let said = said(&layer);
        assert!(said.starts_with("cannot unpack layer "), "{what}: {said}");
        for words in expected {
            assert!(said.contains(words), "{what}: {said}");
        }
    }
}

#[test]
fn a_layer_of_damaged_gzip_is_an_error() {
    let mut layer = gzip(&tar(&[("a", File::Text("text"))]));
    let half = layer.len() / 2;
    layer[half] ^= 0x55;
    assert!(said(&layer).starts_with("cannot unpack layer "));
    layer.truncate(20);
    assert!(said(&layer).contains("it cannot be decoded"), "{}", said(&layer));
}

#[test]
fn links_lead_nowhere_out_of_the_image() {
    let place = scratch();
    let outside = place.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let target = outside.display().to_string();
    let up = format!("{}{target}", "../".repeat(40));
    let layer = tar(&[
        ("absolute", File::Link(&target)),
        ("absolute/one", File::Text("1")),
        ("up", File::Link(&up)),
        ("up/two", File::Text("2")),
        ("twice", File::Link("up")),
        ("twice/.wh.two", File::Text("")),
        ("twice/three", File::Text("3")),
    ]);
    let layout = layout(&place.path().join("image"), &[layer], &config(&[]));
    let files = super::shown(&format!("oci:{}", layout.display()));
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    for name in ["one", "two", "three"] {
        assert!(files.contains_key(Path::new(&target).join(name).as_path()), "{name}: {:?}", files.keys());
    }
}

#[test]
fn a_bomb_of_holes_is_defused() {
    let mut bomb = Vec::new();
    for number in 0..20 {
        let size = 5_u64 << 30;
        let text = format!("GNU.sparse.size={size}\n");
        let length = text.len() + 3;
        let map = "26 GNU.sparse.map=0,0,1,0\n";
        bomb.extend(record(b'x', format!("{length} {text}{map}").as_bytes()));
        bomb.extend(regular(&format!("hole-{number}"), b""));
    }
    bomb.resize(bomb.len() + 1024, 0);
    let said = said(&gzip(&bomb));
    assert!(said.contains("hole-1") && said.contains("expand too much"), "{said}");
}

#[test]
fn layouts_that_lie_are_refused() {
    let place = scratch();
    let make = |name: &str| layout(&place.path().join(name), &[tar(&[("a", File::Text("a"))])], &config(&[]));
    let says = |layout: &Path, words: &str| {
        let error = image(&format!("oci:{}:t", layout.display())).unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
    };
    let blobs = |layout: &Path| -> Vec<_> {
        let mut blobs: Vec<_> =
            fs::read_dir(layout.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path()).collect();
        blobs.sort_by_key(|path| fs::metadata(path).unwrap().len());
        blobs
    };
    let changed = make("changed");
    let layer = blobs(&changed).pop().unwrap();
    let mut bytes = fs::read(&layer).unwrap();
    bytes[513] ^= 1;
    fs::write(&layer, &bytes).unwrap();
    says(&changed, "instead");
    fs::write(&layer, &bytes[1..]).unwrap();
    says(&changed, "its manifest says");
    fs::remove_file(&layer).unwrap();
    says(&changed, "has no \"blobs/sha256/");
    fs::create_dir(&layer).unwrap();
    says(&changed, "it is no file");
    let index = make("index");
    let text = fs::read_to_string(index.join("index.json")).unwrap();
    for (from, to, words) in [
        ("sha256:", "sha256:../", "no digest"),
        ("sha256:", "sha512:", "no digest"),
        ("\"size\":", "\"size\":1", "its manifest says"),
        ("\"size\":", "\"size\":-", "cannot read the index"),
        ("{\"schema", "{\"manifests\":[],\"schema", "cannot read the index"),
    ] {
        fs::write(index.join("index.json"), text.replacen(from, to, 1)).unwrap();
        says(&index, words);
    }
    fs::write(index.join("index.json"), vec![b' '; 5 << 20]).unwrap();
    says(&index, "more than");
    let manifest = r#"{"mediaType":"application/vnd.oci.image.index.v1+json""#;
    let mut circle =
        text.replacen(r#"{"mediaType":"application/vnd.oci.image.manifest.v1+json""#, manifest, 1);
    circle.push(' ');
    fs::write(index.join("index.json"), circle).unwrap();
    says(&index, "cannot read the index");
}

#[test]
fn archives_that_lie_are_refused() {
    let place = scratch();
    let path = place.path().join("a.tar");
    let says = |archive: &[u8], words: &str| {
        fs::write(&path, archive).unwrap();
        let error = image(&format!("docker-archive:{}", path.display())).unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
    };
    let layer = tar(&[("a", File::Text("a"))]);
    let manifest = r#"[{"Config":"c.json","RepoTags":null,"Layers":["l.tar"]}]"#;
    let config = format!(r#"{{"rootfs":{{"diff_ids":["sha256:{}"]}}}}"#, "0".repeat(64));
    let archive = |manifest: &str, config: &str| {
        tar(&[
            ("manifest.json", File::Text(manifest)),
            ("c.json", File::Text(config)),
            ("l.tar", File::Program(&layer)),
        ])
    };
    says(&archive(manifest, &config), "instead");
    says(&archive(manifest, "{}"), "1 layers, and its configuration names 0");
    says(&archive(&manifest.replace("l.tar", "../l.tar"), &config), "has no \"../l.tar\"");
    says(&archive("[]", &config), "has no image");
    says(&archive("{}", &config), "cannot read manifest.json");
    says(&regular("../manifest.json", b"[]"), "leads upwards");
    says(&link(EntryType::Symlink, "manifest.json", "../../etc/passwd"), "out of the archive");
    says(&entry(header(EntryType::Regular, 1 << 50), b"manifest.json", b"", b""), "cut short");
    says(&tar(&[("x", File::Text("x"))]), "no archive of an image");
    says(b"x", "a.tar");
}
