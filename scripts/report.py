"""The telling half of scripts/bench and scripts/bench_pull: medians against the goals, as a table, a page and a chart."""

import json
import os
import statistics

# Row, what was done, contestant and metric of skiff, of the other, and the goal:
#   ("faster", f)   the other's median is at least f times ours
#   ("at most", f)  our median is at most f times the other's
#   ("bound", b)    our median is at most b
#   ("within", s)   our median is at most s seconds more than the other's
#   ("beside", 0)   no goal: what the other takes says how far ours can come
GOALS = [
    ("first", "`skiff exec small.sif /bin/true`, first container", "skiff", "seconds", "apptainer", ("faster", 12)),
    ("first", "the same", "skiff", "seconds", "ch-run", ("faster", 2.5)),
    ("again", "`skiff exec small.sif /bin/true`, a server stands", "skiff", "seconds", "bwrap", ("at most", 1.5)),
    ("many", "64 at once: server processes", "skiff", "servers", None, ("bound", 2)),
    ("many", "64 at once: their memory, KiB", "skiff", "kib", None, ("bound", 64 * 1024)),
    ("many", "64 at a time: failures", "skiff", "failures", None, ("bound", 0)),
    ("find", "`find -ls`, first time", "skiff", "cold", "squashfuse_ll", ("faster", 3)),
    ("find", "the same", "skiff", "cold", "kernel", ("faster", 1.3)),
    ("find", "`find -ls`, second time", "skiff", "warm", "squashfuse_ll", ("faster", 3)),
    ("find", "the same", "skiff", "warm", "kernel", ("faster", 1.3)),
    ("find", "the same, beside the tree in memory", "skiff", "warm", "tmpfs", ("beside", 0)),
    ("tar", "`tar c`", "skiff", "tar", "squashfuse_ll", ("faster", 3)),
    ("tar", "the same", "skiff", "tar", "kernel", ("faster", 1.3)),
    ("read", "every file, two readers", "skiff", "read", "squashfuse_ll", ("faster", 3)),
    ("read", "the same", "skiff", "read", "kernel", ("faster", 1.3)),
    ("read", "the same, beside the tree in memory", "skiff", "read", "tmpfs", ("beside", 0)),
    ("sequential", "one file of 1 GiB in sequence", "skiff", "read", "squashfuse_ll", ("faster", 1.5)),
    ("sequential", "the same", "skiff", "read", "kernel", ("faster", 1.5)),
    ("pack", "packing, zstd 3, 128K, two threads", "skiff", "seconds", "mksquashfs", ("at most", 1)),
    ("pack", "the same", "skiff", "seconds", "gensquashfs", ("at most", 1)),
    ("pack", "size of the image, bytes", "skiff", "bytes", "mksquashfs", ("at most", 1.01)),
    ("pack", "the same", "skiff", "bytes", "gensquashfs", ("at most", 1.01)),
    ("pack", "memory of the packer, KiB", "skiff", "kib", None, ("bound", 128 * 1024)),
    ("million", "`/bin/true`, image of a million files", "skiff", "seconds", "skiff, small image", ("at most", 1.2)),
    ("rebuild", "one line of %post changed, on 1.9 GB", "skiff", "seconds", "apptainer", ("faster", 15)),
    ("rebuild", "size of the image, bytes", "skiff", "bytes", "apptainer", ("at most", 1.01)),
    ("disk", "most on disk in a build, bytes", "skiff", "bytes", "new files and output", ("at most", 1.1)),
    ("disk", "the same without the cache", "skiff, no cache", "bytes", "new files and output", ("at most", 1.1)),
    ("million", "server memory after `find -ls` of all, KiB", "skiff", "kib_after_walk", None, ("bound", 64 * 1024)),
]


def median(raw, row, contestant, metric):
    samples = raw["rows"].get(row, {}).get(contestant, {}).get(metric)
    return statistics.median(samples) if samples else None


def number(value, metric):
    if value is None:
        return ""
    if metric in ("kib", "bytes", "servers", "failures", "kib_after_walk", "elsewhere", "lost_bytes"):
        return f"{value:,.0f}"
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"


def judge(raw, goals):
    """The table's rows as dicts; `met` is None where one of the two was not measured."""
    table = []
    for row, what, ours, metric, theirs, (kind, factor) in goals:
        if row not in raw["rows"]:
            continue
        mine = median(raw, row, ours, metric)
        other = median(raw, row, theirs, metric) if theirs else None
        line = {"row": row, "what": what, "ours": number(mine, metric), "peer": theirs or "",
                "theirs": number(other, metric), "kind": kind, "factor": factor, "ratio": None, "met": None}
        if kind == "bound":
            line["goal"] = f"at most {factor:,}"
            line["met"] = None if mine is None else mine <= factor
        elif kind == "beside":
            line["goal"] = "none"
            line["ratio"] = other / mine if mine and other else None
        elif kind == "within":
            line["goal"] = f"at most {factor * 1000:g} ms more"
            line["met"] = None if None in (mine, other) else mine - other <= factor
        else:
            line["goal"] = f"{factor} times faster" if kind == "faster" else f"at most {factor} times"
            if mine and other:
                line["ratio"] = other / mine if kind == "faster" else mine / other
                line["met"] = line["ratio"] >= factor if kind == "faster" else line["ratio"] <= factor
        table.append(line)
    return table


