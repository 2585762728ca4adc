//! What each flag brings, as data: `lists.yaml` beside this file, and the site's additions.
//!
//! ```yaml
//! # /etc/skiff/gpu.yaml
//! nv:
//!   files: [/opt/site/cuda-license]
//!   without: [nvidia-debugdump, libnvidia-egl-wayland.so]
//! intel:
//!   missing: [[libze_loader.so], [libze_intel_gpu.so, libigdgmm.so]]
//! ```

use std::path::Path;

use serde::Deserialize;

use crate::config;
use crate::error::{Context, Kind, Result};
use crate::host::Host;
use crate::host::gpu::fits;

/// What comes with skiff.
const DEFAULTS: &str = include_str!("lists.yaml");
/// The site's additions.
pub const SITE_FILE: &str = "/etc/skiff/gpu.yaml";

/// What one flag brings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct List {
    /// Libraries of the driver's version.
    pub driver: Vec<String>,
    /// Libraries in the place of the image's.
    pub libraries: Vec<String>,
    /// Groups of libraries, where the image has none of the group.
    pub missing: Vec<Vec<String>>,
    /// Programs in the place of the image's.
    pub programs: Vec<String>,
    /// Programs where the image has none.
    pub missing_programs: Vec<String>,
    /// Files at the same path.
    pub files: Vec<String>,
    /// Devices.
    pub devices: Vec<String>,
    /// Where libraries are looked for first.
    pub directories: Vec<String>,
    /// Variables that stay.
    pub variables: Vec<String>,
    /// What is not brought.
    pub without: Vec<String>,
}

/// What all flags bring.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lists {
    /// `--nv`.
    pub nv: List,
    /// `--rocm`.
    pub rocm: List,
    /// `--intel`.
    pub intel: List,
    /// `--intel-hpu`.
    pub intel_hpu: List,
}

impl List {
    fn add(&mut self, other: Self) {
        let Self {
            driver,
            libraries,
            missing,
            programs,
            missing_programs,
            files,
            devices,
            directories,
            variables,
            without,
        } = other;
        self.missing.extend(missing);
        for (list, more) in [
            (&mut self.driver, driver),
            (&mut self.libraries, libraries),
            (&mut self.programs, programs),
            (&mut self.missing_programs, missing_programs),
            (&mut self.files, files),
            (&mut self.devices, devices),
            (&mut self.directories, directories),
            (&mut self.variables, variables),
            (&mut self.without, without),
        ] {
            list.extend(more);
        }
    }

    /// Whether a name, or a path, is not to be brought.
    pub fn leaves_out(&self, name: &str) -> bool {
        self.without.iter().any(|pattern| fits(name, pattern))
    }
}

impl Lists {
    /// The lists of this host: skiff's, and what its site adds.
    ///
    /// # Errors
    /// The site's file cannot be read, or is not of this form.
    pub fn load(host: &Host) -> Result<Self> {
        let mut lists: Self = serde_yaml::from_str(DEFAULTS)
            .context(Kind::Internal, || "cannot read the lists of GPU files".to_owned())?;
        let path = host.real(Path::new(SITE_FILE));
        let tried = || format!("cannot read the list of GPU files {SITE_FILE:?}");
        lists.add(config::read(&path, tried).map_err(|error| error.hint("docs/gpu.md tells its form"))?);
        Ok(lists)
    }

    fn add(&mut self, other: Self) {
        let Self { nv, rocm, intel, intel_hpu } = other;
        self.nv.add(nv);
        self.rocm.add(rocm);
        self.intel.add(intel);
        self.intel_hpu.add(intel_hpu);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_adds_and_takes_away_and_is_told_of_mistakes() {
        let place = tempfile::tempdir().unwrap();
        let host = Host::made_up(place.path());
        let plain = Lists::load(&host).unwrap();
        assert!(plain.nv.driver.contains(&"*.so".to_owned()) && plain.nv.leaves_out("libnvidia-gtk3.so"));
        let file = host.real(Path::new(SITE_FILE));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "# nothing yet\n").unwrap();
        assert_eq!(Lists::load(&host).unwrap(), plain);
        std::fs::write(
            &file,
            "intel:\n  missing: [[libze_loader.so]]\nnv:\n  without: [nvidia-debug*]\n  files: [/opt/x]\n",
        )
        .unwrap();
        let lists = Lists::load(&host).unwrap();
        assert_eq!(lists.intel.missing, [["libze_loader.so"]]);
        assert!(lists.nv.leaves_out("nvidia-debugdump") && !lists.nv.leaves_out("nvidia-smi"));
        assert_eq!(lists.nv.files.last().unwrap(), "/opt/x");
        assert_eq!(lists.nv.files.len(), plain.nv.files.len() + 1);
        for (mistake, line) in [("nv:\n  librarys: [x]\n", 2), ("nvidia: {}\n", 1)] {
            std::fs::write(&file, mistake).unwrap();
            let error = Lists::load(&host).unwrap_err();
            let text = format!("{error} {:?}", error.hint);
            let parts = [format!("gpu.yaml\": line {line}: "), "unknown field".into(), "docs/gpu.md".into()];
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
    }

    #[test]
    fn names_of_the_lists_are_what_they_are_taken_for() {
        let lists = Lists::load(&Host::made_up(Path::new("/nonexistent"))).unwrap();
        for list in [&lists.nv, &lists.rocm, &lists.intel, &lists.intel_hpu] {
            let libraries = list.driver.iter().chain(&list.libraries).chain(list.missing.iter().flatten());
            for name in libraries {
                assert!(name.ends_with(".so") && !name.contains('/'), "{name}");
            }
            for path in list.files.iter().chain(&list.devices).chain(&list.directories) {
                assert!(path.starts_with('/'), "{path}");
                assert!(!Path::new(path).parent().unwrap().to_str().unwrap().contains('*'), "{path}");
            }
            for name in list.programs.iter().chain(&list.missing_programs) {
                assert!(!name.contains(['/', '*']), "{name}");
            }
        }
    }
}
