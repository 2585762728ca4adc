//! Golden plans: what `--dry-run --json` says of each flag, on one made-up host and image, compared whole with
//! `tests/golden/NAME.json`. `others.txt` there holds what is answered to the flags that shape nothing.
//!
//! After a change that is meant: `SKIFF_GOLDEN=write cargo test golden`, and read the difference.
//!
//! A file has one line for each mount, variable and mount point, so that a difference is a line.

use std::collections::BTreeSet;

use clap::CommandFactory;
use serde_json::Value;

use super::*;
use crate::cli::other::{OTHERS, OtherFlags};
use crate::cli::run::RunArgs;
use crate::cli::{Cli, Verb};
use crate::host::subordinate::Subordinate;

/// What the made-up host has besides the usual.
const GOLDEN_HOST: &[&str] = &[
    "dev/full",
    "dev/mqueue/",
    "dev/null",
    "dev/shm/",
    "dev/random",
    "dev/tty",
    "dev/urandom",
    "dev/zero",
    "data/in/",
    "data/file = text",
    "data/variables = A=1\nexport B=\"$A and $HOME\"",
    "home/eve/",
    "overlay/lower/upper/",
    "overlay/upper/",
    "run/munge/",
    "tmp/slurm/pmix.7.2/",
    "var/spool/slurmd/",
    "work/",
];
/// What the made-up image has besides the usual.
const GOLDEN_IMAGE: &[&str] = &[
    "opt/",
    "usr/bin/",
    "bin/zsh",
    ".singularity.d/runscript",
    ".singularity.d/test",
    "scif/apps/solver/scif/runscript",
    "scif/apps/solver/scif/env/90-environment.sh = export SOLVER=on",
    ".singularity.d/env/90-environment.sh = export MODE=image",
];

/// A golden plan: its file's name, the command line without the program's name, the caller's variables.
struct Case {
    name: &'static str,
    line: &'static str,
    variables: &'static [(&'static str, &'static str)],
    /// The host has subordinate ids for the caller.
    subordinate: bool,
    /// The host has accelerators.
    accelerators: bool,
}

const fn case(name: &'static str, line: &'static str) -> Case {
    Case { name, line, variables: &[], subordinate: false, accelerators: false }
}

const fn by_variables(name: &'static str, variables: &'static [(&'static str, &'static str)]) -> Case {
    Case { variables, ..case(name, "exec a.sif true") }
}

const fn with_accelerators(name: &'static str, line: &'static str) -> Case {
    Case { accelerators: true, ..case(name, line) }
}

