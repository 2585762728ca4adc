//! Images in tar files: an OCI layout, or what `docker save` and `skopeo copy ... docker-archive:` write.
//!
//! ```text
//! manifest.json        [{Config, RepoTags, Layers}]: members by name
//! HEX.json             the configuration: its name is its digest
//! HEX.tar, .../layer.tar    layers, not compressed: their digests are in the configuration. Some are links to others
//! ```
//!
//! Members are read where they are in the archive. One that is compressed as a whole is decompressed into a file
//! without a name, since its end cannot be reached otherwise.

use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::path::Path;

use serde::Deserialize;
use tar::EntryType;

use super::config::{self, CONFIG_BYTES};
use super::documents::{DOCUMENT_BYTES, Descriptor, Manifest};
use super::layers::{decompress, is_compressed, plain_path};
use super::layout;
use super::scratch;
use super::store::{Members, Store, check};
use super::{Blob, Digest, OciImage, Platform};
use crate::error::{Context, Error, Kind, Result};
use crate::image::no_file;

/// No archive has more members: those of images have a few hundred.
const MEMBERS: usize = 100_000;
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const ARCHIVES: &str = "skopeo copy ... oci-archive:FILE and docker save -o FILE make such archives";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Opens the image with that tag in an archive; without a tag the only one. `scratch` is where a compressed one is
/// decompressed.
///
/// # Errors
/// What is no such archive, or a damaged one; no or several such images.
pub fn open(path: &Path, tag: Option<&str>, platform: &Platform, scratch: &Path) -> Result<OciImage> {
    let file = File::open(path).tried(|| format!("cannot read archive {path:?}"));
    let file = file.map_err(|error| no_file(error, ARCHIVES))?;
    of_file(file, path, tag, (platform, scratch))
}

/// The same of a file that is open; `path` is what it is called.
///
/// # Errors
/// As [`open`].
pub fn of_file(
    file: File,
    path: &Path,
    tag: Option<&str>,
    (platform, scratch): (&Platform, &Path),
) -> Result<OciImage> {
    let store = members(file, path, scratch)?;
    if store.find("manifest.json")?.is_some() && store.find("oci-layout")?.is_none() {
        return saved(&store, tag);
    }
    match (store.find("oci-layout")?, store.find("manifest.json")?) {
        // Docker's of today are both; its names are in the older part.
        (Some(_), Some(_)) if tag.is_some() => saved(&store, tag),
        (Some(_), _) => layout::image(&store, tag, platform),
        _ => Err(Error::image(format!("cannot use {path:?}: it is no archive of an image")).hint(ARCHIVES)),
    }
}

/// What members an archive has.
fn members(file: File, path: &Path, directory: &Path) -> Result<Store> {
    let tried = || format!("cannot read archive {path:?}");
    let metadata = file.metadata().tried(tried)?;
    if !metadata.is_file() {
        return Err(Error::image(format!("cannot use {path:?} as an archive: it is no file")).hint(ARCHIVES));
    }
    let digest = Digest::from_sum([0; 32]);
    let whole = Blob { digest, media_type: String::new(), size: metadata.len(), file, offset: 0 };
    let mut file = match is_compressed(&whole).tried(tried)? {
        true => {
            let mut plain = scratch::file_in(directory)?;
            let done = decompress(&whole, &mut plain).tried(tried);
            done.map_err(|error| scratch::explain(error, directory))?;
            plain
        }
        false => whole.file,
    };
    let size = file.seek(SeekFrom::End(0)).tried(tried)?;
    file.rewind().tried(tried)?;
    let members = list(&file, size).map_err(|error| Error::new(error.kind, tried()).because(error))?;
    Ok(Store::Archive { path: path.to_owned(), file, members })
}

