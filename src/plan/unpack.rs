//! Where an image is unpacked, on a host without FUSE.
//!
//! ```text
//! SKIFF_TMPDIR, APPTAINER_TMPDIR, SINGULARITY_TMPDIR     asked for: taken as it is
//! TMPDIR, /tmp, /var/tmp                                 the first that can be written to and executed from;
//!                                                        /tmp after /var/tmp where it takes up memory
//! ```

use std::path::{Path, PathBuf};

use super::{HostPath, Root};
use crate::host::Host;
use crate::host::survey::Directory;

/// The directory below which the image is unpacked; none where it is served, or is a directory already.
pub fn place(root: &Root, host: &Host) -> Option<HostPath> {
    let Root::Image { .. } = root else { return None };
    host.no_fuse()?;
    let asked = host.setting("TMPDIR").map(|(_, value)| PathBuf::from(value));
    let asked = asked.filter(|path| path.is_absolute());
    Some(HostPath(asked.unwrap_or_else(|| usable(host))))
}

fn usable(host: &Host) -> PathBuf {
    let look = |path: &Path| {
        let directory = host.directory(path).ok()?;
        (directory.writable && !directory.noexec).then_some(directory)
    };
    let named = host.variable("TMPDIR").map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(path) = named.filter(|path| look(path).is_some()) {
        return path;
    }
    let usual = ["/tmp", "/var/tmp"].map(Path::new);
    let found: Vec<(&Path, Directory)> =
        usual.into_iter().filter_map(|path| Some((path, look(path)?))).collect();
    let on_disk = found.iter().find(|(_, directory)| directory.file_system != "tmpfs");
    // Where nothing can be used, making a directory says why.
    on_disk.or(found.first()).map_or(usual[0], |(path, _)| path).to_owned()
}

#[cfg(test)]
mod tests {
    use std::cell::OnceCell;

    use super::*;

    fn host(root: &Path) -> Host {
        for directory in ["tmp", "var/tmp", "scratch", "proc/self"] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        Host { no_fuse: OnceCell::from(Some(libc::ENOENT)), ..Host::made_up(root) }
    }

    fn chosen(host: &Host) -> PathBuf {
        let image = Root::Image { path: HostPath("/a.sif".into()), offset: 0, length: 1 };
        place(&image, host).unwrap().0
    }

    #[test]
    fn an_image_is_unpacked_only_without_fuse_and_a_directory_never() {
        let root = tempfile::tempdir().unwrap();
        let image = Root::Image { path: HostPath("/a.sif".into()), offset: 0, length: 1 };
        assert_eq!(place(&image, &Host::made_up(root.path())), None);
        assert_eq!(place(&Root::Directory(HostPath("/tree".into())), &host(root.path())), None);
        assert!(place(&image, &host(root.path())).is_some());
    }

    #[test]
    fn a_place_that_was_asked_for_is_taken_else_the_first_that_can_be_used() {
        let root = tempfile::tempdir().unwrap();
        let with = |pairs: &[(&str, &str)]| chosen(&host(root.path()).with_environment(pairs));
        assert_eq!(with(&[("APPTAINER_TMPDIR", "/asked"), ("TMPDIR", "/scratch")]), Path::new("/asked"));
        assert_eq!(with(&[("TMPDIR", "/scratch")]), Path::new("/scratch"));
        assert_eq!(with(&[("TMPDIR", "/missing")]), Path::new("/tmp"));
        assert_eq!(with(&[("SKIFF_TMPDIR", "relative")]), Path::new("/tmp"));
        let at = root.path().join("tmp");
        let line = format!("1 0 0:1 / {} rw - tmpfs none rw\n", at.display());
        std::fs::write(root.path().join("proc/self/mountinfo"), line).unwrap();
        assert_eq!(with(&[]), Path::new("/var/tmp"));
    }
}
