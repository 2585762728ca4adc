//! `skiff doctor`: what this machine allows, and what mends the rest.
//!
//! ```text
//! host facts and trials ─▶ checks.rs: one Check a line ─▶ one screen, or JSON
//! ```

mod checks;
mod parallel;

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::cli::{DoctorArgs, Global};
use crate::commands::{colour_on, json_text, printed};
use crate::error::Result;
use crate::host::Host;

/// The exit status when something is missing that images need.
const SICK: i32 = 1;

/// What came out of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// As it should be.
    Ok,
    /// Works, with less or slower.
    Less,
    /// Images cannot be run.
    Missing,
}

impl State {
    /// The word on the screen, and its colour on a terminal.
    fn shown(self) -> (&'static str, &'static str) {
        match self {
            Self::Ok => ("ok", "\x1b[32m"),
            Self::Less => ("less", "\x1b[33m"),
            Self::Missing => ("MISSING", "\x1b[1;31m"),
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    group: &'static str,
    name: String,
    state: State,
    /// What was found, in words.
    found: String,
    /// What mends it, where it is not [`State::Ok`].
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

/// All of it.
#[derive(Debug, Serialize)]
struct Report {
    skiff: &'static str,
    hostname: String,
    kernel: String,
    machine: String,
    user: String,
    uid: u32,
    /// Whether images can be run here.
    able: bool,
    checks: Vec<Check>,
}

/// Looks, tells, and exits with 0 when images can be run, else with 1.
pub fn run(args: &DoctorArgs, global: &Global) -> Result<i32> {
    let report = examine(&Host::probe());
    let text = if args.json {
        json_text(&report, "the report")?
    } else {
        let colour = colour_on(global, io::stdout().is_terminal());
        screen(&report, colour, global.silent())
    };
    match printed(io::stdout().write_all(text.as_bytes()))? {
        0 if !report.able => Ok(SICK),
        status => Ok(status),
    }
}

fn examine(host: &Host) -> Report {
    let checks = checks::all(host);
    Report {
        skiff: env!("CARGO_PKG_VERSION"),
        hostname: host.hostname.clone(),
        kernel: host.kernel.clone(),
        machine: host.machine.clone(),
        user: host.user().name.to_string_lossy().into_owned(),
        uid: host.uid,
        able: checks.iter().all(|check| check.state != State::Missing),
        checks,
    }
}

/// The report as text; a quiet one has only what is not as it should be.
fn screen(report: &Report, colour: bool, quiet: bool) -> String {
    let Report { skiff, hostname, kernel, machine, user, uid, .. } = report;
    let mut text = String::new();
    if !quiet {
        text.push_str(&format!(
            "skiff {skiff} on {hostname}: Linux {kernel}, {machine}; user {user} ({uid})\n"
        ));
    }
    let mut group = "";
    for check in report.checks.iter().filter(|check| !quiet || check.state != State::Ok) {
        if check.group != group {
            group = check.group;
            text.push_str(&format!("{}{group}\n", if text.is_empty() { "" } else { "\n" }));
        }
        let (word, start) = check.state.shown();
        let (start, reset) = if colour { (start, "\x1b[0m") } else { ("", "") };
        text.push_str(&format!("  {start}{word:<7}{reset}  {:<20}  {}\n", check.name, check.found));
        if let Some(mend) = &check.mend {
            text.push_str(&format!("           -> {mend}\n"));
        }
    }
    if !quiet {
        let verdict = match (report.able, report.checks.iter().any(|check| check.state != State::Ok)) {
            (true, false) => "Images run here.",
            (true, true) => "Images run here; what says 'less' is slower or leaves something out.",
            (false, _) => "Images do not run here until what is MISSING is mended.",
        };
        text.push_str(&format!("\n{verdict}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(states: &[State]) -> Report {
        let check = |state: &State| Check {
            group: "Things",
            name: format!("{state:?}"),
            state: *state,
            found: "found".into(),
            mend: (*state != State::Ok).then(|| "do this".into()),
        };
        Report {
            skiff: "1",
            hostname: "n".into(),
            kernel: "6".into(),
            machine: "m".into(),
            user: "u".into(),
            uid: 1,
            able: !states.contains(&State::Missing),
            checks: states.iter().map(check).collect(),
        }
    }

    #[test]
    fn a_screen_names_each_thing_once_and_says_what_mends_it() {
        let text = screen(&report(&[State::Ok, State::Less, State::Missing]), false, false);
        assert_eq!(
            text,
            "skiff 1 on n: Linux 6, m; user u (1)\n\nThings\n  ok       Ok                    found\n  \
             less     Less                  found\n           -> do this\n  \
             MISSING  Missing               found\n           -> do this\n\n\
             Images do not run here until what is MISSING is mended.\n"
        );
        assert_eq!(screen(&report(&[State::Ok]), false, true), "");
        assert!(screen(&report(&[State::Ok]), true, false).contains("\x1b[32mok"));
    }
}
