//! The files that name a container and what it asks for names: `/etc/hostname` with `--hostname`, `/etc/resolv.conf`
//! with `--dns`.

use std::net::IpAddr;
use std::path::Path;

use super::Because;
use super::mounts::Chosen;
use crate::error::{Error, Result};

impl Chosen<'_, '_> {
    /// Shows name servers in place of the host's.
    pub(super) fn add_name_servers(&mut self, servers: &[String], because: &Because) -> Result<()> {
        let mut content = String::new();
        for server in servers {
            let server = server.trim();
            // An address of the link may name its device: fe80::1%eth0.
            let address = server.split_once('%').map_or(server, |(address, _device)| address);
            if address.parse::<IpAddr>().is_err() {
                let origin = because.origin();
                return Err(Error::usage(format!("{server:?} is no address of a name server ({origin})"))
                    .hint("name servers are given as addresses: --dns 192.0.2.1,2001:db8::1"));
            }
            content.push_str(&format!("nameserver {server}\n"));
        }
        self.add_file(Path::new("/etc/resolv.conf"), content.into_bytes(), because.clone())
    }

    /// Shows the host name that was asked for where programs look it up.
    pub(super) fn add_hostname(&mut self) -> Result<()> {
        let path = Path::new("/etc/hostname");
        let Some((name, because)) = self.asked.hostname.clone() else { return Ok(()) };
        if self.left_out("", path) {
            return Ok(());
        }
        self.add_file(path, format!("{}\n", name.to_string_lossy()).into_bytes(), because)
    }
}
