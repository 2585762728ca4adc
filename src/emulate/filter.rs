//! Which system calls are emulated, as a program for the kernel (seccomp(2)): a table for each way to make calls, and
//! the jumps that it becomes.
//!
//! ```text
//! architecture is A? ── no ─▶ next one, or: allow
//!   number in A's table? ── no ─▶ allow            found by halving, so that few steps are taken; newer kernels
//!     open: to make a file? ── no ─▶ allow           remember what is always allowed and run nothing at all
//!       emulate
//! ```

use super::Scope;
use crate::sys::notify::Instruction;

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

/// What the filter does with the calls of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The supervisor answers.
    Ask,
    /// Those that change something, other than an extended attribute, succeed and do nothing.
    Pretend,
}

/// A way to make system calls: its `AUDIT_ARCH_…` (linux/audit.h), and the numbers of the emulated calls.
struct Architecture {
    audit: u32,
    calls: &'static [(u32, Call)],
}

/// The ways that programs can take on this machine, the usual one first. Calls made in another way are let through.
fn architectures(machine: &str) -> &'static [Architecture] {
    match machine {
        "x86_64" => &[
            Architecture { audit: 0xC000_003E, calls: X86_64 },
            Architecture { audit: 0x4000_0003, calls: I386 },
        ],
        "aarch64" => &[
            Architecture { audit: 0xC000_00B7, calls: GENERIC },
            Architecture { audit: 0x4000_0028, calls: ARM },
        ],
        "riscv64" => &[Architecture { audit: 0xC000_00F3, calls: GENERIC }],
        _ => &[],
    }
}

/// The call that a notification is about.
pub fn call(audit: u32, number: i32) -> Option<Call> {
    let all = architectures(std::env::consts::ARCH);
    let known = all.iter().find(|architecture| architecture.audit == audit)?;
    let number = u32::try_from(number).ok()?;
    known.calls.binary_search_by_key(&number, |(number, _)| *number).ok().map(|place| known.calls[place].1)
}

const SETUID: Call = Call::Set(Which::User, Set::One);
const SETGID: Call = Call::Set(Which::Group, Set::One);
const SETREUID: Call = Call::Set(Which::User, Set::Two);
const SETREGID: Call = Call::Set(Which::Group, Set::Two);
const SETRESUID: Call = Call::Set(Which::User, Set::Three);
const SETRESGID: Call = Call::Set(Which::Group, Set::Three);
const SETFSUID: Call = Call::Set(Which::User, Set::Files);
const SETFSGID: Call = Call::Set(Which::Group, Set::Files);
const GETUID: Call = Call::Get(Which::User, Get::Real);
const GETGID: Call = Call::Get(Which::Group, Get::Real);
const GETEUID: Call = Call::Get(Which::User, Get::Effective);
const GETEGID: Call = Call::Get(Which::Group, Get::Effective);
const GETRESUID: Call = Call::GetThree(Which::User);
const GETRESGID: Call = Call::GetThree(Which::Group);

/// Numbers ascend in every table.
const X86_64: &[(u32, Call)] = &[
    (2, Call::Open),
    (83, Call::Mkdir),
    (85, Call::Creat),
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
    (266, Call::Symlinkat),
    (437, Call::Openat2),
    (463, Call::Setxattrat),
    (466, Call::Removexattrat),
];

/// Those without 32-bit ids (chown, setuid, ...) are let through: no C library of this century uses them.
const I386: &[(u32, Call)] = &[
    (5, Call::Open),
    (8, Call::Creat),
    (14, Call::Mknod),
    (39, Call::Mkdir),
    (83, Call::Symlink),
    (185, Call::Capset),
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
    (295, Call::Openat),
    (296, Call::Mkdirat),
    (297, Call::Mknodat),
    (298, Call::Fchownat),
    (304, Call::Symlinkat),
    (437, Call::Openat2),
    (463, Call::Setxattrat),
    (466, Call::Removexattrat),
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
    (54, Call::Fchownat),
    (55, Call::Fchown),
    (56, Call::Openat),
    (91, Call::Capset),
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
    (437, Call::Openat2),
    (463, Call::Setxattrat),
    (466, Call::Removexattrat),
];

