//! Files that are stored as they are, each in blocks of its own: those that every start of a container reads.
//!
//! A program's first instructions come from the loader and the C library, which are mapped, and read by page faults
//! here and there; and to know what to start, skiff reads the accounts and the image's own scripts. Stored plainly they
//! cost a start no decompression, nor that of the small files which would share a fragment with them. It costs an image
//! about a megabyte.

/// Whether a file is stored plainly; `names` are its own name, its directory's, and so on up to the root.
pub fn is_plain<'a>(mut names: impl Iterator<Item = &'a [u8]>) -> bool {
    let Some(name) = names.next() else { return false };
    if is_loader(name) || name == b"libc.so.6" || (name.starts_with(b"libc-2.") && name.ends_with(b".so")) {
        return true;
    }
    match (names.next(), names.next(), names.next()) {
        (Some(b"etc"), None, None) => matches!(name, b"passwd" | b"group"),
        (Some(b".singularity.d"), None, None) => true,
        (Some(b"env"), Some(b".singularity.d"), None) => true,
        _ => false,
    }
}

/// As glibc and musl name theirs: `ld-linux-x86-64.so.2`, `ld-2.28.so`, `ld64.so.2`, `ld-musl-x86_64.so.1`.
fn is_loader(name: &[u8]) -> bool {
    let begins = [&b"ld-linux"[..], b"ld-musl-", b"ld-2.", b"ld64.so"];
    begins.iter().any(|begin| name.starts_with(begin)) && name.windows(3).any(|part| part == b".so")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_start_reads_is_plain() {
        let is = |path: &str| is_plain(path.split('/').rev().map(str::as_bytes));
        for path in [
            "usr/lib/x86_64-linux-gnu/libc.so.6",
            "lib64/ld-linux-x86-64.so.2",
            "usr/lib64/ld-2.28.so",
            "lib64/libc-2.28.so",
            "lib/ld-musl-x86_64.so.1",
            "etc/passwd",
            ".singularity.d/runscript",
            ".singularity.d/env/90-environment.sh",
        ] {
            assert!(is(path), "{path}");
        }
        for path in [
            "usr/share/base-passwd/passwd",
            "opt/etc/passwd",
            "etc/shadow",
            "usr/lib/libcrypt.so.1",
            "usr/lib/ld-linux.txt",
            "home/env/90-environment.sh",
        ] {
            assert!(!is(path), "{path}");
        }
    }
}
