"""Validation of embeddings and labels, as rows, class codes and queries."""

from dataclasses import dataclass
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.utils import check_array, check_consistent_length, check_random_state

from sklearn_hscl.data.missing import array_of
from sklearn_hscl.data.targets import class_codes, label_array

Rows = NDArray[np.floating]
Labels = NDArray[np.generic]
Seed = int | np.random.RandomState | None


@dataclass(frozen=True)
class Labelled:
    """Rows of an embedding and their classes."""

    rows: Rows
    """Of shape (n, D), float32 or float64."""
    classes: Labels
    """Sorted labels, of shape (C,)."""
    codes: NDArray[np.int64]
    """Index of each label among the classes, of shape (n,)."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of rows of each class, of shape (C,)."""
        return np.bincount(self.codes, minlength=len(self.classes))


@dataclass(frozen=True)
class Queries:
    """Rows to search for, each with a correct answer among the references."""

    rows: Rows
    """All rows to choose from, of shape (m, D)."""
    chosen: NDArray[np.int64]
    """Indices of the queries among these rows, of shape (q,)."""
    codes: NDArray[np.int64]
    """Class codes of the queries, of shape (q,)."""
    are_references: bool
    """Whether the rows are the references themselves."""


def check_embedding(X: ArrayLike, *, name: str = "X", min_rows: int = 1) -> Rows:
    """Validate an embedding: finite values of shape (n, D), float32 or float64."""
    if not issparse(X):  # check_array has a message for sparse ones
        X = array_of(X)
        if X.ndim > 2:
            raise ValueError(
                f"Expected {name} to be an embedding of shape (n_samples, n_dims), got "
                f"shape {X.shape}. Pass the array that transform returns, or "
                f"{name}.reshape(len({name}), -1)."
            )
    return check_array(
        X,
        dtype=[np.float64, np.float32],
        input_name=name,
        ensure_min_samples=min_rows,
    )


def check_labelled(
    X: ArrayLike, y: ArrayLike | None, *, several_classes: bool = True
) -> Labelled:
    """Validate an embedding and one class label for each row."""
    rows = check_embedding(X, min_rows=2)
    labels = _check_labels(y, rows, "y")
    classes, codes = class_codes(labels)
    if several_classes and len(classes) < 2:
        raise ValueError(
            f"Expected y to contain at least two classes, got only "
            f"{classes.tolist()[0]!r}. Pass samples of more classes. Searches over "
            f"transformers need cv=StratifiedKFold(...), as their default folds are not "
            f"stratified."
        )
    return Labelled(rows, classes, codes)


def check_queries(
    references: Labelled,
    X_query: ArrayLike | None = None,
    y_query: ArrayLike | None = None,
    *,
    n_queries: int | None = None,
    random_state: Seed = None,
) -> Queries:
    """Validate queries, exclude those without a correct answer, and draw `n_queries`.

    Parameters
    ----------
    references : Labelled
        Rows to find; also the queries if `X_query` is None.
    X_query, y_query : array-like of shape (m, D) and (m,), or None
        Rows to search for, and their classes.
    n_queries : int or None
        Number of queries to draw; None uses all.
    random_state : int, RandomState instance or None
        Seed of the draw.

    Returns
    -------
    Queries
    """
    if (X_query is None) != (y_query is None):
        missing = "X_query" if X_query is None else "y_query"
        raise ValueError(
            f"Expected both X_query and y_query, got {missing}=None. Pass both, or neither."
        )
    if X_query is None or y_query is None:
        rows, codes = references.rows, references.codes
        usable = references.counts[codes] > 1
    else:
        rows, codes, usable = _check_query_rows(references, X_query, y_query)
    if not usable.any():
        raise ValueError(
            "Expected a query with another sample of its class, got none. Pass classes of "
            "at least two samples, or references of the classes in y_query."
        )
    chosen = np.flatnonzero(usable)
    if n_queries is not None:
        chosen = draw_rows(chosen, n_queries, random_state)
    return Queries(rows, chosen, codes[chosen], X_query is None)


def draw_rows(
    indices: NDArray[np.int64], n_queries: int, random_state: Seed
) -> NDArray[np.int64]:
    """Draw `n_queries` of these indices without replacement, in ascending order."""
    if not (isinstance(n_queries, Integral) and 1 <= n_queries <= len(indices)):
        raise ValueError(
            f"Expected n_queries to be an integer from 1 to {len(indices)}, the number of "
            f"possible queries, got {n_queries!r}. Pass None to use all of them."
        )
    random = check_random_state(random_state)
    return np.sort(random.choice(indices, n_queries, replace=False))


def check_n_neighbors(k: int, name: str, references: Labelled, queries: Queries) -> None:
    """Reject more neighbours than a query has."""
    n_others = len(references.rows) - queries.are_references
    if not (isinstance(k, Integral) and 1 <= k <= n_others):
        raise ValueError(
            f"Expected {name} to be an integer from 1 to {n_others}, the number of samples "
            f"to search, got {k!r}. Pass fewer neighbours or more samples."
        )


def _check_query_rows(
    references: Labelled, X_query: ArrayLike, y_query: ArrayLike
) -> tuple[Rows, NDArray[np.int64], NDArray[np.bool_]]:
    rows = check_embedding(X_query, name="X_query")
    if rows.shape[1] != references.rows.shape[1]:
        raise ValueError(
            f"Expected X_query to have {references.rows.shape[1]} columns like X, got "
            f"{rows.shape[1]}. Pass embeddings of the same estimator."
        )
    labels = _check_labels(y_query, rows, "y_query")
    if isinstance(labels[0], str) != isinstance(references.classes[0], str):
        raise ValueError(
            f"Expected y_query to hold labels such as {references.classes.tolist()[0]!r} "
            f"in y, got {labels.tolist()[0]!r}. Pass both as strings, or both as numbers."
        )
    # By values of Python, which compare exactly: arrays of two types become floats.
    known = {label: code for code, label in enumerate(references.classes.tolist())}
    codes = np.array([known.get(label, -1) for label in labels.tolist()], dtype=np.int64)
    return rows, codes, codes >= 0


def _check_labels(y: ArrayLike | None, rows: Rows, name: str) -> Labels:
    if y is None:
        raise ValueError(f"Expected {name} to hold class labels, got None. Pass labels.")
    try:
        labels = label_array(y)
        if labels.ndim != 1:
            raise ValueError(
                f"expected one label for each sample, got shape {labels.shape}."
            )
        check_consistent_length(rows, labels)
        if labels.dtype.kind == "f" and (labels != np.rint(labels)).any():
            raise ValueError("expected class labels, got numbers with fractions.")
    except ValueError as error:
        raise ValueError(f"{name} cannot be used: {error}") from error
    return labels
