//! env
use super::Request;
use crate::error::Result;
use crate::host::Host;
use crate::image::Tree;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
/// Facts
pub struct Facts<'a> {
    /// a
    pub cwd: &'a Path,
    /// b
    pub asked: &'a [PathBuf],
}
/// compose
pub fn compose(
    _r: &Request<'_>,
    host: &Host,
    facts: &Facts<'_>,
    _image: &Tree,
) -> Result<Vec<(OsString, OsString)>> {
    let mut env = host.environment.clone();
    let _ = facts.asked;
    env.retain(|(k, _)| !matches!(k.to_str(), Some("PATH" | "LD_LIBRARY_PATH" | "PWD")));
    env.push(("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()));
    env.push(("PWD".into(), facts.cwd.into()));
    Ok(env)
}
