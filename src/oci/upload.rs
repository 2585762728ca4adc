//! Putting something into a repository of a registry (OCI distribution specification 1.1, "Push").
//!
//! ```text
//! HEAD /v2/NAME/blobs/DIGEST           is it there already?
//! POST /v2/NAME/blobs/uploads/         where to: Location, at times another server's
//! PUT  LOCATION?digest=DIGEST          all of its bytes; the registry keeps them when their sum is right
//! PUT  /v2/NAME/manifests/TAG          by which it counts
//!
//! GET   LOCATION                       after a cut: what has come, if the registry knows that (Range: 0-N)
//! PATCH LOCATION                       the rest in pieces, each with its Content-Range, but for the last, which is PUT
//! ```
//!
//! Few registries know where an upload was cut in the middle of what they were sent: then it is begun anew. But what
//! was answered counts, and those who hand on to a registry what has come whole lose whole pieces: so pieces, from the
//! first cut on, and not before, since one PUT is what all registries take. What is half there has no name, and
//! the registry forgets it.

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

/// What is sent at a time after a cut. What registries keep their data in often takes no pieces of less than 5 MiB.
const PIECE_BYTES: u64 = 8 << 20;

/// Why a part is not there.
enum Trouble {
    /// Another attempt may help.
    Cut(Error),
    /// So may one with all at once.
    Refused(Error),
    Final(Error),
}

/// An upload that a registry knows.
struct Upload {
    /// Where to.
    place: String,
    /// How many bytes are there.
    at: u64,
    /// The registry takes no shorter pieces, but for the last.
    least: u64,
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
    end: u64,
    /// What is wrong with our side of it.
    failed: Option<io::Error>,
}

