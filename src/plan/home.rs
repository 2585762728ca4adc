//! Which home directory the container shows, and where.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Because;
use super::asked::{Asked, container_path, host_path};
use crate::error::{Error, Result};
use crate::host::Host;

/// Where root's home is.
const ROOT: &str = "/root";

/// The home directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// The directory of the host.
    pub source: Option<PathBuf>,
    /// The directory of the container, which `HOME` names.
    pub target: PathBuf,
    /// Who asked for just this one.
    pub asked: Option<Because>,
}

/// Decides it.
pub fn plan_home(asked: &Asked, host: &Host) -> Result<Home> {
    let own = host.user().home.as_deref().map(super::target::tidy);
    let Some((text, because)) = &asked.home else {
        let target = match (&asked.fakeroot, &own) {
            (Some(_), _) => ROOT.into(),
            (None, Some(home)) => home.clone(),
            (None, None) => "/".into(),
        };
        return Ok(Home { source: own, target, asked: None });
    };
    let fields: Vec<&Path> = text
        .as_bytes()
        .split(|byte| *byte == b':')
        .map(|part| Path::new(std::ffi::OsStr::from_bytes(part)))
        .collect();
    let (source, target) = match fields[..] {
        [source] => (source, None),
        [source, target] => (source, Some(target)),
        _ => {
            return Err(Error::usage(format!(
                "cannot understand the home directory {text:?}: too many colons"
            ))
            .hint("it is SOURCE or SOURCE:TARGET"));
        }
    };
    let source = host_path(source, host, because)?;
    let target = match target {
        Some(target) => container_path(target, because)?,
        None => source.clone(),
    };
    if target == Path::new("/") {
        return Err(Error::usage(format!(
            "cannot use \"/\" as home directory ({}): it would hide the whole image",
            because.origin()
        ))
        .hint("name a directory for it in the container: --home SOURCE:/home/NAME"));
    }
    Ok(Home { source: Some(source), target, asked: Some(because.clone()) })
}
