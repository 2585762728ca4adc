//! `skiff pull` and its kin, when everything goes well.

use std::fs;
use std::process::Stdio;

use super::Setting;
use super::proxy::{Fault, What};
use super::server::{Registry, digest, request, small_tree};
use crate::harness::{Need, Place, able, busybox_tree, collect, describe, finish, skiff_binary};

#[test]
fn an_image_is_pulled_into_a_file_that_is_named_after_it() {
    let Some(Setting { proxy, place, registry }) = Setting::new("pull-name", vec![], None) else { return };
    let image = format!("docker://{}/small:1", proxy.address);
    let said = place.run(["pull", &image]);
    assert!(said.stderr.contains("small_1.sif"), "{said:?}");
    said.ok();
    place.run(["sif", "list", "small_1.sif"]).ok();
    assert!(place.run(["pull", &image]).fails(255).contains("exists"));
    let before = fs::read(place.work("small_1.sif")).unwrap();
    place.run(["pull", "--force", &image]).ok();
    assert!(before == fs::read(place.work("small_1.sif")).unwrap(), "the second is the first's copy");
    place.run(["pull", "--dir", "/var/tmp", "x.sif", "docker://127.0.0.1:1/none"]).fails(255);
    assert_eq!(proxy.count("/blobs/"), 2, "config and layer, once: {:?}", proxy.log());
    drop(registry);
}

#[test]
fn the_second_time_one_question_is_asked_and_of_a_digest_none() {
    let Some(setting) = Setting::new("pull-again", vec![], None) else { return };
    let Setting { proxy, place, registry } = &setting;
    place.run(["pull", "a.sif", &setting.small()]).ok();
    proxy.clear();
    place.run(["pull", "b.sif", &setting.small()]).ok();
    assert_eq!(proxy.log().len(), 1, "{:?}", proxy.log());
    assert!(proxy.log()[0].starts_with("HEAD /v2/small/manifests/1"), "{:?}", proxy.log());
    proxy.clear();
    let digest = digest(registry.manifest("small", "1").as_bytes());
    place.run(["pull", "c.sif", &format!("docker://{}/small@{digest}", proxy.address)]).ok();
    assert_eq!(proxy.log(), [""; 0]);
}

#[test]
fn a_registry_that_is_away_is_done_without() {
    let Some(setting) = Setting::new("pull-away", vec![], None) else { return };
    let Setting { place, registry, .. } = setting;
    let image = format!("docker://{}/small:1", registry.address);
    place.run(["pull", "a.sif", &image]).ok();
    drop(registry);
    let said = place.run(["pull", "b.sif", &image]);
    assert!(said.stderr.contains("using what"), "{said:?}");
    said.ok();
    let said = place.run(["pull", "--disable-cache", "c.sif", &image]).fails(255);
    assert!(said.contains("connection refused"), "{said}");
}

#[test]
fn an_index_leads_to_the_image_of_the_processor() {
    let Some(setting) = Setting::new("pull-index", vec![], None) else { return };
    let Setting { place, registry, .. } = &setting;
    let small = registry.manifest("small", "1");
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let entry = |arch: &str, text: &str| {
        format!(
            r#"{{"mediaType":"{kind}","digest":"{}","size":{},"platform":{{"os":"linux","architecture":"{arch}"}}}}"#,
            digest(text.as_bytes()),
            text.len()
        )
    };
    let index = "application/vnd.oci.image.index.v1+json";
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{index}","manifests":[{},{}]}}"#,
        entry("riscv64", &small),
        entry("s390x", &small)
    );
    registry.put_manifest("small", "all", index, &text);
    let image = format!("docker://{}/small:all", registry.address);
    let error = place.run(["pull", "a.sif", &image]).fails(255);
    assert!(error.contains("no image for linux/") && error.contains("linux/riscv64, linux/s390x"), "{error}");
    place.run(["pull", "--arch", "s390x", "a.sif", &image]).ok();
    // Of several variants the one that is asked for.
    registry.put_tree(place, "small:2", &small_tree(place, "other"));
    let second = registry.manifest("small", "2");
    assert_ne!(small, second);
    let variant = |name: &str, text: &str| {
        entry("arm", text).replace(r#""arm""#, &format!(r#""arm","variant":"{name}""#))
    };
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{index}","manifests":[{},{}]}}"#,
        variant("v6", &small),
        variant("v7", &second)
    );
    registry.put_manifest("small", "variants", index, &text);
    let image = format!("docker://{}/small:variants", setting.proxy.address);
    for (name, wanted) in [("v6", &small), ("v7", &second)] {
        setting.proxy.clear();
        let words =
            ["pull", "--disable-cache", "--force", "--arch", "arm", "--arch-variant", name, "b.sif", &image];
        place.run(words).ok();
        let asked = format!("GET /v2/small/manifests/{}", digest(wanted.as_bytes()));
        assert_eq!(setting.proxy.count(&asked), 1, "{:?}", setting.proxy.log());
    }
}

