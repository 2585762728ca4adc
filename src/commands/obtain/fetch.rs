//! An image from elsewhere as a file of this machine: fetched, converted, or found in the cache.
//!
//! ```text
//! docker://                what the name means ──▶ in the cache? that file
//!                                              └─▶ its parts, then convert ──▶ the cache
//! oras://, library://      a SIF of the cache, by its digest
//! https://                 the same, by the address and what the server says of the file's age
//! archives, layouts        opened, then as docker://
//! ```
//!
//! Without a cache the file has no name, and lasts as long as this process or the image's server.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use super::login::{given, home, key_files, proxies};
use crate::build::cache as build_cache;
use crate::cache::store::{About, is_unwritable};
use crate::cache::{Kind as Stored, Store};
use crate::cli::Global;
use crate::cli::build::BuildArgs;
use crate::cli::fetch::{FetchFlags, PlatformFlags};
use crate::commands::build::convert;
use crate::commands::build::progress::transfers;
use crate::commands::{note, warn};
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::oci::credentials::Keys;
use crate::oci::fetch::{Fetch, Resolved, hex_of};
use crate::oci::http::Http;
use crate::oci::mirrors::Mirrors;
use crate::oci::reference::{Name, Reference};
use crate::oci::registry::Registry;
use crate::oci::transfer::Progress;
use crate::oci::{Digest, OciImage, Platform, archive, daemon, library, local, scratch, web};
use crate::plan::asked::switch;
use crate::sys::signals::{STOP, catch_stop, release_stop};

/// The form of converted images: those of another one are not used. To be changed with what conversion does.
const CONVERSION: u32 = 1;
/// What the system says of registries, and what the user does.
const REGISTRIES: [&str; 2] = ["/etc/containers/registries.conf", "/etc/containers/registries.conf.d"];

/// How an image is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// How it is fetched.
    pub flags: &'a FetchFlags,
    /// For what it is.
    pub platform: &'a PlatformFlags,
    /// Neither from the cache nor into it.
    pub disable_cache: bool,
}

/// An image as a file.
#[derive(Debug)]
pub struct Sif {
    /// Its path, in the cache; or that of an open file without a name.
    pub path: PathBuf,
    /// Open for reading.
    pub file: File,
}

/// What fetching stands on.
pub struct Session<'a> {
    global: &'a Global,
    platform: Platform,
    http: Http,
    keys: Keys,
    mirrors: Mirrors,
    plain: bool,
    store: Option<Store>,
    scratch: PathBuf,
    library: Option<String>,
    docker: Option<String>,
}

impl<'a> Session<'a> {
    /// Reads settings and opens the cache. Nobody is asked yet.
    pub fn new(host: &Host, wanted: &Wanted<'_>, global: &'a Global) -> Result<Self> {
        let Wanted { flags, platform, disable_cache } = *wanted;
        let plain = switch(host, flags.no_https, "--no-https", &["NOHTTPS", "NO_HTTPS"]).is_some();
        let text = |name: &str| host.setting(name).map(|(_, value)| value.to_string_lossy().into_owned());
        let given_text = |flag: &Option<String>| flag.clone().filter(|value| !value.is_empty());
        let store = match switch(host, disable_cache, "--disable-cache", &["DISABLE_CACHE"]).is_some() {
            true => None,
            false => match build_cache::place(host).and_then(|place| Store::open(&place)) {
                Ok(store) => Some(store),
                Err(error) => {
                    let hint = error.hint.iter().map(|hint| format!("; {hint}")).collect::<String>();
                    warn(global, &format!("going on without the cache: {error}{hint}"));
                    None
                }
            },
        };
        let told = global.clone();
        let ca_file = host.setting("CA_FILE").map(|(_, value)| PathBuf::from(value));
        let (mut containers, own) = (REGISTRIES.map(PathBuf::from).to_vec(), user_registries(host));
        if let Some(file) = host.variable("CONTAINERS_REGISTRIES_CONF") {
            containers = vec![file.into()];
        } else if let Some(own) = own.filter(|own| own.exists()) {
            containers[0] = own;
        }
        Ok(Self {
            global,
            platform: Platform::asked(
                given_text(&platform.arch).as_deref(),
                given_text(&platform.arch_variant).as_deref(),
            )?,
            http: Http::new(ca_file, plain, proxies(host), Box::new(move |text| warn(&told, text))),
            keys: Keys {
                given: given(host, flags)?,
                files: key_files(host, flags.authfile.as_deref()).files(),
            },
            mirrors: Mirrors::load(&containers)?,
            plain,
            store,
            scratch: scratch_of(host),
            library: given_text(&flags.library).or_else(|| text("LIBRARY")),
            docker: given_text(&flags.docker_host)
                .or_else(|| Some(host.variable("DOCKER_HOST")?.to_str()?.to_owned())),
        })
    }

