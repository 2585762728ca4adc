//! Steps whose result an earlier build has left: what they depend on, and the layer that is taken or kept.
//!
//! ```text
//! base ── key ──▶ found: its layer is used, the step is not done
//!                 not found: done, its layer moves into the cache, and why it was done is told
//! ```
//!
//! - Cached: what an agent filled, `%files`, `%post`, `%appinstall`, and that `%test` has passed.
//! - `%setup` runs programs of the host, which may look at anything: it is done each time, and so is all after it.
//! - `%pre` is done each time. What it makes counts where it is used: as a base, as a copied file.
//! - The files of sections ([`super::image_files`]) are written each time, since that takes no time.
//!
//! A step that failed keeps nothing. Without a cache, and with `--update`, all of it is done.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::image_files::joined;
use super::{Build, Event, Runner, copy, remove_inside};
use crate::build::agents;
use crate::build::cache::files::{FileRecord, Known, Links, look};
use crate::build::cache::identity::of_image;
use crate::build::cache::key::{Base, Chain, Digest, Facts, Ids, Instance, Key};
use crate::build::cache::why::{self, StepRecord, why};
use crate::build::cache::{self, Cache, Entry, Made, Trees, copy_tree};
use crate::build::plan::{Lines, StagePlan, Step, What};
use crate::error::{Context, Result};
use crate::host::{FAMILIES, Host};
use crate::launch::step;
use crate::plan::IdMap;

/// Settings that bring something of the host into the containers of a build.
const BRINGING: [&str; 6] = ["NV", "NVCCLI", "ROCM", "BIND", "BINDPATH", "MOUNT"];

/// The cache, and how far the build has come in it.
pub(super) struct Caching {
    cache: Option<Cache>,
    last: Option<why::Build>,
    now: why::Build,
    known: Known,
    ids: Ids,
    architecture: String,
    binds: Vec<String>,
    /// Where the stage that is being built has come to; none before its base is there, and after a step that gave
    /// something that nobody can find again.
    chain: Option<Chain>,
    /// The entry that it stands on.
    parent: Option<Instance>,
    /// The step that comes stands on the base itself.
    first: bool,
    /// Where earlier stages have ended.
    ends: Vec<Option<Chain>>,
    /// What is used: it stays while this lives.
    entries: Vec<Entry>,
}

/// What a step depends on.
#[derive(Default)]
struct Needs {
    by: String,
    text: Vec<Lines>,
    copied: Vec<(String, Digest)>,
    files: Vec<FileRecord>,
}

/// What was found of a step.
pub(super) enum Found {
    /// An earlier build has done it; the layer.
    Layer(PathBuf),
    /// It is to be done.
    Missing {
        /// Its key; none for a step whose result is not kept.
        key: Option<Key>,
        /// Why, where somebody may wonder.
        why: Option<String>,
    },
}

