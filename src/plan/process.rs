//! The user's process: which program, where it starts, and whether this processor can run it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::app;
use super::asked::Asked;
use super::target::{View, tidy};
use super::{Action, ContainerPath, Request, TargetKind};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::image::metadata::app_names;

/// What `skiff run` runs: the image's runscript, or what very old images have in its place.
const RUNSCRIPTS: [&str; 2] = ["/.singularity.d/runscript", "/singularity"];

/// What `skiff test` runs.
pub const TEST_SCRIPT: &str = "/.singularity.d/test";

/// Where images keep their programs.
const PROGRAM_DIRECTORIES: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/usr/sbin", "/bin"];

/// What nearly every program of a processor's Linux starts with: the loader, what it looks up, the C library where
/// distributions have it.
const START_LIBRARIES: &[(&str, &[&str])] = &[
    (
        "x86_64",
        &[
            "/lib64/ld-linux-x86-64.so.2",
            "/etc/ld.so.cache",
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/usr/lib64/libc.so.6",
            "/lib/ld-musl-x86_64.so.1",
        ],
    ),
    (
        "aarch64",
        &[
            "/lib/ld-linux-aarch64.so.1",
            "/etc/ld.so.cache",
            "/lib/aarch64-linux-gnu/libc.so.6",
            "/usr/lib64/libc.so.6",
            "/lib/ld-musl-aarch64.so.1",
        ],
    ),
];

/// The files that the program will start with, told by its name alone: the image is not looked into, and some may
/// not exist.
pub fn start_files(request: &Request<'_>, host: &Host) -> Vec<ContainerPath> {
    let mut files: Vec<PathBuf> = Vec::new();
    match (request.action, request.words.first().map(Path::new)) {
        (Action::Exec, Some(program)) if program.is_absolute() => files.push(program.into()),
        (Action::Exec, Some(program)) if program.components().count() == 1 => {
            files.extend(PROGRAM_DIRECTORIES.iter().map(|directory| Path::new(directory).join(program)));
        }
        // A program of the host, started by a path from the working directory.
        (Action::Exec, _) => {}
        (Action::Run, _) => files.extend([script_of(request, RUNSCRIPTS[0], "runscript"), "/bin/sh".into()]),
        (Action::Test, _) => files.extend([script_of(request, TEST_SCRIPT, "test"), "/bin/sh".into()]),
        (Action::Shell, _) => files.push(request.shell.unwrap_or(Path::new("/bin/bash")).into()),
    }
    let libraries = START_LIBRARIES.iter().find(|(machine, _)| *machine == host.machine);
    files.extend(libraries.into_iter().flat_map(|(_, paths)| paths.iter().map(PathBuf::from)));
    files.into_iter().map(ContainerPath).collect()
}

/// The app's script where `--app` names one, else the image's.
fn script_of(request: &Request<'_>, image: &str, app: &str) -> PathBuf {
    request.flags.app.as_deref().map_or(image.into(), |name| app::script(name, app))
}

/// Go's name of a processor (which SIF goes by) as `uname -m` has it.
pub fn machine_of(architecture: &str) -> Option<&str> {
    Some(match architecture {
        "386" => "i386",
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        "mipsle" => "mipsel",
        "mips64le" => "mips64el",
        "loong64" => "loongarch64",
        "unknown" => return None,
        same => same,
    })
}

/// Fails when the image is for another processor and nothing here emulates it.
pub fn check_machine(request: &Request<'_>, host: &Host) -> Result<()> {
    let Some(wanted) = request.machine else { return Ok(()) };
    if runs_on(wanted, &host.machine) || emulated(wanted, host) {
        return Ok(());
    }
    Err(Error::image(format!(
        "cannot run image {:?}: it is for {wanted}, this machine is {}",
        request.image, host.machine
    ))
    .hint(format!(
        "build the image for {}, or have qemu-user-static registered in binfmt_misc on this machine",
        host.machine
    )))
}

