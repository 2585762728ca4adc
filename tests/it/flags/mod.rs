//! The flags of `skiff exec`, each seen from inside the container by what the kernel says there (`/proc/self`,
//! `stat`, `ls`), as an ordinary user and, where it can differ, with `--fakeroot` and as root.

mod contain;
mod environment;
mod files;
mod identity;
mod namespaces;
mod writes;

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::Path;

use skiff::cli::other::OTHERS;

use crate::harness::{Need, Output, Place, able, finish};

const NEEDS: [Need; 3] = [Need::Userns, Need::Fuse, Need::Busybox];

/// Who runs skiff, and as whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// The ordinary user.
    User,
    /// The ordinary user, who looks like root.
    Fakeroot,
    /// Root.
    Root,
}

impl Who {
    /// All that the tests can be.
    fn all() -> Vec<Self> {
        let root = nix::unistd::geteuid().is_root().then_some(Self::Root);
        [Self::User, Self::Fakeroot].into_iter().chain(root).collect()
    }

    /// A script in a container with these flags, not yet started.
    fn command(self, place: &Place, flags: &[&str], script: &str) -> std::process::Command {
        let look = if self == Self::Fakeroot { ["--fakeroot"].as_slice() } else { &[] };
        let words = [&["exec"], look, flags, &["busybox.sif", "sh", "-c", script]].concat();
        let mut command = place.skiff(words);
        if self == Self::Root {
            command.uid(0).gid(0);
        }
        command
    }

    /// Runs a script in a container with these flags.
    fn run(self, place: &Place, flags: &[&str], script: &str) -> Output {
        finish(&mut self.command(place, flags, script))
    }
}

/// What a script prints in the ordinary user's container with these flags.
#[track_caller]
fn inside(place: &Place, flags: &[&str], script: &str) -> String {
    Who::User.run(place, flags, script).ok()
}

/// The same with variables of the caller in place of flags.
#[track_caller]
fn with_variables(place: &Place, variables: &[(&str, &str)], script: &str) -> String {
    finish(Who::User.command(place, &[], script).envs(variables.iter().copied())).ok()
}

/// The error that these flags are answered with.
#[track_caller]
fn refused(place: &Place, flags: &[&str]) -> String {
    Who::User.run(place, flags, "true").fails(255)
}

/// A mount as /proc/self/mountinfo shows it.
#[derive(Debug, Clone)]
struct Mounted {
    /// Its options (`ro,nosuid,...`).
    options: Vec<String>,
    /// Its file system (`tmpfs`, `fuse`, ...).
    kind: String,
}

impl Mounted {
    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|one| one == option)
    }
}

/// The mounts of a container by their targets; of several on one target the last, which is the one that is seen.
fn mounts(mountinfo: &str) -> BTreeMap<String, Mounted> {
    let mount = |line: &str| {
        let (fields, kind) = line.split_once(" - ")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let options = fields.get(5)?.split(',').map(str::to_owned).collect();
        let kind = kind.split(' ').next()?.to_owned();
        Some(((*fields.get(4)?).to_owned(), Mounted { options, kind }))
    };
    mountinfo.lines().map(|line| mount(line).unwrap_or_else(|| panic!("no mount: {line:?}"))).collect()
}

/// The fields of a `status` file of /proc.
fn status(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .map(|(name, value)| (name.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" ")))
        .collect()
}

/// A directory of the place with a file in it.
fn directory(place: &Place, name: &str, file: &str, content: &str) {
    let path = place.work(name);
    std::fs::create_dir_all(&path).expect("a directory can be made");
    std::fs::write(path.join(file), content).expect("a file can be written");
    crate::harness::give(&path);
}

/// Device and inode, as `stat -c %d:%i` prints them.
fn identity(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    let facts = std::fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    format!("{}:{}", facts.dev(), facts.ino())
}

#[test]
fn a_flag_with_an_empty_value_counts_as_not_given() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-empty");
    place.busybox_image();
    let others = OTHERS.iter().filter(|other| other.takes_value).map(|other| other.name);
    let own = "add-caps app authfile bind cdi-dirs containlibs cwd device dns docker-host docker-username drop-caps \
               env env-file home hostname library mount network no-env no-mount overlay scratch workdir";
    let flags: Vec<String> = others.chain(own.split_whitespace()).map(|name| format!("--{name}=")).collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let said = Who::User.run(&place, &flags, "echo in");
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("in\n", ""));
    assert_eq!(place.run(["shell", "--shell=", "busybox.sif", "-c", "echo in"]).ok(), "in\n");
    // Another value beside it counts, and so does the variable.
    assert!(refused(&place, &["--memory=", "--memory=4G"]).contains("--memory is not there yet"));
    let mut command = Who::User.command(&place, &["--scratch="], "ls -d /scratched");
    assert_eq!(finish(command.env("SKIFF_SCRATCH", "/scratched")).ok(), "/scratched\n");
}
