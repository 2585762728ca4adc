//! The only `unsafe` in skiff: system calls that neither rustix nor nix offers safely, each behind a thin,
//! typed function that decides nothing.
//!
//! Rules: a wrapper takes and gives owned or borrowed descriptors and typed values; its SAFETY comment names what
//! the callee requires and how that is met. Between fork and exec the child is a copy of a process with one
//! thread, so allocation is allowed there; starting threads before a fork is not.
#![allow(unsafe_code)]

pub mod compat;
pub mod features;
pub mod fuse;
pub mod members;
pub mod mount;
pub mod network;
pub mod notify;
pub mod process;
pub mod processors;
pub mod reaper;
pub mod signals;
pub mod slots;
pub mod start;
pub mod statx;
mod title;
