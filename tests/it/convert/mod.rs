//! OCI images become SIFs: what umoci unpacks as root, entry by entry, for images by umoci, skopeo and buildah;
//! what GNU tar archives; random stacks of layers against a model; hostile ones. And by hand, as a user.

mod hostile;
mod made;
mod model;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use skiff::error::Error;
use skiff::oci::layers::{FREE_BYTES, Layers, pack_layers};
use skiff::oci::{OciImage, Platform};
use skiff::oci::{local, reference};
use skiff::pack::{PackOptions, PackSummary, Progress};

use super::harness::{Need, Place, able};
use super::reader::{
    File_, assert_equal, make_tree, noise, open, read_image, read_source, scratch, try_xattr,
};
use made::{config, gzip, layout};

fn options(threads: usize) -> PackOptions {
    PackOptions { threads, time: Some(i64::from(u32::MAX)), digest: true, ..PackOptions::default() }
}

/// Opens what the user would call `name`.
fn image(name: &str) -> Result<OciImage, Error> {
    let named = reference::parse(name).expect("the name of an image on this machine")?;
    local::open(&named, &Platform::host(), &std::env::temp_dir())
}

fn pack(image: &OciImage, output: &Path, threads: usize) -> Result<PackSummary, Error> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(output).unwrap();
    let layers = Layers { blobs: &image.layers, additions: &[], free_bytes: FREE_BYTES };
    let summary =
        pack_layers(&layers, &file, 0, &options(threads), (&Progress::default(), &AtomicBool::new(false)))?;
    assert_eq!(file.metadata().unwrap().len(), summary.bytes, "there is more behind the image");
    Ok(summary)
}

/// What the layers of an image show, at several numbers of threads.
fn shown(name: &str) -> BTreeMap<PathBuf, File_> {
    let place = scratch();
    let image = image(name).unwrap();
    let [one, four] = [1, 4].map(|threads| {
        let output = place.path().join(threads.to_string());
        pack(&image, &output, threads).unwrap();
        output
    });
    assert!(fs::read(&one).unwrap() == fs::read(&four).unwrap(), "{name}: the number of threads shows");
    read_image(&open(&one))
}

/// Runs a script as root with `$1` a directory for it; gives what it said.
fn script(place: &Path, text: &str) -> String {
    let output = Command::new("sh")
        .args(["-euc", text, "sh"])
        .arg(place)
        .current_dir(place)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}\n{said}");
    said
}

/// What umoci makes of an image.
fn unpacked(place: &Path, image: &str) -> BTreeMap<PathBuf, File_> {
    script(place, &format!("rm -rf unpacked; umoci unpack --image {image} unpacked"));
    let mut files = read_source(&place.join("unpacked/rootfs"));
    clamp(&mut files, &place.join("unpacked/rootfs"));
    files
}

/// An image knows no time before 1970.
fn clamp(files: &mut BTreeMap<PathBuf, File_>, root: &Path) {
    for (path, file) in files {
        let time = fs::symlink_metadata(root.join(path.strip_prefix("/").unwrap())).unwrap().mtime();
        file.mtime = u32::try_from(time.clamp(0, i64::from(u32::MAX))).unwrap();
    }
}

/// A new image with a tree in it; the bundle is left to be changed.
const NEW: &str = "
    umoci init --layout image
    umoci new --image image:t
    umoci unpack --image image:t bundle
";
/// Another layer from the bundle as it is.
const REPACK: &str = "
    umoci repack --image image:t bundle
    rm -rf bundle
    umoci unpack --image image:t bundle
";

