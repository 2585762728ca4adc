/* What stat(2) and its like say of files with records, and what becomes of records beside names. A part of emulate.c. */

static char seen[64];

/* What stat(2) says: the type's letter, owner, group, and a device's number. */
static const char *shown(const struct stat *st) {
    int n = snprintf(seen, sizeof seen, "%c %u:%u", S_ISREG(st->st_mode) ? 'f' : S_ISDIR(st->st_mode) ? 'd' :
        S_ISLNK(st->st_mode) ? 'l' : S_ISFIFO(st->st_mode) ? 'p' : S_ISSOCK(st->st_mode) ? 's' :
        S_ISCHR(st->st_mode) ? 'c' : S_ISBLK(st->st_mode) ? 'b' : '?', st->st_uid, st->st_gid);
    if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode))
        snprintf(seen + n, sizeof seen - n, " %u:%u", major(st->st_rdev), minor(st->st_rdev));
    return seen;
}

#define says(call, st, text)                                                                             \
    do {                                                                                                 \
        is(call, 0);                                                                                     \
        if (strcmp(shown(&(st)), text)) {                                                                \
            printf("line %d: %s says %s, not %s\n", __LINE__, #call, seen, text);                        \
            failed = 1;                                                                                  \
        }                                                                                                \
    } while (0)

/* A file whose owner is the caller's own is the kernel's to tell: everything else must be as it tells. */
static void all_the_rest_is_equal(const char *path) {
    struct stat bare, told;
    is(chown(path, 0, 0), 0);
    is(stat(path, &bare), 0);
    is(chown(path, 7, 8), 0);
    is(stat(path, &told), 0);
    is(told.st_uid, 7);
    is(told.st_gid, 8);
    told.st_uid = told.st_gid = 0;
    told.st_ctim = bare.st_ctim;
    is(memcmp(&bare, &told, sizeof bare), 0);
    struct statx facts, facts_told;
    is(chown(path, 0, 0), 0);
    is(statx(AT_FDCWD, path, 0, STATX_BASIC_STATS | STATX_BTIME, &facts), 0);
    is(chown(path, 7, 8), 0);
    is(statx(AT_FDCWD, path, 0, STATX_BASIC_STATS | STATX_BTIME, &facts_told), 0);
    is(facts_told.stx_uid, 7);
    is(facts_told.stx_gid, 8);
    facts_told.stx_uid = facts_told.stx_gid = 0;
    facts_told.stx_ctime = facts.stx_ctime;
    is(memcmp(&facts, &facts_told, sizeof facts), 0);
}

#ifdef __x86_64__
/* A call as 32-bit programs make it. Its pointers lie below 4 GiB. */
static long call_32(int number, long a, long b, long c, long d, long e) {
    long result;
    __asm__ volatile("int $0x80"
        : "=a"(result) : "0"((long)number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory", "r8", "r9", "r10", "r11");
    return (int)result;
}

struct stat_32 {
    unsigned long long dev;
    unsigned pad, short_ino, mode, nlink, uid, gid;
    unsigned long long rdev;
    unsigned pad3;
    long long size;
    unsigned blksize;
    unsigned long long blocks;
    unsigned times[6];
    unsigned long long ino;
} __attribute__((packed));

static void tells_32(void) {
    char *low = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    is(low != MAP_FAILED, 1);
    struct stat_32 *st = (void *)low, bare;
    char *path = low + 1024;
    is(sizeof *st, 96);
    strcpy(path, "told");
    is(chown("told", 0, 0), 0);
    long one = call_32(195, (long)path, (long)st, 0, 0, 0);
    if (one == -ENOSYS) {
        printf("no 32-bit calls here: not checked\n");
        return;
    }
    is(one, 0);
    bare = *st;
    is(bare.uid, 0);
    is(call_32(212, (long)path, 70000, 8, 0, 0), 0);
    recorded("told", "owner", "70000:8");
    int fd = open("told", O_RDONLY);
    for (int i = 0; i < 4; i++) {
        memset(st, 0xff, sizeof *st);
        is(i == 0 ? call_32(195, (long)path, (long)st, 0, 0, 0) : i == 1 ? call_32(196, (long)path, (long)st, 0, 0, 0) :
           i == 2 ? call_32(197, fd, (long)st, 0, 0, 0) : call_32(300, AT_FDCWD, (long)path, (long)st, 0, 0), 0);
        is(st->uid, 70000);
        is(st->gid, 8);
        st->uid = st->gid = 0;
        /* The times of the change. */
        st->times[4] = bare.times[4];
        st->times[5] = bare.times[5];
        st->pad = bare.pad;
        st->pad3 = bare.pad3;
        is(memcmp(st, &bare, sizeof bare), 0);
    }
    struct statx *facts = (void *)st;
    is(call_32(383, AT_FDCWD, (long)path, 0, STATX_BASIC_STATS, 16), -EFAULT);
    is(call_32(383, AT_FDCWD, (long)path, 0, STATX_BASIC_STATS, (long)st), 0);
    is(facts->stx_uid == 70000 && facts->stx_gid == 8, 1);
    strcpy(path, "tolddevice");
    is(call_32(195, (long)path, (long)st, 0, 0, 0), 0);
    is(st->mode & S_IFMT, S_IFBLK);
    is(st->rdev, makedev(259, 70000));
    is(call_32(195, (long)path, 16, 0, 0, 0), -EFAULT);
    close(fd);
}
#endif

/* What has a record is told with it. */
static void tells(void) {
    struct stat st, other;
    char proc[64], cwd[4096], path[8300];
    if (!getcwd(cwd, sizeof cwd)) exit(2);
    make("told", 0640);
    says(stat("told", &st), st, "f 0:0");
    all_the_rest_is_equal("told");
    is(mkdir("tolddir", 0755), 0);
    all_the_rest_is_equal("tolddir");
    is(mknod("tolddevice", S_IFBLK | 0660, makedev(259, 70000)), 0);
    says(stat("tolddevice", &st), st, "b 0:0 259:70000");
    is(st.st_mode & 07777, 0640);
    is(chown("tolddevice", 0, 6), 0);
    says(lstat("tolddevice", &st), st, "b 0:6 259:70000");
    is(mknod("tolddir/zero", S_IFCHR | 0666, makedev(1, 5)), 0);
    says(stat("tolddir/zero", &st), st, "c 0:0 1:5");
    int fd = open("told", O_RDWR), only = open("told", O_PATH), dir = open("tolddir", O_RDONLY | O_DIRECTORY);
    is(write(fd, "abc", 3), 3);
    says(fstat(fd, &st), st, "f 7:8");
    is(st.st_size, 3);
    says(fstat(only, &st), st, "f 7:8");
    says(fstatat(fd, "", &st, AT_EMPTY_PATH), st, "f 7:8");
    says(fstatat(only, "", &st, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT), st, "f 7:8");
    says(fstatat(dir, "../told", &st, 0), st, "f 7:8");
    says(fstatat(AT_FDCWD, "", &st, AT_EMPTY_PATH), st, "d 0:0");
    if (syscall(SYS_newfstatat, fd, NULL, &st, AT_EMPTY_PATH) == 0) is(st.st_uid == 7 && st.st_gid == 8, 1);
    else is(errno, EFAULT);
    is(fstatat(fd, "", &st, 0), -ENOENT);
    is(fstatat(dir, "zero", &st, 0x80), -EINVAL);
    is(fstat(-1, &st), -EBADF);
    is(syscall(SYS_fstat, AT_FDCWD, &st), -EBADF);
    is(fstat(999, &st), -EBADF);
    is(stat("missing", &st), -ENOENT);
    is(stat("told/x", &st), -ENOTDIR);
    is(syscall(SYS_newfstatat, AT_FDCWD, "told", 16, 0), -EFAULT);
    is(syscall(SYS_newfstatat, AT_FDCWD, 16, &st, 0), -EFAULT);
    is(syscall(SYS_fstat, fd, 16), -EFAULT);
    snprintf(path, sizeof path, "%s/told", cwd);
    says(stat(path, &st), st, "f 7:8");
    snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd);
    says(stat(proc, &st), st, "f 7:8");
    is(lstat(proc, &st), 0);
    is(S_ISLNK(st.st_mode), 1);
    snprintf(proc, sizeof proc, "/dev/fd/%d", fd);
    says(stat(proc, &st), st, "f 7:8");
    is(symlink(proc, "todescriptor"), 0);
    says(stat("/proc/self/cwd/told", &st), st, "f 7:8");
    is(stat("/dev/null", &st), 0);
    is(S_ISCHR(st.st_mode), 1);
    /* A mask that is not whole. */
    struct statx facts;
    is(statx(AT_FDCWD, "told", AT_STATX_DONT_SYNC, STATX_GID, &facts), 0);
    is(facts.stx_gid, 8);
    is(statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &facts), 0);
    is(facts.stx_uid == 7 && facts.stx_gid == 8 && facts.stx_size == 3, 1);
    is(statx(AT_FDCWD, "told", 0, 0x80000000, &facts), -EINVAL);
    is(statx(AT_FDCWD, "tolddir/zero", 0, STATX_BASIC_STATS, &facts), 0);
    is(S_ISCHR(facts.stx_mode) && facts.stx_rdev_major == 1 && facts.stx_rdev_minor == 5, 1);

    /* Links, pipes and sockets have theirs beside their names. */
    is(symlink("../told", "tolddir/link"), 0);
    is(lchown("tolddir/link", 3, 4), 0);
    says(lstat("tolddir/link", &st), st, "l 3:4");
    says(stat("tolddir/link", &st), st, "f 7:8");
    is(mkfifo("tolddir/pipe", 0600), 0);
    is(chown("tolddir/pipe", 5, 6), 0);
    says(stat("tolddir/pipe", &st), st, "p 5:6");
    int link = open("tolddir/link", O_PATH | O_NOFOLLOW);
    says(fstat(link, &st), st, "l 3:4");
    says(fstatat(link, "", &st, AT_EMPTY_PATH), st, "l 3:4");
    close(link);

    /* At once after each change. */
    for (int i = 1; i < 200; i++) {
        char text[32];
        snprintf(text, sizeof text, "f %d:%d", i, i + 1);
        is(fchown(fd, i, i + 1), 0);
        says(fstat(fd, &st), st, text);
        is(fchown(fd, 0, 0), 0);
        says(stat("told", &st), st, "f 0:0");
        is(setxattr("told", "user.skiff.owner", "9:9", 3, 0), 0);
        says(stat("told", &st), st, "f 9:9");
    }
    /* Whoever asks. */
    child({
        become_man();
        says(stat("told", &st), st, "f 9:9");
        child({
            is(chroot("tolddir"), 0);
            says(lstat("/link", &st), st, "l 3:4");
            is(stat("/link", &st), -ENOENT);
        });
    });
    is(unlink("told"), 0);
    says(fstat(fd, &st), st, "f 9:9");
    close(fd);
    make("told", 0600);
    says(stat("told", &st), st, "f 0:0");
#ifdef __x86_64__
    says(syscall(SYS_stat, "tolddir", &st), st, "d 7:8");
    says(syscall(SYS_lstat, "tolddir/pipe", &st), st, "p 5:6");
    if (!native) tells_32();
#endif
}

/* A name's record goes with the name. */
static void names(void) {
    struct stat st;
    is(mkdir("names", 0755), 0);
    is(chdir("names"), 0);
    is(mkdir("other", 0755), 0);
    is(symlink("x", "one"), 0);
    is(lchown("one", 3, 4), 0);
    says(lstat("one", &st), st, "l 3:4");
    is(rename("one", "two"), 0);
    recorded(".", "owner.one", "-");
    says(lstat("two", &st), st, "l 3:4");
    is(renameat(AT_FDCWD, "two", AT_FDCWD, "other/three"), 0);
    recorded(".", "owner.two", "-");
    says(lstat("other/three", &st), st, "l 3:4");
    /* One that is root's in its place. */
    is(symlink("y", "root"), 0);
    is(rename("root", "other/three"), 0);
    recorded("other", "owner.three", "-");
    says(lstat("other/three", &st), st, "l 0:0");
    /* Both. */
    is(mkfifo("pipe", 0600), 0);
    is(chown("pipe", 5, 6), 0);
    is(lchown("other/three", 7, 8), 0);
    is(syscall(SYS_renameat2, AT_FDCWD, "pipe", AT_FDCWD, "other/three", RENAME_EXCHANGE), 0);
    says(lstat("pipe", &st), st, "l 7:8");
    says(lstat("other/three", &st), st, "p 5:6");
    is(syscall(SYS_renameat2, AT_FDCWD, "pipe", AT_FDCWD, "other/three", RENAME_NOREPLACE), -EEXIST);
    make("file", 0600);
    is(syscall(SYS_renameat2, AT_FDCWD, "file", AT_FDCWD, "pipe", RENAME_EXCHANGE), 0);
    says(lstat("file", &st), st, "l 7:8");
    says(lstat("pipe", &st), st, "f 0:0");
    /* Errors change nothing. */
    is(rename("file", "missing/x"), -ENOENT);
    is(rename("missing", "x"), -ENOENT);
    is(rename("file", "other"), -EISDIR);
    is(rename("file", (char *)16), -EFAULT);
    is(rename((char *)16, "file"), -EFAULT);
    is(syscall(SYS_renameat2, AT_FDCWD, "file", AT_FDCWD, "new", 0x80), -EINVAL);
    says(lstat("file", &st), st, "l 7:8");
    /* Another name of the same. */
    is(linkat(AT_FDCWD, "file", AT_FDCWD, "again", 0), 0);
    says(lstat("again", &st), st, "l 7:8");
    is(link("file", "again"), -EEXIST);
    /* A new one of a name that was gone. */
    is(unlink("again"), 0);
    is(symlink("z", "again"), 0);
    says(lstat("again", &st), st, "l 0:0");
    recorded(".", "owner.again", "-");
    is(symlink("z", "file"), -EEXIST);
    says(lstat("file", &st), st, "l 7:8");
    is(unlink("file"), 0);
    is(mkfifo("file", 0600), 0);
    says(lstat("file", &st), st, "p 0:0");
    is(chown("file", 1, 1), 0);
    is(unlink("file"), 0);
    struct sockaddr_un address = {AF_UNIX, "file"};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    is(bind(fd, (void *)&address, sizeof address), 0);
    says(lstat("file", &st), st, "s 0:0");
    close(fd);
    is(chown("file", 2, 2), 0);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    is(bind(fd, (void *)&address, sizeof address), -EADDRINUSE);
    says(lstat("file", &st), st, "s 2:2");
    child({
        become_man();
        strcpy(address.sun_path, "mine");
        is(bind(fd, (void *)&address, sizeof address), 0);
        says(lstat("mine", &st), st, "s 6:12");
        is(getsockname(fd, (void *)&address, (socklen_t[]){sizeof address}), 0);
        is(strcmp(address.sun_path, "mine"), 0);
        int abstract = socket(AF_UNIX, SOCK_STREAM, 0);
        struct sockaddr_un none = {AF_UNIX, {0, 'a', 'b'}};
        is(bind(abstract, (void *)&none, sizeof none), 0);
    });
    /* Directories and files have theirs with them. */
    is(chown("other", 4, 4), 0);
    is(rename("other", "moved"), 0);
    says(lstat("moved", &st), st, "d 4:4");
    says(lstat("moved/three", &st), st, "p 5:6");

    /* What root makes where the group is handed down. */
    is(mkdir("shared", 0), 0);
    is(chown("shared", 0, 50), 0);
    is(chmod("shared", 02755), 0);
    umask(022);
    is(close(open("shared/file", O_CREAT | O_WRONLY, 0666)), 0);
    says(stat("shared/file", &st), st, "f 0:50");
    is(st.st_mode & 07777, 0644);
    is(mkdir("shared/dir", 0777), 0);
    says(stat("shared/dir", &st), st, "d 0:50");
    is(st.st_mode & 07777, 02755);
    is(mkdir("shared/dir/dir", 0777), 0);
    says(stat("shared/dir/dir", &st), st, "d 0:50");
    is(symlink("x", "shared/link"), 0);
    says(lstat("shared/link", &st), st, "l 0:50");
    is(mkfifo("shared/pipe", 0666), 0);
    says(lstat("shared/pipe", &st), st, "p 0:50");
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    strcpy(address.sun_path, "shared/socket");
    is(bind(fd, (void *)&address, sizeof address), 0);
    says(lstat("shared/socket", &st), st, "s 0:50");
    close(fd);
    is(open("shared/file", O_CREAT | O_EXCL | O_WRONLY, 0666), -EEXIST);
    is(mkdir("shared/dir", 0777), -EEXIST);
    is(chmod("shared", 0755), 0);
    is(close(creat("shared/plain", 0666)), 0);
    says(stat("shared/plain", &st), st, "f 0:0");
    is(chdir(".."), 0);
}
