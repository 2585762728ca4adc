//! The image server: shared by the containers of an image, gone with them, and not to be killed by bad luck.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{
    Need, Output, Place, able, busybox_tree, collect, finish, give, skiff_binary, wait_for_exit,
};

const NEEDS: [Need; 3] = [Need::Userns, Need::Fuse, Need::Busybox];

/// Numbers that look random and are the same each time (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Bytes that compress to about half.
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| (self.next() & 0x0f0f_0f0f_0f0f_0f0f).to_le_bytes());
        words.flatten().take(length).collect()
    }
}

/// A container's shell that takes commands on its standard input.
pub struct Shell {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Shell {
    fn start(place: &Place, image: &str) -> Self {
        Self::of(place.skiff(["exec", image, "sh"]))
    }

    pub fn of(mut command: std::process::Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("skiff starts");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut shell = Self { child, input, output };
        assert_eq!(shell.ask("echo ready"), "ready");
        shell
    }

    /// Has a command done without waiting for what it prints.
    pub fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("the shell was not ended");
        writeln!(input, "{line}").expect("the shell reads");
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the shell prints");
        line.trim_end().to_owned()
    }

    /// The one line that a command prints.
    pub fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.line()
    }

    pub fn end(mut self) {
        drop(self.input.take());
        assert!(self.child.wait().expect("a child can be waited for").success());
    }
}

/// The pids of this test's processes of a name: `skiff-keeper`, `skiff-worker`.
pub fn named(place: &Place, name: &str) -> Vec<i32> {
    let is =
        |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
    place.processes().into_iter().map(|(pid, _)| pid).filter(is).collect()
}

pub fn kill_hard(pid: i32) {
    // It may be gone already, which is what is wanted.
    let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
    assert!(wait_for_exit(pid, Duration::from_secs(20)), "process {pid} outlives SIGKILL");
}

/// A tree of busybox and `files` files under /data, 20 KiB to 1 MiB long, and the output of sha256sum for them.
pub fn data_tree(place: &Place, files: usize) -> (PathBuf, String) {
    let tree = place.work("tree");
    busybox_tree(&tree);
    fs::create_dir(tree.join("data")).expect("a directory can be made");
    let mut numbers = Numbers(7);
    for index in 0..files {
        let length = 20_000 + (numbers.next() % 1_000_000) as usize;
        fs::write(tree.join(format!("data/{index:03}")), numbers.bytes(length))
            .expect("a file can be written");
    }
    give(&tree);
    let mut sums = place.command("sh");
    sums.args(["-c", "cd tree && exec sha256sum data/*"]);
    (tree, finish(&mut sums).ok())
}

#[test]
fn no_read_fails_or_differs_while_workers_are_killed() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("serve-killed-workers");
    let (tree, sums) = data_tree(&place, 90);
    place.build("data.sif", &tree);
    let expected = sums.lines().collect::<Vec<_>>();
    let mut numbers = Numbers(11);
    let (mut kills, mut rounds) = (0, 0);
    while kills < 200 {
        // Each round has a server of its own, so that every file is read from the image again.
        let script = "cd /; for part in 0 1 2; do sha256sum data/*$part data/*$((part+3)) data/*$((part+6)) & done; \
                      sha256sum data/*9; wait";
        let mut command = place.skiff(["exec", "data.sif", "sh", "-c", script]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("skiff starts");
        let pid = i32::try_from(child.id()).expect("a pid is positive");
        let reading = std::thread::spawn(move || collect(child, "readers".into()));
        while !wait_for_exit(pid, Duration::from_micros(numbers.next() % 12_000)) {
            if let Some(worker) = named(&place, "skiff-worker").first() {
                kill_hard(*worker);
                kills += 1;
            }
        }
        let printed = reading.join().expect("readers").ok();
        let mut got = printed.lines().collect::<Vec<_>>();
        got.sort_unstable_by_key(|line| line.rsplit(' ').next());
        assert_eq!(got, expected, "after {kills} kills");
        rounds += 1;
        assert!(rounds < 200, "{kills} kills in {rounds} rounds: readers end before workers can be killed");
    }
}

/// A program for containers that prints how many bytes of each file named to it are in the page cache.
const CACHED: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
int main(int argc, char **argv) {
  static unsigned char page[1 << 16];
  for (int i = 1; i < argc; i++) {
    struct stat status;
    int file = open(argv[i], O_RDONLY);
    if (file < 0 || fstat(file, &status)) return 1;
    void *map = mmap(0, status.st_size, PROT_READ, MAP_SHARED, file, 0);
    if (map == MAP_FAILED || mincore(map, status.st_size, page)) return 1;
    long bytes = 0, pages = (status.st_size + 4095) / 4096;
    for (long p = 0; p < pages; p++) bytes += (page[p] & 1) * 4096L;
    printf("%d ", bytes >= status.st_size ? 2 : bytes > 0);
  }
  puts("");
}
"#;