fn runs_on(wanted: &str, machine: &str) -> bool {
    wanted == machine
        || match machine {
            "x86_64" => matches!(wanted, "i386" | "i686"),
            "aarch64" => wanted.starts_with("arm"),
            // "armv7l", "armv6l": one family, as far as a name can tell.
            _ => machine.starts_with("arm") && wanted.starts_with("arm"),
        }
}

/// Whether the kernel starts programs of that processor through an emulator.
fn emulated(wanted: &str, host: &Host) -> bool {
    let name = match wanted {
        "i686" => "i386",
        arm if arm.starts_with("armv") => "arm",
        name => name,
    };
    host.look(Path::new(&format!("/proc/sys/fs/binfmt_misc/qemu-{name}"))).is_ok()
}

/// The program and its arguments.
pub fn plan_argv(
    request: &Request<'_>,
    host: &Host,
    app: Option<&OsStr>,
    view: &mut View<'_>,
) -> Result<Vec<OsString>> {
    match (request.action, app) {
        (Action::Run, Some(app)) => app_argv(app, "runscript", request, view),
        (Action::Test, Some(app)) => app_argv(app, "test", request, view),
        (Action::Shell, _) => Ok(with_words(&shell_argv(request, host, view)?, request.words)),
        _ => image_argv(request, view),
    }
}

/// A script of an app, with its arguments.
fn app_argv(app: &OsStr, script: &str, request: &Request<'_>, view: &mut View<'_>) -> Result<Vec<OsString>> {
    let path = app::script(app, script);
    if is_file(view, &path) {
        return Ok(with_words(&[path.into()], request.words));
    }
    // The image is as it should be: an app may have programs alone.
    let error =
        Error::usage(format!("cannot run app {app:?} of image {:?}: it has no {script}", request.image));
    let mut with_one = app_names(view.image())?;
    with_one.retain(|name| is_file(view, &app::script(name.as_ref(), script)));
    let program = format!("name a program: skiff exec --app {} IMAGE PROGRAM", app.display());
    Err(error.hint(match with_one.is_empty() {
        true => program,
        false => format!("{program}; the apps with a {script} are {}", with_one.join(", ")),
    }))
}

/// What the image itself says, or the caller.
fn image_argv(request: &Request<'_>, view: &mut View<'_>) -> Result<Vec<OsString>> {
    let words = request.words;
    match request.action {
        Action::Exec if words.is_empty() => Err(Error::usage("no program was given")
            .hint("skiff exec IMAGE PROGRAM ARGUMENTS..., or skiff run IMAGE, or skiff shell IMAGE")),
        Action::Exec => Ok(words.to_vec()),
        Action::Run => {
            let script = RUNSCRIPTS.into_iter().find(|script| is_file(view, Path::new(script)));
            match script.or_else(|| is_file(view, Path::new("/bin/sh")).then_some("/bin/sh")) {
                Some(program) => Ok(with_words(&[program.into()], words)),
                None => Err(Error::image(format!(
                    "cannot run image {:?}: it has neither a runscript nor /bin/sh",
                    request.image
                ))
                .hint("name a program: skiff exec IMAGE PROGRAM")),
            }
        }
        Action::Test if is_file(view, Path::new(TEST_SCRIPT)) => Ok(with_words(&[TEST_SCRIPT.into()], words)),
        Action::Test | Action::Shell => {
            Err(Error::image(format!("cannot test image {:?}: it has no test", request.image)))
        }
    }
}

