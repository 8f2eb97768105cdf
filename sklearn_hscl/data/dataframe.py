"""Tables of pandas, polars, numpy or plain lists: their columns, levels and values."""

from collections.abc import Hashable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property
from numbers import Number, Real
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import issparse
from torch import Tensor

from sklearn_hscl.data.out_of_core import array_of

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


# Any container as an array ------------------------------------------------------------


def column_array(y: Column, name: str = "y") -> NDArray[np.generic]:
    """Return y, whatever holds it, as an array.

    Parameters
    ----------
    y : array-like
        Array, masked array, sparse matrix, tensor, list, or a column or a frame of
        pandas, polars, pyarrow or narwhals.
    name : str
        Its name, for messages.

    Returns
    -------
    ndarray of shape (n_samples,) or (n_samples, n_outputs)
        In the byte order of the machine. Missing values are NaN in floats, NaT in dates
        and None in objects.
    """
    if type(y).__name__ == "LazyFrame":
        raise TypeError(
            f"{name} is a LazyFrame, whose rows are not loaded: pass {name}.collect()."
        )
    columns = _frame_columns(y)
    try:
        if columns is None:
            values = _column(y)
        else:
            values = _stack_columns([_column(column) for column in columns])
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        raise ValueError(
            f"{name} holds lists of different lengths: pass "
            f"MultiLabelBinarizer().fit_transform({name}) of scikit-learn if they are "
            f"labels."
        ) from error
    if values.ndim == 0:
        raise ValueError(
            f"Expected {name} to hold a value for each sample, got {y!r:.80}. Pass a list "
            f"or an array."
        )
    return values


def _frame_columns(y: Any) -> list[Any] | None:
    """Return the columns of a frame or an Arrow table; None for anything else."""
    if not (hasattr(y, "columns") and hasattr(y, "shape")):
        return None
    if hasattr(y, "to_native"):  # narwhals
        return _frame_columns(y.to_native())
    if hasattr(y, "iloc"):  # pandas, where names may repeat
        return [y.iloc[:, k] for k in range(y.shape[1])]
    if hasattr(y, "get_columns"):  # polars
        return list(y.get_columns())
    return list(y.columns) if hasattr(y, "schema") else None  # pyarrow


def _stack_columns(columns: list[NDArray[np.generic]]) -> NDArray[np.generic]:
    """Stack columns (n,) as (n, K); those of different kinds as objects."""
    if not columns:
        raise ValueError("y is a table without columns: pass one column.")
    if len({column.dtype.kind in "biuf" for column in columns}) > 1:
        columns = [column.astype(object) for column in columns]
    return np.stack(columns, axis=1)


def _column(y: Any) -> NDArray[np.generic]:
    """Return the values of a container that is not a frame."""
    if issparse(y):
        return np.asarray(y.toarray())
    if isinstance(y, Tensor):
        return _tensor_values(y)
    if type(y).__module__.startswith("narwhals"):
        return _column(y.to_native())
    if hasattr(y, "isna") and not isinstance(getattr(y, "dtype", None), np.dtype):
        return _extension_values(y)  # of pandas
    if hasattr(y, "null_count"):  # polars, pyarrow
        return _nullable_values(y)
    if isinstance(y, list | tuple):
        return _list_values(y)
    return _native(np.asanyarray(y))


def _tensor_values(y: Tensor) -> NDArray[np.generic]:
    y = y.to_dense() if y.layout != torch.strided else y
    try:
        return array_of(y)
    except TypeError:  # a float type that numpy lacks
        return array_of(y.float())


def _extension_values(y: Any) -> NDArray[np.generic]:
    """Return the values of an extension type of pandas."""
    missing = np.asarray(y.isna())
    if not missing.any() and (values := np.asarray(y)).dtype.kind in "biuf":
        return values
    return _native(_without_values(np.asarray(y, dtype=object), missing))


def _nullable_values(y: Any) -> NDArray[np.generic]:
    """Return the values of a column of polars or pyarrow."""
    n_missing = y.null_count() if callable(y.null_count) else y.null_count
    if not n_missing and (values := np.asarray(y)).dtype.kind in "biuf":
        return values
    listed = y.to_list() if hasattr(y, "to_list") else y.to_pylist()
    return _native(np.fromiter(listed, dtype=object, count=len(listed)))


def _list_values(y: list[Any] | tuple[Any, ...]) -> NDArray[np.generic]:
    if any(isinstance(value, Tensor) for value in y):
        y = [array_of(v) if isinstance(v, Tensor) else v for v in y]
    values = np.asarray(y)
    if values.dtype.kind == "U" and not _holds_text_only(y):
        values = np.asarray(y, dtype=object)  # numpy made strings of numbers and of NaN
    return _native(values)


def _holds_text_only(y: Any) -> bool:
    if isinstance(y, list | tuple):
        return all(map(_holds_text_only, y))
    return isinstance(y, str) or (isinstance(y, np.ndarray) and y.dtype.kind == "U")


def _native(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return an array of a plain type in this machine's byte order; None where missing."""
    if isinstance(values, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(values)
        values = np.asarray(values.data)
        values = _without_values(values, mask) if mask.any() else values
    values = np.asarray(values)
    if values.dtype.kind == "T" or (values.dtype.kind == "f" and values.itemsize > 8):
        values = values.astype(object if values.dtype.kind == "T" else np.float64)
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    if values.dtype.kind == "O" and (missing := missing_labels(values)).any():
        values = _without_values(values, missing)
    return values


def _without_values(
    values: NDArray[np.generic], missing: NDArray[np.bool_]
) -> NDArray[np.object_]:
    """Return a copy as objects, None where the mask says that they are missing."""
    objects: NDArray[np.object_] = values.astype(object)
    np.putmask(objects, missing, np.array(None, dtype=object))
    return objects


def missing_labels(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Return which values of an array are missing, in the array's shape."""
    missing = missing_mask(values)
    if values.dtype.kind == "O":
        found = (isinstance(value, Decimal) and value.is_nan() for value in values.flat)
        missing |= np.fromiter(found, bool, values.size).reshape(values.shape)
    return missing
