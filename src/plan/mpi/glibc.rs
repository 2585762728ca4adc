//! `--mpi-glibc`: the host's C library in the place of an older one of the image's, for a host's MPI that needs it.
//!
//! All of a process's C library is of one build with its loader, so all of it comes or nothing: loader, libraries, the
//! modules of iconv. Programs of the image were linked with an older one, and glibc keeps what it once had; so they run on.
//! It comes only where it is asked for, is needed, and is newer, and never to musl.

use std::path::PathBuf;

use super::bring::Taken;
use crate::elf::check::{newest, numbers};
use crate::elf::{Library, Platform};
use crate::error::Result;
use crate::plan::inject::Place as Where;

/// What glibc is known by.
const LIBC: &str = "libc.so.6";
/// The loaders, one of which a machine has.
const LOADERS: &[&str] = &[
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
    "ld64.so.2",
    "ld64.so.1",
    "ld-linux-riscv64-lp64d.so.1",
];
/// The rest of glibc. Some are empty in newer ones, and programs of older images need them by name.
const OTHERS: &[&str] = &[
    "libm.so.6",
    "libmvec.so.1",
    "libpthread.so.0",
    "libdl.so.2",
    "librt.so.1",
    "libresolv.so.2",
    "libutil.so.1",
    "libanl.so.1",
    "libBrokenLocale.so.1",
    "libthread_db.so.1",
    "libnsl.so.1",
    "libnss_files.so.2",
    "libnss_dns.so.2",
    "libnss_compat.so.2",
    "libnss_hesiod.so.2",
];

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
        let mut loader = None;
        for name in LOADERS {
            let both = (self.of_host.find(name, platform, None)?, self.of_image.find(name, platform, None)?);
            if let (Some(found), Some(_)) = both {
                loader = loader.or(Some((*name, found)));
            }
        }
        let Some((name, found)) = loader else {
            return stays("the loader of host or image is not where it usually is");
        };
        self.take_named(name, &found)?;
        self.take_named(LIBC, &ours)?;
        for name in OTHERS {
            if let Some(found) = self.of_host.find(name, platform, None)? {
                self.take_named(name, &found)?;
            }
        }
        if let Some(modules) = iconv_modules(&ours).filter(|path| self.host.look(path).is_ok()) {
            self.injection.add(modules, Where::Same, self.because);
        }
        Ok(Glibc::Comes(new, old))
    }
}

/// The directory of iconv's modules: beside the C library, which is also where that looks.
fn iconv_modules(libc: &Library) -> Option<PathBuf> {
    Some(libc.real.parent()?.join("gconv"))
}
