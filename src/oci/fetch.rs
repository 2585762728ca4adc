//! An image of a registry onto this machine.
//!
//! ```text
//! tag ──HEAD──▶ digest ──▶ index ──platform──▶ manifest ──▶ config, layers     several at a time
//!                          └───── in the cache: not asked for again ─────┘
//! ```
//!
//! Threads are joined before this returns: a container that starts afterwards is started by a process of one thread.
//!
//! A part is written into the cache under the lock of its digest and gets its name when its bytes are right. A cut
//! transfer is gone on with from where it was cut, now or by the next call. Where the cache cannot be written to, its
//! bytes go into a file without a name.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

use super::credentials::Keys;
use super::http::{ATTEMPTS, Http};
use super::manifest::{self, Descriptor, Manifest, sif_layer};
use super::mirrors::Mirrors;
use super::reference::Name;
use super::registry::Registry;
use super::{Blob, Digest, OciImage, Platform};
use crate::cache::store::{Meant, is_unwritable};
use crate::cache::{Kind as Stored, NewFile, Store};
use crate::error::{Context, Error, Kind, Result};

/// How many parts are fetched at a time.
const AT_A_TIME: usize = 4;
/// Bytes that are taken from a connection at once.
const PIECE_BYTES: usize = 256 << 10;
/// The wait after a cut transfer.
const AFTER_A_CUT: Duration = Duration::from_millis(500);
/// No index leads to another one more often.
const INDEXES: usize = 3;

/// How far one part is.
#[derive(Debug)]
pub struct Part {
    /// What it is, for people.
    pub name: String,
    /// Its length in bytes; 0 where it is not known.
    pub size: u64,
    /// How much of it is here.
    pub done: AtomicU64,
}

/// How far a transfer is, for who shows it.
#[derive(Debug, Default)]
pub struct Progress {
    parts: Mutex<Vec<Arc<Part>>>,
}

impl Progress {
    /// Adds a part.
    pub fn begin(&self, name: String, size: u64) -> Arc<Part> {
        let part = Arc::new(Part { name, size, done: AtomicU64::new(0) });
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&part));
        part
    }

    /// All parts so far.
    pub fn parts(&self) -> Vec<Arc<Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What fetching needs.
pub struct Fetch<'a> {
    /// How servers are asked.
    pub http: &'a Http,
    /// Who the user is for them.
    pub keys: &'a Keys,
    /// Who is asked in a registry's stead.
    pub mirrors: &'a Mirrors,
    /// By plain HTTP.
    pub plain: bool,
    /// The cache; none where it is not wanted or cannot be used.
    pub store: Option<&'a Store>,
    /// Where files without a name are made.
    pub scratch: PathBuf,
    /// How far it is.
    pub progress: &'a Progress,
}

/// What a name leads to on this platform.
pub struct Resolved<'a> {
    /// The manifest as it came.
    pub manifest: Vec<u8>,
    /// Its digest, which says everything about the image.
    pub digest: Digest,
    /// How to run it.
    pub config: Descriptor,
    /// What it is made of.
    pub layers: Vec<Descriptor>,
    registries: Vec<Registry<'a>>,
}

