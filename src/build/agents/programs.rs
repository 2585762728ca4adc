//! Agents that fill a directory with a program of the host: `debootstrap` (by mmdebstrap where it is there), `dnf`,
//! `yum`, `zypper`, `arch`, `busybox`.
//!
//! ```text
//! in a user and a mount namespace, as root
//!   devices of the host shown in the new root      what scripts of packages write to /dev/null is gone
//!   emulated root                                  what the ids do not allow is recorded
//!   the program
//!   devices and what the program left behind       taken away
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::UnmountFlags;

use super::{Order, debian, pacman, rpm};
use crate::error::{Context, Error, Kind, Result};
use crate::image::unpack::remove_tree;
use crate::launch::step;

/// The devices that scripts of packages get.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// A program with its arguments.
pub struct Call {
    /// By its path.
    pub program: PathBuf,
    /// Without the name.
    pub arguments: Vec<String>,
    /// What it is in messages.
    pub named: PathBuf,
    /// Variables that it gets besides the caller's.
    pub variables: Vec<(&'static str, PathBuf)>,
    /// Directories of the host that it finds in the new root, besides devices; none where it cares for them itself.
    pub shown: Option<&'static [&'static str]>,
    /// What it leaves in the new root and nobody needs.
    pub rubbish: &'static [&'static str],
    /// A directory of the host that is for this call alone.
    pub own: Option<PathBuf>,
}

impl Call {
    /// One that gets nothing but its arguments.
    pub fn new(program: PathBuf, arguments: Vec<String>) -> Self {
        let named = program.clone();
        Self { program, arguments, named, variables: Vec::new(), shown: None, rubbish: &[], own: None }
    }
}

/// Fills the order's directory.
pub fn fill(order: &Order<'_>) -> Result<()> {
    let call = match order.agent {
        "debootstrap" => debian::debootstrap(order)?,
        "dnf" | "yum" => rpm::dnf(order)?,
        "zypper" => rpm::zypper(order)?,
        "arch" => pacman::arch(order)?,
        _ => busybox(order)?,
    };
    step::beside(order.ids, &[], |_| {
        // As root makes files, whatever the caller's mask is.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        let shown = call.shown.map(|directories| show(order.directory, directories)).transpose()?;
        step::emulate_root(order.ids);
        run(order, &call)?;
        if let Some(shown) = shown {
            shown.take_away().tried(|| "cannot take the host's devices away".into())?;
        }
        for path in call.rubbish {
            let path = order.directory.join(path);
            let removed = match path.symlink_metadata() {
                Ok(status) if status.is_dir() => remove_tree(&path),
                Ok(_) => fs::remove_file(&path),
                Err(_) => Ok(()),
            };
            removed.tried(|| format!("cannot remove {path:?}"))?;
        }
        Ok(Vec::new())
    })?;
    if let Some(own) = &call.own {
        remove_tree(own).tried(|| format!("cannot remove {own:?}"))?;
    }
    Ok(())
}

fn run(order: &Order<'_>, call: &Call) -> Result<()> {
    let shown = call.named.display();
    let mut command = Command::new(&call.program);
    command.args(&call.arguments).env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
    command.envs(call.variables.iter().map(|(name, value)| (name, value)));
    let status = command.status().tried(|| format!("cannot run {shown}"))?;
    if status.success() {
        return Ok(());
    }
    let failed = format!("Bootstrap: {}: {shown} failed: {status}", order.agent);
    Err(Error::new(Kind::Program, failed).hint("what it said is above"))
}

/// What of the host is mounted in the new root.
struct Shown {
    devices: Vec<PathBuf>,
    directories: Vec<PathBuf>,
}

