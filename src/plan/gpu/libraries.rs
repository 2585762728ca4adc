//! Which libraries of the host a list means.
//!
//! ```text
//! driver       every NAME.so.VERSION beside the loader's libraries, VERSION that of the kernel module
//! libraries    by name, from the loader's cache
//! missing      the same; of a group of which the image has something, nothing
//! ```
//!
//! The first line of the cache is not taken as it comes: hosts have libraries of several classes, and of several
//! drivers.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::super::inject::LIBRARIES;
use super::super::{Because, asked};
use super::bringing::{Bringing, Candidate, real};
use super::lists::List;
use crate::elf::Platform;
use crate::error::{Error, Result};
use crate::host::gpu::{fits, is_version, matching};

/// The library by which a driver is known.
const CUDA: &str = "libcuda.so.1";
/// Directories below those of the loader that drivers use.
const BELOW: [&str; 2] = ["vdpau", "nvidia/current"];

/// What was found of a driver.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The version of the libraries that were brought.
    pub version: Option<String>,
    /// How many libraries of the driver there are.
    pub libraries: usize,
}

impl Bringing<'_> {
    /// Brings the libraries of a list. `module` is the version of the kernel's module.
    ///
    /// # Errors
    /// The image cannot be read.
    pub fn add_libraries(&mut self, list: &List, module: Option<&str>, because: &Because) -> Result<Found> {
        let mut found = Found::default();
        for platform in self.platforms.clone() {
            if !list.driver.is_empty() {
                let (version, candidates) = self.driver(list, module, platform)?;
                found.libraries += candidates.len();
                found.version = found.version.or(version);
                self.bring(candidates, true, because)?;
            }
            let named = self.by_names(&list.libraries, list, platform)?;
            found.libraries += named.len();
            self.bring(named, true, because)?;
            for group in &list.missing {
                let named = self.by_names(group, list, platform)?;
                self.bring_missing(named, platform, because)?;
            }
        }
        Ok(found)
    }

    /// Brings a group of libraries, unless the image has one of them: those of one group belong together.
    fn bring_missing(&mut self, group: Vec<Candidate>, platform: Platform, because: &Because) -> Result<()> {
        for candidate in &group {
            for name in &candidate.names {
                if let Some(own) = self.images.find(name, platform, None)? {
                    let why = format!("the image has {} of its own", own.path.display());
                    for candidate in &group {
                        self.injection.leave_out(candidate.library.name(), why.clone(), because);
                    }
                    return Ok(());
                }
            }
        }
        self.bring(group, false, because)
    }

    /// The libraries of the driver, and their version: the kernel module's, or else that of the host's libcuda.
    fn driver(
        &self,
        list: &List,
        module: Option<&str>,
        platform: Platform,
    ) -> Result<(Option<String>, Vec<Candidate>)> {
        let directories = self.directories(list);
        if let Some(module) = module {
            let found = self.of_version(list, module, platform, &directories)?;
            if !found.is_empty() {
                return Ok((Some(module.to_owned()), found));
            }
        }
        let mut known = list.directories.iter().map(|directory| Path::new(directory).join(CUDA));
        let cuda = known.find_map(|path| self.hosts.library(&path).ok()?);
        let cuda = match cuda.filter(|cuda| cuda.elf.platform == platform) {
            Some(cuda) => Some(cuda),
            None => self.hosts.find(CUDA, platform, None)?,
        };
        let name = cuda.as_ref().and_then(|cuda| cuda.real.file_name()).and_then(OsStr::to_str);
        let version = name.and_then(|name| name.strip_prefix("libcuda.so.")).filter(|text| is_version(text));
        match version {
            None => Ok((None, Vec::new())),
            Some(version) => {
                let found = self.of_version(list, version, platform, &directories)?;
                Ok((Some(version.to_owned()), found))
            }
        }
    }

    /// Whether the host has libcuda, for whatever processor; or was given it, where it is a container itself.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn has_cuda(&self, list: &List) -> Result<bool> {
        let named = list.directories.iter().map(String::as_str).chain([LIBRARIES]);
        let mut named = named.map(|directory| Path::new(directory).join(CUDA));
        if named.any(|path| self.host.look(&path).is_ok()) {
            return Ok(true);
        }
        for platform in &self.platforms {
            if self.hosts.find(CUDA, *platform, None)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Where the host's libraries are: what the list names, then the loader's, and what drivers put below those.
    fn directories(&self, list: &List) -> Vec<PathBuf> {
        let named = list.directories.iter().map(PathBuf::from);
        let places =
            named.chain(self.hosts.cache.directories.iter().cloned()).chain(self.hosts.own.iter().cloned());
        let mut seen = BTreeSet::new();
        places
            .flat_map(|place| {
                let below: Vec<PathBuf> = BELOW.iter().map(|name| place.join(name)).collect();
                std::iter::once(place).chain(below)
            })
            // /lib is /usr/lib on most hosts.
            .filter(|place| seen.insert(real(self.host, place)))
            .collect()
    }

    fn of_version(
        &self,
        list: &List,
        version: &str,
        platform: Platform,
        directories: &[PathBuf],
    ) -> Result<Vec<Candidate>> {
        let mut found: Vec<Candidate> = Vec::new();
        for directory in directories {
            for path in matching(self.host, &directory.join(format!("*.so.{version}"))) {
                let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let base = file.strip_suffix(&format!(".{version}")).unwrap_or(&file).to_owned();
                let wanted =
                    list.driver.iter().any(|pattern| fits(&base, pattern)) && !list.leaves_out(&base);
                let Some(library) = self.hosts.library(&path)?.filter(|_| wanted) else { continue };
                let name = library.name();
                let known = found.iter().any(|other| other.names.contains(&name));
                if library.elf.platform != platform || known {
                    continue;
                }
                // Programs that were linked in a hurry ask for libcuda.so.
                let plain = directory.join(&base);
                let linked = self.host.look(&plain).is_ok() && real(self.host, &plain) == library.real;
                let names = std::iter::once(name).chain(linked.then_some(base)).collect();
                found.push(Candidate { library, names });
            }
        }
        Ok(found)
    }

    /// The libraries of these names, each file once, with all the names that lead to it.
    fn by_names(&self, patterns: &[String], list: &List, platform: Platform) -> Result<Vec<Candidate>> {
        let mut found: Vec<Candidate> = Vec::new();
        for name in self.names(patterns, list) {
            let named = |directory: &String| self.hosts.library(&Path::new(directory).join(&name)).ok()?;
            let first =
                list.directories.iter().filter_map(named).find(|library| library.elf.platform == platform);
            let Some(library) = (match first {
                Some(library) => Some(library),
                None => self.hosts.find(&name, platform, None)?,
            }) else {
                continue;
            };
            // Nobody asks for libdrm.so.2.4.0.
            let asked_for = (name == library.name() || name.ends_with(".so")).then_some(name);
            match found.iter_mut().find(|other| other.library.real == library.real) {
                Some(other) => other.names.extend(asked_for),
                None => {
                    let names = std::iter::once(library.name()).chain(asked_for).collect();
                    found.push(Candidate { library, names });
                }
            }
        }
        Ok(found)
    }

    /// The names of libraries, with their versions, that patterns without a version mean.
    fn names(&self, patterns: &[String], list: &List) -> BTreeSet<String> {
        let base = |name: &str| name.find(".so").map(|at| name[..at + 3].to_owned());
        let means = |name: &str| {
            let base = base(name).filter(|base| name == base || name[base.len()..].starts_with('.'));
            base.is_some_and(|base| {
                patterns.iter().any(|pattern| fits(&base, pattern)) && !list.leaves_out(&base)
            })
        };
        if patterns.is_empty() {
            return BTreeSet::new();
        }
        let cached = self.hosts.cache.entries.keys().cloned();
        let named = list.directories.iter().map(PathBuf::from);
        // Without a cache the loader looks into its own directories.
        let own = self.hosts.own.iter().filter(|_| self.hosts.cache.entries.is_empty()).cloned();
        let listed = named.chain(own).flat_map(|directory| {
            let files = matching(self.host, &directory.join("*.so*"));
            files.into_iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        });
        cached.chain(listed).filter(|name| means(name)).collect()
    }

    /// In a container: what that one was given by its caller, which no cache lists.
    ///
    /// # Errors
    /// The image cannot be read.
    pub fn add_inherited(&mut self, because: &Because) -> Result<()> {
        let (mut drivers, mut others) = (Vec::new(), Vec::new());
        for path in matching(self.host, &Path::new(LIBRARIES).join("*.so*")) {
            let Some(library) = self.hosts.library(&path)? else { continue };
            if library.elf.platform != self.platforms[0] {
                continue;
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let of_driver = ["libcuda", "libnv", "libGLX_nvidia", "libEGL_nvidia", "libGLES"];
            let of_driver = of_driver.iter().any(|start| name.starts_with(start)) || name.contains("nvidia");
            let candidate = Candidate { library, names: BTreeSet::from([name]) };
            if of_driver { drivers.push(candidate) } else { others.push(candidate) }
        }
        self.bring(drivers, true, because)?;
        for other in others {
            let platform = other.library.elf.platform;
            self.bring_missing(vec![other], platform, because)?;
        }
        Ok(())
    }

    /// Brings libraries that were asked for by name.
    ///
    /// # Errors
    /// There is none of that name, or it is none for the image.
    pub fn add_named(&mut self, libraries: &[(OsString, Because)]) -> Result<()> {
        let mut candidates: BTreeMap<String, (Candidate, Because)> = BTreeMap::new();
        for (asked_for, because) in libraries {
            let tried = || format!("cannot bring in the library {asked_for:?} ({})", because.origin());
            let text = asked_for.to_string_lossy();
            let library = match text.contains('/') {
                true => self.hosts.library(&asked::host_path(Path::new(asked_for), self.host, because)?)?,
                false => self.hosts.find(&text, self.platforms[0], None)?,
            };
            let Some(library) = library else {
                return Err(Error::usage(tried())
                    .because("the host has no such library")
                    .hint("give its path, or a name that ldconfig -p lists"));
            };
            if library.elf.platform != self.platforms[0] {
                return Err(
                    Error::usage(tried()).because("it is for another processor than the image's programs")
                );
            }
            let file = library.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let names = BTreeSet::from([file, library.name()]);
            candidates.insert(library.name(), (Candidate { library, names }, because.clone()));
        }
        let Some((_, because)) = candidates.values().next().cloned() else { return Ok(()) };
        self.bring(candidates.into_values().map(|(candidate, _)| candidate).collect(), false, &because)
    }
}
