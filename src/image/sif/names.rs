//! The codes of SIF and their names, as `siftool` prints them.
//!
//! Each set is a number with named constants and not an enumeration: a file of a newer tool may hold codes
//! that are not known here, and they have to survive an edit.

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DataType(pub i32);

#[allow(missing_docs, reason = "the names say it")]
impl DataType {
    pub const DEFINITION: Self = Self(0x4001);
    pub const ENVIRONMENT: Self = Self(0x4002);
    pub const LABELS: Self = Self(0x4003);
    pub const PARTITION: Self = Self(0x4004);
    pub const SIGNATURE: Self = Self(0x4005);
    pub const GENERIC_JSON: Self = Self(0x4006);
    pub const GENERIC: Self = Self(0x4007);
    pub const CRYPTO_MESSAGE: Self = Self(0x4008);
    pub const SBOM: Self = Self(0x4009);
    pub const OCI_ROOT_INDEX: Self = Self(0x400a);
    pub const OCI_BLOB: Self = Self(0x400b);

    /// Name in listings.
    pub fn name(self) -> &'static str {
        match self {
            Self::DEFINITION => "Def.FILE",
            Self::ENVIRONMENT => "Env.Vars",
            Self::LABELS => "JSON.Labels",
            Self::PARTITION => "FS",
            Self::SIGNATURE => "Signature",
            Self::GENERIC_JSON => "JSON.Generic",
            Self::GENERIC => "Generic/Raw",
            Self::CRYPTO_MESSAGE => "Cryptographic Message",
            Self::SBOM => "SBOM",
            Self::OCI_ROOT_INDEX => "OCI.RootIndex",
            Self::OCI_BLOB => "OCI.Blob",
            _ => "Unknown",
        }
    }
}

/// The file system of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileSystem(pub i32);

#[allow(missing_docs, reason = "the names say it")]
impl FileSystem {
    pub const SQUASHFS: Self = Self(1);
    pub const EXT3: Self = Self(2);
    pub const ARCHIVE: Self = Self(3);
    pub const RAW: Self = Self(4);
    pub const ENCRYPTED_SQUASHFS: Self = Self(5);
    pub const GOCRYPTFS_SQUASHFS: Self = Self(6);

    /// Name in listings.
    pub fn name(self) -> &'static str {
        match self {
            Self::SQUASHFS => "Squashfs",
            Self::EXT3 => "Ext3",
            Self::ARCHIVE => "Archive",
            Self::RAW => "Raw",
            Self::ENCRYPTED_SQUASHFS => "Encrypted squashfs",
            Self::GOCRYPTFS_SQUASHFS => "Gocryptfs squashfs",
            _ => "Unknown",
        }
    }
}

/// What a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PartitionType(pub i32);

#[allow(missing_docs, reason = "the names say it")]
impl PartitionType {
    pub const SYSTEM: Self = Self(1);
    pub const PRIMARY_SYSTEM: Self = Self(2);
    pub const DATA: Self = Self(3);
    pub const OVERLAY: Self = Self(4);

    /// Name in listings; the primary system's has a star.
    pub fn name(self) -> &'static str {
        match self {
            Self::SYSTEM => "System",
            Self::PRIMARY_SYSTEM => "*System",
            Self::DATA => "Data",
            Self::OVERLAY => "Overlay",
            _ => "Unknown",
        }
    }
}

/// The hash function of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HashType(pub i32);

#[allow(missing_docs, reason = "the names say it")]
impl HashType {
    pub const SHA256: Self = Self(1);
    pub const SHA384: Self = Self(2);
    pub const SHA512: Self = Self(3);
    pub const BLAKE2S_256: Self = Self(4);
    pub const BLAKE2B_256: Self = Self(5);

    /// Name in listings.
    pub fn name(self) -> &'static str {
        match self {
            Self::SHA256 => "SHA-256",
            Self::SHA384 => "SHA-384",
            Self::SHA512 => "SHA-512",
            Self::BLAKE2S_256 => "BLAKE2s-256",
            Self::BLAKE2B_256 => "BLAKE2b-256",
            _ => "Unknown",
        }
    }
}

/// The encoding of a cryptographic message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CryptoFormat(pub i32);

#[allow(missing_docs, reason = "the names say it")]
impl CryptoFormat {
    pub const OPEN_PGP: Self = Self(1);
    pub const PEM: Self = Self(2);