    /// The image as a file.
    ///
    /// # Errors
    /// Those of the registry or server; an image that cannot be converted.
    pub fn sif(&self, reference: &Reference) -> Result<Sif> {
        let progress = Progress::default();
        match reference {
            Reference::Docker(name) => self.of_registry(name, reference, &progress),
            Reference::Oras(name) => {
                let fetch = self.fetch(&progress);
                self.artifact(name, &fetch, &fetch.resolve(name, &self.platform)?)
            }
            Reference::Library(name) => {
                let fetch = self.fetch(&progress);
                let server = self.library.as_deref();
                let found = library::resolve(&fetch, name, (server, &self.platform.architecture))?;
                let file = transfers(self.global, &progress, || library::fetch(&fetch, &found))?;
                Ok(match &self.store {
                    Some(store) => self.named(store, Stored::Blob, &found.digest.hex(), file),
                    None => unnamed(file),
                })
            }
            Reference::Web(address) => {
                let fetch = self.fetch(&progress);
                let found = web::resolve(&fetch, address)?;
                let file = transfers(self.global, &progress, || web::fetch(&fetch, &found))?;
                Ok(match (&self.store, &found.key) {
                    (Some(store), Some(key)) => {
                        store.describe(key, &About { from: reference.to_string() });
                        self.named(store, Stored::Image, key, file)
                    }
                    _ => unnamed(file),
                })
            }
            _ => {
                let image = self.local(reference, &progress)?;
                let manifest = image.manifest.digest;
                self.converted(&manifest, reference, || Ok(image))
            }
        }
    }

    /// The image as its parts, for who converts it in a way of his own; none where it is a SIF already.
    ///
    /// # Errors
    /// As [`Session::sif`].
    pub fn parts(&self, reference: &Reference) -> Result<Option<OciImage>> {
        let progress = Progress::default();
        match reference {
            Reference::Docker(name) => {
                let fetch = self.fetch(&progress);
                let resolved = fetch.resolve(name, &self.platform)?;
                if crate::oci::manifest::sif_layer(&resolved.layers)?.is_some() {
                    return Ok(None);
                }
                transfers(self.global, &progress, || fetch.image(&resolved)).map(Some)
            }
            Reference::Oras(_) | Reference::Library(_) | Reference::Web(_) => Ok(None),
            _ => self.local(reference, &progress).map(Some),
        }
    }

