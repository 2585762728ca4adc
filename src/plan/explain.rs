//! A plan as text, for `--dry-run`: every mount with its reason.
//!
//! ```text
//! image    /home/ada/debian.sif (SquashFS at 32176, 54 MiB), read-only
//! ids      uid 1000, gid 1000, each to itself
//! mounts
//!   /dev                 from /dev                  default: the host's devices
//!   ...
//! ```
//!
//! `--json` is the plan's own serialisation and not made here.

use std::fmt::Write as _;
use std::path::Path;

use super::namespaces::capability_name;
use super::scheduler::Scheduler;
use super::{
    Because, Emulated, IdMap, IdRange, MountKind, Namespaces, Process, Processes, Root, RunPlan, TargetKind,
    Writes,
};

/// The plan as a person reads it.
pub fn explain(plan: &RunPlan) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_plan(&mut out, plan);
    out
}

fn write_plan(out: &mut String, plan: &RunPlan) -> std::fmt::Result {
    match &plan.root {
        Root::Image { path, offset, length } => {
            writeln!(
                out,
                "image    {} ({length} bytes of SquashFS at {offset}), {}",
                path.0.display(),
                written(&plan.writes)
            )?;
        }
        Root::Directory(path) => {
            writeln!(out, "image    {} (a directory), {}", path.0.display(), written(&plan.writes))?;
        }
    }
    for layer in &plan.layers {
        writeln!(out, "         under {}", layer.0.display())?;
    }
    write_ids(out, plan)?;
    match plan.process.emulates {
        Emulated::Nothing => {}
        Emulated::Devices => writeln!(out, "root     devices that it makes are recorded")?,
        Emulated::Root => writeln!(out, "root     emulated: owners, devices and other ids are recorded")?,
    }
    write_own(out, plan)?;
    if let Some(scheduler) = &plan.scheduler {
        write_scheduler(out, scheduler)?;
    }
    writeln!(
        out,
        "program  {}",
        plan.process.argv.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
    )?;
    let places: Vec<String> = plan.process.cwd.iter().map(|place| place.0.display().to_string()).collect();
    writeln!(out, "starts   in {}", places.join(", else "))?;
    writeln!(out, "served   for {}, {} ms longer than used", plan.serve.scope, plan.serve.linger_ms)?;
    if let Some(below) = &plan.serve.unpack {
        writeln!(out, "         unpacked below {}, since FUSE cannot be used here", below.0.display())?;
    }
    let sockets: Vec<String> =
        plan.serve.rendezvous.iter().map(|path| path.0.display().to_string()).collect();
    writeln!(out, "         found through {}", sockets.join(", else "))?;
    write_mounts(out, plan)?;
    if !plan.make.is_empty() {
        writeln!(out, "made on the host, where missing")?;
    }
    for entry in &plan.make {
        writeln!(out, "  {:04o} {:<9} {}", entry.mode, kind_name(entry.kind), entry.path.0.display())?;
    }
    if !plan.mount_points.is_empty() {
        let over: Vec<String> = plan.overlays.iter().map(|path| path.0.display().to_string()).collect();
        writeln!(out, "made for them, over the image's {}", over.join(", "))?;
    }
    for point in &plan.mount_points {
        writeln!(out, "  {:04o} {:<9} {}", point.mode, kind_name(point.kind), point.path.0.display())?;
    }
    if !plan.left_out.is_empty() {
        writeln!(out, "left out")?;
    }
    for left_out in &plan.left_out {
        writeln!(out, "  {}: {} ({})", left_out.what, left_out.why, left_out.because.origin())?;
    }
    writeln!(out, "environment")?;
    for (name, value) in &plan.process.env {
        writeln!(out, "  {}={}", name.to_string_lossy(), quoted(value))?;
    }
    for warning in &plan.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    Ok(())
}

fn write_ids(out: &mut String, plan: &RunPlan) -> std::fmt::Result {
    match &plan.ids {
        IdMap::Caller { uid, gid } => writeln!(out, "ids      uid {uid} and gid {gid}, each to itself"),
        IdMap::Root { uid, gid } => {
            let because = plan.one_id_because.as_deref().unwrap_or("asked for");
            writeln!(out, "ids      uid {uid} and gid {gid} to 0, no others: {because}")
        }
        IdMap::Subordinate { uid, gid, uids, gids, newuidmap, newgidmap } => {
            writeln!(out, "ids      uid {uid} and gid {gid} to 0")?;
            for (what, ranges, program) in [("uids", uids, newuidmap), ("gids", gids, newgidmap)] {
                let ranges: Vec<String> = ranges.iter().map(IdRange::to_string).collect();
                let (ranges, program) = (ranges.join(" and "), program.0.display());
                writeln!(out, "         {what} {ranges} to those from 1 on, by {program}")?;
            }
            Ok(())
        }
        IdMap::Whole => writeln!(out, "ids      all, each to itself"),
    }
}

