"""One column of a table, from pandas, polars or numpy: its kind, levels and numbers."""

from collections.abc import Callable, Hashable, Sequence
from datetime import date, datetime, time, timedelta
from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import NDArray

MISSING = -1  # the code of a missing value in a factorized column
POLARS_TEXT = ("String", "Categorical", "Enum")
DATE_REMEDY = (
    "dates or durations: turn them into numbers first, for example into year, month and "
    "weekday, or days since a fixed date"
)
LEVELS: dict[str, Any] = {
    "text": str,
    "dates": (datetime, np.datetime64),
    "durations": (timedelta, np.timedelta64),  # which numpy has among its integers
    "numbers": (Number, np.bool_),
}
DATES = (date, time, timedelta, np.datetime64, np.timedelta64)


def columns_of(X: Any) -> tuple[list[Any], Callable[[int], Any]]:
    """Return the names of a table's columns and how to get one by its position.

    Names may be equal; a table without names has positions for names.
    """
    if not is_frame(X):
        array = X if isinstance(X, np.ndarray) else np.asarray(X, dtype=object)
        if array.ndim != 2:
            raise ValueError(
                f"Expected 2D array, got an array of shape {array.shape} instead. "
                f"Reshape your data, and pass tables with categories as a data frame."
            )
        return list(range(array.shape[1])), lambda index: array[:, index]
    by_position = X.iloc.__getitem__ if hasattr(X, "iloc") else X.__getitem__
    return list(X.columns), lambda index: by_position((slice(None), index))


def is_frame(X: Any) -> bool:
    """Say whether X is a pandas or polars frame, or one that looks like them."""
    return all(hasattr(X, name) for name in ("columns", "dtypes", "shape"))


def holds_plain_numbers(dtype: Any) -> bool:
    """Say whether a column of this dtype is numeric whatever its values."""
    if hasattr(dtype, "is_numeric"):  # polars
        return bool(dtype.is_numeric())
    return getattr(dtype, "kind", None) in ("i", "u", "f")


def holds_float32(X: Any) -> bool:
    """Say whether X is a polars frame of 32-bit floats, of which it has no common dtype."""
    dtypes = X.dtypes if is_frame(X) and isinstance(X.dtypes, list) else []
    return bool(dtypes) and all(str(dtype) == "Float32" for dtype in dtypes)


def holds_categories(column: Any, name: Any, index: int) -> bool:
    """Say whether a column is categorical by its dtype and, for objects, its values.

    Parameters
    ----------
    column : Series or ndarray of shape (n_samples,)
        Categories, strings, bools and objects that are all strings or all bools are
        categorical; numbers and objects that are all numbers are not.
    name, index : object, int
        Where the column stands, for messages.

    Raises
    ------
    ValueError
        If the column holds dates, complex numbers, or objects of another kind.
    """
    dtype = column.dtype
    where = f"Column {name!r} (index {index})"
    if holds_plain_numbers(dtype):
        return False
    kind = getattr(dtype, "kind", type(dtype).__name__)
    if kind in ("b", "Boolean", "U", *POLARS_TEXT) or type(dtype).__name__ in (
        "CategoricalDtype",
        "StringDtype",
    ):
        return True
    if kind == "c":
        raise ValueError(f"Complex data not supported: {where} holds {dtype}.")
    if kind in ("m", "M") or getattr(dtype, "is_temporal", bool)():
        raise ValueError(f"{where} holds {DATE_REMEDY}.")
    if kind not in ("O", "Null"):
        raise _object_error(where, f"values of dtype {dtype}")
    return _objects_are_categories(column, where)


