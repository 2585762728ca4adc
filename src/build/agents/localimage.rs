//! `localimage`: a SIF, a bare SquashFS, or a sandbox.

use std::path::Path;

use super::{Base, Order};
use crate::error::{Error, Result};
use crate::image;

/// Opens the image that `From` names, relative to the working directory.
pub fn open(order: &Order<'_>) -> Result<Base> {
    let from = order.needed("From")?;
    if order.key("Fingerprints").is_some() {
        return Err(Error::usage("Fingerprints: signatures of images cannot be checked yet")
            .hint("check the image with the tool that signed it, and leave the line out"));
    }
    let path = from.strip_prefix("file://").unwrap_or(from);
    Base::image(&image::open(Path::new(path))?)
}
