//! `skiff build`: a directory into an image, and back.
//!
//! ```text
//! build a.sif ./tree             metadata, then pack -> SquashFS, straight into its place in an unnamed SIF -> its name
//! build --sandbox ./tree a.sif   unpack -> a directory of a name of its own -> its name
//! build --check a.def            parse -> its plan on standard output
//! ```
//!
//! What is half done never has the target's name, and goes when the work fails or is stopped.

mod check;
mod metadata;
mod output;
mod progress;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::cli::Global;
use crate::cli::build::{BuildArgs, Method};
use crate::cli::other::Answer;
use crate::commands::{amount, obtain, warn};
use crate::error::{Context, Error, Kind, Result};
use crate::image::DAMAGED;
use crate::image::sif::{
    Architecture, DataType, Extra, FileSystem, NewObject, PartitionType, SifOptions, SifWriter,
};
use crate::image::squashfs::{OpenOptions, Squashfs};
use crate::image::unpack::{UnpackOptions, UnpackProgress, UnpackSummary, unpack};
use crate::pack::{self, Compression, CompressionKind, PackOptions, PackSummary, limits};
use crate::sys::signals::{STOP, catch_stop};
use output::{NewDirectory, NewFile};
use progress::count;

/// Runs `skiff build`.
pub fn run(args: &BuildArgs, global: &Global) -> Result<i32> {
    answer(args, global)?;
    let Some(source) = args.source.as_ref().filter(|_| !args.check) else {
        return check::run(args, global);
    };
    check::refuse_definition(source)?;
    let result =
        if args.sandbox { build_sandbox(args, source, global) } else { build_image(args, source, global) };
    match result {
        // Whatever the stop made fail first.
        Err(error) if STOP.load(Ordering::Relaxed) && error.kind != Kind::Interrupted => {
            Err(Error::new(Kind::Interrupted, "stopped").because(error))
        }
        result => result.map(|()| 0),
    }
    .map_err(|error| match error.kind {
        Kind::Interrupted => error.hint("the target is as it was; the same command starts anew"),
        _ => error,
    })
}

/// Answers the flags that skiff does not have, or has no need of.
fn answer(args: &BuildArgs, global: &Global) -> Result<()> {
    for (name, answer) in &args.other.given {
        match answer {
            Answer::Already => {}
            // The reasons are those of packing.
            Answer::NoEffect(_) if args.check => {}
            Answer::NoEffect(why) => warn(global, &format!("--{name} has no effect: {why}")),
            Answer::Later(instead) | Answer::Devices(_, instead) => {
                return Err(Error::usage(format!("--{name} is not there yet")).hint(*instead));
            }
        }
    }
    let filled_in = !args.build_args.is_empty() || !args.build_arg_files.is_empty();
    if filled_in && !args.check {
        warn(global, "--build-arg has no effect: there is no definition file to fill in");
    }
    Ok(())
}

fn build_image(args: &BuildArgs, source: &OsString, global: &Global) -> Result<()> {
    let started = Instant::now();
    let tree = Path::new(source);
    ensure_packable(tree, &args.target)?;
    let time = time_of_build(args.reproducible)?;
    let options = pack_options(args, time);
    let (output, file) = NewFile::create(&args.target, args.force)?;
    catch_stop();
    let written = write_image(tree, file, &options, args.reproducible, time, global);
    let (file, summary, read) = written.map_err(|error| output.explain(error))?;
    output.finish(&file)?;
    for line in summary.warnings.to_string().lines() {
        warn(global, line);
    }
    if !global.silent() {
        let size = file.metadata().map_or(summary.bytes, |metadata| metadata.len());
        eprintln!(
            "{}: {}, {} of {}; {} files, {:.1} s",
            args.target.display(),
            amount(size),
            percent(summary.bytes, read),
            amount(read),
            count(summary.inodes),
            started.elapsed().as_secs_f64()
        );
    }
    Ok(())
}