// flat: a layer after the other.
#[test]
fn images_by_umoci_are_what_umoci_unpacks() {
    if !able(&[Need::Root, Need::ImageTools]) {
        return;
    }
    let place = scratch();
    let root = place.path().join("bundle/rootfs");
    script(place.path(), NEW);
    make_tree(&root);
    // Nobody listens in an image, and tar has none.
    fs::remove_file(root.join("odd/socket")).unwrap();
    fs::write(root.join("twice"), noise(5, 700_000)).unwrap();
    fs::write(root.join("dir/twice"), noise(5, 700_000)).unwrap();
    try_xattr(&root.join("twice"), "user.odd", b"\0\xff=\n1");
    script(place.path(), "chown -h 1000:77777 bundle/rootfs/dir/*");
    script(place.path(), "cp /bin/true bundle/rootfs/capable; setcap cap_net_raw+ep bundle/rootfs/capable");
    script(place.path(), REPACK);
    let found = shown(&format!("oci:{}/image:t", place.path().display()));
    assert_eq!(found[Path::new("/capable")].xattrs[&b"security.capability"[..]].len(), 20);
    assert_equal(&unpacked(place.path(), "image:t"), &found, "one layer");
    // Files, links and directories go and take each other's places.
    script(
        place.path(),
        "cd bundle/rootfs
        rm -rf many/entry-000* empty; mkdir many/entry-00001; echo x >many/entry-00001/x
        rm -rf dir/deep; echo file >dir/deep
        rm twice; ln dir/twice again; ln -s dir/twice twice
        chmod 4711 capable; chown 3:4 odd; touch -d 2001-01-01 sizes",
    );
    script(place.path(), REPACK);
    script(
        place.path(),
        "cd bundle/rootfs
        rm dir/deep; mkdir -p dir/deep/er; echo 2 >dir/deep/er/2
        rm -rf many; mkdir many; echo only >many/one; mknod many/null c 1 3; mknod many/disk b 259 70000; mkfifo many/pipe
        rm dir/twice; echo other >dir/twice",
    );
    script(place.path(), REPACK);
    script(place.path(), "cd bundle/rootfs; rm -rf *; echo last >last; mkdir dir; echo new >dir/new");
    script(place.path(), "umoci tag --image image:t before; umoci repack --image image:t bundle");
    for tag in ["before", "t"] {
        let image = format!("image:{tag}");
        let found = shown(&format!("oci:{}/{image}", place.path().display()));
        assert_equal(&unpacked(place.path(), &image), &found, tag);
    }
    let last = shown(&format!("oci:{}/image:t", place.path().display()));
    assert_eq!(last.len(), 4, "{:?}", last.keys());
}

#[test]
fn other_compressions_and_archives_show_the_same() {
    if !able(&[Need::Root, Need::ImageTools]) {
        return;
    }
    let place = scratch();
    let root = place.path().join("bundle/rootfs");
    script(place.path(), NEW);
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::write(root.join("a/b/noise"), noise(9, 3_000_000)).unwrap();
    symlink("b/noise", root.join("a/link")).unwrap();
    script(place.path(), REPACK);
    script(place.path(), "cd bundle/rootfs/a; rm link; echo 1 >one; ln b/noise again");
    script(place.path(), REPACK);
    let expected = unpacked(place.path(), "image:t");
    script(
        place.path(),
        "skopeo copy -q --dest-compress --dest-compress-format zstd oci:image:t oci:zstd:t
        skopeo copy -q --dest-decompress oci:image:t dir:plain
        skopeo copy -q oci:image:t oci-archive:oci.tar:t
        skopeo copy -q oci:image:t docker-archive:docker.tar:some/name:t
        gzip -k docker.tar",
    );
    let at = |name: &str| name.replace('@', place.path().to_str().unwrap());
    for name in [
        "oci:@/image:t",
        "oci:@/image",
        "oci:@/zstd:t",
        "oci-archive:@/oci.tar",
        "oci-archive:@/oci.tar:t",
        "docker-archive:@/docker.tar",
        "docker-archive:@/docker.tar:some/name:t",
        "docker-archive:@/docker.tar.gz",
    ] {
        assert_equal(&expected, &shown(&at(name)), name);
    }
    let zstd = image(&at("oci:@/zstd:t")).unwrap();
    let mut start = [0; 4];
    zstd.layers[0].read_at(&mut start, 0).unwrap();
    assert_eq!(start, [0x28, 0xb5, 0x2f, 0xfd], "skopeo has not compressed with zstd");
    for (name, says) in [
        ("oci:@/image:other", "no image \"other\""),
        ("docker-archive:@/docker.tar:x", "no image \"x\""),
        ("oci:@/missing:t", "no such file"),
        ("oci:@/bundle", "no file oci-layout"),
        ("oci-archive:@/docker.tar.gz.none", "no such file"),
        ("oci-archive:@/bundle/config.json", "no tar file"),
    ] {
        let error = image(&at(name)).unwrap_err().to_string();
        assert!(error.contains(says), "{name}: {error}");
    }
}

