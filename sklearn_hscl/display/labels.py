"""Labels as users pass them to a display, one for each row."""

from typing import Any

from numpy.typing import ArrayLike, NDArray

from sklearn_hscl.datasets import array_of
from sklearn_hscl.targets import label_array


def labels_of_rows(y: ArrayLike, n_rows: int) -> NDArray[Any]:
    """Return y as an array of shape (n_rows,); raise ValueError if it is of another."""
    labels = label_array(array_of(y))
    if labels.shape != (n_rows,):
        raise ValueError(
            f"y has shape {labels.shape}, but {n_rows} rows need one label each."
        )
    return labels
