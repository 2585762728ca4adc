//! Apps of an image (SCIF): several programs in one image, each with an environment, a runscript and a test of
//! its own.
//!
//! ```text
//! /scif/apps/NAME/{bin,lib}        programs and libraries
//! /scif/apps/NAME/scif/            runscript, startscript, test, runscript.help, labels.json, env/
//! /scif/data/NAME/{input,output}   data
//! ```
//!
//! The environment of an app is the work of the image's own script (`95-apps.sh`), which asks `*_APPNAME`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::asked::Asked;
use super::target::View;
use super::{Request, TargetKind};
use crate::error::{Error, Result};
use crate::image::metadata::{APPS, app_names};

/// A script of an app.
pub fn script(app: &OsStr, name: &str) -> PathBuf {
    Path::new(APPS).join(app).join("scif").join(name)
}

/// The app that is asked for, which the image must have.
pub fn plan_app<'a>(
    asked: &'a Asked,
    request: &Request<'_>,
    view: &mut View<'_>,
) -> Result<Option<&'a OsStr>> {
    let Some((app, because)) = &asked.app else { return Ok(None) };
    let one_name = Path::new(app).file_name() == Some(app);
    let found =
        one_name && view.resolve(&Path::new(APPS).join(app), true)?.kind == Some(TargetKind::Directory);
    if found {
        return Ok(Some(app));
    }
    let names = app_names(view.image())?;
    let error = Error::usage(format!(
        "cannot use app {app:?} of image {:?} ({}): the image has no such app",
        request.image,
        because.origin()
    ));
    Err(error.hint(match names.is_empty() {
        true => "the image has no apps at all".to_owned(),
        false => format!("its apps are {}", names.join(", ")),
    }))
}
