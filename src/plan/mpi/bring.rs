//! What comes along with the host's MPI.
//!
//! ```text
//! its library          over every libmpi of that interface in the image
//! bindings             Fortran's, C++'s, where the image has them
//! what they need       a part of the MPI or the fabric (PARTS): the host's, over the image's where it has one, since plugins and
//!                      library must be of one build; anything else: the image's, if it does, else the host's
//! plugins and data     directories beside the libraries, at the same path (BESIDE, DATA)
//! what plugins need    the same way; what lacks something there is left out with a reason, and its plugin stays unused
//! devices              of the fabrics, for a container with a /dev of its own
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::decide::{Verdict, refused};
use super::glibc::Glibc;
use super::library::{BINDINGS, Family, Mpi, NAMES};
use crate::elf::check::{is_libc, missing_versions, unmet};
use crate::elf::{Library, Place};
use crate::error::Result;
use crate::host::Host;
use crate::plan::Because;
use crate::plan::inject::{Injection, Place as Where};

/// Libraries that are parts of an MPI or of a fabric, by the beginnings of their names.
const PARTS: &[&str] = &[
    "libmpi",
    "libopen-pal",
    "libopen-rte",
    "libprrte",
    "liboshmem",
    "libmca_common",
    "libompi",
    "libpmix",
    "libpmi",
    "libucp",
    "libuct",
    "libucs",
    "libucm",
    "libfabric",
    "libpsm",
    "libibverbs",
    "librdmacm",
    "libmlx",
    "libefa",
    "libcxi",
    "libxpmem",
    "libknem",
    "libhcoll",
    "libsharp",
    "libugni",
    "libdmapp",
    "libtorque",
];
/// Directories with plugins, beside the library of that name: the directory's name, from where the library is.
const BESIDE: &[(&str, &str)] = &[
    ("libmpi.so.40", "openmpi"),
    ("libopen-pal", "openmpi"),
    ("libprrte", "prrte"),
    ("libpmix", "pmix"),
    ("libucs", "ucx"),
    ("libfabric", "libfabric"),
    ("libibverbs", "libibverbs"),
    ("libhwloc", "hwloc"),
];
/// Files and directories with settings and texts, by the library that reads them.
const DATA: &[(&str, &str)] = &[
    ("libmpi.so.40", "/etc/openmpi"),
    ("libmpi.so.40", "/usr/share/openmpi"),
    ("libmpi.so.40", "/usr/share/prte"),
    ("libmpich", "/etc/mpich.conf"),
    ("libpmix", "/etc/pmix-mca-params.conf"),
    ("libpmix", "/usr/share/pmix"),
    ("libucs", "/etc/ucx"),
    ("libfabric", "/etc/libfabric.conf"),
    ("libibverbs", "/etc/libibverbs.d"),
];
/// Devices of fabrics, by the beginnings of their names in /dev.
const DEVICES: &[&str] = &["infiniband", "cxi", "xpmem", "knem", "hfi1", "kgni", "kdreg", "gdrdrv", "ipath"];
/// Variables that name more of it, passed on as they are.
const PASSED: &[&str] = &["FI_PROVIDER_PATH", "OPAL_PREFIX", "UCX_MODULE_DIR", "PMIX_INSTALL_PREFIX"];
/// No MPI has as many plugins.
const MAX_PLUGINS: usize = 2000;

/// The libraries of the host that are taken, by the name that others need them by.
pub struct Taken<'a, 'h> {
    pub(super) host: &'a Host,
    pub(super) of_host: &'a Place<'h>,
    pub(super) of_image: &'a Place<'h>,
    pub(super) because: &'a Because,
    more: &'a [PathBuf],
    /// The host's C library may come along.
    glibc: bool,
    chosen: BTreeMap<String, Rc<Library>>,
    /// What is brought in.
    pub injection: Injection,
}

