//! What the program's environment is made of.

use std::process::Command;

use super::*;

const BASE: &str = ".singularity.d/env/99-base.sh = if [ -z \"${LD_LIBRARY_PATH:-}\" ]; then\n \
    LD_LIBRARY_PATH=\"/.singularity.d/libs\"\nelse\n LD_LIBRARY_PATH=\"$LD_LIBRARY_PATH:/.singularity.d/libs\"\n\
    fi\nif [ -z \"${PS1:-}\" ]; then PS1=\"Apptainer> \"; fi\nexport LD_LIBRARY_PATH PS1";

fn environment(image: &[&str], host: &[(&str, &str)], flags: &[&str]) -> World {
    let mut world = world(&[], image);
    world.host = world.host.with_environment(host);
    world.flags.env = flags.iter().map(OsString::from).collect();
    world
}

#[test]
fn the_image_beats_the_host_and_an_override_beats_the_image() {
    let script = ".singularity.d/env/90-environment.sh = export A=image B=image C=image D=image E= F=";
    let host = [
        ("A", "host"),
        ("B", "host"),
        ("E", "host"),
        ("G", "host"),
        ("PATH", "/host"),
        ("LD_LIBRARY_PATH", "/host"),
        ("SINGULARITYENV_B", "singularity"),
        ("APPTAINERENV_B", "apptainer"),
        ("SKIFFENV_C", "skiff"),
        ("APPTAINERENV_C", "no"),
        ("SKIFFENV_D", "no"),
        ("BASH_FUNC_f%%", "() { :; }"),
        ("SKIFF_X", "x"),
    ];
    let world = environment(&[script, BASE], &host, &["D=flag,H=1,2"]);
    let value = |name: &str| world.value(name);
    let set = |text: &str| Some(text.to_owned());
    assert_eq!(
        [value("A"), value("B"), value("C"), value("D")],
        [set("image"), set("apptainer"), set("skiff"), set("flag")]
    );
    assert_eq!([value("E"), value("F"), value("G"), value("H")], [None, set(""), set("host"), set("1,2")]);
    assert_eq!(value("PATH"), set(env::DEFAULT_PATH));
    assert_eq!(value("LD_LIBRARY_PATH"), set("/.singularity.d/libs"));
    for gone in ["BASH_FUNC_f%%", "SKIFF_X", "SKIFFENV_C", "APPTAINERENV_B"] {
        assert_eq!(value(gone), None, "{gone}");
    }
    assert_eq!(value("SKIFF_CONTAINER"), set("/images/a.sif"));
    assert_eq!(value("APPTAINER_NAME"), set("a.sif"));
    assert_eq!(value("SINGULARITY_COMMAND"), set("exec"));
}

#[test]
fn scripts_do_not_see_the_hosts_variables() {
    let script =
        ".singularity.d/env/10-docker2singularity.sh = export A=\"${A:-image}\"\nexport PATH=/opt/bin";
    let world = environment(&[script], &[("A", "host")], &[]);
    assert_eq!(world.value("A").as_deref(), Some("image"));
    assert_eq!(world.value("PATH"), Some(format!("/opt/bin:{}", env::DEFAULT_PATH)));
}

#[test]
fn overrides_are_evaluated_unless_told_otherwise() {
    let mut world = environment(&[BASE], &[("SKIFFENV_A", "a\"b$HOME\\$X")], &["LD_LIBRARY_PATH=/x"]);
    assert_eq!(world.value("A").as_deref(), Some("a\"b/home/ada$X"));
    assert_eq!(world.value("LD_LIBRARY_PATH").as_deref(), Some("/x:/.singularity.d/libs"));
    world.flags.no_eval = true;
    assert_eq!(world.value("A").as_deref(), Some("a\"b$HOME\\$X"));
}

#[test]
fn paths_are_edited_at_the_very_end() {
    let script = ".singularity.d/env/90-environment.sh = export PATH=/opt/bin";
    let edits = [("SKIFFENV_PREPEND_PATH", "/first"), ("SKIFFENV_APPEND_PATH", "/last")];
    assert_eq!(
        environment(&[script, BASE], &edits, &[]).value("PATH").as_deref(),
        Some("/first:/opt/bin:/last")
    );
    assert_eq!(environment(&[script, BASE], &edits, &["PATH=/only"]).value("PATH").as_deref(), Some("/only"));
}