/// A shell in an image of `tree`, which has that program.
fn shell_with_cached(place: &Place, tree: &Path) -> Shell {
    place.write("cached.c", CACHED);
    let mut compiler = place.command("gcc");
    finish(compiler.args(["-O2", "-static", "-o", "tree/zcached", "cached.c"])).ok();
    place.build("data.sif", tree);
    Shell::start(place, "data.sif")
}

/// Whether each of the files is in the page cache: 0 not at all, 1 in part, 2 the whole.
fn cached(shell: &mut Shell, files: &str) -> Vec<u8> {
    let printed = shell.ask(&format!("/zcached {files}"));
    printed.split(' ').map(|word| word.parse().expect("cached prints numbers")).collect()
}

#[test]
fn files_that_come_next_are_in_the_page_cache_unasked() {
    if !able(&[Need::Userns, Need::Fuse, Need::Busybox, Need::RequestTimeout]) {
        return;
    }
    let place = Place::new("serve-follow");
    let (tree, sums) = data_tree(&place, 120);
    let mut shell = shell_with_cached(&place, &tree);
    // The kernel knows all of them by their names.
    assert_eq!(shell.ask("ls -l /data | wc -l"), "121");
    assert!(cached(&mut shell, "/data/*").iter().all(|state| *state == 0));
    // Two files far apart bring nothing else.
    shell.ask("cat /data/118 /data/112 | wc -c");
    let now = cached(&mut shell, "/data/*");
    assert_eq!(now.iter().filter(|state| **state > 0).count(), 2, "{now:?}");
    // One after the other, small files that come next are brought, but not all that there are.
    let size =
        |index: &usize| fs::metadata(tree.join(format!("data/{index:03}"))).map_or(0, |data| data.len());
    let small: Vec<usize> = (0..110).filter(|index| size(index) <= 512 << 10).collect();
    let in_order =
        small.iter().take(5).map(|index| format!("/data/{index:03}")).collect::<Vec<_>>().join(" ");
    shell.ask(&format!("cat {in_order} | wc -c"));
    while small[5..11].iter().filter(|index| cached(&mut shell, "/data/*")[**index] == 2).count() < 3 {
        std::thread::yield_now();
    }
    let now = cached(&mut shell, "/data/*");
    assert!(small[40..].iter().all(|index| now[*index] == 0), "files far ahead are brought: {now:?}");
    // And they are what they should be.
    for line in sums.lines() {
        let path = line.rsplit(' ').next().expect("a path");
        assert_eq!(shell.ask(&format!("cd /; sha256sum {path}")), line);
    }
    shell.end();
}

#[test]
fn files_of_a_directory_that_comes_next_are_in_the_page_cache_once_it_is_listed() {
    if !able(&[Need::Userns, Need::Fuse, Need::Busybox, Need::RequestTimeout]) {
        return;
    }
    let place = Place::new("serve-listed");
    let tree = place.work("tree");
    busybox_tree(&tree);
    for directory in 0..20 {
        fs::create_dir_all(tree.join(format!("data/{directory:02}"))).expect("directory");
        for file in 0..6 {
            let text = format!("{directory} {file}\n").repeat(1000);
            place.write(&format!("tree/data/{directory:02}/{file}"), text);
        }
    }
    give(&tree);
    let mut shell = shell_with_cached(&place, &tree);
    // One directory's files are read one after the other; then the next ones are listed, and nothing of them is read.
    shell.ask("ls -l /data/00 >/dev/null; cat /data/00/* | wc -c");
    for directory in 1..20 {
        shell.ask(&format!("ls -l /data/{directory:02} | wc -l"));
    }
    let brought =
        |shell: &mut Shell, names: &str| cached(shell, names).iter().filter(|state| **state == 2).count();
    // Where the machine has much else to do, some are brought before the kernel knows them, in vain.
    while brought(&mut shell, "/data/0[1-9]/*") == 0 {
        std::thread::yield_now();
    }
    // Nobody read what was brought, so it does not go on for ever.
    assert_eq!(brought(&mut shell, "/data/1[2-9]/*"), 0);
    assert_eq!(shell.ask("cat /data/01/3 | sort | uniq -c").trim(), "1000 1 3");
    shell.end();
}

