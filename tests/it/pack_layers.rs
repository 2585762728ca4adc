//! A base and layers, packed: what the image shows is what the kernel's overlay showed.

mod bases;
mod hostile;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rustix::fs::{CWD, FileType, Mode, makedev, mkfifoat, mknodat};
use skiff::error::Error;
use skiff::image::squashfs::{FileKind, Squashfs};
use skiff::pack::{Layers, PackOptions, PackSummary, Progress, pack_layers};

use super::harness::{Need, able};
use super::reader::{File_, noise, open, read_image, scratch, try_xattr};

fn options(threads: usize) -> PackOptions {
    PackOptions { threads, time: Some(i64::from(u32::MAX)), digest: true, ..PackOptions::default() }
}

fn try_pack(
    base: Option<&Squashfs>,
    directories: &[PathBuf],
    image: &Path,
    options: &PackOptions,
) -> Result<PackSummary, Error> {
    let output = File::options().read(true).write(true).create(true).truncate(true).open(image).unwrap();
    let watch = (&Progress::default(), &AtomicBool::new(false));
    pack_layers(&Layers { base, directories }, &output, 0, options, watch)
}

fn pack(base: Option<&Squashfs>, directories: &[PathBuf], image: &Path) -> BTreeMap<PathBuf, File_> {
    try_pack(base, directories, image, &options(2)).unwrap();
    read_image(&open(image))
}

fn names(files: &BTreeMap<PathBuf, File_>) -> Vec<&str> {
    files.keys().map(|path| path.to_str().unwrap()).collect()
}

fn content<'a>(files: &'a BTreeMap<PathBuf, File_>, path: &str) -> &'a [u8] {
    &files[Path::new(path)].content
}

fn mode(mode: u32) -> fs::Permissions {
    fs::Permissions::from_mode(mode)
}

fn whiteout(path: &Path) {
    mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), makedev(0, 0)).unwrap();
}

// flat: a tree, and what is left of it.
#[test]
fn a_single_layer_without_a_base_is_packed_without_its_marks() {
    if !able(&[Need::Root]) {
        return;
    }
    let place = scratch();
    let layer = place.path().join("layer");
    let at = |name: &str| layer.join(name);
    fs::create_dir_all(at("dir/sub")).unwrap();
    fs::write(at("file"), b"content").unwrap();
    fs::write(at("dir/null"), b"").unwrap();
    fs::set_permissions(at("dir/null"), mode(0o620)).unwrap();
    fs::write(at("dir/disk"), b"").unwrap();
    fs::write(at("dir/empty"), b"").unwrap();
    fs::write(at("program"), noise(1, 200_000)).unwrap();
    symlink("file", at("dir/link")).unwrap();
    symlink("file", at("dir/plain")).unwrap();
    mkfifoat(CWD, at("dir/pipe"), Mode::from_raw_mode(0o600)).unwrap();
    whiteout(&at("gone"));
    for (name, attribute, value) in [
        ("", "user.skiff.owner", "1:2"),
        ("file", "user.skiff.owner", "3:4"),
        ("program", "user.skiff.owner", "5:70000"),
        ("program", "user.skiff.xattr.security.capability", "cap"),
        ("program", "user.mine", "mine"),
        ("program", "user.overlay.origin", ""),
        ("dir", "user.skiff.owner.link", "8:9"),
        ("dir", "user.skiff.owner.pipe", "10:11"),
        ("dir", "user.skiff.owner.empty", "12:13"),
        ("dir", "user.overlay.impure", "y"),
        ("dir/null", "user.skiff.device", "c:1:3"),
        ("dir/null", "user.skiff.owner", "0:5"),
        ("dir/disk", "user.skiff.device", "b:259:70000"),
    ] {
        try_xattr(&at(name), attribute, value.as_bytes());
    }
    let files = pack(None, &[layer], &place.path().join("image"));
    let expected = [
        "/",
        "/dir",
        "/dir/disk",
        "/dir/empty",
        "/dir/link",
        "/dir/null",
        "/dir/pipe",
        "/dir/plain",
        "/dir/sub",
        "/file",
        "/program",
    ];
    assert_eq!(names(&files), expected);
    let file = |path: &str| &files[Path::new(path)];
    for (path, owner) in [
        ("/", (1, 2)),
        ("/file", (3, 4)),
        ("/program", (5, 70_000)),
        ("/dir/link", (8, 9)),
        ("/dir/pipe", (10, 11)),
        ("/dir/plain", (0, 0)),
        ("/dir/empty", (0, 0)),
        ("/dir/null", (0, 5)),
    ] {
        assert_eq!(file(path).owner, owner, "{path}");
    }
    let null = file("/dir/null");
    assert_eq!((null.kind, null.rdev, null.mode), (FileKind::CharDevice, 0x103, 0o620));
    let disk = file("/dir/disk");
    assert_eq!((disk.kind, disk.rdev), (FileKind::BlockDevice, 112 | 259 << 8 | (70_000 - 112) << 12));
    let xattrs: Vec<_> = file("/program").xattrs.iter().map(|(n, v)| (n.as_slice(), v.as_slice())).collect();
    assert_eq!(xattrs, [(&b"security.capability"[..], &b"cap"[..]), (b"user.mine", b"mine")]);
    let with_xattrs = files.values().filter(|file| !file.xattrs.is_empty()).count();
    assert_eq!(with_xattrs, 1);
}

