//! Agents that fill a directory with a program of the host: `debootstrap` (by mmdebstrap where it is there), `dnf`,
//! `yum`, `zypper`, `arch`, `busybox`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Order;
use crate::error::{Context, Error, Kind, Result};
use crate::launch::step;

/// Debian's keys, by which it is told that a suite is Ubuntu's.
const UBUNTU_SCRIPT: &str = "/usr/share/debootstrap/scripts/gutsy";

/// mmdebstrap makes and mounts devices in ways that fail in a user namespace (a devpts of the user 5, for one). So it
/// leaves them to these: the host's are shown while packages are set up, and none is left. Where it can make nodes
/// (with a single id they look like nodes, with others like empty files) it has made some before, and leaves them.
const DEVICES_BY_HOOKS: [&str; 3] = [
    "--skip=chroot/mount",
    r#"--extract-hook=set -e; mount --rbind /proc "$1/proc"; mount --rbind /sys "$1/sys"; cd "$1/dev"; mkdir -p pts shm; chmod 755 pts shm
    ln -sfn /proc/self/fd fd; for n in 0,stdin 1,stdout 2,stderr; do ln -sfn "/proc/self/fd/${n%,*}" "${n#*,}"; done
    for d in null zero full random urandom tty; do : >$d; mount --bind /dev/$d $d; done
    ln -sfn pts/ptmx ptmx; mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts pts"#,
    r#"--customize-hook=set -e; cd "$1/dev"; umount pts; rm ptmx; rmdir pts shm
    for d in null zero full random urandom tty; do umount $d; rm $d; done
    if [ -e console ]; then rm console fd stdin stdout stderr; fi
    cd /; umount -l "$1/proc" "$1/sys""#,
];

/// A program with its arguments.
struct Call {
    program: PathBuf,
    arguments: Vec<String>,
}

/// Fills the order's directory.
pub fn fill(order: &Order<'_>) -> Result<()> {
    let call = match order.agent {
        "debootstrap" => debootstrap(order)?,
        "dnf" | "yum" => dnf(order)?,
        "zypper" => zypper(order)?,
        "arch" => arch(order)?,
        _ => busybox(order)?,
    };
    let shown = call.program.display().to_string();
    let work = |_: &[PathBuf]| {
        step::emulate_root(order.ids);
        let mut command = Command::new(&call.program);
        command.args(&call.arguments).env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        let status = command.status().tried(|| format!("cannot run {shown}"))?;
        if !status.success() {
            return Err(Error::new(
                Kind::Program,
                format!("Bootstrap: {}: {shown} failed: {status}", order.agent),
            )
            .hint("what it said is above"));
        }
        Ok(Vec::new())
    };
    step::beside(order.ids, &[], work)?;
    Ok(())
}