def markdown(table):
    lines = ["| work | skiff | peer | its figure | ratio | goal | met |", "|---|---|---|---|---|---|---|"]
    for line in table:
        unknown = "" if line["kind"] == "beside" else "not measured"
        met = {True: "yes", False: "**no**", None: unknown}[line["met"]]
        ratio = f"{line['ratio']:.2f}" if line["ratio"] else ""
        cells = [line["what"], line["ours"], line["peer"], line["theirs"], ratio, line["goal"], met]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def chart(table):
    """Bars of how far each goal is passed: 1 is the goal, longer is better, the scale is logarithmic."""
    import math
    bars = [(f"{line['what']} / {line['peer']}".replace("`", ""),
             line["ratio"] / line["factor"] if line["kind"] == "faster" else line["factor"] / line["ratio"],
             line["ratio"]) for line in table if line["ratio"] and line["factor"]]
    left, width, height = 430, 420, 22
    low, high = min([0.5] + [b[1] for b in bars]), max([4] + [b[1] for b in bars])

    def x(value):
        return left + width * (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))

    total = height * len(bars) + 50
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 80}" height="{total}" '
           f'font-family="sans-serif" font-size="12">',
           f'<rect width="100%" height="100%" fill="white"/>']
    for index, (text, reach, ratio) in enumerate(bars):
        y = 10 + index * height
        begin, end = sorted((x(1), x(reach)))
        colour = "#2a7f62" if reach >= 1 else "#b3423a"
        text = text.replace("&", "&amp;").replace("<", "&lt;")
        out.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{text}</text>')
        out.append(f'<rect x="{begin:.1f}" y="{y + 3}" width="{max(end - begin, 1):.1f}" height="{height - 7}" fill="{colour}"/>')
        out.append(f'<text x="{max(end, x(1)) + 5:.1f}" y="{y + 14}">{ratio:.2f}</text>')
    bottom = 10 + height * len(bars)
    out.append(f'<line x1="{x(1):.1f}" y1="5" x2="{x(1):.1f}" y2="{bottom}" stroke="black"/>')
    out.append(f'<text x="{x(1):.1f}" y="{bottom + 18}" text-anchor="middle">the goal</text>')
    out.append(f'<text x="{left + width}" y="{bottom + 18}" text-anchor="end">better, logarithmic; figures are the ratios</text>')
    return "\n".join(out + ["</svg>", ""])


def machine(raw):
    """What it was measured on and with."""
    facts = raw["machine"]
    versions = "\n".join(f"- {name}: {text}" for name, text in facts["versions"].items())
    return f"""Machine: {facts['cores']} cores of {facts['cpu']}, {facts['memory_mib']:,} MiB, Linux {facts['kernel']}; load before
the run {facts['load_before']:.2f}.

{versions}"""


def page(raw, table):
    config = ", ".join(line[16:-2] for line in raw["machine"]["squashfs_config"]) or "unknown"
    quick = "\nA quick run: one round or a few, no figures to rely on.\n" if raw["quick"] else ""
    return f"""# Benchmarks, {raw['date']}

Medians of interleaved rounds, as an ordinary user; made by `scripts/bench` at commit {raw.get('commit', '')}.
Raw numbers are in [raw.json](raw.json).
{quick}
{markdown(table)}

![how far each goal is passed](chart.svg)

{machine(raw)}

"kernel" is the squashfs of this very kernel, mounted on a loop device, built with: {config}. A kernel with
`DECOMP_SINGLE` has one decompressor a mount, and one with `FILE_CACHE` copies each page once more; distributions'
kernels often have `DECOMP_MULTI_PERCPU` and `FILE_DIRECT`, and are faster with several readers.

The trees are those of `scripts/trees`. All readers read the same image, made by mksquashfs with zstd level 3 and blocks
of 128 KiB, from the page cache; "first" is on a fresh mount or a fresh server. skiff's figures include whatever its
container adds; the others read in a bare mount. Before each of them all of memory is put to use by a file that is one
hole, since a hypervisor may take free memory back, and giving it again, page by page, cost as much as the reading.
"""


def write(raw, out):
    """Writes the page, the chart and the raw numbers; as tell()."""
    table = judge(raw, GOALS)
    for name, text in [("README.md", page(raw, table)), ("chart.svg", chart(table)),
                       ("raw.json", json.dumps(raw, indent=1) + "\n")]:
        with open(os.path.join(out, name), "w") as file:
            file.write(text)
    return tell(raw, table, out)


def compare(raw):
    """Prints what two builds of skiff took: medians and quartiles, and the ratio of the medians."""
    print(f"{'':24} {'skiff':>28} {'before':>28}  ratio")
    for row, contestants in raw["rows"].items():
        for metric, samples in contestants.get("before", {}).items():
            cells = []
            for figures in (contestants["skiff"][metric], samples):
                low, middle, high = (number(value, metric) for value in quartiles(figures))
                cells.append(f"{middle} ({low}, {high})")
            ratio = statistics.median(contestants["skiff"][metric]) / statistics.median(samples)
            print(f"{row:10} {metric:10} {len(samples):2} {cells[0]:>28} {cells[1]:>28}  {ratio:.3f}")
    return 0


def quartiles(figures):
    return statistics.quantiles(figures, n=4, method="inclusive") if len(figures) > 1 else figures * 3


def tell(raw, table, out):
    """Prints the table and the medians; 1 when a goal was missed."""
    print(markdown(table))
    for row, contestants in raw["rows"].items():
        for contestant, metrics in contestants.items():
            for metric in metrics:
                print(f"{row:10} {contestant:20} {metric:15} {number(median(raw, row, contestant, metric), metric)}")
    print(f"written to {os.path.relpath(out)}")
    return 1 if any(line["met"] is False for line in table) else 0
