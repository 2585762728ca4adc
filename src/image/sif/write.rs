//! A new SIF file, in one pass.
//!
//! Objects are appended in order; a big one is streamed straight into its place. The descriptor table and
//! the header come last, so a file whose making was interrupted has no magic and is never taken for an
//! image.
//!
//! ```text
//! create -> add_bytes | begin_stream, (the caller writes at that offset), end_stream -> ... -> finish
//! ```

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};

use super::layout::{DESCRIPTOR_BYTES, Descriptor, Extra, Header, LAUNCH, Link, NAME_BYTES};
use super::names::{Architecture, DataType, PartitionType};
use crate::error::{Context, Error, Kind, Result};

/// Descriptors of a new file, as every tool makes it.
const DESCRIPTORS: usize = 48;
/// Where the table starts, in bytes.
const TABLE_OFFSET: u64 = 4096;
/// Where the objects start, in bytes.
const DATA_OFFSET: u64 = TABLE_OFFSET + (DESCRIPTORS * DESCRIPTOR_BYTES) as u64;
/// The group of an ordinary object.
const FIRST_GROUP: u32 = 1;

/// How a new SIF file is written.
#[derive(Debug, Clone, Copy)]
pub struct SifOptions {
    /// The UUID is derived from the content; else it is random.
    pub reproducible: bool,
    /// All times in the file, in unix seconds.
    pub time: i64,
}

/// An object to be written.
#[derive(Debug, Clone)]
pub struct NewObject {
    /// What it is.
    pub data_type: DataType,
    /// Objects that belong together have the same.
    pub group: Option<u32>,
    /// What it refers to.
    pub link: Option<Link>,
    /// At most 128 bytes; may be empty.
    pub name: String,
    /// What its type has besides; it must be that of the type.
    pub extra: Extra,
}

impl NewObject {
    /// An object of the first group.
    pub fn new(data_type: DataType, name: impl Into<String>, extra: Extra) -> Self {
        Self { data_type, group: Some(FIRST_GROUP), link: None, name: name.into(), extra }
    }

    /// The descriptor for this object in the given slot.
    pub(super) fn describe(self, slot: usize, time: i64) -> Result<Descriptor> {
        if self.name.len() > NAME_BYTES {
            let message = format!("name of a SIF object is too long: {:?}", self.name);
            return Err(Error::usage(message).hint("128 bytes at most"));
        }
        Ok(Descriptor {
            id: slot as u32 + 1,
            data_type: self.data_type,
            group: self.group,
            link: self.link,
            offset: 0,
            size: 0,
            size_with_padding: 0,
            created: time,
            modified: time,
            name: self.name,
            extra: self.extra,
        })
    }
}

/// Writes one new SIF file.
#[derive(Debug)]
pub struct SifWriter {
    file: File,
    options: SifOptions,
    descriptors: Vec<Descriptor>,
    /// The object that is being streamed.
    open: Option<Descriptor>,
    /// End of what has been written, in bytes.
    end: u64,
}

impl SifWriter {
    /// Starts a SIF file in `file`, which is empty and open for reading and writing.
    ///
    /// # Errors
    /// None today; a file that cannot be written shows with the first object.
    pub fn create(file: File, options: SifOptions) -> Result<Self> {
        Ok(Self { file, options, descriptors: Vec::new(), open: None, end: DATA_OFFSET })
    }

    /// Appends an object and returns its ID. Partitions start at a multiple of 4096, the rest where the
    /// one before ends.
    ///
    /// # Errors
    /// [`Kind::Io`] when writing fails; [`Kind::Usage`] when the name is too long, there are more than 48
    /// objects, or a second primary partition.
    pub fn add_bytes(&mut self, object: NewObject, data: &[u8]) -> Result<u32> {
        let alignment = if object.data_type == DataType::PARTITION { 4096 } else { 1 };
        let offset = self.begin_stream(object, alignment)?;
        self.file.write_all_at(data, offset).tried(|| "cannot write SIF object".to_owned())?;
        self.end_stream(data.len() as u64)
    }