    /// Name in listings.
    pub fn name(self) -> &'static str {
        match self {
            Self::OPEN_PGP => "OpenPGP",
            Self::PEM => "PEM",
            _ => "Unknown",
        }
    }
}

/// What a cryptographic message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageType(pub i32);

#[allow(missing_docs, reason = "the names say it")]
impl MessageType {
    pub const CLEAR_SIGNATURE: Self = Self(0x100);
    pub const RSA_OAEP: Self = Self(0x200);

    /// Name in listings.
    pub fn name(self) -> &'static str {
        match self {
            Self::CLEAR_SIGNATURE => "Clear Signature",
            Self::RSA_OAEP => "RSA-OAEP",
            _ => "Unknown",
        }
    }
}

/// The format of a software bill of materials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SbomFormat(pub i32);

impl SbomFormat {
    /// Name in listings.
    pub fn name(self) -> &'static str {
        match self.0 {
            1 => "cyclonedx-json",
            2 => "cyclonedx-xml",
            3 => "github-json",
            4 => "spdx-json",
            5 => "spdx-rdf",
            6 => "spdx-tag-value",
            7 => "spdx-yaml",
            8 => "syft-json",
            _ => "unknown",
        }
    }
}

/// The processors that programs of an image run on. On disk two decimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Architecture(pub u8);

/// Code, name (Go's GOARCH, as in listings and labels), and what the ELF header of its programs says:
/// machine, 64 bits, big endian.
const ARCHITECTURES: [(Architecture, &str, (u16, bool, bool)); 13] = [
    (Architecture(1), "386", (3, false, false)),
    (Architecture(2), "amd64", (62, true, false)),
    (Architecture(3), "arm", (40, false, false)),
    (Architecture(4), "arm64", (183, true, false)),
    (Architecture(5), "ppc64", (21, true, true)),
    (Architecture(6), "ppc64le", (21, true, false)),
    (Architecture(7), "mips", (8, false, true)),
    (Architecture(8), "mipsle", (8, false, false)),
    (Architecture(9), "mips64", (8, true, true)),
    (Architecture(10), "mips64le", (8, true, false)),
    (Architecture(11), "s390x", (22, true, true)),
    (Architecture(12), "riscv64", (243, true, false)),
    (Architecture(13), "loong64", (258, true, false)),
];

impl Architecture {
    /// Of no or an unknown architecture.
    pub const UNKNOWN: Self = Self(0);

    /// Go's name: `amd64`, `arm64`, ...
    pub fn name(self) -> &'static str {
        ARCHITECTURES.iter().find(|(code, ..)| *code == self).map_or("unknown", |(_, name, _)| name)
    }

    /// The architecture with this name of Go's, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        ARCHITECTURES.iter().find(|(_, known, _)| *known == name).map(|(code, ..)| *code)
    }

    /// The architecture that this program was compiled for.
    pub fn host() -> Self {
        let name = match std::env::consts::ARCH {
            "x86" => "386",
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            // arm, s390x, riscv64
            same => same,
        };
        Self::from_name(name).unwrap_or(Self::UNKNOWN)
    }

    /// What the first bytes of an ELF file say, or nothing if they are not the start of one or the machine
    /// has no code in SIF.
    pub fn of_elf(start: &[u8]) -> Option<Self> {
        let ident: &[u8; 20] = start.first_chunk()?;
        if ident[..4] != *b"\x7fELF" {
            return None;
        }
        let (wide, big) = (ident[4] == 2, ident[5] == 2);
        let machine = [ident[18], ident[19]];
        let machine = if big { u16::from_be_bytes(machine) } else { u16::from_le_bytes(machine) };
        ARCHITECTURES.iter().find(|(.., elf)| *elf == (machine, wide, big)).map(|(code, ..)| *code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_is_of_the_host_architecture() {
        let program = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(Architecture::of_elf(&program), Some(Architecture::host()));
        assert_eq!(Architecture::of_elf(&program[..19]), None);
        assert_eq!(Architecture::of_elf(b"#!/bin/sh\nexit 0 and more bytes"), None);
    }

    #[test]
    fn names_and_codes_are_those_of_the_format() {
        assert_eq!(Architecture(2).name(), "amd64");
        assert_eq!(Architecture::from_name("riscv64"), Some(Architecture(12)));
        assert_eq!((Architecture(99).name(), DataType(7).name()), ("unknown", "Unknown"));
        assert_eq!(DataType::OCI_BLOB.name(), "OCI.Blob");
        assert_eq!(SbomFormat(8).name(), "syft-json");
    }
}
