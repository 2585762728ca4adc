//! Scripts of sections: %pre and %setup on the host, %post, %appinstall and %test inside.
//!
//! ```text
//! %pre       as the caller                       on the host, before there is a root
//! %setup     as root of the user namespace       on the host; SKIFF_ROOTFS and its twins name the root
//! %post      as root                             /bin/sh -ex /.post.script, or the program of -c
//! %test      as root                             /.singularity.d/test; what it writes is gone at its end
//! ```
//!
//! Inside, the working directory is `/`, the mask 0022, and `SKIFF_ENVIRONMENT` and `SKIFF_LABELS` (and twins) name
//! the files for what goes into the image's environment and labels.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use super::Runner;
use super::lines;
use crate::build::plan::{Lines, SHELL, Step, What};
use crate::error::{Context, Error, Kind, Result};
use crate::host::FAMILIES;
use crate::launch::step::{self, Ended, Feed};
use crate::plan::RunPlan;
use crate::plan::building::{labels_file, plan_inside, script_mount};

/// Where a script stands inside.
const INSIDE: &str = "/.post.script";
const ENVIRONMENT: &str = "/.singularity.d/env/91-environment.sh";

impl Runner<'_> {
    /// %pre and %setup.
    pub(super) fn run_on_host(&mut self, step: &Step) -> Result<()> {
        let What::Run { by, text, .. } = &step.what else { return Ok(()) };
        let script = self.write_script(&in_place("", text))?;
        let call = |root: Option<&Path>| -> Result<ExitStatus> {
            let mut command = host_command(by, &script);
            if let Some(root) = root {
                let below = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
                for family in FAMILIES {
                    command.env(format!("{family}_ROOTFS"), root);
                    command.env(format!("{family}_ENVIRONMENT"), below(Path::new(ENVIRONMENT)));
                    command.env(format!("{family}_LABELS"), below(labels_file()));
                }
            }
            command.status().tried(|| format!("cannot run {by:?} for {}", step.section))
        };
        let answer = |status: ExitStatus| Ok(status.into_raw().to_le_bytes().to_vec());
        let answer = if step.section == "%pre" {
            step::on_host(|| answer(call(None)?))
        } else {
            let ids = self.ids.clone();
            self.beside(None, |root, _| {
                step::emulate_root(&ids);
                answer(call(Some(root.path()))?)
            })
        };
        let answer = answer.map_err(|error| self.at(step.line, error))?;
        let raw = answer.try_into().map(i32::from_le_bytes);
        let status = ExitStatus::from_raw(raw.unwrap_or(255 << 8));
        let ended = match (status.code(), status.signal()) {
            (_, Some(signal)) => Ended::Killed(signal),
            (code, None) => Ended::Exited(code.unwrap_or(255)),
        };
        self.judge(step, ended, None)
    }

    /// %post and %appinstall.
    pub(super) fn run_inside(&mut self, step: &Step) -> Result<()> {
        let What::Run { by, text, .. } = &step.what else { return Ok(()) };
        let first = step.app.as_ref().map_or_else(String::new, |app| {
            format!(". /scif/apps/{app}/scif/env/01-base.sh; cd /scif/apps/{app}")
        });
        let text = in_place(&first, text);
        let (script, mut lines) = if by.starts_with(SHELL) && lines::reads_blocks(&self.stage()?.tree()?) {
            self.pipe_script(&text)?
        } else {
            (self.write_script(&text)?, None)
        };
        let layer = self.new_layer()?;
        let mut flags = self.build.options.flags.clone();
        flags.mount.push(script_mount(&script, INSIDE));
        let words: Vec<OsString> = by.split_whitespace().chain([INSIDE]).map(OsString::from).collect();
        let stage = self.stage()?;
        let surroundings = (self.host, self.build.config, &stage.tree()?);
        let plan = plan_inside(&stage.building(layer.as_deref()), &flags, &words, surroundings)
            .map_err(|error| self.at(step.line, error))?;
        let feed = lines.as_mut().map(|script| &mut script.feed);
        let ended = self.run_plan(&plan, feed).map_err(|error| self.at(step.line, error))?;
        if self.stage()?.in_place {
            // The sandbox got an empty file to mount the script on.
            let path = self.stage()?.base.path.join(INSIDE.trim_start_matches('/'));
            let _ = fs::remove_file(path);
        }
        // What a failed script has done is kept too: for whoever looks into it.
        self.add_layer(layer);
        let last = lines.filter(|_| ended != Ended::Exited(0)).and_then(|mut script| script.last_line());
        let last = last.map(|line| (line, text.lines().nth(line as usize - 1).unwrap_or_default()));
        self.judge(step, ended, last)
    }

    /// %test.
    pub(super) fn run_test(&mut self, step: &Step) -> Result<()> {
        let stage = self.stage()?;
        let mut building = stage.building(None);
        building.in_place = false;
        let surroundings = (self.host, self.build.config, &stage.tree()?);
        let plan = plan_inside(&building, &self.build.options.flags, &[], surroundings)
            .map_err(|error| self.at(step.line, error))?;
        let ended = self.run_plan(&plan, None).map_err(|error| self.at(step.line, error))?;
        self.judge(step, ended, None)?;
        // Nothing of it stays, but that it has passed: which an empty layer of the cache says.
        let layer = self.new_layer()?;
        if let Some(layer) = &layer {
            let path = layer.join("upper");
            fs::create_dir(&path).tried(|| format!("cannot make {path:?}"))?;
        }
        self.add_layer(layer);
        Ok(())
    }

    fn run_plan(&self, plan: &RunPlan, feed: Option<&mut Feed>) -> Result<Ended> {
        for warning in &plan.warnings {
            (self.build.tell)(super::Event::Warning(warning));
        }
        let serving = plan.serving();
        let server = match &self.stage()?.base.file {
            Some(file) => crate::launch::meet_server(&serving, file)?,
            None => None,
        };
        step::run(plan, server, feed)
    }

    /// The script as a file of the host.
    fn write_script(&mut self, text: &str) -> Result<PathBuf> {
        let path = self.directory("script")?.join("script");
        let tried = || format!("cannot write {path:?}");
        fs::write(&path, text).tried(tried)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).tried(tried)?;
        Ok(path)
    }

    /// The script as a pipe, where that can be made.
    fn pipe_script(&mut self, text: &str) -> Result<(PathBuf, Option<lines::Script>)> {
        let path = self.directory("script")?.join("script");
        match lines::Script::new(&path, text) {
            Ok(script) => Ok((path, Some(script))),
            Err(_) => Ok((self.write_script(text)?, None)),
        }
    }

    /// The error of a script that failed, with the last line that its shell has read, where that is known.
    fn judge(&self, step: &Step, ended: Ended, last: Option<(u32, &str)>) -> Result<()> {
        let (how, hint) = match ended {
            Ended::Exited(0) => return Ok(()),
            Ended::Exited(status) => (format!("exit status {status}"), "what it printed last is above"),
            Ended::Killed(libc::SIGKILL) => (
                "it was killed (signal 9)".to_owned(),
                "the system kills processes when memory is used up; dmesg or the job's log tells",
            ),
            Ended::Killed(signal) => {
                (format!("it was killed by signal {signal}"), "what it printed last is above")
            }
        };
        let app = step.app.as_ref().map_or_else(String::new, |app| format!(" {app}"));
        let error = Error::new(Kind::Program, format!("{}{app} failed", step.section)).because(how);
        let keep =
            if self.build.options.no_cleanup { "" } else { "; --no-cleanup keeps what was built so far" };
        let Some((line, text)) = last else {
            return Err(self.at(step.line, error.hint(format!("{hint}{keep}"))));
        };
        let at = format!("the shell had read to line {line}: {}", text.trim());
        Err(self.at(line, error.hint(format!("{at}; {hint}{keep}"))))
    }
}

/// A script whose lines have the numbers that they have in the definition: what a shell says of a line
/// (`/.post.script: 12: make: not found`) is true there. `first` comes before it, on a line of its own.
fn in_place(first: &str, text: &[Lines]) -> String {
    let mut script = first.to_owned();
    let mut line = 1;
    for lines in text {
        while line < lines.line {
            script.push('\n');
            line += 1;
        }
        script.push_str(&lines.text);
        line += lines.text.bytes().filter(|byte| *byte == b'\n').count() as u32;
    }
    script
}

/// A script's program with its arguments, and the script.
fn host_command(by: &str, script: &Path) -> Command {
    let mut words = by.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or("/bin/sh"));
    command.args(words).arg(script);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_their_numbers() {
        let lines = |line, text: &str| Lines { line, text: text.into() };
        let text = [lines(3, "a\nb\n"), lines(7, "c\n")];
        assert_eq!(in_place("", &text), "\n\na\nb\n\n\nc\n");
        assert_eq!(in_place("x", &text[..1]), "x\n\na\nb\n");
    }
}
