"""Accuracy of simple classifiers on an embedding."""

from numbers import Real
from typing import Literal

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
from sklearn_hscl.metrics.knn import SimilaritySearch, l2_normalize_at, map_class_codes
from sklearn_hscl.metrics.validation import (
    Seed,
    check_labelled,
    check_n_neighbors,
    check_queries,
)
from sklearn_hscl.runtime.global_setting import default_settings
from sklearn_hscl.runtime.threads import even_slices, map_blocks

Codes = NDArray[np.signedinteger]  # of classes

# Votes that a block may hold at a time, for very many classes: 64 MB.
_MAX_VOTES = 1 << 23


@default_settings()
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
    random_state: Seed = 0,
) -> float:
    """Compute the accuracy of a k-nearest-neighbour classifier.

    The defaults are the protocol of the papers on contrastive learning with hard
    negatives: ``knn_accuracy(train, y_train, test, y_test)`` lets the 200 nearest
    training samples vote with weight exp(cosine / 0.5) [1]_.

    Parameters
    ----------
    X : array-like of shape (n_samples, D)
        Embedding of the samples that vote. Norms are ignored.
    y : array-like of shape (n_samples,)
        Class labels.
    X_query, y_query : array-like of shape (n_query_samples, D) and (n_query_samples,)
        Samples to classify and their classes. None classifies each sample of `X` by the
        others.
    n_neighbors : int, default=200
        Number of neighbours that vote.
    weights : {"similarity", "uniform"}, default="similarity"
        Weight of a vote: exp(cosine / `temperature`) or 1.
    temperature : float, default=0.5
        Smaller values give more weight to the nearest neighbours.
    n_queries : int, default=None
        Number of queries to draw; None uses all.
    random_state : int, RandomState instance or None, default=0
        Seed of the draw; see :func:`recall_at_k`.

    Returns
    -------
    float
        From 0 to 1, higher is better.

    Raises
    ------
    ValueError
        If there are NaN or infinities, only one class, a missing label, no query with a
        sample of its class, or fewer than `n_neighbors` other samples; if `weights` or
        `temperature` is not valid.

    Notes
    -----
    Ties go to the class that sorts first: among equally similar samples for the last
    neighbours, and among equal votes. Queries without any (other) sample of their class
    are excluded. The search is exact, with memory linear in the number of samples.

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
        raise ValueError(
            f"Expected weights to be 'similarity' or 'uniform', got {weights!r}. Pass one "
            f"of them."
        )
    if not (isinstance(temperature, Real) and temperature > 0):
        raise ValueError(
            f"Expected temperature to be a number above 0, got {temperature!r}. Pass a "
            f"positive number, such as 0.5."
        )
    references = check_labelled(X, y)
    queries = check_queries(
        references, X_query, y_query, n_queries=n_queries, random_state=random_state
    )
    check_n_neighbors(n_neighbors, "n_neighbors", references, queries)
    search = SimilaritySearch(references, queries)
    n_classes = len(references.classes)
    sharpness = 1 / temperature if weights == "similarity" else 0.0

    def is_correct(
        block: slice, similarity: NDArray[np.float64], codes: Codes
    ) -> NDArray[np.bool_]:
        weights = np.exp(sharpness * (similarity - similarity[:, :1]))
        return _winners(codes, weights, n_classes) == search.codes[block]

    return float(np.concatenate(map_class_codes(is_correct, search, n_neighbors)).mean())


def _winners(
    codes: Codes, weights: NDArray[np.float64], n_classes: int
) -> NDArray[np.int64]:
    """Return the class with the largest sum of weights: (b, k) to (b,)."""
    chunks = even_slices(len(codes), max(1, _MAX_VOTES // n_classes))
    return np.concatenate(
        [_votes(codes[c], weights[c], n_classes).argmax(1) for c in chunks]
    )


def _votes(
    codes: Codes, weights: NDArray[np.float64], n_classes: int
) -> NDArray[np.number]:
    """Sum the weights of each class: (b, n_classes)."""
    ballots = np.arange(len(codes))[:, None] * n_classes + codes
    votes = np.bincount(ballots.ravel(), weights.ravel(), minlength=len(codes) * n_classes)
    return votes.reshape(len(codes), n_classes)


@default_settings()
def linear_readout_accuracy(
    X: ArrayLike,
    y: ArrayLike,
    X_query: ArrayLike | None = None,
    y_query: ArrayLike | None = None,
    *,
    estimator: BaseEstimator | None = None,
    cv: int = 5,
    random_state: Seed = 0,
) -> float:
    """Compute the accuracy of a linear probe on the unit rows of a frozen embedding.

    The loss trains directions only, so rows are scaled to unit norm. The probe of the
    papers also sees the norms.

    Parameters
    ----------
    X : array-like of shape (n_samples, D)
        Embedding of the samples that the classifier is fitted on.
    y : array-like of shape (n_samples,)
        Class labels.
    X_query, y_query : array-like of shape (n_query_samples, D) and (n_query_samples,)
        Samples to classify and their classes. None cross-validates on the samples of
        `X`.
    estimator : classifier, default=None
        Classifier to fit. None uses ``LogisticRegression(max_iter=1000)`` on
        standardised columns, whose optimum does not depend on the start, unlike the
        papers' 100 epochs of Adam.
    cv : int, default=5
        Number of stratified folds without query samples.
    random_state : int, RandomState instance or None, default=0
        Seed of the folds.

    Returns
    -------
    float
        From 0 to 1, higher is better.

    Raises
    ------
    ValueError
        If there are NaN or infinities, only one class, a missing label, or no query with
        a sample of its class.

    Notes
    -----
    Queries of classes that `y` does not contain are excluded, and so are classes of a
    single sample without query samples. Time and memory are linear in the number of
    samples.

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
        all_indices = np.arange(len(references.rows))
        fitted_rows = l2_normalize_at(references.rows, all_indices)
        fitted = clone(estimator).fit(fitted_rows, references.codes)
        predicted = fitted.predict(rows)
    return float(np.mean(predicted == queries.codes))


