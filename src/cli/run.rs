//! `skiff exec`, `run`, `shell` and `test`: one set of flags.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, ValueHint};

use super::fetch::FetchFlags;
use super::files::{FileFlags, path_or_nothing};
use super::gpu::GpuFlags;
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
  skiff shell --shell /bin/zsh debian.sif
  skiff shell --writable-tmpfs --fakeroot debian.sif    try changes; they are gone at the end
  skiff shell --containall debian.sif                   nothing of the host but the kernel";

/// Shown by `skiff test --help`.
pub const TEST_EXAMPLES: &str = "\
Examples:
  skiff test debian.sif
  skiff test --app solver suite.sif

The exit status is the test's; 0 with a note when the image has none.";

/// What `shell` takes.
#[derive(Debug, Args)]
pub struct ShellArgs {
    /// What every verb that starts a container takes.
    #[command(flatten)]
    pub run: RunArgs,
    /// The shell to start instead of bash or sh, as the container has it
    #[arg(short, long, value_name = "PATH", value_parser = path_or_nothing(), help_heading = Resettable::Reset)]
    pub shell: Option<PathBuf>,
}

/// What `exec`, `run`, `shell` and `test` take.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The flags that shape the container.
    #[command(flatten)]
    pub container: ContainerFlags,
    /// Take no image from the cache, and keep none in it
    #[arg(long, help_heading = "Registries")]
    pub disable_cache: bool,
    /// How the image is fetched, if it is elsewhere.
    #[command(flatten)]
    pub fetch: FetchFlags,
    /// The image, the program and its arguments.
    #[command(flatten)]
    pub words: Words,
}

/// The words of a verb that starts a container. From the image on nothing is a flag of skiff's any more:
/// `skiff run a.sif -c` hands `-c` to the image's runscript.
#[derive(Debug, Clone, Default)]
pub struct Words {
    /// The image: a SIF or SquashFS file, or a directory.
    pub image: PathBuf,
    /// The program and its arguments.
    pub command: Vec<OsString>,
}

/// What stands after the image, by verb.
fn after_the_image(verb: &str) -> (&'static str, &'static str) {
    match verb {
        "exec" => (
            "COMMAND",
            "The image: a SIF or SquashFS file, a directory, or one of a registry (docker://debian:13); the program and its arguments",
        ),
        "shell" => (
            "ARGUMENT",
            "The image: a SIF or SquashFS file, a directory, or one of a registry (docker://debian:13); then what the shell is given",
        ),
        _ => (
            "ARGUMENT",
            "The image: a SIF or SquashFS file, a directory, or one of a registry (docker://debian:13); then what its script is given",
        ),
    }
}

impl Args for Words {
    fn augment_args(command: Command) -> Command {
        let (rest, help) = after_the_image(command.get_name());
        // One argument of many words: clap takes those after the first of a second one for flags where they are
        // some.
        let words = Arg::new("words")
            .value_names(["IMAGE", rest])
            .help(help)
            .help_heading(Resettable::Reset)
            .value_parser(clap::value_parser!(OsString))
            .value_hint(ValueHint::FilePath)
            .num_args(1..)
            .required(true)
            .trailing_var_arg(true);
        command.arg(words)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Words {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut words = matches.get_many::<OsString>("words").into_iter().flatten().cloned();
        Ok(Self { image: words.next().unwrap_or_default().into(), command: words.collect() })
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
    #[arg(
        long,
        alias = "pwd",
        value_name = "DIR",
        value_hint = ValueHint::DirPath,
        value_parser = path_or_nothing(),
        help_heading = "Files"
    )]
    pub cwd: Option<PathBuf>,
    /// Mounts, home, overlays.
    #[command(flatten)]
    pub files: FileFlags,
    /// Processes, network, identity, privileges.
    #[command(flatten)]
    pub namespaces: NamespaceFlags,
    /// Accelerators.
    #[command(flatten)]
    pub gpu: GpuFlags,
    /// Flags that are answered in a sentence.
    #[command(flatten)]
    pub other: OtherFlags,
    /// Set a variable in the container; `$NAME` in the value is replaced unless --no-eval
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Environment")]
    pub env: Vec<OsString>,
    /// Set the variables that this file assigns, in the syntax of a shell; of several files the later wins
    #[arg(
        long,
        value_name = "FILE",
        value_delimiter = ',',
        value_hint = ValueHint::FilePath,
        value_parser = path_or_nothing(),
        help_heading = "Environment"
    )]
    pub env_file: Vec<PathBuf>,
    /// Leave these variables of the host out, with commas between; NAME* means all that begin so
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = "Environment")]
    pub no_env: Vec<OsString>,
    /// Leave the host's variables out
    #[arg(short = 'e', long, help_heading = "Environment")]
    pub cleanenv: bool,
    /// Take the values of --env literally
    #[arg(long, help_heading = "Environment")]
    pub no_eval: bool,
    /// Use this app of the image: its environment, runscript and test (those that an image has: skiff inspect --list-apps)
    #[arg(long, value_name = "NAME", help_heading = "Environment")]
    pub app: Option<OsString>,
    /// Use the host's MPI in place of the image's: the one found, that of a prefix, an mpirun or a library, or only
    /// the network (libfabric); "skiff mpi IMAGE" explains it
    #[arg(
        long,
        value_name = "PATH|libfabric",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        value_parser = clap::builder::OsStringValueParser::new(),
        help_heading = "Cluster"
    )]
    pub mpi: Option<OsString>,
    /// With --mpi: bring the host's C library too, where the image's is older than the host's MPI needs
    #[arg(long, help_heading = "Cluster")]
    pub mpi_glibc: bool,
    /// Print what would be done, and why, instead of doing it
    #[arg(long, help_heading = "Plan")]
    pub dry_run: bool,
    /// With --dry-run: print it as JSON
    #[arg(long, requires = "dry_run", help_heading = "Plan")]
    pub json: bool,
}
