//! An image's files as a tar stream, read by GNU tar.

use super::*;
use skiff::image::tar::write_tar;

#[test]
fn gnu_tar_unpacks_what_is_written() {
    let (tree, mut files) = tree();
    let place = scratch();
    let (image, stream, out) =
        (place.path().join("image"), place.path().join("stream.tar"), place.path().join("out"));
    mksquashfs(tree.path(), &image, "-comp zstd");
    let image = open(&image);
    let mut bytes = Vec::new();
    let written = write_tar(&image, &[], &mut bytes).unwrap();
    assert_eq!(written.sockets, [Path::new("/odd/socket")]);
    let files = Arc::make_mut(&mut files);
    files.remove(Path::new("/odd/socket")).unwrap();
    assert_eq!(written.entries, files.len() as u64);

    fs::write(&stream, &bytes).unwrap();
    fs::create_dir(&out).unwrap();
    let done = Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "--same-permissions", "--same-owner", "--numeric-owner"])
        .args(["--warning=no-timestamp", "-xf"])
        .args([&stream, Path::new("-C"), &out])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_equal(files, &read_source(&out), "GNU tar");

    let mut again = Vec::new();
    write_tar(&image, &[], &mut again).unwrap();
    assert!(again == bytes, "the same image gives other bytes");
}

#[test]
fn a_damaged_image_is_told_and_not_the_streams_fault() {
    let place = scratch();
    let (path, bytes) = plain_image(place.path());
    let image = open(&path);
    let (_, inode) = image.resolve(Path::new("/a/blocks")).unwrap().unwrap();
    let (start, length) = image.stored_blocks(&inode, &mut Vec::new(), 100).unwrap();
    let mut damaged = bytes;
    damaged[start as usize..(start + length) as usize].fill(0x55);
    fs::write(&path, damaged).unwrap();
    let error = write_tar(&open(&path), &[], &mut std::io::sink()).unwrap_err();
    assert_eq!(error.kind, skiff::error::Kind::Image, "{error}");

    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::Error::from_raw_os_error(libc::ENOSPC))
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let error = write_tar(&image, &[], &mut Full).unwrap_err();
    assert!(error.to_string().contains("cannot write \"/\" to a tar stream"), "{error}");
}
