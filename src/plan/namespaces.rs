//! What the container has of its own besides its mounts: processes, IPC, host name, network; and its capabilities.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::asked::Asked;
use super::{Because, Capabilities, IdMap, Namespaces, Processes};
use crate::error::{Error, Result};
use crate::host::Host;

/// The longest host name (uname(2)).
const MAX_HOSTNAME: usize = 64;

/// The kernel's capabilities, by number.
const CAPABILITIES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// Decides it.
pub fn plan_namespaces(asked: &Asked) -> Result<Namespaces> {
    let processes = match (&asked.pid, asked.no_init) {
        (None, _) => Processes::Callers,
        (Some(_), false) => Processes::OwnWithInit,
        (Some(_), true) => Processes::Own,
    };
    let hostname = match &asked.hostname {
        Some((name, because)) => Some(hostname(name.as_bytes(), because)?),
        None => None,
    };
    check_network(asked)?;
    Ok(Namespaces {
        processes,
        ipc: asked.ipc.is_some(),
        uts: asked.uts.is_some(),
        hostname,
        network: asked.net.is_some(),
    })
}

fn hostname(name: &[u8], because: &Because) -> Result<String> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
    let text = String::from_utf8_lossy(name);
    let why = match name.iter().all(plain) {
        true if name.len() <= MAX_HOSTNAME => return Ok(text.into_owned()),
        true => format!("it has {} bytes", name.len()),
        false => {
            let other = text.chars().find(|letter| !u8::try_from(*letter).is_ok_and(|byte| plain(&byte)));
            format!("{:?} cannot be in one", other.unwrap_or_default())
        }
    };
    Err(Error::usage(format!("cannot use {text:?} as host name ({}): {why}", because.origin()))
        .hint(format!("a host name has at most {MAX_HOSTNAME} letters, digits, '-', '.' and '_'")))
}

/// Without privileges there is one network to have: none.
fn check_network(asked: &Asked) -> Result<()> {
    let (name, origin) = match (&asked.network, &asked.net) {
        (Some((name, because)), _) => (name.to_string_lossy(), because.origin()),
        // What Apptainer falls back to where root is not real.
        (None, Some(_)) if asked.fakeroot.is_some() => return Ok(()),
        (None, Some(because)) => ("bridge".into(), because.origin()),
        (None, None) => return Ok(()),
    };
    if name == "none" {
        return Ok(());
    }
    Err(Error::usage(format!(
        "cannot make the network {name:?} ({origin}): networks to the outside need privileges that skiff does not have"
    ))
    .hint("use --network none for a container without network, or leave --net out to use the host's"))
}

/// Decides the capabilities of the program.
pub fn plan_capabilities(asked: &Asked, ids: &IdMap) -> Result<Capabilities> {
    let is_root = match ids {
        IdMap::Caller { uid, .. } => *uid == 0,
        IdMap::Root { .. } | IdMap::Subordinate { .. } | IdMap::Whole => true,
    };
    if let Some(because) = &asked.keep_privs
        && !is_root
    {
        return Err(Error::usage(format!(
            "cannot keep privileges ({}): the caller has none",
            because.origin()
        ))
        .hint("use --fakeroot to look like root, or --add-caps for capabilities within the container"));
    }
    let add = match &asked.add_caps {
        Some((names, because)) => numbers(names, because)?,
        None => Vec::new(),
    };
    let drop = match &asked.drop_caps {
        _ if asked.no_privs => (0..CAPABILITIES.len() as u8).collect(),
        Some((names, because)) => numbers(names, because)?,
        None => Vec::new(),
    };
    // Root has them all but those that are dropped.
    let add = add.into_iter().filter(|number| !drop.contains(number) && !is_root).collect();
    Ok(Capabilities { add, drop })
}

/// What a capability is called.
pub fn capability_name(number: u8) -> String {
    match CAPABILITIES.get(usize::from(number)) {
        Some(name) => format!("CAP_{}", name.to_ascii_uppercase()),
        None => number.to_string(),
    }
}

fn numbers(names: &[String], because: &Because) -> Result<Vec<u8>> {
    let mut numbers = Vec::new();
    for name in names {
        let lower = name.trim().to_ascii_lowercase();
        let plain = lower.strip_prefix("cap_").unwrap_or(&lower);
        if plain == "all" {
            return Ok((0..CAPABILITIES.len() as u8).collect());
        }
        let Some(number) = CAPABILITIES.iter().position(|known| *known == plain) else {
            return Err(Error::usage(format!("no capability is called {name:?} ({})", because.origin()))
                .hint("they are named as in capabilities(7): CAP_NET_RAW, CAP_SYS_PTRACE, ..., or all"));
        };
        numbers.push(number as u8);
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

/// Whether something is mounted over parts of /proc, as outer containers do: the kernel then refuses a new one, which
/// would show what was hidden.
pub fn processes_are_masked(host: &Host) -> bool {
    let table = std::fs::read_to_string(host.real(Path::new("/proc/self/mountinfo"))).unwrap_or_default();
    table.lines().filter_map(|line| line.split(' ').nth(4)).any(|place| {
        place.strip_prefix("/proc/").is_some_and(|below| !below.starts_with("sys/fs/binfmt_misc"))
    })
}
