//! `skiff cache`: list and clean what was fetched and what builds left to be used again.

use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::build::cache::{self, About, Cache, Cleaned, Filter, Kind, Listed, Outcome};
use crate::build::run::trees;
use crate::cache::clean::Listed as Fetched;
use crate::cache::{Kind as Stored, Store};
use crate::cli::Global;
use crate::cli::cache::{CacheAction, CacheArgs, CleanArgs, EntryType};
use crate::commands::{amount, note, printed, warn};
use crate::error::{Context, Error, Result};
use crate::host::Host;
use crate::plan::building;

/// The table's first line, in the columns of [`row`].
const HEADER: &str = "TYPE         SIZE   FILES  MADE      LAST USED  FROM\n";

/// No text of a definition is shown longer.
const WHAT_CHARACTERS: usize = 72;

/// The caches of the user, those that are there.
struct Caches {
    place: String,
    builds: Option<Cache>,
    fetched: Option<Store>,
}

/// What is in them.
struct Found {
    builds: Vec<Listed>,
    fetched: Vec<Fetched>,
}

impl Found {
    fn count(&self) -> usize {
        self.builds.len() + self.fetched.len()
    }

    fn bytes(&self) -> u64 {
        let builds = self.builds.iter().filter_map(|entry| Some(entry.about.as_ref()?.bytes));
        builds.chain(self.fetched.iter().map(|entry| entry.bytes)).sum()
    }
}

/// Runs `skiff cache`.
pub fn run(args: &CacheArgs, global: &Global) -> Result<i32> {
    let host = Host::probe();
    let place = cache::place(&host)?;
    // Looking at a cache that is not there makes none.
    let there = |name: &str| place.join(name).is_dir();
    let caches = Caches {
        place: place.to_string_lossy().into_owned(),
        builds: there("v1").then(|| Cache::open(&place, trees(&building::ids(&host).0))).transpose()?,
        fetched: there("fetched").then(|| Store::open(&place)).transpose()?,
    };
    match &args.action {
        CacheAction::List(args) => {
            let types = Types::of(&args.types);
            let mut builds = caches.builds.as_ref().map_or_else(|| Ok(Vec::new()), Cache::list)?;
            builds.retain(|entry| {
                let kind = entry.about.as_ref().map(|about| about.kind);
                types.builds.as_ref().is_none_or(|kinds| kind.is_some_and(|kind| kinds.contains(&kind)))
            });
            let found = Found { builds, fetched: types.fetched(&caches)? };
            printed(io::stdout().write_all(list(&found, args.json, &caches.place).as_bytes()))
        }
        CacheAction::Clean(_) if caches.builds.is_none() && caches.fetched.is_none() => {
            note(global, &format!("there is no cache in {place:?}"));
            Ok(0)
        }
        CacheAction::Clean(args) => clean(&caches, args, global),
    }
}

/// What the types on the command line name; none for everything.
struct Types {
    builds: Option<Vec<Kind>>,
    fetched: Option<Vec<Stored>>,
}

impl Types {
    fn of(types: &[EntryType]) -> Self {
        if types.is_empty() || types.contains(&EntryType::All) {
            return Self { builds: None, fetched: None };
        }
        let (mut builds, mut fetched) = (Vec::new(), Vec::new());
        for wanted in types {
            match wanted {
                EntryType::Layer => builds.push(Kind::Layer),
                EntryType::Image => builds.push(Kind::Image),
                EntryType::Oci => fetched.push(Stored::Image),
                EntryType::Blob => fetched.push(Stored::Blob),
                // Apptainer's: there is nothing of these.
                EntryType::All | EntryType::Shub | EntryType::Ipfs => {}
            }
        }
        Self { builds: Some(builds), fetched: Some(fetched) }
    }

    fn fetched(&self, caches: &Caches) -> Result<Vec<Fetched>> {
        let mut all = caches.fetched.as_ref().map_or_else(|| Ok(Vec::new()), Store::list)?;
        all.retain(|entry| self.fetched.as_ref().is_none_or(|kinds| kinds.contains(&entry.kind)));
        Ok(all)
    }
}

fn seconds_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

