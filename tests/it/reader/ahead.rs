//! Blocks that are decoded before they are asked for.

use super::*;

#[test]
fn what_was_prefetched_is_in_the_cache() {
    let place = scratch();
    let image = open(&plain_image(place.path()).0);
    let (_, inode) = image.resolve(Path::new("/a/blocks")).unwrap().unwrap();
    assert!(inode.block_count() > 3);
    for index in 0..inode.block_count() {
        assert!(!image.is_cached(&inode, index));
        image.prefetch_block(&inode, index).unwrap();
        assert!(image.is_cached(&inode, index));
    }
}
