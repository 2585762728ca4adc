//! Changes to a SIF file that exists: add and delete objects, set the primary partition.
//!
//! An object is added behind all others; its slot in the table is the first unused one, so IDs of deleted
//! objects come back and IDs of others never change. The order of the writes makes an interrupted change
//! harmless: an added object's bytes are on disk before the table names them, a deleted one is out of the
//! table before its bytes go.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::layout::{DESCRIPTOR_BYTES, Descriptor, Extra, Header};
use super::names::{Architecture, DataType, PartitionType};
use super::read::read_table;
use super::write::NewObject;
use crate::error::{Context, Error, Result};
use crate::image::source::Source;

/// What becomes of the bytes of a deleted object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erase {
    /// They stay where they are, unnamed.
    Keep,
    /// They are overwritten with zeros.
    Zero,
    /// The file is cut behind the last object that is left.
    Compact,
}

/// The tables of a file that is being changed.
struct Tables {
    header: Header,
    slots: Vec<Option<Descriptor>>,
}

/// Adds an object to the SIF file `file` (open for reading and writing) and returns its ID. `time` becomes
/// the object's times and the file's time of modification, in unix seconds.
///
/// # Errors
/// [`crate::error::Kind::Image`] when `file` is no SIF file or its table is full, `Usage` for a second
/// primary partition, `Io` when writing fails.
pub fn add(file: &File, object: NewObject, data: &[u8], time: i64) -> Result<u32> {
    let mut tables = Tables::read(file)?;
    let primary = tables.primary();
    let Some(slot) = tables.slots.iter().position(Option::is_none) else {
        return Err(Error::image(format!("all {} descriptors of the SIF file are used", tables.slots.len())));
    };
    let alignment = if object.data_type == DataType::PARTITION { 4096 } else { 1 };
    let mut descriptor = object.describe(slot, time)?;
    if descriptor.is_partition(PartitionType::PRIMARY_SYSTEM) && primary.is_some() {
        return Err(Error::usage("SIF file has a primary system partition already"));
    }
    let end = tables.header.data_offset.saturating_add(tables.header.data_size).max(tables.data_end());
    let too_large = || Error::image("SIF file is too large to add to");
    descriptor.offset = end.checked_next_multiple_of(alignment).ok_or_else(too_large)?;
    descriptor.size = data.len() as u64;
    descriptor.size_with_padding = descriptor.offset - end + descriptor.size;
    descriptor.end().ok_or_else(too_large)?;
    let id = descriptor.id;
    file.write_all_at(data, descriptor.offset)
        .and_then(|()| lengthen(file, descriptor.offset + descriptor.size))
        .and_then(|()| file.sync_data())
        .tried(|| format!("cannot write SIF object {id}"))?;
    tables.slots[slot] = Some(descriptor);
    tables.write(file, time)?;
    Ok(id)
}

/// Deletes the object `id` from the SIF file `file`; its slot is free for another. `time` becomes the
/// file's time of modification.
///
/// # Errors
/// [`crate::error::Kind::Image`] when `file` is no SIF file or has no such object, `Io` when writing fails.
pub fn delete(file: &File, id: u32, erase: Erase, time: i64) -> Result<()> {
    let mut tables = Tables::read(file)?;
    let slot = tables.slot(id)?;
    let removed = tables.slots[slot].take();
    tables.write(file, time)?;
    let failed = || format!("cannot erase SIF object {id}");
    match (erase, removed) {
        (Erase::Zero, Some(object)) => zero(file, &object).tried(failed)?,
        // A damaged header's data may start beyond the end: cutting must not lengthen.
        (Erase::Compact, _) => {
            let length = file.metadata().tried(failed)?.len();
            file.set_len(tables.data_end().min(length)).tried(failed)?;
        }
        (Erase::Keep, _) | (_, None) => {}
    }
    Ok(())
}

