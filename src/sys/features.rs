//! What this kernel has, asked for by calls that cannot do anything: their arguments are such that a kernel (or a
//! seccomp filter) without the call says so first.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::CWD;
use rustix::mount::OpenTreeFlags;
use rustix::process::PidfdFlags;

/// The kernel's version, for what cannot be asked for; 0.0 where it says none.
pub fn kernel_version() -> (u32, u32) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-', '+']).map_while(|number| number.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// open_tree(2) and the rest of the mount interface by descriptors, kernel 5.2.
pub fn has_mount_descriptors() -> bool {
    // Without OPEN_TREE_CLONE it is open(2) with O_PATH, and everybody may.
    rustix::mount::open_tree(CWD, "/", OpenTreeFlags::OPEN_TREE_CLOEXEC).is_ok()
}

/// pidfd_open(2), kernel 5.3.
pub fn has_pidfds() -> bool {
    own_pidfd().is_ok()
}

fn own_pidfd() -> rustix::io::Result<OwnedFd> {
    rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
}

/// openat2(2), kernel 5.6.
pub fn has_openat2() -> bool {
    // SAFETY: with a size of 0 no byte of the (null) structure is read: EINVAL.
    exists(unsafe { libc::syscall(libc::SYS_openat2, -1, c"".as_ptr(), std::ptr::null::<u8>(), 0) })
}

/// close_range(2), kernel 5.9.
pub fn has_close_range() -> bool {
    // SAFETY: a range that ends before it begins is refused (EINVAL) before anything is closed.
    exists(unsafe { libc::syscall(libc::SYS_close_range, 1_u32, 0_u32, 0) })
}

/// mount_setattr(2), kernel 5.12.
pub fn has_mount_attributes() -> bool {
    // SAFETY: with a size of 0 no byte of the (null) structure is read: EINVAL.
    exists(unsafe {
        libc::syscall(libc::SYS_mount_setattr, -1, c"".as_ptr(), 0, std::ptr::null::<u8>(), 0_usize)
    })
}

/// The version of Landlock, kernel 5.13; `None` where it is not built in or not switched on.
pub fn landlock_version() -> Option<u32> {
    /// `LANDLOCK_CREATE_RULESET_VERSION` of linux/landlock.h.
    const ASK_VERSION: u32 = 1;
    // SAFETY: with this flag the call reads no structure, makes nothing and returns a number.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, ASK_VERSION)
    };
    u32::try_from(version).ok().filter(|version| *version > 0)
}

/// Filters of system calls that ask another process what to answer (`SECCOMP_RET_USER_NOTIF`), kernel 5.0.
pub fn has_seccomp_notification() -> bool {
    has_seccomp_action(libc::SECCOMP_RET_USER_NOTIF)
}

/// Filters of system calls (`SECCOMP_RET_ERRNO`).
pub fn has_seccomp_filters() -> bool {
    has_seccomp_action(libc::SECCOMP_RET_ERRNO)
}

fn has_seccomp_action(action: u32) -> bool {
    // SAFETY: SECCOMP_GET_ACTION_AVAIL reads one u32 through the pointer, which outlives the call.
    let answer =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    answer == 0
}

/// Whether a call that must fail failed for its arguments, and not because there is no such call. EPERM is the
/// answer of the filters of containers to calls that are newer than the filter.
fn exists(answer: libc::c_long) -> bool {
    let errno = io::Error::last_os_error().raw_os_error();
    answer == 0 || !matches!(errno, Some(libc::ENOSYS | libc::EPERM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_does_nothing_and_a_call_that_is_none_is_missed() {
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open();
        let _ = (has_mount_descriptors(), has_pidfds(), has_openat2(), has_close_range());
        let _ = (has_mount_attributes(), landlock_version(), has_seccomp_filters());
        assert_eq!(open(), before);
        // SAFETY: there is no system call of this number.
        assert!(!exists(unsafe { libc::syscall(100_000) }));
    }
}
