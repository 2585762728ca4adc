//! What a build tells while it runs: lines for people on standard error, or JSON for programs on standard output.
//! With JSON, what programs of the build print goes to standard error, all of it.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

use serde_json::json;

use super::image::Packed;
use super::progress::count;
use crate::build::run::{Event, Timed};
use crate::cli::Global;
use crate::commands::{amount, say, warn};
use crate::error::{Context, Result};

/// Who is told.
pub struct Show<'a> {
    global: &'a Global,
    /// Standard output as it was, for JSON.
    json: Option<RefCell<File>>,
    /// Why a line of it could not be written.
    lost: RefCell<Option<io::Error>>,
}

impl<'a> Show<'a> {
    /// Begins to tell.
    pub fn new(global: &'a Global, json: bool) -> Result<Self> {
        let tried = || "cannot use standard output".to_owned();
        let json = if json {
            let out = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3).tried(tried)?;
            rustix::stdio::dup2_stdout(rustix::stdio::stderr()).tried(tried)?;
            Some(RefCell::new(File::from(out)))
        } else {
            None
        };
        Ok(Self { global, json, lost: RefCell::new(None) })
    }

    /// Tells an event.
    pub fn event(&self, event: &Event<'_>) {
        match event {
            Event::Warning(warning) => warn(self.global, warning),
            Event::Begins { stage, step, app, line, why } => {
                self.json(&json!({
                    "event": "begin", "stage": stage, "step": step, "app": app, "line": line, "why": why,
                }));
                let why = why.map_or_else(String::new, |why| format!(": {why}"));
                self.say(&format!("{} (line {line}){why}", name(*stage, step, *app)));
            }
            Event::Taken(Timed { stage, step, app, .. }, line) => {
                self.json(&json!({
                    "event": "cached", "stage": stage, "step": step, "app": app, "line": line,
                }));
                self.say(&format!(
                    "{} (line {line}): from the cache",
                    name(stage.as_deref(), step, app.as_deref())
                ));
            }
            Event::Ended(Timed { stage, step, app, time, .. }) => {
                let seconds = time.as_secs_f64();
                self.json(
                    &json!({"event": "end", "stage": stage, "step": step, "app": app, "seconds": seconds}),
                );
            }
        }
    }

    /// Tells that the root file system is packed now.
    pub fn packing(&self) {
        self.json(&json!({"event": "begin", "step": "pack"}));
        self.say("packing");
    }

    /// Tells that a sandbox was changed.
    pub fn changed(&self, target: &str, total: Duration) {
        let seconds = total.as_secs_f64();
        self.json(&json!({"event": "done", "target": target, "seconds": seconds}));
        self.say(&format!("{target} is changed, {seconds:.1} s"));
    }

    /// What the whole build came to.
    pub fn end(
        &self,
        target: &str,
        steps: &[Timed],
        (packed, packing): (&Packed, Duration),
        total: Duration,
    ) {
        self.json(&json!({
            "event": "done", "target": target, "bytes": packed.bytes, "files": packed.inodes,
            "pack_seconds": packing.as_secs_f64(), "seconds": total.as_secs_f64(),
        }));
        if self.json.is_some() || self.global.silent() {
            return;
        }
        let mut text = format!("{target}: {}, {} files\n", amount(packed.bytes), count(packed.inodes));
        let mut row = |name: &str, time: Option<Duration>| {
            text.push_str(&match time {
                Some(time) => format!("  {name:<30} {:>8.1} s\n", time.as_secs_f64()),
                None => format!("  {name:<30}     cached\n"),
            });
        };
        for Timed { stage, step, app, time, cached } in steps {
            row(&name(stage.as_deref(), step, app.as_deref()), (!cached).then_some(*time));
        }
        row("packing", Some(packing));
        row("in all", Some(total));
        // Nobody is left to tell when standard error cannot be written to.
        let _ = io::stderr().write_all(text.as_bytes());
    }

    /// Fails where a part of the JSON is lost: what was built stands even so.
    pub fn told(&self, target: &str) -> Result<()> {
        let Some(error) = self.lost.take() else { return Ok(()) };
        Err(error)
            .tried(|| "cannot write to standard output".to_owned())
            .map_err(|error| error.hint(format!("{target} is made; what --json tells of it is lost")))
    }

    fn say(&self, text: &str) {
        if self.json.is_none() {
            say(self.global, &format!("skiff: {text}"));
        }
    }

    fn json(&self, line: &serde_json::Value) {
        if let Some(out) = &self.json {
            match out.borrow_mut().write_all(format!("{line}\n").as_bytes()) {
                // A reader that went away is none of the build's business.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    self.lost.borrow_mut().get_or_insert(error);
                }
                _ => {}
            }
        }
    }
}

fn name(stage: Option<&str>, step: &str, app: Option<&str>) -> String {
    let stage = stage.map_or_else(String::new, |stage| format!("{stage}: "));
    let app = app.map_or_else(String::new, |app| format!(" {app}"));
    format!("{stage}{step}{app}")
}
