//! Any bytes as a manifest or an index: refused, or parts with digests, of which a platform finds its own or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff::oci::Platform;
use skiff::oci::manifest::{Manifest, parse, sif_layer};

fuzz_target!(|bytes: &[u8]| {
    match parse(bytes) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(Manifest::Image { layers, .. }) => {
            if let Ok(Some(sif)) = sif_layer(&layers) {
                assert!(layers.len() == 1 && layers[0] == *sif);
            }
        }
        Ok(Manifest::Index(entries)) => {
            let offered: Vec<_> = entries.iter().map(|(_, platform)| platform.clone()).collect();
            if let Ok(chosen) = Platform::host().choose(&offered) {
                assert!(chosen < entries.len());
            }
        }
    }
});
