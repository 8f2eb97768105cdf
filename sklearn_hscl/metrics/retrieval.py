"""Retrieval: how many of the nearest samples are of the class of the query."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklearn_hscl.metrics.knn import SimilaritySearch, map_relevance
from sklearn_hscl.metrics.validation import (
    Seed,
    check_labelled,
    check_n_neighbors,
    check_queries,
)
from sklearn_hscl.runtime.global_setting import default_settings


@default_settings()
def recall_at_k(
    X: ArrayLike,
    y: ArrayLike,
    *,
    k: int = 1,
    X_query: ArrayLike | None = None,
    y_query: ArrayLike | None = None,
    n_queries: int | None = None,
    random_state: Seed = 0,
) -> float:
    """Compute the fraction of queries with a sample of their class among the k nearest.

    This is the recall@k of metric learning [1]_. With one relevant sample per query, it
    equals the recall@k of information retrieval.

    Parameters
    ----------
    X : array-like of shape (n_samples, D)
        Embedding of the samples to search. Norms are ignored.
    y : array-like of shape (n_samples,)
        Class labels.
    k : int, default=1
        Number of neighbours.
    X_query, y_query : array-like of shape (n_query_samples, D) and (n_query_samples,)
        Samples to search for and their classes. None searches for each sample of `X`
        among the others.
    n_queries : int, default=None
        Number of queries to draw. None uses all, in time n_samples²; see Notes.
    random_state : int, RandomState instance or None, default=0
        Seed of the draw. A fixed seed draws the same queries each time, which makes two
        embeddings comparable.

    Returns
    -------
    float
        From 0 to 1, higher is better.

    Raises
    ------
    ValueError
        If there are NaN or infinities, only one class, a missing label, no query with a
        sample of its class, or fewer than `k` other samples.

    Notes
    -----
    Neighbours are the samples of largest cosine similarity; a row of zeros has similarity
    0. Among equally similar samples those of other classes come first, so a collapsed
    embedding scores low, whatever the order of samples. Similarities that differ by
    rounding, up to 2e-7 in float32 and 4e-15 in float64, count as equal.

    Queries without any (other) sample of their class are excluded from the mean.

    The search is exact, with memory linear in the number of samples. A query among
    1,000,000 samples of 128 dimensions takes some milliseconds
    (``benchmarks/results/metrics.md``).

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
    task = _Retrieval(X, y, X_query, y_query, n_queries, random_state)
    return task.mean(_any_hit, k)


@default_settings()
def precision_at_k(
    X: ArrayLike,
    y: ArrayLike,
    *,
    k: int = 1,
    X_query: ArrayLike | None = None,
    y_query: ArrayLike | None = None,
    n_queries: int | None = None,
    random_state: Seed = 0,
) -> float:
    """Compute the mean fraction of the k nearest samples of the class of the query.

    Parameters, ties, excluded queries, time and memory are those of :func:`recall_at_k`.

    Returns
    -------
    float
        From 0 to 1, higher is better. Classes of fewer than `k` other samples cannot
        reach 1: see :func:`r_precision`.

    Examples
    --------
    >>> from sklearn_hscl.metrics import precision_at_k
    >>> X = [[1, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 0.05]]
    >>> precision_at_k(X, [0, 0, 1, 1, 1], k=2)
    0.4
    """
    task = _Retrieval(X, y, X_query, y_query, n_queries, random_state)
    return task.mean(_fraction_of_hits, k)


@default_settings()
def r_precision(
    X: ArrayLike,
    y: ArrayLike,
    *,
    X_query: ArrayLike | None = None,
    y_query: ArrayLike | None = None,
    n_queries: int | None = None,
    random_state: Seed = 0,
) -> float:
    """Compute the precision among the R nearest samples.

    R is the number of (other) samples of the class of the query [1]_. Parameters, ties,
    excluded queries, time and memory are those of :func:`recall_at_k`.

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
    task = _Retrieval(X, y, X_query, y_query, n_queries, random_state)
    return task.mean(_fraction_of_hits)


@default_settings()
def map_at_r(
    X: ArrayLike,
    y: ArrayLike,
    *,
    X_query: ArrayLike | None = None,
    y_query: ArrayLike | None = None,
    n_queries: int | None = None,
    random_state: Seed = 0,
) -> float:
    """Compute the mean average precision at R, which rewards hits that come first.

    For one query it is ``(1/R) Σ_{i ≤ R} P(i)``, with R the number of (other) samples of
    its class. P(i) is the precision among the i nearest samples if the i-th is of its
    class, else 0 [1]_. Parameters, ties, excluded queries, time and memory are those of
    :func:`recall_at_k`.

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
    task = _Retrieval(X, y, X_query, y_query, n_queries, random_state)
    return task.mean(_average_precision)


Hits = NDArray[np.bool_]
Scores = NDArray[np.generic]  # of each query, (b,)


@dataclass(frozen=True)
class _Retrieval:
    """Samples and queries, as passed by users."""

    X: ArrayLike
    y: ArrayLike
    X_query: ArrayLike | None
    y_query: ArrayLike | None
    n_queries: int | None
    random_state: Seed

    def mean(
        self, score: Callable[[Hits, NDArray[np.int64]], Scores], k: int | None = None
    ) -> float:
        """Average `score(hits, depth)` over queries; depth is k, or R if k is None."""
        references = check_labelled(self.X, self.y)
        queries = check_queries(
            references,
            self.X_query,
            self.y_query,
            n_queries=self.n_queries,
            random_state=self.random_state,
        )
        if k is not None:
            check_n_neighbors(k, "k", references, queries)
        search = SimilaritySearch(references, queries)
        depth = search.n_relevant if k is None else np.full(len(search.codes), k)

        def score_block(block: slice, hits: Hits) -> Scores:
            return score(hits, depth[block])

        scores = map_relevance(score_block, search, int(depth.max()))
        return float(np.concatenate(scores).mean())


def _any_hit(hits: Hits, depth: NDArray[np.int64]) -> Scores:
    return hits.sum(1) > 0


def _fraction_of_hits(hits: Hits, depth: NDArray[np.int64]) -> Scores:
    is_counted = np.arange(hits.shape[1]) < depth[:, None]
    return (hits & is_counted).sum(1) / depth


def _average_precision(hits: Hits, depth: NDArray[np.int64]) -> Scores:
    rank = np.arange(1, hits.shape[1] + 1)
    is_counted = hits & (rank <= depth[:, None])
    precision = hits.cumsum(1) / rank
    return np.where(is_counted, precision, 0.0).sum(1) / depth
