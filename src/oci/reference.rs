//! What an image is called that is not a file: `docker://debian:13` and its like.
//!
//! ```text
//! docker://[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]    an image of a registry
//! oras://HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]        a SIF file in a registry
//! library://[HOST/][ENTITY/[COLLECTION/]]NAME[:TAG]   a SIF file in a library
//! http://..., https://...                             a file of a web server
//! docker-archive:FILE[:NAME]    docker-daemon:NAME    what 'docker save' writes; what a Docker of this machine has
//! oci:DIRECTORY[:TAG]           oci-archive:FILE[:TAG]
//! ```
//!
//! Names of registries are those of Docker: without a host it is docker.io's, where a name of one word is one of
//! `library/`. Nobody is asked here, and no file is looked at but to tell a path with a colon in it from a tag. Paths
//! are bytes; all else is text.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Digest;
use crate::error::{Error, Result};

/// The registry of names without a host.
pub const DEFAULT_HOST: &str = "docker.io";
/// The tag of names without one.
pub const DEFAULT_TAG: &str = "latest";
/// No name of a repository is longer (distribution specification 1.1, "Pulling manifests").
const REPOSITORY_BYTES: usize = 255;
/// Nor a tag.
const TAG_BYTES: usize = 128;

/// What an image is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// An image of a registry.
    Docker(Name),
    /// A SIF file in a registry.
    Oras(Name),
    /// A SIF file in a library.
    Library(LibraryName),
    /// A file of a web server: the address.
    Web(String),
    /// What `docker save` writes: the file, and the name in it.
    DockerArchive(PathBuf, Option<String>),
    /// An image that the Docker of this machine has.
    DockerDaemon(String),
    /// An OCI layout: the directory, and the tag in it.
    OciLayout(PathBuf, Option<String>),
    /// An OCI layout in a tar file: the file, and the tag in it.
    OciArchive(PathBuf, Option<String>),
}

/// A name in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The registry, with its port where one is given.
    pub host: String,
    /// For example `library/debian`.
    pub repository: String,
    /// The tag; with a digest it says nothing.
    pub tag: Option<String>,
    /// What the manifest is found by, whatever the tag.
    pub digest: Option<Digest>,
}

/// A name in a library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibraryName {
    /// The server; none for the one that `--library` names.
    pub host: Option<String>,
    /// `entity/collection/name`.
    pub path: String,
    /// The tag, `latest` if none is given.
    pub tag: String,
}

impl Name {
    /// What the manifest is asked for by: the digest, else the tag.
    pub fn version(&self) -> String {
        match &self.digest {
            Some(digest) => digest.to_string(),
            None => self.tag.clone().unwrap_or_else(|| DEFAULT_TAG.to_owned()),
        }
    }

    /// Parses what stands after the `//`.
    ///
    /// # Errors
    /// [`crate::error::Kind::Usage`], with what is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::usage(format!("cannot use the image name {text:?}: {why}")).hint(
                "names look like debian:13, or registry.example.org:5000/group/name:tag, or name@sha256:...",
            )
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        let (host, path) = match rest.split_once('/') {
            Some((first, path)) if is_host(first) => (first, path),
            _ => (DEFAULT_HOST, rest),
        };
        if !has_host_letters(host) {
            return Err(wrong("that is no host"));
        }
        let (path, tag) = match path.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (path, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(wrong("a tag is made of at most 128 letters, digits and '_.-'"));
        }
        let host =
            if matches!(host, "index.docker.io" | "registry-1.docker.io") { DEFAULT_HOST } else { host };
        let repository = match host == DEFAULT_HOST && !path.contains('/') {
            true => format!("library/{path}"),
            false => path.to_owned(),
        };
        if repository.len() > REPOSITORY_BYTES || !repository.split('/').all(is_component) {
            return Err(wrong(
                "a repository is made of small letters, digits, and '.', '_', '-', '/' between them",
            ));
        }
        Ok(Self { host: host.to_owned(), repository, tag: tag.map(str::to_owned), digest })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.host, self.repository)?;
        match (&self.digest, &self.tag) {
            (Some(digest), _) => write!(out, "@{digest}"),
            (None, Some(tag)) => write!(out, ":{tag}"),
            (None, None) => write!(out, ":{DEFAULT_TAG}"),
        }
    }
}

