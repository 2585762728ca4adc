//! The host and the image as places of libraries ([`crate::elf`]).

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::elf::{Bytes, Opened, Place};
use crate::error::{Context, Result};
use crate::host::Host;
use crate::image::Tree;

/// The host's libraries, as a program that the caller starts there would find them.
pub fn host_place(host: &Host) -> Result<Place<'_>> {
    let first = host.variable("LD_LIBRARY_PATH").map_or(Vec::new(), directories);
    Place::new("the host", first, &host.machine, Box::new(move |path| open_on_host(host, path)))
}

/// The image's libraries. What its scripts put into `LD_LIBRARY_PATH` is not known before they run.
pub fn image_place<'a>(image: &'a Tree, machine: &str) -> Result<Place<'a>> {
    let open = move |path: &Path| {
        // A link that leads nowhere, or in a circle, is no library.
        let Ok(Some(file)) = image.open(path) else { return Ok(None) };
        let (name, size) = (file.path.display().to_string(), file.size);
        let real = file.path.clone();
        let read_at = Box::new(move |offset, length| file.read_at(offset, length));
        Ok(Some(Opened { path: real, bytes: Bytes::new(name, size, read_at) }))
    };
    Place::new("the image", Vec::new(), machine, Box::new(open))
}

/// The absolute directories of a search path.
pub fn directories(list: &std::ffi::OsStr) -> Vec<PathBuf> {
    std::env::split_paths(list).filter(|path| path.is_absolute()).collect()
}

fn open_on_host<'a>(host: &Host, path: &Path) -> Result<Option<Opened<'a>>> {
    // What cannot be opened is passed over by the loader, too. Not blocking: it may be a pipe.
    let opened =
        File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(host.real(path));
    let Ok(file) = opened else { return Ok(None) };
    let tried = || format!("cannot look at {path:?}");
    let status = file.metadata().tried(tried)?;
    if !status.is_file() {
        return Ok(None);
    }
    let real = host.follow(path).tried(tried)?;
    let name = path.display().to_string();
    let read_at = {
        let name = name.clone();
        Box::new(move |offset: u64, length: usize| {
            let mut out = vec![0; length];
            let mut done = 0;
            while done < length {
                let read = file.read_at(&mut out[done..], offset + done as u64);
                match read.tried(|| format!("cannot read {name:?}"))? {
                    0 => break,
                    read => done += read,
                }
            }
            out.truncate(done);
            Ok(out)
        })
    };
    Ok(Some(Opened { path: real, bytes: Bytes::new(name, status.len(), read_at) }))
}
