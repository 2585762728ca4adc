//! The agents of the rpm family: `dnf`, `yum` and `zypper`.
//!
//! Where the data base of packages lies is a setting of the host's rpm, and what an image looks for is a setting of
//! the image's. So the new root gets it at both of the places that are in use, one a link to the other. Debian's rpm
//! has a third place, in the caller's home directory, which is told the first one instead.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::Order;
use super::programs::{Call, find, make_directories, own_directory, packages, text, with_version};
use crate::error::{Context, Error, Result};

/// Where the data base lies, and where it lay; the link from there.
const DATABASE: &str = "usr/lib/sysimage/rpm";
const FORMER: &str = "var/lib/rpm";
const FROM_FORMER: &str = "../../usr/lib/sysimage/rpm";
/// The host's rpm says here where it has its own.
const MACROS: &str = "/usr/lib/rpm/macros";

/// Packages and lists that were fetched, and what was noted on the way.
const DNF_CACHE: &str = "var/cache/skiff-dnf";

pub fn dnf(order: &Order<'_>) -> Result<Call> {
    let program = match order.agent {
        "dnf" => find(order, &["dnf", "dnf5", "yum"], "dnf")?,
        _ => find(order, &["yum", "dnf", "dnf5"], "yum (or dnf)")?,
    };
    let own = own_directory(order)?;
    let configuration = own.join("dnf.conf");
    let content = dnf_configuration(order)?;
    fs::write(&configuration, content).tried(|| format!("cannot write {configuration:?}"))?;
    let mut arguments = vec![
        "--assumeyes".to_owned(),
        "--noplugins".to_owned(),
        format!("--config={}", text(&configuration)),
        format!("--installroot={}", text(order.directory)),
    ];
    if let Some(version) = order.key("OSVersion") {
        arguments.push(format!("--releasever={version}"));
    }
    for option in order.key("SetOpt").unwrap_or_default().split_whitespace() {
        arguments.push(format!("--setopt={option}"));
    }
    arguments.extend(["install", "/etc/redhat-release", "coreutils"].map(str::to_owned));
    arguments.extend(packages(order));
    Ok(Call {
        shown: Some(&[]),
        rubbish: &[DNF_CACHE],
        variables: place_database(order, &own)?,
        own: Some(own),
        ..Call::new(program, arguments)
    })
}

/// The host's settings are for its own packages. Yum, dnf and dnf5 read this form alike.
fn dnf_configuration(order: &Order<'_>) -> Result<String> {
    let mut content = format!(
        "[main]\ncachedir=/{DNF_CACHE}\nlogdir=/{DNF_CACHE}\nlogfile=/{DNF_CACHE}/log\nreposdir=/dev/null\n\
         keepcache=0\ndeltarpm=0\ngpgcheck=0\nskip_if_unavailable=0\n"
    );
    let urls = [("base", Some(order.needed("MirrorURL")?)), ("updates", order.key("UpdateURL"))];
    for (name, url) in urls {
        let Some(url) = url else { continue };
        let url = with_version(order, url)?;
        content.push_str(&format!("\n[{name}]\nname={name}\nbaseurl={url}\nenabled=1\n"));
    }
    Ok(content)
}

/// Makes the place of the data base; gives the variables that lead the host's rpm there.
fn place_database(order: &Order<'_>, own: &Path) -> Result<Vec<(&'static str, PathBuf)>> {
    let database = order.directory.join(DATABASE);
    let former = order.directory.join(FORMER);
    let make = || -> std::io::Result<()> {
        for directory in [Some(database.as_path()), former.parent()].into_iter().flatten() {
            make_directories(order.directory, directory)?;
        }
        symlink(FROM_FORMER, &former)
    };
    make().tried(|| format!("cannot make {database:?}"))?;
    let home = order.host.variable("HOME").map(PathBuf::from).unwrap_or_default();
    let macros = home.join(".rpmmacros");
    let users = fs::read_to_string(macros).unwrap_or_default();
    let host = fs::read_to_string(MACROS).unwrap_or_default();
    if database_macro(&users).is_some() || database_macro(&host).is_none_or(is_usual) {
        return Ok(Vec::new());
    }
    let macros = own.join(".rpmmacros");
    fs::write(&macros, format!("{users}\n%_dbpath /{DATABASE}\n"))
        .tried(|| format!("cannot write {macros:?}"))?;
    // rpm looks for the file of macros there, and nowhere else.
    Ok(vec![("HOME", own.to_owned())])
}

