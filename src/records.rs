//! What emulated root writes down of a file, in extended attributes: their names and their form.
//!
//! | attribute | on | value |
//! |---|---|---|
//! | `user.skiff.owner` | file, directory | `UID:GID` |
//! | `user.skiff.owner.NAME` | the directory of a link, pipe or socket NAME, which can have none itself | the same |
//! | `user.skiff.device` | an empty file in place of a device | `c:MAJOR:MINOR` or `b:MAJOR:MINOR` |
//! | `user.skiff.xattr.NAME` | any | the value of an attribute NAME that users may not set |
//! | `security.skiff.owner` | a link, pipe or socket of an image that is served as root's | as `user.skiff.owner`; never listed |

/// What their names begin with.
pub const PREFIX: &str = "user.skiff.";
/// An owner.
pub const OWNER: &str = "user.skiff.owner";
/// The owner of a name in a directory, which follows.
pub const OWNER_OF: &str = "user.skiff.owner.";
/// A device.
pub const DEVICE: &str = "user.skiff.device";
/// An attribute's name follows.
pub const XATTR: &str = "user.skiff.xattr.";
/// The owner of a link: the kernel looks for no `user.` attribute on a link.
pub const SERVED_OWNER: &str = "security.skiff.owner";
/// The longest name of an attribute (`XATTR_NAME_MAX`).
pub const NAME_BYTES: usize = 255;

/// User and group.
pub type Ids = (u32, u32);

/// A device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// A block device; else a character device.
    pub block: bool,
    /// 12 bits.
    pub major: u32,
    /// 20 bits.
    pub minor: u32,
}

/// The value of an owner.
pub fn owner_text((user, group): Ids) -> String {
    format!("{user}:{group}")
}

/// An owner from its value.
pub fn parse_owner(value: &[u8]) -> Option<Ids> {
    // The highest number is no id: to chown(2) it says "leave it".
    parse_pair(value).filter(|&(user, group)| user != u32::MAX && group != u32::MAX)
}

/// The value of a device.
pub fn device_text(device: Device) -> String {
    let Device { block, major, minor } = device;
    format!("{}:{major}:{minor}", if block { 'b' } else { 'c' })
}

/// A device from its value.
pub fn parse_device(value: &[u8]) -> Option<Device> {
    let (kind, number) = value.split_at_checked(2)?;
    let (major, minor) = parse_pair(number).filter(|&(major, minor)| major < 1 << 12 && minor < 1 << 20)?;
    match kind {
        b"c:" => Some(Device { block: false, major, minor }),
        b"b:" => Some(Device { block: true, major, minor }),
        _ => None,
    }
}

fn parse_pair(bytes: &[u8]) -> Option<(u32, u32)> {
    let colon = bytes.iter().position(|&byte| byte == b':')?;
    Some((parse_number(bytes.get(..colon)?)?, parse_number(bytes.get(colon + 1..)?)?))
}

fn parse_number(bytes: &[u8]) -> Option<u32> {
    // `parse` alone would take a sign.
    let digits = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(bytes).ok().filter(|_| digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_two_numbers() {
        assert_eq!(parse_owner(owner_text((42, 70_000)).as_bytes()), Some((42, 70_000)));
        for wrong in
            ["", "42", "42:", ":7", "a:b", "1:2:3", "-1:0", "1:+2", "4294967295:0", "0:4294967296", "1:2 "]
        {
            assert_eq!(parse_owner(wrong.as_bytes()), None, "{wrong:?}");
        }
    }

    #[test]
    fn devices_have_twelve_bits_of_major_and_twenty_of_minor() {
        for device in [
            Device { block: false, major: 5, minor: 1 },
            Device { block: true, major: 4095, minor: (1 << 20) - 1 },
        ] {
            assert_eq!(parse_device(device_text(device).as_bytes()), Some(device));
        }
        for wrong in ["", "c", "c:", "x:1:2", "c:1", "c:1:", "c:+1:2", "c:1:2:3", "c:4096:0", "b:0:1048576"] {
            assert_eq!(parse_device(wrong.as_bytes()), None, "{wrong:?}");
        }
    }
}
