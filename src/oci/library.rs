//! A SIF of a library: the protocol that Singularity's library and its kin speak.
//!
//! ```text
//! GET SERVER/v1/images/ENTITY/COLLECTION/NAME:TAG?arch=amd64        {"data": {"hash": "sha256.HEX", "size": N}}
//! GET SERVER/v1/imagefile/ENTITY/COLLECTION/NAME:TAG?arch=amd64     the file, or where it is
//! ```
//!
//! There is no server that everybody means: it is in the name, or in `--library`.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde::Deserialize;

use super::Digest;
use super::fetch::Fetch;
use super::http::{Ask, is_loopback, read_limited};
use super::reference::LibraryName;
use super::token::encoded;
use super::transfer::{One, fetch_one};
use super::web::get;
use crate::cache::Kind as Stored;
use crate::error::{Context, Error, Result};

/// No answer about an image is longer.
const ANSWER_BYTES: u64 = 1 << 20;

/// An image that is there.
#[derive(Debug)]
pub struct Found {
    /// What its bytes give.
    pub digest: Digest,
    size: Option<u64>,
    name: String,
    address: String,
}

#[derive(Deserialize)]
struct Answer {
    data: Option<Image>,
}

#[derive(Deserialize)]
struct Image {
    hash: String,
    size: Option<u64>,
}

/// Asks for an image without fetching it.
///
/// # Errors
/// A name without a server; a server that does not answer, or does not have the image.
pub fn resolve(
    fetch: &Fetch<'_>,
    name: &LibraryName,
    (server, architecture): (Option<&str>, &str),
) -> Result<Found> {
    let server = match (&name.host, server) {
        (Some(host), _) => {
            let plain = fetch.plain || is_loopback(&format!("http://{host}"));
            format!("{}://{host}", if plain { "http" } else { "https" })
        }
        (None, Some(server)) if server.contains("://") => server.trim_end_matches('/').to_owned(),
        (None, Some(server)) => format!("https://{}", server.trim_end_matches('/')),
        (None, None) => {
            return Err(Error::usage(format!(
                "cannot fetch library://{}:{}: no library is named",
                name.path, name.tag
            ))
            .hint("library://HOST/ENTITY/COLLECTION/NAME, --library URL or SKIFF_LIBRARY"));
        }
    };
    if server.starts_with("http://") && !fetch.plain && !is_loopback(&server) {
        return Err(Error::usage(format!("cannot ask {server}: it is plain HTTP"))
            .hint("--no-https asks it all the same"));
    }
    let tail = format!("{}:{}?{}", name.path, name.tag, encoded(&[("arch", architecture)]));
    let what = format!("library image {}:{}", name.path, name.tag);
    let tried = || format!("cannot find {what}");
    let response = fetch.http.ask(&Ask::get(format!("{server}/v1/images/{tail}")))?;
    match response.status().as_u16() {
        200 => {}
        404 => return Err(Error::image(format!("there is no {what} for {architecture} at {server}"))),
        status => return Err(Error::host(tried()).because(format!("{server} answers {status}"))),
    }
    let bytes = read_limited(response, ANSWER_BYTES).tried(tried)?;
    let answer: Answer = serde_json::from_slice(&bytes).tried(tried)?;
    let image = answer
        .data
        .ok_or_else(|| Error::image(format!("there is no {what} for {architecture} at {server}")))?;
    let digest = image.hash.replacen("sha256.", "sha256:", 1).parse();
    let digest = digest.map_err(|_| {
        Error::image(tried())
            .because(format!("{server} gives no SHA-256 of it, so that nothing could be checked"))
    })?;
    let address = format!("{server}/v1/imagefile/{tail}");
    Ok(Found { digest, size: image.size.filter(|size| *size > 0), name: what, address })
}

/// Fetches an image, or finds it in the cache.
///
/// # Errors
/// As [`resolve`]; bytes that are not what the digest says.
pub fn fetch(fetch: &Fetch<'_>, found: &Found) -> Result<File> {
    let part = fetch.progress.begin(found.digest.short(), found.size.unwrap_or_default());
    let ask = |offset| get(fetch.http, &found.address, None, offset);
    let one = One {
        what: found.name.clone(),
        digest: Some(found.digest),
        size: found.size,
        ask: &ask,
        part: &part,
        failed: &AtomicBool::new(false),
    };
    let place: (_, &Path) = (fetch.store, &fetch.scratch);
    fetch_one(&one, (Stored::Blob, Some(&found.digest.hex())), place, &|text| fetch.http.tell(text))
}