impl LibraryName {
    fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            Error::usage(format!("cannot use the library name {text:?}"))
                .hint("names look like library://entity/collection/name:tag, with a host before them or --library URL")
        };
        let (path, tag) = match text.trim_start_matches('/').rsplit_once(':') {
            // What follows a port is a path.
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (text.trim_start_matches('/'), DEFAULT_TAG),
        };
        let mut words: Vec<&str> = path.split('/').collect();
        let host = (words.len() > 3 || is_host(words[0])).then(|| words.remove(0).to_owned());
        let path = match words.as_slice() {
            [name] => format!("library/default/{name}"),
            [collection, name] => format!("library/{collection}/{name}"),
            [entity, collection, name] => format!("{entity}/{collection}/{name}"),
            _ => return Err(wrong()),
        };
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let named = |word: &str| !word.is_empty() && word != ".." && word != "." && word.bytes().all(letters);
        // A hash stands where a tag does; of several tags any will do.
        let tag = tag.split(',').next().unwrap_or_default();
        if !path.split('/').all(named) || !named(tag) || !host.as_deref().is_none_or(has_host_letters) {
            return Err(wrong());
        }
        Ok(Self { host, path, tag: tag.to_owned() })
    }
}

/// How the rest of a reference is read.
enum Rest {
    /// As text.
    Text(fn(&str) -> Result<Reference>),
    /// As a path, and a name in what is there.
    File(fn(PathBuf, Option<String>) -> Reference),
}

const SCHEMES: &[(&str, Rest)] = &[
    ("docker://", Rest::Text(|rest| Name::parse(rest).map(Reference::Docker))),
    (
        "oras://",
        Rest::Text(|rest| match rest.split_once('/') {
            Some((host, _)) if is_host(host) => Name::parse(rest).map(Reference::Oras),
            _ => Err(Error::usage(format!("cannot use \"oras://{rest}\": it names no registry"))
                .hint("oras://HOST/REPOSITORY:TAG")),
        }),
    ),
    ("library://", Rest::Text(|rest| LibraryName::parse(rest).map(Reference::Library))),
    ("http://", Rest::Text(|rest| web("http", rest))),
    ("https://", Rest::Text(|rest| web("https", rest))),
    ("docker-archive:", Rest::File(Reference::DockerArchive)),
    (
        "docker-daemon:",
        Rest::Text(|rest| match rest.trim_start_matches('/') {
            "" => {
                Err(Error::usage("docker-daemon: needs the name of an image").hint("docker-daemon:NAME:TAG"))
            }
            name => Ok(Reference::DockerDaemon(name.to_owned())),
        }),
    ),
    ("oci-archive:", Rest::File(Reference::OciArchive)),
    ("oci:", Rest::File(Reference::OciLayout)),
    (
        "shub://",
        Rest::Text(|_| {
            Err(Error::usage("Singularity Hub was shut down in 2021, and its archive is not an image server").hint(
            "most of its images were published elsewhere too: look for a docker:// or oras:// name, or for the definition",
        ))
        }),
    ),
    (
        "ipfs://",
        Rest::Text(|_| {
            Err(Error::usage("skiff does not speak IPFS")
                .hint("take it by a gateway: https://GATEWAY/ipfs/CID"))
        }),
    ),
];

