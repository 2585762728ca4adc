//! The tree source "base image plus layers": what a stack of overlays shows, as one image.

use super::walk::Roots;
use super::{PackOptions, PackSummary, Progress, pack};
use crate::error::Result;
use crate::image::squashfs::Squashfs;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

/// A stack of trees, each laid over the one below as the kernel's overlay does it.
#[derive(Debug, Clone, Copy)]
pub struct Layers<'a> {
    /// The image at the bottom. Without one the lowest directory is the bottom.
    pub base: Option<&'a Squashfs>,
    /// The layers, lowest first: upper directories of overlays mounted with `userxattr`, or plain directories.
    pub directories: &'a [PathBuf],
}

/// Packs what `layers` show into a SquashFS image in `output` from `offset` on.
///
/// As [`super::pack_directory`], with what the marks of the layers say: names that are gone, opaque directories,
/// and the owners, devices and attributes that the emulation of root wrote down.
///
/// # Errors
/// As [`super::pack_directory`]; a base that is damaged; marks that make no sense.
pub fn pack_layers(
    layers: &Layers<'_>,
    output: &File,
    offset: u64,
    options: &PackOptions,
    watch: (&Progress, &AtomicBool),
) -> Result<PackSummary> {
    let roots = Roots { base: layers.base, directories: layers.directories, marked: true };
    pack(roots, output, offset, options, watch)
}
