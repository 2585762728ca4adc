//! From a definition to an image or a sandbox.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::image::{self, Content, Packed};
use super::output::{NewFile, parent};
use super::show::Show;
use super::{OF_CONTAINERS, check, metadata, sandbox};
use crate::build::definition::SECTIONS;
use crate::build::plan::BuildPlan;
use crate::build::run::{Build, BuildOptions, Built, Event, carry_out};
use crate::build::workdir;
use crate::cli::Global;
use crate::cli::build::BuildArgs;
use crate::commands::obtain::fetch::Wanted;
use crate::commands::{obtain, printed, warn};
use crate::config::{self, Config};
use crate::error::{Context, Error, Result};
use crate::host::Host;
use crate::image::layered::Layered;
use crate::image::sif::Architecture;
use crate::image::source::Source;
use crate::image::tree::{Directory, Tree};
use crate::launch::step;
use crate::oci::reference::Reference;
use crate::plan::asked::switch;
use crate::plan::building::{self, BuildFlags};
use crate::plan::{IdMap, Root};
use crate::sys::signals::catch_stop;

/// Builds what a definition says.
pub fn build(args: &BuildArgs, path: &Path, host: &Host, global: &Global) -> Result<()> {
    let started = Instant::now();
    let (definition, plan) = check::read_definition(path, args, global)?;
    let config = Config::load(&config::files(|name| host.variable(name)))?;
    let options = options(args, host)?;
    let target = Target::open(args)?;
    catch_stop();
    let show = Show::new(global, args.json)?;
    let tell = |event: Event<'_>| show.event(&event);
    let wanted = Wanted { flags: &args.fetch, platform: &args.platform, disable_cache: args.disable_cache };
    let fetch = |named: &Reference| crate::image::open(&obtain::fetched(named, &wanted, global)?.path);
    let build = Build {
        plan: &plan,
        text: &definition.text,
        options: &options,
        host,
        config: &config,
        tell: &tell,
        fetch: &fetch,
    };
    let built = carry_out(&build)?;
    let steps = built.steps.clone();
    let packing = Instant::now();
    let packed = target.fill(args, &built, (global, &show));
    let kept = built.finish(args.no_cleanup && packed.is_err());
    let packed = match (packed, kept) {
        (Ok(packed), Ok(_)) => packed,
        (Ok(packed), Err(error)) => {
            warn(global, &error.to_string());
            packed
        }
        (Err(error), Ok(Some(path))) => {
            return Err(error.hint(format!("what was built is kept in {path:?}")));
        }
        (Err(error), _) => return Err(error),
    };
    let target = args.target.display().to_string();
    let Some(packed) = packed else {
        show.changed(&target, started.elapsed());
        return show.told(&target);
    };
    for line in packed.warnings.lines() {
        warn(global, line);
    }
    show.end(&target, &steps, (&packed, packing.elapsed()), started.elapsed());
    show.told(&target)
}

/// What flags say of the build.
fn options(args: &BuildArgs, host: &Host) -> Result<BuildOptions> {
    let time = image::time_of_build(args.reproducible)?.unwrap_or_else(image::now);
    let given = args.other.given.iter().map(|(name, _)| *name);
    if args.update && !args.target.is_dir() {
        return Err(Error::usage(format!("cannot update {:?}: it is not a directory", args.target))
            .hint("--update changes a sandbox, which skiff build --sandbox makes"));
    }
    let absolute = |path: &PathBuf| std::path::absolute(path).tried(|| format!("cannot use {path:?}"));
    let sections = (!args.section.is_empty()).then(|| args.section.clone());
    let known = |name: &str| matches!(name, "all" | "none") || SECTIONS.iter().any(|kind| kind.name == name);
    check_sections(&args.section, known, args.origin("--section"))?;
    // As they are shown.
    let bare: Vec<String> = args.no_cache_from.iter().map(|name| bare_name(name)).collect();
    let made = |name: &str| name == "bootstrap" || SECTIONS.iter().any(|kind| kind.name == name);
    check_sections(&bare, made, "--no-cache-from")?;
    Ok(BuildOptions {
        flags: BuildFlags {
            bind: args.bind.clone(),
            mount: args.mount.clone(),
            writable_tmpfs: args.writable_tmpfs,
            other: given.filter(|name| OF_CONTAINERS.contains(name)).collect(),
        },
        sections,
        no_test: args.notest,
        ignore_subuid: args.ignore_subuid,
        disable_cache: switch(host, args.disable_cache, "--disable-cache", &["DISABLE_CACHE"]).is_some(),
        no_cache_from: args.no_cache_from.clone(),
        force: args.force,
        tmpdir: args.tmpdir.clone().filter(|path| !path.as_os_str().is_empty()),
        no_cleanup: args.no_cleanup,
        update: args.update.then(|| absolute(&args.target)).transpose()?,
        labels: metadata::labels(Architecture::host(), time),
    })
}

/// A section's name without what stands before it, in small letters.
fn bare_name(name: &str) -> String {
    name.trim_start_matches('%').to_lowercase()
}

