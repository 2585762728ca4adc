//! What flags are told that skiff does not have, or has no need of.

use super::Because;
use super::asked::switch;
use crate::cli::called;
use crate::cli::other::{Answer, OTHERS, OtherFlags};
use crate::error::{Error, Result};
use crate::host::Host;

/// The warnings; the first one that comes later is the error.
pub fn answer(flags: &OtherFlags, host: &Host) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    if flags.given.is_empty() && !host.has_settings() {
        return Ok(warnings);
    }
    if let Some((variable, _)) = host.setting("CONFIG_FILE") {
        warnings.push(called::no_effect_of_configuration(&variable));
    }
    for other in OTHERS {
        let flag = format!("--{}", other.name);
        let because = match flags.given.contains(&other.name) {
            true => Some(Because::Flag(flag.clone())),
            false => switch(host, false, &flag, other.keys),
        };
        let Some(because) = because else { continue };
        let origin = because.origin();
        match other.answer {
            Answer::Already => {}
            Answer::NoEffect(why) => warnings.push(format!("{origin} has no effect: {why}")),
            Answer::Later(instead) => {
                return Err(Error::usage(format!("{origin} is not there yet")).hint(instead));
            }
        }
    }
    Ok(warnings)
}