/// Reads a reference; none for what is a path.
///
/// # Errors
/// [`crate::error::Kind::Usage`] for one of a known scheme that is wrong in itself.
pub fn parse(name: impl AsRef<OsStr>) -> Option<Result<Reference>> {
    let name = name.as_ref();
    let (rest, how) = SCHEMES
        .iter()
        .find_map(|(scheme, how)| Some((name.as_bytes().strip_prefix(scheme.as_bytes())?, how)))?;
    let no_text = |what: &str| Error::usage(format!("cannot use {name:?}: {what} is no text"));
    Some(match how {
        Rest::Text(read) => std::str::from_utf8(rest).map_err(|_| no_text("it")).and_then(read),
        Rest::File(make) => {
            // `docker-archive://FILE` is common too.
            let (path, tag) = divide(rest.strip_prefix(b"//").unwrap_or(rest));
            let tag = tag.map(|tag| String::from_utf8(tag.to_vec())).transpose();
            tag.map_err(|_| no_text("its tag")).map(|tag| make(OsStr::from_bytes(path).into(), tag))
        }
    })
}

/// The reference that `Bootstrap: AGENT` and the values of `From`, `Registry` and `Namespace` mean.
///
/// # Errors
/// As [`parse`]; and an agent that fetches nothing.
pub fn of_agent(
    agent: &str,
    from: &str,
    registry: Option<&str>,
    namespace: Option<&str>,
) -> Result<Reference> {
    let before: String = [registry, namespace]
        .into_iter()
        .flatten()
        .map(|part| format!("{}/", part.trim_matches('/')))
        .collect();
    let text = match agent {
        "docker" | "oras" | "library" => format!("{agent}://{before}{from}"),
        _ => format!("{agent}:{from}"),
    };
    parse(&text).unwrap_or_else(|| Err(Error::usage(format!("Bootstrap: {agent} is none of skiff's agents"))))
}

impl fmt::Display for Reference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = |out: &mut fmt::Formatter<'_>, scheme: &str, path: &Path, tag: &Option<String>| {
            write!(out, "{scheme}:{}", path.display())?;
            tag.as_ref().map_or(Ok(()), |tag| write!(out, ":{tag}"))
        };
        match self {
            Self::Docker(name) => write!(out, "docker://{name}"),
            Self::Oras(name) => write!(out, "oras://{name}"),
            Self::Library(LibraryName { host, path, tag }) => match host {
                Some(host) => write!(out, "library://{host}/{path}:{tag}"),
                None => write!(out, "library://{path}:{tag}"),
            },
            Self::Web(address) => out.write_str(address),
            Self::DockerArchive(file, tag) => path(out, "docker-archive", file, tag),
            Self::DockerDaemon(name) => write!(out, "docker-daemon:{name}"),
            Self::OciLayout(directory, tag) => path(out, "oci", directory, tag),
            Self::OciArchive(file, tag) => path(out, "oci-archive", file, tag),
        }
    }
}

impl Reference {
    /// Whether it is of files of this machine.
    pub fn is_near(&self) -> bool {
        matches!(self, Self::DockerArchive(..) | Self::OciLayout(..) | Self::OciArchive(..))
    }

    /// The name of the file that it is pulled into: `debian_13.sif`.
    pub fn file_name(&self) -> String {
        let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let of_path = |path: &Path, tag: &Option<String>| {
            let stem = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
            match tag.as_deref().map(|tag| last(tag).replace(':', "_")) {
                Some(tag) if !tag.is_empty() => format!("{stem}_{tag}.sif"),
                _ => format!("{stem}.sif"),
            }
        };
        match self {
            Self::Docker(name) | Self::Oras(name) => {
                let version = name.digest.map_or_else(|| name.version(), |digest| digest.short());
                format!("{}_{version}.sif", last(&name.repository))
            }
            Self::Library(name) => format!("{}_{}.sif", last(&name.path), name.tag),
            Self::Web(address) => match last(address.split(['?', '#']).next().unwrap_or_default()) {
                name if name.is_empty() || name.starts_with('.') => "image.sif".to_owned(),
                name => name,
            },
            Self::DockerDaemon(name) => format!("{}.sif", last(name).replace([':', '@'], "_")),
            Self::DockerArchive(path, tag) | Self::OciLayout(path, tag) | Self::OciArchive(path, tag) => {
                of_path(path, tag)
            }
        }
    }
}