/// As I386 but for the last ones.
const ARM: &[(u32, Call)] = &[
    (5, Call::Open),
    (8, Call::Creat),
    (14, Call::Mknod),
    (39, Call::Mkdir),
    (83, Call::Symlink),
    (185, Call::Capset),
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
    (322, Call::Openat),
    (323, Call::Mkdirat),
    (324, Call::Mknodat),
    (325, Call::Fchownat),
    (331, Call::Symlinkat),
    (437, Call::Openat2),
    (463, Call::Setxattrat),
    (466, Call::Removexattrat),
];

/// The program; none for a machine that is not in the tables.
pub fn program(machine: &str, scope: Scope, action: Action) -> Option<Vec<Instruction>> {
    let architectures = architectures(machine);
    if architectures.is_empty() {
        return None;
    }
    let mut program = vec![load(ARCHITECTURE)];
    for Architecture { audit, calls } in architectures {
        let calls: Vec<_> =
            calls.iter().copied().filter(|(_, call)| concerns(scope, action, *call)).collect();
        let body = search(&calls, scope, action);
        // A long jump: the body may be longer than a condition can skip.
        program.extend([condition(JUMP_EQUAL, *audit, 1, 0), jump(body.len() as u32 + 1), load(NUMBER)]);
        program.extend(body);
    }
    program.push(give(ALLOW));
    Some(program)
}

fn concerns(scope: Scope, action: Action, call: Call) -> bool {
    use Call::{Chown, Fchown, Fchownat, Lchown, Mknod, Mknodat, Set, Setgroups};
    let pretended =
        matches!(call, Chown | Lchown | Fchown | Fchownat | Mknod | Mknodat | Set(..) | Setgroups);
    match scope {
        Scope::Root => action == Action::Ask || pretended,
        Scope::Devices => matches!(call, Mknod | Mknodat),
    }
}

/// So many numbers are compared one after the other.
const FEW: usize = 3;

/// Instructions that give something for every number, which is loaded.
fn search(calls: &[(u32, Call)], scope: Scope, action: Action) -> Vec<Instruction> {
    if calls.len() > FEW {
        let (low, high) = calls.split_at(calls.len() / 2);
        let (smallest, low, high) = (high[0].0, search(low, scope, action), search(high, scope, action));
        let start = [condition(JUMP_NOT_LESS, smallest, 0, 1), jump(low.len() as u32)];
        return start.into_iter().chain(low).chain(high).collect();
    }
    let mut all = Vec::new();
    for (number, call) in calls {
        let found = found(*call, scope, action);
        all.push(condition(JUMP_EQUAL, *number, 0, found.len() as u8));
        all.extend(found);
    }
    all.push(give(ALLOW));
    all
}

/// What happens with a call of the table.
fn found(call: Call, scope: Scope, action: Action) -> Vec<Instruction> {
    let asked = scope == Scope::Root && action == Action::Ask;
    let action = match action {
        Action::Ask => libc::SECCOMP_RET_USER_NOTIF,
        Action::Pretend => libc::SECCOMP_RET_ERRNO,
    };
    let flags =
        |index| vec![load(argument(index)), condition(JUMP_SET, MAKES, 0, 1), give(action), give(ALLOW)];
    match call {
        Call::Mknod => mknod(1, asked, action),
        Call::Mknodat => mknod(2, asked, action),
        Call::Open => flags(1),
        Call::Openat => flags(2),
        _ => vec![give(action)],
    }
}

