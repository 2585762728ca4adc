//! A root file system of one program: busybox, which runs without any library.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::give;

/// The machine's busybox, if it is linked statically, so that it runs in an empty root.
pub fn busybox() -> Result<PathBuf, String> {
    let places = ["/bin/busybox", "/usr/bin/busybox", "/usr/sbin/busybox", "/sbin/busybox"];
    let found = places.iter().map(Path::new).find(|path| path.exists());
    let path = found.ok_or("no busybox (package busybox-static, or busybox on Fedora)")?;
    let program = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    match wants_interpreter(&program) {
        Some(false) => Ok(path.to_owned()),
        _ => Err(format!("{} is not linked statically", path.display())),
    }
}

/// Whether a 64-bit ELF program names a dynamic loader (a program header of type PT_INTERP, 3).
fn wants_interpreter(program: &[u8]) -> Option<bool> {
    let number = |at: usize, bytes: usize| {
        let field = program.get(at..at + bytes)?;
        Some(field.iter().rev().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte)))
    };
    let (start, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let kinds = (0..count).map(|index| number(start + index * size, 4));
    Some(kinds.collect::<Option<Vec<_>>>()?.contains(&3))
}

/// Makes a root file system of busybox and the usual directories: enough for `sh`, `ls`, `find`, `sha256sum`.
/// The test has asked for [`Need::Busybox`].
pub fn busybox_tree(root: &Path) {
    let program = busybox().expect("the test has asked for busybox");
    for directory in ["bin", "dev", "etc", "home", "proc", "root", "sys", "tmp", "usr", "var/tmp"] {
        fs::create_dir_all(root.join(directory)).expect("a directory can be made");
    }
    fs::copy(&program, root.join("bin/busybox")).expect("busybox can be copied");
    let applets = Command::new(&program).arg("--list").output().expect("busybox runs");
    for applet in String::from_utf8_lossy(&applets.stdout).lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).expect("a link can be made");
    }
    for (file, text) in [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        ("etc/group", "root:x:0:\n"),
        ("etc/hosts", ""),
        ("etc/resolv.conf", ""),
    ] {
        fs::write(root.join(file), text).expect("a file can be written");
    }
    give(root);
}
