//! HTTP as registries are asked: one request until it is answered, whatever happens on the way.
//!
//! ```text
//! request ──▶ an answer                                   given to the caller, whatever its status
//!         ──▶ 429, 500, 502, 503, 504                     again, after the time that Retry-After says, or else
//!         ──▶ no answer: cut, damaged, nothing for long   after 0.5 s, 1 s, 2 s, 4 s; five times in all
//!         ──▶ nobody there: refused, no such host         an error at once
//!         ──▶ 301, 302, 303, 307, 308                     there, without the authorization where the host is another;
//!                                                     what takes something along goes there for 307 and 308 alone,
//!                                                     and to no other host
//! ```
//!
//! Plain HTTP is spoken where it was asked for, and with servers of this machine. TLS trusts the authorities of the
//! system, those of `SKIFF_CA_FILE`, and those that Docker and Podman keep for a host (`/etc/docker/certs.d/HOST`,
//! `/etc/containers/certs.d/HOST`: `*.crt`). Proxies are those of [`super::proxy`].

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, SystemTime};

use ureq::http::{HeaderMap, Request, Uri, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, SendBody};

use super::proxy::{Named, Proxies};
use crate::error::{Context, Error, Result};

/// How often a request is made in all.
pub const ATTEMPTS: u32 = 5;
/// The wait after the first failure; each later one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// A server that asks for more patience than this gets none.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// A connection on which nothing comes for so long is taken for dead, and made anew.
const SILENCE: Duration = Duration::from_secs(120);
const REDIRECTS: usize = 10;
/// No file of certificates is longer.
const CERTIFICATES_BYTES: u64 = 16 << 20;
/// Where certificates of single hosts are.
const CERTIFICATES_OF_HOSTS: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];

pub use ureq::http::Method;

/// What a server answered.
pub type Response = ureq::http::Response<Body>;

/// What is told meanwhile: that a server asks to wait, and so on.
pub type Tell = dyn Fn(&str) + Sync + Send;

/// A request.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// What is to be done; GET by default.
    pub method: Method,
    /// Where.
    pub url: String,
    /// More headers.
    pub headers: Vec<(&'static str, String)>,
    /// `Authorization`, for that host alone.
    pub authorization: Option<String>,
    /// What goes along with it, but for GET and HEAD.
    pub body: Vec<u8>,
}

impl Ask {
    /// A GET.
    pub fn get(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }

    /// Whether it changes nothing where it is asked.
    fn is_safe(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
    }
}

/// Who asks.
pub struct Http {
    ca_file: Option<PathBuf>,
    plain_allowed: bool,
    proxies: Proxies,
    tell: Box<Tell>,
    /// By plain HTTP and with TLS, each without a proxy and with one.
    agents: [OnceLock<Agent>; 4],
}

impl Http {
    /// Nothing is read or asked yet. `plain_allowed`: redirections from TLS to plain HTTP are followed.
    pub fn new(ca_file: Option<PathBuf>, plain_allowed: bool, proxies: Proxies, tell: Box<Tell>) -> Self {
        Self { ca_file, plain_allowed, proxies, tell, agents: [const { OnceLock::new() }; 4] }
    }

    /// Says something to the user.
    pub fn tell(&self, text: &str) {
        (self.tell)(text);
    }

