//! Images that no tool makes: changed by hand in a place, or damaged in thousands of ways. An error at worst,
//! never a panic, a hang, or more memory than a process that may have 64 MiB more gets.

use super::*;

#[test]
fn a_large_directory_without_an_index_is_listed_and_searched_as_well() {
    let place = scratch();
    let (path, mut bytes) = plain_image(place.path());
    let image = open(&path);
    let (_, large) = image.resolve(Path::new("/large")).unwrap().unwrap();
    let with_index = list_in_pieces(&image, &large, 7);
    assert_eq!(with_index.len(), 600);
    // The number of index entries of an extended directory inode is 32 bytes in.
    let reference = large.reference.0;
    let at = (image.superblock().inode_table + (reference >> 16) + 2 + (reference & 0xffff)) as usize;
    assert_eq!(bytes[at], 8, "an extended directory");
    assert_ne!(bytes[at + 32..at + 34], [0, 0], "an index");
    bytes[at + 32..at + 34].fill(0);
    fs::write(&path, bytes).unwrap();
    let image = open(&path);
    let large = image.inode(InodeRef(reference)).unwrap();
    assert_eq!(list_in_pieces(&image, &large, 7), with_index);
    for (name, _, _, reference) in with_index {
        assert_eq!(image.lookup(&large, &name).unwrap(), Some(reference));
    }
    assert_eq!(image.lookup(&large, b"599-nothing").unwrap(), None);
    assert_eq!(image.lookup(&large, b"zzz").unwrap(), None);
}

#[test]
fn a_directory_that_contains_itself_ends_a_walk_with_an_error() {
    let place = scratch();
    let (path, mut bytes) = plain_image(place.path());
    let image = open(&path);
    let (_, a) = image.resolve(Path::new("/a")).unwrap().unwrap();
    // The entry of "b": offset u16, number i16, type 1, length 0, name.
    let table = image.superblock().directory_table as usize;
    let entry = bytes[table..].windows(5).position(|bytes| bytes == b"\x01\0\0\0b").unwrap() + table - 4;
    bytes[entry..entry + 2].copy_from_slice(&(a.reference.0 as u16).to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let image = open(&path);
    let error = image.walk(&mut |_, _| Ok(())).unwrap_err();
    assert!(error.to_string().contains("second name, \"/a/b\""), "{error}");
    let (_, there) = image.resolve(&Path::new("/a").join("b/".repeat(500))).unwrap().unwrap();
    assert_eq!(there.reference, a.reference);
}

/// Everything that can be asked of an image, errors ignored. A walk stops at its first error, and a damaged
/// directory would hide the rest: inodes are also tried by number and at every other place.
fn exercise(bytes: &[u8]) {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    let source = Source::whole(Arc::new(file)).unwrap();
    let options = OpenOptions { data_cache_bytes: 1 << 20, meta_cache_bytes: 1 << 18, inode_cache: 64 };
    let Ok(image) = Squashfs::open(source, options) else { return };
    let mut budget = 64 << 20;
    let _damaged = image.walk(&mut |_, inode| {
        touch(&image, inode, &mut budget);
        Ok(())
    });
    for number in 0..40 {
        if let Ok(Some(reference)) = image.inode_by_number(number)
            && let Ok(inode) = image.inode(reference)
        {
            touch(&image, &inode, &mut budget);
        }
    }
    let _damaged = image.resolve(Path::new("/a/b/link/b/link/tail"));
    let _damaged = image.compressor_options();
    let _damaged = image.prefetch_fragment(0);
}

fn touch(image: &Squashfs, inode: &Inode, budget: &mut u64) {
    let _damaged = image.xattrs(inode);
    let _damaged = image.xattr(inode, b"user.two");
    let _damaged = image.lookup(inode, b"300-namenamenamenamenamenamenamename");
    let _damaged = image.read_dir(inode, 12_345 << 9 | 3, &mut |_| ControlFlow::Continue(()));
    for index in (0..inode.block_count().min(8)).chain(inode.block_count().checked_sub(1)) {
        if *budget > 0
            && let Ok(block) = image.block(inode, index)
        {
            *budget = budget.saturating_sub(block.len() as u64);
        }
    }
    let mut buf = [0; 5000];
    let _damaged = image.read(inode, inode.size.saturating_sub(3000), &mut buf);
}

const CHILD: &str = "SKIFF_TEST_DAMAGED_IMAGES";

#[test]
fn damaged_images_give_errors_and_never_a_panic_a_hang_or_much_memory() {
    if std::env::var_os(CHILD).is_some() {
        return damage_images();
    }
    // In a process of its own, whose memory can be limited: an allocation beyond is the end of it.
    let done = Command::new("timeout")
        .arg("200")
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "reader::damaged::damaged_images_give_errors_and_never_a_panic_a_hang_or_much_memory",
        ])
        .args(["--test-threads", "1", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(
        done.status.success() && said.contains("images damaged"),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// Memory of this process that counts for `RLIMIT_DATA`, in bytes.
fn data_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmData:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

fn damage_images() {
    let place = scratch();
    let tree = place.path().join("tree");
    make_small_tree(&tree);
    let mut images = Vec::new();
    for arguments in [
        "gzip",
        "lzo",
        "lz4",
        "xz",
        "zstd",
        "zstd -no-fragments",
        "gzip -noI -noX -noId -noF",
        "lz4 -noI -noX -noId",
    ] {
        let image = place.path().join("image");
        mksquashfs(&tree, &image, &format!("-b 4K -nopad -comp {arguments}"));
        images.push(fs::read(&image).unwrap());
    }
    let limit = rustix::process::Rlimit { current: Some(data_bytes() + (64 << 20)), maximum: None };
    rustix::process::setrlimit(rustix::process::Resource::Data, limit).unwrap();
    let mut state = 1u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut count = 0;
    for image in &images {
        exercise(image);
        for part in 0..120 {
            exercise(&image[..image.len() * part / 120]);
            count += 1;
        }
        for round in 0..500 {
            let mut damaged = image.clone();
            // The superblock and the tables at the end are where it hurts; the rest is data.
            for _ in 0..1 + random(4) {
                let at = match round % 3 {
                    0 => random(96),
                    1 => image.len() - 1 - random(image.len() / 3),
                    _ => random(image.len()),
                };
                damaged[at] = match random(4) {
                    0 => 0,
                    1 => 0xff,
                    2 => damaged[at] ^ 1 << random(8),
                    _ => random(256) as u8,
                };
            }
            exercise(&damaged);
            count += 1;
        }
    }
    println!("{count} images damaged");
}
