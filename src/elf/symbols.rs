//! The names that a library gives to others, and those that it asks others for.
//!
//! How long the table of symbols is stands nowhere but in the hash tables over it: DT_HASH has it as its second number;
//! DT_GNU_HASH has the lowest symbol of each bucket, and chains whose last member has its lowest bit set:
//!
//! ```text
//! buckets u32, first symbol u32, bloom words u32, shift u32 | bloom words | bucket u32 ... | chain u32 ...
//! ```

use std::collections::BTreeSet;

use super::bytes::Bytes;
use super::read::{Elf, Numbers};
use crate::error::Result;

/// No library has as many.
const MAX_SYMBOLS: u32 = 1 << 18;
/// The longest names are those of C++.
const MAX_NAME: usize = 16 * 1024;

/// Names of functions and data.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Symbols {
    /// Those that others can use.
    pub defined: BTreeSet<String>,
    /// Those that others must have.
    pub undefined: BTreeSet<String>,
}

/// Reads the names that `wanted` wants.
///
/// # Errors
/// The file is damaged.
pub fn read_symbols(bytes: &Bytes<'_>, elf: &Elf, wanted: impl Fn(&str) -> bool) -> Result<Symbols> {
    let mut symbols = Symbols::default();
    let (Some(table), Some(names)) = (elf.tables.symbols, elf.tables.names) else { return Ok(symbols) };
    let numbers = Numbers { platform: elf.platform };
    let count = count(bytes, elf, numbers)?;
    if count > MAX_SYMBOLS {
        return Err(bytes.damaged("it has too many symbols"));
    }
    let size = if elf.platform.wide { 24 } else { 16 };
    // The first is no symbol.
    for index in 1..u64::from(count) {
        let Some(at) = table.checked_add(index * size) else { break };
        let symbol = bytes.exact(at, size as usize)?;
        let (info, section) = match elf.platform.wide {
            true => (symbol[4], numbers.u16(&symbol, 6)),
            false => (symbol[12], numbers.u16(&symbol, 14)),
        };
        // Global, weak, unique; a weak one that is missing does no harm.
        let binding = info >> 4;
        if !matches!(binding, 1 | 2 | 10) {
            continue;
        }
        let Some(name) = names.checked_add(numbers.u32(&symbol, 0).into()) else { continue };
        let name = bytes.text(name, MAX_NAME)?;
        if !wanted(&name) {
            continue;
        }
        if section != 0 {
            symbols.defined.insert(name);
        } else if binding == 1 {
            symbols.undefined.insert(name);
        }
    }
    Ok(symbols)
}

fn count(bytes: &Bytes<'_>, elf: &Elf, numbers: Numbers) -> Result<u32> {
    if let Some(hash) = elf.tables.hash {
        return Ok(numbers.u32(&bytes.exact(hash, 8)?, 4));
    }
    let Some(hash) = elf.tables.gnu_hash else { return Ok(0) };
    let head = bytes.exact(hash, 16)?;
    let (buckets, first, bloom) = (numbers.u32(&head, 0), numbers.u32(&head, 4), numbers.u32(&head, 8));
    if buckets > MAX_SYMBOLS || bloom > MAX_SYMBOLS {
        return Err(bytes.damaged("its table of symbols makes no sense"));
    }
    let word = if elf.platform.wide { 8 } else { 4 };
    let table = hash.saturating_add(16 + u64::from(bloom) * word);
    let lowest = bytes.exact(table, buckets as usize * 4)?;
    let last = lowest.chunks_exact(4).map(|bucket| numbers.u32(bucket, 0)).max().unwrap_or(0);
    let Some(mut chain) = last.checked_sub(first) else { return Ok(first) };
    let chains = table.saturating_add(u64::from(buckets) * 4);
    // The chain of the last bucket ends with the last symbol.
    while chain <= MAX_SYMBOLS {
        let link = bytes.exact(chains.saturating_add(u64::from(chain) * 4), 4)?;
        chain += 1;
        if numbers.u32(&link, 0) & 1 == 1 {
            break;
        }
    }
    Ok(first.saturating_add(chain))
}
