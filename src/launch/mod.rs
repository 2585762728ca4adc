//! launch

use std::convert::Infallible;

use crate::error::{Error, Kind, Result};

/// Carries a plan out; returns only when that fails.
pub fn exec(_plan: &crate::plan::RunPlan, image: &crate::image::Image) -> Result<Infallible> {
    Err(Error::new(Kind::Internal, format!("cannot start a program from {:?} yet", image.path)))
}