#[test]
fn opaque_directories_of_buildah_hide_what_is_below() {
    if !able(&[Need::Root, Need::ImageTools]) {
        return;
    }
    let place = scratch();
    script(
        place.path(),
        r#"p=$1; b() { buildah --root "$p/root" --runroot "$p/run" --storage-driver overlay "$@"; }
        trap 'b rm -a >/dev/null; b rmi -a -f >/dev/null; umount "$p/root/overlay" 2>/dev/null || true' EXIT
        c=$(b from scratch); m=$(b mount "$c")
        mkdir -p "$m/d/e" "$m/k"; echo 1 >"$m/d/e/x"; echo 1 >"$m/d/y"; echo 1 >"$m/k/z"; chown 5:6 "$m/k"
        b umount "$c" >/dev/null; b commit -q "$c" one >/dev/null
        c=$(b from one); m=$(b mount "$c")
        rm -rf "$m/d" "$m/k/z"; mkdir -p "$m/d/e"; echo 2 >"$m/d/e/w"; ln "$m/d/e/w" "$m/d/v"
        b umount "$c" >/dev/null; b commit -q "$c" "oci:$p/image:t" >/dev/null"#,
    );
    let found = shown(&format!("oci:{}/image:t", place.path().display()));
    assert_equal(&unpacked(place.path(), "image:t"), &found, "buildah");
    assert!(!found.contains_key(Path::new("/d/y")) && !found.contains_key(Path::new("/k/z")));
}

#[test]
fn every_form_of_tar_is_understood() {
    if !able(&[Need::Root]) {
        return;
    }
    let place = scratch();
    let tree = place.path().join("tree");
    fs::create_dir(&tree).unwrap();
    make_tree(&tree);
    let long = format!("{}/{}", "long".repeat(40), "name".repeat(50));
    fs::create_dir(tree.join(&long[..160])).unwrap();
    fs::write(tree.join(&long), "long").unwrap();
    fs::hard_link(tree.join(&long), tree.join("short")).unwrap();
    symlink("x".repeat(300), tree.join("long link")).unwrap();
    script(
        place.path(),
        "cd tree
        truncate -s 5000000 holes; printf begin | dd of=holes conv=notrunc status=none
        for at in 700000 1400000 2000001 2900000 3300000 4999990; do
            printf data | dd of=holes bs=1 seek=$at conv=notrunc status=none
        done
        truncate -s 3000000 hole
        truncate -s 50000000 wide; for at in $(seq 1 40); do
            printf data | dd of=wide bs=1M seek=$at conv=notrunc status=none
        done
        chown -h 1234567:7654321 'long link'",
    );
    let mut expected = read_source(&tree);
    clamp(&mut expected, &tree);
    for arguments in [
        "--format=gnu",
        "--format=gnu --sparse",
        "--format=pax --xattrs --xattrs-include=*",
        "--format=pax --xattrs --xattrs-include=* --sparse --sparse-version=0.0",
        "--format=pax --xattrs --xattrs-include=* --sparse --sparse-version=0.1",
        "--format=pax --xattrs --xattrs-include=* --sparse --sparse-version=1.0",
    ] {
        script(place.path(), &format!("tar -C tree {arguments} -cf layer.tar . 2>/dev/null || test $? = 1"));
        let layer = fs::read(place.path().join("layer.tar")).unwrap();
        let layout = layout(&place.path().join("image"), &[gzip(&layer)], &config(&[]));
        let mut expected = expected.clone();
        // A socket is in no archive; without pax there are no attributes, and times are whole.
        expected.retain(|_, file| file.kind != skiff::image::squashfs::FileKind::Socket);
        if arguments.starts_with("--format=gnu") {
            expected.values_mut().for_each(|file| file.xattrs.clear());
        }
        assert_equal(&expected, &shown(&format!("oci:{}", layout.display())), arguments);
        fs::remove_dir_all(layout).unwrap();
    }
}

