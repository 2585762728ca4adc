//! An OCI image becomes a SIF.
//!
//! ```text
//! 1  the root file system: the layers, merged; what the configuration becomes in /.singularity.d
//! 2  the definition and inspect-metadata.json, read from what was packed
//! 3  oci-config.json, the configuration as it came
//! ```
//!
//! The objects come after the root file system, since what the layers say of themselves is known then.

use std::fs::File;
use std::sync::Arc;

use super::image::Making;
pub use super::image::Packed;
use super::metadata;
use crate::cli::Global;
use crate::cli::build::BuildArgs;
use crate::error::{Context, Result};
use crate::image::Tree;
use crate::image::metadata::OCI_CONFIG_NAME;
use crate::image::sif::{Architecture, DataType, Extra, NewObject};
use crate::image::source::Source;
use crate::image::squashfs::{OpenOptions, Squashfs};
use crate::oci::OciImage;
use crate::oci::config::{self, CONFIG_BYTES};
use crate::oci::layers::{FREE_BYTES, Layers, pack_layers};
use crate::oci::semantics::{self, Facts};

/// Writes a SIF of an image into an empty file. `from` is what the user called the image, `docker://debian:13` for
/// example.
///
/// # Errors
/// An image that is damaged or hostile: the layer and the entry are named. A file that cannot be written.
pub fn write(image: &OciImage, from: &str, file: &File, args: &BuildArgs, global: &Global) -> Result<Packed> {
    let bytes = image.config.read_all(CONFIG_BYTES)?;
    let config = config::parse(&bytes)?;
    let architecture = Architecture::from_name(&config.architecture).unwrap_or_else(Architecture::host);
    let mut making = Making::start(file, args)?;
    let (agent, name) = agent_and_name(from);
    let mut labels = metadata::labels(architecture, making.time);
    for (key, value) in [("bootstrap", agent), ("from", name)] {
        labels.push((format!("org.label-schema.usage.singularity.deffile.{key}"), value.to_owned()));
    }
    let definition = format!("bootstrap: {agent}\nfrom: {name}\n\n");
    let facts = Facts { definition: &definition, labels: &labels, time: making.time };
    let additions = semantics::additions(&config, &facts)?;
    let layers = Layers { blobs: &image.layers, additions: &additions, free_bytes: FREE_BYTES };
    let (offset, length) = making.pack(architecture, global, |file, offset, options, watch| {
        pack_layers(&layers, file, offset, options, watch)
    })?;
    let written = file.try_clone().tried(|| "cannot use the file of the image".into())?;
    let partition = Source::new(Arc::new(written), offset, length);
    let tree = Tree::Squashfs(Squashfs::open(partition, OpenOptions::default())?);
    metadata::add(&mut making.sif, &tree, architecture, making.time)?;
    let object = NewObject::new(DataType::GENERIC_JSON, OCI_CONFIG_NAME, Extra::None);
    making.sif.add_bytes(object, &bytes)?;
    making.finish()
}

/// What a definition would say: `docker` and `debian:13` for `docker://debian:13`.
fn agent_and_name(from: &str) -> (&str, &str) {
    let (agent, name) = from.split_once(':').unwrap_or(("docker", from));
    let name = name.strip_prefix("//").unwrap_or(name);
    // A line ends a header's value.
    (agent, name.lines().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_definitions() {
        assert_eq!(agent_and_name("docker://debian:13"), ("docker", "debian:13"));
        assert_eq!(agent_and_name("oci:dir:tag"), ("oci", "dir:tag"));
        assert_eq!(agent_and_name("oci-archive:/a.tar"), ("oci-archive", "/a.tar"));
    }
}
