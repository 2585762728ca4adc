//! What the program's environment is made of.

use std::process::Command;

use super::*;
use std::collections::BTreeMap;

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
fn an_override_of_an_image_without_scripts_finds_the_default_path() {
    let world = environment(&[], &[("SKIFFENV_A", "$PATH")], &["PATH=/x:$PATH"]);
    assert_eq!(world.value("PATH"), Some(format!("/x:{}", env::DEFAULT_PATH)));
    assert_eq!(world.value("A").as_deref(), Some(env::DEFAULT_PATH));
    // Where a shell has to evaluate them, it has one to find programs by.
    let world = environment(&["bin/sh = "], &[], &["A=$(date +%Y)"]);
    let argv = world.plan().unwrap().process.argv;
    let script = argv.iter().skip_while(|word| *word != "-c").nth(1).unwrap().to_string_lossy().into_owned();
    let (path, eval) = (script.find("export PATH=").unwrap(), script.find("eval").unwrap());
    assert!(path < eval, "{script}");
}

#[test]
fn the_home_directory_is_no_variables_to_change() {
    for (host, flags) in [(&[][..], &["HOME=/x"][..]), (&[("APPTAINERENV_HOME", "/x")], &[])] {
        let world = environment(&[BASE], host, flags);
        assert_eq!(world.value("HOME").as_deref(), Some("/home/ada"));
        let warnings = world.plan().unwrap().warnings;
        assert!(
            warnings[0].contains("has no effect: the home directory is chosen by --home"),
            "{warnings:?}"
        );
    }
}

#[test]
fn the_names_by_which_scripts_know_shell_and_app_are_no_variables_to_set() {
    for name in ["SKIFF_SHELL", "APPTAINER_SHELL", "SINGULARITY_SHELL", "SINGULARITY_APPNAME"] {
        let (variable, flag) = (format!("APPTAINERENV_{name}"), format!("{name}=/x"));
        for (host, flags) in [(&[(variable.as_str(), "/x")][..], &[][..]), (&[], &[flag.as_str()])] {
            let world = environment(&[BASE], host, flags);
            assert_eq!(world.value(name), None, "{name}");
            let warnings = world.plan().unwrap().warnings.join("; ");
            assert!(warnings.contains(name) && warnings.contains(" has no effect: the "), "{warnings}");
        }
    }
    // Of names that are alike nothing is said.
    let world = environment(&[BASE], &[("SKIFFENV_MY_SHELL", "/x")], &["SHELL=/y", "SKIFFHOME=/z"]);
    let values = ["MY_SHELL", "SHELL", "SKIFFHOME"].map(|name| world.value(name).unwrap());
    assert_eq!(values, ["/x", "/y", "/z"]);
    assert_eq!(world.plan().unwrap().warnings, [""; 0]);
}

#[test]
fn blanks_after_the_commas_of_a_list_belong_to_no_name() {
    let world = environment(&[BASE], &[], &["A=1, B=2 ,C=x, y"]);
    let value = |name: &str| world.value(name).unwrap();
    assert_eq!([value("A"), value("B"), value("C")], ["1", "2 ", "x, y"]);
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
    assert_eq!(world.plan().unwrap().process.argv[0], "/bin/bash");
    fs::remove_file(world.image_files.path().join("bin/bash")).unwrap();
    assert_eq!(world.plan().unwrap().process.argv[0], "/bin/sh");
    fs::remove_dir_all(world.image_files.path().join("bin")).unwrap();
    assert_eq!(
        world.error(),
        "cannot set the environment of image \"/images/a.sif\": it has no /bin/sh, and \
         /.singularity.d/env/90-environment.sh line 2: a command substitution needs one"
    );
}