/// Shows devices and `directories` of the host.
fn show(root: &Path, directories: &[&str]) -> Result<Shown> {
    let mut shown = Shown { devices: Vec::new(), directories: Vec::new() };
    let tried = |path: &Path| format!("cannot show {path:?} of the host to the scripts of packages");
    let dev = root.join("dev");
    fs::create_dir_all(&dev).tried(|| tried(&dev))?;
    for name in DEVICES {
        let (device, point) = (Path::new("/dev").join(name), dev.join(name));
        if !device.exists() {
            continue;
        }
        let made = fs::File::create_new(&point).map(drop);
        let mounted = made.and_then(|()| Ok(rustix::mount::mount_bind(&device, &point)?));
        mounted.tried(|| tried(&device))?;
        shown.devices.push(point);
    }
    for name in directories {
        let (directory, point) = (Path::new("/").join(name), root.join(name));
        let made = fs::create_dir_all(&point);
        let mounted = made.and_then(|()| Ok(rustix::mount::mount_bind_recursive(&directory, &point)?));
        mounted.tried(|| tried(&directory))?;
        shown.directories.push(point);
    }
    Ok(shown)
}

impl Shown {
    fn take_away(self) -> io::Result<()> {
        for point in self.directories.iter().chain(&self.devices) {
            match rustix::mount::unmount(point, UnmountFlags::DETACH) {
                // A package has put something of its own there.
                Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        for point in &self.devices {
            let made = fs::symlink_metadata(point).is_ok_and(|status| status.is_file() && status.len() == 0);
            if made {
                fs::remove_file(point)?;
            }
        }
        Ok(())
    }
}

/// A program of the host, or the error that says what to install.
pub fn find(order: &Order<'_>, names: &[&str], package: &str) -> Result<PathBuf> {
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

/// A new directory of the host beside the root, for a program's own settings and files.
pub fn own_directory(order: &Order<'_>) -> Result<PathBuf> {
    let path = order.directory.with_file_name("program");
    fs::create_dir(&path).tried(|| format!("cannot make {path:?}"))?;
    Ok(path)
}

/// Makes a directory of the new root, with those above it, as root's: the caller's mask does not count.
pub fn make_directories(root: &Path, path: &Path) -> io::Result<()> {
    let missing: Vec<_> = path.ancestors().take_while(|above| *above != root && !above.exists()).collect();
    for directory in missing.into_iter().rev() {
        fs::create_dir(directory)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// A list of packages: words, commas between them or not.
pub fn packages(order: &Order<'_>) -> Vec<String> {
    let list = order.key("Include").unwrap_or_default();
    list.split([',', ' ', '\t', '\n']).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// `%{OSVERSION}` in an address, in any case, is the version.
pub fn with_version(order: &Order<'_>, url: &str) -> Result<String> {
    const NAME: &str = "%{osversion}";
    let mut text = url.to_owned();
    while let Some(at) = text.to_ascii_lowercase().find(NAME) {
        text.replace_range(at..at + NAME.len(), order.needed("OSVersion")?);
    }
    Ok(text)
}

pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Begins a shell's script with `fetch FILE URL`, for which the program is `$0`.
pub const FETCH: &str = r#"set -e
fetch() {
  case $0 in
    *curl) "$0" -fsSL -o "$1" "$2" ;;
    *) "$0" -nv -O "$1" "$2" ;;
  esac
}
"#;

/// What every image with busybox alone needs besides: names for root.
const BUSYBOX: &str = r#"fetch "$1" "$2"
chmod 755 "$1"
cd "${1%/*}"
"$1" --list >list || { rm -f list; echo "$2 is no busybox that runs here" >&2; exit 1; }
while read -r applet; do test "$applet" = busybox || ln -s busybox "$applet"; done <list
rm list
mkdir -p ../etc
echo root:x:0:0:root:/root:/bin/sh >../etc/passwd
echo root:x:0: >../etc/group
"#;

fn busybox(order: &Order<'_>) -> Result<Call> {
    let url = order.needed("MirrorURL")?;
    let program = find(order, &["curl", "wget"], "curl (or wget)")?;
    let sh = find(order, &["sh"], "dash")?;
    let bin = order.directory.join("bin");
    make_directories(order.directory, &bin).tried(|| format!("cannot make {bin:?}"))?;
    let script = format!("{FETCH}{BUSYBOX}");
    let arguments =
        ["-c".to_owned(), script, text(&program), text(&bin.join("busybox")), url.to_owned()].to_vec();
    Ok(Call { named: program, ..Call::new(sh, arguments) })
}
