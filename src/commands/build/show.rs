//! What a build tells while it runs: lines for people on standard error, or JSON for programs on standard output.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::json;

use super::image::Packed;
use crate::build::run::{Event, Timed};
use crate::cli::Global;
use crate::commands::{amount, warn};

/// Tells an event.
pub fn tell(event: &Event<'_>, json: bool, global: &Global) {
    match event {
        Event::Warning(warning) => warn(global, warning),
        Event::Begins { stage, step, app, line } if json => {
            print(&json!({"event": "begin", "stage": stage, "step": step, "app": app, "line": line}));
        }
        Event::Ended(timed) if json => {
            let Timed { stage, step, app, time } = timed;
            let seconds = time.as_secs_f64();
            print(&json!({"event": "end", "stage": stage, "step": step, "app": app, "seconds": seconds}));
        }
        Event::Begins { stage, step, app, line } if !global.silent() => {
            let name = name(*stage, step, *app);
            eprintln!("skiff: {name} (line {line})");
        }
        Event::Begins { .. } | Event::Ended(_) => {}
    }
}

/// Tells that the root file system is packed now.
pub fn tell_packing(json: bool, global: &Global) {
    if json {
        print(&json!({"event": "begin", "step": "pack"}));
    } else if !global.silent() {
        eprintln!("skiff: packing");
    }
}

/// What the whole build came to.
pub fn tell_end(target: &str, steps: &[Timed], packed: (&Packed, Duration), total: Duration, json: bool) {
    let (packed, packing) = packed;
    if json {
        print(&json!({
            "event": "done", "target": target, "bytes": packed.bytes, "files": packed.inodes,
            "pack_seconds": packing.as_secs_f64(), "seconds": total.as_secs_f64(),
        }));
        return;
    }
    let mut text = format!("{target}: {}, {} files\n", amount(packed.bytes), super::progress::count(packed.inodes));
    for Timed { stage, step, app, time } in steps {
        let name = name(stage.as_deref(), step, app.as_deref());
        text.push_str(&format!("  {name:<30} {:>8.1} s\n", time.as_secs_f64()));
    }
    text.push_str(&format!("  {:<30} {:>8.1} s\n", "packing", packing.as_secs_f64()));
    text.push_str(&format!("  {:<30} {:>8.1} s\n", "in all", total.as_secs_f64()));
    // Nobody is left to tell when standard error cannot be written to.
    let _ = io::stderr().write_all(text.as_bytes());
}

fn name(stage: Option<&str>, step: &str, app: Option<&str>) -> String {
    let stage = stage.map_or_else(String::new, |stage| format!("{stage}: "));
    let app = app.map_or_else(String::new, |app| format!(" {app}"));
    format!("{stage}{step}{app}")
}

fn print(line: &serde_json::Value) {
    // A reader that went away is none of the build's business.
    let _ = writeln!(io::stdout(), "{line}");
}
