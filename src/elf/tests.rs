//! Made files, damaged files, and this machine's own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::cache::tests::new_cache;
use super::check::unmet;
use super::made::Made;
use super::read::parse_elf;
use super::symbols::read_symbols;
use super::*;
use crate::error::Result;

const LIBRARY: Made<'_> = Made {
    machine: 0,
    narrow: false,
    soname: "libone.so.1",
    needed: &["libtwo.so.2", "libc.so.6"],
    rpath: "",
    runpath: "$ORIGIN/../two:/opt/lib",
    interpreter: "/lib64/ld-linux-x86-64.so.2",
    requires: &[("libc.so.6", &["GLIBC_2.2.5", "GLIBC_2.34"]), ("libtwo.so.2", &["TWO_1.0"])],
    defines: &["ONE_1.0", "ONE_1.1"],
    symbols: &["one", "other_one"],
    undefined: &["two"],
    text: "",
};

#[test]
fn all_that_the_loader_uses_is_read() {
    for narrow in [false, true] {
        let made = Made { narrow, ..LIBRARY };
        let file = made.bytes();
        let bytes = Bytes::of("x", &file);
        let elf = parse_elf(&bytes).unwrap().unwrap();
        assert_eq!(elf.platform, Platform { wide: !narrow, big_endian: false, machine: 62 });
        assert_eq!(elf.soname.as_deref(), Some("libone.so.1"));
        assert_eq!(elf.needed, ["libtwo.so.2", "libc.so.6"]);
        assert_eq!(elf.runpath, ["$ORIGIN/../two", "/opt/lib"]);
        assert!(elf.rpath.is_empty());
        assert_eq!(elf.interpreter.as_deref(), Some("/lib64/ld-linux-x86-64.so.2"));
        let requires: Vec<_> =
            elf.requires.iter().map(|r| (r.library.as_str(), r.versions.join(" "))).collect();
        assert_eq!(
            requires,
            [("libc.so.6", "GLIBC_2.2.5 GLIBC_2.34".to_owned()), ("libtwo.so.2", "TWO_1.0".to_owned())]
        );
        assert_eq!(elf.defines, ["ONE_1.0", "ONE_1.1"]);
        let symbols = read_symbols(&bytes, &elf, |name| name != "other_one").unwrap();
        assert_eq!(symbols.defined.into_iter().collect::<Vec<_>>(), ["one"]);
        assert_eq!(symbols.undefined.into_iter().collect::<Vec<_>>(), ["two"]);
    }
}

#[test]
fn what_is_no_library_is_none_and_a_damaged_one_never_more_than_an_error() {
    for other in [&b""[..], b"#!/bin/sh\n", &[0; 4096], b"\x7fELF"] {
        assert_eq!(parse_elf(&Bytes::of("x", other)).unwrap(), None);
    }
    let file = LIBRARY.bytes();
    let look = |bytes: &[u8]| {
        let bytes = Bytes::of("x", bytes);
        if let Ok(Some(elf)) = parse_elf(&bytes) {
            let _ = read_symbols(&bytes, &elf, |_| true);
        }
    };
    for length in 0..file.len() {
        look(&file[..length]);
    }
    for at in 0..file.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut changed = file.clone();
            changed[at] = value;
            look(&changed);
        }
    }
}

#[test]
fn this_machines_own_c_library_is_read() {
    let Some(path) =
        ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6"].iter().find(|path| Path::new(path).exists())
    else {
        return;
    };
    let file = std::fs::read(path).unwrap();
    let bytes = Bytes::of("libc", &file);
    let elf = parse_elf(&bytes).unwrap().unwrap();
    assert_eq!(elf.soname.as_deref(), Some("libc.so.6"));
    assert!(elf.defines.iter().any(|version| version == "GLIBC_2.2.5"), "{:?}", elf.defines);
    assert!(check::newest(&elf, "GLIBC").is_some_and(|newest| check::numbers(&newest) >= vec![2, 17]));
    let symbols = read_symbols(&bytes, &elf, |_| true).unwrap();
    assert!(symbols.defined.contains("malloc") && symbols.defined.contains("printf"));
}

/// A place made of files in memory; links are not needed.
fn place<'a>(files: &'a BTreeMap<PathBuf, Vec<u8>>) -> Place<'a> {
    let open = move |path: &Path| -> Result<Option<Opened<'a>>> {
        Ok(files.get(path).map(|bytes| Opened { path: path.to_owned(), bytes: Bytes::of("x", bytes) }))
    };
    Place::new("the image", Vec::new(), "x86_64", Box::new(open)).unwrap()
}

