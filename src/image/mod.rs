//! image
pub mod sif;
pub mod source;
