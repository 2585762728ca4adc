//! What this machine allows, really tried: each trial does in a child process what a container's start does, and
//! all that it made ends with the child.
//!
//! ```text
//! user namespace ─▶ id map ─▶ mount namespace ─▶ open /dev/fuse ─▶ mount "fuse" ─▶ read INIT: what the kernel offers
//!                                             └▶ mount "tmpfs"  ─▶ mount "overlay"
//! ```

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;

use crate::sys::{mount, process};

/// What is done one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Running a child at all.
    Child,
    /// unshare(CLONE_NEWUSER).
    UserNamespace,
    /// Its uid_map and gid_map.
    IdMap,
    /// unshare(CLONE_NEWNS).
    MountNamespace,
    /// mount(2) of a tmpfs.
    Memory,
    /// open(2) of /dev/fuse.
    Device,
    /// mount(2) of the file system in question.
    Mount,
}

const STEPS: [Step; 7] = [
    Step::Child,
    Step::UserNamespace,
    Step::IdMap,
    Step::MountNamespace,
    Step::Memory,
    Step::Device,
    Step::Mount,
];

/// Where a trial ended, and with which errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The step that failed.
    pub step: Step,
    /// What the kernel answered.
    pub errno: i32,
}

/// The outcome of a trial.
pub type Tried<T = ()> = Result<T, Refused>;

/// What the kernel's FUSE offers a server (FUSE_INIT).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Version of the protocol.
    pub version: (u32, u32),
    /// What it can do, one bit a feature.
    pub flags: u32,
}

/// Whether this user can have a user namespace and a mount namespace, and mount something in them.
pub fn namespaces() -> Tried {
    in_child(|| enter().and_then(|()| stage()).map(|()| [0; 3])).map(drop)
}

/// Whether this user can mount FUSE; `None` when it can, but the kernel did not say what it offers.
pub fn fuse() -> Tried<Option<Offer>> {
    let [major, minor, flags] = in_child(|| {
        enter()?;
        mount_fuse()
    })?;
    Ok((major > 0).then_some(Offer { version: (major, minor), flags }))
}

/// Whether this user can lay one directory over another; `written` in memory.
pub fn overlay(written: bool) -> Tried {
    in_child(|| {
        enter()?;
        stage()?;
        lay(written).map(|()| [0; 3]).map_err(at(Step::Mount))
    })
    .map(drop)
}

fn at(step: Step) -> impl Fn(io::Error) -> Refused {
    move |error| Refused { step, errno: error.raw_os_error().unwrap_or_default() }
}

/// The child tells its three numbers, or the step and the errno, as text.
fn in_child(work: impl FnOnce() -> Tried<[u32; 3]>) -> Tried<[u32; 3]> {
    let told = process::in_child(|| {
        let text = match work() {
            Ok([first, second, third]) => format!("{first} {second} {third}"),
            Err(refused) => format!("{} {}", refused.step as u8, refused.errno),
        };
        text.into_bytes()
    });
    let numbers: Vec<u32> = String::from_utf8_lossy(&told.map_err(at(Step::Child))?)
        .split(' ')
        .filter_map(|number| number.parse().ok())
        .collect();
    match numbers[..] {
        [first, second, third] => Ok([first, second, third]),
        [step, errno] => {
            let step = STEPS.get(step as usize).copied().unwrap_or(Step::Child);
            Err(Refused { step, errno: errno as i32 })
        }
        _ => Err(Refused { step: Step::Child, errno: libc::EPROTO }),
    }
}

/// The namespaces of a container.
fn enter() -> Tried {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(io::Error::from).map_err(at(Step::UserNamespace))?;
    let write = |file, text: String| std::fs::write(format!("/proc/self/{file}"), text);
    write("setgroups", "deny".to_owned())
        .and_then(|()| write("uid_map", format!("{uid} {uid} 1")))
        .and_then(|()| write("gid_map", format!("{gid} {gid} 1")))
        .map_err(at(Step::IdMap))?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(io::Error::from).map_err(at(Step::MountNamespace))
}

/// Something to work in that is gone with the child. It hides a directory that every host has.
fn stage() -> Tried {
    mount::mount_new("tmpfs", "/dev", MountFlags::NOSUID | MountFlags::NODEV, "mode=0755")
        .and_then(|()| Ok(rustix::process::chdir("/dev")?))
        .map_err(at(Step::Memory))
}

fn mount_fuse() -> Tried<[u32; 3]> {
    // Without waiting: what the kernel says first is there as soon as it is mounted.
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let device: OwnedFd = rustix::fs::open("/dev/fuse", flags, Mode::empty())
        .map_err(io::Error::from)
        .map_err(at(Step::Device))?;
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let options = format!("fd={},rootmode=40755,user_id={uid},group_id={gid}", device.as_raw_fd());
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::RDONLY;
    mount::mount_new("fuse", "/dev", flags, &options).map_err(at(Step::Mount))?;
    // A header of 40 bytes, then major, minor, max_readahead, flags (linux/fuse.h).
    let mut request = [0_u8; 16 << 10];
    let read = rustix::io::read(&device, &mut request[..]).unwrap_or(0);
    let field = |index: usize| {
        let bytes = request[..read].get(40 + 4 * index..)?.first_chunk()?;
        Some(u32::from_ne_bytes(*bytes))
    };
    Ok([field(0).unwrap_or(0), field(1).unwrap_or(0), field(3).unwrap_or(0)])
}

fn lay(written: bool) -> io::Result<()> {
    for name in ["lower", "points", "upper", "work", "root"] {
        rustix::fs::mkdir(name, Mode::from(0o755))?;
    }
    let (options, flags) = if written {
        ("lowerdir=points:lower,userxattr,upperdir=upper,workdir=work", MountFlags::empty())
    } else {
        ("lowerdir=points:lower,userxattr", MountFlags::RDONLY)
    };
    mount::mount_new("overlay", "root", MountFlags::NOSUID | MountFlags::NODEV | flags, options)
}
