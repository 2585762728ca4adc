//! `skiff sbom`: what software is in an image.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;

use crate::build::sbom::{self, About};
use crate::cli::Global;
use crate::cli::sbom::SbomArgs;
use crate::commands::{obtain, printed, warn};
use crate::error::{Context, Error, Result};
use crate::image::Image;
use crate::image::source::Source;

/// Runs `skiff sbom`.
pub fn run(args: &SbomArgs, global: &Global) -> Result<i32> {
    let image = obtain::plain(&args.image, global)?;
    if let Some(sif) = image.sif.as_ref().filter(|_| !args.fresh) {
        let whole = Source::whole(image.file.clone()).tried(|| format!("cannot read {:?}", image.path))?;
        if let Some(bytes) = sbom::of_sif(sif, &whole)? {
            return printed(io::stdout().write_all(&bytes));
        }
    }
    let about = About { name: name(args), created: created(&image)? };
    let made = sbom::of_tree(&image.tree()?, &about);
    for note in &made.notes {
        warn(global, &format!("the list is not complete: {note}"));
    }
    printed(io::stdout().write_all(&made.json))
}

/// The file's name without its ending.
fn name(args: &SbomArgs) -> String {
    let path = std::path::absolute(&args.image).unwrap_or_else(|_| args.image.clone());
    path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The time of the document: `SOURCE_DATE_EPOCH`, else that of the image, so that the same image has the same document.
fn created(image: &Image) -> Result<i64> {
    if let Some(value) = std::env::var_os("SOURCE_DATE_EPOCH").filter(|value| !value.is_empty()) {
        return value.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| {
            Error::usage(format!("SOURCE_DATE_EPOCH is {value:?}"))
                .hint("set it to a number of seconds since 1970, or unset it")
        });
    }
    match &image.sif {
        Some(sif) => Ok(sif.header.created),
        None => image
            .file
            .metadata()
            .map(|status| status.mtime())
            .tried(|| format!("cannot look at {:?}", image.path)),
    }
}
