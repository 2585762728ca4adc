//! What a user reads when something is wrong: the sentence, and the hint that says what to do. Hosts that forbid
//! something are in `hosts.rs`, packing that ends early in `build.rs`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{CWD, Mode};

use crate::harness::{Need, Place, able, busybox_tree, give};

const NEEDS: [Need; 3] = [Need::Userns, Need::Fuse, Need::Busybox];

/// Where the magic of a SIF is.
const SIF_MAGIC: usize = 32;

/// The table of descriptors, the bytes of one, and where in it are: the offset of the object, and the file system and
/// architecture of a partition.
const TABLE: usize = 4096;
const DESCRIPTOR: usize = 585;
const OFFSET: usize = 17;
const FILE_SYSTEM: usize = 201;
const ARCHITECTURE: usize = 209;
const PARTITION: [u8; 4] = 0x4004_u32.to_le_bytes();

/// Where in a superblock the block size and the places of the inodes and of the directories are.
const BLOCK_SIZE: usize = 12;
const INODES: usize = 64;
const DIRECTORIES: usize = 72;

/// skiff with these words fails, says all of `said`, and then a hint with `hint` in it.
#[track_caller]
fn assert_says(place: &Place, words: &[&str], said: &[&str], hint: &str) {
    let error = place.run(words).fails(255);
    let (message, rest) = error.split_once("\nhint: ").unwrap_or_else(|| panic!("no hint: {error}"));
    assert!(message.starts_with("skiff: ") && !message.contains('\n'), "{error}");
    for word in said {
        assert!(message.contains(word), "no {word:?} in {error}");
    }
    assert!(rest.contains(hint) && rest.ends_with('\n'), "no {hint:?} in {error}");
    assert!(!rest.ends_with(".\n") && !rest.starts_with(char::is_uppercase), "{error}");
}

/// An image of busybox with some programs that cannot be started, and its bytes.
fn image(place: &Place) -> Vec<u8> {
    let tree = place.work("tree");
    busybox_tree(&tree);
    // busybox has no dynamic loader beside it.
    fs::copy("/bin/ls", tree.join("bin/dynamic")).expect("ls can be copied");
    for (name, text, mode) in
        [("script", "#!/opt/none/python3\n", 0o755), ("plain", "#!/bin/sh\n", 0o644), ("empty", "", 0o755)]
    {
        let path = tree.join("bin").join(name);
        fs::write(&path, text).expect("a file can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode can be set");
    }
    give(&tree);
    fs::read(place.build("a.sif", &tree)).expect("there is an image")
}

fn superblock(bytes: &[u8]) -> usize {
    (0..bytes.len()).step_by(4096).find(|at| bytes[*at..].starts_with(b"hsqs")).expect("a superblock")
}

fn partition(bytes: &[u8]) -> usize {
    let mut slots = (0..48).map(|number| TABLE + number * DESCRIPTOR);
    slots.find(|at| bytes[*at..].starts_with(&PARTITION)).expect("a partition")
}

#[test]
fn what_is_not_an_image_is_said() {
    let place = Place::new("errors-no-image");
    place.write("text", "this is no image\n".repeat(100));
    place.write("nothing", "");
    place.write("closed", "x");
    fs::set_permissions(place.work("closed"), fs::Permissions::from_mode(0o000)).expect("mode can be set");
    rustix::fs::mkfifoat(CWD, place.work("pipe"), Mode::from_raw_mode(0o666)).expect("a pipe can be made");
    let kinds = "an image is a SIF file, a SquashFS file, or a directory";
    assert_says(&place, &["sif", "list", "pipe"], &["not a SIF file"], "copy or download it again");
    let none = ["cannot open SIF file", "none.sif", "no such file or directory"];
    assert_says(&place, &["sif", "list", "none.sif"], &none, "'skiff build IMAGE DIRECTORY' makes one");
    for (name, said, hint) in [
        ("none.sif", "no such file or directory", "'skiff build IMAGE DIRECTORY' makes one"),
        ("text", "it is not an image", kinds),
        ("nothing", "the file is empty", kinds),
        ("pipe", "it is neither a file nor a directory", kinds),
        ("closed", "permission denied", "must be readable for you"),
        ("nosuch://debian", "skiff knows no images of that kind", "docker://"),
    ] {
        for verb in ["exec", "inspect"] {
            let words = [verb, name, "true"];
            assert_says(&place, &words[..if verb == "exec" { 3 } else { 2 }], &[name, said], hint);
        }
    }
}

