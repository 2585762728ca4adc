//! The site's and the user's settings: two small YAML files, either or both of which may be absent.
//!
//! ```yaml
//! # /etc/skiff/config.yaml, then $XDG_CONFIG_HOME/skiff/config.yaml (else ~/.config/skiff/config.yaml)
//! bind:                    # binds of every container, as for --bind; the user's come after the site's
//!   - /scratch
//!   - /opt/site/licenses:/licenses:ro
//! linger: 30000            # milliseconds that an image server waits for another container
//! mpi: /opt/site/openmpi   # the host's MPI that --mpi brings in, unless it names another
//! gpu: [nv]                # as if --nv were given with every container: of nv, rocm, intel, intel-hpu
//! ```
//!
//! A mistake is an error with file and line: a setting that does nothing is worse than none.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{Context, Error, Kind, Result, is_absent};

/// The site's file.
const SITE_FILE: &str = "/etc/skiff/config.yaml";
/// No settings file is larger.
const MAX_BYTES: u64 = 1 << 20;

/// The settings of site and user together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Binds of every container, as `--bind` takes them.
    pub bind: Vec<String>,
    /// How long an image server waits for another container, in milliseconds.
    pub linger_ms: Option<u64>,
    /// The host's MPI that `--mpi` without a path brings in.
    pub mpi: Option<PathBuf>,
    /// Accelerators of every container.
    pub gpu: Vec<Accelerator>,
}

/// Whose accelerators are brought in: the flags of these names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", expecting = "the name of an accelerator")]
pub enum Accelerator {
    /// `--nv`.
    Nv,
    /// `--rocm`.
    Rocm,
    /// `--intel`.
    Intel,
    /// `--intel-hpu`.
    IntelHpu,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "settings, each as NAME: VALUE")]
struct File {
    #[serde(default)]
    bind: Vec<String>,
    linger: Option<u64>,
    mpi: Option<PathBuf>,
    #[serde(default)]
    gpu: Vec<Accelerator>,
}

impl Config {
    /// Reads those of `files` that exist, in order. A failed system call each when there are none.
    pub fn load(files: &[PathBuf]) -> Result<Self> {
        let mut config = Self::default();
        for file in files {
            config.add(file)?;
        }
        Ok(config)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let tried = || format!("cannot read configuration {path:?}");
        let File { bind, linger, mpi, gpu } = read(path, tried)?;
        if let Some(relative) = mpi.as_deref().filter(|path| !path.is_absolute()) {
            return Err(Error::usage(tried()).because(format!("mpi: {relative:?} is not an absolute path")));
        }
        self.mpi = mpi.or(self.mpi.take());
        self.gpu.extend(gpu);
        self.bind.extend(bind);
        self.linger_ms = linger.or(self.linger_ms);
        Ok(())
    }
}

/// The settings of a YAML file; the default where there is no such file, or nothing in it.
///
/// # Errors
/// The file cannot be read, is no regular one or larger than 1 MiB, or has a mistake, which is told with its line.
pub fn read<T: DeserializeOwned + Default>(path: &Path, tried: impl Fn() -> String) -> Result<T> {
    let Some(text) = read_text(path, &tried)? else {
        return Ok(T::default());
    };
    // An empty file, or one of comments alone, is a null document.
    let settings: Option<T> = serde_yaml::from_str(&text).map_err(|error| misread(tried(), &error))?;
    Ok(settings.unwrap_or_default())
}

/// The text of a file; none where there is no such file.
fn read_text(path: &Path, tried: impl Fn() -> String) -> Result<Option<String>> {
    // One that is a pipe would be waited for.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = match std::fs::File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        // A home of an automounter that is down, or of somebody else, holds no settings for us.
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error).tried(tried),
    };
    let kind = file.metadata().tried(&tried)?.file_type();
    // Who wants no settings links it to /dev/null.
    if !kind.is_file() && !kind.is_char_device() {
        return Err(Error::new(Kind::Io, tried()).because("it is not a regular file"));
    }
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text).tried(&tried)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(Error::new(Kind::Io, tried()).because("larger than 1 MiB"));
    }
    Ok(Some(text))
}

/// A mistake in a file, with its line: the parser names none where that is the first.
fn misread(tried: String, error: &serde_yaml::Error) -> Error {
    let text = error.to_string();
    // The type that it names is that of the one number.
    let text = text.replace("expected u64", "expected a whole number of milliseconds");
    let (line, why) = match error.location() {
        Some(at) => {
            let place = format!(" at line {} column {}", at.line(), at.column());
            (at.line(), text.strip_suffix(&place).unwrap_or(&text).to_owned())
        }
        None => (1, text),
    };
    Error::usage(tried).because(format!("line {line}: {why}"))
}

