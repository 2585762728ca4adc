//! Many ranks of one step on a node: one server and one user namespace, so that they read each other's memory, come
//! late and go early; each with its own binds and variables; and what a launcher gives them reaches them.
//!
//! A step is made by the variables that srun sets. With srun itself: `scripts/slurm`.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{
    Need, Output, Place, able, busybox_tree, collect, finish, give, skiff_binary, wait_for_exit,
};
use crate::serve::{Shell, data_tree, named};

const NEEDS: [Need; 3] = [Need::Userns, Need::Fuse, Need::Busybox];

/// `skiff` as rank `rank` of four of a step of job 7.
fn rank(place: &Place, step: &str, rank: usize, words: &[&str]) -> Command {
    let mut command = place.skiff(words);
    command.env("SLURM_JOB_ID", "7").env("SLURM_STEP_ID", step).env("SLURM_STEP_NUM_TASKS", "4");
    command.env("SLURM_PROCID", rank.to_string());
    command
}

/// An image of busybox and the program of ranks.c.
fn image(place: &Place) {
    let tree = place.work("tree");
    busybox_tree(&tree);
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-static", "-o"]).arg(tree.join("bin/ranks"));
    finish(gcc.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/ranks.c"))).ok();
    give(&tree);
    place.build("ranks.sif", &tree);
}

#[test]
fn ranks_of_a_step_read_each_others_memory_and_others_do_not() {
    if !able(&NEEDS) || !able(&[Need::StaticC, Need::Peek]) {
        return;
    }
    let place = Place::new("ranks-memory");
    image(&place);
    let mut holder = Shell::of(rank(&place, "0", 0, &["exec", "ranks.sif", "sh"]));
    let held = holder.ask("ranks hold");
    let words: Vec<&str> = held.split(' ').collect();
    let peek = ["exec", "ranks.sif", "ranks", "peek", words[0], words[1]];
    assert_eq!(finish(&mut rank(&place, "0", 1, &peek)).ok(), "in another's memory\n");
    // Other binds and a clean environment make no difference to who may read whom.
    let other =
        ["exec", "--cleanenv", "--bind", "/etc:/host", "ranks.sif", "ranks", "peek", words[0], words[1]];
    assert_eq!(finish(&mut rank(&place, "0", 2, &other)).ok(), "in another's memory\n");
    assert_eq!(finish(&mut rank(&place, "1", 0, &peek)).ok(), "Operation not permitted\n", "another step");
    // UCX reaches what another rank has mapped through that rank's descriptors.
    let descriptor = format!("/proc/{}/fd/0", words[0]);
    let look = ["exec", "ranks.sif", "readlink", &descriptor];
    assert!(finish(&mut rank(&place, "0", 3, &look)).ok().starts_with("pipe:"));
    assert!(!finish(&mut rank(&place, "1", 0, &look)).status.success(), "another step");
    holder.end();
}

#[test]
fn a_rank_joins_when_the_first_has_left() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("ranks-late");
    place.busybox_image();
    let start = |number| Shell::of(rank(&place, "0", number, &["exec", "busybox.sif", "sh"]));
    let ask = |shell: &mut Shell| shell.ask("readlink /proc/self/ns/user");
    let mut first = start(0);
    let namespace = ask(&mut first);
    let mut second = start(1);
    first.end();
    let mut third = start(2);
    assert_eq!(ask(&mut third), namespace);
    second.tell("exit");
    second.end();
    let mut fourth = start(3);
    assert_eq!(ask(&mut fourth), namespace);
    assert_eq!(named(&place, "skiff-keeper").len(), 1);
    fourth.end();
    third.end();
}

#[test]
fn each_rank_has_its_own_binds_and_variables() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("ranks-binds");
    place.busybox_image();
    let script = "cat /in/name; echo $OF; readlink /proc/self/ns/user";
    let shells: Vec<String> = (0..3)
        .map(|number| {
            fs::create_dir(place.work(format!("in{number}"))).expect("a directory can be made");
            place.write(&format!("in{number}/name"), format!("bind {number}\n"));
            let bind = format!("{}:/in", place.work(format!("in{number}")).display());
            let words = ["exec", "--bind", &bind, "busybox.sif", "sh", "-c", script];
            let mut command = rank(&place, "0", number, &words);
            // The server of the first one is used by all.
            command.env("OF", format!("rank {number}")).env("SKIFF_LINGER", "20000");
            finish(&mut command).ok()
        })
        .collect();
    let namespace = shells[0].lines().last().expect("a line").to_owned();
    for (number, said) in shells.iter().enumerate() {
        assert_eq!(*said, format!("bind {number}\nrank {number}\n{namespace}\n"));
    }
    end_step(&place);
    fs::remove_dir_all(place.runtime().join("skiff")).expect("killed servers leave their socket");
}

