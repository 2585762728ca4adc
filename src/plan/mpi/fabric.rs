//! `--mpi=libfabric`: the image keeps its MPI, and libfabric in it gets the host's way to the network.
//!
//! The host's providers (`*-fi.so` in FI_PROVIDER_PATH or beside its libfabric) are shown at the same path and
//! FI_PROVIDER_PATH names it. A host whose libfabric has its providers built in gives the whole library instead. Programs
//! see nothing of either, so this fits every MPI of the image that uses libfabric.

use std::path::PathBuf;

use super::bring::{Places, Taken};
use super::decide::{Verdict, refused};
use crate::elf::check::missing_versions;
use crate::error::Result;
use crate::host::Host;
use crate::plan::Because;
use crate::plan::inject::Injection;
use crate::plan::libraries::directories;

const NAME: &str = "libfabric.so.1";

/// Decides what of the host's libfabric is brought in.
pub fn bring_libfabric(
    places: Places<'_, '_>,
    because: &Because,
    glibc: bool,
) -> Result<(Verdict, Injection)> {
    let (host, of_host, of_image) = places;
    let nothing = |why: &str, remedy: &str| Ok((refused(why, remedy), Injection::default()));
    let Some(like) = of_image.library("/bin/sh".as_ref())?.map(|shell| shell.elf.platform) else {
        return nothing("the image has no /bin/sh to tell its processor by", "use an image with a shell");
    };
    let Some(own) = of_image.find(NAME, like, None)? else {
        return nothing(
            "the image has no libfabric.so.1, so its MPI does not use it",
            "--mpi brings in the host's MPI instead, with all that it needs",
        );
    };
    let library = of_host.find(NAME, like, None)?;
    let named = host.variable("FI_PROVIDER_PATH").map_or(Vec::new(), directories);
    let beside = library.iter().filter_map(|library| Some(library.real.parent()?.join("libfabric")));
    let providers: Vec<PathBuf> =
        named.into_iter().chain(beside).filter(|directory| has_providers(host, directory)).collect();
    let mut taken = Taken::new(places, because, &[]).with_glibc(glibc);
    if let Some(first) = providers.first() {
        for directory in &providers {
            taken.take_directory(directory)?;
        }
        taken.take_data_and_devices();
        let mut injection = taken.injection;
        injection.set("FI_PROVIDER_PATH", first.as_os_str().as_encoded_bytes());
        return Ok((Verdict::default(), injection));
    }
    let Some(library) = library else {
        return nothing("the host has no libfabric.so.1", "load the module of the host's libfabric first");
    };
    let lacks = missing_versions(&own.elf.defines, &library.elf);
    if let Some(version) = lacks.last() {
        let why = format!("the host's libfabric.so.1 is older than the image's: it has no {version}");
        return nothing(
            &why,
            "use an image with an older libfabric, or a newer one of the host (LD_LIBRARY_PATH)",
        );
    }
    let starts = [library];
    taken.take_named(NAME, &starts[0])?;
    let core = taken.take_needs(&starts)?;
    let mut verdict = Verdict::default();
    if let Some(why) = taken.settle(&starts, &core, &mut verdict.notes)? {
        return nothing(
            &why,
            "use an image of a newer distribution, or bring the host's newer C library along: --mpi-glibc",
        );
    }
    taken.take_plugins()?;
    taken.take_data_and_devices();
    Ok((verdict, taken.injection))
}

fn has_providers(host: &Host, directory: &std::path::Path) -> bool {
    let entries = std::fs::read_dir(host.real(directory));
    entries
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().ends_with("-fi.so"))
}
