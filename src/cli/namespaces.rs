//! The flags that say what a container has of its own besides its files, and who its user is.

use clap::Args;

/// Processes, network, identity, privileges.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Processes and identity")]
pub struct NamespaceFlags {
    /// Own processes: the container sees no others, and all of them end with the program
    #[arg(short = 'p', long)]
    pub pid: bool,
    /// The host's processes, even with --containall or --compat
    #[arg(long, hide_short_help = true)]
    pub no_pid: bool,
    /// With --pid: the program is process 1 itself, instead of a small init
    #[arg(long, alias = "noshiminit")]
    pub no_init: bool,
    /// Own System V IPC and POSIX message queues
    #[arg(short = 'i', long)]
    pub ipc: bool,
    /// Own host name
    #[arg(long)]
    pub uts: bool,
    /// This host name (brings --uts)
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Own network, as --network says
    #[arg(short = 'n', long)]
    pub net: bool,
    /// Which network (brings --net); 'none' has the loopback device alone
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// Look like root: the caller's ids are 0 in the container, and the caller's subordinate ids follow
    #[arg(short = 'f', long)]
    pub fakeroot: bool,
    /// With --fakeroot: no subordinate ids, even where there are any
    #[arg(long, hide_short_help = true)]
    pub ignore_subuid: bool,
    /// A user namespace, which every container of skiff has
    #[arg(short = 'u', long, hide_short_help = true)]
    pub userns: bool,
    /// The file mode creation mask 0022 instead of the caller's
    #[arg(long, hide_short_help = true)]
    pub no_umask: bool,
    /// Capabilities that the program gets in the container, with commas between
    #[arg(long, value_name = "CAP", value_delimiter = ',', hide_short_help = true)]
    pub add_caps: Vec<String>,
    /// Capabilities that root of the container does not get, with commas between
    #[arg(long, value_name = "CAP", value_delimiter = ',', hide_short_help = true)]
    pub drop_caps: Vec<String>,
    /// No capabilities, not even for root of the container
    #[arg(long, hide_short_help = true)]
    pub no_privs: bool,
    /// All capabilities, which root of the container has anyway
    #[arg(long, hide_short_help = true)]
    pub keep_privs: bool,
}
