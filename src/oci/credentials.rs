//! Who the user is for a registry: names and passwords, from where Docker, Podman and skiff keep them.
//!
//! ```text
//! 1  --docker-login, SKIFF_DOCKER_USERNAME and SKIFF_DOCKER_PASSWORD
//! 2  --authfile, SKIFF_AUTH_FILE             that file, and none of those below
//! 3  ~/.config/skiff/auth.json               written by 'skiff registry login'
//! 4  REGISTRY_AUTH_FILE, or $XDG_RUNTIME_DIR/containers/auth.json and ~/.config/containers/auth.json     Podman's
//! 5  $DOCKER_CONFIG/config.json, or ~/.docker/config.json                                                Docker's
//! 6  ~/.apptainer/docker-config.json
//! ```
//!
//! The first that knows the registry counts. All of these files have one form, with `auths`, `credHelpers` and
//! `credsStore`; a key may name a part of a registry (`host/group`), and the longest that fits counts.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use docker_credential::{CredentialRetrievalError as Trouble, DockerCredential, get_credential_from_reader};
use serde_json::{Map, Value, json};

use super::reference::DEFAULT_HOST;
use crate::error::{Context, Error, Result, is_absent};

/// What Docker calls its own registry where it keeps passwords.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// No file of credentials is longer.
const FILE_BYTES: u64 = 1 << 20;

/// What a registry knows the user by.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A name and a password.
    Password(String, String),
    /// What tokens are given for (OAuth2's `refresh_token`).
    Identity(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password(user, _) => write!(out, "Password({user:?}, ...)"),
            Self::Identity(_) => out.write_str("Identity(...)"),
        }
    }
}

impl Credential {
    /// The value of an `Authorization` header with it; none for what no password stands for.
    pub fn basic(&self) -> Option<String> {
        match self {
            Self::Password(user, password) => {
                Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
            }
            Self::Identity(_) => None,
        }
    }
}

/// Where credentials are looked for.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// Given for this call.
    pub given: Option<Credential>,
    /// Files, the first that counts first.
    pub files: Vec<PathBuf>,
}

impl Keys {
    /// What is known for a repository of a registry.
    ///
    /// # Errors
    /// A file that cannot be read or understood; a helper that fails.
    pub fn find(&self, host: &str, repository: &str) -> Result<Option<Credential>> {
        if self.given.is_some() {
            return Ok(self.given.clone());
        }
        for path in &self.files {
            if let Some(found) = find_in(path, host, repository)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

fn find_in(path: &Path, host: &str, repository: &str) -> Result<Option<Credential>> {
    let tried = || format!("cannot read the credentials in {path:?}");
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(FILE_BYTES).read_to_end(&mut bytes).tried(tried)?,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error).tried(tried),
    };
    if bytes.is_empty() {
        return Ok(None);
    }
    for key in keys(host, repository) {
        match get_credential_from_reader(bytes.as_slice(), &key) {
            Ok(DockerCredential::UsernamePassword(user, password)) => {
                return Ok(Some(Credential::Password(user, password)));
            }
            Ok(DockerCredential::IdentityToken(token)) => return Ok(Some(Credential::Identity(token))),
            Err(Trouble::NoCredentialConfigured) => {}
            // What a helper prints for a registry that it does not know.
            Err(Trouble::HelperFailure { stdout, stderr, .. })
                if format!("{stdout}{stderr}").contains("credentials not found") => {}
            Err(Trouble::HelperFailure { helper, stdout, stderr }) => {
                let said = format!("{stdout} {stderr}");
                let said: String = said.chars().filter(|letter| !letter.is_control()).take(200).collect();
                return Err(
                    Error::host(format!("{}: {helper} failed", tried())).because(said.trim().to_owned())
                );
            }
            Err(Trouble::HelperCommunicationError) => {
                return Err(Error::host(tried())
                    .because("the helper that it names (docker-credential-...) cannot be run")
                    .hint("install it, or log in with: skiff registry login"));
            }
            Err(Trouble::ConfigReadError) => {
                return Err(Error::host(tried()).because("it is not JSON of the form that Docker writes"));
            }
            Err(Trouble::CredentialDecodingError) => {
                return Err(
                    Error::host(tried()).because(format!("what it has for {key:?} cannot be decoded"))
                );
            }
            Err(trouble) => return Err(Error::host(tried()).because(trouble)),
        }
    }
    Ok(None)
}

/// What a registry may be kept under, the longest first.
fn keys(host: &str, repository: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut part = repository;
    while !part.is_empty() {
        keys.push(format!("{host}/{part}"));
        part = part.rfind('/').map_or("", |at| &part[..at]);
    }
    keys.push(host.to_owned());
    if host == DEFAULT_HOST {
        keys.push(DOCKER_HUB_KEY.to_owned());
    }
    keys
}

/// What is known of the user's directories.
#[derive(Debug, Default)]
pub struct Around<'a> {
    /// The file that is asked for.
    pub authfile: Option<&'a OsStr>,
    /// `REGISTRY_AUTH_FILE`.
    pub containers: Option<&'a OsStr>,
    /// `XDG_RUNTIME_DIR`.
    pub runtime: Option<&'a OsStr>,
    /// `DOCKER_CONFIG`.
    pub docker: Option<&'a OsStr>,
    /// `XDG_CONFIG_HOME`.
    pub config: Option<&'a OsStr>,
    /// The home directory.
    pub home: Option<PathBuf>,
}

