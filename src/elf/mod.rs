//! Programs and libraries as the dynamic loader sees them: what a file needs, what it gives, where it is found.
//!
//! ```text
//! bytes.rs   a file in bounded pieces, wherever it lies
//! read.rs    one ELF file: class, machine, soname, needed libraries and versions
//! symbols.rs the names that a library gives and asks for
//! cache.rs   the glibc loader's cache, /etc/ld.so.cache
//! place.rs   a host or an image as the loader searches it: name -> library, and all that it needs
//! check.rs   whether a library of one place would load among those of another
//! ```
//!
//! Nothing is ever run or loaded. All bytes are hostile: of an image, or of a host's file that somebody has changed.
//! The reader is our own, since the dynamic segment alone is wanted, by address and in pieces; the crates for this want
//! the whole file in memory, or its sections, which a stripped library need not have.

pub mod bytes;
pub mod cache;
pub mod check;
pub mod place;
pub mod read;
pub mod symbols;

pub use bytes::Bytes;
pub use place::{Library, Opened, Place};
pub use read::{Elf, Platform, Requirement};

#[cfg(test)]
pub mod made;
#[cfg(test)]
mod tests;
