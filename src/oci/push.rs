//! An image of this machine into a registry, and a further name for one that is there.
//!
//! ```text
//! config, layers ──▶ those that are not there ──▶ the manifest, by which it counts
//! ```
//!
//! The manifest names everything by its digest, and goes last: whatever ends before that leaves the name as it was.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::manifest::{self, Manifest};
use super::registry::Registry;
use super::transfer::Progress;
use super::{Blob, Digest};
use crate::error::{Context, Error, Kind, Result};

/// The media type of manifests that are written.
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Of indexes.
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// Of the configuration of an image of layers.
pub const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
/// Of a layer.
pub const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Of what stands for the configuration of a SIF file, and its bytes.
pub const SIF_CONFIG: (&str, &[u8]) = ("application/vnd.sylabs.sif.config.v1+json", b"{}");
/// Of a SIF file.
pub const SIF_TYPE: &str = "application/vnd.sylabs.sif.layer.v1.sif";
/// The annotation with a file's name.
pub const TITLE: &str = "org.opencontainers.image.title";

/// Texts by name.
pub type Annotations = BTreeMap<String, String>;

/// What is to be put into a registry.
#[derive(Debug)]
pub struct Outgoing {
    /// How it is run.
    pub config: Blob,
    /// The one layer, or the SIF.
    pub layer: Blob,
    /// What is said of the layer.
    pub of_layer: Annotations,
    /// What is said of the whole.
    pub annotations: Annotations,
}

/// What has come of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Pushed {
    /// What it is found by from now on.
    pub digest: Digest,
    /// Bytes of parts that were not there.
    pub sent: u64,
}

impl Outgoing {
    /// The manifest: the same for the same.
    fn manifest(&self) -> Result<Vec<u8>> {
        let described = |blob: &Blob, annotations: &Annotations| {
            let mut value = json!({
                "mediaType": blob.media_type,
                "digest": blob.digest.to_string(),
                "size": blob.size,
            });
            annotate(&mut value, annotations);
            value
        };
        let mut value = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": described(&self.config, &Annotations::new()),
            "layers": [described(&self.layer, &self.of_layer)],
        });
        annotate(&mut value, &self.annotations);
        serde_json::to_vec(&value).context(Kind::Internal, || "cannot write a manifest".into())
    }
}

fn annotate(value: &mut Value, annotations: &Annotations) {
    if !annotations.is_empty() {
        value["annotations"] = json!(annotations);
    }
}

/// Puts an image in, under a tag.
///
/// # Errors
/// A registry that does not answer or take it; a part that cannot be read.
pub fn push(registry: &Registry<'_>, tag: &str, image: &Outgoing, progress: &Progress) -> Result<Pushed> {
    let manifest = image.manifest()?;
    let digest = Digest::from_sum(Sha256::digest(&manifest).into());
    let mut sent = 0;
    let parts =
        [&image.config, &image.layer].map(|blob| (blob, progress.begin(blob.digest.short(), blob.size)));
    for (blob, part) in parts {
        if registry.put_blob(blob, &part)? {
            sent += blob.size;
        }
    }
    name(registry, tag, MANIFEST_TYPE, (&manifest, &digest))?;
    Ok(Pushed { digest, sent })
}

/// Gives an image that is in a repository a further tag there; gives its digest.
///
/// # Errors
/// As [`push`]; an image that is not there.
pub fn tag(registry: &Registry<'_>, version: &str, tag: &str) -> Result<Digest> {
    let (bytes, digest) = registry.manifest(version)?;
    let said: Value =
        serde_json::from_slice(&bytes).context(Kind::Image, || "cannot read the manifest".into())?;
    let media_type = match (said["mediaType"].as_str(), manifest::parse(&bytes)?) {
        (Some(said), _) => said,
        (None, Manifest::Image { .. }) => MANIFEST_TYPE,
        (None, Manifest::Index(_)) => INDEX_TYPE,
    };
    // It goes into a header.
    if !media_type.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::image("cannot use the manifest: its media type is none"));
    }
    name(registry, tag, media_type, (&bytes, &digest))?;
    Ok(digest)
}

/// Puts a manifest in under a tag, unless it has that tag.
fn name(
    registry: &Registry<'_>,
    tag: &str,
    media_type: &str,
    (bytes, digest): (&[u8], &Digest),
) -> Result<()> {
    if registry.tagged(tag)? == Some(*digest) {
        return Ok(());
    }
    registry.put_manifest(tag, media_type, bytes, digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_what_is_read_and_the_same_for_the_same() {
        let image = |annotations: &[(&str, &str)]| {
            let text = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            Outgoing {
                config: Blob::of_bytes(SIF_CONFIG.0, SIF_CONFIG.1).unwrap(),
                layer: Blob::of_bytes(SIF_TYPE, b"sif").unwrap(),
                of_layer: [(TITLE.to_owned(), "a.sif".to_owned())].into(),
                annotations: annotations.iter().map(text).collect(),
            }
        };
        let bytes = image(&[]).manifest().unwrap();
        assert_eq!(bytes, image(&[]).manifest().unwrap());
        let Manifest::Image { config, layers } = manifest::parse(&bytes).unwrap() else { panic!() };
        // The sum that all have of these two bytes.
        assert!(config.digest.hex().starts_with("44136fa355b3678a"));
        assert_eq!(manifest::sif_layer(&layers).unwrap(), Some(&layers[0]));
        let text = String::from_utf8(image(&[("b", "2"), ("a", "1")]).manifest().unwrap()).unwrap();
        assert!(text.contains(r#""annotations":{"a":"1","b":"2"}"#), "{text}");
        assert!(!String::from_utf8(bytes).unwrap().contains(r#""annotations":{}"#));
    }
}