def _objects_are_categories(column: Any, where: str) -> bool:
    levels = factorize_named(column, where)[1]
    types = sorted({type(level) for level in levels}, key=lambda kind: kind.__name__)
    if any(issubclass(kind, DATES) or kind.__name__ == "Period" for kind in types):
        raise ValueError(f"{where} holds {DATE_REMEDY}.")
    for categorical in (str, bool | np.bool_):
        if types and all(issubclass(kind, categorical) for kind in types):
            return True
    if all(issubclass(kind, Number) and not issubclass(kind, bool) for kind in types):
        return False
    raise _object_error(where, "objects of " + " and ".join(k.__name__ for k in types))


def _object_error(where: str, what: str) -> ValueError:
    return ValueError(
        f"{where} holds {what}: make it a column of numbers only or of strings only, or "
        f"drop it."
    )


def factorize(column: Any) -> tuple[NDArray[np.intp], list[Hashable]]:
    """Give the different values of a column numbers.

    Parameters
    ----------
    column : Series or ndarray of shape (n_samples,)
        Values that can be hashed. None, NaN and pandas' NA are missing.

    Returns
    -------
    codes : ndarray of int, shape (n_samples,)
        Position of each value in `levels`, -1 where it is missing.
    levels : list
        The different values, without missing ones.
    """
    if hasattr(column, "factorize"):  # pandas
        codes, levels = column.factorize()
        return np.asarray(codes, dtype=np.intp), levels.tolist()
    if not isinstance(column, np.ndarray):  # polars
        return _factorize_polars(column)
    return _factorize_objects(column.tolist())


def _factorize_objects(values: list[Any]) -> tuple[NDArray[np.intp], list[Hashable]]:
    position = dict.fromkeys(values, MISSING)
    levels = [value for value in position if not _is_missing(value)]
    position.update(zip(levels, range(len(levels)), strict=True))
    found = map(position.__getitem__, values)
    return np.fromiter(found, dtype=np.intp, count=len(values)), levels


def factorize_named(column: Any, where: str) -> tuple[NDArray[np.intp], list[Hashable]]:
    """Factorize a column; raise an error that says `where`, if it holds lists or dicts."""
    try:
        return factorize(column)
    except (NotImplementedError, TypeError) as error:
        raise _object_error(where, f"objects that are no values ({error})") from error


def _factorize_polars(column: Any) -> tuple[NDArray[np.intp], list[Hashable]]:
    if type(column.dtype).__name__ in POLARS_TEXT:
        column = column.cast(str)
    levels = column.unique().drop_nulls().sort().to_list()
    ordered = column.cast(int) if type(column.dtype).__name__ == "Boolean" else column
    ranks = ordered.rank("dense").fill_null(0).to_numpy()  # 1 for the smallest
    return ranks.astype(np.intp) - 1, levels


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and value != value


def as_numbers(column: Any) -> NDArray[Any]:
    """Turn a column of numbers into an array of float32 or float64, NaN where missing."""
    if hasattr(column, "cast"):  # polars
        kept = type(column.dtype).__name__ == "Float32"
        numbers = column.cast(float).to_numpy()
        return numbers.astype(np.float32) if kept else numbers
    if column.dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        return np.asarray(column)
    if getattr(column.dtype, "kind", "O") in ("i", "u", "f", "b"):
        if isinstance(column.dtype, np.dtype):
            return np.asarray(column, dtype=np.float64)
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    codes, levels = factorize(column)
    return np.array([*map(float, levels), np.nan])[codes]  # type: ignore[arg-type]


def kind_of(level: Hashable) -> str:
    """Name the kind of a level; levels that are equal, as 1 and True, are of one kind."""
    found = (kind for kind, types in LEVELS.items() if isinstance(level, types))
    return next(found, type(level).__name__)


def sorted_levels(levels: Sequence[Hashable]) -> NDArray[np.object_]:
    """Sort levels, where they can be compared, into an array of objects."""
    try:
        levels = sorted(levels)  # type: ignore[type-var]
    except TypeError:
        levels = sorted(levels, key=lambda level: (type(level).__name__, repr(level)))
    return np.fromiter(levels, dtype=object, count=len(levels))
