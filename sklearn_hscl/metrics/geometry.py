"""Geometry of an embedding: alignment, uniformity, rank, classes around their means."""

from collections.abc import Iterator
from numbers import Real

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from sklearn_hscl.metrics.knn import SimilaritySearch
from sklearn_hscl.metrics.validation import (
    Labelled,
    Queries,
    Rows,
    Seed,
    check_embedding,
    check_labelled,
    draw_rows,
)
from sklearn_hscl.runtime.global_setting import default_settings
from sklearn_hscl.runtime.normalize import l2_normalize
from sklearn_hscl.runtime.threads import even_slices, map_blocks, torch_threads


@default_settings()
def alignment(X: ArrayLike, y: ArrayLike) -> float:
    """Compute the mean squared distance between unit rows of the same class.

    This is equation 2 of [1]_ with α = 2, its default. The mean over pairs then follows
    from the class sums. Each sample is paired with every other sample of its class, with
    equal probability, and counts once, however large its class.

    Parameters
    ----------
    X : array-like of shape (n_samples, D)
        Embedding. Norms are ignored, except that rows of zeros stay zero.
    y : array-like of shape (n_samples,)
        Class labels, or for each view the sample that it shows. Samples without another
        of their class are excluded.

    Returns
    -------
    float
        From 0 to 4, or little more than 2 for large classes; lower is better.

    Raises
    ------
    ValueError
        If there are NaN or infinities, a missing label, or no class of two samples.

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
    # Σ |z_i|² of each class: rows have norm 1, or 0
    square_norms = np.bincount(data.codes, data.rows.any(axis=1), len(data.classes))
    several = counts > 1
    if not several.any():
        raise ValueError(
            "Expected y to contain a class of at least two samples, got none. Pass samples "
            "that form a positive pair."
        )
    sums, counts = sums[several], counts[several]
    # Σ_{i≠j} |z_i - z_j|² = 2 n Σ |z_i|² - 2 |Σ z_i|²
    squares = 2 * (
        counts * torch.from_numpy(square_norms)[several] - sums.square().sum(1)
    )  # (C,)
    return float((squares.clamp_min(0) / (counts - 1)).sum() / counts.sum())


@default_settings()
def uniformity(
    X: ArrayLike,
    *,
    t: float = 2.0,
    n_queries: int | None = None,
    random_state: Seed = 0,
) -> float:
    """Compute the logarithm of the mean of exp(-t distance²) over pairs.

    This is equation 3 of [1]_, and measures how evenly unit rows cover the sphere.

    Parameters
    ----------
    X : array-like of shape (n_samples, D)
        Embedding. Norms are ignored, except that rows of zeros stay zero.
    t : float, default=2
        Larger values give more weight to the nearest pairs. The paper uses 2.
    n_queries : int, default=None
        Number of samples to draw, each of which is paired with all others. None uses all
        pairs, in time n_samples².
    random_state : int, RandomState instance or None, default=0
        Seed of the draw; see :func:`recall_at_k`.

    Returns
    -------
    float
        From -4 t (all pairs opposite) to 0 (all rows equal); lower is better.

    Raises
    ------
    ValueError
        If there are NaN or infinities, fewer than two samples, or `t` is not above 0.

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
        raise ValueError(
            f"Expected t to be a number above 0, got {t!r}. Pass a positive number, such "
            f"as 2."
        )
    rows = check_embedding(X, min_rows=2)
    chosen = np.arange(len(rows))
    if n_queries is not None:
        chosen = draw_rows(chosen, n_queries, random_state)
    one_class = np.zeros(len(rows), dtype=np.int64)
    references = Labelled(rows, one_class[:1], one_class)
    search = SimilaritySearch(references, Queries(rows, chosen, one_class[chosen], True))

    # |z|² / 2: rows have norm 1, or 0
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


@default_settings()
def effective_rank(X: ArrayLike, *, normalize: bool = True) -> float:
    """Compute the exponential of the entropy of the normalised singular values.

    It is k if k singular values are equal and the others 0, and 1 if all rows have the
    same direction [1]_. Rows are not centred, so a common direction counts, as in
    RankMe [2]_.

    Parameters
    ----------
    X : array-like of shape (n_samples, D)
        Embedding.
    normalize : bool, default=True
        Whether to scale rows to unit norm first, as the losses do.

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
    Triangular factors of chunks of rows are merged in float64. This takes memory D², and
    avoids the loss of accuracy of a Gram matrix.

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
        raise ValueError(
            "Expected X to have a non-zero row, got only zeros. Pass an embedding with "
            "directions to count."
        )
    fraction = values / values.sum()
    return float(torch.special.entr(fraction).sum().exp())


def centred_singular_values(rows: Tensor) -> Tensor:
    """Return the singular values of centred rows (n, D): (min(n - 1, D),).

    All further singular values are 0.
    """
    n_rows, n_columns = rows.shape
    return torch.linalg.svdvals(rows - rows.mean(0))[: min(n_rows - 1, n_columns)]


@torch_threads(1)
def _singular_values(rows: Rows, *, normalize: bool) -> Tensor:
    """Return the singular values of all rows, from triangular factors of chunks."""
    factor = torch.zeros(0, rows.shape[1], dtype=torch.float64)
    for _, chunk in float64_chunks(rows, normalize=normalize):
        factor = torch.linalg.qr(torch.cat([factor, chunk]), mode="r").R
    return torch.linalg.svdvals(factor)


@default_settings()
def cosine_silhouette(X: ArrayLike, y: ArrayLike) -> float:
    """Compute the mean silhouette coefficient by cosine distance.

    For a sample with mean cosine distance a to the others of its class, and b to the
    samples of the nearest other class, it is (b - a) / max(a, b). For the only sample of
    a class it is 0 [1]_. The value equals
    ``sklearn.metrics.silhouette_score(X, y, metric="cosine")``, but takes linear instead
    of quadratic time: mean cosine distances to a class follow from its mean unit row.

    Parameters
    ----------
    X : array-like of shape (n_samples, D)
        Embedding. Norms are ignored.
    y : array-like of shape (n_samples,)
        Class labels.

    Returns
    -------
    float
        From -1 to 1, higher is better.

    Raises
    ------
    ValueError
        If there are NaN or infinities, only one class, a missing label, or a class for
        every sample.

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
        raise ValueError(
            "Expected y to contain a class of at least two samples, got a class for every "
            "sample. Pass class labels."
        )
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
    # 0/0: all rows are equal.
    return torch.where(counts[codes] > 1, value.nan_to_num(0.0), 0.0)


# Values in a chunk: 2 MB of float64.
_MAX_CHUNK_VALUES = 1 << 18


def chunk_rows(n_columns: int) -> int:
    """Return the rows of a chunk, given the columns of its widest intermediate result."""
    return max(1, _MAX_CHUNK_VALUES // n_columns)


def float64_rows(rows: Rows, *, normalize: bool) -> Tensor:
    """Copy a chunk of rows to float64, and optionally scale to unit norm: (b, D)."""
    values = torch.from_numpy(np.array(rows, dtype=np.float64))
    return l2_normalize(values) if normalize else values


def float64_chunks(rows: Rows, *, normalize: bool) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of consecutive rows, and these rows (b, D) in float64.

    Call it with a single torch thread: with so little work per value, more threads would
    mostly wait for each other, and on a busy machine a hundred times as long.
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
