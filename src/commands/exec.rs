//! `skiff exec`.

use crate::cli::Global;
use crate::cli::run::RunArgs;
use crate::error::{Error, Kind, Result};

/// Runs `skiff exec`; returns only when the program could not be started.
pub fn run(args: &RunArgs, _global: &Global) -> Result<i32> {
    Err(Error::new(Kind::Internal, format!("cannot start a program from {:?} yet", args.image)))
}
