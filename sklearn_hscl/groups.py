"""Groups of rows that belong together, as codes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_hscl.series import MISSING, factorize


def encode_groups(groups: Any, n_rows: int) -> NDArray[np.int64]:
    """Give the groups that rows belong to numbers.

    Parameters
    ----------
    groups : array-like of shape (n_samples,)
        The group of each row: numbers, strings, dates or other values.
    n_rows : int
        Rows of X.

    Returns
    -------
    ndarray of int, shape (n_samples,)
        Codes 0, 1, ... of the groups.

    Raises
    ------
    ValueError
        If groups holds no single value for each row.
    """
    try:
        column = groups if hasattr(groups, "factorize") else np.asarray(groups)
        shape = np.shape(column)
        codes = factorize(column)[0] if len(shape) == 1 else None
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"groups cannot be used: {error}. Pass a number or a string for each row."
        ) from error
    if codes is None:
        raise ValueError(
            f"groups must have the shape (n_samples,), got {shape}: pass a single column, "
            f"for example by numpy.ravel."
        )
    if len(codes) != n_rows:
        raise ValueError(
            f"groups holds {len(codes)} values for the {n_rows} rows of X: pass one for "
            f"each row."
        )
    missing = codes == MISSING
    if missing.any():
        raise ValueError(
            f"groups holds a missing value in row {int(missing.argmax())}: drop the row, "
            f"or make it a group of its own."
        )
    return codes.astype(np.int64)