#[test]
fn killing_keeper_and_worker_at_any_moment_leaves_no_process() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("serve-killed-both");
    let (tree, _) = data_tree(&place, 60);
    place.build("data.sif", &tree);
    let mut numbers = Numbers(23);
    for _ in 0..40 {
        let mut command = place.skiff(["exec", "data.sif", "sh", "-c", "ls -l /data; cat /data/* /data/*"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("skiff starts");
        let pid = i32::try_from(child.id()).expect("a pid is positive");
        let alive = || ["skiff-keeper", "skiff-worker"].map(|name| named(&place, name)).concat();
        // The moment may come before the server is there, or after the reader is gone.
        let _ended = wait_for_exit(pid, Duration::from_micros(2_000 + numbers.next() % 60_000));
        // Twice: the keeper may have made another worker just before.
        let mut killed = Vec::new();
        for _ in 0..2 {
            for pid in alive() {
                // It may be gone already, which is what is wanted.
                let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
                killed.push(pid);
            }
        }
        for pid in killed {
            assert!(wait_for_exit(pid, Duration::from_secs(20)), "process {pid} outlives SIGKILL");
        }
        let _status = child.wait().expect("a child can be waited for");
        kill_server(&place);
    }
    if place.runtime().join("skiff").exists() {
        remove_rendezvous(&place);
    }
}

/// A shell in an image of `tree` that lies in another image, so that a server reads what another one serves.
pub fn nested_shell(place: &Place, tree: &Path) -> Shell {
    place.build("inner.sif", tree);
    let outer = place.work("outer");
    busybox_tree(&outer);
    fs::rename(place.work("inner.sif"), outer.join("inner.sif")).expect("the image can be moved");
    give(&outer);
    place.build("outer.sif", &outer);
    let skiff = skiff_binary().to_str().expect("text");
    let bind = format!("{skiff}:/bin/skiff,/lib,/lib64,/usr/lib");
    // Settings of the outer skiff do not reach the inner one by themselves.
    let inner = "SKIFF_LINGER=0 exec /bin/skiff exec /inner.sif sh";
    let mut command = place.skiff(["exec", "--bind", &bind, "outer.sif", "sh", "-c", inner]);
    command.env("XDG_RUNTIME_DIR", place.runtime());
    Shell::of(command)
}

/// The workers of both servers, the outer one first: the later of both was started inside the other's container. (Its
/// number may be the lower one: they begin anew at some point.)
pub fn nested_workers(place: &Place) -> [i32; 2] {
    let mut workers: [i32; 2] = named(place, "skiff-worker").try_into().expect("two servers serve");
    workers.sort_by_key(|pid| started_at(*pid));
    workers
}

/// When a process was started, in ticks since the machine was.
fn started_at(pid: i32) -> u64 {
    stat_field(pid, 22)
}

/// A number of /proc/PID/stat, by its place in proc_pid_stat(5): from 4 on.
fn stat_field<T: std::str::FromStr>(pid: i32, place: usize) -> T {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    let after_name = stat.rsplit(')').next().expect("a name in brackets");
    after_name.split_whitespace().nth(place - 3).and_then(|field| field.parse().ok()).expect("a number")
}

#[test]
fn a_request_that_kills_every_worker_is_answered_eio_and_the_others_go_on() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("serve-deadly");
    // While the outer worker is stopped, reading what is not cached keeps a request of the inner server in flight, and
    // each of its workers is killed over it.
    let (tree, _) = data_tree(&place, 40);
    let mut shell = nested_shell(&place, &tree);
    let [outer_worker, mut inner_worker] = nested_workers(&place);
    kill(Pid::from_raw(outer_worker), Signal::SIGSTOP).expect("the outer worker can be stopped");
    shell.tell("cat /data/039 >/dev/null 2>/dev/null && echo read || echo failed");
    let keeper = parent(inner_worker);
    // A kill from outside weighs little, and the kernel reads ahead: two requests have to be given up.
    let mut kills = 0;
    while wait_until_stuck(inner_worker) {
        kill_hard(inner_worker);
        kills += 1;
        assert!(kills < 200, "the request is tried for ever");
        inner_worker = child_of(keeper, &place, inner_worker);
    }
    assert_eq!(shell.line(), "failed");
    kill(Pid::from_raw(outer_worker), Signal::SIGCONT).expect("the outer worker goes on");
    assert_eq!(
        shell.ask("cat /data/001 | wc -c"),
        fs::metadata(tree.join("data/001")).expect("size").len().to_string()
    );
    shell.end();
}

