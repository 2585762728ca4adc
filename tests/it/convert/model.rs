//! Random stacks of layers: what is packed is what a simple model says, in which a tree is a list of paths.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;
use skiff::image::squashfs::FileKind;
use tar::EntryType;

use super::super::reader::{noise, scratch};
use super::made::{config, entry, gzip, header, layout};
use super::shown;

/// What a layer does.
#[derive(Debug, Clone)]
enum Op {
    Directory(String, u32),
    File(String, u64, usize),
    Hard(String, String),
    Link(String),
    Pipe(String),
    Whiteout(String),
    Opaque(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Directory,
    File(Vec<u8>),
    Link,
    Pipe,
}

/// A file: its number, what it is, its mode. Names of one file have one number.
type File = (usize, Kind, u32);

#[derive(Debug, Default)]
struct Model {
    files: BTreeMap<String, File>,
    count: usize,
}

fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(parent, _)| parent)
}

impl Model {
    fn is_directory(&self, path: &str) -> bool {
        matches!(self.files.get(path), Some((_, Kind::Directory, _)))
    }

    fn remove(&mut self, path: &str, itself: bool) {
        let below = format!("{path}/");
        self.files.retain(|name, _| !(itself && name == path || name.starts_with(&below)));
    }

    /// Makes the directories above `path`; false if something else is in the way.
    fn make_above(&mut self, path: &str) -> bool {
        let Some(above) = parent(path) else { return true };
        if !self.files.contains_key(above) {
            if !self.make_above(above) {
                return false;
            }
            self.put(above, Kind::Directory, 0o755);
        }
        self.is_directory(above)
    }

    fn put(&mut self, path: &str, kind: Kind, mode: u32) {
        if kind != Kind::Directory || !self.is_directory(path) {
            self.remove(path, true);
        }
        self.count += 1;
        self.files.insert(path.to_owned(), (self.count, kind, mode));
    }

    /// Does what a layer says of its own files; false for what no layer may say.
    fn add(&mut self, op: &Op) -> bool {
        let (Op::Directory(path, _)
        | Op::File(path, ..)
        | Op::Hard(path, _)
        | Op::Link(path)
        | Op::Pipe(path)) = op
        else {
            return true;
        };
        if let Op::Hard(path, target) = op {
            match self.files.get(target) {
                Some((_, Kind::Directory, _)) | None => return false,
                // Its own name, or one that would go with the directory that it replaces.
                Some(_) if target == path || target.starts_with(&format!("{path}/")) => return false,
                Some(_) => {}
            }
        }
        if !self.make_above(path) {
            return false;
        }
        match op {
            Op::Directory(_, mode) => self.put(path, Kind::Directory, *mode),
            Op::File(_, seed, size) => self.put(path, Kind::File(noise(*seed, *size)), 0o644),
            Op::Link(_) => self.put(path, Kind::Link, 0o777),
            Op::Pipe(_) => self.put(path, Kind::Pipe, 0o644),
            Op::Hard(_, target) => {
                let file = self.files[target].clone();
                self.remove(path, true);
                self.files.insert(path.clone(), file);
            }
            Op::Whiteout(_) | Op::Opaque(_) => {}
        }
        true
    }
}

/// Applies layers to the model; gives them as they are archived.
fn apply(model: &mut Model, stack: &[Vec<Op>]) -> Vec<Vec<u8>> {
    let mut layers = Vec::new();
    for ops in stack {
        for op in ops {
            match op {
                Op::Whiteout(path) => model.remove(path, true),
                Op::Opaque(path) if model.is_directory(path) => model.remove(path, false),
                _ => {}
            }
        }
        let mut layer = Vec::new();
        for op in ops {
            if model.add(op) {
                layer.extend(archived(op));
            }
        }
        layer.resize(layer.len() + 1024, 0);
        layers.push(gzip(&layer));
    }
    layers
}

fn archived(op: &Op) -> Vec<u8> {
    let named =
        |kind, path: &str, target: &str| entry(header(kind, 0), path.as_bytes(), target.as_bytes(), &[]);
    let beside =
        |path: &str, name: &str| parent(path).map_or(name.to_owned(), |above| format!("{above}/{name}"));
    match op {
        Op::Directory(path, mode) => {
            let mut header = header(EntryType::Directory, 0);
            header.set_mode(*mode);
            entry(header, format!("./{path}/").as_bytes(), b"", &[])
        }
        Op::File(path, seed, size) => {
            entry(header(EntryType::Regular, *size as u64), path.as_bytes(), b"", &noise(*seed, *size))
        }
        Op::Hard(path, target) => named(EntryType::Link, path, target),
        Op::Link(path) => named(EntryType::Symlink, path, "nowhere"),
        Op::Pipe(path) => named(EntryType::Fifo, path, ""),
        Op::Whiteout(path) => {
            let name = path.rsplit('/').next().unwrap_or(path);
            named(EntryType::Regular, &beside(path, &format!(".wh.{name}")), "")
        }
        Op::Opaque(path) => named(EntryType::Regular, &format!("{path}/.wh..wh..opq"), ""),
    }
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4).prop_map(|names| names.join("/"))
}

fn op() -> impl Strategy<Value = Op> {
    let size = prop::sample::select(vec![0_usize, 1, 3000, 131_072, 140_000, 400_000]);
    prop_oneof![
        3 => (path(), prop::sample::select(vec![0o755, 0o700, 0o1777])).prop_map(|(p, m)| Op::Directory(p, m)),
        5 => (path(), 0_u64..3, size).prop_map(|(p, seed, size)| Op::File(p, seed, size)),
        2 => (path(), path()).prop_map(|(p, target)| Op::Hard(p, target)),
        1 => path().prop_map(Op::Link),
        1 => path().prop_map(Op::Pipe),
        2 => path().prop_map(Op::Whiteout),
        1 => path().prop_map(Op::Opaque),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]
    #[test]
    fn stacks_of_layers_show_what_the_model_says(stack in prop::collection::vec(prop::collection::vec(op(), 0..10), 1..6)) {
        let mut model = Model::default();
        let layers = apply(&mut model, &stack);
        let place = scratch();
        let layout = layout(place.path(), &layers, &config(&[]));
        let mut found = shown(&format!("oci:{}", layout.display()));
        found.remove(&PathBuf::from("/"));
        let names: Vec<String> = found.keys().map(|path| path.display().to_string()[1..].to_owned()).collect();
        let expected: Vec<String> = model.files.keys().cloned().collect();
        prop_assert_eq!(&names.iter().collect::<std::collections::BTreeSet<_>>(), &expected.iter().collect());
        for (path, file) in &found {
            let (number, kind, mode) = &model.files[&path.display().to_string()[1..]];
            let links = model.files.values().filter(|(other, ..)| other == number).count();
            let found_kind = match file.kind {
                FileKind::Directory => Kind::Directory,
                FileKind::Regular => Kind::File(file.content.clone()),
                FileKind::Symlink => Kind::Link,
                FileKind::Fifo => Kind::Pipe,
                other => panic!("{path:?} is a {other:?}"),
            };
            prop_assert!(found_kind == *kind, "{:?}: another kind or content", path);
            prop_assert_eq!(file.mode & 0o7777, *mode, "{:?}", path);
            if file.kind != FileKind::Directory {
                prop_assert_eq!(file.links as usize, links, "{:?}", path);
            }
        }
    }
}
