//! Devices of CDI, as a plan has them.
//!
//! ```text
//! env             variables, which beat the image's
//! deviceNodes     the host's node, where the container has a /dev of its own, or another path is asked for
//! mounts          binds; a library has to pass the check first, and is at /.singularity.d/libs, too
//! hooks           what the known ones do (hooks.rs)
//! additionalGids  nothing to do for a group that the caller is in: the kernel keeps it
//! netDevices, intelRdt     not without root: told
//! ```
//!
//! A link is shown as the file that it leads to: the image cannot be written, and who opens it sees no difference.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::super::Because;
use super::super::inject;
use super::super::target::tidy;
use super::bringing::{Bringing, Candidate, Libc};
use super::hooks::{Effect, effect};
use crate::error::{Error, Result};
use crate::host::cdi::spec::{DeviceNode, Edits, Mount};

/// Where an image has a libcuda that is newer than many drivers.
const COMPAT: &str = "/usr/local/cuda/compat";
/// Files of services, which come and go.
const PASSING: [&str; 3] = ["/run/", "/var/run/", "/tmp/"];
/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

impl Bringing<'_> {
    /// Does to the container what files of CDI say of its devices.
    ///
    /// # Errors
    /// Something that they name is not on this host.
    pub fn add_edits(&mut self, edits: &Edits, because: &Because) -> Result<()> {
        let mut variables = BTreeMap::new();
        for variable in &edits.env {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            variables.insert(name, value);
        }
        for (name, value) in variables {
            self.injection.set(name, value);
        }
        for node in &edits.device_nodes {
            self.add_node(node, because)?;
        }
        let mut shown = self.add_mounts(&edits.mounts, because)?;
        for hook in &edits.hooks {
            match effect(hook) {
                Effect::Links(links) => self.add_links(&links, &mut shown, because),
                Effect::Compat(version) => self.prefer_newer_cuda(version.as_deref()),
                // Their libraries are at /.singularity.d/libs.
                Effect::Folders(_) | Effect::Nothing => {}
                Effect::Unknown(name) => self.injection.warnings.push(format!(
                    "the hook {name:?} ({}) is not run: skiff does what it knows of hooks itself, and does not know this one",
                    because.origin()
                )),
            }
        }
        self.tell_of_the_rest(edits, because);
        Ok(())
    }

    fn add_node(&mut self, node: &DeviceNode, because: &Because) -> Result<()> {
        let path = tidy(Path::new(&node.path));
        let source = if node.host_path.is_empty() { path.clone() } else { tidy(Path::new(&node.host_path)) };
        if self.host.look(&source).is_err() {
            return Err(self.gone(&source, because));
        }
        let place = if source == path { inject::Place::Device } else { inject::Place::DeviceAt(path) };
        self.injection.add(source, place, because);
        Ok(())
    }

    /// An error about something that a file names and the host lacks.
    fn gone(&self, path: &Path, because: &Because) -> Error {
        Error::host(format!("cannot use {}: its file names {path:?}, which this host does not have", because.origin()))
            .hint("the file is older than the driver, or the driver is not loaded; as root: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml, or what the vendor has for it")
    }

    /// The mounts; gives what is shown where.
    fn add_mounts(&mut self, mounts: &[Mount], because: &Because) -> Result<BTreeMap<PathBuf, PathBuf>> {
        let mut shown = BTreeMap::new();
        let mut libraries: Vec<(Candidate, PathBuf)> = Vec::new();
        for mount in mounts {
            let target = tidy(Path::new(&mount.container_path));
            if !matches!(mount.kind.as_str(), "" | "none" | "bind") {
                let kind = &mount.kind;
                self.injection.leave_out(
                    target.display().to_string(),
                    format!("its file asks for a file system of type {kind}, and skiff makes binds alone"),
                    because,
                );
                continue;
            }
            let source = tidy(Path::new(&mount.host_path));
            if self.host.look(&source).is_err() {
                if PASSING.iter().any(|start| mount.host_path.starts_with(start)) {
                    let text = source.display().to_string();
                    self.injection.leave_out(text, "this host does not have it now", because);
                    continue;
                }
                return Err(self.gone(&source, because));
            }
            if let Some(library) = self.library_of(&source)? {
                let names = [library.name()].into();
                libraries.push((Candidate { library, names }, target.clone()));
            }
            let written = mount.options.iter().any(|option| option == "rw");
            let place = match written {
                true => inject::Place::Written(target.clone()),
                false => inject::Place::At(target.clone()),
            };
            shown.insert(target, source.clone());
            self.injection.add(source, place, because);
        }
        self.check_mounted(libraries, &mut shown, because)?;
        Ok(shown)
    }

    /// The library that is a file of the host, where it is one that others would need.
    fn library_of(&self, path: &Path) -> Result<Option<std::rc::Rc<crate::elf::Library>>> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.contains(".so") {
            return Ok(None);
        }
        let library = self.hosts.library(path)?;
        Ok(library.filter(|library| self.platforms.contains(&library.elf.platform)))
    }

    /// Brings the libraries that work in the image, by the names that others need them by, and takes the others away.
    fn check_mounted(
        &mut self,
        libraries: Vec<(Candidate, PathBuf)>,
        shown: &mut BTreeMap<PathBuf, PathBuf>,
        because: &Because,
    ) -> Result<()> {
        let all: Vec<Candidate> = libraries.iter().map(|(candidate, _)| candidate.clone()).collect();
        let before = self.injection.left_out.len();
        self.bring(all, false, because)?;
        let out: Vec<String> =
            self.injection.left_out[before..].iter().map(|left_out| left_out.what.clone()).collect();
        for (candidate, target) in libraries {
            let name = candidate.library.name();
            if out.contains(&name) || self.libc == Libc::Musl {
                shown.remove(&target);
                self.injection
                    .items
                    .retain(|item| !matches!(&item.place, inject::Place::At(at) | inject::Place::Written(at) if *at == target));
            } else if let (Some(directory), Some(source)) = (target.parent(), shown.get(&target).cloned()) {
                // What ldconfig would make a link to it.
                shown.entry(directory.join(name)).or_insert(source);
            }
        }
        Ok(())
    }

    /// Shows the files that links lead to.
    fn add_links(
        &mut self,
        links: &[(String, String)],
        shown: &mut BTreeMap<PathBuf, PathBuf>,
        because: &Because,
    ) {
        let mut ahead: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
        for (target, link) in links {
            let link = plain(Path::new(link));
            let target = plain(&link.parent().unwrap_or(Path::new("/")).join(target));
            ahead.insert(link, target);
        }
        for (link, target) in &ahead {
            let mut at = target;
            for _ in 0..MAX_LINKS {
                at = ahead.get(at).unwrap_or(at);
            }
            let node = || (at.starts_with("/dev") && self.host.look(at).is_ok()).then(|| at.clone());
            match shown.get(at).cloned().or_else(node) {
                Some(source) => {
                    let place = match link.starts_with("/dev") {
                        true => inject::Place::DeviceAt(link.clone()),
                        false => inject::Place::At(link.clone()),
                    };
                    shown.insert(link.clone(), source.clone());
                    self.injection.add(source, place, because);
                }
                // What it leads to was left out, or is the image's.
                None => {
                    let why = format!("it would lead to {}, which is not brought in", at.display());
                    self.injection.leave_out(link.display().to_string(), why, because);
                }
            }
        }
    }

    /// Lets the image's own libcuda count, where the image says that it has one for older drivers, and it is newer.
    fn prefer_newer_cuda(&mut self, driver: Option<&str>) {
        let names = self.image.list(Path::new(COMPAT)).unwrap_or_default();
        let version = |name: &str| name.strip_prefix("libcuda.so.")?.split_once('.')?.0.parse::<u32>().ok();
        let newest = names.iter().filter_map(|name| version(name.to_str()?)).max();
        let driver = driver.and_then(|driver| driver.split('.').next()?.parse::<u32>().ok());
        if let (Some(newest), Some(driver)) = (newest, driver)
            && newest > driver
        {
            self.injection.prepend.push(COMPAT.to_owned());
        }
    }

    fn tell_of_the_rest(&mut self, edits: &Edits, because: &Because) {
        let origin = because.origin();
        let mut tell = |text: String| self.injection.warnings.push(text);
        for device in &edits.net_devices {
            tell(format!(
                "the network device {:?} ({origin}) is not moved into the container: it is there without --net",
                device.host_interface_name
            ));
        }
        if edits.intel_rdt.is_some() {
            tell(format!("intelRdt ({origin}) has no effect: shares of caches are for root to give"));
        }
        for gid in &edits.additional_gids {
            if *gid != 0 && *gid != self.host.gid && !self.host.groups.contains(gid) {
                tell(format!(
                    "the group {gid} ({origin}) is not given: you are not in it; the administrator adds you"
                ));
            }
        }
    }
}

/// A path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}
