//! What is needed to bring libraries of the host into an image, and the check that each has to pass.
//!
//! A library is of the image's class and processor, and every version of the image's libraries that it needs is there,
//! or comes along. What does not pass is left out; so is then what needs it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::super::Because;
use super::super::inject::{self, Injection, LIBRARIES_32};
use super::super::libraries::{host_place, image_place};
use crate::elf::check::{Unmet, is_libc, unmet};
use crate::elf::{Library, Place, Platform};
use crate::error::Result;
use crate::host::Host;
use crate::image::Tree;

/// The one library that says what an image is built on.
const LIBC: &str = "libc.so.6";
/// Names in one line.
const NAMED: usize = 6;

/// All that is needed to bring something.
pub struct Bringing<'a> {
    /// The host.
    pub host: &'a Host,
    /// The image.
    pub image: &'a Tree,
    /// The host's libraries.
    pub hosts: Place<'a>,
    /// The image's libraries.
    pub images: Place<'a>,
    /// The platforms that libraries are brought for: that of the image's programs first.
    pub platforms: Vec<Platform>,
    /// What the image's C library is.
    pub libc: Libc,
    /// What is brought.
    pub injection: Injection,
    brought: BTreeMap<(Platform, String), Rc<Library>>,
    unfit: Vec<(Unmet, Because)>,
}

/// The C library of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Libc {
    /// glibc.
    Glibc,
    /// musl: libraries that were built for glibc do not load.
    Musl,
    /// It was not found, so nothing can be checked.
    Unknown,
}

/// A library of the host that may be brought.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The library.
    pub library: Rc<Library>,
    /// The names under which programs look for it.
    pub names: BTreeSet<String>,
}

/// The platform of a machine's usual programs, and of its 32-bit ones.
pub fn platforms(machine: &str) -> (Platform, Option<Platform>) {
    let platform = |wide, big_endian, machine| Platform { wide, big_endian, machine };
    match machine {
        "x86_64" => (platform(true, false, 62), Some(platform(false, false, 3))),
        "aarch64" => (platform(true, false, 183), Some(platform(false, false, 40))),
        "ppc64le" => (platform(true, false, 21), None),
        "s390x" => (platform(true, true, 22), None),
        "riscv64" => (platform(true, false, 243), None),
        "armv7l" | "armv8l" => (platform(false, false, 40), None),
        _ => (platform(false, false, 3), None),
    }
}

impl<'a> Bringing<'a> {
    /// Looks at the libraries of both sides; with `compat32`, for 32-bit programs, too.
    ///
    /// # Errors
    /// The image cannot be read.
    pub fn new(host: &'a Host, image: &'a Tree, compat32: bool) -> Result<Self> {
        let hosts = host_place(host)?;
        let images = image_place(image, &host.machine)?;
        let (native, narrow) = platforms(&host.machine);
        let has_libc = |platform| -> Result<bool> { Ok(images.find(LIBC, platform, None)?.is_some()) };
        let (platform, libc) = match narrow {
            _ if has_libc(native)? => (native, Libc::Glibc),
            Some(narrow) if has_libc(narrow)? => (narrow, Libc::Glibc),
            _ if images.musl => (native, Libc::Musl),
            _ => (native, Libc::Unknown),
        };
        let narrow = narrow.filter(|narrow| compat32 && *narrow != platform);
        Ok(Self {
            host,
            image,
            hosts,
            images,
            platforms: std::iter::once(platform).chain(narrow).collect(),
            libc,
            injection: Injection::default(),
            brought: BTreeMap::new(),
            unfit: Vec::new(),
        })
    }

    /// What keeps a library or program of the host from working in the image, if all of `along` comes along.
    ///
    /// # Errors
    /// The image cannot be read.
    pub fn unmet(&self, library: &Library, along: &[Candidate]) -> Result<Vec<Unmet>> {
        if self.libc == Libc::Unknown {
            return Ok(Vec::new());
        }
        let platform = library.elf.platform;
        let provider = |name: &str| {
            let comes = along.iter().find(|candidate| {
                candidate.library.elf.platform == platform && candidate.names.contains(name)
            });
            let comes = comes.map(|candidate| Rc::clone(&candidate.library));
            comes.or_else(|| self.brought.get(&(platform, name.to_owned())).cloned())
        };
        unmet(library, &self.images, &provider)
    }

