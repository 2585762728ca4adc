//! A SIF file, checked against the file's length.
//!
//! What is read: the header and the descriptor table, two reads. Objects are not touched.

use super::layout::{DESCRIPTOR_BYTES, Descriptor, Extra, HEADER_BYTES, Header};
use super::names::{Architecture, DataType, PartitionType};
use crate::error::{Context, Error, Kind, Result};
use crate::image::DAMAGED;
use crate::image::source::Source;

/// Most descriptors that a file may have (10 MB of table). Tools write 48.
const DESCRIPTORS_LIMIT: u64 = 1 << 14;

/// What a SIF file says it holds.
#[derive(Debug, Clone)]
pub struct Sif {
    /// The global header.
    pub header: Header,
    /// The descriptors in use, in the order of their slots.
    pub descriptors: Vec<Descriptor>,
}

/// Reads header and descriptors of the SIF file `file`.
///
/// # Errors
/// [`Kind::Image`] when it is not a SIF file, or says that it is longer than it is: every object in use
/// lies within the file when this returns.
pub fn read(file: &Source) -> Result<Sif> {
    let (header, table) = read_table(file)?;
    let descriptors: Vec<Descriptor> = table.iter().filter_map(Descriptor::parse).collect();
    for object in &descriptors {
        let whole = object.end();
        let Some(end) = whole else {
            return Err(Error::image(format!(
                "SIF object {} has impossible bounds: {} bytes at {}",
                object.id, object.size, object.offset
            ))
            .hint(DAMAGED));
        };
        if end > file.length() {
            return Err(truncated(&format!("object {}", object.id), end, file.length()));
        }
    }
    Ok(Sif { header, descriptors })
}

const OTHER: &str =
    "SquashFS files and directories are images, too, but have nothing that 'skiff sif' could show";

/// The header and all slots of the table.
pub(super) fn read_table(file: &Source) -> Result<(Header, Vec<[u8; DESCRIPTOR_BYTES]>)> {
    let mut start = [0; HEADER_BYTES];
    if file.length() < HEADER_BYTES as u64 {
        return Err(Error::image(format!("not a SIF file: it has only {} bytes", file.length()))
            .hint("copy or download it again"));
    }
    file.read_exact_at(&mut start, 0).tried(|| "cannot read SIF header".to_owned())?;
    let header = Header::parse(&start)
        .ok_or_else(|| Error::image("not a SIF file: \"SIF_MAGIC\" is not where it should be").hint(OTHER))?;
    if header.version > 1 {
        let message = format!("SIF version {:02} is newer than this skiff, which knows 01", header.version);
        return Err(Error::image(message).hint("use a newer skiff, or unpack it with the tool that made it"));
    }
    let total = header.descriptors_total;
    if total > DESCRIPTORS_LIMIT {
        let message = format!("SIF header is damaged: {total} descriptors (at most {DESCRIPTORS_LIMIT})");
        return Err(Error::image(message).hint(DAMAGED));
    }
    let bytes = total as usize * DESCRIPTOR_BYTES;
    let end = header.descriptors_offset.checked_add(bytes as u64).filter(|end| i64::try_from(*end).is_ok());
    let end = end.ok_or_else(|| {
        let message = format!("SIF header is damaged: descriptors at {}", header.descriptors_offset);
        Error::image(message).hint(DAMAGED)
    })?;
    if end > file.length() {
        return Err(truncated("the descriptor table", end, file.length()));
    }
    let mut table = vec![0; bytes];
    file.read_exact_at(&mut table, header.descriptors_offset)
        .context(Kind::Io, || "cannot read SIF descriptors".to_owned())?;
    let (slots, _) = table.as_chunks();
    Ok((header, slots.to_vec()))
}

fn truncated(what: &str, end: u64, length: u64) -> Error {
    Error::image(format!(
        "SIF file is truncated: {what} ends at byte {end}, but the file has {length} ({} bytes are missing)",
        end - length
    ))
    .hint("copy or download it again")
}

impl Sif {
    /// The partition with the root file system.
    ///
    /// # Errors
    /// [`Kind::Image`] when there is none, or more than one.
    pub fn primary_partition(&self) -> Result<&Descriptor> {
        let mut primaries = self.descriptors.iter().filter(|d| d.is_partition(PartitionType::PRIMARY_SYSTEM));
        match (primaries.next(), primaries.next()) {
            (Some(one), None) => Ok(one),
            (Some(_), Some(_)) => Err(Error::image("SIF file has more than one primary system partition")
                .hint("'skiff sif list' shows them; build the image again")),
            (None, _) if self.descriptors.iter().any(|d| d.data_type == DataType::OCI_ROOT_INDEX) => {
                Err(Error::image("SIF file holds OCI layers (an OCI-SIF) and no root file system")
                    .hint("have it made as a plain SIF: singularity pull --no-oci a.sif docker://IMAGE"))
            }
            (None, _) => Err(Error::image("SIF file has no primary system partition: nothing to run")
                .hint("'skiff sif list' shows what it holds")),
        }
    }