#[rustfmt::skip]
const CASES: &[Case] = &[
    case("exec",               "exec a.sif true"),
    case("run",                "run a.sif word"),
    case("shell",              "shell a.sif"),
    case("shell-flag",         "shell --shell /bin/zsh a.sif"),
    case("test",               "test a.sif word"),
    case("app",                "run --app solver a.sif word"),
    case("bind",               "exec --bind /data/in:/input:ro,/data/file:/etc/motd -B /data a.sif true"),
    case("mount",              "exec --mount type=bind,source=/data/in,destination=/srv/in,ro a.sif true"),
    case("home",               "exec --home /home/eve:/home/ada a.sif true"),
    case("no-home",            "exec --no-home --cwd / a.sif true"),
    case("cwd",                "exec --cwd /usr/bin a.sif true"),
    case("no-mount",           "exec --no-mount tmp,sys,bind-paths,/etc/passwd a.sif true"),
    case("contain",            "exec --contain a.sif true"),
    case("containall",         "exec --containall a.sif true"),
    case("contain-workdir",    "exec --contain --workdir /work --scratch /fast a.sif true"),
    case("scratch",            "exec --scratch /fast,/opt/fast a.sif true"),
    case("writable-tmpfs",     "exec --writable-tmpfs a.sif true"),
    case("overlay",            "exec --overlay /overlay a.sif true"),
    case("overlay-ro",         "exec --overlay /overlay/lower:ro --overlay /overlay a.sif true"),
    case("mpi",                "exec --mpi --contain a.sif true"),
    case("mpi-glibc",          "exec --mpi --mpi-glibc a.sif true"),
    case("writable",           "exec --writable sandbox true"),
    case("made-on-host",       "exec --bind /data/in:/tmp/job/in,/data/file:/home/ada/new/file --scratch /tmp/fast a.sif true"),
    case("dns",                "exec --dns 192.0.2.1,2001:db8::1 a.sif true"),
    case("compat",             "exec --compat a.sif true"),
    case("pid",                "exec --pid a.sif true"),
    case("no-init",            "exec --pid --no-init a.sif true"),
    case("no-pid",             "exec --containall --no-pid a.sif true"),
    case("ipc",                "exec --ipc a.sif true"),
    case("uts",                "exec --uts a.sif true"),
    case("hostname",           "exec --hostname boat a.sif true"),
    case("network-none",       "exec --net --network none a.sif true"),
    case("fakeroot",           "exec --fakeroot a.sif true"),
    case("fakeroot-written",   "exec --fakeroot --writable-tmpfs a.sif true"),
    Case { subordinate: true, ..case("subordinate-ids", "exec --fakeroot a.sif true") },
    Case { subordinate: true, ..case("ignore-subuid",   "exec --fakeroot --ignore-subuid a.sif true") },
    case("userns",             "exec --userns a.sif true"),
    case("no-umask",           "exec --no-umask a.sif true"),
    case("add-caps",           "exec --add-caps CAP_NET_RAW,sys_ptrace a.sif true"),
    case("drop-caps",          "exec --fakeroot --drop-caps CAP_CHOWN a.sif true"),
    case("no-privs",           "exec --fakeroot --no-privs a.sif true"),
    case("keep-privs",         "exec --fakeroot --keep-privs a.sif true"),
    Case { variables: &[("MODE", "host"), ("TERM", "vt100")],
           ..case("env",       "exec --env A=1,MODE=$HOME a.sif true") },
    Case { variables: &[("MODE", "host"), ("TERM", "vt100"), ("A", "host")],
           ..case("cleanenv",  "exec --cleanenv a.sif true") },
    case("env-file",           "exec --env-file /data/variables a.sif true"),
    Case { variables: &[("MODE", "host"), ("TERM", "vt100"), ("A", "host")],
           ..case("no-env",    "exec --no-env A,MODE a.sif true") },
    case("no-eval",            "exec --no-eval --env A=$HOME a.sif true"),
    with_accelerators("nv",          "exec --nv a.sif true"),
    Case { variables: &[("CUDA_VISIBLE_DEVICES", "1"), ("ROCR_VISIBLE_DEVICES", "0"), ("A", "host")],
           ..with_accelerators("nv-contained", "exec --nv --rocm --containall a.sif true") },
    with_accelerators("nvccli",      "exec --nvccli a.sif true"),
    with_accelerators("compat32",    "exec --nv --compat32 a.sif true"),
    with_accelerators("rocm",        "exec --rocm --contain a.sif true"),
    with_accelerators("intel",       "exec --intel --contain a.sif true"),
    with_accelerators("intel-hpu",   "exec --intel-hpu --contain a.sif true"),
    with_accelerators("device",      "exec --device nvidia.com/gpu=0 --contain a.sif true"),
    with_accelerators("cdi-dirs",    "exec --device nvidia.com/gpu=1 --cdi-dirs /etc/cdi a.sif true"),
    with_accelerators("containlibs", "exec --containlibs libOpenCL.so.1 a.sif true"),
    Case { variables: &[("SKIFF_NV", "1"), ("APPTAINER_ROCM", "1")],
           ..with_accelerators("no-nv", "exec --no-nv --no-rocm a.sif true") },
    by_variables("variables",  &[("SKIFF_BIND", "/data"), ("APPTAINER_CONTAIN", "1"), ("SINGULARITY_HOME", "/home/eve"),
                                 ("APPTAINER_PID", "true"), ("SKIFF_FAKEROOT", "0"), ("APPTAINERENV_A", "1")]),
    Case { variables: SRUN, ..case("slurm-contained", "exec --containall a.sif true") },
    Case { variables: SRUN, ..case("slurm-cleanenv",  "exec --cleanenv --no-env PMIX_* a.sif true") },
    by_variables("slurm",      &[("SLURM_JOB_ID", "7"), ("SLURM_STEP_ID", "2"), ("XDG_RUNTIME_DIR", "/run/user/1000")]),
];

