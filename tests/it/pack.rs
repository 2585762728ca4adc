//! The SquashFS writer: trees packed by it, read by our reader, by the kernel, by unsquashfs and by libsquashfs,
//! and compared entry by entry; the same bytes at any number of threads; failures that say what failed.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use skiff::error::{Error, Kind};
use skiff::image::source::Source;
use skiff::image::squashfs::{FileKind, OpenOptions, Part, Squashfs};
use skiff::pack::{Compression, CompressionKind, PackOptions, PackSummary, Progress, pack_directory};

use super::harness::{Need, able};
use super::reader::{
    File_, assert_equal, make_tree, noise, open, read_image, read_source, scratch, try_xattr,
};

/// Where the image begins in the files written here: a SIF has its partition at some such place.
const OFFSET: u64 = 8192;

fn options(threads: usize) -> PackOptions {
    PackOptions { threads, ..PackOptions::default() }
}

fn pack_to(tree: &Path, output: &File, options: &PackOptions) -> Result<PackSummary, Error> {
    let (progress, cancel) = (Progress::default(), AtomicBool::new(false));
    pack_directory(tree, output, OFFSET, options, (&progress, &cancel))
}

/// Packs into a new file beside nothing else; gives what there was to say.
fn pack(tree: &Path, image: &Path, options: &PackOptions) -> PackSummary {
    let output = File::options().read(true).write(true).create(true).truncate(true).open(image).unwrap();
    let summary = pack_to(tree, &output, options).unwrap();
    assert_eq!(output.metadata().unwrap().len(), OFFSET + summary.bytes);
    assert_eq!(summary.bytes % 4096, 0);
    let mut before = vec![1; OFFSET as usize];
    output.read_exact_at(&mut before, 0).unwrap();
    assert!(before.iter().all(|&byte| byte == 0), "wrote before its place");
    summary
}

fn open_packed(image: &Path) -> Squashfs {
    let file = Arc::new(File::open(image).unwrap());
    let length = file.metadata().unwrap().len() - OFFSET;
    Squashfs::open(Source::new(file, OFFSET, length), OpenOptions::default()).unwrap()
}

/// The tree as it should be in an image, which knows no time before 1970.
fn expected(root: &Path) -> BTreeMap<PathBuf, File_> {
    let mut files = read_source(root);
    for (path, file) in &mut files {
        let below = path.strip_prefix("/").unwrap();
        let time = fs::symlink_metadata(root.join(below)).unwrap().mtime();
        file.mtime = u32::try_from(time.clamp(0, i64::from(u32::MAX))).unwrap();
    }
    files
}

#[test]
fn a_packed_tree_reads_back_equal_with_every_compressor_and_block_size() {
    let place = scratch();
    let tree = place.path().join("tree");
    fs::create_dir(&tree).unwrap();
    make_tree(&tree);
    let expected = expected(&tree);
    let image = place.path().join("image");
    let kinds = ["zstd", "gzip", "xz", "lz4", "lzo"].map(|name| (name, 128 * 1024));
    let sizes = [4096, 16_384, 1 << 20].map(|size| ("zstd", size));
    for (name, block_bytes) in kinds.into_iter().chain(sizes) {
        let kind: CompressionKind = name.parse().unwrap();
        let compression = Compression { kind, level: None };
        let summary = pack(&tree, &image, &PackOptions { compression, block_bytes, ..options(2) });
        assert_equal(&expected, &read_image(&open_packed(&image)), &format!("{name} {block_bytes}"));
        assert_eq!(summary.warnings.clamped_times.count, 2);
        assert!(summary.duplicates >= 1);
    }
}

/// Unmounts when it goes.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(&self.0).status().unwrap();
        assert!(done.success() || thread::panicking());
    }
}

#[test]
fn the_kernel_and_unsquashfs_find_a_packed_tree_as_it_was() {
    if !able(&[Need::Root]) {
        return;
    }
    let place = scratch();
    let at = |name: &str| place.path().join(name);
    fs::create_dir(at("tree")).unwrap();
    make_tree(&at("tree"));
    let expected = expected(&at("tree"));
    pack(&at("tree"), &at("image"), &options(2));
    fs::create_dir(at("mount")).unwrap();
    let loop_options = format!("loop,ro,offset={OFFSET}");
    let mounted = Command::new("mount").args(["-o", &loop_options]).args([at("image"), at("mount")]).status();
    assert!(mounted.unwrap().success(), "the kernel refuses the image");
    let mounted = Mounted(at("mount"));
    assert_equal(&expected, &read_source(&mounted.0), "kernel");
    drop(mounted);
    let unpacked = Command::new("unsquashfs")
        .args(["-no-progress", "-quiet", "-o", &OFFSET.to_string(), "-d"])
        .args([at("unpacked"), at("image")])
        .output()
        .unwrap();
    assert!(unpacked.status.success(), "unsquashfs: {}", String::from_utf8_lossy(&unpacked.stderr));
    assert_equal(&expected, &read_source(&at("unpacked")), "unsquashfs");
}

