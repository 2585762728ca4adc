//! Images on this machine by the names that the field has for them: `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`,
//! `docker-archive:FILE[:NAME]`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{OciImage, Platform, archive, layout};
use crate::error::{Error, Result};

/// What a name begins with, and what it means.
const TRANSPORTS: &[(&str, Transport)] = &[
    ("oci", Transport::Layout),
    ("oci-archive", Transport::Archive),
    ("docker-archive", Transport::Archive),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Layout,
    Archive,
}

/// An image on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    transport: Transport,
    path: PathBuf,
    tag: Option<String>,
}

impl Local {
    /// What a name means, if it is one of these.
    ///
    /// # Errors
    /// [`crate::error::Kind::Usage`] for a tag that is no text.
    pub fn parse(name: &OsStr) -> Result<Option<Self>> {
        let bytes = name.as_bytes();
        let Some(colon) = bytes.iter().position(|&byte| byte == b':') else { return Ok(None) };
        let (scheme, rest) =
            (bytes.get(..colon).unwrap_or_default(), bytes.get(colon + 1..).unwrap_or_default());
        let known = TRANSPORTS.iter().find(|(known, _)| known.as_bytes() == scheme);
        let Some(&(_, transport)) = known else { return Ok(None) };
        // `docker-archive://FILE` is common too.
        let rest = if rest.starts_with(b"//") && !rest.starts_with(b"///") {
            rest.get(2..).unwrap_or_default()
        } else {
            rest
        };
        let (path, tag) = divide(rest);
        let tag = tag.map(|tag| String::from_utf8(tag.to_vec())).transpose();
        let tag = tag.map_err(|_| Error::usage(format!("cannot use {name:?}: its tag is no text")))?;
        Ok(Some(Self { transport, path: OsStr::from_bytes(path).into(), tag }))
    }

    /// Opens it.
    ///
    /// # Errors
    /// As [`layout::open`] and [`archive::open`].
    pub fn open(&self, platform: &Platform) -> Result<OciImage> {
        match self.transport {
            Transport::Layout => layout::open(&self.path, self.tag.as_deref(), platform),
            Transport::Archive => archive::open(&self.path, self.tag.as_deref(), platform),
        }
    }
}

/// Path and tag: both may have colons in them. What is there decides; else the first colon does.
pub(super) fn divide(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    let colons: Vec<usize> = (0..text.len()).filter(|&at| text.get(at) == Some(&b':')).collect();
    let cut =
        |at: usize| (text.get(..at).unwrap_or_default(), text.get(at + 1..).filter(|tag| !tag.is_empty()));
    let exists = |path: &[u8]| !path.is_empty() && Path::new(OsStr::from_bytes(path)).exists();
    if exists(text) {
        return (text, None);
    }
    let there = colons.iter().rev().map(|&at| cut(at)).find(|(path, _)| exists(path));
    there.or_else(|| colons.first().map(|&at| cut(at))).unwrap_or((text, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_tells_the_path_from_the_tag() {
        let place = tempfile::tempdir().unwrap();
        let with_colon = place.path().join("a:b");
        std::fs::create_dir(&with_colon).unwrap();
        let parse = |text: String| Local::parse(OsStr::new(&text)).unwrap();
        let local = parse(format!("oci:{}:name:tag", with_colon.display())).unwrap();
        assert_eq!((local.path, local.tag.as_deref()), (with_colon.clone(), Some("name:tag")));
        let local = parse(format!("oci:{}", with_colon.display())).unwrap();
        assert_eq!((local.path, local.tag), (with_colon, None));
        let local = parse("docker-archive://missing.tar:x:1".into()).unwrap();
        assert_eq!((local.path.to_str(), local.tag.as_deref()), (Some("missing.tar"), Some("x:1")));
        assert_eq!(parse("docker://x".into()), None);
        assert_eq!(parse("./oci".into()), None);
    }
}
