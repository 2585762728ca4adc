//! `skiff mpi`: which MPI the host and an image have, and what `--mpi` would do.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueHint};

/// Shown by `skiff mpi --help`.
pub const EXAMPLES: &str = "\
Nothing of the host or the image is run: all is read from their files.
Exit status: 0 when 'skiff exec --mpi' works with this image, 1 when it does not.

Examples:
  skiff mpi solver.sif                       what is found, what would be brought in, what to do
  skiff mpi solver.sif ./solver              the same for this program: what it uses of MPI is looked at
  skiff mpi --mpi=/opt/openmpi-5 solver.sif  with another MPI of the host
  skiff mpi --mpi=libfabric solver.sif       the host's network alone
  skiff mpi --mpi-glibc solver.sif           with the host's C library, where the image's is too old
  skiff mpi --json solver.sif | jq .refusal";

/// `skiff mpi`.
#[derive(Debug, Args)]
pub struct MpiArgs {
    /// The image: a SIF or SquashFS file, or a directory
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    /// The program that is to run, as skiff exec takes it
    #[arg(value_hint = ValueHint::FilePath)]
    pub program: Option<PathBuf>,
    /// The host's MPI, as skiff exec takes it
    #[arg(long, value_name = "PATH|libfabric", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub mpi: Option<OsString>,
    /// Bring the host's C library too, where the image's is older than the host's MPI needs
    #[arg(long)]
    pub mpi_glibc: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
