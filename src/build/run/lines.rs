//! A script that its shell reads line by line, so that it can be told how far it has come when a command fails.
//!
//! The shells of Debian (dash) and Alpine (busybox) know no line numbers and read files in blocks. But of a pipe in
//! packet mode (pipe(2), `O_DIRECT`) each read gives one packet, here a line, and a shell reads no line before it has
//! done with those before. So the line of a failed command, or the last line of a failed `if ... fi`, is the last that
//! was read.
//!
//! Others read a pipe byte by byte, which would lose the rest of each packet; they get a file.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::image::Tree;
use crate::launch::step::Feed;

/// A packet is no longer (`PIPE_BUF`).
const PACKET_BYTES: usize = 4096;

/// A script in a pipe.
pub struct Script {
    pipe: File,
    /// The line in which each packet ends.
    ends: Vec<u32>,
    /// What the packets are taken from.
    pub feed: Feed,
}

/// Whether the tree's `/bin/sh` reads a pipe in blocks.
pub fn reads_blocks(tree: &Tree) -> bool {
    let found = tree.lookup(Path::new("/bin/sh")).ok().flatten();
    let name = found.as_ref().and_then(|shell| shell.path.file_name());
    name.is_some_and(|name| name == "dash" || name == "busybox")
}

impl Script {
    /// Makes the pipe at `path`.
    ///
    /// # Errors
    /// Those of mkfifo(3), open(2) and inotify(7).
    pub fn new(path: &Path, text: &str) -> io::Result<Self> {
        rustix::fs::mkfifoat(rustix::fs::CWD, path, Mode::from_raw_mode(0o755))?;
        let made = Self::open(path, text);
        if made.is_err() {
            let _ = fs::remove_file(path);
        }
        made
    }

    fn open(path: &Path, text: &str) -> io::Result<Self> {
        let open = |options: &mut fs::OpenOptions| options.custom_flags(libc::O_NONBLOCK).open(path);
        // First, or nobody could write; and it keeps what is not read.
        let pipe = open(fs::OpenOptions::new().read(true))?;
        let write = open(fs::OpenOptions::new().write(true))?;
        rustix::fs::fcntl_setfl(&write, OFlags::NONBLOCK | OFlags::DIRECT)?;
        let packets = packets(text);
        let ends = packets.iter().map(|(end, _)| *end).collect();
        let packets = packets.into_iter().map(|(_, bytes)| bytes.to_vec()).collect();
        Ok(Self { pipe, ends, feed: Feed::new(path, write, packets)? })
    }

    /// The last line that was read; none where nothing was.
    pub fn last_line(&mut self) -> Option<u32> {
        let mut unread = self.feed.unwritten();
        let mut packet = [0; PACKET_BYTES];
        while let Ok(1..) = self.pipe.read(&mut packet) {
            unread += 1;
        }
        let read = self.ends.len().checked_sub(unread)?;
        self.ends.get(read.checked_sub(1)?).copied()
    }
}

/// Lines, with empty ones before them, and the line in which each ends.
fn packets(text: &str) -> Vec<(u32, &[u8])> {
    let mut packets = Vec::new();
    let (mut start, mut position, mut number) = (0, 0, 0);
    let bytes = text.as_bytes();
    for line in text.split_inclusive('\n') {
        number += 1;
        position += line.len();
        let is_last = position == bytes.len();
        if line != "\n" || is_last || position - start >= PACKET_BYTES {
            packets.extend(bytes[start..position].chunks(PACKET_BYTES).map(|packet| (number, packet)));
            start = position;
        }
    }
    packets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_a_line_with_the_empty_ones_before_it() {
        fn sizes(text: &str) -> Vec<(u32, usize)> {
            packets(text).into_iter().map(|(end, bytes)| (end, bytes.len())).collect()
        }
        assert_eq!(sizes("\n\na\nbc\n\nd"), [(3, 4), (4, 3), (6, 2)]);
        assert_eq!(sizes("a\n\n"), [(1, 2), (2, 1)]);
        assert_eq!(sizes(&format!("{}\nb\n", "a".repeat(5000))), [(1, 4096), (1, 905), (2, 2)]);
        assert_eq!(sizes(&"\n".repeat(5000)), [(4096, 4096), (5000, 904)]);
        assert_eq!(sizes(""), []);
    }
}
