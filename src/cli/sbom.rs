//! `skiff sbom`: what software is in an image.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

/// Shown by `skiff sbom --help`.
pub const EXAMPLES: &str = "\
Examples:
  skiff sbom debian.sif >debian.spdx.json
  skiff sbom debian.sif | jq -r '.packages[] | .name + \" \" + .versionInfo'

An image that carries such a document has it printed as it is. Else it is made from what dpkg, apk,
pacman, rpm and Python have written down in the image; nothing of the image is run.";

/// `skiff sbom`.
#[derive(Debug, Args)]
pub struct SbomArgs {
    /// The image: a SIF or SquashFS file, or a directory
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    /// The format
    #[arg(long, value_enum, default_value = "spdx-json")]
    pub format: SbomFormat,
    /// Make it anew from the image's files, also when the image carries one
    #[arg(long)]
    pub fresh: bool,
}

/// A format of a software bill of materials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SbomFormat {
    /// SPDX 2.3 as JSON
    SpdxJson,
}