#[test]
fn libsquashfs_finds_the_names_contents_and_xattrs() {
    use squashfs_ng::read::{Archive, Data, XattrType};
    let place = scratch();
    let tree = place.path().join("tree");
    fs::create_dir_all(tree.join("a/b/c")).unwrap();
    for number in 0..700 {
        fs::write(tree.join(format!("a/file-{number:04}")), noise(number, number as usize * 37)).unwrap();
    }
    fs::write(tree.join("a/b/c/long"), noise(1, 1_000_000)).unwrap();
    symlink("../b/c", tree.join("a/link")).unwrap();
    try_xattr(&tree.join("a/b/c/long"), "user.colour", b"blue");
    try_xattr(&tree.join("a/b"), "user.shape", b"round");
    let image = place.path().join("image");
    let output = File::create(&image).unwrap();
    let watch = (&Progress::default(), &AtomicBool::new(false));
    pack_directory(&tree, &output, 0, &options(2), watch).unwrap();
    let archive = Archive::open(&image).unwrap();
    let files = read_source(&tree);
    assert_eq!(archive.size() as usize, files.len());
    for (path, file) in files {
        let node = archive.get_exists(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        assert_eq!(u32::from(node.mode()) & 0o7777, file.mode, "{path:?}");
        assert_eq!((node.uid().unwrap(), node.gid().unwrap()), file.owner, "{path:?}");
        assert_eq!(node.mtime(), file.mtime, "{path:?}");
        if !file.xattrs.is_empty() {
            let found = node.xattrs(XattrType::User).unwrap();
            let found: BTreeMap<_, _> =
                found.into_iter().map(|(name, value)| ([b"user.", &name[..]].concat(), value)).collect();
            assert_eq!(found, file.xattrs, "{path:?}");
        }
        match node.data().unwrap() {
            Data::File(mut content) => assert!(content.to_bytes().unwrap() == file.content, "{path:?}"),
            Data::Symlink(target) => assert_eq!(target.into_os_string().into_encoded_bytes(), file.target),
            Data::Dir(_) => assert_eq!(file.kind, FileKind::Directory),
            _ => panic!("{path:?} is of another kind"),
        }
    }
}

#[test]
fn the_image_is_the_same_at_1_2_and_8_threads_and_from_a_copy_of_the_tree() {
    let place = scratch();
    let at = |name: &str| place.path().join(name);
    fs::create_dir(at("tree")).unwrap();
    make_tree(&at("tree"));
    let copied = Command::new("cp").arg("-a").args([at("tree"), at("copy")]).status().unwrap();
    assert!(copied.success());
    let mut images = Vec::new();
    for (tree, threads, memory_bytes) in
        [("tree", 1, 1 << 20), ("tree", 2, 64 << 20), ("tree", 8, 64 << 20), ("copy", 2, 8 << 20)]
    {
        let time = Some(1_700_000_000);
        let options = PackOptions { time, memory_bytes, digest: true, ..options(threads) };
        let summary = pack(&at(tree), &at("image"), &options);
        images.push((fs::read(at("image")).unwrap(), summary.content_digest.unwrap()));
    }
    for (index, image) in images.iter().enumerate() {
        assert!(*image == images[0], "image {index} differs from the first");
    }
    // Nothing in it is newer than the time that was asked for.
    assert_eq!(open_packed(&at("image")).superblock().time, 1_700_000_000);
    assert!(read_image(&open_packed(&at("image"))).values().all(|file| file.mtime <= 1_700_000_000));
}

#[test]
fn what_every_start_reads_is_stored_as_it_is() {
    let place = scratch();
    let tree = place.path().join("tree");
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::create_dir_all(tree.join("lib")).unwrap();
    fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n".repeat(20)).unwrap();
    fs::write(tree.join("etc/motd"), "welcome\n".repeat(20)).unwrap();
    // Three blocks, one of them a hole, and a tail.
    let library: Vec<u8> =
        (0..400_000_u32).map(|at| if at >> 17 == 1 { 0 } else { (at >> 8) as u8 }).collect();
    fs::write(tree.join("lib/libc.so.6"), &library).unwrap();
    fs::write(tree.join("lib/libm.so.6"), &library[1..]).unwrap();
    let image = place.path().join("image");
    pack(&tree, &image, &options(2));
    let packed = open_packed(&image);
    assert_equal(&expected(&tree), &read_image(&packed), "plain");
    let is_stored = |path: &str| {
        let (_, inode) = packed.resolve(Path::new(path)).unwrap().unwrap();
        let blocks = 0..inode.size.div_ceil(128 * 1024);
        blocks.map(|index| matches!(packed.part(&inode, index).unwrap(), Part::Stored(_))).collect::<Vec<_>>()
    };
    assert_eq!(is_stored("etc/passwd"), [true]);
    assert_eq!(is_stored("lib/libc.so.6"), [true, false, true, true]);
    assert_eq!(is_stored("etc/motd"), [false]);
    assert_eq!(is_stored("lib/libm.so.6"), [false; 4]);
    // Byte for byte, and the end of the file is the end.
    let (_, inode) = packed.resolve(Path::new("lib/libc.so.6")).unwrap().unwrap();
    let mut tail = vec![0; 400_000 - 3 * 128 * 1024];
    let Part::Stored(position) = packed.part(&inode, 3).unwrap() else { panic!("it is stored as it is") };
    packed.read_stored(position, &mut tail).unwrap();
    assert_eq!(tail, library[3 * 128 * 1024..]);
}

#[test]
fn one_owner_is_the_owner_of_everything() {
    let place = scratch();
    let tree = place.path().join("tree");
    fs::create_dir_all(tree.join("a")).unwrap();
    fs::write(tree.join("a/b"), b"x").unwrap();
    let image = place.path().join("image");
    pack(&tree, &image, &PackOptions { one_owner: Some((7, 4_000_000_000)), ..options(1) });
    let files = read_image(&open_packed(&image));
    assert_eq!(files.len(), 3);
    assert!(files.values().all(|file| file.owner == (7, 4_000_000_000)));
}

#[test]
fn a_directory_of_66000_entries_is_listed_whole_and_found_by_name() {
    let place = scratch();
    let tree = place.path().join("tree");
    fs::create_dir(&tree).unwrap();
    for number in 0..66_000 {
        File::create(tree.join(format!("{number:05}-{}", "n".repeat(number % 90)))).unwrap();
    }
    let image = place.path().join("image");
    assert_eq!(pack(&tree, &image, &options(2)).inodes, 66_001);
    // `read_image` looks every name up.
    assert_equal(&expected(&tree), &read_image(&open_packed(&image)), "66000");
}

#[test]
fn a_sparse_file_beyond_4_gib_keeps_its_data_and_costs_nothing() {
    let place = scratch();
    let tree = place.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let file = File::create(tree.join("sparse")).unwrap();
    let (size, data) = (5_000_000_003, 4_400_000_000);
    file.set_len(size).unwrap();
    file.write_all_at(b"here", data).unwrap();
    let image = place.path().join("image");
    assert!(pack(&tree, &image, &options(2)).bytes < 100_000);
    let image = open_packed(&image);
    let (_, inode) = image.resolve(Path::new("/sparse")).unwrap().unwrap();
    assert_eq!(inode.size, size);
    let mut found = [9; 8];
    assert_eq!(image.read(&inode, data - 2, &mut found).unwrap(), 8);
    assert_eq!(&found, b"\0\0here\0\0");
    assert_eq!(image.read(&inode, size - 3, &mut found).unwrap(), 3);
}

#[test]
fn a_tree_deeper_than_a_path_may_be_long_is_packed_to_its_ground() {
    let place = scratch();
    let tree = place.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let mut dir: OwnedFd = File::open(&tree).unwrap().into();
    let name = |level: usize| CString::new(format!("level-{level:04}-{}", "x".repeat(20))).unwrap();
    let levels = 300;
    for level in 0..levels {
        rustix::fs::mkdirat(&dir, name(level).as_c_str(), Mode::from_raw_mode(0o755)).unwrap();
        let below = rustix::fs::openat(&dir, name(level).as_c_str(), OFlags::DIRECTORY, Mode::empty());
        // Sorted after the directory: read when the walk has come back up.
        let flags = OFlags::CREATE | OFlags::WRONLY;
        let file = rustix::fs::openat(&dir, c"zz", flags, Mode::from_raw_mode(0o644)).unwrap();
        File::from(file).write_all_at(level.to_string().as_bytes(), 0).unwrap();
        dir = below.unwrap();
    }
    let image = place.path().join("image");
    pack(&tree, &image, &options(2));
    let image = open_packed(&image);
    let mut inode = image.inode(image.root()).unwrap();
    for level in 0..levels {
        let file = image.inode(image.lookup(&inode, b"zz").unwrap().unwrap()).unwrap();
        let mut content = vec![0; file.size as usize];
        image.read(&file, 0, &mut content).unwrap();
        assert_eq!(content, level.to_string().as_bytes());
        inode = image.inode(image.lookup(&inode, name(level).as_bytes()).unwrap().unwrap()).unwrap();
    }
}

#[test]
fn an_image_inside_the_tree_does_not_pack_itself() {
    let place = scratch();
    fs::write(place.path().join("other"), b"other").unwrap();
    let image = place.path().join("image");
    let summary = pack(place.path(), &image, &options(2));
    assert_eq!(summary.warnings.skipped_output.first.as_deref(), Some(&*image));
    let names: Vec<_> = read_image(&open_packed(&image)).into_keys().collect();
    assert_eq!(names, [Path::new("/"), Path::new("/other")]);
}

fn refused(tree: &Path, options: &PackOptions) -> Error {
    let output = tempfile::tempfile_in("/var/tmp").unwrap();
    pack_to(tree, &output, options).unwrap_err()
}

#[test]
fn a_full_disk_is_an_error_that_says_so() {
    let place = scratch();
    fs::write(place.path().join("data"), noise(1, 30_000_000)).unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let error = pack_to(place.path(), &full, &options(2)).unwrap_err();
    assert_eq!(error.to_string(), "cannot write the image: no space left on device");
    assert_eq!(error.errno(), Some(libc::ENOSPC));
    assert!(error.hint.unwrap().contains("free some space"));
}

#[test]
fn a_file_system_that_fills_up_half_way_stops_everything() {
    if !able(&[Need::Root]) {
        return;
    }
    let place = scratch();
    let at = |name: &str| place.path().join(name);
    fs::create_dir(at("tree")).unwrap();
    for number in 0..40 {
        fs::write(at("tree").join(number.to_string()), noise(number, 1_000_000)).unwrap();
    }
    fs::create_dir(at("small")).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "none"]).arg(at("small")).status();
    assert!(mounted.unwrap().success());
    let _mounted = Mounted(at("small"));
    let output = File::create(at("small").join("image")).unwrap();
    let error = pack_to(&at("tree"), &output, &options(2)).unwrap_err();
    assert_eq!(error.errno(), Some(libc::ENOSPC));
    drop(output);
}

