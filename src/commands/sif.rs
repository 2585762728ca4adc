//! `skiff sif`: what is in a SIF file.
//!
//! The text is that of Apptainer's `sif` commands, byte for byte, since scripts cut columns out of it;
//! programs had better ask for `--json`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::cli::sif::{DumpArgs, SifAction, SifArgs};
use crate::commands::printed;
use crate::error::{Context, Error, Kind, Result};
use crate::image::calendar::Moment;
use crate::image::explain_no_file;
use crate::image::sif::{self, Architecture, Descriptor, Extra, Header, Link, Sif};
use crate::image::source::Source;

/// Go's zero time, 1 January of the year 1: no time at all.
const NO_TIME: i64 = -62_135_596_800;

/// Runs `skiff sif`.
pub fn run(args: &SifArgs) -> Result<i32> {
    let text = match &args.action {
        SifAction::List(args) if args.json => {
            let sif = open(&args.file)?.0;
            pretty(&Value::Array(sif.descriptors.iter().map(object_json).collect()))
        }
        SifAction::List(args) => list(&open(&args.file)?.0),
        SifAction::Header(args) if args.json => pretty(&header_json(&open(&args.file)?.0.header)),
        SifAction::Header(args) => header(&open(&args.file)?.0.header),
        SifAction::Info(args) if args.json => pretty(&object_json(open(&args.file)?.0.object(args.id)?)),
        SifAction::Info(args) => info(open(&args.file)?.0.object(args.id)?),
        SifAction::Dump(args) => return dump(args),
    };
    printed(io::stdout().write_all(text.as_bytes()))
}

fn open(path: &Path) -> Result<(Sif, File)> {
    // Not blocking: a pipe without a writer would keep us here.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = Arc::new(file.tried(|| format!("cannot open SIF file {path:?}")).map_err(explain_no_file)?);
    let source = Source::whole(file.clone()).tried(|| format!("cannot look at {path:?}"))?;
    let sif = sif::read(&source).map_err(|mut error| {
        error.message = format!("{path:?}: {}", error.message);
        error
    })?;
    drop(source);
    let file = Arc::into_inner(file).ok_or_else(|| Error::new(Kind::Internal, "SIF file is still in use"))?;
    Ok((sif, file))
}

fn list(sif: &Sif) -> String {
    let rule = "-".repeat(78);
    let mut text = format!(
        "{rule}\n{:<5}|{:<8}|{:<8}|{:<26}|TYPE\n{rule}\n",
        "ID", "GROUP", "LINK", "SIF POSITION (start-end)"
    );
    for object in &sif.descriptors {
        let group = object.group.map_or("NONE".to_owned(), |n| n.to_string());
        let link = match object.link {
            None => "NONE".to_owned(),
            Some(Link::Object(id)) => id.to_string(),
            Some(Link::Group(group)) => format!("{group:<3} (G)"),
        };
        let position = format!("{}-{}", object.offset, object.offset + object.size);
        let kind = kind(object);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:<5}|{group:<8}|{link:<8}|{position:<26}|{kind}", object.id);
    }
    text
}

fn kind(object: &Descriptor) -> String {
    let name = object.data_type.name();
    match &object.extra {
        Extra::Partition { file_system, partition_type, architecture } => {
            format!("{name} ({}/{}/{})", file_system.name(), partition_type.name(), architecture.name())
        }
        Extra::Signature { hash, .. } => format!("{name} ({})", hash.name()),
        Extra::CryptoMessage { format, message } => format!("{name} ({}/{})", format.name(), message.name()),
        Extra::Sbom(format) => format!("{name} ({})", format.name()),
        Extra::None | Extra::Digest(_) => name.to_owned(),
    }
}

