//! `skiff sif`: what is in a SIF file.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

/// Shown by `skiff sif --help`.
pub const EXAMPLES: &str = "\
Examples:
  skiff sif list debian.sif
  skiff sif dump 1 debian.sif >debian.def
  skiff sif list --json debian.sif | jq '.[].name'";

/// `skiff sif`.
#[derive(Debug, Args)]
pub struct SifArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: SifAction,
}

/// What to do with a SIF file.
#[derive(Debug, Subcommand)]
pub enum SifAction {
    /// List the objects of a SIF file
    #[command(after_long_help = "\
Examples:
  skiff sif list debian.sif
  skiff sif list --json debian.sif | jq '.[].name'")]
    List(SifFile),
    /// Show the global header of a SIF file
    #[command(after_long_help = "\
Examples:
  skiff sif header debian.sif")]
    Header(SifFile),
    /// Show all that is known of one object
    #[command(after_long_help = "\
Examples:
  skiff sif list debian.sif       the number in the first column is the ID
  skiff sif info 4 debian.sif")]
    Info(SifObject),
    /// Write the bytes of one object to standard output
    #[command(after_long_help = "\
Examples:
  skiff sif dump 1 debian.sif >debian.def
  skiff sif dump 4 debian.sif >root.sqfs      skiff runs a bare SquashFS file, too")]
    Dump(DumpArgs),
}

/// A SIF file.
#[derive(Debug, Args)]
pub struct SifFile {
    /// The SIF file
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// One object of a SIF file.
#[derive(Debug, Args)]
pub struct SifObject {
    /// Which object: the ID that 'list' shows
    pub id: u32,
    /// The SIF file
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `skiff sif dump`.
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// Which object: the ID that 'list' shows
    pub id: u32,
    /// The SIF file
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
}
