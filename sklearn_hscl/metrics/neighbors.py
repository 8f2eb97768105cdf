"""Accuracy of the votes of nearest neighbours."""

from functools import partial
from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklearn_hscl.metrics.checks import check_labelled, check_n_neighbors, check_queries
from sklearn_hscl.metrics.keys import floating_point
from sklearn_hscl.metrics.ranking import map_nearest
from sklearn_hscl.metrics.search import Search, even_slices

# Votes that a block may hold at a time, for very many classes: 64 MB.
_MAX_VOTES = 1 << 23


def knn_accuracy(
    X: ArrayLike,
    y: ArrayLike,
    X_query: ArrayLike | None = None,
    y_query: ArrayLike | None = None,
    *,
    n_neighbors: int = 200,
    weights: Literal["similarity", "uniform"] = "similarity",
    temperature: float = 0.5,
    n_queries: int | None = None,
    random_state: int | np.random.RandomState | None = 0,
) -> float:
    """Share of queries whose nearest rows vote for their class.

    The defaults are the protocol of the papers on contrastive learning with hard
    negatives: ``knn_accuracy(train, y_train, test, y_test)`` lets the 200 nearest
    training rows vote with weight exp(cosine / 0.5) [1]_.

    Parameters
    ----------
    X : array-like of shape (n_samples, D)
        Embedding of the rows that vote; lengths of rows play no part.
    y : array-like of shape (n_samples,)
        Their classes.
    X_query, y_query : array-like of shape (n_query_samples, D) and (n_query_samples,)
        Rows to classify and their classes; None: each row of `X` by the others.
    n_neighbors : int, default=200
        How many rows vote.
    weights : {"similarity", "uniform"}, default="similarity"
        exp(cosine / `temperature`) or 1 for each vote.
    temperature : float, default=0.5
        The smaller, the more the nearest of the neighbours count.
    n_queries : int, default=None
        Draw that many queries; None takes all.
    random_state : int, RandomState instance or None, default=0
        For the draw; see :func:`recall_at_k`.

    Returns
    -------
    float
        From 0 to 1, higher is better.

    Raises
    ------
    ValueError
        If there are NaN or infinities, one class only, a missing label, no query with a
        row of its class, or fewer than `n_neighbors` other rows; if `weights` or
        `temperature` is none of the above.

    Notes
    -----
    Ties go to the class that sorts first: among equally similar rows for the last places,
    and among equal votes. Queries without any (other) row of their class are left out.
    The search is exact, in memory linear in the rows.

    References
    ----------
    .. [1] Wu, Xiong, Yu and Lin, "Unsupervised feature learning via non-parametric
       instance discrimination", CVPR 2018, section 3.4.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_hscl.metrics import knn_accuracy
    >>> X, y = load_iris(return_X_y=True)
    >>> accuracy = knn_accuracy(X[::2], y[::2], X[1::2], y[1::2], n_neighbors=20)
    >>> print(f"{accuracy:.3f}")
    0.960
    """
    if weights not in ("similarity", "uniform"):
        raise ValueError(f"weights={weights!r} must be 'similarity' or 'uniform'.")
    if not (isinstance(temperature, Real) and temperature > 0):
        raise ValueError(f"temperature={temperature!r} must be above 0.")
    references = check_labelled(X, y)
    queries = check_queries(
        references, X_query, y_query, n_queries=n_queries, random_state=random_state
    )
    check_n_neighbors(n_neighbors, "n_neighbors", references, queries)
    search = Search(references, queries)
    n_classes = len(references.classes)
    sharpness = 1 / temperature if weights == "similarity" else 0.0

    n_bits = (n_classes - 1).bit_length()
    mask = (1 << n_bits) - 1

    def right(block: slice, keys: NDArray[Any]) -> NDArray[np.bool_]:
        similarity = floating_point(keys, n_bits, search.dtype)
        weights = np.exp(sharpness * (similarity - similarity[:, :1]))
        winners = _winners(mask - (keys & mask), weights, n_classes)
        return winners == search.codes[block]

    note = partial(_note_class, search, mask)
    return float(
        np.concatenate(map_nearest(right, search, n_neighbors, note, n_bits)).mean()
    )


def _winners(
    codes: NDArray[Any], weights: NDArray[np.float64], n_classes: int
) -> NDArray[np.int64]:
    """Return the class with the largest sum of weights: (b, k) to (b,)."""
    chunks = even_slices(len(codes), max(1, _MAX_VOTES // n_classes))
    return np.concatenate(
        [_votes(codes[c], weights[c], n_classes).argmax(1) for c in chunks]
    )


def _votes(
    codes: NDArray[Any], weights: NDArray[np.float64], n_classes: int
) -> NDArray[Any]:
    """Sum the weights of each class: (b, n_classes)."""
    ballots = np.arange(len(codes))[:, None] * n_classes + codes
    votes = np.bincount(ballots.ravel(), weights.ravel(), minlength=len(codes) * n_classes)
    return votes.reshape(len(codes), n_classes)


def _note_class(
    search: Search, mask: int, keys: NDArray[Any], _: NDArray[Any], references: NDArray[Any]
) -> None:
    """Put the class into the lowest bits, such that first classes are first of equals."""
    keys |= (mask - search.reference_codes[references]).astype(keys.dtype)
