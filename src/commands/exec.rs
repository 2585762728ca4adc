//! `skiff exec`, `run`, `shell` and `test`: command line, image, host, plan; then the plan is printed or done.

use std::convert::Infallible;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::cli::Global;
use crate::cli::fetch::PlatformFlags;
use crate::cli::run::RunArgs;
use crate::commands::obtain::fetch::Wanted;
use crate::commands::{amount, host_for, json_text, note, obtain, printed, warn};
use crate::config::{self, Config};
use crate::emulate;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::image::Image;
use crate::launch::{self, Server};
use crate::plan::explain::explain;
use crate::plan::{self, Action, HostPath, Request, Root, RunPlan};
use crate::remedies;
use crate::serve::Unpacked;

/// Runs a program in an image; returns only after `--dry-run`, or when the program could not be started.
pub fn run(args: &RunArgs, global: &Global, action: Action, shell: Option<&Path>) -> Result<i32> {
    let started = Instant::now();
    let host = host_for(global);
    let config = Config::load(&config::files(|name| host.variable(name)))?;
    let platform = PlatformFlags::default();
    let wanted = Wanted { flags: &args.fetch, platform: &platform, disable_cache: args.disable_cache };
    let image = obtain::image(&args.words.image, &wanted, global)?;
    let named = |error| image.named(error);
    let opened = started.elapsed();
    let path = std::path::absolute(&image.path).unwrap_or_else(|_| image.path.clone());
    let request = Request {
        action,
        flags: &args.container,
        words: &args.words.command,
        shell,
        image: &path,
        root: root_of(&image, &path),
        machine: image.sif.as_ref().and_then(|sif| plan::process::machine_of(sif.architecture().name())),
    };
    if action == Action::Test && !plan::has_test(&request, &host, &image.tree()?) {
        note(global, &format!("image {:?} has no test", args.words.image));
        return Ok(0);
    }
    if args.container.dry_run {
        return print(
            &plan::decide(&request, &host, &config, &image.tree()?).map_err(named)?,
            args.container.json,
        );
    }
    // The image's server starts while the plan is decided.
    let mut server = launch::meet_server(&plan::decide_serving(&request, &host, &config)?, &image.file)?;
    let met = started.elapsed();
    let plan = plan::decide(&request, &host, &config, &image.tree()?).map_err(named)?;
    if global.detail() > 0 {
        emulate::TELLS.store(true, Ordering::Relaxed);
        let origin = server.as_ref().map_or("a directory needs none", Server::origin);
        narrate(&plan, origin, (global.detail() > 1).then(|| [opened, met, started.elapsed()]));
    }
    for warning in &plan.warnings {
        warn(global, warning);
    }
    if let Some(server) = &mut server {
        tell_of_unpacking(server, &host, &plan, global)?;
    }
    let never: Infallible = launch::exec(&plan, server)?;
    match never {}
}

/// On a host without FUSE: what is done instead, what it costs, and how to mend it.
fn tell_of_unpacking(server: &mut Server, host: &Host, plan: &RunPlan, global: &Global) -> Result<()> {
    let (true, Some(errno)) = (server.unpacks(), host.no_fuse()) else { return Ok(()) };
    let (why, mend) = match remedies::not_the_fuse_device(&host.root) {
        Some(what) if errno == libc::EINVAL => {
            (format!("cannot use /dev/fuse: {what}"), remedies::no_fuse_mount(errno, &host.root))
        }
        _ => {
            let error = Error::host("cannot open /dev/fuse").because(io::Error::from_raw_os_error(errno));
            (error.to_string(), remedies::no_fuse_device(errno).to_owned())
        }
    };
    let (Root::Image { path, length, .. }, Some(below)) = (&plan.root, &plan.serve.unpack) else {
        return Ok(());
    };
    let started = Instant::now();
    let (image, below) = (path.0.display(), below.0.display());
    let packed = amount(*length);
    warn(
        global,
        &format!("{why}; {image} ({packed}) is unpacked below {below} until its last container ends"),
    );
    if let Some(Unpacked { entries, bytes, .. }) = server.unpacked()? {
        let (bytes, seconds) = (amount(*bytes), started.elapsed().as_secs_f64());
        warn(global, &format!("unpacked {bytes} in {entries} files, {seconds:.1} s; to do without: {mend}"));
    }
    Ok(())
}

/// Says what has been done and what is about to be: the plan, and with times when each step was over.
fn narrate(plan: &RunPlan, origin: &str, times: Option<[Duration; 3]>) {
    let after = |step: usize| match &times {
        Some(times) => format!(" ({} us after the start)", times[step].as_micros()),
        None => String::new(),
    };
    let text = format!(
        "skiff: image opened{}\nskiff: server of the image: {origin}{}\nskiff: planned{}\n{}skiff: starting it\n",
        after(0),
        after(1),
        after(2),
        explain(plan)
    );
    // Nobody is left to tell when standard error cannot be written to.
    let _ = io::stderr().write_all(text.as_bytes());
}

fn root_of(image: &Image, path: &Path) -> Root {
    match &image.partition {
        Some(partition) => Root::Image {
            path: HostPath(path.to_owned()),
            offset: partition.offset(),
            length: partition.length(),
        },
        None => Root::Directory(HostPath(path.to_owned())),
    }
}

fn print(plan: &RunPlan, json: bool) -> Result<i32> {
    let text = if json { json_text(plan, "the plan")? } else { explain(plan) };
    printed(io::stdout().write_all(text.as_bytes()))
}