/// Packs `tree` into a SIF in `file`; gives the file, what was packed, and how many bytes of contents.
fn write_image(
    tree: &Path,
    file: File,
    options: &PackOptions,
    reproducible: bool,
    time: Option<i64>,
    global: &Global,
) -> Result<(File, PackSummary, u64)> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    let sif_options = SifOptions { reproducible, time: time.unwrap_or(now) };
    let mut sif = SifWriter::create(file, sif_options)?;
    let architecture = architecture(tree);
    metadata::add(&mut sif, tree, architecture, sif_options.time)?;
    let extra = Extra::Partition {
        file_system: FileSystem::SQUASHFS,
        partition_type: PartitionType::PRIMARY_SYSTEM,
        architecture,
    };
    let offset = sif.begin_stream(NewObject::new(DataType::PARTITION, "", extra), 4096)?;
    let progress = pack::Progress::default();
    let show = || progress::Shown {
        verb: "packing",
        bytes: progress.bytes_read.load(Ordering::Relaxed),
        files: progress.files_read.load(Ordering::Relaxed),
        share: progress.walk_done.load(Ordering::Relaxed).then(|| {
            let all = progress.bytes_found.load(Ordering::Relaxed).max(1);
            progress.bytes_read.load(Ordering::Relaxed) as f64 / all as f64
        }),
    };
    let summary = progress::during(global, &show, || {
        pack::pack_directory(tree, sif.file(), offset, options, (&progress, &STOP))
    })?;
    sif.end_stream(summary.bytes)?;
    let file = sif.finish(summary.content_digest)?;
    Ok((file, summary, progress.bytes_read.load(Ordering::Relaxed)))
}

fn pack_options(args: &BuildArgs, time: Option<i64>) -> PackOptions {
    let kind = match args.compression {
        Method::Gzip => CompressionKind::Gzip,
        Method::Lzo => CompressionKind::Lzo,
        Method::Xz => CompressionKind::Xz,
        Method::Lz4 => CompressionKind::Lz4,
        Method::Zstd => CompressionKind::Zstd,
    };
    let threads = args.threads.map_or_else(limits::threads, usize::from);
    PackOptions {
        compression: Compression { kind, level: args.level },
        block_bytes: args.block_size,
        threads,
        memory_bytes: args.memory.unwrap_or_else(|| limits::memory_bytes(threads)),
        time,
        one_owner: args.all_root.then_some((0, 0)),
        digest: args.reproducible,
    }
}

/// `SOURCE_DATE_EPOCH`; without it 0 for a reproducible image, else none.
fn time_of_build(reproducible: bool) -> Result<Option<i64>> {
    match std::env::var_os("SOURCE_DATE_EPOCH").filter(|value| !value.is_empty()) {
        None => Ok(reproducible.then_some(0)),
        Some(value) => match value.to_str().and_then(|text| text.parse().ok()) {
            Some(seconds) => Ok(Some(seconds)),
            None => Err(Error::usage(format!("SOURCE_DATE_EPOCH is {value:?}"))
                .hint("set it to a number of seconds since 1970, or unset it")),
        },
    }
}

/// Refuses what is not a directory, and a target inside the tree, which it would become part of.
fn ensure_packable(tree: &Path, target: &Path) -> Result<()> {
    if !tree.is_dir() {
        obtain::refuse_uri(tree)?;
        let missing = |error: Error| match error.errno() {
            Some(libc::ENOENT) => error.hint("name a directory with a root file system"),
            _ => error,
        };
        let status = fs::metadata(tree).tried(|| format!("cannot pack {tree:?}")).map_err(missing)?;
        let what = if status.is_file() { "it is a file" } else { "it is not a directory" };
        return Err(Error::usage(format!("cannot pack {tree:?}: {what}")).hint(
            "skiff packs directories and, with --sandbox, unpacks images; building from definitions is not there yet",
        ));
    }
    let tried = || format!("cannot look at {tree:?}");
    let tree_path = fs::canonicalize(tree).tried(tried)?;
    let parent = output::parent(target);
    let parent_path = fs::canonicalize(parent).tried(|| format!("cannot use directory {parent:?}"))?;
    if parent_path.starts_with(&tree_path) {
        return Err(Error::usage(format!(
            "cannot write {target:?} into {tree:?}, the directory it is made of"
        ))
        .hint("write it elsewhere and move it there afterwards"));
    }
    Ok(())
}

