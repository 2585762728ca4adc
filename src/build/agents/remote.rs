//! Agents whose base is an image from elsewhere, as `From`, `Registry`, `Namespace` and `Library` name it.

use super::{Base, Order};
use crate::error::{Error, Result};
use crate::oci::reference;

/// Those agents.
pub const AGENTS: [&str; 7] =
    ["docker", "oras", "library", "docker-archive", "docker-daemon", "oci", "oci-archive"];

/// Fetches the image.
pub fn open(order: &Order<'_>) -> Result<Base> {
    let from = order.needed("From")?;
    if order.key("Fingerprints").is_some() {
        return Err(Error::usage("Fingerprints: signatures of images cannot be checked yet")
            .hint("check the image with the tool that signed it, and leave the line out"));
    }
    // A library is named as a registry is.
    let server = order.key("Registry").or_else(|| order.key("Library"));
    let server = server.map(|server| server.split_once("://").map_or(server, |(_, host)| host));
    let named = reference::of_agent(order.agent, from, server, order.key("Namespace"))?;
    Base::image(&(order.fetch)(&named)?)
}
