//! `skiff registry`: names and passwords for registries.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde_json::json;

use crate::cli::Global;
use crate::cli::registry::{ListArgs, LoginArgs, LogoutArgs, RegistryAction, RegistryArgs};
use crate::commands::obtain::login::{PASSWORD_BYTES, ask, ask_name, key_files, proxies};
use crate::commands::{host_for, json_text, note, printed, warn};
use crate::error::{Context, Error, Result};
use crate::host::Host;
use crate::oci::credentials::{self, Credential};
use crate::oci::http::Http;
use crate::oci::registry::check_login;
use crate::plan::asked::switch;

/// Runs `skiff registry`.
pub fn run(args: &RegistryArgs, global: &Global) -> Result<i32> {
    match &args.action {
        RegistryAction::Login(args) => login(args, global),
        RegistryAction::Logout(args) => logout(args, global),
        RegistryAction::List(args) => list(args),
    }
}

fn login(args: &LoginArgs, global: &Global) -> Result<i32> {
    let host = host_for(global);
    let (name, path) = (registry_name(&args.host)?, own_file(&host, args.authfile.clone())?);
    let (user, password) = match (&args.username, &args.password) {
        (Some(user), Some(password)) => (user.clone(), password.clone()),
        (Some(user), None) if args.password_stdin => (user.clone(), read_password()?),
        (user, Some(password)) => (ask_name(user.as_deref())?, password.clone()),
        (user, None) => ask(user.as_deref())?,
    };
    let plain = switch(&host, args.no_https, "--no-https", &["NOHTTPS", "NO_HTTPS"]).is_some();
    let told = global.clone();
    let ca_file = host.setting("CA_FILE").map(|(_, value)| PathBuf::from(value));
    let http = Http::new(ca_file, plain, proxies(&host), Box::new(move |text| warn(&told, text)));
    check_login(&http, &name, &Credential::Password(user.clone(), password.clone()), plain)?;
    credentials::keep(&path, &name, &user, &password)?;
    note(global, &format!("logged in at {name} as {user}; kept in {path:?}"));
    Ok(0)
}

fn logout(args: &LogoutArgs, global: &Global) -> Result<i32> {
    let (name, path) = (registry_name(&args.host)?, own_file(&Host::probe(), args.authfile.clone())?);
    match credentials::forget(&path, &name)? {
        true => note(global, &format!("logged out from {name}")),
        false => {
            return Err(Error::usage(format!("nothing is kept for {name} in {path:?}")).hint(
                "skiff registry list shows what is kept; what Docker and Podman keep is theirs to forget",
            ));
        }
    }
    Ok(0)
}

fn list(args: &ListArgs) -> Result<i32> {
    let path = own_file(&Host::probe(), args.authfile.clone())?;
    let rows = credentials::list(&path)?;
    let text = match args.json {
        true => {
            let rows: Vec<_> =
                rows.iter().map(|(host, user)| json!({"registry": host, "user": user})).collect();
            json_text(&json!({"file": path, "registries": rows}), "the list")?
        }
        false => rows.iter().map(|(host, user)| format!("{host}\t{user}\n")).collect(),
    };
    printed(io::stdout().write_all(text.as_bytes()))
}

/// The file that is written.
fn own_file(host: &Host, authfile: Option<PathBuf>) -> Result<PathBuf> {
    let around = key_files(host, authfile.as_deref());
    let named = around.authfile.map(PathBuf::from);
    named.or_else(|| around.own()).ok_or_else(|| {
        Error::host("there is no place for passwords: you have no home directory")
            .hint("name a file with --authfile")
    })
}

/// The registry that was named, without what is often written before and after it.
fn registry_name(text: &str) -> Result<String> {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    if host.is_empty() || !host.bytes().all(letters) {
        return Err(
            Error::usage(format!("{text:?} names no registry")).hint("for example registry.example.org:5000")
        );
    }
    Ok(match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    })
}

fn read_password() -> Result<String> {
    let mut text = String::new();
    let read = io::stdin().lock().take(PASSWORD_BYTES).read_to_string(&mut text);
    read.tried(|| "cannot read the password from standard input".into())?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Error::usage("there is no password on standard input"));
    }
    Ok(password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_known_by_their_hosts() {
        for (text, name) in [
            ("h.org:5000", "h.org:5000"),
            ("docker://docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("oras://h.org/group", "h.org"),
            ("[::1]:5000", "[::1]:5000"),
        ] {
            assert_eq!(registry_name(text).unwrap(), name);
        }
        assert!(registry_name("").is_err() && registry_name("a b").is_err());
    }
}
