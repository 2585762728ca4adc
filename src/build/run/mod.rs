//! Carrying out a [`BuildPlan`]: stage after stage, step after step, each that changes the root in a layer of its own.
//!
//! ```text
//! for each stage
//!   %pre                        on the host
//!   base                        agents/: an image, a directory, or nothing
//!   layer 0                     what every image has, and places of apps        image_files
//!   layer n  %files from, %files    copy; beside the root                       copy
//!            %setup                 a script; beside the root                   script
//!            %post, %appinstall     a script; inside                            script
//!   layer    %environment, ...      files of the image, labels                  image_files
//!   %test                       inside; what it writes is not kept
//! the last stage's base and layers are packed by who asked for the build
//! ```
//!
//! What an earlier build has done already is taken from the build cache: [`cached`].
//!
//! A layer is a directory with `upper` and `work`, as `skiff exec --overlay` takes it. Layers of earlier steps are
//! only read from then on. With `--update` there are none: the sandbox itself is written.

mod cached;
mod copy;
mod image_files;
mod lines;
mod pattern;
mod rooted;
mod script;
mod stage;

pub use cached::trees;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::plan::{BuildPlan, Place, StagePlan, Step, What};
use super::workdir::{self, WorkDirectory};
use crate::config::Config;
use crate::error::{Context, Error, Kind, Result};
use crate::host::Host;
use crate::image::Image;
use crate::launch::step;
use crate::oci::reference::Reference;
use crate::plan::IdMap;
use crate::plan::building::{self, BuildFlags};
use cached::{Caching, Found};
use stage::Stage;

/// What is asked for, besides the definition.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// What shapes the containers.
    pub flags: BuildFlags,
    /// The sections to run; none for all.
    pub sections: Option<Vec<String>>,
    /// Leave %test out.
    pub no_test: bool,
    /// Labels of the definition replace those of the base.
    pub force: bool,
    /// Root is the caller's id alone.
    pub ignore_subuid: bool,
    /// Take nothing from the build cache and keep nothing in it.
    pub disable_cache: bool,
    /// Sections to do anew, whatever is in the cache.
    pub no_cache_from: Vec<String>,
    /// Where the work directory is to be.
    pub tmpdir: Option<PathBuf>,
    /// Leave the work directory where it is.
    pub no_cleanup: bool,
    /// A sandbox that is itself changed, in place of a new base.
    pub update: Option<PathBuf>,
    /// Labels of this build.
    pub labels: Vec<(String, String)>,
}

/// What happens, for whoever shows it.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step begins.
    Begins {
        /// The stage, when there are several.
        stage: Option<&'a str>,
        /// The step.
        step: &'a str,
        /// The app it belongs to.
        app: Option<&'a str>,
        /// Its line in the definition.
        line: u32,
        /// Why it is not taken from the cache, where there is one.
        why: Option<&'a str>,
    },
    /// A step was taken from the cache.
    Taken(&'a Timed, u32),
    /// It has ended.
    Ended(&'a Timed),
    /// Something that the caller should know.
    Warning(&'a str),
}

/// A step that was done.
#[derive(Debug, Clone)]
pub struct Timed {
    /// The stage, when there are several.
    pub stage: Option<String>,
    /// The section.
    pub step: String,
    /// The app it belongs to.
    pub app: Option<String>,
    /// How long it took.
    pub time: Duration,
    /// It was taken from the cache.
    pub cached: bool,
}

/// How an image that is not of this machine is got.
pub type Fetch<'a> = dyn Fn(&Reference) -> Result<Image> + 'a;

/// A build: the definition as a plan, and everything that it depends on.
pub struct Build<'a> {
    /// What is done.
    pub plan: &'a BuildPlan,
    /// The definition's text.
    pub text: &'a str,
    /// What is asked for besides.
    pub options: &'a BuildOptions,
    /// This machine.
    pub host: &'a Host,
    /// Settings.
    pub config: &'a Config,
    /// Who is told what happens.
    pub tell: &'a dyn Fn(Event<'_>),
    /// Fetches an image that is not of this machine.
    pub fetch: &'a Fetch<'a>,
}

/// A root file system that was built: a base and layers over it.
pub struct Built {
    /// What is lowest.
    pub base: super::agents::Base,
    /// Layers over it, the lowest first: directories with `upper`.
    pub layers: Vec<PathBuf>,
    /// The ids of the user namespace that owns the layers.
    pub ids: IdMap,
    /// The steps with their times.
    pub steps: Vec<Timed>,
    work: WorkDirectory,
    used: cached::Used,
}

