//! Any text as the name of an image, and as what a registry asks for: refused, or a name that means itself when it is
//! written down and read again, and that names one file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff::oci::reference::{Reference, parse};
use skiff::oci::token::Challenge;

fuzz_target!(|text: &str| {
    let _ = Challenge::parse(text);
    let Some(Ok(reference)) = parse(text) else { return };
    assert!(!reference.file_name().contains('/'));
    if matches!(reference, Reference::Docker(_) | Reference::Oras(_) | Reference::Library(_)) {
        let again = parse(&reference.to_string()).expect("it has a scheme").expect("it is one");
        assert_eq!(again.to_string(), reference.to_string());
    }
});
