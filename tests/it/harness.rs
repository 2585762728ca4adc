//! What every integration test stands on: a place of its own, the ordinary user, and the check that nothing is
//! left.
//!
//! ```text
//! /var/tmp/skiff-test-UID/                (UID: of the ordinary user the tests run skiff as)
//!   bin/skiff-…                           the tested binary, when the checkout is not readable by that user
//!   images/…                              images packed once and used by many tests
//!   NAME-PID/                             one test's place
//!     home/ run/ work/                    HOME, XDG_RUNTIME_DIR, current directory
//! ```
//!
//! The user is the caller; when that is root, it is `SKIFF_USER`, the one who called sudo, or `skiff`. What a
//! machine lacks makes a test skip with a line on standard error; `SKIFF_TEST_MUST=userns,fuse,…` turns such a
//! skip into a failure, so that a test run cannot pass by skipping.
//!
//! At its end a test's place looks for processes that carry the test's mark in their environment and for its servers,
//! waits for those that are about to leave (a server exits when its last container has), and fails the test over any
//! that stays, over mounts, rendezvous files, temporary files and shared memory.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

pub use crate::busybox::{busybox, busybox_tree};

/// No command of a test takes this long; one that hangs is killed and fails its test.
const WATCHDOG: Duration = Duration::from_secs(240);

/// How long a process of an ended test may take to leave by itself.
const LEAVING: Duration = Duration::from_secs(20);

/// The variable by which the processes of a test are recognised. Not `SKIFF_…`: those do not reach a container.
pub const MARK: &str = "HARNESS_PLACE";

/// The ordinary user.
#[derive(Debug, Clone)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

/// Who the tests run skiff as.
pub fn user() -> &'static User {
    static USER: OnceLock<User> = OnceLock::new();
    USER.get_or_init(|| {
        if !nix::unistd::geteuid().is_root() {
            let uid = nix::unistd::geteuid().as_raw();
            let name = std::env::var("USER").unwrap_or_else(|_| uid.to_string());
            return User { name, uid, gid: nix::unistd::getegid().as_raw() };
        }
        let named = ["SKIFF_USER", "SUDO_USER"].into_iter().filter_map(|v| std::env::var(v).ok());
        let name = named.chain(["skiff".into()]).find(|name| !name.is_empty() && name != "root");
        let name = name.expect("there is always one name");
        let found = nix::unistd::User::from_name(&name).expect("the user data base can be read");
        let found = found.unwrap_or_else(|| panic!("no user '{name}': make one, or set SKIFF_USER"));
        User { name, uid: found.uid.as_raw(), gid: found.gid.as_raw() }
    })
}

/// Something that a machine may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The ordinary user may make user namespaces.
    Userns,
    /// The ordinary user may open /dev/fuse.
    Fuse,
    /// The tests run as root.
    Root,
    /// A statically linked busybox.
    Busybox,
    /// The Debian root file system that `scripts/trees demo` makes.
    Debian,
    /// A kernel whose FUSE gives up requests that nobody answers (6.14): without it no file is stored unasked.
    RequestTimeout,
    /// strace, and a kernel that lets the ordinary user trace.
    Strace,
    /// bubblewrap, another maker of containers.
    Bubblewrap,
    /// The programs that map subordinate ids, and root to give the ordinary user some.
    Newuidmap,
    /// A C compiler that links statically.
    StaticC,
    /// musl's C compiler.
    Musl,
    /// The mirror that the Debian tree has its packages from.
    Mirror,
    /// A kernel that lets processes of one user read each other's memory.
    Peek,
    /// A registry to be started here, and what puts images into it.
    Registry,
    /// The other makers of images: umoci, skopeo, buildah.
    ImageTools,
    /// A proxy for HTTP.
    Tinyproxy,
    /// One for SOCKS.
    Microsocks,
    /// A file system that shows a directory, and hands on no locks.
    Bindfs,
}

