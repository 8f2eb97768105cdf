"""Thousands of random inputs of an embedder, counted by their outcome.

Prints Markdown: how many cases of each kind were fitted, how many refused with a clear
error, and how many violate what ``tests/helpers/fuzzing.py`` demands. Violations are
shown when they are found, one of each kind. A further case has as many categories as
rows, a million by default.
"""

import argparse
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from measure import print_table

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from helpers import fuzzing


def place(violation):
    """Return the origin of a violation, in this package if possible."""
    frames = traceback.extract_tb((violation.__cause__ or violation).__traceback__)
    ours = [frame for frame in frames if "sklearn_hscl/" in frame.filename]
    last = (ours or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno}", str(violation)[:200]


def run(try_case, n_cases, number):
    """Count outcomes of cases; collect violations by their origin."""
    counts, shown = Counter(), {}

    @seed(number)
    @settings(
        max_examples=n_cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def cases(data):
        try:
            counts[try_case(data.draw)] += 1
        except fuzzing.ViolationError as violation:
            counts["violations"] += 1
            where, what = place(violation)
            if (where, what[:60]) not in shown:
                print(where, what, file=sys.stderr, flush=True)
            shown.setdefault((where, what[:60]), what)

    cases()
    return counts, shown


def fit_many_categories(n_rows):
    """Return the seconds to fit and transform a column with as many categories as rows."""
    begin = time.perf_counter()
    X = pd.DataFrame(
        {"id": [f"name{i}" for i in range(n_rows)], "x": np.arange(n_rows, dtype=float)}
    )
    embedder = fuzzing.small_embedder(batch_size=8192)
    fitted, error = fuzzing.attempt(embedder.fit, X, np.arange(n_rows) % 2)
    if error is None:
        fuzzing.check_embedding(fitted.transform(X), X)
    outcome = "fitted" if error is None else f"refused: {error}"
    return outcome, time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--categories", type=int, default=10**6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    fractions = {"fit, transform": 0.45, "set_params": 0.15}
    table, violations = [], {}
    for kind, try_case in fuzzing.KINDS.items():
        n_cases = round(fractions.get(kind, 0.1) * options.cases)
        counts, shown = run(try_case, n_cases, options.seed)
        violations |= shown
        cells = [counts[name] for name in ("fitted", "refused", "violations")]
        table.append([kind, sum(counts.values()), *cells])
    table.append(["all", *np.sum([row[1:] for row in table], axis=0).tolist()])
    print_table(["cases", "tried", "fitted", "refused", "violations"], table)
    for (where, _), what in violations.items():
        print(f"- {where}: {what}")
    if options.categories:
        outcome, seconds = fit_many_categories(options.categories)
        print(f"{options.categories:,} categories: {outcome}, {seconds:.0f} s.")


if __name__ == "__main__":
    main()
