//! A host or an image as its loader searches it: from a name to a library (ld.so(8)).
//!
//! ```text
//! 1  DT_RPATH of what needs it, where that has no DT_RUNPATH
//! 2  LD_LIBRARY_PATH
//! 3  DT_RUNPATH of what needs it
//! 4  the loader's cache (glibc)
//! 5  the loader's own directories: /lib64, /usr/lib64, /lib, /usr/lib and Debian's below them;
//!    of musl those of /etc/ld-musl-ARCH.path, or /lib, /usr/local/lib, /usr/lib
//! ```
//!
//! A library for another processor or class is passed over, as the loader does. The files are reached by a function,
//! so that this module knows neither hosts nor images.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::bytes::Bytes;
use super::cache::{self, Cache};
use super::read::{Elf, Platform, parse_elf};
use super::symbols::{Symbols, read_symbols};
use crate::error::Result;

/// The glibc loader's cache.
const CACHE: &str = "/etc/ld.so.cache";
/// Libraries of one closure: more are no program.
const MAX_CLOSURE: usize = 2000;
/// A list of musl's directories is a line or a few.
const MAX_PATH_FILE: u64 = 64 * 1024;

/// An open regular file of a place.
pub struct Opened<'a> {
    /// Where it really is in the place: absolute, free of links.
    pub path: PathBuf,
    /// Its contents.
    pub bytes: Bytes<'a>,
}

/// Opens the regular file that a path of the place leads to; none when there is none.
pub type Open<'a> = Box<dyn Fn(&Path) -> Result<Option<Opened<'a>>> + 'a>;

/// A library, or a program, of a place.
#[derive(Debug, PartialEq, Eq)]
pub struct Library {
    /// The path it was found by.
    pub path: PathBuf,
    /// Where it really is: absolute in the place, free of links.
    pub real: PathBuf,
    /// What it says of itself.
    pub elf: Elf,
}

impl Library {
    /// What others need it by: its soname, else its file's name.
    pub fn name(&self) -> String {
        let file = || self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.elf.soname.clone().unwrap_or_else(file)
    }
}

/// Where libraries are looked for.
pub struct Place<'a> {
    open: Open<'a>,
    /// What messages call it: `the host`, `the image`.
    pub name: String,
    /// Directories of `LD_LIBRARY_PATH`.
    pub first: Vec<PathBuf>,
    /// The loader's cache; empty where there is none.
    pub cache: Cache,
    /// The loader's own directories.
    pub own: Vec<PathBuf>,
    /// Its C library is musl's.
    pub musl: bool,
    known: RefCell<BTreeMap<PathBuf, Option<Rc<Library>>>>,
}

impl<'a> Place<'a> {
    /// A place whose files `open` opens. `first` are the directories of `LD_LIBRARY_PATH` there; `machine` is the
    /// processor as `uname -m` says it.
    ///
    /// # Errors
    /// Its files cannot be read.
    pub fn new(name: &str, first: Vec<PathBuf>, machine: &str, open: Open<'a>) -> Result<Self> {
        let whole = |path: &Path, most: u64| -> Result<Option<Vec<u8>>> {
            match open(path)? {
                Some(file) if file.bytes.size() <= most => {
                    file.bytes.exact(0, file.bytes.size() as usize).map(Some)
                }
                _ => Ok(None),
            }
        };
        let parsed = whole(Path::new(CACHE), cache::MAX_BYTES)?.and_then(|bytes| cache::parse_cache(&bytes));
        let loader = PathBuf::from(format!("/lib/ld-musl-{machine}.so.1"));
        let musl = parsed.is_none() && open(&loader)?.is_some();
        let own = match musl {
            true => {
                let list = whole(Path::new(&format!("/etc/ld-musl-{machine}.path")), MAX_PATH_FILE)?;
                let list = list.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                let list = list.as_deref().unwrap_or("/lib:/usr/local/lib:/usr/lib");
                list.split([':', '\n']).filter(|path| path.starts_with('/')).map(PathBuf::from).collect()
            }
            false => {
                let debian = format!("{machine}-linux-gnu");
                let roots = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"].map(PathBuf::from);
                let below = ["/lib", "/usr/lib"].map(|root| Path::new(root).join(&debian));
                below.into_iter().chain(roots).collect()
            }
        };
        let cache = parsed.unwrap_or_default();
        let name = name.to_owned();
        Ok(Self { open, name, first, cache, own, musl, known: RefCell::default() })
    }