impl Need {
    fn name(self) -> &'static str {
        match self {
            Self::Userns => "userns",
            Self::Fuse => "fuse",
            Self::Root => "root",
            Self::Busybox => "busybox",
            Self::Debian => "debian",
            Self::RequestTimeout => "request-timeout",
            Self::Strace => "strace",
            Self::Bubblewrap => "bubblewrap",
            Self::Newuidmap => "newuidmap",
            Self::StaticC => "static-c",
            Self::Musl => "musl",
            Self::Mirror => "mirror",
            Self::Peek => "peek",
            Self::Registry => "registry",
            Self::ImageTools => "image-tools",
            Self::Tinyproxy => "tinyproxy",
            Self::Microsocks => "microsocks",
            Self::Bindfs => "bindfs",
        }
    }

    /// Whether this machine has it; if not, why not.
    fn probe(self) -> Result<(), String> {
        match self {
            Self::Userns => {
                let status = as_user(Command::new("unshare").args(["-U", "-r", "true"]), user()).status();
                let able = status.map_err(|e| format!("cannot run unshare: {e}"))?.success();
                able.then_some(()).ok_or_else(|| "user namespaces are not allowed".into())
            }
            Self::Fuse => {
                let mode = fs::metadata("/dev/fuse").map_err(|e| format!("/dev/fuse: {e}"))?.mode();
                let open = mode & 0o006 == 0o006;
                open.then_some(()).ok_or_else(|| format!("/dev/fuse has mode {:o}", mode & 0o777))
            }
            Self::Root => {
                nix::unistd::geteuid().is_root().then_some(()).ok_or_else(|| "not started as root".into())
            }
            Self::Busybox => busybox().map(|_| ()),
            Self::RequestTimeout => crate::needs::gives_requests_up(),
            Self::Debian => {
                let there = debian_tree().join("usr/bin/gcc").exists();
                there.then_some(()).ok_or_else(|| "no Debian tree: run 'scripts/trees demo'".into())
            }
            Self::Strace => {
                let mut strace = Command::new("strace");
                strace.args(["-o", "/dev/null", "-f", "true"]);
                let status = as_user(&mut strace, user()).status();
                let able = status.map_err(|e| format!("cannot run strace: {e}"))?.success();
                able.then_some(()).ok_or_else(|| "tracing is not allowed".into())
            }
            Self::Newuidmap => {
                Self::Root.probe()?;
                let there = ["newuidmap", "newgidmap"].iter().all(|name| {
                    fs::metadata(Path::new("/usr/bin").join(name))
                        .is_ok_and(|facts| facts.mode() & 0o111 != 0)
                });
                there.then_some(()).ok_or_else(|| "no newuidmap (package uidmap)".into())
            }
            Self::Bubblewrap => {
                let trial = ["--dev-bind", "/", "/", "--unshare-user", "true"];
                let status = as_user(Command::new("bwrap").args(trial), user()).status();
                let able = status.map_err(|e| format!("cannot run bwrap: {e}"))?.success();
                able.then_some(()).ok_or_else(|| "bwrap cannot make a user namespace".into())
            }
            Self::StaticC => crate::needs::links_statically("gcc"),
            Self::Musl => crate::needs::links_statically("musl-gcc"),
            Self::Mirror => crate::needs::mirror_answers(),
            Self::Peek => crate::needs::lets_peek(),
            Self::Registry => crate::needs::has_registry(),
            Self::ImageTools => {
                ["umoci", "skopeo", "buildah"].into_iter().try_for_each(crate::needs::is_there)
            }
            Self::Tinyproxy => crate::needs::is_on_path("tinyproxy"),
            Self::Microsocks => crate::needs::is_on_path("microsocks"),
            Self::Bindfs => crate::needs::is_there("bindfs"),
        }
    }
}