// flat: a tree, and what is left of it.
#[test]
fn upper_layers_hide_merge_and_replace_what_lies_below() {
    if !able(&[Need::Root]) {
        return;
    }
    let place = scratch();
    let layers: Vec<PathBuf> = ["one", "two", "three"].iter().map(|name| place.path().join(name)).collect();
    let at = |layer: usize, name: &str| layers[layer].join(name);
    for name in ["merged/sub", "gone", "opaque/deep", "to-file", "through/x", "whiteouts"] {
        fs::create_dir_all(at(0, name)).unwrap();
    }
    for name in [
        "merged/a",
        "merged/b",
        "merged/sub/1",
        "gone/x",
        "opaque/old",
        "opaque/deep/old",
        "to-file/x",
        "to-dir",
        "through/x/1",
        "whiteouts/kept",
        "whiteouts/gone",
        "whiteouts/back",
        "to-link",
    ] {
        fs::write(at(0, name), format!("0 {name}")).unwrap();
    }
    fs::set_permissions(at(0, "merged"), mode(0o700)).unwrap();
    // The second layer.
    for name in ["merged/sub", "opaque/deep", "to-dir", "whiteouts"] {
        fs::create_dir_all(at(1, name)).unwrap();
    }
    for name in
        ["merged/b", "merged/sub/2", "opaque/deep/new", "to-file", "through", "to-dir/x", "whiteouts/gone"]
    {
        fs::write(at(1, name), if name == "whiteouts/gone" { "" } else { name }).unwrap();
    }
    fs::set_permissions(at(1, "merged"), mode(0o751)).unwrap();
    whiteout(&at(1, "gone"));
    whiteout(&at(1, "merged/a"));
    whiteout(&at(1, "whiteouts/back"));
    symlink("merged", at(1, "to-link")).unwrap();
    try_xattr(&at(1, "opaque"), "user.overlay.opaque", b"y");
    try_xattr(&at(1, "whiteouts"), "user.overlay.opaque", b"x");
    try_xattr(&at(1, "whiteouts/gone"), "user.overlay.whiteout", b"");
    // The third: brings some of it back.
    fs::create_dir_all(at(2, "through")).unwrap();
    fs::create_dir_all(at(2, "whiteouts")).unwrap();
    fs::create_dir_all(at(2, "to-link/new")).unwrap();
    fs::write(at(2, "through/2"), "third").unwrap();
    fs::write(at(2, "whiteouts/back"), "third").unwrap();
    // No whiteout without the mark on its directory.
    fs::write(at(2, "whiteouts/none"), "").unwrap();
    try_xattr(&at(2, "whiteouts/none"), "user.overlay.whiteout", b"");
    let files = pack(None, &layers, &place.path().join("image"));
    let expected = [
        "/",
        "/merged",
        "/merged/b",
        "/merged/sub",
        "/merged/sub/1",
        "/merged/sub/2",
        "/opaque",
        "/opaque/deep",
        "/opaque/deep/new",
        "/through",
        "/through/2",
        "/to-dir",
        "/to-dir/x",
        "/to-file",
        "/to-link",
        "/to-link/new",
        "/whiteouts",
        "/whiteouts/back",
        "/whiteouts/kept",
        "/whiteouts/none",
    ];
    assert_eq!(names(&files), expected);
    assert_eq!(content(&files, "/merged/b"), b"merged/b");
    assert_eq!(content(&files, "/merged/sub/1"), b"0 merged/sub/1");
    assert_eq!(content(&files, "/whiteouts/back"), b"third");
    assert_eq!(files[Path::new("/merged")].mode, 0o751);
    assert_eq!(files[Path::new("/to-file")].kind, FileKind::Regular);
}
