//! What a libmpi is, by its soname, its file's name and a few of its symbols.
//!
//! ```text
//! soname                            interface   of
//! libmpi.so.40                      Open MPI    Open MPI 3, 4 and 5
//! libmpi.so.12, libmpich.so.12,     MPICH       MPICH since 3.1, Intel MPI, MVAPICH, Cray MPICH (the MPICH ABI
//! libmpi_cray.so.12 ...                         compatibility initiative); libmpi.so.12 with Open MPI's symbols is Open MPI 1.10
//! libmpi_abi.so.0                   MPI ABI     the standard interface of MPI 5
//! ```
//!
//! Open MPI's file says its version: libmpi.so.40.30.4 is 4.1.4 (40.0 is 3.0, 40.10 3.1, 40.20 4.0, 40.30 4.1, 40.40 5.0).

use std::fmt;
use std::rc::Rc;

use crate::elf::{Library, Place};
use crate::error::Result;

/// What programs are compiled against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Open MPI's, since 3.0.
    OpenMpi,
    /// Open MPI's of before 3.0, by its number: no two agree.
    OldOpenMpi(u32),
    /// MPICH's, and of all that keep to it.
    Mpich,
    /// That of the MPI 5 standard.
    Standard,
}

impl fmt::Display for Family {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenMpi => out.write_str("Open MPI"),
            Self::OldOpenMpi(number) => write!(out, "Open MPI before 3.0 (libmpi.so.{number})"),
            Self::Mpich => out.write_str("MPICH"),
            Self::Standard => out.write_str("MPI 5"),
        }
    }
}

/// The names that a libmpi may have, with what they usually are.
pub const NAMES: &[(&str, Family)] = &[
    ("libmpi.so.40", Family::OpenMpi),
    ("libmpich.so.12", Family::Mpich),
    ("libmpi.so.12", Family::Mpich),
    ("libmpi_cray.so.12", Family::Mpich),
    ("libmpi_gnu_123.so.12", Family::Mpich),
    ("libmpi_gnu_112.so.12", Family::Mpich),
    ("libmpi_gnu_91.so.12", Family::Mpich),
    ("libmpi_intel.so.12", Family::Mpich),
    ("libmpi_abi.so.0", Family::Standard),
    ("libmpi_abi.so.1", Family::Standard),
    ("libmpi.so.20", Family::OldOpenMpi(20)),
    ("libmpi.so.1", Family::OldOpenMpi(1)),
    ("libmpi.so.0", Family::OldOpenMpi(0)),
];

/// The libraries with the bindings of other languages: the same name, or one of the same row, is taken.
pub const BINDINGS: &[&[&str]] = &[
    &["libmpi_mpifh.so.40"],
    &["libmpi_usempif08.so.40"],
    &["libmpi_usempi_ignore_tkr.so.40"],
    &["libmpi_mpifh-gfortran.so.40"],
    &["libmpi_usempif08-gfortran.so.40"],
    &["libmpi_usempi_ignore_tkr-gfortran.so.40"],
    &["libmpi_cxx.so.40"],
    &["liboshmem.so.40"],
    &["libmpifort.so.12", "libmpichfort.so.12", "libmpichf90.so.12", "libmpifort_cray.so.12"],
    &["libmpicxx.so.12", "libmpichcxx.so.12"],
];

/// A libmpi of a host or an image.
#[derive(Debug, Clone)]
pub struct Mpi {
    /// What programs see of it.
    pub family: Family,
    /// Who made it: `Open MPI`, `Intel MPI`.
    pub product: &'static str,
    /// Its version, where it tells.
    pub version: Option<String>,
    /// The library.
    pub library: Rc<Library>,
    /// What led to it.
    pub found_by: String,
    /// By which launchers it finds the other ranks.
    pub speaks: Speaks,
}

/// How ranks find each other: what a library understands, or what a launcher offers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Speaks {
    /// PMI 1 or 2.
    pub pmi: bool,
    /// PMIx.
    pub pmix: bool,
}

impl fmt::Display for Mpi {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => write!(out, "{} {version}", self.product),
            None => {
                let file = self.library.real.file_name().unwrap_or_default().to_string_lossy();
                write!(out, "{} ({file})", self.product)
            }
        }
    }
}

