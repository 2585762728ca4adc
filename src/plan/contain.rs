//! What takes the place of the host's directories under `--contain`: few devices, and empty directories, in memory
//! or below `--workdir`.
//!
//! ```text
//! /dev    null zero full random urandom tty of the host; pts and shm (and mqueue) new; links into /proc/self/fd
//!         (shm is the host's where ranks of a step meet in it: scheduler.rs)
//! /tmp /var/tmp home and --scratch    memory, or WORKDIR/{tmp,var_tmp,home,scratch/...}
//! ```

use std::path::{Path, PathBuf};

use super::mounts::{Chosen, is_virtual};
use super::target::{From, NEW_DIRECTORY, NEW_FILE, Spot};
use super::{Because, Held, HeldKind, HostEntry, HostPath, MountKind, TargetKind};
use crate::error::Result;

/// The devices of the host that a contained program sees.
const DEVICES: [&str; 6] = ["full", "null", "random", "tty", "urandom", "zero"];
/// Links that programs expect.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("ptmx", "pts/ptmx"),
    ("stderr", "/proc/self/fd/2"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
];

impl Chosen<'_, '_> {
    /// Mounts a `/dev` with few devices.
    pub(super) fn add_few_devices(&mut self, because: &Because) -> Result<()> {
        let link = |(name, target): &(&str, &str)| Held {
            path: (*name).into(),
            kind: HeldKind::Link((*target).into()),
            mode: 0o777,
        };
        let holds = LINKS.iter().map(link).collect();
        self.add_new("/dev", MountKind::Tmpfs { mode: 0o755, holds }, because)?;
        for name in DEVICES {
            let path = Path::new("/dev").join(name);
            if self.host.look(&path).is_ok() {
                self.add_new(
                    &path,
                    MountKind::Bind { source: HostPath(path.clone()), read_only: false },
                    because,
                )?;
            }
        }
        if let Some(terminal) = self.host.terminal() {
            let source = HostPath(terminal.to_owned());
            self.add_new("/dev/console", MountKind::Bind { source, read_only: false }, because)?;
        }
        self.add_shared_memory(because)?;
        if !self.left_out("devpts", Path::new("/dev/pts")) {
            let options = "newinstance,ptmxmode=0666,mode=0620";
            self.add_new("/dev/pts", MountKind::Kernel { file_system: "devpts", options }, because)?;
        }
        Ok(())
    }

    /// A new file system of POSIX message queues: that of the host shows the host's.
    pub(super) fn add_message_queues(&mut self) -> Result<()> {
        let Some(because) = self.asked.ipc.clone() else { return Ok(()) };
        let spot = self.view.resolve(Path::new("/dev/mqueue"), true)?;
        let contained = self.asked.contain.is_some();
        if self.left_out("dev", Path::new("/dev/mqueue")) || !contained && spot.kind.is_none() {
            return Ok(());
        }
        let what = MountKind::Kernel { file_system: "mqueue", options: "" };
        self.push(what, spot, because, true);
        Ok(())
    }

    /// Mounts an empty directory: memory, or `below` in the work directory.
    pub(super) fn add_empty(
        &mut self,
        target: &Path,
        below: impl AsRef<Path>,
        modes: (u32, u32),
        because: &Because,
    ) -> Result<()> {
        let (in_memory, on_disk) = modes;
        let what = match &self.asked.workdir {
            None => MountKind::Tmpfs { mode: in_memory, holds: vec![] },
            Some(_) => MountKind::Bind {
                source: self.make_below_workdir(below.as_ref(), on_disk)?,
                read_only: false,
            },
        };
        self.add_new(target, what, because)
    }

    /// Notes that `below` is to be made in the work directory.
    fn make_below_workdir(&mut self, below: &Path, mode: u32) -> Result<HostPath> {
        let mut path = self.workdir.clone().unwrap_or_default();
        let mut parts = below.components().peekable();
        while let Some(part) = parts.next() {
            path.push(part);
            // What is only on the way is the caller's alone.
            let mode = if parts.peek().is_some() { 0o700 } else { mode };
            self.make(&path, TargetKind::Directory, mode);
        }
        Ok(HostPath(path))
    }

    /// Notes that something is to be made on the host.
    fn make(&mut self, path: &Path, kind: TargetKind, mode: u32) {
        if self.view.made.insert(path.to_owned(), kind).is_none() {
            self.make.push(HostEntry { path: HostPath(path.to_owned()), kind, mode });
        }
    }

    /// A mount point that is missing below a mount of the host's is made there, as Apptainer does; and its parents.
    /// The kernel's own trees get none.
    pub(super) fn made_on_host(&mut self, spot: Spot, kind: TargetKind) -> Spot {
        let (From::Mount(_, Some(shown)), None) = (&spot.from, spot.kind) else { return spot };
        if is_virtual(shown) {
            return spot;
        }
        let there = |path: &Path| self.view.made.contains_key(path) || self.host.look(path).is_ok();
        let parents = shown.ancestors().skip(1).take_while(|path| !there(path));
        let parents: Vec<PathBuf> = parents.map(Path::to_owned).collect();
        let shown = shown.clone();
        for parent in parents.iter().rev() {
            self.make(parent, TargetKind::Directory, NEW_DIRECTORY);
        }
        let mode = if kind == TargetKind::Directory { NEW_DIRECTORY } else { NEW_FILE };
        self.make(&shown, kind, mode);
        Spot { kind: Some(kind), ..spot }
    }

    /// Mounts something new where the container has nothing of the host's.
    pub(super) fn add_new(
        &mut self,
        target: impl AsRef<Path>,
        what: MountKind,
        because: &Because,
    ) -> Result<()> {
        let target = target.as_ref();
        let spot = self.view.resolve(target, true)?;
        let spot = self.made_on_host(spot, self.view.kind_of(&what));
        // Two names of one place (an image whose /var/tmp is a link to /tmp): the first stands.
        if matches!(spot.from, From::Mount(..))
            && self.view.mounts.iter().any(|mount| mount.target.0 == spot.path)
        {
            return Ok(());
        }
        let kind = self.view.kind_of(&what);
        if let Some(why) = self.view.refusal(&spot, kind, false) {
            return Err(super::target::refused(target, &spot, &format!("{why} ({})", because.origin())));
        }
        self.push(what, spot, because.clone(), false);
        Ok(())
    }
}
