//! The SquashFS reader against images made by mksquashfs: entry by entry equal to the tree they were made of,
//! with every compressor, block size and layout option, and equal to what libsquashfs sees in them.

mod ahead;
mod damaged;
mod tar;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use skiff::image::source::Source;
use skiff::image::squashfs::{Block, Content, FileKind, Inode, InodeRef, OpenOptions, Squashfs};
use skiff::image::{Format, Tree};

/// Bytes that compress a little, different for each seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = Vec::with_capacity(length + 16);
    while bytes.len() < length {
        let word = next();
        bytes.extend_from_slice(&word.to_le_bytes());
        bytes.extend_from_slice(&[word as u8 & 3; 8]);
    }
    bytes.truncate(length);
    bytes
}

fn set_time(path: &Path, seconds: i64) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A file system may lack extended attributes, or this user may not set them: the comparison takes them from
/// the tree as it became.
pub fn try_xattr(path: &Path, name: &str, value: &[u8]) {
    let _unsupported = rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty());
}

/// The tree that all images here are made of.
pub fn make_tree(root: &Path) {
    let at = |name: &str| root.join(name);
    let write = |name: &str, bytes: &[u8]| fs::write(root.join(name), bytes).unwrap();
    for dir in ["dir/deep/deeper/deepest", "empty", "many", "sizes", "odd"] {
        fs::create_dir_all(at(dir)).unwrap();
    }
    for number in 0..3200 {
        write(
            &format!("many/entry-{number:05}-{}", "x".repeat(number % 60)),
            format!("{number}\n").as_bytes(),
        );
    }
    for shift in [12, 13, 14, 15, 16, 17, 18, 19, 20] {
        let block = 1usize << shift;
        for (name, size) in [("less", block - 1), ("whole", block), ("more", block + 1)] {
            write(&format!("sizes/{shift}-{name}"), &noise(size as u64, size));
        }
    }
    write("sizes/empty", b"");
    write("sizes/long", &noise(7, 5_300_000));
    write("sizes/zeros", &vec![0; 3 << 20]);
    write("sizes/duplicate-1", &noise(9, 400_000));
    write("sizes/duplicate-2", &noise(9, 400_000));
    let sparse = File::create(at("sizes/sparse")).unwrap();
    sparse.set_len(20 << 20).unwrap();
    sparse.write_all_at(&noise(3, 300_000), 7 << 20).unwrap();
    sparse.write_all_at(b"end", (19 << 20) + 12345).unwrap();
    let ends_in_hole = File::create(at("sizes/ends-in-hole")).unwrap();
    ends_in_hole.write_all_at(&noise(4, 10), 0).unwrap();
    ends_in_hole.set_len((3 << 20) + 77).unwrap();

    fs::write(root.join("odd").join(OsStr::from_bytes(b"not \xff utf-8 \x80")), b"1").unwrap();
    fs::write(root.join("odd").join("n".repeat(255)), b"2").unwrap();
    fs::write(root.join("odd").join("new\nline"), b"3").unwrap();
    symlink("dir/deep", at("link")).unwrap();
    symlink(OsString::from_vec(vec![b'l'; 4000]), at("odd/long-link")).unwrap();
    symlink(OsStr::from_bytes(b"\xfe/nowhere"), at("odd/dangling")).unwrap();
    write("dir/hard-1", b"one inode, three names");
    fs::hard_link(at("dir/hard-1"), at("dir/deep/hard-2")).unwrap();
    fs::hard_link(at("dir/hard-1"), at("hard-3")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("odd/fifo"), rustix::fs::Mode::from_raw_mode(0o640)).unwrap();
    drop(std::os::unix::net::UnixListener::bind(at("odd/socket")).unwrap());
    if rustix::process::geteuid().is_root() {
        use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
        let mode = Mode::from_raw_mode(0o600);
        mknodat(CWD, at("odd/char"), FileType::CharacterDevice, mode, makedev(5, 1)).unwrap();
        mknodat(CWD, at("odd/block"), FileType::BlockDevice, mode, makedev(259, 70_000)).unwrap();
        std::os::unix::fs::lchown(at("hard-3"), Some(1234), Some(70_000)).unwrap();
        std::os::unix::fs::lchown(at("link"), Some(4_000_000_000), Some(9)).unwrap();
    }
    for (name, mode) in
        [("dir/deep", 0o1777), ("sizes/long", 0o4755), ("sizes/zeros", 0o2711), ("empty", 0o700)]
    {
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let long = noise(11, 3000);
    for name in ["dir", "hard-3", "sizes/long", "odd/long-link", "odd/fifo"] {
        try_xattr(&at(name), "user.short", name.as_bytes());
        try_xattr(&at(name), "user.long", &long);
        try_xattr(&at(name), "trusted.overlay.opaque", b"y");
        try_xattr(&at(name), "security.skiff", &[0, 1, 2, 255]);
    }
    try_xattr(&at("sizes/empty"), "user.empty", b"");
    for (name, seconds) in
        [("sizes/empty", -1000), ("link", -86_400), ("sizes/zeros", 3_000_000_000), ("empty", 0)]
    {
        set_time(&at(name), seconds);
    }
}

pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

/// The tree, made once for all tests, and what was in it; removed when the last test is done with it.
pub fn tree() -> (Arc<tempfile::TempDir>, Arc<BTreeMap<PathBuf, File_>>) {
    type Shared = (std::sync::Weak<tempfile::TempDir>, std::sync::Weak<BTreeMap<PathBuf, File_>>);
    static TREE: OnceLock<std::sync::Mutex<Shared>> = OnceLock::new();
    let mut shared = TREE.get_or_init(std::sync::Mutex::default).lock().unwrap();
    if let (Some(place), Some(files)) = (shared.0.upgrade(), shared.1.upgrade()) {
        return (place, files);
    }
    let place = Arc::new(scratch());
    make_tree(place.path());
    let files = Arc::new(read_source(place.path()));
    *shared = (Arc::downgrade(&place), Arc::downgrade(&files));
    (place, files)
}

/// Everything about a file that an image should keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File_ {
    pub kind: FileKind,
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: u32,
    pub links: u32,
    pub rdev: u32,
    pub target: Vec<u8>,
    pub content: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The tree as the file system has it.
pub fn read_source(root: &Path) -> BTreeMap<PathBuf, File_> {
    let mut files = BTreeMap::new();
    let mut names: BTreeMap<u64, u32> = BTreeMap::new();
    let mut todo = vec![(PathBuf::from("/"), root.to_owned())];
    while let Some((inside, path)) = todo.pop() {
        let status = fs::symlink_metadata(&path).unwrap();
        let kind = match status.file_type() {
            t if t.is_dir() => FileKind::Directory,
            t if t.is_symlink() => FileKind::Symlink,
            t if t.is_fifo() => FileKind::Fifo,
            t if t.is_socket() => FileKind::Socket,
            t if t.is_char_device() => FileKind::CharDevice,
            t if t.is_block_device() => FileKind::BlockDevice,
            _ => FileKind::Regular,
        };
        let mut links = 1;
        if kind == FileKind::Directory {
            links = 2;
            for entry in fs::read_dir(&path).unwrap() {
                let entry = entry.unwrap();
                links += u32::from(entry.file_type().unwrap().is_dir());
                todo.push((inside.join(entry.file_name()), entry.path()));
            }
        }
        *names.entry(status.ino()).or_default() += 1;
        let (major, minor) = (rustix::fs::major(status.rdev()), rustix::fs::minor(status.rdev()));
        let file = File_ {
            kind,
            mode: status.mode() & 0o7777,
            owner: (status.uid(), status.gid()),
            mtime: status.mtime() as u32,
            links,
            rdev: (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12),
            target: fs::read_link(&path).map(|p| p.into_os_string().into_vec()).unwrap_or_default(),
            content: if kind == FileKind::Regular { fs::read(&path).unwrap() } else { Vec::new() },
            xattrs: source_xattrs(&path),
        };
        files.insert(inside, (status.ino(), file));
    }
    let links = |ino, file: &File_| if file.kind == FileKind::Directory { file.links } else { names[&ino] };
    files.into_iter().map(|(path, (ino, file))| (path, File_ { links: links(ino, &file), ..file })).collect()
}

fn source_xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0u8; 65536];
    let Ok(length) = rustix::fs::llistxattr(path, &mut list[..]) else { return BTreeMap::new() };
    let names = list[..length].split(|&b| b == 0).filter(|name| !name.is_empty());
    // SELinux labels and the like are the host's.
    let ours = names.filter(|n| {
        n.starts_with(b"user.")
            || n.starts_with(b"trusted.")
            || n.ends_with(b".skiff")
            || *n == b"security.capability"
    });
    ours.map(|name| {
        let mut value = vec![0u8; 65536];
        let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
        (name.to_vec(), value[..length].to_vec())
    })
    .collect()
}

