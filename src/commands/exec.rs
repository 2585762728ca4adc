//! `skiff exec`, `run` and `shell`: command line, image, host, plan; then the plan is printed or done.

use std::convert::Infallible;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use crate::cli::Global;
use crate::cli::run::RunArgs;
use crate::commands::{obtain, printed, warn};
use crate::config::{self, Config};
use crate::error::{Context, Result};
use crate::host::Host;
use crate::image::Image;
use crate::launch;
use crate::plan::explain::explain;
use crate::plan::{self, Action, HostPath, Request, Root, RunPlan};

/// Runs a program in an image; returns only after `--dry-run`, or when the program could not be started.
pub fn run(args: &RunArgs, global: &Global, action: Action) -> Result<i32> {
    let started = Instant::now();
    let host = Host::probe();
    let config = Config::load(&config::files(|name| host.variable(name)))?;
    let image = obtain::image(&args.image)?;
    let opened = started.elapsed();
    let path = std::path::absolute(&image.path).unwrap_or_else(|_| image.path.clone());
    let request = Request {
        action,
        flags: &args.container,
        words: &args.command,
        image: &path,
        root: root_of(&image, &path),
        machine: image.sif.as_ref().and_then(|sif| machine(sif.architecture().name())),
    };
    if args.container.dry_run {
        return print(&plan::decide(&request, &host, &config, &image.tree()?)?, args.container.json);
    }
    // The image's server starts while the plan is decided.
    let server = launch::meet_server(&plan::decide_serving(&request, &host, &config)?, &image.file)?;
    let plan = plan::decide(&request, &host, &config, &image.tree()?)?;
    if global.detail() > 1 {
        let (opened, planned) = (opened.as_micros(), (started.elapsed() - opened).as_micros());
        eprintln!("skiff: image opened after {opened} us, server met and planned in {planned} us");
    }
    for warning in &plan.warnings {
        warn(global, warning);
    }
    let never: Infallible = launch::exec(&plan, server)?;
    match never {}
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

/// Go's name of a processor (which SIF goes by) as `uname -m` has it.
fn machine(architecture: &str) -> Option<&str> {
    Some(match architecture {
        "386" => "i386",
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        "mipsle" => "mipsel",
        "mips64le" => "mips64el",
        "loong64" => "loongarch64",
        "unknown" => return None,
        same => same,
    })
}

fn print(plan: &RunPlan, json: bool) -> Result<i32> {
    let text = if json {
        let mut text = serde_json::to_string_pretty(plan).tried(|| "cannot write the plan as JSON".into())?;
        text.push('\n');
        text
    } else {
        explain(plan)
    };
    printed(io::stdout().write_all(text.as_bytes()))
}
