//! `skiff gpu`: the accelerators of this machine; with an image, what a container of it would be given of them.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use serde_json::json;

use crate::cli::Global;
use crate::cli::gpu::GpuArgs;
use crate::commands::{host_for, json_text, obtain, printed, warn};
use crate::config::{self, Config};
use crate::error::Result;
use crate::host::Host;
use crate::host::cdi::{self, Registry};
use crate::host::gpu::{Denied, Gpu, Gpus};
use crate::plan::gpu::{bring_in, flags_for, lists};
use crate::plan::inject::{Injection, Item};

/// Runs `skiff gpu`.
///
/// # Errors
/// The image cannot be read; a device that is asked for is not there.
pub fn run(args: &GpuArgs, global: &Global) -> Result<i32> {
    let host = host_for(global);
    let Some(image) = &args.image else { return show_host(args, &host) };
    let config = Config::load(&config::files(|name| host.variable(name)))?;
    let image = obtain::plain(image, global)?;
    let given = &args.gpu;
    let any = given.nv || given.rocm || given.intel || given.intel_hpu || given.nvccli;
    let any = any || !given.device.is_empty() || !given.containlibs.is_empty();
    let mut flags = given.clone();
    if !any {
        let here = flags_for(&host);
        (flags.nv, flags.rocm, flags.intel, flags.intel_hpu) =
            (here.nv, here.rocm, here.intel, here.intel_hpu);
    }
    let tree = image.tree()?;
    let injection = bring_in(&flags, &host, &config, &tree).map_err(|error| image.named(error))?;
    if args.json {
        return as_json(&of_image(&injection));
    }
    for warning in &injection.warnings {
        warn(global, warning);
    }
    let text = match injection == Injection::default() {
        true => "no accelerator of this machine was found, and none was asked for\n".to_owned(),
        false => table(&injection),
    };
    printed(io::stdout().write_all(text.as_bytes()))
}

/// What is brought, as JSON.
#[derive(Serialize)]
struct Brought<'i> {
    source: &'i Path,
    target: std::path::PathBuf,
    because: &'i str,
}

fn of_image(injection: &Injection) -> serde_json::Value {
    let brought = |item: &Item| {
        json!(Brought { source: &item.source, target: item.target(), because: item.because.origin() })
    };
    let left_out = injection
        .left_out
        .iter()
        .map(|out| json!({"what": out.what, "why": out.why, "because": out.because.origin()}));
    json!({
        "brought": injection.items.iter().map(brought).collect::<Vec<_>>(),
        "left_out": left_out.collect::<Vec<_>>(),
        "variables": injection.variables_shown(),
        "kept_variables": injection.keep,
        "warnings": injection.warnings,
    })
}

fn as_json(value: &impl Serialize) -> Result<i32> {
    printed(io::stdout().write_all(json_text(value, "the report")?.as_bytes()))
}

