//! What files have recorded, most of them nothing, so that they are not asked for it again: most are looked at often,
//! and an image server is a process too.
//!
//! A file is told by its number, and whether it is the same as before by the time of its last change, which a new
//! record moves too, whoever makes it. But two changes at one tick of the kernel's clock have one time: so what is
//! recorded here is told here.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::record::Record;

/// Device and inode.
pub type Number = (u64, u64);
/// Seconds and nanoseconds.
pub type Time = (i64, u32);

/// So many are remembered.
const MOST: usize = 1 << 16;

#[derive(Default)]
pub struct Known(Mutex<Table>);

#[derive(Default)]
struct Table {
    files: HashMap<Number, (Time, Option<Record>)>,
    changes: u64,
}

/// When a file was asked for its records.
pub struct Moment(u64);

impl Known {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it has, if that is known.
    pub fn get(&self, number: Number, changed: Time) -> Option<Option<Record>> {
        self.table().files.get(&number).filter(|(time, _)| *time == changed).map(|(_, record)| *record)
    }

    pub fn now(&self) -> Moment {
        Moment(self.table().changes)
    }

    /// This it had when it was asked, at that moment or later.
    pub fn put(&self, number: Number, changed: Time, record: Option<Record>, asked: &Moment) {
        let mut table = self.table();
        // What was recorded since may be its own.
        if table.changes == asked.0 {
            if table.files.len() >= MOST {
                table.files.clear();
            }
            table.files.insert(number, (changed, record));
        }
    }

    /// It has got another one.
    pub fn forget(&self, number: Number) {
        let mut table = self.table();
        table.changes += 1;
        table.files.remove(&number);
    }

    /// Something has got another one.
    pub fn forget_all(&self) {
        let mut table = self.table();
        table.changes += 1;
        table.files.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recorded_meanwhile_is_not_forgotten() {
        let known = Known::default();
        let (one, other, time) = ((1, 2), (1, 3), (5, 6));
        let record = Some(Record { owner: Default::default(), device: None });
        known.put(one, time, None, &known.now());
        known.put(other, time, record, &known.now());
        assert_eq!(known.get(one, time), Some(None));
        assert_eq!(known.get(one, (5, 7)), None);
        assert_eq!(known.get(other, time), Some(record));
        let before = known.now();
        known.forget(one);
        known.put(one, time, None, &before);
        assert_eq!([one, other].map(|number| known.get(number, time)), [None, Some(record)]);
        known.forget_all();
        assert_eq!(known.get(other, time), None);
    }

    #[test]
    fn there_is_an_end() {
        let known = Known::default();
        for inode in 0..=MOST as u64 {
            known.put((1, inode), (0, 0), None, &known.now());
        }
        assert_eq!(known.table().files.len(), 1);
    }
}
