//! `skiff build`: a directory into an image, and back.

use crate::cli::Global;
use crate::cli::build::BuildArgs;
use crate::error::{Error, Kind, Result};

/// Runs `skiff build`.
pub fn run(args: &BuildArgs, _global: &Global) -> Result<i32> {
    Err(Error::new(Kind::Internal, format!("cannot build {:?} yet", args.target)))
}
