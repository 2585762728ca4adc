/* What a program sees of emulated root, call by call, by the system calls themselves: run in an empty directory, with
 * --fakeroot. Prints each check that fails with its line, and exits 1 if any did.
 *
 * usage: emulate calls           every call, and its errors
 *        emulate hostile         what no program should do; must end, and leave the supervisor alive
 *        emulate chowns COUNT    so many changes of owner of the file 'file', and how long one took
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
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static int failed;

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
    is(mode_of("null"), S_IFREG | 0640);
    umask(0);
    is(mknodat(AT_FDCWD, "disk", S_IFBLK | 0660, makedev(259, 70000)), 0);
    recorded("disk", "device", "b:259:70000");
    is(mode_of("disk"), S_IFREG | 0660);
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

static int calls(void) {
    owners();
    devices();
    attributes();
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
        SYS_getresuid, SYS_getresgid, SYS_capset, 463, 466};
    int odds = sizeof odd / sizeof *odd;
    for (unsigned n = 0; n < sizeof numbers / sizeof *numbers; n++)
        for (int i = 0; i < odds * odds * odds; i++)
            child({
                long a = odd[i % odds], b = odd[i / odds % odds], c = odd[i / odds / odds];
                if (i % 9 == 0) syscall(numbers[n], a, b, c, a, b, c);
                _exit(0);
            });
    /* Memory that changes and goes away meanwhile. */
    pthread_t thread;
    pthread_create(&thread, NULL, race, NULL);
    for (int i = 0; i < 3000; i++) {
        chown(racing, 1, 1);
        setxattr("file", racing, racing, sizeof racing, 0);
    }
    stop = 1;
    pthread_join(thread, NULL);
    /* Ends in the middle of a call, by its own and by others' hand. */
    for (int i = 0; i < 300; i++) {
        pid_t pid = fork();
        if (pid == 0) for (;;) { chown("file", i, i); (void)getuid(); }
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
    if (!strcmp(what, "calls")) return calls();
    if (!strcmp(what, "hostile")) return hostile();
    if (!strcmp(what, "threads")) return threads();
    if (!strcmp(what, "ask")) {
        make("asked", 0644);
        printf("%d\n", chown("asked", 1, 1) ? errno : 0);
        return 0;
    }
    if (!strcmp(what, "kept")) {
        is(chown("file", 1, 1), -EPERM);
        is(setgid(8), -EPERM);
        return failed;
    }
    if (!strcmp(what, "children")) {
        printf("%d\n", wait(NULL) < 0 ? errno : 0);
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
