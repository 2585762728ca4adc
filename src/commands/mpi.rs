//! `skiff mpi`: the decision of `--mpi`, explained.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde_json::json;

use crate::cli::Global;
use crate::cli::mpi::MpiArgs;
use crate::cli::run::ContainerFlags;
use crate::commands::{json_text, obtain, printed};
use crate::config::{self, Config};
use crate::error::Result;
use crate::host::Host;
use crate::plan::Because;
use crate::plan::inject::{Item, LIBRARIES, Place};
use crate::plan::mpi::library::Mpi;
use crate::plan::mpi::{self, Asked, Report};

/// Exit status when the host's MPI cannot be used.
const REFUSED: i32 = 1;

/// Runs `skiff mpi`.
pub fn run(args: &MpiArgs, global: &Global) -> Result<i32> {
    let host = Host::probe();
    let config = Config::load(&config::files(|name| host.variable(name)))?;
    let image = obtain::plain(&args.image, global)?;
    let flags = ContainerFlags { mpi: args.mpi.clone(), ..ContainerFlags::default() };
    let asked = mpi::asked(&flags, &host).unwrap_or((Asked::Any, Because::Flag("--mpi".to_owned())));
    let report = mpi::examine(&asked, args.program.as_deref(), &host, &config, &image.tree()?)
        .map_err(|error| image.named(error))?;
    let warnings = mpi::launcher::warnings(&host, &report.image, report.host.as_ref());
    let text = match args.json {
        true => json_text(&as_json(&report, &warnings), "the report")?,
        false => as_text(&report, &warnings, asked.0 == Asked::Libfabric),
    };
    let status = printed(io::stdout().write_all(text.as_bytes()))?;
    Ok(if status == 0 && report.verdict.refusal.is_some() { REFUSED } else { status })
}

fn as_text(report: &Report, warnings: &[String], libfabric: bool) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let mut line = |word: &str, text: &str| {
        let _ = writeln!(out, "{}", format!("{word:<10} {text}").trim_end());
    };
    match &report.host {
        Some(mpi) => line("host", &found(mpi)),
        None if libfabric => {}
        None => line("host", "no MPI"),
    }
    for mpi in &report.image {
        line("image", &found(mpi));
    }
    if report.image.is_empty() {
        line("image", "no MPI");
    }
    if let Some(name) = &report.program {
        line("program", &format!("needs {name}"));
    }
    match &report.verdict.refusal {
        None => line("--mpi", "works: the host's takes the place of the image's"),
        Some(why) => line("--mpi", &format!("does not work: {why}")),
    }
    for (word, texts) in [("to do", report.verdict.remedy.as_slice()), ("note", &report.verdict.notes)] {
        texts.iter().for_each(|text| line(word, text));
    }
    warnings.iter().for_each(|text| line("warning", text));
    let injection = &report.injection;
    if !injection.items.is_empty() {
        line("", "");
        line("brought in, from the host", "");
    }
    let targets: Vec<String> = injection.items.iter().map(target).collect();
    let sources: Vec<String> = injection.items.iter().map(|item| item.source.display().to_string()).collect();
    let width = sources.iter().map(String::len).max().unwrap_or(0);
    for (source, target) in sources.iter().zip(&targets) {
        let _ = writeln!(out, "  {source:<width$}  {target}");
    }
    for variable in &injection.variables {
        let _ = writeln!(out, "  {}={}", variable.name, String::from_utf8_lossy(&variable.value));
    }
    if !injection.left_out.is_empty() {
        let _ = writeln!(out, "left out");
    }
    for left_out in &injection.left_out {
        let _ = writeln!(out, "  {}: {}", left_out.what, left_out.why);
    }
    out
}

fn found(mpi: &Mpi) -> String {
    format!("{mpi}, {} (by {})", mpi.library.real.display(), mpi.found_by)
}

fn target(item: &Item) -> String {
    match &item.place {
        Place::Library(name) => format!("new, {LIBRARIES}/{name}"),
        Place::Over(path) if *path == item.source => "over the image's".to_owned(),
        Place::Over(path) => format!("over {}", path.display()),
        Place::Same => "same path".to_owned(),
        Place::Device => "same path, with --contain".to_owned(),
        Place::At(path) | Place::Written(path) | Place::DeviceAt(path) => path.display().to_string(),
    }
}

fn as_json(report: &Report, warnings: &[String]) -> serde_json::Value {
    let mpi = |mpi: &Mpi| {
        json!({
            "family": mpi.family,
            "product": mpi.product,
            "version": mpi.version,
            "library": mpi.library.real,
            "found_by": mpi.found_by,
        })
    };
    let injection = &report.injection;
    let items = injection.items.iter().map(|item| json!({"source": item.source, "place": target(item)}));
    json!({
        "works": report.verdict.refusal.is_none(),
        "refusal": report.verdict.refusal,
        "remedy": report.verdict.remedy,
        "notes": report.verdict.notes,
        "host": report.host.as_ref().map(mpi),
        "image": report.image.iter().map(mpi).collect::<Vec<_>>(),
        "program": report.program,
        "brought_in": items.collect::<Vec<_>>(),
        "variables": injection.variables_shown(),
        "left_out": injection.left_out,
        "warnings": warnings,
    })
}
