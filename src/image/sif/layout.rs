//! Header and descriptors as bytes.
//!
//! ```text
//! header, 128 bytes                          descriptor, 585 bytes
//!   0  32  first line (#!...), NUL padded      0   4  data type
//!  32  10  "SIF_MAGIC", NUL                    4   1  in use
//!  42   3  "01", NUL                           5   4  ID (slot + 1)
//!  45   3  architecture, two digits, NUL       9   4  group, 0xf0000000 | n
//!  48  16  UUID                               13   4  link: ID, or 0xf0000000 | group
//!  64   8  created, unix seconds              17   8  offset in the file
//!  72   8  modified                           25   8  size
//!  80   8  free descriptors                   33   8  size and the gap before it
//!  88   8  all descriptors                    41   8  created, unix seconds
//!  96   8  offset of the table                49   8  modified
//! 104   8  size of the table                  57  16  uid, gid: no longer used
//! 112   8  offset of the data                 73 128  name, NUL padded
//! 120   8  size of the data                  201 384  what the type has besides
//! ```

use super::names::{
    Architecture, CryptoFormat, DataType, FileSystem, HashType, MessageType, PartitionType, SbomFormat,
};

/// Size of the global header in bytes.
pub(super) const HEADER_BYTES: usize = 128;
/// Size of a descriptor in bytes.
pub(super) const DESCRIPTOR_BYTES: usize = 585;
/// The magic, at 32.
pub(super) const MAGIC: &[u8; 10] = b"SIF_MAGIC\0";
/// The first line: the kernel starts `run-singularity IMAGE` for `./image.sif`.
pub(super) const LAUNCH: &[u8; 32] = b"#!/usr/bin/env run-singularity\n\0";
/// Longest name of an object in bytes.
pub(super) const NAME_BYTES: usize = 128;
/// Marks a group number in the fields group and link.
const GROUP_MASK: u32 = 0xf000_0000;

/// The global header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The first line, NUL padded.
    pub launch: [u8; 32],
    /// Version of the format: 1.
    pub version: u8,
    /// Architecture of the primary partition.
    pub architecture: Architecture,
    /// UUID; all zero in files of some deterministic builds.
    pub uuid: [u8; 16],
    /// Unix seconds.
    pub created: i64,
    /// Unix seconds.
    pub modified: i64,
    /// Unused descriptors.
    pub descriptors_free: u64,
    /// All descriptors.
    pub descriptors_total: u64,
    /// Where the table starts, in bytes.
    pub descriptors_offset: u64,
    /// How long it is, in bytes.
    pub descriptors_size: u64,
    /// Where the objects start, in bytes.
    pub data_offset: u64,
    /// How long they are with the gaps between them, in bytes.
    pub data_size: u64,
}

/// What an object refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// The object with this ID.
    Object(u32),
    /// The group with this number.
    Group(u32),
}

/// What a type of object has besides the common fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extra {
    /// Nothing.
    None,
    /// Of a partition.
    Partition {
        /// Its file system.
        file_system: FileSystem,
        /// What it is for.
        partition_type: PartitionType,
        /// What its programs run on.
        architecture: Architecture,
    },
    /// Of a signature.
    Signature {
        /// The hash function.
        hash: HashType,
        /// The signer: 20 bytes of an OpenPGP fingerprint and zeros, or all zero.
        entity: Box<[u8; 256]>,
    },
    /// Of a cryptographic message.
    CryptoMessage {
        /// Its encoding.
        format: CryptoFormat,
        /// What it is.
        message: MessageType,
    },
    /// Of a bill of materials.
    Sbom(SbomFormat),
    /// Of an OCI blob or root index: `sha256:` and hexadecimal digits.
    Digest(String),
}

