//! The variables that an image sets by itself: for who runs it without skiff, where nobody reads its scripts.
//!
//! Scripts see a home directory and the default `PATH`, and no variable of this machine. A script with something that
//! only a real shell can do is left out.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::TargetKind;
use super::env::DEFAULT_PATH;
use super::shell::{Files, MAX_SCRIPT_BYTES, Shell, Unsupported};
use crate::image::Tree;
use crate::image::metadata::Texts;
use crate::image::squashfs::FileKind;

/// Where the home of who runs it may be.
const HOME: &str = "/root";
/// What means nothing outside of skiff, or is made by who runs it.
const LEFT_OUT: [&str; 3] = ["PWD", "PS1", "OLDPWD"];

/// Names and values.
pub type Variables = Vec<(OsString, OsString)>;

/// The variables that scripts, by their paths, set; and the scripts that are left out, each with the place.
pub fn variables(scripts: &Texts, tree: &Tree) -> (Variables, Vec<(PathBuf, Unsupported)>) {
    let mut shell = Shell::default();
    shell.export(b"HOME", HOME);
    shell.export(b"PATH", DEFAULT_PATH);
    let mut faults = Vec::new();
    for (path, script) in scripts {
        let mut after = shell.clone();
        match after.source(script.as_bytes(), &mut InImage(tree)) {
            Ok(()) => shell = after,
            Err(fault) => faults.push((PathBuf::from(path), fault)),
        }
    }
    let set = shell.variables.into_iter().filter_map(|(name, variable)| {
        let value = variable.value.filter(|_| variable.exported)?;
        let untouched = name == b"HOME" && value == HOME.as_bytes();
        let foreign = untouched || LEFT_OUT.iter().any(|left| left.as_bytes() == name);
        (!foreign).then(|| (OsString::from_vec(name), OsString::from_vec(value)))
    });
    (set.collect(), faults)
}

struct InImage<'a>(&'a Tree);

impl Files for InImage<'_> {
    fn kind(&mut self, path: &Path) -> Option<TargetKind> {
        match self.0.lookup(path).ok()??.kind {
            FileKind::Directory => Some(TargetKind::Directory),
            FileKind::Regular => Some(TargetKind::File),
            _ => None,
        }
    }

    fn script(&mut self, path: &Path) -> Option<Vec<u8>> {
        self.0.read(path, MAX_SCRIPT_BYTES).ok()?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tree::Directory;

    #[test]
    fn an_image_sets_what_those_of_its_scripts_assign_that_need_no_shell() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("opt")).unwrap();
        let tree = Tree::Directory(Directory::open(directory.path()).unwrap());
        let scripts: Texts = [
            (
                "/.singularity.d/env/10-docker2singularity.sh",
                "export PATH=\"/opt/bin:$PATH\"\nexport A=\"${A:-1}\"",
            ),
            (
                "/.singularity.d/env/90-environment.sh",
                "B=no; export C=$HOME/c PS1=x\n[ -d /opt ] && export D=$A",
            ),
            ("/.singularity.d/env/91-environment.sh", "export D=no\nexport E=$(id)"),
            ("/.singularity.d/env/92-environment.sh", "export G='x y'"),
        ]
        .map(|(path, text)| (path.to_owned(), text.to_owned()))
        .into();
        let (set, faults) = variables(&scripts, &tree);
        let text: Vec<_> = set.iter().map(|(n, v)| format!("{}={}", n.display(), v.display())).collect();
        let path = format!("PATH=/opt/bin:{DEFAULT_PATH}");
        assert_eq!(text, ["A=1", "C=/root/c", "D=1", "G=x y", &path]);
        assert_eq!((faults.len(), faults[0].1.line), (1, 2));
    }
}
