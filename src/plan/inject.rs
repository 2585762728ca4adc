//! Files of the host that a feature (`--mpi` and others) brings into a container: the one way in which that is done.
//!
//! ```text
//! Library   /.singularity.d/libs/NAME       a library that the image lacks; images search there last, after their own
//! Over      the image's file, links followed   another library in the place of the image's: whatever way leads to
//!                                           it (RPATH, cache, LD_LIBRARY_PATH), the host's is found
//! Same      the same path                   plugins, data, programs; nothing where the container shows it already
//! At        another path                    programs of a driver; Written the same, and not read-only
//! Device    the same path                   only with a contained /dev: else the host's /dev is there
//! DeviceAt  another path
//! ```
//!
//! A feature decides what is needed, and says of what it leaves out why; it puts a library under `Library` only when
//! the image has none of that name, so the image's own libraries win and no search order changes. Variables beat
//! those of the image and of the host, and lose to those that the caller gives (`--env`). A bind that the caller asks
//! for beats them all.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::env::Override;
use super::mounts::Chosen;
use super::{Because, HostPath, MountKind, TargetKind};
use crate::error::Result;
use crate::host::gpu::fits;
use crate::image::squashfs::FileKind;

/// Where libraries of the host are in every container.
pub const LIBRARIES: &str = "/.singularity.d/libs";

/// Where 32-bit libraries of the host are.
pub const LIBRARIES_32: &str = "/.singularity.d/libs32";

/// Where a file of the host goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Among the libraries, by this name.
    Library(String),
    /// In the place of this file of the image.
    Over(PathBuf),
    /// The same path.
    Same,
    /// This path.
    At(PathBuf),
    /// This path, where the container may write.
    Written(PathBuf),
    /// The same path, in a `/dev` that has not all of the host's.
    Device,
    /// This path; of a device, so that it can be written.
    DeviceAt(PathBuf),
}

/// A file or directory of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// On the host.
    pub source: PathBuf,
    /// In the container.
    pub place: Place,
    /// Why.
    pub because: Because,
}

impl Item {
    /// Where it is in the container.
    pub fn target(&self) -> PathBuf {
        match &self.place {
            Place::Library(name) => Path::new(LIBRARIES).join(name),
            Place::Over(path) | Place::At(path) | Place::Written(path) | Place::DeviceAt(path) => {
                path.clone()
            }
            Place::Same | Place::Device => self.source.clone(),
        }
    }
}

/// A variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value, literally.
    pub value: Vec<u8>,
}

/// Something that is not brought in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// What.
    pub what: String,
    /// Why, as the end of a sentence: `it needs GLIBC_2.38 of libc.so.6, ...`.
    pub why: String,
    /// For whom it would have been.
    pub because: Because,
}

/// All that is brought into a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Injection {
    /// The files, in order; of two at one place the first stands.
    pub items: Vec<Item>,
    /// The variables.
    pub variables: Vec<Variable>,
    /// Variables of the host that stay outside.
    pub unset: Vec<String>,
    /// Variables of the caller that stay when others do not; `*` stands for any characters.
    pub keep: Vec<String>,
    /// Directories to search for libraries before those of the image.
    pub prepend: Vec<String>,
    /// What is left out.
    pub left_out: Vec<LeftOut>,
    /// What the caller should know.
    pub warnings: Vec<String>,
}

impl Injection {
    /// Adds a file.
    pub fn add(&mut self, source: impl Into<PathBuf>, place: Place, because: &Because) {
        let item = Item { source: source.into(), place, because: because.clone() };
        if !self.items.contains(&item) {
            self.items.push(item);
        }
    }

    /// Sets a variable, unless it is set already.
    pub fn set(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        if !self.variables.iter().any(|variable| variable.name == name) {
            self.variables.push(Variable { name: name.to_owned(), value: value.into() });
        }
    }

    /// Keeps a variable of the host outside.
    pub fn unset(&mut self, name: &str) {
        self.unset.push(name.to_owned());
    }

    /// Notes what is left out.
    pub fn leave_out(&mut self, what: impl Into<String>, why: impl Into<String>, because: &Because) {
        let left_out = LeftOut { what: what.into(), why: why.into(), because: because.clone() };
        if !self.left_out.iter().any(|other| other.what == left_out.what) {
            self.left_out.push(left_out);
        }
    }