#[test]
fn damaged_images_are_named_with_what_is_wrong() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("errors-damaged");
    let bytes = image(&place);
    let (at, part) = (superblock(&bytes), partition(&bytes));
    let field = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().expect("a superblock")) as usize;
    let (inodes, directories) = (field(at + INODES), field(at + DIRECTORIES));
    let patched = |place: usize, patch: &[u8]| {
        let mut damaged = bytes.clone();
        damaged[place..place + patch.len()].copy_from_slice(patch);
        damaged
    };
    let beyond = 1_u64 << 40;
    for (name, damaged, said, hint) in [
        ("header.sif", bytes[..100].to_vec(), "not a SIF file: it has only 100 bytes", "copy or download it"),
        (
            "table.sif",
            bytes[..9000].to_vec(),
            "SIF file is truncated: the descriptor table",
            "copy or download it",
        ),
        (
            "half.sif",
            bytes[..bytes.len() / 2].to_vec(),
            "SIF file is truncated: object 2 ends",
            "copy or download it",
        ),
        (
            "beyond.sif",
            patched(part + OFFSET, &beyond.to_le_bytes()),
            "object 2 ends at byte 10",
            "copy or download it",
        ),
        (
            "bounds.sif",
            patched(part + OFFSET, &[0xff; 8]),
            "object 2 has impossible bounds",
            "the image is damaged",
        ),
        ("sif-magic.sif", patched(SIF_MAGIC, &[0; 10]), "its header is damaged", "the image is damaged"),
        (
            "encrypted.sif",
            patched(part + FILE_SYSTEM, &[5]),
            "its root file system is Encrypted squashfs, which skiff does not run",
            "unpack it with the tool that made it",
        ),
        ("magic.sif", patched(at, b"none"), "not a SquashFS file system (bad magic)", "the image is damaged"),
        ("super.sif", patched(at + BLOCK_SIZE, &[0xff; 4]), "impossible block size", "the image is damaged"),
        (
            "inode.sif",
            patched(at + inodes + 2, &vec![0xa5; directories - inodes - 2]),
            "inode 0x",
            "the image is damaged",
        ),
    ] {
        place.write(name, damaged);
        assert_says(&place, &["exec", name, "true"], &[name, said], hint);
    }
    // The data of all files. What the plan reads of them is not compressed, and wrong without being damaged.
    place.write("block.sif", patched(at + 96, &vec![0xa5; inodes - 96]));
    let words = ["build", "--sandbox", "unpacked", "block.sif"];
    assert_says(&place, &words, &["block.sif", "data block at 0x"], "the image is damaged");
    // Data that only the server reads is found damaged by the kernel.
    place.write("program.sif", patched(at + 96, &[0xa5; 4096]));
    let words = ["exec", "program.sif", "busybox"];
    assert_says(&place, &words, &["cannot run \"busybox\"", "input/output error"], "the image is damaged");
}

#[test]
fn an_image_for_another_processor_says_which() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("errors-processor");
    let mut bytes = image(&place);
    let at = partition(&bytes) + ARCHITECTURE;
    // Both places say it: the header, behind the first line, the magic and the version; and the partition.
    bytes[45..47].copy_from_slice(b"11");
    bytes[at..at + 2].copy_from_slice(b"11");
    place.write("a.sif", &bytes);
    let here = rustix::system::uname().machine().to_str().expect("text").to_owned();
    let said = ["a.sif", "it is for s390x", &format!("this machine is {here}")];
    assert_says(&place, &["exec", "a.sif", "true"], &said, "qemu-user-static");
}

#[test]
fn a_program_that_cannot_be_started_says_why() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("errors-program");
    image(&place);
    for (program, said, hint) in [
        ("nothing-like-it", "executable file not found in $PATH", "no such program in its PATH"),
        ("gerp", "executable file not found in $PATH", "it has grep"),
        ("/bin/none", "no such file or directory", "the container has no such file"),
        ("dynamic", "no such file or directory", "is not in the container"),
        ("/bin/script", "no such file or directory", "\"/opt/none/python3\", is not in the container"),
        ("/bin/plain", "permission denied", "chmod +x"),
        ("/bin", "permission denied", "is a directory"),
    ] {
        assert_says(&place, &["exec", "a.sif", program], &[program, said], hint);
    }
    assert_says(&place, &["exec", "a.sif"], &["no program was given"], "skiff exec IMAGE PROGRAM");
    let said = ["\"\"", "executable file not found in $PATH"];
    assert_says(&place, &["exec", "a.sif", ""], &said, "the name of the program is empty");
}

