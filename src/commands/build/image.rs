//! An image file: what is packed into it, and the objects beside that.
//!
//! ```text
//! a directory                     pack_directory    in this process
//! an image, packed anew           pack_layers       the same
//! what a definition has built     pack_layers       in the user namespace that owns the layers
//! an OCI image                    oci::layers       in this process (convert.rs)
//! ```

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::convert;
use super::metadata;
use super::output::{self, NewFile};
use super::progress::{self, count};
use crate::cli::Global;
use crate::cli::build::{BuildArgs, Method};
use crate::commands::obtain::copy;
use crate::commands::obtain::fetch::{Session, Wanted};
use crate::commands::{amount, say, warn};
use crate::error::{Context, Error, Kind, Result};
use crate::host::Host;
use crate::image;
use crate::image::sif::{
    Architecture, DataType, Extra, FileSystem, NewObject, PartitionType, SifOptions, SifWriter,
};
use crate::image::source::Source;
use crate::image::squashfs::{OpenOptions, Squashfs};
use crate::image::tree::{Directory, Tree};
use crate::oci::reference::Reference;
use crate::pack::{self, Compression, CompressionKind, PackOptions, PackSummary, limits};
use crate::pack::{Layers, pack_layers};
use crate::sys::signals::{STOP, catch_stop};

/// What becomes the root file system.
pub enum Content<'a> {
    /// A directory as it is.
    Directory(&'a Path),
    /// What layers over an image show.
    Layers {
        /// The image at the bottom.
        base: Option<Source>,
        /// The layers, the lowest first.
        directories: &'a [PathBuf],
    },
}

/// What was packed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Packed {
    /// Contents that were read, in bytes.
    pub read: u64,
    /// Files and directories.
    pub inodes: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// What did not go in as it was, a line each.
    pub warnings: String,
}

/// Packs a directory, or an image anew.
pub fn build(args: &BuildArgs, source: &OsStr, global: &Global) -> Result<()> {
    let started = Instant::now();
    let path = Path::new(source);
    let (content, tree) = if path.is_dir() {
        ensure_packable(path, &args.target)?;
        (Content::Directory(path), Tree::Directory(Directory::open(path)?))
    } else {
        let image = image::open(path)?;
        (Content::Layers { base: image.partition.clone(), directories: &[] }, image.tree()?)
    };
    let (output, file) = NewFile::create(&args.target, args.force)?;
    catch_stop();
    let written = write(&content, (&tree, None), &file, args, global);
    let packed = written.map_err(|error| output.explain(error))?;
    output.finish(&file)?;
    packed.report(args, global, started);
    Ok(())
}

/// Makes an image of one from elsewhere: as the flags say, or, where they say nothing, as `skiff pull` does.
pub fn fetch(args: &BuildArgs, named: &Reference, host: &Host, global: &Global) -> Result<()> {
    let started = Instant::now();
    // As in `skiff pull`: nothing is there to be taken away while it is fetched.
    drop(NewFile::create(&args.target, args.force)?);
    let wanted = Wanted { flags: &args.fetch, platform: &args.platform, disable_cache: args.disable_cache };
    let session = Session::new(host, &wanted, global)?;
    // One of this machine is converted faster than it is copied out of the cache.
    let parts = match packs_as_usual(args)? && !named.is_near() {
        true => None,
        false => session.parts(named)?,
    };
    let begin = || {
        catch_stop();
        NewFile::create(&args.target, args.force)
    };
    let (output, file, described) = match parts {
        Some(parts) => {
            let (output, file) = begin()?;
            let written = convert::write(&parts, &named.to_string(), &file, args, global);
            let packed = written.map_err(|error| output.explain(error))?;
            packed.warnings.lines().for_each(|line| warn(global, line));
            (output, file, packed.describe())
        }
        None => {
            let mut sif = session.sif(named)?;
            let (output, mut file) = begin()?;
            image::open(&sif.path)?;
            let bytes =
                copy(&mut sif.file, &mut file, &args.target).map_err(|error| output.explain(error))?;
            (output, file, amount(bytes))
        }
    };
    output.finish(&file)?;
    let seconds = started.elapsed().as_secs_f64();
    say(global, &format!("{}: {described}, {seconds:.1} s", args.target.display()));
    Ok(())
}

/// Whether the image is packed as one in the cache is.
fn packs_as_usual(args: &BuildArgs) -> Result<bool> {
    let usual = BuildArgs::plain(PathBuf::from("image"));
    let flags =
        |args: &BuildArgs| (args.compression, args.level, args.block_size, args.all_root, args.reproducible);
    Ok(flags(args) == flags(&usual) && time_of_build(args.reproducible)?.is_none())
}

impl Packed {
    /// Says what was packed, and what did not go in as it was.
    pub fn report(&self, args: &BuildArgs, global: &Global, started: Instant) {
        for line in self.warnings.lines() {
            warn(global, line);
        }
        let seconds = started.elapsed().as_secs_f64();
        say(global, &format!("{}: {}, {seconds:.1} s", args.target.display(), self.describe()));
    }

    /// Its size and what of, for people.
    pub fn describe(&self) -> String {
        let percent = self.bytes as f64 * 100.0 / self.read.max(1) as f64;
        let (bytes, read) = (amount(self.bytes), amount(self.read));
        format!("{bytes}, {percent:.0} % of {read}; {} files", count(self.inodes))
    }
}

