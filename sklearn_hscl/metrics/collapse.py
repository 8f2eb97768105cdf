"""Neural and dimensional collapse, measured by the class means.

Under neural collapse the samples of a class are one point, and the points of C classes
form a simplex: unit norm, sum zero, inner products -1/(C - 1). The supervised losses have
their minimum exactly there. The measures show how close a trained embedding is, and how
many dimensions its class means span, as in the experiments of Jiang, Nguyen, Ishwar and
Aeron, "Hard-negative sampling for contrastive learning: optimal representation geometry
and neural- vs dimensional-collapse", TMLR 2025 (2311.05139).
"""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from sklearn_hscl.metrics.geometry import (
    centred_singular_values,
    chunk_rows,
    class_means,
    float64_chunks,
)
from sklearn_hscl.metrics.validation import Labelled, check_labelled
from sklearn_hscl.runtime.global_setting import default_settings
from sklearn_hscl.runtime.normalize import l2_normalize
from sklearn_hscl.runtime.threads import map_blocks, torch_threads


@default_settings()
def zero_sum_error(X: ArrayLike, y: ArrayLike, *, normalize: bool = True) -> float:
    """Compute the norm of the mean of the class means; 0 under neural collapse.

    It is ``‖(1/C) Σ_c μ_c‖``, with μ_c the mean embedding of class c [1]_.

    Parameters
    ----------
    X : array-like of shape (n_samples, D)
        Embedding.
    y : array-like of shape (n_samples,)
        Class labels.
    normalize : bool, default=True
        Whether to scale rows to unit norm first. The paper's encoder maps into the unit
        ball and is measured without scaling: False.

    Returns
    -------
    float
        For unit rows from 0 to 1.

    Raises
    ------
    ValueError
        If there are NaN or infinities, only one class, or a missing label.

    References
    ----------
    .. [1] Jiang, Nguyen, Ishwar and Aeron, "Hard-negative sampling for contrastive
       learning: optimal representation geometry and neural- vs dimensional-collapse",
       TMLR 2025.

    Examples
    --------
    >>> from sklearn_hscl.metrics import zero_sum_error
    >>> zero_sum_error([[1, 0], [1, 0], [-1, 0]], [0, 0, 1])
    0.0
    """
    means = class_means(check_labelled(X, y), normalize=normalize)
    return float(means.mean(0).norm())


@default_settings()
def unit_norm_error(X: ArrayLike, y: ArrayLike, *, normalize: bool = True) -> float:
    """Compute the mean difference of the norms of class means from 1.

    It is ``(1/C) Σ_c |‖μ_c‖ - 1|``, and 0 under neural collapse. Parameters, errors and
    source are those of :func:`zero_sum_error`.

    Returns
    -------
    float
        For unit rows from 0 (each class is one point) to 1 (each is around the origin).

    Examples
    --------
    >>> from sklearn_hscl.metrics import unit_norm_error
    >>> unit_norm_error([[1, 0], [1, 0], [-1, 0]], [0, 0, 1])
    0.0
    """
    means = class_means(check_labelled(X, y), normalize=normalize)
    return float((means.norm(dim=1) - 1).abs().mean())


@default_settings()
def equal_inner_product_error(
    X: ArrayLike, y: ArrayLike, *, normalize: bool = True
) -> float:
    """Compute the mean difference of the cosines of class means from -1/(C - 1).

    It is the mean over i ≠ j of ``|cos(μ_i, μ_j) + 1/(C - 1)|``, and 0 under neural
    collapse. Parameters, errors and source are those of :func:`zero_sum_error`.

    Returns
    -------
    float
        From 0 to 2.

    Examples
    --------
    >>> from sklearn_hscl.metrics import equal_inner_product_error
    >>> equal_inner_product_error([[1, 0], [1, 0], [-1, 0]], [0, 0, 1])
    0.0
    """
    means = l2_normalize(class_means(check_labelled(X, y), normalize=normalize))
    n_classes = len(means)
    target = -1 / (n_classes - 1)

    def total(block: slice) -> float:
        error = (means[block] @ means.T - target).abs_()  # (b, C)
        error.diagonal(block.start).zero_()
        return float(error.sum())

    sums = map_blocks(total, n_classes, chunk_rows(n_classes))
    return sum(sums) / (n_classes * (n_classes - 1))


@default_settings()
def within_class_spread(X: ArrayLike, y: ArrayLike, *, normalize: bool = True) -> float:
    """Compute the mean distance of samples from the mean of their class.

    It is ``(1/C) Σ_c (1/n_c) Σ_{x in c} ‖x - μ_c‖``, which weights classes equally, and 0
    under neural collapse. Parameters, errors and source are those of
    :func:`zero_sum_error`.

    Returns
    -------
    float
        For unit rows from 0 to 1.

    Examples
    --------
    >>> from sklearn_hscl.metrics import within_class_spread
    >>> within_class_spread([[1, 0], [-1, 0], [0, 1]], [0, 0, 1])
    0.5
    """
    return _mean_distance(check_labelled(X, y), normalize)


@torch_threads(1)
def _mean_distance(data: Labelled, normalize: bool) -> float:
    means, codes = class_means(data, normalize=normalize), torch.from_numpy(data.codes)
    totals = torch.zeros(len(means), dtype=torch.float64)  # (C,)
    for chunk, rows in float64_chunks(data.rows, normalize=normalize):
        distance = (rows - means[codes[chunk]]).norm(dim=1)
        totals.index_add_(0, codes[chunk], distance)
    return float((totals / torch.from_numpy(data.counts)).mean())


@default_settings()
def singular_value_decay(
    X: ArrayLike, y: ArrayLike, *, normalize: bool = True
) -> NDArray[np.float64]:
    """Compute the logarithms of the singular values of the covariance of class means.

    They are ``log(σ_k / σ_1)`` in descending order. A curve that stays near 0 uses all
    C - 1 dimensions; one that falls off has collapsed to few (dimensional collapse).
    Parameters and source are those of :func:`zero_sum_error`.

    Returns
    -------
    ndarray of float64, shape (min(C - 1, D),)
        The first is 0; a singular value of 0 becomes -inf. A covariance of C means has at
        most C - 1 non-zero singular values, and the others are omitted.

    Raises
    ------
    ValueError
        As :func:`zero_sum_error`, and if all classes have the same mean.

    Examples
    --------
    >>> from sklearn_hscl.metrics import singular_value_decay
    >>> singular_value_decay([[2, 0], [-2, 0], [0, 1], [0, -1]], [0, 1, 2, 3])
    array([0., 0.])
    """
    means = class_means(check_labelled(X, y), normalize=normalize)
    values = centred_singular_values(means)
    if not values[0] > 0:
        raise ValueError(
            "Expected class means of X to differ, got the same mean for all classes. Pass "
            "an embedding that has not collapsed to one point."
        )
    return (2 * (values / values[0]).log()).numpy()