/// Does all of it but the packing.
///
/// # Errors
/// What goes wrong in a step, with the definition's line; nothing is left then, unless it was to be kept.
pub fn carry_out(build: &Build<'_>) -> Result<Built> {
    let host = &building::plain_host(build.host, build.options.ignore_subuid);
    let (ids, _) = building::ids(host);
    let remove = |path: &Path| remove_inside(&ids, path);
    let work = workdir::create(build.options.tmpdir.as_deref(), build.host, &remove)?;
    let caching = Caching::open(build, host, &ids);
    let mut runner = Runner {
        build,
        caching,
        host,
        ids: ids.clone(),
        work: &work,
        stages: Vec::new(),
        steps: Vec::new(),
        count: 0,
    };
    let done = runner.run();
    let Runner { steps, stages, mut caching, .. } = runner;
    caching.remember(&build.plan.definition, done.is_err());
    match (done, stages.into_iter().next_back()) {
        (Ok(()), Some(last)) => {
            let Stage { base, layers, .. } = last;
            Ok(Built { base, layers, ids, steps, work, used: caching.into_used() })
        }
        (Ok(()), None) => {
            work.remove(&remove)?;
            Err(Error::usage("the definition has no stage"))
        }
        (Err(error), last) => Err(end_of_failed(build, error, work, (&remove, last))),
    }
}

/// Whether a step changes nothing of the root.
fn is_test(step: &Step) -> bool {
    step.section == "%test" && matches!(step.what, What::Run { .. })
}

/// Removes what a failed build has made, or says how to look at it.
fn end_of_failed(
    build: &Build<'_>,
    error: Error,
    work: WorkDirectory,
    (remove, last): (workdir::Remove<'_>, Option<Stage>),
) -> Error {
    let error = explain_full(error, &work.path);
    if !build.options.no_cleanup {
        let kept = work.path.clone();
        return match work.remove(remove) {
            Ok(()) => error,
            Err(why) => {
                let hint = format!("what the build has made is still in {kept:?}: {why}");
                error.hint(hint)
            }
        };
    }
    match work.keep() {
        Ok(path) => {
            let shell = last.map_or_else(String::new, |stage| format!("; to look around: {}", stage.shell()));
            error.hint(format!("what was built so far is kept in {path:?}{shell}"))
        }
        Err(_) => error,
    }
}

/// A step that fails where nothing is left to write to says why in its own words, if at all.
fn explain_full(error: Error, work: &Path) -> Error {
    let Ok(room) = rustix::fs::statvfs(work) else { return error };
    if room.f_bavail.saturating_mul(room.f_frsize) > 1 << 20 {
        return error;
    }
    let mut error = error;
    let more = format!("the file system of {work:?} is full: make room, or name another with --tmpdir");
    error.hint = Some(match error.hint.take() {
        Some(hint) => format!("{more}; {hint}"),
        None => more,
    });
    error
}

/// Removes a tree as who owns all of its files.
fn remove_inside(ids: &IdMap, path: &Path) -> Result<()> {
    if crate::image::unpack::remove_tree(path).is_ok() {
        return Ok(());
    }
    // Files of other ids.
    step::clean_up(ids, || {
        crate::image::unpack::remove_tree(path).tried(|| format!("cannot remove {path:?}"))
    })
}

impl Built {
    /// The layers as they are packed.
    pub fn directories(&self) -> Vec<PathBuf> {
        let base = match &self.base.root {
            crate::plan::Root::Directory(path) => Some(path.0.clone()),
            crate::plan::Root::Image { .. } => None,
        };
        base.into_iter().chain(self.layers.iter().map(|layer| layer.join("upper"))).collect()
    }

    /// A new directory beside the layers.
    ///
    /// # Errors
    /// Those of mkdir(2).
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        self.work.directory(name)
    }

    /// Removes the layers, or keeps them; gives where.
    ///
    /// # Errors
    /// What cannot be removed.
    pub fn finish(self, keep: bool) -> Result<Option<PathBuf>> {
        if keep {
            return self.work.keep().map(Some);
        }
        let ids = self.ids;
        self.work.remove(&|path| remove_inside(&ids, path))?;
        self.used.settle().map(|()| None)
    }
}

/// A build while it runs.
struct Runner<'a> {
    build: &'a Build<'a>,
    /// Without settings that are meant for other containers.
    host: &'a Host,
    ids: IdMap,
    work: &'a WorkDirectory,
    /// The stages that stand, the one that is being built last.
    stages: Vec<Stage>,
    steps: Vec<Timed>,
    caching: Caching,
    /// Of directories made in the work directory.
    count: usize,
}

