//! An image of layers into a SIF.

use std::fs::File;

use super::image::{self, Content, Packed};
use crate::cli::Global;
use crate::cli::build::BuildArgs;
use crate::error::{Context, Result};
use crate::image::tree::{Directory, Tree};
use crate::oci::OciImage;

/// Writes a SIF of `image`, which was called `from`, into `file`.
///
/// # Errors
/// Those of writing.
pub fn write(
    _image: &OciImage,
    _from: &str,
    file: &File,
    args: &BuildArgs,
    global: &Global,
) -> Result<Packed> {
    let empty = tempfile::tempdir().tried(|| "cannot make a directory".into())?;
    let tree = Tree::Directory(Directory::open(empty.path())?);
    image::write(&Content::Directory(empty.path()), (&tree, None), file, args, global)
}
