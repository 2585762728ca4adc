//! `skiff broadcast`: an image on every node of a Slurm job.
//!
//! ```text
//! digest of the image
//! srun, one task a node: prepare     directory, space, is it there already        node.rs
//! sbcast to a hidden name, or        srun with the image on its standard input
//! srun, one task a node: accept      digest, fsync, rename
//! ```
//!
//! A task prints one line, its answer; so each failure has the name of its node. A heterogeneous job is gone through
//! component by component, since neither srun nor sbcast takes all of them at once.

mod node;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use crate::cli::Global;
use crate::cli::broadcast::BroadcastArgs;
use crate::commands::{amount, host_for, json_text, note, printed};
use crate::error::{Context, Error, Kind, Result};
use crate::host::Host;
use crate::sys::signals::{STOP, catch_stop};

/// What begins the one line that a node's task prints.
const ANSWER: &str = "skiff-node ";

/// What a node is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    /// Make the directory, look for space and for what is there.
    Prepare,
    /// Take what sbcast has written.
    Accept,
    /// Take the image from standard input.
    Receive,
    /// Take half an image away.
    Discard,
    /// Take the image away.
    Remove,
}

/// A node's task.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Task {
    step: Step,
    /// The directory that only this user may write to, if it is not one that was named.
    own: Option<PathBuf>,
    /// Where the image is to be.
    target: PathBuf,
    /// Its name while it is not complete.
    part: PathBuf,
    digest: String,
    bytes: u64,
    force: bool,
}

/// A node's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Answer {
    node: String,
    state: node::State,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The nodes that one srun reaches: those of the job, or of one component of it.
struct Group {
    /// As sbcast calls it.
    job: String,
    nodes: u32,
    component: Option<u32>,
}

#[derive(Serialize)]
struct Report<'a> {
    path: &'a Path,
    digest: String,
    bytes: u64,
    nodes: Vec<Answer>,
}

/// Runs `skiff broadcast`.
pub fn run(args: &BroadcastArgs, global: &Global) -> Result<i32> {
    let host = host_for(global);
    if let Some(task) = &args.on_node {
        return node::run(task, &host);
    }
    let image = &args.image;
    let trying = || format!("cannot broadcast {image:?}");
    let groups = groups(&host).ok_or_else(|| {
        Error::usage(format!("{}: this is no job of Slurm (SLURM_JOB_ID is not set)", trying()))
            .hint("call it in a script that sbatch has started, or under salloc")
    })?;
    let mut file = File::open(image).context(Kind::Image, trying)?;
    let facts = file.metadata().context(Kind::Image, trying)?;
    if !facts.is_file() {
        return Err(Error::usage(format!("{}: it is not a file", trying()))
            .hint("pack a directory first: skiff build IMAGE.sif DIRECTORY"));
    }
    let digest = node::digest(&mut file, &mut io::sink()).tried(|| format!("cannot read {image:?}"))?;
    let task = task(args, &host, digest, facts.len())?;
    catch_stop();
    let answers = match args.remove {
        true => everywhere(&groups, &task, Step::Remove)?,
        false => send(image, &groups, &task, global).inspect_err(|_| {
            // The error that led here is the one to tell.
            let _ = everywhere(&groups, &task, Step::Discard);
        })?,
    };
    let text = match args.json {
        true => {
            let digest = format!("sha256:{}", task.digest);
            let report = Report { path: &task.target, digest, bytes: task.bytes, nodes: answers };
            json_text(&report, "the report")?
        }
        false => format!("{}\n", task.target.display()),
    };
    printed(io::stdout().write_all(text.as_bytes()))
}

/// The job's nodes, in groups; `None` outside a job.
fn groups(host: &Host) -> Option<Vec<Group>> {
    let number = |name: &str| host.variable(name)?.to_str()?.parse::<u32>().ok();
    let job = host.variable("SLURM_JOB_ID").filter(|id| !id.is_empty())?.to_string_lossy().into_owned();
    let Some(size) = number("SLURM_HET_SIZE").filter(|size| *size > 1) else {
        let nodes = number("SLURM_JOB_NUM_NODES").or_else(|| number("SLURM_NNODES")).unwrap_or(1);
        return Some(vec![Group { job, nodes, component: None }]);
    };
    let group = |component: u32| Group {
        job: format!("{job}+{component}"),
        nodes: number(&format!("SLURM_JOB_NUM_NODES_HET_GROUP_{component}")).unwrap_or(1),
        component: Some(component),
    };
    Some((0..size).map(group).collect())
}

