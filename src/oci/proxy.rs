//! By which proxy a server is asked, as the variables say that all programs have for that.
//!
//! ```text
//! HTTPS_PROXY, https_proxy    for https://
//! HTTP_PROXY, http_proxy      for http://
//! ALL_PROXY, all_proxy        where that is not set
//! NO_PROXY, no_proxy          hosts that are asked without one, with commas between them:
//!     h.org        that host, and those below it         .h.org, *.h.org    those below it
//!     10.1.2.3     that address                          10.0.0.0/8         those of that network
//!     *            all                                   h.org:5000         one port of it
//! ```
//!
//! A proxy is `http://[USER:PASSWORD@]HOST[:PORT]`, or `https://` or `socks5://` (and `socks4`, `socks4a`, `socks5h`);
//! what has no scheme is `http`. It is asked for a connection (CONNECT), also where plain HTTP goes through it.
//! Servers of this machine are asked without one.

use std::net::IpAddr;

use ureq::Proxy;

use super::http::{host_of, is_loopback, shown};
use crate::error::{Error, Result};

/// What is set.
#[derive(Debug, Default)]
pub struct Proxies {
    https: Option<Named>,
    http: Option<Named>,
    none_for: Vec<String>,
}

/// A proxy, with the variable that names it.
#[derive(Debug, Clone)]
pub struct Named {
    variable: String,
    address: String,
}

impl Proxies {
    /// Reads the variables.
    pub fn read(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| {
            let names = [name.to_owned(), name.to_lowercase()].into_iter();
            names
                .filter_map(|name| Some((variable(&name)?, name)))
                .find(|(value, _)| !value.trim().is_empty())
        };
        let named = |name: &str| {
            let (address, variable) = set(name).or_else(|| set("ALL_PROXY"))?;
            Some(Named { variable, address: address.trim().to_owned() })
        };
        let none_for = set("NO_PROXY").map(|(value, _)| value).unwrap_or_default();
        let words = none_for.split(|letter: char| letter == ',' || letter.is_whitespace());
        Self {
            https: named("HTTPS_PROXY"),
            http: named("HTTP_PROXY"),
            none_for: words.filter(|word| !word.is_empty()).map(str::to_ascii_lowercase).collect(),
        }
    }

    /// The proxy for an address.
    pub fn of(&self, url: &str) -> Option<&Named> {
        let secure = url.starts_with("https:");
        let named = if secure { &self.https } else { &self.http };
        let (host, port) = divided(host_of(url), if secure { "443" } else { "80" });
        let excepted =
            || self.none_for.iter().any(|word| is_excepted(word, &host.to_ascii_lowercase(), port));
        named.as_ref().filter(|_| !is_loopback(url) && !excepted())
    }
}

impl Named {
    /// For who connects.
    ///
    /// # Errors
    /// What is no address of a proxy.
    pub fn proxy(&self) -> Result<Proxy> {
        Proxy::new(&self.address).map_err(|_| {
            Error::usage(format!("cannot use {self}: that is no address of a proxy"))
                .hint("it looks like http://proxy.example.org:3128, with USER:PASSWORD@ before the host where it wants that")
        })
    }
}

impl std::fmt::Display for Named {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without a scheme there may be a password all the same.
        let address = shown(&self.address);
        let address = address.rsplit('@').next().unwrap_or_default();
        write!(out, "the proxy {} of {}", address.trim_end_matches('/'), self.variable)
    }
}

/// A host without brackets, and its port.
fn divided<'t>(host: &'t str, port: &'t str) -> (&'t str, &'t str) {
    if let Some((address, rest)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (address, rest.strip_prefix(':').unwrap_or(port));
    }
    // More than one colon is an address of IPv6.
    host.split_once(':').filter(|(_, port)| !port.contains(':')).unwrap_or((host, port))
}

