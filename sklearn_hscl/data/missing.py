"""Missing values, and columns as arrays: one rule for all containers, in X, y and groups.

None, NaN, NaT, pandas' NA, nulls of Arrow and polars, and masked entries of numpy are
missing: in numbers, categories, labels and groups alike. Text such as "nan" is not.
"""

import sys
from collections.abc import Hashable, Sequence
from decimal import Decimal
from numbers import Number
from typing import Any, TypeAlias

import narwhals as nw
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import issparse
from torch import Tensor

# Series and arrays of numpy, pandas, polars, Arrow and narwhals have no type in common.
Column: TypeAlias = Any
Factorized: TypeAlias = tuple[NDArray[np.intp], list[Hashable]]

MISSING_CODE = -1  # of a missing value in a factorized column
_POLARS_TEXT = ("String", "Categorical", "Enum")
# Integers up to here are exact in float64, which has NaN for those that are masked.
_MAX_EXACT_INTEGER = 2**53


def is_missing(value: object) -> bool:
    """Return whether a value is None, NaN, NaT, NA, masked, or a null of Arrow."""
    if value is None or value is np.ma.masked:
        return True
    if type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, Decimal):  # a signaling NaN cannot be compared
        return value.is_nan()
    if isinstance(value, Number | np.datetime64):
        return bool(value != value)
    return hasattr(value, "as_py") and not getattr(value, "is_valid", True)


def missing_mask(values: Column) -> NDArray[np.bool_]:
    """Return which values are missing.

    Parameters
    ----------
    values : ndarray of any shape, or column of any library
        Masked arrays, series and Arrow arrays included.

    Returns
    -------
    ndarray of bool, in the shape of `values`
    """
    values = as_column(values)
    if not isinstance(values, np.ndarray):
        return np.asarray(factorize(values)[0] == MISSING_CODE)
    kind = values.dtype.kind
    if kind in "fc":
        return np.asarray(np.isnan(values))
    if kind in "mM":
        return np.asarray(np.isnat(values))
    if kind != "O":
        return np.zeros(values.shape, dtype=bool)
    found = map(is_missing, values.flat)
    return np.fromiter(found, dtype=bool, count=values.size).reshape(values.shape)


def unmasked(values: object) -> NDArray[Any]:
    """Return an array-like as an array whose masked entries are NaN, NaT or None.

    An array without masked entries is not copied.
    """
    if not isinstance(values, np.ma.MaskedArray):
        return np.asarray(values)
    data, mask = np.ma.getdata(values), np.ma.getmaskarray(values)
    if data.dtype.names or not mask.any():
        return data
    kind = data.dtype.kind
    is_exact = kind in "biu" and np.abs(data.astype(float)).max() <= _MAX_EXACT_INTEGER
    fill: object = np.nan
    if is_exact:
        data = data.astype(np.float64)
    elif kind in "mM":
        data, fill = data.copy(), np.array("NaT", dtype=data.dtype)
    elif kind in "fc":
        data = data.copy()
    else:
        data, fill = data.astype(object), None
    data[mask] = fill
    return data


