//! Bases of every kind under overlays that the kernel mounts: the packed image equals what the overlay shows.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, lchown};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::Arc;

use rustix::fs::XattrFlags;
use skiff::image::source::Source;
use skiff::image::squashfs::OpenOptions;
use skiff::pack::{Compression, pack_directory};

use super::super::harness::{Place, busybox_tree};
use super::super::reader::{assert_equal, make_tree, mksquashfs, read_source};
use super::*;

/// A tree with overlays over it, each over the ones before.
struct Stack {
    place: tempfile::TempDir,
    layers: Vec<PathBuf>,
}

/// An overlay; unmounts when it goes.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(&self.0).status().unwrap();
        assert!(done.success() || std::thread::panicking());
    }
}

/// From here on this thread, and what it starts, mounts for itself alone: containers of tests beside this one show all
/// that is mounted below /var/tmp, and must not find something there that goes while they look.
fn mount_apart() {
    use nix::mount::{MsFlags, mount};
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
}

impl Stack {
    /// Over an empty tree.
    fn empty() -> Self {
        mount_apart();
        let stack = Self { place: scratch(), layers: Vec::new() };
        fs::create_dir(stack.tree()).unwrap();
        stack
    }

    /// With the tree that the reader's tests use as its ground.
    fn new() -> Self {
        let stack = Self::empty();
        make_tree(&stack.tree());
        stack
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn tree(&self) -> PathBuf {
        self.at("tree")
    }

    /// Mounts one more overlay, as skiff does.
    fn mount(&mut self) -> Mounted {
        let number = self.layers.len();
        let (upper, work) = (self.at(&format!("upper-{number}")), self.at(&format!("work-{number}")));
        let merged = self.at(&format!("merged-{number}"));
        for path in [&upper, &work, &merged] {
            fs::create_dir(path).unwrap();
        }
        // Its root is what the root of the tree is.
        let lower: Vec<String> =
            self.layers.iter().rev().chain([&self.tree()]).map(|path| path.display().to_string()).collect();
        let (lower, upper_shown, work) = (lower.join(":"), upper.display(), work.display());
        let options = format!("userxattr,lowerdir={lower},upperdir={upper_shown},workdir={work}");
        let done =
            Command::new("mount").args(["-t", "overlay", "-o", &options, "none"]).arg(&merged).status();
        assert!(done.unwrap().success(), "{options}");
        self.layers.push(upper);
        Mounted(merged)
    }
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// Changes of every kind.
fn change(root: &Path) {
    let at = |name: &str| root.join(name);
    let append = |name: &str| File::options().append(true).open(at(name)).unwrap();
    // Files: gone, new, longer, shorter, in the middle, other attributes alone.
    fs::remove_file(at("sizes/17-whole")).unwrap();
    fs::remove_file(at("many/entry-00007-xxxxxxx")).unwrap();
    fs::write(at("sizes/new"), noise(77, 300_000)).unwrap();
    fs::write(at("many/new"), b"new").unwrap();
    std::io::Write::write_all(&mut append("sizes/12-more"), b"more").unwrap();
    append("sizes/20-whole").set_len(140_000).unwrap();
    File::options().write(true).open(at("sizes/19-more")).unwrap().write_all_at(b"middle", 200_000).unwrap();
    fs::set_permissions(at("sizes/long"), mode(0o4700)).unwrap();
    fs::set_permissions(at("sizes/16-less"), mode(0o600)).unwrap();
    lchown(at("sizes/15-more"), Some(77), Some(88)).unwrap();
    fs::set_permissions(at("sizes/14-more"), mode(0)).unwrap();
    set_xattr(&at("sizes/13-less"), "user.new", b"value");
    set_xattr(&at("sizes/long"), "security.skiff", b"other");
    rustix::fs::removexattr(at("sizes/long"), "user.long").unwrap();
    // Holes.
    let sparse = File::create(at("sizes/new-sparse")).unwrap();
    sparse.set_len(9 << 20).unwrap();
    sparse.write_all_at(&noise(5, 5000), 4 << 20).unwrap();
    File::options().write(true).open(at("sizes/sparse")).unwrap().write_all_at(b"x", 1 << 20).unwrap();
    // Names: moved, long, of any bytes.
    fs::rename(at("sizes/18-less"), at("many/moved")).unwrap();
    fs::write(at("many").join("m".repeat(255)), b"long name").unwrap();
    fs::rename(at("odd").join("n".repeat(255)), at("odd").join("o".repeat(255))).unwrap();
    fs::write(at("odd").join(OsStr::from_bytes(b"\x80\xfe new")), b"bytes").unwrap();
    fs::remove_file(at("odd").join(OsStr::from_bytes(b"not \xff utf-8 \x80"))).unwrap();
    // Names of one file: of the base, of the base's file copied up, of new ones.
    fs::hard_link(at("hard-3"), at("empty/hard-4")).unwrap();
    fs::hard_link(at("sizes/new"), at("sizes/new-too")).unwrap();
    fs::hard_link(at("sizes/16-more"), at("dir/16-more-too")).unwrap();
    // Kinds: file, directory and link in each other's place.
    fs::remove_file(at("link")).unwrap();
    fs::create_dir(at("link")).unwrap();
    fs::write(at("link/file"), b"in a directory").unwrap();
    fs::remove_file(at("sizes/duplicate-1")).unwrap();
    symlink("duplicate-2", at("sizes/duplicate-1")).unwrap();
    fs::remove_dir_all(at("dir/deep")).unwrap();
    fs::write(at("dir/deep"), b"was a directory").unwrap();
    fs::remove_file(at("odd/dangling")).unwrap();
    fs::write(at("odd/dangling"), b"was a link").unwrap();
    lchown(at("odd/long-link"), Some(5), Some(6)).unwrap();
    // Special files.
    fs::remove_file(at("odd/fifo")).unwrap();
    mkfifoat(CWD, at("odd/pipe"), Mode::from_raw_mode(0o622)).unwrap();
    lchown(at("odd/pipe"), Some(9), Some(9)).unwrap();
    drop(UnixListener::bind(at("odd/new-socket")).unwrap());
    mknodat(CWD, at("odd/null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3))
        .unwrap();
}

/// Changes over those: what was made goes, what went is made again.
fn change_again(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::remove_dir_all(at("many")).unwrap();
    fs::create_dir(at("many")).unwrap();
    for number in 0..40_u64 {
        fs::write(at(&format!("many/again-{number}")), noise(number, 1000 + number as usize)).unwrap();
    }
    fs::set_permissions(at("many"), mode(0o1770)).unwrap();
    set_xattr(&at("many"), "user.dir", b"again");
    fs::remove_file(at("dir/deep")).unwrap();
    fs::create_dir_all(at("dir/deep/deeper/again")).unwrap();
    fs::remove_dir_all(at("link")).unwrap();
    symlink("dir", at("link")).unwrap();
    fs::write(at("sizes/17-whole"), noise(131_072, 131_072)).unwrap();
    fs::remove_file(at("sizes/new")).unwrap();
    set_xattr(&at("sizes"), "security.skiff", b"dir");
    fs::set_permissions(at("dir"), mode(0o2755)).unwrap();
    lchown(at("dir"), Some(300), Some(70_001)).unwrap();
}

/// And over those.
fn change_at_last(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::write(at("many/entry-00007-xxxxxxx"), b"back").unwrap();
    fs::remove_dir_all(at("odd")).unwrap();
    // The kernel moves no directory of a lower layer; a program makes another.
    let moved = Command::new("mv").args([at("dir/deep/deeper/again"), at("renamed")]).status();
    assert!(moved.unwrap().success());
    fs::set_permissions(at("sizes/14-more"), mode(0o644)).unwrap();
    fs::remove_file(at("sizes/long")).unwrap();
    fs::set_permissions(root, mode(0o711)).unwrap();
}

/// What an overlay shows, as an image has it: it knows no time before 1970. A base that mksquashfs made has those
/// another way, and keeps them.
fn shown(root: &Path, base: Option<&BTreeMap<PathBuf, File_>>) -> BTreeMap<PathBuf, File_> {
    let mut files = read_source(root);
    for (path, file) in &mut files {
        let below = path.strip_prefix("/").unwrap();
        if fs::symlink_metadata(root.join(below)).unwrap().mtime() < 0 {
            file.mtime = base.and_then(|base| base.get(path)).map_or(0, |file| file.mtime);
        }
    }
    files
}

/// The bases: how they are made, and how what is packed on them is compressed when nothing is to be.
const BASES: [&str; 10] = [
    "",
    "-comp zstd",
    "-comp gzip -b 4K",
    "-comp gzip -no-fragments",
    "-comp xz -b 1M",
    "-comp lz4 -always-use-fragments",
    "-comp zstd -b 64K -always-use-fragments -no-duplicates",
    "-comp gzip -b 16K -noD -noF -noI",
    "-comp lzo -b 256K",
    "-comp zstd -no-exports -no-sparse -no-tailends",
];

fn make_base(stack: &Stack, arguments: &str) -> Squashfs {
    let image = stack.at("base");
    if arguments.is_empty() {
        let output = File::create(&image).unwrap();
        let watch = (&Progress::default(), &AtomicBool::new(false));
        pack_directory(&stack.tree(), &output, 0, &PackOptions::default(), watch).unwrap();
    } else {
        mksquashfs(&stack.tree(), &image, arguments);
    }
    open(&image)
}

/// Options by which the base's blocks can be copied.
fn like(base: &Squashfs, threads: usize) -> PackOptions {
    let superblock = base.superblock();
    let compression = Compression { kind: superblock.compressor, level: None };
    PackOptions { compression, block_bytes: superblock.block_size, ..options(threads) }
}

/// The stack after all changes, with what it showed after one and after all.
type Shown = BTreeMap<PathBuf, File_>;

fn changed_stack() -> (Stack, Vec<Mounted>) {
    let mut stack = Stack::new();
    let mut mounts = Vec::new();
    for change in [change, change_again, change_at_last] {
        let mounted = stack.mount();
        change(&mounted.0);
        mounts.push(mounted);
    }
    (stack, mounts)
}

fn check(stack: &Stack, mounts: &[Mounted], arguments: &str) {
    let base = make_base(stack, arguments);
    let base_files: Shown = read_image(&base);
    let image = stack.at("image");
    for count in [0, 1, mounts.len()] {
        let expected = match count.checked_sub(1) {
            Some(last) => shown(&mounts[last].0, Some(&base_files)),
            None => base_files.clone(),
        };
        let layers = &stack.layers[..count];
        let summary = try_pack(Some(&base), layers, &image, &like(&base, 2)).unwrap();
        let what = format!("{arguments:?}, {count} layers");
        assert_equal(&expected, &read_image(&open(&image)), &what);
        if count < mounts.len() {
            continue;
        }
        let bytes = fs::read(&image).unwrap();
        for threads in [1, 8] {
            let same = try_pack(Some(&base), layers, &image, &like(&base, threads)).unwrap();
            assert!(fs::read(&image).unwrap() == bytes, "{what}: other bytes with {threads} threads");
            assert_eq!(same.content_digest, summary.content_digest, "{what}");
        }
        // Without a digest the kernel copies.
        let options = PackOptions { digest: false, ..like(&base, 2) };
        try_pack(Some(&base), layers, &image, &options).unwrap();
        assert!(fs::read(&image).unwrap() == bytes, "{what}: other bytes when the kernel copies");
    }
    let other = if base.superblock().block_size == 32_768 { 65_536 } else { 32_768 };
    let anew = PackOptions { block_bytes: other, ..options(2) };
    try_pack(Some(&base), &stack.layers, &image, &anew).unwrap();
    let expected = shown(&mounts[mounts.len() - 1].0, Some(&base_files));
    assert_equal(&expected, &read_image(&open(&image)), &format!("{arguments:?} anew"));
}

#[test]
fn overlays_over_bases_of_every_kind_are_packed_as_the_kernel_shows_them() {
    if !able(&[Need::Root]) {
        return;
    }
    let (stack, mounts) = changed_stack();
    for arguments in BASES {
        check(&stack, &mounts, arguments);
    }
}

#[test]
fn unsquashfs_and_the_kernel_find_what_was_carried_over() {
    if !able(&[Need::Root]) {
        return;
    }
    let (stack, mounts) = changed_stack();
    let base = make_base(&stack, "");
    let expected = shown(&mounts[2].0, None);
    let image = stack.at("image");
    try_pack(Some(&base), &stack.layers, &image, &options(2)).unwrap();
    let unpacked = Command::new("unsquashfs")
        .args(["-no-progress", "-quiet", "-d"])
        .args([stack.at("unpacked"), image.clone()])
        .output()
        .unwrap();
    assert!(unpacked.status.success(), "unsquashfs: {}", String::from_utf8_lossy(&unpacked.stderr));
    assert_equal(&expected, &read_source(&stack.at("unpacked")), "unsquashfs");
    fs::create_dir(stack.at("mount")).unwrap();
    let done = Command::new("mount").args(["-o", "loop,ro"]).args([image, stack.at("mount")]).status();
    assert!(done.unwrap().success(), "the kernel refuses the image");
    let mounted = Mounted(stack.at("mount"));
    assert_equal(&expected, &read_source(&mounted.0), "kernel");
}

/// How large what `root` shows is, packed without a base.
fn fresh(stack: &Stack, root: &Path, options: &PackOptions) -> u64 {
    let output = File::create(stack.at("fresh")).unwrap();
    let watch = (&Progress::default(), &AtomicBool::new(false));
    pack_directory(root, &output, 0, options, watch).unwrap().bytes
}

#[test]
fn whatever_share_of_small_files_goes_the_size_stays_that_of_a_fresh_image() {
    if !able(&[Need::Root]) {
        return;
    }
    let mut stack = Stack::empty();
    let name = |number: u64| format!("file-{number:04}");
    for number in 0..3000_u64 {
        fs::write(stack.tree().join(name(number)), noise(number, 2000 + number as usize)).unwrap();
    }
    for options in [options(2), PackOptions { block_bytes: 16_384, ..options(2) }] {
        let output = File::create(stack.at("base")).unwrap();
        let watch = (&Progress::default(), &AtomicBool::new(false));
        pack_directory(&stack.tree(), &output, 0, &options, watch).unwrap();
        let base = open(&stack.at("base"));
        for every in [2, 3, 10, 500, 3000] {
            let mounted = stack.mount();
            (0..3000).filter(|number| number % every == 0).for_each(|number| {
                fs::remove_file(mounted.0.join(name(number))).unwrap();
            });
            let layer = stack.layers.pop().unwrap();
            let image = stack.at("image");
            let bytes = try_pack(Some(&base), std::slice::from_ref(&layer), &image, &options).unwrap().bytes;
            assert_equal(&read_source(&mounted.0), &read_image(&open(&image)), &format!("every {every}"));
            let fresh = fresh(&stack, &mounted.0, &options);
            assert!(bytes <= fresh + fresh / 100 + 4096, "every {every}: {bytes} bytes, {fresh} afresh");
            let merged = mounted.0.clone();
            drop(mounted);
            for path in [layer, merged, stack.at("work-0")] {
                fs::remove_dir_all(path).unwrap();
            }
        }
    }
}

#[test]
fn a_change_of_attributes_alone_shares_the_base_s_blocks() {
    if !able(&[Need::Root]) {
        return;
    }
    let mut stack = Stack::new();
    let base = make_base(&stack, "");
    let size = fs::metadata(stack.at("base")).unwrap().len();
    let mounted = stack.mount();
    let done = Command::new("chmod").args(["-R", "g+w"]).arg(&mounted.0).status().unwrap();
    assert!(done.success());
    // All is in the layer now, a part of it with other content.
    let long = File::options().write(true).open(mounted.0.join("sizes/long")).unwrap();
    long.write_all_at(b"changed", 5_000_000).unwrap();
    let image = stack.at("image");
    let summary = try_pack(Some(&base), &stack.layers, &image, &options(2)).unwrap();
    assert_equal(&shown(&mounted.0, None), &read_image(&open(&image)), "attributes");
    assert!(summary.bytes <= size + size / 50, "{} bytes, the base {size}", summary.bytes);
}

#[test]
fn generations_of_small_changes_do_not_grow_the_image() {
    if !able(&[Need::Root]) {
        return;
    }
    let stack = Stack::empty();
    for number in 0..400_u64 {
        fs::write(stack.tree().join(number.to_string()), noise(number, 3000 + 40 * number as usize)).unwrap();
    }
    let mut base = make_base(&stack, "");
    for generation in 0..25_u64 {
        // Each is a layer on the last image, and a change to the tree.
        let layer = stack.at(&format!("generation-{generation}"));
        fs::create_dir(&layer).unwrap();
        for number in 0..3 {
            let name = ((generation * 7 + number * 131) % 400).to_string();
            let content = noise(1000 + generation * 3 + number, 9000);
            fs::write(layer.join(&name), &content).unwrap();
            fs::write(stack.tree().join(&name), &content).unwrap();
        }
        let image = stack.at(&format!("image-{}", generation % 2));
        try_pack(Some(&base), &[layer], &image, &options(2)).unwrap();
        base = open(&image);
    }
    let bytes = fs::metadata(stack.at("image-0")).unwrap().len();
    let fresh = fresh(&stack, &stack.tree(), &options(2));
    assert!(bytes <= fresh + fresh / 50, "{bytes} bytes after 25 generations, {fresh} afresh");
    let content =
        |files: Shown| files.into_iter().map(|(path, file)| (path, file.content)).collect::<Vec<_>>();
    assert!(content(read_image(&base)) == content(read_source(&stack.tree())));
}

#[test]
fn a_base_inside_a_file_is_copied_from_its_place() {
    let place = scratch();
    let at = |name: &str| place.path().join(name);
    fs::create_dir(at("tree")).unwrap();
    fs::write(at("tree/file"), noise(1, 1_000_000)).unwrap();
    fs::create_dir(at("layer")).unwrap();
    fs::write(at("layer/new"), b"new").unwrap();
    let file = File::options().read(true).write(true).create_new(true).open(at("base")).unwrap();
    let watch = (&Progress::default(), &AtomicBool::new(false));
    let bytes = pack_directory(&at("tree"), &file, 12_288, &options(2), watch).unwrap().bytes;
    let base = Squashfs::open(Source::new(Arc::new(file), 12_288, bytes), OpenOptions::default()).unwrap();
    for digest in [false, true] {
        let output =
            File::options().read(true).write(true).create(true).truncate(true).open(at("image")).unwrap();
        let layers = Layers { base: Some(&base), directories: &[at("layer")] };
        let options = PackOptions { digest, ..options(2) };
        let bytes = pack_layers(&layers, &output, 20_480, &options, watch).unwrap().bytes;
        let image =
            Squashfs::open(Source::new(Arc::new(output), 20_480, bytes), OpenOptions::default()).unwrap();
        let files = read_image(&image);
        assert_eq!(names(&files), ["/", "/file", "/new"]);
        assert!(content(&files, "/file") == noise(1, 1_000_000));
    }
}

#[test]
fn trees_deeper_than_a_path_may_be_long_are_merged_to_their_grounds() {
    use std::ffi::CString;
    use std::os::fd::OwnedFd;
    let place = scratch();
    let layers: Vec<PathBuf> = ["low", "middle", "top"].iter().map(|name| place.path().join(name)).collect();
    let name = |level: usize| CString::new(format!("level-{level:04}-{}", "x".repeat(20))).unwrap();
    // The lowest is the deepest; each has a file of its own at every level, after the directory.
    for (layer, levels) in layers.iter().zip([300, 200, 100]) {
        fs::create_dir(layer).unwrap();
        let mut dir: OwnedFd = File::open(layer).unwrap().into();
        let own = CString::new(format!("z-{levels}")).unwrap();
        for level in 0..levels {
            use rustix::fs::OFlags;
            rustix::fs::mkdirat(&dir, name(level).as_c_str(), Mode::from_raw_mode(0o755)).unwrap();
            let flags = OFlags::CREATE | OFlags::WRONLY;
            let file = rustix::fs::openat(&dir, own.as_c_str(), flags, Mode::from_raw_mode(0o644)).unwrap();
            File::from(file).write_all_at(level.to_string().as_bytes(), 0).unwrap();
            let below = rustix::fs::openat(&dir, name(level).as_c_str(), OFlags::DIRECTORY, Mode::empty());
            dir = below.unwrap();
        }
    }
    let image = place.path().join("image");
    try_pack(None, &layers, &image, &options(2)).unwrap();
    let image = open(&image);
    let mut inode = image.inode(image.root()).unwrap();
    for level in 0..300 {
        for levels in [300, 200, 100] {
            let file = image.lookup(&inode, format!("z-{levels}").as_bytes()).unwrap();
            assert_eq!(file.is_some(), level < levels, "{level} {levels}");
            let Some(file) = file else { continue };
            let file = image.inode(file).unwrap();
            let mut content = vec![0; file.size as usize];
            image.read(&file, 0, &mut content).unwrap();
            assert_eq!(content, level.to_string().as_bytes());
        }
        inode = image.inode(image.lookup(&inode, name(level).as_bytes()).unwrap().unwrap()).unwrap();
    }
}

/// Prints everything about a tree that does not depend on the file system it is on. (An overlay counts the names that a
/// file of the base had, not those that it still has.)
const LIST: &str = r#"cd /zoo && find . | sort | while read -r name; do
    if [ -d "$name" ] && [ ! -L "$name" ]; then stat -c '%n %F %a %Y' "$name"
    else stat -c '%n %F %a %s %Y %t:%T' "$name"; fi
    [ -L "$name" ] && readlink "$name"
    if [ -f "$name" ] && [ ! -L "$name" ]; then md5sum <"$name"; fi
    true
done"#;

const FIRST: &str = r#"cd /zoo && rm a/gone && rm -r b && mkdir b && echo new >b/new && mv a/moved a/other && mv c d &&
    chmod 751 a/program && ln a/linked e/linked && rm f && mkdir f && echo x >f/x && rm -r g && ln -s a g &&
    echo more >>a/long && truncate -s 5000 a/short && mkfifo pipe && mkdir -p deep/er && touch -d @1000000 deep &&
    echo "odd" >"$(printf 'new file \377')" && echo long >"$(printf '%0255d' 7)" && rm -r gone"#;

const SECOND: &str = r#"cd /zoo && rm -r b deep && echo b >b && mkdir gone && echo back >gone/back && rm g && mkdir g &&
    chmod 600 a/program && mv a/other a/moved && rm "$(printf '%0255d' 7)" && rm e/linked"#;

#[test]
fn what_containers_wrote_is_packed_as_they_saw_it() {
    if !able(&[Need::Userns, Need::Fuse, Need::Busybox]) {
        return;
    }
    let place = Place::new("pack-layers");
    let tree = place.work("tree");
    busybox_tree(&tree);
    let at = |name: &str| tree.join("zoo").join(name);
    for name in ["a", "b/old", "c/deep", "e", "g", "gone/x"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    for (number, name) in [
        "a/gone",
        "a/moved",
        "a/program",
        "a/linked",
        "a/long",
        "a/short",
        "b/old/x",
        "c/deep/x",
        "f",
        "g/x",
        "gone/x/y",
    ]
    .into_iter()
    .enumerate()
    {
        fs::write(at(name), noise(number as u64, 30_000 * number)).unwrap();
    }
    fs::hard_link(at("a/linked"), at("a/linked-too")).unwrap();
    let sif = place.build("base.sif", &tree);
    let exec = |flags: &[&str], image: &Path, script: &str| {
        let image = image.to_str().unwrap();
        place.run([&["exec", "--fakeroot"], flags, &[image, "/bin/sh", "-c", script]].concat()).ok()
    };
    let overlays = ["--overlay", "one", "--overlay", "two"];
    for name in ["one", "two"] {
        fs::create_dir_all(place.work(name).join("upper")).unwrap();
        super::super::harness::give(&place.work(name));
    }
    exec(&overlays[..2], &sif, FIRST);
    let first = exec(&overlays[..2], &sif, LIST);
    // The first is a layer from now on, and below the second.
    exec(&["--overlay", "one:ro", "--overlay", "two"], &sif, SECOND);
    let second = exec(&["--overlay", "one:ro", "--overlay", "two"], &sif, LIST);
    assert!(first.contains("./f/x regular file") && second.contains("./b regular file"), "{first}{second}");
    let (file, offset, length) = skiff_partition(&sif);
    let base = Squashfs::open(Source::new(file, offset, length), OpenOptions::default()).unwrap();
    let layers = [place.work("one/upper"), place.work("two/upper")];
    for (count, expected) in [(1, first), (2, second)] {
        let image = place.work(format!("packed-{count}.sqfs"));
        try_pack(Some(&base), &layers[..count], &image, &PackOptions::default()).unwrap();
        assert_eq!(exec(&[], &image, LIST), expected, "{count} layers");
    }
}

/// The root file system of an image: the file, and where in it.
fn skiff_partition(sif: &Path) -> (Arc<File>, u64, u64) {
    let bytes = fs::read(sif).unwrap();
    let magic = bytes.windows(4).enumerate().find(|(at, four)| at % 4096 == 0 && four == b"hsqs");
    let offset = magic.expect("a SquashFS in the image").0 as u64;
    (Arc::new(File::open(sif).unwrap()), offset, bytes.len() as u64 - offset)
}
