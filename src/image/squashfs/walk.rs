//! Visiting every file of an image, each directory before what is in it.
//!
//! A hostile image can name a directory in itself, in its own descendants, or in a thousand places. No tool
//! makes such an image, so a directory that is met twice is an error, and every walk ends. Listings are read
//! in pieces: memory grows with the depth and the number of directories, not with the files.

use super::inode::{FileKind, Inode, InodeRef};
use super::{Squashfs, cache::PlaceHash};
use crate::error::{Error, Result};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// Entries read from a listing at a time.
const PIECE: usize = 256;

/// A directory on the way to where the walk is.
struct Level {
    dir: Arc<Inode>,
    cursor: u64,
    /// Entries read and not yet visited, the next one last.
    piece: Vec<(Box<[u8]>, InodeRef)>,
    /// Length of the directory's path.
    path_length: usize,
}

impl Squashfs {
    /// Calls `visit` with the absolute path and inode of every file, the root first; names of a directory
    /// in its order. An error of `visit` ends the walk.
    pub fn walk(&self, visit: &mut dyn FnMut(&Path, &Arc<Inode>) -> Result<()>) -> Result<()> {
        let root = self.inode(self.root())?;
        let mut path = b"/".to_vec();
        visit(Path::new("/"), &root)?;
        let mut met: HashSet<u64, PlaceHash> = HashSet::default();
        met.insert(root.reference.0);
        let mut levels = vec![Level { dir: root, cursor: 0, piece: Vec::new(), path_length: 0 }];
        while let Some(level) = levels.last_mut() {
            if level.piece.is_empty() {
                self.next_piece(level)?;
            }
            let Some((name, reference)) = level.piece.pop() else {
                levels.pop();
                continue;
            };
            path.truncate(level.path_length);
            path.push(b'/');
            path.extend_from_slice(&name);
            let here = Path::new(OsStr::from_bytes(&path));
            let inode = self.inode(reference)?;
            visit(here, &inode)?;
            if inode.kind() == FileKind::Directory {
                if !met.insert(reference.0) {
                    let what = format!("directory inode {:#x} has a second name, {here:?}", reference.0);
                    return Err(Error::image(what));
                }
                levels.push(Level { dir: inode, cursor: 0, piece: Vec::new(), path_length: path.len() });
            }
        }
        Ok(())
    }

    fn next_piece(&self, level: &mut Level) -> Result<()> {
        let Level { dir, cursor, piece, .. } = level;
        self.read_dir(dir, *cursor, &mut |entry| {
            piece.push((entry.name.into(), entry.reference));
            *cursor = entry.next;
            if piece.len() == PIECE { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        piece.reverse();
        Ok(())
    }
}
