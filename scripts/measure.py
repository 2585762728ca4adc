"""The measuring half of scripts/bench, and what measure_pull.py measures with. It runs in the peers' root file system as root, in a mount namespace of its
own: root mounts the kernel's squashfs and watches processes; every timed command runs as the ordinary user.

A row is a list of contestants; each round runs each of them once. A contestant is (name, before, run, after):
`before` and `after` as root (or None), `run` in a process of the ordinary user, giving {metric: number}."""

import collections
import contextlib
import glob
import json
import os
import platform
import pwd
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

ORDER = json.loads(sys.argv[1])
TREES, WORK = ORDER["trees"], ORDER["work"]
USER = pwd.getpwnam(ORDER["user"])
SKIFF = f"{WORK}/bin/skiff"
# Measured instead of the peers: another build of skiff.
BEFORE = f"{WORK}/bin/before" if ORDER["before"] else None
MOUNT = f"{WORK}/mount"
RUNTIME = f"/run/user/{USER.pw_uid}"
# Leaves with its last container, so that the next round finds none.
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": USER.pw_dir, "USER": USER.pw_name, "LANG": "C.UTF-8",
               "LOGNAME": USER.pw_name, "XDG_RUNTIME_DIR": RUNTIME, "SKIFF_LINGER": "0"}
WITH_SKIFF = not ORDER["peers_only"]
SQUASHFS = ["-comp", "zstd", "-Xcompression-level", "3", "-b", "128K", "-processors", "2"]
QUIET = ["-noappend", "-quiet", "-no-progress"]


def log(text):
    print(f"measure: {text}", file=sys.stderr, flush=True)


