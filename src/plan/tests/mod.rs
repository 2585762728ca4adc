//! Whole plans on made-up hosts and images: the traps of mounts, working directories and environments.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::image::Tree;
use crate::image::tree::Directory;

mod apps;
mod cwd;
mod environment;
mod golden;
mod gpu;
mod inject;
mod mpi;

/// A host and an image, each a directory. Entries: `a/` a directory, `a -> b` a link, `a = text` a file,
/// `a` an empty file.
struct World {
    host_files: TempDir,
    image_files: TempDir,
    host: Host,
    flags: ContainerFlags,
    config: Config,
    action: Action,
    machine: Option<&'static str>,
    shell: Option<&'static str>,
    words: Vec<OsString>,
    /// What becomes the root, unless the directory itself.
    root: Option<Root>,
}

const HOST: &[&str] = &[
    "dev/",
    "proc/",
    "sys/",
    "tmp/",
    "var/tmp/",
    "home/ada/",
    "etc/hosts",
    "etc/resolv.conf",
    "etc/localtime",
];
const IMAGE: &[&str] = &[
    "dev/",
    "proc/",
    "sys/",
    "tmp/",
    "var/tmp/",
    "home/",
    "etc/hosts",
    "etc/resolv.conf",
    "etc/localtime",
    "etc/passwd = root:x:0:0::/root:/bin/sh",
    "etc/group = root:x:0:",
    "bin/sh",
    "bin/bash",
];

