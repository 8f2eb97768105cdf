"""Evaluate the defaults of encoder="mlp" on real tables, one change at a time.

The tables are the development half of SKLEARN_HSCL_DATA/tabular (even sha256 of the name),
those with at least four columns, numeric and without missing values, and scikit-learn's
digits; at most 1,800 rows each, 70 % for training. Each configuration is scored by a
default LogisticRegression on the embedding of held-out rows.

    python benchmarks/bench_defaults.py > benchmarks/results/defaults.md
"""

import argparse
import time

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tables import FOLDER, is_confirmation

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.augment import FeatureCorruption

MAX_ROWS, MIN_CLASS, MAX_COLUMNS = 1800, 6, 200

LABELLED = {
    "default": {},
    "loss='scl'": {"loss": "scl"},
    "hardening='threshold'": {"hardening": "threshold"},
    "beta=5": {"beta": 5.0},
    "temperature=0.2": {"temperature": 0.2},
    "temperature=0.1": {"temperature": 0.1},
    "projection_dim=None": {"projection_dim": None},
    "normalize=True": {"normalize": True},
    "max_epochs=10": {"max_epochs": 10},
    "max_epochs=50": {"max_epochs": 50},
    "batch_size=128": {"batch_size": 128},
    "n_views=2, p=0.2": {"n_views": 2},
}
UNLABELLED = {
    "default": {},
    "loss='ucl'": {"loss": "ucl"},
    "p=0.1": {"augment": FeatureCorruption(0.1)},
    "p=0.3": {"augment": FeatureCorruption(0.3)},
    "p=0.6": {"augment": FeatureCorruption(0.6)},
    "projection_dim=None": {"projection_dim": None},
    "normalize=True": {"normalize": True},
    "max_epochs=50": {"max_epochs": 50},
}
CLASSIFIER = LogisticRegression(max_iter=2000)


def configurations() -> dict[str, BaseEstimator]:
    """Return all estimators by name."""
    return {
        "LogisticRegression": make_pipeline(StandardScaler(), CLASSIFIER),
        "MLPClassifier": make_pipeline(StandardScaler(), MLPClassifier()),
        **{
            f"hscl, {name}": make_pipeline(
                HSCLEmbedder(**({"loss": "hscl", "encoder": "mlp"} | changes)), CLASSIFIER
            )
            for name, changes in LABELLED.items()
        },
        **{
            f"hucl, {name}": make_pipeline(
                HSCLEmbedder(**({"loss": "hucl"} | changes)), CLASSIFIER
            )
            for name, changes in UNLABELLED.items()
        },
    }


def development_tables() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Load the numeric tables of the development half, and the digits."""
    tables = {"digits": load_digits(return_X_y=True)}
    for path in sorted(FOLDER.glob("*.parquet")):
        if is_confirmation(path.stem):
            continue
        frame = pd.read_parquet(path)
        y = frame.pop("target").astype(str).to_numpy()
        numeric = frame.select_dtypes("number")
        columns = numeric.shape[1]
        complete = columns == frame.shape[1] and not numeric.isna().any(axis=None)
        if complete and 4 <= columns <= MAX_COLUMNS:
            tables[path.stem] = numeric.to_numpy(np.float64), y
    return {name: reduced(*table) for name, table in tables.items()}


def reduced(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drop rows beyond the limit, then classes that are too small to split."""
    if len(y) > MAX_ROWS:
        kept = np.random.default_rng(0).choice(len(y), MAX_ROWS, replace=False)
        X, y = X[kept], y[kept]
    _, codes, counts = np.unique(y, return_inverse=True, return_counts=True)
    return X[counts[codes] >= MIN_CLASS], y[counts[codes] >= MIN_CLASS]


def evaluate(
    name: str, table: str, X: np.ndarray, y: np.ndarray, seed: int
) -> dict[str, object]:
    """Fit one configuration on one split."""
    torch.set_num_threads(1)
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=0.3, random_state=seed, stratify=y
    )
    estimator = clone(configurations()[name])
    for step in estimator:
        if hasattr(step, "random_state"):
            step.set_params(random_state=seed)
    start = time.perf_counter()
    estimator.fit(X_train, y_train)
    seconds = time.perf_counter() - start
    probabilities = estimator.predict_proba(X_test)
    return {
        "configuration": name,
        "table": table,
        "accuracy": 100 * estimator.score(X_test, y_test),
        "log loss": log_loss(y_test, probabilities, labels=estimator.classes_),
        "seconds": seconds,
    }


def main() -> None:
    """Run everything and print markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    tables = development_tables()
    rows = Parallel(n_jobs=options.jobs)(
        delayed(evaluate)(name, table, X, y, seed)
        for table, (X, y) in tables.items()
        for seed in range(options.seeds)
        for name in configurations()
    )
    results = pd.DataFrame(rows)
    means = results.groupby("configuration", sort=False).mean(numeric_only=True)
    per_table = results.pivot_table("accuracy", "table", "configuration")
    wins = {
        name: sum(per_table[name] > per_table[f"{name.split(',')[0]}, default"])
        for name in per_table
        if "," in name
    }
    means["tables better than default"] = pd.Series(wins)
    print("# One change at a time from the defaults\n")
    print(f"`python benchmarks/bench_defaults.py --seeds {options.seeds}`, one thread per")
    print(f"fit. Means over {len(tables)} tables and seeds 0-{options.seeds - 1}:")
    print(", ".join(tables) + ".\n")
    print(means.round(3).to_markdown(floatfmt=".3f"))


if __name__ == "__main__":
    main()