/// Where the members are.
fn list(file: &File, size: u64) -> Result<Members> {
    let tried = || "it is no tar file, or a damaged one".to_owned();
    let mut archive = tar::Archive::new(BufReader::new(file));
    let mut found = Members::new();
    let mut links: Vec<[Box<[u8]>; 2]> = Vec::new();
    for entry in archive.entries_with_seek().context(Kind::Image, tried)? {
        let entry = entry.context(Kind::Image, tried)?;
        let path = entry.path_bytes().into_owned();
        let wrong = |reason: String| {
            Error::image(format!(
                "member {:?}: {reason}",
                String::from_utf8_lossy(path.get(..200).unwrap_or(&path))
            ))
        };
        if found.len() + links.len() >= MEMBERS {
            return Err(Error::image(format!("it has more than {MEMBERS} members")));
        }
        let name = plain_path(&path).map_err(wrong)?;
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                let (offset, bytes) = (entry.raw_file_position(), entry.size());
                if offset.checked_add(bytes).is_none_or(|end| end > size) {
                    return Err(wrong("it is cut short".into()));
                }
                found.insert(name, (offset, bytes));
            }
            EntryType::Symlink | EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let from_root = entry.header().entry_type() == EntryType::Link;
                links.push([name.clone(), target_of(&name, &target, from_root).map_err(wrong)?]);
            }
            EntryType::Directory | EntryType::XGlobalHeader => {}
            _ => return Err(wrong("it is no file".into())),
        }
    }
    // A link to a link is none that any tool makes.
    for [name, target] in links {
        if let Some(&place) = found.get(&target) {
            found.entry(name).or_insert(place);
        }
    }
    Ok(found)
}

/// Where a link of an archive leads: inside, or it is refused.
fn target_of(name: &[u8], target: &[u8], from_root: bool) -> Result<Box<[u8]>, String> {
    let mut path: Vec<&[u8]> = match from_root || target.starts_with(b"/") {
        true => Vec::new(),
        false => name.split(|&byte| byte == b'/').collect(),
    };
    path.pop();
    for part in target.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(path.pop().ok_or("it is a link that leads out of the archive")?),
            part => path.push(part),
        }
    }
    Ok(path.join(&b'/').into())
}

/// An image of `docker save`, as an OCI image.
fn saved(store: &Store, tag: Option<&str>) -> Result<OciImage> {
    let path = store.path();
    let bytes = store.get("manifest.json")?.read_all(DOCUMENT_BYTES)?;
    let all: Vec<Saved> = serde_json::from_slice(&bytes)
        .context(Kind::Image, || format!("cannot read manifest.json of {path:?}"))?;
    let image = tagged(all, tag, path)?;
    let mut config = store.get(&image.config)?;
    if config.size > CONFIG_BYTES {
        return Err(Error::image(format!(
            "cannot use {path:?}: the configuration has {} bytes",
            config.size
        )));
    }
    check(vec![(&mut config, digest_of_name(&image.config))])?;
    config.media_type = CONFIG.into();
    let diff_ids = config::parse(&config.read_all(CONFIG_BYTES)?)?.rootfs.diff_ids;
    if diff_ids.len() != image.layers.len() {
        return Err(Error::image(format!(
            "cannot use {path:?}: it has {} layers, and its configuration names {}",
            image.layers.len(),
            diff_ids.len()
        )));
    }
    let mut layers = Vec::new();
    let mut wanted = Vec::new();
    for (name, diff_id) in image.layers.iter().zip(&diff_ids) {
        let mut layer = store.get(name)?;
        layer.media_type = LAYER.into();
        // The digest is that of the layer before compression.
        wanted.push(if is_compressed(&layer).tried(|| "cannot read a layer".into())? {
            digest_of_name(name)
        } else {
            Some(diff_id.parse()?)
        });
        layers.push(layer);
    }
    check(layers.iter_mut().zip(wanted).collect())?;
    let manifest = manifest(&config, &layers)?;
    Ok(OciImage { manifest, config, layers })
}