/// The tree as the image has it. Every file is read in pieces and by blocks, every name looked up.
pub fn read_image(image: &Squashfs) -> BTreeMap<PathBuf, File_> {
    let mut files = BTreeMap::new();
    let mut todo = vec![(PathBuf::from("/"), image.root())];
    while let Some((path, reference)) = todo.pop() {
        let inode = image.inode(reference).unwrap();
        if inode.kind() == FileKind::Directory {
            for (name, kind, number, reference) in list_in_pieces(image, &inode, 37) {
                assert_eq!(image.lookup(&inode, &name).unwrap(), Some(reference), "{path:?} {name:?}");
                let child = image.inode(reference).unwrap();
                assert_eq!((child.kind(), child.number), (kind, number));
                if image.superblock().export_table.is_some() {
                    assert_eq!(image.inode_by_number(number).unwrap(), Some(reference));
                }
                todo.push((path.join(OsStr::from_bytes(&name)), reference));
            }
        }
        files.insert(path, image_file(image, &inode));
    }
    files
}

fn list_in_pieces(image: &Squashfs, dir: &Inode, piece: usize) -> Vec<(Vec<u8>, FileKind, u32, InodeRef)> {
    let (mut all, mut cursor) = (Vec::new(), 0);
    loop {
        let before = all.len();
        image
            .read_dir(dir, cursor, &mut |entry| {
                all.push((entry.name.to_vec(), entry.kind, entry.number, entry.reference));
                cursor = entry.next;
                if all.len() - before == piece { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
        if all.len() == before {
            return all;
        }
    }
}

fn image_file(image: &Squashfs, inode: &Inode) -> File_ {
    let (mut target, mut rdev, mut content) = (Vec::new(), 0, Vec::new());
    match &inode.content {
        Content::Symlink { target: here } => target = here.to_vec(),
        Content::Device { rdev: here, .. } => rdev = *here,
        Content::Regular(_) => content = read_file(image, inode),
        _ => {}
    }
    File_ {
        kind: inode.kind(),
        mode: inode.mode,
        owner: (inode.uid, inode.gid),
        mtime: inode.mtime,
        links: inode.links,
        rdev,
        target,
        content,
        xattrs: image.xattrs(inode).unwrap().into_iter().collect(),
    }
}

/// Reads a file by odd pieces, and by blocks, which must give the same.
fn read_file(image: &Squashfs, inode: &Inode) -> Vec<u8> {
    let mut content = vec![0xaa; inode.size as usize];
    let mut at = 0;
    while at < content.len() {
        let end = content.len().min(at + 100_003);
        let done = image.read(inode, at as u64, &mut content[at..end]).unwrap();
        assert_eq!(done, end - at);
        at = end;
    }
    assert_eq!(image.read(inode, inode.size, &mut [0; 10]).unwrap(), 0);
    let mut at = 0;
    for index in 0..inode.block_count() {
        image.prefetch_block(inode, index).unwrap();
        match image.block(inode, index).unwrap() {
            Block::Data(bytes) => assert_eq!(content[at..at + bytes.len()], *bytes),
            Block::Hole(length) => assert!(content[at..at + length].iter().all(|&b| b == 0)),
        }
        at += image.block(inode, index).unwrap().len();
    }
    assert_eq!(at as u64, inode.size);
    assert!(image.block(inode, inode.block_count()).unwrap().is_empty());
    content
}

pub fn mksquashfs(tree: &Path, image: &Path, arguments: &str) {
    let done = Command::new("mksquashfs")
        .args([tree, image])
        .args(["-noappend", "-no-progress", "-quiet", "-processors", "2"])
        .args(arguments.split_whitespace())
        .output()
        .expect("mksquashfs is needed: install squashfs-tools");
    assert!(done.status.success(), "mksquashfs {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

pub fn open(path: &Path) -> Squashfs {
    let source = Source::whole(Arc::new(File::open(path).unwrap())).unwrap();
    Squashfs::open(source, OpenOptions::default()).unwrap()
}

pub fn assert_equal(source: &BTreeMap<PathBuf, File_>, image: &BTreeMap<PathBuf, File_>, what: &str) {
    let names = |files: &BTreeMap<PathBuf, File_>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(source), names(image), "{what}: names");
    for (path, file) in source {
        let found = &image[path];
        let shown = |file: &File_| File_ { content: Vec::new(), ..file.clone() };
        assert_eq!(shown(file), shown(found), "{what}: {path:?}");
        assert!(file.content == found.content, "{what}: contents of {path:?}");
    }
}

/// Makes an image of the tree with these arguments and compares every entry.
fn check(arguments: &str) {
    let (tree, files) = tree();
    let place = scratch();
    let image = place.path().join("image");
    mksquashfs(tree.path(), &image, arguments);
    assert_equal(&files, &read_image(&open(&image)), arguments);
    assert_table_is_in_order(&open(&image));
}

/// From the first inode of the table, each leads to the next, and none is left out.
fn assert_table_is_in_order(image: &Squashfs) {
    let mut inodes = BTreeMap::new();
    image
        .walk(&mut |_, inode| {
            inodes.insert(inode.reference, Arc::clone(inode));
            Ok(())
        })
        .unwrap();
    let table: Vec<_> = inodes.keys().copied().collect();
    for (index, inode) in inodes.values().enumerate() {
        assert_eq!(image.inode_after(inode).unwrap(), table.get(index + 1).copied(), "{inode:?}");
    }
}

#[test]
fn images_of_every_compressor_are_equal_to_their_tree() {
    for compressor in ["gzip", "lzo", "lz4", "xz", "zstd"] {
        check(&format!("-comp {compressor}"));
    }
    check("-comp xz -Xbcj x86,arm");
    check("-comp lz4 -Xhc");
    check("-comp gzip -Xcompression-level 1 -Xwindow-size 10 -Xstrategy huffman_only,fixed");
}

#[test]
fn images_of_every_block_size_are_equal_to_their_tree() {
    for block in ["4K", "8K", "16K", "32K", "64K", "256K", "512K", "1M"] {
        check(&format!("-comp zstd -Xcompression-level 1 -b {block}"));
    }
}

#[test]
fn images_of_every_layout_are_equal_to_their_tree() {
    for arguments in [
        "-noI",
        "-noD",
        "-noF",
        "-noX",
        "-noI -noD -noF -noX",
        "-noI -noD -noF -noX -noId",
        "-no-fragments",
        "-always-use-fragments",
        "-tailends",
        "-no-exports",
        "-no-duplicates",
        "-no-sparse",
        "-nopad",
        "-b 4K -no-fragments",
        "-b 1M -always-use-fragments",
    ] {
        check(&format!("-comp lz4 {arguments}"));
    }
}

#[test]
fn libsquashfs_sees_the_same_in_an_image() {
    use squashfs_ng::read::{Archive, Data, Node, XattrType};
    fn compare(image: &Squashfs, path: &Path, node: Node<'_>, count: &mut usize) {
        let inode = inode_at(image, path);
        let what = format!("{path:?}");
        *count += 1;
        assert_eq!(u32::from(node.mode()) & 0o7777, inode.mode, "{what}");
        assert_eq!((node.uid().unwrap(), node.gid().unwrap()), (inode.uid, inode.gid), "{what}");
        assert_eq!(node.mtime(), inode.mtime, "{what}");
        assert_eq!(node.id(), inode.number, "{what}");
        let theirs: BTreeMap<_, _> = node.xattrs(XattrType::User).unwrap().into_iter().collect();
        let ours = image.xattrs(&inode).unwrap();
        let ours =
            ours.into_iter().filter_map(|(name, value)| Some((name.strip_prefix(b"user.")?.to_vec(), value)));
        // Some versions give names with the prefix.
        let short = |name: Vec<u8>| name.strip_prefix(b"user.").map(<[u8]>::to_vec).unwrap_or(name);
        let theirs: BTreeMap<_, _> = theirs.into_iter().map(|(name, value)| (short(name), value)).collect();
        assert_eq!(theirs, ours.collect(), "{what}");
        match node.data().unwrap() {
            Data::File(mut file) => assert!(file.to_bytes().unwrap() == read_file(image, &inode), "{what}"),
            Data::Dir(dir) => {
                assert_eq!(inode.kind(), FileKind::Directory, "{what}");
                for child in dir {
                    let child = child.unwrap();
                    let path = path.join(child.name().unwrap());
                    compare(image, &path, child, count);
                }
            }
            Data::Symlink(there) => match &inode.content {
                Content::Symlink { target } => {
                    assert_eq!(there.as_os_str().as_bytes(), &target[..], "{what}")
                }
                _ => panic!("{what} is a link"),
            },
            Data::Fifo => assert_eq!(inode.kind(), FileKind::Fifo, "{what}"),
            other => panic!("{what} is a {}", other.name()),
        }
    }
    let place = scratch();
    let (tree, image) = (place.path().join("tree"), place.path().join("image"));
    make_small_tree(&tree);
    for compressor in ["gzip", "xz", "lz4", "zstd"] {
        mksquashfs(&tree, &image, &format!("-b 8K -comp {compressor}"));
        let theirs = Archive::open(&image).unwrap();
        let ours = open(&image);
        let mut count = 0;
        compare(&ours, Path::new("/"), theirs.get_exists("/").unwrap(), &mut count);
        let mut all = 0;
        ours.walk(&mut |_, _| {
            all += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(count, all);
    }
}

/// The inode at a path whose last part is not followed.
fn inode_at(image: &Squashfs, path: &Path) -> Arc<Inode> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return image.inode(image.root()).unwrap();
    };
    let (_, parent) = image.resolve(parent).unwrap().unwrap();
    image.inode(image.lookup(&parent, name.as_bytes()).unwrap().unwrap()).unwrap()
}

/// The small tree as an image whose inodes and directories are not compressed, to be changed.
fn plain_image(place: &Path) -> (PathBuf, Vec<u8>) {
    let (tree, image) = (place.join("tree"), place.join("image"));
    make_small_tree(&tree);
    mksquashfs(&tree, &image, "-noI -noX -noId -b 4K -nopad");
    let bytes = fs::read(&image).unwrap();
    (image, bytes)
}

#[test]
fn many_threads_read_the_same_image() {
    let place = scratch();
    let (tree, path) = (place.path().join("tree"), place.path().join("image"));
    make_small_tree(&tree);
    mksquashfs(&tree, &path, "-b 4K -comp zstd");
    let source = Source::whole(Arc::new(File::open(&path).unwrap())).unwrap();
    let small = OpenOptions { data_cache_bytes: 0, meta_cache_bytes: 0, inode_cache: 0 };
    let image = Squashfs::open(source, small).unwrap();
    let expected = read_image(&image);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_equal(&expected, &read_image(&image), "threads"));
        }
    });
}

