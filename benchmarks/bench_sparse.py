"""Sparse rows: the embedding against the rows that it is made from.

    python benchmarks/bench_sparse.py dev
    python benchmarks/bench_sparse.py dev --more FOLDER  # with NAME.npz of sparse rows
    python benchmarks/bench_sparse.py --report  # the tables of results/sparse_rows.md

At most 2,000 rows of each set, stratified splits 70/30, three seeds, one thread. A set is
in the development half or the confirmation half by the sha256 of its name, as tables are.
Cells are appended to results/sparse_rows.jsonl; those already there are skipped.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import tables
import texts
from cells import RESULTS, attempt, read_cells, write_cells
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sklearn_hscl import HSCLEmbedder

CELLS = RESULTS / "sparse_rows.jsonl"
SEEDS = (0, 1, 2)
MAX_ROWS = 2000
Rows = tuple[csr_array, np.ndarray]
Embed = Callable[[csr_array, np.ndarray, csr_array, int], tuple[np.ndarray, np.ndarray]]


# Sets ----------------------------------------------------------------------------------

COUNTS = ("cnae9", "hiva_agnostic", "semeion")  # tables of which most entries are 0
ONE_HOT = (
    "kr_vs_kp",
    "marketing_income",
    "mushroom",
    "phishing_websites",
    "soybean",
    "splice",
)


def table(name: str) -> tuple[pd.DataFrame, np.ndarray]:
    frame = pd.read_parquet(tables.FOLDER / f"{name}.parquet")
    return frame, frame.pop("target").astype(str).to_numpy()


def counts(name: str) -> Rows:
    frame, y = table(name)
    return csr_array(frame.to_numpy(np.float64)), y


def one_hot(name: str) -> Rows:
    frame, y = table(name)
    encoder = OneHotEncoder(handle_unknown="ignore")
    return csr_array(encoder.fit_transform(frame.astype(str))), y


VECTORIZERS = {
    "counts": lambda: CountVectorizer(min_df=2),
    "TF-IDF": lambda: TfidfVectorizer(min_df=2),
    "TF-IDF, min_df=20": lambda: TfidfVectorizer(min_df=20),
}


def text(name: str, vectorizer: CountVectorizer) -> Rows:
    loaded = texts.load(name)
    return csr_array(
        vectorizer.fit_transform(loaded.texts), dtype=np.float64
    ), loaded.labels


def stored(path: Path) -> Rows:
    parts = np.load(path)
    rows = csr_array(
        (parts["data"], parts["indices"], parts["indptr"]), shape=tuple(parts["shape"])
    )
    return rows, parts["y"].astype(str)


def all_sets(more: Path | None) -> dict[str, Callable[[], Rows]]:
    """Return the sets by name."""
    sets = {name: (lambda name=name: counts(name)) for name in COUNTS}
    sets |= {f"{name}, one-hot": (lambda name=name: one_hot(name)) for name in ONE_HOT}
    for name in texts.names():
        for kind, vectorizer in VECTORIZERS.items():
            sets[f"{name}, {kind}"] = lambda name=name, make=vectorizer: text(name, make())
    paths = sorted(more.glob("*.npz")) if more is not None else []
    return sets | {path.stem: (lambda path=path: stored(path)) for path in paths}


def half(name: str) -> str:
    """Return the half of a set, by the name of what it is made from."""
    return "confirm" if tables.is_confirmation(name.partition(",")[0]) else "dev"


def split(X: csr_array, y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of training and test rows."""
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(y))[:MAX_ROWS])
    kept, sizes = np.unique(y[rows], return_counts=True)
    rows = rows[np.isin(y[rows], kept[sizes >= tables.MIN_CLASS])]
    train, test = train_test_split(rows, test_size=0.3, random_state=seed, stratify=y[rows])
    return train, test


# Models --------------------------------------------------------------------------------


def as_they_are(X: csr_array, y: np.ndarray, X_test: csr_array, seed: int):
    return X, X_test


def scaled(X: csr_array, y: np.ndarray, X_test: csr_array, seed: int):
    scaler = StandardScaler(with_mean=False).fit(X)
    return scaler.transform(X), scaler.transform(X_test)


def embedded(**params: object) -> Embed:
    def embed(X: csr_array, y: np.ndarray, X_test: csr_array, seed: int):
        embedder = HSCLEmbedder(random_state=seed, **params).fit(X, y)
        return embedder.transform(X), embedder.transform(X_test)

    return embed