/// The host, and both places of libraries.
pub type Places<'a, 'h> = (&'a Host, &'a Place<'h>, &'a Place<'h>);

/// Decides what is brought in; the verdict says no where the library cannot be loaded there.
pub fn bring(mpi: &Mpi, mut taken: Taken<'_, '_>, mut verdict: Verdict) -> Result<(Verdict, Injection)> {
    let starts = taken.take_library(mpi)?;
    let core = taken.take_needs(&starts)?;
    if let Some(why) = taken.settle(&starts, &core, &mut verdict.notes)? {
        return Ok((refused(why, REBUILT), Injection::default()));
    }
    taken.take_prefix(mpi);
    taken.take_plugins()?;
    taken.take_data_and_devices();
    let mut injection = taken.injection;
    for name in PASSED {
        if let Some(value) = taken.host.variable(name) {
            injection.set(name, value.as_encoded_bytes());
        }
    }
    Ok((verdict, injection))
}

const REBUILT: &str = "use an image of a newer distribution, or an MPI of the host that was built for an older one \
    (--mpi=PATH); or bring the host's newer C library along: --mpi-glibc; or leave --mpi out, so that the image's own MPI \
    is used (docs/mpi.md)";

impl<'a, 'h> Taken<'a, 'h> {
    /// Nothing yet.
    pub fn new(places: Places<'a, 'h>, because: &'a Because, more: &'a [PathBuf]) -> Self {
        let (host, of_host, of_image) = places;
        let (chosen, injection) = (BTreeMap::new(), Injection::default());
        Self { host, of_host, of_image, because, more, glibc: false, chosen, injection }
    }

    /// The same, with the host's C library if it may come along.
    pub fn with_glibc(self, glibc: bool) -> Self {
        Self { glibc, ..self }
    }

    /// What one of these misses in the container, in a sentence: after the host's C library has come along, where it may
    /// and helps. What came of that is noted.
    pub fn settle(
        &mut self,
        starts: &[Rc<Library>],
        core: &[Rc<Library>],
        notes: &mut Vec<String>,
    ) -> Result<Option<String>> {
        let Some(why) = self.first_unmet(starts, core)? else {
            if self.glibc {
                notes.push("the image's C library is new enough, so it stays".to_owned());
            }
            return Ok(None);
        };
        let Some(first) = starts.first().filter(|_| self.glibc) else { return Ok(Some(why)) };
        match self.take_glibc(first.elf.platform)? {
            Glibc::Stays(reason) => Ok(Some(format!("{why}; {reason}"))),
            Glibc::Comes(new, old) => {
                notes.push(format!("the host's C library ({new}) takes the place of the image's ({old})"));
                self.first_unmet(starts, core)
            }
        }
    }

    /// The library, and its bindings where the image has some.
    fn take_library(&mut self, mpi: &Mpi) -> Result<Vec<Rc<Library>>> {
        let same = NAMES.iter().filter(|(name, family)| {
            *family == mpi.family && (mpi.family != Family::Standard || *name == mpi.library.name())
        });
        let names: Vec<&str> = same.map(|(name, _)| *name).collect();
        self.take_as(&names, &mpi.library)?;
        let mut starts = vec![mpi.library.clone()];
        for row in BINDINGS {
            let fits = row.iter().any(|name| match mpi.family {
                Family::OpenMpi => name.ends_with(".so.40"),
                Family::Mpich => name.ends_with(".so.12"),
                _ => false,
            });
            let platform = mpi.library.elf.platform;
            let mut there = Vec::new();
            for name in row.iter().filter(|_| fits) {
                there.extend(self.of_image.all(name, platform, self.more)?);
            }
            if there.is_empty() {
                continue;
            }
            let beside = mpi.library.path.parent().unwrap_or(Path::new("/"));
            let mut found = None;
            for name in *row {
                found = match found {
                    Some(found) => Some(found),
                    None => match self.of_host.library(&beside.join(name))? {
                        Some(library) => Some(library),
                        None => self.of_host.find(name, platform, Some(&mpi.library))?,
                    },
                };
            }
            match found {
                Some(library) => {
                    self.take_as(row, &library)?;
                    starts.push(library);
                }
                None => {
                    self.injection.leave_out(row[0], "the host has none, so the image's stays", self.because)
                }
            }
        }
        Ok(starts)
    }

    /// A library of the host over the image's of that name.
    pub fn take_named(&mut self, name: &str, library: &Rc<Library>) -> Result<()> {
        self.take_as(&[name], library)
    }

    /// Puts a library of the host over every one of the image with one of these names; among the libraries by its own
    /// name where the image has none.
    fn take_as(&mut self, names: &[&str], library: &Rc<Library>) -> Result<()> {
        let own = library.name();
        let mut over = false;
        for name in names.iter().copied().chain([own.as_str()]) {
            for there in self.of_image.all(name, library.elf.platform, self.more)? {
                self.injection.add(&library.real, Where::Over(there.real.clone()), self.because);
                over |= name == own;
            }
            self.chosen.entry(name.to_owned()).or_insert_with(|| library.clone());
        }
        if !over {
            self.injection.add(&library.real, Where::Library(own), self.because);
        }
        Ok(())
    }

    /// Decides where each library comes from that these need. Gives those that come from the host.
    pub fn take_needs(&mut self, starts: &[Rc<Library>]) -> Result<Vec<Rc<Library>>> {
        let of_host = self.of_host;
        let mut core = Vec::new();
        // Parts first, and what they need from the host then; an image's own library brings its own needs.
        let mut ahead: Vec<Rc<Library>> = starts.to_vec();
        while let Some(library) = ahead.pop() {
            for name in &library.elf.needed {
                if is_libc(name) || self.chosen.contains_key(name) {
                    continue;
                }
                let Some(found) = of_host.find(name, library.elf.platform, Some(&library))? else { continue };
                if !is_part(name) && self.image_serves(name, &library, &found)? {
                    continue;
                }
                self.take_as(&[name], &found)?;
                core.push(found.clone());
                ahead.push(found);
            }
        }
        Ok(core)
    }

    /// Whether the image's own library of that name does for `by`: it has the versions, or, where there are none, all the
    /// functions of the host's.
    fn image_serves(&self, name: &str, by: &Library, on_host: &Library) -> Result<bool> {
        let Some(own) = self.of_image.find(name, by.elf.platform, None)? else { return Ok(false) };
        let required = by.elf.requires.iter().find(|required| required.library == name);
        if let Some(required) = required
            && !own.elf.defines.is_empty()
        {
            return Ok(missing_versions(&required.versions, &own.elf).is_empty());
        }
        let has = self.of_image.symbols(&own, |_| true)?.defined;
        let wanted = self.of_host.symbols(by, |_| true)?.undefined;
        let gives = self.of_host.symbols(on_host, |symbol| wanted.contains(symbol))?.defined;
        Ok(gives.is_subset(&has))
    }

    /// What one of these misses in the container, in a sentence.
    pub fn first_unmet(&self, starts: &[Rc<Library>], core: &[Rc<Library>]) -> Result<Option<String>> {
        for library in starts.iter().chain(core) {
            if let Some(missing) = self.missing(library)? {
                return Ok(Some(missing));
            }
        }
        Ok(None)
    }

    fn missing(&self, library: &Library) -> Result<Option<String>> {
        let provider = |name: &str| self.chosen.get(name).cloned();
        Ok(unmet(library, self.of_image, &provider)?.first().map(ToString::to_string))
    }

    /// An MPI with a prefix of its own comes whole: whatever it looks for is there.
    fn take_prefix(&mut self, mpi: &Mpi) {
        let Some(prefix) = own_prefix(&mpi.library.real) else { return };
        self.injection.items.retain(|item| item.place != Where::Same || !item.source.starts_with(&prefix));
        self.injection.add(prefix, Where::Same, self.because);
    }

    /// The directories of plugins, and what the plugins need; and the plugins of that.
    pub fn take_plugins(&mut self) -> Result<()> {
        let mut done: Vec<PathBuf> = Vec::new();
        while let Some(directory) = self.plugin_directories().into_iter().find(|one| !done.contains(one)) {
            self.take_directory(&directory)?;
            done.push(directory);
        }
        Ok(())
    }

    fn plugin_directories(&self) -> Vec<PathBuf> {
        let mut directories = Vec::new();
        for library in self.chosen.values() {
            let name = library.name();
            for (_, below) in BESIDE.iter().filter(|(of, _)| name.starts_with(of)) {
                let parents = [library.real.parent(), library.path.parent()].into_iter().flatten();
                directories.extend(parents.map(|parent| parent.join(below)));
            }
        }
        directories.retain(|path| self.host.look(path).is_ok_and(|seen| seen.directory));
        // /lib may be a link to /usr/lib.
        let real = |path: PathBuf| self.host.follow(&path).unwrap_or(path);
        let mut directories: Vec<PathBuf> = directories.into_iter().map(real).collect();
        directories.dedup();
        directories
    }

    /// A directory of plugins, and what they need.
    pub fn take_directory(&mut self, directory: &Path) -> Result<()> {
        let mut plugins = Vec::new();
        list_plugins(self.host, directory, 3, &mut plugins);
        let shown = |path: &Path| {
            self.injection
                .items
                .iter()
                .any(|item| item.place == Where::Same && path.starts_with(&item.source))
        };
        if !shown(directory) {
            self.injection.add(directory, Where::Same, self.because);
        }
        // What the image has below it is covered.
        self.injection.items.retain(|item| match &item.place {
            Where::Over(target) => !target.starts_with(directory),
            _ => true,
        });
        for path in plugins {
            let Some(plugin) = self.of_host.library(&path)? else { continue };
            let before = (self.chosen.clone(), self.injection.items.len());
            let core = self.take_needs(std::slice::from_ref(&plugin))?;
            let missing = self.first_unmet(std::slice::from_ref(&plugin), &core)?;
            if let Some(missing) = missing {
                self.chosen = before.0;
                self.injection.items.truncate(before.1);
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                self.injection.leave_out(name, missing, self.because);
            }
        }
        Ok(())
    }

    /// Settings, texts, and the fabric's devices.
    pub fn take_data_and_devices(&mut self) {
        let names: Vec<String> = self.chosen.values().map(|library| library.name()).collect();
        for (of, path) in DATA {
            if names.iter().any(|name| name.starts_with(of)) && self.host.look(Path::new(path)).is_ok() {
                self.injection.add(*path, Where::Same, self.because);
            }
        }
        for device in fabric_devices(self.host) {
            self.injection.add(device, Where::Device, self.because);
        }
    }
}

/// The devices of fabrics, and those by which ranks share memory.
pub fn fabric_devices(host: &Host) -> Vec<PathBuf> {
    let names = host.names(Path::new("/dev"), "");
    let of_fabric = names.iter().filter(|name| DEVICES.iter().any(|device| name.starts_with(device)));
    of_fabric.map(|name| Path::new("/dev").join(name)).collect()
}

fn is_part(name: &str) -> bool {
    PARTS.iter().any(|part| name.starts_with(part))
}

/// The prefix of an MPI that is not among the system's libraries.
fn own_prefix(library: &Path) -> Option<PathBuf> {
    let directory = library.parent()?;
    let system = ["/usr/lib", "/lib", "/usr/lib64", "/lib64"];
    let apart = directory.components().any(|part| {
        part.as_os_str().to_str().is_some_and(|part| ["openmpi", "mpich", "mvapich2"].contains(&part))
    });
    if system.iter().any(|system| directory.starts_with(system)) && !apart {
        return None;
    }
    let mut prefix = directory;
    while prefix.file_name().is_some_and(|name| {
        let name = name.to_string_lossy();
        name == "lib" || name == "lib64" || name == "release" || name.ends_with("-linux-gnu")
    }) {
        prefix = prefix.parent()?;
    }
    // A tree of another root, or a file that lies about.
    let whole = ["/", "/usr", "/usr/local", "/opt", "/home", "/tmp", "/var/tmp"];
    let usual = prefix.file_name().is_none_or(|name| name == "usr");
    (!usual && !whole.iter().any(|path| prefix == Path::new(path)) && prefix != directory)
        .then(|| prefix.to_owned())
}

/// Shared objects below a directory of the host.
fn list_plugins(host: &Host, directory: &Path, depth: usize, out: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(host.real(directory)) else { return };
    let mut entries: Vec<_> = entries.flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = directory.join(entry.file_name());
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth > 1 {
            list_plugins(host, &path, depth - 1, out);
        } else if kind.is_file() && path.extension().is_some_and(|end| end == "so") && out.len() < MAX_PLUGINS
        {
            out.push(path);
        }
    }
}