#[test]
fn images_are_opened_for_what_they_are_and_others_refused() {
    let place = scratch();
    let (path, bytes) = plain_image(place.path());
    let at = |name: &str| place.path().join(name);
    let is_image = |name: &str, format| {
        let image = skiff::image::open(&at(name)).unwrap();
        assert_eq!(image.format, format, "{name}");
        let found = image.tree().unwrap().read(Path::new("/a/b/again"), 700).unwrap();
        assert_eq!(found.unwrap(), noise(2, 700), "{name}");
    };
    is_image("image", Format::Squashfs);
    is_image("tree", Format::Sandbox);
    let launch = b"#!/usr/bin/env run-singularity\n";
    fs::write(at("launched"), [&launch[..], &bytes].concat()).unwrap();
    is_image("launched", Format::Squashfs);
    fs::write(at("padded"), [&launch[..], &[0; 4096 - 31], &bytes].concat()).unwrap();
    is_image("padded", Format::Squashfs);

    // A SIF without its magic, but with all else that stands before the superblock.
    let header = [&launch[..], b"\0", &[0xa5; 10], b"01\0", &[0; 4096 - 45]].concat();
    fs::write(at("magic"), [&header, &bytes[..]].concat()).unwrap();
    fs::write(at("empty"), b"").unwrap();
    fs::write(at("script"), b"#!/bin/sh\necho no image\n").unwrap();
    fs::write(at("ext"), [&[0; 1080][..], &[0x53, 0xef], &[0; 3000]].concat()).unwrap();
    fs::write(at("old"), [&bytes[..28], &[3], &bytes[29..]].concat()).unwrap();
    fs::write(at("big-endian"), [b"sqsh", &bytes[4..]].concat()).unwrap();
    fs::write(at("short"), &bytes[..bytes.len() / 2]).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    for (name, says) in [
        ("missing", "no such file"),
        ("empty", "empty"),
        ("script", "not an image"),
        ("ext", "ext file system"),
        ("magic", "its header is damaged"),
        ("old", "version 3.0"),
        ("big-endian", "big-endian"),
        ("short", "truncated"),
        ("pipe", "neither a file nor a directory"),
    ] {
        let error = skiff::image::open(&at(name)).and_then(|image| image.tree()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(says) && text.contains(name), "{text}");
        assert!(error.hint.is_some(), "{name} has no hint");
    }
    drop(path);
}