    /// The library or program at a path; none when there is no such file, or it is neither. A damaged one is none:
    /// the loader would not load it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn library(&self, path: &Path) -> Result<Option<Rc<Library>>> {
        if let Some(known) = self.known.borrow().get(path) {
            return Ok(known.clone());
        }
        let found = match (self.open)(path)? {
            Some(file) => parse_elf(&file.bytes)
                .ok()
                .flatten()
                .map(|elf| Rc::new(Library { path: path.to_owned(), real: file.path, elf })),
            None => None,
        };
        self.known.borrow_mut().insert(path.to_owned(), found.clone());
        Ok(found)
    }

    /// An open file of the place.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(&self, path: &Path) -> Result<Option<Opened<'a>>> {
        (self.open)(path)
    }

    /// The names that a library gives and asks for, of those that are wanted.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub fn symbols(&self, library: &Library, wanted: impl Fn(&str) -> bool) -> Result<Symbols> {
        match (self.open)(&library.real)? {
            Some(file) => read_symbols(&file.bytes, &library.elf, wanted),
            None => Ok(Symbols::default()),
        }
    }

    /// The library that the loader would take for `name`, needed by `by`.
    ///
    /// # Errors
    /// A file on the way cannot be read.
    pub fn find(&self, name: &str, platform: Platform, by: Option<&Library>) -> Result<Option<Rc<Library>>> {
        let fits = |library: &Rc<Library>| library.elf.platform == platform;
        if name.contains('/') {
            return Ok(self.library(Path::new(name))?.filter(fits));
        }
        for path in self.candidates(name, by) {
            if let Some(library) = self.library(&path)?.filter(fits) {
                return Ok(Some(library));
            }
        }
        Ok(None)
    }

    /// Every library of that name that a search could find, each real file once: whichever is taken, by whatever way,
    /// is among them. `more` are directories besides the loader's.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn all(&self, name: &str, platform: Platform, more: &[PathBuf]) -> Result<Vec<Rc<Library>>> {
        let mut found: Vec<Rc<Library>> = Vec::new();
        let more = more.iter().map(|directory| directory.join(name));
        for path in self.candidates(name, None).into_iter().chain(more) {
            if let Some(library) = self.library(&path)?
                && library.elf.platform == platform
                && !found.iter().any(|other| other.real == library.real)
            {
                found.push(library);
            }
        }
        Ok(found)
    }

    fn candidates(&self, name: &str, by: Option<&Library>) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        let mut add = |directory: &Path| paths.push(directory.join(name));
        let own = |list: &[String]| -> Vec<PathBuf> {
            by.map(|by| list.iter().filter_map(|path| expanded(path, by)).collect()).unwrap_or_default()
        };
        let by_elf = by.map(|by| &by.elf);
        let rpath = by_elf.filter(|elf| elf.runpath.is_empty()).map_or(Vec::new(), |elf| own(&elf.rpath));
        rpath.iter().for_each(|directory| add(directory));
        self.first.iter().for_each(|directory| add(directory));
        by_elf.map_or(Vec::new(), |elf| own(&elf.runpath)).iter().for_each(|directory| add(directory));
        let cached = self.cache.entries.get(name).into_iter().flatten();
        paths.extend(cached.map(|entry| entry.path.clone()));
        paths.extend(self.own.iter().map(|directory| directory.join(name)));
        paths
    }

    /// All that `starts` need, directly and through others, each once, and what each name leads to; none where it is
    /// not there. `stop` says of a name that it is not to be followed; it is not in the answer then.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn closure(
        &self,
        starts: &[Rc<Library>],
        stop: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<(String, Option<Rc<Library>>)>> {
        let mut seen: BTreeSet<String> = BTreeSet::new();
        let mut out = Vec::new();
        let mut ahead: VecDeque<Rc<Library>> = starts.iter().cloned().collect();
        while let Some(library) = ahead.pop_front() {
            for name in &library.elf.needed {
                if stop(name) || seen.len() >= MAX_CLOSURE || !seen.insert(name.clone()) {
                    continue;
                }
                let found = self.find(name, library.elf.platform, Some(&library))?;
                ahead.extend(found.clone());
                out.push((name.clone(), found));
            }
        }
        Ok(out)
    }
}

/// A directory of a search path, with `$ORIGIN` and `$LIB` replaced; none where it is relative to nothing known.
fn expanded(path: &str, by: &Library) -> Option<PathBuf> {
    let origin = by.real.parent()?.to_string_lossy().into_owned();
    let lib = if by.elf.platform.wide { "lib64" } else { "lib" };
    let mut path = path.to_owned();
    for (token, value) in [("ORIGIN", origin.as_str()), ("LIB", lib)] {
        path = path.replace(&format!("${{{token}}}"), value).replace(&format!("${token}"), value);
    }
    (path.starts_with('/') && !path.contains('$')).then(|| PathBuf::from(path))
}
