//! Bases that are cut short, damaged or made to do harm.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use skiff::error::Kind;
use skiff::image::source::Source;
use skiff::image::squashfs::{Content, OpenOptions};

use super::super::reader::mksquashfs;
use super::*;

/// A base whose inodes and data are stored as they are, so that they can be found and changed.
fn plain_base(place: &Path) -> PathBuf {
    let tree = place.join("tree");
    fs::create_dir_all(&tree).unwrap();
    for name in ["one", "two", "three"] {
        fs::write(tree.join(name), noise(name.len() as u64 * 7 + u64::from(name.as_bytes()[0]), 300_000))
            .unwrap();
    }
    fs::write(tree.join("small"), b"small file").unwrap();
    fs::write(tree.join("tiny"), b"tiny").unwrap();
    let base = place.join("base");
    mksquashfs(&tree, &base, "-comp gzip -noI -noD -noF -noX");
    base
}

fn gzip(threads: usize) -> PackOptions {
    let kind = "gzip".parse().unwrap();
    let compression = skiff::pack::Compression { kind, level: None };
    PackOptions { compression, digest: false, ..options(threads) }
}

/// Where the fields of a file's inode are in the image.
fn inode_place(base: &Squashfs, path: &str) -> u64 {
    let (_, inode) = base.resolve(Path::new(path)).unwrap().unwrap();
    assert!(matches!(inode.content, Content::Regular(_)));
    let (block, offset) = (inode.reference.0 >> 16, inode.reference.0 & 0xffff);
    base.superblock().inode_table + block + 2 + offset
}

/// Packs the base with one small layer over it.
fn pack_over(place: &Path, base: &Path) -> Result<BTreeMap<PathBuf, File_>, Error> {
    let layer = place.join("layer");
    fs::create_dir_all(&layer).unwrap();
    fs::write(layer.join("new"), b"new").unwrap();
    let file = Arc::new(File::open(base).unwrap());
    let image = Squashfs::open(Source::whole(file).unwrap(), OpenOptions::default())?;
    let output = place.join("image");
    let result = try_pack(Some(&image), &[layer], &output, &gzip(2));
    if result.is_err() {
        let mut start = [0; 4];
        let _shorter = File::open(&output).unwrap().read_at(&mut start, 0).unwrap();
        assert_eq!(start, [0; 4], "a failure left an image");
    }
    result.map(|_| read_image(&open(&output)))
}

#[test]
fn blocks_outside_the_image_are_refused() {
    let place = scratch();
    let path = plain_base(place.path());
    let clean = fs::read(&path).unwrap();
    let base = open(&path);
    let one = inode_place(&base, "/one") as usize;
    let small = inode_place(&base, "/small") as usize;
    assert!(pack_over(place.path(), &path).is_ok());
    let length = clean.len() as u32;
    // Start of the blocks, size of one, fragment, offset in the fragment.
    for (at, value, reason) in [
        (one + 16, length - 1000, "outside the image"),
        (one + 16, u32::MAX, "outside the image"),
        (one + 32, 0x0180_0000, "impossible size"),
        (one + 36, 0x0100_0000, "impossible size"),
        (small + 20, 7, "does not exist"),
        (small + 24, 131_072 - 3, "leaves its fragment"),
        (small + 24, u32::MAX, "leaves its fragment"),
    ] {
        let mut bytes = clean.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        fs::write(&path, &bytes).unwrap();
        let error = pack_over(place.path(), &path).expect_err(reason);
        assert_eq!(error.kind, Kind::Image);
        assert!(error.to_string().contains(reason), "{reason}: {error}");
    }
}