    /// Asks until there is an answer. Statuses are the caller's to judge.
    ///
    /// # Errors
    /// When there is none after all attempts, or none can be hoped for.
    pub fn ask(&self, ask: &Ask) -> Result<Response> {
        let mut wait = FIRST_WAIT;
        for attempt in 1.. {
            let last = attempt == ATTEMPTS;
            match self.follow(ask) {
                Ok(response) => {
                    let status = response.status().as_u16();
                    if last || !matches!(status, 429 | 500 | 502 | 503 | 504) {
                        return Ok(response);
                    }
                    let asked_for = retry_after(response.headers(), SystemTime::now());
                    if asked_for.is_some_and(|time| time > LONGEST_WAIT) {
                        return Ok(response);
                    }
                    if let Some(time) = asked_for.filter(|time| *time > wait) {
                        self.tell(&format!(
                            "{} asks to wait {} s (status {status})",
                            host_of(&ask.url),
                            time.as_secs()
                        ));
                    }
                    thread::sleep(asked_for.unwrap_or(wait));
                }
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Http(error)) => {
                    if last || !is_passing(&error) {
                        return Err(self.unanswered(ask, error));
                    }
                    thread::sleep(wait);
                }
            }
            wait *= 2;
        }
        Err(Error::host(format!("cannot ask {}", shown(&ask.url))))
    }

    fn unanswered(&self, ask: &Ask, error: ureq::Error) -> Error {
        let proxy = self.proxies.of(&ask.url);
        let by = proxy.map_or_else(String::new, |proxy| format!(" by {proxy}"));
        let unanswered = Error::host(format!("cannot ask {}{by}", shown(&ask.url)));
        let error = match error {
            // Their own words, without "io:" and the like before them.
            ureq::Error::Io(error) => unanswered.because(error),
            ureq::Error::ConnectProxyFailed(said) => unanswered.because(said),
            error => unanswered.because(error),
        };
        explain(error, &ask.url, proxy)
    }

    /// Asks once, with `bytes` bytes of `body` going along. Nothing is done again and no redirection is followed: only
    /// the caller can begin the body anew.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn send(&self, ask: &Ask, body: &mut dyn Read, bytes: u64) -> Result<Response> {
        let agent = self.agent(&ask.url)?;
        let request = head_of(ask).header(header::CONTENT_LENGTH, bytes).body(SendBody::from_reader(body));
        let answered = request.map_err(ureq::Error::Http).and_then(|request| agent.run(request));
        answered.map_err(|error| self.unanswered(ask, error))
    }

    /// One attempt, redirections followed.
    fn follow(&self, ask: &Ask) -> std::result::Result<Response, Failure> {
        let mut ask = ask.clone();
        let origin = host_of(&ask.url).to_owned();
        for _ in 0..REDIRECTS {
            let response = self.once(&ask)?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let kept = matches!(response.status().as_u16(), 307 | 308);
            let place = response.headers().get(header::LOCATION).and_then(|place| place.to_str().ok());
            let wrong = |why: &str| {
                Failure::Final(Error::host(format!("cannot ask {}: it sends us {why}", shown(&ask.url))))
            };
            let place = place.ok_or_else(|| wrong("on, and does not say where"))?;
            let next = join(&ask.url, place).ok_or_else(|| wrong("to what is no address"))?;
            if !ask.is_safe() && (!kept || host_of(&next) != origin) {
                return Ok(response);
            }
            let downgraded = ask.url.starts_with("https:") && !next.starts_with("https:");
            if downgraded && !self.plain_allowed && !is_loopback(&next) {
                return Err(wrong("from TLS to plain HTTP, where anybody may change what comes"));
            }
            if host_of(&next) != origin || downgraded {
                ask.authorization = None;
            }
            ask.url = next;
        }
        Err(Failure::Final(Error::host(format!(
            "cannot ask {}: it sends us round in circles",
            shown(&ask.url)
        ))))
    }

    fn once(&self, ask: &Ask) -> std::result::Result<Response, Failure> {
        let agent = self.agent(&ask.url).map_err(Failure::Final)?;
        let request = head_of(ask);
        let answered = match ask.is_safe() {
            true => request.body(()).map_err(ureq::Error::Http).and_then(|request| agent.run(request)),
            false => {
                let request = request.body(ask.body.as_slice());
                request.map_err(ureq::Error::Http).and_then(|request| agent.run(request))
            }
        };
        answered.map_err(Failure::Http)
    }

    /// Who asks a server of that kind. What a second start waits for is made of nothing: neither certificates nor a
    /// proxy are looked for where this machine is asked by plain HTTP.
    fn agent(&self, url: &str) -> Result<&Agent> {
        let (secure, proxy) = (url.starts_with("https:"), self.proxies.of(url));
        let agent = &self.agents[usize::from(secure) * 2 + usize::from(proxy.is_some())];
        if let Some(agent) = agent.get() {
            return Ok(agent);
        }
        let mut config = configured();
        if secure {
            config = config.tls_config(self.tls(host_of(url))?);
        }
        config = config.proxy(proxy.map(Named::proxy).transpose()?);
        Ok(agent.get_or_init(|| config.build().into()))
    }

    fn tls(&self, host: &str) -> Result<TlsConfig> {
        let found = rustls_native_certs::load_native_certs();
        let mut certificates: Vec<Certificate<'static>> =
            found.certs.iter().map(|one| Certificate::from_der(one.as_ref()).to_owned()).collect();
        if let Some(path) = &self.ca_file {
            let tried = || format!("cannot read the certificates in {path:?}");
            let hint = "SKIFF_CA_FILE names a file of certificates in PEM form";
            let more = certificates_of(path).tried(tried).map_err(|error| error.hint(hint))?;
            certificates.extend(more);
        }
        for directory in CERTIFICATES_OF_HOSTS {
            let entries = std::fs::read_dir(Path::new(directory).join(host)).into_iter().flatten().flatten();
            let files = entries
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|end| end == "crt"));
            certificates.extend(files.filter_map(|path| certificates_of(&path).ok()).flatten());
        }
        if certificates.is_empty() {
            return Err(Error::host("cannot use TLS: this system has no certificates of authorities")
                .hint("install ca-certificates, or name a file of them in SKIFF_CA_FILE"));
        }
        Ok(TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&certificates))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build())
    }
}

