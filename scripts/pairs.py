#!/usr/bin/env python3
"""Prints what rounds of measurements come to: the median and the quartiles of each place, and of its ratio to outside,
taken round by round.

usage: pairs.py NAME FILE      lines of FILE: ROUND WHERE MICROSECONDS MEGABYTES_PER_SECOND ...; WHERE is outside or another
"""
import statistics
import sys

name, path = sys.argv[1:]
rounds, places = {}, []
for line in open(path):
    number, where, *rest = line.split()
    if where not in places:
        places.append(where)
    if len(rest) >= 2:
        rounds.setdefault(number, {})[where] = (float(rest[0]), float(rest[1]))
complete = [one for one in rounds.values() if len(one) == len(places)]
if not complete:
    sys.exit(f"{name}: no complete round")


def spread(figures, digits):
    middle = statistics.median(figures)
    low, _, high = statistics.quantiles(figures, n=4, method="inclusive") if len(figures) > 1 else figures * 3
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


print(f"{name}: {len(complete)} rounds, medians and quartiles")
print(f"  {'':<8} {'latency, us':<24} {'of outside':<24} {'bandwidth, MB/s':<24} of outside")
for where in places:
    cells = []
    for k, digits in ((0, 3), (1, 0)):
        cells.append(spread([one[where][k] for one in complete], digits))
        ratio = [one[where][k] / one["outside"][k] for one in complete]
        cells.append(spread(ratio, 3) if where != "outside" else "")
    print(f"  {where:<8} {cells[0]:<24} {cells[1]:<24} {cells[2]:<24} {cells[3]}".rstrip())