    /// Starts an object and returns where it starts in the file, a multiple of `alignment`. The caller
    /// writes it there into [`SifWriter::file`] and then calls [`SifWriter::end_stream`].
    ///
    /// # Errors
    /// As [`SifWriter::add_bytes`]; [`Kind::Internal`] when another object has not been ended.
    pub fn begin_stream(&mut self, object: NewObject, alignment: u64) -> Result<u64> {
        if self.open.is_some() {
            return Err(Error::new(Kind::Internal, "two SIF objects written at once"));
        }
        if self.descriptors.len() == DESCRIPTORS {
            return Err(Error::usage(format!("a SIF file holds at most {DESCRIPTORS} objects")));
        }
        let mut descriptor = object.describe(self.descriptors.len(), self.options.time)?;
        let primary = |d: &Descriptor| d.is_partition(PartitionType::PRIMARY_SYSTEM);
        if primary(&descriptor) && self.descriptors.iter().any(primary) {
            return Err(Error::usage("a SIF file has one primary system partition"));
        }
        descriptor.offset = self.end.next_multiple_of(alignment.max(1));
        let offset = descriptor.offset;
        self.open = Some(descriptor);
        Ok(offset)
    }

    /// Ends the object that was started, `size` bytes long, and returns its ID.
    ///
    /// # Errors
    /// [`Kind::Internal`] when none was started.
    pub fn end_stream(&mut self, size: u64) -> Result<u32> {
        let Some(mut descriptor) = self.open.take() else {
            return Err(Error::new(Kind::Internal, "no SIF object was started"));
        };
        descriptor.size = size;
        descriptor.size_with_padding = descriptor.offset - self.end + size;
        self.end = descriptor.offset + size;
        let id = descriptor.id;
        self.descriptors.push(descriptor);
        Ok(id)
    }

    /// The file that is being written.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Writes descriptors and header. A reproducible file's UUID is made from the descriptors and the
    /// `content_digest` of the objects; without one the objects are read back.
    ///
    /// # Errors
    /// [`Kind::Io`] when writing or reading fails.
    pub fn finish(self, content_digest: Option<[u8; 32]>) -> Result<File> {
        let failed = || "cannot write SIF header".to_owned();
        // Ends in a gap or a hole when the last object is empty or its writer left a hole.
        if self.file.metadata().tried(failed)?.len() < self.end {
            self.file.set_len(self.end).tried(failed)?;
        }
        let mut table = vec![0; DESCRIPTORS * DESCRIPTOR_BYTES];
        for (slot, descriptor) in table.as_chunks_mut().0.iter_mut().zip(&self.descriptors) {
            *slot = descriptor.encode();
        }
        let architecture = self.descriptors.iter().find_map(|d| match d.extra {
            Extra::Partition { partition_type: PartitionType::PRIMARY_SYSTEM, architecture, .. } => {
                Some(architecture)
            }
            _ => None,
        });
        let header = Header {
            launch: *LAUNCH,
            version: 1,
            architecture: architecture.unwrap_or(Architecture::UNKNOWN),
            uuid: self.uuid(&table, content_digest)?,
            created: self.options.time,
            modified: self.options.time,
            descriptors_free: (DESCRIPTORS - self.descriptors.len()) as u64,
            descriptors_total: DESCRIPTORS as u64,
            descriptors_offset: TABLE_OFFSET,
            descriptors_size: table.len() as u64,
            data_offset: DATA_OFFSET,
            data_size: self.end - DATA_OFFSET,
        };
        self.file.write_all_at(&table, TABLE_OFFSET).tried(failed)?;
        self.file.write_all_at(&header.encode(), 0).tried(failed)?;
        Ok(self.file)
    }

    fn uuid(&self, table: &[u8], content_digest: Option<[u8; 32]>) -> Result<[u8; 16]> {
        let mut uuid = [0; 16];
        if self.options.reproducible {
            let content = match content_digest {
                Some(digest) => digest,
                None => digest(&self.file, DATA_OFFSET, self.end)
                    .tried(|| "cannot read SIF objects back".to_owned())?,
            };
            let both = Sha256::new().chain_update(table).chain_update(content).finalize();
            uuid.copy_from_slice(&both[..16]);
            // Version 8: of the maker's own making (RFC 9562).
            uuid[6] = uuid[6] & 0x0f | 0x80;
        } else {
            File::open("/dev/urandom")
                .and_then(|mut random| random.read_exact(&mut uuid))
                .tried(|| "cannot read /dev/urandom".to_owned())?;
            uuid[6] = uuid[6] & 0x0f | 0x40;
        }
        uuid[8] = uuid[8] & 0x3f | 0x80;
        Ok(uuid)
    }
}