/// The flags of open(2) by which files are made: O_CREAT, and that of O_TMPFILE which is its own.
const MAKES: u32 = (libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u32;

/// mknod(2), whose argument `mode` says what is made, and the next one which device. `all`: not devices alone.
fn mknod(mode: u32, all: bool, action: u32) -> Vec<Instruction> {
    let other = if all { action } else { ALLOW };
    vec![
        load(argument(mode)),
        instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, libc::S_IFMT),
        condition(JUMP_EQUAL, libc::S_IFBLK, 3, 0),
        condition(JUMP_EQUAL, libc::S_IFCHR, 0, 4),
        // A character device 0:0 is the mark of an overlay for what was removed, which users may make (5.8).
        load(argument(mode + 1)),
        condition(JUMP_EQUAL, 0, 1, 0),
        give(action),
        give(ALLOW),
        give(other),
    ]
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

/// Places in `struct seccomp_data`; of an argument, the lower half (all machines of the tables are little-endian).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

fn argument(index: u32) -> u32 {
    16 + 8 * index
}

const JUMP_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const JUMP_SET: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const JUMP_NOT_LESS: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;

fn load(place: u32) -> Instruction {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, place)
}

fn condition(code: u32, constant: u32, met: u8, unmet: u8) -> Instruction {
    instruction(code, met, unmet, constant)
}

fn jump(distance: u32) -> Instruction {
    instruction(libc::BPF_JMP | libc::BPF_JA, 0, 0, distance)
}