/// The parent of a process.
pub fn parent(pid: i32) -> i32 {
    stat_field(pid, 4)
}

/// The next worker of a keeper.
fn child_of(keeper: i32, place: &Place, but: i32) -> i32 {
    loop {
        let found =
            named(place, "skiff-worker").into_iter().find(|pid| *pid != but && parent(*pid) == keeper);
        match found {
            Some(pid) => return pid,
            None => std::thread::yield_now(),
        }
    }
}

/// Whether a thread of the worker gets stuck in reading its image (uninterruptible, as FUSE waits are).
fn wait_until_stuck(worker: i32) -> bool {
    for _ in 0..200 {
        let mut threads = fs::read_dir(format!("/proc/{worker}/task")).into_iter().flatten().flatten();
        let reading = |task: fs::DirEntry| {
            let call = fs::read_to_string(task.path().join("syscall")).unwrap_or_default();
            // pread64 on x86-64 and aarch64.
            call.starts_with("17 ") || call.starts_with("67 ")
        };
        if threads.any(reading) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

#[test]
fn a_truncated_image_gives_eio_and_the_server_lives() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("serve-truncated");
    let (tree, _) = data_tree(&place, 60);
    let image = place.build("data.sif", &tree);
    let mut shell = Shell::start(&place, "data.sif");
    assert_eq!(
        shell.ask("cat /data/000 | wc -c"),
        fs::metadata(tree.join("data/000")).expect("size").len().to_string()
    );
    let (keeper, worker) = (named(&place, "skiff-keeper"), named(&place, "skiff-worker"));
    let file = fs::OpenOptions::new().write(true).open(&image).expect("the image can be opened");
    file.set_len(64 << 10).expect("the image can be cut");
    let said = shell.ask("cat /data/059 2>&1 >/dev/null | sed 's/.*: //'");
    assert_eq!(said, "Input/output error");
    assert_eq!(
        shell.ask("cat /data/000 | wc -c"),
        fs::metadata(tree.join("data/000")).expect("size").len().to_string()
    );
    assert_eq!((named(&place, "skiff-keeper"), named(&place, "skiff-worker")), (keeper, worker));
    shell.end();
}

#[test]
fn containers_of_one_image_share_one_server_for_as_long_as_it_lingers() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("serve-shared");
    place.busybox_image();
    let mut shell = Shell::of({
        let mut command = place.skiff(["exec", "busybox.sif", "sh"]);
        command.env("SKIFF_LINGER", "60000");
        command
    });
    let user = shell.ask("readlink /proc/self/ns/user");
    let keeper = named(&place, "skiff-keeper");
    assert_eq!(keeper.len(), 1);
    let other = place.run(["exec", "busybox.sif", "readlink", "/proc/self/ns/user"]).ok();
    assert_eq!(other.trim(), user, "one user namespace");
    shell.end();
    // The first container is gone; its server is not, and takes another.
    let later = place.run(["exec", "busybox.sif", "readlink", "/proc/self/ns/user"]).ok();
    assert_eq!(later.trim(), user, "one server");
    assert_eq!(named(&place, "skiff-keeper"), keeper);
    kill_server(&place);
    remove_rendezvous(&place);
}

#[test]
fn a_server_shows_nothing_of_its_first_callers_words_and_variables() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("serve-title");
    place.busybox_image();
    let mut command = place.skiff(["exec", "--env", "WORD=hunter2", "busybox.sif", "sh"]);
    command.env("VARIABLE", "hunter2").env("SKIFF_LINGER", "60000");
    let mut shell = Shell::of(command);
    assert_eq!(shell.ask("echo $WORD $VARIABLE"), "hunter2 hunter2");
    let shown = |name: &str| {
        let pids = named(&place, name);
        let [pid] = pids.as_slice() else { panic!("{name}: {pids:?}") };
        let read = |file| fs::read_to_string(format!("/proc/{pid}/{file}")).expect("it lives");
        assert_eq!(read("cmdline").trim_end_matches('\0'), name);
        assert_eq!(read("environ").trim_end_matches('\0'), "", "{name}");
        *pid
    };
    shown("skiff-keeper");
    kill_hard(shown("skiff-worker"));
    // The one that takes its place.
    shell.ask("cat /bin/busybox | wc -c");
    while named(&place, "skiff-worker").is_empty() {
        std::thread::yield_now();
    }
    shown("skiff-worker");
    shell.end();
    shown("skiff-keeper");
    kill_server(&place);
    remove_rendezvous(&place);
}