#[test]
fn files_that_share_overlapping_blocks_cost_no_more_than_the_base() {
    let place = scratch();
    let path = plain_base(place.path());
    let mut bytes = fs::read(&path).unwrap();
    let base = open(&path);
    let start = |path: &str| inode_place(&base, path) as usize + 16;
    let first = u32::from_le_bytes(bytes[start("/one")..start("/one") + 4].try_into().unwrap());
    for (name, shift) in [("/two", 1000), ("/three", 70_000)] {
        bytes[start(name)..start(name) + 4].copy_from_slice(&(first + shift).to_le_bytes());
    }
    // A tail end inside another's.
    let offset = inode_place(&base, "/tiny") as usize + 24;
    let other = inode_place(&base, "/small") as usize + 24;
    let inside = u32::from_le_bytes(bytes[other..other + 4].try_into().unwrap()) + 3;
    bytes[offset..offset + 4].copy_from_slice(&inside.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let expected = read_image(&open(&path));
    let files = pack_over(place.path(), &path).unwrap();
    for path in ["/one", "/two", "/three", "/small", "/tiny"] {
        assert!(content(&files, path) == content(&expected, path), "{path}");
    }
    assert_eq!(content(&files, "/tiny"), b"ll f");
    assert!(fs::metadata(place.path().join("image")).unwrap().len() < bytes.len() as u64);
}

#[test]
fn a_directory_in_itself_ends_the_walk() {
    let place = scratch();
    let tree = place.path().join("tree");
    fs::create_dir_all(tree.join("dir")).unwrap();
    fs::write(tree.join("dir/file"), b"").unwrap();
    let path = place.path().join("base");
    mksquashfs(&tree, &path, "-comp gzip -noI -noD -noF -noX");
    let base = open(&path);
    let mut bytes = fs::read(&path).unwrap();
    // The listing of "dir" names an empty file; make that entry the directory itself.
    let (_, dir) = base.resolve(Path::new("/dir")).unwrap().unwrap();
    let at = base.superblock().directory_table as usize;
    let entry = bytes[at..].windows(4).position(|name| name == b"file").unwrap() + at - 8;
    bytes[entry..entry + 2].copy_from_slice(&((dir.reference.0 & 0xffff) as u16).to_le_bytes());
    bytes[entry + 4..entry + 6].copy_from_slice(&1_u16.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let error = pack_over(place.path(), &path).unwrap_err();
    assert!(error.to_string().contains("second name"), "{error}");
    // Also where nobody looks.
    let layer = place.path().join("layer");
    fs::write(layer.join("dir"), b"a file hides it").unwrap();
    let error = pack_over(place.path(), &path).unwrap_err();
    assert!(error.to_string().contains("second name"), "{error}");
}

#[test]
fn a_base_that_is_cut_short_while_it_is_copied_is_an_error() {
    let place = scratch();
    let path = plain_base(place.path());
    let layer = place.path().join("layer");
    fs::create_dir(&layer).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let length = file.metadata().unwrap().len();
    for digest in [false, true] {
        let bytes = fs::read(&path).unwrap();
        let image = open(&path);
        // All of its tables are read, and held, before its end goes.
        let _files = read_image(&image);
        file.set_len(200_000).unwrap();
        let options = PackOptions { digest, ..gzip(2) };
        let output = place.path().join("image");
        let error = try_pack(Some(&image), std::slice::from_ref(&layer), &output, &options).unwrap_err();
        assert_eq!(error.kind, Kind::Image, "{error}");
        assert_ne!(fs::read(&output).unwrap()[..4], *b"hsqs");
        file.write_all_at(&bytes, 0).unwrap();
        assert_eq!(file.metadata().unwrap().len(), length);
    }
}

#[test]
fn damage_anywhere_in_the_tables_is_an_error_or_another_image_and_no_panic() {
    let place = scratch();
    let path = plain_base(place.path());
    let clean = fs::read(&path).unwrap();
    let tables = open(&path).superblock().inode_table as usize;
    let mut refused = 0;
    for at in (tables..clean.len().min(tables + 1200)).step_by(3) {
        let mut bytes = clean.clone();
        bytes[at] ^= 0x91;
        fs::write(&path, &bytes).unwrap();
        let layer = place.path().join("layer");
        fs::create_dir_all(&layer).unwrap();
        let file = Arc::new(File::open(&path).unwrap());
        let Ok(image) = Squashfs::open(Source::whole(file).unwrap(), OpenOptions::default()) else {
            continue;
        };
        match try_pack(Some(&image), &[layer], &place.path().join("image"), &gzip(2)) {
            Ok(summary) => assert!(summary.bytes < clean.len() as u64 + 65_536),
            Err(error) => {
                assert_ne!(error.kind, Kind::Internal, "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 20);
}

#[test]
fn a_full_disk_while_copying_is_an_error_that_says_so() {
    let place = scratch();
    let base = open(&plain_base(place.path()));
    let full = File::options().write(true).open("/dev/full").unwrap();
    // Small enough a header that the first write is the copy's.
    let watch = (&Progress::default(), &AtomicBool::new(false));
    let layers = Layers { base: Some(&base), directories: &[] };
    let error = pack_layers(&layers, &full, 0, &gzip(1), watch).unwrap_err();
    assert_eq!(error.errno(), Some(libc::ENOSPC), "{error}");
}
