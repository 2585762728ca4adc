//! An image of this machine as an OCI image: one layer, and a configuration that names it.
//!
//! ```text
//! SquashFS ── tar ─▶ 1 MiB ─▶ compress ─┐
//!                    1 MiB ─▶ compress ─┴▶ in order ─▶ a file          each piece a member of the gzip stream
//!                    └─ sum ─▶ diff_id             └─ sum ─▶ digest
//! ```
//!
//! A gzip stream of several members is one stream to every reader (RFC 1952, 2.2), and lets all cores compress. The
//! same image gives the same bytes, whatever the number of threads.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use libdeflater::{CompressionLvl, Compressor};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::push::LAYER_TYPE;
use super::{Blob, Digest};
use crate::error::{Context, Error, Kind, Result};
use crate::image::squashfs::Squashfs;
use crate::image::tar::{Program, write_tar};

/// What is compressed at a time.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces for each thread that are somewhere between the tar stream and the file.
const PIECES: usize = 4;

/// How far a layer is.
#[derive(Debug, Default)]
pub struct Watch {
    /// Bytes of the tar stream so far.
    pub bytes: AtomicU64,
}

/// A layer in a file.
#[derive(Debug)]
pub struct Layer {
    /// What is sent.
    pub blob: Blob,
    /// The digest before compression.
    pub diff_id: Digest,
    /// Sockets that were left out.
    pub sockets: Vec<PathBuf>,
}

/// Writes the files of an image into an empty file as a layer; `programs` come after them.
///
/// # Errors
/// A damaged image; a file that cannot be written.
pub fn write_layer(
    image: &Squashfs,
    programs: &[Program],
    mut file: File,
    threads: usize,
    watch: &Watch,
) -> Result<Layer> {
    let threads = threads.max(1);
    let (spare, spares) = unbounded();
    for _ in 0..threads * PIECES {
        // The other end is held here.
        let _ = spare.send(Vec::new());
    }
    let (full, fulls) = bounded::<Piece>(threads * PIECES);
    let (done, dones) = bounded::<Piece>(threads * PIECES);
    let (made, kept) = thread::scope(|scope| {
        for _ in 0..threads {
            let (fulls, done) = (fulls.clone(), done.clone());
            scope.spawn(move || compress(&fulls, &done));
        }
        drop((fulls, done));
        let target = &mut file;
        // It holds the ends that the others wait at: when it gives up, they do.
        let keeper = scope.spawn(move || keep(&dones, target, &spare));
        let made = split(image, programs, Pieces::new(spares, full, watch));
        (made, keeper.join())
    });
    let kept =
        kept.map_err(|_| Error::new(Kind::Internal, "a thread that writes a layer has ended early"))?;
    // The tar stream fails, too, when its pieces are not taken any more.
    let (digest, size) = kept.tried(|| "cannot write a layer into a temporary file".into())?;
    let (diff_id, sockets) = made?;
    let blob = Blob { digest, media_type: LAYER_TYPE.to_owned(), size, file, offset: 0 };
    Ok(Layer { blob, diff_id, sockets })
}

/// Bytes, and which they are.
type Piece = (u64, Vec<u8>);

/// The tar stream in pieces.
struct Pieces<'a> {
    spares: Receiver<Vec<u8>>,
    full: Sender<Piece>,
    watch: &'a Watch,
    current: Vec<u8>,
    number: u64,
    sum: Sha256,
}

impl<'a> Pieces<'a> {
    fn new(spares: Receiver<Vec<u8>>, full: Sender<Piece>, watch: &'a Watch) -> Self {
        Self { spares, full, watch, current: Vec::new(), number: 0, sum: Sha256::new() }
    }