fn web(scheme: &str, rest: &str) -> Result<Reference> {
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() || rest.bytes().any(|byte| byte.is_ascii_control() || byte == b' ') {
        return Err(Error::usage(format!("cannot use \"{scheme}://{rest}\": it names no server")));
    }
    Ok(Reference::Web(format!("{scheme}://{rest}")))
}

/// Path and tag: both may have colons in them. What is there decides; else the first colon does.
fn divide(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    let colons: Vec<usize> = (0..text.len()).filter(|&at| text.get(at) == Some(&b':')).collect();
    let cut =
        |at: usize| (text.get(..at).unwrap_or_default(), text.get(at + 1..).filter(|tag| !tag.is_empty()));
    let exists = |path: &[u8]| !path.is_empty() && Path::new(OsStr::from_bytes(path)).exists();
    if exists(text) {
        return (text, None);
    }
    let there = colons.iter().rev().map(|&at| cut(at)).find(|(path, _)| exists(path));
    there.or_else(|| colons.first().map(|&at| cut(at))).unwrap_or((text, None))
}

/// Whether the first word of a name is a host and not a part of the repository, as Docker decides it.
fn is_host(word: &str) -> bool {
    word == "localhost" || word.contains(['.', ':'])
}

fn has_host_letters(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, port)) => (name, port.strip_prefix(':')),
        None => host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port))),
    };
    let v6 = host.starts_with('[');
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte) || v6 && byte == b':';
    !name.is_empty() && name.bytes().all(letters) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// Whether that can be a tag.
pub fn is_tag(tag: &str) -> bool {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    (1..=TAG_BYTES).contains(&tag.len()) && tag.bytes().all(letters) && !tag.starts_with(['.', '-'])
}

