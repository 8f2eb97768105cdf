"""Tables of pandas, polars, Arrow, numpy or plain lists: columns, levels and values."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from functools import cached_property
from numbers import Number
from typing import Any, Self, TypeAlias

import narwhals as nw
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import issparse
from torch.utils.data import Dataset

from sklearn_hscl.data.missing import (
    Column,
    Factorized,
    as_column,
    factorize,
    is_missing,
    numbers_of,
    unmasked,
)

# Frames and dtypes of pandas, polars and Arrow have no types in common.
Frame: TypeAlias = Any
DType: TypeAlias = Any

FloatArray: TypeAlias = NDArray[np.floating]

DATE_REMEDY = (
    "dates or durations: convert them to numbers first, for example to year, month and "
    "weekday, or to days since a fixed date"
)
_POLARS_TEXT = ("String", "Categorical", "Enum")
_PANDAS_TEXT = ("CategoricalDtype", "StringDtype")
_VECTORS = ("List", "Array")
# Columns of these are classified by their values. Arrow's columns of nulls are unknown.
_OBJECTS = ("O", "Null", "Unknown")
# Types of pandas, polars and Arrow that need no more than float32.
_SMALL_TYPES = ("float32", "float16", "int8", "int16", "uint8", "uint16")
_NUMPY_DTYPES = {name: np.dtype(name) for name in _SMALL_TYPES} | {
    "boolean": np.dtype(bool)
}
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
        A data frame of pandas or polars, a table of Arrow, an array or a nested list.

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
        if not self.is_frame:
            return list(range(self._array.shape[1]))
        return list(getattr(self.data, "column_names", self.data.columns))

    @property
    def dtypes(self) -> Iterable[DType]:
        """Types of the columns of a frame."""
        if hasattr(self.data, "dtypes"):
            return self.data.dtypes
        return (self.column(index).dtype for index in range(len(self.names)))

    @cached_property
    def has_plain_numbers(self) -> bool:
        """Whether the table is a frame whose dtypes are all numeric, or an array."""
        return not self.is_frame or all(map(is_numeric_dtype, self.dtypes))

    def label(self, index: int) -> str:
        """Return name and index of a column, for messages."""
        return f"Column {self.names[index]!r} (index {index})"

    def column(self, index: int) -> Column:
        """Return a column in one of the forms of :func:`as_column`."""
        if index not in self._columns:
            data: Frame = self.data if self.is_frame else self._array
            by_index: Frame = getattr(data, "iloc", data)
            is_arrow = hasattr(data, "column_names")
            column = by_index.column(index) if is_arrow else by_index[:, index]
            self._columns[index] = as_column(column)
        return self._columns[index]

    def factorize(self, index: int) -> Factorized:
        """Return the codes and levels of a column; see :func:`factorize`.

        Raises
        ------
        ValueError
            If the column holds lists, dicts or other values that cannot be hashed.
        """
        if index not in self._factorized:
            column = self.column(index)
            try:
                self._factorized[index] = factorize(column)
            except (NotImplementedError, TypeError) as error:
                if holds_vectors(column):
                    raise self._vectors(index) from error
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
        if kind in _VECTORS:
            raise self._vectors(index)
        if kind not in _OBJECTS:
            raise self._unusable(index, f"values of dtype {dtype}")
        return self._has_categorical_objects(index)

    def holds_numbers(self, index: int) -> bool:
        """Return whether a column holds only numbers, bools and missing values."""
        dtype = self.column(index).dtype
        kind = getattr(dtype, "kind", type(dtype).__name__)
        if is_numeric_dtype(dtype) or kind in ("b", "Boolean"):
            return True
        if holds_vectors(self.column(index)):
            raise self._vectors(index)
        if kind not in _OBJECTS:
            return False
        try:
            levels = self.factorize(index)[1]
        except ValueError:
            return False
        return all(isinstance(level, Number | np.bool_) for level in levels)

    def to_floats(self, index: int) -> FloatArray:
        """Return a column of numbers as float32 or float64, NaN for missing values."""
        column = self.column(index)
        dtype = column.dtype
        if not hasattr(dtype, "kind") and (
            is_numeric_dtype(dtype) or str(dtype) == "Boolean"
        ):
            column = nw.from_native(column, series_only=True)  # of polars or Arrow
            return column.cast(nw.Float64).to_numpy()
        if dtype in (np.dtype(np.float32), np.dtype(np.float64)):
            return np.asarray(column)
        if getattr(dtype, "kind", "O") in ("i", "u", "f", "b"):
            if isinstance(dtype, np.dtype):
                return np.asarray(column, dtype=np.float64)
            return column.to_numpy(dtype=np.float64, na_value=np.nan)
        codes, levels = self.factorize(index)
        return np.array([*map(float, levels), np.nan])[codes]  # type: ignore[arg-type]

    @property
    def needs_conversion(self) -> bool:
        """Whether this is a frame of numbers of which numpy makes no array by itself.

        Columns of numpy's and sparse types are left to scikit-learn.
        """
        if not self.is_frame:
            return False
        indices = range(len(self.names))
        return not all(map(_is_plain, self.dtypes)) and all(
            map(self.holds_numbers, indices)
        )

    def to_array(self) -> FloatArray:
        """Return a frame of numbers as an array, NaN for missing values."""
        indices = range(len(self.names))
        array = np.empty((len(self), len(indices)), self.float_dtype(indices), order="F")
        for index in indices:
            array[:, index] = self.to_floats(index)
        return array

    def float_dtype(self, indices: Iterable[int]) -> type[np.float32 | np.float64]:
        """Return float32 if numpy would find it for some columns together, else float64."""
        dtypes = [_numpy_dtype(self.column(index).dtype) for index in indices]
        is_float32 = bool(dtypes) and np.result_type(*dtypes) == np.float32
        return np.float32 if is_float32 else np.float64

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

    def _vectors(self, index: int) -> ValueError:
        return ValueError(
            f"{self.label(index)} holds vectors beside other columns: pass this column "
            f"alone, or one array of all columns, by numpy.column_stack and numpy.stack."
        )

    def _unusable(self, index: int, values: str) -> ValueError:
        return ValueError(
            f"{self.label(index)} holds {values}: convert it to a column of numbers only "
            f"or of strings only, or drop it."
        )


def is_frame(X: object) -> bool:
    """Return whether X is a frame of pandas or polars, like one, or a table of Arrow."""
    is_arrow = hasattr(X, "column_names") and hasattr(X, "schema")
    return is_arrow or all(hasattr(X, name) for name in ("columns", "dtypes", "shape"))


def is_numeric_dtype(dtype: DType) -> bool:
    """Return whether a column of this dtype is numeric whatever its values."""
    if hasattr(dtype, "is_numeric"):  # polars, narwhals
        return bool(dtype.is_numeric())
    return getattr(dtype, "kind", None) in ("i", "u", "f")


def _is_plain(dtype: DType) -> bool:
    if isinstance(dtype, np.dtype):
        return dtype.isnative and dtype.kind in "biufcmM"
    return getattr(dtype, "fill_value", None) == 0  # of pandas' sparse columns


def _numpy_dtype(dtype: DType) -> DType:
    """Return the type of numpy of the same name, float64 if there is none."""
    dtype = getattr(dtype, "subtype", dtype)  # of pandas' sparse columns
    if isinstance(dtype, np.dtype):
        return dtype if dtype.kind in "biuf" else np.float64
    return _NUMPY_DTYPES.get(str(dtype).lower(), np.float64)


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


# Other containers ----------------------------------------------------------------------

# Attributes by which containers are recognized that hold more than rows, or no rows yet,
# and what to pass instead.
_REFUSED = (
    (("obs_names", "var_names", "X"), "pass {name}.X"),  # AnnData
    (("obs_names", "mod"), "pass the X of one modality, {name}['...'].X"),  # MuData
    (("to_memory", "format", "indptr"), "pass {name}.to_memory()"),  # sparse, in a file
    (("to_memory", "format", "group"), "pass {name}.to_memory()"),
    (("collect", "lazy"), "pass {name}.collect()"),  # LazyFrame
    (("toPandas",), "pass {name}.toPandas()"),  # Spark
    (("fetchdf", "df"), "pass {name}.df()"),  # a query of DuckDB
    (("execute", "to_pandas"), "pass {name}.to_pandas()"),  # a query of ibis
    (("read_all", "schema"), "pass {name}.read_all()"),  # batches of Arrow
    (("to_table", "scanner"), "pass {name}.to_table()"),  # files of Arrow
    (
        ("select_columns", "column_names", "__len__"),  # Hugging Face
        "pass some of its columns as a frame, {name}.select_columns([...]).to_pandas(), or "
        "one column of vectors or images, {name}['...']; labels are passed as y",
    ),
    (
        ("data_vars", "to_dataframe"),  # xarray
        "pass {name}.to_dataframe() if its variables have one dimension, or the array of "
        "one variable, {name}['...']",
    ),
    (("to_tensordict",), "pass one of its tensors, {name}['...']"),
    (("batch_sampler", "dataset"), "pass {name}.dataset"),  # DataLoader
    (("get_mask", "to_tensor"), "pass {name}.to_tensor(float('nan'))"),  # MaskedTensor
    (("colnames", "to_pandas"), "pass {name}.to_pandas()"),  # astropy
)
_ARRAY_PROTOCOLS = (
    "__array__",
    "__array_interface__",
    "__array_struct__",
    "__dask_graph__",
)


def refuse_other_containers(X: Frame, name: str) -> None:
    """Reject containers that cannot be read as samples, and say what to pass instead.

    Raises
    ------
    TypeError
        If X is one.
    """
    remedy = _remedy(X)
    if remedy is not None:
        container = type(X)
        module = container.__module__.split(".")[0]
        shown = (
            container.__name__
            if module == "builtins"
            else f"{container.__name__} of {module}"
        )
        raise TypeError(
            f"{name} is a {shown}, which is not read: {remedy.format(name=name)}."
        )


def _remedy(X: Frame) -> str | None:
    """Return what to pass instead of X, None if X may be read."""
    if isinstance(X, np.ndarray):
        has_fields = X.dtype.names is not None
        return "pass pandas.DataFrame.from_records({name})" if has_fields else None
    if isinstance(X, list | tuple):
        has_records = len(X) > 0 and isinstance(X[0], Mapping)
        return "pass pandas.DataFrame({name})" if has_records else None
    if hasattr(X, "iloc") or issparse(X):  # columns of pandas are attributes, too
        return None
    if getattr(X, "layout", torch.strided) != torch.strided:
        return "pass {name}.to_dense()"
    for attributes, remedy in _REFUSED:
        if all(hasattr(X, attribute) for attribute in attributes):
            return remedy
    if isinstance(X, Mapping):
        return (
            "pass pandas.DataFrame({name}) if its values are columns, or the value that "
            "holds the samples, {name}['...']"
        )
    is_read = is_frame(X) or isinstance(X, Sequence | Iterator | Dataset)
    is_read = is_read or any(hasattr(X, protocol) for protocol in _ARRAY_PROTOCOLS)
    if is_read or not any(hasattr(X, part) for part in ("__getitem__", "__iter__")):
        return None
    return "pass an array, a data frame, a sparse matrix or a torch Dataset"


# Vectors and images in the cells of a column -------------------------------------------


def holds_vectors(column: Column) -> bool:
    """Return whether the cells of a column are vectors, arrays, tensors or images."""
    dtype = getattr(column, "dtype", None)
    if type(dtype).__name__ in _VECTORS:
        return True
    if getattr(dtype, "kind", None) != "O":
        return False
    return _is_vector(next((cell for cell in column if not is_missing(cell)), None))


def _is_vector(cell: object) -> bool:
    if isinstance(cell, list | tuple):
        return True
    is_array = hasattr(cell, "__array__") or hasattr(cell, "__array_interface__")
    return is_array and getattr(cell, "ndim", 2) > 0  # images of Pillow have no ndim


def cells_of(X: Frame, name: str) -> Frame:
    """Return the rows of X if these are the cells of its only column, else X itself.

    Parameters
    ----------
    X : object
        A column or a frame of any library, an array, a list or anything else.
    name : str
        Name of X, for messages.

    Returns
    -------
    ndarray of shape (n_samples, n_features), list or object
        Vectors as an array; images and tensors as a list of them.

    Raises
    ------
    ValueError
        If a row is missing, or is a vector of another length than the first.
    """
    if isinstance(X, list | tuple):
        first = X[0] if len(X) else None
        if isinstance(first, np.ndarray) and first.ndim == 1:
            return _stack_vectors(X, name)
        if not all(isinstance(row, list | tuple) for row in X):
            return X
        return _unmasked_lists(_rows_of_one_length(X, name))
    column = X
    if is_frame(X):
        table = Table(X)
        if len(table.names) != 1:
            return X
        column = table.column(0)
    elif hasattr(X, "to_list") or hasattr(X, "to_pylist"):
        column = as_column(X)
        if type(column.dtype).__name__ in _POLARS_TEXT:
            return column.to_list()
    elif not isinstance(X, np.ndarray) or X.ndim != 1:
        return X
    if not holds_vectors(column):
        return X
    cells = list(column)
    if not hasattr(column.dtype, "kind"):  # of polars or Arrow
        values = zip(column.is_null(), column.to_numpy(), strict=True)
        cells = [None if is_null else cell for is_null, cell in values]
    return _stack_vectors(cells, name)


def _stack_vectors(cells: Sequence[Any], name: str) -> Frame:
    """Return vectors as an array, and images or tensors as a list of them."""
    missing = [row for row, cell in enumerate(cells) if is_missing(cell)]
    if missing:
        raise ValueError(
            f"{name} holds no vector in row {missing[0]}: leave that row out, with its "
            f"label."
        )
    if cells and (hasattr(cells[0], "mode") or hasattr(cells[0], "detach")):
        return list(cells)
    vectors = [_cell_array(cell) for cell in cells]
    if not vectors:
        return np.empty((0, 0))
    if vectors[0].ndim > 1:
        return vectors
    _rows_of_one_length(vectors, name)
    return np.stack(vectors)


def _cell_array(cell: object) -> NDArray[np.generic]:
    """Return a list, or an array of arrays, as one array with NaN for missing values."""
    array = unmasked(cell)
    if array.dtype != object:
        return array
    if array.size and _is_vector(array.flat[0]):
        return np.stack([_cell_array(part) for part in array])
    return numbers_of(array)


def _rows_of_one_length(rows: Sequence[Any], name: str) -> Sequence[Any]:
    lengths = [len(row) for row in rows]
    other = next((row for row, length in enumerate(lengths) if length != lengths[0]), None)
    if other is not None:
        raise ValueError(
            f"{name} holds rows of different lengths: row {other} has {lengths[other]} "
            f"values, row 0 has {lengths[0]}. Pad, cut or leave out the others, for "
            f"numpy.stack({name}) to work."
        )
    return rows


def _unmasked_lists(rows: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
    """Replace masked entries of numpy, which it reads as 0 in lists of objects."""
    if not any(value is np.ma.masked for row in rows for value in row):
        return rows
    return [[None if value is np.ma.masked else value for value in row] for row in rows]
