//! Callers and places that lack something: no home, no passwd entry, closed and missing directories, wrong variables,
//! other containers around.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::harness::{Output, give, user};

/// A uid that has no passwd entry.
const NOBODY: u32 = 48_217;

/// Runs `skiff WORDS` as a user without entry. Needs root.
fn as_nobody(place: &Place, words: &[&str], home: Option<&Path>) -> Output {
    let mut command = place.skiff(words);
    command.uid(NOBODY).gid(NOBODY).env_remove("USER").env_remove("LOGNAME").env_remove("HOME");
    if let Some(home) = home {
        command.env("HOME", home);
    }
    finish(&mut command)
}

#[test]
fn a_caller_without_passwd_entry_and_home_gets_a_container() {
    if !able(&[Need::Root, Need::Userns, Need::Fuse, Need::Busybox]) {
        return;
    }
    let place = Place::new("circumstances-nobody");
    place.busybox_image();
    for flags in WAYS {
        let words = [&["exec"], flags, &["busybox.sif", "sh", "-c", "id -u; id -g; id -un; pwd; echo $HOME"]]
            .concat();
        let work = place.work("");
        let work = work.to_str().expect("text").trim_end_matches('/');
        let expected = |home: &str| format!("{NOBODY}\n{NOBODY}\nuser{NOBODY}\n{work}\n{home}\n");
        assert_eq!(as_nobody(&place, &words, None).ok(), expected("/"), "{flags:?}");
        // A home that is not there, and one that may not be looked into.
        let missing = Path::new("/home/missing");
        assert_eq!(as_nobody(&place, &words, Some(missing)).ok(), expected("/home/missing"), "{flags:?}");
        let closed = Path::new("/root");
        assert_eq!(as_nobody(&place, &words, Some(closed)).ok(), expected("/root"), "{flags:?}");
    }
    assert_eq!(as_nobody(&place, &["exec", "-f", "busybox.sif", "id", "-un"], None).ok(), "root\n");
    assert_eq!(
        as_nobody(&place, &["exec", "-C", "busybox.sif", "id", "-u"], None).ok(),
        format!("{NOBODY}\n")
    );
}

#[test]
fn a_closed_working_directory_is_the_callers_own() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("circumstances-closed");
    let image = place.busybox_image();
    let closed = place.work("closed/below");
    fs::create_dir_all(&closed).expect("a directory can be made");
    fs::write(closed.join("file"), "text\n").expect("a file can be written");
    give(&place.work("closed"));
    fs::set_permissions(place.work("closed"), fs::Permissions::from_mode(0o700)).expect("modes can be set");
    // The image too may be in it.
    fs::copy(&image, closed.join("busybox.sif")).expect("an image can be copied");
    give(&place.work("closed"));
    for flags in [&[][..], &["--fakeroot"], &["--pid"], &["--no-mount", "tmp"]] {
        let words =
            [&["exec"], flags, &["busybox.sif", "sh", "-c", "pwd; cat file; echo x >new && rm new"]].concat();
        let printed = finish(place.skiff(words).current_dir(&closed)).ok();
        assert_eq!(printed, format!("{}\ntext\n", closed.display()), "{flags:?}");
    }
}

