"""Accuracy of simple classifiers on an embedding."""

from functools import partial
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from sklearn_hscl.metrics.geometry import chunk_rows, class_sums, float64_rows
from sklearn_hscl.metrics.knn.packed_keys import floating_point
from sklearn_hscl.metrics.knn.similarity_tiles import (
    SimilaritySearch,
    even_slices,
    l2_normalize_at,
    map_blocks,
)
from sklearn_hscl.metrics.knn.top_k import map_nearest
from sklearn_hscl.metrics.validation import check_labelled, check_n_neighbors, check_queries

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
    search = SimilaritySearch(references, queries)
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
    search: SimilaritySearch,
    mask: int,
    keys: NDArray[Any],
    _: NDArray[Any],
    references: NDArray[Any],
) -> None:
    """Put the class into the lowest bits, such that first classes are first of equals."""
    keys |= (mask - search.reference_codes[references]).astype(keys.dtype)


def linear_readout_accuracy(
    X: ArrayLike,
    y: ArrayLike,
    X_query: ArrayLike | None = None,
    y_query: ArrayLike | None = None,
    *,
    estimator: BaseEstimator | None = None,
    cv: int = 5,
    random_state: int | np.random.RandomState | None = 0,
) -> float:
    """Accuracy of a linear classifier on the unit rows of a frozen embedding.

    Directions are what the loss trains; the papers' layer sees the lengths, too.

    Parameters
    ----------
    X : array-like of shape (n_samples, D)
        Embedding of the rows that the classifier is fitted on.
    y : array-like of shape (n_samples,)
        Their classes.
    X_query, y_query : array-like of shape (n_query_samples, D) and (n_query_samples,)
        Rows to classify and their classes; None: the rows of `X`, each by a classifier
        that has not seen it.
    estimator : classifier, default=None
        What to fit; None: ``LogisticRegression(max_iter=1000)`` on standardised columns,
        whose optimum is the same from every start, unlike that of the papers' 100 epochs
        of Adam.
    cv : int, default=5
        Stratified folds, where there are no query rows.
    random_state : int, RandomState instance or None, default=0
        For the folds.

    Returns
    -------
    float
        From 0 to 1, higher is better.

    Raises
    ------
    ValueError
        If there are NaN or infinities, one class only, a missing label, or no query with
        a row of its class.

    Notes
    -----
    Queries of classes that `y` does not hold, and without query rows classes of a single
    row, are left out. Time and memory are linear in the rows.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_hscl.metrics import linear_readout_accuracy
    >>> X, y = load_iris(return_X_y=True)
    >>> accuracy = linear_readout_accuracy(X[::2], y[::2], X[1::2], y[1::2])
    >>> print(f"{accuracy:.3f}")
    0.947
    """
    references = check_labelled(X, y)
    queries = check_queries(references, X_query, y_query)
    if estimator is None:
        estimator = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    rows = l2_normalize_at(queries.rows, queries.chosen)
    if queries.are_references:
        folds = StratifiedKFold(cv, shuffle=True, random_state=random_state)
        predicted = cross_val_predict(estimator, rows, queries.codes, cv=folds)
    else:
        everything = np.arange(len(references.rows))
        fitted_rows = l2_normalize_at(references.rows, everything)
        fitted = clone(estimator).fit(fitted_rows, references.codes)
        predicted = fitted.predict(rows)
    return float(np.mean(predicted == queries.codes))


def nearest_class_mean_accuracy(
    X: ArrayLike,
    y: ArrayLike,
    X_query: ArrayLike | None = None,
    y_query: ArrayLike | None = None,
) -> float:
    """Share of queries to which the mean of their own class is the nearest.

    Distances are Euclidean, between unit rows and the means of unit rows: scikit-learn's
    ``NearestCentroid`` on normalised rows.

    Parameters
    ----------
    X : array-like of shape (n_samples, D)
        Embedding of the rows that are averaged.
    y : array-like of shape (n_samples,)
        Their classes.
    X_query, y_query : array-like of shape (n_query_samples, D) and (n_query_samples,)
        Rows to classify and their classes; None: the rows of `X`, where the mean of its
        own class is taken without the row.

    Returns
    -------
    float
        From 0 to 1, higher is better.

    Raises
    ------
    ValueError
        If there are NaN or infinities, one class only, a missing label, or no query with
        a row of its class.

    Notes
    -----
    Equal distances go to the class that sorts first. Queries without any (other) row of
    their class are left out. Time is linear in the rows, and extra memory constant.

    References
    ----------
    .. [1] Mensink, Verbeek, Perronnin and Csurka, "Distance-based image classification",
       TPAMI 2013, section 3.2.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_hscl.metrics import nearest_class_mean_accuracy
    >>> X, y = load_iris(return_X_y=True)
    >>> print(f"{nearest_class_mean_accuracy(X, y):.3f}")
    0.973
    """
    references = check_labelled(X, y)
    queries = check_queries(references, X_query, y_query)
    sums = class_sums(references)
    counts = torch.from_numpy(references.counts).double()
    codes = torch.from_numpy(queries.codes)

    def n_right(block: slice) -> int:
        rows = float64_rows(queries.rows[queries.chosen[block]], normalize=True)
        own = codes[block] if queries.are_references else None
        distance = _squared_distances(rows, sums, counts, own)
        return int((distance.argmin(1) == codes[block]).sum())

    block_rows = chunk_rows(max(sums.shape))
    return sum(map_blocks(n_right, len(codes), block_rows)) / len(codes)


def _squared_distances(
    rows: Tensor, sums: Tensor, counts: Tensor, own: Tensor | None
) -> Tensor:
    """Squared distances (b, C) of rows to class means, less those of rows to zero.

    Where `own` names the class of each row, its mean is taken without the row.
    """
    means = sums / counts[:, None]
    distance = means.square().sum(1) - 2 * rows @ means.T  # (b, C)
    if own is not None:
        others = (sums[own] - rows) / (counts[own] - 1)[:, None]  # (b, D)
        own_distance = (others.square() - 2 * rows * others).sum(1)
        distance.scatter_(1, own[:, None], own_distance[:, None])
    return distance
