//! `skiff pull`: an image from elsewhere into a file.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::fetch::{FetchFlags, PlatformFlags};
use super::files::path_or_nothing;

/// Shown by `skiff pull --help`.
pub const EXAMPLES: &str = "\
Examples:
  skiff pull docker://debian:13                       into debian_13.sif
  skiff pull small.sif docker://alpine
  skiff pull --arch arm64 docker://debian:13
  skiff pull oras://registry.example.org/group/solver:2.1
  skiff pull a.sif docker-archive:saved.tar
  skiff exec docker://debian:13 cat /etc/os-release   without a file of your own

What was fetched and made is kept: 'skiff cache list' shows it. An interrupted transfer goes on where it was.";

/// `skiff pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// The file to make, if it is not to be called as the image is; and the image: docker://, oras://, library://,
    /// https://, docker-archive:, docker-daemon:, oci: or oci-archive:
    #[arg(value_names = ["[OUTPUT] IMAGE"], num_args = 1..=2, required = true, value_hint = ValueHint::FilePath)]
    pub words: Vec<PathBuf>,
    /// Replace the file if it exists
    #[arg(short = 'F', long)]
    pub force: bool,
    /// Make the file in this directory
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, value_parser = path_or_nothing())]
    pub dir: Option<PathBuf>,
    /// Call the file so
    #[arg(long, value_name = "NAME", value_parser = path_or_nothing(), hide = true)]
    pub name: Option<PathBuf>,
    /// Nothing is checked anyway: signatures of images are not looked at
    #[arg(short = 'U', long, alias = "allow-unauthenticated", hide = true)]
    pub allow_unsigned: bool,
    /// Answered in a sentence: `skiff build` makes sandboxes
    #[arg(long, hide = true)]
    pub sandbox: bool,
    /// Answered in a sentence, as --sandbox
    #[arg(long, hide = true)]
    pub reproducible: bool,
    /// Take nothing from the cache and keep nothing in it
    #[arg(long)]
    pub disable_cache: bool,
    /// Which image.
    #[command(flatten)]
    pub platform: PlatformFlags,
    /// How it is fetched.
    #[command(flatten)]
    pub fetch: FetchFlags,
}
