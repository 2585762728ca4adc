//! The fuzzer's bytes as a file in memory, which is what skiff's readers take.

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use skiff::image::source::Source;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

/// A source of these bytes. One file is used again and again: making one costs more than most inputs.
pub fn source(bytes: &[u8]) -> Source {
    static FILE: OnceLock<Arc<File>> = OnceLock::new();
    let file = FILE.get_or_init(|| {
        Arc::new(memfd_create("input", MemfdFlags::CLOEXEC).expect("memory for a file").into())
    });
    ftruncate(file, 0).expect("a memory file can be cut");
    file.write_all_at(bytes, 0).expect("a memory file can be written");
    Source::new(Arc::clone(file), 0, bytes.len() as u64)
}