    /// The object with this ID.
    ///
    /// # Errors
    /// [`Kind::Image`] when there is none; the hint names those that exist.
    pub fn object(&self, id: u32) -> Result<&Descriptor> {
        self.descriptors.iter().find(|d| d.id == id).ok_or_else(|| {
            let ids: Vec<String> = self.descriptors.iter().map(|d| d.id.to_string()).collect();
            let hint = if ids.is_empty() {
                "it holds no object at all".to_owned()
            } else {
                format!("its objects are {}", ids.join(", "))
            };
            Error::image(format!("no object {id} in SIF file")).hint(hint)
        })
    }

    /// Architecture of the primary partition; of the header when there is none.
    pub fn architecture(&self) -> Architecture {
        match self.primary_partition().map(|d| &d.extra) {
            Ok(Extra::Partition { architecture, .. }) if *architecture != Architecture::UNKNOWN => {
                *architecture
            }
            _ => self.header.architecture,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::image::sif::{FileSystem, NewObject, SifOptions, SifWriter};

    fn of_bytes(bytes: &[u8]) -> Source {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Source::whole(Arc::new(file)).unwrap()
    }

    fn sample() -> Vec<u8> {
        let options = SifOptions { reproducible: true, time: 0 };
        let mut writer = SifWriter::create(tempfile::tempfile().unwrap(), options).unwrap();
        writer.add_bytes(NewObject::new(DataType::DEFINITION, "", Extra::None), b"definition").unwrap();
        let extra = Extra::Partition {
            file_system: FileSystem::SQUASHFS,
            partition_type: PartitionType::PRIMARY_SYSTEM,
            architecture: Architecture(2),
        };
        writer.add_bytes(NewObject::new(DataType::PARTITION, "", extra), &[7; 1000]).unwrap();
        let file = Arc::new(writer.finish(None).unwrap());
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        Source::whole(file).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn message(bytes: &[u8]) -> String {
        read(&of_bytes(bytes)).unwrap_err().to_string()
    }

    fn with(mut bytes: Vec<u8>, at: usize, field: &[u8]) -> Vec<u8> {
        bytes[at..at + field.len()].copy_from_slice(field);
        bytes
    }

    #[test]
    fn a_truncated_file_says_how_much_is_missing() {
        let whole = sample();
        assert_eq!(whole.len(), 33768);
        assert_eq!(
            message(&whole[..33000]),
            "SIF file is truncated: object 2 ends at byte 33768, but the file has 33000 (768 bytes are missing)"
        );
        assert_eq!(
            message(&whole[..5000]),
            "SIF file is truncated: the descriptor table ends at byte 32176, but the file has 5000 \
             (27176 bytes are missing)"
        );
        assert_eq!(message(&whole[..100]), "not a SIF file: it has only 100 bytes");
    }

    #[test]
    fn damaged_headers_are_refused_by_name() {
        let huge = u64::MAX.to_le_bytes();
        assert!(message(&with(sample(), 32, b"X")).starts_with("not a SIF file"));
        assert!(message(&with(sample(), 42, b"02")).starts_with("SIF version 02 is newer"));
        assert!(message(&with(sample(), 88, &huge)).starts_with("SIF header is damaged"));
        assert!(message(&with(sample(), 96, &huge)).starts_with("SIF header is damaged"));
        let object = 4096 + DESCRIPTOR_BYTES;
        assert!(message(&with(sample(), object + 17, &huge)).contains("object 2 has impossible bounds"));
        assert!(message(&with(sample(), object + 25, &(1_u64 << 40).to_le_bytes())).contains("truncated"));
    }

    #[test]
    fn two_primary_partitions_or_none_are_errors() {
        let both = with(sample(), 4096, &sample()[4096 + DESCRIPTOR_BYTES..4096 + 2 * DESCRIPTOR_BYTES]);
        let sif = read(&of_bytes(&both)).unwrap();
        assert!(sif.primary_partition().unwrap_err().to_string().contains("more than one"));
        let sif = read(&of_bytes(&with(sample(), 4096 + DESCRIPTOR_BYTES + 4, &[0]))).unwrap();
        assert_eq!(sif.descriptors.len(), 1);
        assert!(sif.primary_partition().unwrap_err().to_string().contains("no primary system partition"));
        assert_eq!(sif.object(7).unwrap_err().hint.as_deref(), Some("its objects are 1"));
    }

    #[test]
    fn data_may_start_where_older_tools_put_it() {
        let mut old = with(sample(), 112, &32768_u64.to_le_bytes());
        old.drain(4096..4096 + DESCRIPTOR_BYTES);
        old.splice(4096 + DESCRIPTOR_BYTES..4096 + DESCRIPTOR_BYTES, [0; DESCRIPTOR_BYTES]);
        let sif = read(&of_bytes(&old)).unwrap();
        assert_eq!((sif.header.data_offset, sif.primary_partition().unwrap().offset), (32768, 32768));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn changed_files_are_read_within_bounds_or_refused(
            changes in prop::collection::vec((prop_oneof![0..128usize, 4096..5300usize], any::<u8>()), 1..30),
            length in prop_oneof![Just(33768usize), 0..33768usize],
        ) {
            let mut bytes = sample();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            bytes.truncate(length);
            if let Ok(sif) = read(&of_bytes(&bytes)) {
                for object in &sif.descriptors {
                    prop_assert!(object.end().unwrap() <= length as u64);
                }
                // Whatever it answers, it answers.
                let _ = (sif.primary_partition().is_ok(), sif.architecture());
            }
        }
    }
}
