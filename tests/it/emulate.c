/* What a program sees of emulated root, call by call, by the system calls themselves: run in an empty directory, with
 * --fakeroot. Prints each check that fails with its line, and exits 1 if any did.
 *
 * usage: emulate calls [native]  every call, and its errors; without those of 32-bit programs
 *        emulate hostile         what no program should do; must end, and leave the supervisor alive
 *        emulate chowns COUNT    so many changes of owner of the file 'file', and how long one took
 *        emulate files COUNT     so many new files in directories of their own, and how long one took
 *        emulate man             makes one of everything as another user, in a directory that it has been given
 *        emulate ask             chown of a file: prints the errno
 *        emulate children        prints the errno of waiting for a child
 *        emulate threads         ids and files from many threads and processes at once
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>
#ifndef __GLIBC__
/* Of musl, some have none of it. */
#include <linux/fs.h>
#include <linux/stat.h>
#define statx(...) syscall(SYS_statx, __VA_ARGS__)
#endif

static int failed;
/* Whether no 32-bit calls are to be made. */
static int native;

/* The call gives `value`; or, for a negative one, fails with that errno. */
#define is(call, value)                                                                                  \
    do {                                                                                                 \
        errno = 0;                                                                                       \
        long is_ = (long)(call), want_ = (long)(value);                                                  \
        if (is_ == -1 && errno) is_ = -errno;                                                            \
        if (is_ != want_) {                                                                              \
            printf("line %d: %s is %ld, not %ld\n", __LINE__, #call, is_, want_);                        \
            failed = 1;                                                                                  \
        }                                                                                                \
    } while (0)

/* Runs a block in a child process; what fails there fails here. */
#define child(...)                                                                                       \
    do {                                                                                                 \
        fflush(stdout);                                                                                  \
        pid_t child_ = fork();                                                                           \
        if (child_ == 0) {                                                                               \
            failed = 0;                                                                                  \
            __VA_ARGS__;                                                                                    \
            fflush(stdout);                                                                              \
            _exit(failed);                                                                               \
        }                                                                                                \
        int status_ = 0;                                                                                 \
        waitpid(child_, &status_, 0);                                                                    \
        if (status_) failed = 1;                                                                         \
    } while (0)

static char text[256];

/* A record, or "-". */
static const char *record(const char *path, const char *name) {
    char full[512];
    snprintf(full, sizeof full, "user.skiff.%s", name);
    ssize_t got = lgetxattr(path, full, text, sizeof text - 1);
    if (got < 0) return "-";
    text[got] = 0;
    return text;
}

#define recorded(path, name, value)                                                                      \
    do {                                                                                                 \
        const char *record_ = record(path, name);                                                        \
        if (strcmp(record_, value)) {                                                                    \
            printf("line %d: %s of %s is %s, not %s\n", __LINE__, name, path, record_, value);            \
            failed = 1;                                                                                  \
        }                                                                                                \
    } while (0)

static void make(const char *name, mode_t mode) {
    unlink(name);
    close(open(name, O_CREAT | O_WRONLY, 0600));
    chmod(name, mode);
}

static mode_t mode_of(const char *path) {
    struct stat st;
    return lstat(path, &st) ? 0 : st.st_mode;
}

static void owners(void) {
    char cwd[4096], path[8300], proc[64];
    if (!getcwd(cwd, sizeof cwd)) exit(2);
    make("file", 0644);
    is(chown("file", 5, 7), 0);
    recorded("file", "owner", "5:7");
    is(chown("file", -1, 8), 0);
    recorded("file", "owner", "5:8");
    is(chown("file", 9, -1), 0);
    recorded("file", "owner", "9:8");
    is(chown("file", -1, -1), 0);
    recorded("file", "owner", "9:8");
    is(chown("file", 0, 0), 0);
    recorded("file", "owner", "-");
    is(chown("file", 4294967294u, 4294967294u), 0);
    recorded("file", "owner", "4294967294:4294967294");
    snprintf(path, sizeof path, "%s/file", cwd);
    is(chown(path, 1, 2), 0);
    recorded("file", "owner", "1:2");

    /* Permission bits as the kernel has them. */
    make("suid", 06755);
    is(chown("suid", 0, 0), 0);
    is(mode_of("suid") & 07777, 0755);
    make("readonly", 0444);
    is(chown("readonly", 3, 3), 0);
    recorded("readonly", "owner", "3:3");

    /* Links, descriptors, directories. */
    is(mkdir("dir", 0700), 0);
    is(symlink("../file", "dir/link"), 0);
    is(chown("dir/link", 2, 2), 0);
    recorded("file", "owner", "2:2");
    is(lchown("dir/link", 3, 4), 0);
    recorded("dir", "owner.link", "3:4");
    recorded("file", "owner", "2:2");
    is(lchown("dir/link", 0, 0), 0);
    recorded("dir", "owner.link", "-");
    is(mkfifo("dir/pipe", 0600), 0);
    is(chown("dir/pipe", 3, 4), 0);
    recorded("dir", "owner.pipe", "3:4");
    is(chown("dir/", 6, 6), 0);
    recorded("dir", "owner", "6:6");
    is(chown("file/", 6, 6), -ENOTDIR);
    int fd = open("file", O_RDONLY), dir = open("dir", O_RDONLY | O_DIRECTORY);
    is(fchown(fd, 7, 7), 0);
    recorded("file", "owner", "7:7");
    is(fchownat(fd, "", 8, 8, AT_EMPTY_PATH), 0);
    recorded("file", "owner", "8:8");
    is(fchownat(fd, "", 8, 8, 0), -ENOENT);
    is(fchownat(dir, "../file", 9, 9, 0), 0);
    recorded("file", "owner", "9:9");
    is(fchownat(dir, "link", 1, 1, AT_SYMLINK_NOFOLLOW), 0);
    recorded("dir", "owner.link", "1:1");
    is(fchownat(dir, "link", 1, 1, 0x8000), -EINVAL);
    is(fchownat(fd, "x", 1, 1, 0), -ENOTDIR);
    is(fchownat(99, "x", 1, 1, 0), -EBADF);
    is(fchownat(AT_FDCWD, "", 5, 5, AT_EMPTY_PATH), 0);
    recorded(".", "owner", "5:5");
    is(chown(".", 0, 0), 0);
    snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd);
    is(chown(proc, 11, 11), 0);
    recorded("file", "owner", "11:11");
    snprintf(proc, sizeof proc, "/dev/fd/%d", fd);
    is(chown(proc, 12, 12), 0);
    recorded("file", "owner", "12:12");
    is(chown("/proc/self/cwd/file", 13, 13), 0);
    recorded("file", "owner", "13:13");
    snprintf(path, sizeof path, "/proc/thread-self/root%s/file", cwd);
    is(chown(path, 14, 14), 0);
    recorded("file", "owner", "14:14");
    int deleted = open("deleted", O_CREAT | O_RDWR, 0600);
    unlink("deleted");
    is(fchown(deleted, 4, 4), 0);
    char value[16] = "";
    fgetxattr(deleted, "user.skiff.owner", value, sizeof value);
    is(strcmp(value, "4:4"), 0);
    int ends[2];
    is(pipe(ends), 0);
    is(fchown(ends[0], 1, 1), 0);
    is(chown("/proc", 0, 0), 0);

    /* Another root directory. */
    child({
        is(mkdir("root", 0755), 0);
        is(chroot("root"), 0);
        is(chdir("/"), 0);
        make("/inner", 0644);
        is(symlink("/inner", "/absolute"), 0);
        is(chown("/absolute", 21, 22), 0);
        is(chown("../../inner", 21, -1), 0);
        is(chown("/file", 1, 1), -ENOENT);
    });
    recorded("root/inner", "owner", "21:22");

    /* Errors. */
    is(chown("missing", 1, 1), -ENOENT);
    is(chown("", 1, 1), -ENOENT);
    is(chown("file/x", 1, 1), -ENOTDIR);
    is(syscall(SYS_fchownat, AT_FDCWD, NULL, 1, 1, 0), -EFAULT);
    is(syscall(SYS_fchownat, AT_FDCWD, 16, 1, 1, 0), -EFAULT);
    is(fchown(99, 1, 1), -EBADF);
    is(symlink("loop", "loop"), 0);
    is(chown("loop", 1, 1), -ELOOP);
    memset(path, 'x', sizeof path);
    path[300] = 0;
    is(chown(path, 1, 1), -ENAMETOOLONG);
    path[300] = 'x';
    path[5000] = 0;
    is(chown(path, 1, 1), -ENAMETOOLONG);
    is(chown("/proc/self/fd/99", 1, 1), -ENOENT);
    if (access("/bin/busybox", W_OK) && errno == EROFS) is(chown("/bin/busybox", 1, 1), -EROFS);
    /* A path that ends with the page. */
    long page = sysconf(_SC_PAGESIZE);
    char *two = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(two + page, page);
    memcpy(two + page - 5, "file", 5);
    is(chown(two + page - 5, 31, 31), 0);
    recorded("file", "owner", "31:31");
    memcpy(two + page - 4, "file", 4);
    is(chown(two + page - 4, 1, 1), -EFAULT);
}