/// The image of a name.
fn tagged(all: Vec<Saved>, tag: Option<&str>, path: &Path) -> Result<Saved> {
    let names = || {
        let names = all.iter().flat_map(|one| one.repo_tags.iter().flatten()).take(20).cloned();
        format!("its images: {}", names.collect::<Vec<_>>().join(", "))
    };
    let hint = names();
    let Some(tag) = tag else {
        let count = all.len();
        let mut all = all.into_iter();
        return match (all.next(), count) {
            (Some(one), 1) => Ok(one),
            (None, _) => Err(Error::image(format!("{path:?} has no image"))),
            _ => Err(Error::usage(format!(
                "{path:?} has several images: name one, as {}:NAME",
                path.display()
            ))
            .hint(hint)),
        };
    };
    let found = all.into_iter().find(|one| one.repo_tags.iter().flatten().any(|name| is_same(name, tag)));
    found.ok_or_else(|| Error::image(format!("{path:?} has no image {tag:?}")).hint(hint))
}

/// Whether two names are one: some writers put the registry that goes without saying before them.
fn is_same(name: &str, asked: &str) -> bool {
    let plain = |name: &str| {
        let name = name.strip_prefix("docker.io/").unwrap_or(name);
        let name = name.strip_prefix("library/").unwrap_or(name);
        let has_tag = name.rsplit('/').next().is_some_and(|last| last.contains(':'));
        if has_tag { name.to_owned() } else { format!("{name}:latest") }
    };
    plain(name) == plain(asked)
}

/// The digest that a member's name states, if it does.
fn digest_of_name(name: &str) -> Option<Digest> {
    let last = name.rsplit('/').next()?;
    let hex = last.strip_suffix(".json").or_else(|| last.strip_suffix(".tar")).unwrap_or(last);
    format!("sha256:{hex}").parse().ok()
}

/// A manifest for what has none, in memory.
fn manifest(config: &Blob, layers: &[Blob]) -> Result<Blob> {
    let describe = |blob: &Blob| Descriptor {
        media_type: blob.media_type.clone(),
        digest: blob.digest.to_string(),
        size: blob.size,
        platform: None,
        annotations: None,
    };
    let manifest = Manifest {
        schema_version: 2,
        config: describe(config),
        layers: layers.iter().map(describe).collect(),
    };
    let tried = || "cannot make a manifest".to_owned();
    let bytes = serde_json::to_vec(&manifest).tried(tried)?;
    let memory = rustix::fs::memfd_create("manifest", rustix::fs::MemfdFlags::CLOEXEC).tried(tried)?;
    let file = File::from(memory);
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).tried(tried)?;
    let digest = Digest::from_sum([0; 32]);
    let mut blob = Blob { digest, media_type: MANIFEST.into(), size: bytes.len() as u64, file, offset: 0 };
    check(vec![(&mut blob, None)])?;
    Ok(blob)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_in_the_archive() {
        let target = |name: &str, target: &str| target_of(name.as_bytes(), target.as_bytes(), false);
        assert_eq!(target("a/layer.tar", "../b/layer.tar").unwrap(), (*b"b/layer.tar").into());
        assert_eq!(target("a/layer.tar", "x").unwrap(), (*b"a/x").into());
        assert!(target("a/layer.tar", "../../b").is_err());
        assert_eq!(target("a", "/etc/passwd").unwrap(), (*b"etc/passwd").into());
    }

    #[test]
    fn names_are_compared_as_they_are_meant() {
        assert!(is_same("docker.io/library/debian:13", "debian:13"));
        assert!(is_same("debian:latest", "debian"));
        assert!(is_same("localhost:5000/a", "localhost:5000/a:latest"));
        assert!(!is_same("debian:13", "debian"));
    }

    #[test]
    fn names_state_digests() {
        let hex = "0a".repeat(32);
        for name in [format!("{hex}.json"), format!("blobs/sha256/{hex}"), format!("{hex}.tar")] {
            assert_eq!(digest_of_name(&name).unwrap().hex(), hex);
        }
        assert_eq!(digest_of_name("abc/layer.tar"), None);
    }
}
