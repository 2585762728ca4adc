//! `skiff push` and `skiff tag`: an image of this machine into a registry, and a further name for one there.
//!
//! ```text
//! oras://     the SIF file, as it is
//! docker://   a layer of the image's files, in a file without a name; the configuration that came with the image, or
//!             one of its environment, runscript and labels. A directory is packed before, into another such file
//! ```

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Instant;

use crate::cli::Global;
use crate::cli::build::{BuildArgs, Method};
use crate::cli::fetch::{FetchFlags, PlatformFlags};
use crate::cli::push::{PushArgs, TagArgs};
use crate::commands::build::image::{Content, write};
use crate::commands::build::progress::{Shown, during, transfers};
use crate::commands::obtain::fetch::{Session, Wanted};
use crate::commands::{amount, host_for, note, obtain, printed, warn};
use crate::error::{Context, Error, Kind, Result};
use crate::image::calendar::Moment;
use crate::image::sif::Architecture;
use crate::image::squashfs::{FileKind, OpenOptions, Squashfs};
use crate::image::tar::Program;
use crate::image::{Format, Image, Tree, metadata};
use crate::oci::export::{Said, Watch, configuration, write_layer};
use crate::oci::fetch::hex_of;
use crate::oci::push::{self, Annotations, CONFIG_TYPE, Outgoing, SIF_CONFIG, SIF_TYPE, TITLE};
use crate::oci::reference::{self, DEFAULT_TAG, Name, Reference, is_tag};
use crate::oci::transfer::Progress;
use crate::oci::{Blob, Digest};
use crate::pack::limits::threads;
use crate::plan::alone;

/// Where an image has its runscript, and where it has copies of it.
const RUNSCRIPT: &str = "/.singularity.d/runscript";
/// No runscript is longer.
const RUNSCRIPT_BYTES: u64 = 16 << 20;

/// Runs `skiff push`.
pub fn run(args: &PushArgs, global: &Global) -> Result<i32> {
    let started = Instant::now();
    let annotations = annotations(&args.annotations)?;
    let target = target(&args.target)?;
    let (Reference::Docker(name) | Reference::Oras(name)) = &target else {
        return Err(elsewhere(&args.target));
    };
    if name.digest.is_some() {
        return Err(Error::usage(format!(
            "cannot push to {target}: what its digest will be is not yours to say"
        ))
        .hint("name a tag; the digest is printed"));
    }
    let image = obtain::plain(&args.image, global)?;
    let session = session(&args.fetch, global)?;
    let outgoing = match target {
        Reference::Oras(_) => Outgoing { annotations, ..sif(&image)? },
        _ => Outgoing { annotations, ..layered(&image, &session, global)? },
    };
    let registry = session.registry(name)?;
    let (progress, tag) = (Progress::default(), name.tag.as_deref().unwrap_or(DEFAULT_TAG));
    let pushed = transfers(global, &progress, || push::push(&registry, tag, &outgoing, &progress))?;
    let what = match pushed.sent {
        0 => "all of it was there".to_owned(),
        sent => format!("{} sent", amount(sent)),
    };
    note(global, &format!("{target}: {what}, {:.1} s", started.elapsed().as_secs_f64()));
    tell(&target, name, pushed.digest)
}

/// Runs `skiff tag`.
pub fn tag(args: &TagArgs, global: &Global) -> Result<i32> {
    let target = target(&args.image)?;
    let (Reference::Docker(name) | Reference::Oras(name)) = &target else {
        return Err(elsewhere(&args.image));
    };
    if !is_tag(&args.tag) {
        return Err(Error::usage(format!("{:?} is no tag", args.tag))
            .hint("a tag is made of at most 128 letters, digits and '_.-'"));
    }
    let session = session(&args.fetch, global)?;
    let digest = push::tag(&session.registry(name)?, &name.version(), &args.tag)?;
    note(global, &format!("{target} is {} too", args.tag));
    tell(&target, name, digest)
}

/// Prints what an image is found by, for scripts.
fn tell(target: &Reference, name: &Name, digest: Digest) -> Result<i32> {
    let scheme = if matches!(target, Reference::Oras(_)) { "oras" } else { "docker" };
    let named = Name { digest: Some(digest), ..name.clone() };
    printed(io::stdout().write_all(format!("{scheme}://{named}\n").as_bytes()))
}

