//! Any bytes as a library and as the loader's cache: refused, or read within bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff::elf::Bytes;
use skiff::elf::cache::parse_cache;
use skiff::elf::read::parse_elf;
use skiff::elf::symbols::read_symbols;

fuzz_target!(|input: &[u8]| {
    let bytes = Bytes::of("x", input);
    if let Ok(Some(elf)) = parse_elf(&bytes) {
        assert!(elf.needed.len() <= 1024);
        // A name begins somewhere in the file.
        assert!(elf.defines.len() + elf.requires.len() <= 2 * 4096);
        let _ = read_symbols(&bytes, &elf, |_| true);
    }
    if let Some(cache) = parse_cache(input) {
        let entries: usize = cache.entries.values().map(Vec::len).sum();
        assert!(entries * 12 <= input.len(), "more entries than the file holds");
    }
});
