//! Who the user is: helpers that Docker's file names, identity tokens, and tokens that run out meanwhile.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::Setting;
use super::proxy::Tokens;
use super::server::{Registry, small_tree};
use crate::harness::{Need, Output, Place, able, finish, give};

/// `ada:secret`
const PASSWORD: &str = "YWRhOnNlY3JldA==";

/// Pulls with a Docker configuration, and with what is in `bin` first on the path.
fn pull(setting: &Setting, config: &str) -> Output {
    let place = &setting.place;
    fs::create_dir_all(place.work("docker")).unwrap();
    fs::write(place.work("docker/config.json"), config).unwrap();
    give(&place.work("docker"));
    let mut command = place.skiff(["pull", "--force", "--disable-cache", "a.sif", &setting.small()]);
    let path = format!("{}:/usr/bin:/bin", place.work("bin").display());
    finish(command.env("DOCKER_CONFIG", place.work("docker")).env("PATH", path))
}

/// Makes `docker-credential-NAME` of a script.
fn helper(setting: &Setting, name: &str, script: &str) {
    let place = &setting.place;
    fs::create_dir_all(place.work("bin")).unwrap();
    let path = place.work("bin").join(format!("docker-credential-{name}"));
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    give(&place.work("bin"));
}

#[test]
fn helpers_that_are_named_know_passwords() {
    let tokens = Tokens { password: PASSWORD, ..Tokens::default() };
    let Some(setting) = Setting::new("login-helper", vec![], Some(tokens)) else { return };
    let host = &setting.proxy.address;
    let script = format!(
        "read asked; echo \"$1 $asked\" >>asked; [ \"$asked\" = {host} ] || \
         {{ echo 'credentials not found in native keychain'; exit 1; }}\n\
         echo '{{\"ServerURL\":\"{host}\",\"Username\":\"ada\",\"Secret\":\"secret\"}}'"
    );
    helper(&setting, "kept", &script);
    let of_one = format!(r#"{{"credHelpers": {{"{host}": "kept"}}}}"#);
    pull(&setting, &of_one).ok();
    let asked = fs::read_to_string(setting.place.work("asked")).unwrap();
    assert_eq!(asked.lines().last().unwrap(), format!("get {host}"), "{asked}");
    pull(&setting, r#"{"credsStore": "kept"}"#).ok();
    assert!(setting.proxy.count("GET /token") >= 2 && setting.proxy.count("authorized") >= 8);
    // One that does not know the registry: nobody is known.
    helper(&setting, "kept", "cat >/dev/null; echo 'credentials not found in native keychain'; exit 1");
    let error = pull(&setting, &of_one).fails(255);
    assert!(error.contains("wants a name and a password"), "{error}");
    helper(&setting, "kept", "cat >/dev/null; echo 'the keychain is locked' >&2; exit 3");
    let error = pull(&setting, &of_one).fails(255);
    assert!(error.contains("docker-credential-kept failed: the keychain is locked"), "{error}");
    helper(&setting, "kept", "cat >/dev/null; echo nonsense");
    let error = pull(&setting, &of_one).fails(255);
    assert!(error.contains("cannot read the credentials in"), "{error}");
    let error = pull(&setting, &of_one.replace("kept", "none")).fails(255);
    assert!(error.contains("cannot be run") && error.contains("registry login"), "{error}");
}

#[test]
fn a_registry_that_wants_names_and_passwords_themselves_gets_them() {
    if !able(&[Need::Registry]) {
        return;
    }
    let place = Place::new("login-basic");
    // "secret", as bcrypt has it.
    place.write("htpasswd", "ada:$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n");
    let auth = format!("auth:\n  htpasswd: {{realm: here, path: {}}}\n", place.work("htpasswd").display());
    let registry = Registry::with(&place, &auth);
    place.build("small.sif", &small_tree(&place, "tree"));
    let target = format!("oras://{}/a:1", registry.address);
    let push = || place.run(["push", "small.sif", &target]);
    assert!(push().fails(255).contains("registry login"));
    // What Podman and its like keep.
    let skopeo = ["login", "--tls-verify=false", "-u", "ada", "-p", "secret", &registry.address];
    finish(place.command("skopeo").args(skopeo)).ok();
    push().ok();
    fs::remove_dir_all(place.runtime().join("containers")).unwrap();
    assert!(push().fails(255).contains("registry login"));
    let login = |password: &str| {
        let file = place.write("password", password);
        let words = ["registry", "login", "--username", "ada", "--password-stdin", &registry.address];
        finish(place.skiff(words).stdin(fs::File::open(file).unwrap()))
    };
    assert!(login("wrong").fails(255).contains("does not take"));
    login("secret\n").ok();
    let kept = fs::metadata(place.home().join(".config/skiff/auth.json")).unwrap();
    assert_eq!(kept.permissions().mode() & 0o777, 0o600);
    place.run(["pull", "back.sif", &target]).ok();
    assert!(fs::read(place.work("small.sif")).unwrap() == fs::read(place.work("back.sif")).unwrap());
    place.run(["registry", "logout", &registry.address]).ok();
    let error = place.run(["pull", "--disable-cache", "c.sif", &target]).fails(255);
    assert!(error.contains("no leave to fetch"), "{error}");
}

#[test]
fn an_identity_token_is_changed_for_a_token() {
    let tokens = Tokens { identity: "refresh-me", ..Tokens::default() };
    let Some(setting) = Setting::new("login-identity", vec![], Some(tokens)) else { return };
    let host = &setting.proxy.address;
    let config =
        |token: &str| format!(r#"{{"auths": {{"{host}": {{"auth": "", "identitytoken": "{token}"}}}}}}"#);
    pull(&setting, &config("refresh-me")).ok();
    assert!(setting.proxy.count("POST /token") == 1 && setting.proxy.count("GET /token") == 0);
    assert_eq!(setting.proxy.count("scope=repository:small:pull"), 1, "{:?}", setting.proxy.log());
    // What a helper says of one.
    helper(&setting, "kept", "cat >/dev/null; echo '{\"Username\":\"<token>\",\"Secret\":\"refresh-me\"}'");
    pull(&setting, r#"{"credsStore": "kept"}"#).ok();
    let error = pull(&setting, &config("run-out")).fails(255);
    assert!(error.contains("identity token") && error.contains("log in again"), "{error}");
    assert!(!error.contains("run-out"), "{error}");
}

#[test]
fn tokens_that_run_out_on_the_way_are_got_anew() {
    let tokens = Tokens { uses: 2, password: PASSWORD, ..Tokens::default() };
    let Some(setting) = Setting::new("login-uses", vec![], Some(tokens)) else { return };
    let config = format!(r#"{{"auths": {{"{}": {{"auth": "{PASSWORD}"}}}}}}"#, setting.proxy.address);
    pull(&setting, &config).ok();
    assert!(setting.proxy.count("/token?") >= 2, "{:?}", setting.proxy.log());
}
