//! Which processes are a test's: those that carry its mark in their environment, and servers, which show none.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::MARK;

/// The processes that are alive of the test whose place is `directory`.
pub fn of(directory: &Path) -> Vec<i32> {
    let listed = fs::read_dir("/proc").expect("/proc can be listed").flatten();
    let all: Vec<i32> = listed.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let marked: Vec<i32> = all.iter().copied().filter(|pid| is_marked(*pid, directory)).collect();
    let containers: Vec<PathBuf> = marked.iter().filter_map(|pid| mount_namespace(*pid)).collect();
    let ours = |pid: &i32| match read(*pid, "comm").as_slice() {
        b"skiff-keeper\n" | b"skiff-unpacked\n" => opens_below(*pid, directory),
        b"skiff-worker\n" => {
            opens_below(*pid, directory) || parent(*pid).is_some_and(|keeper| opens_below(keeper, directory))
        }
        // It stands in the container of the program that it answers for, and ends with it.
        b"skiff-emulate\n" => mount_namespace(*pid).is_some_and(|own| containers.contains(&own)),
        _ => marked.contains(pid),
    };
    all.iter().copied().filter(ours).collect()
}

fn read(pid: i32, file: &str) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

fn is_marked(pid: i32, directory: &Path) -> bool {
    let mark = [MARK, "=", directory.to_str().expect("the name of a place is text")].concat();
    read(pid, "environ").split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
}

/// Whether it has a file of the place open: the image, or the directory where containers meet their server.
fn opens_below(pid: i32, directory: &Path) -> bool {
    let opened = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut paths = opened.filter_map(|entry| fs::read_link(entry.path()).ok());
    paths.any(|path| path.starts_with(directory))
}

fn parent(pid: i32) -> Option<i32> {
    let stat = String::from_utf8(read(pid, "stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn mount_namespace(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()
}
