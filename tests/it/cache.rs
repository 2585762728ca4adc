//! The build cache: kept and found, shared by builds, cleaned, on full and read-only disks, with builds killed at any
//! moment; and `skiff cache`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use skiff::build::cache::identity;
use skiff::build::cache::key::{Base, Digest, Instance, Key};
use skiff::build::cache::{Cache, Entry, Filter, Kind, Made, Outcome, Trees};

use crate::harness::{Need, Place, able, collect, describe, finish};

/// Files of a layer here.
const FILES: usize = 40;

fn open(place: &Path) -> Cache {
    Cache::open(place, Trees::default()).expect("the cache can be opened")
}

fn key(number: u8) -> Key {
    Base::Image(Digest::of([number; 32])).key()
}

fn made(section: &str) -> Made {
    Made {
        definition: "a.def".into(),
        stage: "1".into(),
        section: section.into(),
        line: "make\x1b[2J install".into(),
        parent: None,
    }
}

/// A layer whose files all say `text`.
fn layer(at: &Path, text: &str) -> PathBuf {
    fs::create_dir_all(at.join("upper/etc")).expect("a directory can be made");
    fs::create_dir_all(at.join("work/work")).expect("a directory can be made");
    for number in 0..FILES {
        fs::write(at.join(format!("upper/etc/{number}")), text).expect("a file can be written");
    }
    at.to_owned()
}

/// What the files of an entry say, which is the same in all of them, and that none is missing.
#[track_caller]
fn text_of(entry: &Entry) -> String {
    let texts: Vec<String> = (0..FILES)
        .map(|number| fs::read_to_string(entry.upper().join(format!("etc/{number}"))).expect("a whole layer"))
        .collect();
    assert!(texts.windows(2).all(|two| two[0] == two[1]), "{texts:?}");
    assert_eq!(entry.about.files, FILES as u64 + 2);
    texts[0].clone()
}

/// What lies in the part of the cache where entries are made and removed.
fn unfinished(cache: &Path) -> usize {
    fs::read_dir(cache.join("v1/new")).expect("it is there").count()
}

#[test]
fn a_layer_is_kept_and_found_again() {
    let place = Place::new("cache-keep");
    let (at, work) = (place.work("cache"), place.work("layer"));
    let cache = open(&at);
    assert!(cache.find(&key(1)).is_none());
    let kept = cache.keep_layer(&key(1), &layer(&work, "one"), &made("post")).expect("kept");
    assert!(!work.exists(), "it is moved");
    assert!(!kept.upper().with_file_name("work").exists(), "what the overlay worked in is gone");
    let instance = kept.instance();
    drop(kept);
    drop(cache);
    let cache = open(&at);
    let found = cache.find(&key(1)).expect("found");
    assert_eq!((text_of(&found).as_str(), found.instance()), ("one", instance));
    assert!(cache.find(&key(2)).is_none());
    let mode = fs::metadata(&at).expect("there").mode() & 0o777;
    assert_eq!((mode, unfinished(&at)), (0o700, 0));
    assert!(at.join("CACHEDIR.TAG").exists());
    // What is damaged is not found, and gives way.
    fs::write(found.upper().ancestors().nth(2).expect("the entry").join("about.json"), "{").expect("written");
    drop(found);
    assert!(cache.find(&key(1)).is_none());
    assert_eq!(cache.list().expect("listed")[0].about, None);
    let again = cache.keep_layer(&key(1), &layer(&work, "two"), &made("post")).expect("kept");
    assert_eq!(text_of(&again), "two");
}

#[test]
fn an_image_is_kept_and_found_again() {
    let place = Place::new("cache-image");
    let cache = open(&place.work("cache"));
    let file = place.write("base.squashfs", "hsqs");
    let kept = cache.keep_image(&key(1), &file, &made("Bootstrap")).expect("kept");
    assert!(!file.exists());
    assert_eq!((fs::read(kept.image()).expect("there"), kept.about.kind), (b"hsqs".to_vec(), Kind::Image));
}

