//! Where the cache is.
//!
//! ```text
//! SKIFF_CACHEDIR           that directory
//! APPTAINER_CACHEDIR       skiff/ in it: the rest is Apptainer's
//! SINGULARITY_CACHEDIR     skiff/ in it
//! XDG_CACHE_HOME           skiff/ in it
//! else                     .cache/skiff in the home directory
//! ```

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::host::Host;

/// Finds the directory of the cache. It need not exist.
///
/// # Errors
/// When the caller has no home directory and no variable names one.
pub fn place(host: &Host) -> Result<PathBuf> {
    if let Some((variable, value)) = host.setting("CACHEDIR") {
        let path = Path::new(value);
        let path = if variable == "SKIFF_CACHEDIR" { path.to_owned() } else { path.join("skiff") };
        return Ok(match (&host.cwd, path.is_relative()) {
            (Some(cwd), true) => cwd.join(path),
            _ => path,
        });
    }
    let absolute = |name| host.variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(base) = absolute("XDG_CACHE_HOME") {
        return Ok(base.join("skiff"));
    }
    let home = absolute("HOME").or_else(|| host.user().home.clone());
    home.map(|home| home.join(".cache/skiff")).ok_or_else(|| {
        Error::host("there is no place for a cache: you have no home directory")
            .hint("name a directory in SKIFF_CACHEDIR")
    })
}

#[cfg(test)]
mod tests {
    use std::cell::OnceCell;

    use super::*;
    use crate::host::User;

    fn found(pairs: &[(&str, &str)]) -> PathBuf {
        let mut host = Host::made_up(Path::new("/")).with_environment(pairs);
        host.cwd = Some("/here".into());
        place(&host).unwrap()
    }

    #[test]
    fn variables_come_before_the_home_directory() {
        assert_eq!(found(&[]), Path::new("/home/ada/.cache/skiff"));
        assert_eq!(found(&[("HOME", "/h")]), Path::new("/h/.cache/skiff"));
        assert_eq!(found(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/c")]), Path::new("/c/skiff"));
        assert_eq!(found(&[("XDG_CACHE_HOME", "c")]), Path::new("/home/ada/.cache/skiff"));
        let twins = [("SINGULARITY_CACHEDIR", "/s"), ("APPTAINER_CACHEDIR", "/a")];
        assert_eq!(found(&twins), Path::new("/a/skiff"));
        assert_eq!(found(&[("SKIFF_CACHEDIR", "x"), ("APPTAINER_CACHEDIR", "/a")]), Path::new("/here/x"));
    }

    #[test]
    fn without_a_home_there_is_none() {
        let mut host = Host::made_up(Path::new("/"));
        let user = User { name: "x".into(), gid: Some(1000), gecos: "".into(), home: None, shell: "".into() };
        host.user = OnceCell::from(user);
        let error = place(&host).unwrap_err();
        assert!(error.hint.unwrap().contains("SKIFF_CACHEDIR"));
    }
}
