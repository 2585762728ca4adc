//! skiff: run programs from single-file images, as the user who calls.
//!
//! The map, in the order data flows (the whole picture is in `docs/architecture.md`):
//!
//! | you look for | open |
//! |---|---|
//! | a flag, its help text | [`cli`] |
//! | what a verb does, step by step | [`commands`] |
//! | what this machine is and allows | [`host`] |
//! | what the site and the user set | [`config`] |
//! | why a mount, variable or attribute is as it is | [`plan`] |
//! | what a definition file says, and what is to be done for it | [`build`] |
//! | how a plan becomes a container | [`launch`] |
//! | root's powers, where there is no root | [`emulate`] |
//! | how files of an image reach the kernel | [`serve`] |
//! | SIF and SquashFS, reading | [`image`] |
//! | SIF and SquashFS, writing | [`pack`] |
//! | images of registries, layouts and archives | [`oci`] |
//! | what was fetched and made before, kept | [`cache`] |
//! | a library's needs, where the loader finds it | [`elf`] |
//! | a system call | [`sys`] |
//! | how errors are worded and what they exit with | [`error`] |
//! | what to do about a host that forbids something | [`remedies`] |
pub mod build;
pub mod cache;
pub mod cli;
pub mod commands;
pub mod config;
pub mod elf;
pub mod emulate;
pub mod error;
pub mod host;
pub mod image;
pub mod launch;
pub mod oci;
pub mod pack;
pub mod plan;
pub mod records;
pub mod remedies;
pub mod serve;
pub mod sys;