fn fill(directory: &Path, entries: &[&str]) {
    for entry in entries {
        let (name, what) = match (entry.split_once(" -> "), entry.split_once(" = ")) {
            (Some((name, target)), _) => (name, Err(target)),
            (_, Some((name, text))) => (name, Ok(text)),
            _ => (*entry, Ok("")),
        };
        let path = directory.join(name.trim_end_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match what {
            _ if name.ends_with('/') => fs::create_dir_all(&path).unwrap(),
            Err(target) => {
                // A later entry replaces an earlier one.
                let _ = fs::remove_file(&path);
                let _ = fs::remove_dir(&path);
                symlink(target, &path).unwrap();
            }
            Ok(text) => {
                fs::write(&path, text).unwrap();
                let mode = if name.starts_with("bin/") { 0o755 } else { 0o644 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
    }
}

fn world(host: &[&str], image: &[&str]) -> World {
    let (host_files, image_files) = (place(), place());
    fill(host_files.path(), HOST);
    fill(host_files.path(), host);
    fill(image_files.path(), IMAGE);
    fill(image_files.path(), image);
    let mut host = Host::made_up(&fs::canonicalize(host_files.path()).unwrap());
    host.cwd = Some("/home/ada".into());
    World {
        host_files,
        image_files,
        host,
        flags: ContainerFlags::default(),
        config: Config::default(),
        action: Action::Exec,
        machine: None,
        shell: None,
        words: vec!["true".into()],
        root: None,
    }
}

/// A directory in memory, where there is one: an overlay can be on that whatever the tests themselves are on.
fn place() -> TempDir {
    tempfile::Builder::new().tempdir_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

impl World {
    fn plan(&self) -> Result<RunPlan> {
        self.decided(decide)
    }

    /// The plan with what a feature brings in.
    fn plan_with(&self, injection: &Injection) -> Result<RunPlan> {
        self.decided(|request, host, config, tree| decide_with(request, host, config, tree, injection))
    }

    fn decided(
        &self,
        decide: impl Fn(&Request<'_>, &Host, &Config, &Tree) -> Result<RunPlan>,
    ) -> Result<RunPlan> {
        let request = Request {
            action: self.action,
            flags: &self.flags,
            words: &self.words,
            shell: self.shell.map(Path::new),
            image: Path::new("/images/a.sif"),
            root: self.root.clone().unwrap_or(Root::Directory(HostPath("/images/a.sif".into()))),
            machine: self.machine,
        };
        let tree = Tree::Directory(Directory::open(self.image_files.path()).unwrap());
        decide(&request, &self.host, &self.config, &tree)
    }

    fn bind(mut self, binds: &[&str]) -> Self {
        self.flags.bind.extend(binds.iter().map(OsString::from));
        self
    }

    fn cwd(mut self, cwd: &str) -> Self {
        self.host.cwd = Some(cwd.into());
        self
    }

    fn home(mut self, home: &str) -> Self {
        self.host.user.get_mut().unwrap().home = Some(home.into());
        self
    }

    /// The mounts that are not the usual ones: `target < source`.
    fn mounts(&self) -> Vec<String> {
        let usual = [
            "/dev",
            "/proc",
            "/sys",
            "/tmp",
            "/var/tmp",
            "/etc/hosts",
            "/etc/resolv.conf",
            "/etc/localtime",
            "/etc/passwd",
            "/etc/group",
        ];
        self.all_mounts().into_iter().filter(|line| !usual.contains(&line.as_str())).collect()
    }

    /// All mounts: `target` when it is the host's same path or made, else `target < source`.
    fn all_mounts(&self) -> Vec<String> {
        let text = |mount: &Mount| {
            let target = mount.target.0.display();
            match &mount.what {
                MountKind::Bind { source, read_only } => {
                    let mode = if *read_only { " ro" } else { "" };
                    let from = if source.0 == mount.target.0 {
                        String::new()
                    } else {
                        format!(" < {}", source.0.display())
                    };
                    format!("{target}{from}{mode}")
                }
                _ => format!("{target}"),
            }
        };
        self.plan().unwrap().mounts.iter().map(text).collect()
    }

    fn points(&self) -> Vec<String> {
        let text = |point: &MountPoint| {
            let slash = if point.kind == TargetKind::Directory { "/" } else { "" };
            format!("{:o} {}{slash}", point.mode, point.path.0.display())
        };
        self.plan().unwrap().mount_points.iter().map(text).collect()
    }

    fn starts(&self) -> Vec<String> {
        self.plan().unwrap().process.cwd.iter().map(|path| path.0.display().to_string()).collect()
    }

    fn error(&self) -> String {
        self.plan().unwrap_err().to_string()
    }

    fn value(&self, name: &str) -> Option<String> {
        let env = self.plan().unwrap().process.env;
        env.into_iter().find(|(key, _)| key == name).map(|(_, value)| value.into_string().unwrap())
    }
}

#[test]
fn the_usual_container_has_the_usual_mounts_each_with_its_reason() {
    let plan = world(&[], &[]).plan().unwrap();
    let reasons: Vec<String> = plan
        .mounts
        .iter()
        .map(|mount| format!("{} {} {}", mount.target.0.display(), mount.optional, mount.because.origin()))
        .collect();
    let expected = [
        "/dev false the host's devices",
        "/proc false the host's processes",
        "/sys true the host's hardware",
        "/tmp true temporary files",
        "/var/tmp true temporary files",
        "/home/ada true home directory",
        "/etc/hosts true names of the host's network",
        "/etc/resolv.conf true name servers of the host",
        "/etc/localtime true time zone of the host",
        "/etc/passwd true the caller's name",
        "/etc/group true the caller's groups",
    ];
    assert_eq!(reasons, expected);
    assert_eq!(world(&[], &[]).points(), ["755 /home/", "755 /home/ada/"]);
    assert_eq!(plan.ids, IdMap::Caller { uid: 1000, gid: 1000 });
    assert_eq!(plan.serve.scope, "cgroup:/user.slice");
    assert_eq!(plan.serve.linger_ms, 10_000);
    assert_eq!(plan.serve.rendezvous, [HostPath("/tmp/skiff-1000".into())]);
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
}

#[test]
fn an_empty_image_gets_every_mount_point_with_parents_first() {
    let world = world(&[], &[]);
    for name in ["dev", "proc", "sys", "tmp", "var", "home", "etc"] {
        fs::remove_dir_all(world.image_files.path().join(name)).unwrap();
    }
    let expected = [
        "755 /dev/",
        "755 /etc/",
        "644 /etc/group",
        "644 /etc/hosts",
        "644 /etc/localtime",
        "644 /etc/passwd",
        "644 /etc/resolv.conf",
        "755 /home/",
        "755 /home/ada/",
        "755 /proc/",
        "755 /sys/",
        "755 /tmp/",
        "755 /var/",
        "755 /var/tmp/",
    ];
    assert_eq!(world.points(), expected);
}

#[test]
fn a_directory_of_the_image_keeps_its_mode_above_a_mount_point() {
    let world = world(&["data/"], &["srv/"]).bind(&["/data:/srv/in/put"]);
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(world.image_files.path().join("srv"), fs::Permissions::from_mode(0o710)).unwrap();
    let expected = ["755 /home/", "755 /home/ada/", "710 /srv/", "755 /srv/in/", "755 /srv/in/put/"];
    assert_eq!(world.points(), expected);
}

#[test]
fn home_inside_tmp_is_not_mounted_twice() {
    let world = world(&["tmp/ada/"], &[]).home("/tmp/ada").cwd("/tmp/ada");
    assert_eq!(world.mounts(), [""; 0]);
    assert_eq!(world.starts(), ["/tmp/ada", "/"]);
}

#[test]
fn home_that_is_the_root_or_a_system_directory_is_not_mounted() {
    for home in ["/", "/usr/sbin", "/bin", "/dev", "/proc/1", "/none"] {
        let world = world(&["usr/sbin/", "bin/", "proc/1/"], &[]).home(home).cwd("/");
        assert_eq!(world.mounts(), [""; 0], "{home}");
        assert_eq!(world.value("HOME").as_deref(), Some(home));
    }
}

#[test]
fn home_that_is_a_link_on_the_host_is_mounted_where_it_is_named() {
    let world = world(&["home/ada -> ../data/ada", "data/ada/"], &[]);
    assert_eq!(world.mounts(), ["/home/ada"]);
}

#[test]
fn a_caller_without_entry_and_home_gets_a_container() {
    let mut world = world(&[], &[]).cwd("/");
    let user = world.host.user.get_mut().unwrap();
    user.home = None;
    user.name = "user1000".into();
    assert_eq!(world.mounts(), [""; 0]);
    assert_eq!(world.value("HOME").as_deref(), Some("/"));
    assert_eq!(world.starts(), ["/"]);
}

#[test]
fn links_of_the_image_are_followed_inside_the_image() {
    let world = world(&["data/"], &["srv/real/", "input -> /srv/real"]).bind(&["/data:/input"]);
    assert_eq!(world.mounts(), ["/home/ada", "/srv/real < /data"]);
    let away = self::world(&["data/"], &["input -> ../../../../etc"]).bind(&["/data:/input/new"]);
    assert_eq!(away.mounts(), ["/home/ada", "/etc/new < /data"]);
}

#[test]
fn a_loop_of_links_in_the_image_is_an_error() {
    let world = world(&["data/"], &["a -> b", "b -> a"]).bind(&["/data:/a/x"]);
    assert_eq!(world.error(), "cannot follow \"/a/x\" in the container: too many links");
}

#[test]
fn var_tmp_that_links_to_tmp_in_the_image_is_mounted_once() {
    let world = world(&[], &["var/tmp -> ../tmp"]);
    assert!(!world.all_mounts().iter().any(|line| line.starts_with("/var/tmp")));
    let host = self::world(&["var/tmp -> ../tmp"], &["var/tmp -> ../tmp"]);
    assert_eq!(host.all_mounts().iter().filter(|line| line.contains("tmp")).count(), 1);
}

#[test]
fn resolv_conf_and_localtime_are_laid_over_links_of_the_image() {
    let world = world(
        &["etc/resolv.conf -> ../run/resolve.conf", "run/resolve.conf"],
        &[
            "etc/resolv.conf -> ../run/systemd/stub.conf",
            "etc/localtime -> /usr/share/zoneinfo/UTC",
            "usr/share/zoneinfo/UTC",
        ],
    );
    assert_eq!(
        world.points(),
        ["755 /etc/", "644 /etc/localtime", "644 /etc/resolv.conf", "755 /home/", "755 /home/ada/"]
    );
    assert!(world.all_mounts().contains(&"/etc/localtime".to_owned()));
}

#[test]
fn of_defaults_that_a_written_sandbox_has_no_place_for_the_caller_is_not_warned() {
    let links = ["etc/localtime -> /usr/share/zoneinfo/UTC", "etc/resolv.conf -> ../run/stub.conf"];
    let mut world = world(&[], &links);
    world.flags.files.writable = true;
    let plan = world.plan().unwrap();
    assert_eq!(plan.warnings, [""; 0]);
    let left_out: Vec<_> = plan.left_out.iter().map(|one| one.what.as_str()).collect();
    assert_eq!(left_out, ["/etc/resolv.conf", "/etc/localtime"]);
    // Name servers are asked for.
    world.flags.files.dns = vec!["192.0.2.1".into()];
    let warnings = world.plan().unwrap().warnings;
    assert!(
        warnings.len() == 1 && warnings[0].contains("\"/etc/resolv.conf\" of the container"),
        "{warnings:?}"
    );
}

#[test]
fn localtime_that_is_a_directory_in_the_image_or_absent_on_the_host_is_no_error() {
    let directory = world(&[], &[]);
    fs::remove_file(directory.image_files.path().join("etc/localtime")).unwrap();
    fill(directory.image_files.path(), &["etc/localtime/"]);
    assert!(directory.points().contains(&"644 /etc/localtime".to_owned()));
    let absent = world(&["etc/localtime -> nowhere"], &[]);
    assert!(!absent.all_mounts().contains(&"/etc/localtime".to_owned()));
}

#[test]
fn binds_come_with_parents_before_children_and_the_last_of_a_target_wins() {
    let world = world(&["a/", "b/", "c/", "a/sub/", "c/sub/deep/"], &[]).bind(&[
        "/b:/data/sub/deep",
        "/a:/data",
        "/c:/data:ro",
    ]);
    assert_eq!(world.mounts(), ["/home/ada", "/data < /c ro", "/data/sub/deep < /b"]);
    let by_link = self::world(&["a/", "b/"], &["x -> y", "y/"]).bind(&["/a:/y", "/b:/x"]);
    assert_eq!(by_link.mounts(), ["/home/ada", "/y < /b"]);
}

#[test]
fn flags_beat_variables_and_variables_the_configuration() {
    let mut world = world(&["a/", "b/", "c/", "d/"], &[]).bind(&["/a:/t"]);
    world.host =
        world.host.with_environment(&[("SKIFF_BIND", "/b:/t,/b:/u"), ("APPTAINER_BINDPATH", "/c:/u,/c:/v")]);
    world.config.bind = vec!["/d:/v".into(), "/d:/w".into(), "/missing".into()];
    assert_eq!(world.mounts(), ["/home/ada", "/w < /d", "/v < /c", "/u < /b", "/t < /a"]);
    let warnings = world.plan().unwrap().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0], "the configured bind \"/missing\" is left out: no such file or directory");
    assert_eq!(world.value("SKIFF_BIND").as_deref(), Some("/v,/u,/t"));
    assert_eq!(world.value("SINGULARITY_BIND").as_deref(), Some("/v,/u,/t"));
}

#[test]
fn a_bind_takes_the_place_of_defaults_at_and_below_its_target() {
    let world = world(&["other/hosts", "mytmp/"], &[]).bind(&["/other:/etc", "/mytmp:/tmp"]);
    let mounts = world.all_mounts();
    assert_eq!(mounts, ["/dev", "/proc", "/sys", "/var/tmp", "/home/ada", "/etc < /other", "/tmp < /mytmp"]);
}

#[test]
fn a_missing_source_is_an_error_that_names_it() {
    let world = world(&[], &[]).bind(&["/nothing:/x"]);
    assert_eq!(world.error(), "cannot bind \"/nothing\" (--bind /nothing:/x): no such file or directory");
}

#[test]
fn a_target_that_cannot_be_made_is_an_error_that_says_why() {
    let below = world(&["a/"], &[]).bind(&["/a:/sys/new"]);
    assert_eq!(
        below.error(),
        "cannot mount on \"/sys/new\" in the container: it is below the mount \"/sys\", and the host has no \
         \"/sys/new\" (--bind /a:/sys/new)"
    );
    let there = world(&["a/", "tmp/new/"], &[]).bind(&["/a:/tmp/new"]);
    assert_eq!(there.mounts(), ["/home/ada", "/tmp/new < /a"]);
    let file = world(&["a/"], &["etc/motd"]).bind(&["/a:/etc/motd"]);
    assert_eq!(
        file.error(),
        "cannot mount on \"/etc/motd\" in the container: it is a file in the container (--bind /a:/etc/motd)"
    );
    let inside = world(&["a/"], &["etc/motd"]).bind(&["/a:/etc/motd/x"]);
    assert_eq!(inside.error(), "cannot use \"/etc/motd/x\" in the container: \"/etc/motd\" is a file there");
    let root = world(&["a/"], &[]).bind(&["/a:/"]);
    assert!(root.error().ends_with("it is the container's root (--bind /a:/)"), "{}", root.error());
}

#[test]
fn a_mount_point_missing_below_a_directory_of_the_host_is_made_there_with_its_parents() {
    let made = |world: &World| {
        let text =
            |entry: &HostEntry| format!("{:o} {:?} {}", entry.mode, entry.kind, entry.path.0.display());
        world.plan().unwrap().make.iter().map(text).collect::<Vec<_>>()
    };
    let world =
        world(&["a/", "b"], &[]).bind(&["/a:/tmp/x/new", "/b:/tmp/x/file", "/a:/data", "/a:/data/sub"]);
    assert_eq!(
        world.mounts(),
        ["/home/ada", "/data < /a", "/data/sub < /a", "/tmp/x/new < /a", "/tmp/x/file < /b"]
    );
    let expected =
        ["755 Directory /a/sub", "755 Directory /tmp/x", "755 Directory /tmp/x/new", "644 File /tmp/x/file"];
    assert_eq!(made(&world), expected);
    // What is there is used, be it by another name.
    let there = self::world(&["a/sub/", "link -> a"], &[]).bind(&["/link:/data", "/a:/data/sub"]);
    assert_eq!(made(&there), [""; 0]);
    // A file is none that could have something below it.
    let file = self::world(&["a/", "tmp/file"], &[]).bind(&["/a:/tmp/file/x"]);
    assert_eq!(file.error(), "cannot use \"/tmp/file/x\" in the container: \"/tmp/file\" is a file there");
}

#[test]
fn relative_sources_are_those_of_the_working_directory() {
    let world = world(&["home/ada/in/"], &[]).bind(&["in:/data", "./in"]);
    assert_eq!(world.mounts(), ["/home/ada", "/data < /home/ada/in", "/home/ada/in"]);
    let target = self::world(&["a/"], &[]).bind(&["/a:b"]);
    assert!(target.error().ends_with("the target is not an absolute path"), "{}", target.error());
}

#[test]
fn root_gets_every_id() {
    let mut world = world(&["root/"], &["root/"]).home("/root").cwd("/root");
    world.host.uid = 0;
    world.host.gid = 0;
    assert_eq!(world.plan().unwrap().ids, IdMap::Whole);
    assert_eq!(world.mounts(), ["/root"]);
    assert_eq!(world.points(), [""; 0]);
}

#[test]
fn an_image_of_another_processor_is_refused_unless_it_is_emulated() {
    let mut world = world(&[], &[]);
    world.machine = Some("aarch64");
    let error = world.plan().unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot run image \"/images/a.sif\": it is for aarch64, this machine is x86_64"
    );
    assert!(error.hint.unwrap().contains("qemu-user-static"));
    fill(world.host_files.path(), &["proc/sys/fs/binfmt_misc/qemu-aarch64"]);
    assert!(world.plan().is_ok());
    world.machine = Some("i386");
    assert!(world.plan().is_ok());
}

#[test]
fn run_and_shell_choose_what_the_image_has() {
    let argv = |action, image: &[&str], setting: &[(&str, &str)]| {
        let mut world = world(&[], image);
        world.action = action;
        world.words = vec!["-x".into()];
        world.host = world.host.with_environment(setting);
        let argv = world.plan().unwrap().process.argv;
        argv.join(" ".as_ref()).into_string().unwrap()
    };
    assert_eq!(argv(Action::Run, &[".singularity.d/runscript"], &[]), "/.singularity.d/runscript -x");
    assert_eq!(argv(Action::Run, &["singularity -> nowhere"], &[]), "/bin/sh -x");
    assert_eq!(argv(Action::Shell, &[], &[]), "/bin/bash --norc -x");
    assert_eq!(argv(Action::Shell, &["bin/zsh"], &[("SKIFF_SHELL", "/bin/zsh")]), "/bin/zsh -x");
    assert_eq!(argv(Action::Shell, &[], &[("SKIFF_SHELL", "/bin/zsh")]), "/bin/bash --norc -x");
    let argv_of = |world: &World| world.plan().unwrap().process.argv;
    let mut chosen = world(&[], &["bin/zsh"]);
    chosen.action = Action::Shell;
    chosen.host = chosen.host.with_environment(&[("SKIFF_SHELL", "/bin/bash")]);
    for (shell, first) in [("/bin/zsh", "/bin/zsh"), ("zsh", "zsh")] {
        chosen.shell = Some(shell);
        assert_eq!(argv_of(&chosen), [first, "true"]);
    }
    chosen.shell = Some("/bin/fish");
    assert_eq!(chosen.error(), "cannot start the shell \"/bin/fish\": the container has no such file");
    let mut empty = world(&[], &[]);
    fs::remove_dir_all(empty.image_files.path().join("bin")).unwrap();
    empty.action = Action::Run;
    assert!(empty.error().ends_with("it has neither a runscript nor /bin/sh"), "{}", empty.error());
    empty.action = Action::Shell;
    assert!(empty.error().ends_with("it has neither /bin/bash nor /bin/sh"), "{}", empty.error());
    empty.action = Action::Exec;
    empty.words.clear();
    assert_eq!(empty.error(), "no program was given");
}

#[test]
fn servers_are_shared_within_a_step_and_linger_as_told() {
    let mut world = world(&[], &[]);
    world.config.linger_ms = Some(7);
    assert_eq!(world.plan().unwrap().serve.linger_ms, 7);
    world.host = world.host.with_environment(&[
        ("SLURM_JOB_ID", "12"),
        ("SLURM_STEP_ID", "3"),
        ("SKIFF_LINGER", "0"),
        ("XDG_RUNTIME_DIR", "/run/user/1000"),
    ]);
    let serve = world.plan().unwrap().serve;
    assert_eq!((serve.scope.as_str(), serve.linger_ms), ("slurm:12.3", 0));
    assert_eq!(
        serve.rendezvous,
        [HostPath("/run/user/1000/skiff".into()), HostPath("/tmp/skiff-1000".into())]
    );
    world.host = Host::made_up(&world.host.root).with_environment(&[("SKIFF_LINGER", "soon")]);
    assert_eq!(world.error(), "cannot use SKIFF_LINGER=\"soon\": not a number of milliseconds");
}