/// Says what a library is; none where it is no MPI.
pub fn identify(place: &Place<'_>, library: Rc<Library>, found_by: &str) -> Result<Option<Mpi>> {
    let soname = library.name();
    let named = NAMES.iter().find(|(name, _)| *name == soname).map(|(_, family)| *family);
    // A link libmpi.so.12 to libmpich.so.12 has the soname of its target; a copy may have none.
    let file = library.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some(mut family) =
        named.or_else(|| NAMES.iter().find(|(name, _)| *name == file).map(|(_, family)| *family))
    else {
        return Ok(None);
    };
    if family == Family::Mpich && library.elf.needed.iter().any(|name| name.starts_with("libopen-pal.so.")) {
        family = Family::OldOpenMpi(12);
    }
    let version = match family {
        Family::OpenMpi => version_of_name(&library.real.to_string_lossy()),
        Family::Mpich => place.text_of(&library, "MPII_Version_string")?,
        _ => None,
    };
    let product = match family {
        Family::OpenMpi | Family::OldOpenMpi(_) => "Open MPI",
        Family::Standard => "MPI ABI",
        Family::Mpich => product_of_mpich(&soname, &library.real.to_string_lossy()),
    };
    // Others count by themselves: the text is that of the MPICH that they come from.
    let version = version.filter(|_| matches!(product, "Open MPI" | "MPICH"));
    let speaks = speaks(place, family, &library)?;
    Ok(Some(Mpi { family, product, version, library, found_by: found_by.to_owned(), speaks }))
}

/// Plugins of Open MPI 3 and 4 for launchers that speak PMI.
const PMI_PLUGINS: &[&str] = &["mca_pmix_s1.so", "mca_pmix_s2.so", "mca_pmix_flux.so", "mca_pmix_cray.so"];

/// What a library understands. Where that is not known it counts as everything: nobody is warned of a guess.
fn speaks(place: &Place<'_>, family: Family, library: &Library) -> Result<Speaks> {
    Ok(match family {
        Family::OpenMpi => {
            let mut pmi = false;
            let beside =
                library.real.parent().map(|parent| ["openmpi", "openmpi3"].map(|name| parent.join(name)));
            for directory in beside.into_iter().flatten() {
                for name in PMI_PLUGINS {
                    pmi |= place.library(&directory.join(name))?.is_some();
                }
            }
            Speaks { pmi, pmix: true }
        }
        // Since 4.0 it may be built for PMIx, too.
        Family::Mpich => {
            let pmix = library.elf.needed.iter().any(|name| name.starts_with("libpmix."));
            Speaks { pmi: true, pmix }
        }
        Family::OldOpenMpi(_) | Family::Standard => Speaks { pmi: true, pmix: true },
    })
}

/// `4.1.4` of `.../libmpi.so.40.30.4`.
fn version_of_name(path: &str) -> Option<String> {
    let (_, numbers) = path.rsplit_once(".so.40.")?;
    let (age, patch) = numbers.split_once('.')?;
    let release = match age {
        "0" => "3.0",
        "10" => "3.1",
        "20" => "4.0",
        "30" => "4.1",
        "40" => "5.0",
        _ => return None,
    };
    patch.chars().all(|c| c.is_ascii_digit()).then(|| format!("{release}.{patch}"))
}

fn product_of_mpich(soname: &str, path: &str) -> &'static str {
    let path = path.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| path.contains(word));
    if soname.contains("cray") || soname.starts_with("libmpi_gnu") || has(&["/cray/"]) {
        "Cray MPICH"
    } else if has(&["mvapich"]) {
        "MVAPICH"
    } else if has(&["/oneapi/", "/intel/", "/impi"]) {
        "Intel MPI"
    } else {
        "MPICH"
    }
}

/// The release of Open MPI, 3 to 5; which of its parts a libmpi comes with.
pub fn major(mpi: &Mpi) -> Option<u32> {
    mpi.version
        .as_deref()
        .and_then(|version| version.split('.').next())
        .and_then(|number| number.parse().ok())
}

/// How the names of MPI's interface begin.
const INTERFACE: &[&str] = &["MPI_", "PMPI_", "ompi_mpi_", "MPIX_", "mpi_"];

/// Whether a name is part of MPI's interface for programs, in C or Fortran.
pub fn is_interface(name: &str) -> bool {
    INTERFACE.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_mpi_says_its_version_by_its_files_name() {
        assert_eq!(version_of_name("/usr/lib/libmpi.so.40.30.4").as_deref(), Some("4.1.4"));
        assert_eq!(version_of_name("/usr/lib/libmpi.so.40.40.7").as_deref(), Some("5.0.7"));
        assert_eq!(version_of_name("/usr/lib/libmpi.so.40"), None);
        assert_eq!(version_of_name("/usr/lib/libmpi.so.40.99.1"), None);
    }

    #[test]
    fn those_that_keep_to_mpichs_interface_are_told_apart() {
        for (soname, path, product) in [
            ("libmpi.so.12", "/opt/intel/oneapi/mpi/2021.13/lib/libmpi.so.12.0.0", "Intel MPI"),
            ("libmpi_cray.so.12", "/opt/cray/pe/mpich/8.1/ofi/lib/libmpi_cray.so.12", "Cray MPICH"),
            ("libmpi.so.12", "/opt/mvapich2-2.3.7/lib/libmpi.so.12.1.1", "MVAPICH"),
            ("libmpich.so.12", "/usr/lib/libmpich.so.12.2.2", "MPICH"),
        ] {
            assert_eq!(product_of_mpich(soname, path), product);
        }
    }
}
