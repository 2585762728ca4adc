//! Asking one repository of a registry (OCI distribution specification 1.1, "Pull").
//!
//! ```text
//! HEAD /v2/NAME/manifests/TAG       the digest, and nothing to read
//! GET  /v2/NAME/manifests/VERSION   a manifest or an index
//! GET  /v2/NAME/blobs/DIGEST        Range: bytes=OFFSET-     what is missing of a part
//! ```
//!
//! Of errors the kind says who is to blame: [`Kind::Host`] a server that does not answer or is ill, [`Kind::Usage`]
//! one that does not let us in, [`Kind::Image`] one that has no such image.

use std::io;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::Digest;
use super::credentials::{Credential, Keys};
use super::http::{ATTEMPTS, Ask, Http, Response, is_near, read_limited, shown};
use super::manifest::{ACCEPTED, MANIFEST_BYTES};
use super::mirrors::Endpoint;
use super::reference::DEFAULT_HOST;
use super::token::Challenge;
use crate::error::{Context, Error, Kind, Result};

/// Where docker.io answers.
const DEFAULT_API: &str = "registry-1.docker.io";
/// No message of a registry is longer.
const MESSAGE_BYTES: u64 = 64 << 10;
/// How much of it is shown.
const MESSAGE_CHARACTERS: usize = 300;
/// How often a token is got anew for one request: the first, and one for a token that has run out.
const LOGINS: u32 = 2;

/// A repository of a registry.
pub struct Registry<'a> {
    http: &'a Http,
    keys: &'a Keys,
    endpoint: Endpoint,
    base: Mutex<String>,
    authorization: Mutex<Option<String>>,
}

impl<'a> Registry<'a> {
    /// Nothing is asked yet.
    pub fn new(http: &'a Http, keys: &'a Keys, endpoint: Endpoint) -> Self {
        let host = if endpoint.host == DEFAULT_HOST { DEFAULT_API } else { &endpoint.host };
        let plain = endpoint.plain || is_near(&format!("http://{}", endpoint.host));
        let base = format!("{}://{host}", if plain { "http" } else { "https" });
        Self { http, keys, endpoint, base: Mutex::new(base), authorization: Mutex::new(None) }
    }

    fn base(&self) -> String {
        self.base.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The digest that a tag has now; none when the registry does not say.
    ///
    /// # Errors
    /// See the module's header.
    pub fn digest_of(&self, version: &str) -> Result<Option<Digest>> {
        let path = format!("manifests/{version}");
        let response = self.ask(&path, true, &[("accept", ACCEPTED.to_owned())])?;
        if response.status().as_u16() == 405 {
            return Ok(None);
        }
        self.ensure_success(&path, &response, version)?;
        Ok(told_digest(&response))
    }

    /// A manifest or an index as it is, with its digest: the one that was asked for, where it was by a digest.
    ///
    /// # Errors
    /// See the module's header; bytes that are not what their digest says.
    pub fn manifest(&self, version: &str) -> Result<(Vec<u8>, Digest)> {
        let path = format!("manifests/{version}");
        let wanted = version.parse::<Digest>().ok();
        for attempt in 1.. {
            let response = self.ask(&path, false, &[("accept", ACCEPTED.to_owned())])?;
            if !response.status().is_success() {
                return Err(self.refused(&path, response, version));
            }
            let told = told_digest(&response);
            let tried = || format!("cannot read the manifest of {}", self.what(version));
            let read = read_limited(response, MANIFEST_BYTES);
            match read {
                Ok(bytes) => {
                    let digest = Digest::from_sum(Sha256::digest(&bytes).into());
                    match wanted.or(told).filter(|wanted| *wanted != digest) {
                        None => return Ok((bytes, digest)),
                        Some(wanted) if attempt == ATTEMPTS => {
                            return Err(Error::image(tried())
                                .because(format!("its digest is {digest}, and should be {wanted}"))
                                .hint("the registry, or something between here and there, changes what it sends"));
                        }
                        Some(_) => {}
                    }
                }
                Err(error) if attempt == ATTEMPTS || error.kind() == io::ErrorKind::FileTooLarge => {
                    return Err(error).tried(tried).map_err(|error| Error { kind: Kind::Host, ..error });
                }
                Err(_) => {}
            }
        }
        Err(Error::host("cannot read the manifest"))
    }

    /// The bytes of a part from `offset` on. A registry may begin at 0 all the same: the caller looks at the status.
    ///
    /// # Errors
    /// See the module's header.
    pub fn blob(&self, digest: &Digest, offset: u64) -> Result<Response> {
        let path = format!("blobs/{digest}");
        let range = (offset > 0).then(|| ("range", format!("bytes={offset}-")));
        let response = self.ask(&path, false, range.as_slice())?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refused(&path, response, &digest.to_string()))
    }