    /// Adds what another feature brings in.
    pub fn extend(&mut self, other: Self) {
        self.items.extend(other.items);
        self.variables.extend(other.variables);
        self.unset.extend(other.unset);
        self.keep.extend(other.keep);
        self.prepend.extend(other.prepend);
        self.left_out.extend(other.left_out);
        self.warnings.extend(other.warnings);
    }

    /// Whether a variable of the caller stays when others do not.
    pub fn keeps(&self, name: &[u8]) -> bool {
        std::str::from_utf8(name).is_ok_and(|name| self.keep.iter().any(|pattern| fits(name, pattern)))
    }

    /// Whether something is at [`LIBRARIES`].
    pub fn has_libraries(&self) -> bool {
        self.items.iter().any(|item| matches!(item.place, Place::Library(_)))
    }

    /// Whether something is at [`LIBRARIES_32`].
    pub fn has_narrow_libraries(&self) -> bool {
        self.items.iter().any(|item| item.target().starts_with(LIBRARIES_32))
    }

    /// The variables by name, as text for people and JSON.
    pub fn variables_shown(&self) -> BTreeMap<&str, Cow<'_, str>> {
        let variables = self.variables.iter();
        variables.map(|one| (one.name.as_str(), String::from_utf8_lossy(&one.value))).collect()
    }

    /// The variables as overrides; `evaluated` says that values are read as a shell reads them in double quotes.
    pub fn overrides(&self, evaluated: bool) -> Vec<Override> {
        let value = |value: &[u8]| match evaluated {
            false => value.to_vec(),
            true => value
                .iter()
                .flat_map(|byte| b"\\$`\"".contains(byte).then_some(b'\\').into_iter().chain([*byte]))
                .collect(),
        };
        let make = |variable: &Variable| Override {
            name: variable.name.as_bytes().to_vec(),
            value: value(&variable.value),
        };
        self.variables.iter().map(make).collect()
    }
}

impl Chosen<'_, '_> {
    /// Mounts what is brought in.
    pub(super) fn add_injection(&mut self, injection: &Injection) -> Result<()> {
        if let Some(first) = injection.items.iter().find(|item| matches!(item.place, Place::Library(_))) {
            self.add_place_for_libraries(&first.because)?;
        }
        for item in &injection.items {
            let Item { source, place, because } = item;
            if *place == Place::Device && self.asked.contain.is_none() {
                continue;
            }
            let written = matches!(place, Place::Device | Place::DeviceAt(_) | Place::Written(_));
            self.add_injected(source, &item.target(), written, because)?;
        }
        Ok(())
    }

    /// An empty directory in memory, so that no mount points have to be made in the image or a sandbox; unless the
    /// image has files of its own there.
    fn add_place_for_libraries(&mut self, because: &Because) -> Result<()> {
        let image = self.view.image();
        let directory = Path::new(LIBRARIES);
        let full = match image.lookup(directory) {
            Ok(Some(entry)) if entry.kind == FileKind::Directory => !image.list(directory)?.is_empty(),
            _ => false,
        };
        if full {
            return Ok(());
        }
        self.add_new(directory, MountKind::Tmpfs { mode: 0o755, holds: vec![] }, because)
    }

    fn add_injected(&mut self, source: &Path, target: &Path, written: bool, because: &Because) -> Result<()> {
        // It was seen when this was decided; what has gone meanwhile cannot be mounted.
        let Ok(seen) = self.host.look(source) else { return Ok(()) };
        let spot = match self.view.resolve(target, true) {
            Ok(spot) => spot,
            Err(error) => {
                self.warn(format!(
                    "{target:?} of the host is not in the container ({}): {error}",
                    because.origin()
                ));
                return Ok(());
            }
        };
        // The container shows it already: the home directory holds it, or an earlier item does.
        if self.shows(&spot, &seen) {
            return Ok(());
        }
        if self.view.mounts.iter().any(|mount| mount.target.0 == spot.path) {
            return Ok(());
        }
        let kind = if seen.directory { TargetKind::Directory } else { TargetKind::File };
        if let Some(why) = self.view.refusal(&spot, kind, false) {
            self.warn(format!(
                "{target:?} of the host is not in the container ({}): {why}",
                because.origin()
            ));
            return Ok(());
        }
        let what = MountKind::Bind { source: HostPath(source.to_owned()), read_only: !written };
        self.push(what, spot, because.clone(), false);
        Ok(())
    }
}
