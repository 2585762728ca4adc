//! The configuration of an image: what to run, with which environment (OCI image specification 1.1, "Image
//! Configuration"; Docker's is the same).

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::error::{Context, Kind, Result};

/// No configuration is longer: labels may hold whole documents.
pub const CONFIG_BYTES: u64 = 16 << 20;

/// An image's configuration, as far as skiff has use for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Config {
    /// For example `amd64`.
    #[serde(default, deserialize_with = "or_default")]
    pub architecture: String,
    /// What containers run.
    #[serde(default, deserialize_with = "or_default")]
    pub config: Run,
    /// Its layers.
    #[serde(default, deserialize_with = "or_default")]
    pub rootfs: Layers,
}

/// What containers run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Run {
    /// `NAME=VALUE`.
    #[serde(default, deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// The program and its first arguments.
    #[serde(default, deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    /// Arguments where the caller gives none.
    #[serde(default, deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    /// What its makers say of it.
    #[serde(default, deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
}

/// The layers that a configuration names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Layers {
    /// The digests of the layers before compression, the oldest first.
    #[serde(default, deserialize_with = "or_default")]
    pub diff_ids: Vec<String>,
}

/// Many writers say `null` for what is not there.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// Reads a configuration.
///
/// # Errors
/// It is none.
pub fn parse(bytes: &[u8]) -> Result<Config> {
    serde_json::from_slice(bytes).context(Kind::Image, || "cannot read the configuration of the image".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_has_to_be_there() {
        for text in ["{}", r#"{"config":null,"rootfs":null,"architecture":null}"#] {
            assert_eq!(parse(text.as_bytes()).unwrap(), Config::default(), "{text}");
        }
        let text =
            r#"{"architecture":"arm64","config":{"Env":["A=1"],"Cmd":["x"],"Entrypoint":null,"User":"u"}}"#;
        let config = parse(text.as_bytes()).unwrap();
        assert_eq!((config.config.env, config.config.cmd), (vec!["A=1".to_owned()], vec!["x".to_owned()]));
        for text in ["", "1", r#"{"config":{"Env":"A=1"}}"#, r#"{"config":{"Cmd":[1]}}"#] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
