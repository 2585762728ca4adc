//! A range of an open file, read by `pread`.
//!
//! An image is never mapped: a file that is truncated under a mapping, or whose file system goes away,
//! kills the process that touches it with SIGBUS. A read says so with an error.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A range of an open file. Offsets given to its methods count from the start of the range.
#[derive(Debug, Clone)]
pub struct Source {
    file: Arc<File>,
    offset: u64,
    length: u64,
}

impl Source {
    /// The `length` bytes of `file` from `offset` on, which need not exist: reading what is missing fails.
    pub fn new(file: Arc<File>, offset: u64, length: u64) -> Self {
        Self { file, offset, length }
    }

    /// A whole file, as long as it is now.
    pub fn whole(file: Arc<File>) -> io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(Self { file, offset: 0, length })
    }

    /// Length of the range in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The file.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Where the range starts in the file, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Fills `buf` with the bytes from `at` on. Past the end of the range, or of a file that has been
    /// truncated since: `UnexpectedEof`.
    pub fn read_exact_at(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        let end = at.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.length) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let start = self.offset.checked_add(at).ok_or(ErrorKind::UnexpectedEof)?;
        self.file.read_exact_at(buf, start)
    }

    /// Whether the bytes can be read without waiting for a disk or a server: the first and the last are in the page
    /// cache. Some file systems do not say, and then they cannot.
    pub fn is_at_hand(&self, at: u64, length: u64) -> bool {
        let Some(last) = at.checked_add(length.saturating_sub(1)).filter(|&last| last < self.length) else {
            return false;
        };
        [at, last].into_iter().all(|at| {
            let mut byte = [0];
            let place = self.offset.saturating_add(at);
            let parts = &mut [io::IoSliceMut::new(&mut byte)];
            rustix::io::preadv2(&*self.file, parts, place, rustix::io::ReadWriteFlags::NOWAIT) == Ok(1)
        })
    }

    /// A range within this one; one that leaves it is `UnexpectedEof`.
    pub fn sub(&self, offset: u64, length: u64) -> io::Result<Self> {
        let end = offset.checked_add(length);
        if end.is_none_or(|end| end > self.length) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let offset = self.offset.checked_add(offset).ok_or(ErrorKind::UnexpectedEof)?;
        Ok(Self { file: self.file.clone(), offset, length })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn reads_stay_within_the_range() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let whole = Source::whole(Arc::new(file)).unwrap();
        let part = whole.sub(2, 5).unwrap();
        let mut two = [0; 2];
        part.read_exact_at(&mut two, 3).unwrap();
        assert_eq!(&two, b"56");
        assert_eq!(part.sub(1, 2).unwrap().offset(), 3);
        for (offset, length) in [(0, 6), (6, 0), (u64::MAX, 2), (2, u64::MAX)] {
            assert_eq!(part.sub(offset, length).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        }
        assert_eq!(part.read_exact_at(&mut two, 4).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(part.read_exact_at(&mut two, u64::MAX).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_file_truncated_since_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 100]).unwrap();
        let source = Source::whole(Arc::new(file)).unwrap();
        source.file().set_len(50).unwrap();
        let error = source.read_exact_at(&mut [0; 10], 45).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }
}
