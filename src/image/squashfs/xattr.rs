//! Extended attributes.
//!
//! ```text
//! xattr table (at its place in the superblock):  start of the pairs u64 | ids u32 | unused u32 | index u64...
//! an id:   place of its pairs u64 (block << 16 | offset, relative to the start) | pairs u32 | bytes u32
//! a pair:  prefix u16 (0 user. 1 trusted. 2 security. | 0x100: value elsewhere) | length u16 | name
//!          length u32 | value            elsewhere: 8 | place u64, where length u32 and value are
//! ```

use super::Squashfs;
use super::inode::Inode;
use super::meta::{Cursor, Table};
use crate::error::{Error, Kind, Result};

/// The longest value that Linux takes (`XATTR_SIZE_MAX`).
const VALUE_BYTES: u32 = 64 << 10;
/// More than this for all attributes of one inode is refused.
const TOTAL_BYTES: usize = 4 << 20;
/// The name's part of a pair is not longer than this with its prefix (`XATTR_NAME_MAX` is 255).
const NAME_BYTES: usize = 1024;
const VALUE_ELSEWHERE: u16 = 0x100;

/// The xattr table's header.
#[derive(Clone, Copy)]
struct XattrTable {
    pairs: u64,
    ids: u32,
    index: u64,
}

impl Squashfs {
    /// All extended attributes of an inode, full names with their values, in the image's order.
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut all = Vec::new();
        let mut total = 0;
        self.each_xattr(inode, &mut |name, read_value| {
            let value = read_value()?;
            total += name.len() + value.len() + 48;
            if total > TOTAL_BYTES {
                return Err(Error::image(format!("more than {TOTAL_BYTES} bytes of xattrs")));
            }
            all.push((name.to_vec(), value));
            Ok(true)
        })?;
        Ok(all)
    }

    /// The value of the extended attribute with this full name (`security.capability`).
    pub fn xattr(&self, inode: &Inode, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut found = None;
        self.each_xattr(inode, &mut |here, read_value| {
            if here == name {
                found = Some(read_value()?);
            }
            Ok(found.is_none())
        })?;
        Ok(found)
    }

    /// Calls `visit` with each name and a function that reads its value, until it says false.
    #[allow(clippy::type_complexity)]
    fn each_xattr(
        &self,
        inode: &Inode,
        visit: &mut dyn FnMut(&[u8], &mut dyn FnMut() -> Result<Vec<u8>>) -> Result<bool>,
    ) -> Result<()> {
        let Some(id) = inode.xattr else { return Ok(()) };
        // Images made with -no-xattrs may keep an id in extended inodes, and have no table.
        let Some(start) = self.superblock.xattr_table else { return Ok(()) };
        self.walk_pairs(start, id, visit).map_err(|error| {
            Error::new(error.kind, format!("xattrs of inode {:#x}", inode.reference.0)).because(error)
        })
    }

    #[allow(clippy::type_complexity)]
    fn walk_pairs(
        &self,
        start: u64,
        id: u32,
        visit: &mut dyn FnMut(&[u8], &mut dyn FnMut() -> Result<Vec<u8>>) -> Result<bool>,
    ) -> Result<()> {
        let table = self.xattr_table(start)?;
        if id >= table.ids {
            return Err(Error::image(format!("id {id} does not exist, the image has {}", table.ids)));
        }
        let ids = Table { name: "xattr table", index: table.index, entries: u64::from(table.ids) };
        let entry = u128::from_le_bytes(self.metadata.table_entry::<16>(ids, u64::from(id))?);
        let (place, count) = (entry as u64, (entry >> 64) as u32);
        let mut pairs = self.xattr_cursor(table, place)?;
        let mut total = 0;
        let mut name = Vec::new();
        for _ in 0..count {
            let kind = pairs.u16()?;
            let prefix: &[u8] = match kind & !VALUE_ELSEWHERE {
                0 => b"user.",
                1 => b"trusted.",
                2 => b"security.",
                other => return Err(Error::image(format!("unknown name prefix {other}"))),
            };
            let length = usize::from(pairs.u16()?);
            if length > NAME_BYTES {
                return Err(Error::image(format!("name of {length} bytes")));
            }
            name.clear();
            name.extend_from_slice(prefix);
            name.resize(prefix.len() + length, 0);
            pairs.fill(name.get_mut(prefix.len()..).unwrap_or_default())?;
            // A pair takes 8 bytes of the image at least, but blocks of one byte repeated are tiny on disk.
            total += name.len() + 8;
            if total > TOTAL_BYTES {
                return Err(Error::image(format!("more than {TOTAL_BYTES} bytes of names")));
            }
            let elsewhere = kind & VALUE_ELSEWHERE != 0;
            let length = value_length(&mut pairs)?;
            let mut read = false;
            let go_on = visit(&name, &mut || {
                read = true;
                let value = pairs.vec(length)?;
                if !elsewhere {
                    return Ok(value);
                }
                let place =
                    value.first_chunk().ok_or_else(|| Error::image("place of a value is cut short"))?;
                let mut other = self.xattr_cursor(table, u64::from_le_bytes(*place))?;
                let length = value_length(&mut other)?;
                other.vec(length)
            })?;
            if !go_on {
                break;
            }
            if !read {
                pairs.skip(length)?;
            }
        }
        Ok(())
    }

    fn xattr_table(&self, start: u64) -> Result<XattrTable> {
        let mut header = [0; 16];
        self.source.read_exact_at(&mut header, start).map_err(|e| {
            Error::new(Kind::Image, format!("cannot read the xattr table at {start:#x}")).because(e)
        })?;
        let header = u128::from_le_bytes(header);
        Ok(XattrTable { pairs: header as u64, ids: (header >> 64) as u32, index: start + 16 })
    }

    fn xattr_cursor(&self, table: XattrTable, place: u64) -> Result<Cursor<'_>> {
        let block =
            table.pairs.checked_add(place >> 16).ok_or_else(|| Error::image("pairs beyond all files"))?;
        self.metadata.cursor(block, (place & 0xffff) as usize, table.index, "xattr pairs")
    }
}

fn value_length(cursor: &mut Cursor<'_>) -> Result<usize> {
    match cursor.u32()? {
        length if length <= VALUE_BYTES => Ok(length as usize),
        length => Err(Error::image(format!("value of {length} bytes"))),
    }
}
