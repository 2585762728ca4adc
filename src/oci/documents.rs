//! Indexes and manifests (OCI image specification 1.1; Docker's image manifest version 2, schema 2, is the same but
//! for its media types).
//!
//! They come from outside: their length is bounded by who reads them, what they hold here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Digest, Platform};
use crate::error::{Context, Error, Kind, Result};

/// No index and no manifest is longer.
pub const DOCUMENT_BYTES: u64 = 4 << 20;
/// No image has more layers: the kernel's overlay takes 500.
const LAYERS: usize = 1000;

/// What says where a blob is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// What it is found by.
    pub digest: String,
    /// Its length in bytes.
    pub size: u64,
    /// What the image in it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformField>,
    /// Names among other things.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// What an image of an index is for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PlatformField {
    /// For example `linux`.
    #[serde(default)]
    pub os: String,
    /// For example `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// For example `v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Several images.
#[derive(Debug, Clone, Deserialize)]
pub struct Index {
    /// Manifests, or further indexes.
    pub manifests: Vec<Descriptor>,
}

/// One image.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// 2.
    #[serde(default)]
    pub schema_version: u32,
    /// Its configuration.
    pub config: Descriptor,
    /// Its layers, the oldest first.
    pub layers: Vec<Descriptor>,
}

impl Descriptor {
    /// The digest.
    ///
    /// # Errors
    /// It is none that skiff knows.
    pub fn digest(&self) -> Result<Digest> {
        self.digest.parse()
    }

    /// Whether this is an index.
    pub fn is_index(&self) -> bool {
        matches!(
            self.media_type.as_str(),
            "application/vnd.oci.image.index.v1+json"
                | "application/vnd.docker.distribution.manifest.list.v2+json"
        )
    }

    /// What it is for.
    pub fn platform(&self) -> Option<Platform> {
        let PlatformField { os, architecture, variant } = self.platform.clone()?;
        Some(Platform { os, architecture, variant })
    }

    /// The name that a layout gives it.
    pub fn name(&self) -> Option<&str> {
        let names = self.annotations.as_ref()?;
        names.get("org.opencontainers.image.ref.name").map(String::as_str)
    }
}

/// Reads an index; `what` is for messages.
///
/// # Errors
/// It is none.
pub fn parse_index(bytes: &[u8], what: &str) -> Result<Index> {
    serde_json::from_slice(bytes).context(Kind::Image, || format!("cannot read the index {what}"))
}

/// Reads a manifest; `what` is for messages.
///
/// # Errors
/// It is none, or not that of an image with layers that can be unpacked.
pub fn parse_manifest(bytes: &[u8], what: &str) -> Result<Manifest> {
    let tried = || format!("cannot read the manifest {what}");
    let manifest: Manifest = serde_json::from_slice(bytes).context(Kind::Image, tried)?;
    if manifest.layers.len() > LAYERS {
        return Err(Error::image(format!(
            "cannot use the image {what}: it has {} layers, and {LAYERS} are the most",
            manifest.layers.len()
        )));
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_read_and_what_is_none_is_refused() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let text = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{digest}","size":2}},"layers":[]}}"#
        );
        let manifest = parse_manifest(text.as_bytes(), "x").unwrap();
        assert_eq!(manifest.config.digest().unwrap().to_string(), digest);
        assert!(parse_manifest(br#"{"schemaVersion":2,"manifests":[]}"#, "x").is_err());
        assert!(parse_index(text.as_bytes(), "x").is_err());
        let layer = format!(r#"{{"digest":"{digest}","size":1}}"#);
        let many = text.replace("[]", &format!("[{}]", vec![layer; 1001].join(",")));
        assert!(parse_manifest(many.as_bytes(), "x").unwrap_err().to_string().contains("1001 layers"));
    }
}
