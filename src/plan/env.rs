//! The environment of the user's process.
//!
//! ```text
//! 1  nothing but PWD, HOME, *_CONTAINER, *_NAME and *_APPNAME   scripts do not see the host's variables
//! 2  the image's scripts, /.singularity.d/env/*.sh in order      after 10-docker*: PATH gets the default
//!                                                                directories it lacks; before 90, and where there
//!                                                                is no 99-base.sh before 3: a default PATH
//! 3  right after 99-base.sh: --env, --env-file, SKIFFENV_X, APPTAINERENV_X, SINGULARITYENV_X (the first of them wins)
//! 4  the host's variables, where the image left them unset; one that the image sets to nothing is removed
//! 5  the names of the container
//! ```
//!
//! So an override beats the image, and the image beats the host. Never from the host: `PATH`, `HOME`,
//! `LD_LIBRARY_PATH`, what speaks to a container tool (`SKIFF_*`, `APPTAINER_*`, `SINGULARITY_*`), exported
//! functions of bash and other names that are none.
//!
//! The scripts are run here ([`super::shell`]). What only a real shell can do is left to the image's own, which then
//! starts the program with the same steps ([`super::sourced`]). Scripts can ask for `UID`, `EUID` and `GID`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::asked::{switch, texts};
use super::env_file;
use super::inject::{Injection, LIBRARIES, LIBRARIES_32};
use super::scheduler::Scheduler;
use super::shell::{Files, MAX_SCRIPT_BYTES, Shell, Unsupported, Variable, is_name};
use super::sourced;
use super::target::View;
use super::{Action, Request, TargetKind};
use crate::error::{Error, Result};
use crate::host::{FAMILIES, Host};

/// Where a program without a slash is searched unless the image says otherwise.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where the image's scripts are.
const SCRIPTS: &str = "/.singularity.d/env";
/// What images before 2.3 have in place of the scripts.
const OLD_SCRIPT: &str = "/environment";
/// The script after which the overrides count.
pub const BASE_SCRIPT: &str = "99-base.sh";
/// Names of the container that the scripts see.
const EARLY: &[&str] = &["_CONTAINER", "_NAME", "_APPNAME"];
/// Kept under `--cleanenv`; what features add: [`Injection::keep`].
const ALWAYS: &[&str] = &[
    "TERM",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];
/// Never taken from the host: made here, or the shell's own business.
const NEVER: &[&str] = &["HOME", "PATH", "LD_LIBRARY_PATH", "PWD", "_", "IFS", "OPTIND", "PPID"];

/// What the environment tells of the rest of the plan.
pub struct Facts<'a> {
    /// Where the program starts.
    pub cwd: &'a Path,
    /// The home directory inside.
    pub home: &'a Path,
    /// The caller's user and group id inside.
    pub ids: (u32, u32),
    /// Targets of the binds that the caller asked for.
    pub asked: &'a [PathBuf],
    /// The program.
    pub program: &'a OsStr,
    /// The app of the image.
    pub app: Option<&'a OsStr>,
    /// What features bring in.
    pub injection: &'a Injection,
    /// The launchers whose variables pass whatever is asked for.
    pub scheduler: Option<&'a Scheduler>,
}

/// The environment, and what has to be put before the program to get it.
#[derive(Debug, PartialEq, Eq)]
pub struct Environment {
    /// The variables, by name.
    pub variables: Vec<(OsString, OsString)>,
    /// The words before the program, when the image's shell has to run the scripts.
    pub shell: Vec<OsString>,
}

/// A variable set for the container, stronger than the image's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The name inside.
    pub name: Vec<u8>,
    /// The value, as written.
    pub value: Vec<u8>,
}

/// Everything that goes into an environment.
pub struct Ingredients {
    /// Set before the scripts run, and theirs to change: `HOME`, `PWD`, and the first of `names`.
    pub start: Vec<(Vec<u8>, Vec<u8>)>,
    /// What scripts have as `UID` and `EUID`, and as `GID`, and programs do not.
    pub ids: (u32, u32),
    /// Set at the end.
    pub names: Vec<(Vec<u8>, Vec<u8>)>,
    /// The scripts, with their contents, in order.
    pub scripts: Vec<(PathBuf, Vec<u8>)>,
    /// The overrides.
    pub overrides: Vec<Override>,
    /// Overrides are evaluated as a shell does in double quotes.
    pub evaluate: bool,
    /// The host's variables that may come in.
    pub host: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The prompt in place of the one that every image has.
    pub prompt: Option<Vec<u8>>,
}

