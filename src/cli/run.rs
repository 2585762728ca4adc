//! `skiff exec`, `run` and `shell`: one set of flags.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::{Args, ValueHint};

use super::files::{FileFlags, path_or_nothing};
use super::namespaces::NamespaceFlags;
use super::other::OtherFlags;

/// Shown by `skiff exec --help`.
pub const EXEC_EXAMPLES: &str = "\
Examples:
  skiff exec debian.sif ./simulation --steps 100
  skiff exec --bind /data,/scratch/in:/input:ro debian.sif python3 -c 'print(1)'
  skiff exec --dry-run debian.sif true      what would be done, and why";

/// Shown by `skiff run --help`.
pub const RUN_EXAMPLES: &str = "\
Examples:
  skiff run debian.sif
  ./debian.sif              the same, with a link 'run-singularity' to skiff on PATH";

/// Shown by `skiff shell --help`.
pub const SHELL_EXAMPLES: &str = "\
Examples:
  skiff shell debian.sif";

/// What `exec`, `run` and `shell` take.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The flags that shape the container.
    #[command(flatten)]
    pub container: ContainerFlags,
    /// The image: a SIF or SquashFS file, or a directory
    #[arg(value_hint = ValueHint::FilePath, help_heading = Resettable::Reset)]
    pub image: PathBuf,
    /// The program and its arguments
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_hint = ValueHint::CommandWithArguments,
        help_heading = Resettable::Reset
    )]
    pub command: Vec<OsString>,
}

/// The flags that shape a container, the same for every verb that starts one.
#[derive(Debug, Clone, Default, Args)]
pub struct ContainerFlags {
    /// Bring a file or directory of the host into the container; commas separate several, opts are ro, rw
    #[arg(
        short = 'B',
        long,
        value_name = "SOURCE[:TARGET[:OPTS]]",
        value_hint = ValueHint::AnyPath,
        help_heading = "Files"
    )]
    pub bind: Vec<OsString>,
    /// Start in this directory of the container
    #[arg(
        long,
        alias = "pwd",
        value_name = "DIR",
        value_hint = ValueHint::DirPath,
        value_parser = path_or_nothing(),
        help_heading = "Files"
    )]
    pub cwd: Option<PathBuf>,
    /// Mounts, home, overlays.
    #[command(flatten)]
    pub files: FileFlags,
    /// Processes, network, identity, privileges.
    #[command(flatten)]
    pub namespaces: NamespaceFlags,
    /// Flags that are answered in a sentence.
    #[command(flatten)]
    pub other: OtherFlags,
    /// Set a variable in the container; `$NAME` in the value is replaced unless --no-eval
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Environment")]
    pub env: Vec<OsString>,
    /// Leave the host's variables out
    #[arg(short = 'e', long, help_heading = "Environment")]
    pub cleanenv: bool,
    /// Take the values of --env literally
    #[arg(long, help_heading = "Environment")]
    pub no_eval: bool,
    /// Print what would be done, and why, instead of doing it
    #[arg(long, help_heading = "Plan")]
    pub dry_run: bool,
    /// With --dry-run: print it as JSON
    #[arg(long, requires = "dry_run", help_heading = "Plan")]
    pub json: bool,
}
