"""Graph embeddings trained with the losses of the paper, on ten folds of each set.

    python benchmarks/papers/graphs.py                      # CPU size, about half an hour
    python benchmarks/papers/graphs.py --sets MUTAG PTC     # some sets, also other ones
    python benchmarks/papers/graphs.py --full               # 200 epochs, all T, also NCI1
    python benchmarks/papers/graphs.py --report > benchmarks/results/graphs.md

Graphs are read from ``SKLEARN_HSCL_DATA``/graphs (default ``../shared/data``), in the text
format of its README. A GIN of three layers of width 32 is trained on the training graphs of
each fold, in batches of 128 as in the code of H-UCL, and judged on the test graphs by a
linear SVM and by logistic regression on its standardised embedding. Their C is chosen in
the training graphs, from seven values in three folds.

Each loss runs for every beta and temperature of its grid. The setting that is reported as
"chosen" had the best logistic regression on the next fold, after a training without both
folds. Without --full there are at least 20 epochs and 200 steps, T = 0.5 and three values
of beta. Baselines are the counts of
Weisfeiler-Lehman subtree patterns with a linear SVM (the kernel of that name), histograms
of node tags with logistic regression, the same network as drawn, and the same network
trained with cross-entropy. Cells are appended to results/graphs.jsonl; those already there
are skipped.
"""

import argparse
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from graph_data import GraphSet, read_set
from graphs_report import report
from joblib import Parallel, delayed
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from sklearn_hscl import HSCLEmbedder

sys.path.append(str(Path(__file__).parent.parent))
from cells import RESULTS, read_cells, write_cells

SETS = ("MUTAG", "PTC", "PROTEINS", "IMDBBINARY")
FULL_SETS = (*SETS, "NCI1")
CS = tuple(10.0**power for power in range(-3, 4))
BETAS, FULL_BETAS = (1.0, 5.0, 10.0), (0.5, 1.0, 2.0, 5.0, 10.0)
TEMPERATURE = 0.5
FULL_TEMPERATURES = (0.1, 0.2, 0.5, 1.0)
LOSSES: dict[str, dict[str, Any]] = {
    "UCL": {"loss": "ucl"},
    "H-UCL": {"loss": "hucl"},
    "SCL": {"loss": "scl"},
    "H-SCL": {"loss": "hscl"},
}
UNTRAINED = {"loss": "ucl", "lr": 1e-12, "max_epochs": 5, "weight_decay": 0.0}
OTHERS: dict[str, dict[str, Any]] = {
    "GIN as drawn": UNTRAINED,
    "GIN, cross-entropy": {"loss": "scl", "ce_weight": 1.0},
}
BASELINES = ("WL subtree kernel", "histogram of tags")
WL_STEPS = 5
MIN_EPOCHS, MIN_STEPS, FULL_EPOCHS = 20, 200, 200
BATCH_SIZE = 128
KEYS = ("set", "fold", "model", "beta", "temperature", "stage", "seed", "size")

Cell = dict[str, Any]


def settings_of(full: bool) -> Iterator[Cell]:
    """Yield loss, beta and temperature of all models."""
    temperatures = FULL_TEMPERATURES if full else (TEMPERATURE,)
    betas = FULL_BETAS if full else BETAS
    for model in LOSSES:
        for beta in betas if model.startswith("H-") else (0.0,):
            for temperature in temperatures:
                yield {"model": model, "beta": beta, "temperature": temperature}
    for model in (*OTHERS, *BASELINES):
        yield {"model": model, "beta": 0.0, "temperature": TEMPERATURE}


def cells_to_do(args: argparse.Namespace, done: set[tuple[Any, ...]]) -> Iterator[Cell]:
    """Yield the cells without scores."""
    settings = list(settings_of(args.full))
    by_model = Counter(setting["model"] for setting in settings)
    n_folds = {name: len(data_of(name).folds) for name in args.sets}
    places = product(args.seeds, range(max(n_folds.values())), args.sets, settings)
    for seed, fold, name, setting in places:
        has_choice = by_model[setting["model"]] > 1
        for stage in ("test", "validation") if has_choice else ("test",):
            cell = {"set": name, "fold": fold, "stage": stage, **setting, "seed": seed}
            cell["size"] = "full" if args.full else "cpu"
            is_new = tuple(cell[key] for key in KEYS) not in done
            if fold < n_folds[name] and is_new:
                yield cell | {"epochs": args.epochs or n_epochs(name, args.full)}


