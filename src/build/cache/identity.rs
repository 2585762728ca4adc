//! Whether a base is the one of an earlier build, without reading it.
//!
//! ```text
//! an image file     its length and time of change
//!                   SIF: header (with the UUID) and table of objects
//!                   the superblock, and everything from the inode table to the end of the file system
//! a directory       name, kind, owner, mode, size, times and inode of everything in it
//! ```
//!
//! The tables of a SquashFS name every file with its times, and every block with its place and length once compressed:
//! two images made of different contents differ there, or they were made in the same way of files of the same times and
//! of blocks that compress to exactly the same lengths. Against that, the time of the image's own file counts too,
//! which every write to it changes, and in a SIF the UUID, which is random or made from the contents. Device, inode
//! and time of the last change of the inode do not count: an image that was moved, or copied with its time, is the
//! same. For 1.9 GB that is a few megabytes to read.
//!
//! What is not noticed is contents changed by somebody who sets the file's time back and takes care that no compressed
//! block gets longer or shorter; and in a directory a change that keeps a file's size in the same tick of the clock
//! (4 ms, and none since kernel 6.13) in which it was looked at.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::key::{Digest, Hash};
use crate::error::{Context, Result};
use crate::image::source::Source;
use crate::image::squashfs::{SUPERBLOCK_BYTES, Superblock};
use crate::image::{Format, Image};

/// How much is read at once.
const PIECE_BYTES: u64 = 1 << 20;
/// Where the tables of a SIF end, as this and other tools write them.
const SIF_TABLES_BYTES: u64 = 32 << 10;

/// What an image is known by.
///
/// # Errors
/// When it cannot be read.
pub fn of_image(image: &Image) -> Result<Digest> {
    let tried = || format!("cannot read image {:?}", image.path);
    let mut hash = Hash::new("image");
    let Some(partition) = &image.partition else {
        return of_directory(&image.path).tried(|| format!("cannot look through {:?}", image.path));
    };
    let status = image.file.metadata().tried(tried)?;
    hash.number("seconds", status.mtime() as u64);
    hash.number("nanoseconds", status.mtime_nsec() as u64);
    add_file(&mut hash, image, partition)?;
    Ok(hash.finish())
}

/// What the file of an image is known by wherever it is copied to: the same without its time. None for a directory.
///
/// # Errors
/// When it cannot be read.
pub fn of_file(image: &Image) -> Result<Option<Digest>> {
    let Some(partition) = &image.partition else { return Ok(None) };
    let mut hash = Hash::new("image file");
    add_file(&mut hash, image, partition)?;
    Ok(Some(hash.finish()))
}

fn add_file(hash: &mut Hash, image: &Image, partition: &Source) -> Result<()> {
    let tried = || format!("cannot read image {:?}", image.path);
    hash.number("length", image.file.metadata().tried(tried)?.size());
    if image.format == Format::Sif {
        let whole = Source::whole(image.file.clone()).tried(tried)?;
        let tables = SIF_TABLES_BYTES.min(whole.length());
        add(hash, &whole, 0, tables).tried(tried)?;
    }
    let mut bytes = [0; SUPERBLOCK_BYTES];
    partition.read_exact_at(&mut bytes, 0).tried(tried)?;
    let superblock = Superblock::parse(&bytes, partition.length()).map_err(|error| image.named(error))?;
    hash.bytes("superblock", &bytes);
    let tables = superblock.bytes_used.saturating_sub(superblock.inode_table);
    add(hash, partition, superblock.inode_table, tables).tried(tried)
}

fn add(hash: &mut Hash, source: &Source, from: u64, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; PIECE_BYTES.min(length) as usize];
    let mut at = 0;
    while at < length {
        let piece = &mut buffer[..PIECE_BYTES.min(length - at) as usize];
        source.read_exact_at(piece, from + at)?;
        hash.bytes("piece", piece);
        at += piece.len() as u64;
    }
    Ok(())
}

/// What a directory is known by: it is the same while nothing in it was written to, renamed, or given another mode.
/// A copy is another one.
fn of_directory(top: &Path) -> io::Result<Digest> {
    let mut hash = Hash::new("directory");
    let mut ahead = vec![top.to_owned()];
    while let Some(path) = ahead.pop() {
        let status = if path == top { fs::metadata(&path)? } else { fs::symlink_metadata(&path)? };
        hash.bytes("path", path.strip_prefix(top).unwrap_or(&path).as_os_str().as_bytes());
        for (name, value) in [
            ("mode", u64::from(status.mode())),
            ("owner", u64::from(status.uid()) << 32 | u64::from(status.gid())),
            ("size", status.size()),
            ("device", status.dev()),
            ("inode", status.ino()),
            ("modified", status.mtime() as u64),
            ("and", status.mtime_nsec() as u64),
            ("changed", status.ctime() as u64),
            ("and", status.ctime_nsec() as u64),
        ] {
            hash.number(name, value);
        }
        if status.is_dir() {
            let mut entries = fs::read_dir(&path)?.collect::<io::Result<Vec<_>>>()?;
            entries.sort_by_key(fs::DirEntry::file_name);
            ahead.extend(entries.iter().map(fs::DirEntry::path));
        }
    }
    Ok(hash.finish())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_is_the_same_while_nothing_changes() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("a")).unwrap();
        fs::write(place.path().join("a/file"), "1").unwrap();
        let identity = || of_image(&crate::image::open(place.path()).unwrap()).unwrap();
        let first = identity();
        assert_eq!(identity(), first);
        fs::set_permissions(place.path().join("a/file"), fs::Permissions::from_mode(0o600)).unwrap();
        let second = identity();
        assert_ne!(second, first);
        fs::rename(place.path().join("a/file"), place.path().join("file")).unwrap();
        assert_ne!(identity(), second);
    }
}