/// Whether this machine has all of `needs`. If not, the caller returns: the test is skipped with a line that
/// nothing captures, or fails when `SKIFF_TEST_MUST` names what is missing.
#[must_use]
pub fn able(needs: &[Need]) -> bool {
    let must = std::env::var("SKIFF_TEST_MUST").unwrap_or_default();
    for need in needs {
        let Err(why) = need.probe() else { continue };
        let must = must.split(',').any(|word| word.trim() == need.name());
        assert!(!must, "SKIFF_TEST_MUST names {}, but: {why}", need.name());
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let line = format!("SKIP {test}: needs {}: {why}\n", need.name());
        // The test runner captures `eprintln!`, and hides it when the test passes; this is seen.
        std::io::stderr().write_all(line.as_bytes()).expect("standard error can be written");
        if let Some(record) = std::env::var_os("SKIFF_TEST_SKIPPED") {
            let mut file =
                fs::OpenOptions::new().append(true).create(true).open(record).expect("skip record");
            file.write_all(line.as_bytes()).expect("skip record can be written");
        }
        return false;
    }
    true
}

/// Makes `command` run as `user`, when the tests are root.
fn as_user<'a>(command: &'a mut Command, user: &User) -> &'a mut Command {
    if nix::unistd::geteuid().is_root() {
        // The standard library drops the supplementary groups along with root's ids.
        command.uid(user.uid).gid(user.gid);
    }
    command
}

/// The directory under which all places lie.
fn base() -> &'static Path {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| {
        let base = PathBuf::from(format!("/var/tmp/skiff-test-{}", user().uid));
        make_directory(&base, 0o755);
        base
    })
}

/// A directory of the ordinary user's.
fn make_directory(path: &Path, mode: u32) {
    fs::create_dir_all(path).unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode can be set");
    own(path);
}

/// Gives a file to the ordinary user.
fn own(path: &Path) {
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::lchown(path, Some(user().uid), Some(user().gid)).expect("owner can be set");
    }
}

/// The tested program, at a path the ordinary user can run it from.
pub fn skiff_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let built = PathBuf::from(env!("CARGO_BIN_EXE_skiff"));
        if !nix::unistd::geteuid().is_root() {
            return built;
        }
        // A checkout below /root is closed to others.
        let facts = fs::metadata(&built).expect("skiff was built");
        let bin = base().join("bin");
        make_directory(&bin, 0o755);
        let copy = bin.join(format!("skiff-{}-{}-{}", facts.ino(), facts.mtime(), facts.mtime_nsec()));
        if !copy.exists() {
            // Under another name first: a second test process must not run half a program.
            let part = bin.join(format!(".part-{}", std::process::id()));
            fs::copy(&built, &part).expect("skiff can be copied");
            fs::rename(&part, &copy).expect("the copy can be named");
        }
        copy
    })
}

/// What a finished command said.
#[derive(Debug)]
pub struct Output {
    pub command: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Standard output of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(
            self.status.success(),
            "{} failed: {}\n{}{}",
            self.command,
            self.status,
            self.stdout,
            self.stderr
        );
        self.stdout
    }

    /// Standard error of a command that must have exited with `code`.
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        let got = self.status.code();
        assert_eq!(got, Some(code), "{}: {}\n{}{}", self.command, self.status, self.stdout, self.stderr);
        self.stderr
    }

    /// Standard error of a command that this signal must have ended.
    #[track_caller]
    pub fn dies_of(self, signal: i32) -> String {
        let got = self.status.signal();
        assert_eq!(got, Some(signal), "{}: {}\n{}{}", self.command, self.status, self.stdout, self.stderr);
        self.stderr
    }
}

/// One test's own directory, and what runs there. Dropping it checks that nothing is left.
pub struct Place {
    directory: PathBuf,
    mounts_before: Vec<String>,
}

