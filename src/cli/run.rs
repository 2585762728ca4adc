//! `skiff exec`, `run` and `shell`: one set of flags.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueHint};

/// Shown by `skiff exec --help`.
pub const EXEC_EXAMPLES: &str = "\
Examples:
  skiff exec debian.sif ./simulation --steps 100
  skiff exec debian.sif python3 -c 'print(1)'";

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
    /// The image: a SIF or SquashFS file, or a directory
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<OsString>,
}
