#!/usr/bin/env python3
"""Prints what pairs of measurements come to: medians, and the median of the ratios to the run outside just before.

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
    latency, bandwidth = ([one[where][k] for one in complete] for k in (0, 1))
    text = f"{name}, {where:<7}  {statistics.median(latency):7.3f} us {statistics.median(bandwidth):7.0f} MB/s"
    text += f"   best {min(latency):6.3f} us {max(bandwidth):6.0f} MB/s"
    if where != "outside":
        ratios = [[one[where][k] / one["outside"][k] for one in complete] for k in (0, 1)]
        text += "   ratio to outside: latency %.3f, bandwidth %.3f" % tuple(statistics.median(r) for r in ratios)
    print(text)