impl Place {
    /// A place for the test `name`.
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = base().join(format!("{name}-{}-{count}", std::process::id()));
        make_directory(&directory, 0o755);
        for (part, mode) in [("home", 0o755), ("run", 0o700), ("work", 0o755)] {
            make_directory(&directory.join(part), mode);
        }
        Self { directory, mounts_before: mounts() }
    }

    /// A path in the work directory, which is the current directory of this place's commands.
    pub fn work(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.join("work").join(name)
    }

    /// The home directory.
    pub fn home(&self) -> PathBuf {
        self.directory.join("home")
    }

    /// The runtime directory, where rendezvous sockets go.
    pub fn runtime(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// Writes a file of the ordinary user's into the work directory.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.work(name);
        fs::write(&path, content).expect("a file can be written in the work directory");
        own(&path);
        path
    }

    /// A command of the ordinary user in the work directory, with a small and known environment. A server
    /// leaves at once when its last container has (`SKIFF_LINGER=0`), and subordinate ids, which one machine's
    /// ordinary user has and another's lacks, are not used (`SKIFF_IGNORE_SUBUID=1`), unless the test says otherwise.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        self.prepare(&mut command);
        as_user(&mut command, user());
        command
    }

    fn prepare(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("LANG", "C.UTF-8")
            .env("HOME", self.home())
            .env("USER", &user().name)
            .env("LOGNAME", &user().name)
            .env("XDG_RUNTIME_DIR", self.runtime())
            .env("SKIFF_LINGER", "0")
            .env("SKIFF_IGNORE_SUBUID", "1")
            .env(MARK, &self.directory)
            .current_dir(self.work(""))
            .stdin(Stdio::null());
    }

    /// `skiff` with arguments, ready to run.
    pub fn skiff<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.command(skiff_binary());
        command.args(arguments);
        command
    }

    /// Runs `skiff` with arguments to its end.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Output {
        finish(&mut self.skiff(arguments))
    }

    /// Packs a directory of this place into an image beside it.
    #[track_caller]
    pub fn build(&self, image: &str, tree: &Path) -> PathBuf {
        self.run([OsStr::new("build"), OsStr::new(image), tree.as_os_str()]).ok();
        self.work(image)
    }

    /// An image with busybox in it and nothing more than [`busybox_tree`] makes.
    #[track_caller]
    pub fn busybox_image(&self) -> PathBuf {
        let tree = self.work("busybox-tree");
        busybox_tree(&tree);
        self.build("busybox.sif", &tree)
    }

    /// The processes of this test that are alive, each as its pid and command line.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let named = crate::processes::of(&self.directory).into_iter().map(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            (pid, String::from_utf8_lossy(&line).replace('\0', " "))
        });
        named.collect()
    }

    /// Waits until no process of this test is alive, and says which stay longer than [`LEAVING`].
    fn wait_for_processes(&self) -> Vec<(i32, String)> {
        let end = Instant::now() + LEAVING;
        loop {
            let alive = self.processes();
            let Some((pid, _)) = alive.first() else { return alive };
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || !wait_for_exit(*pid, left) {
                return alive;
            }
        }
    }

    /// What this test has left behind, in words.
    fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for (pid, line) in self.wait_for_processes() {
            left.push(format!("process {pid}: {line}"));
            // So that it is not there for ever; it is this test's own, as its mark says.
            let _already_gone =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
        }
        let here = self.directory.to_string_lossy().into_owned();
        for mount in mounts() {
            let new = !self.mounts_before.contains(&mount);
            if new && (mount.contains(&here) || mount.contains("skiff")) {
                left.push(format!("mount {mount}"));
            }
        }
        left.extend(files_below(&self.runtime()).iter().map(|f| format!("file {}", f.display())));
        // Temporary files stand beside their target under a hidden name.
        for entry in fs::read_dir(self.work("")).into_iter().flatten().flatten() {
            if entry.file_name().as_bytes().starts_with(b".") {
                left.push(format!("temporary file {}", entry.path().display()));
            }
        }
        for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            let ours = entry.metadata().is_ok_and(|facts| facts.uid() == user().uid);
            if ours && entry.file_name().as_bytes().starts_with(b"skiff") {
                left.push(format!("shared memory {}", entry.path().display()));
            }
        }
        left
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let left = self.leftovers();
        // Trees have directories without write permission.
        let mut remove = Command::new("sh");
        remove.args(["-c", "chmod -R u+rwX \"$1\" 2>/dev/null; rm -rf --one-file-system \"$1\"", "sh"]);
        let removed = remove.arg(&self.directory).status();
        if std::thread::panicking() {
            return;
        }
        assert!(left.is_empty(), "the test left behind:\n{}", left.join("\n"));
        assert!(removed.is_ok_and(|s| s.success()), "{} cannot be removed", self.directory.display());
    }
}

