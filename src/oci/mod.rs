//! OCI images: what a registry, a layout or an archive holds, as plain data.
//!
//! ```text
//! manifest ── config          what to run, with which environment
//!          └─ layers          tar streams, the oldest first
//! ```
//!
//! Each part is a blob, found by its digest (OCI image specification 1.1, "Content Descriptors").

pub mod archive;
pub mod config;
pub mod credentials;
pub mod daemon;
mod digest;
pub mod documents;
pub mod export;
pub mod fetch;
pub mod http;
pub mod layers;
pub mod layout;
pub mod library;
pub mod local;
pub mod manifest;
pub mod mirrors;
pub mod platform;
pub mod proxy;
pub mod push;
pub mod reference;
pub mod registry;
pub mod scratch;
pub mod semantics;
mod store;
pub mod token;
pub mod transfer;
mod upload;
pub mod web;

pub use digest::Digest;
pub use platform::Platform;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, memfd_create};
use sha2::{Digest as _, Sha256};

use crate::error::{Context, Error, Result};

/// What is read and hashed at a time.
const PIECE_BYTES: usize = 1 << 20;

/// One part of an image: bytes that were checked against their digest when they were stored.
#[derive(Debug)]
pub struct Blob {
    /// What it is found by.
    pub digest: Digest,
    /// What its manifest says it is, for example `application/vnd.oci.image.layer.v1.tar+gzip`.
    pub media_type: String,
    /// Length in bytes.
    pub size: u64,
    /// Where its bytes are.
    pub file: File,
    /// Where they begin in the file: not 0 in an archive.
    pub offset: u64,
}

impl Blob {
    /// A blob in memory, for what is short.
    ///
    /// # Errors
    /// The system's.
    pub fn of_bytes(media_type: &str, bytes: &[u8]) -> Result<Self> {
        let kept = || "cannot keep a part of an image in memory".to_owned();
        let mut file = File::from(memfd_create("blob", MemfdFlags::CLOEXEC).tried(kept)?);
        file.write_all(bytes).tried(kept)?;
        let digest = Digest::from_sum(Sha256::digest(bytes).into());
        Ok(Self { digest, media_type: media_type.to_owned(), size: bytes.len() as u64, file, offset: 0 })
    }

    /// Reads some of its bytes; gives how many there were.
    ///
    /// # Errors
    /// The system's.
    pub fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let room = self.size.saturating_sub(at).min(buffer.len() as u64) as usize;
        let Some(buffer) = buffer.get_mut(..room) else { return Ok(0) };
        self.file.read_at(buffer, self.offset.saturating_add(at))
    }

    /// Reads it from its beginning, whatever others do with the file.
    pub fn reader(&self) -> impl Read {
        BlobReader { blob: self, at: 0 }
    }

    /// The digest that its bytes give, whatever it says of itself.
    ///
    /// # Errors
    /// The system's.
    pub fn sum(&self) -> io::Result<Digest> {
        let (mut sum, mut piece, mut reader) = (Sha256::new(), vec![0; PIECE_BYTES], self.reader());
        loop {
            match reader.read(&mut piece)? {
                0 => return Ok(Digest::from_sum(sum.finalize().into())),
                count => sum.update(piece.get(..count).unwrap_or_default()),
            }
        }
    }

    /// All of it, for manifests and configurations.
    ///
    /// # Errors
    /// It is longer than `limit`, or cannot be read.
    pub fn read_all(&self, limit: u64) -> Result<Vec<u8>> {
        if self.size > limit {
            return Err(Error::image(format!(
                "blob {} has {} bytes, more than the {limit} that what it is may have",
                self.digest.short(),
                self.size
            )));
        }
        let mut bytes = Vec::new();
        self.reader()
            .read_to_end(&mut bytes)
            .tried(|| format!("cannot read blob {}", self.digest.short()))?;
        Ok(bytes)
    }
}

struct BlobReader<'a> {
    blob: &'a Blob,
    at: u64,
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.blob.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// An image for one platform, all of it on this machine.
#[derive(Debug)]
pub struct OciImage {
    /// The manifest as it came.
    pub manifest: Blob,
    /// The configuration as it came.
    pub config: Blob,
    /// File system changes, the oldest first.
    pub layers: Vec<Blob>,
}

/// A file that an image has beside those of its layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addition {
    /// Its path, without a slash before it.
    pub path: Box<[u8]>,
    /// What it is.
    pub what: Added,
    /// It takes the place of what the layers have there, unless that is a directory.
    pub replaces: bool,
    /// Its time, in seconds since 1970.
    pub time: i64,
}

/// What an [`Addition`] is, with its permissions. Root owns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Added {
    /// A directory.
    Directory(u32),
    /// A symbolic link.
    Link(String),
    /// A file.
    File(u32, Vec<u8>),
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A blob in a file of its own.
    pub fn blob(bytes: &[u8]) -> Blob {
        Blob::of_bytes("", bytes).unwrap()
    }
}