impl Ingredients {
    /// Whether the caller gives this variable a value.
    pub fn gives(&self, name: &[u8]) -> bool {
        self.overrides.iter().any(|given| given.name == name)
    }
}

/// The prompts that `99-base.sh` sets in every image.
pub const USUAL_PROMPTS: [&str; 2] = ["Apptainer> ", "Singularity> "];

/// Composes the environment.
pub fn compose(
    request: &Request<'_>,
    host: &Host,
    facts: &Facts<'_>,
    view: &mut View<'_>,
) -> Result<Environment> {
    let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
    let literal = switch(host, request.flags.no_eval, "--no-eval", &["NO_EVAL"]).is_some();
    let names = names(request, facts, literal);
    let mut start = vec![(b"HOME".to_vec(), bytes(facts.home)), (b"PWD".to_vec(), bytes(facts.cwd))];
    let early = |name: &[u8]| EARLY.iter().any(|early| name.ends_with(early.as_bytes()));
    start.extend(names.iter().filter(|(name, _)| early(name)).cloned());
    let scripts = scripts(view)?;
    let mut overrides = overrides(request, host)?;
    add_injected(&mut overrides, facts.injection, &scripts, !literal);
    let ingredients = Ingredients {
        start,
        ids: facts.ids,
        names,
        scripts,
        overrides,
        evaluate: !literal,
        host: host_variables(request, host, facts),
        prompt: (request.action == Action::Shell).then(|| prompt(request)),
    };
    match evaluate(&ingredients, view) {
        Ok(shell) => Ok(Environment { variables: exported(shell), shell: Vec::new() }),
        Err((script, fault)) => {
            let place = format!("{} line {}: {}", script.display(), fault.line, fault.what);
            let Some(shell) = sourced::shell_of(&ingredients, view) else {
                return Err(Error::image(format!(
                    "cannot set the environment of image {:?}: it has no /bin/sh, and {place} needs one",
                    request.image
                ))
                .hint(match script.is_absolute() {
                    true => "plain assignments (export NAME=\"${NAME:-value}\") need no shell",
                    false => "--no-eval takes values as they are",
                }));
            };
            Ok(sourced::with_shell(&ingredients, &shell, &place))
        }
    }
}

/// Runs the scripts in order. The script and the place in it that only a shell can run is the error.
pub(super) fn evaluate(from: &Ingredients, view: &mut View<'_>) -> Result<Shell, (PathBuf, Unsupported)> {
    let mut shell = Shell::default();
    for (name, value) in &from.start {
        shell.export(name, value.clone());
    }
    for (name, id) in ids(from) {
        let value = Some(id.to_string().into_bytes());
        shell.variables.insert(name.as_bytes().to_vec(), Variable { value, ..Variable::default() });
    }
    let mut overridden = false;
    for (path, text) in &from.scripts {
        let file = path.file_name().unwrap_or_default().as_bytes();
        if file == b"90-environment.sh" && shell.value(b"PATH").is_none() {
            shell.export(b"PATH", DEFAULT_PATH);
        }
        shell.source(text, &mut Scripts(view)).map_err(|fault| (path.clone(), fault))?;
        if is_docker(path) || path == Path::new(OLD_SCRIPT) {
            let path = complete_path(shell.value(b"PATH").unwrap_or_default());
            shell.export(b"PATH", path);
        }
        if file == BASE_SCRIPT.as_bytes() {
            apply_overrides(from, &mut shell)?;
            overridden = true;
        }
    }
    if !overridden {
        if shell.value(b"PATH").is_none() {
            shell.export(b"PATH", DEFAULT_PATH);
        }
        apply_overrides(from, &mut shell)?;
    }
    edit_paths(&mut shell);
    for (name, _) in ids(from) {
        if shell.variables.get(name.as_bytes()).is_some_and(|variable| !variable.exported) {
            shell.variables.remove(name.as_bytes());
        }
    }
    restore(from, &mut shell);
    for (name, value) in &from.names {
        shell.export(name, value.clone());
    }
    let usual = |prompt: &[u8]| prompt.is_empty() || USUAL_PROMPTS.iter().any(|one| one.as_bytes() == prompt);
    if let Some(prompt) = &from.prompt
        && shell.value(b"PS1").is_none_or(usual)
    {
        shell.export(b"PS1", prompt.clone());
    }
    Ok(shell)
}

