//! `registries.conf`: where images of a registry are fetched from in its stead (containers-registries.conf(5), the
//! second format).
//!
//! ```toml
//! [[registry]]
//! prefix = "docker.io"              # of which names; without it, location
//! location = "docker.io"            # where they are; without it, prefix
//! blocked = false                   # nothing is fetched from there
//! insecure = false                  # plain HTTP
//! mirror-by-digest-only = false
//! [[registry.mirror]]               # asked before, in order
//! location = "mirror.example.org/hub"
//! insecure = false
//! pull-from-mirror = "all"          # or digest-only, tag-only
//! ```
//!
//! The longest prefix that fits counts; `*.example.org` fits all hosts below that one. Other settings of the file,
//! such as short names, are for other programs and are left alone.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::reference::Name;
use crate::error::{Context, Error, Result, is_absent};

/// No file of that kind is longer.
const FILE_BYTES: u64 = 1 << 20;

/// A repository, and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The registry, with its port.
    pub host: String,
    /// The repository there.
    pub repository: String,
    /// By plain HTTP.
    pub plain: bool,
}

/// What the files say.
#[derive(Debug, Clone, Default)]
pub struct Mirrors {
    registries: Vec<Registry>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Document {
    registry: Vec<Registry>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Registry {
    prefix: String,
    location: String,
    blocked: bool,
    insecure: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Mirror>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Mirror {
    location: String,
    insecure: bool,
    pull_from_mirror: String,
}

impl Mirrors {
    /// Reads those of `files` that exist; a directory stands for its `*.conf`, in the order of their names.
    ///
    /// # Errors
    /// A file that cannot be read or understood.
    pub fn load(files: &[PathBuf]) -> Result<Self> {
        let mut registries = Vec::new();
        for path in files {
            let mut below: Vec<PathBuf> = match fs::read_dir(path) {
                Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
                Err(_) => vec![path.clone()],
            };
            if path.is_dir() {
                below.retain(|path| path.extension().is_some_and(|end| end == "conf"));
            }
            below.sort();
            for path in below {
                registries.extend(read(&path)?);
            }
        }
        Ok(Self { registries })
    }

    /// Where an image is asked for, in order; the registry itself is the last.
    ///
    /// # Errors
    /// A registry that is blocked.
    pub fn endpoints(&self, name: &Name, plain: bool) -> Result<Vec<Endpoint>> {
        let own = Endpoint { host: name.host.clone(), repository: name.repository.clone(), plain };
        let full = format!("{}/{}", name.host, name.repository);
        // Of equal ones a later file's counts: max_by_key gives the last.
        let fitting = self.registries.iter().filter(|registry| registry.fits(&full));
        let Some(registry) = fitting.max_by_key(|registry| registry.key().len()) else {
            return Ok(vec![own]);
        };
        if registry.blocked {
            return Err(Error::usage(format!(
                "cannot fetch {name}: registries.conf blocks {:?}",
                registry.key()
            )));
        }
        let rest = match registry.key().starts_with("*.") {
            true => full.split_once('/').map_or("", |(_, rest)| rest),
            false => full[registry.key().len()..].trim_start_matches('/'),
        };
        let by_digest = name.digest.is_some();
        let mirrors = registry.mirror.iter().filter(|mirror| match mirror.pull_from_mirror.as_str() {
            "digest-only" => by_digest,
            "tag-only" => !by_digest,
            _ => by_digest || !registry.mirror_by_digest_only,
        });
        let mut endpoints: Vec<Endpoint> =
            mirrors.filter_map(|mirror| at(&mirror.location, rest, plain || mirror.insecure)).collect();
        let plain = plain || registry.insecure;
        let moved = registry.location.trim_end_matches('/');
        endpoints.push(match moved.is_empty() || registry.key() == moved {
            true => Endpoint { plain, ..own },
            false => at(moved, rest, plain).unwrap_or(own),
        });
        Ok(endpoints)
    }
}

impl Registry {
    fn key(&self) -> &str {
        if self.prefix.is_empty() {
            self.location.trim_end_matches('/')
        } else {
            self.prefix.trim_end_matches('/')
        }
    }

    fn fits(&self, full: &str) -> bool {
        match self.key().strip_prefix('*') {
            Some(below) if below.starts_with('.') => full
                .split_once('/')
                .is_some_and(|(host, _)| host.split(':').next().is_some_and(|host| host.ends_with(below))),
            _ => {
                let rest = full.strip_prefix(self.key());
                !self.key().is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }
}

fn at(location: &str, rest: &str, plain: bool) -> Option<Endpoint> {
    let whole = format!("{}/{rest}", location.trim_end_matches('/'));
    let (host, repository) = whole.trim_end_matches('/').split_once('/')?;
    Some(Endpoint { host: host.to_owned(), repository: repository.to_owned(), plain })
}

fn read(path: &Path) -> Result<Vec<Registry>> {
    let tried = || format!("cannot read {path:?}");
    match fs::metadata(path) {
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error).tried(tried),
        Ok(status) if status.len() > FILE_BYTES => {
            return Err(Error::host(tried()).because("larger than 1 MiB"));
        }
        Ok(_) => {}
    }
    let text = fs::read_to_string(path).tried(tried)?;
    let document: Document = toml::from_str(&text).tried(tried)?;
    Ok(document.registry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(conf: &str, name: &str) -> Result<Vec<String>> {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("a.conf"), conf).unwrap();
        fs::write(place.path().join("ignored.txt"), "[[registry").unwrap();
        let mirrors = Mirrors::load(&[place.path().to_owned(), place.path().join("missing")])?;
        let shown = |one: Endpoint| {
            format!("{}{}/{}", if one.plain { "http:" } else { "" }, one.host, one.repository)
        };
        Ok(mirrors.endpoints(&Name::parse(name)?, false)?.into_iter().map(shown).collect())
    }

    #[test]
    fn mirrors_come_before_the_registry() {
        let conf = "unqualified-search-registries = ['x']\n\
            [[registry]]\nprefix = 'docker.io'\nlocation = 'docker.io'\n\
            [[registry.mirror]]\nlocation = 'm.org:5/hub'\ninsecure = true\n\
            [[registry.mirror]]\nlocation = 'd.org'\npull-from-mirror = 'digest-only'\n";
        assert_eq!(
            endpoints(conf, "debian").unwrap(),
            ["http:m.org:5/hub/library/debian", "docker.io/library/debian"]
        );
        let digest = format!("debian@sha256:{}", "ab".repeat(32));
        assert_eq!(endpoints(conf, &digest).unwrap().len(), 3);
        assert_eq!(endpoints(conf, "h.org/a").unwrap(), ["h.org/a"]);
    }

    #[test]
    fn the_longest_prefix_counts_and_moves_names() {
        let conf = "[[registry]]\nlocation = 'h.org'\ninsecure = true\n\
            [[registry]]\nprefix = 'h.org/old'\nlocation = 'i.org/new'\n\
            [[registry]]\nprefix = '*.closed.org'\nblocked = true\n";
        assert_eq!(endpoints(conf, "h.org/a").unwrap(), ["http:h.org/a"]);
        assert_eq!(endpoints(conf, "h.org/old/x").unwrap(), ["i.org/new/x"]);
        assert_eq!(endpoints(conf, "h.org/older").unwrap(), ["http:h.org/older"]);
        assert!(endpoints(conf, "a.closed.org/x").unwrap_err().to_string().contains("blocks"));
    }

    #[test]
    fn a_file_that_is_wrong_is_named() {
        let error = endpoints("[[registry]\n", "debian").unwrap_err();
        assert!(error.to_string().contains("a.conf"), "{error}");
    }
}
