//! `skiff exec`, `run` and `shell`: one set of flags.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, ValueHint, value_parser};

use super::files::FileFlags;
use super::namespaces::NamespaceFlags;
use super::other::OtherFlags;

/// Shown by `skiff exec --help`.
pub const EXEC_EXAMPLES: &str = "\
Home, working directory, /tmp and the devices are the host's; the rest is the image's, and cannot be written.
What follows IMAGE belongs to the program. Exit status: the program's own; 255 when skiff cannot start it.

Examples:
  skiff exec debian.sif ./simulation --steps 100
  srun -n 4096 skiff exec debian.sif ./simulation     the ranks of a node share the image
  skiff exec --bind /data,/scratch/in:/input:ro debian.sif python3 -c 'print(1)'
  skiff exec --env OMP_NUM_THREADS=4 --cleanenv debian.sif ./simulation
  skiff exec --contain --bind . debian.sif make       only this directory of the host
  skiff exec --overlay ./changes --fakeroot debian.sif apt-get install -y gdb
  tar -c . | skiff exec debian.sif tar -t             pipes, signals and limits are the program's own
  skiff exec --dry-run debian.sif true                what would be done, and why";

/// Shown by `skiff run --help`.
pub const RUN_EXAMPLES: &str = "\
An image says what it is for in /.singularity.d/runscript; one that does not is a shell.

Examples:
  skiff run debian.sif
  skiff run solver.sif --steps 100    the script gets --steps 100
  ./solver.sif --steps 100            the same, with a link 'run-singularity' to skiff on PATH";

/// Shown by `skiff shell --help`.
pub const SHELL_EXAMPLES: &str = "\
The shell is the image's bash, or else its sh; SKIFF_SHELL names another.

Examples:
  skiff shell debian.sif
  skiff shell --writable-tmpfs --fakeroot debian.sif    try changes; they are gone at the end
  skiff shell --containall debian.sif                   nothing of the host but the kernel";

/// What `exec`, `run` and `shell` take.
#[derive(Debug)]
pub struct RunArgs {
    /// The flags that shape the container.
    pub container: ContainerFlags,
    /// The image.
    pub image: PathBuf,
    /// The program and its arguments, or what the image's script or the shell is given.
    pub command: Vec<OsString>,
}

/// The image and the words after it are one argument to clap: so those are never taken for flags of skiff's, not even
/// the first of them (`skiff run a.sif --help` asks the image).
const WORDS: &str = "words";

impl Args for RunArgs {
    fn augment_args(command: Command) -> Command {
        let (rest, help) = match command.get_name() {
            "run" => (
                "ARGUMENT",
                "The image: a SIF or SquashFS file, or a directory; then what its script is given",
            ),
            "shell" => (
                "ARGUMENT",
                "The image: a SIF or SquashFS file, or a directory; then what the shell is given",
            ),
            _ => (
                "COMMAND",
                "The image: a SIF or SquashFS file, or a directory; the program and its arguments",
            ),
        };
        let words = Arg::new(WORDS)
            .required(true)
            .num_args(1..)
            .trailing_var_arg(true)
            .value_parser(value_parser!(OsString))
            .value_names(["IMAGE", rest])
            .value_hint(ValueHint::FilePath)
            .help_heading(Resettable::Reset)
            .help(help);
        ContainerFlags::augment_args(command).arg(words)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for RunArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut words = matches.get_many::<OsString>(WORDS).unwrap_or_default().cloned();
        let image = words.next().unwrap_or_default().into();
        let container = ContainerFlags::from_arg_matches(matches)?;
        Ok(Self { container, image, command: words.collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The flags that shape a container, the same for every verb that starts one.
#[derive(Debug, Clone, Default, Args)]
pub struct ContainerFlags {
    /// Bring a file or directory of the host into the container; commas separate several, opts are ro, rw
    #[arg(
        short = 'B',
        long,
        value_name = "SOURCE[:TARGET[:OPTS]]",
        value_hint = ValueHint::AnyPath,
        help_heading = "Files"
    )]
    pub bind: Vec<OsString>,
    /// Start in this directory of the container
    #[arg(long, alias = "pwd", value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Files")]
    pub cwd: Option<PathBuf>,
    /// Mounts, home, overlays.
    #[command(flatten)]
    pub files: FileFlags,
    /// Processes, network, identity, privileges.
    #[command(flatten)]
    pub namespaces: NamespaceFlags,
    /// Flags that are answered in a sentence.
    #[command(flatten)]
    pub other: OtherFlags,
    /// Set a variable in the container; `$NAME` in the value is replaced unless --no-eval
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Environment")]
    pub env: Vec<OsString>,
    /// Leave the host's variables out
    #[arg(short = 'e', long, help_heading = "Environment")]
    pub cleanenv: bool,
    /// Take the values of --env literally
    #[arg(long, help_heading = "Environment")]
    pub no_eval: bool,
    /// Print what would be done, and why, instead of doing it
    #[arg(long, help_heading = "Plan")]
    pub dry_run: bool,
    /// With --dry-run: print it as JSON
    #[arg(long, requires = "dry_run", help_heading = "Plan")]
    pub json: bool,
}