#[test]
fn a_set_flag_stops_packing_soon() {
    let place = scratch();
    for number in 0..100 {
        fs::write(place.path().join(number.to_string()), noise(number, 1_000_000)).unwrap();
    }
    let (progress, cancel) = (Progress::default(), AtomicBool::new(false));
    let output = tempfile::tempfile_in("/var/tmp").unwrap();
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            while progress.bytes_written.load(Ordering::Relaxed) == 0 {
                thread::yield_now();
            }
            cancel.store(true, Ordering::Relaxed);
        });
        // Slow enough that it cannot end first.
        let compression = Compression { kind: CompressionKind::Xz, level: Some(9) };
        let options = PackOptions { compression, ..options(2) };
        pack_directory(place.path(), &output, 0, &options, (&progress, &cancel))
    });
    let error = result.unwrap_err();
    assert_eq!((error.kind, error.exit_code()), (Kind::Interrupted, 130));
    assert!(progress.bytes_read.load(Ordering::Relaxed) < 100_000_000);
    // No superblock: what is there is not an image.
    let mut start = [1; 4];
    output.read_exact_at(&mut start, 0).unwrap();
    assert_eq!(start, [0; 4]);
}

#[test]
fn a_file_that_may_not_be_read_is_named() {
    let place = scratch();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(place.path().join("dir")).unwrap();
    fs::write(place.path().join("dir/secret"), b"x").unwrap();
    fs::set_permissions(place.path().join("dir/secret"), fs::Permissions::from_mode(0o000)).unwrap();
    let error = thread::scope(|scope| {
        let as_someone = scope.spawn(|| {
            // The thread's own, and that of the threads it starts; a user who may read everything stays one.
            nix::unistd::setfsuid(nix::unistd::Uid::from_raw(1));
            refused(place.path(), &options(2))
        });
        as_someone.join().unwrap()
    });
    let path = place.path().join("dir/secret");
    assert_eq!(error.to_string(), format!("cannot open {path:?}: permission denied"));
    assert_eq!(error.kind, Kind::Io);
    assert!(error.hint.is_some());
}

