//! The five compressors of SquashFS 4.0, decompression only.
//!
//! A block is decoded whole into a buffer whose limit the caller knows, so nothing here allocates by what
//! the compressed bytes claim; xz, whose streams name a dictionary size, gets a memory limit. Decoder state
//! that is worth keeping (zstd, deflate) and the buffer for compressed bytes are kept per thread.
//!
//! | id | compressor | stored as |
//! |---|---|---|
//! | 1 | gzip | zlib stream |
//! | 3 | lzo | LZO1X block |
//! | 4 | xz | xz stream with its filters (LZMA2, and BCJ where it won) |
//! | 5 | lz4 | LZ4 block, no frame |
//! | 6 | zstd | zstd frame |

use crate::error::{Error, Result};
use std::cell::{Cell, RefCell};
use std::io;

/// What blocks of an image are compressed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compressor {
    /// zlib streams.
    Gzip,
    /// LZO1X.
    Lzo,
    /// xz streams.
    Xz,
    /// LZ4 blocks.
    Lz4,
    /// zstd frames.
    Zstd,
}

impl Compressor {
    /// The compressor of a superblock's id; unknown ones and the pre-standard lzma are errors.
    pub fn from_id(id: u16) -> Result<Self> {
        Ok(match id {
            1 => Self::Gzip,
            3 => Self::Lzo,
            4 => Self::Xz,
            5 => Self::Lz4,
            6 => Self::Zstd,
            2 => {
                return Err(Error::image(
                    "the image is compressed with the old lzma, which skiff does not read",
                )
                .hint("unpack it with 'unsquashfs' and build the image again"));
            }
            _ => return Err(Error::image(format!("the image uses the unknown compressor {id}"))),
        })
    }

    /// The superblock's id of this compressor.
    pub fn id(self) -> u16 {
        match self {
            Self::Gzip => 1,
            Self::Lzo => 3,
            Self::Xz => 4,
            Self::Lz4 => 5,
            Self::Zstd => 6,
        }
    }

