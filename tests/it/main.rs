//! The integration tests: one binary, a module a theme. Each runs the built `skiff` as an ordinary user, on
//! real images and the real kernel; `harness` gives each a place of its own and checks that it leaves nothing.

mod build;
mod compatibility;
mod demo;
mod exec;
mod flags;
mod harness;
mod hosts;
mod layering;
mod pack;
mod process;
mod reader;
mod serve;
mod sif;
