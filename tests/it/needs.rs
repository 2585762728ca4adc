//! What a machine may lack that takes more than a look to find out.

use std::fs;
use std::io::Write;
use std::net::ToSocketAddrs;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::debian_tree;

/// Whether a C compiler makes static programs.
pub fn links_statically(compiler: &str) -> Result<(), String> {
    let mut trial = Command::new(compiler);
    trial.args(["-static", "-x", "c", "-o", "/dev/null", "-"]).stdin(Stdio::piped()).stderr(Stdio::null());
    let mut child = trial.spawn().map_err(|e| format!("cannot run {compiler}: {e}"))?;
    let mut input = child.stdin.take().expect("stdin is piped");
    input.write_all(b"int main(void) { return 0; }").map_err(|e| format!("{compiler}: {e}"))?;
    drop(input);
    let able = child.wait().map_err(|e| format!("{compiler}: {e}"))?.success();
    able.then_some(()).ok_or_else(|| format!("{compiler} has no static C library"))
}

/// Whether the mirror of the Debian tree can be reached.
pub fn mirror_answers() -> Result<(), String> {
    let list = debian_tree().join("etc/apt/sources.list");
    let text = fs::read_to_string(&list).map_err(|e| format!("{}: {e}", list.display()))?;
    let host = text.split_whitespace().find_map(|word| word.strip_prefix("http://")?.split('/').next());
    let host = host.ok_or("the Debian tree has no mirror")?;
    let port = if host.contains(':') { "" } else { ":80" };
    let mut places = format!("{host}{port}").to_socket_addrs().map_err(|e| format!("{host}: {e}"))?;
    let place = places.next().ok_or_else(|| format!("{host} has no address"))?;
    let met = std::net::TcpStream::connect_timeout(&place, Duration::from_secs(10));
    met.map(|_| ()).map_err(|e| format!("{host}: {e}"))
}

/// Whether FUSE gives up requests that nobody answers.
pub fn gives_requests_up() -> Result<(), String> {
    let name = nix::sys::utsname::uname().map_err(|e| format!("uname: {e}"))?;
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (version >= (6, 14)).then_some(()).ok_or_else(|| format!("the kernel is {release}"))
}

/// Whether Yama lets a process read the memory of one that is not its child.
pub fn lets_peek() -> Result<(), String> {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_else(|_| "0".into());
    (scope.trim() == "0").then_some(()).ok_or_else(|| format!("kernel.yama.ptrace_scope is {}", scope.trim()))
}

/// Whether a registry can be started here, and filled.
pub fn has_registry() -> Result<(), String> {
    ["docker-registry", "skopeo", "umoci"].into_iter().try_for_each(is_there)
}

/// Whether there is a program, one that says no version.
pub fn is_on_path(name: &str) -> Result<(), String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(name).is_file());
    found.then_some(()).ok_or_else(|| format!("no {name} (package {name})"))
}

/// Whether a program answers.
pub fn is_there(name: &str) -> Result<(), String> {
    match Command::new(name).arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(format!("no {name} (package {name})")),
    }
}
