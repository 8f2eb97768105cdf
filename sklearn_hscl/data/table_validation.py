"""Validation of tables, with messages that locate the cell at fault."""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.utils import InputTags, assert_all_finite
from sklearn.utils.validation import check_array, validate_data

from sklearn_hscl.data.categorical import TableColumns
from sklearn_hscl.data.dataframe import DATE_REMEDY, FloatArray, Frame, Table
from sklearn_hscl.data.missing import Column, is_missing, numbers_of
from sklearn_hscl.data.out_of_core import (
    OutOfCoreRows,
    Rows,
    SparseRows,
    is_memory_mapped,
)
from sklearn_hscl.data.parquet_rows import ParquetRows

# Rows that are checked at a time, as an array may be larger than memory.
_CHUNK_ROWS = 16_384


def check_table(
    estimator: BaseEstimator,
    X: object,
    *,
    columns: TableColumns | None,
    is_fit: bool,
    name: str,
) -> Rows:
    """Validate X as a table.

    Parameters
    ----------
    estimator : estimator
        Gets `n_features_in_` and `feature_names_in_` in fit, and nothing else; X is
        compared with these later. Its tags say whether missing values are allowed.
    X : Table, array-like, sparse or OutOfCoreRows of shape (n_samples, n_features)
        The table.
    columns : TableColumns or None
        The fitted columns; None if the table is numeric.
    is_fit : bool
        Whether the estimator is fitted on X.
    name : str
        Name of X, for messages.

    Returns
    -------
    ndarray, CSR array or OutOfCoreRows of shape (n_samples, n_features)
        In float32 or float64; memory maps, and numeric arrays after fit, keep their type.
    """
    table = Table.of(X)
    data = table.data
    if getattr(getattr(data, "dtype", None), "kind", None) in ("m", "M"):
        raise ValueError(f"{name} holds {DATE_REMEDY}.")
    tags = estimator.__sklearn_tags__().input_tags
    try:
        if isinstance(data, ParquetRows):  # values are checked when they are decoded
            _check_features(estimator, _names_of(data), is_fit)
            return data.encoded(columns)
        if columns is not None:
            if isinstance(data, OutOfCoreRows):
                table = Table(data[:])
            rows = _encode(estimator, table, columns, is_fit)
            return _check_encoded(estimator, rows, table, tags.allow_nan, is_fit)
        if isinstance(data, OutOfCoreRows):  # values are checked when they are read
            _check_features(estimator, data, is_fit)
            return data
        if _needs_no_conversion(data, is_fit):
            return _check_in_place(estimator, data, tags.allow_nan, is_fit)
        if table.needs_conversion:
            _check_features(estimator, data, is_fit)
            rows = table.to_array()
            return _check_encoded(estimator, rows, table, tags.allow_nan, is_fit)
        return _convert(estimator, table, tags, is_fit)
    except ValueError as error:
        if name == "X":
            raise
        raise ValueError(f"{name} cannot be used: {error}") from error


# Four ways from a table to its rows. Only scikit-learn's validate_data writes on the
# estimator: n_features_in_ and feature_names_in_, in fit (reset=True).


def _check_features(estimator: BaseEstimator, X: Frame, is_fit: bool) -> None:
    """Set number and names of features in fit, and compare X with them later."""
    validate_data(estimator, X, skip_check_array=True, reset=is_fit)


def _names_of(rows: ParquetRows) -> Frame:
    """Return what has the number and the names of columns: vectors have no names."""
    return rows if rows.holds_vectors else rows.header


def _convert(estimator: BaseEstimator, table: Table, tags: InputTags, is_fit: bool) -> Rows:
    """Check a numeric table and convert it to one array."""
    X = table.data
    preferred = [np.float64, np.float32]
    if table.is_frame and table.float_dtype(range(len(table.names))) == np.float32:
        preferred = preferred[::-1]
    X = _canonical(X) if issparse(X) else _without_missing_objects(X)
    with locate_bad_cell(X, tags.allow_nan):
        rows = validate_data(
            estimator,
            X,
            accept_sparse="csr",
            dtype=preferred,
            ensure_all_finite="allow-nan" if tags.allow_nan else True,
            reset=is_fit,
            ensure_min_samples=2 if is_fit else 1,
        )
    return _canonical(rows) if issparse(rows) else rows


def _canonical(X: SparseRows) -> SparseRows:
    """Return sparse rows with one stored number for each value that is not 0, in order.

    The matrix of the caller is not changed, and parts are summed in its own type, as by
    its `toarray`. Its flags may be out of date, so new ones are found.
    """
    given = X.tocsr()
    rows = type(given)((given.data, given.indices, given.indptr), shape=given.shape)
    if rows.has_canonical_format and rows.data.all():
        return rows
    rows = rows.copy()
    rows.sum_duplicates()
    rows.eliminate_zeros()
    return rows


def _without_missing_objects(X: Frame) -> Frame:
    """Return an array or a list of objects with NaN for its missing values."""
    if isinstance(X, list | tuple):
        array = np.asarray(X)
        X = array if array.dtype == object else X
    is_objects = isinstance(X, np.ndarray) and X.dtype == object
    return numbers_of(X) if is_objects else X


def _needs_no_conversion(X: Frame, is_fit: bool) -> bool:
    """Return whether X is a numeric array that is converted batch by batch."""
    is_array = isinstance(X, np.ndarray) and X.dtype.kind in "biuf"
    return is_array and (not is_fit or is_memory_mapped(X))