/// What Slurm does at the end of a step.
fn end_step(place: &Place) {
    for (pid, _) in place.processes() {
        // It may be gone already, which is what is wanted.
        let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        assert!(wait_for_exit(pid, Duration::from_secs(20)), "process {pid} outlives SIGKILL");
    }
}

#[test]
fn sixty_four_ranks_at_once_have_one_server_and_one_namespace() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("ranks-many");
    place.busybox_image();
    let words = ["exec", "busybox.sif", "sh", "-c", "readlink /proc/self/ns/user; cat >/dev/null"];
    let start = |number| {
        let mut command = rank(&place, "0", number, &words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("skiff starts")
    };
    let mut children: Vec<Child> = (0..64).map(start).collect();
    let inputs: Vec<_> = children.iter_mut().map(|child| child.stdin.take()).collect();
    // All are there before the first one goes.
    let mut outputs: Vec<String> = Vec::new();
    for child in &mut children {
        let mut line = String::new();
        let output = child.stdout.as_mut().expect("stdout is piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).expect("a rank prints");
        outputs.push(line);
    }
    assert_eq!(named(&place, "skiff-keeper").len(), 1);
    outputs.dedup();
    assert_eq!(outputs.len(), 1, "{outputs:?}");
    drop(inputs);
    for child in children {
        let Output { status, .. } = collect(child, "one of many".into());
        assert!(status.success());
    }
}

#[test]
fn the_descriptor_and_the_variables_of_the_launcher_reach_a_contained_program() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("ranks-descriptor");
    place.busybox_image();
    let skiff = skiff_binary().display();
    for flags in ["--cleanenv --contain", "--containall"] {
        let script = format!(
            "echo 'cmd=init pmi_version=1' | sh -c 'exec 7<&0 </dev/null; PMI_FD=7 PMI_RANK=3 PALS_RANKID=3 OTHER=1 \
             exec {skiff} --quiet exec {flags} busybox.sif sh -c \"cat <&\\$PMI_FD; env\"'"
        );
        let mut command = place.command("sh");
        let said = finish(command.args(["-c", &script])).ok();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[0], "cmd=init pmi_version=1", "{flags}");
        for variable in ["PMI_FD=7", "PMI_RANK=3", "PALS_RANKID=3"] {
            assert!(lines.contains(&variable), "{flags}: {said}");
        }
        assert!(!said.contains("OTHER"), "{flags}: {said}");
    }
}

#[test]
fn the_directory_of_the_pmix_server_and_the_shared_memory_are_seen_by_contained_ranks() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("ranks-pmix");
    place.busybox_image();
    let server = place.work("pmix.7.0");
    fs::create_dir(&server).expect("a directory can be made");
    place.write("pmix.7.0/dstore", "of the server\n");
    let shared = format!("rank-{}", std::process::id());
    let path = Path::new("/dev/shm").join(&shared);
    fs::write(&path, "of a rank\n").expect("there is shared memory");
    let script = format!("cat $PMIX_SERVER_TMPDIR/dstore; cat /dev/shm/{shared} 2>/dev/null || echo none");
    let words = ["exec", "--cleanenv", "--contain", "busybox.sif", "sh", "-c", &script];
    let mut contained = rank(&place, "0", 0, &words);
    let said = finish(contained.env("PMIX_RANK", "0").env("PMIX_SERVER_TMPDIR", &server)).ok();
    let alone = finish(rank(&place, "0", 0, &words).env("SLURM_STEP_NUM_TASKS", "1")).stdout;
    fs::remove_file(&path).expect("it can be removed");
    assert_eq!(said, "of the server\nof a rank\n");
    // Without other ranks a contained program has its own.
    assert_eq!(alone, "none\n");
}