/// Whether a word of NO_PROXY means a host.
fn is_excepted(word: &str, host: &str, port: &str) -> bool {
    if word == "*" {
        return true;
    }
    let address = host.parse::<IpAddr>().ok();
    if let Some((network, bits)) = word.split_once('/') {
        let network = network.parse::<IpAddr>().ok().zip(bits.parse::<u32>().ok());
        return network.zip(address).is_some_and(|((network, bits), address)| is_in(network, bits, address));
    }
    let (name, own_port) = divided(word, port);
    if own_port != port {
        return false;
    }
    if let Ok(named) = name.parse::<IpAddr>() {
        return address == Some(named);
    }
    let below =
        |name: &str| host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.') && rest.len() > 1);
    match name.strip_prefix('*').unwrap_or(name).strip_prefix('.') {
        Some(name) => below(name),
        None => host == name || below(name),
    }
}

fn is_in(network: IpAddr, bits: u32, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits)).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits)).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        let found = |name: &str| variables.iter().find(|(known, _)| *known == name);
        Proxies::read(&|name| found(name).map(|(_, value)| (*value).to_owned()))
    }

    fn of(variables: &[(&str, &str)], url: &str) -> Option<String> {
        proxies(variables).of(url).map(ToString::to_string)
    }

    #[test]
    fn each_protocol_has_its_own_and_this_machine_none() {
        let both = [("HTTPS_PROXY", "http://u:p@s:1"), ("http_proxy", "h:2/"), ("ALL_PROXY", "http://a")];
        assert_eq!(of(&both, "https://h.org/x").unwrap(), "the proxy http://s:1 of HTTPS_PROXY");
        assert_eq!(of(&both, "http://h.org/x").unwrap(), "the proxy h:2 of http_proxy");
        assert_eq!(of(&both[2..], "http://h.org/x").unwrap(), "the proxy http://a of ALL_PROXY");
        assert_eq!(
            of(&[("HTTPS_PROXY", " "), ("https_proxy", "u:p@x")], "https://h").unwrap(),
            "the proxy x of https_proxy"
        );
        assert_eq!(of(&both, "https://localhost:5/"), None);
        assert_eq!(of(&[], "https://h.org"), None);
    }

    #[test]
    fn exceptions_are_names_addresses_networks_and_ports() {
        let excepted = |none: &str, url: &str| of(&[("ALL_PROXY", "p"), ("NO_PROXY", none)], url).is_none();
        for (none, url) in [
            ("h.org", "https://h.org"),
            ("h.org", "https://a.h.org:5000/x"),
            (" x, H.ORG ", "https://h.org"),
            (".h.org", "https://a.h.org"),
            ("*.h.org", "https://a.b.h.org"),
            ("*", "http://x"),
            ("h.org:443", "https://h.org"),
            ("h.org:5000", "https://h.org:5000"),
            ("10.1.2.3", "https://10.1.2.3:5000"),
            ("10.0.0.0/8", "https://10.1.2.3"),
            ("0.0.0.0/0", "https://10.1.2.3"),
            ("fd00::/8", "https://[fd00::1]:5000"),
            ("[fd00::1]:5000", "https://[fd00::1]:5000"),
            ("fd00::1", "https://[fd00::1]"),
        ] {
            assert!(excepted(none, url), "{none} {url}");
        }
        for (none, url) in [
            ("", "https://h.org"),
            ("h.org", "https://hh.org"),
            (".h.org", "https://h.org"),
            ("h.org:80", "https://h.org"),
            ("10.0.0.0/8", "https://11.0.0.1"),
            ("10.0.0.0/8", "https://h.org"),
            ("10.0.0.0/x", "https://10.0.0.1"),
            ("fd00::/8", "https://10.0.0.1"),
        ] {
            assert!(!excepted(none, url), "{none} {url}");
        }
    }

    #[test]
    fn what_is_no_proxy_is_an_error_without_its_password() {
        for address in ["nonsense://u:secret@h", "http://", "socks9://u:secret@h"] {
            let named = proxies(&[("ALL_PROXY", address)]).of("https://h.org").unwrap().clone();
            let error = named.proxy().unwrap_err().to_string();
            assert!(error.contains("ALL_PROXY") && !error.contains("secret"), "{error}");
        }
        for address in ["h:1", "http://h", "socks5://h:1", "u:p@h:1"] {
            proxies(&[("ALL_PROXY", address)]).of("https://h.org").unwrap().proxy().unwrap();
        }
    }
}
