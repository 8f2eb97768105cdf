"""Labels of the samples that are shown."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklearn_hscl.data.targets import label_array
from sklearn_hscl.metrics.validation import Labels


def labels_at(
    y: ArrayLike | None, n_samples: int, indices: NDArray[np.int64]
) -> Labels | None:
    """Validate labels, or numbers, and select those of the samples shown.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or None
        As passed by users, for all samples.
    n_samples : int
        Number of all samples.
    indices : ndarray of int64, any shape
        Indices of the samples shown.

    Returns
    -------
    ndarray of the shape of `indices`, or None if y is None

    Raises
    ------
    ValueError
        If y has another number of labels, or several for a sample.
    """
    if y is None:
        return None
    labels = label_array(y)
    if labels.shape != (n_samples,):
        raise ValueError(
            f"Expected y to have shape ({n_samples},), got {labels.shape}. Pass one label "
            f"for each sample."
        )
    return labels[indices]
