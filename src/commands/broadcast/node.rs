//! What one node does for `skiff broadcast`: prepares, takes the image, compares its digest, gives it its name.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{ANSWER, Answer, Step, Task};
use crate::commands::{amount, printed};
use crate::error::{Context, Error, Kind, Result};
use crate::host::Host;

/// By these an error is known where all answers come together.
pub const NO_SPACE: &str = "no space";
pub const ANOTHER: &str = "another file has this name";

/// How it stands on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The image was there.
    There,
    /// It can be taken.
    Ready,
    /// It was copied.
    Copied,
    /// It is not there.
    Gone,
}

/// Does a task, and answers in one line.
pub fn run(task: &str, host: &Host) -> Result<i32> {
    let task: Task =
        serde_json::from_str(task).context(Kind::Usage, || format!("cannot read the task {task:?}"))?;
    let node =
        host.variable("SLURMD_NODENAME").map_or(host.hostname.clone(), |name| name.to_string_lossy().into());
    let answer = match act(&task, &mut io::stdin().lock()) {
        Ok(state) => Answer { node, state, error: None },
        Err(error) => Answer { node, state: State::Gone, error: Some(error.to_string()) },
    };
    let line = serde_json::to_string(&answer).tried(|| "cannot write the answer".into())?;
    printed(writeln!(io::stdout(), "{ANSWER}{line}"))
}

fn act(task: &Task, input: &mut impl Read) -> Result<State> {
    match task.step {
        Step::Prepare => prepare(task),
        Step::Accept => accept(task),
        Step::Receive => receive(task, input),
        Step::Discard => gone(&task.part).map(|()| State::Gone),
        Step::Remove => remove(task),
    }
}

fn prepare(task: &Task) -> Result<State> {
    let Some(directory) = task.target.parent() else { return Err(Error::usage("no directory")) };
    make(task, directory).tried(|| format!("cannot make {directory:?}"))?;
    if let Some(state) = look(task)? {
        return Ok(state);
    }
    gone(&task.part)?;
    let space = rustix::fs::statvfs(directory).tried(|| format!("cannot look at {directory:?}"))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free < task.bytes {
        let (free, needed) = (amount(free), amount(task.bytes));
        return Err(Error::new(
            Kind::Io,
            format!("{NO_SPACE} in {directory:?}: {free} free, {needed} needed"),
        ));
    }
    Ok(State::Ready)
}

/// Makes the directory. One in a place that all may write to must be the user's alone, or others could put their
/// image in the place of this one.
fn make(task: &Task, directory: &Path) -> io::Result<()> {
    if let Some(own) = &task.own {
        match DirBuilder::new().mode(0o700).create(own) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let facts = fs::symlink_metadata(own)?;
        let mine = facts.uid() == rustix::process::geteuid().as_raw();
        if !facts.is_dir() || !mine || facts.permissions().mode() & 0o022 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("{own:?} is not a directory of the user's alone"),
            ));
        }
    }
    DirBuilder::new().recursive(true).mode(0o755).create(directory)
}

/// Whether the image is there, or something else is.
fn look(task: &Task) -> Result<Option<State>> {
    let trying = || format!("cannot look at {:?}", task.target);
    let facts = match fs::symlink_metadata(&task.target) {
        Ok(facts) => facts,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).tried(trying),
    };
    if facts.is_file() && facts.len() == task.bytes {
        let mut file = File::open(&task.target).tried(trying)?;
        if digest(&mut file, &mut io::sink()).tried(trying)? == task.digest {
            return Ok(Some(State::There));
        }
    }
    if facts.is_dir() || !task.force {
        return Err(Error::new(Kind::Io, ANOTHER));
    }
    Ok(None)
}

fn accept(task: &Task) -> Result<State> {
    let mut part = File::open(&task.part).tried(|| format!("cannot open {:?}", task.part))?;
    let got = digest(&mut part, &mut io::sink()).tried(|| format!("cannot read {:?}", task.part))?;
    finish(task, &part, &got)
}

fn receive(task: &Task, input: &mut impl Read) -> Result<State> {
    let trying = || format!("cannot write {:?}", task.part);
    gone(&task.part)?;
    let taken = File::options().write(true).create_new(true).mode(0o644).open(&task.part).tried(trying);
    let result = taken.and_then(|mut part| {
        let got = digest(input, &mut part).tried(trying)?;
        finish(task, &part, &got)
    });
    if result.is_err() {
        // What failed is told; srun wants all of its input read.
        let _ = (gone(&task.part), io::copy(input, &mut io::sink()));
    }
    result
}