#[test]
fn trees_answer_the_same_for_a_directory_and_its_image() {
    let place = scratch();
    let (path, _) = plain_image(place.path());
    symlink("/a", place.path().join("tree/abs")).unwrap();
    symlink("../../../../abs/b/link/tail", place.path().join("tree/out")).unwrap();
    symlink("round", place.path().join("tree/round")).unwrap();
    mksquashfs(&place.path().join("tree"), &path, "-comp lz4");
    let tree = |path: &Path| -> Tree { skiff::image::open(path).unwrap().tree().unwrap() };
    let (image, directory) = (tree(&path), tree(&place.path().join("tree")));
    for name in [
        "/",
        "",
        "/a",
        "abs",
        "/abs/",
        "/out",
        "/a/fifo",
        "/a/tail/x",
        "/nothing",
        "/a/b/link",
        "/abs/../out",
    ] {
        let name = Path::new(name);
        assert_eq!(image.lookup(name).unwrap(), directory.lookup(name).unwrap(), "{name:?}");
        assert_eq!(
            image.entry(name).unwrap().map(|e| (e.path, e.kind)),
            directory.entry(name).unwrap().map(|e| (e.path, e.kind))
        );
        assert_eq!(image.link(name).unwrap(), directory.link(name).unwrap(), "{name:?}");
        assert_eq!(image.read(name, 1 << 20).unwrap(), directory.read(name, 1 << 20).unwrap(), "{name:?}");
        assert_eq!(image.list(name).ok(), directory.list(name).ok(), "{name:?}");
    }
    assert_eq!(image.lookup(Path::new("/out")).unwrap().unwrap().path, Path::new("/a/tail"));
    assert_eq!(image.list(Path::new("/abs")).unwrap(), ["b", "blocks", "fifo", "hole", "tail"]);
    for tree in [&image, &directory] {
        assert_eq!(tree.lookup(Path::new("/round")).unwrap_err().errno(), Some(libc::ELOOP));
        assert!(tree.read(Path::new("/out"), 699).unwrap_err().to_string().contains("longer than 699"));
        assert!(tree.list(Path::new("/out")).is_err());
    }
}

/// A tree whose image is small and has everything: fragments, blocks, a hole, an index, xattrs, devices.
fn make_small_tree(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::create_dir_all(at("a/b")).unwrap();
    fs::create_dir(at("large")).unwrap();
    for number in 0..600 {
        fs::write(at("large").join(format!("{number:03}-{}", "name".repeat(8))), b"").unwrap();
    }
    fs::write(at("a/blocks"), noise(1, 14_000)).unwrap();
    fs::write(at("a/tail"), noise(2, 700)).unwrap();
    File::create(at("a/hole")).unwrap().set_len(50_000).unwrap();
    fs::hard_link(at("a/tail"), at("a/b/again")).unwrap();
    symlink("../../a", at("a/b/link")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("a/fifo"), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    for name in ["a", "a/tail", "a/hole"] {
        try_xattr(&at(name), "user.one", &noise(5, 200));
        try_xattr(&at(name), "user.two", name.as_bytes());
    }
}