impl Around<'_> {
    /// The file that `skiff registry login` writes.
    pub fn own(&self) -> Option<PathBuf> {
        Some(self.config_home()?.join("skiff/auth.json"))
    }

    fn config_home(&self) -> Option<PathBuf> {
        let set = self.config.map(PathBuf::from).filter(|path| path.is_absolute());
        set.or_else(|| Some(self.home.as_ref()?.join(".config")))
    }

    /// The files in which credentials are looked for, in order.
    pub fn files(&self) -> Vec<PathBuf> {
        if let Some(only) = self.authfile {
            return vec![only.into()];
        }
        let home = |name: &str| self.home.as_ref().map(|home| home.join(name));
        let containers = match self.containers {
            Some(file) => vec![Some(PathBuf::from(file))],
            None => vec![
                self.runtime.map(|runtime| Path::new(runtime).join("containers/auth.json")),
                self.config_home().map(|config| config.join("containers/auth.json")),
            ],
        };
        let docker = match self.docker {
            Some(directory) => Some(Path::new(directory).join("config.json")),
            None => home(".docker/config.json"),
        };
        let ends = [docker, home(".apptainer/docker-config.json")];
        [self.own()].into_iter().chain(containers).chain(ends).flatten().collect()
    }
}

/// Writes down a password for a registry.
///
/// # Errors
/// A file that cannot be read, understood or written.
pub fn keep(path: &Path, host: &str, user: &str, password: &str) -> Result<()> {
    change(path, |auths| {
        let auth = STANDARD.encode(format!("{user}:{password}"));
        auths.insert(host.to_owned(), json!({ "auth": auth }));
    })
}

/// Forgets what is kept for a registry; false when there is nothing.
///
/// # Errors
/// As [`keep`].
pub fn forget(path: &Path, host: &str) -> Result<bool> {
    if !list(path)?.iter().any(|(known, _)| known == host) {
        return Ok(false);
    }
    change(path, |auths| {
        auths.remove(host);
    })?;
    Ok(true)
}

/// The registries that a file knows, with the user's names there.
///
/// # Errors
/// A file that cannot be read or understood; none is no error.
pub fn list(path: &Path) -> Result<Vec<(String, String)>> {
    let read = read(path)?;
    let auths = read.get("auths").and_then(Value::as_object);
    let user = |entry: &Value| {
        let text = STANDARD.decode(entry.get("auth")?.as_str()?).ok()?;
        Some(String::from_utf8_lossy(&text).split(':').next()?.to_owned())
    };
    let rows = auths.into_iter().flatten();
    Ok(rows.map(|(host, entry)| (host.clone(), user(entry).unwrap_or_default())).collect())
}

fn read(path: &Path) -> Result<Map<String, Value>> {
    let tried = || format!("cannot read the credentials in {path:?}");
    let mut text = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(FILE_BYTES).read_to_end(&mut text).tried(tried)?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Map::new()),
        Err(error) => return Err(error).tried(tried),
    };
    if text.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(&text).tried(tried)
}