fn kind_name(kind: TargetKind) -> &'static str {
    if kind == TargetKind::Directory { "directory" } else { "file" }
}

fn written(writes: &Writes) -> String {
    match writes {
        Writes::Nowhere => "read-only".to_owned(),
        Writes::Memory => "written in memory".to_owned(),
        Writes::Directory(path) => format!("written in {}", path.0.join("upper").display()),
        Writes::Sandbox => "written itself".to_owned(),
    }
}

/// What the container has of its own, and what the program may do, where that is not the usual.
fn write_own(out: &mut String, plan: &RunPlan) -> std::fmt::Result {
    let Namespaces { processes, ipc, uts, hostname, network } = &plan.namespaces;
    let processes = match processes {
        Processes::Callers => None,
        Processes::OwnWithInit => Some("processes, with an init".to_owned()),
        Processes::Own => Some("processes, the program is the first".to_owned()),
    };
    let name = hostname.as_ref().map_or("host name".to_owned(), |name| format!("host name {name}"));
    let rest = [(*ipc, "IPC".to_owned()), (*uts, name), (*network, "network".to_owned())];
    for own in processes.into_iter().chain(rest.into_iter().filter_map(|(has, what)| has.then_some(what))) {
        writeln!(out, "own      {own}")?;
    }
    let Process { umask, capabilities, .. } = &plan.process;
    if let Some(umask) = umask {
        writeln!(out, "mask     {umask:04o}")?;
    }
    for (what, numbers) in [("has", &capabilities.add), ("lacks", &capabilities.drop)] {
        let names: Vec<String> = numbers.iter().map(|number| capability_name(*number)).collect();
        if !names.is_empty() {
            writeln!(out, "caps     {what} {}", names.join(", "))?;
        }
    }
    Ok(())
}

fn write_scheduler(out: &mut String, scheduler: &Scheduler) -> std::fmt::Result {
    let seen: Vec<String> =
        scheduler.seen.iter().map(|seen| format!("{} ({})", seen.name, seen.because)).collect();
    let rank = match (scheduler.rank, scheduler.ranks) {
        (Some(rank), Some(ranks)) => format!("; rank {rank} of {ranks}"),
        (Some(rank), None) => format!("; rank {rank}"),
        _ => String::new(),
    };
    writeln!(out, "started  by {}{rank}", seen.join(", "))?;
    if !scheduler.keeps.is_empty() {
        writeln!(out, "         whose variables stay without others: {}", scheduler.keeps.join(", "))?;
    }
    for hint in &scheduler.hints {
        writeln!(out, "         hint: {hint}")?;
    }
    Ok(())
}

fn write_mounts(out: &mut String, plan: &RunPlan) -> std::fmt::Result {
    writeln!(out, "mounts")?;
    let from: Vec<String> = plan.mounts.iter().map(|mount| what(&mount.what, &mount.target.0)).collect();
    let targets: Vec<String> = plan.mounts.iter().map(|mount| mount.target.0.display().to_string()).collect();
    let width = |column: &[String]| column.iter().map(|text| text.chars().count()).max().unwrap_or(0).min(40);
    let (targets_width, from_width) = (width(&targets), width(&from));
    for ((mount, from), target) in plan.mounts.iter().zip(&from).zip(&targets) {
        let because = match &mount.because {
            Because::Default(reason) => format!("default: {reason}"),
            Because::Config => "configuration".to_owned(),
            Because::Flag(text) => text.clone(),
            Because::Variable(name) => format!("variable {name}"),
        };
        writeln!(out, "  {target:<targets_width$}  {from:<from_width$}  {because}")?;
    }
    Ok(())
}

fn what(kind: &MountKind, target: &Path) -> String {
    match kind {
        MountKind::Bind { source, read_only } => {
            let source = if source.0 == target {
                "the host's".to_owned()
            } else {
                format!("from {}", source.0.display())
            };
            if *read_only { format!("{source}, read-only") } else { source }
        }
        MountKind::File { content, .. } => format!("made, {} bytes", content.len()),
        MountKind::Tmpfs { .. } => "empty, in memory".to_owned(),
        MountKind::Kernel { file_system, .. } => format!("a new {file_system}"),
    }
}

/// A word as a shell would take it.
fn quoted(word: &std::ffi::OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "_-./:=,+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    if text.chars().any(char::is_control) {
        return format!("$'{}'", text.escape_debug());
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_as_a_shell_takes_them() {
        for (word, shown) in
            [("a-b", "a-b"), ("", "''"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("a\nb", r"$'a\nb'")]
        {
            assert_eq!(quoted(word.as_ref()), shown);
        }
    }
}
