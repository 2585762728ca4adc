//! `skiff pull`: an image from elsewhere into a file.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::cli::Global;
use crate::cli::fetch::PlatformFlags;
use crate::cli::pull::PullArgs;
use crate::commands::build::output::NewFile;
use crate::commands::obtain::fetch::Wanted;
use crate::commands::{amount, host_for, obtain, say};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::image;
use crate::oci::reference::Reference;
use crate::sys::signals::catch_stop;

/// Runs `skiff pull`.
pub fn run(args: &PullArgs, global: &Global) -> Result<i32> {
    let started = Instant::now();
    let later = [("--sandbox", args.sandbox), ("--reproducible", args.reproducible)];
    if let Some((flag, _)) = later.iter().find(|(_, given)| *given) {
        return Err(Error::usage(format!("{flag} is not there yet"))
            .hint(format!("build it instead: skiff build {flag} TARGET docker://NAME")));
    }
    let (output, named) = words(args)?;
    let host = host_for(global);
    let target = target(args, output, &named, &host);
    if target.is_dir() {
        let inside = target.join(named.file_name());
        return Err(Error::usage(format!("cannot make image {target:?}: it is a directory"))
            .hint(format!("name a file, such as {inside:?}")));
    }
    // What cannot be made is found out before anything is fetched, which may be stopped at any moment: until it is there,
    // there is nothing to be taken away, where a file needs a name.
    drop(NewFile::create(&target, args.force)?);
    let setting = |name: &str| host.setting(name).map(|(_, value)| value.to_string_lossy().into_owned());
    let platform = PlatformFlags {
        arch: args.platform.arch.clone().or_else(|| setting("PULL_ARCH")),
        arch_variant: args.platform.arch_variant.clone().or_else(|| setting("PULL_ARCH_VARIANT")),
    };
    let wanted = Wanted { flags: &args.fetch, platform: &platform, disable_cache: args.disable_cache };
    let mut sif = obtain::fetched(&named, &wanted, global)?;
    catch_stop();
    let (new, mut file) = NewFile::create(&target, args.force)?;
    let bytes = obtain::copy(&mut sif.file, &mut file, &target).map_err(|error| new.explain(error))?;
    // What a server calls an image may be its page for visitors.
    image::open(&sif.path)
        .map_err(|error| Error { message: format!("{named} is no image that skiff can use"), ..error })?;
    new.finish(&file)?;
    let seconds = started.elapsed().as_secs_f64();
    say(global, &format!("{}: {}, {seconds:.1} s", target.display(), amount(bytes)));
    Ok(0)
}

/// Output and image; the image is the last word.
fn words(args: &PullArgs) -> Result<(Option<&Path>, Reference)> {
    let (output, text) = match args.words.as_slice() {
        [image] => (None, image),
        [output, image] => (Some(output.as_path()), image),
        _ => return Err(Error::usage("pull takes a file to make and an image")),
    };
    match obtain::elsewhere(text)? {
        Some(named) => Ok((output, named)),
        None => Err(Error::usage(format!("cannot pull {text:?}: it names no image elsewhere"))
            .hint(format!("an image of Docker Hub is named docker://{}", text.display()))),
    }
}

fn target(args: &PullArgs, output: Option<&Path>, named: &Reference, host: &Host) -> PathBuf {
    let given = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
    let name = output.map(Path::to_owned).or_else(|| given(&args.name));
    let name = name.unwrap_or_else(|| named.file_name().into());
    let setting = || host.setting("PULLDIR").or_else(|| host.setting("PULLFOLDER"));
    match given(&args.dir).or_else(|| setting().map(|(_, value)| PathBuf::from(value))) {
        Some(directory) => directory.join(name),
        None => name,
    }
}