/// What the first of four ranks finds that srun has started with PMIx.
const SRUN: &[(&str, &str)] = &[
    ("SLURM_JOB_ID", "7"),
    ("SLURM_STEP_ID", "2"),
    ("SLURM_PROCID", "0"),
    ("SLURM_STEP_NUM_TASKS", "4"),
    ("PMIX_RANK", "0"),
    ("PMIX_SECURITY_MODE", "munge,native"),
    ("PMIX_SERVER_TMPDIR", "/tmp/slurm/pmix.7.2/"),
    ("CUDA_VISIBLE_DEVICES", "1"),
    ("OTHER", "stays outside"),
];

/// Flags that shape no plan of their own.
const NO_GOLDEN: [&str; 10] = [
    "dry-run",
    "json",
    // They are over when the plan is made.
    "disable-cache",
    "no-https",
    "authfile",
    "docker-login",
    "docker-username",
    "docker-password",
    "docker-host",
    "library",
];

fn golden_world(case: &Case) -> World {
    let mut world = world(GOLDEN_HOST, GOLDEN_IMAGE);
    world.host = world.host.with_environment(case.variables);
    if case.line.contains("--mpi") {
        world = mpi::with_open_mpi(world);
    }
    if case.accelerators {
        gpu::furnish(&world);
    }
    if case.subordinate {
        let ranges = |first| vec![IdRange { first, count: 65_536 }, IdRange { first: 500_000, count: 10 }];
        let (newuidmap, newgidmap) = ("/usr/bin/newuidmap".into(), "/usr/bin/newgidmap".into());
        let found = Subordinate { uids: ranges(100_000), gids: ranges(200_000), newuidmap, newgidmap };
        world.host.subordinate = std::cell::OnceCell::from(Ok(found));
    }
    let line: Vec<OsString> =
        std::iter::once("skiff").chain(case.line.split_whitespace()).map(OsString::from).collect();
    let args = match Cli::of(&line).unwrap_or_else(|error| panic!("{}: {error}", case.line)).verb {
        Verb::Exec(args) => args,
        Verb::Run(args) => {
            world.action = Action::Run;
            args
        }
        Verb::Test(args) => {
            world.action = Action::Test;
            args
        }
        Verb::Shell(args) => {
            world.action = Action::Shell;
            world.shell = args.shell.as_ref().map(|_| "/bin/zsh");
            return golden_words(world, &args.run);
        }
        verb => panic!("{}: {verb:?}", case.line),
    };
    golden_words(world, &args)
}

fn golden_words(mut world: World, args: &RunArgs) -> World {
    world.flags = args.container.clone();
    world.words = args.words.command.clone();
    if args.words.image != Path::new("sandbox") {
        let path = HostPath("/images/a.sif".into());
        world.root = Some(Root::Image { path, offset: 32176, length: 4096 });
    }
    world
}

/// A plan as JSON with a line for each thing: objects are opened up to the third level, lists to one line an
/// element.
fn lines(plan: &RunPlan) -> String {
    let mut text = String::new();
    open(&serde_json::to_value(plan).unwrap(), 0, &mut text);
    text.push('\n');
    text
}

