"""Does early_stopping=True retain trained weights on small tables?

The tables are scikit-learn's iris, wine and breast cancer, and those of the development
half of SKLEARN_HSCL_DATA/tabular (even sha256 of the name) that have at most 1,000 rows,
are numeric and have no missing values. 70 % of the rows are for training. Each fit is
scored by a default LogisticRegression on the embedding of held-out rows.

    python benchmarks/bench_early_stopping.py
"""

import argparse

import numpy as np
import pandas as pd
import torch
from measure import print_table
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from tables import FOLDER, is_confirmation

from sklearn_hscl import HSCLEmbedder

MAX_ROWS, MIN_CLASS = 1000, 6
HEADER = (
    "table",
    "encoder",
    "epochs retained",
    "decrease of the loss",
    "accuracy",
    "accuracy without",
)


def small_tables() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Load the tables, without classes that are too small to split."""
    loaders = {"iris": load_iris, "wine": load_wine, "breast cancer": load_breast_cancer}
    tables = {name: load(return_X_y=True) for name, load in loaders.items()}
    for path in sorted(FOLDER.glob("*.parquet")):
        frame = pd.read_parquet(path)
        if is_confirmation(path.stem) or len(frame) > MAX_ROWS:
            continue
        y = frame.pop("target").astype(str).to_numpy()
        X = frame.select_dtypes("number")
        if X.shape[1] == frame.shape[1] and not X.isna().any(axis=None):
            _, codes, counts = np.unique(y, return_inverse=True, return_counts=True)
            is_large = counts[codes] >= MIN_CLASS
            tables[path.stem] = X.to_numpy(np.float64)[is_large], y[is_large]
    return tables


def evaluate(
    X: np.ndarray, y: np.ndarray, encoder: str, early_stopping: bool | str, seed: int
) -> tuple[float, int, float]:
    """Return the accuracy, the retained epoch and the decrease of the training loss.

    The decrease is that from chance level, as a fraction of the largest in the fit.
    """
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=0.3, random_state=seed, stratify=y
    )
    embedder = HSCLEmbedder(
        encoder=encoder, early_stopping=early_stopping, random_state=seed
    ).fit(X_train, y_train)
    classifier = LogisticRegression(max_iter=2000)
    classifier.fit(embedder.transform(X_train), y_train)
    decrease = embedder.chance_loss_ - np.array(embedder.loss_curve_)
    best = embedder.best_epoch_
    return (
        100 * classifier.score(embedder.transform(X_test), y_test),
        best,
        decrease[best - 1] / decrease.max(),
    )


def main() -> None:
    """Run everything and print markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, differences = [], {"auto": [], "mlp": []}
    for table, (X, y) in small_tables().items():
        for encoder in differences:
            runs = [
                [evaluate(X, y, encoder, stopping, seed) for seed in range(options.seeds)]
                for stopping in (True, "auto")
            ]
            accuracies, epochs, decreases = zip(*runs[0], strict=True)
            without = np.mean([accuracy for accuracy, _, _ in runs[1]])
            differences[encoder].append(np.mean(accuracies) - without)
            shown = ", ".join(map(str, epochs)), ", ".join(f"{d:.2f}" for d in decreases)
            means = f"{np.mean(accuracies):.1f}", f"{without:.1f}"
            rows.append((table, encoder, *shown, *means))
    print_table(HEADER, rows)
    for encoder, found in differences.items():
        print(f"- {encoder}: mean difference {np.mean(found):+.2f} points")


if __name__ == "__main__":
    main()