/// What the programs of a tree run on: the first ELF file among those that every tree has. The links of the
/// tree are followed within it.
fn architecture(tree: &Path) -> Architecture {
    let probe = || -> io::Result<Option<Architecture>> {
        let root = File::open(tree)?;
        let elf = |name: &Path| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let file = openat2(&root, name, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
            let mut start = Vec::new();
            File::from(file).take(20).read_to_end(&mut start).ok()?;
            Architecture::of_elf(&start)
        };
        let usual = ["bin/sh", "bin/bash", "bin/busybox", "usr/bin/env", "bin/true", "usr/bin/python3"];
        if let Some(found) = usual.iter().find_map(|name| elf(Path::new(name))) {
            return Ok(Some(found));
        }
        // A tree with a few programs of its own: its first programs and libraries by name.
        for directory in ["bin", "usr/bin", "lib64", "lib", "usr/lib64", "usr/lib", ""] {
            let Ok(entries) = fs::read_dir(tree.join(directory)) else { continue };
            let mut names: Vec<OsString> = entries.flatten().map(|entry| entry.file_name()).collect();
            names.sort();
            let mut some = names.iter().take(64).map(|name| Path::new(directory).join(name));
            if let Some(found) = some.find_map(|name| elf(&name)) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    };
    // A tree that cannot be read is an error of packing, and says so there.
    probe().ok().flatten().unwrap_or_else(Architecture::host)
}

fn build_sandbox(args: &BuildArgs, source: &OsString, global: &Global) -> Result<()> {
    let started = Instant::now();
    let image = obtain::image(Path::new(source))?;
    let Some(partition) = image.partition else {
        return Err(Error::usage(format!("cannot unpack {:?}: it is a directory already", source))
            .hint("to copy it: cp -a"));
    };
    let options = OpenOptions { data_cache_bytes: 8 << 20, meta_cache_bytes: 8 << 20, inode_cache: 4096 };
    let squashfs = Squashfs::open(partition, options).map_err(|error| about(error, source))?;
    let threads = args.threads.map_or_else(limits::threads, usize::from);
    let owners = rustix::process::geteuid().is_root();
    let (output, root) = NewDirectory::create(&args.target, args.force)?;
    catch_stop();
    let progress = UnpackProgress::default();
    let inodes = f64::from(squashfs.superblock().inodes.max(1));
    let show = || {
        let entries = progress.entries.load(Ordering::Relaxed);
        progress::Shown {
            verb: "unpacking",
            bytes: progress.bytes.load(Ordering::Relaxed),
            files: entries,
            share: Some(entries as f64 / inodes),
        }
    };
    let unpacked = progress::during(global, &show, || {
        unpack(&squashfs, root, UnpackOptions { threads, owners }, &progress, &STOP)
    });
    let summary = unpacked.map_err(|error| about(error, source)).map_err(|error| output.explain(error))?;
    output.finish()?;
    report_sandbox(args, global, &summary, started);
    Ok(())
}

fn report_sandbox(args: &BuildArgs, global: &Global, summary: &UnpackSummary, started: Instant) {
    let left_out = [
        (summary.devices_left_out, "device files left out: only root may make them"),
        (
            summary.xattrs_left_out,
            "extended attributes left out (file capabilities are among them): this user or the file system cannot have them",
        ),
        (summary.owners_left_out, "owners not kept: they do not exist in this user namespace"),
    ];
    for (number, text) in left_out {
        if number > 0 {
            warn(global, &format!("{number} {text}"));
        }
    }
    if !global.silent() {
        eprintln!(
            "{}: {} in {} files, {:.1} s",
            args.target.display(),
            amount(summary.bytes),
            count(summary.entries),
            started.elapsed().as_secs_f64()
        );
    }
}

/// An error about the image, with its name.
fn about(error: Error, image: &OsString) -> Error {
    if error.kind != Kind::Image {
        return error;
    }
    let hint = error.hint.clone().unwrap_or_else(|| DAMAGED.to_owned());
    Error::image(format!("cannot unpack {image:?}")).because(error).hint(hint)
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.0} %", part as f64 * 100.0 / whole.max(1) as f64)
}
