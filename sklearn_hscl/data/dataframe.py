"""Tables of pandas, polars, numpy or plain lists: their columns, levels and values."""

from collections.abc import Hashable, Sequence
from datetime import date, datetime, time, timedelta
from functools import cached_property
from numbers import Number, Real
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

# Frames, series and dtypes of pandas and polars have no types in common.
Frame: TypeAlias = Any
Column: TypeAlias = Any
DType: TypeAlias = Any

FloatArray: TypeAlias = NDArray[np.floating]
Factorized: TypeAlias = tuple[NDArray[np.intp], list[Hashable]]

MISSING_CODE = -1  # of a missing value in a factorized column
DATE_REMEDY = (
    "dates or durations: convert them to numbers first, for example to year, month and "
    "weekday, or to days since a fixed date"
)
_POLARS_TEXT = ("String", "Categorical", "Enum")
_PANDAS_TEXT = ("CategoricalDtype", "StringDtype")
_DATES = (date, time, timedelta, np.datetime64, np.timedelta64)
# In this order, as numpy counts durations among the integers. Models store these names.
_LEVEL_TYPES: dict[str, type | tuple[type, ...]] = {
    "text": str,
    "dates": (datetime, np.datetime64),
    "durations": (timedelta, np.timedelta64),
    "numbers": (Number, np.bool_),
}


class Table:
    """A table that asks for each of its columns once, and factorizes it once at most.

    Parameters
    ----------
    data : array-like of shape (n_samples, n_features)
        A data frame of pandas or polars, an array or a nested list.

    Notes
    -----
    Codes of factorized columns stay in memory as long as the table does.
    """

    def __init__(self, data: object) -> None:
        self.data: Frame = data
        self.is_frame = is_frame(data)
        self._columns: dict[int, Column] = {}
        self._factorized: dict[int, Factorized] = {}

    @classmethod
    def of(cls, X: object) -> Self:
        """Return X itself if it is a table, else a table of X."""
        return X if isinstance(X, cls) else cls(X)

    def __len__(self) -> int:
        data = self.data
        return int(data.shape[0] if hasattr(data, "shape") else len(data))

    @cached_property
    def names(self) -> list[Hashable]:
        """Names of the columns, not always distinct; their indices if they have none."""
        return list(self.data.columns if self.is_frame else range(self._array.shape[1]))

    @cached_property
    def has_plain_numbers(self) -> bool:
        """Whether the table is a frame whose dtypes are all numeric, or an array."""
        return not self.is_frame or all(map(is_numeric_dtype, self.data.dtypes))

    def label(self, index: int) -> str:
        """Return name and index of a column, for messages."""
        return f"Column {self.names[index]!r} (index {index})"

    def column(self, index: int) -> Column:
        """Return a column: a series of a frame, or an array."""
        if index not in self._columns:
            data = self.data if self.is_frame else self._array
            by_index = data.iloc if hasattr(data, "iloc") else data
            self._columns[index] = by_index[:, index]
        return self._columns[index]

    def factorize(self, index: int) -> Factorized:
        """Return the codes and levels of a column; see :func:`factorize`.

        Raises
        ------
        ValueError
            If the column holds lists, dicts or other values that cannot be hashed.
        """
        if index not in self._factorized:
            try:
                self._factorized[index] = factorize(self.column(index))
            except (NotImplementedError, TypeError) as error:
                raise self._unusable(
                    index, f"values that cannot be categories ({error})"
                ) from error
        return self._factorized[index]

    def is_categorical(self, index: int) -> bool:
        """Return whether a column is categorical by its dtype and, for objects, its values.

        Categories, strings, bools and objects that are all strings or all bools are
        categorical; numbers and objects that are all numbers are not.

        Raises
        ------
        ValueError
            If the column holds dates, complex numbers, or objects of other types.
        """
        dtype = self.column(index).dtype
        if is_numeric_dtype(dtype):
            return False
        kind = getattr(dtype, "kind", type(dtype).__name__)
        is_text = kind in _POLARS_TEXT or type(dtype).__name__ in _PANDAS_TEXT
        if is_text or kind in ("b", "Boolean", "U"):
            return True
        if kind == "c":
            raise ValueError(
                f"Complex data not supported: {self.label(index)} holds {dtype}."
            )
        if kind in ("m", "M") or getattr(dtype, "is_temporal", bool)():
            raise ValueError(f"{self.label(index)} holds {DATE_REMEDY}.")
        if kind not in ("O", "Null"):
            raise self._unusable(index, f"values of dtype {dtype}")
        return self._has_categorical_objects(index)

    def to_floats(self, index: int) -> FloatArray:
        """Return a numeric column as float32 or float64, NaN for missing values."""
        column = self.column(index)
        if hasattr(column, "cast"):  # polars
            is_float32 = type(column.dtype).__name__ == "Float32"
            values = column.cast(float).to_numpy()
            return values.astype(np.float32) if is_float32 else values
        if column.dtype in (np.dtype(np.float32), np.dtype(np.float64)):
            return np.asarray(column)
        if getattr(column.dtype, "kind", "O") in ("i", "u", "f", "b"):
            if isinstance(column.dtype, np.dtype):
                return np.asarray(column, dtype=np.float64)
            return column.to_numpy(dtype=np.float64, na_value=np.nan)
        codes, levels = self.factorize(index)
        return np.array([*map(float, levels), np.nan])[codes]  # type: ignore[arg-type]

    @cached_property
    def _array(self) -> NDArray[np.generic]:
        data = self.data
        array = data if isinstance(data, np.ndarray) else np.asarray(data, dtype=object)
        if array.ndim != 2:
            raise ValueError(
                f"Expected 2D array, got an array of shape {array.shape} instead. "
                f"Reshape your data, and pass tables with categories as a data frame."
            )
        return array

    def _has_categorical_objects(self, index: int) -> bool:
        types = {type(level) for level in self.factorize(index)[1]}
        if any(issubclass(found, _DATES) or found.__name__ == "Period" for found in types):
            raise ValueError(f"{self.label(index)} holds {DATE_REMEDY}.")
        for categorical in (str, bool | np.bool_):
            if types and all(issubclass(found, categorical) for found in types):
                return True
        if all(
            issubclass(found, Number) and not issubclass(found, bool) for found in types
        ):
            return False
        names = sorted(found.__name__ for found in types)
        raise self._unusable(index, "objects of " + " and ".join(names))

    def _unusable(self, index: int, values: str) -> ValueError:
        return ValueError(
            f"{self.label(index)} holds {values}: convert it to a column of numbers only "
            f"or of strings only, or drop it."
        )