/// Ends a lingering server of this test, as an administrator might.
fn kill_server(place: &Place) {
    for name in ["skiff-keeper", "skiff-worker"] {
        for pid in named(place, name) {
            kill_hard(pid);
        }
    }
}

/// What a killed keeper leaves: its socket and lock, which the next server would replace.
fn remove_rendezvous(place: &Place) {
    fs::remove_dir_all(place.runtime().join("skiff")).expect("a killed keeper leaves its socket");
}

#[test]
fn a_child_that_outlives_its_container_keeps_its_files() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("serve-orphan");
    let (tree, _) = data_tree(&place, 3);
    place.build("data.sif", &tree);
    let script = "exec 3<&0; (read go <&3; sha256sum /data/000 >late) & exit 0";
    let mut command = place.skiff(["exec", "data.sif", "sh", "-c", script]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("skiff starts");
    let mut input = child.stdin.take().expect("stdin is piped");
    assert!(child.wait().expect("a child can be waited for").success());
    // Its socket is gone once nobody lingers, and yet it serves.
    let socket_gone =
        || fs::read_dir(place.runtime().join("skiff")).map_or(true, |mut files| files.next().is_none());
    while !socket_gone() {
        std::thread::yield_now();
    }
    writeln!(input, "go").expect("the orphan reads");
    drop(input);
    for (pid, _) in place.processes() {
        assert!(wait_for_exit(pid, Duration::from_secs(20)), "process {pid} stays");
    }
    let sum = fs::read_to_string(place.work("late")).expect("the orphan wrote");
    let mut expected = place.command("sha256sum");
    let expected = finish(expected.arg(tree.join("data/000"))).ok();
    assert_eq!(sum.split(' ').next(), expected.split(' ').next());
}

#[test]
fn a_killed_keeper_is_replaced_and_its_containers_go_on() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("serve-killed-keeper");
    place.busybox_image();
    let mut shell = Shell::start(&place, "busybox.sif");
    let keeper = named(&place, "skiff-keeper")[0];
    kill_hard(keeper);
    // The stale socket is replaced; the old container is served by the worker that is left.
    let printed = place.run(["exec", "busybox.sif", "echo", "again"]).ok();
    assert_eq!(printed, "again\n");
    assert_eq!(shell.ask("echo $(head -c 4 /bin/busybox | tail -c 3)"), "ELF");
    shell.end();
}

#[test]
fn sixty_four_containers_at_once_have_one_server() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("serve-many");
    place.busybox_image();
    let start = |_| {
        let mut command = place.skiff(["exec", "busybox.sif", "sh", "-c", "echo here; cat"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("skiff starts")
    };
    let mut children: Vec<Child> = (0..64).map(start).collect();
    for child in &mut children {
        let mut line = String::new();
        let out = child.stdout.as_mut().expect("stdout is piped");
        BufReader::new(out).read_line(&mut line).expect("a container prints");
        assert_eq!(line, "here\n");
    }
    assert_eq!(named(&place, "skiff-keeper").len(), 1);
    assert_eq!(named(&place, "skiff-worker").len(), 1);
    for mut child in children {
        drop(child.stdin.take());
        let Output { status, .. } = collect(child, "one of many".into());
        assert!(status.success());
    }
}

#[test]
fn a_worker_may_read_its_image_and_nothing_else() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("serve-sandbox");
    place.busybox_image();
    let shell = Shell::start(&place, "busybox.sif");
    let worker = named(&place, "skiff-worker")[0];
    let status = fs::read_to_string(format!("/proc/{worker}/status")).expect("the worker lives");
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!((field("NoNewPrivs:").as_str(), field("Seccomp:").as_str()), ("1", "2"));
    let kind = |link: PathBuf| {
        let path = fs::read_link(link).expect("a link of /proc");
        let name = path.to_string_lossy().into_owned();
        match Path::new(&name).file_name().and_then(|name| name.to_str()) {
            Some("busybox.sif") => "image",
            Some("fuse" | "null") => "device",
            _ if name.starts_with("/memfd:skiff-requests") => "slots",
            _ if name.starts_with("socket:") => "keeper",
            _ => "stray",
        }
    };
    let fds = fs::read_dir(format!("/proc/{worker}/fd")).expect("descriptors can be listed").flatten();
    let kinds: Vec<&str> = fds.map(|entry| kind(entry.path())).collect();
    assert!(kinds.contains(&"image") && kinds.contains(&"slots"), "{kinds:?}");
    assert!(!kinds.contains(&"stray"), "{kinds:?}");
    assert_eq!(kinds.iter().filter(|kind| **kind == "keeper").count(), 1, "{kinds:?}");
    shell.end();
}