/// One object of a SIF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Stable number, from 1.
    pub id: u32,
    /// What it is.
    pub data_type: DataType,
    /// Objects that belong together have the same.
    pub group: Option<u32>,
    /// What it refers to (a signature: what it signs).
    pub link: Option<Link>,
    /// Where it starts in the file, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub size: u64,
    /// How long it is with the gap before it, in bytes.
    pub size_with_padding: u64,
    /// Unix seconds.
    pub created: i64,
    /// Unix seconds.
    pub modified: i64,
    /// Name, often empty.
    pub name: String,
    /// What its type has besides.
    pub extra: Extra,
}

impl Header {
    /// The header in `bytes`, or nothing when they do not start a SIF file.
    pub(super) fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        if at::<10>(bytes, 32) != *MAGIC {
            return None;
        }
        Some(Self {
            launch: at(bytes, 0),
            version: two_digits(at(bytes, 42)),
            architecture: Architecture(two_digits(at(bytes, 45))),
            uuid: at(bytes, 48),
            created: i64::from_le_bytes(at(bytes, 64)),
            modified: i64::from_le_bytes(at(bytes, 72)),
            descriptors_free: u64::from_le_bytes(at(bytes, 80)),
            descriptors_total: u64::from_le_bytes(at(bytes, 88)),
            descriptors_offset: u64::from_le_bytes(at(bytes, 96)),
            descriptors_size: u64::from_le_bytes(at(bytes, 104)),
            data_offset: u64::from_le_bytes(at(bytes, 112)),
            data_size: u64::from_le_bytes(at(bytes, 120)),
        })
    }

    /// The header as it is on disk.
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        put(&mut bytes, 0, &self.launch);
        put(&mut bytes, 32, MAGIC);
        put(&mut bytes, 42, format!("{:02}", self.version.min(99)).as_bytes());
        put(&mut bytes, 45, &code(self.architecture));
        put(&mut bytes, 48, &self.uuid);
        put(&mut bytes, 64, &self.created.to_le_bytes());
        put(&mut bytes, 72, &self.modified.to_le_bytes());
        put(&mut bytes, 80, &self.descriptors_free.to_le_bytes());
        put(&mut bytes, 88, &self.descriptors_total.to_le_bytes());
        put(&mut bytes, 96, &self.descriptors_offset.to_le_bytes());
        put(&mut bytes, 104, &self.descriptors_size.to_le_bytes());
        put(&mut bytes, 112, &self.data_offset.to_le_bytes());
        put(&mut bytes, 120, &self.data_size.to_le_bytes());
        bytes
    }

    /// The UUID as text: `3f2b02cc-c9e8-4de4-8ab1-3b0f6fb99b53`.
    pub fn uuid_text(&self) -> String {
        let mut text = String::with_capacity(36);
        for (n, byte) in self.uuid.iter().enumerate() {
            if matches!(n, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            text.push_str(&format!("{byte:02x}"));
        }
        text
    }
}

impl Descriptor {
    /// The descriptor in a slot of the table, or nothing when the slot is unused.
    pub(super) fn parse(bytes: &[u8; DESCRIPTOR_BYTES]) -> Option<Self> {
        if bytes[4] == 0 {
            return None;
        }
        let data_type = DataType(i32::from_le_bytes(at(bytes, 0)));
        let group = u32::from_le_bytes(at(bytes, 9)) & !GROUP_MASK;
        let link = u32::from_le_bytes(at(bytes, 13));
        Some(Self {
            id: u32::from_le_bytes(at(bytes, 5)),
            data_type,
            group: (group != 0).then_some(group),
            link: match (link & GROUP_MASK == GROUP_MASK, link & !GROUP_MASK) {
                (_, 0) => None,
                (true, group) => Some(Link::Group(group)),
                (false, _) => Some(Link::Object(link)),
            },
            offset: u64::from_le_bytes(at(bytes, 17)),
            size: u64::from_le_bytes(at(bytes, 25)),
            size_with_padding: u64::from_le_bytes(at(bytes, 33)),
            created: i64::from_le_bytes(at(bytes, 41)),
            modified: i64::from_le_bytes(at(bytes, 49)),
            name: text(&at::<NAME_BYTES>(bytes, 73)),
            extra: Extra::parse(data_type, &at(bytes, 201)),
        })
    }