    fn send(&mut self) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        self.sum.update(&self.current);
        self.watch.bytes.fetch_add(self.current.len() as u64, Ordering::Relaxed);
        let mut spare = self.spares.recv().map_err(|_| gone())?;
        spare.clear();
        let piece = std::mem::replace(&mut self.current, spare);
        self.full.send((self.number, piece)).map_err(|_| gone())?;
        self.number += 1;
        Ok(())
    }
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.current.len() >= PIECE_BYTES {
            self.send()?;
        }
        let count = bytes.len().min(PIECE_BYTES - self.current.len());
        self.current.extend_from_slice(bytes.get(..count).unwrap_or_default());
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes the tar stream; gives its digest and what it lacks.
fn split(image: &Squashfs, programs: &[Program], mut pieces: Pieces<'_>) -> Result<(Digest, Vec<PathBuf>)> {
    let written = write_tar(image, programs, &mut pieces)?;
    pieces.send().tried(|| "cannot write the end of a tar stream".into())?;
    Ok((Digest::from_sum(pieces.sum.finalize().into()), written.sockets))
}

/// Compresses pieces until there are no more.
fn compress(fulls: &Receiver<Piece>, done: &Sender<Piece>) {
    let mut compressor = Compressor::new(CompressionLvl::default());
    for (number, piece) in fulls {
        let mut member = vec![0; compressor.gzip_compress_bound(piece.len())];
        // The bound is enough for every piece; of nothing the keeper finds the gap.
        let Ok(length) = compressor.gzip_compress(&piece, &mut member) else { return };
        member.truncate(length);
        if done.send((number, member)).is_err() {
            return;
        }
    }
}

/// Writes pieces in order; gives their digest and length. Each one that is written lets another begin, so that a slow
/// one holds up all and memory is bounded.
fn keep(dones: &Receiver<Piece>, file: &mut File, spare: &Sender<Vec<u8>>) -> io::Result<(Digest, u64)> {
    let mut early: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let (mut sum, mut length, mut next) = (Sha256::new(), 0, 0);
    for (number, member) in dones {
        early.insert(number, member);
        while let Some(member) = early.remove(&next) {
            sum.update(&member);
            file.write_all(&member)?;
            length += member.len() as u64;
            next += 1;
            // Nobody begins another when all are there.
            let _ = spare.send(Vec::with_capacity(PIECE_BYTES));
        }
    }
    match early.is_empty() {
        true => Ok((Digest::from_sum(sum.finalize().into()), length)),
        false => Err(io::Error::other("a piece of it is missing")),
    }
}

/// What is known of an image that has no OCI configuration of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// The processor: `amd64`, ...
    pub architecture: String,
    /// `NAME=VALUE`.
    pub variables: Vec<String>,
    /// What containers run, with the arguments that they are given; none for a shell.
    pub program: Option<String>,
    /// What its makers say of it.
    pub labels: BTreeMap<String, String>,
    /// When it was made, as RFC 3339 writes it.
    pub created: Option<String>,
}

/// The configuration of an image whose one layer has this digest before compression: that which came with it, or one
/// made of what it says of itself.
///
/// # Errors
/// One that came with it and is none.
pub fn configuration(kept: Option<&[u8]>, said: &Said, diff_id: &Digest) -> Result<Vec<u8>> {
    let mut config = match kept {
        Some(bytes) => serde_json::from_slice::<Map<String, Value>>(bytes)
            .context(Kind::Image, || "cannot read the OCI configuration that is kept in the image".into())?,
        None => of_said(said),
    };
    let mut history = json!({ "created_by": "skiff push" });
    if let Some(created) = config.get("created") {
        history["created"] = created.clone();
    }
    config.insert("rootfs".into(), json!({ "type": "layers", "diff_ids": [diff_id.to_string()] }));
    config.insert("history".into(), json!([history]));
    // What Docker has noted of how it was made is not true of this one.
    for name in ["container", "container_config", "docker_version", "parent", "id"] {
        config.remove(name);
    }
    serde_json::to_vec(&config).context(Kind::Internal, || "cannot write a configuration".into())
}

