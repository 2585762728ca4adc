//! Images in OCI layouts (OCI image specification 1.1, "Image Layout").
//!
//! ```text
//! oci-layout                 which version
//! index.json                 the images, by name (annotation) and platform; or an index of each name
//! blobs/sha256/DIGEST        manifests, configurations, layers
//! ```

use std::path::Path;

use super::config::CONFIG_BYTES;
use super::documents::{DOCUMENT_BYTES, Descriptor, parse_index, parse_manifest};
use super::store::{Store, check};
use super::{Blob, OciImage, Platform};
use crate::error::{Context, Error, Result};
use crate::image::no_file;

/// How deep indexes may lie in indexes.
const DEPTH: usize = 4;

const LAYOUTS: &str = "an OCI layout is what skopeo copy ... oci:DIR makes";

/// Opens the image with that tag in a layout; without a tag the only one.
///
/// # Errors
/// What is no layout, or a damaged one; no or several such images.
pub fn open(directory: &Path, tag: Option<&str>, platform: &Platform) -> Result<OciImage> {
    let exists = std::fs::metadata(directory);
    exists
        .tried(|| format!("cannot open OCI layout {directory:?}"))
        .map_err(|error| no_file(error, LAYOUTS))?;
    image(&Store::Directory(directory.to_owned()), tag, platform)
}

/// Opens an image of a layout, wherever that is.
pub fn image(store: &Store, tag: Option<&str>, platform: &Platform) -> Result<OciImage> {
    let path = store.path();
    if store.find("oci-layout")?.is_none() {
        return Err(Error::image(format!("cannot use {path:?} as an OCI layout: it has no file oci-layout"))
            .hint(LAYOUTS));
    }
    let index = store.get("index.json")?.read_all(DOCUMENT_BYTES)?;
    let named = named(parse_index(&index, &format!("of {path:?}"))?.manifests, tag, path)?;
    let descriptor = choose(store, named, platform)?;
    let manifest = blob(store, &descriptor, DOCUMENT_BYTES)?;
    let parsed = parse_manifest(&manifest.read_all(DOCUMENT_BYTES)?, &descriptor.digest)?;
    let config = blob(store, &parsed.config, CONFIG_BYTES)?;
    let mut layers = Vec::new();
    for layer in &parsed.layers {
        layers.push(unchecked(store, layer)?);
    }
    let digests = parsed.layers.iter().map(|layer| layer.digest().map(Some)).collect::<Result<Vec<_>>>()?;
    check(layers.iter_mut().zip(digests).collect())?;
    Ok(OciImage { manifest, config, layers })
}

/// The images of a name.
fn named(all: Vec<Descriptor>, tag: Option<&str>, path: &Path) -> Result<Vec<Descriptor>> {
    let names: Vec<String> = all.iter().filter_map(Descriptor::name).take(20).map(str::to_owned).collect();
    let found: Vec<Descriptor> = match tag {
        Some(tag) => all.into_iter().filter(|one| one.name() == Some(tag) || one.digest == tag).collect(),
        None => all,
    };
    let mut distinct: Vec<Option<&str>> = found.iter().map(Descriptor::name).collect();
    distinct.dedup();
    let there = format!("its images: {}", names.join(", "));
    match (distinct.as_slice(), tag) {
        ([_], _) => Ok(found),
        ([], Some(tag)) => Err(Error::image(format!("{path:?} has no image {tag:?}")).hint(there)),
        ([], None) => Err(Error::image(format!("{path:?} has no image"))),
        _ => Err(Error::usage(format!("{path:?} has several images: name one, as {}:TAG", path.display()))
            .hint(there)),
    }
}

/// The one for the platform, looked for in indexes too.
fn choose(store: &Store, mut offered: Vec<Descriptor>, platform: &Platform) -> Result<Descriptor> {
    for _ in 0..DEPTH {
        let chosen = match offered.as_slice() {
            // What does not say what it is for.
            [one] if one.platform.is_none() => 0,
            several => {
                let platforms: Vec<_> = several.iter().map(Descriptor::platform).collect();
                platform.choose(&platforms)?
            }
        };
        let chosen = offered.into_iter().nth(chosen).ok_or_else(|| Error::image("the index has no image"))?;
        if !chosen.is_index() {
            return Ok(chosen);
        }
        let index = blob(store, &chosen, DOCUMENT_BYTES)?.read_all(DOCUMENT_BYTES)?;
        offered = parse_index(&index, &chosen.digest)?.manifests;
    }
    Err(Error::image(format!("cannot use the image: its indexes lie {DEPTH} deep in each other")))
}

/// A blob, by its descriptor alone.
fn unchecked(store: &Store, descriptor: &Descriptor) -> Result<Blob> {
    let digest = descriptor.digest()?;
    let mut blob = store.get(&format!("blobs/sha256/{}", digest.hex()))?;
    if blob.size != descriptor.size {
        return Err(Error::image(format!(
            "blob {} has {} bytes, and its manifest says {}",
            digest, blob.size, descriptor.size
        )));
    }
    (blob.digest, blob.media_type) = (digest, descriptor.media_type.clone());
    Ok(blob)
}

/// A blob of at most so many bytes, checked.
fn blob(store: &Store, descriptor: &Descriptor, limit: u64) -> Result<Blob> {
    let mut blob = unchecked(store, descriptor)?;
    if blob.size > limit {
        return Err(Error::image(format!("blob {} has {} bytes, more than it may", blob.digest, blob.size)));
    }
    let digest = blob.digest;
    check(vec![(&mut blob, Some(digest))])?;
    Ok(blob)
}
