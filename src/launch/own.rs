//! What the container has of its own besides its mounts and processes: IPC, host name, network.

use nix::sched::{CloneFlags, unshare};

use crate::error::{Context, Error, Kind, Result};
use crate::plan::Namespaces;
use crate::sys::network;

/// Makes the namespaces. They belong to the container's user namespace, so they come after it, and before mounts
/// that show them.
pub fn enter(plan: &Namespaces) -> Result<()> {
    for (wanted, flag, what, limit) in [
        (plan.ipc, CloneFlags::CLONE_NEWIPC, "IPC", "user.max_ipc_namespaces"),
        (plan.uts, CloneFlags::CLONE_NEWUTS, "UTS", "user.max_uts_namespaces"),
        (plan.network, CloneFlags::CLONE_NEWNET, "network", "user.max_net_namespaces"),
    ] {
        if wanted {
            unshare(flag).map_err(|error| {
                let failed = Error::host(format!("cannot make a {what} namespace")).because(error);
                match error {
                    nix::Error::ENOSPC => {
                        failed.hint(format!("the administrator can raise the sysctl {limit}"))
                    }
                    _ => failed,
                }
            })?;
        }
    }
    if let Some(name) = &plan.hostname {
        rustix::system::sethostname(name.as_bytes())
            .context(Kind::Host, || format!("cannot set the host name {name:?}"))?;
    }
    if plan.network {
        network::start_loopback().context(Kind::Host, || "cannot start the loopback device".into())?;
    }
    Ok(())
}
