"""Tables as users pass them become one array of numbers, or a sparse one."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.utils import assert_all_finite
from sklearn.utils.validation import check_array, validate_data

from sklearn_hscl.cells import naming_the_cell
from sklearn_hscl.columns import TableColumns
from sklearn_hscl.series import DATE_REMEDY, columns_of

# Rows whose values are checked at a time, where an array may be larger than memory.
CHECK_ROWS = 16_384


def check_table(
    estimator: BaseEstimator,
    X: Any,
    *,
    columns: TableColumns | None,
    is_fit: bool,
    name: str,
) -> Any:
    """Validate X as a table.

    Parameters
    ----------
    estimator : estimator
        Gets `n_features_in_` and `feature_names_in_` in fit, is checked against them
        later; its tags say whether missing values are allowed.
    X : array-like or sparse of shape (n_samples, n_features)
        The table.
    columns : TableColumns or None
        What was learnt of the columns; None where the table is plain numbers.
    is_fit : bool
        Whether X is what the estimator is fitted on.
    name : str
        Name of X, for messages.

    Returns
    -------
    ndarray or CSR array of shape (n_samples, n_features)
        Of float32 or float64; plain numbers that are not fitted on keep their type.
    """
    if getattr(getattr(X, "dtype", None), "kind", None) in ("m", "M"):
        raise ValueError(f"{name} holds {DATE_REMEDY}.")
    allow_nan = estimator.__sklearn_tags__().input_tags.allow_nan
    try:
        if columns is not None:
            return _encoded(estimator, X, columns, allow_nan, is_fit)
        if not is_fit and isinstance(X, np.ndarray) and X.dtype.kind in "biuf":
            return _in_place(estimator, X, allow_nan)
        return _converted(estimator, X, allow_nan, is_fit)
    except ValueError as error:
        if name == "X":
            raise
        raise ValueError(f"{name} cannot be used: {error}") from error


def _converted(estimator: BaseEstimator, X: Any, allow_nan: bool, is_fit: bool) -> Any:
    with naming_the_cell(X, allow_nan):
        return validate_data(
            estimator,
            X,
            accept_sparse="csr",
            dtype=[np.float64, np.float32],
            ensure_all_finite="allow-nan" if allow_nan else True,
            reset=is_fit,
            ensure_min_samples=2 if is_fit else 1,
        )


def _in_place(estimator: BaseEstimator, X: NDArray[Any], allow_nan: bool) -> NDArray[Any]:
    """Check an array without a copy: chunk by chunk, whatever its type."""
    rows = validate_data(estimator, X, dtype=None, ensure_all_finite=False, reset=False)
    with naming_the_cell(X, allow_nan):
        for start in range(0, len(rows), CHECK_ROWS):
            assert_all_finite(
                rows[start : start + CHECK_ROWS],
                allow_nan=allow_nan,
                estimator_name=type(estimator).__name__,
                input_name="X",
            )
    return rows


def _encoded(
    estimator: BaseEstimator, X: Any, columns: TableColumns, allow_nan: bool, is_fit: bool
) -> NDArray[Any]:
    validate_data(estimator, X, skip_check_array=True, reset=is_fit)
    if issparse(X):
        raise ValueError(
            "X is sparse, but the embedder was fitted on a table with categorical "
            "columns: pass a table like that one."
        )
    rows = columns.encode(X)
    with naming_the_cell(rows, allow_nan, columns_of(X)[0]):
        return check_array(
            rows,
            dtype=[np.float64, np.float32],
            ensure_all_finite="allow-nan" if allow_nan else True,
            ensure_min_samples=2 if is_fit else 1,
            estimator=estimator,
            input_name="X",
        )
