//! A file of a web server.
//!
//! There is no digest to find it by: what the server says of it (`ETag`, or `Last-Modified` and the length) makes the
//! key. A file of which it says nothing is fetched each time.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::fetch::{Fetch, hex_of};
use super::http::{Ask, Http, Method, Response, shown};
use super::transfer::{One, fetch_one};
use crate::cache::Kind as Stored;
use crate::error::{Error, Result};

/// A file that is there.
#[derive(Debug)]
pub struct Found {
    /// Its address.
    pub address: String,
    /// What it is kept by; none for one that is not kept.
    pub key: Option<String>,
    /// Its length, where the server says it.
    pub size: Option<u64>,
}

/// Asks for a file without fetching it.
///
/// # Errors
/// A server that does not answer, or does not have it.
pub fn resolve(fetch: &Fetch<'_>, address: &str) -> Result<Found> {
    if address.starts_with("http://") && !fetch.plain && !super::http::is_loopback(address) {
        return Err(Error::usage(format!("cannot fetch {}: it is plain HTTP", shown(address)))
            .hint("anybody on the way may change what comes; --no-https fetches it all the same"));
    }
    let response = fetch.http.ask(&Ask { method: Method::HEAD, ..Ask::get(address) })?;
    let text = |name: &str| response.headers().get(name)?.to_str().ok().map(str::to_owned);
    if !response.status().is_success() {
        // Some servers answer no HEAD.
        return match response.status().as_u16() {
            405 | 501 => Ok(Found { address: address.to_owned(), key: None, size: None }),
            _ => Err(refused(address, &response)),
        };
    }
    let size = text("content-length").and_then(|length| length.parse().ok());
    let age = text("etag").or_else(|| Some(format!("{} {}", text("last-modified")?, size?)));
    let key = age.map(|age| hex_of(&format!("{address} {age}")));
    Ok(Found { address: address.to_owned(), key, size })
}

/// Fetches a file, or finds it in the cache.
///
/// # Errors
/// As [`resolve`]; a transfer that is cut again and again.
pub fn fetch(fetch: &Fetch<'_>, found: &Found) -> Result<File> {
    let name = found.address.rsplit('/').next().unwrap_or_default().split('?').next().unwrap_or_default();
    let part = fetch.progress.begin(name.to_owned(), found.size.unwrap_or_default());
    let ask = |offset| get(fetch.http, &found.address, None, offset);
    let one = One {
        what: shown(&found.address),
        digest: None,
        size: found.size,
        ask: &ask,
        part: &part,
        failed: &AtomicBool::new(false),
    };
    let place: (_, &Path) = (fetch.store, &fetch.scratch);
    fetch_one(&one, (Stored::Image, found.key.as_deref()), place, &|text| fetch.http.tell(text))
}

/// Asks for the bytes of a file from an offset on.
pub fn get(http: &Http, address: &str, authorization: Option<&str>, offset: u64) -> Result<Response> {
    let mut ask = Ask { authorization: authorization.map(str::to_owned), ..Ask::get(address) };
    if offset > 0 {
        ask.headers.push(("range", format!("bytes={offset}-")));
    }
    let response = http.ask(&ask)?;
    if response.status().is_success() { Ok(response) } else { Err(refused(address, &response)) }
}

fn refused(address: &str, response: &Response) -> Error {
    let status = response.status();
    let error = format!("cannot fetch {}", shown(address));
    match status.as_u16() {
        404 | 410 => Error::image(error).because("the server has no such file"),
        _ => Error::host(error).because(format!("the server answers {status}")),
    }
}