def _check_in_place(
    estimator: BaseEstimator, X: NDArray[np.number], allow_nan: bool, is_fit: bool
) -> NDArray[np.number]:
    """Check an array chunk by chunk, without a copy of it."""
    rows = validate_data(
        estimator,
        X,
        dtype=None,
        ensure_all_finite=False,
        reset=is_fit,
        ensure_min_samples=2 if is_fit else 1,
    )
    with locate_bad_cell(X, allow_nan):
        for start in range(0, len(rows), _CHUNK_ROWS):
            assert_all_finite(
                rows[start : start + _CHUNK_ROWS],
                allow_nan=allow_nan,
                estimator_name=type(estimator).__name__,
                input_name="X",
            )
    return rows


def _encode(
    estimator: BaseEstimator, table: Table, columns: TableColumns, is_fit: bool
) -> FloatArray:
    """Convert a table with categorical columns to one array."""
    X = table.data
    if not hasattr(X, "shape") and (not isinstance(X, list | tuple) or not X):
        empty = "an empty " if isinstance(X, list | tuple) else ""
        got = empty + type(X).__name__
        raise ValueError(f"Expected X to be a table with at least one row, got {got}.")
    _check_features(estimator, X, is_fit)
    if issparse(X):
        raise ValueError(
            "X is sparse, but the embedder was fitted on a table with categorical "
            "columns: pass a table with the same columns."
        )
    return columns.encode(table)


def _check_encoded(
    estimator: BaseEstimator, rows: FloatArray, table: Table, allow_nan: bool, is_fit: bool
) -> FloatArray:
    """Check the numbers of a frame."""
    with locate_bad_cell(rows, allow_nan, table.names):
        return check_array(
            rows,
            dtype=[np.float64, np.float32],
            ensure_all_finite="allow-nan" if allow_nan else True,
            ensure_min_samples=2 if is_fit else 1,
            estimator=estimator,
            input_name="X",
        )


# Location of the cell at fault. This code runs only after an error.


@contextmanager
def locate_bad_cell(
    X: Frame, allow_nan: bool = False, names: Sequence[Hashable] | None = None
) -> Iterator[None]:
    """Add column, row and value of the first bad cell to scikit-learn's message.

    Parameters
    ----------
    X : array-like or sparse of shape (n_samples, n_features)
        The table.
    allow_nan : bool
        Whether missing values are allowed.
    names : sequence or None
        Names of the columns, if `X` has none of its own.
    """
    try:
        with np.errstate(invalid="ignore"):  # sums of infinity and minus infinity
            yield
    except (TypeError, ValueError) as error:
        find = _find_bad_sparse_cell if issparse(X) else _find_bad_cell
        cell = find(X, allow_nan, names)
        if cell is None and isinstance(error, TypeError):
            cell = f"X, of type {type(X).__name__}, cannot be read as a table of numbers."
        if cell is None:
            raise
        error_type = TypeError if isinstance(error, TypeError) else ValueError
        raise error_type(f"{error}\n{cell}") from error


def _find_bad_cell(
    X: Frame, allow_nan: bool, names: Sequence[Hashable] | None
) -> str | None:
    for index, (name, column) in enumerate(_named_columns(X)):
        name = name if names is None else names[index]
        values = np.asarray(column)
        if values.dtype.kind == "c":
            return None
        if values.dtype.kind in "mM":
            return f"Column {name!r} (index {index}) holds {DATE_REMEDY}."
        row = _first_not_numeric(values, allow_nan)
        if row is not None:
            return (
                f"Column {name!r} (index {index}) holds {_as_python(values[row])!r} in row "
                f"{row}, not a number: encode text and categories first, for example "
                f"with sklearn.preprocessing.OneHotEncoder in a ColumnTransformer, or "
                f"name the column in categorical_features."
            )
        row = _first_not_finite(_as_float64(values), allow_nan)
        if row is not None:
            return _not_finite(name, index, row, values[row])
    return None


def _find_bad_sparse_cell(
    X: Frame, allow_nan: bool, names: Sequence[Hashable] | None
) -> str | None:
    cells = X.tocoo()
    if cells.data.dtype.kind != "f":
        return None
    first = _first_not_finite(cells.data, allow_nan)
    if first is None:
        return None
    row, index = int(cells.row[first]), int(cells.col[first])
    name = index if names is None else names[index]
    return _not_finite(name, index, row, cells.data[first])


def _named_columns(X: Frame) -> Iterator[tuple[Hashable, Column]]:
    table = Table(X)
    if table.is_frame:
        for index, name in enumerate(table.names):
            yield name, table.column(index)
    elif hasattr(X, "__array__"):
        array = np.asarray(X)
        yield from enumerate(array.T) if array.ndim == 2 else ()
    elif isinstance(X, list | tuple) and all(isinstance(row, list | tuple) for row in X):
        yield from enumerate(zip(*X, strict=False))


def _first_not_numeric(values: NDArray[np.generic], allow_nan: bool) -> int | None:
    if values.dtype.kind in "buif":
        return None
    for row, value in enumerate(values):
        if not (_is_numeric(value) or (allow_nan and is_missing(value))):
            return row
    return None


def _first_not_finite(values: FloatArray, allow_nan: bool) -> int | None:
    bad = np.isinf(values) if allow_nan else ~np.isfinite(values)
    return int(bad.argmax()) if bad.any() else None


def _not_finite(name: Hashable, index: int, row: int, value: object) -> str:
    value = _as_python(value)
    remedy = "impute or drop it, for example with sklearn.impute.SimpleImputer"
    if value in (np.inf, -np.inf):
        remedy = "replace it by a number, or drop the row or the column"
    return f"Column {name!r} (index {index}) holds {value!r} in row {row}: {remedy}."


def _as_float64(values: NDArray[np.generic]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        return values.astype(np.float64)


def _as_python(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value


def _is_numeric(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False
    return True