fn open(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth + 1);
    let (brackets, parts): (_, Vec<(String, &Value)>) = match value {
        Value::Object(fields) if depth < 3 && !fields.is_empty() => {
            (['{', '}'], fields.iter().map(|(name, value)| (format!("{name:?}: "), value)).collect())
        }
        Value::Array(elements) if depth < 3 && !elements.is_empty() => {
            (['[', ']'], elements.iter().map(|value| (String::new(), value)).collect())
        }
        _ => return text.push_str(&value.to_string()),
    };
    text.push(brackets[0]);
    for (number, (name, value)) in parts.iter().enumerate() {
        text.push_str(if number == 0 { "\n" } else { ",\n" });
        text.push_str(&indent);
        text.push_str(name);
        // An element of a list is one line.
        open(value, if name.is_empty() { 9 } else { depth + 1 }, text);
    }
    text.push('\n');
    text.push_str(&indent[2..]);
    text.push(brackets[1]);
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Compares with the file, or writes it. What differs, in words.
fn compare(name: &str, text: &str) -> Option<String> {
    let path = golden(name);
    if std::env::var_os("SKIFF_GOLDEN").is_some_and(|value| value == "write") {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        return None;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    if expected == text {
        return None;
    }
    let (old, new): (BTreeSet<_>, BTreeSet<_>) = (expected.lines().collect(), text.lines().collect());
    let gone = old.difference(&new).map(|line| format!("- {line}\n"));
    let come = new.difference(&old).map(|line| format!("+ {line}\n"));
    Some(format!("{name} (or the order of its lines):\n{}", gone.chain(come).collect::<String>()))
}

#[test]
fn golden_plans_are_those_of_the_flags() {
    let mut differences = Vec::new();
    for case in CASES {
        let plan = golden_world(case).plan();
        let plan = plan.unwrap_or_else(|error| panic!("{}: {error}", case.line));
        let text = lines(&plan);
        // The file is the plan, and not only made from it.
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap(),
            serde_json::to_value(&plan).unwrap(),
            "{}",
            case.name
        );
        differences.extend(compare(&format!("{}.json", case.name), &text));
    }
    assert!(differences.is_empty(), "{}\nmeant? SKIFF_GOLDEN=write", differences.join("\n"));
}

#[test]
fn every_flag_has_a_golden_plan() {
    let mut command = Cli::command();
    command.build();
    let exec = command.find_subcommand("exec").expect("a verb");
    let used: BTreeSet<&str> = CASES.iter().flat_map(|case| case.line.split(' ')).collect();
    for flag in exec.get_arguments().filter(|flag| !flag.is_global_set()) {
        let Some(long) = flag.get_long().filter(|long| !NO_GOLDEN.contains(long) && *long != "help") else {
            continue;
        };
        assert!(used.contains(format!("--{long}").as_str()), "no golden plan has --{long}");
    }
    let files =
        fs::read_dir(golden("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    for file in files.filter(|file| !file.ends_with(".txt")) {
        let known = CASES.iter().any(|case| file.strip_suffix(".json") == Some(case.name));
        assert!(known, "tests/golden/{file} is of no case");
    }
}

#[test]
fn golden_plans_as_a_person_reads_them() {
    for (name, line) in [
        ("explained.txt", "exec a.sif true"),
        (
            "explained-much.txt",
            "exec --overlay /overlay/lower:ro --overlay /overlay --containall --hostname boat --network none \
             --add-caps net_raw,sys_ptrace --no-umask --bind /data/in:/data/in/below:ro --dns 192.0.2.1 a.sif true",
        ),
    ] {
        let case = case(name, line);
        let plan = golden_world(&case).plan().unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(compare(name, &explain::explain(&plan)), None, "meant? SKIFF_GOLDEN=write");
    }
}

#[test]
fn variables_for_encrypted_images_say_nothing_to_plain_ones() {
    let mut world = world(&[], &[]);
    world.host = world.host.with_environment(&[
        ("APPTAINER_ENCRYPTION_PASSPHRASE", "x"),
        ("SINGULARITY_ENCRYPTION_PEM_PATH", "/home/ada/key.pem"),
    ]);
    assert_eq!(world.plan().unwrap().warnings, [""; 0]);
}

#[test]
fn golden_answers_are_those_of_the_flags_that_shape_nothing() {
    let host = &world(&[], &[]).host;
    let mut text = String::new();
    for other in OTHERS {
        let flags = OtherFlags { given: vec![other.name] };
        let answer = match answers::answer(&flags, host) {
            Ok(warnings) if warnings.is_empty() => "nothing".to_owned(),
            Ok(warnings) => format!("warning: {}", warnings.join("; ")),
            Err(error) => format!("error: {error}; hint: {}", error.hint.as_deref().unwrap_or("none")),
        };
        text.push_str(&format!("--{}: {answer}\n", other.name));
    }
    assert_eq!(compare("others.txt", &text), None, "meant? SKIFF_GOLDEN=write");
}