/// Refuses names of sections that there are none of.
fn check_sections(names: &[String], known: impl Fn(&str) -> bool, flag: &str) -> Result<()> {
    match names.iter().find(|name| !known(name)) {
        None => Ok(()),
        Some(name) => Err(Error::usage(format!(
            "cannot take the section {name:?} ({flag}): there is none of that name"
        ))
        .hint("sections are named as in definitions, without %: setup, post, files, test, ...")),
    }
}

/// Where the result goes.
enum Target {
    Image(NewFile, File),
    Sandbox,
    /// The sandbox that was changed.
    Changed,
}

impl Target {
    /// Finds out at once what cannot be made.
    fn open(args: &BuildArgs) -> Result<Self> {
        if args.update {
            return Ok(Self::Changed);
        }
        if !args.sandbox {
            let (output, file) = NewFile::create(&args.target, args.force)?;
            return Ok(Self::Image(output, file));
        }
        let mut entries = fs::read_dir(&args.target).into_iter().flatten();
        if args.target.symlink_metadata().is_ok() && !args.target.is_dir() {
            return Err(Error::usage(format!(
                "cannot make sandbox {:?}: it is not a directory",
                args.target
            )));
        }
        if entries.next().is_some() && !args.force {
            return Err(Error::usage(format!("{:?} exists", args.target))
                .hint("--force replaces it, --update changes it"));
        }
        let parent = parent(&args.target);
        fs::metadata(parent).tried(|| format!("cannot use directory {parent:?}"))?;
        Ok(Self::Sandbox)
    }

    /// Packs what was built; none where there is nothing to pack.
    fn fill(
        self,
        args: &BuildArgs,
        built: &Built,
        (global, show): (&Global, &Show<'_>),
    ) -> Result<Option<Packed>> {
        match self {
            Self::Changed => Ok(None),
            Self::Image(output, file) => {
                show.packing();
                let packed = pack(args, built, &file, global).map_err(|error| output.explain(error))?;
                output.finish(&file)?;
                Ok(Some(packed))
            }
            Self::Sandbox => {
                show.packing();
                let path = built.directory("packed")?.join("image.sif");
                let tried = || format!("cannot write {path:?}");
                let file =
                    File::options().read(true).write(true).create_new(true).open(&path).tried(tried)?;
                let packed = pack(args, built, &file, global)?;
                let image = crate::image::open(&path)?;
                let partition =
                    image.partition.ok_or_else(|| Error::image("the image has no root file system"))?;
                sandbox::unpack_into(args, partition, OsStr::new(&args.target), global)?;
                Ok(Some(packed))
            }
        }
    }
}

/// Packs base and layers, in the user namespace that owns the layers.
fn pack(args: &BuildArgs, built: &Built, file: &File, global: &Global) -> Result<Packed> {
    let directories = built.directories();
    let base = match (&built.base.root, &built.base.file) {
        (Root::Image { offset, length, .. }, Some(file)) => {
            Some(Source::new(Arc::clone(file), *offset, *length))
        }
        _ => None,
    };
    let bytes = step::beside(&built.ids, &[], |_| {
        let (lowest, layers) = match (&base, directories.split_first()) {
            (None, Some((lowest, layers))) => (Tree::Directory(Directory::open(lowest)?), layers),
            _ => (built.base.tree()?, directories.as_slice()),
        };
        let layers = layers.iter().rev().cloned().collect();
        let tree = Tree::Layered(Layered::new(lowest, layers));
        let content = Content::Layers { base, directories: &directories };
        // Not the target's: the same definition gives the same bytes, whatever the image is called.
        let name = args
            .source
            .as_deref()
            .and_then(|source| Path::new(source).file_stem())
            .map(|name| name.to_string_lossy());
        let packed = image::write(&content, (&tree, name.as_deref()), file, args, global)?;
        serde_json::to_vec(&packed).tried(|| "cannot hand the summary on".into())
    })?;
    serde_json::from_slice(&bytes).tried(|| "cannot read the summary of packing".into())
}

/// Prints what would be done, and where.
pub fn dry_run(path: &Path, args: &BuildArgs, host: &Host, global: &Global) -> Result<i32> {
    let (_, plan): (_, BuildPlan) = check::read_definition(path, args, global)?;
    if args.json {
        return check::print(&plan, true);
    }
    let options = options(args, host)?;
    let place = workdir::place(options.tmpdir.as_deref(), host)?;
    let (ids, one_id_because) = building::ids(&building::plain_host(host, options.ignore_subuid));
    let ids = match ids {
        IdMap::Whole => "all ids, as root".to_owned(),
        IdMap::Root { .. } => {
            let because = one_id_because.map_or_else(String::new, |why| format!(" ({why})"));
            format!("the caller's id as root; what needs others is recorded{because}")
        }
        IdMap::Subordinate { .. } => "the caller's id as root, and subordinate ids".to_owned(),
        IdMap::Caller { .. } => "the caller's id".to_owned(),
    };
    let mut text = String::new();
    if args.source.is_some() {
        let what = match (args.update, args.sandbox) {
            (true, _) => "the sandbox, changed in place",
            (false, true) => "a sandbox",
            (false, false) => "an image",
        };
        text.push_str(&format!("target   {} ({what})\n", args.target.display()));
    }
    text.push_str(&format!("work     in {}\nids      {ids}\n\n{plan}", place.display()));
    printed(io::stdout().write_all(text.as_bytes()))
}
