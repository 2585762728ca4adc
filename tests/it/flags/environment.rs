//! --cleanenv, --env, --no-eval, and the variables that set variables.

use super::*;
use crate::harness::able;

/// The container's variables.
fn variables(place: &Place, flags: &[&str], host: &[(&str, &str)]) -> BTreeMap<String, String> {
    let printed = finish(Who::User.command(place, flags, "env").envs(host.iter().copied())).ok();
    let pairs = printed.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_hosts_variables_come_in_unless_they_are_left_out() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-cleanenv");
    place.busybox_image();
    let host =
        [("HOSTS_OWN", "x"), ("TERM", "vt100"), ("http_proxy", "http://p:1"), ("LD_LIBRARY_PATH", "/host")];
    let open = variables(&place, &[], &host);
    let is = |all: &BTreeMap<String, String>, name: &str| all.get(name).cloned();
    assert_eq!(is(&open, "HOSTS_OWN").as_deref(), Some("x"));
    assert_eq!((is(&open, "LANG").as_deref(), is(&open, "LD_LIBRARY_PATH")), (Some("C.UTF-8"), None));
    let cleaned = |all: &BTreeMap<String, String>| {
        assert_eq!(is(all, "HOSTS_OWN"), None);
        assert_eq!(is(all, "TERM").as_deref(), Some("vt100"));
        assert_eq!(is(all, "http_proxy").as_deref(), Some("http://p:1"));
        assert_eq!(is(all, "LANG").as_deref(), Some("C"));
    };
    for flags in [["--cleanenv"], ["-e"]] {
        cleaned(&variables(&place, &flags, &host));
    }
    cleaned(&variables(&place, &["--cleanenv=true"], &host));
    // A switch that is turned off beats its variable.
    let asked = [&host[..], &[("SKIFF_CLEANENV", "1"), ("APPTAINER_CLEANENV", "1")]].concat();
    for flags in [&["--cleanenv=false"][..], &["-e", "--cleanenv=0"], &["-e=F"]] {
        let all = variables(&place, flags, &asked);
        assert_eq!(is(&all, "HOSTS_OWN").as_deref(), Some("x"), "{flags:?}");
    }
    assert!(refused(&place, &["--cleanenv=maybe"]).contains("true or false is expected"));
    for variable in ["SKIFF_CLEANENV", "APPTAINER_CLEANENV", "SINGULARITY_CLEANENV"] {
        cleaned(&variables(&place, &[], &[&host[..], &[(variable, "1")]].concat()));
        for off in ["0", "no", "False", "f", "OFF"] {
            let all = variables(&place, &[], &[&host[..], &[(variable, off)]].concat());
            assert_eq!(is(&all, "HOSTS_OWN").as_deref(), Some("x"), "{variable}={off}");
        }
    }
}

#[test]
fn values_of_env_are_evaluated_unless_they_are_to_be_literal() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-env");
    place.busybox_image();
    let flags = ["--env", "A=$HOME,B=1,2,C=${NONE:-else}", "--env", "D=a b"];
    let pick = |all: &BTreeMap<String, String>| ["A", "B", "C", "D"].map(|name| all[name].clone());
    let evaluated = variables(&place, &flags, &[]);
    assert_eq!(pick(&evaluated), [evaluated["HOME"].as_str(), "1,2", "else", "a b"]);
    let literal = ["$HOME", "1,2", "${NONE:-else}", "a b"];
    assert_eq!(pick(&variables(&place, &[&["--no-eval"], &flags[..]].concat(), &[])), literal);
    for variable in ["SKIFF_NO_EVAL", "APPTAINER_NO_EVAL", "SINGULARITY_NO_EVAL"] {
        assert_eq!(pick(&variables(&place, &flags, &[(variable, "true")])), literal, "{variable}");
    }
    assert!(refused(&place, &["--env", "no-name"]).contains("not NAME=VALUE"));
}

#[test]
fn variables_with_a_prefix_set_variables_inside() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-envs");
    place.busybox_image();
    let host = [
        ("A", "host"),
        ("SINGULARITYENV_A", "3"),
        ("SINGULARITYENV_B", "3"),
        ("SINGULARITYENV_C", "3"),
        ("APPTAINERENV_A", "2"),
        ("APPTAINERENV_B", "2"),
        ("SKIFFENV_A", "1"),
        ("SKIFFENV_PREPEND_PATH", "/first"),
        ("APPTAINERENV_APPEND_PATH", "/last"),
    ];
    for flags in [&[][..], &["--cleanenv"], &["--containall"]] {
        let all = variables(&place, flags, &host);
        assert_eq!(["A", "B", "C"].map(|name| all[name].as_str()), ["1", "2", "3"], "{flags:?}");
        assert_eq!(all["PATH"], "/first:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/last");
    }
    assert_eq!(variables(&place, &["--env", "A=0"], &host)["A"], "0");
    assert_eq!(variables(&place, &[], &[("APPTAINERENV_PATH", "/bin:/only")])["PATH"], "/bin:/only");
}

#[test]
fn a_container_says_which_one_it_is() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("flags-names");
    let image = place.busybox_image();
    let all = variables(&place, &["--cleanenv"], &[]);
    for family in ["SKIFF", "APPTAINER", "SINGULARITY"] {
        let value = |name: &str| all[&format!("{family}_{name}")].as_str();
        assert_eq!(value("CONTAINER"), image.to_str().expect("text"));
        assert_eq!((value("NAME"), value("COMMAND")), ("busybox.sif", "exec"));
    }
}
