//! `skiff build`: a definition, a directory or an image into an image or a sandbox; a definition looked through.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Command, FromArgMatches, ValueEnum, ValueHint};

use super::build_other::BuildOtherFlags;
use super::fetch::{FetchFlags, PlatformFlags};
use super::files::path_or_nothing;

/// Shown by `skiff build --help`.
pub const EXAMPLES: &str = "\
Examples:
  skiff build simulation.sif simulation.def        build what a definition says
  skiff build debian.sif ./rootfs                  pack a directory
  skiff build --compression xz small.sif ./rootfs  smaller, slower to read
  skiff build --sandbox ./tree debian.sif          unpack an image
  skiff build --compression gzip old.sif new.sif   pack an image anew
  skiff build debian.sif docker://debian:13        fetch one of a registry
  skiff build debian.sif oci:layout:13             make an image of an OCI layout
  skiff build --check simulation.def               read a definition, show what it asks for

The target appears under its name only when it is complete: after an error or Ctrl-C the old one,
if any, is as it was.";

/// `skiff build`.
#[derive(Debug, Clone, Args)]
pub struct BuildArgs {
    /// The image file to make, or the directory with --sandbox; with --check and --dry-run the definition
    #[arg(value_hint = ValueHint::AnyPath)]
    pub target: PathBuf,
    /// The definition to build, the directory to pack, or the image to unpack or to pack anew: a file, or
    /// docker://debian:13 and the like, also oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME]
    #[arg(value_name = "SOURCE", value_hint = ValueHint::AnyPath, required_unless_present_any = ["check", "dry_run"])]
    pub source: Option<OsString>,

    /// Replace the target if it exists; labels of the definition replace those of its base
    #[arg(short = 'F', long)]
    pub force: bool,
    /// Make the directory TARGET instead of an image
    #[arg(
        short,
        long,
        conflicts_with_all = ["compression", "level", "block_size", "all_root", "reproducible", "memory"]
    )]
    pub sandbox: bool,
    /// Run the definition over the sandbox TARGET as it is, in place of its base
    #[arg(short, long, conflicts_with = "force", help_heading = "Definitions")]
    pub update: bool,

    /// Read the definition and print its plan; nothing is built
    #[arg(long, conflicts_with = "sandbox", help_heading = "Definitions")]
    pub check: bool,
    /// Print what would be done, and where; nothing is built
    #[arg(long, help_heading = "Definitions")]
    pub dry_run: bool,
    /// With --check and --dry-run: print JSON; else tell what happens as lines of JSON on standard output
    #[arg(long, help_heading = "Definitions")]
    pub json: bool,
    /// Run these sections alone, with commas between; 'all', or 'none'
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = "Definitions")]
    pub section: Vec<String>,
    /// Leave %test out
    #[arg(short = 'T', long, help_heading = "Definitions")]
    pub notest: bool,
    /// Bring a file or directory of the host into %post and %test
    #[arg(short = 'B', long, value_name = "SOURCE[:TARGET[:OPTS]]", value_hint = ValueHint::AnyPath, help_heading = "Definitions")]
    pub bind: Vec<OsString>,
    /// The same as type=bind,source=PATH,destination=PATH[,ro]
    #[arg(long, value_name = "KEY=VALUE,...", help_heading = "Definitions")]
    pub mount: Vec<OsString>,
    /// Root is the caller's own id alone, although there are subordinate ids
    #[arg(long, help_heading = "Definitions")]
    pub ignore_subuid: bool,
    /// Take nothing from the cache and keep nothing in it
    #[arg(long, help_heading = "Definitions")]
    pub disable_cache: bool,
    /// Do this section and those after it anew (post, files, bootstrap, ...); may be repeated
    #[arg(long, value_name = "SECTION", value_delimiter = ',', help_heading = "Definitions")]
    pub no_cache_from: Vec<String>,
    /// Let %test write to the image; what it writes is gone at its end
    #[arg(long, help_heading = "Definitions")]
    pub writable_tmpfs: bool,
    /// Keep what was built so far when the build fails
    #[arg(long, help_heading = "Definitions")]
    pub no_cleanup: bool,
    /// Build in this directory [default: SKIFF_TMPDIR, TMPDIR, the cache directory, /var/tmp]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, value_parser = path_or_nothing(), help_heading = "Definitions")]
    pub tmpdir: Option<PathBuf>,
    /// The value of {{ NAME }} in the definition; may be repeated
    #[arg(long = "build-arg", value_name = "NAME=VALUE", help_heading = "Definitions")]
    pub build_args: Vec<String>,
    /// A file of lines NAME=VALUE; --build-arg comes before it
    #[arg(long = "build-arg-file", value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Definitions")]
    pub build_arg_files: Vec<PathBuf>,
    /// Warn of given values that the definition does not use, rather than stop
    #[arg(long, help_heading = "Definitions")]
    pub warn_unused_build_args: bool,

    /// How file contents are compressed
    #[arg(long, value_name = "METHOD", default_value = "zstd", help_heading = "Packing")]
    pub compression: Method,
    /// Compression level: 1-22 for zstd (default 3), 1-9 for gzip and lzo, 1-12 for lz4, 0-9 for xz
    #[arg(long, value_name = "N", help_heading = "Packing")]
    pub level: Option<i32>,
    /// Size of a compressed block: a power of two from 4K to 1M
    #[arg(long, value_name = "BYTES", default_value = "128K", value_parser = parse_block_size, help_heading = "Packing")]
    pub block_size: u32,
    /// Everything belongs to root, whoever it belongs to in the tree
    #[arg(long, help_heading = "Packing")]
    pub all_root: bool,
    /// Same tree, same bytes: times are at most SOURCE_DATE_EPOCH (0 if unset), the UUID comes from the content
    #[arg(long, help_heading = "Packing")]
    pub reproducible: bool,

    /// Threads to use [default: those this process may run on]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Resources")]
    pub threads: Option<u16>,
    /// Memory for blocks in flight [default: what the cgroup allows, at most 128M]
    #[arg(long, value_name = "BYTES", value_parser = parse_size, help_heading = "Resources")]
    pub memory: Option<u64>,

    /// Which image of a registry.
    #[command(flatten)]
    pub platform: PlatformFlags,
    /// How images are fetched.
    #[command(flatten)]
    pub fetch: FetchFlags,

    /// Flags that are answered in a sentence.
    #[command(flatten)]
    pub other: BuildOtherFlags,
    /// The variables that stand for flags (`--force`), by flag.
    #[arg(skip)]
    pub by: Vec<(&'static str, String)>,
}