/// Runs a command to its end and takes what it said. Fails the test when it hangs.
#[track_caller]
pub fn finish(command: &mut Command) -> Output {
    let text = describe(command);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap_or_else(|e| panic!("cannot run {text}: {e}"));
    collect(child, text)
}

/// Waits for a started command whose output is piped.
#[track_caller]
pub fn collect(mut child: Child, text: String) -> Output {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid is positive"));
    let read = |stream: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut stream) = stream {
                stream.read_to_end(&mut bytes).expect("a pipe can be read");
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = read(child.stdout.take().map(|s| Box::new(s) as Box<dyn Read + Send>));
    let stderr = read(child.stderr.take().map(|s| Box::new(s) as Box<dyn Read + Send>));
    let (done, ended) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let hung = ended.recv_timeout(WATCHDOG) == Err(mpsc::RecvTimeoutError::Timeout);
        if hung {
            let _already_gone = nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL);
        }
        hung
    });
    // The pipes first: one that a server inherited by mistake would stay open, which is a hang to be seen.
    let (stdout, stderr) = (stdout.join().expect("reader"), stderr.join().expect("reader"));
    let status = child.wait().expect("a child can be waited for");
    drop(done);
    assert!(!watchdog.join().expect("watchdog"), "{text} hung\n{stdout}{stderr}");
    Output { command: text, status, stdout, stderr }
}

/// A command as one would type it.
pub fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Waits for the end of any process; false when it lasts longer than `limit`.
pub fn wait_for_exit(pid: i32, limit: Duration) -> bool {
    let Some(pid) = rustix::process::Pid::from_raw(pid) else { return true };
    let Ok(handle) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
        return true;
    };
    let mut wait = [rustix::event::PollFd::new(&handle, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec::try_from(limit).expect("a short time");
    rustix::event::poll(&mut wait, Some(&limit)).is_ok_and(|ready| ready > 0)
}

/// The mounts of the tests' own mount namespace, without their changing numbers.
fn mounts() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo can be read");
    text.lines().map(|line| line.splitn(5, ' ').last().unwrap_or(line).to_owned()).collect()
}

/// All files below a directory.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files_below(&entry.path())),
            _ => found.push(entry.path()),
        }
    }
    found
}

/// Gives a whole tree to the ordinary user.
pub fn give(root: &Path) {
    if nix::unistd::geteuid().is_root() {
        let owner = format!("{}:{}", user().uid, user().gid);
        let status = Command::new("chown").arg("-hR").arg(owner).arg(root).status();
        assert!(status.is_ok_and(|s| s.success()), "cannot give {} to {}", root.display(), user().name);
        chown(root, Some(user().uid), Some(user().gid)).expect("owner can be set");
    }
}

/// Where `scripts/trees demo` puts a Debian root file system with a C compiler and Python.
pub fn debian_tree() -> PathBuf {
    let trees = std::env::var_os("SKIFF_TREES").unwrap_or_else(|| "/var/tmp/skiff-trees".into());
    PathBuf::from(trees).join("demo")
}

/// The Debian tree as an image, packed once for each build of skiff. The test has asked for [`Need::Debian`].
#[track_caller]
pub fn debian_image() -> PathBuf {
    let facts = fs::metadata(env!("CARGO_BIN_EXE_skiff")).expect("skiff was built");
    let images = base().join("images");
    make_directory(&images, 0o755);
    let name = format!("debian-{}-{}-{}.sif", facts.ino(), facts.mtime(), facts.mtime_nsec());
    let image = images.join(&name);
    // Tests are processes or threads: a lock on an open file description serves both.
    let lock = fs::File::create(images.join("lock")).expect("a lock file can be made");
    lock.lock().expect("the lock can be taken");
    if !image.exists() {
        for old in fs::read_dir(&images).expect("images can be listed").flatten() {
            if old.file_name().as_bytes().starts_with(b"debian-") {
                fs::remove_file(old.path()).expect("an old image can be removed");
            }
        }
        let place = Place::new("pack-debian");
        let words = [OsString::from("build"), image.clone().into_os_string(), debian_tree().into_os_string()];
        place.run(words).ok();
    }
    image
}
