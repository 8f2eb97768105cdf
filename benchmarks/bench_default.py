"""How fast is the default, compared with another version of the package?

    python benchmarks/bench_default.py BEFORE AFTER            # two checkouts
    python benchmarks/bench_default.py BEFORE AFTER --parts row memory

The two take turns, each measurement in a fresh process of one thread. Seconds are those
of the CPU, so that other work on the machine matters less; the fastest turn counts.

- fit, full: default fits of the tables of the tiers "tune" and "full";
- conv: a fit of 5,000 images of Fashion-MNIST, with the accuracy of a logistic regression
  on the embedding of the test images;
- row: `transform` of one float32 row, in milliseconds;
- memory: growth of the peak in a default fit of 1,000,000 x 50, in MB.
"""

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from measure import around_centres, extra_memory, in_fresh_process, print_table
from sklearn.linear_model import LogisticRegression
from tables import FOLDER, TIERS, load_split

from sklearn_hscl import HSCLEmbedder

IMAGES = FOLDER.parent / "images"
N_IMAGES, N_LARGE = 5000, (1_000_000, 50)
CALLS = 300


# One measurement, in the version that PYTHONPATH names ----------------------------------


def fit(name: str, tier: str = "tune") -> list[float]:
    split = load_split(name, tier, 0)
    HSCLEmbedder(max_epochs=1).fit(split.X_train[:100], split.y_train[:100])  # imports
    start = time.process_time()
    HSCLEmbedder(random_state=0).fit(split.X_train, split.y_train)
    return [time.process_time() - start]


def full(name: str) -> list[float]:
    return fit(name, "full")


def conv(name: str) -> list[float]:
    with np.load(IMAGES / f"{name}.npz") as file:
        X, y = file["X_train"][:N_IMAGES], file["y_train"][:N_IMAGES]
        X_test, y_test = file["X_test"], file["y_test"]
    embedder = HSCLEmbedder(encoder="conv", random_state=0)
    start = time.process_time()
    embedder.fit(X, y)
    seconds = time.process_time() - start
    probe = LogisticRegression(max_iter=1000).fit(embedder.transform(X), y)
    return [seconds, probe.score(embedder.transform(X_test), y_test)]


def row(encoder: str) -> list[float]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 24)).astype(np.float32)
    y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).astype(int)
    embedder = HSCLEmbedder(encoder=encoder, random_state=0).fit(X, y)
    turns = []
    for _ in range(5):
        start = time.process_time()
        for i in range(CALLS):
            embedder.transform(X[i : i + 1])
        turns.append(1e3 * (time.process_time() - start) / CALLS)
    return [min(turns)]


def memory(name: str) -> list[float]:
    rng = np.random.default_rng(0)
    n_rows, n_columns = N_LARGE
    y = rng.integers(5, size=n_rows)
    X = around_centres(rng, rng.normal(size=(5, n_columns)).astype(np.float32), y)
    HSCLEmbedder(max_epochs=1).fit(X[:100], y[:100])  # imports
    embedder = HSCLEmbedder(random_state=0)
    start = time.process_time()
    grown = extra_memory(lambda: embedder.fit(X, y))
    return [grown, time.process_time() - start]


PARTS = {
    "fit": (fit, TIERS["tune"].names()),
    "full": (full, TIERS["full"].names()),
    "conv": (conv, ["fashion_mnist"]),
    "row": (row, ["mlp", "tabular"]),
    "memory": (memory, ["1,000,000 x 50"]),
}


# The two versions in turn ---------------------------------------------------------------


def measure(checkout: Path, part: str, item: str) -> list[float]:
    """Run one measurement in a fresh process that imports a checkout."""
    arguments = (__file__, "--worker", part, item)
    return in_fresh_process(*arguments, PYTHONPATH=checkout, OMP_NUM_THREADS=1)


def compare(part: str, versions: list[Path], n_turns: int) -> Iterator[list[str]]:
    """Yield a row for each item of a part, and one of the median ratio."""
    ratios = []
    for item in PARTS[part][1]:
        turns = [
            [measure(version, part, item) for version in versions] for _ in range(n_turns)
        ]
        before, after = np.array(turns).min(0)
        ratios.append(before[0] / after[0])
        others = [f"{x:.4g} / {y:.4g}" for x, y in zip(before[1:], after[1:], strict=True)]
        cells = [f"{before[0]:.3g}", f"{after[0]:.3g}", f"{ratios[-1]:.2f}"]
        yield [part, item, *cells, ", ".join(others) or "-"]
    if len(ratios) > 2:
        yield [part, "**median**", "", "", f"**{np.median(ratios):.2f}**", "-"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="*", type=Path, help="checkouts: before, after")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        warnings.simplefilter("ignore")
        part, item = options.worker
        print(*PARTS[part][0](item))
        return
    if len(options.versions) != 2:
        parser.error("Expected two checkouts, before and after. Pass their folders.")
    versions = [path.resolve() for path in options.versions]
    rows = (row for part in options.parts for row in compare(part, versions, options.turns))
    print_table(["part", "of", "before", "after", "ratio", "also: before / after"], rows)


if __name__ == "__main__":
    main()
