//! `%files`: from the host as `cp -fLr` does it, from stages with their roots, patterns, and what cannot be copied.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::{NEEDS, build, inside, place};
use crate::harness::able;

#[test]
fn files_of_the_host_are_copied_with_their_links_followed() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("files-host");
    fs::create_dir_all(place.work("tree/sub")).unwrap();
    place.write("tree/sub/file", "file\n");
    place.write("a b", "blank\n");
    place.write("program", "#!/bin/sh\n");
    fs::set_permissions(place.work("program"), fs::Permissions::from_mode(0o4775)).unwrap();
    symlink("sub/file", place.work("tree/link")).unwrap();
    symlink("sub", place.work("tree/way")).unwrap();
    crate::harness::give(&place.work("tree"));
    let text = "%files\n tree /into/deep/\n tree /new\n 'a b' /spaced\\ name\n program\n program /bin\n \
                tree/link /etc/\n tree/. /flat/\n";
    build(&place, &[], text).ok();
    assert_eq!(
        inside(&place, "cd /; cat into/deep/tree/sub/file 'spaced name'; find new into flat | sort"),
        "file\nblank\nflat\nflat/link\nflat/sub\nflat/sub/file\nflat/way\nflat/way/file\n\
         into\ninto/deep\ninto/deep/tree\ninto/deep/tree/link\ninto/deep/tree/sub\ninto/deep/tree/sub/file\n\
         into/deep/tree/way\ninto/deep/tree/way/file\nnew\nnew/link\nnew/sub\nnew/sub/file\nnew/way\nnew/way/file\n"
    );
    // Root's, as root would have copied them, and no link is left.
    let facts = "cd /; stat -c '%a %u:%g %F' program bin/program etc/link new/link new/way";
    let fakeroot = place.run(["exec", "--fakeroot", "new.sif", "sh", "-c", facts]).ok();
    assert_eq!(
        fakeroot,
        "755 0:0 regular file\n755 0:0 regular file\n644 0:0 regular file\n644 0:0 regular file\n755 0:0 directory\n"
    );
}

#[test]
fn patterns_find_what_a_shell_finds() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("files-patterns");
    for name in ["a1.txt", "a2.txt", "b1.txt", ".hidden.txt", "star*"] {
        place.write(name, name);
    }
    fs::create_dir(place.work("d")).unwrap();
    place.write("d/x.c", "x");
    let text = "%files\n a?.txt /one\n {a,b}1.txt /two/\n *.txt /three\n 'star*' /four\n */x.[ch] /five/\n $NAMED /six\n";
    place.write("new.def", format!("Bootstrap: localimage\nFrom: busybox.sif\n{text}"));
    let mut command = place.skiff(["build", "new.sif", "new.def"]);
    crate::harness::finish(command.env("NAMED", "b1.txt")).ok();
    assert_eq!(
        inside(&place, "cd /; ls -A one two three five; cat four; echo; cat six"),
        "five:\nx.c\n\none:\na1.txt\na2.txt\n\nthree:\na1.txt\na2.txt\nb1.txt\n\ntwo:\na1.txt\nb1.txt\nstar*\nb1.txt"
    );
    // What begins with a dot looks like something left behind.
    fs::remove_file(place.work(".hidden.txt")).unwrap();
    let said = build(&place, &[], "%files\n a1.txt /\n *.none /\n").fails(255);
    assert!(said.contains("skiff: new.def:5: cannot copy \"*.none\": no file matches\nhint: "), "{said}");
}

#[test]
fn what_cannot_be_copied_is_told_with_its_line() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("files-bad");
    fs::create_dir(place.work("tree")).unwrap();
    symlink("nowhere", place.work("tree/dangling")).unwrap();
    symlink("nowhere", place.work("named")).unwrap();
    crate::harness::give(&place.work("tree"));
    place.write("file", "x");
    for (line, message) in [
        ("missing /x", "cannot copy \"missing\": no such file or directory\nhint: a relative path"),
        (
            "named /x",
            "cannot copy \"named\": no such file or directory\nhint: it is a link that leads nowhere",
        ),
        ("tree /x", "cannot copy \"tree/dangling\": no such file or directory\nhint: it is a link"),
        ("file /etc/passwd/x", "cannot make the directory \"/etc/passwd\" in the image"),
        ("tree /etc/passwd", ""),
    ] {
        let said = build(&place, &[], &format!("%files\n {line}\n")).fails(255);
        let at = format!("skiff: new.def:4: {message}");
        assert!(said.contains(&at), "{line}: {said}");
    }
    assert!(!place.work("new.sif").exists());
}

#[test]
fn a_stage_gives_files_with_its_own_root() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("files-stage");
    let text = "Stage: make\n%post\n mkdir -p /out/sub; echo made >/out/file; echo made >/out/sub/file\n \
                ln -s file /out/link; ln -s /out /way; ln -s /etc/hostname /host\n echo image >/etc/hostname\n\
                Bootstrap: localimage\nFrom: busybox.sif\n%files from make\n /out /copy\n /way/link /named\n \
                /way/s* /glob/\n /host /hostname\n%post\n rm /bin/vi\n";
    build(&place, &[], text).ok();
    assert_eq!(
        inside(
            &place,
            "cd /; cat copy/sub/file named hostname glob/sub/file; readlink copy/link; stat -c %F named"
        ),
        "made\nmade\nimage\nmade\nfile\nregular file\n"
    );
    assert_eq!(inside(&place, "ls -d /out /way /bin/vi 2>/dev/null; echo none"), "none\n");
    let text = text.replace("/host /hostname", "/missing /x");
    let said = build(&place, &[], &text).fails(255);
    assert!(said.contains("cannot copy \"/missing\": the stage has no such file\nhint: "), "{said}");
}

#[test]
fn links_of_the_image_lead_nowhere_but_into_it() {
    if !able(&NEEDS) {
        return;
    }
    let place = place("files-links");
    let outside = place.work("outside");
    fs::create_dir(&outside).unwrap();
    crate::harness::give(&outside);
    let first = format!(
        "%post\n ln -s {} /way; ln -s {}/hit /etc/hit; mkdir -p /usr/real; ln -s /usr/real /lnk\n",
        outside.display(),
        outside.display()
    );
    build(&place, &[], &first).ok();
    fs::rename(place.work("new.sif"), place.work("busybox.sif")).unwrap();
    place.write("file", "file\n");
    build(&place, &[], "%files\n file /way/\n file /etc/hit\n file /lnk/\n").ok();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(inside(&place, "cat /usr/real/file /etc/hit"), "file\nfile\n");
}