fn header(header: &Header) -> String {
    let mut rows = Vec::new();
    let launch = launch_line(header);
    if !launch.is_empty() {
        rows.push(("Launch Script", launch));
    }
    rows.push(("Version", format!("{:02}", header.version)));
    if header.architecture != Architecture::UNKNOWN {
        rows.push(("Primary Architecture", header.architecture.name().to_owned()));
    }
    rows.extend([
        ("ID", header.uuid_text()),
        ("Created At", date(header.created)),
        ("Modified At", date(header.modified)),
        ("Descriptors Free", header.descriptors_free.to_string()),
        ("Descriptors Total", header.descriptors_total.to_string()),
        ("Descriptors Offset", header.descriptors_offset.to_string()),
        ("Descriptors Size", readable(header.descriptors_size)),
        ("Data Offset", header.data_offset.to_string()),
        ("Data Size", readable(header.data_size)),
    ]);
    aligned("", " ", &rows)
}

fn info(object: &Descriptor) -> String {
    let mut rows = vec![
        ("Data Type", object.data_type.name().to_owned()),
        ("ID", object.id.to_string()),
        ("Group ID", object.group.map_or("NONE".to_owned(), |n| n.to_string())),
        (
            "Linked ID",
            match object.link {
                None => "NONE".to_owned(),
                Some(Link::Object(id)) => id.to_string(),
                Some(Link::Group(group)) => format!("{group} (G)"),
            },
        ),
        ("Offset", object.offset.to_string()),
        ("Size", object.size.to_string()),
    ];
    for (label, time) in [("Created At", object.created), ("Modified At", object.modified)] {
        if time != NO_TIME {
            rows.push((label, date(time)));
        }
    }
    if !object.name.is_empty() {
        rows.push(("Name", object.name.clone()));
    }
    match &object.extra {
        Extra::None => {}
        Extra::Partition { file_system, partition_type, architecture } => rows.extend([
            ("Filesystem Type", file_system.name().to_owned()),
            ("Partition Type", partition_type.name().to_owned()),
            ("Architecture", architecture.name().to_owned()),
        ]),
        Extra::Signature { hash, entity } => {
            rows.extend([("Hash Type", hash.name().to_owned()), ("Entity", fingerprint(entity))]);
        }
        Extra::CryptoMessage { format, message } => rows
            .extend([("Format Type", format.name().to_owned()), ("Message Type", message.name().to_owned())]),
        Extra::Sbom(format) => rows.push(("Format", format.name().to_owned())),
        Extra::Digest(digest) => rows.push(("Digest", digest.clone())),
    }
    aligned("  ", "  ", &rows)
}

/// Rows of `label: value`, the values in one column `gap` behind the longest label.
fn aligned(indent: &str, gap: &str, rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(label, _)| label.len() + 1).max().unwrap_or(0);
    let mut text = String::new();
    for (label, value) in rows {
        let label = format!("{label}:");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{indent}{label:<width$}{gap}{value}");
    }
    text
}

fn launch_line(header: &Header) -> String {
    let launch = String::from_utf8_lossy(&header.launch);
    launch.split(['\0', '\n']).next().unwrap_or_default().to_owned()
}

