//! The command line as types: what can be asked, and the words that `--help` says about it.
//!
//! Nothing here reads a file, a variable or the terminal: the types say what was asked, and
//! [`crate::commands`] does it. One file a group of flags:
//!
//! ```text
//! mod.rs     the verbs and the flags that every verb takes
//! run.rs     exec, run, shell, test; in files.rs and namespaces.rs most of their flags, in other.rs those that
//!            are answered in a sentence
//! gpu.rs     the flags for accelerators; gpu
//! build.rs   build; in build_other.rs the flags that are answered in a sentence
//! inspect.rs inspect, run-help
//! cache.rs   cache list, clean
//! pull.rs    pull; in fetch.rs the flags of all verbs that may fetch an image
//! push.rs    push, tag
//! registry.rs registry login, logout, list
//! mpi.rs     mpi
//! sbom.rs    sbom
//! broadcast.rs broadcast
//! sif.rs     sif list, header, info, dump
//! words.rs   switches with a word: --nv=true
//! nearest.rs what a word that is not known may have been meant to be
//! called.rs  the name that skiff was started by, in elsewhere.rs the verbs that are answered
//! ```
//!
//! `docs/commands.md` is written from these types (`skiff docs`), and a test keeps it so.

pub mod broadcast;
pub mod build;
pub mod build_other;
pub mod cache;
pub mod called;
pub mod elsewhere;
pub mod fetch;
pub mod files;
pub mod gpu;
pub mod inspect;
pub mod lazy;
pub mod mpi;
pub mod namespaces;
pub mod nearest;
pub mod other;
pub mod pull;
pub mod push;
pub mod registry;
pub mod run;
pub mod sbom;
pub mod sif;
pub mod words;

use std::ffi::OsString;
use std::path::PathBuf;

use self::lazy::Lazy;
use clap::builder::Styles;
use clap::builder::styling::AnsiColor;
use clap::error::ErrorKind;
use clap::{
    ArgAction, ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand, ValueHint,
};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "skiff",
    version,
    about = "Run programs from single-file images, as the user who calls",
    after_help = EXAMPLES,
    styles = STYLES,
    propagate_version = false,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    args_override_self = true,
    max_term_width = 100
)]
pub struct Cli {
    /// The flags of every verb.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  skiff build debian.sif ./rootfs             pack a directory into an image
  skiff exec debian.sif ./simulation          run your program in it
  skiff shell debian.sif                      look around
  srun -n 4096 skiff exec debian.sif ./simulation

'skiff help VERB' explains a verb.";

/// The flags of every verb.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Messages")]
pub struct Global {
    /// Say what is done and why; twice, in more detail
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = 900)]
    pub verbose: u8,
    /// Say nothing but errors
    #[arg(short, long, global = true, alias = "silent", display_order = 901)]
    pub quiet: bool,
    /// As --quiet, before the verb: there Apptainer has this short form, and after it verbs have others
    #[arg(short = 's', hide = true)]
    pub only_errors: bool,
    /// As -vv
    #[arg(short, long, global = true, hide_short_help = true, display_order = 902)]
    pub debug: bool,
    /// No colours, even on a terminal (also: NO_COLOR=1)
    #[arg(long, alias = "nocolor", global = true, hide_short_help = true, display_order = 903)]
    pub no_color: bool,
    /// Switches that a word turns off (`--nv=false`): their variables do not count.
    #[arg(skip)]
    pub off: Vec<String>,
}

impl Cli {
    /// Parses a command line. One with flags that skiff answers in a sentence, or with switches that have a word, is
    /// looked at a second time.
    ///
    /// # Errors
    /// A mistake in it; `--help` and `--version` too.
    pub fn of(argv: &[OsString]) -> Result<Self, clap::Error> {
        if let Some(cli) = Self::of_run(argv) {
            return Ok(cli);
        }
        let parsed = match Self::try_parse_from(argv) {
            Err(error) if matches!(error.kind(), ErrorKind::UnknownArgument | ErrorKind::TooManyValues) => {
                let mut known = build_other::add_to(other::add_to(Self::command()));
                if argv.iter().any(|word| words::may_be_one(word)) {
                    known.build();
                    known = words::taken(known, argv);
                }
                known.try_get_matches_from(argv).and_then(|matches| Self::of_matches(&matches))
            }
            parsed => parsed,
        };
        parsed.map_err(|error| nearest::suggested(error, Self::command(), argv))
    }