static void devices(void) {
    umask(027);
    is(mknod("null", S_IFCHR | 0666, makedev(1, 3)), 0);
    recorded("null", "device", "c:1:3");
    is(mode_of("null"), S_IFCHR | 0640);
    umask(0);
    is(mknodat(AT_FDCWD, "disk", S_IFBLK | 0660, makedev(259, 70000)), 0);
    recorded("disk", "device", "b:259:70000");
    is(mode_of("disk"), S_IFBLK | 0660);
    is(chown("disk", 0, 6), 0);
    recorded("disk", "owner", "0:6");
    is(mknod("null", S_IFCHR | 0666, makedev(1, 3)), -EEXIST);
    is(symlink("nowhere", "dangling"), 0);
    is(mknod("dangling", S_IFCHR | 0666, makedev(1, 3)), -EEXIST);
    is(mknod("missing/x", S_IFCHR | 0666, makedev(1, 3)), -ENOENT);
    is(mknod("x/", S_IFCHR | 0666, makedev(1, 3)), -ENOENT);
    is(mknod("dir/", S_IFCHR | 0666, makedev(1, 3)), -EEXIST);
    is(mknod(".", S_IFCHR | 0666, makedev(1, 3)), -EEXIST);
    is(mknod("/", S_IFCHR | 0666, makedev(1, 3)), -EEXIST);
    is(mknod("", S_IFCHR | 0666, makedev(1, 3)), -ENOENT);
    is(mknod("null/x", S_IFCHR | 0666, makedev(1, 3)), -ENOTDIR);
    is(syscall(SYS_mknodat, AT_FDCWD, 16, S_IFCHR | 0666, makedev(1, 3)), -EFAULT);
    char name[300];
    memset(name, 'x', sizeof name);
    name[299] = 0;
    is(mknod(name, S_IFCHR | 0666, makedev(1, 3)), -ENAMETOOLONG);
    /* What users may make is made. */
    is(mknod("pipe", S_IFIFO | 0600, 0), 0);
    is(mode_of("pipe"), S_IFIFO | 0600);
    is(mknod("plain", S_IFREG | 0600, 0), 0);
    /* Overlays keep theirs for themselves. */
    int why = mknod("whiteout", S_IFCHR, 0) ? errno : 0;
    is(why == 0 || why == EPERM, 1);
    is(mode_of("whiteout"), why ? 0 : S_IFCHR);
    umask(022);
}