#[test]
fn of_two_that_make_the_same_the_first_counts() {
    let place = Place::new("cache-two");
    let at = place.work("cache");
    let (one, two) = (open(&at), open(&at));
    assert!(one.find(&key(1)).is_none() && two.find(&key(1)).is_none());
    let first = one.keep_layer(&key(1), &layer(&place.work("1"), "one"), &made("post")).expect("kept");
    let second = two.keep_layer(&key(1), &layer(&place.work("2"), "two"), &made("post")).expect("found");
    assert_eq!((text_of(&second).as_str(), second.instance()), ("one", first.instance()));
}

#[test]
fn what_is_used_stays_and_what_nothing_leads_to_goes() {
    let place = Place::new("cache-clean");
    let cache = open(&place.work("cache"));
    let keep = |number: u8, parent: Option<Instance>| {
        let layer = layer(&place.work(number.to_string()), "x");
        cache.keep_layer(&key(number), &layer, &Made { parent, ..made("post") }).expect("kept")
    };
    let base = keep(1, None);
    let (child, lost) = (keep(2, Some(base.instance())), keep(3, Some(Instance::random())));
    let all = Filter::default();
    let outcomes = |cleaned: &[skiff::build::cache::Cleaned]| {
        let used = |one: &&skiff::build::cache::Cleaned| matches!(one.outcome, Outcome::InUse);
        (cleaned.len(), cleaned.iter().filter(used).count())
    };
    assert_eq!(outcomes(&cache.clean(&all, true).expect("listed")), (3, 0));
    assert_eq!(outcomes(&cache.clean(&all, false).expect("cleaned")), (3, 3));
    assert_eq!([&base, &child, &lost].map(|entry| text_of(entry)), ["x"; 3]);
    drop((child, lost));
    // Nothing here is old.
    let old = Filter { unused_days: Some(1), kinds: None };
    assert_eq!(outcomes(&cache.clean(&old, false).expect("cleaned")), (1, 0));
    assert!(cache.find(&key(3)).is_none() && cache.find(&key(2)).is_some());
    let images = Filter { unused_days: None, kinds: Some(vec![Kind::Image]) };
    assert_eq!(outcomes(&cache.clean(&images, false).expect("cleaned")), (0, 0));
    assert_eq!(outcomes(&cache.clean(&all, false).expect("cleaned")), (2, 1));
    assert_eq!((cache.list().expect("listed").len(), unfinished(&place.work("cache"))), (1, 0));
}

#[test]
fn only_what_was_not_used_for_days_is_old_whatever_the_clock_does() {
    let place = Place::new("cache-days");
    let at = place.work("cache");
    let cache = open(&at);
    let day = Duration::from_secs(86400);
    let now = SystemTime::now();
    for (number, used) in [(1, now - 3 * day), (2, now - day / 2), (3, now + 1000 * day)] {
        let layer = layer(&place.work(number.to_string()), "x");
        drop(cache.keep_layer(&key(number), &layer, &made("post")).expect("kept"));
        let lock =
            File::open(at.join("v1/entries").join(key(number).to_string()).join("lock")).expect("a lock");
        lock.set_modified(used).expect("a time can be set");
    }
    let cleaned = cache.clean(&Filter { unused_days: Some(2), kinds: None }, false).expect("cleaned");
    let keys = |about: &Option<skiff::build::cache::About>| about.as_ref().map(|about| about.key);
    assert_eq!(cleaned.iter().map(|one| keys(&one.entry.about)).collect::<Vec<_>>(), [Some(key(1))]);
    // The one from the future begins to age now.
    let latest = cache.list().expect("listed")[0].used;
    let limit = now.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs() as i64 + 86400;
    assert!(latest < limit, "{latest} {limit}");
}