/// A program of the host, or the error that says what to install.
fn find(order: &Order<'_>, names: &[&str], package: &str) -> Result<PathBuf> {
    let path = order.host.variable("PATH").unwrap_or("/usr/sbin:/usr/bin:/sbin:/bin".as_ref());
    let directories = std::env::split_paths(path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let directories: Vec<PathBuf> = directories.collect();
    let candidates = names.iter().flat_map(|name| directories.iter().map(move |above| above.join(name)));
    let executable = |file: &PathBuf| {
        file.metadata().is_ok_and(|status| status.is_file() && status.permissions().mode() & 0o111 != 0)
    };
    candidates.into_iter().find(executable).ok_or_else(|| {
        Error::host(format!(
            "Bootstrap: {} needs the program {} of the host",
            order.agent,
            names.join(" or ")
        ))
        .hint(format!("install the package {package}, or start from an image: Bootstrap: localimage"))
    })
}

/// A list of packages: words, commas between them or not.
fn packages(order: &Order<'_>) -> Vec<String> {
    let list = order.key("Include").unwrap_or_default();
    list.split([',', ' ', '\t', '\n']).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// `%{OSVERSION}` in an address is the version.
fn with_version(order: &Order<'_>, url: &str) -> Result<String> {
    if !url.to_ascii_lowercase().contains("%{osversion}") {
        return Ok(url.to_owned());
    }
    let version = order.needed("OSVersion")?;
    Ok(url.replace("%{OSVERSION}", version).replace("%{osversion}", version))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn debootstrap(order: &Order<'_>) -> Result<Call> {
    let suite = order.needed("OSVersion")?;
    let program = find(order, &["mmdebstrap", "debootstrap"], "mmdebstrap (or debootstrap)")?;
    let include = packages(order).join(",");
    let target = text(order.directory);
    let mirror = match order.key("MirrorURL") {
        Some(url) => Some(with_version(order, url)?),
        // Without one the program takes its own.
        None => hosts_mirror(order.host, suite),
    };
    let mut arguments = vec!["--variant=minbase".to_owned()];
    if !include.is_empty() {
        arguments.push(format!("--include={include}"));
    }
    if program.ends_with("mmdebstrap") {
        arguments.extend(DEVICES_BY_HOOKS.map(str::to_owned));
        // The directory is there, and empty.
        arguments.extend(["--mode=root", "--skip=check/empty"].map(str::to_owned));
    }
    arguments.extend([suite.to_owned(), target]);
    arguments.extend(mirror);
    Ok(Call { program, arguments })
}

/// The mirror that the host's apt uses for its own packages, if it is of the same distribution.
fn hosts_mirror(host: &crate::host::Host, suite: &str) -> Option<String> {
    let ubuntu = Path::new("/usr/share/debootstrap/scripts").join(suite);
    let ubuntu = fs::canonicalize(ubuntu).is_ok_and(|script| script == Path::new(UBUNTU_SCRIPT));
    let word = if ubuntu { "ubuntu" } else { "debian" };
    let sources = apt_sources(host);
    let found = sources.into_iter().find(|source| {
        source.url.contains(word) && !source.url.contains("security") && !source.suite.contains("security")
    });
    found.map(|source| source.url)
}

/// A line `deb` of apt's configuration.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    url: String,
    suite: String,
}

fn apt_sources(host: &crate::host::Host) -> Vec<Source> {
    let mut sources = Vec::new();
    let apt = host.real(Path::new("/etc/apt"));
    let listed = fs::read_dir(apt.join("sources.list.d")).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = listed.map(|entry| entry.path()).collect();
    files.sort();
    for file in [apt.join("sources.list")].into_iter().chain(files) {
        let Ok(content) = fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => sources.extend(read_stanzas(&content)),
            Some("list") => sources.extend(read_lines(&content)),
            _ => {}
        }
    }
    sources
}

/// The form `deb [options] URL SUITE COMPONENTS...`.
fn read_lines(content: &str) -> Vec<Source> {
    let line = |line: &str| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        let mut words = rest.split_whitespace();
        Some(Source { url: words.next()?.to_owned(), suite: words.next()?.to_owned() })
    };
    content.lines().filter_map(line).collect()
}