def dense(X: csr_array, y: np.ndarray, X_test: csr_array, seed: int):
    embed = embedded(encoder="tabular")
    return embed(X.toarray(), y, X_test.toarray(), seed)


MODELS: dict[str, Embed] = {
    "rows": as_they_are,
    "scaled rows": scaled,
    "mlp": embedded(encoder="mlp"),
    "tabular": dense,
}


def evaluate(embed: Embed, X: csr_array, y: np.ndarray, seed: int) -> dict[str, object]:
    """Return scores of simple classifiers of what `embed` returns, on one split."""
    train, test = split(X, y, seed)
    start = time.process_time()
    Z, Z_test = embed(X[train], y[train], X[test], seed)
    seconds = time.process_time() - start
    linear = LogisticRegression(max_iter=2000).fit(Z, y[train])
    neighbors = KNeighborsClassifier(10).fit(Z, y[train])
    probabilities = linear.predict_proba(Z_test)
    scores = {
        "lr": accuracy_score(y[test], linear.predict(Z_test)),
        "log_loss": log_loss(y[test], probabilities, labels=linear.classes_),
        "knn": accuracy_score(y[test], neighbors.predict(Z_test)),
        "seconds": seconds,
    }
    shape = {
        "n_train": len(train),
        "n_columns": X.shape[1],
        "density": X.nnz / np.prod(X.shape),
        "n_classes": len(linear.classes_),
    }
    return {k: round(float(v), 4) for k, v in (scores | shape).items()}


def run(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Yield the missing cells."""
    done = {(c["model"], c["set"], c["seed"]) for c in read_cells(options.cells)}
    for name, load in all_sets(options.more).items():
        if half(name) != options.half or (options.sets and name not in options.sets):
            continue
        X, y = load()
        for seed in options.seeds:
            for model in options.models:
                if (model, name, seed) not in done:
                    cell = {"model": model, "set": name, "seed": seed}
                    task = partial(evaluate, MODELS[model], X, y, seed)
                    yield cell | attempt(task, limit=900)


METRICS = {"lr": "LR accuracy", "log_loss": "LR log loss", "knn": "10-NN accuracy"}


def report(cells: list[dict[str, object]]) -> str:
    """Return tables in Markdown: one row per set, means over its seeds."""
    frame = pd.DataFrame(cells)
    frame["half"] = frame["set"].map(half)
    lines = []
    for part, title in (("dev", "Development half"), ("confirm", "Confirmation half")):
        lines += [f"## {title}", "", *_table(frame[frame["half"] == part]), ""]
    return "\n".join(lines)


def _table(cells: pd.DataFrame) -> Iterator[str]:
    """Yield a table of the sets, with LR accuracy / LR log loss / 10-NN accuracy."""
    models = [model for model in MODELS if model in set(cells["model"])]
    head = [
        "set",
        "rows",
        "columns",
        "density",
        "classes",
        "seeds",
        *models,
        "mlp s",
        "tabular s",
    ]
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for name, of_set in cells.groupby("set", sort=False):
        shape = of_set.iloc[0]
        means = of_set.groupby("model")[[*METRICS, "seconds"]].mean()
        row = [
            name,
            f"{shape['n_train']:.0f}",
            f"{shape['n_columns']:.0f}",
            f"{shape['density']:.1%}",
            f"{shape['n_classes']:.0f}",
            f"{of_set['seed'].nunique()}",
        ]
        for model in models:
            scores = means.loc[model] if model in means.index else None
            row.append("-" if scores is None else " / ".join(_figures(scores)))
        for model in ("mlp", "tabular"):
            row.append(
                f"{means.loc[model, 'seconds']:.0f}" if model in means.index else "-"
            )
        yield f"| {' | '.join(row)} |"


def _figures(scores: pd.Series) -> list[str]:
    return [
        f"{100 * scores['lr']:.1f}",
        f"{scores['log_loss']:.2f}",
        f"{100 * scores['knn']:.1f}",
    ]


def main() -> None:
    """Run missing cells, or report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("half", nargs="?", choices=["dev", "confirm"], default="dev")
    parser.add_argument("--more", type=Path, help="folder of NAME.npz")
    parser.add_argument("--sets", nargs="+")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--cells", type=Path, default=CELLS)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if options.report:
        print(report(read_cells(options.cells)))
        return
    for cell in run(options):
        write_cells(options.cells, [cell], "a")
        print(*cell.values(), sep=" | ", flush=True)


if __name__ == "__main__":
    main()