/// Makes the system partition `id` the primary one; the former one becomes an ordinary system partition.
///
/// # Errors
/// [`crate::error::Kind::Image`] when `file` is no SIF file or `id` no system partition, `Io` when writing
/// fails.
pub fn set_primary(file: &File, id: u32, time: i64) -> Result<()> {
    let mut tables = Tables::read(file)?;
    let slot = tables.slot(id)?;
    let kind = tables.slots[slot].as_ref().map(|d| &d.extra);
    match kind {
        Some(Extra::Partition { partition_type: PartitionType::PRIMARY_SYSTEM, .. }) => return Ok(()),
        Some(Extra::Partition { partition_type: PartitionType::SYSTEM, .. }) => {}
        _ => return Err(Error::image(format!("SIF object {id} is not a system partition"))),
    }
    for (n, descriptor) in tables.slots.iter_mut().enumerate() {
        let Some(descriptor) = descriptor else { continue };
        let Extra::Partition { partition_type, .. } = &mut descriptor.extra else { continue };
        if n == slot {
            *partition_type = PartitionType::PRIMARY_SYSTEM;
            descriptor.modified = time;
        } else if *partition_type == PartitionType::PRIMARY_SYSTEM {
            *partition_type = PartitionType::SYSTEM;
            descriptor.modified = time;
        }
    }
    tables.write(file, time)
}

impl Tables {
    fn read(file: &File) -> Result<Self> {
        let failed = || "cannot open SIF file".to_owned();
        let source = file.try_clone().and_then(|file| Source::whole(Arc::new(file))).tried(failed)?;
        // The same checks as for every reader: nothing is added to a file that is damaged.
        super::read(&source)?;
        let (header, slots) = read_table(&source)?;
        Ok(Self { header, slots: slots.iter().map(Descriptor::parse).collect() })
    }

    fn slot(&self, id: u32) -> Result<usize> {
        self.slots
            .iter()
            .position(|slot| slot.as_ref().is_some_and(|d| d.id == id))
            .ok_or_else(|| Error::image(format!("no object {id} in SIF file")))
    }

    fn primary(&self) -> Option<Architecture> {
        self.slots.iter().flatten().find_map(|d| match d.extra {
            Extra::Partition { partition_type: PartitionType::PRIMARY_SYSTEM, architecture, .. } => {
                Some(architecture)
            }
            _ => None,
        })
    }

    /// Where the last object ends, in bytes; the start of the data when there is none.
    fn data_end(&self) -> u64 {
        let ends = self.slots.iter().flatten().filter_map(Descriptor::end);
        ends.max().unwrap_or(0).max(self.header.data_offset)
    }

    /// Writes table and header, with the counts and sizes that follow from the table.
    fn write(&mut self, file: &File, time: i64) -> Result<()> {
        let used = self.slots.iter().flatten().count();
        self.header.descriptors_free = (self.slots.len() - used) as u64;
        self.header.data_size = self.data_end() - self.header.data_offset;
        self.header.architecture = self.primary().unwrap_or(Architecture::UNKNOWN);
        self.header.modified = time;
        let mut table = Vec::with_capacity(self.slots.len() * DESCRIPTOR_BYTES);
        for slot in &self.slots {
            table.extend(slot.as_ref().map_or([0; DESCRIPTOR_BYTES], Descriptor::encode));
        }
        file.write_all_at(&table, self.header.descriptors_offset)
            .and_then(|()| file.write_all_at(&self.header.encode(), 0))
            .and_then(|()| file.sync_data())
            .tried(|| "cannot write SIF header and descriptors".to_owned())
    }
}

/// An empty object may start behind the last byte that was written.
fn lengthen(file: &File, end: u64) -> std::io::Result<()> {
    if file.metadata()?.len() < end { file.set_len(end) } else { Ok(()) }
}

