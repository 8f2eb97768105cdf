"""Validation of tables, down to the cell that cannot be used."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.utils import InputTags, assert_all_finite
from sklearn.utils.validation import check_array, validate_data

from sklearn_hscl.data.categorical import TableColumns
from sklearn_hscl.data.dataframe import DATE_REMEDY, columns_of, holds_float32, is_frame
from sklearn_hscl.data.out_of_core import StoredRows, is_memory_mapped

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
    X : array-like, sparse or StoredRows of shape (n_samples, n_features)
        The table.
    columns : TableColumns or None
        What was learnt of the columns; None where the table is plain numbers.
    is_fit : bool
        Whether X is what the estimator is fitted on.
    name : str
        Name of X, for messages.

    Returns
    -------
    ndarray, CSR array or StoredRows of shape (n_samples, n_features)
        Of float32 or float64; memory maps, and plain numbers that are not fitted on,
        keep their type.
    """
    if getattr(getattr(X, "dtype", None), "kind", None) in ("m", "M"):
        raise ValueError(f"{name} holds {DATE_REMEDY}.")
    tags = estimator.__sklearn_tags__().input_tags
    allow_nan = tags.allow_nan
    try:
        if columns is not None:
            return _encoded(estimator, X, columns, allow_nan, is_fit)
        if isinstance(X, StoredRows):  # whose values are checked when they are read
            validate_data(estimator, X, skip_check_array=True, reset=is_fit)
            return X
        if _can_stay(X, is_fit):
            return _in_place(estimator, X, allow_nan, is_fit)
        return _converted(estimator, X, tags, is_fit)
    except ValueError as error:
        if name == "X":
            raise
        raise ValueError(f"{name} cannot be used: {error}") from error


def check_is_loaded(X: Any, name: str) -> None:
    """Raise where X is a query, or an arrow table of other columns than numbers."""
    if type(X).__name__ == "LazyFrame":
        raise TypeError(
            f"{name} is a LazyFrame, whose rows are not there yet: pass {name}.collect()."
        )
    is_arrow = type(X).__module__.split(".")[0] == "pyarrow" and hasattr(X, "to_pandas")
    if is_arrow and np.asarray(X).dtype.kind not in "biuf":
        raise TypeError(
            f"{name}, a {type(X).__name__} of pyarrow, holds other columns than numbers: "
            f"pass {name}.to_pandas()."
        )


def _converted(estimator: BaseEstimator, X: Any, tags: InputTags, is_fit: bool) -> Any:
    if issparse(X) and not tags.sparse:
        raise TypeError(
            f"X is sparse, but encoder={estimator.encoder!r} takes dense tables: use "
            f"encoder='mlp' or 'auto', or pass X.toarray()."
        )
    with locate_bad_cell(X, tags.allow_nan):
        return validate_data(
            estimator,
            X,
            accept_sparse="csr" if tags.sparse else False,
            dtype=[np.float32, np.float64]
            if holds_float32(X)
            else [np.float64, np.float32],
            ensure_all_finite="allow-nan" if tags.allow_nan else True,
            reset=is_fit,
            ensure_min_samples=2 if is_fit else 1,
        )


def _can_stay(X: Any, is_fit: bool) -> bool:
    """Say whether X is an array of numbers that need not be converted as a whole."""
    is_array = isinstance(X, np.ndarray) and X.dtype.kind in "biuf"
    return is_array and (not is_fit or is_memory_mapped(X))


def _in_place(
    estimator: BaseEstimator, X: NDArray[Any], allow_nan: bool, is_fit: bool
) -> NDArray[Any]:
    """Check an array without a copy: chunk by chunk, whatever its type."""
    rows = validate_data(
        estimator,
        X,
        dtype=None,
        ensure_all_finite=False,
        reset=is_fit,
        ensure_min_samples=2 if is_fit else 1,
    )
    with locate_bad_cell(X, allow_nan):
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
    if not hasattr(X, "shape") and (not isinstance(X, list | tuple) or not X):
        raise ValueError(f"X, a {type(X).__name__}, is no table of at least one row.")
    validate_data(estimator, X, skip_check_array=True, reset=is_fit)
    if issparse(X):
        raise ValueError(
            "X is sparse, but the embedder was fitted on a table with categorical "
            "columns: pass a table like that one."
        )
    X = X[:] if isinstance(X, StoredRows) else X
    rows = columns.encode(X)
    with locate_bad_cell(rows, allow_nan, columns_of(X)[0]):
        return check_array(
            rows,
            dtype=[np.float64, np.float32],
            ensure_all_finite="allow-nan" if allow_nan else True,
            ensure_min_samples=2 if is_fit else 1,
            estimator=estimator,
            input_name="X",
        )