#[test]
fn binds_and_directories_that_cannot_be_had_say_what_to_do() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("errors-binds");
    image(&place);
    std::os::unix::fs::symlink("nowhere", place.work("dangling")).expect("a link can be made");
    let slash = "begin";
    for (flag, said, hint) in [
        ("--bind=/none/at/all", "no such file or directory", "it must be there on the host"),
        (
            "--mount=type=bind,src=/none/at/all,dst=/x",
            "no such file or directory",
            "it must be there on the host",
        ),
        ("--bind=/etc:/proc/none/x", "is below the mount \"/proc\"", "choose another path in the container"),
        ("--bind=/etc:/etc/passwd/x", "\"/etc/passwd\" is a file there", "not lead through a file"),
        ("--bind=/etc:/bin/plain", "it is a file in the container", "a file goes on a file"),
        ("--bind=/etc:/", "it is the container's root", "choose another path"),
        ("--bind=/etc:x", "the target is not an absolute path", slash),
        ("--scratch=x", "it is not an absolute path", slash),
        ("--home=/none/at/all", "no such file or directory", "mkdir -p"),
        ("--workdir=/none/at/all", "no such file or directory", "mkdir -p"),
        ("--home=/etc/passwd", "not a directory", "name a directory"),
        ("--home=/tmp:/", "it would hide the whole image", "--home SOURCE:/home/NAME"),
        ("--workdir=/etc/passwd", "it is a file", "name a directory"),
        (
            "--workdir=/usr",
            "cannot make the directory \"/usr/tmp\"",
            "that you can write to; name another one",
        ),
        ("--overlay=/proc", "cannot make the directory \"/proc/upper\"", "name another one"),
        ("--hostname=a b", "host name (--hostname a b): ' ' cannot be in one", "letters, digits, '-'"),
        (&format!("--hostname={}", "a".repeat(65)), "it has 65 bytes", "at most 64 letters"),
        ("--cwd=bin/plain", "\"/bin/plain\" (--cwd): it is a file in the container", "name a directory"),
        ("--cwd=/none/at/all", "the container has no such directory", "--bind"),
        ("--overlay=/none/at/all", "no such file or directory", "make the directory"),
        ("--env=NAME", "not NAME=VALUE", "NAME=\"$NAME\""),
        ("--env==x", "not NAME=VALUE", "NAME=\"$NAME\""),
        ("--env=1A=x", "\"1A\" is not the name of a variable", "begins with no digit"),
        ("--env=A.B=x", "\"A.B\" is not the name of a variable", "letters, digits and _"),
        ("--bind=dangling:/x", "it is a link to \"nowhere\", which does not exist", "leave the bind out"),
        ("--env-file=/none/at/all", "no such file or directory", "a file of the host"),
    ] {
        assert_says(&place, &["exec", "-c", flag, "a.sif", "true"], &[said], hint);
    }
    assert!(!Path::new("/none").exists());
}

#[test]
fn images_of_other_tools_that_are_not_there_say_what_makes_them() {
    let place = Place::new("errors-oci");
    for (image, hint) in [
        ("oci:none", "skopeo copy ... oci:DIR"),
        ("oci-archive:none", "docker save -o FILE"),
        ("docker-archive:none", "docker save -o FILE"),
    ] {
        assert_says(&place, &["build", "a.sif", image], &["\"none\"", "no such file or directory"], hint);
    }
}

#[test]
fn a_pull_into_the_place_of_a_directory_names_a_file_in_it() {
    let place = Place::new("errors-pull");
    fs::create_dir(place.work("real")).expect("a directory can be made");
    assert_says(
        &place,
        &["pull", "real", "docker://h/x"],
        &["\"real\": it is a directory"],
        "name a file, such as \"real/x",
    );
}

#[test]
fn a_typo_is_answered_by_what_is_nearest() {
    let place = Place::new("errors-typo");
    for (words, nearest) in [
        (&["exce", "a.sif", "true"][..], "'exec'"),
        (&["shel", "a.sif"], "'shell'"),
        (&["rnu", "a.sif"], "'run'"),
        (&["tset", "a.sif"], "'test'"),
        (&["exec", "--bnd", "/x", "a.sif", "true"], "'--bind'"),
        (&["run", "--env-fil", "x", "a.sif"], "'--env-file'"),
        (&["inspect", "--label", "a.sif"], "'--labels'"),
        (&["help", "inspetc"], "'inspect'"),
        (&["exec", "--contian", "a.sif", "true"], "'--contain'"),
        (&["run", "--cleanev", "a.sif"], "'--cleanenv'"),
        (&["build", "--sandox", "a", "b"], "'--sandbox'"),
    ] {
        let error = place.run(words).fails(255);
        assert!(error.starts_with("skiff: ") && error.contains(nearest), "{words:?}: {error}");
        // It would be an image's name.
        assert!(!error.contains("as a value"), "{words:?}: {error}");
    }
    let error = place.run(["exec", "--nonsense", "a.sif"]).fails(255);
    assert!(error.starts_with("skiff: unexpected argument '--nonsense' found\n\nUsage: "), "{error}");
}
