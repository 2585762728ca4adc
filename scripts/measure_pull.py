"""The measuring half of scripts/bench_pull; with measure.py's words, and where and as whom that runs.

A registry is started on loopback, its data below WORK/registry; umoci makes an image of one gzip layer from a tree,
once, and skopeo puts it in. All pulls are from there, and before each both programs' caches are emptied."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import measure
from measure import ENVIRONMENT, SKIFF, TREES, USER, WITH_SKIFF, WORK, as_user, contest, do, hold, release, start, timed

CACHE, OTHER_CACHE, OUT = f"{WORK}/cache", f"{WORK}/cache-apptainer", f"{WORK}/pulled"
IMAGE = f"{OUT}/image.sif"
LOG = f"{WORK}/registry.log"
ENVIRONMENT.update({"SKIFF_CACHEDIR": CACHE, "APPTAINER_CACHEDIR": OTHER_CACHE, "APPTAINER_TMPDIR": WORK})
ZSTD = "-comp zstd -Xcompression-level 3"
# What changes a file system.
CHANGES = ("open,openat,openat2,creat,mkdir,mkdirat,mknod,mknodat,symlink,symlinkat,link,linkat,rename,renameat,"
           "renameat2")


def empty(path):
    """An empty directory of the ordinary user."""
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    os.chown(path, USER.pw_uid, USER.pw_gid)


def clear():
    """Nothing was ever pulled, and nobody pays for what the one before has left to be written."""
    for path in [CACHE, OTHER_CACHE, OUT]:
        empty(path)
    os.sync()


class Registry:
    """One that runs as the ordinary user until stop() is called, and logs each answer with its length."""

    def __init__(self):
        data = f"{WORK}/registry"
        if not os.path.exists(data):
            empty(data)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = "127.0.0.1:%d" % probe.getsockname()[1]
        with open(f"{WORK}/registry.yml", "w") as file:
            file.write("version: 0.1\nlog: {level: error}\nhttp: {addr: '%s'}\n"
                       "storage: {filesystem: {rootdirectory: %s}}\n" % (self.address, data))
        with open(LOG, "wb") as log:
            command = ["docker-registry", "serve", f"{WORK}/registry.yml"]
            self.process = start(command, stdout=log, stderr=subprocess.DEVNULL)
        while True:
            try:
                socket.create_connection(tuple(self.address.split(":"))).close()
                return
            except ConnectionRefusedError:
                if self.process.poll() is not None:
                    sys.exit("measure: docker-registry does not start")
                time.sleep(0.01)

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def image(self, tree):
        """What a tree's image is called here; it is put in when it is not there."""
        name = f"docker://{self.address}/{tree}:1"
        done, layout = f"{WORK}/registry/{tree}.done", f"{WORK}/layout"
        if not os.path.exists(done):
            measure.log(f"putting an image of {tree} in")
            shutil.rmtree(layout, ignore_errors=True)
            # Root's in the image, as in any other.
            owners = ["--uid-map", f"0:{USER.pw_uid}:1", "--gid-map", f"0:{USER.pw_gid}:1"]
            for command in [
                ["umoci", "init", "--layout", layout],
                ["umoci", "new", "--image", f"{layout}:1"],
                ["umoci", "insert", *owners, "--compress", "gzip", "--image", f"{layout}:1", f"{TREES}/{tree}", "/"],
                ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{layout}:1", name],
            ]:
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            shutil.rmtree(layout)
            open(done, "w").close()
        return name

    def parts(self, tree):
        """{digest: bytes} of the parts of a tree's image."""
        name = self.image(tree)
        raw = subprocess.run(["skopeo", "--insecure-policy", "inspect", "--raw", "--tls-verify=false", name], check=True,
                             stdout=subprocess.PIPE).stdout
        manifest = json.loads(raw)
        return {part["digest"]: part["size"] for part in [manifest["config"], *manifest["layers"]]}


def sent(since, wanted=""):
    """Bytes of each answer to a GET that the registry has logged from a place of its log on."""
    with open(LOG) as log:
        log.seek(since)
        found = re.findall(r'"GET (\S+) HTTP/[0-9.]+" \d+ (\d+)', log.read())
    return [int(count) for path, count in found if wanted in path]


def outputs(*command):
    return lambda: {**timed(list(command)), "bytes": os.path.getsize(IMAGE)}


