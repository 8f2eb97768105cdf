"""Do members of ``encoder="tabular"`` know labels of the samples that they hold out?

    python benchmarks/bench_out_of_fold.py

Prints Markdown. Rows are noise, with random classes. `fit_transform` with `cross_fit`
embeds each of them by the member that does not see it; a logistic regression learns from
four fifths of these embeddings, and is tested on the last fifth. Chance is 50 %.
"""

import argparse
import warnings

import numpy as np
from measure import print_table
from sklearn.linear_model import LogisticRegression

from sklearn_hscl import HSCLEmbedder

N_ROWS, N_TRAIN = 150, 120
N_COLUMNS = (5, 20, 100, 500)
SETTINGS = {"defaults": {}, "no stopping": {"early_stopping": False}}


def accuracy(n_columns: int, seed: int, **settings: object) -> float:
    """Return the accuracy in percent on noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N_ROWS, n_columns))
    y = rng.permutation(np.arange(N_ROWS) % 2)
    embedder = HSCLEmbedder(random_state=seed, n_threads=1, cross_fit=5, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of training to the last epoch
        Z = embedder.fit_transform(X, y)
    classifier = LogisticRegression().fit(Z[:N_TRAIN], y[:N_TRAIN])
    return 100 * classifier.score(Z[N_TRAIN:], y[N_TRAIN:])


def main() -> None:
    """Print mean and standard error over the draws."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draws", type=int, default=10)
    draws = range(parser.parse_args().draws)
    rows = []
    for name, settings in {
        "defaults": {},
        "no stopping": {"early_stopping": False},
    }.items():
        row = [name]
        for n_columns in N_COLUMNS:
            scores = [accuracy(n_columns, seed, **settings) for seed in draws]
            error = np.std(scores) / np.sqrt(len(scores))
            row.append(f"{np.mean(scores):.1f} ± {error:.1f}")
        rows.append(row)
    print_table(["columns", *map(str, N_COLUMNS)], rows)


if __name__ == "__main__":
    main()
