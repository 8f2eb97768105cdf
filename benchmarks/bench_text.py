"""HSCLEmbedder on text: TF-IDF, its singular vectors, sentence embeddings.

    python benchmarks/bench_text.py
    python benchmarks/bench_text.py --embeddings FOLDER  # with arrays of embed_text.py
    python benchmarks/bench_text.py --report > benchmarks/results/text.md

At most 4,000 rows of each set, two stratified splits 70/30, defaults everywhere, one
thread. Cells are appended to results/text.jsonl; those already there are skipped.
"""

import argparse
import hashlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import texts
from cells import RESULTS, attempt, read_cells, write_cells
from sklearn.base import BaseEstimator
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from tabular_models import OURS, versions
from text_report import METRICS, report

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.augment import FeatureCorruption

CELLS = RESULTS / "text.jsonl"
SEEDS = (0, 1)
Factory = Callable[[int], BaseEstimator]


def words() -> TfidfVectorizer:
    return TfidfVectorizer(min_df=2)


def linear() -> LogisticRegression:
    return LogisticRegression(max_iter=2000)


def embedder(seed: int, **changes: object) -> HSCLEmbedder:
    return HSCLEmbedder(random_state=seed, **changes)


def on_words(seed: int, **changes: object) -> BaseEstimator:
    return make_pipeline(words(), embedder(seed, **changes), linear())


def singular(seed: int) -> BaseEstimator:
    return TruncatedSVD(100, random_state=seed)


def on_singular(seed: int, **changes: object) -> BaseEstimator:
    return make_pipeline(words(), singular(seed), embedder(seed, **changes), linear())


def on_embeddings(seed: int, **changes: object) -> BaseEstimator:
    return make_pipeline(embedder(seed, **changes), linear())


# Pipelines of texts.
OF_TEXTS: dict[str, Factory] = {
    "TF-IDF, LR": lambda seed: make_pipeline(words(), linear()),
    "TF-IDF, LinearSVC": lambda seed: make_pipeline(words(), LinearSVC(random_state=seed)),
    "TF-IDF, HSCL, LR": on_words,
    "TF-IDF, HSCL(loss='scl'), LR": partial(on_words, loss="scl"),
    "TF-IDF, HSCL(hidden_layer_sizes=(256, 256)), LR": partial(
        on_words, hidden_layer_sizes=(256, 256)
    ),
    "TF-IDF, HSCL(ce_weight=0.5), LR": partial(on_words, ce_weight=0.5),
    "TF-IDF, HSCL(lr=5e-4), LR": partial(on_words, lr=5e-4),
    "TF-IDF, HSCL(words left out), LR": partial(
        on_words, augment=FeatureCorruption(0.3), n_views=1
    ),
    "TF-IDF, SVD, LR": lambda seed: make_pipeline(words(), singular(seed), linear()),
    "TF-IDF, SVD, HSCL, LR": on_singular,
}
# Pipelines of arrays of embeddings.
OF_EMBEDDINGS: dict[str, Factory] = {
    "embeddings, LR": lambda seed: linear(),
    "embeddings, HSCL, LR": on_embeddings,
    "embeddings, HSCL(encoder='mlp'), LR": partial(on_embeddings, encoder="mlp"),
}


def evaluate(model: BaseEstimator, X: np.ndarray, y: np.ndarray, seed: int) -> dict:
    """Return scores on one split, and seconds of CPU time."""
    train, test = texts.split(y, seed)
    start = time.process_time()
    model.fit(X[train], y[train])
    fitted = time.process_time()
    labels = model.predict(X[test])
    scores = {
        "accuracy": accuracy_score(y[test], labels),
        "balanced_accuracy": balanced_accuracy_score(y[test], labels),
        "fit_seconds": fitted - start,
        "n_train": len(train),
        "n_test": len(test),
    }
    if hasattr(model, "predict_proba"):
        probabilities = model.predict_proba(X[test])
        scores["log_loss"] = log_loss(y[test], probabilities, labels=model.classes_)
    return {name: round(float(value), 6) for name, value in scores.items()}


def run_cell(name: str, factory: Factory, X: np.ndarray, y: np.ndarray, seed: int) -> dict:
    """Evaluate one cell; an error is its result."""
    cell = {"seed": seed, "split": split_key(y, seed)}
    cell |= attempt(lambda: evaluate(factory(seed), X, y, seed), limit=600)
    return {"model": name} | cell | {"versions": versions(OURS)}


def split_key(y: np.ndarray, seed: int) -> str:
    train, test = texts.split(y, seed)
    rows = np.concatenate([train, [-1], test]).astype("<i8")
    return hashlib.sha256(rows.tobytes() + "\n".join(y).encode()).hexdigest()[:12]


def run(models: dict[str, Factory], rows: dict[str, np.ndarray]) -> None:
    """Run the missing cells of these models."""
    done = {(c["model"], c["set"], c["seed"], c["split"]) for c in read_cells(CELLS)}
    for name, X in rows.items():
        y = texts.load(name).labels
        for model, factory in models.items():
            for seed in SEEDS:
                if (model, name, seed, split_key(y, seed)) in done:
                    continue
                cell = {"set": name} | run_cell(model, factory, X, y, seed)
                write_cells(CELLS, [cell], "a")
                scores = {metric: cell.get(metric) for metric in METRICS}
                outcome = cell.get("error", scores)
                print(model, name, seed, outcome, sep=" | ", flush=True)


def main() -> None:
    """Run missing cells, or report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", default=texts.names())
    parser.add_argument("--models", nargs="+", choices=OF_TEXTS, default=list(OF_TEXTS))
    parser.add_argument("--embeddings", type=Path, help="folder of arrays NAME.npy")
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if options.report:
        print(report(read_cells(CELLS), [*OF_TEXTS, *OF_EMBEDDINGS]))
        return
    if options.embeddings is not None:
        arrays = {name: options.embeddings / f"{name}.npy" for name in options.sets}
        run(
            OF_EMBEDDINGS, {n: np.load(path) for n, path in arrays.items() if path.exists()}
        )
        return
    chosen = {name: OF_TEXTS[name] for name in options.models}
    run(chosen, {name: texts.load(name).texts for name in options.sets})


if __name__ == "__main__":
    main()
