//! Proxies of the site: tinyproxy, which writes down whom it was asked for, and microsocks.
//!
//! This machine's own servers are asked without one, so the registry is called `0.0.0.0` here, which leads to them too
//! and does not look like it.

use std::fs;
use std::process::{Child, Stdio};

use super::Setting;
use super::proxy::Proxy;
use super::server::{authority, free_port, server_config, wait_for};
use crate::harness::{Need, Output, Place, able, finish};

/// A started tinyproxy; it ends when this is dropped.
struct Tiny<'p> {
    child: Child,
    address: String,
    place: &'p Place,
}

impl Drop for Tiny<'_> {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl<'p> Tiny<'p> {
    fn start(place: &'p Place, more: &str) -> Self {
        let port = free_port();
        let log = place.work(format!("log-{port}")).display().to_string();
        let text = format!(
            "Port {port}\nListen 127.0.0.1\nAllow 127.0.0.1\nTimeout 60\nLogFile \"{log}\"\nLogLevel Info\n{more}\n"
        );
        let config = place.write(&format!("tinyproxy-{port}.conf"), text);
        let mut command = place.command("tinyproxy");
        command.arg("-d").arg("-c").arg(config).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("tinyproxy runs");
        let address = format!("127.0.0.1:{port}");
        wait_for(&address);
        Self { child, address, place }
    }

    /// How often it was asked for a server.
    fn asked_for(&self, server: &str) -> usize {
        let port = self.address.rsplit(':').next().expect("a port");
        let log = fs::read_to_string(self.place.work(format!("log-{port}"))).expect("a log");
        log.matches(&format!("CONNECT {server} HTTP")).count()
    }
}

#[test]
fn an_image_is_pulled_by_the_proxy_that_is_named_and_by_none_where_that_is_said() {
    if !able(&[Need::Tinyproxy]) {
        return;
    }
    let Some(setting) = Setting::new("outside-tls", vec![], None) else { return };
    let Setting { place, registry, .. } = &setting;
    authority(place);
    let secure = Proxy::secure(&registry.address, server_config(place));
    let server = secure.address.replace("localhost", "0.0.0.0");
    let tiny = Tiny::start(place, "");
    let pull = |variables: &[(&str, &str)]| -> Output {
        let image = format!("docker://{server}/small:1");
        let mut command = place.skiff(["pull", "--force", "--disable-cache", "a.sif", &image]);
        finish(command.env("SKIFF_CA_FILE", place.work("ca.pem")).envs(variables.iter().copied()))
    };
    let named = format!("http://{}", tiny.address);
    pull(&[("HTTPS_PROXY", &named)]).ok();
    let by_it = tiny.asked_for(&server);
    assert!(by_it > 0);
    for variables in [
        &[("HTTPS_PROXY", named.as_str()), ("NO_PROXY", "h.org, 0.0.0.0")][..],
        &[("https_proxy", &named), ("no_proxy", "0.0.0.0/8")],
        // It is for plain HTTP.
        &[("HTTP_PROXY", &named)],
        &[],
    ] {
        pull(variables).ok();
        assert_eq!(tiny.asked_for(&server), by_it, "{variables:?}");
    }
    pull(&[("all_proxy", &tiny.address), ("NO_PROXY", "h.org")]).ok();
    assert!(tiny.asked_for(&server) > by_it);
    assert!(secure.count("/blobs/") >= 12, "all came from there: {:?}", secure.log());
}

#[test]
fn an_image_is_pulled_by_a_proxy_for_socks() {
    if !able(&[Need::Microsocks]) {
        return;
    }
    let Some(setting) = Setting::new("outside-socks", vec![], None) else { return };
    let Setting { place, proxy, .. } = &setting;
    let port = free_port().to_string();
    let log = fs::File::create(place.work("log")).unwrap();
    let mut command = place.command("microsocks");
    command.args(["-i", "127.0.0.1", "-p", &port]).stdout(Stdio::null()).stderr(log);
    let child = command.spawn().expect("microsocks runs");
    let socks = Tiny { child, address: format!("127.0.0.1:{port}"), place };
    wait_for(&socks.address);
    let server = proxy.address.replace("127.0.0.1", "0.0.0.0");
    let image = format!("docker://{server}/small:1");
    for scheme in ["socks5", "socks5h"] {
        let mut command = place.skiff(["pull", "--no-https", "--force", "--disable-cache", "a.sif", &image]);
        finish(command.env("ALL_PROXY", format!("{scheme}://{}", socks.address))).ok();
    }
    let log = fs::read_to_string(place.work("log")).unwrap();
    assert!(log.matches(&format!("connected to {server}")).count() >= 2, "{log}");
}

#[test]
fn a_proxy_that_is_wrong_is_named_in_the_error() {
    if !able(&[Need::Tinyproxy]) {
        return;
    }
    let Some(setting) = Setting::new("outside-wrong", vec![], None) else { return };
    let Setting { place, proxy, .. } = &setting;
    let server = proxy.address.replace("127.0.0.1", "0.0.0.0");
    let pull = |proxy: &str| -> Output {
        let image = format!("docker://{server}/small:1");
        let mut command = place.skiff(["pull", "--no-https", "--force", "--disable-cache", "a.sif", &image]);
        finish(command.env("HTTP_PROXY", proxy))
    };
    let tiny = Tiny::start(place, "BasicAuth ada secret");
    pull(&format!("http://ada:secret@{}", tiny.address)).ok();
    assert!(tiny.asked_for(&server) > 0);
    for (named, why) in [
        ("http://127.0.0.1:1", "by the proxy http://127.0.0.1:1 of HTTP_PROXY: connection refused"),
        (&format!("http://{}", tiny.address), "407"),
        (&format!("http://ada:wrong@{}", tiny.address), "401"),
        ("nonsense://h", "that is no address of a proxy"),
    ] {
        let error = pull(named).fails(255);
        assert!(error.contains(why) && error.contains("of HTTP_PROXY"), "{named}: {error}");
        assert!(error.contains("hint: ") && !error.contains("wrong@"), "{named}: {error}");
    }
    // Plain HTTP is spoken with another machine where that is said alone.
    let plain = setting.registry.address.replace("127.0.0.1", "0.0.0.0");
    let error = place.run(["pull", "b.sif", &format!("docker://{plain}/small:1")]).fails(255);
    assert!(error.contains("--no-https"), "{error}");
    let port = free_port();
    let image = format!("docker://0.0.0.0:{port}/small:1");
    let mut command = place.skiff(["pull", "--no-https", "b.sif", &image]);
    let error = finish(command.env("HTTP_PROXY", format!("http://ada:secret@{}", tiny.address))).fails(255);
    assert!(error.contains("of HTTP_PROXY: ") && error.contains("NO_PROXY"), "{error}");
}
