//! The integration tests: one binary, a module a theme. Each runs the built `skiff` as an ordinary user, on
//! real images and the real kernel; `harness` gives each a place of its own and checks that it leaves nothing.

mod build;
mod build_definition;
mod busybox;
mod cache;
mod compatibility;
mod convert;
mod definition;
mod demo;
mod dropin;
mod emulate;
mod environment;
mod errors;
mod exec;
mod flags;
mod gpu;
mod harness;
mod hosts;
mod inspect;
mod layering;
mod leaving;
mod mpi;
mod needs;
mod old_kernels;
mod pack;
mod pack_layers;
mod process;
mod ranks;
mod reader;
mod registry;
mod sbom;
mod serve;
mod sif;
mod subids;
mod unpacked;
mod verbs;
