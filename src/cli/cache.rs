//! `skiff cache`: what was fetched, and what earlier builds left, to be used again.

use clap::{Args, Subcommand, ValueEnum};

/// Shown by `skiff cache --help`.
pub const EXAMPLES: &str = "\
Examples:
  skiff cache list
  skiff cache clean --days 30                 what was not used for 30 days
  skiff cache clean --dry-run                 what would go
  skiff cache clean --force                   everything, without a question

It is in SKIFF_CACHEDIR, else in $XDG_CACHE_HOME/skiff, else in ~/.cache/skiff.";

/// `skiff cache`.
#[derive(Debug, Args)]
pub struct CacheArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: CacheAction,
}

/// What to do with the cache.
#[derive(Debug, Subcommand)]
pub enum CacheAction {
    /// List what is in the cache
    #[command(after_long_help = "\
Examples:
  skiff cache list
  skiff cache list --json | jq '.entries[] | select(.section == \"post\") | .bytes'")]
    List(ListArgs),
    /// Remove what is in the cache
    #[command(after_long_help = "\
What a build uses at that moment stays. What no build can find any more, since what it stands on
is gone, goes whatever its age. Exit status: 0 also when the answer is no; 255 when something could
not be removed.

Examples:
  skiff cache clean                           everything, after a question
  skiff cache clean --days 30 --force         what was not used for 30 days
  skiff cache clean --type layer --dry-run")]
    Clean(CleanArgs),
}

/// `skiff cache list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only entries of this type; several with commas
    #[arg(short = 'T', long = "type", value_name = "TYPE", value_delimiter = ',')]
    pub types: Vec<EntryType>,
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
}

/// `skiff cache clean`.
#[derive(Debug, Args)]
pub struct CleanArgs {
    /// Only what was not used for so many days
    #[arg(short = 'D', long, value_name = "DAYS")]
    pub days: Option<u32>,
    /// Only entries of this type; several with commas
    #[arg(short = 'T', long = "type", value_name = "TYPE", value_delimiter = ',')]
    pub types: Vec<EntryType>,
    /// Only say what would be removed
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

/// A type of entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EntryType {
    /// All of them, as without the flag
    All,
    /// What sections of definitions changed
    Layer,
    /// Bases of builds, packed
    Image,
    /// Images from elsewhere, converted
    #[value(alias = "oci-tmp", alias = "net")]
    Oci,
    /// Parts of images as they were fetched, and SIFs of registries
    #[value(alias = "oras", alias = "library")]
    Blob,
    /// Apptainer's types, of which there is nothing here.
    #[value(hide = true)]
    Shub,
    #[allow(missing_docs, reason = "as above")]
    #[value(hide = true)]
    Ipfs,
}
