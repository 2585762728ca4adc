//! Who the user is for a registry: where that is kept, and asking for it on the terminal.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::cli::fetch::FetchFlags;
use crate::error::{Context, Error, Result};
use crate::host::Host;
use crate::oci::credentials::{Around, Credential};
use crate::oci::proxy::Proxies;
use crate::plan::asked::switch;

/// No password is longer.
pub const PASSWORD_BYTES: u64 = 64 << 10;

/// The home directory.
pub fn home(host: &Host) -> Option<PathBuf> {
    let set = host.variable("HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    set.or_else(|| host.user().home.clone())
}

/// By what servers are asked.
pub fn proxies(host: &Host) -> Proxies {
    Proxies::read(&|name| host.variable(name).map(|value| value.to_string_lossy().into_owned()))
}

/// Where credentials are kept.
pub fn key_files<'h>(host: &'h Host, authfile: Option<&'h Path>) -> Around<'h> {
    let given = authfile.map(Path::as_os_str).filter(|path| !path.is_empty());
    let setting = || host.setting("AUTH_FILE").map(|(_, value)| value);
    let set = |name| host.variable(name).filter(|value: &&OsStr| !value.is_empty());
    Around {
        authfile: given.or_else(setting),
        containers: set("REGISTRY_AUTH_FILE"),
        runtime: set("XDG_RUNTIME_DIR"),
        docker: set("DOCKER_CONFIG"),
        config: set("XDG_CONFIG_HOME"),
        home: home(host),
    }
}

/// Name and password for this call.
pub fn given(host: &Host, flags: &FetchFlags) -> Result<Option<Credential>> {
    let text = |name: &str| host.setting(name).map(|(_, value)| value.to_string_lossy().into_owned());
    let bare =
        |name: &str| host.variable(name).filter(|value| !value.is_empty())?.to_str().map(str::to_owned);
    let named = |flag: &Option<String>, name: &str| {
        flag.clone().filter(|value| !value.is_empty()).or_else(|| text(name)).or_else(|| bare(name))
    };
    let user = named(&flags.docker_username, "DOCKER_USERNAME");
    let password = named(&flags.docker_password, "DOCKER_PASSWORD");
    match (user, password) {
        (Some(user), Some(password)) => Ok(Some(Credential::Password(user, password))),
        (user, _) if switch(host, flags.docker_login, "--docker-login", &["DOCKER_LOGIN"]).is_some() => {
            let (user, password) = ask(user.as_deref())?;
            Ok(Some(Credential::Password(user, password)))
        }
        (Some(_), None) => Err(Error::usage("--docker-username needs a password")
            .hint("set it in SKIFF_DOCKER_PASSWORD, or give --docker-login")),
        (None, Some(_)) => {
            Err(Error::usage("a password needs the user's name").hint("--docker-username NAME"))
        }
        (None, None) => Ok(None),
    }
}

/// Asks for name and password on the terminal.
///
/// # Errors
/// Where there is none.
pub fn ask(user: Option<&str>) -> Result<(String, String)> {
    let user = ask_name(user)?;
    let tried = || "cannot ask for the password".to_owned();
    let mut terminal = open_terminal().tried(tried).map_err(no_terminal)?;
    let before = tcgetattr(&terminal).tried(tried)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    terminal.write_all(b"Password: ").tried(tried)?;
    tcsetattr(&terminal, OptionalActions::Flush, &silent).tried(tried)?;
    let answer = line(&terminal);
    tcsetattr(&terminal, OptionalActions::Flush, &before).tried(tried)?;
    terminal.write_all(b"\n").tried(tried)?;
    Ok((user, answer.tried(tried)?))
}

/// Asks for the name alone, where it is not known.
///
/// # Errors
/// As [`ask`].
pub fn ask_name(user: Option<&str>) -> Result<String> {
    if let Some(user) = user {
        return Ok(user.to_owned());
    }
    let tried = || "cannot ask for the name".to_owned();
    let mut terminal = open_terminal().tried(tried).map_err(no_terminal)?;
    terminal.write_all(b"Name: ").tried(tried)?;
    line(&terminal).tried(tried)
}

fn open_terminal() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/tty")
}

fn line(terminal: &File) -> io::Result<String> {
    let mut text = String::new();
    BufReader::new(terminal.take(PASSWORD_BYTES)).read_line(&mut text)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn no_terminal(error: Error) -> Error {
    error.hint("without a terminal: --username NAME --password-stdin; or SKIFF_DOCKER_USERNAME and SKIFF_DOCKER_PASSWORD")
}
