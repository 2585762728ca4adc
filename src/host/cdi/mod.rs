//! The devices that this host describes for containers, in files of the Container Device Interface.
//!
//! ```text
//! /etc/cdi/*.json, *.yaml          the site's
//! /var/run/cdi/*.json, *.yaml      of the system's services: beats the former device by device
//! ```
//!
//! Of several directories the later counts more. Two files of one directory that describe a device of one name are
//! a conflict: neither counts, and whoever asks for the device is told. A file that cannot be used hinders nobody who
//! asks for devices of others.

pub mod check;
pub mod spec;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use self::check::{check, check_kind, check_name};
use self::spec::{Edits, Spec};
use super::Host;
use crate::error::{Error, Result};

/// Where files are looked for, the one that counts more last.
pub const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// No file is larger: one for a node with many GPUs has 100 KiB.
const MAX_BYTES: u64 = 4 << 20;
/// The name that means all devices of a kind, where no file has one of that name.
const ALL: &str = "all";

/// What the files of some directories describe.
#[derive(Debug, Default)]
pub struct Registry {
    /// Where they were looked for.
    pub directories: Vec<PathBuf>,
    /// The files that can be used, in the order in which they count.
    pub files: Vec<(PathBuf, Spec)>,
    /// The files that cannot, and why.
    pub faults: Vec<(PathBuf, String)>,
    /// Each device by kind and name.
    devices: BTreeMap<(String, String), Place>,
}

/// Where a device is described.
#[derive(Debug, Clone)]
struct Place {
    directory: usize,
    file: usize,
    device: usize,
    /// The other files of the same directory that describe one of this name.
    rivals: Vec<usize>,
}

/// A device as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// `vendor.com/class=name`.
    pub name: String,
    /// The file that describes it.
    pub file: PathBuf,
    /// Whether several do.
    pub conflict: bool,
}

/// Reads one file. The name says whether it is JSON or YAML.
///
/// # Errors
/// What is wrong with it, to follow its name.
pub fn parse(text: &str, json: bool) -> Result<Spec, String> {
    let spec: Spec = if json {
        serde_json::from_str(text).map_err(|error| error.to_string())?
    } else {
        serde_yaml::from_str(text).map_err(|error| error.to_string())?
    };
    check(&spec)?;
    Ok(spec)
}

impl Registry {
    /// Reads the files of `directories`; those that are missing have none.
    pub fn load(host: &Host, directories: &[PathBuf]) -> Self {
        let mut registry = Self { directories: directories.to_vec(), ..Self::default() };
        for (number, directory) in directories.iter().enumerate() {
            registry.add_directory(host, number, directory);
        }
        registry
    }