/// Of the host, what one shell or another has by itself, or reads.
const PRESET_BY_SHELLS: [(&str, &str); 13] = [
    ("TERM", "xterm"),
    ("SHELL", "/bin/zsh"),
    ("HOSTNAME", "login1"),
    ("HOSTTYPE", "t"),
    ("MACHTYPE", "t"),
    ("OSTYPE", "t"),
    ("OPTERR", "0"),
    ("PS2", "- "),
    ("PS4", "- "),
    ("SHLVL", "3"),
    ("LC_ALL", "xx_XX.UTF-8"),
    ("BASH_ENV", "/nowhere"),
    ("GID", "7"),
];

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
            // Bash asks the kernel for its own.
            ids: (rustix::process::getuid().as_raw(), 1002),
            names: [("SKIFF_NAME", "it's.sif")].map(pair).to_vec(),
            scripts: vec![
                script("10-docker2singularity.sh", "export d=docker PATH=/opt/bin::/bin B=\"${B:-docker}\""),
                script(
                    "90-environment.sh",
                    "export C= D=image NAME_SEEN=\"$SKIFF_NAME\" IDS=$UID:$EUID:$GID",
                ),
                script("99-base.sh", base),
            ],
            overrides: [
                ("E", "a\"$HOME\\$X\\"),
                ("SING_USER_DEFINED_PREPEND_PATH", "/pre"),
                ("F", ""),
                ("LD_LIBRARY_PATH", "/x"),
                ("LC_MESSAGES", "xx_XX"),
            ]
            .map(over)
            .to_vec(),
            evaluate: true,
            host: [("B", "host"), ("C", "host"), ("F", "host"), ("G", "it's\n\"odd\" $x")]
                .map(pair)
                .into_iter()
                .chain(PRESET_BY_SHELLS.map(pair))
                .collect(),
            prompt: with_prompt.then(|| b"it's> ".to_vec()),
        };
        let world = world(&[], &[]);
        let tree = Tree::Directory(Directory::open(world.image_files.path()).unwrap());
        let mut view = target::View::new(&world.host, &tree);
        let ours = env::exported(env::evaluate(&from, &mut view).unwrap());
        // Bash as sh, and busybox where it is there.
        for (program, name) in
            [("/bin/bash", "bash"), ("/bin/bash", "sh"), ("/bin/sh", "sh"), ("/bin/busybox", "sh")]
        {
            if Path::new(program).exists() {
                assert_eq!(by_shell(&from, program, name), ours, "{program} as {name}");
            }
        }
    }
}

/// The variables that a program has whose environment is made by this shell, called so.
fn by_shell(from: &env::Ingredients, program: &str, name: &str) -> Vec<(OsString, OsString)> {
    let directory = TempDir::new().unwrap();
    let link = directory.path().join(name);
    symlink(program, &link).unwrap();
    let path = Box::leak(link.to_str().unwrap().to_owned().into_boxed_str());
    let shell = sourced::Interpreter { path, is_bash: program == "/bin/bash" };
    let shell = sourced::with_shell(from, &shell, "why");
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
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    theirs.sort();
    theirs
}

#[test]
fn scripts_for_bash_are_run_by_bash() {
    let script = "[[ -d /usr ]] && export A=${HOME/ada/eve}\nfunction f { echo \"$1\"; }\n\
                  export B=$(f x) C=${HOME:1:4} D+=d";
    let from = env::Ingredients {
        start: vec![(b"HOME".to_vec(), b"/home/ada".to_vec())],
        ids: (0, 0),
        names: Vec::new(),
        scripts: Vec::new(),
        overrides: Vec::new(),
        evaluate: true,
        host: BTreeMap::new(),
        prompt: None,
    };
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("90-environment.sh");
    fs::write(&path, script).unwrap();
    let from = env::Ingredients { scripts: vec![(path, script.into())], ..from };
    let variables = by_shell(&from, "/bin/bash", "bash");
    let value =
        |name: &str| variables.iter().find(|(one, _)| one == name).map(|(_, value)| value.to_str().unwrap());
    assert_eq!(
        [value("A"), value("B"), value("C"), value("D")],
        [Some("/home/eve"), Some("x"), Some("home"), Some("d")]
    );
    assert_eq!(value("SHLVL"), None, "bash counts its own");
}

