//! A layer's bytes as a tar stream: decompressed by a thread of its own, which runs ahead by a few buffers.
//!
//! What a layer is compressed with is told by its first bytes: media types are often wrong, and Docker's archives
//! have none. Streams of several members (pigz, eStargz) and of several frames (zstd:chunked) are read to the end.

use crate::error::{Error, Result};
use crate::oci::Blob;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::thread::{Builder, Scope};

/// What is decompressed at a time.
const BUFFER_BYTES: usize = 256 << 10;
/// All decoders together run ahead by so many buffers.
const BUFFERS: usize = 192;
/// What any layer may expand to, the usual. Above, it depends on the layer's length: deflate makes 1032 of one at
/// most.
pub const FREE_BYTES: u64 = 64 << 30;
const RATIO: u64 = 1100;

/// What a layer of so many bytes may expand to, holes of sparse files included.
pub fn limit(compressed_bytes: u64, free_bytes: u64) -> u64 {
    free_bytes.saturating_add(compressed_bytes.saturating_mul(RATIO))
}

/// A layer while it is decompressed. Dropped, it stops its thread.
pub struct Decoded {
    buffers: Receiver<io::Result<Vec<u8>>>,
    current: Vec<u8>,
    at: usize,
}

impl Decoded {
    /// Starts the thread. `decoders` is how many there may be at once; the layer may expand to `limit` bytes.
    ///
    /// # Errors
    /// There can be no more threads.
    pub fn start<'s>(scope: &'s Scope<'s, '_>, layer: &'s Blob, decoders: usize, limit: u64) -> Result<Self> {
        let (sender, buffers) = bounded((BUFFERS / decoders.max(1)).max(4));
        Builder::new()
            .name("decode".into())
            .spawn_scoped(scope, move || decode(layer, limit, &sender))
            .map_err(|error| Error::host("cannot start a thread for a layer").because(error))?;
        Ok(Self { buffers, current: Vec::new(), at: 0 })
    }

    /// The bytes at hand, at least one unless the layer has ended.
    fn ready(&mut self) -> io::Result<&[u8]> {
        while self.at == self.current.len() {
            match self.buffers.recv() {
                Ok(buffer) => (self.current, self.at) = (buffer?, 0),
                // The thread has ended without an error.
                Err(_) => return Ok(&[]),
            }
        }
        Ok(self.current.get(self.at..).unwrap_or_default())
    }

    /// Passes over as many bytes; gives how many there were.
    pub fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        let mut left = bytes;
        while left > 0 {
            let count = self.ready()?.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if count == 0 {
                break;
            }
            self.at += count;
            left -= count as u64;
        }
        Ok(bytes - left)
    }
}

impl Read for Decoded {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let ready = self.ready()?;
        let count = ready.len().min(target.len());
        if let (Some(target), Some(ready)) = (target.get_mut(..count), ready.get(..count)) {
            target.copy_from_slice(ready);
        }
        self.at += count;
        Ok(count)
    }
}

/// Sends what the layer decompresses to, then the error that ended it early, if one did.
fn decode(layer: &Blob, limit: u64, sender: &Sender<io::Result<Vec<u8>>>) {
    let mut decoder = match decoder(layer) {
        Ok(decoder) => decoder,
        Err(error) => return drop(sender.send(Err(error))),
    };
    let mut expanded = 0_u64;
    loop {
        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        let read = (&mut decoder).take(BUFFER_BYTES as u64).read_to_end(&mut buffer);
        expanded += buffer.len() as u64;
        let failed = match read {
            Ok(_) if expanded > limit => Some(too_large(limit)),
            Ok(0) => return,
            Ok(_) => None,
            Err(error) => Some(error),
        };
        // A receiver that is gone wants no more.
        if sender.send(Ok(buffer)).is_err() {
            return;
        }
        if let Some(error) = failed {
            return drop(sender.send(Err(error)));
        }
    }
}

fn too_large(limit: u64) -> io::Error {
    io::Error::other(format!(
        "it expands to more than {limit} bytes, {RATIO} times its own length and 64 GiB"
    ))
}

