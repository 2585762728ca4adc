//! How a registry lets somebody in: what it asks for, and the token that is got for it.
//!
//! ```text
//! GET /v2/...             401, WWW-Authenticate: Bearer realm="https://auth/token",service="...",scope="..."
//! GET realm?service&scope name and password, where there are some     {"token": ...}
//! GET /v2/...             Authorization: Bearer ...
//! ```
//!
//! With an identity token the second request is a POST (OAuth2). A registry that says `Basic` gets name and password
//! themselves. Passwords go over TLS, or to this machine, or where plain HTTP was asked for; nowhere else.
//! (Distribution's "Token Authentication Specification"; RFC 9110, 11.6.1.)

use serde::Deserialize;

use super::credentials::Credential;
use super::http::{Ask, Http, Method, Response, is_loopback, read_limited, shown};
use crate::error::{Context, Error, Result};

/// No answer with a token is longer.
const ANSWER_BYTES: u64 = 1 << 20;
/// No challenge is longer.
const CHALLENGE_BYTES: usize = 16 << 10;

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// Name and password.
    Basic,
    /// A token of another server.
    Bearer {
        /// Its address.
        realm: String,
        /// Whom the token is for.
        service: Option<String>,
        /// What it is to allow.
        scope: Option<String>,
    },
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

impl Challenge {
    /// Reads the headers of an answer: of several ways a token's, since passwords then stay with one server.
    pub fn of(response: &Response) -> Option<Self> {
        let headers = response.headers().get_all("www-authenticate");
        let all: Vec<Self> = headers.iter().filter_map(|value| Self::parse(value.to_str().ok()?)).collect();
        all.iter().find(|one| **one != Self::Basic).or(all.first()).cloned()
    }

    /// Reads one header.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.get(..CHALLENGE_BYTES.min(text.len()))?.trim_start();
        let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        let mut left = rest;
        while let Some((name, value, after)) = parameter(left) {
            match name.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                "scope" => scope = Some(value),
                _ => {}
            }
            left = after;
        }
        Some(Self::Bearer { realm: realm?, service, scope })
    }

    /// Gets what the `Authorization` header is to say; none when nothing is known that would satisfy the registry.
    ///
    /// # Errors
    /// A token server that cannot be asked or refuses; a password that would go over plain HTTP.
    pub fn answer(
        &self,
        http: &Http,
        known: Option<&Credential>,
        scope: &str,
        plain: bool,
    ) -> Result<Option<String>> {
        let Self::Bearer { realm, service, scope: asked } = self else {
            return Ok(known.and_then(Credential::basic));
        };
        let tried = || format!("cannot log in at {}", shown(realm));
        if known.is_some() && !realm.starts_with("https://") && !plain && !is_loopback(realm) {
            return Err(Error::host(tried()).because("the registry wants the password sent over plain HTTP"));
        }
        let mut parameters = Vec::new();
        if let Some(service) = service {
            parameters.push(("service", service.as_str()));
        }
        match asked.as_deref().unwrap_or(scope) {
            "" => {}
            scope => parameters.push(("scope", scope)),
        }
        let ask = match known {
            Some(Credential::Identity(token)) => {
                let more =
                    [("grant_type", "refresh_token"), ("client_id", "skiff"), ("refresh_token", token)];
                let form: Vec<_> = parameters.iter().copied().chain(more).collect();
                Ask {
                    method: Method::POST,
                    headers: vec![("content-type", "application/x-www-form-urlencoded".to_owned())],
                    body: encoded(&form).into_bytes(),
                    ..Ask::get(realm)
                }
            }
            _ => {
                let joint = if realm.contains('?') { '&' } else { '?' };
                let authorization = known.and_then(Credential::basic);
                Ask { authorization, ..Ask::get(format!("{realm}{joint}{}", encoded(&parameters))) }
            }
        };
        let response = http.ask(&ask)?;
        let status = response.status();
        if !status.is_success() {
            let because = format!("it answers {status}");
            return Err(match (status.as_u16(), known) {
                // OAuth2's answer to what has run out or was taken back (RFC 6749, 5.2).
                (400 | 401 | 403, Some(Credential::Identity(_))) => Error::usage(tried())
                    .because(format!("{because} to the identity token that is kept, which may have run out"))
                    .hint("log in again with what has kept it (docker login, az acr login), or: skiff registry login HOST"),
                (401 | 403, Some(_)) => Error::usage(tried())
                    .because(because)
                    .hint("name or password are wrong: skiff registry login HOST keeps others"),
                (401 | 403, None) => Error::usage(tried())
                    .because(because)
                    .hint("it wants a name and a password: skiff registry login HOST"),
                _ => Error::host(tried()).because(because),
            });
        }
        let bytes = read_limited(response, ANSWER_BYTES).tried(tried)?;
        let answer: Answer = serde_json::from_slice(&bytes).tried(tried)?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| Error::host(tried()).because("its answer has no token"))?;
        Ok(Some(format!("Bearer {token}")))
    }
}

/// The first parameter of a challenge, and what follows it.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let text = text.trim_start_matches([' ', ',', '\t']);
    let (name, rest) = text.split_once('=')?;
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find([',', ' ']).unwrap_or(rest.len());
        return Some((name.trim(), rest[..end].to_owned(), &rest[end..]));
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => value.push(letters.next()?.1),
            '"' => return Some((name.trim(), value, &quoted[at + 1..])),
            letter => value.push(letter),
        }
    }
    None
}

/// Parameters as an address or a form has them.
pub fn encoded(parameters: &[(&str, &str)]) -> String {
    let text = |text: &str| -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte);
        text.bytes()
            .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect()
    };
    let pairs: Vec<String> =
        parameters.iter().map(|(name, value)| format!("{name}={}", text(value))).collect();
    pairs.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let read = Challenge::parse(
            r#"Bearer realm="https://auth.example.org/token",service="registry",scope="repository:a/b:pull,push""#,
        );
        let Some(Challenge::Bearer { realm, service, scope }) = read else { panic!("{read:?}") };
        assert_eq!(realm, "https://auth.example.org/token");
        assert_eq!(service.as_deref(), Some("registry"));
        assert_eq!(scope.as_deref(), Some("repository:a/b:pull,push"));
        assert_eq!(Challenge::parse("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(Challenge::parse("basic"), Some(Challenge::Basic));
        let odd = Challenge::parse("bearer service=x , realm=\"a\\\"b\"");
        assert!(matches!(odd, Some(Challenge::Bearer { realm, .. }) if realm == "a\"b"));
    }

    #[test]
    fn what_is_no_challenge_is_none() {
        for text in [
            "",
            "Digest x",
            "Bearer",
            "Bearer realm=\"unclosed",
            "Bearer service=\"x\"",
            "Bearer =",
            "Bearer \u{e9}=",
        ] {
            assert_eq!(Challenge::parse(text), None, "{text}");
        }
    }

    #[test]
    fn parameters_are_encoded() {
        assert_eq!(
            encoded(&[("a", "x y&z=é"), ("scope", "repository:a/b:pull")]),
            "a=x%20y%26z%3D%C3%A9&scope=repository:a/b:pull"
        );
    }
}
