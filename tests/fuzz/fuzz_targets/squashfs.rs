//! Any bytes as a SquashFS: everything that can be asked is answered or refused, in bounded time and memory
//! (run with `-rss_limit_mb=512 -timeout=10`), and the ways to ask for the same agree.
#![no_main]

mod input;

use libfuzzer_sys::fuzz_target;
use skiff::image::squashfs::{FileKind, Inode, OpenOptions, Squashfs};
use std::ops::ControlFlow;
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    let options = OpenOptions { data_cache_bytes: 1 << 20, meta_cache_bytes: 1 << 18, inode_cache: 64 };
    let Ok(image) = Squashfs::open(input::source(bytes), options) else { return };
    // Small inputs can hold large files: enough of each is enough.
    let mut budget = 4096u32;
    let _or_error = image.walk(&mut |path, inode| {
        budget = budget.saturating_sub(1);
        if budget > 0 {
            ask(&image, inode, path);
        }
        Ok(())
    });
    for number in 0..16 {
        if let Ok(Some(reference)) = image.inode_by_number(number)
            && let Ok(inode) = image.inode(reference)
        {
            ask(&image, &inode, Path::new("/"));
        }
    }
    let _or_error = image.compressor_options();
});

fn ask(image: &Squashfs, inode: &Inode, path: &Path) {
    let all = image.xattrs(inode);
    if let Ok(all) = &all
        && let Some((name, _)) = all.first()
    {
        // The first of a name is the one that is found.
        assert!(matches!(image.xattr(inode, name), Ok(Some(value)) if value == all[0].1));
    }
    if inode.kind() == FileKind::Directory {
        let mut cursor = 0;
        let _or_error = image.read_dir(inode, 0, &mut |entry| {
            assert!(entry.next > cursor, "cursors ascend");
            cursor = entry.next;
            let _or_error = image.lookup(inode, entry.name);
            ControlFlow::Continue(())
        });
        let _or_error = image.read_dir(inode, cursor / 2, &mut |_| ControlFlow::Continue(()));
    }
    for index in (0..inode.block_count().min(4)).chain(inode.block_count().checked_sub(1)) {
        let Ok(block) = image.block(inode, index) else { continue };
        let mut buf = vec![0; block.len()];
        let at = index * u64::from(image.superblock().block_size);
        assert!(matches!(image.read(inode, at, &mut buf), Ok(n) if n == block.len()));
    }
    let _or_error = image.prefetch_block(inode, 1);
    let _or_error = image.resolve(path);
}
