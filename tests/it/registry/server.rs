//! A real registry on loopback, and images in it: made by umoci from small trees, put in by skopeo, or by hand where
//! those tools make none of that kind.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};

use crate::harness::{Place, finish};

/// A started registry; it ends when this is dropped.
pub struct Registry {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub address: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A port that nobody listens on at this moment.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

/// Waits until somebody listens.
pub fn wait_for(address: &str) {
    let limit = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < limit, "nobody listens at {address}");
        std::thread::yield_now();
    }
}

impl Registry {
    /// Starts one whose data lie in the place.
    pub fn start(place: &Place) -> Self {
        Self::with(place, "")
    }

    /// The same with more lines for `http:`.
    pub fn with(place: &Place, http: &str) -> Self {
        Self::started(place, http, &[])
    }

    /// The same for reading alone.
    pub fn read_only(place: &Place) -> Self {
        Self::started(place, "", &[("REGISTRY_STORAGE_MAINTENANCE_READONLY", "{enabled: true}")])
    }

    fn started(place: &Place, http: &str, settings: &[(&str, &str)]) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let data = place.work(format!("registry-{}", address.replace(':', "-")));
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http:\n  addr: {address}\n{http}",
            data.display()
        );
        let config = place.write(&format!("registry-{}.yml", address.replace(':', "-")), text);
        let mut command = place.command("docker-registry");
        command.envs(settings.iter().copied());
        command.arg("serve").arg(config).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("docker-registry runs");
        let registry = Self { child, address };
        wait_for(&registry.address);
        registry
    }

    /// Puts an image of one layer in, made of a tree; its name is `NAME:TAG`.
    pub fn put_tree(&self, place: &Place, name: &str, tree: &Path) {
        let run = |program: &str, words: &[&str]| {
            finish(place.command(program).args(words)).ok();
        };
        let layout = place.work(format!("layout-{}", name.replace([':', '/'], "-")));
        let (layout, layer) = (layout.display().to_string(), place.work("layer.tar").display().to_string());
        run("tar", &["-C", &tree.display().to_string(), "-cf", &layer, "."]);
        run("umoci", &["init", "--layout", &layout]);
        run("umoci", &["new", "--image", &format!("{layout}:it")]);
        run("umoci", &["raw", "add-layer", "--image", &format!("{layout}:it"), &layer]);
        run("umoci", &["config", "--image", &format!("{layout}:it"), "--config.env", "FROM_IMAGE=yes"]);
        let target = format!("docker://{}/{name}", self.address);
        let words = ["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"];
        run("skopeo", &[&words[..], &[&format!("oci:{layout}:it"), &target]].concat());
    }

    /// Puts a manifest in; gives its digest.
    pub fn put_manifest(&self, repository: &str, tag: &str, kind: &str, text: &str) -> String {
        let head = format!("PUT /v2/{repository}/manifests/{tag} HTTP/1.1\r\nContent-Type: {kind}\r\n");
        let (status, ..) = request(&self.address, &head, text.as_bytes());
        assert_eq!(status, 201, "{text}");
        digest(text.as_bytes())
    }

    /// Puts bytes in; gives how a manifest names them.
    pub fn put_blob(&self, repository: &str, kind: &str, bytes: &[u8]) -> String {
        let head = format!("POST /v2/{repository}/blobs/uploads/ HTTP/1.1\r\n");
        let (status, headers, _) = request(&self.address, &head, b"");
        assert_eq!(status, 202);
        let place = header(&headers, "location").expect("where to");
        let path = place.split_once("/v2/").expect("a path").1;
        let digest = digest(bytes);
        let head =
            format!("PUT /v2/{path}&digest={digest} HTTP/1.1\r\nContent-Type: application/octet-stream\r\n");
        let (status, ..) = request(&self.address, &head, bytes);
        assert_eq!(status, 201);
        format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{}}}"#, bytes.len())
    }

    /// Puts a SIF in, as `oras push` does.
    pub fn put_sif(&self, name: &str, sif: &[u8]) {
        let (repository, tag) = name.split_once(':').expect("a tag");
        let config = self.put_blob(repository, "application/vnd.sylabs.sif.config.v1+json", b"{}");
        let layer = self.put_blob(repository, "application/vnd.sylabs.sif.layer.v1.sif", sif);
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let text =
            format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","config":{config},"layers":[{layer}]}}"#);
        self.put_manifest(repository, tag, kind, &text);
    }

    /// The manifest of a tag as it is.
    pub fn manifest(&self, repository: &str, tag: &str) -> String {
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let head = format!("GET /v2/{repository}/manifests/{tag} HTTP/1.1\r\nAccept: {kind}\r\n");
        let (status, _, body) = request(&self.address, &head, b"");
        assert_eq!(status, 200);
        String::from_utf8(body).expect("a manifest is text")
    }
}

