//! Any bytes as two layers of an image: packed or refused, in bounded time and memory, and what is packed can be read
//! (run with `-rss_limit_mb=512 -timeout=10`). The first byte says where the second layer begins, in blocks of 512.
#![no_main]

mod input;

use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, memfd_create};
use skiff::image::source::Source;
use skiff::image::squashfs::{OpenOptions, Squashfs};
use skiff::oci::layers::{Layers, pack_layers};
use skiff::oci::{Blob, Digest};
use skiff::pack::{Compression, CompressionKind, PackOptions, Progress};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fuzz_target!(|bytes: &[u8]| {
    let Some((&blocks, layers)) = bytes.split_first() else { return };
    let cut = (usize::from(blocks) * 512).min(layers.len());
    let source = input::source(layers);
    let blob = |offset: usize, size: usize| Blob {
        digest: Digest::from_sum([0; 32]),
        media_type: String::new(),
        size: size as u64,
        file: source.file().try_clone().expect("a descriptor"),
        offset: offset as u64,
    };
    let blobs = [blob(0, cut), blob(cut, layers.len() - cut)];
    let output = File::from(memfd_create("output", MemfdFlags::CLOEXEC).expect("memory for a file"));
    let options = PackOptions {
        compression: Compression { kind: CompressionKind::Lz4, level: None },
        threads: 1,
        memory_bytes: 4 << 20,
        time: Some(0),
        ..PackOptions::default()
    };
    let layers = Layers { blobs: &blobs, additions: &[], free_bytes: 1 << 20 };
    let watch = (&Progress::default(), &AtomicBool::new(false));
    let Ok(summary) = pack_layers(&layers, &output, 0, &options, watch) else { return };
    let image = Source::new(Arc::new(output), 0, summary.bytes);
    let image = Squashfs::open(image, OpenOptions::default()).expect("what was packed is an image");
    let mut inodes = 0;
    image
        .walk(&mut |_, _| {
            inodes += 1;
            Ok(())
        })
        .expect("every file can be read");
    assert!(inodes >= summary.inodes);
});
