//! The agent `arch`: pacman, called as pacstrap calls it. Pacstrap itself mounts what a user namespace cannot, or wants
//! subordinate ids.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::Order;
use super::programs::{Call, FETCH, find, make_directories, own_directory, packages, text};
use crate::error::{Context, Error, Result};

/// Directories that pacman wants to be there.
const DIRECTORIES: [(&str, u32); 5] =
    [("var/lib/pacman", 0o755), ("run", 0o755), ("tmp", 0o1777), ("proc", 0o555), ("sys", 0o555)];

/// Where the host says which repositories there are.
const CONFIGURATION: &str = "/etc/pacman.conf";

pub fn arch(order: &Order<'_>) -> Result<Call> {
    if order.host.machine != "x86_64" {
        return Err(Error::host(format!(
            "Bootstrap: arch is for x86_64, this machine is {}",
            order.host.machine
        )));
    }
    let program = find(order, &["pacman"], "pacman (Debian: pacman-package-manager)")?;
    let sh = find(order, &["sh"], "dash")?;
    let own = own_directory(order)?;
    let (configuration, fetch) = match order.key("ConfURL") {
        Some(_) => (text(&own.join("pacman.conf")), text(&find(order, &["curl", "wget"], "curl (or wget)")?)),
        None => (CONFIGURATION.to_owned(), String::new()),
    };
    for (name, mode) in DIRECTORIES {
        let path = order.directory.join(name);
        let tried = || format!("cannot make {path:?}");
        make_directories(order.directory, &path).tried(tried)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).tried(tried)?;
    }
    let url = order.key("ConfURL").unwrap_or_default();
    let mut arguments =
        vec!["-c".to_owned(), format!("{FETCH}{PACMAN}"), fetch, configuration, url.to_owned()];
    arguments.extend([text(&program), text(order.directory), text(&own.join("packages")), "base".to_owned()]);
    arguments.extend(packages(order));
    Ok(Call { shown: Some(&["proc", "sys"]), own: Some(own), named: program, ..Call::new(sh, arguments) })
}

const PACMAN: &str = r#"test -z "$2" || fetch "$1" "$2"
configuration=$1 program=$3 root=$4 cache=$5
shift 5
mkdir "$cache"
"$program" --root "$root" --config "$configuration" --cachedir "$cache" --noconfirm -Sy "$@"
"#;
