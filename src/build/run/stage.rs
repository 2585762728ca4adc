//! A stage that stands: its base, the layers over it, and work in and beside its root.

use std::path::{Path, PathBuf};

use super::cached::Found;
use super::copy::{self, From};
use super::rooted::Rooted;
use super::{Runner, image_files};
use crate::build::agents::{self, Base};
use crate::build::cache::identity::of_file;
use crate::build::plan::{StagePlan, Step, What};
use crate::error::{Context, Error, Kind, Result};
use crate::image::Tree;
use crate::image::layered::Layered;
use crate::launch::step::{self, Beside};
use crate::plan::building::{Building, plan_beside};
use crate::plan::{Root, RunPlan};

/// A stage.
pub struct Stage {
    /// Its name.
    pub name: Option<String>,
    /// What is lowest.
    pub base: Base,
    /// Layers over it, the lowest first.
    pub layers: Vec<PathBuf>,
    /// The base is a sandbox that is itself written.
    pub in_place: bool,
}

impl Stage {
    /// The root as the plan of a step takes it; `upper` is the layer that is written.
    pub fn building(&self, upper: Option<&Path>) -> Building {
        Building {
            root: self.base.root.clone(),
            image: self.base.path.clone(),
            machine: self.base.machine.clone(),
            layers: self.layers.clone(),
            upper: upper.map(Path::to_owned),
            in_place: self.in_place,
        }
    }

    /// The files of the base and the layers.
    pub fn tree(&self) -> Result<Tree> {
        let base = self.base.tree()?;
        if self.layers.is_empty() {
            return Ok(base);
        }
        let layers = self.layers.iter().rev().map(|layer| layer.join("upper")).collect();
        Ok(Tree::Layered(Layered::new(base, layers)))
    }

    /// The command that shows it.
    pub fn shell(&self) -> String {
        let layers: String =
            self.layers.iter().map(|layer| format!("--overlay {}:ro ", layer.display())).collect();
        format!("skiff shell --fakeroot {layers}{}", self.base.path.display())
    }
}

/// A root directory for an agent to fill. The caller's mask does not count.
fn make_root(path: &Path) -> std::io::Result<()> {
    std::fs::create_dir(path)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
}

