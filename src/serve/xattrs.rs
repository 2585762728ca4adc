//! Extended attributes as the kernel is told of them: those of the image, but for some that would be in its way.
//!
//! An overlay copies all attributes of a file that is changed, and the change fails if one cannot be copied. Users may
//! not set `security.` and `trusted.` ones; file capabilities they may where they look like root, and where they do not
//! these cannot even be read (EOVERFLOW). So:
//!
//! | files shown as | file capabilities | other `security.`, `trusted.` | an owner that is not 0:0 |
//! |---|---|---|---|
//! | the caller's | no | no | no |
//! | root's, which the caller looks like | yes | as `user.skiff.xattr.NAME` | as `user.skiff.owner` |
//! | their owners', with all ids | yes | yes | no need |
//!
//! The `user.skiff.` ones are the records of emulated root ([`crate::records`]), which what is packed later is made from.
//! Links, pipes and sockets can have none. Who asks for `security.skiff.owner` is told their owner; it is not listed, so
//! that nobody tries to copy it.

use super::worker::Answer;
use super::{Owner, wire};
use crate::image::squashfs::{Content, Inode, Squashfs};
use crate::records::{self, NAME_BYTES, SERVED_OWNER, XATTR, owner_text};

const CAPABILITY: &[u8] = b"security.capability";
const OWNER: &[u8] = records::OWNER.as_bytes();

/// Name and value.
type Xattr = (Vec<u8>, Vec<u8>);

/// GETXATTR.
pub fn get(
    image: &Squashfs,
    owner: Owner,
    inode: &Inode,
    request: &[u8],
    answer: &mut Answer,
) -> Result<(), i32> {
    let (arguments, rest) = wire::arguments::<wire::GetxattrIn>(request).ok_or(libc::EINVAL)?;
    let name = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    if owner == Owner::ROOT && name == SERVED_OWNER.as_bytes() {
        return match (may_have_attributes(inode), (inode.uid, inode.gid)) {
            (true, _) | (_, (0, 0)) => Err(libc::ENODATA),
            (false, ids) => put_sized(owner_text(ids).as_bytes(), arguments.size, answer),
        };
    }
    let all = shown(image, owner, inode)?;
    let (_, value) = all.iter().find(|(key, _)| key == name).ok_or(libc::ENODATA)?;
    put_sized(value, arguments.size, answer)
}

/// LISTXATTR.
pub fn list(
    image: &Squashfs,
    owner: Owner,
    inode: &Inode,
    request: &[u8],
    answer: &mut Answer,
) -> Result<(), i32> {
    let (arguments, _) = wire::arguments::<wire::GetxattrIn>(request).ok_or(libc::EINVAL)?;
    let mut names = Vec::new();
    for (name, _) in shown(image, owner, inode)? {
        names.extend_from_slice(&name);
        names.push(0);
    }
    put_sized(&names, arguments.size, answer)
}

/// Without any the kernel is told so, once and for all (ENOSYS).
pub fn are_shown(image: &Squashfs, owner: Owner) -> bool {
    image.superblock().xattr_table.is_some() || owner == Owner::ROOT && image.has_owners()
}

fn shown(image: &Squashfs, owner: Owner, inode: &Inode) -> Result<Vec<Xattr>, i32> {
    let of_image = image.xattrs(inode).map_err(|_| libc::EIO)?;
    if owner == Owner::Image {
        return Ok(of_image);
    }
    let mut shown: Vec<_> = of_image
        .into_iter()
        .filter_map(|(name, value)| name_shown(name, owner == Owner::ROOT).map(|name| (name, value)))
        .collect();
    if owner == Owner::ROOT && may_have_attributes(inode) && (inode.uid, inode.gid) != (0, 0) {
        shown.retain(|(name, _)| name != OWNER);
        shown.push((OWNER.to_vec(), owner_text((inode.uid, inode.gid)).into_bytes()));
    }
    Ok(shown)
}

fn name_shown(name: Vec<u8>, as_root: bool) -> Option<Vec<u8>> {
    let privileged = name.starts_with(b"security.") || name.starts_with(b"trusted.");
    if !privileged || (as_root && name == CAPABILITY) {
        return Some(name);
    }
    (as_root && XATTR.len() + name.len() <= NAME_BYTES).then(|| [XATTR.as_bytes(), &name].concat())
}

/// Those of users, that is.
fn may_have_attributes(inode: &Inode) -> bool {
    matches!(inode.content, Content::Regular(_) | Content::Directory(_))
}

/// The protocol of xattrs: asked with size 0, the answer is the size that is needed.
fn put_sized(value: &[u8], size: u32, answer: &mut Answer) -> Result<(), i32> {
    match size {
        0 => answer.put(&wire::GetxattrOut { size: value.len() as u32, padding: 0 }),
        size if value.len() > size as usize => return Err(libc::ERANGE),
        _ => answer.bytes.extend_from_slice(value),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_that_a_user_cannot_copy_are_hidden_or_renamed() {
        let both = |name: &str| {
            [false, true]
                .map(|as_root| name_shown(name.into(), as_root).map(|name| String::from_utf8(name).unwrap()))
        };
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(both("user.colour"), [some("user.colour"), some("user.colour")]);
        assert_eq!(both("security.capability"), [None, some("security.capability")]);
        assert_eq!(both("security.selinux"), [None, some("user.skiff.xattr.security.selinux")]);
        assert_eq!(both("trusted.x"), [None, some("user.skiff.xattr.trusted.x")]);
        assert_eq!(both(&format!("trusted.{}", "x".repeat(247))), [None, None]);
    }
}