    fn of_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut cli = Self::from_arg_matches(matches)?;
        cli.global.off = words::off(matches);
        Ok(cli)
    }

    /// Parses a command line that runs a program and has no mistake in it, knowing that verb alone: to describe all
    /// verbs takes longer than to join a container.
    fn of_run(argv: &[OsString]) -> Option<Self> {
        let verb = argv.get(1..)?.iter().find(|word| !word.as_encoded_bytes().starts_with(b"-"))?;
        let verb = match verb.to_str()? {
            "exec" => run::RunArgs::augment_args(Command::new("exec")),
            "run" => run::RunArgs::augment_args(Command::new("run")),
            "test" => run::RunArgs::augment_args(Command::new("test")),
            "shell" => run::ShellArgs::augment_args(Command::new("shell")),
            _ => return None,
        };
        let mut skiff = Global::augment_args(Command::new("skiff")).args_override_self(true).subcommand(verb);
        if argv.iter().any(|word| words::may_be_one(word)) {
            skiff = words::taken(skiff, argv);
        }
        Self::of_matches(&skiff.try_get_matches_from(argv).ok()?).ok()
    }
}

impl Global {
    /// Adds what variables say (`SKIFF_DEBUG` and so on, of which `on` knows); flags beat them.
    pub fn add_settings(&mut self, on: impl Fn(&str) -> bool) {
        if self.detail() == 0 && !self.quiet {
            let off = |flag: &str| self.off.iter().any(|off| off == flag);
            let (debug, verbose, quiet) = (!off("--debug"), !off("--verbose"), !off("--quiet"));
            self.debug = debug && on("DEBUG");
            self.verbose = u8::from(verbose && on("VERBOSE"));
            self.quiet = quiet && (on("QUIET") || on("SILENT"));
        }
        self.no_color |= !self.off.iter().any(|off| off == "--no-color") && on("NOCOLOR");
    }

    /// How much to say beyond errors and warnings: 0 nothing, 1 the steps, 2 everything.
    pub fn detail(&self) -> u8 {
        if self.debug { 2 } else { self.verbose.min(2) }
    }

