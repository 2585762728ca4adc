//! The variables that stand for flags of `skiff build`: those that Apptainer's `build` reads, and no others. Binds,
//! mounts and `NVCCLI` are read where containers are planned, what is about registries where they are asked.

use crate::cli::build::BuildArgs;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::plan::Because;
use crate::plan::asked::{switch, texts};

/// The same flags, with what variables add; flags beat them.
///
/// # Errors
/// A variable asks for a sandbox, and a flag for an image.
pub fn with_variables(args: &BuildArgs, host: &Host) -> Result<BuildArgs> {
    let mut by = Vec::new();
    let mut on = |given, flag: &'static str, keys: &[&str]| {
        let because = switch(host, given, flag, keys);
        if let Some(Because::Variable(variable)) = &because {
            by.push((flag, variable.clone()));
        }
        because.is_some()
    };
    let mut all = args.clone();
    all.sandbox = on(args.sandbox, "--sandbox", &["SANDBOX"]);
    // The two contradict each other, and a flag beats the other's variable.
    all.update = !args.force && on(args.update, "--update", &["UPDATE"]);
    all.force = !all.update && on(args.force, "--force", &["FORCE"]);
    all.json = on(args.json, "--json", &["JSON"]);
    all.notest = on(args.notest, "--notest", &["NOTEST"]);
    all.ignore_subuid = on(args.ignore_subuid, "--ignore-subuid", &["IGNORE_SUBUID"]);
    all.writable_tmpfs = on(args.writable_tmpfs, "--writable-tmpfs", &["WRITABLE_TMPFS"]);
    all.no_cleanup = on(args.no_cleanup, "--no-cleanup", &["NO_CLEANUP"]);
    all.reproducible = on(args.reproducible, "--reproducible", &["REPRODUCIBLE"]);
    let sections = texts(host, &args.section, "--section", &["SECTION"]);
    if let Some((_, Because::Variable(variable))) = sections.first() {
        by.push(("--section", variable.clone()));
    }
    all.section = sections.into_iter().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    let text = |name: &str| host.setting(name).map(|(_, value)| value.to_string_lossy().into_owned());
    all.platform.arch = all.platform.arch.or_else(|| text("BUILD_ARCH"));
    all.platform.arch_variant = all.platform.arch_variant.or_else(|| text("BUILD_ARCH_VARIANT"));
    all.by = by;
    ensure_sandbox(args, &all)?;
    Ok(all)
}

/// Refuses flags about an image where a variable asks for a directory, as clap does where both are flags.
fn ensure_sandbox(given: &BuildArgs, all: &BuildArgs) -> Result<()> {
    if given.sandbox || !all.sandbox {
        return Ok(());
    }
    let usual = BuildArgs::plain(given.target.clone());
    let of_images = [
        ("--compression", given.compression != usual.compression),
        ("--level", given.level.is_some()),
        ("--block-size", given.block_size != usual.block_size),
        ("--all-root", given.all_root),
        ("--reproducible", given.reproducible),
        ("--memory", given.memory.is_some()),
    ];
    match of_images.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((flag, _)) => {
            let variable = all.origin("--sandbox");
            Err(Error::usage(format!(
                "cannot use {flag}: {variable} asks for a directory, it is about images"
            ))
            .hint("--sandbox=false makes an image"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::cli::{Cli, Verb};

    fn read(line: &str, variables: &[(&str, &str)]) -> Result<BuildArgs> {
        let words: Vec<OsString> = format!("skiff build {line} a b").split(' ').map(Into::into).collect();
        let cli = Cli::of(&words).unwrap();
        let Verb::Build(args) = &cli.verb else { panic!("{cli:?}") };
        let pair = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
        let environment = variables.iter().map(pair).collect();
        let host = Host { environment, settings: std::cell::OnceCell::new(), ..Host::probe() };
        with_variables(args, &host.with_off(&cli.global.off))
    }

    #[test]
    fn variables_stand_for_flags_which_beat_them() {
        let all = [
            ("APPTAINER_NOTEST", "1"),
            ("SINGULARITY_FORCE", "true"),
            ("SKIFF_SANDBOX", "yes"),
            ("APPTAINER_SECTION", "post,files"),
            ("APPTAINER_BUILD_ARCH", "arm64"),
            ("APPTAINER_JSON", "no"),
        ];
        let args = read("-q", &all).unwrap();
        assert!(args.notest && args.force && args.sandbox && !args.json && !args.update);
        assert_eq!(args.section, ["post", "files"]);
        assert_eq!(args.platform.arch.as_deref(), Some("arm64"));
        assert_eq!(args.origin("--section"), "APPTAINER_SECTION");
        let args = read("--notest=false --sandbox=f --section test --arch amd64", &all).unwrap();
        assert!(!args.notest && args.force && !args.sandbox);
        assert_eq!((args.section.len(), args.platform.arch.as_deref()), (1, Some("amd64")));
        assert_eq!(args.origin("--section"), "--section");
        let first = [("SKIFF_NOTEST", "0"), ("APPTAINER_NOTEST", "1")];
        assert!(!read("-q", &first).unwrap().notest);
    }

    #[test]
    fn contradictions_are_the_flags_to_settle() {
        let both = [("SKIFF_UPDATE", "1"), ("SKIFF_FORCE", "1")];
        let says = |line: &str| read(line, &both).map(|args| (args.update, args.force)).unwrap();
        assert_eq!(
            (says("-q"), says("--force"), says("--update")),
            ((true, false), (false, true), (true, false))
        );
        let error = read("--level 3", &[("APPTAINER_SANDBOX", "1")]).unwrap_err().to_string();
        assert!(error.contains("cannot use --level: APPTAINER_SANDBOX asks for a directory"), "{error}");
    }
}
