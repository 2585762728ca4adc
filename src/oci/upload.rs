//! Putting something into a repository of a registry (OCI distribution specification 1.1, "Push").
//!
//! ```text
//! HEAD /v2/NAME/blobs/DIGEST           is it there already?
//! POST /v2/NAME/blobs/uploads/         where to: Location, at times another server's
//! PUT  LOCATION?digest=DIGEST          all of its bytes; the registry keeps them when their sum is right
//! PUT  /v2/NAME/manifests/TAG          by which it counts
//! ```
//!
//! An upload that was cut is begun anew: few registries know where it was. What is half there has no name, and the
//! registry forgets it.

use std::io::{self, Read};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::http::{ATTEMPTS, Ask, Method, Response, host_of, join};
use super::registry::{Registry, told_digest};
use super::transfer::Part;
use super::{Blob, Digest};
use crate::error::{Context, Error, Kind, Result};

/// The wait after an upload that was cut; each later one is twice as long.
const AFTER_A_CUT: Duration = Duration::from_millis(500);

/// Why a part is not there.
enum Trouble {
    /// Another attempt may help.
    Passing(Error),
    Final(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// A blob on its way, counted.
struct Outgoing<'a> {
    blob: &'a Blob,
    part: &'a Part,
    at: u64,
    /// What is wrong with our side of it.
    failed: Option<io::Error>,
}

impl Read for Outgoing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match self.blob.read_at(buffer, self.at) {
            // A file that has become shorter.
            Ok(0) if self.at < self.blob.size && !buffer.is_empty() => {
                Err(io::Error::from(io::ErrorKind::UnexpectedEof))
            }
            read => read,
        };
        let count = count.map_err(|error| {
            let kind = error.kind();
            self.failed = Some(error);
            io::Error::from(kind)
        })?;
        self.at += count as u64;
        self.part.done.store(self.at, Ordering::Relaxed);
        Ok(count)
    }
}

impl Registry<'_> {
    /// Whether the repository has a part.
    pub(super) fn has_blob(&self, digest: &Digest) -> Result<bool> {
        let path = format!("blobs/{digest}");
        let response = self.ask(&Ask { method: Method::HEAD, ..Ask::get(&path) })?;
        match response.status().as_u16() {
            status if (200..300).contains(&status) => Ok(true),
            404 => Ok(false),
            _ => Err(self.refused(&path, response, &digest.to_string())),
        }
    }

    /// Makes the repository have a part; false where it had it.
    ///
    /// # Errors
    /// A registry that does not take it, or is cut off again and again; a file that cannot be read.
    pub(super) fn put_blob(&self, blob: &Blob, part: &Part) -> Result<bool> {
        let mut wait = AFTER_A_CUT;
        for attempt in 1.. {
            // After a cut, too: the answer alone may be what was lost.
            if self.has_blob(&blob.digest)? {
                part.done.store(blob.size, Ordering::Relaxed);
                return Ok(attempt > 1);
            }
            match self.upload(blob, part) {
                Ok(()) => return Ok(true),
                Err(Trouble::Passing(error)) if attempt < ATTEMPTS => {
                    self.http().tell(&format!("{error}; once more"));
                    part.done.store(0, Ordering::Relaxed);
                    thread::sleep(wait);
                    wait *= 2;
                }
                Err(Trouble::Passing(error) | Trouble::Final(error)) => return Err(error),
            }
        }
        Err(Error::new(Kind::Internal, "no attempt was made"))
    }

    /// One attempt.
    fn upload(&self, blob: &Blob, part: &Part) -> std::result::Result<(), Trouble> {
        let begun = Ask { method: Method::POST, ..Ask::get("blobs/uploads/") };
        let response = self.ask(&begun)?;
        let what = blob.digest.to_string();
        if response.status().as_u16() != 202 {
            return Err(self.refused(&begun.url, response, &what).into());
        }
        let tried = || format!("cannot push {}", self.what(&what));
        let place = self.upload_place(&begun.url, &response).ok_or_else(|| {
            Error::host(tried()).because("the registry does not say where to, or says it for plain HTTP")
        })?;
        let joint = if place.contains('?') { '&' } else { '?' };
        let ask = Ask {
            method: Method::PUT,
            headers: vec![("content-type", "application/octet-stream".to_owned())],
            ..Ask::get(format!("{place}{joint}digest={}", blob.digest))
        };
        let own = Mutex::new(None);
        let answered = self.admitted(&ask, &|ask| {
            let mut outgoing = Outgoing { blob, part, at: 0, failed: None };
            let answered = self.http().send(ask, &mut outgoing, blob.size);
            *own.lock().unwrap_or_else(PoisonError::into_inner) = outgoing.failed;
            answered
        });
        if let Some(error) = own.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error).tried(|| format!("{}: cannot read it", tried())).map_err(Trouble::Final);
        }
        let cut = |error: Error| {
            let outer = Error::host(format!("{}: the connection was cut", tried())).because(error);
            Trouble::Passing(outer.hint("the same command goes on with what is not there yet"))
        };
        let response = answered.map_err(cut)?;
        match response.status().as_u16() {
            status if (200..300).contains(&status) => match told_digest(&response) {
                Some(told) if told != blob.digest => Err(Trouble::Final(
                    Error::image(tried())
                        .because(format!("the registry has got bytes with the digest {told}")),
                )),
                _ => Ok(()),
            },
            // 404: it has forgotten the upload.
            404 | 408 | 416 | 429 | 500.. => Err(Trouble::Passing(self.refused(&ask.url, response, &what))),
            _ => Err(Trouble::Final(self.refused(&ask.url, response, &what))),
        }
    }

    /// Where an upload goes; none where the answer says nothing that may be used.
    fn upload_place(&self, asked: &str, response: &Response) -> Option<String> {
        let base = self.address(asked);
        let place = join(&base, response.headers().get("location")?.to_str().ok()?)?;
        if !base.starts_with("https:") || place.starts_with("https:") {
            return Some(place);
        }
        // A registry behind somebody who does TLS for it often does not know that.
        let secure = place.replacen("http:", "https:", 1);
        (host_of(&secure) == host_of(&base)).then_some(secure)
    }

    /// What a tag means now; none where it means nothing.
    pub(super) fn tagged(&self, tag: &str) -> Result<Option<Digest>> {
        match self.digest_of(tag) {
            Err(error) if error.kind == Kind::Image => Ok(None),
            told => told,
        }
    }

    /// Gives a manifest that is not there yet its name.
    ///
    /// # Errors
    /// A registry that does not take it, or makes something else of it.
    pub(super) fn put_manifest(
        &self,
        version: &str,
        media_type: &str,
        bytes: &[u8],
        digest: &Digest,
    ) -> Result<()> {
        let path = format!("manifests/{version}");
        let ask = Ask {
            method: Method::PUT,
            headers: vec![("content-type", media_type.to_owned())],
            body: bytes.to_vec(),
            ..Ask::get(&path)
        };
        let response = self.ask(&ask)?;
        if !response.status().is_success() {
            return Err(self.refused(&path, response, version));
        }
        match told_digest(&response) {
            Some(told) if told != *digest => Err(Error::image(format!("cannot push {}", self.what(version)))
                .because(format!("the registry has made {told} of the manifest {digest}"))),
            _ => Ok(()),
        }
    }
}
