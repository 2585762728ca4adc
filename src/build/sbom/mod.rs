//! What software is in an image: its packages, from what their managers wrote down, as SPDX 2.3 JSON.
//!
//! ```text
//! Tree ──▶ look: the data bases of package managers ──▶ [Package] ──▶ spdx ──▶ JSON
//!          dpkg     /var/lib/dpkg/status, status.d
//!          apk      /lib/apk/db/installed
//!          pacman   /var/lib/pacman/local/*/desc
//!          rpm      rpmdb.sqlite, Packages.db, Packages
//!          python   *.dist-info, *.egg-info of every Python there
//! ```
//!
//! Nothing of the image is run. The same tree gives the same bytes: the time is given, the namespace is made from the
//! contents.
//!
//! What is read may be hostile: each file has a limit and all of them together too, what is not UTF-8 is replaced, and
//! a file that cannot be read is named in the document's comment and makes nothing fail.

mod apk;
mod dpkg;
mod fields;
mod licence;
mod look;
mod pacman;
mod python;
mod rpm;
mod spdx;

use std::path::Path;

use crate::error::{Context, Result};
use crate::image::Tree;
use crate::image::sif::{DataType, Extra, SbomFormat, Sif};
use crate::image::source::Source;
use look::Look;

/// The format of what [`of_tree`] writes, as a SIF names it.
pub const FORMAT: SbomFormat = SbomFormat(4);
/// No object of a SIF is read that is longer.
const OBJECT_LIMIT: u64 = 256 << 20;

/// What the document says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// The image's name.
    pub name: String,
    /// The time of writing, in seconds since 1970: that of `SOURCE_DATE_EPOCH` for a reproducible image.
    pub created: i64,
}

/// A software bill of materials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sbom {
    /// The document.
    pub json: Vec<u8>,
    /// How many packages it lists.
    pub packages: usize,
    /// What could not be read; it is in the document too.
    pub notes: Vec<String>,
}

/// A package as its manager knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    /// The type of its purl: deb, apk, alpm, rpm, pypi.
    kind: &'static str,
    name: String,
    version: String,
    /// Qualifiers of the purl, besides that of the distribution.
    qualifiers: Vec<(&'static str, String)>,
    /// Who supplies it, as SPDX writes it; empty if not known.
    supplier: String,
    /// Who made it first.
    originator: String,
    /// As it was found; see [`licence`].
    licence: licence::Found,
    homepage: String,
    summary: String,
    /// What it was built from.
    source: String,
    /// The file that says so.
    from: String,
}

/// The operating system of a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct System {
    /// `debian`
    id: String,
    /// `12`
    version: String,
    /// `Debian GNU/Linux 12 (bookworm)`
    name: String,
}

/// Lists what is in a tree.
pub fn of_tree(tree: &Tree, about: &About) -> Sbom {
    let look = Look::new(tree);
    let system = system(&look);
    let mut packages = dpkg::packages(&look);
    packages.extend(apk::packages(&look));
    packages.extend(pacman::packages(&look));
    packages.extend(rpm::packages(&look));
    packages.extend(python::packages(&look));
    packages.retain(|package| !package.name.is_empty());
    packages.sort_unstable();
    packages.dedup();
    let notes = look.notes();
    let json = spdx::document(about, &system, &packages, &notes);
    Sbom { json, packages: packages.len(), notes }
}

/// The object of a SIF that is such a document, if it has one.
///
/// # Errors
/// When it cannot be read.
pub fn of_sif(sif: &Sif, whole: &Source) -> Result<Option<Vec<u8>>> {
    let found = sif.descriptors.iter().find(|object| {
        object.data_type == DataType::SBOM
            && object.extra == Extra::Sbom(FORMAT)
            && object.size <= OBJECT_LIMIT
    });
    let Some(found) = found else { return Ok(None) };
    let mut bytes = vec![0; found.size as usize];
    let tried = || format!("cannot read object {} of the SIF file", found.id);
    whole.read_exact_at(&mut bytes, found.offset).tried(tried)?;
    Ok(Some(bytes))
}

fn system(look: &Look<'_>) -> System {
    let mut system = System::default();
    let files = ["/etc/os-release", "/usr/lib/os-release"];
    let text = files.iter().find_map(|path| look.read(Path::new(path), 64 << 10)).unwrap_or_default();
    for line in String::from_utf8_lossy(&text).lines() {
        let Some((name, value)) = line.split_once('=') else { continue };
        let value = value.trim().trim_matches(['"', '\'']).to_owned();
        match name.trim() {
            "ID" => system.id = value,
            "VERSION_ID" => system.version = value,
            "PRETTY_NAME" => system.name = value,
            _ => {}
        }
    }
    system
}