/// Each file with its place and its reason, then what is left out.
fn table(injection: &Injection) -> String {
    let mut out = String::new();
    let rows: Vec<[String; 3]> = injection
        .items
        .iter()
        .map(|item| {
            let target = item.target();
            let from = if target == item.source {
                "the host's".into()
            } else {
                format!("from {}", item.source.display())
            };
            [target.display().to_string(), from, item.because.origin().to_owned()]
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).min(60);
    let widths = [width(0), width(1)];
    // Writing to a string cannot fail.
    let _ = writeln!(out, "brought in: {}", rows.len());
    for [target, from, because] in &rows {
        let _ = writeln!(out, "  {target:<0$}  {from:<1$}  {because}", widths[0], widths[1]);
    }
    if !injection.left_out.is_empty() {
        let _ = writeln!(out, "left out: {}", injection.left_out.len());
    }
    for left_out in &injection.left_out {
        let _ = writeln!(out, "  {}: {}", left_out.what, left_out.why);
    }
    if !injection.variables.is_empty() {
        let _ = writeln!(out, "variables");
    }
    for variable in &injection.variables {
        let _ = writeln!(out, "  {}={}", variable.name, String::from_utf8_lossy(&variable.value));
    }
    if !injection.keep.is_empty() {
        let _ = writeln!(out, "stay with --cleanenv: {}", injection.keep.join(", "));
    }
    out
}

fn show_host(args: &GpuArgs, host: &Host) -> Result<i32> {
    let gpus = Gpus::probe(host);
    let mut directories = args.gpu.cdi_dirs.clone();
    directories.retain(|path| !path.as_os_str().is_empty());
    if directories.is_empty() {
        directories = cdi::DIRECTORIES.map(Into::into).to_vec();
    }
    let registry = Registry::load(host, &directories);
    // A mistake in it is told here, too.
    lists::Lists::load(host)?;
    if args.json {
        let devices = registry
            .list()
            .into_iter()
            .map(|device| json!({"name": device.name, "file": device.file, "conflict": device.conflict}));
        let faults = registry.faults.iter().map(|(file, why)| json!({"file": file, "why": why}));
        return as_json(&json!({
            "accelerators": gpus,
            "cdi": {"devices": devices.collect::<Vec<_>>(), "unusable": faults.collect::<Vec<_>>()},
        }));
    }
    printed(io::stdout().write_all(host_text(&gpus, &registry, host).as_bytes()))
}

fn host_text(gpus: &Gpus, registry: &Registry, host: &Host) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    if gpus.gpus.is_empty() {
        let _ = writeln!(out, "no accelerator of NVIDIA, AMD or Intel is here");
    }
    if let Some(module) = &gpus.nvidia_module {
        let _ = writeln!(out, "NVIDIA driver {module}");
    }
    for gpu in &gpus.gpus {
        let _ = writeln!(out, "{}", line_of(gpu));
    }
    for part in &gpus.parts {
        let capabilities: Vec<String> =
            part.capabilities.iter().map(|path| path.display().to_string()).collect();
        let _ = writeln!(
            out,
            "  part of /dev/nvidia{}: GPU instance {}, compute instance {} ({})",
            part.gpu,
            part.instance,
            part.compute,
            capabilities.join(", ")
        );
    }
    let devices = registry.list();
    if !devices.is_empty() {
        let _ = writeln!(out, "devices for --device");
    }
    for device in devices {
        let conflict = if device.conflict { ", and another file beside it: a conflict" } else { "" };
        let _ = writeln!(out, "  {} ({}{conflict})", device.name, device.file.display());
    }
    for (file, fault) in &registry.faults {
        let _ = writeln!(out, "{} cannot be used: {fault}", file.display());
    }
    if host.look(Path::new(lists::SITE_FILE)).is_ok() {
        let _ = writeln!(out, "the site adds to what flags bring: {}", lists::SITE_FILE);
    }
    out
}

fn line_of(gpu: &Gpu) -> String {
    let vendor = match gpu.vendor {
        crate::host::gpu::Vendor::Nvidia => "NVIDIA",
        crate::host::gpu::Vendor::Amd => "AMD",
        crate::host::gpu::Vendor::Intel => "Intel",
        crate::host::gpu::Vendor::Gaudi => "Gaudi",
    };
    let mut line = format!("{} ({})", gpu.device.display(), gpu.model.as_deref().unwrap_or(vendor));
    if let Some(uuid) = &gpu.uuid {
        line.push_str(&format!(" {uuid}"));
    }
    match gpu.denied {
        None => {}
        Some(Denied::Missing) => line.push_str(", its device file is missing"),
        Some(Denied::ByCgroup) => line.push_str(", not this job's"),
        Some(Denied::ByMode { group }) => {
            let group = Host::name_of_group(group).unwrap_or_else(|| group.to_string());
            line.push_str(&format!(", for the group {group}, which you are not in"));
        }
    }
    line
}
