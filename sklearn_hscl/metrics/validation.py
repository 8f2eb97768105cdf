"""From embeddings and labels as users pass them to rows, class codes and queries."""

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.utils import check_array, check_consistent_length, check_random_state

from sklearn_hscl.data.targets import class_codes, label_array
from sklearn_hscl.data.torch_dataset import array_of


@dataclass(frozen=True)
class Labelled:
    """Rows of an embedding and their classes."""

    rows: NDArray[Any]
    """Of shape (n, D), float32 or float64."""
    classes: NDArray[Any]
    """Sorted labels, of shape (C,)."""
    codes: NDArray[np.int64]
    """Place of each label among the classes, of shape (n,)."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """Rows of each class, of shape (C,)."""
        return np.bincount(self.codes, minlength=len(self.classes))


@dataclass(frozen=True)
class Queries:
    """Rows for which a right answer exists, and where they are in the references."""

    rows: NDArray[Any]
    """All rows to choose from, of shape (m, D)."""
    chosen: NDArray[np.int64]
    """Places of the queries among these rows, of shape (q,)."""
    codes: NDArray[np.int64]
    """Their classes, of shape (q,)."""
    are_references: bool
    """Whether the rows are the references themselves."""


def check_embedding(X: Any, *, name: str = "X", min_rows: int = 1) -> NDArray[Any]:
    """Validate an embedding: finite numbers of shape (n, D), float32 or float64."""
    rows = X if issparse(X) else array_of(X)  # check_array has a message for sparse ones
    if rows.ndim > 2:
        raise ValueError(
            f"{name} has shape {rows.shape}, but embeddings are of shape (n_samples, "
            f"n_dims): pass what transform returns, or X.reshape(len(X), -1)."
        )
    return check_array(
        rows,
        dtype=[np.float64, np.float32],
        input_name=name,
        ensure_min_samples=min_rows,
    )


def check_labelled(X: Any, y: Any, *, several_classes: bool = True) -> Labelled:
    """Validate an embedding and one class label for each row."""
    rows = check_embedding(X, min_rows=2)
    labels = _check_labels(y, rows, "y")
    classes, codes = class_codes(labels)
    if several_classes and len(classes) < 2:
        raise ValueError(
            f"y holds one class only ({classes[0]}), but this measure compares classes: "
            f"pass rows of at least two. Searches over transformers need "
            f"cv=StratifiedKFold(...), as their folds are not by class otherwise."
        )
    return Labelled(rows, classes, codes)


def check_queries(
    references: Labelled,
    X_query: Any = None,
    y_query: Any = None,
    *,
    n_queries: int | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> Queries:
    """Validate queries, leave out those without a right answer, and draw `n_queries`.

    Parameters
    ----------
    references : Labelled
        Rows to find; also the queries where `X_query` is None.
    X_query, y_query : array-like of shape (m, D) and (m,), or None
        Rows to ask for, and their classes.
    n_queries : int or None
        How many to draw; None: all.
    random_state : int, RandomState instance or None
        For the draw.

    Returns
    -------
    Queries
    """
    if (X_query is None) != (y_query is None):
        raise ValueError("X_query and y_query go together: pass both, or neither.")
    if X_query is None:
        rows, codes = references.rows, references.codes
        usable = references.counts[codes] > 1
    else:
        rows, codes, usable = _check_query_rows(references, X_query, y_query)
    if not usable.any():
        raise ValueError(
            "No query has a row of its own class to find: pass classes of at least two "
            "rows, or references of the classes in y_query."
        )
    chosen = np.flatnonzero(usable)
    if n_queries is not None:
        chosen = draw_rows(chosen, n_queries, random_state)
    return Queries(rows, chosen, codes[chosen], X_query is None)


def draw_rows(
    places: NDArray[np.int64],
    n_queries: int,
    random_state: int | np.random.RandomState | None,
) -> NDArray[np.int64]:
    """Draw `n_queries` of these places without replacement, in ascending order."""
    if not (isinstance(n_queries, Integral) and 1 <= n_queries <= len(places)):
        raise ValueError(
            f"n_queries={n_queries!r} must be an integer from 1 to {len(places)}, the rows "
            f"that can be queries; None takes them all."
        )
    random = check_random_state(random_state)
    return np.sort(random.choice(places, n_queries, replace=False))


def check_n_neighbors(k: int, name: str, references: Labelled, queries: Queries) -> None:
    """Refuse more neighbours than a query has."""
    n_others = len(references.rows) - queries.are_references
    if not (isinstance(k, Integral) and 1 <= k <= n_others):
        raise ValueError(
            f"{name}={k!r} must be an integer from 1 to {n_others}, the rows among which "
            f"neighbours are searched."
        )


def _check_query_rows(
    references: Labelled, X_query: Any, y_query: Any
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.bool_]]:
    rows = check_embedding(X_query, name="X_query")
    if rows.shape[1] != references.rows.shape[1]:
        raise ValueError(
            f"X_query has {rows.shape[1]} columns, but X has {references.rows.shape[1]}: "
            f"pass embeddings by the same estimator."
        )
    labels = _check_labels(y_query, rows, "y_query")
    if isinstance(labels[0], str) != isinstance(references.classes[0], str):
        raise ValueError(
            f"y_query holds labels such as {labels[0]!r}, but y such as "
            f"{references.classes[0]!r}: pass both as strings, or both as numbers."
        )
    codes = np.searchsorted(references.classes, labels)
    codes = np.minimum(codes, len(references.classes) - 1)
    usable = references.classes[codes] == labels
    return rows, codes, usable


def _check_labels(y: Any, rows: NDArray[Any], name: str) -> NDArray[Any]:
    if y is None:
        raise ValueError(f"{name}=None, but this measure compares classes: pass labels.")
    try:
        labels = label_array(array_of(y))
        if labels.ndim != 1:
            raise ValueError(f"it has shape {labels.shape}: pass one label for each row.")
        check_consistent_length(rows, labels)
        if labels.dtype.kind == "f" and (labels != np.rint(labels)).any():
            raise ValueError("it holds numbers with fractions: pass classes.")
    except ValueError as error:
        raise ValueError(f"{name} cannot be used: {error}") from error
    return labels
