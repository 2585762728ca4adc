//! Manifests and indexes: what an image consists of, and which images there are of one name.
//!
//! They come from anybody: their length is limited before they are read, and what is both or neither is refused
//! (an image that is read in two ways may be checked as one thing and run as another).

use serde::Deserialize;

use super::documents::{DOCUMENT_BYTES, Descriptor as Described, parse_index, parse_manifest};
use super::{Digest, Platform};
use crate::error::{Error, Result};

/// No manifest is longer: what registries accept.
pub const MANIFEST_BYTES: u64 = DOCUMENT_BYTES;

/// The media type of a SIF in a registry, and one that older tools wrote.
const SIF_LAYERS: [&str; 2] =
    ["application/vnd.sylabs.sif.layer.v1.sif", "appliciation/vnd.sylabs.sif.layer.tar"];

/// What is accepted in answer to a question for a manifest.
pub const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// One part of an image, as its manifest names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// What it is found by.
    pub digest: Digest,
    /// What it is.
    pub media_type: String,
    /// Length in bytes.
    pub size: u64,
}

/// What a name leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifest {
    /// One image.
    Image {
        /// How to run it.
        config: Descriptor,
        /// What it is made of, the oldest first.
        layers: Vec<Descriptor>,
    },
    /// Several, for one platform each.
    Index(Vec<(Descriptor, Option<Platform>)>),
}

/// What tells one from the other.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// Reads a manifest or an index.
///
/// # Errors
/// [`crate::error::Kind::Image`], with what is wrong.
pub fn parse(bytes: &[u8]) -> Result<Manifest> {
    let wrong = |why: &str| Error::image("cannot read the manifest of the image").because(why.to_owned());
    let shape: Shape = serde_json::from_slice(bytes).map_err(|error| wrong(&error.to_string()))?;
    if shape.fs_layers.is_some() || shape.schema_version == Some(1) {
        return Err(wrong("it is of Docker's first form, which has no digest of the image")
            .hint("push the image again with a Docker, Podman or skopeo of this decade"));
    }
    match (shape.layers.is_some(), shape.manifests.is_some()) {
        (true, false) => {
            let manifest = parse_manifest(bytes, "of the image")?;
            let layers: Result<_> = manifest.layers.iter().map(descriptor).collect();
            Ok(Manifest::Image { config: descriptor(&manifest.config)?, layers: layers? })
        }
        (false, true) => {
            let index = parse_index(bytes, "of the image")?;
            let entries: Result<_> =
                index.manifests.iter().map(|entry| Ok((descriptor(entry)?, entry.platform()))).collect();
            Ok(Manifest::Index(entries?))
        }
        (true, true) => Err(wrong("it is a manifest and an index in one")),
        (false, false) => Err(wrong("it is neither a manifest nor an index")),
    }
}

fn descriptor(described: &Described) -> Result<Descriptor> {
    Ok(Descriptor {
        digest: described.digest()?,
        media_type: described.media_type.clone(),
        size: described.size,
    })
}

/// The SIF that is the image's only layer; none for an image of another kind.
///
/// # Errors
/// One of several layers of which some are SIFs.
pub fn sif_layer(layers: &[Descriptor]) -> Result<Option<&Descriptor>> {
    let is_sif = |layer: &&Descriptor| SIF_LAYERS.contains(&layer.media_type.as_str());
    match (layers, layers.iter().find(is_sif)) {
        (_, None) => Ok(None),
        ([only], Some(_)) => Ok(Some(only)),
        _ => Err(Error::image("cannot use the image: it has a SIF and other layers")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    fn described(media_type: &str, more: &str) -> String {
        format!(r#"{{"mediaType": "{media_type}", "digest": "sha256:{HEX}", "size": 2{more}}}"#)
    }

    fn manifest(layers: &[String]) -> String {
        let config = described("application/vnd.docker.container.image.v1+json", "");
        format!(r#"{{"schemaVersion": 2, "config": {config}, "layers": [{}]}}"#, layers.join(","))
    }

    #[test]
    fn docker_manifests_and_indexes_are_read() {
        let text = manifest(&[described("application/vnd.docker.image.rootfs.diff.tar.gzip", "")]);
        let Manifest::Image { layers, .. } = parse(text.as_bytes()).unwrap() else { panic!() };
        assert_eq!((layers[0].size, layers[0].digest.hex().as_str()), (2, HEX));
        assert_eq!(layers[0].media_type, "application/vnd.docker.image.rootfs.diff.tar.gzip");
        let platform = r#", "platform": {"os": "linux", "architecture": "arm", "variant": "v7"}"#;
        let entry = described("application/vnd.oci.image.manifest.v1+json", platform);
        let text = format!(r#"{{"schemaVersion": 2, "manifests": [{entry}]}}"#);
        let Manifest::Index(entries) = parse(text.as_bytes()).unwrap() else { panic!() };
        assert_eq!(entries[0].1.as_ref().unwrap().to_string(), "linux/arm/v7");
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let both = r#"{"schemaVersion": 2, "layers": [], "manifests": []}"#;
        let old = r#"{"schemaVersion": 1, "fsLayers": []}"#;
        let cut = &manifest(&[])[..60];
        let digest = manifest(&[described("x", "").replace("sha256", "md5")]);
        let size = manifest(&[described("x", "").replace(": 2", ": -2")]);
        for text in ["", "{}", "[]", "null", both, old, cut, &digest, &size] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_sif_is_the_only_layer() {
        let layers = |types: &[&str]| {
            let all: Vec<_> = types.iter().map(|kind| described(kind, "")).collect();
            let Manifest::Image { layers, .. } = parse(manifest(&all).as_bytes()).unwrap() else { panic!() };
            layers
        };
        assert!(sif_layer(&layers(&[SIF_LAYERS[0]])).unwrap().is_some());
        assert!(sif_layer(&layers(&[SIF_LAYERS[1]])).unwrap().is_some());
        assert!(sif_layer(&layers(&["x"])).unwrap().is_none());
        assert!(sif_layer(&layers(&[SIF_LAYERS[0], "x"])).is_err());
    }
}