impl BuildArgs {
    /// Those of `skiff build TARGET` without any flag.
    pub fn plain(target: PathBuf) -> Self {
        let command = Self::augment_args(Command::new("build"));
        let words = [OsString::from("build"), target.into(), OsString::from("-")];
        let parsed = command.try_get_matches_from(words).and_then(|matches| Self::from_arg_matches(&matches));
        parsed.unwrap_or_else(|error| unreachable!("a target and a source are a command line: {error}"))
    }

    /// Who asks for what a flag asks for: the flag, or the variable that stands for it.
    pub fn origin<'a>(&'a self, flag: &'a str) -> &'a str {
        self.by.iter().find(|(name, _)| *name == flag).map_or(flag, |(_, variable)| variable)
    }
}

/// A compressor of SquashFS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// Zstandard: fast to read, small
    Zstd,
    /// zlib's deflate: every kernel reads it
    Gzip,
    /// LZMA: smallest, slowest
    Xz,
    /// Fastest to read, largest
    Lz4,
    /// Between lz4 and gzip
    Lzo,
}

/// A count of bytes, with the suffixes K, M, G (powers of 1024).
fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1 << 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    let number: u64 = digits.parse().map_err(|_| "a number of bytes such as 65536, 64K or 1M".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "too large".to_owned())
}

fn parse_block_size(text: &str) -> Result<u32, String> {
    let bytes = parse_size(text)?;
    match u32::try_from(bytes) {
        Ok(bytes) if bytes.is_power_of_two() && (4096..=1 << 20).contains(&bytes) => Ok(bytes),
        _ => Err("a SquashFS block is a power of two from 4K to 1M".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_suffixes_and_bounds() {
        assert_eq!(parse_size("64K"), Ok(65536));
        assert_eq!(parse_size("2g"), Ok(2 << 30));
        assert_eq!(parse_size("7"), Ok(7));
        for bad in ["", "K", "-1", "1.5M", "99999999999G", "é"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_block_size("1M"), Ok(1 << 20));
        for bad in ["2K", "2M", "100000", "0"] {
            assert!(parse_block_size(bad).is_err(), "{bad}");
        }
    }
}