#[test]
fn a_clean_environment_keeps_the_terminal_and_the_proxies() {
    let mut world =
        environment(&[], &[("A", "host"), ("TERM", "xterm"), ("https_proxy", "p"), ("LANG", "de")], &[]);
    world.flags.cleanenv = true;
    assert_eq!(world.value("A"), None);
    assert_eq!(world.value("TERM").as_deref(), Some("xterm"));
    assert_eq!(world.value("https_proxy").as_deref(), Some("p"));
    assert_eq!(world.value("LANG").as_deref(), Some("C"));
}

#[test]
fn a_shell_is_prompted_with_the_images_name() {
    let mut world = environment(&[BASE], &[], &[]);
    assert_eq!(world.value("PS1").as_deref(), Some("Apptainer> "));
    world.action = Action::Shell;
    assert_eq!(world.value("PS1").as_deref(), Some("a.sif> "));
    assert_eq!(world.value("SHELL").as_deref(), Some("/bin/bash"));
}

#[test]
fn an_image_without_a_shell_whose_scripts_need_one_is_an_error() {
    let world = environment(&[".singularity.d/env/90-environment.sh = \nexport A=$(date)"], &[], &[]);
    assert_eq!(world.plan().unwrap().process.argv[0], "/bin/sh");
    fs::remove_dir_all(world.image_files.path().join("bin")).unwrap();
    assert_eq!(
        world.error(),
        "cannot set the environment of image \"/images/a.sif\": it has no /bin/sh, and \
         /.singularity.d/env/90-environment.sh line 2: a command substitution needs one"
    );
}

/// What the image's shell makes is what the evaluator makes, for scripts that both can run.
#[test]
fn the_images_shell_makes_the_same_environment() {
    let scripts = TempDir::new().unwrap();
    let script = |name: &str, text: &str| {
        let path = scripts.path().join(name);
        fs::write(&path, text).unwrap();
        (path, text.as_bytes().to_vec())
    };
    let base = BASE.split_once(" = ").unwrap().1;
    let pair = |(name, value): (&str, &str)| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    let over = |(name, value): (&str, &str)| env::Override { name: name.into(), value: value.into() };
    for with_prompt in [false, true] {
        let from = env::Ingredients {
            start: [("HOME", "/home/ada"), ("PWD", "/"), ("SKIFF_NAME", "it's.sif")].map(pair).to_vec(),
            names: [("SKIFF_NAME", "it's.sif")].map(pair).to_vec(),
            scripts: vec![
                script("10-docker2singularity.sh", "export PATH=/opt/bin B=\"${B:-docker}\""),
                script("90-environment.sh", "export C= D=image NAME_SEEN=\"$SKIFF_NAME\""),
                script("99-base.sh", base),
            ],
            overrides: [
                ("E", "a\"$HOME\\$X\\"),
                ("SING_USER_DEFINED_PREPEND_PATH", "/pre"),
                ("F", ""),
                ("LD_LIBRARY_PATH", "/x"),
            ]
            .map(over)
            .to_vec(),
            evaluate: true,
            host: [
                ("B", "host"),
                ("C", "host"),
                ("F", "host"),
                ("G", "it's\n\"odd\" $x"),
                ("PATH", env::DEFAULT_PATH),
            ]
            .map(pair)
            .into_iter()
            .collect(),
            prompt: with_prompt.then(|| b"it's> ".to_vec()),
        };
        let world = world(&[], &[]);
        let tree = Tree::Directory(Directory::open(world.image_files.path()).unwrap());
        let mut view = target::View::new(&world.host, &tree);
        let ours = env::exported(env::evaluate(&from, &mut view).unwrap());
        let shell = sourced::with_shell(&from, "why");
        let out = Command::new(&shell.shell[0])
            .args(&shell.shell[1..])
            .args(["/usr/bin/env", "-0"])
            .env_clear()
            .envs(shell.variables.iter().cloned())
            .current_dir("/")
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stderr), "");
        let text = String::from_utf8(out.stdout).unwrap();
        let mut theirs: Vec<(OsString, OsString)> = text
            .split_terminator('\0')
            .filter_map(|pair| pair.split_once('='))
            .filter(|(name, _)| !matches!(*name, "_" | "SHLVL" | "OLDPWD"))
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        theirs.sort();
        assert_eq!(theirs, ours);
    }
}