    fn add_directory(&mut self, host: &Host, number: usize, directory: &Path) {
        let entries = match std::fs::read_dir(host.real(directory)) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return,
            Err(error) => return self.faults.push((directory.to_owned(), worded(&error))),
        };
        let mut names: Vec<PathBuf> = entries.flatten().map(|entry| entry.file_name().into()).collect();
        names.sort();
        for name in names {
            let json = match name.extension().and_then(|ending| ending.to_str()) {
                Some("json") => true,
                Some("yaml") => false,
                _ => continue,
            };
            let path = directory.join(name);
            match read(host, &path).and_then(|text| parse(&text, json)) {
                Ok(spec) => self.add_file(number, path, spec),
                Err(fault) => self.faults.push((path, fault)),
            }
        }
    }

    fn add_file(&mut self, directory: usize, path: PathBuf, spec: Spec) {
        let file = self.files.len();
        for (device, described) in spec.devices.iter().enumerate() {
            let place = Place { directory, file, device, rivals: Vec::new() };
            let known = self.devices.entry((spec.kind.clone(), described.name.clone()));
            known
                .and_modify(|known| {
                    if known.directory == directory {
                        known.rivals.push(file);
                    } else {
                        *known = place.clone();
                    }
                })
                .or_insert(place);
        }
        self.files.push((path, spec));
    }

    /// All devices, by name.
    pub fn list(&self) -> Vec<Listed> {
        let listed = |((kind, name), place): (&(String, String), &Place)| Listed {
            name: format!("{kind}={name}"),
            file: self.files[place.file].0.clone(),
            conflict: !place.rivals.is_empty(),
        };
        self.devices.iter().map(listed).collect()
    }

    /// What is done to a container that has these devices: of each file first what all of its devices need.
    ///
    /// # Errors
    /// A name that is none, or that no file describes, or that several do.
    pub fn edits(&self, names: &[String]) -> Result<Edits> {
        let mut edits = Edits::default();
        let (mut files, mut devices) = (Vec::new(), Vec::new());
        for name in names {
            for place in self.find(name)? {
                let spec = &self.files[place.file].1;
                if !files.contains(&place.file) {
                    files.push(place.file);
                    edits.add(&spec.container_edits);
                }
                if !devices.contains(&(place.file, place.device)) {
                    devices.push((place.file, place.device));
                    edits.add(&spec.devices[place.device].container_edits);
                }
            }
        }
        Ok(edits)
    }

    fn find(&self, asked: &str) -> Result<Vec<&Place>> {
        let tried = || format!("cannot use the device {asked:?}");
        let mistake = |fault: String| {
            Error::usage(tried()).because(fault).hint(
                "a device of CDI is called VENDOR/CLASS=NAME, as in nvidia.com/gpu=0; skiff gpu lists those of this host",
            )
        };
        let (kind, name) =
            asked.split_once('=').ok_or_else(|| mistake("it is not VENDOR/CLASS=NAME".to_owned()))?;
        check_kind(kind).and_then(|()| check_name(name)).map_err(mistake)?;
        let of_kind = || self.devices.iter().filter(|((one, _), _)| one == kind);
        if of_kind().next().is_none() {
            return Err(Error::host(tried())
                .because(format!("no file describes {kind} here"))
                .hint(self.where_they_would_be(kind)));
        }
        let found: Vec<&Place> = match self.devices.get(&(kind.to_owned(), name.to_owned())) {
            Some(place) => vec![place],
            None if name == ALL => of_kind().map(|(_, place)| place).collect(),
            None => {
                let names: Vec<&str> = of_kind().map(|((_, name), _)| name.as_str()).collect();
                return Err(Error::usage(tried())
                    .because(format!("{kind} has no device of this name here"))
                    .hint(format!("it has {}", names.join(", "))));
            }
        };
        match found.iter().find(|place| !place.rivals.is_empty()) {
            None => Ok(found),
            Some(place) => {
                let path = |file: &usize| format!("{:?}", self.files[*file].0);
                let files: Vec<String> = [place.file].iter().chain(&place.rivals).map(path).collect();
                Err(Error::host(tried()).because(format!("{} describe it both", files.join(" and "))).hint(
                    "remove one of the files, or name a directory with the other alone: --cdi-dirs DIR",
                ))
            }
        }
    }

    /// How a kind comes to be described.
    fn where_they_would_be(&self, kind: &str) -> String {
        let make = match kind {
            "nvidia.com/gpu" => "as root: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml; or use --nv",
            "amd.com/gpu" => "as root: amd-ctk cdi generate --output=/etc/cdi/amd.json; or use --rocm",
            _ => "the vendor's tools write the file; --cdi-dirs names other directories",
        };
        let mut hint = make.to_owned();
        for (file, fault) in &self.faults {
            hint.push_str(&format!("; {file:?} cannot be used: {fault}"));
        }
        hint
    }
}

/// An operating system's error without its number.
fn worded(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

fn read(host: &Host, path: &Path) -> Result<String, String> {
    let real = host.real(path);
    let text = |error: std::io::Error| worded(&error);
    match std::fs::metadata(&real).map_err(text)? {
        status if !status.is_file() => Err("it is no file".to_owned()),
        status if status.len() > MAX_BYTES => Err(format!("it is larger than {} MiB", MAX_BYTES >> 20)),
        _ => std::fs::read_to_string(&real).map_err(text),
    }
}

#[cfg(test)]
mod tests;