/// The shell variables that tell who the caller is inside.
pub fn ids(from: &Ingredients) -> [(&'static str, u32); 3] {
    let (uid, gid) = from.ids;
    [("UID", uid), ("EUID", uid), ("GID", gid)]
}

fn apply_overrides(from: &Ingredients, shell: &mut Shell) -> Result<(), (PathBuf, Unsupported)> {
    for Override { name, value } in &from.overrides {
        let mut value = if from.evaluate {
            let place = || PathBuf::from(format!("the value given for {}", String::from_utf8_lossy(name)));
            shell.expand_quoted(value).map_err(|fault| (place(), fault))?
        } else {
            value.clone()
        };
        if name == b"LD_LIBRARY_PATH" && !value.is_empty() {
            value.extend_from_slice(b":");
            value.extend_from_slice(LIBRARIES.as_bytes());
        }
        shell.export(name, value);
    }
    Ok(())
}

/// What the image's last script does with the caller's edits of paths, for images without it.
fn edit_paths(shell: &mut Shell) {
    for (edit, target, before) in [
        ("SING_USER_DEFINED_PREPEND_PATH", "PATH", true),
        ("SING_USER_DEFINED_APPEND_PATH", "PATH", false),
        ("PREPEND_LD_LIBRARY_PATH", "LD_LIBRARY_PATH", true),
        ("APPEND_LD_LIBRARY_PATH", "LD_LIBRARY_PATH", false),
    ] {
        let Some(edit) = shell.variables.remove(edit.as_bytes()).and_then(|edit| edit.value) else {
            continue;
        };
        let default = if target == "PATH" { DEFAULT_PATH } else { "" };
        let old = shell.value(target.as_bytes()).unwrap_or(default.as_bytes()).to_vec();
        let parts = if before { [edit, old] } else { [old, edit] };
        let parts: Vec<Vec<u8>> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        shell.export(target.as_bytes(), parts.join(&b':'));
    }
    if let Some(path) =
        shell.variables.remove(b"SING_USER_DEFINED_PATH".as_slice()).and_then(|path| path.value)
        && !path.is_empty()
    {
        shell.export(b"PATH", path);
    }
}

/// The host's variables where the image left them unset; set to nothing by the image, they go.
fn restore(from: &Ingredients, shell: &mut Shell) {
    for (name, value) in &from.host {
        match shell.value(name) {
            None => shell.export(name, value.clone()),
            Some(b"") if !from.gives(name) => {
                shell.variables.remove(name);
            }
            Some(_) => {}
        }
    }
}

/// The variables that programs see.
pub(super) fn exported(shell: Shell) -> Vec<(OsString, OsString)> {
    let variables = shell.variables.into_iter().filter(|(_, variable)| variable.exported);
    variables
        .filter_map(|(name, variable)| Some((OsString::from_vec(name), OsString::from_vec(variable.value?))))
        .collect()
}

/// The variables that say which container this is, in each family.
fn names(request: &Request<'_>, facts: &Facts<'_>, literal: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    let command = match request.action {
        Action::Exec => "exec",
        Action::Run => "run",
        Action::Shell => "shell",
        Action::Test => "test",
    };
    let name = request.image.file_name().unwrap_or(request.image.as_os_str());
    let binds: Vec<Vec<u8>> = facts.asked.iter().map(|target| escaped(target)).collect();
    let mut names = Vec::new();
    if request.action == Action::Shell {
        names.push((b"SHELL".to_vec(), facts.program.as_bytes().to_vec()));
    }
    for family in FAMILIES {
        for (suffix, value) in [
            ("CONTAINER", request.image.as_os_str().as_bytes()),
            ("NAME", name.as_bytes()),
            ("COMMAND", command.as_bytes()),
            ("BIND", &binds.join(&b',')),
            ("ENVIRONMENT", b"/.singularity.d/env/91-environment.sh"),
        ] {
            names.push((format!("{family}_{suffix}").into_bytes(), value.to_vec()));
        }
        if let Some(app) = facts.app {
            names.push((format!("{family}_APPNAME").into_bytes(), app.as_bytes().to_vec()));
        }
        // Runscripts of OCI images ask for it.
        if literal {
            names.push((format!("{family}_NO_EVAL").into_bytes(), b"1".to_vec()));
        }
    }
    names
}

/// A path as a list of binds takes it.
fn escaped(path: &Path) -> Vec<u8> {
    let special = |byte: &u8| b"\\,:".contains(byte);
    path.as_os_str()
        .as_bytes()
        .iter()
        .flat_map(|byte| special(byte).then_some(b'\\').into_iter().chain([*byte]))
        .collect()
}

fn scripts(view: &View<'_>) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let image = view.image();
    let mut names = match image.lookup(Path::new(SCRIPTS))? {
        Some(_) => image.list(Path::new(SCRIPTS))?,
        None => {
            let old = Path::new(OLD_SCRIPT);
            let text = match image.lookup(old) {
                Ok(Some(entry)) if entry.size <= MAX_SCRIPT_BYTES => image.read(old, MAX_SCRIPT_BYTES)?,
                _ => None,
            };
            return Ok(text.map(|text| (old.to_owned(), text)).into_iter().collect());
        }
    };
    names.retain(|name| name.as_bytes().ends_with(b".sh") && !name.as_bytes().starts_with(b"."));
    names.sort();
    let mut scripts = Vec::with_capacity(names.len());
    for name in names {
        let path = Path::new(SCRIPTS).join(name);
        // A link that leads nowhere is passed over, as the shell's `test -f` does.
        let Some(entry) = image.lookup(&path)? else { continue };
        if entry.size > MAX_SCRIPT_BYTES {
            return Err(Error::image(format!(
                "cannot set the environment: {path:?} of the image is larger than {MAX_SCRIPT_BYTES} bytes"
            )));
        }
        if let Some(text) = image.read(&path, MAX_SCRIPT_BYTES)? {
            scripts.push((path, text));
        }
    }
    Ok(scripts)
}

/// A script made from an OCI image's configuration.
pub fn is_docker(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name == "10-docker2singularity.sh" || name == "10-docker.sh"
}

/// `path` with the default directories that it lacks at its end.
fn complete_path(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> =
        if path.is_empty() { Vec::new() } else { path.split(|byte| *byte == b':').collect() };
    for default in DEFAULT_PATH.split(':') {
        if !parts.contains(&default.as_bytes()) {
            parts.push(default.as_bytes());
        }
    }
    parts.join(&b':')
}

/// Whether the host's variables are to stay outside.
pub fn is_clean(request: &Request<'_>, host: &Host) -> bool {
    switch(host, request.flags.cleanenv, "--cleanenv", &["CLEANENV"]).is_some()
}

/// The host's variables that may come in.
fn host_variables(request: &Request<'_>, host: &Host, facts: &Facts<'_>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let Facts { injection, scheduler, .. } = facts;
    let clean = is_clean(request, host);
    let left_out = texts(host, &request.flags.no_env, "--no-env", &["NOENV", "NO_ENV"]);
    let mut variables = BTreeMap::new();
    variables.insert(b"PATH".to_vec(), DEFAULT_PATH.as_bytes().to_vec());
    if clean {
        variables.insert(b"LANG".to_vec(), b"C".to_vec());
    }
    for (name, value) in &host.environment {
        let needed = || scheduler.is_some_and(|scheduler| scheduler.passes(name));
        let name = name.as_bytes();
        let is = |list: &[&str]| list.iter().any(|one| one.as_bytes() == name);
        let stays = injection.unset.iter().any(|one| one.as_bytes() == name)
            || left_out.iter().any(|(one, _)| is_meant(one.as_bytes(), name));
        let unwanted = is(NEVER) || is_ours(name) || stays;
        if is_name(name) && !unwanted && (!clean || is(ALWAYS) || injection.keeps(name) || needed()) {
            variables.insert(name.to_vec(), value.as_bytes().to_vec());
        }
    }
    variables
}

/// Whether an entry of `--no-env` means a variable: its name, or its beginning with a star.
fn is_meant(entry: &[u8], name: &[u8]) -> bool {
    match entry.strip_suffix(b"*") {
        Some(begin) => name.starts_with(begin),
        None => entry == name,
    }
}

/// `SKIFF_X`, `SKIFFENV_X` and their twins: they speak to us, not to the program.
fn is_ours(name: &[u8]) -> bool {
    FAMILIES.iter().any(|family| {
        name.strip_prefix(family.as_bytes())
            .is_some_and(|rest| rest.starts_with(b"_") || rest.starts_with(b"ENV_"))
    })
}

/// The value that a variable will have in the container, as far as flags and the host's variables tell.
pub fn given(request: &Request<'_>, host: &Host, name: &str) -> Option<OsString> {
    // What is wrong with the flags is told where they are carried out.
    let overrides = overrides(request, host).unwrap_or_default();
    let found = overrides.into_iter().find(|one| one.name == name.as_bytes());
    found.map(|one| OsString::from_vec(one.value)).or_else(|| host.variable(name).map(OsStr::to_owned))
}

/// Why a variable of the container is nobody's to set: scripts would find another home directory, shell or app than it
/// has.
fn kept(name: &[u8]) -> Option<&'static str> {
    let is_ours = |end: &str| {
        FAMILIES.iter().any(|family| name.strip_prefix(family.as_bytes()) == Some(end.as_bytes()))
    };
    match name {
        b"HOME" => Some("the home directory is chosen by --home"),
        _ if is_ours("_SHELL") => Some("the shell is chosen by --shell"),
        _ if is_ours("_APPNAME") => Some("the app is chosen by --app"),
        _ => None,
    }
}

