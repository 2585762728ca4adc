//! The bytes of one part onto this machine, whatever happens on the way.
//!
//! ```text
//! in the cache already                       that file
//! lock ─▶ what an earlier transfer has left ─▶ sum of it ─▶ Range: bytes=N- ─▶ more ─▶ the sum is right ─▶ its name
//!                                                 ▲            cut             │
//!                                                 └──────────────◀─────────────┘
//! ```
//!
//! The lock is that of its key. A cut transfer goes on from where it was cut, now or in the next call; it is given
//! up when nothing comes five times in a row. Where the cache cannot be written to, the bytes go into a file without a
//! name.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::Digest;
use super::http::{ATTEMPTS, Response};
use super::scratch;
use crate::cache::store::is_unwritable;
use crate::cache::{Kind as Stored, Store};
use crate::error::{Error, Kind, Result};

/// Bytes that are taken from a connection at once.
const PIECE_BYTES: usize = 256 << 10;
/// The wait after a cut transfer.
const AFTER_A_CUT: Duration = Duration::from_millis(500);

/// How far one part is.
#[derive(Debug)]
pub struct Part {
    /// What it is, for people.
    pub name: String,
    /// Its length in bytes; 0 where it is not known.
    pub size: u64,
    /// How much of it is here.
    pub done: AtomicU64,
}

/// How far a transfer is, for who shows it.
#[derive(Debug, Default)]
pub struct Progress {
    parts: Mutex<Vec<Arc<Part>>>,
}

impl Progress {
    /// Adds a part.
    pub fn begin(&self, name: String, size: u64) -> Arc<Part> {
        let part = Arc::new(Part { name, size, done: AtomicU64::new(0) });
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&part));
        part
    }

    /// All parts so far.
    pub fn parts(&self) -> Vec<Arc<Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What is to be fetched.
pub struct One<'a> {
    /// What it is, for messages.
    pub what: String,
    /// What its bytes must give; none where nobody knows.
    pub digest: Option<Digest>,
    /// Its length; none where nobody knows.
    pub size: Option<u64>,
    /// Asks for the bytes from an offset on.
    pub ask: &'a (dyn Fn(u64) -> Result<Response> + 'a),
    /// How far it is.
    pub part: &'a Part,
    /// Set when it is not wanted any more.
    pub failed: &'a AtomicBool,
}

/// Why a part is not here.
enum Trouble {
    Refused(Error),
    Writing(io::Error),
    Cut(io::Error),
    Wrong(Digest, u64),
    Long,
    GivenUp,
}

impl Trouble {
    fn into_error(self, one: &One<'_>) -> Error {
        let tried = format!("cannot fetch {}", one.what);
        let size = one.size.unwrap_or_default();
        let changed = "the server, or something between here and there, changes what it sends";
        match self {
            Self::Refused(error) => error,
            Self::Writing(error) => {
                Error::new(Kind::Io, format!("{tried}: cannot write it down")).because(error)
            }
            Self::Cut(error) => Error::host(tried)
                .because(format!("the connection is cut again and again: {error}"))
                .hint("what has come is kept: the same command goes on from there"),
            Self::Wrong(found, length) if length == size => {
                Error::image(tried).because(format!("what came has the digest {found}")).hint(changed)
            }
            Self::Wrong(_, length) => {
                Error::image(tried).because(format!("{length} bytes came of {size}")).hint(changed)
            }
            Self::Long => {
                Error::image(tried).because(format!("more than its {size} bytes came")).hint(changed)
            }
            Self::GivenUp => Error::new(Kind::Interrupted, tried),
        }
    }
}