fn is_component(word: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = word.as_bytes();
    bytes.first().copied().is_some_and(letter)
        && bytes.last().copied().is_some_and(letter)
        && bytes.iter().all(|byte| letter(*byte) || b"._-".contains(byte))
        && !word.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match parse(text) {
            None => "a path".to_owned(),
            Some(Ok(reference)) => reference.to_string(),
            Some(Err(error)) => format!("error: {error}"),
        }
    }

    #[test]
    fn names_without_a_host_are_docker_hubs() {
        assert_eq!(shown("docker://debian"), "docker://docker.io/library/debian:latest");
        assert_eq!(shown("docker://group/name:1"), "docker://docker.io/group/name:1");
        assert_eq!(shown("docker://localhost/name"), "docker://localhost/name:latest");
        assert_eq!(shown("docker://127.0.0.1:5000/a/b:x"), "docker://127.0.0.1:5000/a/b:x");
        assert_eq!(shown("docker://[::1]:5000/a"), "docker://[::1]:5000/a:latest");
        assert_eq!(shown("docker://index.docker.io/debian"), "docker://docker.io/library/debian:latest");
        let digest = format!("sha256:{}", "ab".repeat(32));
        assert_eq!(shown(&format!("docker://a.b/c:1@{digest}")), format!("docker://a.b/c@{digest}"));
        assert_eq!(shown("oras://host:1/a:1"), "oras://host:1/a:1");
    }

    #[test]
    fn what_is_no_name_is_an_error_and_what_is_no_uri_a_path() {
        let wrong = [
            "docker://",
            "docker:///a",
            "docker://A",
            "docker://a:b:c",
            "docker://a@sha256:1",
            "docker://a/../b",
            "docker://host.org:x/a",
            "docker://a b",
            "docker://a/",
            "docker://-a",
            "oras://name",
            "library://",
            "library://a/b/c/d/e",
            "library://a/../c",
            "http://",
            "http:///x",
            "docker-daemon:",
            "shub://a/b",
        ];
        for text in wrong {
            assert!(shown(text).starts_with("error: "), "{text}: {}", shown(text));
        }
        let long = format!("docker://h.org/{}", "a".repeat(256));
        assert!(shown(&long).starts_with("error: "));
        for text in ["a.sif", "./docker://x", "ocix:y", "/oci:z", "docker"] {
            assert_eq!(shown(text), "a path");
        }
    }

    #[test]
    fn libraries_and_files_have_forms_of_their_own() {
        assert_eq!(shown("library://alpine"), "library://library/default/alpine:latest");
        assert_eq!(shown("library://a/b/c:1,2"), "library://a/b/c:1");
        assert_eq!(shown("library://lib.example.org/a/b/c"), "library://lib.example.org/a/b/c:latest");
        assert_eq!(shown("library://127.0.0.1:99/a/b/c:x"), "library://127.0.0.1:99/a/b/c:x");
        assert_eq!(shown("oci:dir:tag"), "oci:dir:tag");
        assert_eq!(shown("docker-archive:/a/b.tar:debian:13"), "docker-archive:/a/b.tar:debian:13");
        assert_eq!(shown("oci-archive:///a/b.tar"), "oci-archive:/a/b.tar");
    }

    #[test]
    fn what_is_there_tells_the_path_from_the_tag() {
        let place = tempfile::tempdir().unwrap();
        let with_colon = place.path().join("a:b");
        std::fs::create_dir(&with_colon).unwrap();
        let parse = |text: String| parse(text).unwrap().unwrap();
        let tagged = Reference::OciLayout(with_colon.clone(), Some("name:tag".into()));
        assert_eq!(parse(format!("oci:{}:name:tag", with_colon.display())), tagged);
        assert_eq!(parse(format!("oci:{}", with_colon.display())), Reference::OciLayout(with_colon, None));
        let missing = Reference::DockerArchive("missing.tar".into(), Some("x:1".into()));
        assert_eq!(parse("docker-archive://missing.tar:x:1".into()), missing);
    }

    #[test]
    fn paths_are_bytes_and_the_rest_is_text() {
        let parse = |name: &[u8]| parse(OsStr::from_bytes(name));
        let path = Reference::OciArchive(OsStr::from_bytes(b"\xff.tar").into(), Some("t".into()));
        assert_eq!(parse(b"oci-archive:\xff.tar:t").unwrap().unwrap(), path);
        for name in [&b"oci:dir:\xff"[..], b"docker://\xff", b"https://h.org/\xff"] {
            assert!(parse(name).unwrap().unwrap_err().to_string().ends_with("is no text"));
        }
        assert!(parse(b"\xff.sif").is_none());
    }

    #[test]
    fn a_pulled_file_is_named_after_its_image() {
        let name = |text: &str| parse(text).unwrap().unwrap().file_name();
        assert_eq!(name("docker://debian:13"), "debian_13.sif");
        assert_eq!(name("docker://h.org/a/b"), "b_latest.sif");
        assert_eq!(name(&format!("docker://a@sha256:{}", "ab".repeat(32))), "a_abababababab.sif");
        assert_eq!(name("https://example.org/x/y.sif?z=/1"), "y.sif");
        assert_eq!(name("https://example.org/"), "image.sif");
        assert_eq!(name("docker-archive:/a/b.tar:debian:13"), "b_debian_13.sif");
        assert_eq!(name("oci:dir"), "dir.sif");
        assert_eq!(name("docker-daemon:a/b:1"), "b_1.sif");
    }

    #[test]
    fn agents_have_registry_and_namespace_before_the_name() {
        let of =
            |from, registry, namespace| of_agent("docker", from, registry, namespace).unwrap().to_string();
        assert_eq!(of("debian:13", None, None), "docker://docker.io/library/debian:13");
        assert_eq!(of("name", Some("h.org:5"), Some("group")), "docker://h.org:5/group/name:latest");
        assert_eq!(of_agent("oci", "dir:t", None, None).unwrap().to_string(), "oci:dir:t");
        assert!(of_agent("buildkit", "x", None, None).is_err());
    }
}
