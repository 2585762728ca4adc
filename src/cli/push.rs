//! `skiff push` and `skiff tag`: images into registries.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::fetch::FetchFlags;

/// Shown by `skiff push --help`.
pub const EXAMPLES: &str = "\
Examples:
  skiff push solver.sif oras://registry.example.org/group/solver:2.1      the file as it is
  skiff push solver.sif docker://registry.example.org/group/solver:2.1    for Docker and Podman
  skiff push --annotation org.opencontainers.image.source=https://example.org/solver a.sif oras://...
  image=$(skiff push a.sif oras://registry.example.org/a)                 its name by digest

With docker:// the image's files become one layer. Containers run its runscript, with the variables that its scripts set.
Parts that are there already are not sent again. 'skiff registry login' keeps the password.";

/// Shown by `skiff tag --help`.
pub const TAG_EXAMPLES: &str = "\
Examples:
  skiff tag oras://registry.example.org/group/solver:2.1 latest
  skiff tag docker://registry.example.org/group/solver@sha256:... stable

Nothing is fetched or sent but the manifest.";

/// `skiff push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// The image: a SIF file; for docker:// a SquashFS file or a directory too
    #[arg(value_name = "IMAGE", value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    /// Where to: oras://HOST/NAME[:TAG] or docker://HOST/NAME[:TAG]
    #[arg(value_name = "TARGET")]
    pub target: String,
    /// Say this of the image in its manifest (repeatable)
    #[arg(long = "annotation", value_name = "KEY=VALUE")]
    pub annotations: Vec<String>,
    /// Nothing is checked anyway: signatures of images are not looked at
    #[arg(short = 'U', long, hide = true)]
    pub allow_unsigned: bool,
    /// How registries are spoken to.
    #[command(flatten)]
    pub fetch: FetchFlags,
}

/// `skiff tag`.
#[derive(Debug, Args)]
pub struct TagArgs {
    /// The image: oras://HOST/NAME[:TAG] or docker://HOST/NAME[:TAG], or with @DIGEST
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// The further tag
    #[arg(value_name = "TAG")]
    pub tag: String,
    /// How registries are spoken to.
    #[command(flatten)]
    pub fetch: FetchFlags,
}
