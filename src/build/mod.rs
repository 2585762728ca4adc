//! Images from definition files.
//!
//! ```text
//! bytes ──▶ definition::Definition ──▶ plan::BuildPlan
//!           what the file says,        what is to be done, in order
//!           each value with its place
//! ```
//!
//! Both are pure: nothing here reads a file. Carrying a build plan out is not there yet.

pub mod cache;
pub mod definition;
pub mod plan;
pub mod sbom;
