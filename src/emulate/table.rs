//! The system calls that are emulated, and their numbers in each way to make calls.

/// An emulated call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Chown,
    Lchown,
    Fchown,
    Fchownat,
    Mknod,
    Mknodat,
    Setxattr,
    Lsetxattr,
    Fsetxattr,
    Setxattrat,
    Removexattr,
    Lremovexattr,
    Fremovexattr,
    Removexattrat,
    /// These make files, which are the caller's. So does mknod.
    Open,
    Openat,
    Openat2,
    Creat,
    Mkdir,
    Mkdirat,
    Symlink,
    Symlinkat,
    /// These say what a file is. On 32-bit processors: those with 64-bit sizes (stat64 and its like).
    Stat,
    Lstat,
    Fstat,
    Fstatat,
    Statx,
    /// These give a name to what has its record beside its name.
    Rename,
    Renameat,
    Renameat2,
    Link,
    Linkat,
    Bind,
    /// These change which directory is a process's root, by chroot(2) or by another set of mounts.
    EnterRoot,
    /// The rest sets ids and asks for them: of the user, of the group.
    Set(Which, Set),
    Get(Which, Get),
    GetThree(Which),
    Setgroups,
    Getgroups,
    Capset,
}

/// Whose ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    User,
    Group,
}

/// How ids are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// setuid(2)
    One,
    /// setreuid(2)
    Two,
    /// setresuid(2)
    Three,
    /// setfsuid(2)
    Files,
}

/// Which id is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Get {
    Real,
    Effective,
}

/// A way to make system calls.
pub struct Architecture {
    /// Its `AUDIT_ARCH_…` (linux/audit.h).
    pub audit: u32,
    /// How it lays out what stat(2) gives.
    pub layout: Layout,
    /// The numbers of the emulated calls. They ascend, from one table to the next too.
    tables: &'static [&'static [(u32, Call)]],
}

/// A `struct stat`; on 32-bit processors `struct stat64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    X86_64,
    Generic,
    I386,
    Arm,
}

impl Architecture {
    /// Calls and their numbers, which ascend.
    pub fn calls(&self) -> impl Iterator<Item = (u32, Call)> {
        self.tables.iter().flat_map(|table| table.iter().copied())
    }

    /// The call of a number.
    pub fn call(&self, number: i32) -> Option<Call> {
        let number = u32::try_from(number).ok()?;
        let table = self.tables.iter().find(|table| table.last().is_some_and(|last| number <= last.0))?;
        let place = table.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        Some(table[place].1)
    }
}

/// The ways that programs can take on this machine, the usual one first. Calls made in another way are let through.
pub fn architectures(machine: &str) -> &'static [Architecture] {
    match machine {
        "x86_64" => &[
            Architecture { audit: 0xC000_003E, layout: Layout::X86_64, tables: &[X86_64, NEW] },
            Architecture { audit: 0x4000_0003, layout: Layout::I386, tables: &[BITS_32, I386, NEW] },
        ],
        "aarch64" => &[
            Architecture { audit: 0xC000_00B7, layout: Layout::Generic, tables: &[GENERIC, NEW] },
            Architecture { audit: 0x4000_0028, layout: Layout::Arm, tables: &[BITS_32, ARM, NEW] },
        ],
        "riscv64" => &[Architecture { audit: 0xC000_00F3, layout: Layout::Generic, tables: &[GENERIC, NEW] }],
        _ => &[],
    }
}

/// The way in which a call was made on this machine.
pub fn architecture(audit: u32) -> Option<&'static Architecture> {
    architectures(std::env::consts::ARCH).iter().find(|architecture| architecture.audit == audit)
}

pub const SETUID: Call = Call::Set(Which::User, Set::One);
pub const SETGID: Call = Call::Set(Which::Group, Set::One);
pub const SETREUID: Call = Call::Set(Which::User, Set::Two);
pub const SETREGID: Call = Call::Set(Which::Group, Set::Two);
pub const SETRESUID: Call = Call::Set(Which::User, Set::Three);
pub const SETRESGID: Call = Call::Set(Which::Group, Set::Three);
pub const SETFSUID: Call = Call::Set(Which::User, Set::Files);
pub const SETFSGID: Call = Call::Set(Which::Group, Set::Files);
pub const GETUID: Call = Call::Get(Which::User, Get::Real);
pub const GETGID: Call = Call::Get(Which::Group, Get::Real);
pub const GETEUID: Call = Call::Get(Which::User, Get::Effective);
pub const GETEGID: Call = Call::Get(Which::Group, Get::Effective);
pub const GETRESUID: Call = Call::GetThree(Which::User);
pub const GETRESGID: Call = Call::GetThree(Which::Group);

