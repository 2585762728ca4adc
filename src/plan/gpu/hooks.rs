//! Hooks of CDI files: programs of the host that a container tool would run on the container's root. None is run here;
//! what the known ones do is done by the plan, without root.
//!
//! ```text
//! create-symlinks --link TARGET::LINK          the file that LINK would lead to, at LINK
//! update-ldcache --folder DIR                  the loader finds the libraries by LD_LIBRARY_PATH
//! create-soname-symlinks --folder DIR          the same
//! enable-cuda-compat --host-driver-version V   /usr/local/cuda/compat first, where the image's is newer
//! chmod --mode M --path P                      nothing: directories above devices are open to all
//! disable-device-node-modification             nothing: no container of skiff makes devices
//! ```

use std::path::Path;

use crate::host::cdi::spec::Hook;

/// The programs whose hooks are known.
const PROGRAMS: [&str; 3] = ["nvidia-cdi-hook", "nvidia-ctk", "nvidia-container-toolkit"];
/// Hooks that have nothing to do here.
const NOTHING_TO_DO: [&str; 2] = ["chmod", "disable-device-node-modification"];

/// What a hook does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// These links: where they lead, and where they are.
    Links(Vec<(String, String)>),
    /// The loader knows the libraries of these directories.
    Folders(Vec<String>),
    /// The image's libcuda counts where it is newer than this driver.
    Compat(Option<String>),
    /// Nothing that would be needed here.
    Nothing,
    /// It is not known: what it was called.
    Unknown(String),
}

/// What a hook does.
pub fn effect(hook: &Hook) -> Effect {
    let program = Path::new(&hook.path).file_name().unwrap_or_default().to_string_lossy().into_owned();
    // The first word is the program's own name; nvidia-ctk has its hooks below `hook`.
    let mut words = hook.args.iter().skip(1).map(String::as_str).peekable();
    while words.next_if(|word| word.starts_with('-') || *word == "hook").is_some() {}
    let name = words.next().unwrap_or_default().to_owned();
    let words: Vec<&str> = words.collect();
    let unknown = || Effect::Unknown([program.as_str(), &name].join(" ").trim_end().to_owned());
    if !PROGRAMS.contains(&program.trim_end_matches(".real")) {
        return unknown();
    }
    match name.as_str() {
        "create-symlinks" => {
            let links = values(&words, "link");
            Effect::Links(links.iter().filter_map(|link| link.split_once("::")).map(owned).collect())
        }
        "update-ldcache" | "create-soname-symlinks" => {
            let folders = values(&words, "folder");
            Effect::Folders(folders.iter().flat_map(|list| list.split(',')).map(str::to_owned).collect())
        }
        "enable-cuda-compat" | "cuda-compat" => {
            Effect::Compat(values(&words, "host-driver-version").first().map(|version| (*version).to_owned()))
        }
        name if NOTHING_TO_DO.contains(&name) => Effect::Nothing,
        _ => unknown(),
    }
}

fn owned((one, other): (&str, &str)) -> (String, String) {
    (one.to_owned(), other.to_owned())
}

/// The values of a flag: `--name VALUE` and `--name=VALUE`.
fn values<'w>(words: &[&'w str], name: &str) -> Vec<&'w str> {
    let mut values = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else { continue };
        match flag.split_once('=') {
            Some((flag, value)) if flag == name => values.push(value),
            None if flag == name => values.extend(words.next().copied()),
            _ => {}
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(path: &str, args: &[&str]) -> Effect {
        let args = args.iter().map(|word| (*word).to_owned()).collect();
        effect(&Hook { path: path.to_owned(), args, ..Hook::default() })
    }

    #[test]
    fn hooks_of_old_and_new_tools_are_known_by_what_they_do() {
        let links = |pairs: &[(&str, &str)]| Effect::Links(pairs.iter().copied().map(owned).collect());
        let new = "/usr/bin/nvidia-cdi-hook";
        let ctk = "/usr/bin/nvidia-ctk";
        assert_eq!(
            seen(new, &["nvidia-cdi-hook", "create-symlinks", "--link", "a::/b", "--link=../c::/d/e"]),
            links(&[("a", "/b"), ("../c", "/d/e")])
        );
        assert_eq!(
            seen(
                ctk,
                &["nvidia-ctk", "hook", "create-symlinks", "--link", "libcuda.so.1::/usr/lib64/libcuda.so"]
            ),
            links(&[("libcuda.so.1", "/usr/lib64/libcuda.so")])
        );
        assert_eq!(
            seen(ctk, &["nvidia-ctk", "hook", "update-ldcache", "--folder", "/lib64", "--folder=/a,/b"]),
            Effect::Folders(vec!["/lib64".into(), "/a".into(), "/b".into()])
        );
        assert_eq!(
            seen(new, &["nvidia-cdi-hook", "enable-cuda-compat", "--host-driver-version=570.133.20"]),
            Effect::Compat(Some("570.133.20".into()))
        );
        assert_eq!(
            seen(ctk, &["nvidia-ctk", "hook", "chmod", "--mode", "755", "--path", "/dev/dri"]),
            Effect::Nothing
        );
        assert_eq!(seen(new, &["nvidia-cdi-hook", "disable-device-node-modification"]), Effect::Nothing);
        assert_eq!(
            seen(new, &["nvidia-cdi-hook", "--debug", "frobnicate"]),
            Effect::Unknown("nvidia-cdi-hook frobnicate".into())
        );
        // Another's hook of the same name is another's.
        assert_eq!(
            seen("/opt/v/hook", &["hook", "create-symlinks", "--link", "a::/b"]),
            Effect::Unknown("hook create-symlinks".into())
        );
        assert_eq!(seen(new, &[]), Effect::Unknown("nvidia-cdi-hook".into()));
        assert_eq!(seen(new, &["x", "create-symlinks", "--link"]), links(&[]));
    }
}