fn target(text: &str) -> Result<Reference> {
    match reference::parse(text) {
        Some(named) => named,
        None => Err(elsewhere(text)),
    }
}

fn elsewhere(text: &str) -> Error {
    Error::usage(format!("{text:?} is not a place that skiff puts images into"))
        .hint("registries are named oras://HOST/NAME:TAG and docker://HOST/NAME:TAG")
}

fn session<'g>(flags: &FetchFlags, global: &'g Global) -> Result<Session<'g>> {
    let platform = PlatformFlags::default();
    Session::new(&host_for(global), &Wanted { flags, platform: &platform, disable_cache: true }, global)
}

fn annotations(words: &[String]) -> Result<Annotations> {
    let pair = |word: &String| match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Error::usage(format!("cannot use --annotation {word:?}")).hint("it looks like KEY=VALUE")),
    };
    words.iter().map(pair).collect()
}

/// A SIF file as it is.
fn sif(image: &Image) -> Result<Outgoing> {
    let tried = || format!("cannot push {:?}", image.path);
    if image.format != Format::Sif {
        return Err(Error::usage(tried())
            .because("oras:// holds SIF files, and it is none")
            .hint("make one: skiff build a.sif IMAGE"));
    }
    let file = image.file.try_clone().tried(tried)?;
    let size = file.metadata().tried(tried)?.len();
    let mut layer =
        Blob { digest: Digest::from_sum([0; 32]), media_type: SIF_TYPE.to_owned(), size, file, offset: 0 };
    layer.digest = layer.sum().tried(tried)?;
    let title = image.path.file_name().map(|name| name.to_string_lossy().into_owned());
    let of_layer = title.map(|title| (TITLE.to_owned(), title)).into_iter().collect();
    let config = Blob::of_bytes(SIF_CONFIG.0, SIF_CONFIG.1)?;
    Ok(Outgoing { config, layer, of_layer, annotations: Annotations::new() })
}

/// The files of an image as a layer.
fn layered(image: &Image, session: &Session<'_>, global: &Global) -> Result<Outgoing> {
    let Some(partition) = &image.partition else {
        return layered(&packed(image, session, global)?, session, global);
    };
    let squashfs = |options| Squashfs::open(partition.clone(), options).map_err(|error| image.named(error));
    let tree = Tree::Squashfs(squashfs(OpenOptions::default())?);
    let kept = metadata::oci_config(image)?;
    let (mut said, mut programs) = (Said::default(), Vec::new());
    if kept.is_none() {
        said = what_it_says(image, &tree, global)?;
        if let Some(program) = entrypoint(&tree)? {
            said.program = Some(program.path.to_string_lossy().into_owned());
            programs.extend((tree.lookup(&program.path)?.is_none()).then_some(program));
        }
    }
    let file = session.temporary_file()?;
    let watch = Watch::default();
    let shown = || Shown {
        verb: "compressing",
        bytes: watch.bytes.load(std::sync::atomic::Ordering::Relaxed),
        files: 0,
        share: None,
    };
    let files = squashfs(OpenOptions::default())?;
    let made = during(global, &shown, || write_layer(&files, &programs, file, threads(), &watch));
    let layer = made.map_err(|error| session.explain(image.named(error)))?;
    if let Some(first) = layer.sockets.first() {
        warn(
            global,
            &format!("{} sockets are left out, which no layer can hold: {first:?}", layer.sockets.len()),
        );
    }
    let config = configuration(kept.as_deref(), &said, &layer.diff_id)?;
    let config = Blob::of_bytes(CONFIG_TYPE, &config)?;
    Ok(Outgoing { config, layer: layer.blob, of_layer: Annotations::new(), annotations: Annotations::new() })
}

/// A directory as an image, in a file without a name. It is read once, so that it is made fast and not small.
fn packed(directory: &Image, session: &Session<'_>, global: &Global) -> Result<Image> {
    let file = session.temporary_file()?;
    let args = BuildArgs { compression: Method::Lz4, ..BuildArgs::plain(directory.path.clone()) };
    let tree = directory.tree()?;
    let content = Content::Directory(&directory.path);
    let packed =
        write(&content, (&tree, None), &file, &args, global).map_err(|error| session.explain(error))?;
    packed.warnings.lines().for_each(|line| warn(global, line));
    let image = crate::image::open(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())))?;
    if image.partition.is_none() {
        return Err(Error::new(Kind::Internal, format!("{:?} was packed into nothing", directory.path)));
    }
    Ok(Image { path: directory.path.clone(), ..image })
}