const X86_64: &[(u32, Call)] = &[
    (2, Call::Open),
    (4, Call::Stat),
    (5, Call::Fstat),
    (6, Call::Lstat),
    (49, Call::Bind),
    (82, Call::Rename),
    (83, Call::Mkdir),
    (85, Call::Creat),
    (86, Call::Link),
    (88, Call::Symlink),
    (92, Call::Chown),
    (93, Call::Fchown),
    (94, Call::Lchown),
    (102, GETUID),
    (104, GETGID),
    (105, SETUID),
    (106, SETGID),
    (107, GETEUID),
    (108, GETEGID),
    (113, SETREUID),
    (114, SETREGID),
    (115, Call::Getgroups),
    (116, Call::Setgroups),
    (117, SETRESUID),
    (118, GETRESUID),
    (119, SETRESGID),
    (120, GETRESGID),
    (122, SETFSUID),
    (123, SETFSGID),
    (126, Call::Capset),
    (133, Call::Mknod),
    (155, Call::EnterRoot),
    (161, Call::EnterRoot),
    (188, Call::Setxattr),
    (189, Call::Lsetxattr),
    (190, Call::Fsetxattr),
    (197, Call::Removexattr),
    (198, Call::Lremovexattr),
    (199, Call::Fremovexattr),
    (257, Call::Openat),
    (258, Call::Mkdirat),
    (259, Call::Mknodat),
    (260, Call::Fchownat),
    (262, Call::Fstatat),
    (264, Call::Renameat),
    (265, Call::Linkat),
    (266, Call::Symlinkat),
    (272, Call::EnterRoot),
    (308, Call::EnterRoot),
    (316, Call::Renameat2),
    (332, Call::Statx),
];

/// What I386 and ARM share. Calls with 16-bit ids or 32-bit sizes (chown, setuid, stat, ...) are let through: no C
/// library of this century uses them. So are pivot_root, and those of i386's socketcall(2).
const BITS_32: &[(u32, Call)] = &[
    (5, Call::Open),
    (8, Call::Creat),
    (9, Call::Link),
    (14, Call::Mknod),
    (38, Call::Rename),
    (39, Call::Mkdir),
    (61, Call::EnterRoot),
    (83, Call::Symlink),
    (185, Call::Capset),
    (195, Call::Stat),
    (196, Call::Lstat),
    (197, Call::Fstat),
    (198, Call::Lchown),
    (199, GETUID),
    (200, GETGID),
    (201, GETEUID),
    (202, GETEGID),
    (203, SETREUID),
    (204, SETREGID),
    (205, Call::Getgroups),
    (206, Call::Setgroups),
    (207, Call::Fchown),
    (208, SETRESUID),
    (209, GETRESUID),
    (210, SETRESGID),
    (211, GETRESGID),
    (212, Call::Chown),
    (213, SETUID),
    (214, SETGID),
    (215, SETFSUID),
    (216, SETFSGID),
    (226, Call::Setxattr),
    (227, Call::Lsetxattr),
    (228, Call::Fsetxattr),
    (235, Call::Removexattr),
    (236, Call::Lremovexattr),
    (237, Call::Fremovexattr),
];

const I386: &[(u32, Call)] = &[
    (295, Call::Openat),
    (296, Call::Mkdirat),
    (297, Call::Mknodat),
    (298, Call::Fchownat),
    (300, Call::Fstatat),
    (302, Call::Renameat),
    (303, Call::Linkat),
    (304, Call::Symlinkat),
    (310, Call::EnterRoot),
    (346, Call::EnterRoot),
    (353, Call::Renameat2),
    (361, Call::Bind),
    (383, Call::Statx),
];

