"""Rows that are out of core: read from a file or a dataset batch by batch."""

import copy
from mmap import mmap
from typing import Self, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import csr_array, csr_matrix

Indices: TypeAlias = slice | NDArray[np.int64]


class OutOfCoreRows:
    """Rows (n, ...) that are read into a new array whenever they are indexed.

    Subclasses implement the reading. Tables are returned as float32 or float64, as
    validation converts them.

    Parameters
    ----------
    shape : tuple of int
        Shape of all rows together.
    dtype : dtype
        Type in which they are stored.
    """

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.shape = shape
        self.ndim = len(shape)
        is_float = np.dtype(dtype) in (np.float32, np.float64)
        keeps_type = is_float or self.ndim > 2
        self.dtype: np.dtype[np.generic] = np.dtype(dtype if keeps_type else np.float64)
        self.index: NDArray[np.int64] | None = None  # of the selected rows; None for all

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: Indices) -> NDArray[np.number]:
        return self._read(indices if self.index is None else self.index[indices])

    def select(self, indices: NDArray[np.int64]) -> Self:
        """Return some of the rows, still out of core: nothing is read."""
        selected = copy.copy(self)
        selected.index = indices if self.index is None else self.index[indices]
        selected.shape = (len(selected.index), *self.shape[1:])
        return selected

    def cells(self, indices: NDArray[np.int64]) -> NDArray[np.number]:
        """Read the value of each column in the row with its index in `indices` (B, F)."""
        raise NotImplementedError

    def _read(self, indices: Indices) -> NDArray[np.number]:
        raise NotImplementedError


class MappedRows(OutOfCoreRows):
    """Rows of an array that is mapped from a file.

    Parameters
    ----------
    array : ndarray of shape (n, ...)
        The array, or any view of it.
    """

    def __init__(self, array: NDArray[np.number]) -> None:
        super().__init__(array.shape, array.dtype)
        self.array = np.asarray(array)

    def cells(self, indices: NDArray[np.int64]) -> NDArray[np.number]:
        """Read the value of each column in the row with its index in `indices` (B, F)."""
        indices = indices if self.index is None else self.index[indices]
        columns = np.arange(self.shape[1])
        return self.array[indices, columns].astype(self.dtype, copy=False)

    def _read(self, indices: Indices) -> NDArray[np.number]:
        rows = self.array[indices]
        # A slice is a view, through which a caller could write to the file.
        return rows.astype(self.dtype, copy=isinstance(indices, slice))


Rows: TypeAlias = np.ndarray | OutOfCoreRows | csr_array | csr_matrix
"""Validated samples: (n, F) or (n, C, H, W)."""


def take_rows(rows: Rows, indices: NDArray[np.int64]) -> Rows:
    """Return some of the rows of an array, a CSR array or out-of-core rows, as such."""
    return rows.select(indices) if isinstance(rows, OutOfCoreRows) else rows[indices]


def is_memory_mapped(array: object) -> TypeGuard[NDArray[np.number]]:
    """Return whether an array is a memory map, or a view of one, whatever its class."""
    owner = array
    while owner is not None and not isinstance(owner, mmap):
        base = owner.obj if isinstance(owner, memoryview) else None
        owner = getattr(owner, "base", base)
    return owner is not None
