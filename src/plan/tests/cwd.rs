//! Where the program starts.

use super::*;

#[test]
fn the_working_directory_below_home_is_not_mounted_twice() {
    let world = world(&["home/ada/work/"], &[]).cwd("/home/ada/work");
    assert_eq!(world.mounts(), ["/home/ada"]);
    assert_eq!(world.starts(), ["/home/ada/work", "/home/ada", "/"]);
    assert_eq!(world.value("PWD").as_deref(), Some("/home/ada/work"));
}

#[test]
fn a_working_directory_elsewhere_is_mounted_but_never_over_the_system() {
    let other = world(&["scratch/ada/"], &[]).cwd("/scratch/ada");
    assert_eq!(other.mounts(), ["/home/ada", "/scratch/ada"]);
    assert_eq!(other.starts(), ["/scratch/ada", "/home/ada", "/"]);
    for cwd in ["/usr", "/etc", "/opt", "/", "/mnt", "/var", "/proc/1"] {
        let system = world(&["usr/", "opt/", "mnt/", "proc/1/"], &["usr/"]).cwd(cwd);
        assert_eq!(system.mounts(), ["/home/ada"], "{cwd}");
    }
    let only_here = world(&["opt/"], &[]).cwd("/opt");
    assert_eq!(only_here.starts(), ["/home/ada", "/"]);
    let shared = world(&["usr/"], &["usr/"]).cwd("/usr");
    assert_eq!(shared.starts(), ["/usr", "/home/ada", "/"]);
}

#[test]
fn who_starts_in_another_directory_than_the_callers_is_told() {
    let told = |world: &World| world.plan().unwrap().warnings.join("; ");
    let gone = world(&["opt/"], &[]).cwd("/opt");
    assert_eq!(told(&gone), "the container has no \"/opt\": the program starts in \"/home/ada\"");
    let mut asked = world(&["opt/"], &[]).cwd("/opt");
    asked.flags.cwd = Some("/home/ada".into());
    assert_eq!(told(&asked), "");
    let mut contained = world(&["opt/"], &[]).cwd("/opt");
    contained.flags.files.contain = true;
    assert_eq!(told(&contained), "");
    let mut removed = world(&[], &[]);
    removed.host.cwd = None;
    assert_eq!(told(&removed), "the working directory was removed: the program starts in \"/home/ada\"");
}

#[test]
fn a_working_directory_reached_by_a_link_keeps_its_name() {
    let world = world(&["work -> lustre/work", "lustre/work/a/"], &[]).cwd("/work/a");
    assert_eq!(world.mounts(), ["/home/ada", "/work/a"]);
    assert_eq!(world.value("PWD").as_deref(), Some("/work/a"));
}

#[test]
fn a_working_directory_behind_a_link_in_home_is_mounted_where_the_link_leads() {
    let world = world(&["data/x/", "home/ada/data -> ../../data"], &[]).cwd("/home/ada/data/x");
    assert_eq!(world.mounts(), ["/home/ada", "/data/x < /home/ada/data/x"]);
    assert_eq!(world.starts(), ["/home/ada/data/x", "/home/ada", "/"]);
}

#[test]
fn a_working_directory_that_links_to_the_system_is_not_mounted() {
    let world = world(&["here -> usr", "usr/"], &[]).cwd("/here");
    assert_eq!(world.mounts(), ["/home/ada"]);
}

#[test]
fn cwd_flag_must_lead_to_a_directory_of_the_container() {
    let mut world = world(&["data/in/"], &["srv/", "bin/sh"]).bind(&["/data"]);
    for (cwd, expected) in [
        ("/srv", Ok(vec!["/srv"])),
        ("/data/in", Ok(vec!["/data/in"])),
        ("/none", Err("cannot start in \"/none\" (--cwd): the container has no such directory")),
        ("/bin/sh", Err("cannot start in \"/bin/sh\" (--cwd): it is a file in the container")),
        ("srv", Ok(vec!["/srv"])),
        ("./data/in/", Ok(vec!["/data/in"])),
        ("none", Err("cannot start in \"/none\" (--cwd): the container has no such directory")),
    ] {
        world.flags.cwd = Some(PathBuf::from(cwd));
        match expected {
            Ok(starts) => assert_eq!(world.starts(), starts),
            Err(message) => assert_eq!(world.error(), message),
        }
    }
}