impl Runner<'_> {
    fn run(&mut self) -> Result<()> {
        let plan = self.build.plan;
        for stage in &plan.stages {
            self.run_stage(stage)?;
        }
        Ok(())
    }

    /// Whether `--section` lets a step be done.
    fn wanted(&self, step: &Step) -> bool {
        let name = step.section.trim_start_matches('%');
        let Some(sections) = &self.build.options.sections else { return true };
        sections.iter().any(|wanted| wanted == "all" || wanted == name)
    }

    fn run_stage(&mut self, stage: &StagePlan) -> Result<()> {
        let steps = || stage.steps.iter().filter(|step| !is_test(step));
        for step in steps() {
            let skipped = !self.wanted(step) && !matches!(step.what, What::Base { .. });
            match &step.what {
                // They are written together, when the rest is done.
                What::Write { .. } | What::Label { .. } => {}
                _ if skipped => {}
                What::Base { .. } => self.make_base(stage, step)?,
                What::Copy { .. } => self.found_or_done(stage, step, |runner| runner.copy(step))?,
                What::Run { place: Place::Inside, .. } => {
                    self.found_or_done(stage, step, |runner| runner.run_inside(step))?;
                }
                What::Run { place: Place::Host, .. } => {
                    self.timed(stage, step, None, |runner| runner.run_on_host(step))?;
                    if step.section == "%setup" {
                        self.not_kept();
                    }
                }
            }
        }
        self.write_files(stage)?;
        for step in stage.steps.iter().filter(|step| is_test(step)) {
            if self.wanted(step) && !self.build.options.no_test {
                self.found_or_done(stage, step, |runner| runner.run_test(step))?;
            }
        }
        self.caching.end_stage(self.digest_of_written(stage));
        Ok(())
    }

    /// A step that makes a layer: that of an earlier build, or it is done and its layer kept.
    fn found_or_done(
        &mut self,
        stage: &StagePlan,
        step: &Step,
        work: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        match self.look_for(stage, step) {
            Found::Layer(layer) => {
                self.taken(stage, step);
                self.add_layer(Some(layer).filter(|_| !is_test(step)));
            }
            Found::Missing { key, why } => {
                self.timed(stage, step, why.as_deref(), work)?;
                let key = key.filter(|key| self.is_still(*key, stage, step));
                if let Some(layer) = self.stages.last_mut().and_then(|stage| stage.layers.pop()) {
                    let layer = self.keep(stage, step, (key, layer));
                    self.add_layer(Some(layer).filter(|_| !is_test(step)));
                }
            }
        }
        Ok(())
    }

    /// The name of a stage, when there are several.
    fn told_name(&self, stage: &StagePlan) -> Option<String> {
        let several = self.build.plan.stages.len() > 1;
        several.then(|| stage.name.clone().unwrap_or_else(|| stage.number.to_string()))
    }

    /// Tells of a step that need not be done.
    fn taken(&mut self, stage: &StagePlan, step: &Step) {
        let timed = Timed {
            stage: self.told_name(stage),
            step: step.section.clone(),
            app: step.app.clone(),
            time: Duration::ZERO,
            cached: true,
        };
        (self.build.tell)(Event::Taken(&timed, step.line));
        self.steps.push(timed);
    }

    /// Does a step; its time is kept, and its failure says where it stands.
    fn timed(
        &mut self,
        stage: &StagePlan,
        step: &Step,
        why: Option<&str>,
        work: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let name = self.told_name(stage);
        let app = step.app.as_deref();
        (self.build.tell)(Event::Begins {
            stage: name.as_deref(),
            step: &step.section,
            app,
            line: step.line,
            why,
        });
        let started = Instant::now();
        work(self)?;
        let app = step.app.clone();
        let timed =
            Timed { stage: name, step: step.section.clone(), app, time: started.elapsed(), cached: false };
        (self.build.tell)(Event::Ended(&timed));
        self.steps.push(timed);
        Ok(())
    }

    /// A failure with the place in the definition.
    fn at(&self, line: u32, error: Error) -> Error {
        if error.kind == Kind::Interrupted {
            return error;
        }
        let hint = error.hint.clone();
        let kind = error.kind;
        let outer = Error::new(kind, format!("{}:{line}", self.build.plan.definition)).because(error);
        Error { hint, ..outer }
    }

    /// A new directory in the work directory.
    fn directory(&mut self, kind: &str) -> Result<PathBuf> {
        let name = format!("{kind}-{}", self.count);
        self.count += 1;
        self.work.directory(&name)
    }
}
