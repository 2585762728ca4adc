//! Images that are in no registry: web servers, libraries, a Docker, archives; and registries with TLS.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::server::{Registry, authority, digest, small_tree, tls};
use crate::harness::{Need, Place, able, busybox_tree, finish};

/// What a small server answers to a path: headers, body.
type Pages = BTreeMap<String, (String, Vec<u8>)>;

/// Answers one request.
fn answer(stream: impl Read + Write, pages: &Pages, log: &Mutex<Vec<String>>) {
    let mut stream = BufReader::new(stream);
    let mut first = String::new();
    if stream.read_line(&mut first).is_err() {
        return;
    }
    let mut line = String::new();
    while stream.read_line(&mut line).is_ok_and(|length| length > 2) {
        line.clear();
    }
    log.lock().unwrap().push(first.trim_end().to_owned());
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let text = match pages.get(path) {
        Some((headers, body)) => {
            let mut text =
                format!("HTTP/1.1 {}Content-Length: {}\r\nConnection: close\r\n\r\n", headers, body.len())
                    .into_bytes();
            if method != "HEAD" {
                text.extend(body);
            }
            text
        }
        None => b"HTTP/1.1 404 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec(),
    };
    // Who went away is none of the server's business.
    let _gone = stream.get_mut().write_all(&text);
}

/// Starts a web server; its thread waits for connections until the test's process ends.
fn serve(pages: Pages) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let log = Arc::new(Mutex::new(Vec::new()));
    let written = Arc::clone(&log);
    std::thread::spawn(move || {
        listener.incoming().flatten().for_each(|stream| answer(stream, &pages, &written));
    });
    (address, log)
}

/// An image with busybox in it, as bytes.
fn busybox_sif(place: &Place) -> Vec<u8> {
    fs::read(place.busybox_image()).expect("the image can be read")
}

#[test]
fn a_file_of_a_web_server_is_kept_as_long_as_the_server_says_it_is_the_same() {
    if !able(&[Need::Busybox, Need::Userns, Need::Fuse]) {
        return;
    }
    let place = Place::new("other-web");
    let sif = busybox_sif(&place);
    let page = ("200 OK\r\nETag: \"one\"\r\n".to_owned(), sif.clone());
    let plain = ("200 OK\r\n".to_owned(), b"<html>".to_vec());
    let moved = ("302 X\r\nLocation: /a.sif\r\n".to_owned(), Vec::new());
    let pages = [("/a.sif", page), ("/page", plain), ("/moved.sif", moved)];
    let (address, log) = serve(pages.map(|(path, page)| (path.to_owned(), page)).into());
    for _ in 0..2 {
        let said = place.run(["exec", &format!("http://{address}/a.sif"), "echo", "here"]);
        assert_eq!(said.ok(), "here\n");
    }
    assert_eq!(
        *log.lock().unwrap(),
        ["HEAD", "GET", "HEAD"].map(|method| format!("{method} /a.sif HTTP/1.1"))
    );
    place.run(["pull", &format!("http://{address}/moved.sif")]).ok();
    assert!(sif == fs::read(place.work("moved.sif")).unwrap());
    let error = place.run(["pull", "b.sif", &format!("http://{address}/page")]).fails(255);
    assert!(error.contains("is no image"), "{error}");
    assert!(!place.work("b.sif").exists());
    let error = place.run(["pull", "b.sif", &format!("http://{address}/none")]).fails(255);
    assert!(error.contains("no such file"), "{error}");
    let error = place.run(["pull", "b.sif", "http://far.example.org/a.sif"]).fails(255);
    assert!(error.contains("plain HTTP") && error.contains("--no-https"), "{error}");
}

