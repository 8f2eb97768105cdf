"""Test thousands of damaged bundles: each raises BundleError, or loads as it must.

Run: python benchmarks/fuzz_bundles.py [--cases 400] > benchmarks/results/fuzz_bundles.md
"""

import argparse
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from helpers.damaged_bundles import BLIND, SIGNED, Trial, flipped_header, header_length
from measure import print_table
from test_persistence_bundle_damaged import KINDS, TINY

from sklearn_hscl import HSCLEmbedder

LONGEST = 20  # seconds after which a case counts as hanging


def cases(rng, data, n_cases):
    """Yield the name of each case, its bytes, and whether its checksums are right."""
    for position in range(header_length(data)):
        yield "every byte of the header", flipped_header(rng, data, position), False
    for damage in BLIND + SIGNED:
        for _ in range(n_cases):
            name = damage.__name__.replace("_", " ")
            yield name, damage(rng, data), damage in SIGNED


def tried(trial, data, is_signed):
    signal.alarm(LONGEST)
    try:
        return trial.outcome(data, is_signed=is_signed)
    except Exception as error:
        print(repr(error)[:200], file=sys.stderr)
        return "violation"
    finally:
        signal.alarm(0)


def hangs(number, frame):
    raise TimeoutError("a case takes too long")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=400, help="of each kind of damage")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    signal.signal(signal.SIGALRM, hangs)
    rng = np.random.default_rng(arguments.seed)
    found, slowest, before = Counter(), 0.0, None
    for parameters, rows, targets in KINDS.values():
        X = rows()
        embedder = HSCLEmbedder(**TINY | parameters).fit(X, targets())
        with tempfile.TemporaryDirectory() as folder:
            trial = Trial(embedder, X, folder)
            before = before or peak()
            for name, data, is_signed in cases(rng, trial.data, arguments.cases):
                start = time.perf_counter()
                found[name, tried(trial, data, is_signed)] += 1
                slowest = max(slowest, time.perf_counter() - start)
    report(found, slowest, peak() - before, arguments)


def peak():
    """Return the peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(found, slowest, grown, arguments):
    outcomes = ("refused", "loaded", "violation")
    names = dict.fromkeys(name for name, _ in found)
    total = [sum(found[name, outcome] for name in names) for outcome in outcomes]
    print("# Damaged bundles\n")
    print(
        f"`python benchmarks/fuzz_bundles.py --cases {arguments.cases} --seed "
        f"{arguments.seed}`: {sum(total):,} files, {total[2]} violations; the slowest took "
        f"{slowest:.2f} s, and the peak of memory grew by {grown:.0f} MB.\n"
    )
    print(
        "Refused is a `BundleError` that names the file. Loaded is an embedder with the "
        "same bits as before the damage, or, where wrong contents were signed with right "
        "checksums, one whose `transform` returns or raises a ValueError. Anything else, "
        f"or more than {LONGEST} s, is a violation.\n"
    )
    rows = [[name, *(found[name, outcome] for outcome in outcomes)] for name in names]
    print_table(["damage", *outcomes], [*rows, ["all", *total]])


if __name__ == "__main__":
    main()
