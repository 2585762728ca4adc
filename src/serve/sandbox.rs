//! What a worker may still do: read its image, talk FUSE, use memory. It parses bytes that anyone may have made.

use landlock::{ABI, Access, AccessFs, Ruleset, RulesetAttr};
use seccompiler::{SeccompAction, SeccompFilter, TargetArch};

use crate::sys::process;

/// Shuts the file systems for this thread and those it starts, before any is started. Kernels without Landlock
/// (before 5.13) leave it to [`forbid_other_calls`].
pub fn forbid_files() {
    let _ = process::set_no_new_privileges();
    // Best effort by design: what this kernel knows of the rights is taken away.
    let _ = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(Ruleset::create)
        .map(landlock::RulesetCreated::restrict_self);
}

/// Leaves all threads of the process only the calls that serving needs; every other one gives EPERM.
pub fn forbid_other_calls() {
    let allowed = [
        libc::SYS_read,
        libc::SYS_pread64,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_close,
        libc::SYS_fstat,
        libc::SYS_statx,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_getrandom,
        libc::SYS_clock_gettime,
        libc::SYS_gettid,
        libc::SYS_getpid,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_rseq,
        libc::SYS_set_robust_list,
        libc::SYS_restart_syscall,
        libc::SYS_tgkill,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    let rules = allowed.into_iter().map(|call| (call, vec![])).collect();
    let Ok(architecture) = TargetArch::try_from(std::env::consts::ARCH) else { return };
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let program = SeccompFilter::new(rules, refuse, SeccompAction::Allow, architecture)
        .ok()
        .and_then(|filter| seccompiler::BpfProgram::try_from(filter).ok());
    if let Some(program) = program {
        // Without seccomp in the kernel Landlock alone remains.
        let _ = seccompiler::apply_filter_all_threads(&program);
    }
}
