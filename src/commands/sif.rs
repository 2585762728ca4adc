//! `skiff sif`: what is in a SIF file.

use crate::cli::sif::SifArgs;
use crate::error::{Error, Kind, Result};

/// Runs `skiff sif`.
pub fn run(_args: &SifArgs) -> Result<i32> {
    Err(Error::new(Kind::Internal, "cannot look into a SIF file yet"))
}
