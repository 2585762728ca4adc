//! An image of a registry onto this machine.
//!
//! ```text
//! tag ──HEAD──▶ digest ──▶ index ──platform──▶ manifest ──▶ config, layers     several at a time
//!                          └───── in the cache: not asked for again ─────┘
//! ```
//!
//! Threads are joined before this returns: a container that starts afterwards is started by a process of one thread.
//!
//! How the bytes of a part come is in [`super::transfer`].

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

use super::credentials::Keys;
use super::http::Http;
use super::manifest::{self, Descriptor, Manifest, sif_layer};
use super::mirrors::Mirrors;
use super::reference::Name;
use super::registry::Registry;
use super::transfer::{One, Part, Progress, fetch_one};
use super::{Blob, Digest, OciImage, Platform};
use crate::cache::store::Meant;
use crate::cache::{Kind as Stored, Store};
use crate::error::{Error, Kind, Result};

/// How many parts are fetched at a time.
const AT_A_TIME: usize = 4;
/// No index leads to another one more often.
const INDEXES: usize = 3;

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
                let asked =
                    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
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
            if let Some(text) = kept.err().and_then(|error| store.give_up(&error)) {
                self.http.tell(&text);
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
        let manifest = Blob::of_bytes("", &resolved.manifest)?;
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
                let result = self.blob(descriptor, registries, (&parts[number], &failed));
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

    fn blob(
        &self,
        descriptor: &Descriptor,
        registries: &[Registry<'a>],
        (part, failed): (&Part, &AtomicBool),
    ) -> Result<Blob> {
        let Descriptor { digest, media_type, size } = descriptor;
        let ask = |offset| first(registries, |registry| registry.blob(digest, offset));
        let one = One {
            what: digest.to_string(),
            digest: Some(*digest),
            size: Some(*size),
            ask: &ask,
            part,
            failed,
        };
        let place = (self.store, self.scratch.as_path());
        let file = fetch_one(&one, (Stored::Blob, Some(&digest.hex())), place, &|text| self.http.tell(text))?;
        Ok(Blob { digest: *digest, media_type: media_type.clone(), size: *size, file, offset: 0 })
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

/// What something with this text is found by.
pub fn hex_of(text: &str) -> String {
    Digest::from_sum(Sha256::digest(text.as_bytes()).into()).hex()
}
