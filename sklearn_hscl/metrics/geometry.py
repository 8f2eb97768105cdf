"""Geometry of an embedding: alignment, uniformity, rank, classes around their means."""

from collections.abc import Iterator
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sklearn_hscl.metrics.knn.similarity_tiles import (
    SimilaritySearch,
    even_slices,
    map_blocks,
)
from sklearn_hscl.metrics.validation import (
    Labelled,
    Queries,
    check_embedding,
    check_labelled,
    draw_rows,
)
from sklearn_hscl.runtime.normalize import l2_normalize
from sklearn_hscl.runtime.threads import torch_threads


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
    search = SimilaritySearch(references, Queries(rows, chosen, one_class[chosen], True))

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


def effective_rank(X: ArrayLike, *, normalize: bool = True) -> float:
    """Exponential of the entropy of the singular values, as shares of their sum.

    It is k where k singular values are equal and the others 0, and 1 where all rows are
    in one direction [1]_. Singular values are those of the rows as they lie, not centred:
    so a common direction counts, as in RankMe [2]_.

    Parameters
    ----------
    X : array-like of shape (n_samples, D)
        Embedding.
    normalize : bool, default=True
        Scale rows to unit length first, as the losses do.

    Returns
    -------
    float
        From 1 to min(n_samples, D); higher is less collapsed.

    Raises
    ------
    ValueError
        If there are NaN or infinities, or all rows are zero.

    Notes
    -----
    Triangular factors of chunks of rows are merged, in float64: in memory D² and with
    none of the loss of accuracy that a Gram matrix would bring.

    References
    ----------
    .. [1] Roy and Vetterli, "The effective rank: a measure of effective dimensionality",
       EUSIPCO 2007.
    .. [2] Garrido, Balestriero, Najman and LeCun, "RankMe: assessing the downstream
       performance of pretrained self-supervised representations by their rank",
       ICML 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_hscl.metrics import effective_rank
    >>> print(f"{effective_rank(np.eye(4, 8)):.3f}")
    4.000
    """
    values = _singular_values(check_embedding(X), normalize=normalize)
    if not values[0] > 0:
        raise ValueError("X holds zeros only: there is no direction to count.")
    share = values / values.sum()
    return float(torch.special.entr(share).sum().exp())


def centred_singular_values(rows: Tensor) -> Tensor:
    """Return the singular values of rows (n, D) around their mean: (min(n - 1, D),).

    Centred rows have no more others than 0.
    """
    n_rows, n_columns = rows.shape
    return torch.linalg.svdvals(rows - rows.mean(0))[: min(n_rows - 1, n_columns)]


@torch_threads(1)
def _singular_values(rows: NDArray[Any], *, normalize: bool) -> Tensor:
    """Singular values of all rows, by the triangular factors of chunks of them."""
    factor = torch.zeros(0, rows.shape[1], dtype=torch.float64)
    for _, chunk in float64_chunks(rows, normalize=normalize):
        factor = torch.linalg.qr(torch.cat([factor, chunk]), mode="r").R
    return torch.linalg.svdvals(factor)


def cosine_silhouette(X: ArrayLike, y: ArrayLike) -> float:
    """Mean silhouette by cosine: how much nearer rows are to their class than to others.

    For a row with mean cosine distance a to the others of its class, and b to the rows of
    the nearest other class, it is (b - a) / max(a, b); for the only row of a class, 0
    [1]_. The value is that of ``sklearn.metrics.silhouette_score(X, y, metric="cosine")``,
    in time linear in the rows instead of quadratic: mean cosine distances to a class
    follow from the mean of its unit rows.

    Parameters
    ----------
    X : array-like of shape (n_samples, D)
        Embedding; lengths of rows play no part.
    y : array-like of shape (n_samples,)
        Classes.

    Returns
    -------
    float
        From -1 to 1, higher is better.

    Raises
    ------
    ValueError
        If there are NaN or infinities, one class only, a missing label, or a class for
        every row.

    References
    ----------
    .. [1] Rousseeuw, "Silhouettes: a graphical aid to the interpretation and validation
       of cluster analysis", 1987.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_hscl.metrics import cosine_silhouette
    >>> print(f"{cosine_silhouette(*load_iris(return_X_y=True)):.3f}")
    0.722
    """
    data = check_labelled(X, y)
    if len(data.classes) == len(data.rows):
        raise ValueError("y holds a class for every row: a class needs two rows.")
    sums, codes = class_sums(data), torch.from_numpy(data.codes)
    counts = torch.from_numpy(data.counts).double()

    def total(block: slice) -> float:
        rows = float64_rows(data.rows[block], normalize=True)
        return float(_silhouettes(rows, codes[block], sums, counts).sum())

    block_rows = chunk_rows(max(sums.shape))
    return sum(map_blocks(total, len(codes), block_rows)) / len(codes)


def _silhouettes(rows: Tensor, codes: Tensor, sums: Tensor, counts: Tensor) -> Tensor:
    row = torch.arange(len(rows))
    distance_sums = counts - rows @ sums.T  # (b, C)
    # The distance of a row to itself is 0, but for a row of zeros, and rounding.
    own_sums = distance_sums[row, codes] - (1 - rows.square().sum(1))
    within = own_sums.clamp_min(0) / (counts[codes] - 1)  # (b,)
    distance_sums[row, codes] = torch.inf
    between = (distance_sums / counts).amin(1).clamp_min(0)
    value = (between - within) / torch.maximum(between, within)
    # 0/0: all rows in one place.
    return torch.where(counts[codes] > 1, value.nan_to_num(0.0), 0.0)


# Numbers in a chunk: 2 MB of float64.
_CHUNK_NUMBERS = 1 << 18


def chunk_rows(n_columns: int) -> int:
    """Return how many rows make a chunk, where the widest thing made of a row is that."""
    return max(1, _CHUNK_NUMBERS // n_columns)


def float64_rows(rows: NDArray[Any], *, normalize: bool) -> Tensor:
    """Copy a chunk of rows to float64, of unit length if wanted: (b, D)."""
    values = torch.from_numpy(np.array(rows, dtype=np.float64))
    return l2_normalize(values) if normalize else values


def float64_chunks(
    rows: NDArray[Any], *, normalize: bool
) -> Iterator[tuple[slice, Tensor]]:
    """Yield consecutive rows (b, D) in float64, and which they are.

    To be called within one thread: so little is done with a number that more threads
    wait for each other most of the time, and on a busy machine a hundred times as long.
    """
    for chunk in even_slices(len(rows), chunk_rows(rows.shape[1])):
        yield chunk, float64_rows(rows[chunk], normalize=normalize)


@torch_threads(1)
def class_sums(data: Labelled, *, normalize: bool = True) -> Tensor:
    """Add up the rows of each class: (C, D) in float64."""
    codes = torch.from_numpy(data.codes)
    sums = torch.zeros(len(data.classes), data.rows.shape[1], dtype=torch.float64)
    for chunk, rows in float64_chunks(data.rows, normalize=normalize):
        sums.index_add_(0, codes[chunk], rows)
    return sums


def class_means(data: Labelled, *, normalize: bool = True) -> Tensor:
    """Average the rows of each class: (C, D) in float64."""
    counts = torch.from_numpy(data.counts)
    return class_sums(data, normalize=normalize) / counts[:, None]
