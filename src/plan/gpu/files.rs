//! Programs, data and devices of the host for accelerators.

use std::path::{Path, PathBuf};

use super::super::Because;
use super::super::inject;
use super::bringing::{Bringing, Libc};
use super::lists::List;
use crate::error::Result;
use crate::host::gpu::matching;

/// Where programs of the host are in a container.
const PROGRAMS: &str = "/usr/bin";
/// Where programs are looked for, on both sides.
const DIRECTORIES: [&str; 7] = [
    "/usr/bin",
    "/usr/sbin",
    "/bin",
    "/sbin",
    "/usr/local/bin",
    "/opt/rocm/bin",
    "/run/current-system/sw/bin",
];
/// As much of a script as says what runs it.
const FIRST_LINE: usize = 256;

impl Bringing<'_> {
    /// Brings the programs of a list.
    ///
    /// # Errors
    /// The image cannot be read.
    pub fn add_programs(&mut self, list: &List, because: &Because) -> Result<()> {
        for name in list.programs.iter().filter(|name| !list.leaves_out(name)) {
            self.add_program(name, because)?;
        }
        for name in list.missing_programs.iter().filter(|name| !list.leaves_out(name)) {
            let own = DIRECTORIES.iter().map(|directory| Path::new(directory).join(name));
            match own.into_iter().find(|path| matches!(self.image.lookup(path), Ok(Some(_)))) {
                Some(own) => {
                    let why = format!("the image has {} of its own", own.display());
                    self.injection.leave_out(name.as_str(), why, because);
                }
                None => self.add_program(name, because)?,
            }
        }
        Ok(())
    }

    fn add_program(&mut self, name: &str, because: &Because) -> Result<()> {
        let of_caller = self.host.variable("PATH").map(std::env::split_paths).into_iter().flatten();
        let directories =
            DIRECTORIES.iter().map(PathBuf::from).chain(of_caller.filter(|path| path.is_absolute()));
        let there = |path: &PathBuf| self.host.look(path).is_ok_and(|seen| !seen.directory);
        let Some(path) = directories.map(|directory| directory.join(name)).find(there) else { return Ok(()) };
        if self.libc == Libc::Musl {
            return Ok(());
        }
        match self.hosts.library(&path)? {
            Some(program) => {
                if let Some(mut unmet) = self.unmet(&program, &[])?.into_iter().next() {
                    name.clone_into(&mut unmet.library);
                    self.leave_out(unmet, because);
                    return Ok(());
                }
            }
            // A script, or what is not for this processor.
            None => match self.interpreter(&path) {
                Some(interpreter) if matches!(self.image.lookup(&interpreter), Ok(Some(_))) => {}
                Some(interpreter) => {
                    let why = format!("it needs {}, which the image does not have", interpreter.display());
                    self.injection.leave_out(name, why, because);
                    return Ok(());
                }
                None => return Ok(()),
            },
        }
        self.injection.add(path, inject::Place::At(Path::new(PROGRAMS).join(name)), because);
        Ok(())
    }

    /// What runs a script of the host.
    fn interpreter(&self, path: &Path) -> Option<PathBuf> {
        let file = self.hosts.open(path).ok()??;
        let length = (file.bytes.size() as usize).min(FIRST_LINE);
        let head = String::from_utf8_lossy(&file.bytes.exact(0, length).ok()?).into_owned();
        let line = head.strip_prefix("#!")?.lines().next()?;
        line.split_whitespace().next().map(PathBuf::from).filter(|path| path.is_absolute())
    }

    /// Brings the files and devices of a list; gives the devices.
    pub fn add_files(&mut self, list: &List, because: &Because) -> Vec<PathBuf> {
        for path in self.found(&list.files, list) {
            self.injection.add(path, inject::Place::Same, because);
        }
        let devices = self.found(&list.devices, list);
        for device in &devices {
            self.injection.add(device.clone(), inject::Place::Device, because);
        }
        self.injection.keep.extend(list.variables.iter().cloned());
        devices
    }

    fn found(&self, patterns: &[String], list: &List) -> Vec<PathBuf> {
        let paths = patterns.iter().flat_map(|pattern| matching(self.host, Path::new(pattern)));
        let there = |path: &PathBuf| self.host.look(path).is_ok();
        paths.filter(there).filter(|path| !list.leaves_out(&path.to_string_lossy())).collect()
    }
}