/* A version 2 capability: cap_net_raw=ep. */
static const unsigned char net_raw[20] = {1, 0, 0, 2, 0, 0x20};

static void attributes(void) {
    char value[64];
    make("ping", 0755);
    is(setxattr("ping", "security.capability", net_raw, 20, 0), 0);
    is(getxattr("ping", "security.capability", value, sizeof value), 20);
    is(memcmp(value, net_raw, 20), 0);
    is(chown("ping", 0, 0), 0);
    is(getxattr("ping", "security.capability", value, sizeof value), -ENODATA);
    int fd = open("ping", O_RDONLY);
    is(fsetxattr(fd, "security.capability", net_raw, 20, XATTR_CREATE), 0);
    is(fsetxattr(fd, "security.capability", net_raw, 20, XATTR_CREATE), -EEXIST);
    is(removexattr("ping", "security.capability"), 0);
    is(removexattr("ping", "security.capability"), -ENODATA);
    /* Those that are not for users are recorded. */
    is(setxattr("ping", "trusted.one", "abc", 3, 0), 0);
    recorded("ping", "xattr.trusted.one", "abc");
    is(lsetxattr("ping", "trusted.one", "d", 1, XATTR_CREATE), -EEXIST);
    is(setxattr("ping", "trusted.two", "d", 1, XATTR_REPLACE), -ENODATA);
    is(lremovexattr("ping", "trusted.one"), 0);
    recorded("ping", "xattr.trusted.one", "-");
    /* The rest is the kernel's. */
    is(setxattr("ping", "user.colour", "blue", 4, 0), 0);
    is(getxattr("ping", "user.colour", value, sizeof value), 4);
    is(setxattr("ping", "nonsense", "x", 1, 0), -EOPNOTSUPP);
    is(setxattr("missing", "security.capability", net_raw, 20, 0), -ENOENT);
    is(setxattr("ping", "security.capability", net_raw, 1 << 20, 0), -E2BIG);
    is(setxattr("ping", "trusted.one", (void *)16, 8, 0), -EFAULT);
    is(setxattr("ping", (void *)16, "x", 1, 0), -EFAULT);
    is(setxattr("ping", "security.capability", net_raw, 20, 77), -EINVAL);
    is(lsetxattr("dir/link", "trusted.one", "x", 1, 0), 0);
}

