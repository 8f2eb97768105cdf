"""Rows of Parquet files, decoded block by block, and columns of labels in them."""

import copy
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Self, TypeAlias, TypeGuard, cast

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklearn_hscl.data.categorical import TableColumns
from sklearn_hscl.data.dataframe import FloatArray, Table
from sklearn_hscl.data.missing import missing_mask
from sklearn_hscl.data.out_of_core import Indices, OutOfCoreRows
from sklearn_hscl.data.parquet_source import (
    ParquetSource,
    RowGroup,
    is_arrow_dataset,
    names_parquet,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.dataset import Dataset

Files: TypeAlias = "str | os.PathLike[str] | Dataset"

# Decoded rows that stay in memory: a window of training, and files up to this size.
_CACHE_BYTES = 2**28
# Row groups that follow each other in a file are decoded together up to so many rows.
_BLOCK_ROWS = 16_384
# Rows that an augmentation draws values from.
_MAX_DONORS = 65_536


class ParquetRows(OutOfCoreRows):
    """Rows of Parquet files, of which some blocks are in memory, decoded.

    A block is a row group, or several small ones of a file. Rows in the order of the files
    are decoded once; training reads them in windows of blocks, see :meth:`windows`.

    Parameters
    ----------
    source : ParquetSource
        The files.
    features : sequence of str
        Names of the columns: of numbers and categories, or one of vectors.
    allow_nan : bool
        Whether rows of a table may have missing values.
    """

    def __init__(
        self, source: ParquetSource, features: Sequence[str], *, allow_nan: bool
    ) -> None:
        self.source = source
        self.features = list(features)
        self.allow_nan = allow_nan
        self.header: pa.Table = source.schema.empty_table().select(self.features)
        """The columns without rows."""
        self.blocks = _blocks(source.row_groups)
        self.ends = np.cumsum([_n_rows(block) for block in self.blocks])
        is_list = _is_list(self.header.schema[0].type)
        self.holds_vectors = is_list and len(self.features) == 1
        if self.holds_vectors:
            sample = _stacked(self._read_table(0), source.name)
            super().__init__((int(self.ends[-1]), sample.shape[1]), sample.dtype)
        else:
            numbers = _numeric_indices(self.header)
            dtype = Table(self.header).float_dtype(numbers)
            super().__init__((int(self.ends[-1]), len(self.features)), dtype)
        self.decode: Callable[[pa.Table], FloatArray] = _numbers
        self._cache = _BlockCache()

    # Columns -------------------------------------------------------------------------

    def learn_columns(self, chosen: ArrayLike | None) -> TableColumns | None:
        """Learn the columns as :meth:`TableColumns.learn` does, in one pass."""
        if self.holds_vectors:
            return None
        tables = (self._read_table(index) for index in range(len(self.blocks)))
        columns = TableColumns.learn_in_parts(self.header, tables, chosen)
        categorical = None if columns is None else columns.is_categorical
        for index, name in enumerate(self.features):
            is_number = Table(self.header).holds_numbers(index)
            if not is_number and (categorical is None or not categorical[index]):
                raise ValueError(
                    f"Column {name!r} (index {index}) of {self.source.name} holds "
                    f"{self.header.schema[index].type}, not numbers: name it in "
                    f"categorical_features for a built-in encoder, or leave it out by a "
                    f"pyarrow.dataset.dataset with a schema of the other columns."
                )
        return columns

    def first_table(self) -> "pa.Table":
        """Return the rows of the first block, as they are in the file."""
        return self._read_table(0)

    def encoded(self, columns: TableColumns | None) -> Self:
        """Return the same rows with codes in place of categories."""
        if columns is None:
            return self
        other = copy.copy(self)
        other.decode = columns.encode
        other._cache = _BlockCache()
        return other

    # Rows ----------------------------------------------------------------------------

    def windows(self, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Split the rows into windows of blocks that fit into memory, in random order.

        Blocks are shuffled. One window, of all rows in order, if all blocks fit.
        """
        if self._fits_in_memory:
            return super().windows(rng)
        n_blocks = max(2, int(_CACHE_BYTES // self._block_bytes))
        index = np.arange(len(self)) if self.index is None else self.index
        block = np.searchsorted(self.ends, index, side="right")
        bounds = np.searchsorted(block, np.arange(len(self.blocks) + 1))  # in order
        shuffled = rng.permutation(len(self.blocks))
        groups = [shuffled[i : i + n_blocks] for i in range(0, len(shuffled), n_blocks)]
        windows = [
            np.concatenate([np.arange(bounds[b], bounds[b + 1]) for b in np.sort(group)])
            for group in groups
        ]
        return [window for window in windows if len(window)]

    def in_reading_order(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return indices in the order of the files, unless all blocks fit into memory."""
        return indices if self._fits_in_memory else np.sort(indices)

    def loaded(self) -> "NDArray[np.number] | Self":
        """Return the rows as an array if they fit into memory."""
        size = self.dtype.itemsize * int(np.prod(self.shape))
        return self[:] if size <= _CACHE_BYTES else self

    def donors(self) -> NDArray[np.int64]:
        """Return indices of rows that stand in for all of them in augmentations."""
        n_donors = len(self) if self._fits_in_memory else min(len(self), _MAX_DONORS)
        return np.linspace(0, len(self) - 1, n_donors).astype(np.int64)

    def _read(self, indices: Indices) -> NDArray[np.number]:
        if isinstance(indices, slice):
            indices = np.arange(*indices.indices(int(self.ends[-1])))
        rows = np.empty((len(indices), *self.shape[1:]), self.dtype)
        block = np.searchsorted(self.ends, indices, side="right")
        for number in np.unique(block).tolist():
            found = np.flatnonzero(block == number)
            first = self._first(number)
            decoded = self._cache.get(number, self._decoded)
            rows[found] = decoded[indices[found] - first]
        return rows

    @property
    def _block_bytes(self) -> float:
        size = self.ends[-1] * self.dtype.itemsize * np.prod(self.shape[1:])
        return max(1.0, float(size) / len(self.blocks))

    @property
    def _fits_in_memory(self) -> bool:
        return self._block_bytes * len(self.blocks) <= _CACHE_BYTES

    def _first(self, number: int) -> int:
        return int(self.ends[number]) - _n_rows(self.blocks[number])

    def _read_table(self, number: int) -> "pa.Table":
        return self.source.read(self.blocks[number], self.features)

    def _decoded(self, number: int) -> FloatArray:
        table, first = self._read_table(number), self._first(number)
        if self.holds_vectors:
            rows = _stacked(table, self.source.name, first, self.shape[1])
        else:
            rows = self.decode(table).astype(self.dtype, order="C", copy=False)
        bad = np.isinf(rows) if self.allow_nan else ~np.isfinite(rows)
        if bad.any():
            row, column = np.argwhere(bad)[0].tolist()
            name = self.features[0 if self.holds_vectors else column]
            raise ValueError(
                f"Input {self.source.name} contains NaN or infinity: column {name!r} "
                f"holds {rows[row, column].item()!r} in row {first + row}, in the file "
                f"{self.blocks[number][0].path}. Repair it or leave it out."
            )
        return rows


class _BlockCache:
    """Decoded blocks, of which the least recently used ones are dropped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # batches are read ahead in a thread
        self._blocks: OrderedDict[int, FloatArray] = OrderedDict()

    def get(self, number: int, decode: Callable[[int], FloatArray]) -> FloatArray:
        """Return a block, which is decoded unless it is in memory."""
        with self._lock:
            rows = self._blocks.get(number)
            if rows is None:
                self._make_room()
                rows = self._blocks[number] = decode(number)
            self._blocks.move_to_end(number)
            return rows

    def _make_room(self) -> None:
        sizes = [rows.nbytes for rows in self._blocks.values()]
        largest = max(sizes, default=0)
        while len(sizes) > 1 and sum(sizes) + largest > _CACHE_BYTES:
            self._blocks.popitem(last=False)
            sizes.pop(0)


# Opening ---------------------------------------------------------------------------------


def is_parquet(X: object) -> "TypeGuard[Files]":
    """Return whether X is Parquet files: a path, a folder, or a dataset of pyarrow."""
    return is_arrow_dataset(X) or names_parquet(X)


def parquet_rows(
    X: "Files | ParquetSource",
    fitted: Mapping[str, object],
    *,
    leave_out: Sequence[object] = (),
    allow_nan: bool = True,
    name: str = "X",
) -> ParquetRows:
    """Return the rows of Parquet files.

    Parameters
    ----------
    X : path, pyarrow.dataset.Dataset or ParquetSource
        The files.
    fitted : dict
        Attributes of the estimator. If it was fitted on columns with names, these are
        read, and others are left out. If it was fitted without, on vectors, a single
        column of them is read.
    leave_out : sequence of str
        Names of columns that are not features.
    allow_nan : bool
        Whether rows of a table may have missing values.
    name : str
        Name of X, for messages.

    Returns
    -------
    ParquetRows
    """
    source = X if isinstance(X, ParquetSource) else ParquetSource(X, name)
    features = [column for column in source.schema.names if column not in leave_out]
    names = fitted.get("feature_names_in_")
    vectors = [column for column in features if _is_list(source.schema.field(column).type)]
    if names is not None:
        features = cast(np.ndarray, names).tolist()
        for column in features:
            source.check_column(column, "The fit")
    elif "n_features_in_" in fitted and len(vectors) == 1:
        features = vectors
    if not features:
        raise ValueError(
            f"{name} holds no columns of features: its columns are {source.schema.names}."
        )
    return ParquetRows(source, features, allow_nan=allow_nan)


def read_column(
    source: ParquetSource, column: str, parameter: str, *, takes_nulls: bool = False
) -> NDArray[np.generic]:
    """Read a column of labels, numbers or lists of them as an array.

    Parameters
    ----------
    source : ParquetSource
        The files.
    column : str
        Name of the column.
    parameter : str
        Name of the parameter that names the column, for messages.
    takes_nulls : bool
        Whether nulls mean that a row has no label.

    Returns
    -------
    ndarray of shape (n_samples,) or (n_samples, K)

    Raises
    ------
    ValueError
        If there is no such column, or it has nulls.
    """
    source.check_column(column, parameter)
    parts, row = [], 0
    for block in _blocks(source.row_groups):
        values = _values(source.read(block, [column]).column(0))
        missing = missing_mask(values)
        if missing.any() and not takes_nulls:
            raise ValueError(
                f"{parameter}={column!r} names a column with missing values, the first in "
                f"row {row + int(np.argwhere(missing)[0, 0])}, in the file "
                f"{block[0].path}. Leave out these rows, or pass unlabeled_label="
                f"float('nan') for classes."
            )
        parts.append(values)
        row += len(values)
    return np.concatenate(parts)


# Blocks ----------------------------------------------------------------------------------


def _blocks(groups: Sequence[RowGroup]) -> list[list[RowGroup]]:
    """Join row groups that follow each other in a file, up to a number of rows."""
    blocks: list[list[RowGroup]] = []
    for group in groups:
        block = blocks[-1] if blocks else []
        is_near = bool(block) and block[0].path == group.path
        if not (is_near and _n_rows(block) + group.n_rows <= _BLOCK_ROWS):
            block = []
            blocks.append(block)
        block.append(group)
    return blocks


def _n_rows(block: Sequence[RowGroup]) -> int:
    return sum(group.n_rows for group in block)


def _numbers(table: "pa.Table") -> FloatArray:
    return Table(table).to_array()


def _numeric_indices(header: "pa.Table") -> list[int]:
    table = Table(header)
    return [i for i in range(len(table.names)) if not table.is_categorical(i)]


def _is_list(kind: "pa.DataType") -> bool:
    import pyarrow.types as types

    kinds = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    return any(is_kind(kind) for is_kind in kinds)


def _stacked(
    table: "pa.Table", name: str, first: int = 0, width: int | None = None
) -> FloatArray:
    """Return a column of vectors as an array (n, D).

    Parameters
    ----------
    table : pyarrow.Table
        The column.
    name : str
        Name of the files, for messages.
    first : int
        Index of the first row in the files.
    width : int or None
        Length D of the vectors; None for that of the first one.

    Raises
    ------
    ValueError
        If a vector is missing or has another length than the first of all.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table.column(0).combine_chunks()
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    column_name = table.column_names[0]
    if column.null_count:
        row = first + int(
            np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0]
        )
        raise ValueError(
            f"{name} holds no vector in column {column_name!r} in row {row}: leave that "
            f"row out, with its label."
        )
    lengths = pc.list_value_length(column).to_numpy()
    width = int(lengths[0]) if width is None else width
    if (lengths != width).any():
        row = int(np.flatnonzero(lengths != width)[0])
        raise ValueError(
            f"{name} holds vectors of different lengths in column {column_name!r}: row "
            f"{first + row} has {lengths[row]} values, row 0 has {width}. Pad, cut or "
            f"leave out the others."
        )
    values = column.flatten().to_numpy(zero_copy_only=False)
    if values.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} holds lists of {values.dtype} in column {column_name!r}: expected "
            f"vectors of numbers. Convert them, or leave the column out."
        )
    dtype = values.dtype if values.dtype in (np.float32, np.float64) else np.float64
    return values.astype(dtype).reshape(-1, width)


def _values(column: "pa.ChunkedArray") -> NDArray[np.generic]:
    """Return a column as an array: of objects for texts, which share their strings."""
    import pyarrow as pa
    import pyarrow.types as types

    kind = column.type
    if types.is_string(kind) or types.is_large_string(kind):
        column = column.dictionary_encode()
        kind = column.type
    if types.is_dictionary(kind):
        column = column.unify_dictionaries().combine_chunks()
        column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        if not types.is_string(kind.value_type):
            return _values(pa.chunked_array([column.cast(kind.value_type)]))
        levels = np.array([*column.dictionary.to_pylist(), None], dtype=object)
        codes = column.indices.fill_null(len(levels) - 1)
        return levels[codes.to_numpy(zero_copy_only=False)]
    if _is_list(kind):
        return np.array(column.to_pylist())
    series = nw.from_native(column, series_only=True)
    return np.asarray(series.to_numpy())