    /// Asks, and logs in where the registry wants that.
    fn ask(&self, path: &str, head: bool, headers: &[(&'static str, String)]) -> Result<Response> {
        let mut logins = 0;
        loop {
            let base = self.base();
            let used = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let ask = Ask {
                head,
                url: format!("{base}/v2/{}/{path}", self.endpoint.repository),
                headers: headers.to_vec(),
                authorization: used.clone(),
                form: None,
            };
            let response = self.http.ask(&ask)?;
            match response.status().as_u16() {
                // What a server with TLS says to plain HTTP.
                400 if base.starts_with("http:") && !self.endpoint.plain => {
                    *self.base.lock().unwrap_or_else(PoisonError::into_inner) =
                        base.replacen("http:", "https:", 1);
                }
                401 if logins < LOGINS => {
                    logins += 1;
                    if !self.log_in(&response, used.as_deref())? {
                        return Ok(response);
                    }
                }
                _ => return Ok(response),
            }
        }
    }

    /// Gets what the registry asks for; false when there is nothing that could satisfy it.
    fn log_in(&self, response: &Response, used: Option<&str>) -> Result<bool> {
        let mut held = self.authorization.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread was here meanwhile.
        if held.as_deref() != used {
            return Ok(true);
        }
        let Some(challenge) = Challenge::of(response) else { return Ok(false) };
        let Endpoint { host, repository, plain } = &self.endpoint;
        let known = self.keys.find(host, repository)?;
        let plain = *plain || is_near(&self.base());
        if challenge == Challenge::Basic && known.is_some() && !plain && self.base().starts_with("http:") {
            return Err(Error::host(format!("cannot log in at {host}"))
                .because("the password would go over plain HTTP"));
        }
        // To log in is to ask for nothing in particular.
        let scope =
            if repository.is_empty() { String::new() } else { format!("repository:{repository}:pull") };
        let got = challenge.answer(self.http, known.as_ref(), &scope, plain)?;
        let useful = got.is_some() && (challenge != Challenge::Basic || got.as_deref() != used);
        *held = got;
        Ok(useful)
    }

    fn what(&self, version: &str) -> String {
        let Endpoint { host, repository, .. } = &self.endpoint;
        let joint = if version.starts_with("sha256:") { '@' } else { ':' };
        format!("{host}/{repository}{joint}{version}")
    }

    fn ensure_success(&self, path: &str, response: &Response, version: &str) -> Result<()> {
        match response.status() {
            status if status.is_success() => Ok(()),
            status => Err(self.refusal(path, status.as_u16(), version, None)),
        }
    }

    fn refused(&self, path: &str, response: Response, version: &str) -> Error {
        let status = response.status().as_u16();
        let said = read_limited(response, MESSAGE_BYTES).ok().and_then(|bytes| message(&bytes));
        self.refusal(path, status, version, said)
    }

    fn refusal(&self, path: &str, status: u16, version: &str, said: Option<String>) -> Error {
        let what = self.what(version);
        let address = shown(&format!("{}/v2/{}/{path}", self.base(), self.endpoint.repository));
        let because = match &said {
            Some(said) => format!("{address} answers {status}: {said}"),
            None => format!("{address} answers {status}"),
        };
        let host = &self.endpoint.host;
        match status {
            404 => Error::image(format!("there is no image {what}")).because(because),
            401 | 403 => Error::usage(format!("no leave to fetch {what}"))
                .because(because)
                .hint(format!("the name may be wrong (registries often say this of what is not there); or log in: skiff registry login {host}")),
            429 => Error::host(format!("cannot fetch {what}: {host} allows no more requests now"))
                .because(because)
                .hint(format!("wait, or log in for more: skiff registry login {host}")),
            _ => Error::host(format!("cannot fetch {what}")).because(because),
        }
    }
}

/// Tries a name and a password at a registry.
///
/// # Errors
/// A registry that does not answer, or does not take them.
pub fn check_login(http: &Http, host: &str, credential: &Credential, plain: bool) -> Result<()> {
    let keys = Keys { given: Some(credential.clone()), files: Vec::new() };
    let endpoint = Endpoint { host: host.to_owned(), repository: String::new(), plain };
    let registry = Registry::new(http, &keys, endpoint);
    let tried = || format!("cannot log in at {host}");
    let ask = |authorization: Option<String>| {
        http.ask(&Ask { authorization, ..Ask::get(format!("{}/v2/", registry.base())) })
    };
    let mut response = ask(None)?;
    if response.status().as_u16() == 400 && !plain && registry.base().starts_with("http:") {
        let mut base = registry.base.lock().unwrap_or_else(PoisonError::into_inner);
        *base = base.replacen("http:", "https:", 1);
        drop(base);
        response = ask(None)?;
    }
    if response.status().as_u16() == 401 && registry.log_in(&response, None)? {
        let authorization = registry.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        response = ask(authorization)?;
    }
    match response.status().as_u16() {
        200 => Ok(()),
        401 | 403 => Err(Error::usage(tried()).because("it does not take this name and password")),
        status => {
            Err(Error::host(tried()).because(format!("it answers {status}")).hint("is that a registry?"))
        }
    }
}

fn told_digest(response: &Response) -> Option<Digest> {
    response.headers().get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

/// What a registry says of an error, without what could steer a terminal.
fn message(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        errors: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        code: Option<String>,
        message: Option<String>,
    }
    let body: Body = serde_json::from_slice(bytes).ok()?;
    let first = body.errors.into_iter().next()?;
    let text = first.message.filter(|text| !text.is_empty()).or(first.code)?;
    Some(text.chars().filter(|letter| !letter.is_control()).take(MESSAGE_CHARACTERS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_says_is_shown_without_control_characters() {
        let text = br#"{"errors": [{"code": "DENIED", "message": "no\u001b[31m way"}]}"#;
        assert_eq!(message(text).as_deref(), Some("no[31m way"));
        assert_eq!(message(br#"{"errors": [{"code": "DENIED"}]}"#).as_deref(), Some("DENIED"));
        assert_eq!(message(b"<html>"), None);
    }
}