static void ids(void) {
    uid_t r, e, s;
    gid_t g[8];
    is(getuid(), 0);
    child({
        /* As apt drops to its user, and looks whether it worked. */
        gid_t one = 65534;
        is(setgroups(1, &one), 0);
        is(setresgid(65534, 65534, 65534), 0);
        is(setresuid(42, 42, 42), 0);
        is(getgroups(1, g), 1);
        is(g[0], 65534);
        is(getuid(), 42);
        is(geteuid(), 42);
        is(getgid(), 65534);
        is(getegid(), 65534);
        is(getresuid(&r, &e, &s), 0);
        is(r == 42 && e == 42 && s == 42, 1);
        is(setuid(0), -EPERM);
        is(seteuid(0), -EPERM);
        is(setgid(0), -EPERM);
        is(setgroups(0, NULL), -EPERM);
        is(setuid(42), 0);
        is(chown("file", 1, 1), -EPERM);
        is(mknod("forbidden", S_IFCHR, makedev(1, 3)), -EPERM);
        is(mknod("null", S_IFCHR, makedev(1, 3)), -EEXIST);
        /* Children have it, also those whose parent is gone. */
        child({
            is(getuid(), 42);
            int ends[2];
            char answer = '?';
            if (pipe(ends)) _exit(2);
            if (fork() == 0) {
                if (fork() == 0) {
                    while (getppid() != 1) usleep(1000);
                    if (write(ends[1], getuid() == 42 ? "y" : "n", 1) != 1) _exit(2);
                    _exit(0);
                }
                _exit(0);
            }
            wait(NULL);
            is(read(ends[0], &answer, 1), 1);
            is(answer, 'y');
        });
    });
    is(getuid(), 0);
    child({
        /* One's own file may go to one's own group. */
        make("mine", 0644);
        is(chown("mine", 42, 7), 0);
        gid_t one = 9;
        is(setgroups(1, &one), 0);
        is(setgid(8), 0);
        is(setuid(42), 0);
        is(chown("mine", -1, 9), 0);
        is(chown("mine", 42, 8), 0);
        recorded("mine", "owner", "42:8");
        is(chown("mine", -1, 10), -EPERM);
        is(chown("mine", 43, -1), -EPERM);
        is(chown("file", -1, 9), -EPERM);
    });
    child({
        is(seteuid(5), 0);
        is(getuid(), 0);
        is(geteuid(), 5);
        is(setuid(6), -EPERM);
        is(seteuid(0), 0);
        is(setreuid(3, 4), 0);
        is(getresuid(&r, &e, &s), 0);
        is(r == 3 && e == 4 && s == 4, 1);
        is(setregid(-1, 4), -EPERM);
    });
    child({
        is(setregid(3, 4), 0);
        is(getresgid(&r, &e, &s), 0);
        is(r == 3 && e == 4 && s == 4, 1);
        is(setfsgid(9), 4);
        is(setfsgid(-1), 9);
        is(setfsuid(9), 0);
        is(setfsuid(0), 9);
        is(setfsuid(-1), 0);
        is(syscall(SYS_setuid, -1), -EINVAL);
        is(syscall(SYS_getresuid, 16, 16, 16), -EFAULT);
    });
    child({
        gid_t many[4] = {7, 3, 9, 3};
        is(setgroups(4, many), 0);
        is(getgroups(0, NULL), 4);
        is(getgroups(3, g), -EINVAL);
        is(getgroups(-1, g), -EINVAL);
        is(getgroups(8, g), 4);
        is(g[0] == 3 && g[1] == 3 && g[2] == 7 && g[3] == 9, 1);
        is(syscall(SYS_getgroups, 8, 16), -EFAULT);
        is(syscall(SYS_setgroups, 1, 16), -EFAULT);
        is(syscall(SYS_setgroups, 70000, many), -EINVAL);
        is(setgroups(0, NULL), 0);
        is(getgroups(8, g), 0);
    });
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    is(syscall(SYS_capget, &header, data), 0);
    is(syscall(SYS_capset, &header, data), 0);
    child({
        /* Users first, groups after, with capabilities kept: as setpriv does. */
        is(setuid(42), 0);
        is(setgid(7), -EPERM);
        is(syscall(SYS_capset, &header, data), 0);
        is(setgid(7), 0);
        is(chown("file", 1, 1), 0);
        /* The next program has none. */
        fflush(stdout);
        execl("/proc/self/exe", "emulate", "kept", NULL);
        failed = 1;
    });
}

