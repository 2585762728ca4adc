//! What a worker may still do: read its image, talk FUSE, use memory. It parses bytes that anyone may have made.

use std::collections::BTreeMap;

use landlock::{ABI, Access, AccessFs, Ruleset, RulesetAttr};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use crate::sys::process;

/// Shuts everything else for this thread and those it starts. Best effort by design: a kernel without Landlock
/// (before 5.13) or without seccomp leaves the other one.
pub fn enter() {
    let _ = process::set_no_new_privileges();
    let _ = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(Ruleset::create)
        .map(landlock::RulesetCreated::restrict_self);
    if let Some(program) = filter() {
        let _ = seccompiler::apply_filter(&program);
    }
}

/// The filter of system calls. What is not allowed does not exist (ENOSYS), so that the C library falls back from
/// clone3, whose flags no filter can see, to clone, of which only threads are allowed.
fn filter() -> Option<BpfProgram> {
    let thread = u64::try_from(libc::CLONE_THREAD).ok()?;
    let is_thread =
        SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), thread).ok()?;
    let allowed = [
        libc::SYS_read,
        // The keeper sends the queues.
        libc::SYS_recvmsg,
        libc::SYS_pread64,
        // Is it in the page cache?
        libc::SYS_preadv2,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_close,
        libc::SYS_close_range,
        libc::SYS_fstat,
        libc::SYS_statx,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_ppoll,
        libc::SYS_sched_yield,
        libc::SYS_getrandom,
        libc::SYS_clock_gettime,
        libc::SYS_getcpu,
        libc::SYS_gettid,
        libc::SYS_getpid,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_rseq,
        libc::SYS_set_robust_list,
        libc::SYS_sched_getaffinity,
        libc::SYS_restart_syscall,
        libc::SYS_tgkill,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        allowed.into_iter().map(|call| (call, Vec::new())).collect();
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![is_thread]).ok()?]);
    // A thread that stores has descriptors of its own.
    let files = u64::try_from(libc::CLONE_FILES).ok()?;
    let is_files = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, files).ok()?;
    rules.insert(libc::SYS_unshare, vec![SeccompRule::new(vec![is_files]).ok()?]);
    // A thread chooses its processor, and no other process's.
    let is_itself = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, 0).ok()?;
    rules.insert(libc::SYS_sched_setaffinity, vec![SeccompRule::new(vec![is_itself]).ok()?]);
    let architecture = TargetArch::try_from(std::env::consts::ARCH).ok()?;
    let refuse = SeccompAction::Errno(libc::ENOSYS as u32);
    SeccompFilter::new(rules, refuse, SeccompAction::Allow, architecture).ok()?.try_into().ok()
}