#[test]
fn manifests_and_lists_of_dockers_own_kind_are_read() {
    let Some(setting) = Setting::new("pull-docker", vec![], None) else { return };
    let Setting { place, registry, .. } = &setting;
    let [from, to] = ["1", "docker"].map(|tag| format!("docker://{}/small:{tag}", registry.address));
    let words = ["--insecure-policy", "copy", "--quiet", "--format", "v2s2", "--src-tls-verify=false"];
    finish(place.command("skopeo").args(words).args(["--dest-tls-verify=false", &from, &to])).ok();
    let kind = "application/vnd.docker.distribution.manifest.v2+json";
    let head = format!("GET /v2/small/manifests/docker HTTP/1.1\r\nAccept: {kind}\r\n");
    let (status, _, manifest) = request(&registry.address, &head, b"");
    let text = String::from_utf8(manifest.clone()).unwrap();
    assert!(status == 200 && text.contains(kind) && text.contains("rootfs.diff.tar.gzip"), "{text}");
    place.run(["pull", "a.sif", &to]).ok();
    let list = "application/vnd.docker.distribution.manifest.list.v2+json";
    let entry = format!(
        r#"{{"mediaType":"{kind}","digest":"{}","size":{},"platform":{{"os":"linux","architecture":"s390x"}}}}"#,
        digest(&manifest),
        manifest.len()
    );
    let text = format!(r#"{{"schemaVersion":2,"mediaType":"{list}","manifests":[{entry}]}}"#);
    registry.put_manifest("small", "list", list, &text);
    let image = format!("docker://{}/small:list", registry.address);
    place.run(["pull", "--disable-cache", "--arch", "s390x", "b.sif", &image]).ok();
    place.run(["build", "--sandbox", "box", "b.sif"]).ok();
    let noise = |tree: &str| fs::read(place.work(tree).join("usr/share/noise")).unwrap();
    assert!(noise("box") == noise("tree"));
}

#[test]
fn layers_come_several_at_a_time_and_a_terminal_shows_each() {
    let Some(setting) = Setting::new("pull-layers", vec![], None) else { return };
    let Setting { place, registry, proxy } = &setting;
    let layer = |name: &str| -> (String, &'static str) {
        fs::create_dir(place.work(name)).unwrap();
        fs::write(place.work(name).join(name), name).unwrap();
        finish(place.command("tar").args(["-cf", "layer.tar", name])).ok();
        let bytes = fs::read(place.work("layer.tar")).unwrap();
        let digest: &'static str = Box::leak(digest(&bytes).into_boxed_str());
        (registry.put_blob("small", "application/vnd.oci.image.layer.v1.tar", &bytes), digest)
    };
    let (first, second) = (layer("first"), layer("second"));
    let diff_ids = format!(r#"["{}","{}"]"#, first.1, second.1);
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":{diff_ids}}}}}"#
    );
    let config = registry.put_blob("small", "application/vnd.oci.image.config.v1+json", config.as_bytes());
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{kind}","config":{config},"layers":[{},{}]}}"#,
        first.0, second.0
    );
    registry.put_manifest("small", "two", kind, &text);
    // Each comes when the other is asked for, too.
    let until = |when, other| Fault { when, times: 1, what: What::Until(other) };
    let slow = Fault { when: first.1, times: 1, what: What::Status(429, "Retry-After: 1\r\n") };
    proxy.faults(vec![until(first.1, second.1), until(second.1, first.1)]);
    let image = format!("docker://{}/small:two", proxy.address);
    place.run(["pull", "a.sif", &image]).ok();
    place.run(["build", "--sandbox", "box", "a.sif"]).ok();
    assert_eq!(fs::read_to_string(place.work("box/second/second")).unwrap(), "second");
    proxy.faults(vec![slow]);
    let line = format!("{} pull --disable-cache b.sif {image}", skiff_binary().display());
    let mut command = place.command("script");
    let shown = finish(command.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm")).ok();
    let short = |digest: &str| digest["sha256:".len()..][..12].to_owned();
    for words in [short(first.1), short(second.1), "in all".to_owned()] {
        assert!(shown.contains(&words), "{words}: {shown:?}");
    }
}

#[test]
fn a_sif_of_a_registry_is_itself() {
    if !able(&[Need::Registry, Need::Busybox, Need::Userns, Need::Fuse]) {
        return;
    }
    let place = Place::new("pull-oras");
    let registry = Registry::start(&place);
    busybox_tree(&place.work("tree"));
    let sif = fs::read(place.build("made.sif", &place.work("tree"))).unwrap();
    registry.put_sif("group/solver:2", &sif);
    let image = format!("oras://{}/group/solver:2", registry.address);
    place.run(["pull", &image]).ok();
    assert!(sif == fs::read(place.work("solver_2.sif")).unwrap());
    assert_eq!(place.run(["exec", &image, "echo", "in it"]).ok(), "in it\n");
    let docker = format!("docker://{}/group/solver:2", registry.address);
    assert_eq!(place.run(["exec", &docker, "echo", "also"]).ok(), "also\n");
    assert!(place.run(["inspect", &image]).ok().contains("usage.skiff.version"));
    assert_eq!(place.run(["exec", "--disable-cache", &image, "echo", "loose"]).ok(), "loose\n");
    place.write(
        "a.def",
        format!(
            "Bootstrap: oras\nFrom: group/solver:2\nRegistry: {}\n\n%post\n  echo made >/made\n",
            registry.address
        ),
    );
    place.run(["build", "b.sif", "a.def"]).ok();
    assert_eq!(place.run(["exec", "b.sif", "cat", "/made"]).ok(), "made\n");
    place.run(["build", "--sandbox", "box", &image]).ok();
    assert!(place.work("box/bin/busybox").exists());
}

#[test]
fn an_image_of_layers_is_run_built_from_and_unpacked() {
    if !able(&[Need::Registry, Need::Busybox, Need::Userns, Need::Fuse]) {
        return;
    }
    let place = Place::new("pull-run");
    let registry = Registry::start(&place);
    busybox_tree(&place.work("tree"));
    registry.put_tree(&place, "group/box:1", &place.work("tree"));
    let image = format!("docker://{}/group/box:1", registry.address);
    for flags in [&[][..], &[], &["--disable-cache"]] {
        let words = [&["exec"], flags, &[&image, "sh", "-c", "echo $FROM_IMAGE"]].concat();
        assert_eq!(place.run(words).ok(), "yes\n", "{flags:?}");
    }
    assert!(place.run(["inspect", "--deffile", &image]).ok().contains("bootstrap: docker"));
    place.run(["build", "--compression", "gzip", "small.sif", &image]).ok();
    assert_eq!(place.run(["exec", "small.sif", "echo", "gzip"]).ok(), "gzip\n");
    place.run(["build", "same.sif", &image]).ok();
    assert_eq!(place.run(["exec", "same.sif", "echo", "zstd"]).ok(), "zstd\n");
    place.run(["build", "--sandbox", "box", &image]).ok();
    assert!(place.work("box/bin/busybox").exists());
    let registry = &registry.address;
    let text = format!(
        "Bootstrap: docker\nRegistry: {registry}\nNamespace: group\nFrom: box:1\n\n%post\n  echo $FROM_IMAGE >/made\n"
    );
    place.write("a.def", text);
    place.run(["build", "made.sif", "a.def"]).ok();
    assert_eq!(place.run(["exec", "made.sif", "cat", "/made"]).ok(), "yes\n");
    let again = place.run(["build", "--force", "made.sif", "a.def"]);
    assert!(again.stderr.contains("from the cache"), "{again:?}");
    again.ok();
}

#[test]
fn a_hundred_want_the_same_and_one_fetches_it() {
    let Some(setting) = Setting::new("pull-hundred", vec![], None) else { return };
    let Setting { proxy, place, .. } = &setting;
    let image = setting.small();
    let children: Vec<_> = (0..100)
        .map(|number| {
            let mut command = place.skiff(["pull", &format!("{number}.sif"), &image]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            (describe(&command), command.spawn().unwrap())
        })
        .collect();
    for (text, child) in children {
        collect(child, text).ok();
    }
    assert_eq!(proxy.count("/blobs/"), 2, "config and layer, once");
    let first = fs::read(place.work("0.sif")).unwrap();
    assert!((1..100).all(|number| first == fs::read(place.work(format!("{number}.sif"))).unwrap()));
}

#[test]
fn mirrors_are_asked_first() {
    let Some(setting) = Setting::new("pull-mirror", vec![], None) else { return };
    let Setting { proxy, place, .. } = &setting;
    let conf = format!(
        "[[registry]]\nprefix = 'far.example.org/group'\n[[registry.mirror]]\nlocation = '{}'\n",
        proxy.address
    );
    let conf = place.write("registries.conf", conf);
    let mut command = place.skiff(["pull", "docker://far.example.org/group/small:1"]);
    finish(command.env("CONTAINERS_REGISTRIES_CONF", conf)).ok();
    assert!(proxy.count("/v2/small/blobs/") > 0);
}

#[test]
fn the_server_of_these_tests_answers() {
    let Some(setting) = Setting::new("pull-self", vec![], None) else { return };
    let (status, ..) = request(&setting.proxy.address, "GET /v2/ HTTP/1.1\r\n", b"");
    assert_eq!(status, 200);
    assert_eq!(setting.layers().len(), 1);
}