#[test]
fn a_working_directory_that_the_container_lacks_gives_way_to_home_or_the_root() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("circumstances-directory");
    let image = place.busybox_image();
    let image = image.to_str().expect("text");
    let home = nix::unistd::User::from_name(&user().name).expect("users can be read").expect("the user").dir;
    for directory in ["/usr/share", "/var/lib"] {
        let start = |flags: &[&str]| {
            let words = [&["exec"], flags, &[image, "sh", "-c", "pwd; echo $PWD"]].concat();
            finish(place.skiff(words).current_dir(directory)).ok()
        };
        let home = home.display();
        assert_eq!(start(&[]), format!("{home}\n{home}\n"), "{directory}");
        assert_eq!(start(&["--no-home"]), "/\n/\n", "{directory}");
    }
    // One that is gone.
    let mut command = place.command("sh");
    let script =
        format!("mkdir gone; cd gone; rmdir ../gone; exec {} exec {image} pwd", skiff_binary().display());
    let printed = finish(command.arg("-c").arg(script)).ok();
    assert_eq!(printed, format!("{}\n", home.display()));
    // One that is not for the caller.
    if nix::unistd::geteuid().is_root() {
        let closed = place.work("closed");
        fs::create_dir(&closed).expect("a directory can be made");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("modes can be set");
        let script = format!(
            "cd closed && exec setpriv --reuid {uid} --regid {gid} --clear-groups {skiff} exec {image} pwd",
            uid = user().uid,
            gid = user().gid,
            skiff = skiff_binary().display()
        );
        let mut command = place.command("sh");
        let printed = finish(command.arg("-c").arg(script).uid(0).gid(0)).ok();
        assert_eq!(printed, format!("{}\n", home.display()));
    }
}

#[test]
fn variables_that_name_no_directory_do_no_harm() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("circumstances-variables");
    place.busybox_image();
    for variable in ["XDG_RUNTIME_DIR", "TMPDIR", "HOME"] {
        for value in
            [None, Some(""), Some("relative"), Some("/nowhere/at/all"), Some("/dev/null"), Some("/root")]
        {
            let mut command = command(&place, &[], "echo here");
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
            let output = finish(&mut command);
            assert_eq!(output.stderr, "", "{variable}={value:?}");
            assert_eq!(output.ok(), "here\n", "{variable}={value:?}");
        }
    }
}

#[test]
fn a_container_in_a_container_shows_the_same_caller() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("circumstances-nested");
    place.busybox_image();
    // skiff itself needs the host's C library.
    let skiff = skiff_binary().to_str().expect("text");
    let bind = format!("{skiff}:/bin/skiff,/lib,/lib64,/usr/lib");
    let script = "id -u; id -g; pwd; cat file";
    place.write("file", "text\n");
    let outside = command(&place, &[], script).output().expect("skiff runs").stdout;
    for outer in [&[][..], &["--pid"], &["--contain", "--bind", "/dev/fuse", "--bind", "."]] {
        for inner in [&[][..], &["--pid"]] {
            let words =
                [&["exec", "--bind", &bind], outer, &["busybox.sif", "/bin/skiff", "exec"], inner].concat();
            let words = [&words[..], &["busybox.sif", "sh", "-c", script]].concat();
            let mut command = place.skiff(words);
            let printed = finish(command.env("SKIFFENV_SKIFF_LINGER", "0")).ok();
            assert_eq!(printed.as_bytes(), outside, "{outer:?} {inner:?}");
        }
    }
    // The inner server is killed with all of an outer container that has processes of its own, at times before it has
    // taken its socket away. Whoever leaves next does that.
    finish(&mut command(&place, &[], "true")).ok();
}

#[test]
fn a_container_in_bubblewrap_shows_the_same_caller() {
    if !able(&[Need::Userns, Need::Fuse, Need::Busybox, Need::Bubblewrap]) {
        return;
    }
    let place = Place::new("circumstances-bubblewrap");
    place.busybox_image();
    let script = "id -u; pwd";
    let outside = command(&place, &[], script).output().expect("skiff runs").stdout;
    for (outer, inner) in [
        (&["--dev-bind", "/", "/"][..], &[][..]),
        (&["--dev-bind", "/", "/", "--unshare-user"], &[]),
        (&["--dev-bind", "/", "/", "--unshare-pid", "--proc", "/proc"], &["--pid"]),
        (&["--bind", "/", "/", "--dev", "/dev", "--dev-bind", "/dev/fuse", "/dev/fuse"], &["--pid"]),
    ] {
        let mut command = place.command("bwrap");
        command.args(outer).arg(skiff_binary()).arg("exec").args(inner).args([
            "busybox.sif",
            "sh",
            "-c",
            script,
        ]);
        let output = finish(&mut command);
        assert_eq!(output.stdout.as_bytes(), outside, "{outer:?}: {output:?}");
    }
}
