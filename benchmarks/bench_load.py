"""Large tables and many calls: peak memory, latency of one row, and memory leaks.

Prints Markdown. Each figure comes from a fresh process with one thread and the default
encoder. Memory of fit and transform is the peak of the whole process, X included; that of
many calls is the growth of what is resident from the 1,000th to the last. Times of calls
are of the process's own time, so that other work on the machine matters less.
"""

import argparse
import resource
import statistics
import time

import numpy as np
import pandas as pd
import torch
from measure import covertype_like, in_fresh_process, print_table, resident

from sklearn_hscl import HSCLEmbedder

N_FEATURES = 50
WARM_CALLS = 1000
FORMS = {
    "array, float32": lambda rows: rows,
    "array, float64": lambda rows: rows.astype(np.float64),
    "DataFrame": lambda rows: pd.DataFrame(rows).add_prefix("column"),
    "DataFrame with a category": lambda rows: (
        pd.DataFrame(rows)
        .add_prefix("column")
        .assign(kind=pd.Categorical(["a"] * len(rows)))
    ),
}


def large(n_rows):
    """Return the seconds of fit and transform, and the peak in MB."""
    X, y = covertype_like(n_rows, N_FEATURES)
    begin = time.process_time()
    embedder = HSCLEmbedder(max_epochs=1, batch_size=4096, random_state=0).fit(X, y)
    fitted = time.process_time()
    embedding = embedder.transform(X)
    end = time.process_time()
    assert np.isfinite(embedding).all()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return fitted - begin, end - fitted, peak


def calls(form, n_members, n_calls):
    """Return the median ms of transform on one row, and the MB that many calls leak."""
    X, y = covertype_like(600, N_FEATURES)
    table = FORMS[form](X)
    embedder = HSCLEmbedder(n_members=n_members, max_epochs=1, random_state=0)
    embedder.fit(table, y)
    row = table[:1]
    seconds = []
    for call in range(n_calls):
        begin = time.process_time()
        embedder.transform(row)
        seconds.append(time.process_time() - begin)
        if call == WARM_CALLS:
            before = resident("VmRSS")
    return statistics.median(seconds) * 1e3, (resident("VmRSS") - before) / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10**6)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--one-large", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--one-calls", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one_large:
        print(*large(options.one_large))
        return
    if options.one_calls:
        form, n_members = options.one_calls
        print(*calls(form, int(n_members), options.calls))
        return
    header = ["transform of one row", "members", "ms", "left behind, MB"]
    rows = []
    for form in FORMS:
        for n_members in (1, 4):
            arguments = ("--calls", options.calls, "--one-calls", form, n_members)
            ms, mb = in_fresh_process(__file__, *arguments)
            rows.append([form, n_members, f"{ms:.2f}", f"{mb:.1f}"])
    print_table(header, rows)
    figures = in_fresh_process(__file__, "--one-large", options.rows)
    header = ["rows", "features", "fit, s", "transform, s", "peak of the process, MB"]
    print_table(header, [[f"{options.rows:,}", N_FEATURES, *(f"{x:.0f}" for x in figures)]])


if __name__ == "__main__":
    main()