    /// Whether warnings and progress are unwanted. `--verbose` beats `--quiet`, wherever they stand.
    pub fn silent(&self) -> bool {
        (self.quiet || self.only_errors) && self.detail() == 0
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run a program in an image
    #[command(after_long_help = run::EXEC_EXAMPLES)]
    Exec(Lazy<run::RunArgs>),
    /// Run what the image says it is for
    #[command(after_long_help = run::RUN_EXAMPLES)]
    Run(Lazy<run::RunArgs>),
    /// Start a shell in an image
    #[command(after_long_help = run::SHELL_EXAMPLES)]
    Shell(Lazy<run::ShellArgs>),
    /// Run the test that the image brings along
    #[command(after_long_help = run::TEST_EXAMPLES)]
    Test(Lazy<run::RunArgs>),
    /// Print the help that the image brings along
    #[command(after_long_help = inspect::HELP_EXAMPLES)]
    RunHelp(Lazy<inspect::RunHelpArgs>),
    /// Show what an image says of itself: labels, scripts, help, apps
    #[command(after_long_help = inspect::EXAMPLES)]
    Inspect(inspect::Inspect),
    /// Make an image from a directory, or unpack one into a directory
    #[command(after_long_help = build::EXAMPLES)]
    Build(Lazy<build::BuildArgs>),
    /// Fetch an image into a file
    #[command(after_long_help = pull::EXAMPLES)]
    Pull(Lazy<pull::PullArgs>),
    /// Put an image into a registry
    #[command(after_long_help = push::EXAMPLES)]
    Push(Lazy<push::PushArgs>),
    /// Give an image of a registry a further tag there
    #[command(after_long_help = push::TAG_EXAMPLES)]
    Tag(Lazy<push::TagArgs>),
    /// Keep names and passwords for registries
    #[command(after_long_help = registry::EXAMPLES, arg_required_else_help = true, subcommand_required = true)]
    Registry(registry::RegistryArgs),
    /// List or remove what was fetched and what earlier builds left, to be used again
    #[command(after_long_help = cache::EXAMPLES, arg_required_else_help = true, subcommand_required = true)]
    Cache(cache::CacheArgs),
    /// Look into a SIF file
    #[command(after_long_help = sif::EXAMPLES, arg_required_else_help = true, subcommand_required = true)]
    Sif(sif::SifArgs),
    /// List the software in an image as SPDX
    #[command(after_long_help = sbom::EXAMPLES)]
    Sbom(Lazy<sbom::SbomArgs>),
    /// Explain which MPI the host and an image have, and whether --mpi works
    #[command(after_long_help = mpi::EXAMPLES)]
    Mpi(Lazy<mpi::MpiArgs>),
    /// Show the accelerators of this machine, and what a container would be given of them
    #[command(after_long_help = gpu::EXAMPLES)]
    Gpu(Lazy<gpu::GpuArgs>),
    /// Put an image on every node of a Slurm job, and print its path there
    #[command(after_long_help = broadcast::EXAMPLES)]
    Broadcast(Lazy<broadcast::BroadcastArgs>),
    /// Say what this machine allows, and what mends the rest
    #[command(after_long_help = DOCTOR_HELP)]
    Doctor(DoctorArgs),
    /// Print the completions of a shell
    #[command(after_long_help = "\
Examples:
  skiff completions bash >~/.local/share/bash-completion/completions/skiff
  skiff completions zsh >~/.zfunc/_skiff          with fpath+=~/.zfunc before compinit in ~/.zshrc
  skiff completions fish >~/.config/fish/completions/skiff.fish
  skiff docs --man ~/.local/share/man/man1        the manual pages: man skiff-exec")]
    Completions(CompletionsArgs),
    /// Write the manual pages and the command reference
    #[command(hide = true)]
    Docs(DocsArgs),
}

const DOCTOR_HELP: &str = "\
Namespaces and mounts are really tried, in a process that leaves nothing behind.
Exit status: 0 when images can be run here, 1 when something for that is missing.

Examples:
  skiff doctor
  skiff doctor -q                             only what is not as it should be
  skiff doctor --json | jq '.checks[] | select(.state != \"ok\")'";

/// `skiff doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `skiff completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// `skiff docs`.
#[derive(Debug, Args)]
pub struct DocsArgs {
    /// Write the manual pages skiff.1, skiff-exec.1, ... into this directory
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub man: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_that_is_shown_has_examples() {
        let mut skiff = Cli::command();
        skiff.build();
        for verb in skiff.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let after = verb.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains("Examples:\n  "), "{}: {after}", verb.get_name());
        }
    }

    #[test]
    fn a_run_means_the_same_to_who_knows_that_verb_alone() {
        for line in [
            "skiff exec a.sif true",
            "skiff -q exec -e -B /a:/b --env A=1 -vv a.sif ls -l --help",
            "apptainer --silent -d run --app x --nv=never a.sif -- b",
            "skiff shell -s /bin/dash --no-home a.sif",
            "skiff test a.sif",
        ] {
            let argv: Vec<_> = line.split(' ').map(OsString::from).collect();
            let whole = Cli::try_parse_from(&argv).map(|cli| format!("{cli:?}")).ok();
            assert_eq!(Cli::of_run(&argv).map(|cli| format!("{cli:?}")), whole, "{line}");
            assert_eq!(whole.is_some(), !line.contains("never"), "{line}");
        }
        for line in
            ["skiff exec", "skiff exec --help", "skiff run --nosuch a.sif", "skiff", "skiff build a b"]
        {
            let argv: Vec<_> = line.split(' ').map(OsString::from).collect();
            assert!(Cli::of_run(&argv).is_none(), "{line}");
        }
    }

    #[test]
    fn words_after_the_image_belong_to_the_program() {
        let cli = Cli::try_parse_from(["skiff", "exec", "a.sif", "ls", "-l", "--help", "-q", "--", "x"]);
        let Ok(Cli { verb: Verb::Exec(args), global }) = cli else { panic!("{cli:?}") };
        assert!(!global.quiet);
        assert_eq!(args.words.image.to_str(), Some("a.sif"));
        assert_eq!(args.words.command, ["ls", "-l", "--help", "-q", "--", "x"]);
    }

    #[test]
    fn flags_right_after_the_image_belong_to_the_program_too() {
        for verb in ["exec", "run", "shell", "test"] {
            let argv = ["skiff", verb, "-e", "a.sif", "-c", "-v", "--bind", "x", "--help", "--nosuch"];
            let cli = Cli::try_parse_from(argv);
            let (Ok(Cli { verb, global }), words) = (cli, &argv[4..]) else { panic!("{argv:?}") };
            let args = match &verb {
                Verb::Exec(args) | Verb::Run(args) | Verb::Test(args) => args,
                Verb::Shell(args) => &args.run,
                other => panic!("{other:?}"),
            };
            assert_eq!((global.detail(), args.container.files.contain), (0, false));
            assert!(args.container.cleanenv);
            assert_eq!(args.words.command, words);
        }
    }

    #[test]
    fn not_even_the_first_word_after_the_image_is_a_flag() {
        for word in ["--help", "-c", "--steps", "--version", "--", "-"] {
            let cli = Cli::try_parse_from(["skiff", "run", "-e", "a.sif", word, "-B", "x"]);
            let Ok(Cli { verb: Verb::Run(args), .. }) = cli else { panic!("{word}: {cli:?}") };
            assert_eq!(args.words.command, [word, "-B", "x"]);
            assert!(args.container.cleanenv && !args.container.files.contain);
        }
        let unknown = Cli::try_parse_from(["skiff", "run", "--steps", "a.sif"]).unwrap_err();
        assert_eq!(unknown.kind(), ErrorKind::UnknownArgument);
    }

    #[test]
    fn two_dashes_before_the_image_are_accepted() {
        let cli = Cli::try_parse_from(["skiff", "exec", "-q", "--", "a.sif", "ls", "-l"]);
        let Ok(Cli { verb: Verb::Exec(args), global }) = cli else { panic!("{cli:?}") };
        assert!(global.quiet);
        assert_eq!(args.words.command, ["ls", "-l"]);
    }

    #[test]
    fn flags_that_are_answered_are_known_and_others_are_not() {
        let parse = |words: &[&str]| Cli::of(&words.iter().map(OsString::from).collect::<Vec<_>>());
        let cli =
            parse(&["skiff", "exec", "--sharens", "--cpus", "2", "-c", "--nohttps", "a.sif", "ls", "--rocm"]);
        let Ok(Cli { verb: Verb::Exec(args), .. }) = cli else { panic!("{cli:?}") };
        assert_eq!(args.container.other.given, ["sharens", "cpus"]);
        assert!(args.container.files.contain);
        assert_eq!(args.words.command, ["ls", "--rocm"]);
        assert_eq!(
            parse(&["skiff", "exec", "--nvv", "a.sif"]).unwrap_err().kind(),
            ErrorKind::UnknownArgument
        );
        build_other::add_to(other::add_to(Cli::command())).debug_assert();
        let cli = parse(&["apptainer", "build", "-f", "--nohttps", "--library", "x", "-F", "a.sif", "tree"]);
        let Ok(Cli { verb: Verb::Build(args), .. }) = cli else { panic!("{cli:?}") };
        assert_eq!(args.other.given.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["fakeroot"]);
        assert!(args.force);
    }

    #[test]
    fn the_last_of_several_counts_as_clients_give_them() {
        let words =
            ["apptainer", "--quiet", "--silent", "exec", "-e", "-e", "--cwd", "/a", "--cwd", "/b", "i"];
        let cli = Cli::try_parse_from(words);
        let Ok(Cli { verb: Verb::Exec(args), global }) = cli else { panic!("{cli:?}") };
        assert!(global.quiet && args.container.cleanenv);
        assert_eq!(args.container.cwd.as_deref(), Some(std::path::Path::new("/b")));
        let cli = Cli::try_parse_from(["skiff", "run", "-vv", "--env", "A=1", "--env", "B=2", "i"]);
        let Ok(Cli { verb: Verb::Run(args), global }) = cli else { panic!("{cli:?}") };
        assert_eq!((args.container.env.len(), global.detail()), (2, 2));
    }

    #[test]
    fn variables_say_how_much_is_said_unless_flags_do() {
        let with = |mut global: Global, names: &[&str]| {
            global.add_settings(|name| names.contains(&name));
            (global.detail(), global.silent())
        };
        assert_eq!(with(Global::default(), &[]), (0, false));
        assert_eq!(with(Global::default(), &["SILENT"]), (0, true));
        assert_eq!(with(Global::default(), &["DEBUG", "QUIET"]), (2, false));
        assert_eq!(with(Global { quiet: true, ..Global::default() }, &["VERBOSE"]), (0, true));
        assert_eq!(with(Global { verbose: 1, ..Global::default() }, &["QUIET"]), (1, false));
    }

    #[test]
    fn verbose_beats_quiet() {
        let cli = Cli::try_parse_from(["skiff", "-q", "sif", "list", "-vv", "a.sif"]).unwrap();
        assert_eq!((cli.global.detail(), cli.global.silent()), (2, false));
        let cli = Cli::try_parse_from(["skiff", "-d", "sif", "list", "a.sif"]).unwrap();
        assert_eq!(cli.global.detail(), 2);
    }
}
