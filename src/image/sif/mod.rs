//! SIF, the Singularity Image Format: a file of files, most often a root file system with what was used
//! to make it.
//!
//! ```text
//! offset 0        global header, 128 bytes           magic, architecture, UUID, times, where the rest is
//!                 gap
//! offset 4096     descriptor table, 48 x 585 bytes   one descriptor an object
//! offset 32176    objects, partitions at multiples of 4096
//! ```
//!
//! All integers are little endian and packed without padding, so fields are taken from bytes and never
//! cast. The table and the data are where the header says (older tools put the data at 32768).
//!
//! | file | what |
//! |---|---|
//! | `layout.rs` | header and descriptors as bytes |
//! | `names.rs` | the codes of types, file systems, architectures, and their names |
//! | `read.rs` | a SIF file, checked |
//! | `write.rs` | a new SIF file, in one pass |
//! | `edit.rs` | add, delete, set the primary partition of one that exists |

mod edit;
mod layout;
mod names;
mod read;
mod write;

pub use edit::{Erase, add, delete, set_primary};
pub use layout::{Descriptor, Extra, Header, Link};
pub use names::{
    Architecture, CryptoFormat, DataType, FileSystem, HashType, MessageType, PartitionType, SbomFormat,
};
pub use read::{Sif, read};
pub use write::{NewObject, SifOptions, SifWriter};
