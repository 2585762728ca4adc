//! The cache of what was fetched and of images made from it. What builds leave is in `build::cache`, beside it.
//!
//! ```text
//! CACHE/fetched/          0700
//!   blobs/HEX             bytes with that SHA-256
//!   images/HEX            an image: a SIF file that was made of blobs, or fetched from where there are no digests
//!   images/HEX.json       what it was made of, for people
//!   tags/HEX              what a name meant when it was last asked for
//!   new/...               what is being fetched or made; what of it is left of a cut transfer is taken up again
//!   locks/HEX             held while that is fetched or made
//! ```
//!
//! There is no daemon and no table. A file has its name when it is whole and on the disk, and nothing ever changes
//! it, so that who finds one needs no lock, and one that is removed while it is used is there until it is closed.
//!
//! Of a hundred that want the same thing one fetches it and the others wait for the lock. Where a file system has no
//! locks, or has them within a machine alone, several fetch it, each into a file of its own (the machine's name and
//! its start are part of what is in new/), and `rename` gives one after the other the same name for the same bytes.
//!
//! | you look for | open |
//! |---|---|
//! | where it is | [`place`] |
//! | files in it | [`store`] |
//! | listing and removing them | [`clean`] |

pub mod clean;
mod place;
pub mod store;

pub use place::{Around, place};
pub use store::{Kind, NewFile, Store};
