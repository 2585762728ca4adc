/* Prints everything a file system keeps about a tree, a line a file, sorted by name: to compare what an image shows
 * with what was packed. Statically linked, so that it runs in any root.
 *
 *   path|type and mode|links|size|mtime|device|content|xattrs[|uid|gid]
 *
 * Directories have no size and no links here (file systems count them differently); the content is a hash for files
 * and the target for links; other bytes than printable ASCII are written \xNN.
 *
 * usage: manifest [-o] DIR     -o with owner and group
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

static int with_owner;

static void fail(const char *what) {
    fprintf(stderr, "manifest: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void put(const char *bytes, size_t length) {
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)bytes[i];
        if (c > 32 && c < 127 && c != '|' && c != '\\') putchar(c);
        else printf("\\x%02x", c);
    }
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void put_content(const char *name, const struct stat *st) {
    static char buffer[1 << 20];
    if (S_ISLNK(st->st_mode)) {
        ssize_t got = readlink(name, buffer, sizeof buffer);
        if (got < 0) fail(name);
        put(buffer, (size_t)got);
    } else if (S_ISREG(st->st_mode)) {
        uint64_t hash = 1469598103934665603u; /* FNV-1a */
        int fd = open(name, O_RDONLY);
        if (fd < 0) fail(name);
        ssize_t got;
        while ((got = read(fd, buffer, sizeof buffer)) > 0)
            for (ssize_t i = 0; i < got; i++) hash = (hash ^ (unsigned char)buffer[i]) * 1099511628211u;
        if (got < 0) fail(name);
        close(fd);
        printf("%016" PRIx64, hash);
    }
}

static void put_xattrs(const char *name) {
    char list[65536], value[65536], *names[1024];
    ssize_t length = llistxattr(name, list, sizeof list);
    if (length < 0 && errno != ENOTSUP) fail(name);
    size_t count = 0;
    for (char *at = list; length > 0 && at < list + length && count < 1024; at += strlen(at) + 1) names[count++] = at;
    qsort(names, count, sizeof *names, by_name);
    for (size_t i = 0; i < count; i++) {
        ssize_t got = lgetxattr(name, names[i], value, sizeof value);
        if (got < 0) fail(name);
        if (i) putchar(',');
        printf("%s=", names[i]);
        put(value, (size_t)got);
    }
}

static void visit(const char *name, const char *path);

static void visit_entries(const char *name, const char *path) {
    DIR *directory = opendir(".");
    if (!directory) fail(path);
    char **names = NULL;
    size_t count = 0, room = 0;
    struct dirent *entry;
    while ((errno = 0, entry = readdir(directory))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if (count == room && !(names = realloc(names, (room = room * 2 + 16) * sizeof *names))) fail(path);
        if (!(names[count++] = strdup(entry->d_name))) fail(path);
    }
    if (errno) fail(name);
    closedir(directory);
    qsort(names, count, sizeof *names, by_name);
    for (size_t i = 0; i < count; i++) {
        char *below;
        if (asprintf(&below, "%s/%s", path, names[i]) < 0) fail(path);
        visit(names[i], below);
        free(below);
        free(names[i]);
    }
    free(names);
}

static void visit(const char *name, const char *path) {
    struct stat st;
    if (lstat(name, &st)) fail(path);
    int directory = S_ISDIR(st.st_mode), device = S_ISBLK(st.st_mode) || S_ISCHR(st.st_mode);
    put(path, strlen(path));
    printf("|%06o|%ju|%jd|%jd|", st.st_mode, directory ? 0 : (uintmax_t)st.st_nlink,
           directory ? 0 : (intmax_t)st.st_size, (intmax_t)st.st_mtime);
    if (device) printf("%u:%u", major(st.st_rdev), minor(st.st_rdev));
    putchar('|');
    put_content(name, &st);
    putchar('|');
    put_xattrs(name);
    if (with_owner) printf("|%u|%u", st.st_uid, st.st_gid);
    putchar('\n');
    if (directory) {
        int back = open(".", O_RDONLY | O_DIRECTORY);
        if (back < 0 || chdir(name)) fail(path);
        visit_entries(name, path);
        if (fchdir(back)) fail(path);
        close(back);
    }
}

int main(int argc, char **argv) {
    with_owner = argc > 1 && !strcmp(argv[1], "-o");
    if (argc != 2 + with_owner || chdir(argv[1 + with_owner])) fail("usage: manifest [-o] DIR");
    visit(".", ".");
    return fflush(stdout) ? 1 : 0;
}
