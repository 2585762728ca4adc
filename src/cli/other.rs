//! Flags of Apptainer's that skiff answers in a sentence: those whose effect every container of skiff has
//! anyway, those that have no effect on an image that is a file, and those that come later.
//!
//! One table, hidden from `--help`; `docs/compatibility.md` lists them. They are looked for only when a command line
//! has a flag that is none of skiff's ([`add_to`]): describing them would cost every start more than it is worth.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

/// One such flag.
pub struct Other {
    /// Its long name, without the dashes.
    pub name: &'static str,
    /// Another long name; may be empty.
    pub alias: &'static str,
    /// Whether a value follows.
    pub takes_value: bool,
    /// The variables that ask for the same, without their prefix.
    pub keys: &'static [&'static str],
    /// What it is answered.
    pub answer: Answer,
}

/// What a flag is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: it is so anyway.
    Already,
    /// A warning: it has no effect here, for this reason.
    NoEffect(&'static str),
    /// An error: it comes later, and this is what to use instead.
    Later(&'static str),
}

const LIMITS: &str = "limits are those of the job; outside a batch system: systemd-run --user --scope -p MemoryMax=4G -p CPUQuota=200% skiff exec ...";
const DECRYPT: &str =
    "encrypted images cannot be run yet; decrypt it into a plain image with the tool that made it";
const DMTCP: &str = "start the program by DMTCP: skiff exec a.sif dmtcp_launch PROGRAM";
const SERVICE: &str = "skiff has no named instances; start a service as a process of its own: systemd-run --user skiff run --pid a.sif";

const fn switch(name: &'static str, keys: &'static [&'static str], answer: Answer) -> Other {
    Other { name, alias: "", takes_value: false, keys, answer }
}

const fn value(name: &'static str, keys: &'static [&'static str], answer: Answer) -> Other {
    Other { name, alias: "", takes_value: true, keys, answer }
}

/// All of them.
#[rustfmt::skip]
pub const OTHERS: &[Other] = &[
    switch("sharens",                 &["SHARENS"],                 Answer::Already),
    switch("underlay",                &["UNDERLAY"],                Answer::Already),
    switch("ignore-fakeroot-command", &["IGNORE_FAKEROOT_COMMAND"], Answer::Already),
    value ("runscript-timeout",       &["RUNSCRIPT_TIMEOUT"],       Answer::Already),

    // SingularityCE's alone.
    switch("no-compat",               &[],                          Answer::Already),
    switch("no-oci",                  &[],                          Answer::Already),
    switch("no-setgroups",            &["NO_SETGROUPS"],            Answer::Already),
    switch("sif-fuse",                &["SIF_FUSE"],                Answer::Already),
    switch("tmp-sandbox",     &[],                Answer::NoEffect("the image is served without unpacking it, and shows the same files")),
    switch("no-tmp-sandbox",  &[],                Answer::NoEffect("images are unpacked only where FUSE is missing")),
    switch("oci",             &["OCI"],           Answer::Later("leave it out: images of registries run without it (skiff run docker://...), with --compat as much by themselves as there")),
    value ("data",            &[],                Answer::Later("bring a directory in with --bind")),

    switch("unsquash",        &["UNSQUASH"],      Answer::NoEffect("the image is served without unpacking it, and shows the same files")),
    value ("tmpdir",          &[],                Answer::NoEffect("images are unpacked only where FUSE is missing, below SKIFF_TMPDIR")),

    value ("apply-cgroups",       &["APPLY_CGROUPS"],       Answer::Later(LIMITS)),
    value ("blkio-weight",        &["BLKIO_WEIGHT"],        Answer::Later(LIMITS)),
    value ("blkio-weight-device", &["BLKIO_WEIGHT_DEVICE"], Answer::Later(LIMITS)),
    value ("cpu-shares",          &["CPU_SHARES"],          Answer::Later(LIMITS)),
    value ("cpus",                &["CPUS"],                Answer::Later(LIMITS)),
    value ("cpuset-cpus",         &["CPUSET_CPUS"],         Answer::Later(LIMITS)),
    value ("cpuset-mems",         &["CPUSET_MEMS"],         Answer::Later(LIMITS)),
    value ("memory",              &["MEMORY"],              Answer::Later(LIMITS)),
    value ("memory-reservation",  &["MEMORY_RESERVATION"],  Answer::Later(LIMITS)),
    value ("memory-swap",         &["MEMORY_SWAP"],         Answer::Later(LIMITS)),
    switch("oom-kill-disable",    &["OOM_KILL_DISABLE"],    Answer::Later(LIMITS)),
    value ("pids-limit",          &["PIDS_LIMIT"],          Answer::Later("use ulimit -u")),

    // Their variables are set for all images of a user and mean the encrypted ones, which have an error of their own.
    switch("passphrase",     &[],                        Answer::Later(DECRYPT)),
    value ("pem-path",       &[],                        Answer::Later(DECRYPT)),
    value ("fusemount",      &["FUSESPEC"],              Answer::Later("mount it on the host first and bring it in with --bind")),
    value ("network-args",   &["NETWORK_ARGS"],          Answer::Later("the host's network is there without --net")),
    value ("netns-path",     &["NETNS_PATH"],            Answer::Later("enter it first: nsenter --net=PATH skiff exec ...")),
    value ("dmtcp-launch",   &[],                        Answer::Later(DMTCP)),
    value ("dmtcp-restart",  &[],                        Answer::Later(DMTCP)),
    switch("boot",           &[],                        Answer::Later(SERVICE)),
    value ("pid-file",       &[],                        Answer::Later(SERVICE)),
    value ("security",       &["SECURITY"],              Answer::Later("confine skiff itself: setpriv, systemd-run, or the site's profile")),
    switch("allow-setuid",   &["ALLOW_SETUID"],          Answer::Later("set-user-id programs gain nothing in a user namespace; use --fakeroot to look like root")),
    switch("ignore-userns",  &["IGNORE_USERNS"],         Answer::Later("every container of skiff has a user namespace")),
];

/// Those that were given, in the table's order.
#[derive(Debug, Clone, Default)]
pub struct OtherFlags {
    /// Their long names.
    pub given: Vec<&'static str>,
}

/// Whether a flag was given, and not turned off or with an empty value alone. An error says that it was not looked
/// for, or is no switch.
pub fn is_given(matches: &ArgMatches, name: &str) -> bool {
    match matches.try_get_one::<bool>(name) {
        Ok(on) => on == Some(&true),
        Err(_) => match matches.try_get_many::<String>(name) {
            Ok(Some(mut values)) => values.any(|value| !value.is_empty()),
            _ => false,
        },
    }
}

impl FromArgMatches for OtherFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |other: &&Other| is_given(matches, other.name);
        Ok(Self { given: OTHERS.iter().filter(given).map(|other| other.name).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for OtherFlags {
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
}

/// Adds them to the verbs that start a container.
pub fn add_to(mut command: Command) -> Command {
    for verb in ["exec", "run", "shell", "test"] {
        if command.find_subcommand(verb).is_some() {
            command = command.mut_subcommand(verb, |verb| verb.args(OTHERS.iter().map(arg)));
        }
    }
    command
}

fn arg(other: &Other) -> Arg {
    let action = if other.takes_value { ArgAction::Append } else { ArgAction::SetTrue };
    let arg = Arg::new(other.name).long(other.name).action(action).hide(true);
    if other.alias.is_empty() { arg } else { arg.alias(other.alias) }
}
