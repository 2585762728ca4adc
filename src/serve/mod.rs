//! The image server: how the files of an image reach the kernel.
//!
//! ```text
//! skiff exec (P)                     keeper                              worker
//!   meet ── connect ── no socket
//!     lock, listen, fork twice ───▶ own session, no descriptor of P's
//!   decide the plan                 fork ────────────────────────────▶ sandbox, open the image, threads,
//!   user and mount namespaces,                                          decode what P's program starts with
//!   mount(2) "fuse"
//!   hand_over ── FUSE queues ─────▶ ── queues ───────────────────────▶ a thread for each queue:
//!   container, execve               poll: socket, pidfds, worker        read request → slot, answer
//! skiff exec (Q)
//!   meet ── connect ──────────────▶ namespaces ──▶ Q joins
//!                                   worker died: fork another, which answers what is in the slots
//!                                   P, Q, ... ended: linger, then drop the namespaces and the socket
//!                                                                       ENODEV: nobody shows the mount: exit
//!                                   worker ended by itself: exit
//! ```
//!
//! Without FUSE the image is unpacked, and the server is one process: [`unpacked`].
//!
//! The *keeper* parses nothing of the image and only small messages of the same user's processes. The *worker*
//! parses the image; it may read its image, talk FUSE, and nothing else. All that must survive a worker is in
//! the keeper's descriptors and in the slot table ([`crate::sys::slots`]); the rest is in the image, since a node id
//! is the inode's place in it.

pub mod client;
mod door;
mod follow;
mod keeper;
mod key;
mod message;
mod operations;
mod others;
mod readahead;
mod rendezvous;
mod sandbox;
mod store;
mod turns;
mod unpacked;
mod walk;
mod wire;
mod worker;
mod xattrs;

pub use client::{Meeting, Namespaces, Starter, meet};
pub use unpacked::{Unpacked, abandoned};

use std::fs::File;
use std::path::PathBuf;

/// Whom the files of the image are shown as belonging to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The one user and group that the user namespace maps: an unmapped owner's directory of mode 0700 would be
    /// unreadable to everyone.
    Caller {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
    /// Their owners in the image, which are mapped up to some id; those of others are shown as nobody's.
    Mapped {
        /// How many user ids are mapped, from 0 on.
        uids: u32,
        /// How many group ids.
        gids: u32,
    },
    /// Their owners in the image, since all ids are mapped.
    Image,
}

impl Owner {
    /// The caller, who looks like root.
    pub const ROOT: Self = Self::Caller { uid: 0, gid: 0 };
}

/// What a container asks to be served.
#[derive(Debug)]
pub struct Request {
    /// The image file, opened for reading.
    pub image: File,
    /// Where its file system starts, in bytes.
    pub offset: u64,
    /// How long its file system is, in bytes.
    pub length: u64,
    /// Whom the files belong to.
    pub owner: Owner,
    /// Containers of different scopes (Slurm steps, cgroups) do not share a server.
    pub scope: String,
    /// How long the server waits for another container after the last one ended.
    pub linger: std::time::Duration,
    /// Directories that a rendezvous socket may be made in, best first.
    pub rendezvous: Vec<PathBuf>,
    /// Files that the first container's program starts with, as paths inside the image, in the order of their use:
    /// a new server decodes them while the container is being prepared. Those that do not exist are passed over.
    pub start: Vec<PathBuf>,
    /// Where there is no FUSE: the directory below which the image is unpacked.
    pub unpack: Option<PathBuf>,
}