/// A request, but for what goes along with it.
fn head_of(ask: &Ask) -> ureq::http::request::Builder {
    let mut request = Request::builder().method(ask.method.clone()).uri(&ask.url);
    for (name, value) in &ask.headers {
        request = request.header(*name, value);
    }
    if let Some(authorization) = &ask.authorization {
        request = request.header(header::AUTHORIZATION, authorization);
    }
    request
}

/// Why there is no answer.
enum Failure {
    Http(ureq::Error),
    Final(Error),
}

type Configuring = ureq::config::ConfigBuilder<ureq::typestate::AgentScope>;

fn configured() -> Configuring {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("skiff/", env!("CARGO_PKG_VERSION")))
        // Digests are those of the bytes as they come.
        .accept_encoding("identity")
        .timeout_per_read(Some(SILENCE))
        .timeout_per_write(Some(SILENCE))
}

fn certificates_of(path: &Path) -> io::Result<Vec<Certificate<'static>>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(CERTIFICATES_BYTES).read_to_end(&mut bytes)?;
    let found: Vec<_> = parse_pem(&bytes)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(one)) => Some(one),
            _ => None,
        })
        .collect();
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "there are none in it"));
    }
    Ok(found)
}

/// Whether another attempt may help.
fn is_passing(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Io(error) => {
            use io::ErrorKind::*;
            !matches!(
                error.kind(),
                ConnectionRefused
                    | HostUnreachable
                    | NetworkUnreachable
                    | InvalidInput
                    | InvalidData
                    | NotFound
            )
        }
        ureq::Error::Timeout(_) | ureq::Error::Protocol(_) | ureq::Error::ConnectionFailed => true,
        _ => false,
    }
}

/// Adds what to do to the error of a server that cannot be asked.
fn explain(error: Error, url: &str, proxy: Option<&Named>) -> Error {
    let text = error.to_string();
    if text.contains("ertificate") || text.contains("UnknownIssuer") {
        return error.hint("name the file of the authority's certificate in SKIFF_CA_FILE");
    }
    if url.starts_with("https:") && (text.contains("InvalidContentType") || text.contains("orrupt message")) {
        return error.hint("if it speaks no TLS: --no-https");
    }
    if proxy.is_some() {
        return error.hint(
            "is that proxy there, and does it let you through (USER:PASSWORD@ before its host)? NO_PROXY names hosts that are \
             asked without it",
        );
    }
    error.hint("is the network there? A proxy is named in HTTPS_PROXY, with exceptions in NO_PROXY")
}

/// An address without a password in it, and without its parameters, which may be secret too.
pub fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            let host = host.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}/{path}")
        }
        None => url.to_owned(),
    }
}

/// The host of an address, with its port.
pub fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    host.rsplit('@').next().unwrap_or_default()
}