/// The form of paragraphs with fields.
fn read_stanzas(content: &str) -> Vec<Source> {
    let field = |stanza: &str, name: &str| {
        stanza.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let stanza = |stanza: &str| {
        let types = field(stanza, "Types")?;
        let on = field(stanza, "Enabled").is_none_or(|value| !value.eq_ignore_ascii_case("no"));
        if !on || !types.split_whitespace().any(|kind| kind == "deb") {
            return None;
        }
        let first = |text: String| text.split_whitespace().next().map(str::to_owned);
        Some(Source { url: first(field(stanza, "URIs")?)?, suite: first(field(stanza, "Suites")?)? })
    };
    content.split("\n\n").filter_map(stanza).collect()
}

/// A repository file for a package manager of the rpm family, kept beside the root.
fn repositories(order: &Order<'_>) -> Result<Vec<(String, String)>> {
    let mut found = vec![("base".to_owned(), with_version(order, order.needed("MirrorURL")?)?)];
    if let Some(url) = order.key("UpdateURL") {
        found.push(("updates".to_owned(), with_version(order, url)?));
    }
    Ok(found)
}

fn dnf(order: &Order<'_>) -> Result<Call> {
    let program = match order.agent {
        "dnf" => find(order, &["dnf", "dnf5", "yum"], "dnf")?,
        _ => find(order, &["yum", "dnf", "dnf5"], "yum (or dnf)")?,
    };
    let mut arguments = vec!["--assumeyes".to_owned(), format!("--installroot={}", text(order.directory))];
    arguments.push("--setopt=reposdir=/dev/null".to_owned());
    arguments.push("--setopt=install_weak_deps=False".to_owned());
    if let Some(version) = order.key("OSVersion") {
        arguments.push(format!("--releasever={version}"));
    }
    for option in order.key("SetOpt").unwrap_or_default().split_whitespace() {
        arguments.push(format!("--setopt={option}"));
    }
    arguments.push("--repo=base,updates".to_owned());
    for (name, url) in repositories(order)? {
        arguments.push(format!("--repofrompath={name},{url}"));
    }
    arguments.push("install".to_owned());
    let wanted = packages(order);
    arguments.extend(["/etc/redhat-release".to_owned(), "coreutils".to_owned()]);
    arguments.extend(wanted);
    Ok(Call { program, arguments })
}

fn zypper(order: &Order<'_>) -> Result<Call> {
    let program = find(order, &["zypper"], "zypper")?;
    for key in ["Product", "User", "RegCode", "RegisterURL", "Modules"] {
        if order.key(key).is_some() {
            return Err(Error::usage(format!("{key}: registered products of SUSE cannot be built yet"))
                .hint("name a repository with MirrorURL"));
        }
    }
    let mirror = order.needed("MirrorURL")?;
    let root = text(order.directory);
    let sh = find(order, &["sh"], "dash")?;
    let update = order.key("UpdateURL").map(|url| with_version(order, url)).transpose()?;
    let mut arguments = vec!["-c".to_owned(), ZYPPER.to_owned(), text(&program), root];
    arguments.extend([with_version(order, mirror)?, update.unwrap_or_default(), "aaa_base".to_owned()]);
    arguments.extend(packages(order));
    Ok(Call { program: sh, arguments })
}

/// Several calls, since repositories are the root's own.
const ZYPPER: &str = r#"set -e
program=$0 root=$1 base=$2 update=$3
shift 3
call() { "$program" --root "$root" --gpg-auto-import-keys --non-interactive "$@"; }
call addrepo "$base" repo
test -z "$update" || call addrepo "$update" updates
call install --auto-agree-with-licenses --download-in-advance "$@"
"#;

fn arch(order: &Order<'_>) -> Result<Call> {
    if order.key("ConfURL").is_some() {
        return Err(Error::usage("ConfURL: skiff takes the host's pacman.conf")
            .hint("leave the line out, or change /etc/pacman.conf"));
    }
    if order.host.machine != "x86_64" {
        return Err(Error::host(format!(
            "Bootstrap: arch is for x86_64, this machine is {}",
            order.host.machine
        )));
    }
    let program = find(order, &["pacstrap"], "arch-install-scripts")?;
    let root = text(order.directory);
    Ok(Call { program, arguments: ["-c", "-G", "-M", &root, "base"].map(str::to_owned).to_vec() })
}

fn busybox(order: &Order<'_>) -> Result<Call> {
    let url = with_version(order, order.needed("MirrorURL")?)?;
    let program = find(order, &["curl", "wget"], "curl (or wget)")?;
    let bin = order.directory.join("bin");
    fs::create_dir_all(&bin).tried(|| format!("cannot make {bin:?}"))?;
    let file = text(&bin.join("busybox"));
    let name = program.file_name().unwrap_or_default();
    let fetch = if name == "curl" { "curl -fsSL -o \"$1\" \"$2\"" } else { "wget -q -O \"$1\" \"$2\"" };
    let script = format!(
        "set -e; {fetch}; chmod 755 \"$1\"; cd \"${{1%/*}}\"; for applet in $(./busybox --list); do test \"$applet\" = busybox || ln -s busybox \"$applet\"; done"
    );
    let sh = find(order, &["sh"], "dash")?;
    let arguments = vec![
        "-c".to_owned(),
        script,
        "sh".to_owned(),
        file,
        format!("{}/busybox-{}", url.trim_end_matches('/'), order.host.machine),
    ];
    Ok(Call { program: sh, arguments })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_apt_are_read() {
        let lines =
            "# c\ndeb [arch=amd64 signed-by=/k] http://m/debian trixie main\ndeb-src http://m/x y z\n";
        let source = Source { url: "http://m/debian".into(), suite: "trixie".into() };
        assert_eq!(read_lines(lines), [source]);
        let stanzas = "Types: deb deb-src\nURIs: http://a/debian http://b\nSuites: trixie x\n\nTypes: deb\nEnabled: no\nURIs: http://c\nSuites: y\n";
        assert_eq!(read_stanzas(stanzas), [Source { url: "http://a/debian".into(), suite: "trixie".into() }]);
    }
}
