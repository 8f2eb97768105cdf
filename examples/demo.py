"""The tour of ``make demo``: one table, one grid search, one figure.

All data sets are from scikit-learn. Each embedding is evaluated by the accuracy of a
logistic regression on it, on held-out samples of repeated splits.
"""

import argparse
import time
from collections.abc import Iterator
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from joblib import Parallel, delayed
from rich.progress import track
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.model_selection import BatchedGridSearchCV

DATASETS = {"digits": load_digits, "breast cancer": load_breast_cancer, "wine": load_wine}
CLASSIFIER = LogisticRegression(max_iter=1000)
MODELS = {"raw features": make_pipeline(StandardScaler(), CLASSIFIER)} | {
    name: make_pipeline(HSCLEmbedder(loss, random_state=0), CLASSIFIER)
    for name, loss in {"UCL": "ucl", "H-UCL": "hucl", "SCL": "scl", "H-SCL": "hscl"}.items()
}


class Result(NamedTuple):
    """One fit of one model on one split."""

    model: str
    dataset: str
    accuracy: float
    seconds: float


def evaluate(model: str, dataset: str, train: np.ndarray, test: np.ndarray) -> Result:
    """Fit on the training samples, score on the others."""
    torch.set_num_threads(1)  # in each worker: one process per core
    X, y = DATASETS[dataset](return_X_y=True)
    estimator = clone(MODELS[model])
    start = time.perf_counter()
    estimator.fit(X[train], y[train])
    seconds = time.perf_counter() - start
    return Result(model, dataset, estimator.score(X[test], y[test]), seconds)


def jobs(n_splits: int) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Yield all models on the same splits of all data sets."""
    splitter = StratifiedShuffleSplit(n_splits, test_size=0.3, random_state=0)
    for dataset, load in DATASETS.items():
        X, y = load(return_X_y=True)
        for train, test in splitter.split(X, y):
            yield from ((model, dataset, train, test) for model in MODELS)


def compare(n_splits: int, n_jobs: int) -> list[Result]:
    """Fit everything, with a progress bar."""
    todo = list(jobs(n_splits))
    results = Parallel(n_jobs=n_jobs, return_as="generator_unordered")(
        delayed(evaluate)(*job) for job in todo
    )
    return list(track(results, "Comparing embeddings", total=len(todo)))


def table(results: list[Result], n_splits: int) -> str:
    """Return a table of accuracy in percent (mean ± std over splits) and seconds."""
    lines = [
        f"Accuracy (%) of LogisticRegression on held-out rows, {n_splits} splits, and "
        "seconds per fit",
        f"{'':14}" + "".join(f"{name:>22}" for name in DATASETS),
    ]
    for model in MODELS:
        line = f"{model:14}"
        for dataset in DATASETS:
            fits = [r for r in results if (r.model, r.dataset) == (model, dataset)]
            accuracy = 100 * np.array([r.accuracy for r in fits])
            seconds = np.mean([r.seconds for r in fits])
            cell = f"{accuracy.mean():.1f} ± {accuracy.std():.1f} ({seconds:.2f} s)"
            line += f"{cell:>22}"
        lines.append(line)
    return "\n".join(lines)


def search(grid: dict[str, list[float]], n_jobs: int) -> BatchedGridSearchCV:
    """Search the hardening on the digits, with scikit-learn's own progress bars."""
    X, y = load_digits(return_X_y=True)
    X, _, y, _ = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
    pipe = Pipeline([("embed", HSCLEmbedder("hscl", random_state=0)), ("lr", CLASSIFIER)])
    grid = {f"embed__{name}": values for name, values in grid.items()}
    found = BatchedGridSearchCV(pipe, grid, cv=3, n_jobs=n_jobs, error_score="raise")
    return found.set_callbacks(ProgressBar(max_propagation_depth=0)).fit(X, y)


def figure(path: str) -> None:
    """Plot principal components of held-out digits before and after embedding."""
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=0.3, stratify=y, random_state=0
    )
    embedder = HSCLEmbedder("hscl", normalize=True, random_state=0).fit(X_train, y_train)
    views = {
        "Held-out digits: pixels": X_test,
        "The same after HSCLEmbedder": embedder.transform(X_test),
    }
    fig, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    for ax, (title, rows) in zip(axes, views.items(), strict=True):
        points = PCA(2, random_state=0).fit_transform(rows)
        dots = ax.scatter(*points.T, c=y_test, cmap="tab10", s=12)
        ax.set(title=title, xlabel="first component", ylabel="second component")
    fig.legend(*dots.legend_elements(num=None), title="digit", loc="outside right")
    fig.savefig(path, dpi=120)
    plt.close(fig)


def main(arguments: list[str] | None = None) -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--beta", type=float, nargs="+", default=[0.0, 1.0, 5.0])
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.1, 0.2, 0.5])
    parser.add_argument("--output", default="demo.png", help="where to write the figure")
    options = parser.parse_args(arguments)

    torch.set_num_threads(1)  # more threads do not help such small networks
    start = time.perf_counter()
    print(table(compare(options.splits, options.jobs), options.splits), flush=True)
    print("\nGrid search over beta and temperature on digits, 3 folds", flush=True)
    found = search({"beta": options.beta, "temperature": options.temperature}, options.jobs)
    best = {name.removeprefix("embed__"): v for name, v in found.best_params_.items()}
    print(f"Best of {len(found.cv_results_['params'])}: {best}, {found.best_score_:.3f}")
    figure(options.output)
    seconds = time.perf_counter() - start
    print(f"\nWrote {options.output}. The demo took {seconds:.0f} s.")


if __name__ == "__main__":
    main()
