//! The flags of all verbs that may fetch an image.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::files::path_or_nothing;

/// How images are fetched.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Registries")]
pub struct FetchFlags {
    /// Speak plain HTTP with the registry
    #[arg(long, alias = "nohttps")]
    pub no_https: bool,
    /// Look for the password in this file alone
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = path_or_nothing())]
    pub authfile: Option<PathBuf>,
    /// Ask for name and password on the terminal
    #[arg(long)]
    pub docker_login: bool,
    /// The name, in place of the question
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub docker_username: Option<String>,
    /// The password, in place of the question; others of this machine see it in the list of processes
    #[arg(long, value_name = "PASSWORD", hide = true)]
    pub docker_password: Option<String>,
    /// The Docker that docker-daemon: means: unix:///PATH or tcp://HOST:PORT (also: DOCKER_HOST)
    #[arg(long, value_name = "ADDRESS", hide_short_help = true)]
    pub docker_host: Option<String>,
    /// The server of library:// names without a host
    #[arg(long, value_name = "URL", hide_short_help = true)]
    pub library: Option<String>,
}

/// Which of an index's images is meant.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Registries")]
pub struct PlatformFlags {
    /// The image for this processor: amd64, arm64, ... [default: this machine's]
    #[arg(long, value_name = "NAME")]
    pub arch: Option<String>,
    /// The image for this level of the processor: v7, v8, ...
    #[arg(long, value_name = "LEVEL")]
    pub arch_variant: Option<String>,
}
