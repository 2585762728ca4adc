//! What features bring in: where it goes, what beats it, and that nothing is left in a sandbox.

use super::super::inject::Place;
use super::*;

const HOST_FILES: &[&str] = &[
    "opt/mpi/lib/libmpi.so.40",
    "opt/mpi/lib/libopal.so.40",
    "opt/mpi/plugins/",
    "home/ada/mpi/plugin.so",
    "dev/infiniband/",
    "dev/null",
];
const IMAGE_FILES: &[&str] = &[
    "usr/lib/libmpi.so.40 -> libmpi.so.40.1",
    "usr/lib/libmpi.so.40.1",
    ".singularity.d/libs/",
    ".singularity.d/env/99-base.sh = export LD_LIBRARY_PATH=/.singularity.d/libs",
];

fn injection() -> Injection {
    let because = Because::Flag("--mpi".into());
    let mut injection = Injection::default();
    injection.add("/opt/mpi/lib/libopal.so.40", Place::Library("libopal.so.40".into()), &because);
    injection.add("/opt/mpi/lib/libmpi.so.40", Place::Over("/usr/lib/libmpi.so.40".into()), &because);
    injection.add("/opt/mpi/plugins", Place::Same, &because);
    injection.add("/home/ada/mpi/plugin.so", Place::Same, &because);
    injection.add("/dev/infiniband", Place::Device, &because);
    injection.set("OPAL_PREFIX", "/opt/$mpi");
    injection.leave_out("libucp.so.0", "it needs GLIBC_2.38 of libc.so.6", &because);
    injection
}

fn variable<'a>(plan: &'a RunPlan, name: &str) -> Option<&'a str> {
    let found = plan.process.env.iter().find(|(one, _)| one == name);
    found.map(|(_, value)| value.to_str().unwrap())
}

fn brought(plan: &RunPlan) -> Vec<String> {
    let of_flag = plan.mounts.iter().filter(|mount| mount.because == Because::Flag("--mpi".into()));
    of_flag
        .map(|mount| match &mount.what {
            MountKind::Bind { source, read_only } => {
                format!(
                    "{} < {}{}",
                    mount.target.0.display(),
                    source.0.display(),
                    if *read_only { "" } else { " rw" }
                )
            }
            other => format!("{} {other:?}", mount.target.0.display()),
        })
        .collect()
}

#[test]
fn each_file_goes_to_its_place_and_the_rest_is_told() {
    let world = world(HOST_FILES, IMAGE_FILES);
    let plan = world.plan_with(&injection()).unwrap();
    assert_eq!(
        brought(&plan),
        [
            "/.singularity.d/libs Tmpfs { mode: 493, holds: [Held { path: \"libopal.so.40\", kind: File, mode: 420 }] }",
            "/.singularity.d/libs/libopal.so.40 < /opt/mpi/lib/libopal.so.40",
            // The link is followed: whoever opens the file by its real name gets it, too.
            "/usr/lib/libmpi.so.40.1 < /opt/mpi/lib/libmpi.so.40",
            "/opt/mpi/plugins < /opt/mpi/plugins",
            // The home directory has the plugin already, and the host's /dev the device.
        ]
    );
    assert_eq!(variable(&plan, "OPAL_PREFIX"), Some("/opt/$mpi"));
    assert_eq!(variable(&plan, "LD_LIBRARY_PATH"), Some("/.singularity.d/libs"));
    let text = explain::explain(&plan);
    assert!(text.contains("left out\n  libucp.so.0: it needs GLIBC_2.38 of libc.so.6 (--mpi)\n"), "{text}");
    let points: Vec<_> = plan.mount_points.iter().map(|point| point.path.0.to_str().unwrap()).collect();
    assert_eq!(points.iter().filter(|point| point.contains("singularity")).count(), 0, "{points:?}");
}

#[test]
fn an_image_without_scripts_gets_the_directory_on_its_search_path() {
    let plain = world(HOST_FILES, &["usr/lib/libmpi.so.40"]);
    let plan = plain.plan_with(&injection()).unwrap();
    assert_eq!(variable(&plan, "LD_LIBRARY_PATH"), Some("/.singularity.d/libs"));
    let mut given = world(HOST_FILES, &["usr/lib/libmpi.so.40"]);
    given.flags.env = vec!["OPAL_PREFIX=/mine".into(), "LD_LIBRARY_PATH=/own".into()];
    let plan = given.plan_with(&injection()).unwrap();
    assert_eq!(variable(&plan, "OPAL_PREFIX"), Some("/mine"));
    let path = variable(&plan, "LD_LIBRARY_PATH").unwrap();
    assert!(path.starts_with("/own:/.singularity.d/libs"), "{path}");
    let without = plain.plan_with(&Injection::default()).unwrap();
    assert_eq!(variable(&without, "LD_LIBRARY_PATH"), None);
}

#[test]
fn a_contained_dev_gets_the_devices() {
    let mut contained = world(HOST_FILES, IMAGE_FILES);
    contained.flags.files.contain = true;
    let plan = contained.plan_with(&injection()).unwrap();
    assert!(
        brought(&plan).contains(&"/dev/infiniband < /dev/infiniband rw".to_owned()),
        "{:?}",
        brought(&plan)
    );
    // An empty home: the plugin is brought in.
    assert!(
        brought(&plan).contains(&"/home/ada/mpi/plugin.so < /home/ada/mpi/plugin.so".to_owned()),
        "{:?}",
        brought(&plan)
    );
}

#[test]
fn a_bind_that_is_asked_for_beats_what_is_brought_in() {
    let world = world(HOST_FILES, IMAGE_FILES).bind(&["/opt/mpi/lib/libopal.so.40:/usr/lib/libmpi.so.40"]);
    let plan = world.plan_with(&injection()).unwrap();
    let over: Vec<_> =
        plan.mounts.iter().filter(|mount| mount.target.0 == Path::new("/usr/lib/libmpi.so.40.1")).collect();
    assert_eq!(over.len(), 1);
    assert!(matches!(&over[0].because, Because::Flag(flag) if flag.starts_with("--bind")), "{over:?}");
}