/* Takes the user 6 and the group 12 for good. */
static void become_man(void) {
    is(setgroups(0, NULL), 0);
    is(setgid(12), 0);
    is(setuid(6), 0);
}

static int is_closed_on_exec(int fd) { return fcntl(fd, F_GETFD) & FD_CLOEXEC; }

struct how { unsigned long long flags, mode, resolve; };

/* What a process makes that is no longer root is its own. */
static void makes(void) {
    char path[8300], buffer[16];
    is(mkdir("made", 0755), 0);
    is(chdir("made"), 0);
    make("existing", 0640);
    is(mkdir("shared", 0), 0);
    is(chown("shared", 0, 50), 0);
    is(chmod("shared", 02775), 0);
    child({
        umask(027);
        become_man();
        int fd = open("file", O_CREAT | O_RDWR, 0666);
        is(fd >= 0, 1);
        is(is_closed_on_exec(fd), 0);
        is(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDWR);
        is(write(fd, "abc", 3), 3);
        is(pread(fd, buffer, sizeof buffer, 0), 3);
        recorded("file", "owner", "6:12");
        is(mode_of("file"), S_IFREG | 0640);
        is(open("file", O_CREAT | O_EXCL | O_RDWR, 0666), -EEXIST);
        int again = open("file", O_CREAT | O_RDONLY, 0666);
        is(read(again, buffer, sizeof buffer), 3);
        fd = open("closed", O_CREAT | O_EXCL | O_WRONLY | O_APPEND | O_CLOEXEC, 0404);
        is(is_closed_on_exec(fd), FD_CLOEXEC);
        is(!(fcntl(fd, F_GETFL) & O_APPEND), 0);
        is(write(fd, "abc", 3), 3);
        recorded("closed", "owner", "6:12");
        is(mode_of("closed"), S_IFREG | 0400);
        /* What is there stays whose it was. */
        is(close(open("existing", O_CREAT | O_WRONLY | O_TRUNC, 0666)), 0);
        recorded("existing", "owner", "-");
        is(mode_of("existing"), S_IFREG | 0640);
        is(close(creat("created", 0600)), 0);
        recorded("created", "owner", "6:12");
        is(close(syscall(SYS_open, "opened", O_CREAT | O_WRONLY, 04711)), 0);
        recorded("opened", "owner", "6:12");
        is(mode_of("opened"), S_IFREG | 04710);

        is(mkdir("dir", 0777), 0);
        recorded("dir", "owner", "6:12");
        is(mode_of("dir"), S_IFDIR | 0750);
        is(mkdir("dir/slashes//", 0700), 0);
        recorded("dir/slashes", "owner", "6:12");
        is(mkdir("dir", 0777), -EEXIST);
        is(mkdir("dir/.", 0777), -EEXIST);
        is(mkdir("/", 0777), -EEXIST);
        is(mkdir("none/dir", 0777), -ENOENT);
        is(mkdir("file/dir", 0777), -ENOTDIR);

        /* Relative to a directory, and absolute. */
        int dir = open("dir", O_RDONLY | O_DIRECTORY);
        is(close(openat(dir, "one", O_CREAT | O_WRONLY, 0600)), 0);
        recorded("dir/one", "owner", "6:12");
        is(mkdirat(dir, "two", 0700), 0);
        recorded("dir/two", "owner", "6:12");
        is(symlinkat("one", dir, "link"), 0);
        recorded("dir", "owner.link", "6:12");
        is(readlink("dir/link", buffer, sizeof buffer), 3);
        is(mkfifoat(dir, "pipe", 0666), 0);
        recorded("dir", "owner.pipe", "6:12");
        is(mode_of("dir/pipe"), S_IFIFO | 0640);
        is(mknod("dir/socket", S_IFSOCK | 0600, 0), 0);
        recorded("dir", "owner.socket", "6:12");
        is(mknod("plain", S_IFREG | 0604, 0), 0);
        recorded("plain", "owner", "6:12");
        is(mknod("typeless", 0604, 0), 0);
        recorded("typeless", "owner", "6:12");
        is(mode_of("typeless"), S_IFREG | 0600);
        is(mknod("plain", S_IFIFO | 0600, 0), -EEXIST);
        is(mknod("directory", S_IFDIR | 0600, 0), -EPERM);
        is(openat(99, "x", O_CREAT | O_WRONLY, 0600), -EBADF);
        is(openat(fd, "x", O_CREAT | O_WRONLY, 0600), -ENOTDIR);
        if (!getcwd(path, 4096)) _exit(2);
        strcat(path, "/absolute");
        is(symlink("file", path), 0);
        recorded(".", "owner.absolute", "6:12");
        is(symlink("file", path), -EEXIST);
        is(symlink("", "empty"), -ENOENT);
        is(symlink("file", "none/"), -ENOENT);

        /* Where links lead. */
        is(symlink("dir/end", "first"), 0);
        is(symlink("first", "second"), 0);
        is(open("second", O_CREAT | O_EXCL | O_WRONLY, 0600), -EEXIST);
        is(open("second", O_CREAT | O_NOFOLLOW | O_WRONLY, 0600), -ELOOP);
        is(close(open("second", O_CREAT | O_WRONLY, 0600)), 0);
        recorded("dir/end", "owner", "6:12");
        is(symlink("round", "round"), 0);
        is(open("round", O_CREAT | O_WRONLY, 0600), -ELOOP);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        is(close(open(path, O_CREAT | O_WRONLY, 0600)), 0);
        is(open("/proc/self/fd/99", O_CREAT | O_WRONLY, 0600), -ENOENT);
        is(open("/proc/none", O_CREAT | O_WRONLY, 0600), -ENOENT);
        is(open("dir", O_CREAT | O_WRONLY, 0600), -EISDIR);
        is(open("new/", O_CREAT | O_WRONLY, 0600), -EISDIR);

        /* The group of the directory. */
        is(close(open("shared/file", O_CREAT | O_WRONLY, 0644)), 0);
        recorded("shared/file", "owner", "6:50");
        is(mkdir("shared/dir", 0755), 0);
        recorded("shared/dir", "owner", "6:50");
        is(mode_of("shared/dir"), S_IFDIR | 02750);
        is(mkdir("shared/dir/inner", 0755), 0);
        recorded("shared/dir/inner", "owner", "6:50");
        is(mode_of("shared/dir/inner"), S_IFDIR | 02750);
        is(symlink("x", "shared/link"), 0);
        recorded("shared", "owner.link", "6:50");

        /* Without a name at first. Not every file system can. */
        fd = open("dir", O_TMPFILE | O_RDWR, 0600);
        if (fd >= 0) {
            snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
            is(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW), 0);
            recorded("named", "owner", "6:12");
        }
        struct how how = {O_CREAT | O_WRONLY | O_CLOEXEC, 0600, 0};
        fd = syscall(437, AT_FDCWD, "newest", &how, sizeof how);
        if (fd >= 0 || errno != ENOSYS) {
            is(is_closed_on_exec(fd), FD_CLOEXEC);
            recorded("newest", "owner", "6:12");
            how.mode = 010000;
            is(syscall(437, AT_FDCWD, "wrong", &how, sizeof how), -EINVAL);
            is(syscall(437, AT_FDCWD, "wrong", &how, 8), -EINVAL);
            is(syscall(437, AT_FDCWD, "wrong", 16, sizeof how), -EFAULT);
        }

        is(syscall(SYS_openat, AT_FDCWD, 16, O_CREAT | O_WRONLY, 0600), -EFAULT);
        is(syscall(SYS_mkdirat, AT_FDCWD, NULL, 0600), -EFAULT);
        is(syscall(SYS_symlinkat, 16, AT_FDCWD, "bad"), -EFAULT);
        is(syscall(SYS_symlinkat, "x", AT_FDCWD, 16), -EFAULT);
        is(mode_of("bad"), 0);
        memset(path, 'x', sizeof path);
        path[300] = 0;
        is(mkdir(path, 0700), -ENAMETOOLONG);
        path[300] = 'x';
        path[5000] = 0;
        is(mkdir(path, 0700), -ENAMETOOLONG);
        /* No descriptor is left: and no file. */
        struct rlimit few = {3, 3};
        is(setrlimit(RLIMIT_NOFILE, &few), 0);
        is(open("many", O_CREAT | O_WRONLY, 0600), -EMFILE);
        is(mode_of("many"), 0);
    });
    child({
        /* A program is executed that was written a moment ago. */
        become_man();
        int from = open("/proc/self/exe", O_RDONLY);
        static char all[1 << 22];
        long length = read(from, all, sizeof all);
        for (int i = 0; i < 20; i++) {
            unlink("program");
            int fd = open("program", O_CREAT | O_WRONLY, 0755);
            is(write(fd, all, length), length);
            is(close(fd), 0);
            child({
                execl("program", "program", "nothing", NULL);
                is(errno, 0);
            });
        }
    });
    child({
        /* A group alone; the id for files alone; and root again. */
        is(setegid(7), 0);
        is(mkdir("group", 0755), 0);
        recorded("group", "owner", "0:7");
        is(setegid(0), 0);
        setfsuid(3);
        is(mkdir("user", 0755), 0);
        recorded("user", "owner", "3:0");
        setfsuid(0);
        is(mkdir("root", 0755), 0);
        recorded("root", "owner", "-");
        is(mknod("pipe", S_IFIFO | 0600, 0), 0);
        recorded(".", "owner.pipe", "-");
    });
    is(chdir(".."), 0);
}