    /// The descriptor as it is on disk. A name longer than 128 bytes is cut.
    pub(super) fn encode(&self) -> [u8; DESCRIPTOR_BYTES] {
        let mut bytes = [0; DESCRIPTOR_BYTES];
        put(&mut bytes, 0, &self.data_type.0.to_le_bytes());
        bytes[4] = 1;
        put(&mut bytes, 5, &self.id.to_le_bytes());
        put(&mut bytes, 9, &(GROUP_MASK | self.group.unwrap_or(0)).to_le_bytes());
        let link = match self.link {
            None => 0,
            Some(Link::Object(id)) => id,
            Some(Link::Group(group)) => GROUP_MASK | group,
        };
        put(&mut bytes, 13, &link.to_le_bytes());
        put(&mut bytes, 17, &self.offset.to_le_bytes());
        put(&mut bytes, 25, &self.size.to_le_bytes());
        put(&mut bytes, 33, &self.size_with_padding.to_le_bytes());
        put(&mut bytes, 41, &self.created.to_le_bytes());
        put(&mut bytes, 49, &self.modified.to_le_bytes());
        let name = self.name.as_bytes();
        put(&mut bytes, 73, &name[..name.len().min(NAME_BYTES)]);
        self.extra.encode(&mut bytes);
        bytes
    }

    /// The end of the object in the file; nothing when no file can be as long.
    pub fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.size).filter(|end| i64::try_from(*end).is_ok())
    }

    /// Whether this is a partition for this purpose.
    pub fn is_partition(&self, wanted: PartitionType) -> bool {
        matches!(self.extra, Extra::Partition { partition_type, .. } if partition_type == wanted)
    }
}

impl Extra {
    fn parse(data_type: DataType, bytes: &[u8; 384]) -> Self {
        let first = i32::from_le_bytes(at(bytes, 0));
        let second = i32::from_le_bytes(at(bytes, 4));
        match data_type {
            DataType::PARTITION => Self::Partition {
                file_system: FileSystem(first),
                partition_type: PartitionType(second),
                architecture: Architecture(two_digits(at(bytes, 8))),
            },
            DataType::SIGNATURE => Self::Signature { hash: HashType(first), entity: Box::new(at(bytes, 4)) },
            DataType::CRYPTO_MESSAGE => {
                Self::CryptoMessage { format: CryptoFormat(first), message: MessageType(second) }
            }
            DataType::SBOM => Self::Sbom(SbomFormat(first)),
            DataType::OCI_BLOB | DataType::OCI_ROOT_INDEX => Self::Digest(text(bytes)),
            _ => Self::None,
        }
    }

    /// Writes the extra field of a descriptor; a digest longer than the field is cut.
    fn encode(&self, descriptor: &mut [u8; DESCRIPTOR_BYTES]) {
        match self {
            Self::None => {}
            Self::Partition { file_system, partition_type, architecture } => {
                put(descriptor, 201, &file_system.0.to_le_bytes());
                put(descriptor, 205, &partition_type.0.to_le_bytes());
                put(descriptor, 209, &code(*architecture));
            }
            Self::Signature { hash, entity } => {
                put(descriptor, 201, &hash.0.to_le_bytes());
                put(descriptor, 205, entity.as_slice());
            }
            Self::CryptoMessage { format, message } => {
                put(descriptor, 201, &format.0.to_le_bytes());
                put(descriptor, 205, &message.0.to_le_bytes());
            }
            Self::Sbom(format) => put(descriptor, 201, &format.0.to_le_bytes()),
            Self::Digest(digest) => put(descriptor, 201, &digest.as_bytes()[..digest.len().min(383)]),
        }
    }
}

/// The `N` bytes from `offset` on. Every caller's offset is a constant within its fixed-size array.
fn at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[offset..offset + N]);
    field
}

fn put(bytes: &mut [u8], offset: usize, field: &[u8]) {
    bytes[offset..offset + field.len()].copy_from_slice(field);
}

