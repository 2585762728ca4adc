//! The structures of stat(2), from what statx(2) gives.

use super::table::Layout;
use crate::sys::statx::{self, Facts};

/// A structure that grows field by field. The gaps of the kernel's are zeroes.
struct Structure(Vec<u8>);

impl Structure {
    fn u32s(&mut self, values: &[u32]) -> &mut Self {
        self.0.extend(values.iter().flat_map(|value| value.to_ne_bytes()));
        self
    }

    fn u64s(&mut self, values: &[u64]) -> &mut Self {
        self.0.extend(values.iter().flat_map(|value| value.to_ne_bytes()));
        self
    }
}

/// What a call of stat's family writes.
pub fn stat(layout: Layout, facts: &Facts) -> Vec<u8> {
    let [links, user, group, block] =
        [statx::LINKS, statx::USER, statx::GROUP, statx::BLOCK_SIZE].map(|place| facts.u32(place));
    let mode = u32::from(facts.u16(statx::MODE));
    let [inode, size, blocks] = [statx::INODE, statx::SIZE, statx::BLOCKS].map(|place| facts.u64(place));
    let [on, of] = [statx::DEVICE_ON, statx::DEVICE_OF].map(|place| device(facts, place));
    let times = [statx::ACCESSED, statx::MODIFIED, statx::CHANGED]
        .map(|place| [facts.u64(place), u64::from(facts.u32(place + 8))]);
    // 32-bit processors have the lower half of the seconds.
    let short = times.as_flattened().iter().map(|value| *value as u32).collect::<Vec<_>>();
    let mut all = Structure(Vec::with_capacity(144));
    match layout {
        Layout::X86_64 => all
            .u64s(&[on, inode, links.into()])
            .u32s(&[mode, user, group, 0])
            .u64s(&[of, size, block.into(), blocks])
            .u64s(times.as_flattened())
            .u64s(&[0; 3]),
        Layout::Generic => all
            .u64s(&[on, inode])
            .u32s(&[mode, links, user, group])
            .u64s(&[of, 0, size])
            .u32s(&[block, 0])
            .u64s(&[blocks])
            .u64s(times.as_flattened())
            .u32s(&[0; 2]),
        // Aligned to four bytes, without gaps.
        Layout::I386 => all
            .u64s(&[on])
            .u32s(&[0, inode as u32, mode, links, user, group])
            .u64s(&[of])
            .u32s(&[0])
            .u64s(&[size])
            .u32s(&[block])
            .u64s(&[blocks])
            .u32s(&short)
            .u64s(&[inode]),
        Layout::Arm => all
            .u64s(&[on])
            .u32s(&[0, inode as u32, mode, links, user, group])
            .u64s(&[of])
            .u32s(&[0; 2])
            .u64s(&[size])
            .u32s(&[block, 0])
            .u64s(&[blocks])
            .u32s(&short)
            .u64s(&[inode]),
    };
    all.0
}

/// A device's number as these structures have it: major and minor, interleaved.
fn device(facts: &Facts, place: usize) -> u64 {
    let (major, minor) = (facts.u32(place), facts.u32(place + 4));
    u64::from(minor & 0xff | major << 8 | (minor & !0xff) << 12)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn structures_have_the_size_that_the_kernel_writes() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let facts = Facts::of(null.as_fd(), 0, libc::STATX_BASIC_STATS).unwrap();
        let sizes = [Layout::X86_64, Layout::Generic, Layout::I386, Layout::Arm]
            .map(|layout| stat(layout, &facts).len());
        assert_eq!(sizes, [144, 128, 96, 104]);
    }

    #[test]
    fn fields_stand_where_each_processor_looks_for_them() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let mut facts = Facts::of(null.as_fd(), 0, libc::STATX_BASIC_STATS).unwrap();
        facts.set_u32(statx::GROUP, 0x1234_5678);
        facts.set_u32(statx::SIZE, 0x2345_6789);
        facts.set_u32(statx::CHANGED + 8, 0x3456_789a);
        for (layout, group, size, changed) in [
            (Layout::X86_64, 32, 48, 112),
            (Layout::Generic, 28, 48, 112),
            (Layout::I386, 28, 44, 84),
            (Layout::Arm, 28, 48, 92),
        ] {
            let all = stat(layout, &facts);
            let at = |place: usize| u32::from_ne_bytes(all[place..place + 4].try_into().unwrap());
            assert_eq!([group, size, changed].map(at), [0x1234_5678, 0x2345_6789, 0x3456_789a], "{layout:?}");
            // /dev/null is 1:3 everywhere, and a device has a kind.
            let device = if layout == Layout::X86_64 { 40 } else { 32 };
            assert_eq!(at(device), 0x103, "{layout:?}");
        }
    }

    #[test]
    fn this_machines_structure_is_the_kernels() {
        for path in ["/dev/null", "/proc/self/exe", "/", "/proc"] {
            let file = rustix::fs::open(path, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
            let facts = Facts::of(file.as_fd(), 0, libc::STATX_BASIC_STATS).unwrap();
            let known = rustix::fs::fstat(&file).unwrap();
            let layout = super::super::table::architectures(std::env::consts::ARCH)[0].layout;
            let all = stat(layout, &facts);
            let word = |place: usize| u64::from_ne_bytes(all[place..place + 8].try_into().unwrap());
            let (links, blocks, seconds) = match layout {
                Layout::X86_64 => (word(16), word(64), word(88)),
                _ => (word(16) >> 32, word(64), word(88)),
            };
            assert_eq!(
                [word(0), word(8), links],
                [known.st_dev, known.st_ino, known.st_nlink as u64],
                "{path}"
            );
            assert_eq!((blocks, seconds), (known.st_blocks as u64, known.st_mtime as u64), "{path}");
        }
    }
}