def elsewhere(name):
    """How many files or directories a pull makes or writes that are neither in its cache nor beside its output."""
    trace = f"{OUT}/trace"
    command = ["strace", "-f", "-qq", "-y", "-o", trace, "-e", f"trace={CHANGES}", SKIFF, "pull", IMAGE, name]
    subprocess.run(command, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    found = set()
    for line in open(trace, errors="replace"):
        call = re.search(r"\b([a-z0-9]+)\((.*)\) += +(\d+)(?:<(.*)>)?", line)
        if not call:
            continue
        kind, words, _, opened = call.groups()
        if kind.startswith("open"):
            if re.search("O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_TMPFILE", words):
                found.add(opened)
            continue
        places = re.findall(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"([^"]*)"', words)
        # Of a link's and a renamed file's names the new one.
        directory, path = places[-1]
        found.add(os.path.join(directory or WORK, path))
    ours = [path for path in found if not path.startswith((f"{CACHE}/", f"{OUT}/", "/dev/null", "/dev/tty"))]
    ours = sorted(path for path in ours if path not in (CACHE, OUT))
    if not found:
        raise RuntimeError("the trace shows nothing")
    for path in ours:
        measure.log(f"written: {path}")
    return {"elsewhere": len(ours)}


# Rows

def row_pull(rounds):
    name = REGISTRY.image("py")
    table = contest(rounds, [
        ("skiff", clear, outputs(SKIFF, "pull", IMAGE, name), None),
        ("apptainer", clear, outputs("apptainer", "build", "--no-https", "--mksquashfs-args", ZSTD, IMAGE, name), None),
    ])
    if WITH_SKIFF:
        clear()
        table["skiff"].update({"elsewhere": [as_user(lambda: elsewhere(name))["elsewhere"]]})
    clear()
    return table


def row_minbase(rounds):
    name = REGISTRY.image("small")
    table = contest(rounds, [
        ("skiff", clear, outputs(SKIFF, "pull", IMAGE, name), None),
        ("apptainer", clear, outputs("apptainer", "pull", "--no-https", IMAGE, name), None),
    ])
    clear()
    return table


def row_second(rounds):
    """From the registry's name and from a file; a fresh server each time, and servers that stand."""
    if not WITH_SKIFF:
        return {}
    name = REGISTRY.image("small")
    clear()
    do([SKIFF, "pull", IMAGE, name])
    do([SKIFF, "exec", name, "/bin/true"])

    def true_in(image):
        return lambda: timed([SKIFF, "exec", image, "/bin/true"])

    table = contest(rounds, [
        ("skiff", measure.wait_for_servers, true_in(name), None),
        ("the file", measure.wait_for_servers, true_in(IMAGE), None),
    ])
    holders = [hold(name), hold(IMAGE)]
    table.update(contest(rounds, [
        ("skiff, a server stands", None, true_in(name), None),
        ("the file, a server stands", None, true_in(IMAGE), None),
    ]))
    for holder in holders:
        release(holder)
    measure.wait_for_servers()
    clear()
    return table


def row_interrupted(rounds):
    """A pull is killed when half of the image is there; what the next one fetches."""
    if not WITH_SKIFF:
        return {}
    name, parts = REGISTRY.image("py"), REGISTRY.parts("py")
    layer = max(parts, key=parts.get)
    table = {"skiff": {}, "what was missing": {}}

    def stored():
        count = 0
        for directory, _, files in os.walk(f"{CACHE}/fetched"):
            for file in files:
                try:
                    count += os.path.getsize(os.path.join(directory, file))
                except FileNotFoundError:
                    pass
        return count

    for _ in range(rounds):
        clear()
        began = os.path.getsize(LOG)
        pull = start([SKIFF, "pull", IMAGE, name], stdout=subprocess.DEVNULL)
        while stored() < sum(parts.values()) / 2:
            if pull.poll() is not None:
                sys.exit("measure: a pull was over before half of it was seen")
        pull.send_signal(signal.SIGKILL)
        pull.wait()
        missing = sum(parts.values()) - stored()
        # The answer that was cut is logged when the registry sees it.
        while not sent(began, layer):
            time.sleep(0.01)
        killed = os.path.getsize(LOG)
        # On the way when it was killed, so lost.
        underway = sum(sent(began)) - (sum(parts.values()) - missing)
        sample = as_user(lambda: timed([SKIFF, "pull", IMAGE, name]))
        for metric, value in {"bytes": sum(sent(killed)), "seconds": sample["seconds"], "lost_bytes": underway}.items():
            table["skiff"].setdefault(metric, []).append(value)
        table["what was missing"].setdefault("bytes", []).append(missing)
    clear()
    return table


ROWS = [measure.Row(row_pull, 3, 1), measure.Row(row_minbase, 5, 1), measure.Row(row_second, 40, 5),
        measure.Row(row_interrupted, 5, 1)]

if __name__ == "__main__":
    REGISTRY = Registry()
    try:
        tools = ["docker-registry", "umoci", "skopeo"]
        measure.main(ROWS, {name: measure.version(name, "--version") for name in tools})
    finally:
        REGISTRY.stop()