static int man(void) {
    is(mkdir("cache", 0), 0);
    is(chown("cache", 6, 12), 0);
    is(chmod("cache", 02755), 0);
    is(mkdir("shared", 0777), 0);
    is(chown("shared", 0, 50), 0);
    is(chmod("shared", 02777), 0);
    become_man();
    is(mkdir("cache/cat1", 0755), 0);
    is(close(open("cache/cat1/page", O_CREAT | O_WRONLY, 0644)), 0);
    is(symlink("page", "cache/cat1/link"), 0);
    is(mkfifo("cache/cat1/pipe", 0644), 0);
    is(close(creat("shared/index", 0664)), 0);
    is(rename("cache/cat1", "cache/cat2"), 0);
    is(mkdir("plain", 0700), 0);
    return failed;
}

#include "emulate_stat.c"

static int calls(void) {
    owners();
    tells();
    names();
    devices();
    attributes();
    makes();
    ids();
    return failed;
}

static volatile int stop;
static char racing[8192];

static void *race(void *unused) {
    (void)unused;
    for (unsigned i = 0; !stop; i++) {
        memset(racing, 'a' + i % 7, sizeof racing - 1);
        memcpy(racing, i & 1 ? "file" : "/proc/self/fd/0", 5);
    }
    return NULL;
}