/// Writes a SIF with `content`, whose files `tree` shows, into `file`. With `listed_as`, a name for the image, it has
/// a list of the software in it.
pub fn write(
    content: &Content<'_>,
    (tree, listed_as): (&Tree, Option<&str>),
    file: &File,
    args: &BuildArgs,
    global: &Global,
) -> Result<Packed> {
    let mut making = Making::start(file, args)?;
    let architecture = architecture(tree);
    metadata::add(&mut making.sif, tree, architecture, making.time)?;
    let mut notes = Vec::new();
    if let Some(name) = listed_as {
        notes = metadata::add_sbom(&mut making.sif, tree, name, making.time)?;
    }
    making.pack(architecture, global, |file, offset, options, watch| match content {
        Content::Directory(path) => pack::pack_directory(path, file, offset, options, watch),
        Content::Layers { base, directories } => {
            let open = |source: &Source| Squashfs::open(source.clone(), OpenOptions::default());
            let base = base.as_ref().map(open).transpose()?;
            let layers = Layers { base: base.as_ref(), directories };
            pack_layers(&layers, file, offset, options, watch)
        }
    })?;
    let mut packed = making.finish()?;
    let notes = notes.iter().map(|note| format!("the list of software is not complete: {note}\n"));
    packed.warnings = notes.chain([packed.warnings]).collect();
    Ok(packed)
}

/// A SIF in the making.
pub struct Making {
    /// The file, for objects before and after the root file system.
    pub sif: SifWriter,
    /// Of all that is in it, in seconds since 1970.
    pub time: i64,
    options: PackOptions,
    packed: Option<(PackSummary, u64)>,
}

impl Making {
    /// Starts one in an empty file.
    pub fn start(file: &File, args: &BuildArgs) -> Result<Self> {
        let time = time_of_build(args.reproducible)?;
        let sif_options = SifOptions { reproducible: args.reproducible, time: time.unwrap_or_else(now) };
        let file = file.try_clone().tried(|| "cannot use the file of the image".into())?;
        let sif = SifWriter::create(file, sif_options)?;
        Ok(Self { sif, time: sif_options.time, options: pack_options(args, time), packed: None })
    }

    /// Packs the root file system; gives where it is in the file, and its length.
    pub fn pack(
        &mut self,
        architecture: Architecture,
        global: &Global,
        pack: impl FnOnce(&File, u64, &PackOptions, (&pack::Progress, &AtomicBool)) -> Result<PackSummary>,
    ) -> Result<(u64, u64)> {
        let extra = Extra::Partition {
            file_system: FileSystem::SQUASHFS,
            partition_type: PartitionType::PRIMARY_SYSTEM,
            architecture,
        };
        let offset = self.sif.begin_stream(NewObject::new(DataType::PARTITION, "", extra), 4096)?;
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
        let watch = (&progress, &STOP);
        let summary =
            progress::during(global, &show, || pack(self.sif.file(), offset, &self.options, watch))?;
        self.sif.end_stream(summary.bytes)?;
        let bytes = summary.bytes;
        self.packed = Some((summary, progress.bytes_read.load(Ordering::Relaxed)));
        Ok((offset, bytes))
    }

    /// Completes it.
    pub fn finish(self) -> Result<Packed> {
        let Some((summary, read)) = self.packed else {
            return Err(Error::new(Kind::Internal, "an image without a root file system"));
        };
        let file = self.sif.finish(summary.content_digest)?;
        Ok(Packed {
            read,
            inodes: summary.inodes,
            bytes: file.metadata().map_or(summary.bytes, |metadata| metadata.len()),
            warnings: summary.warnings.to_string(),
        })
    }
}

/// Seconds since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
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
pub fn time_of_build(reproducible: bool) -> Result<Option<i64>> {
    match std::env::var_os("SOURCE_DATE_EPOCH").filter(|value| !value.is_empty()) {
        None => Ok(reproducible.then_some(0)),
        Some(value) => match value.to_str().and_then(|text| text.parse().ok()) {
            Some(seconds) => Ok(Some(seconds)),
            None => Err(Error::usage(format!("SOURCE_DATE_EPOCH is {value:?}"))
                .hint("set it to a number of seconds since 1970, or unset it")),
        },
    }
}

/// Refuses a target inside the tree, which it would become part of.
fn ensure_packable(tree: &Path, target: &Path) -> Result<()> {
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
pub fn architecture(tree: &Tree) -> Architecture {
    // A tree that cannot be read is an error of packing, and says so there.
    let elf = |name: &Path| Architecture::of_elf(&tree.read_start(name, 20).ok()??);
    let usual = ["/bin/sh", "/bin/bash", "/bin/busybox", "/usr/bin/env", "/bin/true", "/usr/bin/python3"];
    if let Some(found) = usual.iter().find_map(|name| elf(Path::new(name))) {
        return found;
    }
    // A tree with a few programs of its own: its first programs and libraries by name.
    for directory in ["/bin", "/usr/bin", "/lib64", "/lib", "/usr/lib64", "/usr/lib", "/"] {
        let Ok(names) = tree.list(Path::new(directory)) else { continue };
        let mut some = names.iter().take(64).map(|name| Path::new(directory).join(name));
        if let Some(found) = some.find_map(|name| elf(&name)) {
            return found;
        }
    }
    Architecture::host()
}
