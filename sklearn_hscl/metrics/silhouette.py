"""Silhouettes by the cosine distance, without a distance between two rows."""

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from sklearn_hscl.metrics.checks import check_labelled
from sklearn_hscl.metrics.class_means import chunk_rows, class_sums, float64_rows
from sklearn_hscl.metrics.search import map_blocks


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
