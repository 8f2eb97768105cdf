"""How many dimensions an embedding uses."""

from typing import Any

import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sklearn_hscl.metrics.checks import check_embedding
from sklearn_hscl.metrics.class_means import float64_chunks
from sklearn_hscl.runtime.threads import torch_threads


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