fn of_said(said: &Said) -> Map<String, Value> {
    let mut run = Map::new();
    if !said.variables.is_empty() {
        run.insert("Env".into(), json!(said.variables));
    }
    match &said.program {
        Some(program) => run.insert("Entrypoint".into(), json!([program])),
        None => run.insert("Cmd".into(), json!(["/bin/sh"])),
    };
    if !said.labels.is_empty() {
        run.insert("Labels".into(), json!(said.labels));
    }
    let mut config = Map::new();
    config.insert("architecture".into(), json!(said.architecture));
    config.insert("os".into(), json!("linux"));
    config.insert("config".into(), Value::Object(run));
    if let Some(created) = &said.created {
        config.insert("created".into(), json!(created));
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// Sends bytes through all of it but the tar stream.
    fn through(bytes: &[u8], threads: usize) -> (Digest, Vec<u8>) {
        let mut file = tempfile::tempfile().unwrap();
        let watch = Watch::default();
        let (spare, spares) = unbounded();
        (0..threads * PIECES).for_each(|_| spare.send(Vec::new()).unwrap());
        let (full, fulls) = bounded(threads);
        let (done, dones) = bounded(threads);
        let (digest, length) = thread::scope(|scope| {
            for _ in 0..threads {
                let (fulls, done) = (fulls.clone(), done.clone());
                scope.spawn(move || compress(&fulls, &done));
            }
            drop((fulls, done));
            let keeper = scope.spawn(|| keep(&dones, &mut file, &spare).unwrap());
            let mut pieces = Pieces::new(spares, full, &watch);
            pieces.write_all(bytes).unwrap();
            pieces.send().unwrap();
            drop(pieces);
            keeper.join().unwrap()
        });
        let blob = Blob { digest, media_type: String::new(), size: length, file, offset: 0 };
        (digest, blob.read_all(u64::MAX).unwrap())
    }

    #[test]
    fn a_stream_of_members_is_the_same_for_every_number_of_threads_and_is_one_stream() {
        let bytes: Vec<u8> =
            (0..5 * PIECE_BYTES as u32 + 7).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
        let (digest, members) = through(&bytes, 1);
        assert_eq!(digest, Digest::from_sum(Sha256::digest(&members).into()));
        assert_eq!((digest, members.len()), (through(&bytes, 3).0, through(&bytes, 3).1.len()));
        let mut back = Vec::new();
        flate2::read::MultiGzDecoder::new(members.as_slice()).read_to_end(&mut back).unwrap();
        assert!(back == bytes);
    }

    #[test]
    fn a_full_disk_is_the_error_that_is_told() {
        let mut full = File::options().write(true).open("/dev/full").unwrap();
        let (done, dones) = unbounded();
        done.send((0, vec![1; 10])).unwrap();
        drop(done);
        let error = keep(&dones, &mut full, &unbounded().0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    }

    #[test]
    fn a_configuration_that_came_along_stays_but_for_its_layers() {
        let digest = Digest::from_sum([7; 32]);
        let kept = br#"{"architecture":"arm64","os":"linux","created":"2026-01-01T00:00:00Z","x":1,"container":"c",
            "config":{"User":"u","ExposedPorts":{"80/tcp":{}}},"rootfs":{"type":"layers","diff_ids":["a","b"]}}"#;
        let bytes = configuration(Some(kept), &Said::default(), &digest).unwrap();
        let config: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"], json!([digest.to_string()]));
        assert_eq!(config["config"], json!({"User": "u", "ExposedPorts": {"80/tcp": {}}}));
        assert_eq!((&config["x"], &config["container"]), (&json!(1), &Value::Null));
        assert_eq!(config["history"][0]["created"], "2026-01-01T00:00:00Z");
        assert!(configuration(Some(b"[]"), &Said::default(), &digest).is_err());
    }

    #[test]
    fn a_configuration_is_made_of_what_an_image_says() {
        let said = Said {
            architecture: "amd64".into(),
            variables: vec!["A=1".into()],
            program: Some("/run".into()),
            ..Said::default()
        };
        let bytes = configuration(None, &said, &Digest::from_sum([7; 32])).unwrap();
        let read = super::super::config::parse(&bytes).unwrap();
        assert_eq!((read.config.env, read.config.entrypoint), (vec!["A=1".into()], vec!["/run".into()]));
        let bytes = configuration(None, &Said::default(), &Digest::from_sum([7; 32])).unwrap();
        assert_eq!(super::super::config::parse(&bytes).unwrap().config.cmd, ["/bin/sh"]);
    }
}
