//! One block in, one smaller block out: the five compressors of SquashFS behind one [`Compressor`].
//!
//! Each thread owns a `Compressor`, whose tables are allocated once. The result of a block depends on its
//! bytes and the options alone, never on what was compressed before; determinism rests on this.

pub use crate::image::squashfs::Compressor as CompressionKind;

use crate::error::{Error, Kind, Result};
use liblzma::stream::{Action, Check, Filters, LzmaOptions, Status, Stream};
use zstd::zstd_safe::{self, CCtx, CParameter};

/// A compressor and how hard it tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    /// Which.
    pub kind: CompressionKind,
    /// How hard; `None` is the compressor's usual: zstd 3, gzip 6, xz 6. lz4 and lzo have no levels here.
    pub level: Option<i32>,
}

impl Default for Compression {
    fn default() -> Self {
        Self { kind: CompressionKind::Zstd, level: None }
    }
}

impl CompressionKind {
    /// The levels that can be asked for, and the usual one; `None` where there is no choice.
    pub fn levels(self) -> Option<(i32, i32, i32)> {
        match self {
            Self::Gzip => Some((1, 12, 6)),
            Self::Xz => Some((0, 9, 6)),
            Self::Zstd => Some((1, 22, 3)),
            Self::Lzo | Self::Lz4 => None,
        }
    }
}

impl std::str::FromStr for CompressionKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::Gzip, Self::Lzo, Self::Xz, Self::Lz4, Self::Zstd]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| {
                Error::usage(format!("unknown compression {name:?}")).hint("use zstd, gzip, xz, lz4 or lzo")
            })
    }
}

impl Compression {
    /// The level in force, 0 where there is none.
    ///
    /// # Errors
    /// [`Kind::Usage`] when the level is out of the compressor's range.
    pub fn level(self) -> Result<i32> {
        let name = self.kind.name();
        match (self.kind.levels(), self.level) {
            (None, None) => Ok(0),
            (None, Some(level)) => Err(Error::usage(format!("compression {name} has no level {level}"))
                .hint("leave the level out, or choose zstd, gzip or xz")),
            (Some((_, _, usual)), None) => Ok(usual),
            (Some((low, high, _)), Some(level)) if (low..=high).contains(&level) => Ok(level),
            (Some((low, high, _)), Some(level)) => {
                Err(Error::usage(format!("compression {name} has no level {level}"))
                    .hint(format!("choose one from {low} to {high}")))
            }
        }
    }

    /// The options that readers expect behind the superblock; `None` where the defaults hold.
    ///
    /// # Errors
    /// As [`Compression::level`].
    pub fn options(self) -> Result<Option<Vec<u8>>> {
        let level = self.level()?;
        let mut bytes = Vec::new();
        match self.kind {
            CompressionKind::Gzip => {
                // Level, window, strategies. zlib knows levels up to 9; readers refuse others.
                bytes.extend(level.min(9).to_le_bytes());
                bytes.extend(15_u16.to_le_bytes());
                bytes.extend(0_u16.to_le_bytes());
            }
            CompressionKind::Zstd => bytes.extend(level.to_le_bytes()),
            CompressionKind::Lz4 => {
                // Version of the block format, flags (bit 0: high compression was used).
                bytes.extend(1_u32.to_le_bytes());
                bytes.extend(0_u32.to_le_bytes());
            }
            CompressionKind::Xz | CompressionKind::Lzo => return Ok(None),
        }
        Ok(Some(bytes))
    }
}

/// One thread's compressor.
pub struct Compressor {
    state: State,
}

enum State {
    Zstd(CCtx<'static>),
    Gzip(libdeflater::Compressor),
    Xz { level: u32, dictionary_bytes: u32 },
    Lz4 { table: Box<lz4_flex::block::CompressTable>, scratch: Vec<u8> },
    Lzo { dictionary: Box<lzokay::compress::Dict>, scratch: Vec<u8> },
}

impl Compressor {
    /// A compressor for blocks of at most `block_bytes`.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a level out of range, [`Kind::Internal`] when there is no memory for the tables.
    pub fn new(compression: Compression, block_bytes: u32) -> Result<Self> {
        let level = compression.level()?;
        let state = match compression.kind {
            CompressionKind::Zstd => {
                let mut context = CCtx::try_create()
                    .ok_or_else(|| Error::new(Kind::Internal, "cannot allocate the tables of zstd"))?;
                context
                    .set_parameter(CParameter::CompressionLevel(level))
                    .map_err(|code| failed("zstd", zstd_safe::get_error_name(code)))?;
                State::Zstd(context)
            }
            CompressionKind::Gzip => {
                let level = libdeflater::CompressionLvl::new(level)
                    .map_err(|_| Error::usage(format!("compression gzip has no level {level}")))?;
                State::Gzip(libdeflater::Compressor::new(level))
            }
            CompressionKind::Xz => {
                State::Xz { level: level.unsigned_abs(), dictionary_bytes: block_bytes.max(8192) }
            }
            CompressionKind::Lz4 => {
                State::Lz4 { table: Box::new(lz4_flex::block::CompressTable::large()), scratch: Vec::new() }
            }
            CompressionKind::Lzo => {
                State::Lzo { dictionary: lzokay::compress::Dict::new(), scratch: Vec::new() }
            }
        };
        Ok(Self { state })
    }