#[test]
fn what_was_not_written_to_the_disk_does_not_outlast_a_boot() {
    let place = Place::new("cache-boot");
    let at = place.work("cache");
    let cache = open(&at);
    for (number, settled) in [(1, false), (2, true)] {
        let layer = layer(&place.work(number.to_string()), "old");
        let entry = cache.keep_layer(&key(number), &layer, &made("post")).expect("kept");
        let about = entry.upper().ancestors().nth(2).expect("the entry").join("about.json");
        if settled {
            cache.settle().expect("settled");
        }
        let mut other = entry.about.clone();
        other.boot = "another".into();
        fs::write(about, serde_json::to_vec(&other).expect("JSON")).expect("written");
    }
    // The second was settled, and the first with it: as if it had not been.
    fs::remove_file(at.join("v1/entries").join(key(1).to_string()).join("settled")).expect("it was settled");
    assert!(cache.find(&key(1)).is_none() && cache.find(&key(2)).is_some());
    let again = cache.keep_layer(&key(1), &layer(&place.work("1"), "new"), &made("post")).expect("kept");
    assert_eq!(text_of(&again), "new");
}

#[test]
fn an_image_is_recognised_without_being_read() {
    let place = Place::new("cache-identity");
    let identity =
        |image: &Path| identity::of_image(&skiff::image::open(image).expect("an image")).expect("readable");
    let tree = place.work("tree");
    fs::create_dir(&tree).expect("a directory can be made");
    let build = |name: &str, text: &str| {
        let file = place.write("tree/file", text.repeat(100_000));
        File::open(&file).expect("a file").set_modified(SystemTime::UNIX_EPOCH).expect("a time can be set");
        let image = place.work(name);
        let mut command =
            place.skiff(["build".as_ref(), "--reproducible".as_ref(), image.as_os_str(), "tree".as_ref()]);
        finish(command.env("SOURCE_DATE_EPOCH", "1700000000")).ok();
        File::open(&image)
            .expect("an image")
            .set_modified(SystemTime::UNIX_EPOCH)
            .expect("a time can be set");
        image
    };
    let one = build("one.sif", "a");
    let first = identity(&one);
    assert_eq!(identity(&one), first);
    // Moved, or made once more: the same bytes.
    let moved = place.work("moved.sif");
    fs::rename(&one, &moved).expect("renamed");
    assert_eq!(identity(&moved), first);
    assert_eq!(identity(&build("again.sif", "a")), first);
    // The same length, time, names and lengths of blocks: the contents alone differ.
    let other = build("other.sif", "b");
    let length = |path: &Path| fs::metadata(path).expect("there").len();
    assert_eq!(length(&other), length(&moved));
    assert_ne!(identity(&other), first);
    File::open(&moved).expect("an image").set_modified(SystemTime::now()).expect("a time can be set");
    assert_ne!(identity(&moved), first);
    assert_ne!(identity(&tree), first);
}

/// A variable that makes a test of this file play the part of another process.
const PART: &str = "CACHE_TEST_PART";