#[test]
fn a_file_shorter_than_it_was_listed_is_an_error() {
    // Files of sysfs are listed with 4096 bytes and have fewer.
    let tree = Path::new("/sys/devices/system/cpu/cpu0/topology");
    if !tree.is_dir() {
        eprintln!("skipped: no {tree:?}");
        return;
    }
    let error = refused(tree, &options(2));
    assert!(error.to_string().contains("it became shorter than the 4096 bytes"), "{error}");
    assert!(error.to_string().contains("topology"), "{error}");
    assert!(error.hint.is_some());
}

#[test]
fn trees_and_options_that_make_no_sense_are_refused() {
    let place = scratch();
    let missing = refused(&place.path().join("missing"), &options(1));
    assert_eq!(missing.errno(), Some(libc::ENOENT));
    fs::write(place.path().join("file"), b"").unwrap();
    assert_eq!(refused(&place.path().join("file"), &options(1)).errno(), Some(libc::ENOTDIR));
    for block_bytes in [0, 2048, 100_000, 2 << 20] {
        let error = refused(place.path(), &PackOptions { block_bytes, ..options(1) });
        assert_eq!(error.kind, Kind::Usage);
    }
    let compression = Compression { kind: CompressionKind::Zstd, level: Some(0) };
    assert_eq!(refused(place.path(), &PackOptions { compression, ..options(1) }).kind, Kind::Usage);
}

