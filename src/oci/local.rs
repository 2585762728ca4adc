//! Images on this machine: `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:NAME]`.

use std::path::Path;

use super::reference::Reference;
use super::{OciImage, Platform, archive, layout};
use crate::error::{Error, Kind, Result};

/// Opens one. `scratch` is where a compressed archive is decompressed.
///
/// # Errors
/// As [`layout::open`] and [`archive::open`]; a name of something else.
pub fn open(reference: &Reference, platform: &Platform, scratch: &Path) -> Result<OciImage> {
    match reference {
        Reference::OciLayout(path, tag) => layout::open(path, tag.as_deref(), platform),
        Reference::OciArchive(path, tag) | Reference::DockerArchive(path, tag) => {
            archive::open(path, tag.as_deref(), platform, scratch)
        }
        _ => Err(Error::new(Kind::Internal, format!("{reference} is not of this machine"))),
    }
}
