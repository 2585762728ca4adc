//! The flags that say which files a container has: mounts, home, overlays.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueHint};

/// A path that may be empty, as in `--workdir "$DIR"`: then it counts as not given.
pub fn path_or_nothing() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// Mounts, home, overlays.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Files")]
pub struct FileFlags {
    /// A bind as type=bind,source=PATH,destination=PATH[,ro]
    #[arg(long, value_name = "KEY=VALUE,...")]
    pub mount: Vec<OsString>,
    /// Another home directory: a directory of the host, and where it is in the container
    #[arg(short = 'H', long, value_name = "SOURCE[:TARGET]", value_hint = ValueHint::DirPath)]
    pub home: Option<OsString>,
    /// Leave the home directory out, unless it is the working directory
    #[arg(long)]
    pub no_home: bool,
    /// Leave these mounts out: proc, sys, dev, devpts, home, tmp, cwd, bind-paths, or a path in the container
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = path_or_nothing())]
    pub no_mount: Vec<PathBuf>,
    /// Few devices, empty /tmp, /var/tmp and home, not the working directory
    #[arg(short = 'c', long)]
    pub contain: bool,
    /// As --contain, and own processes, own IPC and none of the host's variables
    #[arg(short = 'C', long)]
    pub containall: bool,
    /// Keep what --contain and --scratch make empty in this directory of the host instead of in memory
    #[arg(short = 'W', long, value_name = "DIR", value_hint = ValueHint::DirPath, value_parser = path_or_nothing())]
    pub workdir: Option<PathBuf>,
    /// An empty directory that can be written, gone at the end unless --workdir keeps it
    #[arg(short = 'S', long, value_name = "DIR", value_delimiter = ',', value_parser = path_or_nothing())]
    pub scratch: Vec<PathBuf>,
    /// Let the whole image be written, in memory: what is written is gone at the end
    #[arg(long)]
    pub writable_tmpfs: bool,
    /// Let the whole image be written, and keep what is written in this directory; or lay it over the image with :ro
    #[arg(short = 'o', long, value_name = "DIR[:ro]", value_delimiter = ',', value_hint = ValueHint::DirPath)]
    pub overlay: Vec<OsString>,
    /// Let a sandbox (an image that is a directory) itself be written
    #[arg(short = 'w', long)]
    pub writable: bool,
    /// Name servers in place of the host's, with commas between
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub dns: Vec<String>,
    /// As Docker does: --containall --no-init --no-umask --no-eval --writable-tmpfs
    #[arg(long)]
    pub compat: bool,
}