/// That such variables are not set, each with who wanted it.
pub fn kept_names(request: &Request<'_>, host: &Host) -> Vec<String> {
    let flags = request.flags.env.iter().filter_map(|flag| parse_env(flag).ok()).flatten();
    let by_flag = flags.map(|(name, _)| (format!("--env {}", String::from_utf8_lossy(&name)), name));
    let by_variable = host.environment.iter().filter_map(|(variable, _)| {
        let beyond =
            |family: &&str| variable.as_bytes().strip_prefix(family.as_bytes())?.strip_prefix(b"ENV_");
        let name = FAMILIES.iter().find_map(beyond)?;
        Some((variable.to_string_lossy().into_owned(), name.to_vec()))
    });
    by_flag
        .chain(by_variable)
        .filter_map(|(origin, name)| Some(format!("{origin} has no effect: {}", kept(&name)?)))
        .collect()
}

/// The overrides: `--env` before `--env-file` before `SKIFFENV_X`, `APPTAINERENV_X`, `SINGULARITYENV_X`; by name.
fn overrides(request: &Request<'_>, host: &Host) -> Result<Vec<Override>> {
    let mut values: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for family in FAMILIES.iter().rev() {
        let prefix = format!("{family}ENV_");
        for (name, value) in &host.environment {
            if let Some(name) = name.as_bytes().strip_prefix(prefix.as_bytes())
                && is_name(name)
                && !matches!(name, b"PWD" | b"UID" | b"GID")
            {
                values.insert(name.to_vec(), value.as_bytes().to_vec());
            }
        }
    }
    values.extend(env_file::read(request.flags, host)?);
    for flag in &request.flags.env {
        values.extend(parse_env(flag)?);
    }
    values.retain(|name, _| kept(name).is_none());
    Ok(values
        .into_iter()
        .map(|(name, value)| {
            let edit = matches!(name.as_slice(), b"PATH" | b"PREPEND_PATH" | b"APPEND_PATH");
            let name = if edit { [b"SING_USER_DEFINED_".as_slice(), &name].concat() } else { name };
            Override { name, value }
        })
        .collect())
}

