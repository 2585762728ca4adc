//! `skiff push` and `skiff tag`: what is put into a registry is what others read there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use serde_json::Value;

use super::Setting;
use super::proxy::{Fault, Proxy, Tokens, What};
use super::server::{Registry, authority, digest, server_config, small_tree};
use crate::harness::{Need, Place, able, busybox_tree, collect, describe, finish};

/// What changes something at a registry.
fn changes(setting: &Setting) -> Vec<String> {
    let log = setting.proxy.log();
    log.into_iter()
        .filter(|line| ["POST", "PUT", "PATCH"].iter().any(|verb| line.starts_with(verb)))
        .collect()
}

/// A setting with the image `small.sif`.
fn setting(name: &str, faults: Vec<Fault>, tokens: Option<Tokens>) -> Option<Setting> {
    let setting = Setting::new(name, faults, tokens)?;
    setting.place.build("small.sif", &setting.place.work("tree"));
    Some(setting)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_sif_comes_back_as_it_was_and_the_second_time_nothing_is_sent() {
    let Some(setting) = setting("push-oras", vec![], None) else { return };
    let Setting { proxy, place, registry } = &setting;
    let target = format!("oras://{}/group/solver:2", proxy.address);
    let told = place.run(["push", "--annotation", "org.example.who=ada", "small.sif", &target]).ok();
    let manifest = registry.manifest("group/solver", "2");
    assert_eq!(told, format!("oras://{}/group/solver@{}\n", proxy.address, digest(manifest.as_bytes())));
    let said = json(&manifest);
    assert_eq!(said["annotations"]["org.example.who"], "ada");
    assert_eq!(said["config"]["mediaType"], "application/vnd.sylabs.sif.config.v1+json");
    assert_eq!(said["layers"][0]["mediaType"], "application/vnd.sylabs.sif.layer.v1.sif");
    assert_eq!(said["layers"][0]["annotations"]["org.opencontainers.image.title"], "small.sif");
    place.run(["pull", "back.sif", told.trim()]).ok();
    assert!(fs::read(place.work("small.sif")).unwrap() == fs::read(place.work("back.sif")).unwrap());
    proxy.clear();
    let again = place.run(["push", "--annotation", "org.example.who=ada", "small.sif", &target]);
    assert!(again.stderr.contains("all of it was there"), "{again:?}");
    assert_eq!(again.ok(), told);
    assert_eq!(changes(&setting), [""; 0]);
    // Another name for the same file is a manifest alone.
    place.run(["push", "small.sif", &target.replace(":2", ":3")]).ok();
    assert_eq!(changes(&setting), ["PUT /v2/group/solver/manifests/3 HTTP/1.1"]);
}

/// The files below a directory: path, mode, what they hold or lead to; without what images say of themselves.
fn listed(place: &Place, tree: &str) -> String {
    let script = "cd \"$1\"; find . -path ./.singularity.d -prune -o -printf '%p %y %m %l %T@\\n' | sort; \
                  find . -path ./.singularity.d -prune -o -type f -print | sort | xargs sha256sum";
    finish(place.command("sh").args(["-c", script, "sh", tree])).ok()
}

#[test]
fn what_is_pushed_for_docker_is_read_by_others_and_comes_back_as_an_equal_tree() {
    if !able(&[Need::Registry, Need::Busybox, Need::Userns, Need::Fuse]) {
        return;
    }
    let place = Place::new("push-docker");
    let registry = Registry::start(&place);
    busybox_tree(&place.work("tree"));
    fs::hard_link(place.work("tree/bin/busybox"), place.work("tree/usr/other")).unwrap();
    fs::set_permissions(place.work("tree/etc/hosts"), fs::Permissions::from_mode(0o640)).unwrap();
    let long = format!("tree/usr/{}", "long-".repeat(40));
    fs::write(place.work(&long), "a long name\n").unwrap();
    crate::harness::give(&place.work("tree"));
    place.write(
        "a.def",
        "Bootstrap: localimage\nFrom: tree\n\n%environment\n  export GREETING=\"good day\"\n  export PATH=/opt/bin:$PATH\n\n\
         %labels\n  Who ada\n\n%runscript\n  echo \"$GREETING, $*\"\n",
    );
    place.run(["build", "a.sif", "a.def"]).ok();
    assert_eq!(place.run(["run", "a.sif", "x", "y z"]).ok(), "good day, x y z\n");
    let target = format!("docker://{}/group/box:1", registry.address);
    let told = place.run(["push", "a.sif", &target]).ok();
    assert_eq!(place.run(["push", "a.sif", &target.replace(":1", ":2")]).ok(), told, "the same bytes");

    let run = |program: &str, words: &[&str]| finish(place.command(program).args(words)).ok();
    let insecure = ["--insecure-policy", "--override-os", "linux"];
    let inspect = [&insecure[..], &["inspect", "--tls-verify=false", "--config", &target]].concat();
    let config = json(&run("skopeo", &inspect));
    let ran = &config["config"];
    let variables: Vec<&str> = ran["Env"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
    assert!(variables.contains(&"GREETING=good day"), "{variables:?}");
    assert!(variables.iter().any(|v| v.starts_with("PATH=/opt/bin:/usr/local/sbin")), "{variables:?}");
    assert_eq!(ran["Labels"]["Who"], "ada");
    let entry = ran["Entrypoint"][0].as_str().unwrap();
    assert!(entry.starts_with("/.singularity.d/runscript-"), "{entry}");

    let copy =
        [&insecure[..], &["copy", "--quiet", "--src-tls-verify=false", &target, "oci:layout:it"]].concat();
    run("skopeo", &copy);
    run("umoci", &["unpack", "--rootless", "--image", "layout:it", "bundle"]);
    let script = fs::read_to_string(place.work(format!("bundle/rootfs{entry}"))).unwrap();
    assert!(script.contains("$GREETING, $*"), "{script}");

    place.run(["pull", "back.sif", &target]).ok();
    for (image, tree) in [("a.sif", "before"), ("back.sif", "after")] {
        place.run(["build", "--sandbox", tree, image]).ok();
    }
    let before = listed(&place, "before");
    assert!(before.contains("long-long-") && before.contains("./etc/hosts f 640"), "{before}");
    assert_eq!(before, listed(&place, "after"));
    // The runscript of an image that was pulled calls the entrypoint, which must not be itself.
    assert_eq!(place.run(["run", "back.sif", "x", "y z"]).ok(), "good day, x y z\n");
    // Once more, with the configuration that came along.
    let third = target.replace(":1", ":3");
    place.run(["push", "back.sif", &third]).ok();
    assert_eq!(place.run(["run", "--disable-cache", &third, "again"]).ok(), "good day, again\n");
}

#[test]
fn a_directory_is_packed_on_the_way() {
    let Some(setting) = Setting::new("push-directory", vec![], None) else { return };
    let Setting { place, proxy, registry } = &setting;
    fs::create_dir_all(place.work("tree/.singularity.d")).unwrap();
    fs::write(place.work("tree/.singularity.d/runscript"), "#!/bin/sh\necho here\n").unwrap();
    crate::harness::give(&place.work("tree"));
    let scratch = place.work("scratch");
    fs::create_dir(&scratch).unwrap();
    crate::harness::give(&scratch);
    let mut command = place.skiff(["push", "tree", &format!("docker://{}/tree:1", proxy.address)]);
    finish(command.env("SKIFF_TMPDIR", &scratch)).ok();
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
    let image = format!("docker://{}/tree:1", registry.address);
    place.run(["build", "--sandbox", "after", &image]).ok();
    // In the image there are some directories more, and no parts of seconds.
    let (before, after) = (listed(place, "tree"), listed(place, "after"));
    for line in before.lines() {
        let whole = if line.starts_with('.') { line.rsplit_once('.').unwrap().0 } else { line };
        assert!(after.lines().any(|other| other.starts_with(whole)), "{line} is not in\n{after}");
    }
    let words = ["--insecure-policy", "inspect", "--tls-verify=false", "--config", &image];
    let config = json(&finish(place.command("skopeo").args(words)).ok());
    let entry = config["config"]["Entrypoint"][0].as_str().unwrap();
    assert!(entry.starts_with("/.singularity.d/runscript-"), "{entry}");
    let mut command = place.skiff(["push", "tree", &image]);
    let error = finish(command.env("SKIFF_TMPDIR", "/none")).fails(255);
    assert!(error.contains("cannot write into \"/none\"") && error.contains("SKIFF_TMPDIR"), "{error}");
}

#[test]
fn the_configuration_that_came_along_goes_back() {
    let Some(setting) = Setting::new("push-config", vec![], None) else { return };
    let Setting { proxy, place, .. } = &setting;
    place.run(["pull", "a.sif", &setting.small()]).ok();
    let target = format!("docker://{}/again:1", proxy.address);
    place.run(["push", "a.sif", &target]).ok();
    let words = ["--insecure-policy", "inspect", "--tls-verify=false", "--config"];
    let config = |image: &str| json(&finish(place.command("skopeo").args(words).arg(image)).ok());
    let (before, after) = (config(&setting.small()), config(&target));
    assert_eq!(before["config"], after["config"]);
    assert_eq!(after["config"]["Env"].as_array().unwrap().last().unwrap(), "FROM_IMAGE=yes");
    assert_ne!(before["rootfs"], after["rootfs"]);
}

#[test]
fn an_image_gets_a_further_tag_without_being_fetched() {
    let Some(setting) = Setting::new("push-tag", vec![], None) else { return };
    let Setting { proxy, place, registry } = &setting;
    let told = place.run(["tag", &setting.small(), "stable"]).ok();
    let before = registry.manifest("small", "1");
    assert_eq!(told, format!("docker://{}/small@{}\n", proxy.address, digest(before.as_bytes())));
    assert_eq!(before, registry.manifest("small", "stable"));
    assert_eq!(proxy.count("/blobs/"), 0, "{:?}", proxy.log());
    place.run(["tag", told.trim(), "by-digest"]).ok();
    assert_eq!(before, registry.manifest("small", "by-digest"));
    let none = setting.small().replace(":1", ":none");
    assert!(place.run(["tag", &none, "x"]).fails(255).contains("there is no image"));
    assert!(place.run(["tag", &setting.small(), "a b"]).fails(255).contains("is no tag"));
}

#[test]
fn an_upload_that_is_cut_is_begun_anew_and_one_that_is_always_cut_leaves_no_name() {
    let cut = |times| Fault { when: "PUT /v2/group/a/blobs/uploads", times, what: What::CutUpload(1000) };
    let Some(setting) = setting("push-cut", vec![], None) else { return };
    let Setting { proxy, place, registry } = &setting;
    let target = format!("oras://{}/group/a:1", proxy.address);
    // The configuration is shorter than that.
    proxy.faults(vec![cut(u32::MAX)]);
    let error = place.run(["push", "small.sif", &target]).fails(255);
    assert!(error.contains("the connection was cut") && error.contains("not there yet"), "{error}");
    assert_eq!(proxy.count("/manifests/"), 0, "{:?}", proxy.log());
    proxy.faults(vec![cut(2)]);
    let said = place.run(["push", "small.sif", &target]);
    assert!(said.stderr.contains("once more"), "{said:?}");
    said.ok();
    place.run(["pull", "back.sif", &target.replace(&proxy.address, &registry.address)]).ok();
    assert!(fs::read(place.work("small.sif")).unwrap() == fs::read(place.work("back.sif")).unwrap());
}

#[test]
fn an_upload_goes_on_where_the_registry_has_got_to() {
    let Some(setting) = Setting::new("push-resume", vec![], None) else { return };
    let Setting { proxy, place, registry } = &setting;
    // Three pieces of 8 MiB and some more.
    let mut state = 1_u64;
    let noise: Vec<u8> = (0..26 << 20)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect();
    fs::write(place.work("tree/noise"), noise).unwrap();
    let sent = || -> Vec<String> {
        let log = proxy.log();
        let pieces = log.iter().filter(|line| line.starts_with("PATCH"));
        pieces.map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect()
    };
    let pieces = ["0-8388607", "8388608-16777215", "16777216-25165823"];
    let second_again = [pieces[0], pieces[1], pieces[1], pieces[2]];
    // The first attempt is lost as a whole; of the later pieces the second, on the way there, or the answer to it, after
    // which this registry knows nothing of the upload any more.
    for (name, lost, asked, words) in [
        ("one", None, &pieces[..], "once more"),
        ("two", Some(What::Swallow), &second_again, "going on after 8388608 bytes"),
        ("three", Some(What::Deaf), &[&pieces[..2], &pieces].concat(), "once more"),
    ] {
        place.write("other", name);
        fs::copy(place.work("other"), place.work("tree/other")).unwrap();
        place.run(["build", "--force", "big.sif", "tree"]).ok();
        let sif = fs::read(place.work("big.sif")).unwrap();
        let put: &'static str = Box::leak(format!("digest={}", digest(&sif)).into_boxed_str());
        let fault = |when, what| Fault { when, times: 1, what };
        proxy.faults(
            [fault(put, What::Swallow), fault("PATCH", What::Pass)]
                .into_iter()
                .chain(lost.map(|lost| fault("PATCH", lost)))
                .collect(),
        );
        proxy.clear();
        let target = format!("oras://{}/group/{name}:1", proxy.address);
        let said = place.run(["push", "big.sif", &target]);
        assert!(said.stderr.contains(words), "{said:?}");
        said.ok();
        assert_eq!(sent(), asked, "{:?}", proxy.log());
        place.run(["pull", "--force", "back.sif", &target.replace(&proxy.address, &registry.address)]).ok();
        assert!(sif == fs::read(place.work("back.sif")).unwrap());
    }
}

#[test]
fn where_an_upload_goes_may_be_relative_elsewhere_or_say_the_wrong_protocol() {
    let Some(setting) = setting("push-place", vec![], None) else { return };
    let Setting { place, .. } = &setting;
    let same = |address: &str| {
        place.run(["pull", "--force", "--disable-cache", "back.sif", &format!("oras://{address}/a:1")]).ok();
        assert!(fs::read(place.work("small.sif")).unwrap() == fs::read(place.work("back.sif")).unwrap());
    };
    // What the registry says by itself with this setting has no host.
    let relative = Registry::with(place, "  relativeurls: true\n");
    place.run(["push", "small.sif", &format!("oras://{}/a:1", relative.address)]).ok();
    same(&relative.address);
    // Another host, which is not told who the user is.
    let behind = Registry::start(place);
    let other = Proxy::start(&behind.address, vec![], None);
    let first = Proxy::start(
        &other.address,
        vec![Fault { when: "POST", times: u32::MAX, what: What::Elsewhere }],
        Some(Tokens::default()),
    );
    place.run(["push", "small.sif", &format!("oras://{}/a:1", first.address)]).ok();
    assert_eq!(first.count("PUT /v2/a/blobs"), 0, "{:?}", first.log());
    assert_eq!(other.count("PUT /v2/a/blobs"), 2, "{:?}", other.log());
    assert!(first.count("authorized") > 0 && other.count("authorized") == 0, "{:?}", other.log());
    same(&other.address);
    // One that does TLS for a registry which does not know that, and says http://.
    authority(place);
    let secure = Proxy::secure(&setting.registry.address, server_config(place));
    let mut command = place.skiff(["push", "small.sif", &format!("oras://{}/a:1", secure.address)]);
    finish(command.env("SKIFF_CA_FILE", place.work("ca.pem"))).ok();
    assert_eq!(secure.count("PUT /v2/a/blobs"), 2, "{:?}", secure.log());
    same(&setting.registry.address);
}

#[test]
fn an_answer_that_is_lost_is_no_reason_to_send_all_again() {
    let deaf = Fault { when: "PUT /v2/group/a/blobs/uploads", times: 2, what: What::Deaf };
    let busy = Fault { when: "POST /v2/group/a/blobs/uploads", times: 1, what: What::Status(503, "") };
    let Some(setting) = setting("push-deaf", vec![deaf, busy], None) else { return };
    let Setting { proxy, place, .. } = &setting;
    place.run(["push", "small.sif", &format!("oras://{}/group/a:1", proxy.address)]).ok();
    assert_eq!(proxy.count("PUT /v2/group/a/blobs"), 2, "{:?}", proxy.log());
}

#[test]
fn who_may_not_write_is_told_so() {
    // ada:secret
    let tokens = Tokens { password: "YWRhOnNlY3JldA==", ..Tokens::default() };
    let Some(setting) = setting("push-login", vec![], Some(tokens)) else { return };
    let Setting { proxy, place, .. } = &setting;
    let target = format!("docker://{}/group/a:1", proxy.address);
    let push = |password: &str| {
        let mut command = place.skiff(["push", "small.sif", &target]);
        finish(command.env("SKIFF_DOCKER_USERNAME", "ada").env("SKIFF_DOCKER_PASSWORD", password))
    };
    assert!(place.run(["push", "small.sif", &target]).fails(255).contains("registry login"));
    assert!(push("wrong").fails(255).contains("wrong"));
    assert_eq!(changes(&setting), [""; 0]);
    push("secret").ok();
    assert!(proxy.count("scope=repository:group/a:pull%2Cpush") > 0, "{:?}", proxy.log());
    proxy.faults(vec![Fault { when: "POST", times: u32::MAX, what: What::Status(403, "") }]);
    place.build("other.sif", &small_tree(place, "other"));
    let mut command = place.skiff(["push", "other.sif", &target.replace("docker:", "oras:")]);
    let said = finish(command.env("SKIFF_DOCKER_USERNAME", "ada").env("SKIFF_DOCKER_PASSWORD", "secret"));
    let error = said.fails(255);
    assert!(error.contains("no leave to push") && error.contains("may write"), "{error}");
}

#[test]
fn a_registry_for_reading_alone_says_so() {
    if !able(&[Need::Registry]) {
        return;
    }
    let place = Place::new("push-readonly");
    let registry = Registry::read_only(&place);
    place.build("small.sif", &small_tree(&place, "tree"));
    let error = place.run(["push", "small.sif", &format!("oras://{}/a:1", registry.address)]).fails(255);
    assert!(error.contains("takes nothing") && error.contains("405"), "{error}");
}

#[test]
fn what_cannot_be_pushed_is_told_before_anything_is_sent() {
    let Some(setting) = setting("push-not", vec![], None) else { return };
    let Setting { proxy, place, .. } = &setting;
    let fails = |words: &[&str]| place.run([&["push"], words].concat()).fails(255);
    let oras = format!("oras://{}/a:1", proxy.address);
    assert!(fails(&["tree", &oras]).contains("it is none"));
    assert!(fails(&["none.sif", &oras]).contains("no such file"));
    assert!(fails(&["small.sif", "library://a/b/c"]).contains("not a place"));
    assert!(fails(&["--annotation", "x", "small.sif", &oras]).contains("KEY=VALUE"));
    let digest = format!("{oras}@sha256:{}", "0".repeat(64));
    assert!(fails(&["small.sif", &digest]).contains("name a tag"));
    assert_eq!(proxy.log(), [""; 0]);
}

#[test]
fn who_stops_it_leaves_no_file() {
    let hold = Fault { when: "POST", times: u32::MAX, what: What::Status(429, "Retry-After: 300\r\n") };
    let Some(setting) = setting("push-stop", vec![hold], None) else { return };
    let Setting { proxy, place, .. } = &setting;
    let scratch = place.work("scratch");
    fs::create_dir(&scratch).unwrap();
    crate::harness::give(&scratch);
    let mut command = place.skiff(["push", "small.sif", &format!("docker://{}/a:1", proxy.address)]);
    command.env("SKIFF_TMPDIR", &scratch).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (text, child) = (describe(&command), command.spawn().unwrap());
    while proxy.count("POST") == 0 {
        std::thread::yield_now();
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::SIGINT).unwrap();
    assert!(!collect(child, text).status.success());
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
}
