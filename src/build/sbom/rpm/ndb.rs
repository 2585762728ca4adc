//! rpm's own data base, `Packages.db`.
//!
//! ```text
//! 0     "RpmP", version, generation, pages of slots, ...   the place of two slots
//! 32    slots of 16 bytes: "Slot", package, place, length  places and lengths in blocks of 16 bytes
//! blob  "BlbS", package, generation, bytes; the header
//! ```
//!
//! Numbers are little endian; a slot whose package is 0 is free.

use super::little;

const MAGIC: &[u8] = b"RpmP";
const SLOT: &[u8] = b"Slot";
const BLOB: &[u8] = b"BlbS";
const PAGE_BYTES: usize = 4096;
const BLOCK_BYTES: usize = 16;

pub(super) fn headers(bytes: &[u8], take: &mut dyn FnMut(&[u8]) -> bool) -> bool {
    read(bytes, take).is_some()
}

fn read(bytes: &[u8], take: &mut dyn FnMut(&[u8]) -> bool) -> Option<()> {
    if !bytes.starts_with(MAGIC) || little(bytes, 4)? != 0 {
        return None;
    }
    let end = (little(bytes, 12)? as usize).checked_mul(PAGE_BYTES)?;
    for slot in bytes.get(32..end)?.chunks_exact(16) {
        if !slot.starts_with(SLOT) {
            return None;
        }
        let package = little(slot, 4)?;
        if package == 0 {
            continue;
        }
        let blob = bytes.get((little(slot, 8)? as usize).checked_mul(BLOCK_BYTES)?..)?;
        if !blob.starts_with(BLOB) || little(blob, 4)? != package {
            return None;
        }
        let header = blob.get(BLOCK_BYTES..)?.get(..little(blob, 12)? as usize)?;
        if !take(header) {
            break;
        }
    }
    Some(())
}
