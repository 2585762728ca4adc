//! `skiff mpi`: the decision of `--mpi`, explained.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use serde_json::json;

use crate::cli::Global;
use crate::cli::mpi::MpiArgs;
use crate::cli::run::ContainerFlags;
use crate::commands::{host_for, json_text, obtain, printed};
use crate::config::{self, Config};
use crate::error::Result;
use crate::plan::Because;
use crate::plan::inject::{Item, LIBRARIES, Place};
use crate::plan::mpi::expect::Fabric;
use crate::plan::mpi::library::Mpi;
use crate::plan::mpi::{self, Asked, Report, What};

/// Exit status when the host's MPI cannot be used.
const REFUSED: i32 = 1;

/// Runs `skiff mpi`.
pub fn run(args: &MpiArgs, global: &Global) -> Result<i32> {
    let host = host_for(global);
    let config = Config::load(&config::files(|name| host.variable(name)))?;
    let image = obtain::plain(&args.image, global)?;
    let (mpi, mpi_glibc) = (args.mpi.clone(), args.mpi_glibc);
    let flags = ContainerFlags { mpi, mpi_glibc, ..ContainerFlags::default() };
    let by_default = || Asked {
        what: What::Any,
        because: Because::Flag("--mpi".to_owned()),
        glibc: mpi::asks_for_glibc(&flags, &host),
    };
    let asked = mpi::asked(&flags, &host).unwrap_or_else(by_default);
    let report = mpi::examine(&asked, args.program.as_deref(), &host, &config, &image.tree()?)
        .map_err(|error| image.named(error))?;
    let warnings = mpi::launcher::warnings(&host, &report.image, report.host.as_ref());
    let text = match args.json {
        true => json_text(&as_json(&report, &warnings), "the report")?,
        false => as_text(&report, &warnings, (asked.what == What::Libfabric, args.program.as_deref())),
    };
    let status = printed(io::stdout().write_all(text.as_bytes()))?;
    Ok(if status == 0 && report.verdict.refusal.is_some() { REFUSED } else { status })
}

fn as_text(report: &Report, warnings: &[String], (libfabric, program): (bool, Option<&Path>)) -> String {
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
    match (&report.program, program) {
        (Some(name), _) => line("program", &format!("needs {name}")),
        (None, Some(_)) if report.program_seen => {
            line("program", "is linked with no MPI; what it loads by itself is not known")
        }
        (None, Some(path)) => {
            line("program", &format!("{path:?} is not there, or a script: what it needs is not known"))
        }
        (None, None) => {}
    }
    if let Some(Fabric { name, lacks }) = &report.fabric {
        let alone = lacks.map_or("the image can use it by itself".to_owned(), |library| {
            format!("the image by itself cannot use it: it has no {library}")
        });
        line("fabric", &format!("{name}; {alone}"));
    }
    let flag = if libfabric { "--mpi=libfabric" } else { "--mpi" };
    match &report.verdict.refusal {
        None if libfabric => line(flag, "works: the image keeps its MPI and gets the host's network"),
        None => line(flag, "works: the host's takes the place of the image's"),
        Some(why) => line(flag, &format!("does not work: {why}")),
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
        "fabric": report.fabric.as_ref().map(|fabric| json!({"name": fabric.name, "image_lacks": fabric.lacks})),
        "brought_in": items.collect::<Vec<_>>(),
        "variables": injection.variables_shown(),
        "left_out": injection.left_out,
        "warnings": warnings,
    })
}
