"""One label for each row that is shown."""

from typing import Any

from numpy.typing import NDArray

from sklearn_hscl.data.targets import label_array
from sklearn_hscl.data.torch_dataset import array_of


def row_labels(y: Any, n_rows: int) -> NDArray[Any]:
    """Make an array of labels, or of numbers, for all rows.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        As users pass them.
    n_rows : int
        How many rows there are.

    Returns
    -------
    ndarray of shape (n_rows,)

    Raises
    ------
    ValueError
        If there are more or fewer, or several for a row.
    """
    labels = label_array(array_of(y))
    if labels.shape != (n_rows,):
        raise ValueError(
            f"y has shape {labels.shape}, but {n_rows} rows need one label each."
        )
    return labels