/// Fetches a part into the cache, or finds it there; without a cache or a key, into a file without a name in the
/// second place. `tell` is told when the cache cannot be used.
///
/// # Errors
/// Those of the server; bytes that are not what the digest says.
pub fn fetch_one(
    one: &One<'_>,
    (kind, key): (Stored, Option<&str>),
    (store, directory): (Option<&Store>, &Path),
    tell: &dyn Fn(&str),
) -> Result<File> {
    if let (Some(store), Some(key)) = (store, key) {
        let here = || {
            let file = store.find(kind, key, one.size)?;
            one.part.done.store(one.size.unwrap_or_default(), Ordering::Relaxed);
            Some(file)
        };
        if let Some(found) = here() {
            return Ok(found);
        }
        let lock = store.lock(key, &|| {});
        if let Some(found) = here() {
            return Ok(found);
        }
        store.sweep(key, &lock);
        // What has no digest may have changed since it was cut.
        let given_up = match store.begin(key, lock.excludes() && one.digest.is_some()) {
            Ok(mut new) => match fill(one, &mut new.file) {
                Ok(()) => match store.finish(new, kind, key) {
                    Ok(file) => return Ok(file),
                    Err(error) => store.give_up(&error),
                },
                Err(Trouble::Writing(error)) if is_unwritable(&error) => {
                    // What does not fit makes room for others.
                    new.discard();
                    store.give_up(&error)
                }
                Err(trouble) => return Err(trouble.into_error(one)),
            },
            Err(error) => store.give_up(&error),
        };
        if let Some(text) = given_up {
            tell(&text);
        }
    }
    let mut file = scratch::file_in(directory)?;
    fill(one, &mut file).map_err(|trouble| scratch::explain(trouble.into_error(one), directory))?;
    Ok(file)
}

/// Makes a file hold the bytes of a part, whatever of them it holds already.
fn fill(one: &One<'_>, file: &mut File) -> Result<(), Trouble> {
    let mut attempt = 0;
    let mut resumed = false;
    loop {
        let (mut sum, mut offset) = begun(file).map_err(Trouble::Writing)?;
        if one.size.is_some_and(|size| offset > size) {
            restart(file, &mut sum, &mut offset).map_err(Trouble::Writing)?;
        }
        resumed |= offset > 0 && attempt == 0;
        let before = offset;
        one.part.done.store(offset, Ordering::Relaxed);
        if offset == 0 || one.size != Some(offset) {
            match transfer(one, file, (&mut sum, &mut offset)) {
                Ok(()) => {}
                Err(Trouble::Cut(error)) => {
                    // As long as something comes it is worth going on.
                    attempt = if offset > before { 1 } else { attempt + 1 };
                    if attempt >= ATTEMPTS {
                        return Err(Trouble::Cut(error));
                    }
                    thread::sleep(AFTER_A_CUT * attempt);
                    continue;
                }
                Err(trouble) => return Err(trouble),
            }
        }
        let found = Digest::from_sum(sum.finalize().into());
        if one.digest.is_none_or(|digest| digest == found) && one.size.is_none_or(|size| size == offset) {
            return Ok(());
        }
        let length = offset;
        // What was there before may have been bad; what has just come may not.
        restart(file, &mut Sha256::new(), &mut offset).map_err(Trouble::Writing)?;
        if !resumed {
            return Err(Trouble::Wrong(found, length));
        }
        resumed = false;
        attempt = 1;
    }
}

/// Appends what is missing.
fn transfer(one: &One<'_>, file: &mut File, (sum, offset): (&mut Sha256, &mut u64)) -> Result<(), Trouble> {
    let response = (one.ask)(*offset).map_err(Trouble::Refused)?;
    if response.status().as_u16() != 206 && *offset > 0 {
        restart(file, sum, offset).map_err(Trouble::Writing)?;
    }
    let mut body = response.into_body().into_reader();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        if one.failed.load(Ordering::Relaxed) {
            return Err(Trouble::GivenUp);
        }
        let length = match body.read(&mut piece) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Trouble::Cut(error)),
        };
        if length == 0 {
            break;
        }
        *offset += length as u64;
        if one.size.is_some_and(|size| *offset > size) {
            return Err(Trouble::Long);
        }
        file.write_all(&piece[..length]).map_err(Trouble::Writing)?;
        sum.update(&piece[..length]);
        one.part.done.store(*offset, Ordering::Relaxed);
    }
    if one.size.is_some_and(|size| *offset < size) {
        return Err(Trouble::Cut(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(())
}

/// The sum of what a file holds, and its length; the next byte goes to its end.
fn begun(file: &mut File) -> io::Result<(Sha256, u64)> {
    let mut sum = Sha256::new();
    file.seek(SeekFrom::Start(0))?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut length = 0;
    loop {
        match file.read(&mut piece)? {
            0 => return Ok((sum, length)),
            read => {
                sum.update(&piece[..read]);
                length += read as u64;
            }
        }
    }
}

fn restart(file: &mut File, sum: &mut Sha256, offset: &mut u64) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    *sum = Sha256::new();
    *offset = 0;
    Ok(())
}