/// What images with apps have: it asks which app is wanted, as the image's own script does.
const APPS: &str = ".singularity.d/env/95-apps.sh = if test -n \"${SINGULARITY_APPNAME:-}\"; then\n\
    if test -d \"/scif/apps/${SINGULARITY_APPNAME:-}/\"; then\n\
    PATH=\"/scif/apps/${SINGULARITY_APPNAME:-}/bin:$PATH\"\n\
    . \"/scif/apps/${SINGULARITY_APPNAME:-}/scif/env/90-environment.sh\"\nexport PATH\n\
    else\necho none; exit 1\nfi\nfi";

#[test]
fn an_app_brings_its_environment_and_its_name() {
    let own = ".singularity.d/env/90-environment.sh";
    let image = [own, APPS, "scif/apps/solver/scif/env/90-environment.sh = export TOOL=app", BASE];
    let mut world = environment(&image, &[("TOOL", "host")], &[]);
    assert_eq!(world.value("TOOL").as_deref(), Some("host"));
    assert_eq!(world.value("SKIFF_APPNAME"), None);
    world.flags.app = Some("solver".into());
    assert_eq!(world.value("TOOL").as_deref(), Some("app"));
    assert_eq!(world.value("PATH"), Some(format!("/scif/apps/solver/bin:{}", env::DEFAULT_PATH)));
    for family in ["SKIFF", "APPTAINER", "SINGULARITY"] {
        assert_eq!(world.value(&format!("{family}_APPNAME")).as_deref(), Some("solver"));
    }
}

#[test]
fn an_app_is_asked_for_by_variable_too_but_not_by_the_container_around() {
    let image = ["scif/apps/solver/scif/test"];
    let mut world = environment(&image, &[("APPTAINER_APPNAME", "solver")], &[]);
    assert_eq!(world.value("SKIFF_APPNAME").as_deref(), Some("solver"));
    world.host = world
        .host
        .with_environment(&[("APPTAINER_APPNAME", "other"), ("APPTAINER_CONTAINER", "/around.sif")]);
    assert_eq!(world.value("SKIFF_APPNAME"), None);
}

#[test]
fn variables_that_are_not_wanted_stay_outside() {
    let host = [("A", "1"), ("B", "2"), ("C", "3"), ("SKIFF_NOENV", "C")];
    let mut world = environment(&[], &host, &["B=flag"]);
    assert_eq!((world.value("A").as_deref(), world.value("C")), (Some("1"), None));
    world.flags.no_env = vec!["A".into(), "B".into()];
    let values = [world.value("A"), world.value("B"), world.value("C")];
    assert_eq!(values, [None, Some("flag".into()), Some("3".into())]);
}

fn with_files(files: &[&str], host: &[(&str, &str)]) -> World {
    let mut world = environment(&[BASE], host, &[]);
    fill(world.host_files.path(), files);
    world.flags.env_file = vec!["first.env".into(), "/etc/second.env".into()];
    world
}