def as_user(function):
    """What `function` gives, called in a child process that is the ordinary user."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(USER.pw_gid)
            os.setuid(USER.pw_uid)
            os.chdir(WORK)
            os.write(writer, json.dumps(function()).encode())
            status = 0
        except BaseException as error:
            log(f"{type(error).__name__}: {error}")
        os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    if os.waitpid(child, 0)[1] != 0:
        sys.exit("measure: a measurement failed")
    return json.loads(text)


def start(command, **more):
    """A process of the ordinary user that is not timed."""
    return subprocess.Popen(command, env=ENVIRONMENT, cwd=WORK, user=USER.pw_uid, group=USER.pw_gid, extra_groups=[],
                            **more)


def do(command):
    """The same, to its end."""
    if start(command, stdout=subprocess.DEVNULL).wait() != 0:
        sys.exit(f"measure: {' '.join(command)} failed")


def timed(command):
    """Seconds from spawn to exit and the memory of a command. posix_spawn: no copy of this process's page tables."""
    null = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0), (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
    path = shutil.which(command[0], path=ENVIRONMENT["PATH"]) or command[0]
    begin = time.perf_counter()
    child = os.posix_spawn(path, command, ENVIRONMENT, file_actions=null)
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - begin
    if status:
        raise RuntimeError(f"{' '.join(command)}: status {status}")
    return {"seconds": seconds, "kib": usage.ru_maxrss}


def phases(command, names):
    """Runs a command that writes a line of seconds for each of its phases to standard error, last of all."""
    done = subprocess.run(command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True)
    lines = done.stderr.split("\n")[:-1][-len(names):]
    if done.returncode or len(lines) != len(names):
        raise RuntimeError(f"{' '.join(command)}: status {done.returncode}: {done.stderr}")
    return {name: float(line) for name, line in zip(names, lines)}


def servers():
    """The processes that run skiff's own program: image servers, and containers that have not begun yet."""
    found, ours = [], [os.stat(program) for program in (SKIFF, BEFORE) if program]
    for path in glob.glob("/proc/[0-9]*/exe"):
        try:
            if any(os.path.samestat(os.stat(path), program) for program in ours):
                found.append(int(path.split("/")[2]))
        except OSError:
            pass
    return found


def wait_for_servers():
    """Waits until the servers have left; a fresh server is what the next round is about."""
    for pid in servers():
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            continue
        if not select.select([handle], [], [], 60)[0]:
            sys.exit(f"measure: the server {pid} does not leave")
        os.close(handle)


def proportional_kib(pids):
    """Memory of processes together, shared pages counted once."""
    total = 0
    for pid in pids:
        for line in open(f"/proc/{pid}/smaps_rollup"):
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


def hold(image, program=SKIFF):
    """A container that lives until its standard input ends."""
    holder = start([program, "exec", image, "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    if holder.stdout.read(1) != b"\n":
        sys.exit("measure: a container does not start")
    return holder


def release(holder):
    holder.stdin.close()
    if holder.wait() != 0:
        sys.exit("measure: a container failed")


def by_before(contestant):
    """The same, by the program of --before."""
    _, before, run, after = contestant

    def run_before():
        # In a child process, which nothing else is run by.
        global SKIFF
        SKIFF = BEFORE
        return run()

    return "before", before, run_before, after


def contest(rounds, contestants):
    """Runs the rounds; gives {contestant: {metric: [a number a round]}}."""
    table = {}
    if not WITH_SKIFF:
        contestants = [one for one in contestants if not one[0].startswith("skiff")]
    if BEFORE:
        contestants = [twin for one in contestants if one[0] == "skiff" for twin in (one, by_before(one))]
    for _ in range(rounds):
        for name, before, run, after in contestants:
            if before:
                before()
            sample = as_user(run)
            if after:
                after()
            for metric, value in sample.items():
                table.setdefault(name, {}).setdefault(metric, []).append(value)
    return table


# Images

def image(tree, ending):
    """An image of a tree, made once: .sqfs by mksquashfs, .sif by skiff (by Apptainer when skiff is left out)."""
    version = f"-{os.stat(SKIFF).st_mtime_ns}" if ending == "sif" and WITH_SKIFF else ""
    path = f"{WORK}/{tree}{version}.{ending}"
    if not os.path.exists(path):
        log(f"making {path}")
        for old in glob.glob(f"{WORK}/{tree}-*.{ending}"):
            os.remove(old)
        if ending == "sqfs":
            command = ["mksquashfs", f"{TREES}/{tree}", f"{path}.part", *SQUASHFS, *QUIET]
        elif WITH_SKIFF:
            command = [SKIFF, "build", f"{path}.part", f"{TREES}/{tree}"]
        else:
            arguments = " ".join(SQUASHFS)
            command = ["apptainer", "build", "--mksquashfs-args", arguments, f"{path}.part", f"{TREES}/{tree}"]
        do(command)
        os.rename(f"{path}.part", path)
    into_page_cache(path)
    return path


def into_page_cache(path):
    with open(path, "rb") as file:
        while file.read(1 << 20):
            pass


class Memory:
    """All of memory in use, by pages that the kernel takes back when it needs one: those of a file that is one hole.

    A hypervisor may take free memory from its guest, and give it back page by page at the first use: on the machine of
    2026-11-29 that takes 2 s a GiB, as much as reading it from an image, and each reader's turn leaves 2 GiB behind.
    """

    STEP = 256 << 20

    def __init__(self):
        self.hole, self.at = None, 0
        self.size = 4 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    @staticmethod
    def free():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")

    def fill(self):
        if not self.hole:
            # It has no name, so that nothing of it stays where a measurement fails.
            self.hole = tempfile.TemporaryFile(dir=WORK, buffering=0)
            self.hole.truncate(self.size)
        while True:
            before = self.free()
            self.hole.seek(self.at)
            for _ in range(self.STEP >> 20):
                self.hole.read(1 << 20)
            self.at = (self.at + self.STEP) % (self.size - self.STEP)
            if self.free() > before - self.STEP // 2:
                return

    def give_back(self):
        if self.hole:
            self.hole.close()
            self.hole = None


MEMORY = Memory()


# Rows

@contextlib.contextmanager
def in_memory(directory):
    """A directory that is a file system of its own, in memory, as long as it is used."""
    os.makedirs(directory, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)
        os.rmdir(directory)


def row_first(rounds):
    sif, squashfs = image("small", "sif"), image("small", "sqfs")
    return contest(rounds, [
        ("skiff", wait_for_servers, lambda: timed([SKIFF, "exec", sif, "/bin/true"]), None),
        ("apptainer", None, lambda: timed(["apptainer", "exec", sif, "/bin/true"]), None),
        ("ch-run", None, lambda: timed(["ch-run", squashfs, "--", "/bin/true"]), None),
    ])


def row_again(rounds):
    sif = image("small", "sif")
    bwrap = ["bwrap", "--bind", f"{TREES}/small", "/", "--dev-bind", "/dev", "/dev", "--bind", "/proc", "/proc",
             "--bind", "/sys", "/sys", "--bind", "/tmp", "/tmp", "--bind", USER.pw_dir, USER.pw_dir, "/bin/true"]
    holders = [hold(sif, program) for program in (SKIFF, BEFORE) if program] if WITH_SKIFF else []
    table = contest(rounds, [
        ("skiff", None, lambda: timed([SKIFF, "exec", sif, "/bin/true"]), None),
        ("bwrap", None, lambda: timed(bwrap), None),
    ])
    for holder in holders:
        release(holder)
    return table


def row_many(rounds):
    if not WITH_SKIFF:
        return {}
    sif = image("small", "sif")
    wait_for_servers()
    holders = [hold(sif) for _ in range(64)]
    standing = servers()
    table = {"servers": [len(standing)], "kib": [proportional_kib(standing)]}
    for holder in holders:
        release(holder)
    wait_for_servers()
    # All at once, with no server standing: the first ones race for it.
    count = 128 if ORDER["quick"] else 1000
    run = lambda _: start([SKIFF, "exec", sif, "/bin/true"]).wait()
    begin = time.perf_counter()
    with ThreadPoolExecutor(64) as pool:
        failures = sum(status != 0 for status in pool.map(run, range(count)))
    table.update({"failures": [failures], "seconds_each": [(time.perf_counter() - begin) / count]})
    return {"skiff": table}


def readers(rounds, tree, script, names, others=()):
    """The same script in the root of an image, shown by skiff, squashfuse_ll and the kernel; and in other directories."""
    squashfs = image(tree, "sqfs")

    def ready(and_then=lambda: None):
        def before():
            MEMORY.fill()
            into_page_cache(squashfs)
            and_then()
        return before

    script = "TIMEFORMAT=%R\n" + script

    def in_directory(directory):
        return phases(["bash", "-c", f"cd {directory} || exit 1\n{script}"], names)

    def squashfuse():
        subprocess.run(["squashfuse_ll", squashfs, MOUNT], env=ENVIRONMENT, check=True)
        try:
            return in_directory(MOUNT)
        finally:
            subprocess.run(["fusermount3", "-u", MOUNT], env=ENVIRONMENT, check=True)

    return contest(rounds, [
        ("skiff", ready(wait_for_servers),
         lambda: phases([SKIFF, "exec", squashfs, "bash", "-c", f"cd /\n{script}"], names), None),
        ("squashfuse_ll", ready(), squashfuse, None),
        ("kernel", ready(lambda: subprocess.run(["mount", "-t", "squashfs", "-o", "loop,ro", squashfs, MOUNT], check=True)),
         lambda: in_directory(MOUNT), lambda: subprocess.run(["umount", MOUNT], check=True)),
        *((name, ready(), lambda directory=directory: in_directory(directory), None) for name, directory in others),
    ])


@contextlib.contextmanager
def in_page_cache(tree):
    """A contestant for readers(): where no file system has anything to do, since names, attributes and data are in
    the kernel's caches already."""
    with in_memory(f"{WORK}/memory") as memory:
        subprocess.run(["cp", "-a", f"{TREES}/{tree}", memory], check=True)
        yield [("tmpfs", f"{memory}/{tree}")]


def row_find(rounds):
    walk = "time find . -xdev -ls >/dev/null\n"
    with in_page_cache("py") as others:
        return readers(rounds, "py", walk + walk, ["cold", "warm"], others)


def row_tar(rounds):
    # Through a pipe: tar reads nothing when it sees that its output is /dev/null.
    return readers(rounds, "py", "time tar -c --one-file-system -f - . | cat >/dev/null\n", ["tar"])


def row_read(rounds):
    script = "time find . -xdev -type f -print0 | xargs -0 -n 200 -P 2 cat >/dev/null\n"
    with in_page_cache("py") as others:
        return readers(rounds, "py", script, ["read"], others)


def row_sequential(rounds):
    return readers(rounds, "big", "time cat big.data >/dev/null\n", ["read"])


def row_pack(rounds):
    tree, out = f"{TREES}/py", f"{WORK}/packed"

    def pack(*command):
        return lambda: {**timed(list(command)), "bytes": os.path.getsize(out)}

    def clear():
        if os.path.exists(out):
            os.remove(out)
        # Nobody pays for what the one before has left to be written.
        os.sync()

    table = contest(rounds, [
        ("skiff", clear, lambda: pack(SKIFF, "build", "--compression", "zstd", "--level", "3", "--block-size", "128K",
                                      "--threads", "2", out, tree)(), None),
        ("mksquashfs", clear, pack("mksquashfs", tree, out, *SQUASHFS, *QUIET), None),
        ("gensquashfs", clear, pack("gensquashfs", "-D", tree, "-c", "zstd", "-X", "level=3", "-b", "131072", "-j", "2",
                                    "-k", "-x", "-q", "-f", out), None),
    ])
    clear()
    return table


def row_million(rounds):
    if not WITH_SKIFF:
        return {}
    small, million = image("small", "sif"), image("million", "sif")
    table = contest(rounds, [
        ("skiff", wait_for_servers, lambda: timed([SKIFF, "exec", million, "/bin/true"]), None),
        ("skiff, small image", wait_for_servers, lambda: timed([SKIFF, "exec", small, "/bin/true"]), None),
    ])
    wait_for_servers()
    holder = hold(million)
    counted = subprocess.run([SKIFF, "exec", million, "sh", "-c", "find /data -ls | wc -l"], env=ENVIRONMENT, cwd=WORK,
                             user=USER.pw_uid, group=USER.pw_gid, extra_groups=[], stdout=subprocess.PIPE, check=True)
    assert int(counted.stdout) == 1001001, counted.stdout
    table["skiff"]["kib_after_walk"] = [proportional_kib(servers())]
    release(holder)
    return table


def row_rebuild(rounds):
    out, definitions = f"{WORK}/rebuilt.sif", f"{WORK}/definitions"
    shutil.rmtree(definitions, ignore_errors=True)
    os.makedirs(definitions)
    edits = iter(range(1000000))

    def edit(tree):
        """A definition on the image of the tree, with one line that no build has seen."""
        def write():
            if os.path.exists(out):
                os.remove(out)
            os.sync()
            with open(f"{definitions}/{tree}.def", "w") as file:
                file.write(f"Bootstrap: localimage\nFrom: {image(tree, 'sif')}\n\n%post\n"
                           f"    echo {next(edits)} {time.time()} >/opt/edited\n")
        return write

    def build(*command):
        return lambda: {**timed(list(command)), "bytes": os.path.getsize(out)}

    def skiff(tree):
        return build(SKIFF, "build", "--force", "--threads", "2", out, f"{definitions}/{tree}.def")

    contestants = [
        ("skiff", edit("py"), skiff("py"), None),
        ("skiff, unchanged", None, skiff("py"), None),
        ("skiff, small base", edit("small"), skiff("small"), None),
        ("apptainer", edit("py"), build("apptainer", "build", "--force", "--mksquashfs-args", " ".join(SQUASHFS), out,
                                        f"{definitions}/py.def"), None),
    ]
    table = contest(rounds, contestants)
    if os.path.exists(out):
        os.remove(out)
    return table


def row_disk(rounds):
    """The most that a build has on disk at a time, sampled: its work directory, its cache, its output."""
    place, out = f"{WORK}/disk", f"{WORK}/disk/out/built.sif"
    new = 300 << 20

    def write():
        for name in ["tmp", "cache", "out"]:
            shutil.rmtree(f"{place}/{name}", ignore_errors=True)
            os.makedirs(f"{place}/{name}")
            shutil.chown(f"{place}/{name}", USER.pw_uid, USER.pw_gid)
        with open(f"{place}/new.def", "w") as file:
            file.write(f"Bootstrap: localimage\nFrom: {image('small', 'sif')}\n\n%post\n"
                       f"    head -c {new} /dev/urandom | split -b 1M - /opt/new.\n")

    def used():
        """Of the whole file system: files without a name count as well, and none is counted twice while it moves."""
        now = os.statvfs(place)
        return (now.f_blocks - now.f_bfree) * now.f_frsize

    def build(*flags):
        def run():
            environment = {**ENVIRONMENT, "SKIFF_TMPDIR": f"{place}/tmp", "SKIFF_CACHEDIR": f"{place}/cache"}
            command = [SKIFF, "build", *flags, out, f"{place}/new.def"]
            child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL)
            peak = 0
            while child.poll() is None:
                peak = max(peak, used())
                time.sleep(0.02)
            if child.returncode:
                raise RuntimeError(f"{' '.join(command)}: status {child.returncode}")
            return {"bytes": peak, "needed": new + os.path.getsize(out)}
        return run

    contestants = [("skiff", write, build(), None), ("skiff, no cache", write, build("--disable-cache"), None)]
    with in_memory(place):
        table = contest(rounds, contestants)
    for figures in list(table.values()):
        table["new files and output"] = {"bytes": figures.pop("needed")}
    return table


# The function, its rounds, its rounds with --quick; whether it reads with all of memory in use.
Row = collections.namedtuple("Row", "measure rounds quick fills_memory", defaults=[False])

ROWS = [Row(row_first, 30, 5), Row(row_again, 60, 10), Row(row_many, 1, 1), Row(row_find, 5, 1, True),
        Row(row_tar, 3, 1, True), Row(row_read, 3, 1, True), Row(row_sequential, 5, 1, True), Row(row_pack, 5, 1),
        Row(row_million, 20, 3), Row(row_rebuild, 3, 1), Row(row_disk, 2, 1)]


def version(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout.strip().split("\n")[0]


def machine():
    """What the figures were measured on."""
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    config = []
    if os.path.exists("/proc/config.gz"):
        lines = subprocess.run(["zcat", "/proc/config.gz"], stdout=subprocess.PIPE, text=True).stdout.split("\n")
        config = [line for line in lines if line.startswith("CONFIG_SQUASHFS_") and line.endswith("=y")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    return {
        "cpu": model, "cores": len(os.sched_getaffinity(0)), "memory_mib": memory, "kernel": platform.release(),
        "squashfs_config": config, "load_before": os.getloadavg()[0],
        "versions": {
            "skiff": version(SKIFF, "--version") if WITH_SKIFF else "left out",
            "apptainer": version("apptainer", "--version"), "ch-run": version("ch-run", "--version"),
            "squashfuse_ll": version("squashfuse_ll", "--help"), "bwrap": version("bwrap", "--version"),
            "mksquashfs": version("mksquashfs", "-version"), "gensquashfs": version("gensquashfs", "--version"),
        },
    }


def main(table, more_versions=None):
    """Measures the rows of a table that are asked for, and writes what they gave."""
    os.umask(0o022)
    for path, mode in [(MOUNT, 0o755), (RUNTIME, 0o700)]:
        os.makedirs(path, exist_ok=True)
        os.chown(path, USER.pw_uid, USER.pw_gid)
        os.chmod(path, mode)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    unknown = set(ORDER["rows"]) - {row.measure.__name__[4:] for row in table}
    if unknown:
        sys.exit(f"measure: no row is called {', '.join(sorted(unknown))}")
    raw = {"date": time.strftime("%Y-%m-%d"), "quick": ORDER["quick"], "machine": machine(), "rows": {}}
    raw["machine"]["versions"].update(more_versions or {})
    for row in table:
        name = row.measure.__name__[4:]
        if not ORDER["rows"] or name in ORDER["rows"]:
            log(name)
            # Not between rows that fill it: the first turn after that is slow.
            if not row.fills_memory:
                MEMORY.give_back()
            raw["rows"][name] = row.measure(ORDER["rounds"] or (row.quick if ORDER["quick"] else row.rounds))
    with open(ORDER["result"], "w") as file:
        json.dump(raw, file, indent=1)


if __name__ == "__main__":
    main(ROWS)
