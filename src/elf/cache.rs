//! The glibc loader's cache, /etc/ld.so.cache: which library is where (glibc's sysdeps/generic/dl-cache.h).
//!
//! ```text
//! old   "ld.so-1.7.0\0"  count u32 | entries: flags u32, name u32, path u32 | names
//!       then, at the next multiple of 8, a new one (until glibc 2.32 both were written)
//! new   "glibc-ld.so.cache1.1"  count u32, names' length u32, byte order u8, 3 unused, extensions u32, 12 unused
//!       | entries: flags u32, name u32, path u32, version u32, hwcap u64 | names
//! ```
//!
//! Names and paths are offsets: in an old cache from the end of the entries, in a new one from its beginning.

use std::collections::BTreeMap;
use std::path::PathBuf;

const OLD: &[u8] = b"ld.so-1.7.0\0";
const NEW: &[u8] = b"glibc-ld.so.cache1.1";
/// The byte order's field of a big-endian cache.
const BIG: u8 = 3;
/// No path is longer.
const MAX_PATH: usize = 4096;
/// A larger cache is not read.
pub const MAX_BYTES: u64 = 16 << 20;

/// A library of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub path: PathBuf,
    /// What it is for: the low byte says which C library, the next which processor and class.
    pub flags: u32,
    /// It is for processors with something more; the loader prefers it there.
    pub special: bool,
}

/// The libraries by name, each list in the cache's order, those for every processor first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cache {
    /// The entries.
    pub entries: BTreeMap<String, Vec<Entry>>,
    /// The directories, in the order in which the cache names them first.
    pub directories: Vec<PathBuf>,
}

/// Reads a cache; `None` when it is none, or damaged: the loader does without then, too.
pub fn parse_cache(bytes: &[u8]) -> Option<Cache> {
    if bytes.starts_with(NEW) {
        return parse_new(bytes);
    }
    if !bytes.starts_with(OLD) {
        return None;
    }
    let count = number(bytes, 12, false)? as usize;
    let end = count.checked_mul(12)?.checked_add(16).filter(|end| *end <= bytes.len())?;
    let second = end.checked_next_multiple_of(8)?;
    if let Some(new) = bytes.get(second..).filter(|new| new.starts_with(NEW)) {
        return parse_new(new);
    }
    let names = &bytes[end..];
    let entries = (0..count).map(|index| {
        let at = 16 + index * 12;
        let field = |which: usize| number(bytes, at + 4 * which, false);
        Some((field(0)?, field(1)?, field(2)?, 0))
    });
    collect(entries, names)
}

fn parse_new(bytes: &[u8]) -> Option<Cache> {
    let big = *bytes.get(28)? == BIG;
    let count = number(bytes, 20, big)? as usize;
    count.checked_mul(24)?.checked_add(48).filter(|end| *end <= bytes.len())?;
    let entries = (0..count).map(|index| {
        let at = 48 + index * 24;
        let field = |which: usize| number(bytes, at + 4 * which, big);
        // Any bit of the two halves makes it special.
        Some((field(0)?, field(1)?, field(2)?, field(4)? | field(5)?))
    });
    collect(entries, bytes)
}

fn collect(entries: impl Iterator<Item = Option<(u32, u32, u32, u32)>>, names: &[u8]) -> Option<Cache> {
    let mut cache = Cache::default();
    for entry in entries {
        let (flags, name, path, special) = entry?;
        let (name, path) = (text(names, name)?, PathBuf::from(text(names, path)?));
        let entry = Entry { path, flags, special: special != 0 };
        if let Some(directory) = entry.path.parent().filter(|_| !entry.special)
            && cache.directories.last().is_none_or(|last| last != directory)
            && !cache.directories.iter().any(|known| known == directory)
        {
            cache.directories.push(directory.to_owned());
        }
        cache.entries.entry(name).or_default().push(entry);
    }
    for list in cache.entries.values_mut() {
        list.sort_by_key(|entry| entry.special);
    }
    Some(cache)
}

fn number(bytes: &[u8], at: usize, big: bool) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    Some(if big { u32::from_be_bytes(field) } else { u32::from_le_bytes(field) })
}