def n_epochs(name: str, full: bool) -> int:
    """Return the number of epochs of a set."""
    n_batches = -(-len(data_of(name).training(0)) // BATCH_SIZE)
    return FULL_EPOCHS if full else max(MIN_EPOCHS, -(-MIN_STEPS // n_batches))


@cache
def data_of(name: str) -> GraphSet:
    """Read a set once in each process."""
    return read_set(name)


def run(cell: Cell) -> Cell:
    """Return the cell with its scores."""
    data = data_of(cell["set"])
    validation = (cell["fold"] + 1) % len(data.folds)
    is_test = cell["stage"] == "test"
    held_out = (cell["fold"],) if is_test else (cell["fold"], validation)
    train = data.training(*held_out)
    test = data.folds[held_out[-1]]
    start = time.process_time()
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # convergence of readouts
        scores = _baseline(cell, data, train, test)
        if scores is None:
            rows = embed(cell, data, train)
            seconds = time.process_time() - start
            names = ("svm", "logistic") if is_test else ("logistic",)
            scores = readouts(rows, data.y, train, test, names)
            scores["fit_seconds"] = round(seconds, 2)
    return cell | scores | {"n_test": len(test), "n_train": len(train)}


def embed(cell: Cell, data: GraphSet, train: np.ndarray) -> np.ndarray:
    """Train on the training graphs, with or without their labels, and embed all graphs."""
    graphs = data.as_pairs()
    model = cell["model"]
    options = (LOSSES | OTHERS)[model] | {"temperature": cell["temperature"]}
    if model.startswith("H-"):
        options["beta"] = cell["beta"]
    defaults = {
        "encoder": "gin",
        "batch_size": BATCH_SIZE,
        "max_epochs": cell["epochs"],
        "random_state": cell["seed"],
        "n_threads": 1,
    }
    embedder = HSCLEmbedder(**defaults | options)
    embedder.fit([graphs[i] for i in train], data.y[train])
    return embedder.transform(graphs)


def readouts(
    X: np.ndarray,
    y: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    names: tuple[str, ...] = ("svm", "logistic"),
) -> Cell:
    """Return the test accuracy of linear readouts, whose C is chosen in training rows."""
    models = {
        "logistic": LogisticRegression(solver="newton-cholesky", max_iter=50),
        "svm": LinearSVC(dual=False, max_iter=200, tol=1e-3),
    }
    scores = {}
    for name in names:
        pipeline = make_pipeline(StandardScaler(), models[name])
        search = GridSearchCV(pipeline, {f"{pipeline.steps[-1][0]}__C": CS}, cv=3)
        scores[name] = float(search.fit(X[train], y[train]).score(X[test], y[test]))
    return scores


def _baseline(
    cell: Cell, data: GraphSet, train: np.ndarray, test: np.ndarray
) -> Cell | None:
    """Return the scores of a model without network; None for the others."""
    y = data.y
    if cell["model"] == "histogram of tags":
        rows = data.histograms()
        return readouts(rows, y, train, test)
    if cell["model"] != "WL subtree kernel":
        return None
    best: tuple[float, Any, Any] = (-1.0, None, None)
    for counts in data.weisfeiler_lehman(WL_STEPS):
        pipeline = make_pipeline(Normalizer(), LinearSVC(dual=True, max_iter=5000))
        search = GridSearchCV(pipeline, {"linearsvc__C": CS}, cv=3)
        search.fit(counts[train], y[train])
        if search.best_score_ > best[0]:
            best = (search.best_score_, search, counts)
    _, search, counts = best
    return {"svm": float(search.score(counts[test], y[test]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", nargs="+")
    parser.add_argument("--full", action="store_true", help="size of the papers")
    parser.add_argument("--epochs", type=int, help="to try the script")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "graphs.jsonl")
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    args.sets = args.sets or (FULL_SETS if args.full else SETS)
    args.seeds = args.seeds or ((0, 1, 2) if args.full else (0,))
    cells = read_cells(args.out)
    if args.report:
        print(report(cells, "full" if args.full else "cpu", CS))
        return
    done = {tuple(cell[key] for key in KEYS) for cell in cells}
    to_do = list(cells_to_do(args, done))
    print(f"{len(to_do)} cells to do, {len(done)} done", file=sys.stderr)
    parallel = Parallel(n_jobs=args.jobs, return_as="generator_unordered")
    for number, cell in enumerate(parallel(map(delayed(run), to_do)), 1):
        write_cells(args.out, [cell], "a")
        if number % 50 == 0:
            print(f"{number} of {len(to_do)}", file=sys.stderr)


if __name__ == "__main__":
    main()