fn zero(file: &File, object: &Descriptor) -> std::io::Result<()> {
    let zeros = [0; 1 << 16];
    let mut left = object.size;
    while left > 0 {
        let length = left.min(zeros.len() as u64);
        file.write_all_at(&zeros[..length as usize], object.offset + object.size - left)?;
        left -= length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::image::sif::{FileSystem, Sif, SifOptions, SifWriter, read};

    fn object(data_type: DataType) -> NewObject {
        NewObject::new(data_type, "name", Extra::None)
    }

    fn partition(partition_type: PartitionType, architecture: u8) -> NewObject {
        let extra = Extra::Partition {
            file_system: FileSystem::SQUASHFS,
            partition_type,
            architecture: Architecture(architecture),
        };
        NewObject::new(DataType::PARTITION, "", extra)
    }

    fn empty() -> File {
        let options = SifOptions { reproducible: false, time: 1 };
        SifWriter::create(tempfile::tempfile().unwrap(), options).unwrap().finish(None).unwrap()
    }

    fn sif(file: &File) -> Sif {
        read(&Source::whole(Arc::new(file.try_clone().unwrap())).unwrap()).unwrap()
    }

    fn bytes(file: &File, id: u32) -> Vec<u8> {
        let sif = sif(file);
        let object = sif.object(id).unwrap();
        let mut data = vec![0; object.size as usize];
        file.read_exact_at(&mut data, object.offset).unwrap();
        data
    }

    #[test]
    fn a_freed_slot_is_used_again_and_other_ids_stay() {
        let file = empty();
        for (n, text) in ["one", "two", "three"].iter().enumerate() {
            assert_eq!(add(&file, object(DataType::GENERIC), text.as_bytes(), 2).unwrap(), n as u32 + 1);
        }
        delete(&file, 2, Erase::Keep, 3).unwrap();
        assert_eq!(sif(&file).header.descriptors_free, 46);
        assert_eq!(add(&file, object(DataType::LABELS), b"four", 4).unwrap(), 2);
        let after = sif(&file);
        assert_eq!(after.descriptors.iter().map(|d| d.id).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((after.header.created, after.header.modified), (1, 4));
        assert_eq!(
            (bytes(&file, 1), bytes(&file, 2), bytes(&file, 3)),
            (b"one".into(), b"four".into(), b"three".into())
        );
        let error = delete(&file, 9, Erase::Keep, 4).unwrap_err();
        assert_eq!(error.to_string(), "no object 9 in SIF file");
    }

    #[test]
    fn deleted_bytes_are_kept_zeroed_or_cut() {
        for (erase, left) in
            [(Erase::Keep, Some(*b"data")), (Erase::Zero, Some([0; 4])), (Erase::Compact, None)]
        {
            let file = empty();
            add(&file, object(DataType::GENERIC), b"first", 2).unwrap();
            add(&file, object(DataType::GENERIC), b"data", 2).unwrap();
            let at = sif(&file).object(2).unwrap().offset;
            delete(&file, 2, erase, 3).unwrap();
            let mut found = [9; 4];
            let found = file.read_exact_at(&mut found, at).ok().map(|()| found);
            assert_eq!(found, left, "{erase:?}");
            assert_eq!(sif(&file).header.data_size, 5);
            assert_eq!(bytes(&file, 1), b"first");
        }
    }

    #[test]
    fn the_primary_partition_moves_with_its_architecture() {
        let file = empty();
        add(&file, object(DataType::GENERIC), b"text", 2).unwrap();
        add(&file, partition(PartitionType::PRIMARY_SYSTEM, 2), b"hsqs", 2).unwrap();
        add(&file, partition(PartitionType::SYSTEM, 4), b"hsqs", 2).unwrap();
        add(&file, partition(PartitionType::DATA, 4), b"hsqs", 2).unwrap();
        assert!(add(&file, partition(PartitionType::PRIMARY_SYSTEM, 2), b"", 2).is_err());
        assert_eq!(sif(&file).object(3).unwrap().offset % 4096, 0);
        set_primary(&file, 3, 5).unwrap();
        let after = sif(&file);
        assert_eq!((after.primary_partition().unwrap().id, after.header.architecture), (3, Architecture(4)));
        assert_eq!(after.object(3).unwrap().modified, 5);
        for id in [1, 4] {
            let error = set_primary(&file, id, 5).unwrap_err();
            assert_eq!(error.to_string(), format!("SIF object {id} is not a system partition"));
        }
        delete(&file, 3, Erase::Compact, 6).unwrap();
        assert_eq!(sif(&file).header.architecture, Architecture::UNKNOWN);
        assert!(sif(&file).primary_partition().is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever is added and deleted, what is left reads back, and nothing overlaps.
        #[test]
        fn any_sequence_of_changes_keeps_what_is_left(steps in prop::collection::vec((0..4u8, 0..8u32, 0..200usize), 1..40)) {
            let file = empty();
            let mut model = std::collections::BTreeMap::new();
            for (n, (action, id, length)) in steps.into_iter().enumerate() {
                let data = vec![n as u8; length];
                match action {
                    0 => drop(model.insert(add(&file, object(DataType::GENERIC), &data, 2).unwrap(), data)),
                    1 => drop(model.insert(add(&file, partition(PartitionType::DATA, 2), &data, 2).unwrap(), data)),
                    _ => {
                        let erase = if action == 2 { Erase::Zero } else { Erase::Compact };
                        prop_assert_eq!(delete(&file, id, erase, 3).is_ok(), model.remove(&id).is_some());
                    }
                }
            }
            let sif = sif(&file);
            prop_assert_eq!(sif.descriptors.len(), model.len());
            prop_assert_eq!(sif.header.descriptors_free as usize, 48 - model.len());
            for (id, data) in &model {
                prop_assert_eq!(&bytes(&file, *id), data);
            }
        }
    }
}
