//! The agent `debootstrap`: by mmdebstrap where it is there.

use std::fs;
use std::path::{Path, PathBuf};

use super::Order;
use super::programs::{Call, find, packages, text, with_version};
use crate::error::Result;

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

pub fn debootstrap(order: &Order<'_>) -> Result<Call> {
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
    Ok(Call::new(program, arguments))
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