/// Something to put into a random tree.
#[derive(Debug, Clone)]
enum Thing {
    File { seed: u64, size: usize },
    Zeros(usize),
    Link(String),
    Hardlink(usize),
    Fifo,
}

fn things() -> impl Strategy<Value = Vec<(String, Thing)>> {
    let name = prop::collection::vec("[a-c]{1,2}", 1..4).prop_map(|names| names.join("/"));
    let thing = prop_oneof![
        6 => (0..4_u64, prop_oneof![0..300_usize, 4090..4100_usize, 8190..8200_usize, 0..300_000_usize])
            .prop_map(|(seed, size)| Thing::File { seed, size }),
        1 => (1..50_000_usize).prop_map(Thing::Zeros),
        1 => "[a-z/.]{1,40}".prop_map(Thing::Link),
        2 => (0..20_usize).prop_map(Thing::Hardlink),
        1 => Just(Thing::Fifo),
    ];
    prop::collection::vec((name, thing), 0..40)
}

/// Makes what can be made: a name that is taken, or a file where a directory should be, is left out.
fn plant(tree: &Path, things: &[(String, Thing)]) {
    let mut made: Vec<PathBuf> = Vec::new();
    for (name, thing) in things {
        let path = tree.join(name);
        let parent = path.parent().unwrap();
        if fs::create_dir_all(parent).is_err() || path.symlink_metadata().is_ok() {
            continue;
        }
        match thing {
            Thing::File { seed, size } => fs::write(&path, noise(*seed, *size)).unwrap(),
            Thing::Zeros(size) => fs::write(&path, vec![0; *size]).unwrap(),
            Thing::Link(target) => symlink(target, &path).unwrap(),
            Thing::Hardlink(which) => match made.get(*which) {
                Some(first) => rustix::fs::linkat(CWD, first, CWD, &path, AtFlags::empty()).unwrap(),
                None => continue,
            },
            Thing::Fifo => rustix::fs::mkfifoat(CWD, &path, Mode::from_raw_mode(0o600)).unwrap(),
        }
        made.push(path);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_small_tree_reads_back_equal(
        things in things(),
        threads in 1..4_usize,
        block_log in 12..21_u32,
        memory_bytes in prop_oneof![Just(0_u64), Just(1 << 24)],
    ) {
        let place = scratch();
        let tree = place.path().join("tree");
        fs::create_dir(&tree).unwrap();
        plant(&tree, &things);
        let image = place.path().join("image");
        let output = File::create(&image).unwrap();
        let options = PackOptions { block_bytes: 1 << block_log, memory_bytes, ..options(threads) };
        let watch = (&Progress::default(), &AtomicBool::new(false));
        pack_directory(&tree, &output, 0, &options, watch).unwrap();
        assert_equal(&expected(&tree), &read_image(&open(&image)), "random tree");
    }
}
