//! What an image is given to say of itself: the objects beside the root file system.
//!
//! ```text
//! 1  the definition, where the tree has the one that it was built from    /.singularity.d/Singularity
//! 2  inspect-metadata.json: what the tree says, and when, for what and by whom it was packed
//! 3  what software is in it, where it was built from a definition
//! 4  the root file system, which is the tree as it is
//! ```
//!
//! The tree is packed unchanged: scripts that it lacks are not made up, and images without them run.

use crate::build::sbom;
use crate::error::Result;
use crate::image::Tree;
use crate::image::calendar::Moment;
use crate::image::metadata::{self, OBJECT_NAME};
use crate::image::sif::{Architecture, DataType, Extra, NewObject, SifWriter};

const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Adds the objects to a SIF that is being written. `time` is in seconds since 1970; 0 is no time.
pub fn add(sif: &mut SifWriter, tree: &Tree, architecture: Architecture, time: i64) -> Result<()> {
    if let Some(definition) = metadata::definition(tree)? {
        sif.add_bytes(NewObject::new(DataType::DEFINITION, "", Extra::None), &definition)?;
    }
    let mut attributes = metadata::of_tree(tree)?;
    attributes.labels.extend(labels(architecture, time));
    let object = NewObject::new(DataType::GENERIC_JSON, OBJECT_NAME, Extra::None);
    sif.add_bytes(object, metadata::to_json(&attributes)?.as_bytes())?;
    Ok(())
}

/// Adds the list of the software in `tree`, for an image of this name; gives what the list lacks.
pub fn add_sbom(sif: &mut SifWriter, tree: &Tree, name: &str, time: i64) -> Result<Vec<String>> {
    let made = sbom::of_tree(tree, &sbom::About { name: name.to_owned(), created: time });
    sif.add_bytes(NewObject::new(DataType::SBOM, "", Extra::Sbom(sbom::FORMAT)), &made.json)?;
    Ok(made.notes)
}

/// What an image says of its making.
pub fn labels(architecture: Architecture, time: i64) -> Vec<(String, String)> {
    let mut labels = vec![
        ("schema-version", "1.0".to_owned()),
        ("usage.skiff.version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    if architecture != Architecture::UNKNOWN {
        labels.push(("build-arch", architecture.name().to_owned()));
    }
    if time != 0 {
        labels.push(("build-date", build_date(time)));
    }
    labels.into_iter().map(|(name, value)| (format!("org.label-schema.{name}"), value)).collect()
}

/// As Apptainer writes it: `Tuesday_24_November_2026_20:59:6_UTC`.
fn build_date(time: i64) -> String {
    let Moment { year, month, day, hour, minute, second, weekday } = Moment::of(time);
    let (weekday, month) = (WEEKDAYS[weekday as usize], MONTHS[month as usize - 1]);
    format!("{weekday}_{day}_{month}_{year}_{hour}:{minute}:{second}_UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_written_as_apptainer_does() {
        assert_eq!(build_date(1_795_553_946), "Tuesday_24_November_2026_20:59:6_UTC");
        assert_eq!(build_date(951_782_400), "Tuesday_29_February_2000_0:0:0_UTC");
        assert_eq!(build_date(-1), "Wednesday_31_December_1969_23:59:59_UTC");
    }
}
