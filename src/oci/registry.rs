//! Asking one repository of a registry (OCI distribution specification 1.1, "Pull"). How something is put into it is in
//! [`super::upload`].
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
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::Digest;
use super::credentials::{Credential, Keys};
use super::http::{ATTEMPTS, Ask, Http, Method, Response, host_of, is_loopback, read_limited, shown};
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
    /// Something is to be put into it.
    pushes: bool,
    /// It has answered in the protocol in which it was asked.
    understood: AtomicBool,
}

impl<'a> Registry<'a> {
    /// Nothing is asked yet.
    pub fn new(http: &'a Http, keys: &'a Keys, endpoint: Endpoint) -> Self {
        let host = if endpoint.host == DEFAULT_HOST { DEFAULT_API } else { &endpoint.host };
        let plain = endpoint.plain || is_loopback(&format!("http://{}", endpoint.host));
        let base = format!("{}://{host}", if plain { "http" } else { "https" });
        let base = Mutex::new(base);
        Self {
            http,
            keys,
            endpoint,
            base,
            authorization: Mutex::new(None),
            pushes: false,
            understood: AtomicBool::new(false),
        }
    }

    /// For putting something into it: leave for that is asked for where it is asked for leave.
    #[must_use]
    pub fn pushing(self) -> Self {
        Self { pushes: true, ..self }
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
        let ask = Ask { method: Method::HEAD, ..accepting(&path) };
        let response = self.ask(&ask)?;
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
            let response = self.ask(&accepting(&path))?;
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
        let response = self.ask(&Ask { headers: range.into_iter().collect(), ..Ask::get(&path) })?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refused(&path, response, &digest.to_string()))
    }

    /// Asks, and logs in where the registry wants that. What has no host is the path of something in the repository.
    pub(super) fn ask(&self, ask: &Ask) -> Result<Response> {
        self.admitted(ask, &|ask| self.http.ask(ask))
    }

    /// The same for who asks in a way of his own.
    pub(super) fn admitted(&self, ask: &Ask, send: &dyn Fn(&Ask) -> Result<Response>) -> Result<Response> {
        let mut logins = 0;
        loop {
            let base = self.base();
            let used = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let url = self.address(&ask.url);
            if host_of(&url) != host_of(&base) {
                // Another server, which is no business of the registry's leave: it was named by its address alone.
                return send(&Ask { url, ..ask.clone() });
            }
            let response = send(&Ask { url, authorization: used.clone(), ..ask.clone() })?;
            match response.status().as_u16() {
                // What a server with TLS says to plain HTTP.
                400 if base.starts_with("http:")
                    && !self.endpoint.plain
                    && !self.understood.load(Ordering::Relaxed) =>
                {
                    *self.base.lock().unwrap_or_else(PoisonError::into_inner) =
                        base.replacen("http:", "https:", 1);
                }
                401 if logins < LOGINS => {
                    logins += 1;
                    if !self.log_in(&response, used.as_deref())? {
                        return Ok(response);
                    }
                }
                _ => {
                    self.understood.store(true, Ordering::Relaxed);
                    return Ok(response);
                }
            }
        }
    }

    /// The whole address of something in the repository; of a whole address, itself.
    pub(super) fn address(&self, path: &str) -> String {
        match path.contains("://") {
            true => path.to_owned(),
            false => format!("{}/v2/{}/{path}", self.base(), self.endpoint.repository),
        }
    }

    /// How it is asked.
    pub(super) fn http(&self) -> &Http {
        self.http
    }

    /// Gets what the registry asks for; false when there is nothing that could satisfy it.
    fn log_in(&self, response: &Response, used: Option<&str>) -> Result<bool> {
        let mut held = self.authorization.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread was here meanwhile.
        if held.as_deref() != used {
            return Ok(true);
        }
        let Some(mut challenge) = Challenge::of(response) else { return Ok(false) };
        let Endpoint { host, repository, plain } = &self.endpoint;
        let known = self.keys.find(host, repository)?;
        let plain = *plain || is_loopback(&self.base());
        if challenge == Challenge::Basic && known.is_some() && !plain && self.base().starts_with("http:") {
            return Err(Error::host(format!("cannot log in at {host}"))
                .because("the password would go over plain HTTP"));
        }
        // To log in is to ask for nothing in particular.
        let actions = if self.pushes { "pull,push" } else { "pull" };
        let scope =
            if repository.is_empty() { String::new() } else { format!("repository:{repository}:{actions}") };
        if let (Challenge::Bearer { scope: asked, .. }, true) = (&mut challenge, self.pushes) {
            // What is asked for first is to be read alone; leave to write is got at once.
            *asked = Some(scope.clone());
        }
        let got = challenge.answer(self.http, known.as_ref(), &scope, plain)?;
        let useful = got.is_some() && (challenge != Challenge::Basic || got.as_deref() != used);
        *held = got;
        Ok(useful)
    }

    /// What something in the repository is called.
    pub(super) fn what(&self, version: &str) -> String {
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

    /// The error that an answer is.
    pub(super) fn refused(&self, path: &str, response: Response, version: &str) -> Error {
        let status = response.status().as_u16();
        let said = read_limited(response, MESSAGE_BYTES).ok().and_then(|bytes| message(&bytes));
        self.refusal(path, status, version, said)
    }

    fn refusal(&self, path: &str, status: u16, version: &str, said: Option<String>) -> Error {
        let what = self.what(version);
        let address = shown(&self.address(path));
        let because = match &said {
            Some(said) => format!("{address} answers {status}: {said}"),
            None => format!("{address} answers {status}"),
        };
        let host = &self.endpoint.host;
        let fetch = if self.pushes { "push" } else { "fetch" };
        match status {
            401 | 403 if self.pushes => Error::usage(format!("no leave to push {what}"))
                .because(because)
                .hint(format!("log in as somebody who may write there: skiff registry login {host}")),
            404 if path.contains("/uploads/") => Error::usage(format!("cannot push {what}: there is no such repository"))
                .because(because)
                .hint("some registries want it made on their own pages first"),
            405 if self.pushes => Error::usage(format!("cannot push {what}: {host} takes nothing"))
                .because(because)
                .hint("it may be for reading alone, or hold copies of another registry's images"),
            413 if self.pushes => Error::usage(format!("cannot push {what}: it is too large for {host}"))
                .because(because),
            404 => Error::image(format!("there is no image {what}")).because(because),
            401 | 403 => Error::usage(format!("no leave to fetch {what}"))
                .because(because)
                .hint(format!("the name may be wrong (registries often say this of what is not there); or log in: skiff registry login {host}")),
            429 => Error::host(format!("cannot {fetch} {what}: {host} allows no more requests now"))
                .because(because)
                .hint(format!("wait, or log in for more: skiff registry login {host}")),
            _ => Error::host(format!("cannot {fetch} {what}")).because(because),
        }
    }
}

/// Asks for a manifest of any kind that is known.
fn accepting(path: &str) -> Ask {
    Ask { headers: vec![("accept", ACCEPTED.to_owned())], ..Ask::get(path) }
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

/// The digest that an answer tells.
pub(super) fn told_digest(response: &Response) -> Option<Digest> {
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