def is_frame(X: object) -> bool:
    """Return whether X is a data frame of pandas or polars, or has their interface."""
    return all(hasattr(X, name) for name in ("columns", "dtypes", "shape"))


def is_numeric_dtype(dtype: DType) -> bool:
    """Return whether a column of this dtype is numeric whatever its values."""
    if hasattr(dtype, "is_numeric"):  # polars
        return bool(dtype.is_numeric())
    return getattr(dtype, "kind", None) in ("i", "u", "f")


def has_only_float32(X: Frame) -> bool:
    """Return whether X is a polars frame of Float32 columns: it has no common dtype."""
    dtypes = X.dtypes if is_frame(X) and isinstance(X.dtypes, list) else []
    return bool(dtypes) and all(str(dtype) == "Float32" for dtype in dtypes)


def is_missing(value: object) -> bool:
    """Return whether a value is None, NaN, NaT or pandas' NA."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, Real | np.datetime64) and bool(value != value)


def missing_mask(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Return which values of an array are missing, in the array's shape."""
    if values.dtype.kind in "fc":
        return np.asarray(np.isnan(values))
    if values.dtype.kind in "mM":
        return np.asarray(np.isnat(values))
    if values.dtype.kind != "O":
        return np.zeros(values.shape, dtype=bool)
    found = map(is_missing, values.flat)
    return np.fromiter(found, dtype=bool, count=values.size).reshape(values.shape)


def factorize(column: Column) -> Factorized:
    """Encode the distinct values of a column as integers.

    Parameters
    ----------
    column : Series or ndarray of shape (n_samples,)
        Values that can be hashed. None, NaN, NaT and pandas' NA are missing.

    Returns
    -------
    codes : ndarray of int, shape (n_samples,)
        Index of each value in `levels`, -1 for missing values.
    levels : list
        The distinct values, without missing ones.
    """
    if hasattr(column, "factorize"):  # pandas
        codes, levels = column.factorize()
        return np.asarray(codes, dtype=np.intp), levels.tolist()
    if not isinstance(column, np.ndarray):  # polars
        return _factorize_polars(column)
    if column.dtype.kind in "mM":  # NaT would become an integer in a list
        is_missing_date = np.isnat(column)
        column = column.astype(object)
        column[is_missing_date] = None
    return _factorize_objects(column.tolist())


def _factorize_objects(values: list[Hashable]) -> Factorized:
    code_of = dict.fromkeys(values, MISSING_CODE)
    levels = [value for value in code_of if not is_missing(value)]
    code_of.update(zip(levels, range(len(levels)), strict=True))
    codes = map(code_of.__getitem__, values)
    return np.fromiter(codes, dtype=np.intp, count=len(values)), levels


def _factorize_polars(column: Column) -> Factorized:
    if type(column.dtype).__name__ in _POLARS_TEXT:
        column = column.cast(str)
    levels = column.unique().drop_nulls().sort().to_list()
    ordered = column.cast(int) if type(column.dtype).__name__ == "Boolean" else column
    ranks = ordered.rank("dense").fill_null(0).to_numpy()  # 1 for the smallest
    return ranks.astype(np.intp) - 1, levels


def level_type(level: Hashable) -> str:
    """Return the type of a level; equal levels, as 1 and True, have the same type."""
    found = (name for name, types in _LEVEL_TYPES.items() if isinstance(level, types))
    return next(found, type(level).__name__)


def sort_levels(levels: Sequence[Hashable]) -> NDArray[np.object_]:
    """Return levels as an array of objects: sorted, or by type if they have no order."""
    try:
        levels = sorted(levels)  # type: ignore[type-var]
    except TypeError:
        levels = sorted(levels, key=lambda level: (type(level).__name__, repr(level)))
    return np.fromiter(levels, dtype=object, count=len(levels))