/// The digest of all that is read, which is written on the way.
pub fn digest(from: &mut impl Read, to: &mut impl Write) -> io::Result<String> {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                hash.update(&buffer[..length]);
                to.write_all(&buffer[..length])?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Gives the image its name, if it is the right one.
fn finish(task: &Task, part: &File, got: &str) -> Result<State> {
    if got != task.digest {
        gone(&task.part)?;
        return Err(Error::new(
            Kind::Io,
            format!("it came damaged: its digest is {got} and not {}", task.digest),
        ));
    }
    let trying = || format!("cannot write {:?}", task.target);
    part.set_permissions(fs::Permissions::from_mode(0o755)).tried(trying)?;
    part.sync_all().tried(trying)?;
    fs::rename(&task.part, &task.target).tried(trying)?;
    Ok(State::Copied)
}

/// Takes a file away, if it is there.
fn gone(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).tried(|| format!("cannot remove {path:?}"))
        }
        _ => Ok(()),
    }
}

fn remove(task: &Task) -> Result<State> {
    match look(task) {
        // Something else of this name is not ours to take away.
        Ok(None) | Err(_) => return Ok(State::Gone),
        Ok(Some(_)) => gone(&task.target)?,
    }
    if let Some(own) = &task.own {
        // They stay where another image is in them.
        let _ = task.target.parent().map(fs::remove_dir);
        let _ = fs::remove_dir(own);
    }
    Ok(State::Gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"an image";

    fn task(directory: &Path, step: Step) -> Task {
        let own = directory.join("own");
        let place = own.join("place");
        let digest = digest(&mut &TEXT[..], &mut io::sink()).unwrap();
        let (target, part) = (place.join("a.sif"), place.join(".part"));
        Task { step, own: Some(own), target, part, digest, bytes: TEXT.len() as u64, force: false }
    }

    fn done(task: &Task, step: Step, mut input: &[u8]) -> Result<State> {
        act(&Task { step, ..task.clone() }, &mut input)
    }

    #[test]
    fn an_image_arrives_whole_or_not_at_all() {
        let temporary = tempfile::tempdir().unwrap();
        let task = task(temporary.path(), Step::Prepare);
        assert_eq!(done(&task, Step::Prepare, b"").unwrap(), State::Ready);
        let damaged = done(&task, Step::Receive, b"an imagf").unwrap_err();
        assert!(damaged.to_string().contains("damaged"), "{damaged}");
        assert!(!task.target.exists() && !task.part.exists());
        assert_eq!(done(&task, Step::Receive, TEXT).unwrap(), State::Copied);
        assert_eq!(fs::read(&task.target).unwrap(), TEXT);
        assert_eq!(done(&task, Step::Prepare, b"").unwrap(), State::There);
        fs::write(&task.part, TEXT).unwrap();
        assert_eq!(done(&task, Step::Accept, b"").unwrap(), State::Copied);
        assert_eq!(done(&task, Step::Remove, b"").unwrap(), State::Gone);
        assert!(fs::read_dir(temporary.path()).unwrap().next().is_none());
    }

    #[test]
    fn another_file_of_the_name_is_replaced_only_by_force() {
        let temporary = tempfile::tempdir().unwrap();
        let task = task(temporary.path(), Step::Prepare);
        fs::create_dir_all(task.target.parent().unwrap()).unwrap();
        fs::write(&task.target, "another").unwrap();
        assert!(done(&task, Step::Prepare, b"").unwrap_err().to_string().contains(ANOTHER));
        assert_eq!(done(&task, Step::Remove, b"").unwrap(), State::Gone);
        assert!(task.target.exists(), "it is not what was broadcast");
        let forced = Task { force: true, ..task };
        assert_eq!(done(&forced, Step::Prepare, b"").unwrap(), State::Ready);
        assert_eq!(done(&forced, Step::Receive, TEXT).unwrap(), State::Copied);
        assert_eq!(fs::read(&forced.target).unwrap(), TEXT);
    }

    #[test]
    fn a_directory_that_others_may_write_to_and_a_full_node_are_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let task = task(temporary.path(), Step::Prepare);
        let own = task.own.clone().unwrap();
        fs::create_dir(&own).unwrap();
        fs::set_permissions(&own, fs::Permissions::from_mode(0o777)).unwrap();
        let refused = done(&task, Step::Prepare, b"").unwrap_err();
        assert!(refused.to_string().contains("not a directory of the user's alone"), "{refused}");
        fs::set_permissions(&own, fs::Permissions::from_mode(0o700)).unwrap();
        let large = Task { bytes: u64::MAX, ..task };
        assert!(done(&large, Step::Prepare, b"").unwrap_err().to_string().contains(NO_SPACE));
    }
}
