//! An image's files as a tar stream, as a layer of an OCI image has them.
//!
//! ```text
//! ./                            the root: its mode and owner
//! usr/                          a directory before what is in it, names in the image's order
//! usr/bin/perl                  a file with several names: content at the first,
//! usr/bin/perl5.40  -> link     a hard link at the others
//! ```
//!
//! The format is POSIX's ustar (pax(1), IEEE Std 1003.1-2017) with extended headers where a field is too small: long
//! names and targets, and `SCHILY.xattr.NAME` for extended attributes, which is what container
//! tools read. Numbers that need more than the octal digits are in base 256, as GNU tar writes them. Holes are zeros.
//! The same image gives the same bytes.

use super::squashfs::{Content, FileKind, Inode, Squashfs};
use crate::error::{Context, Error, Result};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};

/// What a field of the header for a name holds.
const NAME_BYTES: usize = 100;

/// What was written.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Entries.
    pub entries: u64,
    /// Sockets: tar has none, and nobody listens in an image.
    pub sockets: Vec<PathBuf>,
}

/// A program that a stream has beside the image's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Absolute; its directory is in the image.
    pub path: PathBuf,
    /// What it is.
    pub content: Vec<u8>,
    /// Its time, in seconds since 1970.
    pub time: u64,
}

/// Writes all files of an image to `out`, and then `programs`. `out` sees many small writes.
///
/// # Errors
/// A damaged image; `out` that fails.
pub fn write_tar(image: &Squashfs, programs: &[Program], out: &mut dyn Write) -> Result<Written> {
    let mut builder = Builder::new(out);
    let mut written = Written::default();
    let mut names: HashMap<u32, PathBuf> = HashMap::new();
    image.walk(&mut |path, inode| {
        if matches!(inode.content, Content::Ipc { socket: true }) {
            written.sockets.push(path.to_owned());
            return Ok(());
        }
        written.entries += 1;
        let tried = || format!("cannot write {path:?} to a tar stream");
        let several = inode.kind() != FileKind::Directory && inode.links > 1;
        if several && let Some(first) = names.get(&inode.number) {
            return write_entry(&mut builder, path, &Entry::link(first)).tried(tried);
        }
        if several {
            names.insert(inode.number, path.to_owned());
        }
        let xattrs = image.xattrs(inode)?;
        let entry = Entry::of(inode, &xattrs);
        match &inode.content {
            Content::Regular(_) => {
                let mut content = FileContent { image, inode, offset: 0, failed: None };
                let result = write_with_content(&mut builder, path, &entry, &mut content);
                content.failed.map_or_else(|| result.tried(tried), Err)
            }
            _ => write_entry(&mut builder, path, &entry).tried(tried),
        }
    })?;
    for Program { path, content, time } in programs {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(*time);
        header.set_size(content.len() as u64);
        let added = builder.append_data(&mut header, inner(path), content.as_slice());
        added.tried(|| format!("cannot write {path:?} to a tar stream"))?;
        written.entries += 1;
    }
    builder.finish().tried(|| "cannot write the end of a tar stream".to_owned())?;
    Ok(written)
}

/// One entry, but for its name and content.
struct Entry<'a> {
    kind: EntryType,
    /// What a link leads to.
    target: &'a [u8],
    status: Option<&'a Inode>,
    xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

impl<'a> Entry<'a> {
    fn of(inode: &'a Inode, xattrs: &'a [(Vec<u8>, Vec<u8>)]) -> Self {
        let (kind, target): (_, &[u8]) = match &inode.content {
            Content::Directory(_) => (EntryType::Directory, b""),
            Content::Regular(_) => (EntryType::Regular, b""),
            Content::Symlink { target } => (EntryType::Symlink, target),
            Content::Device { block: true, .. } => (EntryType::Block, b""),
            Content::Device { block: false, .. } => (EntryType::Char, b""),
            Content::Ipc { .. } => (EntryType::Fifo, b""),
        };
        Self { kind, target, status: Some(inode), xattrs }
    }

    /// A further name of a file that was written.
    fn link(first: &'a Path) -> Self {
        let target = inner(first).as_os_str().as_bytes();
        Self { kind: EntryType::Link, target, status: None, xattrs: &[] }
    }
}