/// This program with one test alone, which finds `part` in [`PART`].
fn again(test: &str, part: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(PART, part);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Builds in a circle: some keys are looked up, made and kept, and now and then all is cleaned.
fn build_for(rounds: usize, at: &Path) {
    let seed = std::process::id() as usize;
    for round in 0..rounds {
        let cache = open(at);
        let number = ((seed + round * 7) % 5) as u8;
        let entry = cache.find(&key(number)).unwrap_or_else(|| {
            let work = at.with_file_name(format!("work-{}-{round}", std::process::id()));
            let entry = cache.keep_layer(&key(number), &layer(&work, &format!("{number}")), &made("post"));
            // Who comes second may leave its own where it is.
            let _ = fs::remove_dir_all(&work);
            entry.expect("an entry")
        });
        if round % 3 == 0 {
            cache.clean(&Filter::default(), false).expect("cleaned");
        }
        assert_eq!(text_of(&entry), format!("{number}"));
        cache.settle().expect("settled");
    }
}

#[test]
fn builds_at_the_same_time_do_not_disturb_each_other() {
    if let Some(at) = std::env::var_os(PART) {
        return build_for(60, Path::new(&at));
    }
    let place = Place::new("cache-parallel");
    let at = place.work("cache");
    let test = "cache::builds_at_the_same_time_do_not_disturb_each_other";
    let builds: Vec<_> = (0..4).map(|_| again(test, &at).spawn().expect("started")).collect();
    for build in builds {
        let said = collect(build, test.into()).ok();
        assert!(said.contains("1 passed"), "{said}");
    }
    let cache = open(&at);
    assert_eq!(unfinished(&at), 0);
    (0..5).filter_map(|number| Some((number, cache.find(&key(number))?))).for_each(|(number, entry)| {
        assert_eq!(text_of(&entry), format!("{number}"));
    });
}

#[test]
fn builds_killed_at_any_moment_leave_whole_entries_and_nothing_else() {
    if let Some(at) = std::env::var_os(PART) {
        return build_for(usize::MAX, Path::new(&at));
    }
    let place = Place::new("cache-killed");
    let at = place.work("cache");
    let test = "cache::builds_killed_at_any_moment_leave_whole_entries_and_nothing_else";
    let mut found = BTreeMap::new();
    let mut left = 0;
    for round in 0..60_u64 {
        let mut builds: Vec<_> = (0..2).map(|_| again(test, &at).spawn().expect("started")).collect();
        // The moment is what differs: the first entry is made some milliseconds after the start.
        let killed = std::time::Instant::now() + Duration::from_micros(4000 + round * 997 % 41_000);
        while std::time::Instant::now() < killed {
            std::thread::yield_now();
        }
        for build in &mut builds {
            build.kill().expect("killed");
            build.wait().expect("ended");
        }
        if at.join("v1/new").exists() {
            left += unfinished(&at);
        }
        let cache = open(&at);
        assert_eq!(unfinished(&at), 0, "the next build clears away what is left");
        for number in 0..5 {
            if let Some(entry) = cache.find(&key(number)) {
                assert_eq!(text_of(&entry), format!("{number}"));
                *found.entry(number).or_insert(0) += 1;
            }
        }
        for listed in cache.list().expect("listed") {
            assert!(listed.about.is_some(), "{listed:?}");
        }
    }
    // Else this test would have tried nothing.
    assert!(left > 0 && found.len() > 1, "{left} left, found {found:?}");
}

/// A test again, as root of a user and mount namespace of its own in which `script` has mounted something below
/// `own`. Only the tests' own user has rights there.
fn in_namespace(script: &str, test: &str, own: &Path) -> Command {
    let command = again(test, own);
    let mut outer = Command::new("unshare");
    outer.args(["-Urm", "sh", "-ec", &format!("{script}; exec \"$@\""), "sh"]).arg(command.get_program());
    outer.args(command.get_args()).env(PART, own);
    outer
}

/// A directory of the tests' own user.
fn own(place: &Place) -> PathBuf {
    let own = place.work("own");
    fs::create_dir(&own).expect("a directory can be made");
    own
}

#[test]
fn a_full_disk_keeps_nothing_and_takes_nothing_away() {
    if let Some(at) = std::env::var_os(PART) {
        let (cache, work) = (Path::new(&at).join("full"), Path::new(&at).join("layer"));
        let cache = open(&cache);
        let small = cache.keep_layer(&key(1), &layer(&work, "small"), &made("post")).expect("kept");
        assert_eq!(text_of(&small), "small");
        assert!(work.exists(), "on another file system it is copied");
        drop(small);
        layer(&work, &"large".repeat(20_000));
        let error = cache.keep_layer(&key(2), &work, &made("post")).expect_err("no space");
        assert_eq!(error.errno(), Some(libc::ENOSPC), "{error}");
        assert_eq!(fs::read_dir(work.join("upper/etc")).expect("it is still there").count(), FILES);
        assert_eq!(unfinished(cache.place()), 0);
        assert!(cache.find(&key(2)).is_none());
        // To the last byte, and room is made all the same.
        let mut filler = File::create(cache.place().join("filler")).expect("a file");
        while filler.write(&[0; 512]).is_ok_and(|written| written > 0) {}
        let cleaned = cache.clean(&Filter::default(), false).expect("cleaned");
        assert!(matches!(cleaned[0].outcome, Outcome::Removed), "{cleaned:?}");
        assert_eq!(cache.list().expect("listed").len(), 0);
        return;
    }
    if !able(&[Need::Userns]) {
        return;
    }
    let place = Place::new("cache-full");
    let own = own(&place);
    fs::create_dir(own.join("full")).expect("a directory can be made");
    let script = "mount -t tmpfs -o size=1m none \"$CACHE_TEST_PART/full\"";
    let test = "cache::a_full_disk_keeps_nothing_and_takes_nothing_away";
    let said = finish(&mut in_namespace(script, test, &own)).ok();
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
fn a_cache_that_can_only_be_read_is_read() {
    if let Some(at) = std::env::var_os(PART) {
        let cache = open(&Path::new(&at).join("cache"));
        let found = cache.find(&key(1)).expect("found");
        assert_eq!(text_of(&found), "x");
        let work = layer(&Path::new(&at).join("layer"), "y");
        let error = cache.keep_layer(&key(2), &work, &made("post")).expect_err("read-only");
        assert_eq!(error.errno(), Some(libc::EROFS), "{error}");
        assert!(work.join("upper/etc/0").exists());
        drop(found);
        let cleaned = cache.clean(&Filter::default(), false).expect("listed");
        assert!(matches!(&cleaned[0].outcome, Outcome::Failed(_)), "{cleaned:?}");
        return;
    }
    if !able(&[Need::Userns]) {
        return;
    }
    let place = Place::new("cache-read");
    let own = own(&place);
    let cache = open(&own.join("cache"));
    drop(cache.keep_layer(&key(1), &layer(&own.join("1"), "x"), &made("post")).expect("kept"));
    cache.settle().expect("settled");
    let script = "cd \"$CACHE_TEST_PART/cache\"; mount --bind . .; mount -o remount,bind,ro \"$PWD\"";
    let test = "cache::a_cache_that_can_only_be_read_is_read";
    let said = finish(&mut in_namespace(script, test, &own)).ok();
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
fn a_cache_that_is_not_the_callers_alone_is_refused() {
    let place = Place::new("cache-open");
    let at = place.work("cache");
    drop(open(&at));
    fs::set_permissions(at.join("v1"), fs::Permissions::from_mode(0o770)).expect("a mode can be set");
    let error = Cache::open(&at, Trees::default()).err().expect("refused");
    assert!(error.to_string().ends_with("others may write there"), "{error}");
    let file = place.write("file", "");
    let error = Cache::open(&file, Trees::default()).err().expect("refused");
    assert!(error.to_string().starts_with("cannot use the cache in "), "{error}");
    assert!(error.hint.expect("a hint").contains("SKIFF_CACHEDIR"));
}

/// `skiff cache` of the ordinary user on a cache of theirs with two layers and an image.
fn with_entries(place: &Place) -> PathBuf {
    let at = place.work("cache");
    let cache = open(&at);
    let base =
        cache.keep_image(&key(1), &place.write("base", vec![1; 100_000]), &made("Bootstrap")).expect("kept");
    for number in 2..4 {
        let made = Made { parent: Some(base.instance()), ..made("%post") };
        drop(
            cache
                .keep_layer(&key(number), &layer(&place.work(number.to_string()), "x"), &made)
                .expect("kept"),
        );
    }
    cache.settle().expect("settled");
    crate::harness::give(&at);
    at
}

fn skiff(place: &Place, words: &[&str]) -> Command {
    let mut command = place.skiff([&["cache"], words].concat());
    command.env("SKIFF_CACHEDIR", place.work("cache"));
    command
}

#[test]
fn the_verb_lists_what_is_there() {
    let place = Place::new("cache-list");
    let empty = place.run(["cache", "list"]).ok();
    assert_eq!(empty, format!("0 entries, 0 B in {}/.cache/skiff\n", place.home().display()));
    assert!(!place.home().join(".cache").exists(), "looking makes none");
    with_entries(&place);
    let list = |words: &[&str]| finish(&mut skiff(&place, &[&["list"], words].concat())).ok();
    let text = list(&[]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    assert!(lines[0].starts_with("TYPE "), "{text}");
    assert!(text.contains("a.def [1] %post: make [2J install\n"), "{text}");
    assert!(text.contains("image") && text.contains("a.def [1] Bootstrap: make"), "{text}");
    assert!(lines[4].starts_with("3 entries, ") && lines[4].ends_with("/cache"), "{text}");
    assert_eq!(list(&["--type", "image"]).lines().count(), 3);
    assert_eq!(list(&["-T", "blob,oci-tmp"]).lines().count(), 1);
    assert_eq!(list(&["-T", "all"]).lines().count(), 5);
    let json: serde_json::Value = serde_json::from_str(&list(&["--json"])).expect("JSON");
    let entries = json["entries"].as_array().expect("a list");
    let sum: u64 = entries.iter().map(|entry| entry["bytes"].as_u64().expect("a number")).sum();
    assert_eq!((entries.len(), json["bytes"].as_u64()), (3, Some(sum)));
    let wrong = finish(&mut skiff(&place, &["list", "--type", "layers"])).fails(255);
    assert!(wrong.contains("layer"), "{wrong}");
}

#[test]
fn the_verb_asks_before_it_cleans() {
    let place = Place::new("cache-ask");
    let at = with_entries(&place);
    let entries = || fs::read_dir(at.join("v1/entries")).expect("there").count();
    let clean = |words: &[&str], answer: &str| {
        let mut command = skiff(&place, &[&["clean"], words].concat());
        let text = describe(&command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("started");
        // It may not read it at all.
        let _ = child.stdin.take().expect("a pipe").write_all(answer.as_bytes());
        collect(child, text)
    };
    let dry = clean(&["--dry-run"], "").ok();
    assert!(dry.starts_with("would be removed:\nTYPE") && dry.contains("3 entries"), "{dry}");
    let silence = clean(&[], "").fails(255);
    assert!(silence.contains("nobody answers") && silence.contains("--force"), "{silence}");
    let no = clean(&[], "\n");
    assert_eq!((no.status.code(), entries()), (Some(0), 3), "{}", no.stderr);
    assert!(
        no.stderr.contains("Remove 3 entries, ") && no.stderr.contains("nothing was removed"),
        "{}",
        no.stderr
    );
    assert_eq!(clean(&["--days", "1"], "").stderr, "skiff: removed 0 entries, 0 B\n");
    clean(&["--type", "layer"], "y\n").ok();
    assert_eq!(entries(), 1);
    let used = open_as_root_is_enough(&at);
    let stays = clean(&["-f"], "");
    assert!(stays.stderr.contains("removed 0 entries, 0 B; 1 entry in use stayed"), "{}", stays.stderr);
    drop(used);
    assert!(clean(&["--force"], "").stderr.contains("removed 1 entry, "));
    assert_eq!((entries(), unfinished(&at)), (0, 0));
}

/// The lock of the entry that is left, as a build holds it.
fn open_as_root_is_enough(at: &Path) -> File {
    let entry = fs::read_dir(at.join("v1/entries")).expect("there").next().expect("one").expect("readable");
    let lock = File::open(entry.path().join("lock")).expect("a lock");
    lock.lock_shared().expect("free");
    lock
}
