#!/usr/bin/env python3
"""Prints what pairs of measurements come to: the median run and the best, and the ratios to those outside.

usage: pairs.py NAME FILE      lines of FILE: WHERE MICROSECONDS MEGABYTES_PER_SECOND ...; WHERE begins with outside
"""
import statistics
import sys

name, path = sys.argv[1:]
rounds = []
for line in open(path):
    where, *rest = line.split()
    if where == "outside":
        rounds.append({})
    if len(rest) >= 2:
        rounds[-1][where] = (float(rest[0]), float(rest[1]))
complete = [one for one in rounds if len(one) == 3]
if not complete:
    sys.exit(f"{name}: no complete round")
for where in ("outside", "inside", "bind"):
    text = f"{name}, {where:<7} "
    for which, middle in (("median", True), ("best", False)):
        figures = []
        for k, best in ((0, min), (1, max)):
            of = lambda place: [one[place][k] for one in complete]
            pick = statistics.median if middle else best
            figures.append((pick(of(where)), pick(of(where)) / pick(of("outside"))))
        text += "  %s %.3f us %.0f MB/s" % (which, figures[0][0], figures[1][0])
        if where != "outside":
            text += " (%.3f, %.3f of outside)" % (figures[0][1], figures[1][1])
    print(text)
