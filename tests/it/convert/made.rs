//! Layers and layouts made by hand.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// A file of a layer.
#[derive(Debug, Clone, Copy)]
pub enum File<'a> {
    Directory,
    Text(&'a str),
    Program(&'a [u8]),
    Link(&'a str),
    Hard(&'a str),
}

/// A header with usual values; its checksum is not set yet.
pub fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header
}

/// One entry, with its name and target as they are: no check, no record for what is long.
pub fn entry(mut header: Header, name: &[u8], target: &[u8], content: &[u8]) -> Vec<u8> {
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// A layer with these files.
pub fn tar(files: &[(&str, File<'_>)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, file) in files {
        match file {
            File::Directory => {
                let mut header = header(EntryType::Directory, 0);
                header.set_mode(0o755);
                builder.append_data(&mut header, name, &[][..]).unwrap();
            }
            File::Text(text) => {
                let mut header = header(EntryType::Regular, text.len() as u64);
                builder.append_data(&mut header, name, text.as_bytes()).unwrap();
            }
            File::Program(bytes) => {
                let mut header = header(EntryType::Regular, bytes.len() as u64);
                header.set_mode(0o755);
                builder.append_data(&mut header, name, *bytes).unwrap();
            }
            File::Link(target) => {
                builder.append_link(&mut header(EntryType::Symlink, 0), name, target).unwrap();
            }
            File::Hard(target) => {
                builder.append_link(&mut header(EntryType::Link, 0), name, target).unwrap();
            }
        }
    }
    builder.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A configuration with these variables.
pub fn config(variables: &[&str]) -> String {
    format!(r#"{{"architecture":"amd64","os":"linux","config":{{"Env":{variables:?}}}}}"#)
}

fn put(blobs: &Path, bytes: &[u8]) -> String {
    let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(blobs.join(&digest), bytes).unwrap();
    format!(r#""digest":"sha256:{digest}","size":{}"#, bytes.len())
}

/// A layout with one image of the name `t`.
pub fn layout(directory: &Path, layers: &[Vec<u8>], config: &str) -> PathBuf {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let layers: Vec<String> = layers
        .iter()
        .map(|layer| {
            format!(r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip",{}}}"#, put(&blobs, layer))
        })
        .collect();
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json",{}}},"layers":[{}]}}"#,
        put(&blobs, config.as_bytes()),
        layers.join(",")
    );
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json",{},"annotations":{{"org.opencontainers.image.ref.name":"t"}}}}]}}"#,
        put(&blobs, manifest.as_bytes())
    );
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(directory.join("index.json"), index).unwrap();
    directory.to_owned()
}