fn files(list: &[(&str, Made<'_>)]) -> BTreeMap<PathBuf, Vec<u8>> {
    list.iter().map(|(path, made)| (PathBuf::from(path), made.bytes())).collect()
}

const fn named(soname: &str) -> Made<'_> {
    Made {
        soname,
        machine: 0,
        narrow: false,
        needed: &[],
        rpath: "",
        runpath: "",
        interpreter: "",
        requires: &[],
        defines: &[],
        symbols: &[],
        undefined: &[],
        text: "",
    }
}

fn at(place: &Place<'_>, name: &str, by: Option<&Library>) -> String {
    let platform = Platform { wide: true, big_endian: false, machine: 62 };
    let found = place.find(name, platform, by).unwrap();
    found.map_or("none".to_owned(), |library| library.path.display().to_string())
}

#[test]
fn a_library_is_found_as_the_loader_finds_it() {
    let two = named("libtwo.so.2");
    let mut files = files(&[
        ("/opt/one/lib/libone.so.1", Made { runpath: "$ORIGIN/two", ..two.clone() }),
        ("/opt/one/lib/libold.so.1", Made { rpath: "/rpath", ..two.clone() }),
        ("/opt/one/lib/two/libtwo.so.2", two.clone()),
        ("/rpath/libtwo.so.2", two.clone()),
        ("/cached/libtwo.so.2", two.clone()),
        ("/first/libtwo.so.2", Made { narrow: true, ..two.clone() }),
        ("/usr/lib/x86_64-linux-gnu/libthree.so.3", named("libthree.so.3")),
    ]);
    files.insert("/etc/ld.so.cache".into(), new_cache(&[("libtwo.so.2", "/cached/libtwo.so.2", 0)]));
    let mut place = place(&files);
    assert_eq!(at(&place, "libtwo.so.2", None), "/cached/libtwo.so.2");
    assert_eq!(at(&place, "libthree.so.3", None), "/usr/lib/x86_64-linux-gnu/libthree.so.3");
    assert_eq!(at(&place, "libnone.so.3", None), "none");
    let one = place.library(Path::new("/opt/one/lib/libone.so.1")).unwrap().unwrap();
    assert_eq!(at(&place, "libtwo.so.2", Some(&one)), "/opt/one/lib/two/libtwo.so.2");
    let old = place.library(Path::new("/opt/one/lib/libold.so.1")).unwrap().unwrap();
    assert_eq!(at(&place, "libtwo.so.2", Some(&old)), "/rpath/libtwo.so.2");
    // One of another class is passed over.
    place.first = vec!["/first".into()];
    assert_eq!(at(&place, "libtwo.so.2", None), "/cached/libtwo.so.2");
    let all = place.all("libtwo.so.2", one.elf.platform, &["/rpath".into(), "/first".into()]).unwrap();
    let all: Vec<_> = all.iter().map(|library| library.path.to_str().unwrap()).collect();
    assert_eq!(all, ["/cached/libtwo.so.2", "/rpath/libtwo.so.2"]);
}

#[test]
fn a_musl_image_is_searched_as_musl_does() {
    let mut files =
        files(&[("/usr/local/lib/liba.so", named("liba.so")), ("/lib/ld-musl-x86_64.so.1", named(""))]);
    assert!(place(&files).musl);
    assert_eq!(at(&place(&files), "liba.so", None), "/usr/local/lib/liba.so");
    files.insert("/etc/ld-musl-x86_64.path".into(), b"/lib\n/usr/lib\n".to_vec());
    assert_eq!(at(&place(&files), "liba.so", None), "none");
}

#[test]
fn a_closure_has_each_name_once_and_says_what_is_missing() {
    let files = files(&[
        ("/usr/lib/liba.so", Made { needed: &["libb.so", "libc.so.6", "libd.so"], ..named("liba.so") }),
        ("/usr/lib/libb.so", Made { needed: &["liba.so", "libe.so"], ..named("libb.so") }),
        ("/usr/lib/libe.so", named("libe.so")),
    ]);
    let place = place(&files);
    let a = place.library(Path::new("/usr/lib/liba.so")).unwrap().unwrap();
    let closure = place.closure(&[a], &check::is_libc).unwrap();
    let shown: Vec<_> = closure.iter().map(|(name, found)| (name.as_str(), found.is_some())).collect();
    assert_eq!(shown, [("libb.so", true), ("libd.so", false), ("liba.so", true), ("libe.so", true)]);
}

#[test]
fn what_a_library_misses_is_told_in_a_sentence() {
    let files = files(&[
        ("/lib/libc.so.6", Made { defines: &["GLIBC_2.9", "GLIBC_2.36", "GLIBC_2.4"], ..named("libc.so.6") }),
        ("/lib/libz.so.1", named("libz.so.1")),
    ]);
    let place = place(&files);
    let library = |made: Made<'_>| {
        let bytes = made.bytes();
        let elf = parse_elf(&Bytes::of("x", &bytes)).unwrap().unwrap();
        Library { path: "/h/libone.so.1".into(), real: "/h/libone.so.1".into(), elf }
    };
    let told = |made: Made<'_>, provider: &dyn Fn(&str) -> Option<Rc<Library>>| -> Vec<String> {
        unmet(&library(made), &place, provider).unwrap().iter().map(ToString::to_string).collect()
    };
    let nobody = |_: &str| None;
    let base = Made { needed: &["libc.so.6", "libz.so.1", "libq.so.1"], ..named("libone.so.1") };
    let needs = |versions: &'static [&'static str]| -> Vec<String> {
        let requires: &[_] = &[("libc.so.6", versions), ("libz.so.1", &["ZLIB_1.3"])];
        told(Made { requires, ..base.clone() }, &nobody)
    };
    // A library without any version takes every one.
    assert_eq!(
        needs(&["GLIBC_2.4", "GLIBC_2.36"]),
        ["libone.so.1 needs libq.so.1, which the image does not have"]
    );
    assert_eq!(
        needs(&["GLIBC_2.38", "GLIBC_2.37"])[0],
        "libone.so.1 needs GLIBC_2.38 of libc.so.6, and that of the image ends at GLIBC_2.36"
    );
    assert_eq!(
        needs(&["GLIBC_ABI_DT_RELR"])[0],
        "libone.so.1 needs GLIBC_ABI_DT_RELR of libc.so.6, which that of the image does not have"
    );
    let brought = Rc::new(library(named("libq.so.1")));
    assert!(told(base, &move |name| (name == "libq.so.1").then(|| brought.clone())).is_empty());
}
