//! What networks and registries do to those who fetch from them.

use std::fs;

use super::Setting;
use super::proxy::{Fault, Tokens, What};
use crate::harness::finish;

fn blobs(times: u32, what: What) -> Fault {
    Fault { when: "/blobs/", times, what }
}

#[test]
fn a_cut_transfer_goes_on_where_it_was_cut() {
    let cut = blobs(u32::MAX, What::Cut(300_000));
    let Some(setting) = Setting::new("fault-cut", vec![cut], None) else { return };
    let Setting { proxy, place, .. } = &setting;
    place.run(["pull", "a.sif", &setting.small()]).ok();
    assert!(proxy.count("bytes=300000-") == 1 && proxy.count("bytes=600000-") == 1, "{:?}", proxy.log());
}

#[test]
fn what_an_interrupted_pull_has_fetched_is_not_fetched_again() {
    let cut = Fault { when: "/blobs/", times: u32::MAX, what: What::Cut(0) };
    let Some(setting) = Setting::new("fault-again", vec![], None) else { return };
    let Setting { proxy, place, .. } = &setting;
    let layer = setting.layers()[0].clone();
    let layer: &'static str = Box::leak(layer.into_boxed_str());
    proxy.faults(vec![
        Fault { when: layer, times: 1, what: What::Cut(500_000) },
        Fault { when: layer, ..cut },
    ]);
    let error = place.run(["pull", "a.sif", &setting.small()]).fails(255);
    assert!(error.contains("cut again and again") && error.contains("goes on from there"), "{error}");
    assert!(!place.work("a.sif").exists());
    proxy.faults(vec![]);
    proxy.clear();
    place.run(["pull", "a.sif", &setting.small()]).ok();
    assert_eq!(proxy.count("/blobs/"), 1, "{:?}", proxy.log());
    assert_eq!(proxy.count("bytes=500000-"), 1, "{:?}", proxy.log());
}

#[test]
fn a_registry_that_wants_patience_gets_it() {
    let faults = vec![
        Fault { when: "/manifests/", times: 2, what: What::Status(429, "Retry-After: 1\r\n") },
        blobs(1, What::Status(503, "")),
    ];
    let Some(setting) = Setting::new("fault-429", faults, None) else { return };
    let Setting { proxy, place, .. } = &setting;
    let said = place.run(["pull", "a.sif", &setting.small()]);
    assert!(said.stderr.contains("asks to wait 1 s"), "{said:?}");
    said.ok();
    assert_eq!(proxy.count("HEAD"), 3, "{:?}", proxy.log());
}

#[test]
fn patience_until_a_date_is_by_the_servers_clock() {
    let until = "Date: Sun, 06 Nov 1994 08:49:35 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let fault = Fault { when: "/manifests/", times: 1, what: What::Status(429, until) };
    let Some(setting) = Setting::new("fault-date", vec![fault], None) else { return };
    let started = std::time::Instant::now();
    let said = setting.place.run(["pull", "a.sif", &setting.small()]);
    assert!(said.stderr.contains("asks to wait 2 s"), "{said:?}");
    said.ok();
    assert!(started.elapsed().as_secs() >= 2);
}

#[test]
fn a_registry_that_never_has_time_is_an_error_that_says_so() {
    let faults = vec![Fault {
        when: "/manifests/",
        times: u32::MAX,
        what: What::Status(429, "Retry-After: 9999\r\n"),
    }];
    let Some(setting) = Setting::new("fault-busy", faults, None) else { return };
    let error = setting.place.run(["pull", "a.sif", &setting.small()]).fails(255);
    assert!(error.contains("allows no more requests now") && error.contains("registry login"), "{error}");
}