/// The variables of features, where the caller has not given them; and the directory of the host's libraries on the
/// search path, where the image's scripts do not put it there.
fn add_injected(
    overrides: &mut Vec<Override>,
    injection: &Injection,
    scripts: &[(PathBuf, Vec<u8>)],
    evaluated: bool,
) {
    for injected in injection.overrides(evaluated) {
        if !overrides.iter().any(|given| given.name == injected.name) {
            overrides.push(injected);
        }
    }
    let mut edit = |name: &str, directory: &str| {
        let directory = directory.as_bytes();
        match overrides.iter_mut().find(|given| given.name == name.as_bytes()) {
            Some(given) => given.value.extend([b":", directory].concat()),
            None => overrides.push(Override { name: name.into(), value: directory.to_vec() }),
        }
    };
    for directory in &injection.prepend {
        edit("PREPEND_LD_LIBRARY_PATH", directory);
    }
    let mentions = |text: &[u8]| text.windows(LIBRARIES.len()).any(|part| part == LIBRARIES.as_bytes());
    if injection.has_libraries() && !scripts.iter().any(|(_, text)| mentions(text)) {
        edit("APPEND_LD_LIBRARY_PATH", LIBRARIES);
    }
    if injection.has_narrow_libraries() {
        edit("APPEND_LD_LIBRARY_PATH", LIBRARIES_32);
    }
}