/// "02\0" as a number; what is not two digits is 0, which stands for unknown in both of its uses.
fn two_digits(field: [u8; 3]) -> u8 {
    match field {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9', _] => (tens - b'0') * 10 + (ones - b'0'),
        _ => 0,
    }
}

fn code(architecture: Architecture) -> [u8; 3] {
    let code = architecture.0.min(99);
    [b'0' + code / 10, b'0' + code % 10, 0]
}

/// A NUL padded field as text; bytes that are not UTF-8 are replaced.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Three descriptors as Apptainer 1.4.5 wrote them.
    #[test]
    fn descriptor_of_apptainer_is_understood() {
        let mut bytes = [0; DESCRIPTOR_BYTES];
        put(&mut bytes, 0, &[0x04, 0x40, 0, 0, 1, 3, 0, 0, 0, 1, 0, 0, 0xf0]);
        put(&mut bytes, 17, &[0, 0x90, 0, 0, 0, 0, 0, 0, 0, 0x10]);
        put(&mut bytes, 33, &[0x16, 0x1a]);
        put(&mut bytes, 201, &[1, 0, 0, 0, 2, 0, 0, 0, b'0', b'2', 0]);
        let parsed = Descriptor::parse(&bytes).unwrap();
        let expected = Descriptor {
            id: 3,
            data_type: DataType::PARTITION,
            group: Some(1),
            link: None,
            offset: 36864,
            size: 4096,
            size_with_padding: 6678,
            created: 0,
            modified: 0,
            name: String::new(),
            extra: Extra::Partition {
                file_system: FileSystem::SQUASHFS,
                partition_type: PartitionType::PRIMARY_SYSTEM,
                architecture: Architecture(2),
            },
        };
        assert_eq!(parsed, expected);
        assert_eq!(expected.encode(), bytes);
    }

    fn extra() -> impl Strategy<Value = (DataType, Extra)> {
        prop_oneof![
            Just((DataType::DEFINITION, Extra::None)),
            (any::<i32>(), any::<i32>(), 0..100u8).prop_map(|(f, p, a)| (
                DataType::PARTITION,
                Extra::Partition {
                    file_system: FileSystem(f),
                    partition_type: PartitionType(p),
                    architecture: Architecture(a),
                }
            )),
            (any::<i32>(), any::<u8>()).prop_map(|(h, e)| (
                DataType::SIGNATURE,
                Extra::Signature { hash: HashType(h), entity: Box::new([e; 256]) }
            )),
            (any::<i32>(), any::<i32>()).prop_map(|(f, m)| (
                DataType::CRYPTO_MESSAGE,
                Extra::CryptoMessage { format: CryptoFormat(f), message: MessageType(m) }
            )),
            any::<i32>().prop_map(|f| (DataType::SBOM, Extra::Sbom(SbomFormat(f)))),
            "sha256:[0-9a-f]{64}".prop_map(|d| (DataType::OCI_BLOB, Extra::Digest(d))),
        ]
    }

    proptest! {
        #[test]
        fn descriptors_survive_a_round_trip(
            (data_type, extra) in extra(),
            id: u32,
            group in prop::option::of(1..0x0fff_ffff_u32),
            link in prop_oneof![
                Just(None),
                (1..0x0fff_ffff_u32).prop_map(|n| Some(Link::Object(n))),
                (1..0x0fff_ffff_u32).prop_map(|n| Some(Link::Group(n)))
            ],
            sizes: [u64; 3],
            times: [i64; 2],
            name in "[a-z.é]{0,60}",
        ) {
            let descriptor = Descriptor {
                id, data_type, group, link,
                offset: sizes[0], size: sizes[1], size_with_padding: sizes[2],
                created: times[0], modified: times[1], name, extra,
            };
            prop_assert_eq!(Descriptor::parse(&descriptor.encode()), Some(descriptor));
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), DESCRIPTOR_BYTES)) {
            let bytes: [u8; DESCRIPTOR_BYTES] = bytes.try_into().unwrap();
            prop_assert_eq!(Descriptor::parse(&bytes).is_some(), bytes[4] != 0);
        }
    }
}
