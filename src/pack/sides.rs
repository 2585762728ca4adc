//! Where the walk is: the directories on the way from the root, each open in all trees that show in it.

use super::pipeline::Halt;
use super::units::{CHANGED_HINT, Dir, Facts, cannot};
use super::walk::lost;
use crate::error::{Error, Kind};
use crate::image::squashfs::InodeRef;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::CString;
use std::fs::File;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;

/// How many directories on the way down are held open; the ones above are found again through "..".
const OPEN_ANCESTORS: usize = 64;

/// For opening a directory.
pub const DIRECTORY_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What a directory is in one of the trees.
pub struct Side {
    /// Which tree.
    pub layer: usize,
    /// What it is there.
    pub at: At,
}

/// What a directory is in a tree.
pub enum At {
    /// A directory of a file system.
    Dir {
        /// None while a walk far below does not need it.
        dir: Option<Arc<Dir>>,
        /// Device and inode.
        identity: (u64, u64),
        /// Empty files in it may be whiteouts.
        has_whiteouts: bool,
    },
    /// A directory of the base image.
    Base(InodeRef),
}

/// A directory on the way from the root to where the walk is.
pub struct Frame {
    /// It in all trees that show in it, the upper first.
    pub sides: Vec<Side>,
    /// Its entries still to come.
    pub entries: Range<u32>,
    /// What is to be done about each of them.
    pub steps: std::vec::IntoIter<Step>,
}

/// What the depth-first walk does when it comes to an entry.
pub enum Step {
    /// Nothing.
    Pass,
    /// Reads a file of a side.
    Read {
        /// Which.
        side: usize,
        /// What it is like now.
        facts: Facts,
    },
    /// Reads a file of the base.
    ReadBase(InodeRef),
    /// Goes into a directory: the sides that have the name, and its inode in the base.
    Enter(Vec<(usize, Option<InodeRef>)>),
}

impl Frame {
    /// The open directory of a side.
    pub fn dir(&self, side: usize) -> Option<&Arc<Dir>> {
        match self.sides.get(side) {
            Some(Side { at: At::Dir { dir, .. }, .. }) => dir.as_ref(),
            _ => None,
        }
    }

    /// The open directory of a layer.
    fn dir_of(&self, layer: usize) -> Option<&Arc<Dir>> {
        self.sides.iter().position(|side| side.layer == layer).and_then(|side| self.dir(side))
    }
}

/// Closes a directory far above, in those sides that have the one below it: through that it is found again. The
/// other sides end there, so that no more than one a layer stays open.
pub fn close_far_ancestor(stack: &mut [Frame]) {
    let Some(far) = stack.len().checked_sub(OPEN_ANCESTORS + 1) else { return };
    let Some([above, below]) = stack.get_mut(far..far + 2) else { return };
    for Side { layer, at } in &mut above.sides {
        if let At::Dir { dir, .. } = at
            && below.sides.iter().any(|side| side.layer == *layer)
        {
            *dir = None;
        }
    }
}

/// Makes `above` usable again after the walk of `left`, a directory in it.
pub fn come_back(left: &Frame, above: &mut Frame) -> Result<(), Halt> {
    for Side { layer, at } in &mut above.sides {
        let At::Dir { dir: above @ None, identity, .. } = at else { continue };
        let dir = left.dir_of(*layer).ok_or_else(lost)?;
        let parent = dir.path.parent().unwrap_or(&dir.path).to_owned();
        let file = rustix::fs::openat(&dir.file, c"..", DIRECTORY_FLAGS, Mode::empty())
            .map(File::from)
            .map_err(|errno| cannot("open directory", &parent, errno))?;
        let stat = rustix::fs::fstat(&file).map_err(|errno| cannot("examine", &parent, errno))?;
        if (stat.st_dev, stat.st_ino) != *identity {
            let message = format!("cannot pack {parent:?}: it was moved while it was packed");
            return Err(Halt::Failed(Error::new(Kind::Io, message).hint(CHANGED_HINT)));
        }
        *above = Some(Arc::new(Dir { file, path: parent }));
    }
    Ok(())
}

/// All names in a directory.
pub fn list(dir: &File) -> Result<Vec<CString>, Errno> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 32 * 1024];
    let mut entries = rustix::fs::RawDir::new(dir, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
