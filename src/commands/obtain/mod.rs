//! From what the user calls an image to an open one. In `fetch.rs` what is not of this machine, in `login.rs` who the
//! user is there.

pub mod fetch;
pub mod login;

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use self::fetch::{Session, Sif, Wanted};
use crate::cli::Global;
use crate::cli::fetch::{FetchFlags, PlatformFlags};
use crate::commands::host_for;
use crate::error::{Context, Error, Kind, Result};
use crate::image::{self, Image};
use crate::oci::reference::{self, Reference};
use crate::sys::process;
use crate::sys::signals::STOP;

/// Opens the image that `reference` names: a file, a directory, or one from elsewhere (`docker://debian:13`), which is
/// fetched or found in the cache.
///
/// # Errors
/// Those of [`image::open`], and of [`Session::sif`].
pub fn image(reference: &Path, wanted: &Wanted<'_>, global: &Global) -> Result<Image> {
    match elsewhere(reference)? {
        None => image::open(reference),
        Some(named) => image::open(&fetched(&named, wanted, global)?.path),
    }
}

/// As [`image`], without any flag.
///
/// # Errors
/// As [`image`].
pub fn plain(reference: &Path, global: &Global) -> Result<Image> {
    without_flags(|wanted| image(reference, wanted, global))
}

/// Does `work` with what is wanted where no flag says anything.
fn without_flags<T>(work: impl FnOnce(&Wanted<'_>) -> T) -> T {
    let (flags, platform) = (FetchFlags::default(), PlatformFlags::default());
    work(&Wanted { flags: &flags, platform: &platform, disable_cache: false })
}

/// The file of an image from elsewhere.
///
/// # Errors
/// Those of [`Session::sif`].
pub fn fetched(named: &Reference, wanted: &Wanted<'_>, global: &Global) -> Result<Sif> {
    let sif = Session::new(&host_for(global), wanted, global)?.sif(named)?;
    // Containers are started by a process of one thread.
    if !process::wait_until_alone() {
        return Err(Error::new(Kind::Internal, format!("a thread that fetched {named} does not end")));
    }
    Ok(sif)
}

/// The path of an image that is read without being opened as one: `reference` itself, or the file in the cache.
///
/// # Errors
/// As [`fetched`].
pub fn path(reference: &Path, global: &Global) -> Result<PathBuf> {
    Ok(match elsewhere(reference)? {
        None => reference.to_owned(),
        Some(named) => without_flags(|wanted| fetched(&named, wanted, global))?.path,
    })
}

/// What `reference` names elsewhere; none for a path.
///
/// # Errors
/// [`crate::error::Kind::Usage`] when it begins as a URI does and is none that skiff knows.
pub fn elsewhere(reference: &Path) -> Result<Option<Reference>> {
    if let Some(parsed) = reference::parse(reference) {
        return parsed.map(Some);
    }
    let bytes = reference.as_os_str().as_bytes();
    let Some(colon) = bytes.windows(3).position(|three| three == b"://") else { return Ok(None) };
    if reference.exists() {
        return Ok(None);
    }
    if &bytes[..colon] == b"instance" {
        return Err(Error::usage(format!("cannot use {reference:?}: skiff has no named instances yet"))
            .hint("start the image itself: containers of one image share its server"));
    }
    if bytes[..colon].iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-') && colon > 1 {
        return Err(Error::usage(format!("cannot use {reference:?}: skiff knows no images of that kind")).hint(
            "it knows files, directories, docker://, oras://, library://, https://, docker-archive:, docker-daemon:, oci:, oci-archive:",
        ));
    }
    Ok(None)
}

/// What is copied before it is looked whether somebody wants to stop.
const COPIED_BYTES: u64 = 64 << 20;

/// Copies a file; where the file system can, no block of it. A caught signal stops it.
pub fn copy(from: &mut File, to: &mut File, target: &Path) -> Result<u64> {
    let tried = || format!("cannot write {target:?}");
    from.rewind().tried(tried)?;
    if rustix::fs::ioctl_ficlone(&*to, &*from).is_ok() {
        return Ok(to.metadata().tried(tried)?.len());
    }
    let mut all = 0;
    loop {
        if STOP.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::Interrupted, tried()).because("stopped"));
        }
        match io::copy(&mut Read::take(&mut *from, COPIED_BYTES), to).tried(tried)? {
            0 => return Ok(all),
            copied => all += copied,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_not_a_missing_file() {
        let global = Global::default();
        let error = plain(Path::new("nosuch://debian:13"), &global).unwrap_err();
        assert!(error.to_string().contains("no images of that kind"), "{error}");
        let error = plain(Path::new("instance://db"), &global).unwrap_err();
        assert!(error.to_string().contains("no named instances"), "{error}");
        let error = plain(Path::new("shub://a/b"), &global).unwrap_err();
        assert!(error.to_string().contains("shut down"), "{error}");
        let error = plain(Path::new("missing/a.sif"), &global).unwrap_err();
        assert!(error.to_string().ends_with("no such file or directory"), "{error}");
    }
}