impl Caching {
    /// Opens the cache. A build goes on without one, and says why.
    pub fn open(build: &Build<'_>, host: &Host, ids: &IdMap) -> Self {
        let options = build.options;
        let wanted = !options.disable_cache && options.update.is_none();
        let opened =
            wanted.then(|| cache::place(build.host).and_then(|place| Cache::open(&place, trees(ids))));
        let cache = match opened.transpose() {
            Ok(cache) => cache,
            Err(error) => {
                let hint = error.hint.as_ref().map_or_else(String::new, |hint| format!("; {hint}"));
                (build.tell)(Event::Warning(&format!("building without the cache: {error}{hint}")));
                None
            }
        };
        let last = cache.as_ref().and_then(|cache| cache.last_build(Path::new(&build.plan.definition)));
        Self {
            known: last.as_ref().map(why::Build::known).unwrap_or_default(),
            last,
            cache,
            now: why::Build::default(),
            ids: match ids {
                IdMap::Whole => Ids::Root,
                IdMap::Subordinate { .. } => Ids::Subordinate,
                IdMap::Root { .. } | IdMap::Caller { .. } => Ids::Single,
            },
            architecture: host.machine.clone(),
            binds: brought_in(build, host),
            chain: None,
            parent: None,
            first: true,
            ends: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// Writes down what the build was made of, for the next one.
    pub fn remember(&mut self, definition: &str, failed: bool) {
        self.now.failed = failed;
        if let Some(cache) = &self.cache {
            // It is only good for saying why a step is done again.
            let _ = cache.remember(Path::new(definition), &self.now);
        }
    }

    /// What is used of the cache, and the cache.
    pub fn into_used(self) -> Used {
        Used { cache: self.cache, _entries: self.entries }
    }

    /// The stage has ended; `written` are the files of its sections, which later stages may copy too.
    pub fn end_stage(&mut self, written: Digest) {
        self.ends.push(self.chain.take().map(|chain| chain.then(Instance(written))));
        self.parent = None;
        self.first = true;
    }

    fn find(&mut self, key: Key) -> Option<PathBuf> {
        let entry = self.cache.as_ref()?.find(&key)?;
        Some(self.enter(entry))
    }

    /// Makes room for another result with this key. False when a build uses the one that is there.
    fn make_room(&self, key: Key) -> bool {
        self.cache.as_ref().is_some_and(|cache| {
            cache.forget(&key);
            cache.find(&key).is_none()
        })
    }

    /// The layer of an entry, which is used from now on, and which the next step stands on.
    fn enter(&mut self, entry: Entry) -> PathBuf {
        let layer = entry.upper().parent().map(Path::to_owned).unwrap_or_default();
        self.chain = self.chain.map(|chain| chain.then(entry.instance()));
        self.parent = Some(entry.instance());
        self.first = false;
        self.entries.push(entry);
        layer
    }

    /// The step gave something that nobody can find again: to keep what comes after it would only fill the disk.
    fn go_on_alone(&mut self) {
        self.chain = None;
    }
}

/// What a build uses of the cache.
pub struct Used {
    cache: Option<Cache>,
    _entries: Vec<Entry>,
}

impl Used {
    /// Sees to it that what was kept is on the disk.
    ///
    /// # Errors
    /// As [`Cache::settle`].
    pub fn settle(&self) -> Result<()> {
        self.cache.as_ref().map_or(Ok(()), Cache::settle)
    }
}

/// How layers are removed and copied: as who owns all of their files.
pub fn trees(ids: &IdMap) -> Trees {
    let text = |error: crate::error::Error| io::Error::other(error.to_string());
    let (for_removal, for_copy) = (ids.clone(), ids.clone());
    Trees {
        remove: Box::new(move |path| remove_inside(&for_removal, path).map_err(text)),
        copy: Box::new(move |from, to| {
            let copy = || copy_tree(from, to).tried(|| format!("cannot copy {from:?}"));
            match for_copy {
                IdMap::Whole => copy_tree(from, to),
                // There it is root, and may read files of mode 0000 and of other ids.
                _ => step::clean_up(&for_copy, copy).map_err(text),
            }
        }),
    }
}

/// What flags and settings bring in, as it is written.
fn brought_in(build: &Build<'_>, host: &Host) -> Vec<String> {
    let flags = &build.options.flags;
    let given = flags.bind.iter().chain(&flags.mount).map(|text| text.to_string_lossy().into_owned());
    let settings = host.environment.iter().filter_map(|(name, value)| {
        let name = name.to_str()?;
        let rest = FAMILIES.iter().find_map(|family| name.strip_prefix(family)?.strip_prefix('_'))?;
        BRINGING.contains(&rest).then(|| format!("{rest}={}", value.to_string_lossy()))
    });
    let flags = given.chain(flags.other.iter().map(|name| (*name).to_owned()));
    flags.chain(settings).chain(build.config.bind.iter().cloned()).collect()
}

impl Runner<'_> {
    /// Looks for the base of a stage that an agent has made before. One that is opened, not made, is never there.
    pub(super) fn look_for_base(&mut self, stage: &StagePlan, step: &Step) -> Found {
        let What::Base { agent, keys } = &step.what else { return Found::Missing { key: None, why: None } };
        if !agents::makes(agent) {
            return Found::Missing { key: None, why: None };
        }
        let of_agent = keys.iter().filter(|key| key.key != "Stage");
        let base = Base::Agent {
            agent: (*agent).to_owned(),
            keys: of_agent.map(|key| (key.key.clone(), key.value.clone())).collect(),
            architecture: self.caching.architecture.clone(),
            ids: self.caching.ids,
        };
        let text: Vec<Lines> = keys
            .iter()
            .map(|key| Lines { line: key.line, text: format!("{}: {}", key.key, key.value) })
            .collect();
        self.caching.now.steps.push(StepRecord::of_base(&name_of(stage), &base, &text));
        // The chain begins when it is known which of the results with this key it stands on.
        self.caching.chain = Some(Chain::new(&base));
        self.look(base.key(), step, &text)
    }

    /// Starts a stage on a base that was opened: an image, a directory, or nothing.
    pub(super) fn start_on(&mut self, agent: &str, path: &Path) {
        if self.caching.cache.is_none() {
            return;
        }
        let base = match agent {
            "scratch" => Ok(Base::Scratch),
            _ => crate::image::open(path).and_then(|image| of_image(&image)).map(Base::Image),
        };
        match base {
            Ok(base) => self.caching.chain = Some(Chain::new(&base)),
            // A sandbox may have directories that are closed to the caller.
            Err(error) => {
                (self.build.tell)(Event::Warning(&format!("what is built on {path:?} is not kept: {error}")));
            }
        }
    }

    /// Looks for the result of a step.
    pub(super) fn look_for(&mut self, stage: &StagePlan, step: &Step) -> Found {
        let (Some(chain), Some(needs)) = (self.caching.chain, self.needs(stage, step)) else {
            return Found::Missing { key: None, why: None };
        };
        let facts = self.facts(step, &needs);
        let key = chain.key(&facts);
        let record =
            StepRecord::new(&name_of(stage), &chain, self.caching.first, &facts, needs.files.clone());
        self.caching.now.steps.push(record);
        self.look(key, step, &needs.text)
    }

    fn facts<'a>(&'a self, step: &'a Step, needs: &'a Needs) -> Facts<'a> {
        Facts {
            section: &step.section,
            app: step.app.as_deref(),
            by: &needs.by,
            text: &needs.text,
            binds: &self.caching.binds,
            ids: self.caching.ids,
            architecture: &self.caching.architecture,
            copied: needs.copied.clone(),
        }
    }

    fn look(&mut self, key: Key, step: &Step, text: &[Lines]) -> Found {
        let name = step.section.trim_start_matches('%').to_lowercase();
        let flag = self
            .build
            .options
            .no_cache_from
            .iter()
            .any(|from| from.trim_start_matches('%').to_lowercase() == name);
        if !flag && let Some(layer) = self.caching.find(key) {
            return Found::Layer(layer);
        }
        // Kept beside a result that is in use, the new one would be taken for it.
        let key = Some(key).filter(|key| !flag || self.caching.make_room(*key));
        let caching = &self.caching;
        let index = caching.now.steps.len().saturating_sub(1);
        let why = caching.cache.is_some().then(|| match flag {
            true => why::Why::Flag("--no-cache-from").to_string(),
            false => why(caching.last.as_ref(), &caching.now, index, text).to_string(),
        });
        Found::Missing { key, why }
    }

    /// Keeps the layer that a step has made; gives where it is now.
    pub(super) fn keep(
        &mut self,
        stage: &StagePlan,
        step: &Step,
        (key, layer): (Option<Key>, PathBuf),
    ) -> PathBuf {
        let (Some(key), Some(cache)) = (key, &self.caching.cache) else {
            self.caching.go_on_alone();
            return layer;
        };
        let section = match &step.app {
            Some(app) => format!("{} {app}", step.section),
            None => step.section.clone(),
        };
        let made = Made {
            definition: self.build.plan.definition.clone(),
            stage: name_of(stage),
            section,
            line: first_line(step),
            parent: self.caching.parent,
        };
        match cache.keep_layer(&key, &layer, &made) {
            Ok(entry) => self.caching.enter(entry),
            Err(error) => {
                (self.build.tell)(Event::Warning(&error.to_string()));
                self.caching.go_on_alone();
                layer
            }
        }
    }

    /// A step whose result is not kept: nothing after it can be found.
    pub(super) fn not_kept(&mut self) {
        self.caching.go_on_alone();
    }

    /// What a step depends on; none for one that is done each time.
    fn needs(&self, stage: &StagePlan, step: &Step) -> Option<Needs> {
        self.caching.cache.as_ref()?;
        match &step.what {
            What::Run { by, text, .. } if step.section != "%setup" && step.section != "%pre" => {
                let mut needs = Needs { by: by.clone(), text: text.clone(), ..Needs::default() };
                if step.section == "%test" {
                    needs.by.push_str(if self.build.options.flags.writable_tmpfs {
                        " in memory"
                    } else {
                        ""
                    });
                    needs.copied.push(("files of the image".to_owned(), self.digest_of_written(stage)));
                }
                Some(needs)
            }
            What::Copy { from, into, files } => {
                let mut needs = Needs { by: into.clone(), ..Needs::default() };
                if let Some(from) = from {
                    let index = self.stages.iter().position(|stage| stage.name.as_ref() == Some(from))?;
                    needs.copied.push((format!("stage {from}"), (*self.caching.ends.get(index)?)?.digest()));
                }
                for file in files {
                    let target = file.target.as_deref().unwrap_or_default();
                    needs.text.push(Lines { line: file.line, text: format!("{} {target}", file.source) });
                    if from.is_none() {
                        self.look_at(file, &mut needs)?;
                    }
                }
                Some(needs)
            }
            _ => None,
        }
    }

    /// Whether a step that was looked for would have this key now. While files were copied, somebody may have written
    /// to them.
    pub(super) fn is_still(&mut self, key: Key, stage: &StagePlan, step: &Step) -> bool {
        let What::Copy { from: None, .. } = &step.what else { return true };
        let Some(record) = self.caching.now.steps.last() else { return false };
        // What has not changed need not be read again.
        let known = Known::of(
            self.caching
                .last
                .iter()
                .flat_map(|last| &last.steps)
                .chain([record])
                .flat_map(|step| &step.files),
        );
        self.caching.known = known;
        let facts = self.caching.chain.zip(self.needs(stage, step));
        facts.is_some_and(|(chain, needs)| chain.key(&self.facts(step, &needs)) == key)
    }

    /// Of the sections that become files of the image.
    pub(super) fn digest_of_written(&self, stage: &StagePlan) -> Digest {
        let mut hash = Sha256::new();
        let mut add = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        for step in stage.steps.iter().filter(|step| self.wanted(step)) {
            match &step.what {
                What::Write { path, by, text } => {
                    add(path);
                    add(by.as_deref().unwrap_or_default());
                    // Where it stands in the definition does not matter.
                    add(&joined(text));
                }
                What::Label { path, labels } => {
                    add(path);
                    labels.iter().for_each(|label| {
                        add(&label.name);
                        add(&label.value);
                    });
                }
                _ => continue,
            }
            add(&step.section);
            add(step.app.as_deref().unwrap_or_default());
        }
        Digest::of(hash.finalize().into())
    }

    /// What a line of %files copies from the host; none where copying will say what is wrong.
    fn look_at(&self, file: &crate::build::plan::CopyStep, needs: &mut Needs) -> Option<()> {
        let host = self.build.host;
        let variable = |name: &str| host.variable(name).map(|value| value.to_string_lossy().into_owned());
        for source in copy::find_sources(file, &copy::From::Host { variable: &variable }).ok()? {
            let tree = look(&source, Links::Follow, &self.caching.known).ok()?;
            needs.copied.push((source.to_string_lossy().into_owned(), tree.digest));
            needs.files.extend(tree.files);
        }
        Some(())
    }
}

fn name_of(stage: &StagePlan) -> String {
    stage.name.clone().unwrap_or_else(|| stage.number.to_string())
}

fn first_line(step: &Step) -> String {
    let lines = match &step.what {
        What::Run { text, .. } => {
            text.first().map(|lines| lines.text.trim().lines().next().unwrap_or_default())
        }
        What::Copy { files, .. } => files.first().map(|file| file.source.as_str()),
        What::Base { agent, .. } => Some(*agent),
        What::Write { .. } | What::Label { .. } => None,
    };
    lines.unwrap_or_default().trim().to_owned()
}
