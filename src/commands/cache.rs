//! `skiff cache`: list and clean what builds left to be used again.

use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::build::cache::{self, About, Cache, Cleaned, Filter, Kind, Listed, Outcome};
use crate::build::run::trees;
use crate::cli::Global;
use crate::cli::cache::{CacheAction, CacheArgs, CleanArgs, EntryType, ListArgs};
use crate::commands::{amount, note, printed, warn};
use crate::error::{Context, Error, Result};
use crate::host::Host;
use crate::plan::building;

/// The table's first line, in the columns of [`row`].
const HEADER: &str = "TYPE         SIZE   FILES  MADE      LAST USED  FROM\n";

/// No text of a definition is shown longer.
const WHAT_CHARACTERS: usize = 60;

/// Runs `skiff cache`.
pub fn run(args: &CacheArgs, global: &Global) -> Result<i32> {
    let host = Host::probe();
    let place = cache::place(&host)?;
    // Looking at a cache that is not there makes none.
    let cache = match place.join("v1").is_dir() {
        true => Some(Cache::open(&place, trees(&building::ids(&host).0))?),
        false => None,
    };
    match &args.action {
        CacheAction::List(args) => {
            let entries = cache.map_or_else(|| Ok(Vec::new()), |cache| cache.list())?;
            let kinds = kinds(&args.types);
            let wanted = |entry: &Listed| {
                let kind = entry.about.as_ref().map(|about| about.kind);
                kinds.as_ref().is_none_or(|kinds| kind.is_some_and(|kind| kinds.contains(&kind)))
            };
            let entries: Vec<Listed> = entries.into_iter().filter(wanted).collect();
            let text = list(&entries, args, &place.to_string_lossy());
            printed(io::stdout().write_all(text.as_bytes()))
        }
        CacheAction::Clean(args) => match cache {
            Some(cache) => clean(&cache, args, global),
            None => {
                note(global, &format!("there is no cache in {place:?}"));
                Ok(0)
            }
        },
    }
}

/// What the types on the command line name; none for everything.
fn kinds(types: &[EntryType]) -> Option<Vec<Kind>> {
    if types.is_empty() || types.contains(&EntryType::All) {
        return None;
    }
    let kind = |wanted: &EntryType| match wanted {
        EntryType::Layer => Some(Kind::Layer),
        EntryType::Image => Some(Kind::Image),
        // Apptainer's: there is nothing of these.
        _ => None,
    };
    Some(types.iter().filter_map(kind).collect())
}

fn list(entries: &[Listed], args: &ListArgs, place: &str) -> String {
    let bytes: u64 = entries.iter().filter_map(|entry| Some(entry.about.as_ref()?.bytes)).sum();
    if args.json {
        let entries: Vec<Value> = entries.iter().map(entry_json).collect();
        return format!("{:#}\n", json!({ "directory": place, "bytes": bytes, "entries": entries }));
    }
    let mut text = String::new();
    if !entries.is_empty() {
        text = HEADER.to_owned();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        for entry in entries {
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
    }
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}, {} in {place}", count(entries.len()), amount(bytes));
    text
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
    let shown: String =
        text.chars().take(WHAT_CHARACTERS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let more = if text.chars().count() > WHAT_CHARACTERS { "…" } else { "" };
    format!("{shown}{more}{gone}")
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

fn clean(cache: &Cache, args: &CleanArgs, global: &Global) -> Result<i32> {
    let filter = Filter { unused_days: args.days.filter(|days| *days > 0), kinds: kinds(&args.types) };
    let would: Vec<Listed> = cache.clean(&filter, true)?.into_iter().map(|cleaned| cleaned.entry).collect();
    if args.dry_run {
        let args = ListArgs { types: Vec::new(), json: false };
        let text = list(&would, &args, &cache.place().to_string_lossy());
        return printed(io::stdout().write_all(format!("would be removed:\n{text}").as_bytes()));
    }
    if !would.is_empty() && !args.force && !ask(&would, cache)? {
        note(global, "nothing was removed");
        return Ok(0);
    }
    report(&cache.clean(&filter, false)?, cache, global)
}

/// Asks whether these are to go.
fn ask(entries: &[Listed], cache: &Cache) -> Result<bool> {
    let bytes = entries.iter().filter_map(|entry| Some(entry.about.as_ref()?.bytes)).sum();
    let tried = || format!("cannot ask whether to remove {}", count(entries.len()));
    let question =
        format!("Remove {}, {}, from {:?}? [y/N] ", count(entries.len()), amount(bytes), cache.place());
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

fn report(cleaned: &[Cleaned], cache: &Cache, global: &Global) -> Result<i32> {
    let (mut removed, mut bytes, mut used) = (0, 0, 0);
    let mut failed = None;
    for Cleaned { entry, outcome } in cleaned {
        match outcome {
            Outcome::Removed => {
                removed += 1;
                bytes += entry.about.as_ref().map_or(0, |about| about.bytes);
            }
            Outcome::InUse => used += 1,
            Outcome::Failed(error) => {
                let what = entry.about.as_ref().map_or_else(|| "an entry".into(), |about| what(entry, about));
                warn(global, &format!("cannot remove all of {what}: {error}"));
                failed = Some(Error::host(format!("cannot remove all of the cache in {:?}", cache.place())));
            }
        }
    }
    if let Some(error) = failed {
        return Err(error.hint("what is left there can be removed by its owner, or by root: rm -r"));
    }
    let stays = if used > 0 { format!("; {} in use stayed", count(used)) } else { String::new() };
    note(global, &format!("removed {}, {}{stays}", count(removed), amount(bytes)));
    Ok(0)
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