impl Runner<'_> {
    /// The stage that is being built.
    pub(super) fn stage(&self) -> Result<&Stage> {
        self.stages.last().ok_or_else(|| Error::new(Kind::Internal, "there is no stage"))
    }

    /// A new layer for a step, whose parts are made when something is laid under it; none where the root itself is
    /// written.
    pub(super) fn new_layer(&mut self) -> Result<Option<PathBuf>> {
        if self.stage()?.in_place {
            return Ok(None);
        }
        Ok(Some(self.directory("layer")?))
    }

    /// A layer that is done.
    pub(super) fn add_layer(&mut self, layer: Option<PathBuf>) {
        if let Some(stage) = self.stages.last_mut() {
            stage.layers.extend(layer);
        }
    }

    fn plan_beside(&self, stage: &Stage, upper: Option<&Path>) -> Result<RunPlan> {
        // None of its programs is run.
        let building = Building { machine: None, ..stage.building(upper) };
        plan_beside(&building, (self.host, self.build.config, &stage.tree()?))
    }

    /// Does `work` beside the root of the stage, which is given to it, and that of another one, which is only read.
    /// What is written to the root becomes a layer.
    pub(super) fn beside(
        &mut self,
        other: Option<usize>,
        work: impl FnOnce(&Rooted, Option<&Rooted>) -> Result<Vec<u8>>,
    ) -> Result<Vec<u8>> {
        let layer = self.new_layer()?;
        let stages = [self.directory("stage")?, self.directory("stage")?];
        let own = self.stage()?;
        let plan = self.plan_beside(own, layer.as_deref())?;
        let mut roots = vec![Beside { plan: &plan, image: own.base.file.as_deref(), stage: &stages[0] }];
        let other = other.and_then(|index| self.stages.get(index));
        let other_plan = other.map(|other| self.plan_beside(other, None)).transpose()?;
        if let (Some(other), Some(plan)) = (other, &other_plan) {
            roots.push(Beside { plan, image: other.base.file.as_deref(), stage: &stages[1] });
        }
        let answer = step::beside(&plan.ids, &roots, |paths| {
            // As root makes files, whatever the caller's mask is.
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
            let opened = paths.iter().map(|path| Rooted::open(path)).collect::<Result<Vec<_>>>()?;
            let own = opened.first().ok_or_else(|| Error::new(Kind::Internal, "there is no root"))?;
            work(own, opened.get(1))
        })?;
        self.add_layer(layer);
        Ok(answer)
    }

    /// The base, and what every image has over it.
    pub(super) fn make_base(&mut self, stage: &StagePlan, step: &Step) -> Result<()> {
        let What::Base { agent, keys } = &step.what else { return Ok(()) };
        let last = stage.number == self.build.plan.stages.len();
        let found = self.look_for_base(stage, step);
        let update = self.build.options.update.as_ref().filter(|_| last);
        let base = match (update, found) {
            (Some(sandbox), _) => Base::directory(sandbox.clone()),
            (None, Found::Layer(layer)) => {
                self.taken(stage, step);
                Base::directory(layer.join("upper"))
            }
            (None, Found::Missing { key, why }) => {
                let layer = self.directory("base")?;
                let directory = layer.join("upper");
                make_root(&directory).tried(|| format!("cannot make {directory:?}"))?;
                let mut made = None;
                self.timed(stage, step, why.as_deref(), |runner| {
                    let (ids, host, fetch) = (&runner.ids, runner.host, runner.build.fetch);
                    let order = agents::Order { agent, keys, directory: &directory, ids, host, fetch };
                    let from = keys.iter().find(|key| key.key == "From").map_or(step.line, |key| key.line);
                    made = Some(agents::make(&order).map_err(|error| runner.at(from, error))?);
                    Ok(())
                })?;
                match made.filter(|_| !agents::makes(agent)) {
                    Some(base) => {
                        self.start_on(agent, &base.path);
                        base
                    }
                    None => Base::directory(self.keep(stage, step, (key, layer)).join("upper")),
                }
            }
        };
        let in_place = update.is_some();
        self.stages.push(Stage { name: stage.name.clone(), base, layers: Vec::new(), in_place });
        let apps = image_files::apps(stage);
        self.beside(None, |root, _| {
            image_files::write_base(root, &apps)?;
            Ok(Vec::new())
        })?;
        Ok(())
    }

    /// `%files`.
    pub(super) fn copy(&mut self, step: &Step) -> Result<()> {
        let What::Copy { from, into, files } = &step.what else { return Ok(()) };
        let from = from.as_ref().map(|name| {
            let found = self.stages.iter().position(|stage| stage.name.as_ref() == Some(name));
            found.ok_or_else(|| Error::usage(format!("there is no stage {name:?}")))
        });
        let from = from.transpose().map_err(|error| self.at(step.line, error))?;
        let (host, definition) = (self.build.host, self.build.plan.definition.clone());
        let variable = |name: &str| host.variable(name).map(|value| value.to_string_lossy().into_owned());
        self.beside(from, |root, other| {
            let from = match other {
                Some(stage) => From::Stage(stage),
                None => From::Host { variable: &variable },
            };
            for file in files {
                copy::copy(file, &from, Path::new(into), root).map_err(|error| {
                    let hint = error.hint.clone();
                    let outer = Error::new(error.kind, format!("{definition}:{}", file.line)).because(error);
                    Error { hint, ..outer }
                })?;
            }
            Ok(Vec::new())
        })?;
        Ok(())
    }

    /// %environment and the other sections that become files, the labels, the definition.
    pub(super) fn write_files(&mut self, stage: &StagePlan) -> Result<()> {
        let (build, sections) = (self.build, self.build.options.sections.clone());
        let mut from = None;
        let mut labels = build.options.labels.clone();
        for step in &stage.steps {
            let What::Base { agent, keys } = &step.what else { continue };
            let mut add = |key: &str, value: &str| {
                let name = format!("org.label-schema.usage.singularity.deffile.{}", key.to_lowercase());
                labels.push((name, value.to_owned()));
            };
            add("bootstrap", agent);
            keys.iter().for_each(|key| add(&key.key, &key.value));
            from = keys.iter().find(|key| key.key == "From").map(|key| key.value.clone());
            if let Some(name) = &stage.name {
                add("stage", name);
            }
        }
        if let Root::Image { .. } = self.stage()?.base.root {
            // As the definition has it: where the image lies on this machine is no affair of who gets the new one.
            labels.extend(from.map(|from| ("org.opencontainers.image.base.name".to_owned(), from)));
            let digest = of_file(&crate::image::open(&self.stage()?.base.path)?)?;
            let label = "org.label-schema.usage.skiff.base.digest".to_owned();
            labels.extend(digest.map(|digest| (label, digest.to_string())));
        }
        let wanted = |step: &Step| {
            sections.as_ref().is_none_or(|sections| {
                sections.iter().any(|name| name == "all" || step.section.strip_prefix('%') == Some(name))
            })
        };
        let facts =
            image_files::Facts { definition: build.text, labels: &labels, force: build.options.force };
        let answer = self.beside(None, |root, _| {
            let warnings = image_files::write_sections(root, stage, &wanted, &facts)?;
            serde_json::to_vec(&warnings).tried(|| "cannot hand warnings on".into())
        })?;
        let warnings: Vec<String> = serde_json::from_slice(&answer).unwrap_or_default();
        warnings.iter().for_each(|warning| (build.tell)(super::Event::Warning(warning)));
        Ok(())
    }
}
