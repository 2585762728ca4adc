//! Flags of Apptainer's `build` that skiff answers in a sentence; as in [`super::other`], and as late.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::other::Answer::{self, Already, Later, NoEffect};
use super::other::is_given;

/// One such flag.
pub struct BuildOther {
    /// Its long names, without the dashes.
    pub names: &'static [&'static str],
    /// Its letter; a blank for none.
    pub letter: char,
    /// Whether a value follows.
    pub takes_value: bool,
    /// The variables that ask for the same, without their prefix.
    pub keys: &'static [&'static str],
    /// What it is answered.
    pub answer: Answer,
}

const fn row(
    letter: char,
    takes_value: bool,
    names: &'static [&'static str],
    keys: &'static [&'static str],
    answer: Answer,
) -> BuildOther {
    BuildOther { names, letter, takes_value, keys, answer }
}

const LOCAL: Answer = NoEffect("the source is a local directory or image");
const NOTHING_RUNS: Answer = NoEffect("nothing is run while a directory is packed");
const ENCRYPT: Answer = Later("encrypt the file that is built, for example with gpg or age");
const REMOTE: Answer = Later("skiff builds on this machine alone");

/// All of them.
#[rustfmt::skip]
pub const BUILD_OTHERS: &[BuildOther] = &[
    row(' ', false, &["userns"],                 &["USERNS"],                   Already),
    row(' ', false, &["ignore-userns"],          &["IGNORE_USERNS"],            Already),
    row(' ', false, &["ignore-proot"],           &["IGNORE_PROOT"],             Already),
    row(' ', false, &["ignore-fakeroot-command"], &["IGNORE_FAKEROOT_COMMAND"],  Already),
    row(' ', false, &["no-setgroups"],           &["NO_SETGROUPS"],             Already),

    row('f', false, &["fakeroot"],               &["FAKEROOT"],                 NoEffect("owners are packed as the directory has them; --all-root makes them root's")),
    row(' ', true,  &["buildkit-host"],          &["BUILDKIT_HOST"],            LOCAL),
    row(' ', false, &["nv"],                     &[],                           NOTHING_RUNS),
    row(' ', false, &["nvccli"],                 &["NVCCLI"],                   NOTHING_RUNS),
    row(' ', false, &["rocm"],                   &[],                           NOTHING_RUNS),
    row(' ', false, &["compat32"],               &[],                           NOTHING_RUNS),

    row(' ', false, &["fix-perms"],              &["FIXPERMS"],                 Later("mend the directory first: chmod -R u+rwX DIRECTORY")),
    row(' ', true,  &["mksquashfs-args"],        &["MKSQUASHFS_ARGS"],          Later("use --compression, --level, --block-size and --threads")),
    row(' ', false, &["data"],                   &["DATA"],                     Later("a directory is brought into containers with --bind")),
    row('e', false, &["encrypt"],                &[],                           ENCRYPT),
    row(' ', false, &["passphrase"],             &[],                           ENCRYPT),
    row(' ', true,  &["pem-path"],               &[],                           ENCRYPT),
    row('r', false, &["remote"],                 &[],                           REMOTE),
    row(' ', false, &["detached"],               &[],                           REMOTE),
    row(' ', true,  &["builder"],                &[],                           REMOTE),
];

/// Those that were given, in the table's order.
#[derive(Debug, Clone, Default)]
pub struct BuildOtherFlags {
    /// Their long names, with their answers.
    pub given: Vec<(&'static str, Answer)>,
}

impl FromArgMatches for BuildOtherFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let rows = BUILD_OTHERS.iter().map(|row| (row.names[0], row.answer));
        Ok(Self { given: rows.filter(|(name, _)| is_given(matches, name)).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for BuildOtherFlags {
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
}

/// Adds them to `build`.
pub fn add_to(command: Command) -> Command {
    command.mut_subcommand("build", |build| build.args(BUILD_OTHERS.iter().map(arg)))
}

fn arg(other: &BuildOther) -> Arg {
    let action = if other.takes_value { ArgAction::Append } else { ArgAction::SetTrue };
    let arg = Arg::new(other.names[0]).long(other.names[0]).action(action).hide(true);
    let arg = arg.aliases(&other.names[1..]);
    if other.letter == ' ' { arg } else { arg.short(other.letter) }
}