fn list(found: &Found, json: bool, place: &str) -> String {
    let bytes = found.bytes();
    if json {
        let builds = found.builds.iter().map(entry_json);
        let entries: Vec<Value> = builds.chain(found.fetched.iter().map(fetched_json)).collect();
        return format!("{:#}\n", json!({ "directory": place, "bytes": bytes, "entries": entries }));
    }
    let mut text = String::new();
    if found.count() > 0 {
        text = HEADER.to_owned();
        let now = seconds_now();
        for entry in &found.builds {
            text += &match &entry.about {
                Some(about) => row(
                    [
                        name(about.kind).to_owned(),
                        amount(about.bytes),
                        about.files.to_string(),
                        age(now - about.created),
                        age(now - entry.used),
                    ],
                    &what(entry, about),
                ),
                None => {
                    let [unknown, used] = ["?".to_owned(), age(now - entry.used)];
                    row([unknown.clone(), unknown.clone(), unknown.clone(), unknown, used], "damaged")
                }
            };
        }
        for entry in &found.fetched {
            let ages = [age(now - entry.created), age(now - entry.used)];
            let [made, used] = ages;
            let columns = [fetched_name(entry).to_owned(), amount(entry.bytes), "1".to_owned(), made, used];
            text += &row(columns, &fetched_what(entry));
        }
    }
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}, {} in {place}", count(found.count()), amount(bytes));
    text
}

fn fetched_name(entry: &Fetched) -> &'static str {
    match entry.kind {
        Stored::Image => "oci",
        Stored::Blob => "blob",
    }
}

/// What a file of the cache was made of, or its digest, without what could steer a terminal.
fn fetched_what(entry: &Fetched) -> String {
    let text = match (&entry.from, entry.unfinished) {
        (Some(from), _) => from.clone(),
        (None, true) => format!("{} (not all of it)", entry.key.split('.').next().unwrap_or_default()),
        (None, false) => format!("sha256:{}", entry.key),
    };
    shortened(&text)
}

fn fetched_json(entry: &Fetched) -> Value {
    json!({
        "key": entry.key,
        "type": fetched_name(entry),
        "bytes": entry.bytes,
        "files": 1,
        "created": entry.created,
        "used": entry.used,
        "from": entry.from,
        "unfinished": entry.unfinished,
    })
}

fn shortened(text: &str) -> String {
    let shown: String =
        text.chars().take(WHAT_CHARACTERS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let more = if text.chars().count() > WHAT_CHARACTERS { "…" } else { "" };
    format!("{shown}{more}")
}

fn row([kind, size, files, made, used]: [String; 5], what: &str) -> String {
    format!("{kind:<6} {size:>10} {files:>7}  {made:<8}  {used:<9}  {what}\n")
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Layer => "layer",
        Kind::Image => "image",
    }
}

fn count(entries: usize) -> String {
    if entries == 1 { "1 entry".to_owned() } else { format!("{entries} entries") }
}

/// How long ago something was; what is to come is now.
fn age(seconds: i64) -> String {
    match seconds {
        ..60 => "now".to_owned(),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86400),
    }
}

/// What made an entry, on one line and without what could steer a terminal.
fn what(entry: &Listed, about: &About) -> String {
    let made = &about.made;
    let section = &made.section;
    let stage = if made.stage.is_empty() { String::new() } else { format!(" [{}]", made.stage) };
    let line = if made.line.is_empty() { String::new() } else { format!(": {}", made.line.trim()) };
    let gone = if entry.reachable { "" } else { " (what it stands on is gone)" };
    let text = format!("{}{stage} {section}{line}", made.definition);
    format!("{}{gone}", shortened(&text))
}

fn entry_json(entry: &Listed) -> Value {
    let Some(about) = &entry.about else {
        return json!({ "type": "damaged", "used": entry.used, "reachable": false });
    };
    json!({
        "key": about.key.to_string(),
        "type": name(about.kind),
        "bytes": about.bytes,
        "files": about.files,
        "created": about.created,
        "used": entry.used,
        "reachable": entry.reachable,
        "definition": about.made.definition,
        "stage": about.made.stage,
        "section": about.made.section,
        "line": about.made.line,
    })
}

