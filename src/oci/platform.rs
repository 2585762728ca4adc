//! What an image's programs run on, and which image of an index that makes the right one.
//!
//! Names are those of Go (`amd64`, `arm64`), which the OCI image specification takes over ("Image Index", `platform`).
//! A variant is a level of the processor; who has a level runs the programs of those below it.

use std::fmt;

use crate::error::{Error, Result};

/// Names of processors as `uname -m` has them, as Go does, and the level that programs without a variant are for;
/// 0 where there are no levels.
const ARCHITECTURES: &[(&str, &str, u32)] = &[
    ("x86_64", "amd64", 1),
    ("aarch64", "arm64", 8),
    ("armv7l", "arm", 7),
    ("armv6l", "arm", 6),
    ("armhf", "arm", 7),
    ("i686", "386", 0),
    ("i386", "386", 0),
    ("ppc64le", "ppc64le", 0),
    ("s390x", "s390x", 0),
    ("riscv64", "riscv64", 0),
    ("loongarch64", "loong64", 0),
    ("mips64", "mips64", 0),
    ("mips64el", "mips64le", 0),
];

/// What programs run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// For example `amd64`.
    pub architecture: String,
    /// For example `v7`; none for the lowest level that is in use.
    pub variant: Option<String>,
}

impl Platform {
    /// This machine.
    pub fn host() -> Self {
        let name = rustix::system::uname();
        Self::of_machine(&name.machine().to_string_lossy())
    }

    /// What the flags `--arch` and `--arch-variant` ask for: this machine where they are not given.
    ///
    /// # Errors
    /// [`crate::error::Kind::Usage`] for a name that no processor can have, and for a variant that is no level.
    pub fn asked(architecture: Option<&str>, variant: Option<&str>) -> Result<Self> {
        let mut platform = architecture.map_or_else(Self::host, Self::of_machine);
        let word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !word(&platform.architecture) {
            return Err(Error::usage(format!(
                "cannot take images for {architecture:?}: it names no processor"
            ))
            .hint("--arch amd64, arm64, arm, 386, ppc64le, s390x, riscv64"));
        }
        if let Some(variant) = variant {
            if level_of(variant).is_none() {
                return Err(Error::usage(format!("cannot take images of variant {variant:?}"))
                    .hint("a variant is a level such as v7: --arch arm --arch-variant v7"));
            }
            platform.variant = Some(variant.to_owned());
        }
        Ok(platform)
    }

    /// The platform that a processor's name means, `uname -m`'s or Go's.
    fn of_machine(machine: &str) -> Self {
        let found = ARCHITECTURES.iter().find(|(uname, ..)| *uname == machine);
        let (name, level) = found.map_or((machine, 0), |(_, go, level)| (*go, *level));
        let variant = (name == "arm" && level > 0).then(|| format!("v{level}"));
        Self { os: "linux".to_owned(), architecture: name.to_owned(), variant }
    }

    /// The level of the processor that this asks for, or that programs of it need.
    fn level(&self) -> u32 {
        let usual = ARCHITECTURES.iter().find(|(_, go, _)| *go == self.architecture);
        let named = self.variant.as_deref().filter(|variant| !variant.is_empty()).and_then(level_of);
        named.unwrap_or_else(|| usual.map_or(0, |(.., level)| *level))
    }

    /// Whether programs for `offered` run here.
    pub fn runs(&self, offered: &Self) -> bool {
        self.os == offered.os && self.architecture == offered.architecture && offered.level() <= self.level()
    }

    /// The number of the one in `offered` that is right: of those that run here the one of the highest level, and of
    /// equal ones the first. What does not say what it is for is taken where nothing else is offered.
    ///
    /// # Errors
    /// [`crate::error::Kind::Image`] when there is none: the hint names those that are there.
    pub fn choose(&self, offered: &[Option<Self>]) -> Result<usize> {
        let fitting = offered.iter().enumerate().filter_map(|(number, one)| Some((number, one.as_ref()?)));
        let fitting = fitting.filter(|(_, one)| self.runs(one));
        // Of equal ones max_by_key gives the last.
        if let Some((number, _)) = fitting.rev().max_by_key(|(_, one)| one.level()) {
            return Ok(number);
        }
        if let [None] = offered {
            return Ok(0);
        }
        // Attestations are listed beside images, for "unknown/unknown".
        let there = offered.iter().flatten().filter(|one| one.os != "unknown").map(Self::to_string);
        let mut there: Vec<String> = there.take(20).collect();
        there.dedup();
        let error = Error::image(format!("there is no image for {self} among those of this name"));
        Err(match there.as_slice() {
            [] => error,
            there => error.hint(format!("there are some for {}: --arch chooses one", there.join(", "))),
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            Some(variant) if !variant.is_empty() => write!(out, "/{variant}"),
            _ => Ok(()),
        }
    }
}

/// The number of a variant: `v7`, `7`, and with the letters or parts that some append, `v8.2`.
fn level_of(variant: &str) -> Option<u32> {
    let digits = variant.strip_prefix('v').unwrap_or(variant);
    let end = digits.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Option<Platform> {
        let mut words = text.split('/').map(str::to_owned);
        let (os, architecture) = (words.next()?, words.next()?);
        Some(Platform { os, architecture, variant: words.next() })
    }

    fn chosen(asked: (&str, Option<&str>), offered: &[&str]) -> Result<usize> {
        let offered: Vec<_> = offered.iter().map(|text| platform(text)).collect();
        Platform::asked(Some(asked.0), asked.1)?.choose(&offered)
    }

    #[test]
    fn an_index_is_searched_for_the_processor_and_its_highest_level() {
        let index = ["unknown/unknown", "linux/amd64", "linux/arm/v5", "linux/arm/v7", "linux/arm64/v8"];
        assert_eq!(chosen(("amd64", None), &index).unwrap(), 1);
        assert_eq!(chosen(("x86_64", None), &index).unwrap(), 1);
        assert_eq!(chosen(("arm", None), &index).unwrap(), 3);
        assert_eq!(chosen(("arm", Some("v6")), &index).unwrap(), 2);
        assert_eq!(chosen(("aarch64", None), &index).unwrap(), 4);
        let levels = ["linux/amd64/v3", "linux/amd64", "linux/amd64/v2"];
        assert_eq!(chosen(("amd64", None), &levels).unwrap(), 1);
        assert_eq!(chosen(("amd64", Some("v2")), &levels).unwrap(), 2);
        assert_eq!(chosen(("amd64", Some("v4")), &levels).unwrap(), 0);
        assert_eq!(chosen(("amd64", None), &["windows/amd64", "linux/amd64", "linux/amd64"]).unwrap(), 1);
        assert_eq!(chosen(("amd64", None), &[""]).unwrap(), 0);
    }

    #[test]
    fn what_is_missing_is_said_with_what_is_there() {
        let error = chosen(("s390x", None), &["unknown/unknown", "linux/amd64", "linux/arm/v7"]).unwrap_err();
        assert!(error.to_string().contains("no image for linux/s390x"), "{error}");
        assert!(error.hint.unwrap().contains("linux/amd64, linux/arm/v7:"));
        assert!(chosen(("amd64", None), &[]).is_err());
        assert!(chosen(("amd64", Some("fast")), &["linux/amd64"]).is_err());
        assert!(chosen(("../x", None), &["linux/amd64"]).is_err());
    }

    #[test]
    fn this_machine_has_a_name() {
        assert_eq!(Platform::host().os, "linux");
        assert!(Platform::asked(None, None).unwrap().runs(&Platform::host()));
    }
}
