//! The flags that bring accelerators into a container, and `skiff gpu`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::files::path_or_nothing;

/// Shown by `skiff gpu --help`.
pub const EXAMPLES: &str = "\
Without an image: the accelerators, the driver, the devices that files of CDI describe. With one: what a container
of it would be given, and what is left out and why. Nothing is started.

Examples:
  skiff gpu
  skiff gpu pytorch.sif                      for the accelerators that are here
  skiff gpu --nv --compat32 game.sif
  skiff gpu --device nvidia.com/gpu=0 pytorch.sif
  skiff gpu --json pytorch.sif | jq '.left_out[]'";

/// Accelerators.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Accelerators")]
pub struct GpuFlags {
    /// Bring the host's NVIDIA driver in: its libraries, programs, devices
    #[arg(long)]
    pub nv: bool,
    /// Bring the host's AMD devices in, and what of its driver the image lacks
    #[arg(long)]
    pub rocm: bool,
    /// Bring the host's Intel GPUs in
    #[arg(long)]
    pub intel: bool,
    /// Bring the host's Intel Gaudi accelerators in
    #[arg(long)]
    pub intel_hpu: bool,
    /// Bring in devices that the host's CDI files describe (skiff gpu lists them)
    #[arg(long, value_name = "VENDOR/CLASS=NAME", value_delimiter = ',')]
    pub device: Vec<String>,
    /// Look for CDI files in these directories instead of /etc/cdi and /var/run/cdi
    #[arg(
        long,
        value_name = "DIR",
        value_delimiter = ',',
        value_hint = ValueHint::DirPath,
        value_parser = path_or_nothing()
    )]
    pub cdi_dirs: Vec<PathBuf>,
    /// With --nv and the like: the libraries for 32-bit programs, too
    #[arg(long, hide_short_help = true)]
    pub compat32: bool,
    /// As --nv: skiff needs no nvidia-container-cli
    #[arg(long, hide_short_help = true)]
    pub nvccli: bool,
    /// Not --nv, where variables or the configuration ask for it
    #[arg(long, hide_short_help = true)]
    pub no_nv: bool,
    /// Not --rocm, where variables or the configuration ask for it
    #[arg(long, hide_short_help = true)]
    pub no_rocm: bool,
    /// Libraries of the host to bring in, with commas between: paths, or names that its loader finds
    #[arg(long, value_name = "LIBRARY", value_delimiter = ',', value_hint = ValueHint::FilePath, hide_short_help = true)]
    pub containlibs: Vec<OsString>,
}

/// `skiff gpu`.
#[derive(Debug, Args)]
pub struct GpuArgs {
    /// The image: a SIF or SquashFS file, or a directory
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// What would be asked for.
    #[command(flatten)]
    pub gpu: GpuFlags,
}