/// The 20 bytes of an OpenPGP fingerprint; empty when there is none.
fn fingerprint(entity: &[u8; 256]) -> String {
    let fingerprint = &entity[..20];
    if fingerprint.iter().all(|byte| *byte == 0) {
        return String::new();
    }
    fingerprint.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Bytes with the largest unit that leaves at least one, rounded.
fn readable(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB", "PiB"] {
        if value < 1024.0 {
            return format!("{value:.0} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.0} EiB")
}

/// Unix seconds as Go prints a time in UTC: `2026-11-23 21:11:03 +0000 UTC`.
fn date(unix_seconds: i64) -> String {
    let Moment { year, month, day, hour, minute, second, .. } = Moment::of(unix_seconds);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} +0000 UTC")
}

fn header_json(header: &Header) -> Value {
    json!({
        "launch_script": launch_line(header),
        "version": header.version,
        "architecture": header.architecture.name(),
        "uuid": header.uuid_text(),
        "created": header.created,
        "modified": header.modified,
        "descriptors_free": header.descriptors_free,
        "descriptors_total": header.descriptors_total,
        "descriptors_offset": header.descriptors_offset,
        "descriptors_size": header.descriptors_size,
        "data_offset": header.data_offset,
        "data_size": header.data_size,
    })
}

fn object_json(object: &Descriptor) -> Value {
    let (linked_id, linked_group) = match object.link {
        None => (None, None),
        Some(Link::Object(id)) => (Some(id), None),
        Some(Link::Group(group)) => (None, Some(group)),
    };
    let mut value = json!({
        "id": object.id,
        "type": object.data_type.name(),
        "type_code": object.data_type.0,
        "group": object.group,
        "linked_id": linked_id,
        "linked_group": linked_group,
        "offset": object.offset,
        "size": object.size,
        "created": object.created,
        "modified": object.modified,
        "name": object.name,
    });
    let extra = match &object.extra {
        Extra::None => json!({}),
        Extra::Partition { file_system, partition_type, architecture } => json!({
            "file_system": file_system.name(),
            "partition_type": partition_type.name(),
            "architecture": architecture.name(),
        }),
        Extra::Signature { hash, entity } => json!({ "hash": hash.name(), "entity": fingerprint(entity) }),
        Extra::CryptoMessage { format, message } => {
            json!({ "format": format.name(), "message": message.name() })
        }
        Extra::Sbom(format) => json!({ "format": format.name() }),
        Extra::Digest(digest) => json!({ "digest": digest }),
    };
    if let (Value::Object(all), Value::Object(extra)) = (&mut value, extra) {
        all.extend(extra);
    }
    value
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Copies an object to standard output. Binary data is kept off a terminal, whose state it would spoil.
fn dump(args: &DumpArgs) -> Result<i32> {
    let (sif, mut file) = open(&args.file)?;
    let object = sif.object(args.id)?;
    let failed = || format!("cannot read object {} of {:?}", args.id, args.file);
    file.seek(SeekFrom::Start(object.offset)).tried(failed)?;
    if io::stdout().is_terminal() {
        let mut start = Vec::new();
        (&file).take(object.size.min(4096)).read_to_end(&mut start).tried(failed)?;
        if start.iter().any(|byte| matches!(byte, 0..=8 | 14..=26 | 28..=31 | 127)) {
            let message = format!("object {} ({}) is binary data, not for a terminal", args.id, kind(object));
            return Err(Error::usage(message).hint("send it to a file: skiff sif dump ... >FILE"));
        }
        file.seek(SeekFrom::Start(object.offset)).tried(failed)?;
    }
    // Past std's line buffer, so that the kernel can copy from file to file.
    let stdout = io::stdout().as_fd().try_clone_to_owned();
    let mut output = File::from(stdout.tried(|| "cannot use standard output".to_owned())?);
    match io::copy(&mut file.take(object.size), &mut output) {
        Ok(copied) if copied < object.size => {
            let message = format!("{:?} was truncated while object {} was read", args.file, args.id);
            Err(Error::image(message))
        }
        result => printed(result.map(drop)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 +0000 UTC"),
            (951_827_696, "2000-02-29 12:34:56 +0000 UTC"),
            (1_795_468_263, "2026-11-23 21:11:03 +0000 UTC"),
            (-1, "1969-12-31 23:59:59 +0000 UTC"),
            (NO_TIME, "0001-01-01 00:00:00 +0000 UTC"),
        ] {
            assert_eq!(date(seconds), text);
        }
        // The largest that a hostile header can ask for.
        assert!(date(i64::MAX).ends_with("UTC") && date(i64::MIN).ends_with("UTC"));
    }

    #[test]
    fn sizes_are_rounded_to_a_unit() {
        assert_eq!(readable(0), "0 B");
        assert_eq!(readable(28080), "27 KiB");
        assert_eq!(readable(8784), "9 KiB");
        assert_eq!(readable(u64::MAX), "16 EiB");
    }
}