def numbers_of(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return an array of objects with NaN for all missing values."""
    missing = missing_mask(values)
    return np.where(missing, np.nan, values) if missing.any() else values


def as_column(values: Column) -> Column:
    """Return values in one of the few forms that columns have.

    Returns
    -------
    ndarray, pandas Series or polars Series
        Arrow arrays, also those inside of pandas, are a narwhals Series. All numbers have
        the byte order of the machine.
    """
    values = nw.to_native(values, pass_through=True)
    if isinstance(values, np.ndarray | list | tuple):
        return _as_array(values)
    dtype: Any = getattr(values, "dtype", None)
    if hasattr(dtype, "pyarrow_dtype"):  # pandas
        array: Any = getattr(values, "array", values)
        values = array.__arrow_array__()
    if hasattr(values, "to_pylist"):  # Arrow
        if not hasattr(values, "combine_chunks"):
            values = sys.modules["pyarrow"].chunked_array([values])
        if hasattr(values.type, "permutation"):
            return _tensor_cells(values)
        return nw.from_native(values, series_only=True)
    if hasattr(values, "factorize"):  # pandas
        return values if _is_native(dtype) else in_native_order(np.asarray(values))
    if type(dtype).__name__ == "Object":  # of polars
        values = values.to_list()
        return np.fromiter(values, dtype=object, count=len(values))
    return values if dtype is not None else np.asarray(values)


def _tensor_cells(column: Column) -> NDArray[np.object_]:
    """Return the tensors of an Arrow column as an array of arrays, None for nulls."""
    cells = np.full(len(column), None, dtype=object)
    known = np.flatnonzero(column.is_valid().to_numpy())
    tensors = column.drop_null().combine_chunks().to_numpy_ndarray()
    for row, tensor in zip(known.tolist(), tensors, strict=True):
        cells[row] = tensor
    return cells


def _as_array(values: NDArray[np.generic] | Sequence[Any]) -> NDArray[np.generic]:
    if not isinstance(values, np.ndarray):
        values = [None if value is np.ma.masked else value for value in values]
        if np.asarray(values).dtype.kind in "US":  # numpy turns NaN beside text into text
            return np.asarray(values, dtype=object)
    array = unmasked(values)
    if array.dtype.kind != "T":  # strings of any length, which may have missing ones
        return in_native_order(array)
    marker = getattr(array.dtype, "na_object", None)
    objects = array.astype(object)
    objects[[value is marker or value == marker for value in objects.flat]] = None
    return objects


def in_native_order(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return an array in the byte order of the machine; FITS files have the other one."""
    dtype = array.dtype
    return array if _is_native(dtype) else array.astype(dtype.newbyteorder("="))


def _is_native(dtype: object) -> bool:
    return not isinstance(dtype, np.dtype) or dtype.isnative


def factorize(column: Column) -> Factorized:
    """Encode the distinct values of a column as integers.

    Parameters
    ----------
    column : column of any library, or array-like of shape (n_samples,)
        Values that can be hashed; some may be missing.

    Returns
    -------
    codes : ndarray of int, shape (n_samples,)
        Index of each value in `levels`, -1 for missing values.
    levels : list
        The distinct values, without missing ones.
    """
    column = as_column(column)
    native = nw.to_native(column, pass_through=True)
    if hasattr(native, "factorize"):  # pandas
        codes, levels = native.factorize()
        return _without_missing(np.asarray(codes, dtype=np.intp), levels.tolist())
    if hasattr(native, "dictionary_encode"):
        return _factorize_arrow(native)
    if type(column.dtype).__name__ == "Decimal":  # earlier versions of polars sort none
        return _factorize_objects(column.to_list())
    if not isinstance(column, np.ndarray):
        return _factorize_polars(column)
    if column.dtype.kind in "mM":  # NaT would become an integer in a list
        is_missing_date = np.isnat(column)
        column = column.astype(object)
        column[is_missing_date] = None
    return _factorize_objects(column.tolist())


def _without_missing(codes: NDArray[np.intp], levels: list[Hashable]) -> Factorized:
    """Give the code -1 to the levels that are missing values."""
    known = [index for index, level in enumerate(levels) if not is_missing(level)]
    if len(known) == len(levels):
        return codes, levels
    new_codes = np.full(len(levels) + 1, MISSING_CODE, dtype=np.intp)
    new_codes[known] = np.arange(len(known))
    return new_codes[codes], [levels[index] for index in known]


def _factorize_objects(values: list[Hashable]) -> Factorized:
    code_of = dict.fromkeys(values, MISSING_CODE)
    levels = [value for value in code_of if not is_missing(value)]
    code_of.update(zip(levels, range(len(levels)), strict=True))
    codes = map(code_of.__getitem__, values)
    return np.fromiter(codes, dtype=np.intp, count=len(values)), levels


def _factorize_arrow(column: Column) -> Factorized:
    if hasattr(column.type, "index_type"):  # a dictionary, which may hold a null itself
        column = column.cast(column.type.value_type)
    encoded = column.dictionary_encode().combine_chunks()
    codes = encoded.indices.fill_null(MISSING_CODE).to_numpy(zero_copy_only=False)
    return _without_missing(codes.astype(np.intp), encoded.dictionary.to_pylist())


def _factorize_polars(column: Column) -> Factorized:
    if type(column.dtype).__name__ in _POLARS_TEXT:
        column = column.cast(str)
    elif column.dtype.is_float():
        column = column.fill_nan(None)
    levels = column.unique().drop_nulls().sort().to_list()
    ordered = column.cast(int) if type(column.dtype).__name__ == "Boolean" else column
    ranks = ordered.rank("dense").fill_null(0).to_numpy()  # 1 for the smallest
    return ranks.astype(np.intp) - 1, levels


# Any container as an array ------------------------------------------------------------


def array_of(values: object) -> NDArray[np.number]:
    """Return a tensor on any device, or an array-like, as an array."""
    if not isinstance(values, Tensor):
        return unmasked(values)
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


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
    if hasattr(y, "__dask_graph__"):
        y = y.compute()
    if type(y).__name__ == "LazyFrame":
        raise TypeError(
            f"{name} is a LazyFrame, whose rows are not loaded: pass "
            f"{name}.collect()['...'], the column to use."
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
    values = in_native_order(values)
    if values.dtype.kind == "O" and (missing := missing_mask(values)).any():
        values = _without_values(values, missing)
    return values


def _without_values(
    values: NDArray[np.generic], missing: NDArray[np.bool_]
) -> NDArray[np.object_]:
    """Return a copy as objects, None where the mask says that they are missing."""
    objects: NDArray[np.object_] = values.astype(object)
    np.putmask(objects, missing, np.array(None, dtype=object))
    return objects