/// What the nodes are asked.
fn task(args: &BroadcastArgs, host: &Host, digest: String, bytes: u64) -> Result<Task> {
    let image = &args.image;
    let name = image.file_name().ok_or_else(|| Error::usage(format!("{image:?} names no file")))?;
    let named = |name: &str| host.variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let own = match args.directory {
        Some(_) => None,
        None => {
            let base = named("SLURM_TMPDIR").or_else(|| named("TMPDIR")).unwrap_or_else(|| "/tmp".into());
            Some(base.join(format!("skiff-images-{}", host.uid)))
        }
    };
    let directory = match (&args.directory, &own) {
        (Some(directory), _) => {
            std::path::absolute(directory).tried(|| format!("cannot use {directory:?}"))?
        }
        (None, Some(own)) => own.join(digest.get(..16).unwrap_or(&digest)),
        (None, None) => PathBuf::from("/tmp"),
    };
    let job = host.variable("SLURM_JOB_ID").unwrap_or_default();
    let mut part = OsString::from(".");
    part.push(name);
    part.push(".");
    part.push(job);
    part.push(".part");
    let (target, part) = (directory.join(name), directory.join(part));
    Ok(Task { step: Step::Prepare, own, target, part, digest, bytes, force: args.force })
}

/// Has the image copied to where it is not; gives the nodes' last answers.
fn send(image: &Path, groups: &[Group], task: &Task, global: &Global) -> Result<Vec<Answer>> {
    let prepared = everywhere(groups, task, Step::Prepare)?;
    let there = |answers: &[Answer]| answers.iter().all(|answer| answer.state == node::State::There);
    if there(&prepared) {
        return Ok(prepared);
    }
    let mut answers = Vec::new();
    for group in groups {
        let way = copy(image, group, task)?;
        if global.detail() > 0 {
            note(global, &format!("{} sent to {} nodes by {way}", amount(task.bytes), group.nodes));
        }
        answers.extend(match way {
            "sbcast" => ask(group, task, Step::Accept, None)?,
            _ => ask(group, task, Step::Receive, Some(image))?,
        });
    }
    failures(&answers, task).map_or(Ok(answers), Err)
}

/// Copies by sbcast, where there is one; says what the way is.
fn copy(image: &Path, group: &Group, task: &Task) -> Result<&'static str> {
    let mut sbcast = Command::new("sbcast");
    sbcast.args(["--force", "--jobid", &group.job]).arg(image).arg(&task.part);
    sbcast.stdin(Stdio::null()).stdout(Stdio::null());
    match sbcast.status() {
        Ok(status) if status.success() => Ok("sbcast"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok("srun"),
        Err(error) => Err(Error::host("cannot run sbcast").because(error)),
        Ok(_) if STOP.load(Ordering::Relaxed) => Err(Error::new(Kind::Interrupted, "interrupted")),
        Ok(status) => Err(Error::host(format!("cannot copy {image:?} to {:?}: sbcast: {status}", task.part))
            .hint("what sbcast says stands above; a node may have no space left: give another DIRECTORY")),
    }
}

/// Has something done on all nodes, and fails when one of them fails.
fn everywhere(groups: &[Group], task: &Task, step: Step) -> Result<Vec<Answer>> {
    let mut answers = Vec::new();
    for group in groups {
        answers.extend(ask(group, task, step, None)?);
    }
    failures(&answers, task).map_or(Ok(answers), Err)
}

/// What the nodes complain of, as one error.
fn failures(answers: &[Answer], task: &Task) -> Option<Error> {
    let said = |answer: &Answer| answer.error.as_ref().map(|error| format!("on {}: {error}", answer.node));
    let failed: Vec<String> = answers.iter().filter_map(said).collect();
    if failed.is_empty() {
        return None;
    }
    let error = Error::new(Kind::Io, format!("cannot have {:?} {}", task.target, failed.join("; ")));
    let has = |text: &str| failed.iter().any(|failed| failed.contains(text));
    Some(match () {
        () if has(node::NO_SPACE) => {
            error.hint("give a directory with more space: skiff broadcast IMAGE DIRECTORY")
        }
        () if has(node::ANOTHER) => error.hint("--force replaces it"),
        () => error,
    })
}