/// What an image says of itself, but for its runscript.
fn what_it_says(image: &Image, tree: &Tree, global: &Global) -> Result<Said> {
    let attributes = metadata::read(image).map_err(|error| image.named(error))?;
    let (variables, faults) = alone::variables(&attributes.environment, tree);
    for (path, fault) in faults {
        warn(
            global,
            &format!("what {path:?} sets is left out: {} in line {} needs a shell", fault.what, fault.line),
        );
    }
    // A configuration is text.
    let variables = variables.into_iter().filter_map(|(name, value)| {
        Some(format!("{}={}", name.into_string().ok()?, value.into_string().ok()?))
    });
    let architecture = image.sif.as_ref().map_or_else(Architecture::host, |sif| sif.architecture());
    let architecture =
        if architecture == Architecture::UNKNOWN { Architecture::host() } else { architecture };
    let created = image.sif.as_ref().map_or(0, |sif| sif.header.created);
    Ok(Said {
        architecture: architecture.name().to_owned(),
        variables: variables.collect(),
        program: None,
        labels: attributes.labels,
        created: (created > 0).then(|| rfc3339(created)),
    })
}

/// A copy of the image's runscript that is called after what is in it: who makes an image of the layer again puts the
/// call of the entrypoint in the runscript's place, which would then call itself.
fn entrypoint(tree: &Tree) -> Result<Option<Program>> {
    let directory = Path::new(RUNSCRIPT).parent().unwrap_or(Path::new("/"));
    let real = tree.entry(directory)?.is_some_and(|entry| entry.kind == FileKind::Directory);
    let Some(mut content) = tree.read(Path::new(RUNSCRIPT), RUNSCRIPT_BYTES)?.filter(|_| real) else {
        return Ok(None);
    };
    if !content.starts_with(b"#!") && !content.starts_with(b"\x7fELF") {
        // What a shell runs all the same, the kernel does not.
        content.splice(0..0, *b"#!/bin/sh\n");
    }
    let name = hex_of(&String::from_utf8_lossy(&content));
    let path = directory.join(format!("runscript-{}", &name[..12]));
    Ok(Some(Program { path, content, time: 0 }))
}

/// `2026-11-28T21:59:03Z`.
fn rfc3339(time: i64) -> String {
    let Moment { year, month, day, hour, minute, second, .. } = Moment::of(time);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tree::Directory;

    #[test]
    fn annotations_are_pairs() {
        let words =
            |words: &[&str]| annotations(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            words(&["a=b=c", "d="]).unwrap(),
            [("a", "b=c"), ("d", "")].map(|(k, v)| (k.into(), v.into())).into()
        );
        assert!(words(&["a"]).is_err() && words(&["=a"]).is_err());
    }

    #[test]
    fn a_runscript_is_copied_under_a_name_that_no_other_has() {
        let directory = tempfile::tempdir().unwrap();
        let made = |text: &str| {
            std::fs::create_dir_all(directory.path().join(".singularity.d")).unwrap();
            std::fs::write(directory.path().join(".singularity.d/runscript"), text).unwrap();
            let tree = Tree::Directory(Directory::open(directory.path()).unwrap());
            entrypoint(&tree).unwrap().unwrap()
        };
        let first = made("echo a\n");
        assert_eq!(first.content, b"#!/bin/sh\necho a\n");
        let call = format!("#!/bin/sh\nexec {} \"$@\"\n", first.path.display());
        assert_ne!(made(&call).path, first.path);
        assert_eq!(made("echo a\n"), first);
        let empty = tempfile::tempdir().unwrap();
        let tree = Tree::Directory(Directory::open(empty.path()).unwrap());
        assert_eq!(entrypoint(&tree).unwrap(), None);
    }

    #[test]
    fn what_is_no_registry_is_no_target() {
        for text in ["a.sif", "library://a/b", "https://h/a", "oci:dir"] {
            let args = TagArgs { image: text.into(), tag: "x".into(), fetch: FetchFlags::default() };
            let error = tag(&args, &Global::default()).unwrap_err();
            assert!(error.to_string().contains("not a place"), "{error}");
        }
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
    }
}