/// The name in the stream of an absolute path.
fn inner(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn write_entry(out: &mut Builder<&mut dyn Write>, path: &Path, entry: &Entry<'_>) -> io::Result<()> {
    write_with_content(out, path, entry, &mut io::empty())
}

fn write_with_content(
    out: &mut Builder<&mut dyn Write>,
    path: &Path,
    entry: &Entry<'_>,
    content: &mut dyn Read,
) -> io::Result<()> {
    let mut header = Header::new_ustar();
    let mut more = Vec::new();
    header.set_entry_type(entry.kind);
    let name = name_of(path, entry.kind);
    if let Some(fields) = header.as_ustar_mut() {
        fill(&mut fields.name, &name, b"path", &mut more);
        fill(&mut fields.linkname, entry.target, b"linkpath", &mut more);
    }
    header.set_size(0);
    header.set_device_major(0)?;
    header.set_device_minor(0)?;
    if let Some(inode) = entry.status {
        header.set_mode(inode.mode & 0o7777);
        header.set_uid(inode.uid.into());
        header.set_gid(inode.gid.into());
        header.set_mtime(inode.mtime.into());
        if entry.kind == EntryType::Regular {
            header.set_size(inode.size);
        }
        if let Content::Device { rdev, .. } = inode.content {
            header.set_device_major((rdev >> 8) & 0xfff)?;
            header.set_device_minor((rdev & 0xff) | ((rdev >> 12) & 0xf_ff00))?;
        }
    }
    for (name, value) in entry.xattrs {
        add_record(&mut more, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    if !more.is_empty() {
        let mut extended = Header::new_ustar();
        extended.set_entry_type(EntryType::XHeader);
        extended.set_path("pax")?;
        extended.set_mode(0o644);
        extended.set_size(more.len() as u64);
        extended.set_cksum();
        out.append(&extended, more.as_slice())?;
    }
    header.set_cksum();
    out.append(&header, content)
}

/// A name as it stands in a header.
fn name_of(path: &Path, kind: EntryType) -> Vec<u8> {
    let mut name = inner(path).as_os_str().as_bytes().to_vec();
    if name.is_empty() {
        name.push(b'.');
    }
    if kind == EntryType::Directory {
        name.push(b'/');
    }
    name
}

/// Fills a field; what it cannot hold goes into the extended header.
fn fill(field: &mut [u8; NAME_BYTES], value: &[u8], key: &[u8], more: &mut Vec<u8>) {
    let short = value.get(..NAME_BYTES).unwrap_or(value);
    for (place, byte) in field.iter_mut().zip(short) {
        *place = *byte;
    }
    if value.len() > NAME_BYTES {
        add_record(more, key, value);
    }
}

/// A record of an extended header: `LENGTH KEY=VALUE`, a line that counts its own length.
fn add_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length += 1;
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    for part in [key, b"=", value, b"\n"] {
        records.extend_from_slice(part);
    }
}

/// The content of a regular file.
struct FileContent<'a> {
    image: &'a Squashfs,
    inode: &'a Inode,
    offset: u64,
    /// What is wrong with the image: an error of our own says more than one of `io`.
    failed: Option<Error>,
}

impl Read for FileContent<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.image.read(self.inode, self.offset, buffer);
        let count = read.map_err(|error| {
            self.failed = Some(error);
            io::Error::other("the image is damaged")
        })?;
        self.offset += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for (bytes, begins) in [(1, "6 k=v"), (88, "94 k="), (93, "99 k="), (94, "101 k="), (990, "997 k=")] {
            let mut records = Vec::new();
            add_record(&mut records, b"k", &vec![b'v'; bytes]);
            let text = String::from_utf8(records).unwrap();
            assert!(text.starts_with(begins) && text.ends_with("v\n"), "{bytes}: {text}");
            let length: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(length, text.len());
        }
    }

    #[test]
    fn directories_end_with_a_slash_and_names_are_relative() {
        assert_eq!(name_of(Path::new("/"), EntryType::Directory), b"./");
        assert_eq!(name_of(Path::new("/usr/bin"), EntryType::Directory), b"usr/bin/");
        assert_eq!(name_of(Path::new("/a"), EntryType::Regular), b"a");
    }
}