#[test]
fn a_plan_says_what_started_the_program_and_one_rank_warns() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("ranks-plan");
    place.busybox_image();
    let words = ["exec", "--dry-run", "--containall", "busybox.sif", "true"];
    let plan = finish(rank(&place, "0", 2, &words).env("PMIX_RANK", "2")).ok();
    assert!(plan.contains("started  by Slurm (SLURM_JOB_ID), PMIx (PMIX_RANK); rank 2 of 4\n"), "{plan}");
    assert!(plan.contains("whose variables stay without others: SLURM_*, PMIX_*"), "{plan}");
    assert!(plan.contains("memory that the ranks share"), "{plan}");
    let words = ["exec", "--pid", "busybox.sif", "true"];
    let warned = |number| finish(&mut rank(&place, "0", number, &words)).stderr;
    assert!(warned(0).contains("ranks with processes of their own (--pid) take each other for themselves"));
    assert_eq!(warned(1), "");
}

#[test]
fn what_killed_servers_leave_goes_when_the_next_step_begins() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("ranks-killed");
    place.busybox_image();
    let sockets = || {
        let files = fs::read_dir(place.runtime().join("skiff")).into_iter().flatten().flatten();
        files.filter(|file| file.path().extension().is_some_and(|end| end == "sock")).count()
    };
    for step in ["0", "1", "2"] {
        let shell = Shell::of(rank(&place, step, 0, &["exec", "busybox.sif", "sh"]));
        drop(shell);
        end_step(&place);
    }
    let last = Shell::of(rank(&place, "3", 0, &["exec", "busybox.sif", "sh"]));
    // The server looks once it serves.
    let begin = std::time::Instant::now();
    while sockets() > 1 {
        assert!(begin.elapsed() < Duration::from_secs(20), "{} sockets are left", sockets());
        std::thread::yield_now();
    }
    last.end();
}

#[test]
fn a_program_that_saves_its_state_when_it_is_told_to_end_still_has_its_files() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("ranks-told");
    let (tree, _) = data_tree(&place, 3);
    place.build("data.sif", &tree);
    let script = "trap 'sha256sum /data/001; exit' TERM; echo ready; while :; do sleep 0.1; done";
    let mut told = rank(&place, "0", 0, &["exec", "data.sif", "sh", "-c", script]);
    let mut child = told.stdout(Stdio::piped()).spawn().expect("skiff starts");
    let mut output = std::io::BufReader::new(child.stdout.take().expect("stdout is piped"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut output, &mut line).expect("it is ready");
    // As a batch system does, to all processes of the step, the servers first.
    for signal in [Signal::SIGUSR1, Signal::SIGTERM] {
        for pid in [named(&place, "skiff-keeper"), named(&place, "skiff-worker")].concat() {
            kill(Pid::from_raw(pid), signal).expect("servers stay");
        }
    }
    kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), Signal::SIGTERM).expect("it runs");
    line.clear();
    std::io::BufRead::read_line(&mut output, &mut line).expect("it saves");
    assert!(child.wait().expect("a child can be waited for").success());
    let expected = finish(place.command("sha256sum").arg(tree.join("data/001"))).ok();
    assert_eq!(line.split(' ').next(), expected.split(' ').next());
}

#[test]
fn outside_a_job_nothing_is_broadcast() {
    let place = Place::new("ranks-broadcast");
    place.write("a.sif", "not an image, and not looked at");
    let said = place.run(["broadcast", "a.sif"]).fails(255);
    assert!(
        said.contains("cannot broadcast \"a.sif\": this is no job of Slurm (SLURM_JOB_ID is not set)"),
        "{said}"
    );
    let mut job = place.skiff(["broadcast", "b.sif"]);
    let said = finish(job.env("SLURM_JOB_ID", "7")).fails(255);
    assert!(said.contains("cannot broadcast \"b.sif\": no such file or directory"), "{said}");
    let mut job = place.skiff(["broadcast", "a.sif"]);
    let said = finish(job.env("SLURM_JOB_ID", "7").env("PATH", "/nonexistent")).fails(255);
    assert!(said.contains("cannot run srun"), "{said}");
}
