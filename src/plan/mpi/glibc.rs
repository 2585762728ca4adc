//! `--mpi-glibc`: the host's C library in the place of an older one of the image's, for a host's MPI that needs it.
//!
//! All of a process's C library is of one build with its loader, so all of it comes or nothing: loader, libraries, the
//! modules of iconv. Programs of the image were linked with an older one, and glibc keeps what it once had; so they run on.
//! It comes only where it is asked for, is needed, and is newer, and never to musl.

use std::path::PathBuf;
use std::rc::Rc;

use super::bring::Taken;
use crate::elf::check::{BESIDE_LIBC, LIBC, newest, numbers};
use crate::elf::{Library, Platform};
use crate::error::Result;
use crate::plan::inject::Place as Where;

/// The loaders, one of which a machine has.
const LOADERS: &[&str] = &[
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
    "ld64.so.2",
    "ld64.so.1",
    "ld-linux-riscv64-lp64d.so.1",
];
/// What looks names up in further ways. No library needs them by name; programs load them.
const LOOKUPS: &[&str] = &["libnss_compat.so.2", "libnss_hesiod.so.2"];

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Glibc {
    /// It comes: the newest version of the host's, and of the image's.
    Comes(String, String),
    /// It does not, as the end of a sentence.
    Stays(String),
}

impl Taken<'_, '_> {
    /// Brings the host's C library, if it is newer than the image's.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn take_glibc(&mut self, platform: Platform) -> Result<Glibc> {
        let stays = |why: &str| Ok(Glibc::Stays(why.to_owned()));
        let (ours, theirs) =
            (self.of_host.find(LIBC, platform, None)?, self.of_image.find(LIBC, platform, None)?);
        let (Some(ours), Some(theirs), false) = (ours, theirs, self.of_image.musl) else {
            return stays("one of host and image has no glibc");
        };
        let version = |library: &Library| newest(&library.elf, "GLIBC");
        let (Some(new), Some(old)) = (version(&ours), version(&theirs)) else {
            return stays("one of the two does not say its version");
        };
        if numbers(&new) <= numbers(&old) {
            return stays(&format!("the image's C library ({old}) is not older than the host's ({new})"));
        }
        let Some((name, loader)) = self.common_loader(platform)? else {
            return stays("the loader of host or image is not where it usually is");
        };
        self.take_named(name, &loader)?;
        self.take_named(LIBC, &ours)?;
        for name in BESIDE_LIBC.iter().chain(LOOKUPS) {
            if let Some(found) = self.of_host.find(name, platform, None)? {
                self.take_named(name, &found)?;
            }
        }
        if let Some(modules) = iconv_modules(&ours).filter(|path| self.host.look(path).is_ok()) {
            self.injection.add(modules, Where::Same, self.because);
        }
        Ok(Glibc::Comes(new, old))
    }

    /// The loader that host and image have by one name: the host's.
    fn common_loader(&self, platform: Platform) -> Result<Option<(&'static str, Rc<Library>)>> {
        for name in LOADERS {
            if let Some(found) = self.of_host.find(name, platform, None)?
                && self.of_image.find(name, platform, None)?.is_some()
            {
                return Ok(Some((name, found)));
            }
        }
        Ok(None)
    }
}

/// The directory of iconv's modules: beside the C library, which is also where that looks.
fn iconv_modules(libc: &Library) -> Option<PathBuf> {
    Some(libc.real.parent()?.join("gconv"))
}
