//! Where the cache of this caller is: [`crate::cache::place`], asked with what the host says.

use std::path::PathBuf;

use crate::cache::{self, Around};
use crate::error::Result;
use crate::host::Host;

/// Finds the directory of the cache. It need not exist.
///
/// # Errors
/// As [`cache::place`].
pub fn place(host: &Host) -> Result<PathBuf> {
    let home = host.variable("HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    cache::place(&Around {
        setting: host.setting("CACHEDIR"),
        cache_home: host.variable("XDG_CACHE_HOME"),
        home: home.or_else(|| host.user().home.clone()),
        cwd: host.cwd.as_deref(),
    })
}

#[cfg(test)]
mod tests {
    use std::cell::OnceCell;
    use std::path::Path;

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