/// The files that count, given a way to read the environment: the site's, then the user's. `HOME` and not
/// the passwd entry, as every program that keeps to XDG.
pub fn files<'a>(variable: impl Fn(&str) -> Option<&'a OsStr>) -> Vec<PathBuf> {
    let directory = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = directory("XDG_CONFIG_HOME").or_else(|| Some(directory("HOME")?.join(".config")));
    let user = base.map(|base| base.join("skiff/config.yaml"));
    std::iter::once(PathBuf::from(SITE_FILE)).chain(user).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(site: Option<&str>, user: Option<&str>) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let files = [(dir.path().join("site.yaml"), site), (dir.path().join("user.yaml"), user)];
        for (file, text) in &files {
            if let Some(text) = text {
                std::fs::write(file, text).unwrap();
            }
        }
        Config::load(&files.map(|(file, _)| file))
    }

    #[test]
    fn the_users_file_is_where_xdg_says() {
        let found = |pairs: &[(&str, &'static str)]| {
            let pairs: std::collections::BTreeMap<_, _> = pairs.iter().copied().collect();
            files(|name| pairs.get(name).map(OsStr::new)).pop().unwrap()
        };
        assert_eq!(found(&[("HOME", "/h")]), Path::new("/h/.config/skiff/config.yaml"));
        assert_eq!(found(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/c")]), Path::new("/c/skiff/config.yaml"));
        assert_eq!(found(&[("HOME", "h"), ("XDG_CONFIG_HOME", "")]), Path::new(SITE_FILE));
    }

    #[test]
    fn no_file_is_no_setting() {
        assert_eq!(load(None, None).unwrap(), Config::default());
        assert_eq!(load(Some(""), Some("# nothing\n")).unwrap(), Config::default());
    }

    #[test]
    fn the_user_adds_binds_and_replaces_the_rest() {
        let config = load(Some("bind: [/a]\nlinger: 5\n"), Some("bind:\n  - /b:/c:ro\nlinger: 0\n")).unwrap();
        let mpi = |site, user| load(site, user).map(|config| config.mpi.unwrap().display().to_string());
        assert_eq!(mpi(Some("mpi: /a"), Some("mpi: /b")).unwrap(), "/b");
        assert_eq!(mpi(Some("mpi: /a"), None).unwrap(), "/a");
        assert!(mpi(Some("mpi: a"), None).unwrap_err().to_string().ends_with("is not an absolute path"));
        let bind = vec!["/a".into(), "/b:/c:ro".into()];
        assert_eq!(config, Config { bind, linger_ms: Some(0), ..Config::default() });
        let config = load(Some("gpu: [nv, intel-hpu]"), Some("gpu: [rocm]")).unwrap();
        assert_eq!(config.gpu, [Accelerator::Nv, Accelerator::IntelHpu, Accelerator::Rocm]);
        assert!(load(Some("gpu: [voodoo]"), None).unwrap_err().to_string().contains("voodoo"));
        assert_eq!(load(Some("linger: 5"), Some("bind: []")).unwrap().linger_ms, Some(5));
    }

    #[test]
    fn a_mistake_names_file_and_line() {
        for (text, line, why) in [
            ("bind: [/a]\nbnid: [/b]\n", 2, "unknown field `bnid`"),
            ("bogus: 1\n", 1, "unknown field `bogus`"),
            ("- a\n", 1, "expected settings, each as NAME: VALUE"),
            ("\nlinger: abc\n", 2, "expected a whole number of milliseconds"),
            ("linger: -1\n", 1, "expected a whole number of milliseconds"),
            ("gpu: [voodoo]\n", 1, "unknown variant `voodoo`"),
            ("bind: [/a\nmpi: /b\n", 2, "did not find"),
            ("mpi: /a\nmpi: /b\n", 1, "duplicate field `mpi`"),
        ] {
            let error = load(Some(text), None).unwrap_err().to_string();
            assert!(error.starts_with("cannot read configuration") && error.contains("site.yaml"), "{error}");
            assert!(error.contains(&format!("\": line {line}: ")) && error.contains(why), "{error}");
        }
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("config.yaml");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        for path in [pipe, dir.path().to_owned()] {
            let error = Config::load(&[path]).unwrap_err().to_string();
            assert!(error.ends_with(": it is not a regular file"), "{error}");
        }
        assert_eq!(Config::load(&["/dev/null".into()]).unwrap().bind, [""; 0]);
        let large = "#".repeat(MAX_BYTES as usize + 1);
        assert!(load(Some(&large), None).unwrap_err().to_string().ends_with(": larger than 1 MiB"));
    }
}