    /// A registry that something is put into: the one that is named, whatever mirrors it has for reading.
    ///
    /// # Errors
    /// One that is blocked by the settings.
    pub fn registry(&self, name: &Name) -> Result<Registry<'_>> {
        let own = self.mirrors.endpoints(name, self.plain)?.pop();
        let own = own.ok_or_else(|| Error::new(Kind::Internal, "a name has no registry"))?;
        Ok(Registry::new(&self.http, &self.keys, own).pushing())
    }

    /// A file without a name, for what is made on the way.
    ///
    /// # Errors
    /// As [`scratch::file_in`].
    pub fn temporary_file(&self) -> Result<File> {
        scratch::file_in(&self.scratch)
    }

    /// Adds to an error for lack of room in such a file where it is lacking.
    pub fn explain(&self, error: Error) -> Error {
        scratch::explain(error, &self.scratch)
    }

    fn fetch<'s>(&'s self, progress: &'s Progress) -> Fetch<'s> {
        Fetch {
            http: &self.http,
            keys: &self.keys,
            mirrors: &self.mirrors,
            plain: self.plain,
            store: self.store.as_ref(),
            scratch: self.scratch.clone(),
            progress,
        }
    }

    fn of_registry(&self, name: &Name, reference: &Reference, progress: &Progress) -> Result<Sif> {
        let fetch = self.fetch(progress);
        let resolved = fetch.resolve(name, &self.platform)?;
        if crate::oci::manifest::sif_layer(&resolved.layers)?.is_some() {
            return self.artifact(name, &fetch, &resolved);
        }
        self.converted(&resolved.digest, reference, || {
            transfers(self.global, progress, || fetch.image(&resolved))
        })
    }

    fn artifact(&self, name: &Name, fetch: &Fetch<'_>, resolved: &Resolved<'_>) -> Result<Sif> {
        let blob = transfers(self.global, fetch.progress, || fetch.sif(resolved))?;
        let blob = blob.ok_or_else(|| {
            Error::image(format!("oras://{name} is no SIF file"))
                .hint(format!("an image of layers is named docker://{name}"))
        })?;
        Ok(match &self.store {
            Some(store) => self.named(store, Stored::Blob, &blob.digest.hex(), blob.file),
            None => unnamed(blob.file),
        })
    }

    /// An image of this machine that is no SIF.
    fn local(&self, reference: &Reference, progress: &Progress) -> Result<OciImage> {
        match reference {
            Reference::DockerDaemon(name) => {
                let saved = transfers(self.global, progress, || {
                    daemon::save(name, self.docker.as_deref(), &self.scratch, progress)
                })?;
                let called = reference.to_string();
                archive::of_file(saved, called.as_ref(), None, (&self.platform, &self.scratch))
            }
            _ => local::open(reference, &self.platform, &self.scratch),
        }
    }

    /// The image with this manifest as it is in the cache, or converted from its parts.
    fn converted(
        &self,
        manifest: &Digest,
        reference: &Reference,
        parts: impl FnOnce() -> Result<OciImage>,
    ) -> Result<Sif> {
        let key = image_key(manifest);
        if let Some(found) = self.found(&key) {
            return Ok(found);
        }
        // Who waits for another's conversion need not fetch its parts.
        let lock = self.store.as_ref().map(|store| (store, store.lock(&key, &|| self.waits(reference))));
        if let Some(found) = self.found(&key) {
            return Ok(found);
        }
        if let Some((store, lock)) = &lock {
            store.sweep(&key, lock);
        }
        self.convert(&parts()?, reference, &key)
    }

    fn found(&self, key: &str) -> Option<Sif> {
        let store = self.store.as_ref()?;
        let file = store.find(Stored::Image, key, None)?;
        Some(self.named(store, Stored::Image, key, file))
    }

    fn named(&self, store: &Store, kind: Stored, key: &str, file: File) -> Sif {
        let path = store.path(kind, key);
        // Not there where the cache could not be written to.
        if path.exists() { Sif { path, file } } else { unnamed(file) }
    }

    /// Converts an image into the cache; into a file without a name where there is none, or no room in it.
    fn convert(&self, image: &OciImage, reference: &Reference, key: &str) -> Result<Sif> {
        catch_stop();
        let made = self.converted_anew(image, reference, key);
        // What comes next is ended by Ctrl-C as ever.
        release_stop();
        match made {
            // Whatever the stop made fail first.
            Err(error) if STOP.load(Ordering::Relaxed) => {
                Err(Error::new(Kind::Interrupted, "stopped").because(error))
            }
            _ if STOP.load(Ordering::Relaxed) => Err(Error::new(Kind::Interrupted, "stopped")),
            made => made,
        }
    }

    fn converted_anew(&self, image: &OciImage, reference: &Reference, key: &str) -> Result<Sif> {
        let args = BuildArgs::plain(PathBuf::from(reference.file_name()));
        let from = reference.to_string();
        let write = |file: &File| convert::write(image, &from, file, &args, self.global);
        if let Some(store) = &self.store {
            match store.begin(key, false) {
                Ok(new) => match write(&new.file) {
                    Ok(packed) => {
                        packed.warnings.lines().for_each(|line| warn(self.global, line));
                        match store.finish(new, Stored::Image, key) {
                            Ok(file) => {
                                store.describe(key, &About { from });
                                return Ok(self.named(store, Stored::Image, key, file));
                            }
                            Err(error) => self.without_cache(store, &error),
                        }
                    }
                    Err(error) => match error.errno().map(io::Error::from_raw_os_error).filter(is_unwritable)
                    {
                        Some(io) => {
                            drop(new);
                            self.without_cache(store, &io);
                        }
                        None => return Err(error),
                    },
                },
                Err(error) => self.without_cache(store, &error),
            }
        }
        let file = self.temporary_file()?;
        let packed = write(&file).map_err(|error| self.explain(error))?;
        packed.warnings.lines().for_each(|line| warn(self.global, line));
        Ok(unnamed(file))
    }

    fn without_cache(&self, store: &Store, error: &io::Error) {
        if let Some(text) = store.give_up(error) {
            warn(self.global, &text);
        }
    }

    fn waits(&self, reference: &Reference) {
        note(self.global, &format!("waiting for another skiff that makes an image of {reference}"));
    }
}

/// What a converted image is found by.
fn image_key(manifest: &Digest) -> String {
    // What it is made of may have no later times than that.
    let epoch = std::env::var("SOURCE_DATE_EPOCH").unwrap_or_default();
    hex_of(&format!("conversion {CONVERSION} of {manifest} {epoch}"))
}

/// A file without a name is opened by that of its descriptor, which stays open for that until the process ends.
fn unnamed(file: File) -> Sif {
    let kept = file.try_clone().map_or_else(|_| file.as_raw_fd(), IntoRawFd::into_raw_fd);
    Sif { path: PathBuf::from(format!("/proc/self/fd/{kept}")), file }
}

/// Where files without a name are made.
fn scratch_of(host: &Host) -> PathBuf {
    let set = host.setting("TMPDIR").map(|(_, value)| PathBuf::from(value));
    let set = set.or_else(|| host.variable("TMPDIR").filter(|value| !value.is_empty()).map(PathBuf::from));
    set.unwrap_or_else(|| PathBuf::from("/var/tmp"))
}

fn user_registries(host: &Host) -> Option<PathBuf> {
    let set = host.variable("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    Some(set.or_else(|| Some(home(host)?.join(".config")))?.join("containers/registries.conf"))
}