/// Makes an authority, `ca.pem`, and a certificate of its, `cert.pem` and `key.pem`, for `localhost` and `0.0.0.0`.
pub fn authority(place: &Place) {
    place.write("leaf.ext", "subjectAltName=DNS:localhost,IP:0.0.0.0\nbasicConstraints=CA:FALSE\n");
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for line in [
        format!("req -x509 {key} -days 2 -subj /CN=authority -keyout ca-key.pem -out ca.pem"),
        format!("req -new {key} -subj /CN=localhost -keyout key.pem -out leaf.csr"),
        "x509 -req -in leaf.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile leaf.ext -out cert.pem"
            .to_owned(),
    ] {
        finish(place.command("openssl").args(line.split(' '))).ok();
    }
}

/// The lines of a registry that speaks TLS with that.
pub fn tls(place: &Place) -> String {
    let path = |name: &str| place.work(name).display().to_string();
    format!("  tls: {{certificate: {}, key: {}}}\n", path("cert.pem"), path("key.pem"))
}

/// The same for a server of the test's own.
pub fn server_config(place: &Place) -> ServerConfig {
    let certificates = CertificateDer::pem_file_iter(place.work("cert.pem")).expect("a certificate");
    let certificates = certificates.collect::<Result<_, _>>().expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(place.work("key.pem")).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("versions").with_no_client_auth();
    builder.with_single_cert(certificates, key).expect("a certificate and its key")
}

/// As manifests write it.
pub fn digest(bytes: &[u8]) -> String {
    let sum: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{sum}")
}

/// The value of a header.
pub fn header(headers: &[String], name: &str) -> Option<String> {
    headers.iter().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

/// One request of its own connection: status, headers, body.
pub fn request(address: &str, head: &str, body: &[u8]) -> (u16, Vec<String>, Vec<u8>) {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    let length = body.len();
    let head = format!("{head}Host: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("a request can be sent");
    stream.write_all(body).expect("a body can be sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer comes");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("the head ends");
    let text = String::from_utf8_lossy(&answer[..end]).into_owned();
    let mut lines = text.split("\r\n").map(str::to_owned);
    let first = lines.next().expect("a status line");
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, lines.collect(), answer[end + 4..].to_vec())
}

/// A directory below the place's work directory with files that are no two alike.
pub fn small_tree(place: &Place, name: &str) -> std::path::PathBuf {
    let tree = place.work(name);
    for directory in ["bin", "etc", "usr/share"] {
        fs::create_dir_all(tree.join(directory)).expect("a directory can be made");
    }
    fs::write(tree.join("etc/os-release"), "ID=small\n").expect("a file can be written");
    // Bytes that do not get fewer by compression.
    let mut state = 88_172_645_463_325_252_u64;
    let noise: Vec<u8> = (0..1 << 20)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect();
    fs::write(tree.join("usr/share/noise"), noise).expect("a file can be written");
    crate::harness::give(&tree);
    tree
}