/// One task on each node of a group.
fn ask(group: &Group, task: &Task, step: Step, input: Option<&Path>) -> Result<Vec<Answer>> {
    let words = serde_json::to_string(&Task { step, ..task.clone() })
        .context(Kind::Usage, || format!("cannot tell {:?} to the nodes", task.target))?;
    let skiff = std::env::current_exe().tried(|| "cannot find skiff itself".into())?;
    let nodes = group.nodes.to_string();
    let mut srun = Command::new("srun");
    // The step shares the job's processors and memory with what runs already, and looks like no MPI step.
    srun.args(["--overlap", "--mem=0", "--cpus-per-task=1", "--mpi=none", "--quiet"]).args([
        "--nodes",
        &nodes,
        "--ntasks",
        &nodes,
        "--ntasks-per-node=1",
        "--kill-on-bad-exit=0",
    ]);
    // Of the job's own binding.
    for name in ["SLURM_CPU_BIND", "SLURM_CPU_BIND_TYPE", "SLURM_CPU_BIND_LIST"] {
        srun.env_remove(name);
    }
    if let Some(component) = group.component {
        srun.arg(format!("--het-group={component}"));
    }
    srun.arg(skiff).args(["broadcast", "--on-node", &words]).arg(&task.target);
    srun.stdin(match input {
        Some(path) => Stdio::from(File::open(path).tried(|| format!("cannot open {path:?}"))?),
        None => Stdio::null(),
    });
    srun.stderr(Stdio::inherit());
    let output = srun.output().map_err(|error| {
        Error::host("cannot run srun").because(error).hint("load Slurm's module, or add its bin to PATH")
    })?;
    // Half an image is taken away even so.
    if STOP.load(Ordering::Relaxed) && step != Step::Discard {
        return Err(Error::new(Kind::Interrupted, "interrupted"));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter_map(|line| line.strip_prefix(ANSWER));
    let answers: Vec<Answer> = lines.filter_map(|line| serde_json::from_str(line).ok()).collect();
    if answers.len() == group.nodes as usize {
        return Ok(answers);
    }
    let (many, status) = (answers.len(), output.status);
    let error =
        format!("cannot have {:?} on all nodes: {many} of {nodes} answered; srun: {status}", task.target);
    Err(Error::host(error).hint("what srun says stands above; skiff itself must be where all nodes find it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(pairs: &[(&str, &str)]) -> Host {
        Host::made_up(Path::new("/")).with_environment(pairs)
    }

    fn args(directory: Option<&str>) -> BroadcastArgs {
        let directory = directory.map(PathBuf::from);
        let image = "images/a.sif".into();
        BroadcastArgs { image, directory, force: false, remove: false, json: false, on_node: None }
    }

    #[test]
    fn the_nodes_are_those_of_the_job_component_by_component() {
        assert!(groups(&host(&[("SLURM_JOB_ID", "")])).is_none());
        let plain = groups(&host(&[("SLURM_JOB_ID", "7"), ("SLURM_JOB_NUM_NODES", "3")])).unwrap();
        assert_eq!((plain.len(), plain[0].nodes, plain[0].job.as_str()), (1, 3, "7"));
        let mixed = groups(&host(&[
            ("SLURM_JOB_ID", "7"),
            ("SLURM_HET_SIZE", "2"),
            ("SLURM_JOB_NUM_NODES_HET_GROUP_0", "1"),
            ("SLURM_JOB_NUM_NODES_HET_GROUP_1", "4"),
        ]));
        let mixed: Vec<_> = mixed.unwrap().into_iter().map(|group| (group.job, group.nodes)).collect();
        assert_eq!(mixed, [("7+0".to_owned(), 1), ("7+1".to_owned(), 4)]);
    }

    #[test]
    fn without_a_directory_a_name_of_the_digest_keeps_images_apart() {
        let job = host(&[("SLURM_JOB_ID", "7"), ("TMPDIR", "/scratch"), ("SLURM_TMPDIR", "relative")]);
        let found = task(&args(None), &job, "0123456789abcdef0123".into(), 1).unwrap();
        assert_eq!(found.own.as_deref(), Some(Path::new("/scratch/skiff-images-1000")));
        assert_eq!(found.target, Path::new("/scratch/skiff-images-1000/0123456789abcdef/a.sif"));
        let found = task(&args(Some("/local")), &job, "0123".into(), 1).unwrap();
        assert_eq!((found.own, found.target), (None, "/local/a.sif".into()));
        assert_eq!(found.part, Path::new("/local/.a.sif.7.part"));
    }
}
