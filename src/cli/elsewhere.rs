//! Verbs of Apptainer's and SingularityCE's that skiff does not have: each is answered with what to use instead.
//!
//! One table, absent from `--help`; `docs/drop-in.md` lists it, and a test keeps it so. A verb that skiff gets loses
//! its row (a test says so).

use std::ffi::OsString;

/// A verb that is answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// Its names; two words for one of `sif`.
    pub names: &'static [&'static str],
    /// Why it is not there.
    pub why: &'static str,
    /// What to use instead.
    pub instead: &'static str,
}

const SIGNATURES: &str = "skiff makes and checks no signatures yet";
const DETACHED: &str = "sign the file itself: gpg --detach-sign a.sif; gpg --verify a.sif.sig a.sif";
const IN_PLACE: &str = "skiff does not change SIF files";
const REBUILD: &str =
    "unpack the image, change it and pack it again: skiff build --sandbox TREE a.sif; skiff build b.sif TREE";

/// All of them.
#[rustfmt::skip]
pub const ELSEWHERE: &[Elsewhere] = &[
    Elsewhere { names: &["search"], why: "skiff searches no registry and deletes nothing there",
        instead: "ask it with its own tools, for example: podman search WORD" },
    Elsewhere { names: &["delete"], why: "skiff searches no registry and deletes nothing there",
        instead: "delete there with another tool: skopeo delete docker://REGISTRY/NAME:TAG" },
    Elsewhere { names: &["remote"], why: "skiff keeps no list of services", instead: "log in to a registry with skiff registry login HOST; a library is named in library://HOST/... or --library URL" },
    Elsewhere { names: &["keyserver"], why: SIGNATURES, instead: DETACHED },
    Elsewhere { names: &["key", "keys"], why: SIGNATURES, instead: DETACHED },
    Elsewhere { names: &["sign"], why: SIGNATURES, instead: DETACHED },
    Elsewhere { names: &["verify"], why: SIGNATURES, instead: DETACHED },
    Elsewhere { names: &["instance"], why: "skiff has no named instances yet",
        instead: "start a service as a process of its own: systemd-run --user skiff run --pid a.sif, or: skiff run --pid a.sif &" },
    Elsewhere { names: &["capability", "caps"], why: "skiff keeps no list of capabilities",
        instead: "give them with the container: skiff exec --fakeroot --add-caps CAP_NET_RAW a.sif PROGRAM" },
    Elsewhere { names: &["checkpoint"], why: "skiff makes no checkpoints",
        instead: "start the program by DMTCP: skiff exec a.sif dmtcp_launch PROGRAM" },
    Elsewhere { names: &["config"], why: "skiff needs no configuration",
        instead: "settings are in /etc/skiff/config.yaml and ~/.config/skiff/config.yaml; ids for --fakeroot in /etc/subuid" },
    Elsewhere { names: &["buildcfg", "confgen"], why: "skiff needs no configuration",
        instead: "skiff doctor says what this machine allows" },
    Elsewhere { names: &["oci"], why: "skiff runs no OCI bundles",
        instead: "use crun or runc; the root file system of one is an image: skiff exec BUNDLE/rootfs PROGRAM" },
    Elsewhere { names: &["overlay"], why: "an overlay of skiff is a directory",
        instead: "make one: mkdir DIR; skiff exec --overlay DIR a.sif PROGRAM" },
    Elsewhere { names: &["plugin"], why: "skiff has no plugins", instead: "what a site adds is in /etc/skiff/config.yaml" },
    Elsewhere { names: &["data"], why: "skiff mounts no data containers", instead: "bring a directory in: --bind DIR" },
    Elsewhere { names: &["sif new", "sif add", "sif del", "sif setprim"], why: IN_PLACE, instead: REBUILD },
];

/// The row of the verb that `words` begin with, flags left out.
pub fn elsewhere(words: &[OsString]) -> Option<(&'static str, &'static Elsewhere)> {
    let mut verbs = words.iter().filter_map(|word| word.to_str()).filter(|word| !word.starts_with('-'));
    let first = verbs.next()?;
    let both = format!("{first} {}", verbs.next().unwrap_or_default());
    ELSEWHERE.iter().find_map(|row| {
        let name = row.names.iter().find(|name| **name == first || **name == both)?;
        Some((*name, row))
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn a_verb_is_either_there_or_answered() {
        let mut cli = Cli::command();
        cli.build();
        for name in ELSEWHERE.iter().flat_map(|row| row.names) {
            let there = name.split(' ').try_fold(&cli, |command, word| command.find_subcommand(word));
            assert!(there.is_none(), "{name} is a verb now: its row goes");
        }
    }

    #[test]
    fn the_documents_list_what_is_answered() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/drop-in.md");
        let text = std::fs::read_to_string(path).unwrap();
        for Elsewhere { names, why, instead } in ELSEWHERE {
            let names = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let row = format!("| {names} | {why} | {} |", instead.replace('|', "\\|"));
            assert!(text.contains(&row), "docs/drop-in.md lacks: {row}");
        }
    }
}