static void nothing(int signal) { (void)signal; }

static int hostile(void) {
    make("file", 0644);
    /* Every pointer is bad, every number is odd. */
    static const long odd[] = {0, 1, 16, -1, -4096, 0x7fffffff, 0x80000000, 0x7ffffffff000, (long)0x8000000000000000};
    static const int numbers[] = {SYS_chown, SYS_fchown, SYS_lchown, SYS_fchownat, SYS_mknod, SYS_mknodat, SYS_setxattr,
        SYS_lsetxattr, SYS_fsetxattr, SYS_removexattr, SYS_lremovexattr, SYS_fremovexattr, SYS_getgroups, SYS_setgroups,
        SYS_getresuid, SYS_getresgid, SYS_capset, 463, 466, SYS_stat, SYS_lstat, SYS_fstat, SYS_newfstatat, SYS_statx,
        SYS_rename, SYS_renameat, SYS_renameat2, SYS_link, SYS_linkat, SYS_bind, SYS_open, SYS_openat, SYS_creat, SYS_mkdirat, SYS_symlink, SYS_symlinkat,
        437};
    int odds = sizeof odd / sizeof *odd;
    for (unsigned n = 0; n < sizeof numbers / sizeof *numbers; n++)
        for (int i = 0; i < odds * odds * odds; i++)
            child({
                long a = odd[i % odds], b = odd[i / odds % odds], c = odd[i / odds / odds];
                if (i % 18 == 0) setuid(7);
                if (i % 9 == 0) syscall(numbers[n], a, b, c, a, b, c);
                _exit(0);
            });
    /* Memory that changes and goes away meanwhile. */
    pthread_t thread;
    pthread_create(&thread, NULL, race, NULL);
    for (int i = 0; i < 3000; i++) {
        chown(racing, 1, 1);
        setxattr("file", racing, racing, sizeof racing, 0);
        struct stat st;
        stat(racing, &st);
        rename(racing, "raced");
        rename("raced", "file");
    }
    stop = 1;
    pthread_join(thread, NULL);
    /* Ends in the middle of a call, by its own and by others' hand. */
    for (int i = 0; i < 300; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            if (i & 1) setuid(7);
            for (;;) { chown("file", i, i); (void)getuid(); close(open("often", O_CREAT | O_RDWR, 0600)); unlink("often"); }
        }
        struct timespec pause = {0, i * 1000};
        nanosleep(&pause, NULL);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    /* Signals all the time: what is answered is answered right, or not at all (EINTR). */
    struct sigaction action = {.sa_handler = nothing, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    pid_t self = getpid(), sender = fork();
    if (sender == 0) for (;;) kill(self, SIGUSR1);
    for (int i = 0; i < 2000; i++) {
        is(chown("file", 5, i + 1), 0);
        is(getuid(), 0);
    }
    kill(sender, SIGKILL);
    waitpid(sender, NULL, 0);
    recorded("file", "owner", "5:2000");
    /* Executed while another thread calls. */
    for (int i = 0; i < 50; i++)
        child({
            pthread_create(&thread, NULL, race, NULL);
            if (fork() == 0) {
                for (int j = 0; j < 100; j++) chown(racing, 1, 1);
                _exit(0);
            }
            execl("/proc/self/exe", "emulate", "ask", NULL);
        });
    child({
        is(setuid(7), 0);
        is(getuid(), 7);
    });
    return failed;
}

static void *use(void *number) {
    char name[32];
    snprintf(name, sizeof name, "thread%ld", (long)number);
    make(name, 0644);
    for (int i = 1; i <= 200; i++) {
        char owner[32];
        is(chown(name, i, (long)number), 0);
        snprintf(owner, sizeof owner, "%d:%ld", i, (long)number);
        char value[32] = "";
        getxattr(name, "user.skiff.owner", value, sizeof value - 1);
        is(strcmp(value, owner), 0);
        is(getuid(), 0);
    }
    return NULL;
}

static int threads(void) {
    for (int p = 0; p < 4; p++) {
        if (fork()) continue;
        /* Every other process has a root directory of its own, without /proc. */
        char own[32];
        snprintf(own, sizeof own, "process%d", p);
        is(mkdir(own, 0755), 0);
        is(chdir(own), 0);
        if (p & 1) is(chroot("."), 0);
        pthread_t all[8];
        for (long t = 0; t < 8; t++) pthread_create(&all[t], NULL, use, (void *)(10 * p + t));
        for (int t = 0; t < 8; t++) pthread_join(all[t], NULL);
        /* All threads take part in what one sets. */
        is(setresuid(9, 9, 9), 0);
        is(getuid(), 9);
        fflush(stdout);
        _exit(failed);
    }
    int status;
    while (wait(&status) > 0) failed |= status;
    return failed != 0;
}

int main(int count, char **words) {
    const char *what = count > 1 ? words[1] : "";
    native = count > 2 && !strcmp(words[2], "native");
    if (!strcmp(what, "calls")) return calls();
    if (!strcmp(what, "hostile")) return hostile();
    if (!strcmp(what, "threads")) return threads();
    if (!strcmp(what, "man")) return man();
    if (!strcmp(what, "ask")) {
        make("asked", 0644);
        printf("%d\n", chown("asked", 1, 1) ? errno : 0);
        return 0;
    }
    if (!strcmp(what, "nothing")) return 0;
    if (!strcmp(what, "kept")) {
        is(chown("file", 1, 1), -EPERM);
        is(setgid(8), -EPERM);
        return failed;
    }
    if (!strcmp(what, "children")) {
        printf("%d\n", wait(NULL) < 0 ? errno : 0);
        return 0;
    }
    if (!strcmp(what, "files") && count == 3) {
        long many = atol(words[2]);
        char name[64];
        struct timespec start, end;
        clock_gettime(CLOCK_MONOTONIC, &start);
        for (long i = 0; i < many; i++) {
            if (i % 1000 == 0) {
                if (i && chdir("..")) return 1;
                snprintf(name, sizeof name, "files%ld", i);
                if (mkdir(name, 0755) || chdir(name)) return 1;
            }
            snprintf(name, sizeof name, "%ld", i);
            int fd = open(name, O_CREAT | O_EXCL | O_WRONLY, 0644);
            if (fd < 0 || close(fd)) return 1;
        }
        clock_gettime(CLOCK_MONOTONIC, &end);
        printf("%.1f us\n", ((end.tv_sec - start.tv_sec) * 1e9 + end.tv_nsec - start.tv_nsec) / many / 1000);
        return 0;
    }
    if (!strcmp(what, "chowns") && count == 3) {
        long many = atol(words[2]);
        struct timespec start, end;
        make("file", 0644);
        clock_gettime(CLOCK_MONOTONIC, &start);
        for (long i = 0; i < many; i++) if (chown("file", i & 1, 0)) return 1;
        clock_gettime(CLOCK_MONOTONIC, &end);
        double each = ((end.tv_sec - start.tv_sec) * 1e9 + end.tv_nsec - start.tv_nsec) / many / 1000;
        clock_gettime(CLOCK_MONOTONIC, &start);
        for (long i = 0; i < many; i++) syscall(SYS_getuid);
        clock_gettime(CLOCK_MONOTONIC, &end);
        double ask = ((end.tv_sec - start.tv_sec) * 1e9 + end.tv_nsec - start.tv_nsec) / many / 1000;
        printf("a change of owner %.1f us, a question for the user id %.1f us\n", each, ask);
        return 0;
    }
    return 2;
}
