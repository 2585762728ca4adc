//! Files without a name, for what the cache does not take or is not meant for: they are gone with the process, however
//! it ends.

use std::fs::File;
use std::path::Path;

use crate::error::{Context, Error, Result};

/// Makes one.
///
/// # Errors
/// A directory that is not there, is full, or cannot be written to.
pub fn file_in(directory: &Path) -> Result<File> {
    tempfile::tempfile_in(directory)
        .tried(|| format!("cannot write into {directory:?}"))
        .map_err(|error| explain(error.hint("SKIFF_TMPDIR names another directory"), directory))
}

/// Says of an error for lack of room where it is lacking.
pub fn explain(error: Error, directory: &Path) -> Error {
    match error.errno() {
        Some(libc::ENOSPC) => error.hint(format!(
            "the file system of {directory:?} is full: make room there, or name another directory in SKIFF_TMPDIR"
        )),
        Some(libc::EDQUOT) => error.hint(format!(
            "your quota on the file system of {directory:?} is used up: make room there, or name another directory in \
             SKIFF_TMPDIR"
        )),
        Some(libc::EFBIG) => error.hint("the file size limit is in the way ('ulimit -f' shows it)"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::error::Kind;

    #[test]
    fn what_is_full_is_named() {
        let full = || Error::new(Kind::Io, "x").because(io::Error::from_raw_os_error(libc::ENOSPC));
        let said = explain(full(), Path::new("/s")).hint.unwrap();
        assert!(said.contains("\"/s\" is full") && said.contains("SKIFF_TMPDIR"), "{said}");
        assert_eq!(explain(Error::usage("x").hint("h"), Path::new("/s")).hint.as_deref(), Some("h"));
        let error = file_in(Path::new("/nowhere/at/all")).unwrap_err();
        assert!(error.hint.unwrap().contains("SKIFF_TMPDIR"));
    }
}