/// The shell: the one asked for, that of the setting if the image has it, bash, or sh.
fn shell_argv(request: &Request<'_>, host: &Host, view: &mut View<'_>) -> Result<Vec<OsString>> {
    if let Some(shell) = request.shell {
        // Without a slash it is searched in PATH, as a program is.
        let named = !shell.as_os_str().as_bytes().contains(&b'/');
        if named || is_file(view, &Path::new("/").join(shell)) {
            return Ok(vec![shell.into()]);
        }
        return Err(Error::usage(format!(
            "cannot start the shell {shell:?}: the container has no such file"
        ))
        .hint("--shell takes a path in the container; without it bash or sh is started"));
    }
    if let Some((_, shell)) = host.setting("SHELL")
        && is_file(view, &Path::new("/").join(shell))
    {
        return Ok(vec![shell.to_owned()]);
    }
    if is_file(view, Path::new("/bin/bash")) {
        return Ok(vec!["/bin/bash".into(), "--norc".into()]);
    }
    if is_file(view, Path::new("/bin/sh")) {
        return Ok(vec!["/bin/sh".into()]);
    }
    Err(Error::image(format!(
        "cannot start a shell in image {:?}: it has neither /bin/bash nor /bin/sh",
        request.image
    ))
    .hint("run a program that it has: skiff exec IMAGE PROGRAM"))
}

/// A program with the caller's words after it.
fn with_words(program: &[OsString], words: &[OsString]) -> Vec<OsString> {
    program.iter().chain(words).cloned().collect()
}

/// Whether the container has a file there, links followed. A path that cannot be followed is none.
pub fn is_file(view: &mut View<'_>, path: &Path) -> bool {
    view.resolve(path, true).is_ok_and(|spot| spot.kind == Some(TargetKind::File))
}

/// The directories to start in, best first, never empty: `--cwd` alone, from the root, if it was given, else the caller's
/// working directory and home as far as the container has them, and the root.
pub fn working_directories(
    request: &Request<'_>,
    host: &Host,
    home: &Path,
    view: &mut View<'_>,
) -> Result<Vec<PathBuf>> {
    if let Some((cwd, origin)) = asked_cwd(request, host) {
        // A relative one is relative to the container's root, as with Apptainer.
        let cwd = tidy(&Path::new("/").join(cwd));
        return match view.resolve(&cwd, true)?.kind {
            Some(TargetKind::Directory) => Ok(vec![cwd]),
            Some(TargetKind::File) => Err(Error::usage(format!(
                "cannot start in {cwd:?} ({origin}): it is a file in the container"
            ))
            .hint("name a directory of the container")),
            None => Err(Error::usage(format!(
                "cannot start in {cwd:?} ({origin}): the container has no such directory"
            ))
            .hint("bring it in with --bind, if the host has it")),
        };
    }
    let mut candidates = Vec::new();
    for path in [host.cwd.as_deref(), Some(home)].into_iter().flatten() {
        let path = tidy(path);
        let spot = view.resolve(&path, true);
        if spot.is_ok_and(|spot| spot.kind == Some(TargetKind::Directory)) && !candidates.contains(&path) {
            candidates.push(path);
        }
    }
    if !candidates.contains(&PathBuf::from("/")) {
        candidates.push("/".into());
    }
    Ok(candidates)
}

/// That the program starts in another directory than the caller, who has not asked for that: what it writes lies there.
pub fn starts_elsewhere(
    asked: &Asked,
    request: &Request<'_>,
    host: &Host,
    directories: &[PathBuf],
) -> Option<String> {
    let first = directories.first()?;
    if asked.contain.is_some() || asked_cwd(request, host).is_some() {
        return None;
    }
    match &host.cwd {
        None => Some(format!("the working directory was removed: the program starts in {first:?}")),
        Some(cwd) if tidy(cwd) == *first => None,
        Some(cwd) => Some(format!("the container has no {cwd:?}: the program starts in {first:?}")),
    }
}

fn asked_cwd(request: &Request<'_>, host: &Host) -> Option<(PathBuf, String)> {
    if let Some(cwd) = request.flags.cwd.as_ref().filter(|cwd| !cwd.as_os_str().is_empty()) {
        return Some((cwd.clone(), "--cwd".to_owned()));
    }
    ["CWD", "TARGET_CWD", "PWD", "TARGET_PWD"].into_iter().find_map(|key| {
        let (variable, value) = host.setting(key)?;
        Some((PathBuf::from(value), variable))
    })
}
