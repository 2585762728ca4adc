//! Images from definitions: every section seen in what was built, by skiff and, where it is there, by Apptainer;
//! mistakes, bad luck, and that nothing is left.

mod again;
mod bad_luck;
mod bases;
mod files;
mod output;
mod peers;
mod rebuilt;
mod roots;
mod sections;

use std::path::Path;

use crate::harness::{Need, Output, Place};

const NEEDS: [Need; 3] = [Need::Userns, Need::Fuse, Need::Busybox];

/// A place with `busybox.sif`.
fn place(name: &str) -> Place {
    let place = Place::new(name);
    place.busybox_image();
    place
}

/// Builds a definition over `busybox.sif` with some flags, into `new.sif`.
fn build(place: &Place, flags: &[&str], sections: &str) -> Output {
    place.write("new.def", format!("Bootstrap: localimage\nFrom: busybox.sif\n{sections}"));
    place.run([&["build", "--force"], flags, &["new.sif", "new.def"]].concat())
}

/// What a shell says in `new.sif`.
#[track_caller]
fn inside(place: &Place, script: &str) -> String {
    place.run(["exec", "--cleanenv", "--no-mount", "tmp,home,cwd", "new.sif", "sh", "-c", script]).ok()
}

/// The entries of work directories that are still there.
fn leavings(place: &Place) -> Vec<String> {
    let cache = place.home().join(".cache/skiff");
    let list = |path: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path().to_string_lossy().into_owned()).collect()
    };
    let work = list(&cache).into_iter().filter(|directory| directory.contains("/skiff-build-"));
    work.flat_map(|directory| list(Path::new(&directory))).collect()
}
