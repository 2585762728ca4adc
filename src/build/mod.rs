//! Images from definition files.
//!
//! ```text
//! bytes ──▶ definition::Definition ──▶ plan::BuildPlan
//!           what the file says,        what is to be done, in order
//!           each value with its place
//! ```
//!
//! Both are pure: nothing of them reads a file. What a plan says is done by [`run`], on bases that the agents make
//! ([`agents`]), in a work directory ([`workdir`]).

pub mod agents;
pub mod cache;
pub mod definition;
pub mod plan;
pub mod run;
pub mod sbom;
pub mod workdir;
