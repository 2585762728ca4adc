//! `skiff broadcast`: an image on every node of a job.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// Shown by `skiff broadcast --help`.
pub const EXAMPLES: &str = "\
Examples:
  image=$(skiff broadcast simulation.sif)       in a job script of Slurm
  srun skiff exec \"$image\" ./simulation       each node has the image
  skiff broadcast --remove simulation.sif       at its end

Without a directory the copies are in $SLURM_TMPDIR, else $TMPDIR, else /tmp, under skiff-images-UID
and a name made of the image's digest, so that the next job finds them there. Each node compares the
digest of its copy; a copy appears complete or not at all.";

/// `skiff broadcast`.
#[derive(Debug, Args)]
pub struct BroadcastArgs {
    /// The image: a SIF or SquashFS file
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    /// A directory that is each node's own; it is made where it is missing
    #[arg(value_hint = ValueHint::DirPath)]
    pub directory: Option<PathBuf>,
    /// Replace another file of the same name
    #[arg(short = 'F', long)]
    pub force: bool,
    /// Take the copies away from the nodes
    #[arg(long, conflicts_with = "force")]
    pub remove: bool,
    /// Print the path, the digest and the nodes as JSON
    #[arg(long)]
    pub json: bool,
    /// What a node has to do: how skiff calls itself there
    #[arg(long, hide = true, value_name = "TASK")]
    pub on_node: Option<String>,
}
