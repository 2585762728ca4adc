//! Reading files of a tree that may be hostile: everything is bounded, nothing is an error.

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::path::Path;

use crate::error::Error;
use crate::image::squashfs::FileKind;
use crate::image::{Entry, Tree};

/// All files together are not longer.
const TOTAL_BYTES: u64 = 512 << 20;
/// No more files and directories are looked at.
const LOOKS: u32 = 400_000;
/// No more notes are kept.
const NOTES: usize = 20;
/// No more packages are listed.
pub(super) const PACKAGES: usize = 100_000;

/// A tree, what may still be read of it, and what could not be.
pub(super) struct Look<'a> {
    tree: &'a Tree,
    bytes_left: Cell<u64>,
    looks_left: Cell<u32>,
    notes: RefCell<Vec<String>>,
}

impl<'a> Look<'a> {
    pub(super) fn new(tree: &'a Tree) -> Self {
        Self {
            tree,
            bytes_left: Cell::new(TOTAL_BYTES),
            looks_left: Cell::new(LOOKS),
            notes: RefCell::default(),
        }
    }

    pub(super) fn notes(&self) -> Vec<String> {
        self.notes.borrow().clone()
    }

    /// Remembers something that could not be read.
    pub(super) fn note(&self, note: String) {
        let mut notes = self.notes.borrow_mut();
        if notes.len() < NOTES && !notes.contains(&note) {
            notes.push(note);
        }
    }

    /// The contents of a regular file that is not longer than `limit`.
    pub(super) fn read(&self, path: &Path, limit: u64) -> Option<Vec<u8>> {
        let entry = self.entry(path).filter(|entry| entry.kind == FileKind::Regular)?;
        if entry.size > limit || entry.size > self.bytes_left.get() {
            self.note(format!("{} is too long to be read: {} bytes", path.display(), entry.size));
            return None;
        }
        let bytes = self.result(path, self.tree.read(path, limit))??;
        self.bytes_left.set(self.bytes_left.get().saturating_sub(bytes.len() as u64));
        Some(bytes)
    }

    /// The names in a directory; none if there is none.
    pub(super) fn list(&self, path: &Path) -> Vec<OsString> {
        if !self.is_directory(path) {
            return Vec::new();
        }
        self.result(path, self.tree.list(path)).unwrap_or_default()
    }

    pub(super) fn is_directory(&self, path: &Path) -> bool {
        self.entry(path).is_some_and(|entry| entry.kind == FileKind::Directory)
    }

    /// What a path leads to.
    pub(super) fn entry(&self, path: &Path) -> Option<Entry> {
        self.count(path)?;
        self.result(path, self.tree.lookup(path))?
    }

    /// A directory that is reached without a link at the end of its path.
    pub(super) fn is_own_directory(&self, path: &Path) -> bool {
        let found = || self.result(path, self.tree.entry(path))?;
        self.count(path).and_then(|()| found()).is_some_and(|entry| entry.kind == FileKind::Directory)
    }

    fn count(&self, path: &Path) -> Option<()> {
        match self.looks_left.get().checked_sub(1) {
            Some(left) => self.looks_left.set(left),
            None => {
                let note =
                    format!("there are too many files to look at; {} and others were not", path.display());
                if !self.notes.borrow().iter().any(|note| note.starts_with("there are too many")) {
                    self.note(note);
                }
                return None;
            }
        }
        Some(())
    }

    fn result<T>(&self, path: &Path, result: Result<T, Error>) -> Option<T> {
        result.map_err(|error| self.note(format!("{} cannot be read: {error}", path.display()))).ok()
    }
}
