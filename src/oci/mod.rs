//! OCI images: what a registry, a layout or an archive holds, as plain data.
//!
//! ```text
//! manifest ── config          what to run, with which environment
//!          └─ layers          tar streams, the oldest first
//! ```
//!
//! Each part is a blob, found by its digest (OCI image specification 1.1, "Content Descriptors").

pub mod archive;
pub mod credentials;
pub mod daemon;
mod digest;
pub mod fetch;
pub mod http;
pub mod layout;
pub mod library;
pub mod manifest;
pub mod mirrors;
pub mod platform;
pub mod reference;
pub mod registry;
pub mod token;
pub mod transfer;
pub mod web;

pub use digest::Digest;
pub use platform::Platform;

use std::fs::File;

/// One part of an image: bytes that were checked against their digest when they were stored.
#[derive(Debug)]
pub struct Blob {
    /// What it is found by.
    pub digest: Digest,
    /// What its manifest says it is, for example `application/vnd.oci.image.layer.v1.tar+gzip`.
    pub media_type: String,
    /// Length in bytes.
    pub size: u64,
    /// Its bytes, from offset 0.
    pub file: File,
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
