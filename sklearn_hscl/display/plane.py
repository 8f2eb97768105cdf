"""From an embedding to points of a plane."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA


def reduced(rows: NDArray[Any], reducer: Any) -> tuple[NDArray[Any], tuple[str, str]]:
    """Make points (n, 2) of rows, and name their axes.

    Parameters
    ----------
    rows : ndarray of shape (n, D)
        Unit rows.
    reducer : object with ``fit_transform`` or None
        Makes two columns; None: principal components, and two columns as they are.

    Returns
    -------
    points : ndarray of shape (n, 2)
    names : pair of str
    """
    if reducer is None and rows.shape[1] == 2:
        return rows, ("Component 1", "Component 2")
    if reducer is None:
        rows = rows if rows.shape[1] > 1 else np.pad(rows, ((0, 0), (0, 1)))
        with np.errstate(invalid="ignore"):  # shares of nothing, where all rows are equal
            pca = PCA(2).fit(rows)
        shares = np.nan_to_num(pca.explained_variance_ratio_)
        first, second = (
            f"Principal component {k} ({share:.0%})" for k, share in enumerate(shares, 1)
        )
        return pca.transform(rows), (first, second)
    if not hasattr(reducer, "fit_transform"):
        raise TypeError(
            f"reducer={reducer!r} has no fit_transform: pass an instance, such as "
            f"sklearn.manifold.TSNE()."
        )
    points = np.asarray(reducer.fit_transform(rows))
    if points.shape != (len(rows), 2):
        raise ValueError(
            f"reducer={reducer!r} makes an array of shape {points.shape} of {len(rows)} "
            f"rows: pass one of two components."
        )
    name = type(reducer).__name__
    return points, (f"{name} 1", f"{name} 2")