#[test]
fn bytes_that_are_not_those_of_the_digest_are_refused() {
    let Some(setting) = Setting::new("fault-lie", vec![blobs(u32::MAX, What::Lie)], None) else { return };
    let Setting { proxy, place, .. } = &setting;
    let error = place.run(["pull", "a.sif", &setting.small()]).fails(255);
    assert!(error.contains("has the digest"), "{error}");
    assert!(!place.work("a.sif").exists());
    let kept = fs::read_dir(place.home().join(".cache/skiff/fetched/blobs")).unwrap().count();
    assert_eq!(kept, 1, "the manifest alone");
    proxy.faults(vec![Fault { when: "/manifests/sha256", times: u32::MAX, what: What::Lie }]);
    let error = place.run(["pull", "--disable-cache", "a.sif", &setting.small()]);
    assert!(error.status.success(), "a tag is asked for by itself there: {error:?}");
    let digest = super::server::digest(setting.registry.manifest("small", "1").as_bytes());
    let image = format!("docker://{}/small@{digest}", proxy.address);
    let error = place.run(["pull", "--disable-cache", "b.sif", &image]).fails(255);
    assert!(error.contains("should be"), "{error}");
}

#[test]
fn a_manifest_of_which_half_comes_is_asked_for_again() {
    let half = Fault { when: "GET /v2/small/manifests", times: 2, what: What::Half };
    let Some(setting) = Setting::new("fault-half", vec![half], None) else { return };
    setting.place.run(["pull", "a.sif", &setting.small()]).ok();
    assert_eq!(setting.proxy.count("GET /v2/small/manifests"), 3, "{:?}", setting.proxy.log());
}

#[test]
fn a_token_that_has_run_out_is_got_anew() {
    let tokens = Tokens { expired: 1, ..Tokens::default() };
    let Some(setting) = Setting::new("fault-token", vec![], Some(tokens)) else { return };
    setting.place.run(["pull", "a.sif", &setting.small()]).ok();
    assert_eq!(setting.proxy.count("/token?"), 2, "{:?}", setting.proxy.log());
    assert_eq!(setting.proxy.count("scope=repository:small:pull"), 2, "{:?}", setting.proxy.log());
}

#[test]
fn tokens_that_never_count_are_an_error() {
    let tokens = Tokens { expired: u32::MAX, ..Tokens::default() };
    let Some(setting) = Setting::new("fault-tokens", vec![], Some(tokens)) else { return };
    let error = setting.place.run(["pull", "a.sif", &setting.small()]).fails(255);
    assert!(error.contains("no leave to fetch"), "{error}");
}

#[test]
fn who_logs_in_is_let_in() {
    // ada:secret
    let tokens = Tokens { password: "YWRhOnNlY3JldA==", ..Tokens::default() };
    let Some(setting) = Setting::new("fault-login", vec![], Some(tokens)) else { return };
    let Setting { proxy, place, .. } = &setting;
    let error = place.run(["pull", "a.sif", &setting.small()]).fails(255);
    assert!(error.contains("401"), "{error}");
    let login = |password: &str| {
        let file = place.write("password", format!("{password}\n"));
        let mut command =
            place.skiff(["registry", "login", "--username", "ada", "--password-stdin", &proxy.address]);
        command.stdin(fs::File::open(file).unwrap());
        finish(&mut command)
    };
    assert!(login("wrong").fails(255).contains("wrong"));
    login("secret").ok();
    place.run(["pull", "a.sif", &setting.small()]).ok();
    assert_eq!(place.run(["registry", "list"]).ok(), format!("{}\tada\n", proxy.address));
    place.run(["registry", "logout", &proxy.address]).ok();
    assert_eq!(place.run(["registry", "list"]).ok(), "");
    assert!(place.run(["registry", "logout", &proxy.address]).fails(255).contains("nothing is kept"));
    let mut command = place.skiff(["pull", "--disable-cache", "b.sif", &setting.small()]);
    command.env("SKIFF_DOCKER_USERNAME", "ada").env("APPTAINER_DOCKER_PASSWORD", "secret");
    finish(&mut command).ok();
}