fn give(action: u32) -> Instruction {
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, action)
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> Instruction {
    Instruction { code: code as u16, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a program gives for a call.
    fn given(program: &[Instruction], audit: u32, number: u32, arguments: [u32; 4]) -> u32 {
        let (mut place, mut held) = (0, 0);
        loop {
            let Instruction { code, jt, jf, k } = program[place];
            place += 1;
            let skipped = |met: bool| usize::from(if met { jt } else { jf });
            match u32::from(code) {
                code if code == libc::BPF_RET | libc::BPF_K => return k,
                code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    held = match k {
                        NUMBER => number,
                        ARCHITECTURE => audit,
                        k => arguments[(k as usize - 16) / 8],
                    };
                }
                code if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => held &= k,
                code if code == libc::BPF_JMP | libc::BPF_JA => place += k as usize,
                JUMP_EQUAL => place += skipped(held == k),
                JUMP_NOT_LESS => place += skipped(held >= k),
                JUMP_SET => place += skipped(held & k != 0),
                code => panic!("instruction {code:#x}"),
            }
        }
    }

    const MACHINES: [&str; 3] = ["x86_64", "aarch64", "riscv64"];
    const ASK: u32 = libc::SECCOMP_RET_USER_NOTIF;
    const DEVICE: [u32; 4] = [0, libc::S_IFCHR | 0o666, 0x103, 0];

    #[test]
    fn every_call_of_the_tables_is_emulated_and_no_other() {
        for machine in MACHINES {
            let [ask, pretend] = [Action::Ask, Action::Pretend]
                .map(|action| program(machine, Scope::Root, action).expect("known"));
            for Architecture { audit, calls } in architectures(machine) {
                assert!(calls.windows(2).all(|two| two[0].0 < two[1].0), "{machine} {audit:#x}");
                for number in (0..600).chain([0x4000_0000 + 92, u32::MAX]) {
                    let call = calls.iter().find(|(known, _)| *known == number).map(|(_, call)| *call);
                    // For mknod, arguments 1 and 2 are mode and device, and for mknodat 2 and 3; and flags of open.
                    let shifted = match call {
                        Some(Call::Mknodat) => [0, 0, DEVICE[1], DEVICE[2]],
                        Some(Call::Open) => [0, libc::O_CREAT as u32, 0, 0],
                        Some(Call::Openat) => [0, 0, libc::O_CREAT as u32, 0],
                        _ => DEVICE,
                    };
                    let expected = if call.is_some() { ASK } else { ALLOW };
                    assert_eq!(
                        given(&ask, *audit, number, shifted),
                        expected,
                        "{machine} {audit:#x} {number}"
                    );
                    let pretended = call.is_some_and(|call| concerns(Scope::Root, Action::Pretend, call));
                    let expected = if pretended { libc::SECCOMP_RET_ERRNO } else { ALLOW };
                    assert_eq!(given(&pretend, *audit, number, shifted), expected, "{machine} {number}");
                }
            }
            // A processor of another kind.
            assert_eq!(given(&ask, 0x1234, 92, DEVICE), ALLOW);
        }
        assert!(program("vax", Scope::Root, Action::Ask).is_none());
    }

    #[test]
    fn of_what_mknod_makes_devices_are_emulated_and_for_root_all_but_marks() {
        for (scope, action) in
            [(Scope::Root, Action::Ask), (Scope::Root, Action::Pretend), (Scope::Devices, Action::Ask)]
        {
            let program = program("x86_64", scope, action).expect("known");
            let ask = if action == Action::Ask { ASK } else { libc::SECCOMP_RET_ERRNO };
            let chown = if scope == Scope::Root { ask } else { ALLOW };
            let other = if (scope, action) == (Scope::Root, Action::Ask) { ASK } else { ALLOW };
            assert_eq!(given(&program, 0xC000_003E, 92, DEVICE), chown);
            let mknod = |mode: u32, device: u32| given(&program, 0xC000_003E, 133, [0, mode, device, 0]);
            let mknodat = |mode: u32, device: u32| given(&program, 0xC000_003E, 259, [0, 0, mode, device]);
            for (kind, device, expected) in [
                (libc::S_IFCHR, 1, ask),
                (libc::S_IFBLK, 1, ask),
                (libc::S_IFBLK, 0, ask),
                (libc::S_IFCHR, 0, ALLOW),
                (libc::S_IFIFO, 1, other),
                (libc::S_IFREG, 1, other),
                (libc::S_IFSOCK, 0, other),
                (libc::S_IFDIR, 1, other),
                (0, 1, other),
            ] {
                for mode in [kind, kind | 0o666, kind | 0o7777] {
                    assert_eq!(
                        [mknod(mode, device), mknodat(mode, device)],
                        [expected; 2],
                        "{mode:o} {device}"
                    );
                }
            }
        }
    }

    #[test]
    fn of_open_only_what_makes_files_is_emulated() {
        let program = program("x86_64", Scope::Root, Action::Ask).expect("known");
        let exclusive = libc::O_CREAT | libc::O_EXCL;
        for (flags, expected) in [
            (libc::O_RDONLY, ALLOW),
            (libc::O_RDWR | libc::O_TRUNC | libc::O_APPEND | libc::O_CLOEXEC, ALLOW),
            (libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_PATH, ALLOW),
            (libc::O_CREAT, ASK),
            (libc::O_WRONLY | exclusive, ASK),
            (libc::O_TMPFILE | libc::O_RDWR, ASK),
        ] {
            let flags = flags as u32;
            assert_eq!(given(&program, 0xC000_003E, 2, [0, flags, 0, 0]), expected, "{flags:o}");
            assert_eq!(given(&program, 0xC000_003E, 257, [0, 0, flags, 0]), expected, "{flags:o}");
        }
    }

    #[test]
    fn the_numbers_are_those_of_this_machine() {
        for (number, call_) in [
            (libc::SYS_openat, Call::Openat),
            (libc::SYS_openat2, Call::Openat2),
            (libc::SYS_mkdirat, Call::Mkdirat),
            (libc::SYS_symlinkat, Call::Symlinkat),
            (libc::SYS_fchownat, Call::Fchownat),
            (libc::SYS_fchown, Call::Fchown),
            (libc::SYS_mknodat, Call::Mknodat),
            (libc::SYS_setresuid, SETRESUID),
            (libc::SYS_setregid, SETREGID),
            (libc::SYS_setfsgid, SETFSGID),
            (libc::SYS_getegid, GETEGID),
            (libc::SYS_getresgid, GETRESGID),
            (libc::SYS_setgroups, Call::Setgroups),
            (libc::SYS_lsetxattr, Call::Lsetxattr),
            (libc::SYS_fremovexattr, Call::Fremovexattr),
            (libc::SYS_capset, Call::Capset),
        ] {
            let audit = architectures(std::env::consts::ARCH)[0].audit;
            assert_eq!(call(audit, number as i32), Some(call_), "{number}");
        }
        assert_eq!(call(0xC000_003E, -1), None);
    }
}