#[test]
fn a_user_builds_and_runs_an_image() {
    if !able(&[Need::Userns, Need::Fuse, Need::Busybox]) {
        return;
    }
    let place = Place::new("convert");
    let busybox = fs::read(super::busybox::busybox().unwrap()).unwrap();
    let base = made::tar(&[
        ("bin/busybox", made::File::Program(&busybox)),
        ("bin/sh", made::File::Link("busybox")),
        ("etc/hidden", made::File::Text("hidden")),
        ("data", made::File::Text("data")),
    ]);
    let top =
        made::tar(&[("etc/.wh.hidden", made::File::Text("")), ("bin/cat", made::File::Hard("bin/busybox"))]);
    let config = r#"{"architecture":"amd64","os":"linux","config":{"User":"nobody","WorkingDir":"/data",
        "Env":["PATH=/bin","KEY=a $b \"c\" }'","HOME=/root"],"Entrypoint":["/bin/busybox","printf","[%s]"],
        "Cmd":["it's","$KEY"],"Labels":{"a.b":"c \"d\""}}}"#;
    layout(&place.work("image"), &[gzip(&base), top], config);
    super::harness::give(&place.work("image"));
    let before = fs::read_dir(place.work("")).unwrap().count();
    place.run(["build", "a.sif", "oci:image:t"]).ok();
    assert_eq!(fs::read_dir(place.work("")).unwrap().count(), before + 1, "something else was written");
    assert_eq!(place.run(["run", "a.sif"]).ok(), "[it's][$KEY]");
    assert_eq!(place.run(["run", "a.sif", "x", "y z"]).ok(), "[x][y z]");
    assert_eq!(place.run(["exec", "a.sif", "sh", "-c", "echo \"$KEY\""]).ok(), "a $b \"c\" }'\n");
    assert_eq!(place.run(["exec", "a.sif", "/bin/cat", "/data"]).ok(), "data");
    assert_eq!(
        place.run(["exec", "a.sif", "sh", "-c", "ls /etc/hidden 2>/dev/null || echo gone"]).ok(),
        "gone\n"
    );
    let said = place.run(["inspect", "--labels", "a.sif"]).ok();
    assert!(said.contains("a.b: c \"d\"") && said.contains("deffile.bootstrap: oci"), "{said}");
    assert!(place.run(["inspect", "--deffile", "a.sif"]).ok().contains("from: image:t"));
    let listed = place.run(["sif", "list", "a.sif"]).ok();
    let object = listed.lines().rfind(|line| line.contains("JSON")).unwrap().split('|').next().unwrap();
    assert_eq!(place.run(["sif", "dump", object.trim(), "a.sif"]).ok(), config);
    let error = place.run(["build", "a.sif", "oci:image:t"]).fails(255);
    assert!(error.contains("--force"), "{error}");
    place.run(["build", "--sandbox", "tree", "oci:image:t"]).ok();
    assert_eq!(fs::read(place.work("tree/data")).unwrap(), b"data");
    assert!(place.work("tree/.singularity.d/runscript").exists());
    for image in ["b.sif", "c.sif"] {
        place.run(["build", "--reproducible", image, "oci:image:t"]).ok();
    }
    assert!(fs::read(place.work("b.sif")).unwrap() == fs::read(place.work("c.sif")).unwrap());
}
