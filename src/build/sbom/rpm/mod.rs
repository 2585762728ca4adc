//! Packages of Fedora, RHEL, SUSE and others: the headers in rpm's data base.
//!
//! ```text
//! /usr/lib/sysimage/rpm | /var/lib/rpm
//!   rpmdb.sqlite        table Packages, a header a row           since Fedora 33, RHEL 9
//!   Packages.db         rpm's own format                          SUSE
//!   Packages            a hash of Berkeley DB                     before
//!
//! header   entries: u32, bytes: u32, entries of 16 bytes (tag, type, offset, count), bytes   all big endian
//! ```

mod bdb;
mod ndb;
mod sqlite;

use std::path::Path;

use super::fields::{party, shortened};
use super::look::{Look, PACKAGES};
use super::{Package, licence};

const DIRECTORIES: [&str; 2] = ["/usr/lib/sysimage/rpm", "/var/lib/rpm"];
/// The largest seen have 200 MB, with the paths of all files; they are held in memory while they are read.
const LIMIT: u64 = 256 << 20;
/// rpm's own limit to the entries of a header.
const ENTRIES: usize = 0xffff;

/// Gives the headers in a data base to a function, until that says no. False if it is no such data base, or damaged.
type Headers = fn(&[u8], &mut dyn FnMut(&[u8]) -> bool) -> bool;

const FORMATS: [(&str, Headers); 3] =
    [("rpmdb.sqlite", sqlite::headers), ("Packages.db", ndb::headers), ("Packages", bdb::headers)];

pub(super) fn packages(look: &Look<'_>) -> Vec<Package> {
    for directory in DIRECTORIES {
        for (name, headers) in FORMATS {
            let path = Path::new(directory).join(name);
            let Some(bytes) = look.read(&path, LIMIT) else { continue };
            let from = path.to_string_lossy();
            let mut packages = Vec::new();
            let whole = headers(&bytes, &mut |header| {
                packages.extend(package(header, &from));
                packages.len() < PACKAGES
            });
            if !whole {
                look.note(format!("{from} cannot be read: it is damaged, or has a format that is not known"));
            }
            let log = Path::new(directory).join("rpmdb.sqlite-wal");
            if name == "rpmdb.sqlite" && look.entry(&log).is_some_and(|entry| entry.size > 0) {
                look.note(format!("{} holds changes that were not read", log.display()));
            }
            return packages;
        }
    }
    Vec::new()
}

const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const EPOCH: u32 = 1003;
const SUMMARY: u32 = 1004;
const VENDOR: u32 = 1011;
const LICENCE: u32 = 1014;
const ADDRESS: u32 = 1020;
const ARCHITECTURE: u32 = 1022;
const SOURCE: u32 = 1044;

/// What a header says; none for keys that are kept among the packages.
fn package(bytes: &[u8], from: &str) -> Option<Package> {
    let header = Header::parse(bytes)?;
    let name = header.text(NAME);
    if name.is_empty() || name == "gpg-pubkey" {
        return None;
    }
    let mut qualifiers = Vec::new();
    let architecture = header.text(ARCHITECTURE);
    if !architecture.is_empty() {
        qualifiers.push(("arch", architecture));
    }
    let epoch = header.number(EPOCH).filter(|epoch| *epoch > 0);
    if let Some(epoch) = epoch {
        qualifiers.push(("epoch", epoch.to_string()));
    }
    Some(Package {
        kind: "rpm",
        version: format!("{}-{}", header.text(VERSION), header.text(RELEASE)),
        qualifiers,
        supplier: match header.text(VENDOR) {
            vendor if vendor.is_empty() => String::new(),
            // One who sells or gives out packages is no person.
            vendor => {
                format!("Organization: {}", party(&vendor).split_once(": ").map_or("", |(_, name)| name))
            }
        },
        originator: String::new(),
        licence: licence::expression(&header.text(LICENCE), from),
        homepage: header.text(ADDRESS),
        summary: header.text(SUMMARY),
        source: header.text(SOURCE),
        from: from.to_owned(),
        name,
    })
}

struct Header<'a> {
    entries: &'a [[u8; 16]],
    data: &'a [u8],
}

impl<'a> Header<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (count, length) = (big(bytes, 0)? as usize, big(bytes, 4)? as usize);
        if count > ENTRIES {
            return None;
        }
        let index = bytes.get(8..8 + count * 16)?;
        let data = bytes.get(8 + count * 16..)?.get(..length)?;
        Some(Self { entries: index.as_chunks().0, data })
    }

    /// The bytes from where the value of a tag begins, if it is of one of these types.
    fn value(&self, tag: u32, types: &[u32]) -> Option<&'a [u8]> {
        let entry = self.entries.iter().find(|entry| big(*entry, 0) == Some(tag))?;
        let (kind, offset) = (big(entry, 4)?, big(entry, 8)? as usize);
        types.contains(&kind).then(|| self.data.get(offset..)).flatten()
    }

    /// Of a string, or the first of several.
    fn text(&self, tag: u32) -> String {
        let bytes = self.value(tag, &[6, 8, 9]).unwrap_or_default();
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        shortened(String::from_utf8_lossy(&bytes[..end.min(1 << 16)]).lines().next().unwrap_or_default())
    }

    fn number(&self, tag: u32) -> Option<u32> {
        big(self.value(tag, &[4])?, 0)
    }
}

/// A number of four bytes, the highest first.
fn big(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A number of four bytes, the lowest first.
fn little(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