    /// Brings those that work in the image. With `replace` they take the place of the image's own.
    ///
    /// # Errors
    /// The image cannot be read.
    pub fn bring(&mut self, candidates: Vec<Candidate>, replace: bool, because: &Because) -> Result<()> {
        if self.libc == Libc::Musl {
            return Ok(());
        }
        let mut fit = candidates;
        // One that is left out may be what another needs.
        loop {
            let mut kept = Vec::with_capacity(fit.len());
            let mut unfit = Vec::new();
            for candidate in &fit {
                match self.unmet(&candidate.library, &fit)?.into_iter().next() {
                    None => kept.push(candidate.clone()),
                    Some(unmet) => unfit.push(unmet),
                }
            }
            let done = unfit.is_empty();
            unfit.into_iter().for_each(|unmet| self.leave_out(unmet, because));
            fit = kept;
            if done {
                break;
            }
        }
        for Candidate { library, names } in fit {
            let platform = library.elf.platform;
            for name in names {
                if replace {
                    self.cover(&library, &name, because)?;
                }
                let source = library.real.clone();
                let place = match platform == self.platforms[0] {
                    true => inject::Place::Library(name.clone()),
                    false => inject::Place::At(Path::new(LIBRARIES_32).join(&name)),
                };
                self.injection.add(source, place, because);
                self.brought.entry((platform, name)).or_insert_with(|| Rc::clone(&library));
            }
        }
        Ok(())
    }

    /// Puts a library over the image's own ones of that name, which are of another driver: however a program comes to
    /// them, they would not work. Those for a newer CUDA on an older driver are there on purpose, and looked for first.
    fn cover(&mut self, library: &Library, name: &str, because: &Because) -> Result<()> {
        for own in self.images.all(name, library.elf.platform, &[])? {
            if !own.real.iter().any(|part| part == "compat") {
                self.injection.add(library.real.clone(), inject::Place::Over(own.real.clone()), because);
            }
        }
        Ok(())
    }

    /// Notes what a library or program lacks.
    pub fn leave_out(&mut self, unmet: Unmet, because: &Because) {
        let text = unmet.to_string();
        let why = text.strip_prefix(&unmet.library).map_or(text.as_str(), str::trim_start).to_owned();
        self.injection.leave_out(unmet.library.clone(), format!("it {why}"), because);
        self.unfit.push((unmet, because.clone()));
    }

    /// One line for each reason for which libraries are left out that programs may miss. That the image has no X11, or
    /// no GTK, is no such reason: then it has no program that would use them either.
    pub fn tell_of_unfit(&mut self) {
        let mut reasons: BTreeMap<String, (Vec<String>, String)> = BTreeMap::new();
        for (unmet, because) in &self.unfit {
            let Unmet { library, of, versions, newest, place } = unmet;
            let (named, why) = match (versions.last(), newest) {
                (Some(version), Some(newest)) => {
                    (format!("{library} ({version})"), format!("{of} of {place} ends at {newest}"))
                }
                (Some(version), None) => (library.clone(), format!("{of} of {place} lacks {version}")),
                (None, _) if is_libc(of) => (library.clone(), format!("{place} has no {of} for them")),
                (None, _) => continue,
            };
            let known = reasons.entry(why).or_insert_with(|| (Vec::new(), because.origin().to_owned()));
            known.0.push(named);
        }
        for (why, (mut names, origin)) in reasons {
            let rest = names.len().saturating_sub(NAMED);
            names.truncate(NAMED);
            let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
            self.injection.warnings.push(format!(
                "left out of what the host has ({origin}): {}{more}, since {why}; an image with a newer C library, or \
                 with these of its own, has them",
                names.join(", ")
            ));
        }
    }
}

/// Where a path leads on the host; itself where that cannot be said.
pub fn real(host: &Host, path: &Path) -> PathBuf {
    host.follow(path).unwrap_or_else(|_| path.to_owned())
}
