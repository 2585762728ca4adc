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
use super::table::{Call, architectures};
use crate::sys::notify::Instruction;

/// What the filter does with the calls of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The supervisor answers.
    Ask,
    /// Those that change something, other than an extended attribute, succeed and do nothing.
    Pretend,
}

/// The program; none for a machine that is not in the tables.
pub fn program(machine: &str, scope: Scope, action: Action) -> Option<Vec<Instruction>> {
    let architectures = architectures(machine);
    if architectures.is_empty() {
        return None;
    }
    let mut program = vec![load(ARCHITECTURE)];
    for architecture in architectures {
        let calls: Vec<_> = architecture.calls().filter(|(_, call)| concerns(scope, action, *call)).collect();
        let body = search(&calls, scope, action);
        // A long jump: the body may be longer than a condition can skip.
        program.extend([
            condition(JUMP_EQUAL, architecture.audit, 1, 0),
            jump(body.len() as u32 + 1),
            load(NUMBER),
        ]);
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
    let with =
        |index, bits| vec![load(argument(index)), condition(JUMP_SET, bits, 0, 1), give(action), give(ALLOW)];
    match call {
        Call::Mknod => mknod(1, asked, action),
        Call::Mknodat => mknod(2, asked, action),
        Call::Open => with(1, MAKES),
        Call::Openat => with(2, MAKES),
        Call::Statx => with(3, RECORDED),
        _ => vec![give(action)],
    }
}

/// The flags of open(2) by which files are made: O_CREAT, and that of O_TMPFILE which is its own.
const MAKES: u32 = (libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u32;

/// What statx(2) can be asked for that is recorded.
const RECORDED: u32 = libc::STATX_TYPE | libc::STATX_MODE | libc::STATX_UID | libc::STATX_GID;

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
            for architecture in architectures(machine) {
                let audit = architecture.audit;
                for number in (0..600).chain([0x4000_0000 + 92, u32::MAX]) {
                    let call = architecture.calls().find(|(known, _)| *known == number).map(|(_, call)| call);
                    // For mknod, arguments 1 and 2 are mode and device, and for mknodat 2 and 3; and flags of open.
                    let shifted = match call {
                        Some(Call::Mknodat) => [0, 0, DEVICE[1], DEVICE[2]],
                        Some(Call::Open) => [0, libc::O_CREAT as u32, 0, 0],
                        Some(Call::Openat) => [0, 0, libc::O_CREAT as u32, 0],
                        Some(Call::Statx) => [0, 0, 0, libc::STATX_BASIC_STATS],
                        _ => DEVICE,
                    };
                    let expected = if call.is_some() { ASK } else { ALLOW };
                    assert_eq!(
                        given(&ask, audit, number, shifted),
                        expected,
                        "{machine} {audit:#x} {number}"
                    );
                    let pretended = call.is_some_and(|call| concerns(Scope::Root, Action::Pretend, call));
                    let expected = if pretended { libc::SECCOMP_RET_ERRNO } else { ALLOW };
                    assert_eq!(given(&pretend, audit, number, shifted), expected, "{machine} {number}");
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
    fn statx_is_emulated_where_it_asks_for_what_is_recorded() {
        let program = program("x86_64", Scope::Root, Action::Ask).expect("known");
        for (mask, expected) in [
            (0, ALLOW),
            (libc::STATX_SIZE | libc::STATX_MTIME | libc::STATX_INO, ALLOW),
            (libc::STATX_BASIC_STATS, ASK),
            (libc::STATX_GID, ASK),
            (libc::STATX_TYPE, ASK),
        ] {
            assert_eq!(given(&program, 0xC000_003E, 332, [0, 0, 0, mask]), expected, "{mask:#x}");
        }
    }
}