/// Changes a file so that it is never half written, and nobody else's to read.
fn change(path: &Path, how: impl FnOnce(&mut Map<String, Value>)) -> Result<()> {
    let tried = || format!("cannot write the credentials into {path:?}");
    let mut whole = read(path)?;
    let auths = whole.entry("auths").or_insert_with(|| json!({}));
    how(auths.as_object_mut().ok_or_else(|| Error::host(tried()).because("its \"auths\" is no object"))?);
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).tried(tried)?;
    let temporary = parent.join(format!(".auth.json.skiff-{}", std::process::id()));
    let opened = File::options().write(true).create_new(true).mode(0o600).open(&temporary);
    let written = opened.and_then(|mut file| {
        file.write_all(format!("{:#}\n", Value::Object(whole)).as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    });
    written.tried(tried).inspect_err(|_| {
        // There is an error already.
        let _ = fs::remove_file(&temporary);
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn password(user: &str, password: &str) -> Option<Credential> {
        Some(Credential::Password(user.into(), password.into()))
    }

    #[test]
    fn the_first_file_that_knows_the_registry_counts_and_the_longest_key_in_it() {
        let place = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = ["own", "podman"].iter().map(|name| place.path().join(name)).collect();
        keep(&files[1], "h.org", "u", "second").unwrap();
        keep(&files[1], "h.org/group", "u", "group").unwrap();
        let keys = Keys { given: None, files: files.clone() };
        assert_eq!(keys.find("h.org", "a/b").unwrap(), password("u", "second"));
        assert_eq!(keys.find("h.org", "group/b").unwrap(), password("u", "group"));
        keep(&files[0], "h.org", "u", "a:b").unwrap();
        assert_eq!(keys.find("h.org", "group/b").unwrap(), password("u", "a:b"));
        assert_eq!(keys.find("i.org", "a").unwrap(), None);
        let given = Keys { given: password("x", "y"), ..keys };
        assert_eq!(given.find("h.org", "a").unwrap(), password("x", "y"));
        assert_eq!(format!("{:?}", given.given), "Some(Password(\"x\", ...))");
    }

    #[test]
    fn docker_hub_is_known_by_the_name_that_docker_keeps() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("config.json");
        fs::write(&path, r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}}, "x": 1}"#).unwrap();
        let keys = Keys { given: None, files: vec![path.clone()] };
        assert_eq!(keys.find("docker.io", "library/debian").unwrap(), password("u", "p"));
        fs::write(&path, r#"{"auths": {"h.org": {"identitytoken": "t"}}}"#).unwrap();
        assert_eq!(keys.find("h.org", "a").unwrap(), Some(Credential::Identity("t".into())));
        fs::write(&path, "{").unwrap();
        assert!(keys.find("h.org", "a").is_err());
    }

    #[test]
    fn helpers_are_asked() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("config.json");
        fs::write(&path, r#"{"credHelpers": {"h.org": "skiff-test-that-is-not-there"}}"#).unwrap();
        let keys = Keys { given: None, files: vec![path] };
        let error = keys.find("h.org", "a").unwrap_err();
        assert!(error.to_string().contains("cannot be run"), "{error}");
        assert_eq!(keys.find("i.org", "a").unwrap(), None);
    }

    #[test]
    fn what_is_kept_is_the_users_alone_and_the_rest_of_the_file_stays() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("deep/auth.json");
        fs::create_dir(place.path().join("deep")).unwrap();
        fs::write(&path, r#"{"credsStore": "x"}"#).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        keep(&path, "h.org", "ada", "secret").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(list(&path).unwrap(), [("h.org".to_owned(), "ada".to_owned())]);
        assert!(fs::read_to_string(&path).unwrap().contains("credsStore"));
        assert!(forget(&path, "h.org").unwrap());
        assert!(!forget(&path, "h.org").unwrap());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_named_is_the_only_one() {
        let around = Around { home: Some("/h".into()), runtime: Some(OsStr::new("/r")), ..Around::default() };
        let shown: Vec<String> = around.files().iter().map(|path| path.display().to_string()).collect();
        assert_eq!(
            shown,
            [
                "/h/.config/skiff/auth.json",
                "/r/containers/auth.json",
                "/h/.config/containers/auth.json",
                "/h/.docker/config.json",
                "/h/.apptainer/docker-config.json"
            ]
        );
        let named = Around { authfile: Some(OsStr::new("x")), ..around };
        assert_eq!(named.files(), [Path::new("x")]);
    }
}
