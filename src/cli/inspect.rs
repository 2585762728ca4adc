//! `skiff inspect` and `run-help`: what an image says of itself.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, ValueHint};

use super::lazy::Lazy;

/// Shown by `skiff inspect --help`.
pub const EXAMPLES: &str = "\
Examples:
  skiff inspect debian.sif                     labels
  skiff inspect --runscript --test debian.sif
  skiff inspect --json debian.sif | jq -r '.data.attributes.labels.Version'
  skiff inspect --app solver --environment suite.sif

Nothing of the image is run. The JSON is that of 'apptainer inspect'.";

/// `skiff inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The image: a SIF or SquashFS file, or a directory
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    /// Its labels, which are shown when nothing else is asked for
    #[arg(short, long)]
    pub labels: bool,
    /// The definition that it was built from
    #[arg(short, long)]
    pub deffile: bool,
    /// What 'skiff run' runs
    #[arg(short, long)]
    pub runscript: bool,
    /// What an instance of it starts
    #[arg(short, long)]
    pub startscript: bool,
    /// What 'skiff test' runs
    #[arg(short, long)]
    pub test: bool,
    /// The scripts that set its variables
    #[arg(short, long)]
    pub environment: bool,
    /// What 'skiff run-help' prints
    #[arg(short = 'H', long)]
    pub helpfile: bool,
    /// The names of its apps
    #[arg(long)]
    pub list_apps: bool,
    /// All of this, of an app instead of the image
    #[arg(long, value_name = "NAME")]
    pub app: Option<String>,
    /// Everything, as JSON
    #[arg(long)]
    pub all: bool,
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
}

/// The flags of `inspect`, whose -d is --deffile: the global --debug has no short name here.
#[derive(Debug)]
pub struct Inspect(pub Lazy<InspectArgs>);

impl FromArgMatches for Inspect {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Lazy::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl Args for Inspect {
    fn augment_args(command: Command) -> Command {
        // An argument that is there keeps the global one of the same name away.
        let debug = Arg::new("debug").long("debug").action(ArgAction::SetTrue).hide(true);
        Lazy::<InspectArgs>::augment_args(command.arg(debug))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// Shown by `skiff run-help --help`.
pub const HELP_EXAMPLES: &str = "\
Examples:
  skiff run-help debian.sif
  skiff run-help --app solver suite.sif";

/// `skiff run-help`.
#[derive(Debug, Args)]
pub struct RunHelpArgs {
    /// The image: a SIF or SquashFS file, or a directory
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    /// The help of an app
    #[arg(long, value_name = "NAME")]
    pub app: Option<String>,
}