const ARM: &[(u32, Call)] = &[
    (282, Call::Bind),
    (322, Call::Openat),
    (323, Call::Mkdirat),
    (324, Call::Mknodat),
    (325, Call::Fchownat),
    (327, Call::Fstatat),
    (329, Call::Renameat),
    (330, Call::Linkat),
    (331, Call::Symlinkat),
    (337, Call::EnterRoot),
    (375, Call::EnterRoot),
    (382, Call::Renameat2),
    (397, Call::Statx),
];

/// 64-bit processors that Linux came to late (asm-generic/unistd.h): without the calls that newer ones replaced.
const GENERIC: &[(u32, Call)] = &[
    (5, Call::Setxattr),
    (6, Call::Lsetxattr),
    (7, Call::Fsetxattr),
    (14, Call::Removexattr),
    (15, Call::Lremovexattr),
    (16, Call::Fremovexattr),
    (33, Call::Mknodat),
    (34, Call::Mkdirat),
    (36, Call::Symlinkat),
    (37, Call::Linkat),
    (38, Call::Renameat),
    (41, Call::EnterRoot),
    (51, Call::EnterRoot),
    (54, Call::Fchownat),
    (55, Call::Fchown),
    (56, Call::Openat),
    (79, Call::Fstatat),
    (80, Call::Fstat),
    (91, Call::Capset),
    (97, Call::EnterRoot),
    (143, SETREGID),
    (144, SETGID),
    (145, SETREUID),
    (146, SETUID),
    (147, SETRESUID),
    (148, GETRESUID),
    (149, SETRESGID),
    (150, GETRESGID),
    (151, SETFSUID),
    (152, SETFSGID),
    (158, Call::Getgroups),
    (159, Call::Setgroups),
    (174, GETUID),
    (175, GETEUID),
    (176, GETGID),
    (177, GETEGID),
    (200, Call::Bind),
    (268, Call::EnterRoot),
    (276, Call::Renameat2),
    (291, Call::Statx),
];

/// Since Linux 5.1 numbers are the same everywhere.
const NEW: &[(u32, Call)] = &[(437, Call::Openat2), (463, Call::Setxattrat), (466, Call::Removexattrat)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_ascend() {
        for machine in ["x86_64", "aarch64", "riscv64"] {
            for architecture in architectures(machine) {
                let numbers: Vec<_> = architecture.calls().map(|(number, _)| number).collect();
                assert!(
                    numbers.is_sorted_by(|one, other| one < other),
                    "{machine} {:#x}",
                    architecture.audit
                );
                for (number, call) in architecture.calls() {
                    assert_eq!(architecture.call(number as i32), Some(call));
                }
                assert_eq!([-1, 0, 401, 600].map(|number| architecture.call(number)), [None; 4]);
            }
        }
    }

    #[test]
    fn the_numbers_are_those_of_this_machine() {
        for (number, call) in [
            (libc::SYS_openat, Call::Openat),
            (libc::SYS_openat2, Call::Openat2),
            (libc::SYS_mkdirat, Call::Mkdirat),
            (libc::SYS_symlinkat, Call::Symlinkat),
            (libc::SYS_fchownat, Call::Fchownat),
            (libc::SYS_fchown, Call::Fchown),
            (libc::SYS_mknodat, Call::Mknodat),
            (libc::SYS_fstat, Call::Fstat),
            (libc::SYS_newfstatat, Call::Fstatat),
            (libc::SYS_statx, Call::Statx),
            (libc::SYS_renameat2, Call::Renameat2),
            (libc::SYS_linkat, Call::Linkat),
            (libc::SYS_bind, Call::Bind),
            (libc::SYS_setresuid, SETRESUID),
            (libc::SYS_setregid, SETREGID),
            (libc::SYS_setfsgid, SETFSGID),
            (libc::SYS_getegid, GETEGID),
            (libc::SYS_getresgid, GETRESGID),
            (libc::SYS_setgroups, Call::Setgroups),
            (libc::SYS_lsetxattr, Call::Lsetxattr),
            (libc::SYS_fremovexattr, Call::Fremovexattr),
            (libc::SYS_capset, Call::Capset),
            (libc::SYS_chroot, Call::EnterRoot),
            (libc::SYS_pivot_root, Call::EnterRoot),
            (libc::SYS_unshare, Call::EnterRoot),
            (libc::SYS_setns, Call::EnterRoot),
        ] {
            assert_eq!(architectures(std::env::consts::ARCH)[0].call(number as i32), Some(call), "{number}");
        }
    }
}
