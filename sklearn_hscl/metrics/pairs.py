"""Alignment and uniformity: distances of positive pairs, and of all pairs."""

from numbers import Real

import numpy as np
import torch
from numpy.typing import ArrayLike

from sklearn_hscl.metrics.checks import (
    Labelled,
    Queries,
    check_embedding,
    check_labelled,
    draw_rows,
)
from sklearn_hscl.metrics.class_means import class_sums
from sklearn_hscl.metrics.search import Search, map_blocks


def alignment(X: ArrayLike, y: ArrayLike) -> float:
    """Mean squared distance between unit rows of the same class; lower is better.

    Equation 2 of [1]_ with α = 2, its default, for which the mean over pairs follows from
    the class sums. A pair is a row, and with equal chance any other row of its class:
    each row counts once, however large its class.

    Parameters
    ----------
    X : array-like of shape (n_samples, D)
        Embedding; lengths of rows play no part, but a row of zeros stays one.
    y : array-like of shape (n_samples,)
        Classes; or which views are of the same row. Rows without another of their class
        are left out.

    Returns
    -------
    float
        From 0 to 4, or little more than 2 where classes are large; lower is better.

    Raises
    ------
    ValueError
        If there are NaN or infinities, a missing label, or no two rows of a class.

    References
    ----------
    .. [1] Wang and Isola, "Understanding contrastive representation learning through
       alignment and uniformity on the hypersphere", ICML 2020.

    Examples
    --------
    >>> from sklearn_hscl.metrics import alignment
    >>> alignment([[1, 0], [2, 0], [0, 1], [0, -1]], [0, 0, 1, 1])
    2.0
    """
    data = check_labelled(X, y, several_classes=False)
    sums = class_sums(data)
    counts = torch.from_numpy(data.counts)
    # Σ |z_i|² of each class: rows are of length 1, or 0
    lengths = np.bincount(data.codes, data.rows.any(axis=1), len(data.classes))
    several = counts > 1
    if not several.any():
        raise ValueError("y holds no class of two rows: there is no positive pair.")
    sums, counts = sums[several], counts[several]
    # Σ_{i≠j} |z_i - z_j|² = 2 n Σ |z_i|² - 2 |Σ z_i|²
    squares = 2 * (
        counts * torch.from_numpy(lengths)[several] - sums.square().sum(1)
    )  # (C,)
    return float((squares.clamp_min(0) / (counts - 1)).sum() / counts.sum())


def uniformity(
    X: ArrayLike,
    *,
    t: float = 2.0,
    n_queries: int | None = None,
    random_state: int | np.random.RandomState | None = 0,
) -> float:
    """Logarithm of the mean of exp(-t distance²) over pairs; lower is better.

    Equation 3 of [1]_: how evenly unit rows cover the sphere. It needs all pairs.

    Parameters
    ----------
    X : array-like of shape (n_samples, D)
        Embedding; lengths of rows play no part, but a row of zeros stays one.
    t : float, default=2
        The larger, the more it is about the nearest pairs. 2 is the paper's.
    n_queries : int, default=None
        Draw that many rows and pair them with all others; None takes all pairs, in time
        n_samples².
    random_state : int, RandomState instance or None, default=0
        For the draw; see :func:`recall_at_k`.

    Returns
    -------
    float
        From -4 t (all pairs opposite) to 0 (all rows in one place).

    Raises
    ------
    ValueError
        If there are NaN or infinities, fewer than two rows, or `t` is not above 0.

    References
    ----------
    .. [1] Wang and Isola, "Understanding contrastive representation learning through
       alignment and uniformity on the hypersphere", ICML 2020.

    Examples
    --------
    >>> from sklearn_hscl.metrics import uniformity
    >>> uniformity([[1, 0], [2, 0]])
    0.0
    >>> uniformity([[1, 0], [-2, 0]])
    -8.0
    """
    if not (isinstance(t, Real) and t > 0):
        raise ValueError(f"t={t!r} must be above 0.")
    rows = check_embedding(X, min_rows=2)
    chosen = np.arange(len(rows))
    if n_queries is not None:
        chosen = draw_rows(chosen, n_queries, random_state)
    one_class = np.zeros(len(rows), dtype=np.int64)
    references = Labelled(rows, one_class[:1], one_class)
    search = Search(references, Queries(rows, chosen, one_class[chosen], True))

    # |z|² / 2: rows are of length 1, or 0
    halves = search.references.any(1, keepdim=True).to(search.references.dtype) / 2
    own_halves = halves[torch.from_numpy(chosen)]

    def log_sum(block: slice) -> float:
        parts = []
        for start, similarity in search.tiles(block):
            similarity[search.own_columns(block, start, similarity.shape[1])] = -np.inf
            exponent = torch.from_numpy(similarity).sub_(own_halves[block])  # (b, tile)
            exponent.sub_(halves[start : start + exponent.shape[1]].mT).mul_(2 * t)
            parts.append(float(exponent.flatten().logsumexp(0)))
        return float(np.logaddexp.reduce(parts))

    total = np.logaddexp.reduce(map_blocks(log_sum, len(chosen)))
    n_pairs = len(chosen) * (len(rows) - 1)
    return min(0.0, float(total - np.log(n_pairs)))