fn clean(caches: &Caches, args: &CleanArgs, global: &Global) -> Result<i32> {
    let types = Types::of(&args.types);
    let unused_days = args.days.filter(|days| *days > 0);
    let filter = Filter { unused_days, kinds: types.builds.clone() };
    let builds = |dry: bool| match &caches.builds {
        Some(cache) => cache.clean(&filter, dry),
        None => Ok(Vec::new()),
    };
    let now = seconds_now();
    let mut fetched = types.fetched(caches)?;
    fetched.retain(|entry| unused_days.is_none_or(|days| entry.is_unused_for(days, now)));
    let would = Found { builds: builds(true)?.into_iter().map(|cleaned| cleaned.entry).collect(), fetched };
    if args.dry_run {
        let text = list(&would, false, &caches.place);
        return printed(io::stdout().write_all(format!("would be removed:\n{text}").as_bytes()));
    }
    if would.count() > 0 && !args.force && !ask(&would, &caches.place)? {
        note(global, "nothing was removed");
        return Ok(0);
    }
    let mut outcomes = Outcomes::default();
    for Cleaned { entry, outcome } in builds(false)? {
        let bytes = entry.about.as_ref().map_or(0, |about| about.bytes);
        let named = || entry.about.as_ref().map_or_else(|| "an entry".into(), |about| what(&entry, about));
        outcomes.add(outcome, bytes, &named, global);
    }
    for entry in &would.fetched {
        let removed = caches.fetched.as_ref().map_or(Ok(true), |store| store.remove(entry));
        let outcome = match removed {
            Ok(true) => Outcome::Removed,
            Ok(false) => Outcome::InUse,
            Err(error) => Outcome::Failed(error),
        };
        outcomes.add(outcome, entry.bytes, &|| fetched_what(entry), global);
    }
    // What names meant is of no type, and goes with everything.
    if let (None, Some(store)) = (&types.fetched, &caches.fetched) {
        store.forget_names(unused_days);
    }
    outcomes.report(&caches.place, global)
}

/// Asks whether these are to go.
fn ask(found: &Found, place: &str) -> Result<bool> {
    let tried = || format!("cannot ask whether to remove {}", count(found.count()));
    let question =
        format!("Remove {}, {}, from {place:?}? [y/N] ", count(found.count()), amount(found.bytes()));
    io::stderr().write_all(question.as_bytes()).tried(tried)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).tried(tried)?;
    let typed = io::stdin().is_terminal();
    if !typed {
        // Nobody has ended the line.
        io::stderr().write_all(b"\n").tried(tried)?;
    }
    if answer.is_empty() && !typed {
        return Err(Error::usage(tried())
            .because("nobody answers")
            .hint("--force removes without a question"));
    }
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// What became of what was to go.
#[derive(Default)]
struct Outcomes {
    removed: usize,
    bytes: u64,
    used: usize,
    failed: bool,
}

impl Outcomes {
    fn add(&mut self, outcome: Outcome, bytes: u64, what: &dyn Fn() -> String, global: &Global) {
        match outcome {
            Outcome::Removed => {
                self.removed += 1;
                self.bytes += bytes;
            }
            Outcome::InUse => self.used += 1,
            Outcome::Failed(error) => {
                warn(global, &format!("cannot remove all of {}: {error}", what()));
                self.failed = true;
            }
        }
    }

    fn report(&self, place: &str, global: &Global) -> Result<i32> {
        if self.failed {
            return Err(Error::host(format!("cannot remove all of the cache in {place:?}"))
                .hint("what is left there can be removed by its owner, or by root: rm -r"));
        }
        let stays =
            if self.used > 0 { format!("; {} in use stayed", count(self.used)) } else { String::new() };
        note(global, &format!("removed {}, {}{stays}", count(self.removed), amount(self.bytes)));
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_for_people() {
        let ages = [-5, 0, 59, 60, 7199, 172_799, 172_800].map(age);
        assert_eq!(ages, ["now", "now", "now", "1 min", "1 h", "47 h", "2 days"]);
    }
}
