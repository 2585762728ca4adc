//! Registries: a real one on loopback, with a proxy before it that does what networks do.

mod disks;
mod faults;
mod login;
mod others;
mod outside;
mod proxy;
mod pull;
mod push;
mod server;
mod stay;

use crate::harness::{Need, Place, able};
use proxy::{Fault, Proxy, Tokens};
use server::{Registry, small_tree};

/// What a test has: a place, a registry with `small:1` in it, and a proxy before that.
struct Setting {
    proxy: Proxy,
    registry: Registry,
    place: Place,
}

impl Setting {
    /// None where this machine has no registry to be started.
    fn new(name: &str, faults: Vec<Fault>, tokens: Option<Tokens>) -> Option<Self> {
        if !able(&[Need::Registry]) {
            return None;
        }
        let place = Place::new(name);
        let registry = Registry::start(&place);
        registry.put_tree(&place, "small:1", &small_tree(&place, "tree"));
        let proxy = Proxy::start(&registry.address, faults, tokens);
        Some(Self { proxy, registry, place })
    }

    /// The image behind the proxy.
    fn small(&self) -> String {
        format!("docker://{}/small:1", self.proxy.address)
    }

    /// The digests of an image's layers.
    fn layers(&self) -> Vec<String> {
        let manifest: serde_json::Value =
            serde_json::from_str(&self.registry.manifest("small", "1")).unwrap();
        let layers = manifest["layers"].as_array().unwrap();
        layers.iter().map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
    }
}