/// Whether an address is of this machine.
pub fn is_loopback(url: &str) -> bool {
    let host = host_of(url);
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next() == Some("::1");
    }
    let name = host.split(':').next().unwrap_or_default();
    name == "localhost" || name.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

/// The address that `place` means on a page of `base`.
pub fn join(base: &str, place: &str) -> Option<String> {
    let (scheme, rest) = base.split_once("://")?;
    let host = rest.split(['/', '?', '#']).next()?;
    let joined = if place.starts_with("http://") || place.starts_with("https://") {
        place.to_owned()
    } else if place.starts_with("//") {
        format!("{scheme}:{place}")
    } else if place.starts_with('/') {
        format!("{scheme}://{host}{place}")
    } else if place.contains("://") {
        return None;
    } else {
        let path = rest.split(['?', '#']).next()?;
        let directory = path.rfind('/').map_or(path, |at| &path[..at]);
        format!("{scheme}://{directory}/{place}")
    };
    joined.parse::<Uri>().is_ok_and(|uri| uri.host().is_some()).then_some(joined)
}

/// How long a server asks to wait (RFC 9110, 10.2.3). A date is one of the server's clock, which may not be ours: what
/// counts is how long after the answer's own `Date` it is.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let wanted = text(header::RETRY_AFTER)?;
    if let Ok(seconds) = wanted.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(wanted).ok()?;
    let now = text(header::DATE).and_then(|date| httpdate::parse_http_date(date).ok()).unwrap_or(now);
    Some(until.duration_since(now).unwrap_or_default())
}

/// The bytes of an answer that must not be long.
///
/// # Errors
/// When it is longer, or cut.
pub fn read_limited(response: Response, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let length = response.body().content_length();
    let mut body = response.into_body().into_reader().take(limit + 1);
    body.read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is longer than {limit} bytes")));
    }
    if length.is_some_and(|length| length != bytes.len() as u64) {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it was cut"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_secrets() {
        assert_eq!(shown("https://u:p@h.org/x?token=1"), "https://h.org/x");
        assert_eq!(host_of("https://u:p@h.org:5/x"), "h.org:5");
    }

    #[test]
    fn this_machine_is_known() {
        for near in ["http://localhost/x", "http://127.0.0.1:5000", "http://127.9.9.9/", "http://[::1]:5/x"] {
            assert!(is_loopback(near), "{near}");
        }
        for far in
            ["http://localhost.example.org/", "http://128.0.0.1/", "http://127.0.0.1.nip.io/", "http://u@h/"]
        {
            assert!(!is_loopback(far), "{far}");
        }
    }

    #[test]
    fn patience_is_told_in_seconds_or_by_a_date_of_the_servers_clock() {
        let wait = |pairs: &[(header::HeaderName, &str)]| {
            let headers = pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
            let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:00 GMT").unwrap();
            retry_after(&headers.collect(), now).map(|wait| wait.as_secs())
        };
        let until = (header::RETRY_AFTER, "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(wait(&[(header::RETRY_AFTER, "120 ")]), Some(120));
        assert_eq!(wait(std::slice::from_ref(&until)), Some(37));
        assert_eq!(wait(&[until.clone(), (header::DATE, "Sun, 06 Nov 1994 08:49:35 GMT")]), Some(2));
        assert_eq!(wait(&[until, (header::DATE, "Sun, 06 Nov 1994 09:00:00 GMT")]), Some(0));
        assert_eq!(wait(&[(header::RETRY_AFTER, "soon")]), None);
        assert_eq!(wait(&[]), None);
    }

    #[test]
    fn redirections_are_followed_as_browsers_do() {
        let at = |place| join("https://h.org/a/b?c", place);
        assert_eq!(at("/x").as_deref(), Some("https://h.org/x"));
        assert_eq!(at("x?y").as_deref(), Some("https://h.org/a/x?y"));
        assert_eq!(at("//i.org/x").as_deref(), Some("https://i.org/x"));
        assert_eq!(at("http://i.org/x").as_deref(), Some("http://i.org/x"));
        assert_eq!(at("file:///etc/passwd"), None);
    }
}