@default_settings()
def nearest_class_mean_accuracy(
    X: ArrayLike,
    y: ArrayLike,
    X_query: ArrayLike | None = None,
    y_query: ArrayLike | None = None,
) -> float:
    """Compute the accuracy of a nearest-class-mean classifier.

    Distances are Euclidean, between unit rows and the means of unit rows, as in
    scikit-learn's ``NearestCentroid`` on normalised rows [1]_.

    Parameters
    ----------
    X : array-like of shape (n_samples, D)
        Embedding of the samples to average.
    y : array-like of shape (n_samples,)
        Class labels.
    X_query, y_query : array-like of shape (n_query_samples, D) and (n_query_samples,)
        Samples to classify and their classes. None classifies the samples of `X`, each
        excluded from the mean of its class.

    Returns
    -------
    float
        From 0 to 1, higher is better.

    Raises
    ------
    ValueError
        If there are NaN or infinities, only one class, a missing label, or no query with
        a sample of its class.

    Notes
    -----
    Equal distances go to the class that sorts first. Queries without any (other) sample
    of their class are excluded. Time is linear in the number of samples, and extra
    memory is constant.

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

    def n_correct(block: slice) -> int:
        rows = float64_rows(queries.rows[queries.chosen[block]], normalize=True)
        own_codes = codes[block] if queries.are_references else None
        distance = _squared_distances(rows, sums, counts, own_codes)
        return int((distance.argmin(1) == codes[block]).sum())

    block_rows = chunk_rows(max(sums.shape))
    return sum(map_blocks(n_correct, len(codes), block_rows)) / len(codes)


def _squared_distances(
    rows: Tensor, sums: Tensor, counts: Tensor, own_codes: Tensor | None
) -> Tensor:
    """Return squared distances (b, C) of rows to class means, minus those to zero.

    If `own_codes` gives the class of each row, its mean is taken without the row.
    """
    means = sums / counts[:, None]
    distance = means.square().sum(1) - 2 * rows @ means.T  # (b, C)
    if own_codes is not None:
        others = (sums[own_codes] - rows) / (counts[own_codes] - 1)[:, None]  # (b, D)
        own_distance = (others.square() - 2 * rows * others).sum(1)
        distance.scatter_(1, own_codes[:, None], own_distance[:, None])
    return distance
