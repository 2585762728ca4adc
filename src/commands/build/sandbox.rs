//! A sandbox: an image unpacked into a directory.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::output::NewDirectory;
use super::progress::{self, count};
use crate::cli::Global;
use crate::cli::build::BuildArgs;
use crate::commands::obtain::fetch::Wanted;
use crate::commands::{amount, obtain, say, warn};
use crate::error::{Error, Kind, Result};
use crate::image::DAMAGED;
use crate::image::source::Source;
use crate::image::squashfs::{OpenOptions, Squashfs};
use crate::image::unpack::{UnpackOptions, UnpackProgress, UnpackSummary, unpack};
use crate::pack::limits;
use crate::sys::signals::{STOP, catch_stop};

/// Unpacks an image into the target.
pub fn build(args: &BuildArgs, source: &OsStr, global: &Global) -> Result<()> {
    let started = Instant::now();
    let wanted = Wanted { flags: &args.fetch, platform: &args.platform, disable_cache: args.disable_cache };
    let image = obtain::image(Path::new(source), &wanted, global)?;
    let Some(partition) = image.partition else {
        return Err(Error::usage(format!("cannot unpack {:?}: it is a directory already", source))
            .hint("to copy it: cp -a"));
    };
    let summary = unpack_into(args, partition, source, global)?;
    report(args, global, &summary, started);
    Ok(())
}

/// Unpacks a file system into the target, which gets its name when it is complete.
pub fn unpack_into(
    args: &BuildArgs,
    partition: Source,
    source: &OsStr,
    global: &Global,
) -> Result<UnpackSummary> {
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
    warn_of_losses(global, &summary);
    Ok(summary)
}

fn warn_of_losses(global: &Global, summary: &UnpackSummary) {
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
}

/// Says what was unpacked.
fn report(args: &BuildArgs, global: &Global, summary: &UnpackSummary, started: Instant) {
    let (bytes, entries) = (amount(summary.bytes), count(summary.entries));
    let seconds = started.elapsed().as_secs_f64();
    say(global, &format!("{}: {bytes} in {entries} files, {seconds:.1} s", args.target.display()));
}

/// An error about the image, with its name.
fn about(error: Error, image: &OsStr) -> Error {
    if error.kind != Kind::Image {
        return error;
    }
    let hint = error.hint.clone().unwrap_or_else(|| DAMAGED.to_owned());
    Error::image(format!("cannot unpack {image:?}")).because(error).hint(hint)
}
