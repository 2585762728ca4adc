//! Which containers may share a server: those whose keys are equal.

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;

use sha2::{Digest, Sha256};

use super::{Owner, Request};
use crate::error::{Context, Kind, Result};

/// The name of the server's socket, from everything that must agree: uid, image identity, ids shown, the caller's
/// user and mount namespace, scope, and the very skiff program (another version speaks another protocol).
pub fn of(request: &Request) -> Result<String> {
    let image = request.image.metadata().tried(|| "cannot look at the image file".into())?;
    let mut text = format!(
        "{} image {}:{} {} {}.{:09} {}+{}",
        rustix::process::geteuid().as_raw(),
        image.dev(),
        image.ino(),
        image.size(),
        image.mtime(),
        image.mtime_nsec(),
        request.offset,
        request.length,
    );
    let owner = match request.owner {
        Owner::Caller { uid, gid } => format!("{uid}:{gid}"),
        Owner::Mapped { uids, gids } => format!("image up to {uids}:{gids}"),
        Owner::Image => "image".into(),
    };
    let _ = write!(text, " owner {owner} scope {}", request.scope);
    if request.unpack.is_some() {
        text.push_str(" unpacked");
    }
    for path in ["/proc/self/ns/user", "/proc/self/ns/mnt", "/proc/self/exe"] {
        let facts = std::fs::metadata(path).context(Kind::Host, || format!("cannot look at {path}"))?;
        let _ = write!(text, " {}:{}", facts.dev(), facts.ino());
        // A namespace's time is that of the look.
        if facts.is_file() && facts.size() > 0 {
            let _ = write!(text, " {}.{}", facts.mtime(), facts.mtime_nsec());
        }
    }
    let digest = Sha256::digest(text.as_bytes());
    Ok(digest.iter().take(16).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_must_agree_changes_the_key() {
        let request = |offset, scope: &str, linger| Request {
            image: std::fs::File::open("/proc/self/exe").unwrap(),
            offset,
            length: 10,
            owner: Owner::Caller { uid: 1, gid: 2 },
            scope: scope.into(),
            linger: std::time::Duration::from_millis(linger),
            rendezvous: vec![],
            start: vec![],
            unpack: None,
        };
        let key = of(&request(0, "job 1", 0)).unwrap();
        assert_eq!(key, of(&request(0, "job 1", 500)).unwrap());
        assert_ne!(key, of(&request(1, "job 1", 0)).unwrap());
        assert_ne!(key, of(&request(0, "job 2", 0)).unwrap());
        assert_eq!(key.len(), 32);
    }
}