@contextmanager
def locate_bad_cell(
    X: Any, allow_nan: bool = False, names: Sequence[Any] | None = None
) -> Iterator[None]:
    """Add the offending column, row and value to scikit-learn's message.

    Parameters
    ----------
    X : array-like or sparse of shape (n_samples, n_features)
        The table.
    allow_nan : bool
        Whether missing values are no offence.
    names : sequence or None
        Names of the columns, where `X` has none of its own.
    """
    try:
        with np.errstate(invalid="ignore"):  # sums of infinity and minus infinity
            yield
    except (TypeError, ValueError) as error:
        cell = (_bad_stored_cell if issparse(X) else _bad_cell)(X, allow_nan, names)
        if cell is None and isinstance(error, TypeError):
            cell = f"X, of type {type(X).__name__}, cannot be read as a table of numbers."
        if cell is None:
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{error}\n{cell}") from error


def _bad_cell(X: Any, allow_nan: bool, names: Sequence[Any] | None) -> str | None:
    for index, (name, column) in enumerate(_columns(X)):
        name = name if names is None else names[index]
        values = np.asarray(column)
        if values.dtype.kind == "c":
            return None
        if values.dtype.kind in "mM":
            return f"Column {name!r} (index {index}) holds {DATE_REMEDY}."
        row = _first_text(values, allow_nan)
        if row is not None:
            return (
                f"Column {name!r} (index {index}) holds {_plain(values[row])!r} in row "
                f"{row}, not a number: encode text and categories first, for example "
                f"with sklearn.preprocessing.OneHotEncoder in a ColumnTransformer, or "
                f"name the column in categorical_features."
            )
        row = _first_bad(_as_floats(values), allow_nan)
        if row is not None:
            return _not_finite(name, index, row, values[row])
    return None


def _bad_stored_cell(X: Any, allow_nan: bool, names: Sequence[Any] | None) -> str | None:
    stored = X.tocoo()
    if stored.data.dtype.kind != "f":
        return None
    place = _first_bad(stored.data, allow_nan)
    if place is None:
        return None
    row, index = int(stored.row[place]), int(stored.col[place])
    name = index if names is None else names[index]
    return _not_finite(name, index, row, stored.data[place])


def _first_text(values: NDArray[Any], allow_nan: bool) -> int | None:
    if values.dtype.kind in "buif":
        return None
    for row, value in enumerate(values):
        if not (_is_number(value) or (allow_nan and value is None)):
            return row
    return None


def _as_floats(values: NDArray[Any]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        return values.astype(np.float64)


def _first_bad(values: NDArray[Any], allow_nan: bool) -> int | None:
    bad = np.isinf(values) if allow_nan else ~np.isfinite(values)
    return int(bad.argmax()) if bad.any() else None


def _not_finite(name: Any, index: int, row: int, value: Any) -> str:
    value = _plain(value)
    remedy = "impute or drop it, for example with sklearn.impute.SimpleImputer"
    if value in (np.inf, -np.inf):
        remedy = "replace it by a number, or drop the row or the column"
    return f"Column {name!r} (index {index}) holds {value!r} in row {row}: {remedy}."


def _columns(X: Any) -> Iterator[tuple[Any, Any]]:
    if is_frame(X):
        names, column_at = columns_of(X)
        for index, name in enumerate(names):
            yield name, column_at(index)
    elif hasattr(X, "__array__"):
        array = np.asarray(X)
        yield from enumerate(array.T) if array.ndim == 2 else ()
    elif isinstance(X, list | tuple) and all(isinstance(row, list | tuple) for row in X):
        yield from enumerate(zip(*X, strict=False))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True
