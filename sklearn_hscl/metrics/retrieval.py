"""Retrieval: how many of the nearest rows are of the class of the query."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklearn_hscl.metrics.knn.similarity_tiles import SimilaritySearch
from sklearn_hscl.metrics.knn.top_k import map_nearest
from sklearn_hscl.metrics.validation import check_labelled, check_n_neighbors, check_queries

RandomState = int | np.random.RandomState | None
Hits = NDArray[np.bool_]


def recall_at_k(
    X: ArrayLike,
    y: ArrayLike,
    *,
    k: int = 1,
    X_query: ArrayLike | None = None,
    y_query: ArrayLike | None = None,
    n_queries: int | None = None,
    random_state: RandomState = 0,
) -> float:
    """Share of queries with a row of their class among the k nearest.

    This is the recall@k of metric learning [1]_; for one relevant row per query it is
    that of information retrieval.

    Parameters
    ----------
    X : array-like of shape (n_samples, D)
        Embedding of the rows to be found; lengths of rows play no part.
    y : array-like of shape (n_samples,)
        Their classes.
    k : int, default=1
        How many neighbours to look at.
    X_query, y_query : array-like of shape (n_query_samples, D) and (n_query_samples,)
        Rows to search for and their classes; None: each row of `X` is searched among
        the others.
    n_queries : int, default=None
        Draw that many queries; None takes all, in time n_samples². See Notes.
    random_state : int, RandomState instance or None, default=0
        For the draw. A fixed seed asks the same queries each time, so that two
        embeddings can be compared.

    Returns
    -------
    float
        From 0 to 1, higher is better.

    Raises
    ------
    ValueError
        If there are NaN or infinities, one class only, a missing label, no query with a
        row of its class, or fewer than `k` other rows.

    Notes
    -----
    Neighbours are the rows of largest cosine similarity; a row of zeros has similarity 0.
    Among equally similar rows those of other classes come first, so a collapsed embedding
    scores as badly as it is, whatever the order of rows. Similarities count as equal up to
    2e-7 in float32 and 4e-15 in float64, which rounding can bring about.

    Queries without any (other) row of their class are left out of the mean.

    The search is exact, in memory linear in the rows: in 1,000,000 rows of 128 numbers a
    query takes some milliseconds (``benchmarks/results/metrics.md``).

    References
    ----------
    .. [1] Song, Xiang, Jegelka and Savarese, "Deep metric learning via lifted structured
       feature embedding", CVPR 2016, section 5.

    Examples
    --------
    >>> from sklearn_hscl.metrics import recall_at_k
    >>> X = [[1, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 0.05]]
    >>> recall_at_k(X, [0, 0, 1, 1, 1])
    0.4
    >>> recall_at_k(X, [0, 0, 1, 1, 1], k=2)
    0.8
    """
    return _mean_over_queries(_any_hit, X, y, k, X_query, y_query, n_queries, random_state)


def precision_at_k(
    X: ArrayLike,
    y: ArrayLike,
    *,
    k: int = 1,
    X_query: ArrayLike | None = None,
    y_query: ArrayLike | None = None,
    n_queries: int | None = None,
    random_state: RandomState = 0,
) -> float:
    """Mean share of the k nearest rows that are of the class of the query.

    Parameters are those of :func:`recall_at_k`, and so are ties, queries that are left
    out, time and memory.

    Returns
    -------
    float
        From 0 to 1, higher is better. Classes of fewer than `k` other rows cannot reach
        1: see :func:`r_precision`.

    Examples
    --------
    >>> from sklearn_hscl.metrics import precision_at_k
    >>> X = [[1, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 0.05]]
    >>> precision_at_k(X, [0, 0, 1, 1, 1], k=2)
    0.4
    """
    return _mean_over_queries(
        _share_of_hits, X, y, k, X_query, y_query, n_queries, random_state
    )


def r_precision(
    X: ArrayLike,
    y: ArrayLike,
    *,
    X_query: ArrayLike | None = None,
    y_query: ArrayLike | None = None,
    n_queries: int | None = None,
    random_state: RandomState = 0,
) -> float:
    """Precision among the R nearest rows, R being the number of rows to be found.

    R is the number of (other) rows of the class of the query. Parameters are those of
    :func:`recall_at_k`, and so are ties, queries that are left out, time and memory.

    Returns
    -------
    float
        From 0 to 1, higher is better.

    References
    ----------
    .. [1] Musgrave, Belongie and Lim, "A metric learning reality check", ECCV 2020,
       section 3.2.

    Examples
    --------
    >>> from sklearn_hscl.metrics import r_precision
    >>> X = [[1, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 0.05]]
    >>> r_precision(X, [0, 0, 1, 1, 1])
    0.2
    """
    return _mean_over_queries(
        _share_of_hits, X, y, None, X_query, y_query, n_queries, random_state
    )


def map_at_r(
    X: ArrayLike,
    y: ArrayLike,
    *,
    X_query: ArrayLike | None = None,
    y_query: ArrayLike | None = None,
    n_queries: int | None = None,
    random_state: RandomState = 0,
) -> float:
    """Mean average precision at R, which also asks for the hits to come first.

    For one query it is ``(1/R) Σ_{i ≤ R} P(i)``, where R is the number of (other) rows
    of its class, and P(i) the precision among the i nearest rows if the i-th is of its
    class, else 0 [1]_. Parameters are those of :func:`recall_at_k`, and so are ties,
    queries that are left out, time and memory.

    Returns
    -------
    float
        From 0 to 1, higher is better.

    References
    ----------
    .. [1] Musgrave, Belongie and Lim, "A metric learning reality check", ECCV 2020,
       section 3.2.

    Examples
    --------
    >>> from sklearn_hscl.metrics import map_at_r
    >>> X = [[1, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 0.05]]
    >>> map_at_r(X, [0, 0, 1, 1, 1])
    0.2
    """
    return _mean_over_queries(
        _average_precision, X, y, None, X_query, y_query, n_queries, random_state
    )


Score = Callable[[Hits, NDArray[np.int64]], NDArray[Any]]


def _mean_over_queries(
    score: Score,
    X: ArrayLike,
    y: ArrayLike,
    k: int | None,
    X_query: ArrayLike | None,
    y_query: ArrayLike | None,
    n_queries: int | None,
    random_state: RandomState,
) -> float:
    """Mean of `score(hits, depth)` over queries; `k` None looks as deep as R."""
    references = check_labelled(X, y)
    queries = check_queries(
        references, X_query, y_query, n_queries=n_queries, random_state=random_state
    )
    if k is not None:
        check_n_neighbors(k, "k", references, queries)
    search = SimilaritySearch(references, queries)
    depth = search.n_relevant if k is None else np.full(len(search.codes), k)

    def score_block(block: slice, keys: NDArray[Any]) -> NDArray[Any]:
        hits = keys & 1 == 0  # (b, k), best first
        return score(hits, depth[block])

    note = partial(_note_class, search)
    scores = map_nearest(score_block, search, int(depth.max()), note, n_bits=1)
    return float(np.concatenate(scores).mean())


def _note_class(
    search: SimilaritySearch,
    keys: NDArray[Any],
    queries: NDArray[Any],
    references: NDArray[Any],
) -> None:
    """Make keys odd but for the class of the query: others are first among equals."""
    is_before = references < search.class_starts[queries]
    keys |= is_before | (references >= search.class_stops[queries])


def _any_hit(hits: Hits, depth: NDArray[np.int64]) -> NDArray[Any]:
    return hits.sum(1) > 0


def _share_of_hits(hits: Hits, depth: NDArray[np.int64]) -> NDArray[Any]:
    counted = np.arange(hits.shape[1]) < depth[:, None]
    return (hits & counted).sum(1) / depth


def _average_precision(hits: Hits, depth: NDArray[np.int64]) -> NDArray[Any]:
    rank = np.arange(1, hits.shape[1] + 1)
    counted = hits & (rank <= depth[:, None])
    precision = hits.cumsum(1) / rank
    return np.where(counted, precision, 0.0).sum(1) / depth
