//! Where the cache is.
//!
//! ```text
//! SKIFF_CACHEDIR           that directory
//! APPTAINER_CACHEDIR       skiff/ in it: the rest is Apptainer's
//! SINGULARITY_CACHEDIR     skiff/ in it
//! XDG_CACHE_HOME           skiff/ in it
//! else                     .cache/skiff in the home directory
//! ```

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// What decides where the cache is.
#[derive(Debug, Default)]
pub struct Around<'a> {
    /// The setting, with the variable that gave it.
    pub setting: Option<(String, &'a OsStr)>,
    /// `XDG_CACHE_HOME`.
    pub cache_home: Option<&'a OsStr>,
    /// The home directory.
    pub home: Option<PathBuf>,
    /// The working directory.
    pub cwd: Option<&'a Path>,
}

/// Finds the directory of the cache. It need not exist.
///
/// # Errors
/// When the caller has no home directory and no variable names one.
pub fn place(around: &Around<'_>) -> Result<PathBuf> {
    if let Some((variable, value)) = &around.setting {
        let path = Path::new(value);
        let path = if variable == "SKIFF_CACHEDIR" { path.to_owned() } else { path.join("skiff") };
        return Ok(match (around.cwd, path.is_relative()) {
            (Some(cwd), true) => cwd.join(path),
            _ => path,
        });
    }
    if let Some(base) = around.cache_home.map(Path::new).filter(|path| path.is_absolute()) {
        return Ok(base.join("skiff"));
    }
    around.home.as_ref().map(|home| home.join(".cache/skiff")).ok_or_else(|| {
        Error::host("there is no place for a cache: you have no home directory")
            .hint("name a directory in SKIFF_CACHEDIR")
    })
}
