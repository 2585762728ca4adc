//! Any bytes as a SIF: refused or understood, and what is understood lies inside the file.
#![no_main]

mod input;

use libfuzzer_sys::fuzz_target;
use skiff::image::sif;

fuzz_target!(|bytes: &[u8]| {
    let source = input::source(bytes);
    let Ok(sif) = sif::read(&source) else { return };
    for object in &sif.descriptors {
        let end = object.end().expect("the end was checked");
        assert!(end <= bytes.len() as u64, "object {} ends past the file", object.id);
        assert!(sif.object(object.id).is_ok());
    }
    let _or_error = sif.primary_partition();
    let _any = sif.architecture();
});