fn text(bytes: &[u8], at: u32) -> Option<String> {
    let rest = bytes.get(at as usize..)?;
    let end = rest.iter().take(MAX_PATH).position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(&rest[..end]).into_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A new cache with these entries: name, path, hwcap.
    pub(crate) fn new_cache(entries: &[(&str, &str, u64)]) -> Vec<u8> {
        let mut out = NEW.to_vec();
        let names = 48 + entries.len() * 24;
        let mut text = Vec::new();
        let mut table = Vec::new();
        for (name, path, hwcap) in entries {
            let mut put = |word: &str| {
                let at = (names + text.len()) as u32;
                text.extend_from_slice(word.as_bytes());
                text.push(0);
                at.to_le_bytes()
            };
            table.extend_from_slice(&0x303_u32.to_le_bytes());
            table.extend_from_slice(&put(name));
            table.extend_from_slice(&put(path));
            table.extend_from_slice(&[0; 4]);
            table.extend_from_slice(&hwcap.to_le_bytes());
        }
        out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
        out.extend_from_slice(&(text.len() as u32).to_le_bytes());
        out.extend_from_slice(&[2, 0, 0, 0]);
        out.extend_from_slice(&[0; 16]);
        out.extend(table);
        out.extend(text);
        out
    }

    fn old_cache(entries: &[(&str, &str)]) -> Vec<u8> {
        let (mut table, mut text) = (Vec::new(), Vec::new());
        for (name, path) in entries {
            table.extend_from_slice(&3_u32.to_le_bytes());
            for word in [name, path] {
                table.extend_from_slice(&(text.len() as u32).to_le_bytes());
                text.extend_from_slice(word.as_bytes());
                text.push(0);
            }
        }
        let mut out = OLD.to_vec();
        out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
        out.extend(table);
        out.extend(text);
        out
    }

    fn shown(cache: &Cache) -> Vec<String> {
        let all = cache.entries.iter().flat_map(|(name, list)| list.iter().map(move |entry| (name, entry)));
        all.map(|(name, entry)| format!("{name} {} {}", entry.path.display(), entry.special)).collect()
    }

    #[test]
    fn both_formats_are_read_and_a_new_one_after_an_old_one() {
        let new = new_cache(&[
            ("libm.so.6", "/lib64/glibc-hwcaps/x86-64-v3/libm.so.6", 1 << 62 | 1),
            ("libm.so.6", "/lib64/libm.so.6", 0),
            ("liba.so.1", "/opt/a/liba.so.1", 0),
        ]);
        let cache = parse_cache(&new).unwrap();
        assert_eq!(
            shown(&cache),
            [
                "liba.so.1 /opt/a/liba.so.1 false",
                "libm.so.6 /lib64/libm.so.6 false",
                "libm.so.6 /lib64/glibc-hwcaps/x86-64-v3/libm.so.6 true",
            ]
        );
        assert_eq!(cache.directories, [PathBuf::from("/lib64"), PathBuf::from("/opt/a")]);
        let old = old_cache(&[("libz.so.1", "/usr/lib/libz.so.1")]);
        assert_eq!(shown(&parse_cache(&old).unwrap()), ["libz.so.1 /usr/lib/libz.so.1 false"]);
        let mut both = old_cache(&[]);
        both.resize(both.len().next_multiple_of(8), 0);
        both.extend(&new);
        assert_eq!(parse_cache(&both).unwrap(), cache);
        assert_eq!(parse_cache(b""), None);
        assert_eq!(parse_cache(&[0; 100]), None);
    }

    #[test]
    fn damaged_caches_are_none_or_another() {
        for bytes in [new_cache(&[("a", "/a", 0), ("b", "/b", 0)]), old_cache(&[("a", "/a"), ("b", "/b")])] {
            for length in 0..bytes.len() {
                parse_cache(&bytes[..length]);
            }
            for at in 0..bytes.len() {
                for value in [0, 0x7f, 0xff] {
                    let mut changed = bytes.clone();
                    changed[at] = value;
                    parse_cache(&changed);
                }
            }
            // A count that the file does not hold.
            let mut many = bytes;
            let count = if many.starts_with(NEW) { 20 } else { 12 };
            many[count..count + 4].fill(0xff);
            assert_eq!(parse_cache(&many), None);
        }
    }

    #[test]
    fn this_machines_own_cache_is_read() {
        let Ok(bytes) = std::fs::read("/etc/ld.so.cache") else { return };
        let cache = parse_cache(&bytes).unwrap();
        assert!(cache.entries.contains_key("libc.so.6"), "{:?}", cache.directories);
    }
}