#[test]
fn files_of_variables_are_shell_and_the_later_wins() {
    let first = "home/ada/first.env = # variables\nA=1\nexport B=$FROM_HOST\nC=\"two words\" # more\nD=$A$A\n\
        if [ -n \"$FROM_HOST\" ]; then E=yes; fi\nHOME=/none\nL=first\nM='$HOME'\nPATH=/opt/bin:$PATH\nN=\nG=file";
    let second = "etc/second.env = L=\"second$L\"\nK=\"$A\"\nFROM_HOST=$FROM_HOST\nexport OUTSIDE";
    let host = [("FROM_HOST", "host"), ("PATH", "/host"), ("SKIFFENV_B", "weaker"), ("OUTSIDE", "o")];
    let mut world = with_files(&[first, second], &host);
    world.flags.env = vec!["G=flag".into()];
    world.flags.cleanenv = true;
    let value = |name: &str| world.value(name).unwrap_or_else(|| "(unset)".into());
    let values: Vec<String> = "ABCDEGKLMN".chars().map(|name| value(&name.to_string())).collect();
    assert_eq!(values, ["1", "host", "two words", "11", "yes", "flag", "", "second", "/home/ada", ""]);
    assert_eq!([value("HOME"), value("FROM_HOST"), value("OUTSIDE")], ["/home/ada", "host", "o"]);
    assert_eq!(value("PATH"), "/opt/bin:/host");
    world.flags.no_eval = true;
    assert_eq!(world.value("M").as_deref(), Some("$HOME"));
}

#[test]
fn a_file_of_variables_that_cannot_be_evaluated_is_an_error_with_its_line() {
    let mut world = with_files(&["home/ada/first.env = A=1\nB=$(date)"], &[]);
    assert_eq!(
        world.error(),
        "cannot read the variables in \"first.env\" (--env-file): line 2: a command substitution needs a shell"
    );
    world.flags.env_file = vec!["none.env".into()];
    assert_eq!(
        world.error(),
        "cannot read the variables in \"none.env\" (--env-file): no such file or directory"
    );
    world.flags.env_file.clear();
    world.host = world.host.with_environment(&[("APPTAINER_ENV_FILE", "none.env")]);
    assert_eq!(
        world.error(),
        "cannot read the variables in \"none.env\" (APPTAINER_ENV_FILE): no such file or directory"
    );
}

#[test]
fn large_environments_and_arguments_pass() {
    // The kernel's bound for one string is 128 KiB.
    let large = "x".repeat(130_000);
    let many: Vec<(String, String)> = (0..3000).map(|n| (format!("V{n}"), "v".repeat(500))).collect();
    let given: Vec<String> = (0..20).map(|n| format!("SKIFFENV_G{n}")).collect();
    let mut host: Vec<(&str, &str)> =
        many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    host.extend(given.iter().map(|name| (name.as_str(), large.as_str())));
    let shell_script = ".singularity.d/env/90-environment.sh = export MADE=\"$(echo made)\"";
    for image in [&[BASE][..], &[BASE, shell_script]] {
        let mut world = environment(image, &host, &[]);
        world.words = vec![large.clone().into(); 20];
        let process = world.plan().unwrap().process;
        assert!(process.argv.iter().all(|word| word.len() <= 130_000), "{}", image.len());
        assert!(process.env.iter().map(|(_, value)| value.len()).sum::<usize>() > 4_000_000);
        assert_eq!(process.argv.iter().filter(|word| word.len() == large.len()).count(), 20);
    }
}

#[test]
fn an_image_without_a_shell_has_its_scripts_evaluated() {
    let script = ".singularity.d/env/90-environment.sh = if [ -d /opt/tool ]; then export TOOL=\"/opt/tool\"; fi\n\
        export A=\"${A:-plain}\"";
    let mut world =
        environment(&[script, BASE, APPS, "opt/tool/", "scif/apps/x/"], &[("B", "host")], &["C=$A"]);
    fs::remove_dir_all(world.image_files.path().join("bin")).unwrap();
    assert_eq!(world.plan().unwrap().process.argv, ["true"]);
    let values = ["TOOL", "A", "B", "C"].map(|name| world.value(name).unwrap_or_default());
    assert_eq!(values, ["/opt/tool", "plain", "host", "plain"]);
    world.flags.env = vec!["C=$(date)".into()];
    assert_eq!(
        world.error(),
        "cannot set the environment of image \"/images/a.sif\": it has no /bin/sh, and the value given for C \
         line 1: a command substitution needs one"
    );
    assert!(world.plan().unwrap_err().hint.unwrap().contains("--no-eval"));
}