    /// Compresses `raw` into the start of `packed`; `None` when the result would not be smaller than `raw`
    /// (or than `packed`), so that the block is better stored as is.
    ///
    /// # Errors
    /// [`Kind::Internal`] when the library fails for another reason.
    pub fn compress(&mut self, raw: &[u8], packed: &mut [u8]) -> Result<Option<usize>> {
        let room = packed.len().min(raw.len().saturating_sub(1));
        let Some(packed) = packed.get_mut(..room) else { return Ok(None) };
        match &mut self.state {
            State::Zstd(context) => match context.compress2(packed, raw) {
                Ok(length) => Ok(Some(length)),
                Err(code) => match zstd_safe::get_error_name(code) {
                    "Destination buffer is too small" => Ok(None),
                    name => Err(failed("zstd", name)),
                },
            },
            State::Gzip(compressor) => Ok(compressor.zlib_compress(raw, packed).ok()),
            State::Xz { level, dictionary_bytes } => compress_xz(raw, packed, *level, *dictionary_bytes),
            State::Lz4 { table, scratch } => {
                scratch.resize(lz4_flex::block::get_maximum_output_size(raw.len()), 0);
                let length = lz4_flex::block::compress_into_with_table(raw, scratch, table)
                    .map_err(|error| failed("lz4", &error.to_string()))?;
                Ok(copy_if_it_fits(scratch.get(..length), packed))
            }
            State::Lzo { dictionary, scratch } => {
                scratch.resize(raw.len() + raw.len() / 16 + 64 + 3, 0);
                let length = lzokay::compress::compress_no_alloc(raw, scratch, dictionary)
                    .map_err(|error| failed("lzo", &format!("{error:?}")))?;
                Ok(copy_if_it_fits(scratch.get(..length), packed))
            }
        }
    }
}

fn copy_if_it_fits(result: Option<&[u8]>, packed: &mut [u8]) -> Option<usize> {
    let result = result?;
    packed.get_mut(..result.len())?.copy_from_slice(result);
    Some(result.len())
}

fn compress_xz(raw: &[u8], packed: &mut [u8], level: u32, dictionary_bytes: u32) -> Result<Option<usize>> {
    let broken = |error: liblzma::stream::Error| failed("xz", &error.to_string());
    let mut options = LzmaOptions::new_preset(level).map_err(broken)?;
    options.dict_size(dictionary_bytes);
    let mut filters = Filters::new();
    filters.lzma2(&options);
    // The kernel checks CRC-32 and knows no other.
    let mut stream = Stream::new_stream_encoder(&filters, Check::Crc32).map_err(broken)?;
    match stream.process(raw, packed, Action::Finish) {
        Ok(Status::StreamEnd) => Ok(Some(stream.total_out() as usize)),
        // No more room: the block does not get smaller.
        Ok(_) | Err(liblzma::stream::Error::MemLimit) => Ok(None),
        Err(error) => Err(broken(error)),
    }
}

fn failed(compressor: &str, reason: &str) -> Error {
    Error::new(Kind::Internal, format!("cannot compress a block with {compressor}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [CompressionKind; 5] = [
        CompressionKind::Gzip,
        CompressionKind::Lzo,
        CompressionKind::Xz,
        CompressionKind::Lz4,
        CompressionKind::Zstd,
    ];

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        (0..length)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect()
    }

    #[test]
    fn text_shrinks_and_noise_is_refused_by_every_compressor() {
        let text: Vec<u8> = b"the quick brown fox jumps over the lazy dog\n".repeat(1000);
        let noise = noise(70_000);
        for kind in KINDS {
            let mut compressor = Compressor::new(Compression { kind, level: None }, 131_072).unwrap();
            let mut packed = vec![0; 131_072];
            let first = compressor.compress(&text, &mut packed).unwrap().unwrap();
            assert!(first < text.len() / 10, "{}: {first}", kind.name());
            let result = packed[..first].to_vec();
            assert_eq!(compressor.compress(&noise, &mut packed).unwrap(), None, "{}", kind.name());
            let again = compressor.compress(&text, &mut packed).unwrap().unwrap();
            assert_eq!(result, packed[..again], "{}: what came before shows", kind.name());
            assert_eq!(compressor.compress(b"", &mut packed).unwrap(), None);
            assert_eq!(compressor.compress(b"x", &mut packed).unwrap(), None);
        }
    }

    #[test]
    fn a_level_out_of_range_is_a_usage_error_with_the_range() {
        let error = Compression { kind: CompressionKind::Zstd, level: Some(23) }.level().unwrap_err();
        assert_eq!(error.kind, Kind::Usage);
        assert_eq!(error.hint.as_deref(), Some("choose one from 1 to 22"));
        assert!(Compression { kind: CompressionKind::Lz4, level: Some(3) }.level().is_err());
        assert_eq!(Compression::default().level().unwrap(), 3);
        assert!("brotli".parse::<CompressionKind>().is_err());
        assert_eq!("xz".parse::<CompressionKind>().unwrap(), CompressionKind::Xz);
    }

    #[test]
    fn options_are_those_readers_expect() {
        let options = |kind, level| Compression { kind, level }.options().unwrap();
        assert_eq!(options(CompressionKind::Zstd, Some(15)), Some(vec![15, 0, 0, 0]));
        assert_eq!(options(CompressionKind::Lz4, None), Some(vec![1, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(options(CompressionKind::Gzip, Some(12)), Some(vec![9, 0, 0, 0, 15, 0, 0, 0]));
        assert_eq!(options(CompressionKind::Xz, None), None);
        assert_eq!(options(CompressionKind::Lzo, None), None);
    }
}