#[test]
fn a_library_is_asked_for_the_sum_and_then_for_the_file() {
    if !able(&[Need::Busybox, Need::Userns, Need::Fuse]) {
        return;
    }
    let place = Place::new("other-library");
    let sif = busybox_sif(&place);
    let sum = digest(&sif).replace("sha256:", "sha256.");
    let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let about = format!(r#"{{"data": {{"hash": "{sum}", "size": {}, "arch": "{arch}"}}}}"#, sif.len());
    let lie = about.replace(&sum, &format!("sha256.{}", "0".repeat(64)));
    let ok = |body: &[u8]| ("200 OK\r\n".to_owned(), body.to_vec());
    let pages = [
        (format!("/v1/images/lab/tools/box:1?arch={arch}"), ok(about.as_bytes())),
        (
            format!("/v1/imagefile/lab/tools/box:1?arch={arch}"),
            ("303 X\r\nLocation: /file\r\n".into(), vec![]),
        ),
        ("/file".to_owned(), ok(&sif)),
        (format!("/v1/images/lab/tools/lie:1?arch={arch}"), ok(lie.as_bytes())),
        (format!("/v1/imagefile/lab/tools/lie:1?arch={arch}"), ok(&sif)),
    ];
    let (address, log) = serve(pages.into());
    let image = format!("library://{address}/lab/tools/box:1");
    assert_eq!(place.run(["exec", &image, "echo", "lent"]).ok(), "lent\n");
    log.lock().unwrap().clear();
    let mut command =
        place.skiff(["pull", "--library", &format!("http://{address}"), "library://lab/tools/box:1"]);
    finish(&mut command).ok();
    assert!(sif == fs::read(place.work("box_1.sif")).unwrap());
    assert_eq!(log.lock().unwrap().len(), 1, "the file is in the cache");
    let error = place.run(["pull", &format!("library://{address}/lab/tools/lie:1")]).fails(255);
    assert!(error.contains("has the digest"), "{error}");
    let error = place.run(["pull", &format!("library://{address}/lab/tools/none:1")]).fails(255);
    assert!(error.contains("there is no library image"), "{error}");
    let error = place.run(["pull", "library://alpine"]).fails(255);
    assert!(error.contains("no library is named"), "{error}");
}

/// An archive as `docker save` writes it, of a tree.
fn saved(place: &Place, tree: &Path) -> Vec<u8> {
    let run = |program: &str, words: &[&str]| {
        finish(place.command(program).args(words)).ok();
    };
    let layout = place.work("saved-layout").display().to_string();
    let (layer, archive) = (place.work("saved-layer.tar"), place.work("saved.tar"));
    let (layer, archive) = (layer.display().to_string(), archive.display().to_string());
    run("tar", &["-C", &tree.display().to_string(), "-cf", &layer, "."]);
    run("umoci", &["init", "--layout", &layout]);
    run("umoci", &["new", "--image", &format!("{layout}:it")]);
    run("umoci", &["raw", "add-layer", "--image", &format!("{layout}:it"), &layer]);
    let target = format!("docker-archive:{archive}:lab/box:1");
    run("skopeo", &["--insecure-policy", "copy", "--quiet", &format!("oci:{layout}:it"), &target]);
    fs::read(place.work("saved.tar")).expect("the archive can be read")
}

#[test]
fn whatever_takes_an_image_takes_one_of_elsewhere() {
    if !able(&[Need::Registry, Need::Busybox, Need::Userns, Need::Fuse]) {
        return;
    }
    let place = Place::new("other-verbs");
    busybox_tree(&place.work("tree"));
    saved(&place, &place.work("tree"));
    for verb in ["exec", "run", "shell", "test"] {
        let words: &[&str] = match verb {
            "exec" => &["echo", "hello"],
            "shell" => &["-c", "echo hello"],
            _ => &[],
        };
        let said = place.run([&[verb, "oci:saved-layout:it"], words].concat());
        assert!(said.status.success() && (words.is_empty() || said.stdout == "hello\n"), "{verb}: {said:?}");
    }
    for verb in [&["inspect"][..], &["sbom"], &["gpu"], &["mpi"]] {
        let said = place.run([verb, &["oci:saved-layout:it"]].concat());
        assert!(!said.stderr.contains("no such file"), "{verb:?}: {said:?}");
    }
    // Definitions have an agent for each.
    for (agent, from) in [
        ("oci", "saved-layout:it"),
        ("oci-archive", "saved.oci:it"),
        ("docker-archive", "saved.tar:lab/box:1"),
    ] {
        if agent == "oci-archive" {
            let words =
                ["--insecure-policy", "copy", "--quiet", "oci:saved-layout:it", "oci-archive:saved.oci:it"];
            finish(place.command("skopeo").args(words)).ok();
        }
        place.write("b.def", format!("Bootstrap: {agent}\nFrom: {from}\n\n%post\n  echo {agent} >/made\n"));
        place.run(["build", "--force", "b.sif", "b.def"]).ok();
        assert_eq!(place.run(["exec", "b.sif", "cat", "/made"]).ok(), format!("{agent}\n"));
    }
}

#[test]
fn archives_layouts_and_a_docker_are_run_from() {
    if !able(&[Need::Registry, Need::Busybox, Need::Userns, Need::Fuse]) {
        return;
    }
    let place = Place::new("other-docker");
    busybox_tree(&place.work("tree"));
    let archive = saved(&place, &place.work("tree"));
    for image in ["docker-archive:saved.tar", "docker-archive:saved.tar:lab/box:1", "oci:saved-layout:it"] {
        assert_eq!(place.run(["exec", image, "echo", "local"]).ok(), "local\n", "{image}");
    }
    // Names of files are bytes.
    let odd = |before: &[u8], after: &[u8]| OsString::from_vec([before, b"odd\xff", after].concat());
    finish(place.command("cp").args(["-r".into(), "saved-layout".into(), odd(b"", b"")])).ok();
    let image = odd(b"oci:", b":it");
    assert_eq!(place.run([&OsString::from("exec"), &image, &"echo".into(), &"odd".into()]).ok(), "odd\n");
    for verb in [&["build", "built.sif"][..], &["pull", "pulled.sif"], &["build", "--sandbox", "odd-box"]] {
        place.run(verb.iter().map(OsString::from).chain([image.clone()])).ok();
    }
    assert_eq!(place.run(["exec", "built.sif", "echo", "built"]).ok(), "built\n");
    assert!(place.work("odd-box/bin/busybox").exists() && place.work("pulled.sif").exists());
    place.run([OsString::from("pull"), odd(b"", b".sif"), "oci:saved-layout:it".into()]).ok();
    assert!(place.work(odd(b"", b".sif")).exists());
    // One that is compressed as a whole is decompressed where the user wants it.
    finish(place.command("gzip").args(["-k", "saved.tar"])).ok();
    let mut command = place.skiff(["pull", "--disable-cache", "zipped.sif", "docker-archive:saved.tar.gz"]);
    let error = finish(command.env("SKIFF_TMPDIR", "/none")).fails(255);
    assert!(error.contains("cannot write into \"/none\""), "{error}");
    place.run(["pull", "--disable-cache", "zipped.sif", "docker-archive:saved.tar.gz"]).ok();
    place.run(["pull", "docker-archive:saved.tar"]).ok();
    assert!(place.work("saved.sif").exists());
    place.write("a.def", "Bootstrap: docker-archive\nFrom: saved.tar\n\n%post\n  echo made >/made\n");
    place.run(["build", "b.sif", "a.def"]).ok();
    assert_eq!(place.run(["exec", "b.sif", "cat", "/made"]).ok(), "made\n");
    let socket = place.work("docker.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    crate::harness::give(&socket);
    let page = ("200 OK\r\n".to_owned(), archive);
    let pages: Pages = [("/images/get?names=lab/box:1".to_owned(), page)].into();
    std::thread::spawn(move || {
        let log = Mutex::new(Vec::new());
        listener.incoming().flatten().for_each(|stream| answer(stream, &pages, &log));
    });
    let run = |words: &[&str]| {
        let mut command = place.skiff(words);
        finish(command.env("DOCKER_HOST", format!("unix://{}", socket.display())))
    };
    assert_eq!(run(&["exec", "docker-daemon:lab/box:1", "echo", "lent"]).ok(), "lent\n");
    let error = run(&["exec", "docker-daemon:lab/none:1", "true"]).fails(255);
    assert!(error.contains("404"), "{error}");
    let error = place.run(["exec", "--docker-host", "unix:///nowhere", "docker-daemon:a", "true"]).fails(255);
    assert!(error.contains("no such file") && error.contains("DOCKER_HOST"), "{error}");
}

#[test]
fn an_authority_that_is_named_is_trusted() {
    if !able(&[Need::Registry]) {
        return;
    }
    let place = Place::new("other-tls");
    authority(&place);
    let plain = Registry::start(&place);
    plain.put_tree(&place, "small:1", &small_tree(&place, "tree"));
    let data = place.work(format!("registry-{}", plain.address.replace(':', "-")));
    drop(plain);
    let secure = Registry::with(&place, &tls(&place));
    // The same data under the second one's name.
    let there = place.work(format!("registry-{}", secure.address.replace(':', "-")));
    fs::rename(data, there).expect("the data can be moved");
    let image = format!("docker://{}/small:1", secure.address.replace("127.0.0.1", "localhost"));
    let error = place.run(["pull", "a.sif", &image]).fails(255);
    assert!(error.contains("SKIFF_CA_FILE"), "{error}");
    let mut command = place.skiff(["pull", "a.sif", &image]);
    finish(command.env("SKIFF_CA_FILE", place.work("ca.pem"))).ok();
}
