//! From what the user calls an image to an open one.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::image::{self, Image};

/// Opens the image that `reference` names: a file or a directory.
///
/// # Errors
/// Those of [`image::open`], and of [`refuse_uri`].
pub fn image(reference: &Path) -> Result<Image> {
    if !reference.exists() {
        refuse_uri(reference)?;
    }
    image::open(reference)
}

/// An error when `reference` is an image of a registry or another machine.
///
/// # Errors
/// [`crate::error::Kind::Usage`] when it begins as a URI does.
pub fn refuse_uri(reference: &Path) -> Result<()> {
    let bytes = reference.as_os_str().as_bytes();
    let Some(colon) = bytes.windows(3).position(|three| three == b"://") else { return Ok(()) };
    if &bytes[..colon] == b"instance" {
        return Err(Error::usage(format!("cannot use {reference:?}: skiff has no named instances yet"))
            .hint("start the image itself: containers of one image share its server"));
    }
    if bytes[..colon].iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-') && colon > 1 {
        return Err(Error::usage(format!(
            "cannot use {reference:?}: images come from files and directories only"
        ))
        .hint(
            "unpack it with another tool and pack that: podman export $(podman create IMAGE) | tar -C TREE -x; \
             skiff build a.sif TREE",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_not_a_missing_file() {
        let error = image(Path::new("docker://debian:13")).unwrap_err();
        assert!(error.to_string().contains("files and directories only"), "{error}");
        let error = image(Path::new("instance://db")).unwrap_err();
        assert!(error.to_string().contains("no named instances"), "{error}");
        let error = image(Path::new("missing/a.sif")).unwrap_err();
        assert!(error.to_string().ends_with("no such file or directory"), "{error}");
    }
}