/// SHA-256 of a range of a file.
fn digest(file: &File, from: u64, to: u64) -> std::io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = from;
    while at < to {
        let length = buffer.len().min((to - at) as usize);
        file.read_exact_at(&mut buffer[..length], at)?;
        hash.update(&buffer[..length]);
        at += length as u64;
    }
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::image::sif::{FileSystem, read};
    use crate::image::source::Source;

    const OPTIONS: SifOptions = SifOptions { reproducible: true, time: 1_700_000_000 };

    fn partition(partition_type: PartitionType) -> NewObject {
        let extra = Extra::Partition {
            file_system: FileSystem::SQUASHFS,
            partition_type,
            architecture: Architecture(4),
        };
        NewObject::new(DataType::PARTITION, "", extra)
    }

    fn write(options: SifOptions, data: &[u8]) -> File {
        let mut writer = SifWriter::create(tempfile::tempfile().unwrap(), options).unwrap();
        let definition = NewObject::new(DataType::DEFINITION, "x.def", Extra::None);
        assert_eq!(writer.add_bytes(definition, b"bootstrap: scratch").unwrap(), 1);
        let offset = writer.begin_stream(partition(PartitionType::PRIMARY_SYSTEM), 4096).unwrap();
        assert_eq!(offset, 32768);
        writer.file().write_all_at(data, offset).unwrap();
        assert_eq!(writer.end_stream(data.len() as u64).unwrap(), 2);
        writer.finish(None).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let source = Source::whole(Arc::new(write(OPTIONS, b"hsqs and more"))).unwrap();
        let sif = read(&source).unwrap();
        assert_eq!(&sif.header.launch, LAUNCH);
        assert_eq!(sif.header.architecture, Architecture(4));
        assert_eq!(sif.architecture(), Architecture(4));
        assert_eq!((sif.header.descriptors_free, sif.header.descriptors_total), (46, 48));
        assert_eq!((sif.header.data_offset, sif.header.data_size), (32176, 32768 + 13 - 32176));
        assert_eq!((sif.header.created, sif.header.modified), (OPTIONS.time, OPTIONS.time));
        let [definition, root] = &sif.descriptors[..] else { panic!("{sif:?}") };
        assert_eq!((definition.offset, definition.size, definition.name.as_str()), (32176, 18, "x.def"));
        assert_eq!((root.id, root.group, root.size_with_padding), (2, Some(1), 32768 - 32194 + 13));
        assert_eq!(sif.primary_partition().unwrap(), root);
        let mut data = [0; 13];
        source.sub(root.offset, root.size).unwrap().read_exact_at(&mut data, 0).unwrap();
        assert_eq!(&data, b"hsqs and more");
    }

    #[test]
    fn uuid_is_of_the_content_when_reproducible_and_random_otherwise() {
        let uuid = |options, data| {
            let source = Source::whole(Arc::new(write(options, data))).unwrap();
            read(&source).unwrap().header.uuid
        };
        assert_eq!(uuid(OPTIONS, b"one"), uuid(OPTIONS, b"one"));
        assert_ne!(uuid(OPTIONS, b"one"), uuid(OPTIONS, b"two"));
        let random = SifOptions { reproducible: false, ..OPTIONS };
        assert_ne!(uuid(random, b"one"), uuid(random, b"one"));
    }

    #[test]
    fn an_unfinished_file_is_no_sif() {
        let file = tempfile::tempfile().unwrap();
        let mut writer = SifWriter::create(file.try_clone().unwrap(), OPTIONS).unwrap();
        writer.add_bytes(partition(PartitionType::PRIMARY_SYSTEM), b"hsqs").unwrap();
        let error = read(&Source::whole(Arc::new(file)).unwrap()).unwrap_err();
        assert!(error.to_string().starts_with("not a SIF file"), "{error}");
    }

    #[test]
    fn a_second_primary_partition_a_long_name_and_a_49th_object_are_refused() {
        let mut writer = SifWriter::create(tempfile::tempfile().unwrap(), OPTIONS).unwrap();
        writer.add_bytes(partition(PartitionType::PRIMARY_SYSTEM), b"").unwrap();
        let error = writer.add_bytes(partition(PartitionType::PRIMARY_SYSTEM), b"").unwrap_err();
        assert_eq!(error.to_string(), "a SIF file has one primary system partition");
        let long = NewObject::new(DataType::GENERIC, "n".repeat(129), Extra::None);
        assert!(writer.add_bytes(long, b"").is_err());
        for _ in 1..DESCRIPTORS {
            writer.add_bytes(partition(PartitionType::DATA), b"").unwrap();
        }
        let error = writer.add_bytes(partition(PartitionType::DATA), b"").unwrap_err();
        assert_eq!(error.to_string(), "a SIF file holds at most 48 objects");
    }
}
