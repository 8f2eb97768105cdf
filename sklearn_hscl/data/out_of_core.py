"""Rows that lie outside of memory, read by the batch."""

import copy
from mmap import mmap
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

Places = slice | NDArray[np.int64]


class StoredRows:
    """Rows (n, ...) that are read anew, into an array of its own, whenever indexed.

    Subclasses say how. Tables come as float32 or float64, as validation makes them.

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
        self.dtype: np.dtype[Any] = np.dtype(dtype if keeps_type else np.float64)
        self.index: NDArray[np.int64] | None = None  # of the stored rows; None for all

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, places: Places) -> NDArray[Any]:
        return self._read(places if self.index is None else self.index[places])

    def select(self, places: NDArray[np.int64]) -> Self:
        """Return some of the rows, still stored: nothing is read."""
        chosen = copy.copy(self)
        chosen.index = places if self.index is None else self.index[places]
        chosen.shape = (len(chosen.index), *self.shape[1:])
        return chosen

    def cells(self, places: NDArray[np.int64]) -> NDArray[Any]:
        """Read the value of each column in the row that `places` (B, F) names."""
        raise NotImplementedError

    def _read(self, places: Places) -> NDArray[Any]:
        raise NotImplementedError


class MappedRows(StoredRows):
    """Rows of an array that is mapped from a file.

    Parameters
    ----------
    array : ndarray of shape (n, ...)
        The array, or any view of it.
    """

    def __init__(self, array: NDArray[Any]) -> None:
        super().__init__(array.shape, array.dtype)
        self.array = np.asarray(array)

    def cells(self, places: NDArray[np.int64]) -> NDArray[Any]:
        """Read the value of each column in the row that `places` (B, F) names."""
        places = places if self.index is None else self.index[places]
        columns = np.arange(self.shape[1])
        return self.array[places, columns].astype(self.dtype, copy=False)

    def _read(self, places: Places) -> NDArray[Any]:
        rows = self.array[places]
        # A slice is a view: whoever writes on it would write on the file.
        return rows.astype(self.dtype, copy=isinstance(places, slice))


def take_rows(rows: Any, places: NDArray[np.int64]) -> Any:
    """Return some of the rows of an array, a CSR array or StoredRows, as what they are."""
    return rows.select(places) if isinstance(rows, StoredRows) else rows[places]


def is_memory_mapped(array: Any) -> bool:
    """Say whether an array is a memory map, or a view of one, whatever its class."""
    owner = array
    while owner is not None and not isinstance(owner, mmap):
        is_buffer = isinstance(owner, memoryview)
        owner = owner.obj if is_buffer else getattr(owner, "base", None)
    return owner is not None