/// `NAME=VALUE`, or several with commas and blanks between; a comma that no `NAME=` follows is part of the value.
/// An empty flag has none.
fn parse_env(flag: &OsStr) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    if flag.is_empty() {
        return Ok(pairs);
    }
    for item in flag.as_bytes().split(|byte| *byte == b',') {
        let equals = item.iter().position(|byte| *byte == b'=');
        let pair = equals.map(|at| item.split_at(at)).map(|(name, value)| (name.trim_ascii_start(), value));
        let pair = pair.filter(|(name, _)| is_name(name));
        match (pair, pairs.last_mut()) {
            (Some((name, value)), _) => {
                pairs.push((name.to_vec(), value.get(1..).unwrap_or_default().to_vec()));
            }
            (None, Some((_, value))) => {
                value.push(b',');
                value.extend_from_slice(item);
            }
            (None, None) => return Err(no_variable(flag, equals.and_then(|at| item.get(..at)))),
        }
    }
    Ok(pairs)
}

/// The error of a `--env`; `name` is what stands before its first `=`.
fn no_variable(flag: &OsStr, name: Option<&[u8]>) -> Error {
    let tried = format!("cannot understand --env {flag:?}");
    match name {
        Some(name) if !name.is_empty() => {
            let name = OsStr::from_bytes(name);
            Error::usage(format!("{tried}: {name:?} is not the name of a variable"))
                .hint("a name has letters, digits and _ in it, and begins with no digit")
        }
        _ => Error::usage(format!("{tried}: not NAME=VALUE"))
            .hint("a variable of the host is taken along as --env NAME=\"$NAME\""),
    }
}

/// A prompt that names the image.
fn prompt(request: &Request<'_>) -> Vec<u8> {
    let name = request.image.file_name().unwrap_or(OsStr::new("skiff")).as_bytes();
    // A name may hold what shells expand in a prompt.
    let plain = |byte: &u8| if b"\\$`!".contains(byte) || byte.is_ascii_control() { b'_' } else { *byte };
    name.iter().map(plain).chain(*b"> ").collect()
}

/// The container's files, as scripts see them.
struct Scripts<'s, 'a>(&'s mut View<'a>);

impl Files for Scripts<'_, '_> {
    fn kind(&mut self, path: &Path) -> Option<TargetKind> {
        self.0.resolve(path, true).ok()?.kind
    }

    fn script(&mut self, path: &Path) -> Option<Vec<u8>> {
        let image = self.0.image();
        let entry = image.lookup(path).ok()??;
        if entry.size > MAX_SCRIPT_BYTES {
            return None;
        }
        image.read(path, MAX_SCRIPT_BYTES).ok()?
    }
}