    /// The name as `mksquashfs -comp` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Lzo => "lzo",
            Self::Xz => "xz",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

thread_local! {
    static DEFLATE: RefCell<Option<libdeflater::Decompressor>> = const { RefCell::new(None) };
    static ZSTD: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
    static INPUT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Runs `work` with this thread's buffer for compressed bytes, `length` long, contents arbitrary.
pub(super) fn with_input<T>(length: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut buffer = INPUT.take();
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
    // The slice is in range by the lines above; when `work` panics the buffer is merely lost.
    let result = work(&mut buffer[..length]);
    INPUT.set(buffer);
    result
}

/// Decodes `input` into `output`, whose old contents are overwritten. It ends as long as the decoded
/// bytes; more than `limit` of them are an error, and no more than `limit` are allocated.
pub(super) fn decode(
    compressor: Compressor,
    input: &[u8],
    output: &mut Vec<u8>,
    limit: usize,
) -> io::Result<()> {
    match compressor {
        Compressor::Zstd => {
            output.clear();
            output.reserve(limit);
            ZSTD.with_borrow_mut(|context| {
                let context = match context {
                    Some(context) => context,
                    None => context.insert(zstd::bulk::Decompressor::new()?),
                };
                context.decompress_to_buffer(input, output)
            })?;
        }
        Compressor::Xz => decode_xz(input, output, limit)?,
        Compressor::Gzip | Compressor::Lzo | Compressor::Lz4 => {
            // A buffer used before keeps its length, so only a new one is zeroed here.
            output.resize(limit, 0);
            let length = match compressor {
                Compressor::Gzip => DEFLATE.with_borrow_mut(|context| {
                    context
                        .get_or_insert_with(libdeflater::Decompressor::new)
                        .zlib_decompress(input, output)
                        .map_err(io::Error::other)
                })?,
                Compressor::Lzo => lzokay::decompress::decompress(input, output)
                    .map_err(|e| io::Error::other(e.to_string()))?,
                _ => lz4_flex::block::decompress_into(input, output).map_err(io::Error::other)?,
            };
            output.truncate(length);
        }
    }
    // A buffer may have been larger than what was asked for.
    if output.len() > limit {
        return Err(io::Error::other("decoded data is longer than it may be"));
    }
    Ok(())
}

fn decode_xz(input: &[u8], output: &mut Vec<u8>, limit: usize) -> io::Result<()> {
    use liblzma::stream::{Action, Status, Stream};
    // The dictionary is at most the block size with mksquashfs; a stream that asks for more than this is
    // made to exhaust memory.
    let memory = 2 * limit as u64 + (2 << 20);
    output.clear();
    output.reserve(limit);
    let mut stream = Stream::new_stream_decoder(memory, 0)?;
    match stream.process_vec(input, output, Action::Finish)? {
        Status::StreamEnd => Ok(()),
        _ => Err(io::Error::other("xz stream does not end")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Vec<u8> {
        b"the quick brown fox jumps over the lazy dog; ".repeat(100)
    }

    fn encode(compressor: Compressor, data: &[u8]) -> Vec<u8> {
        match compressor {
            Compressor::Gzip => {
                let mut deflate = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
                let mut out = vec![0; deflate.zlib_compress_bound(data.len())];
                let length = deflate.zlib_compress(data, &mut out).unwrap();
                out.truncate(length);
                out
            }
            Compressor::Lzo => lzokay::compress::compress(data).unwrap(),
            Compressor::Xz => {
                let mut out = Vec::with_capacity(data.len() + 1000);
                let mut stream =
                    liblzma::stream::Stream::new_easy_encoder(6, liblzma::stream::Check::Crc32).unwrap();
                stream.process_vec(data, &mut out, liblzma::stream::Action::Finish).unwrap();
                out
            }
            Compressor::Lz4 => lz4_flex::block::compress(data),
            Compressor::Zstd => zstd::bulk::compress(data, 3).unwrap(),
        }
    }

    const ALL: [Compressor; 5] =
        [Compressor::Gzip, Compressor::Lzo, Compressor::Xz, Compressor::Lz4, Compressor::Zstd];

    #[test]
    fn ids_and_names_go_both_ways() {
        for compressor in ALL {
            assert_eq!(Compressor::from_id(compressor.id()).unwrap(), compressor);
        }
        assert_eq!(ALL.map(Compressor::name), ["gzip", "lzo", "xz", "lz4", "zstd"]);
    }

    #[test]
    fn every_compressor_decodes_with_a_new_and_a_used_buffer() {
        for compressor in [Compressor::Gzip, Compressor::Lzo, Compressor::Lz4, Compressor::Zstd] {
            let packed = encode(compressor, &text());
            let mut out = Vec::new();
            for _ in 0..2 {
                decode(compressor, &packed, &mut out, text().len()).unwrap();
                assert_eq!(out, text(), "{compressor:?}");
            }
        }
    }

    #[test]
    fn more_than_the_limit_is_an_error_for_every_compressor() {
        for compressor in ALL {
            let packed = encode(compressor, &text());
            let mut used = vec![0; text().len() * 2];
            for out in [&mut Vec::new(), &mut used] {
                assert!(decode(compressor, &packed, out, text().len() - 1).is_err(), "{compressor:?}");
            }
        }
    }

    #[test]
    fn damaged_input_is_an_error_or_other_bytes_but_never_a_panic() {
        for compressor in ALL {
            let packed = encode(compressor, &text());
            for at in 0..packed.len() {
                let mut damaged = packed.clone();
                damaged[at] ^= 0x55;
                let mut out = Vec::new();
                let _either = decode(compressor, &damaged, &mut out, 8192);
                assert!(out.len() <= 8192);
                assert!(decode(compressor, &packed[..at], &mut out, 8192).is_err() || out != text());
            }
        }
    }
}
