"""How much faster is a stacked search than scikit-learn's, with the same scores?

    python benchmarks/bench_search.py                 # the tables below
    python benchmarks/bench_search.py --device cuda   # against sequential fits on a GPU
    python benchmarks/bench_search.py --only " x 2 beta"  # some of the settings

A pipeline of StandardScaler, HSCLEmbedder and LogisticRegression is searched over 8 beta
x 3 temperatures x 5 folds: 120 fits. GridSearchCV and BatchedGridSearchCV take turns;
both have two worker processes that are warm. Seconds of CPU are those of all processes,
and do not depend on what else the machine does; wall seconds do.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measure import print_table
from sklearn.base import BaseEstimator
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.model_selection import BatchedGridSearchCV

GRID = {
    "hsclembedder__beta": [0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0],
    "hsclembedder__temperature": [0.3, 0.5, 0.8],
}
# Parameters that change more than a number of the loss.
MIXED = {
    "3 hardenings": ("hardening", ["exponential", "polynomial", "threshold"]),
    "2 encoders": ("encoder", ["tabular", "mlp"]),
    "3 batch sizes": ("batch_size", [128, 256, 512]),
    "3 random states": ("random_state", [0, 1, 2]),
}
SMALL = {"encoder": "mlp", "hidden_layer_sizes": (64, 64), "n_components": 32}


def table(n_rows: int, n_columns: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Make a table with four classes."""
    X, y = make_classification(
        n_rows, n_columns, n_informative=10, n_classes=4, random_state=0
    )
    return X.astype(np.float32), y


def pipeline(device: str, **params: Any) -> BaseEstimator:
    """Make the pipeline that is searched."""
    embedder = HSCLEmbedder(device=device, random_state=0, **params)
    return make_pipeline(StandardScaler(), embedder, LogisticRegression(max_iter=500))


def cpu_seconds() -> float:
    """Return the CPU time of this process and its workers."""
    ticks = 0
    for pid in [os.getpid(), *children(os.getpid())]:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # in user mode and in the kernel
    return ticks / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Return the child processes of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    below = [int(n) for task in tasks for n in (task / "children").read_text().split()]
    return below + [n for child in below for n in children(child)]


def search(kind: Callable[..., Any], X: Any, y: Any, **options: Any) -> dict[str, Any]:
    """Run one search; return its seconds and scores."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    fitted = kind(cv=5, refit=False, **options).fit(X, y)
    seconds = {"wall": time.perf_counter() - wall, "cpu": cpu_seconds() - cpu}
    return seconds | {"scores": fitted.cv_results_["mean_test_score"]}


def compare(
    n_rows: int,
    n_jobs: int,
    n_turns: int,
    device: str,
    grid: dict[str, Any] = GRID,
    **params: Any,
) -> list[str]:
    """Let both searches take turns; return their row of the table."""
    X, y = table(n_rows)
    options = {"estimator": pipeline(device, **params), "param_grid": grid}
    options |= {"n_jobs": n_jobs}
    warm = options | {"param_grid": {name: values[:2] for name, values in grid.items()}}
    kinds = (GridSearchCV, BatchedGridSearchCV)
    for kind in kinds:
        search(kind, X, y, **warm)
    turns = [[search(kind, X, y, **options) for kind in kinds] for _ in range(n_turns)]
    wall, cpu = (
        np.median([[run[name] for run in turn] for turn in turns], axis=0)
        for name in ("wall", "cpu")
    )
    difference = max(np.abs(one["scores"] - other["scores"]).max() for one, other in turns)
    cells = []
    for alone, batched in (wall, cpu):
        cells += [f"{alone:.1f}", f"{batched:.1f}", f"**{alone / batched:.2f}**"]
    return [*cells, f"{difference:.4f}"]


def settings() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the settings besides the 120 small fits."""
    small = {"n_rows": 4000, "max_epochs": 10, **SMALL}
    yield "4,000 rows, 20-64-64-32", small
    for n_beta in (2, 4):
        grid = GRID | {"hsclembedder__beta": GRID["hsclembedder__beta"][:n_beta]}
        yield f"the same, {3 * n_beta} candidates", small | {"grid": grid}
    for n_rows in (1000, 16000):
        yield f"the same, {n_rows:,} rows", small | {"n_rows": n_rows}
    for width in (128, 256):
        name = f"4,000 rows, 20-{width}-{width}-32"
        yield name, small | {"hidden_layer_sizes": (width, width)}
    few = {name: values[1:8:3] for name, values in GRID.items()}
    few["hsclembedder__temperature"] = [0.3, 0.5]
    tabular = {"n_rows": 2000, "max_epochs": 10, "grid": few}
    yield "2,000 rows, default encoder, 6 candidates", tabular
    for name, (parameter, values) in MIXED.items():
        grid = {f"hsclembedder__{parameter}": values, "hsclembedder__beta": [0.5, 2.0]}
        yield f"the same, {name} x 2 beta", tabular | {"grid": grid}


def main() -> None:
    """Print the table of results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--n-jobs", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--only", default="", help="text that the setting contains")
    args = parser.parse_args()
    n_jobs = args.n_jobs if args.device == "cpu" else 1
    common = {"n_jobs": n_jobs, "n_turns": args.turns, "device": args.device}
    header = ["setting", "wall s, GridSearchCV", "batched", "ratio"]
    header += ["CPU s, GridSearchCV", "batched", "ratio"]
    header += ["largest difference of mean scores"]
    rows = (
        [name, *compare(**common, **options)]
        for name, options in settings()
        if args.only in name
    )
    print_table(header, rows)


if __name__ == "__main__":
    main()