/// Where the data base lies, as a file of macros says it.
fn database_macro(macros: &str) -> Option<&str> {
    macros.lines().rev().find_map(|line| {
        let (name, value) = line.trim().split_once(char::is_whitespace)?;
        (name == "%_dbpath").then(|| value.trim())
    })
}

fn is_usual(database: &str) -> bool {
    ["/lib/rpm", "/lib/sysimage/rpm"].iter().any(|end| {
        let above = database.strip_suffix(end);
        above.is_some_and(|above| {
            ["/var", "/usr", "%{_var}", "%{_usr}", "%{_localstatedir}", "%{_prefix}"].contains(&above)
        })
    })
}

pub fn zypper(order: &Order<'_>) -> Result<Call> {
    for key in ["Product", "User", "RegCode", "RegisterURL", "Modules"] {
        if order.key(key).is_some() {
            return Err(Error::usage(format!("{key}: registered products of SUSE cannot be built yet"))
                .hint("name a repository with MirrorURL"));
        }
    }
    let mut repositories = vec![("repo".to_owned(), order.needed("MirrorURL")?)];
    repositories.extend(order.key("UpdateURL").map(|url| ("update".to_owned(), url)));
    for number in 0..100 {
        let url = order.key(&format!("OtherURL{number}"));
        repositories.extend(url.map(|url| (format!("repo-{number}"), url)));
    }
    let program = find(order, &["zypper"], "zypper")?;
    let sh = find(order, &["sh"], "dash")?;
    let own = own_directory(order)?;
    let mut arguments = vec!["-c".to_owned(), ZYPPER.to_owned(), text(&program), text(order.directory)];
    arguments.push(order.key("OSVersion").unwrap_or_default().to_owned());
    for (name, url) in repositories {
        arguments.extend([name, with_version(order, url)?]);
    }
    arguments.extend(["--", "aaa_base"].map(str::to_owned));
    arguments.extend(packages(order));
    Ok(Call {
        shown: Some(&[]),
        rubbish: &["var/cache/zypp", "run/zypp.pid", "var/log/zypp", "var/log/zypper.log"],
        variables: place_database(order, &own)?,
        own: Some(own),
        named: program,
        ..Call::new(sh, arguments)
    })
}

/// Several calls, since repositories are the root's own. Signatures are checked where there are some, with the keys
/// that the repositories name.
const ZYPPER: &str = r#"set -e
program=$0 root=$1 version=$2
shift 2
call() {
  "$program" --root "$root" ${version:+--releasever="$version"} --gpg-auto-import-keys --non-interactive "$@"
}
while test "$1" != --; do
  call addrepo --gpgcheck-allow-unsigned "$2" "$1"
  shift 2
done
shift
call refresh
status=0
call install --auto-agree-with-licenses --download-in-advance "$@" || status=$?
case $status in
  # What was installed asks for a new start, or one of its scripts has failed.
  102 | 103) ;;
  107) echo 'zypper: scripts of packages have failed; see above' >&2 ;;
  *) exit $status ;;
esac
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_the_data_base_is_read_from_macros() {
        assert_eq!(database_macro("# x\n%_a b\n%_dbpath\t\t%{_var}/lib/rpm\n"), Some("%{_var}/lib/rpm"));
        assert_eq!(database_macro("%_dbpath_rebuild %{_dbpath}\n"), None);
        for usual in ["%{_var}/lib/rpm", "%{_usr}/lib/sysimage/rpm", "/var/lib/rpm", "/usr/lib/sysimage/rpm"]
        {
            assert!(is_usual(usual), "{usual}");
        }
        assert!(!is_usual("%(bash -c 'echo ~/.rpmdb')") && !is_usual("/home/a/lib/rpm"));
    }
}