impl<'a> Fetch<'a> {
    /// Finds out what a name means: a digest without asking anybody, if its manifests are in the cache; a tag by
    /// asking the registry each time. One that does not answer is done without, where the cache has what the name
    /// meant before.
    ///
    /// # Errors
    /// See [`super::registry`]; manifests that are damaged, or have no image for the platform.
    pub fn resolve(&self, name: &Name, platform: &Platform) -> Result<Resolved<'a>> {
        let endpoints = self.mirrors.endpoints(name, self.plain)?;
        let registries: Vec<Registry<'a>> =
            endpoints.into_iter().map(|endpoint| Registry::new(self.http, self.keys, endpoint)).collect();
        let mut version = self.version_of(name, &registries)?;
        for _ in 0..INDEXES {
            let (bytes, digest) = self.manifest(&version, &registries)?;
            match manifest::parse(&bytes)? {
                Manifest::Image { config, layers } => {
                    return Ok(Resolved { manifest: bytes, digest, config, layers, registries });
                }
                Manifest::Index(entries) => {
                    let platforms: Vec<_> = entries.iter().map(|(_, platform)| platform.clone()).collect();
                    let chosen = platform.choose(&platforms).map_err(|error| {
                        let hint = error.hint.clone();
                        Error { hint, ..Error::image(format!("cannot use {name}")).because(error) }
                    })?;
                    version = entries[chosen].0.digest.to_string();
                }
            }
        }
        Err(Error::image(format!("cannot use {name}: its index leads to others, again and again")))
    }

    /// What the manifest is asked for by: the digest of a name, or of what its tag means now.
    fn version_of(&self, name: &Name, registries: &[Registry<'a>]) -> Result<String> {
        let version = name.version();
        let Some(store) = self.store.filter(|_| name.digest.is_none()) else { return Ok(version) };
        let key = hex_of(&name.to_string());
        match first(registries, |registry| registry.digest_of(&version)) {
            Ok(Some(digest)) => {
                let asked = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
                let digest = digest.to_string();
                if store.meant(&key).is_none_or(|meant| meant.digest != digest) {
                    store.remember(&key, &Meant { name: name.to_string(), digest: digest.clone(), asked });
                }
                Ok(digest)
            }
            Ok(None) => Ok(version),
            Err(error) if error.kind == Kind::Host => match store.meant(&key) {
                Some(meant) => {
                    self.http.tell(&format!("{error}; using what {name} was when it was last fetched"));
                    Ok(meant.digest)
                }
                None => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    fn manifest(&self, version: &str, registries: &[Registry<'a>]) -> Result<(Vec<u8>, Digest)> {
        let digest = version.parse::<Digest>().ok();
        if let (Some(store), Some(digest)) = (self.store, &digest)
            && let Some(file) = store.find(Stored::Blob, &digest.hex(), None)
        {
            let mut bytes = Vec::new();
            let read = file.take(manifest::MANIFEST_BYTES).read_to_end(&mut bytes);
            // It decides what is run, and is short.
            if read.is_ok() && Digest::from_sum(Sha256::digest(&bytes).into()) == *digest {
                return Ok((bytes, *digest));
            }
        }
        let (bytes, digest) = first(registries, |registry| registry.manifest(version))?;
        if let Some(store) = self.store {
            let kept = store.begin(&digest.hex(), false).and_then(|mut new| {
                new.file.write_all(&bytes)?;
                store.finish(new, Stored::Blob, &digest.hex())
            });
            if let Err(error) = kept {
                self.without_cache(&error);
            }
        }
        Ok((bytes, digest))
    }

    /// Fetches what an image is made of.
    ///
    /// # Errors
    /// Those of the registry; bytes that are not what their digest says.
    pub fn image(&self, resolved: &Resolved<'a>) -> Result<OciImage> {
        let wanted: Vec<&Descriptor> = std::iter::once(&resolved.config).chain(&resolved.layers).collect();
        let mut blobs = self.blobs(&wanted, &resolved.registries)?.into_iter();
        let config = blobs.next().ok_or_else(|| Error::new(Kind::Internal, "no blob came back"))?;
        let mut file = tempfile::tempfile_in(&self.scratch).tried(|| format!("cannot write into {:?}", self.scratch))?;
        file.write_all(&resolved.manifest).tried(|| "cannot keep the manifest".into())?;
        let manifest = Blob {
            digest: resolved.digest,
            media_type: String::new(),
            size: resolved.manifest.len() as u64,
            file,
        };
        Ok(OciImage { manifest, config, layers: blobs.collect() })
    }

    /// Fetches the SIF that an image of `oras://` is; none for an image of another kind.
    ///
    /// # Errors
    /// As [`Fetch::image`].
    pub fn sif(&self, resolved: &Resolved<'a>) -> Result<Option<Blob>> {
        match sif_layer(&resolved.layers)? {
            None => Ok(None),
            Some(layer) => Ok(self.blobs(&[layer], &resolved.registries)?.pop()),
        }
    }

    /// Fetches parts, several at a time; they come back in order.
    fn blobs(&self, wanted: &[&Descriptor], registries: &[Registry<'a>]) -> Result<Vec<Blob>> {
        let next = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        let results: Mutex<Vec<Option<Result<Blob>>>> = Mutex::new(wanted.iter().map(|_| None).collect());
        let parts: Vec<_> =
            wanted.iter().map(|one| self.progress.begin(one.digest.short(), one.size)).collect();
        let work = || {
            while !failed.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(descriptor) = wanted.get(number) else { break };
                let one = One { descriptor, registries, part: &parts[number], failed: &failed };
                let result = self.blob(&one);
                if result.is_err() {
                    failed.store(true, Ordering::Relaxed);
                }
                results.lock().unwrap_or_else(PoisonError::into_inner)[number] = Some(result);
            }
        };
        thread::scope(|scope| {
            for _ in 1..wanted.len().min(AT_A_TIME) {
                scope.spawn(work);
            }
            work();
        });
        let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut blobs = Vec::new();
        let mut missing = false;
        for result in results {
            match result {
                // One that was given up because of another says nothing.
                Some(Err(error)) if error.kind == Kind::Interrupted => missing = true,
                Some(result) => blobs.push(result?),
                None => missing = true,
            }
        }
        if missing {
            return Err(Error::new(Kind::Internal, "a part of the image was not fetched"));
        }
        Ok(blobs)
    }

    fn blob(&self, one: &One<'_, 'a>) -> Result<Blob> {
        let Descriptor { digest, media_type, size } = one.descriptor;
        let blob = |file| Blob { digest: *digest, media_type: media_type.clone(), size: *size, file };
        if let Some(store) = self.store {
            let key = digest.hex();
            let here = || {
                let file = store.find(Stored::Blob, &key, Some(*size))?;
                one.part.done.store(*size, Ordering::Relaxed);
                Some(blob(file))
            };
            if let Some(found) = here() {
                return Ok(found);
            }
            let lock = store.lock(&key, &|| {});
            if let Some(found) = here() {
                return Ok(found);
            }
            match store.begin(&key, lock.excludes()) {
                Ok(mut new) => match self.fill(one, &mut new.file) {
                    Ok(()) => match keep(store, new, &key) {
                        Ok(file) => return Ok(blob(file)),
                        Err(error) => self.without_cache(&error),
                    },
                    Err(Trouble::Writing(error)) if is_unwritable(&error) => {
                        discard(new);
                        self.without_cache(&error);
                    }
                    Err(trouble) => return Err(trouble.into_error(one)),
                },
                Err(error) => self.without_cache(&error),
            }
        }
        let mut file =
            tempfile::tempfile_in(&self.scratch).tried(|| format!("cannot write into {:?}", self.scratch))?;
        self.fill(one, &mut file).map_err(|trouble| trouble.into_error(one))?;
        Ok(blob(file))
    }

    /// Makes a file hold the bytes of a part, whatever of them it holds already.
    fn fill(&self, one: &One<'_, 'a>, file: &mut File) -> Result<(), Trouble> {
        let Descriptor { digest, size, .. } = one.descriptor;
        let mut attempt = 0;
        let mut resumed = false;
        loop {
            let (mut sum, mut offset) = begun(file).map_err(Trouble::Writing)?;
            if offset > *size {
                restart(file, &mut sum, &mut offset).map_err(Trouble::Writing)?;
            }
            resumed |= offset > 0 && attempt == 0;
            let before = offset;
            one.part.done.store(offset, Ordering::Relaxed);
            if offset < *size || *size == 0 {
                match self.transfer(one, file, (&mut sum, &mut offset)) {
                    Ok(()) => {}
                    Err(Trouble::Cut(error)) => {
                        // As long as something comes it is worth going on.
                        attempt = if offset > before { 1 } else { attempt + 1 };
                        if attempt >= ATTEMPTS {
                            return Err(Trouble::Cut(error));
                        }
                        thread::sleep(AFTER_A_CUT * attempt);
                        continue;
                    }
                    Err(trouble) => return Err(trouble),
                }
            }
            let found = Digest::from_sum(sum.finalize().into());
            if found == *digest && offset == *size {
                return Ok(());
            }
            // What was there before may have been bad; what has just come may not.
            restart(file, &mut Sha256::new(), &mut offset).map_err(Trouble::Writing)?;
            if !resumed {
                return Err(Trouble::Wrong(found, offset));
            }
            resumed = false;
            attempt = 1;
        }
    }

    /// Appends what is missing.
    fn transfer(
        &self,
        one: &One<'_, 'a>,
        file: &mut File,
        (sum, offset): (&mut Sha256, &mut u64),
    ) -> Result<(), Trouble> {
        let Descriptor { digest, size, .. } = one.descriptor;
        let response = first(one.registries, |registry| registry.blob(digest, *offset)).map_err(Trouble::Refused)?;
        if response.status().as_u16() != 206 && *offset > 0 {
            restart(file, sum, offset).map_err(Trouble::Writing)?;
        }
        let mut body = response.into_body().into_reader();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            if one.failed.load(Ordering::Relaxed) {
                return Err(Trouble::GivenUp);
            }
            let length = match body.read(&mut piece) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Trouble::Cut(error)),
            };
            if length == 0 {
                break;
            }
            *offset += length as u64;
            if *offset > *size {
                return Err(Trouble::Long);
            }
            file.write_all(&piece[..length]).map_err(Trouble::Writing)?;
            sum.update(&piece[..length]);
            one.part.done.store(*offset, Ordering::Relaxed);
        }
        if *offset < *size {
            return Err(Trouble::Cut(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    fn without_cache(&self, error: &io::Error) {
        self.http.tell(&format!("going on without the cache, which cannot be written to: {error}"));
    }
}

/// One part that is being fetched.
struct One<'r, 'a> {
    descriptor: &'r Descriptor,
    registries: &'r [Registry<'a>],
    part: &'r Part,
    failed: &'r AtomicBool,
}

/// Why a part is not here.
enum Trouble {
    Refused(Error),
    Writing(io::Error),
    Cut(io::Error),
    Wrong(Digest, u64),
    Long,
    GivenUp,
}

impl Trouble {
    fn into_error(self, one: &One<'_, '_>) -> Error {
        let Descriptor { digest, size, .. } = one.descriptor;
        let tried = format!("cannot fetch {digest}");
        let changed = "the registry, or something between here and there, changes what it sends";
        match self {
            Self::Refused(error) => error,
            Self::Writing(error) => Error::new(Kind::Io, format!("{tried}: cannot write it down")).because(error),
            Self::Cut(error) => Error::host(tried)
                .because(format!("the connection is cut again and again: {error}"))
                .hint("what has come is kept: the same command goes on from there"),
            Self::Wrong(found, length) if length == *size => {
                Error::image(tried).because(format!("what came has the digest {found}")).hint(changed)
            }
            Self::Wrong(_, length) => {
                Error::image(tried).because(format!("{length} bytes came of {size}")).hint(changed)
            }
            Self::Long => Error::image(tried).because(format!("more than its {size} bytes came")).hint(changed),
            Self::GivenUp => Error::new(Kind::Interrupted, tried),
        }
    }
}

/// Asks one after the other until one answers; of several errors the registry's own, which is the last.
fn first<'a, T>(registries: &[Registry<'a>], ask: impl Fn(&Registry<'a>) -> Result<T>) -> Result<T> {
    let mut last = Err(Error::new(Kind::Internal, "there is nobody to ask"));
    for registry in registries {
        last = ask(registry);
        if last.is_ok() {
            return last;
        }
    }
    last
}

/// The sum of what a file holds, and its length; the next byte goes to its end.
fn begun(file: &mut File) -> io::Result<(Sha256, u64)> {
    let mut sum = Sha256::new();
    file.seek(SeekFrom::Start(0))?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut length = 0;
    loop {
        match file.read(&mut piece)? {
            0 => return Ok((sum, length)),
            read => {
                sum.update(&piece[..read]);
                length += read as u64;
            }
        }
    }
}

fn restart(file: &mut File, sum: &mut Sha256, offset: &mut u64) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    *sum = Sha256::new();
    *offset = 0;
    Ok(())
}

fn keep(store: &Store, new: NewFile, key: &str) -> io::Result<File> {
    store.finish(new, Stored::Blob, key)
}

/// Takes back what does not fit into the cache.
fn discard(new: NewFile) {
    // There is an error already.
    let _ = new.file.set_len(0);
}

/// What something with this text is found by.
pub fn hex_of(text: &str) -> String {
    Digest::from_sum(Sha256::digest(text.as_bytes()).into()).hex()
}
