//! `skiff registry`: names and passwords for registries.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::files::path_or_nothing;

/// Shown by `skiff registry --help`.
pub const EXAMPLES: &str = "\
Examples:
  skiff registry login registry.example.org               asks for name and password
  skiff registry login --username ada --password-stdin registry.example.org <password
  skiff registry list
  skiff registry logout registry.example.org

They are kept in ~/.config/skiff/auth.json, for the user alone to read. What Docker and Podman keep is used too.";

/// `skiff registry`.
#[derive(Debug, Args)]
pub struct RegistryArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: RegistryAction,
}

/// What to do with passwords.
#[derive(Debug, Subcommand)]
pub enum RegistryAction {
    /// Try a name and a password, and keep them
    Login(LoginArgs),
    /// Forget what is kept for a registry
    Logout(LogoutArgs),
    /// List the registries that something is kept for
    List(ListArgs),
}

/// `skiff registry login`.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// The registry, with its port if it has one; docker.io is Docker Hub
    #[arg(value_name = "HOST")]
    pub host: String,
    /// The name
    #[arg(short, long, value_name = "NAME")]
    pub username: Option<String>,
    /// The password; others of this machine see it in the list of processes
    #[arg(short, long, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    pub password: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    pub password_stdin: bool,
    /// Speak plain HTTP with the registry
    #[arg(long, alias = "nohttps")]
    pub no_https: bool,
    /// Keep it in this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = path_or_nothing())]
    pub authfile: Option<PathBuf>,
}

/// `skiff registry logout`.
#[derive(Debug, Args)]
pub struct LogoutArgs {
    /// The registry
    #[arg(value_name = "HOST")]
    pub host: String,
    /// The file that it is kept in
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = path_or_nothing())]
    pub authfile: Option<PathBuf>,
}

/// `skiff registry list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
    /// The file that it is kept in
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = path_or_nothing())]
    pub authfile: Option<PathBuf>,
}
