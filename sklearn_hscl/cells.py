"""Telling the user which cell of a table cannot be used."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from sklearn_hscl.series import DATE_REMEDY, columns_of, is_frame


@contextmanager
def naming_the_cell(
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