/// Whether a blob is compressed as a whole.
///
/// # Errors
/// The system's.
pub fn is_compressed(blob: &Blob) -> io::Result<bool> {
    let mut start = [0; 2];
    blob.read_at(&mut start, 0)?;
    Ok(matches!(start, [0x1f, 0x8b] | [0x28, 0xb5]))
}

/// Decompresses a whole blob into a file.
///
/// # Errors
/// It is damaged, expands too much, or there is no room.
pub fn decompress(blob: &Blob, plain: &mut File) -> io::Result<()> {
    let limit = limit(blob.size, FREE_BYTES);
    match io::copy(&mut decoder(blob)?.take(limit), plain)? {
        bytes if bytes >= limit => Err(too_large(limit)),
        _ => Ok(()),
    }
}

/// What reads a layer's tar stream.
fn decoder(layer: &Blob) -> io::Result<Box<dyn Read + '_>> {
    let mut start = [0; 6];
    let count = layer.read_at(&mut start, 0)?;
    let input = BufReader::with_capacity(BUFFER_BYTES, layer.reader());
    Ok(match start.get(..count).unwrap_or_default() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        // A frame, or one that is to be skipped.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Box::new(zstd::stream::read::Decoder::with_buffer(input)?)
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0] => return Err(unknown("xz")),
        [b'B', b'Z', b'h', ..] => return Err(unknown("bzip2")),
        _ => Box::new(input),
    })
}

fn unknown(name: &str) -> io::Error {
    io::Error::other(format!("it is compressed with {name}, which layers of OCI images are not"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::tests::blob;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn decoded(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let layer = blob(bytes);
        std::thread::scope(|scope| {
            let mut all = Vec::new();
            Decoded::start(scope, &layer, 1, FREE_BYTES).unwrap().read_to_end(&mut all).map(|_| all)
        })
    }

    #[test]
    fn every_compression_gives_the_same_bytes() {
        let text: Vec<u8> = (0..700_000_u32).flat_map(|number| (number / 3).to_le_bytes()).collect();
        let (one, two) = text.split_at(1000);
        assert_eq!(decoded(&text).unwrap(), text);
        assert_eq!(decoded(&[gzip(one), gzip(two)].concat()).unwrap(), text);
        let frames = [zstd::encode_all(one, 3).unwrap(), zstd::encode_all(two, 3).unwrap()];
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9];
        assert_eq!(decoded(&[&skippable[..], &frames[0], &skippable, &frames[1]].concat()).unwrap(), text);
        assert_eq!(decoded(b"").unwrap(), b"");
    }

    #[test]
    fn a_damaged_layer_is_an_error_after_what_was_whole() {
        let mut bytes = gzip(&[7; 100_000]);
        bytes.truncate(bytes.len() - 12);
        assert!(decoded(&bytes).is_err());
        assert!(decoded(b"\xfd7zXZ\0").unwrap_err().to_string().contains("xz"));
    }

    #[test]
    fn a_bomb_goes_off_at_the_limit() {
        let layer = blob(&zstd::encode_all(&vec![7; 10 << 20][..], 3).unwrap());
        let limit = limit(layer.size, 1 << 20);
        assert!(limit < 4 << 20, "{limit}");
        std::thread::scope(|scope| {
            let mut all = Vec::new();
            let error = Decoded::start(scope, &layer, 1, limit).unwrap().read_to_end(&mut all).unwrap_err();
            assert!(error.to_string().contains("expands to more than"), "{error}");
            assert!(all.len() as u64 <= limit + BUFFER_BYTES as u64);
        });
    }

    #[test]
    fn a_reader_that_stops_early_stops_the_thread() {
        let layer = blob(&vec![0; 300 << 20]);
        std::thread::scope(|scope| {
            let mut decoded = Decoded::start(scope, &layer, 1, FREE_BYTES).unwrap();
            assert_eq!(decoded.skip(1000).unwrap(), 1000);
        });
    }
}
