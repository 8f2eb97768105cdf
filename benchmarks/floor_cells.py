"""Cells of bench_floor.py: kinds of targets by kinds of rows, and their splits.

A cell is named TARGET/ROWS/SOURCE. The sha256 of the source, without its package, assigns
all its cells to the development half or the confirmation half, as in bench_tabular.py.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
from floor_targets import Read, Rows
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.model_selection import train_test_split
from tables import is_confirmation

MAX_ROWS = 3500  # for training and test together
TEST = 0.3
MIN_CLASS = 2  # labeled rows of a class, where labels are few
MIN_ROWS = 4  # of a class before the split
TARGETS = {  # kinds of targets and their titles
    "classes": "classes",
    "few05": "5 % of labels",
    "few10": "10 % of labels",
    "none": "no labels",
    "labels": "several labels",
    "number": "one number",
    "numbers": "several numbers",
    "rare": "rare positives",
    "many": "50 or more classes",
}
ROWS = {  # kinds of rows and their titles
    "dense": "dense table",
    "mixed": "mixed table",
    "counts": "sparse counts",
    "tfidf": "TF-IDF",
    "wide": "wide, few rows",
    "curves": "spectra and curves",
    "images": "images",
    "sentences": "sentence embeddings",
}
LABELED = {"few05": 0.05, "few10": 0.1}


@dataclass(frozen=True)
class Cell:
    """A kind of target, a kind of rows, and a source of both."""

    target: str
    rows: str
    source: str
    read: Read

    @property
    def name(self) -> str:
        return f"{self.target}/{self.rows}/{self.source}"

    @property
    def confirmation(self) -> bool:
        return is_confirmation(self.source)

    @property
    def is_numeric(self) -> bool:
        return self.target in ("number", "numbers")


@dataclass(frozen=True)
class Data:
    """Training and test rows of a cell, and the training rows with labels."""

    X_train: Rows
    X_test: Rows
    y_train: np.ndarray
    y_test: np.ndarray
    labeled: np.ndarray  # indices of training rows
    key: str  # of the indices of all rows

    @property
    def y_few(self) -> np.ndarray:
        """Codes of classes, -1 for rows without label."""
        codes = np.unique(self.y_train, return_inverse=True)[1]
        hidden = np.setdiff1d(np.arange(len(codes)), self.labeled)
        codes[hidden] = -1
        return codes


def split(cell: Cell, seed: int) -> Data:
    """Read a cell and split it; vocabularies are those of the training rows."""
    X, y = cell.read()
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(~pd.isna(y).reshape(len(y), -1).any(axis=1))
    if len(rows) > MAX_ROWS:
        rows = np.sort(rng.choice(rows, MAX_ROWS, replace=False))
    classes = None
    if y.ndim == 1 and not cell.is_numeric:
        rows = rows[_is_frequent(y[rows])]
        classes = y[rows]
    train, test = train_test_split(
        rows, test_size=TEST, random_state=seed, stratify=classes
    )
    labeled = np.arange(len(train))
    if cell.target in LABELED:
        labeled = _labeled(y[train], LABELED[cell.target], rng)
    X_train, X_test = _taken(cell, X, train, test)
    indices = np.concatenate([train, [-1], test, [-1], labeled]).astype("<i8")
    key = hashlib.sha256(indices.tobytes()).hexdigest()[:12]
    return Data(X_train, X_test, y[train], y[test], labeled, key)


def _is_frequent(y: np.ndarray) -> np.ndarray:
    _, codes, counts = np.unique(y, return_inverse=True, return_counts=True)
    return counts[codes] >= MIN_ROWS


def _labeled(y: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Return indices of a fraction of each class, of at least two rows."""
    parts = []
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        n = max(MIN_CLASS, round(fraction * len(rows)))
        parts.append(rng.permutation(rows)[:n])
    return np.sort(np.concatenate(parts))


def _taken(cell: Cell, X: Rows, train: np.ndarray, test: np.ndarray) -> tuple[Rows, Rows]:
    """Return training and test rows; texts become counts or TF-IDF."""
    if isinstance(X, pd.DataFrame):
        parts = X.iloc[train], X.iloc[test]
        X_train, X_test = (part.reset_index(drop=True) for part in parts)
        return X_train, X_test
    if X.dtype != object:
        return X[train], X[test]
    vectorizer = CountVectorizer if cell.rows == "counts" else TfidfVectorizer
    fitted = vectorizer(min_df=2, dtype=np.float32).fit(X[train])
    return fitted.transform(X[train]), fitted.transform(X[test])