impl Read for Outgoing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(self.end.saturating_sub(self.at) as usize);
        let count = match self.blob.read_at(&mut buffer[..room], self.at) {
            // A file that has become shorter.
            Ok(0) if room > 0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
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

/// What goes along with bytes, from one place to another where they are not all of them.
fn headers(range: Option<(u64, u64)>) -> Vec<(&'static str, String)> {
    let mut headers = vec![("content-type", "application/octet-stream".to_owned())];
    if let Some((at, end)) = range {
        headers.push(("content-range", format!("{at}-{}", end - 1)));
    }
    headers
}

/// How many bytes of an upload have come.
fn received(response: &Response) -> Option<u64> {
    let range = response.headers().get("range")?.to_str().ok()?;
    let last = range.trim_start_matches("bytes=").strip_prefix("0-")?.trim().parse::<u64>().ok()?;
    // Of nothing, too, there are registries that say 0-0.
    if last == 0 { Some(0) } else { last.checked_add(1) }
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
        let (mut attempt, mut wait, mut cut) = (1, AFTER_A_CUT, false);
        let mut upload = None;
        let mut pieces = None;
        loop {
            // After a cut, too: the answer alone may be what was lost.
            if self.has_blob(&blob.digest)? {
                part.done.store(blob.size, Ordering::Relaxed);
                return Ok(cut);
            }
            let before = upload.as_ref().map_or(0, |upload: &Upload| upload.at);
            let error = match self.upload(blob, part, &mut upload, pieces) {
                Ok(()) => return Ok(true),
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Cut(error)) => {
                    pieces = Some(PIECE_BYTES);
                    error
                }
                Err(Trouble::Refused(error)) => {
                    pieces = None;
                    error
                }
            };
            cut = true;
            upload = upload.and_then(|upload| self.known(&upload, blob));
            let at = upload.as_ref().map_or(0, |upload| upload.at);
            // As long as something is kept it is worth going on.
            (attempt, wait) = if at > before { (2, AFTER_A_CUT) } else { (attempt + 1, wait * 2) };
            if attempt > ATTEMPTS {
                return Err(error);
            }
            let how = if at > 0 { format!("going on after {at} bytes") } else { "once more".to_owned() };
            self.http().tell(&format!("{error}; {how}"));
            part.done.store(at, Ordering::Relaxed);
            thread::sleep(wait / 2);
        }
    }

    /// What the registry has of an upload that was cut; none where it does not know it any more.
    fn known(&self, upload: &Upload, blob: &Blob) -> Option<Upload> {
        let response = self.ask(&Ask::get(&upload.place)).ok()?;
        if !response.status().is_success() {
            return None;
        }
        let at = received(&response)?;
        let place = self.upload_place(&upload.place, &response).unwrap_or_else(|| upload.place.clone());
        (at < blob.size).then_some(Upload { place, at, ..*upload })
    }

    /// Begins an upload.
    fn begin_upload(&self, blob: &Blob) -> Result<Upload, Trouble> {
        let begun = Ask { method: Method::POST, ..Ask::get("blobs/uploads/") };
        let response = self.ask(&begun)?;
        let what = blob.digest.to_string();
        if response.status().as_u16() != 202 {
            return Err(self.refused(&begun.url, response, &what).into());
        }
        let least =
            response.headers().get("oci-chunk-min-length").and_then(|text| text.to_str().ok()?.parse().ok());
        let place = self.upload_place(&begun.url, &response).ok_or_else(|| {
            Error::host(format!("cannot push {}", self.what(&what)))
                .because("the registry does not say where to, or says it for plain HTTP")
        })?;
        Ok(Upload { place, at: 0, least: least.unwrap_or(0) })
    }

    /// One attempt, from where `upload` is; in pieces of so many bytes where that is said.
    fn upload(
        &self,
        blob: &Blob,
        part: &Part,
        upload: &mut Option<Upload>,
        pieces: Option<u64>,
    ) -> Result<(), Trouble> {
        let upload = match upload {
            Some(upload) => upload,
            None => upload.insert(self.begin_upload(blob)?),
        };
        let what = blob.digest.to_string();
        while let Some(piece) = pieces.map(|bytes| bytes.max(upload.least))
            && blob.size.saturating_sub(upload.at) > piece
        {
            let end = upload.at.saturating_add(piece);
            let ask = Ask {
                method: Method::PATCH,
                headers: headers(Some((upload.at, end))),
                ..Ask::get(&upload.place)
            };
            let response = self.send_piece(&ask, (blob, part), (upload.at, end))?;
            if !response.status().is_success() {
                return Err(Trouble::Refused(self.refused(&ask.url, response, &what)));
            }
            if let Some(place) = self.upload_place(&upload.place, &response) {
                upload.place = place;
            }
            upload.at = end;
        }
        let joint = if upload.place.contains('?') { '&' } else { '?' };
        let range = (upload.at > 0).then_some((upload.at, blob.size));
        let ask = Ask {
            method: Method::PUT,
            headers: headers(range),
            ..Ask::get(format!("{}{joint}digest={}", upload.place, blob.digest))
        };
        let response = self.send_piece(&ask, (blob, part), (upload.at, blob.size))?;
        match response.status().as_u16() {
            status if (200..300).contains(&status) => match told_digest(&response) {
                Some(told) if told != blob.digest => Err(Trouble::Final(
                    Error::image(format!("cannot push {}", self.what(&what)))
                        .because(format!("the registry has got bytes with the digest {told}")),
                )),
                _ => Ok(()),
            },
            // What it says to have got it may have lost.
            400 if upload.at > 0 => Err(Trouble::Refused(self.refused(&ask.url, response, &what))),
            // 404: it has forgotten the upload.
            404 | 408 | 416 | 429 | 500.. => Err(Trouble::Refused(self.refused(&ask.url, response, &what))),
            _ => Err(Trouble::Final(self.refused(&ask.url, response, &what))),
        }
    }

    /// Sends some of the bytes of a part.
    fn send_piece(
        &self,
        ask: &Ask,
        (blob, part): (&Blob, &Part),
        (at, end): (u64, u64),
    ) -> Result<Response, Trouble> {
        let tried = || format!("cannot push {}", self.what(&blob.digest.to_string()));
        let own = Mutex::new(None);
        let answered = self.admitted(ask, &|ask| {
            let mut outgoing = Outgoing { blob, part, at, end, failed: None };
            let answered = self.http().send(ask, &mut outgoing, end.saturating_sub(at));
            *own.lock().unwrap_or_else(PoisonError::into_inner) = outgoing.failed;
            answered
        });
        if let Some(error) = own.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error).tried(|| format!("{}: cannot read it", tried())).map_err(Trouble::Final);
        }
        answered.map_err(|error| {
            let outer = Error::host(format!("{}: the connection was cut", tried())).because(error);
            Trouble::Cut(outer.hint("the same command goes on with what is not there yet"))
        })
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
