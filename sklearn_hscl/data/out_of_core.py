"""Samples outside of memory, read by the batch: memory maps and torch datasets."""

import copy
from collections.abc import Callable, Sequence
from mmap import mmap
from typing import Self, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from scipy.sparse import csr_array, csr_matrix
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from sklearn_hscl.data.image_files import image_array, is_opened
from sklearn_hscl.data.missing import array_of

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
        native = np.dtype(dtype).newbyteorder("=")  # FITS files have another order
        keeps_type = native in (np.float32, np.float64) or self.ndim > 2
        self.dtype: np.dtype[np.generic] = native if keeps_type else np.dtype(np.float64)
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

    def windows(self, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Split all rows into windows that are read one after the other, each at random."""
        return [np.arange(len(self))]

    def in_reading_order(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return indices of rows in an order in which they can be read fast."""
        return indices

    def loaded(self) -> "NDArray[np.number] | Self":
        """Return the rows as an array where that is faster and takes little memory."""
        return self

    def donors(self) -> NDArray[np.int64] | None:
        """Return indices of rows that augmentations draw values from; None for all rows."""
        return None

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


SparseRows: TypeAlias = csr_array | csr_matrix
Rows: TypeAlias = np.ndarray | OutOfCoreRows | SparseRows
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


Array: TypeAlias = NDArray[np.number]


class DatasetRows(OutOfCoreRows):
    """Rows of a map-style dataset, read item by item.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        Each item is a row or an image, as tensor or array, or a tuple that starts with
        one.
    allow_nan : bool
        Whether rows of a table may have missing values.
    name : str
        Name of the dataset, for messages.

    Raises
    ------
    ValueError
        If the dataset cannot be indexed, is empty, or holds other items. On reading, if
        an item differs from the first in shape or type, or is not finite.
    """

    def __init__(self, dataset: Dataset[object], *, allow_nan: bool, name: str) -> None:
        n_rows = _length(dataset, name)
        first = _row_at(dataset, 0, name)
        if first.ndim == 0 or first.dtype.kind not in "biuf":
            raise ValueError(
                f"{name} is a dataset whose item 0 is a {type(dataset[0]).__name__} with "
                f"a row of shape {first.shape} and dtype {first.dtype}: each item must be "
                f"a numeric row or image, or a tuple whose first element is one."
            )
        super().__init__((n_rows, *first.shape), first.dtype)
        self.dataset = dataset
        self.allow_nan = allow_nan and self.ndim == 2
        self.name = name
        self.item_shape, self.item_dtype = first.shape, first.dtype
        self.view: Callable[[Array], Array] = np.asarray

    def viewed(self, view: Callable[[Array], Array]) -> Self:
        """Return rows of which each batch (B, ...) passes through `view`."""
        other = OutOfCoreRows.select(self, np.arange(len(self)))
        other.view = view
        other.shape = (len(self), *view(np.empty((0, *self.item_shape))).shape[1:])
        other.ndim = len(other.shape)
        return other

    @property
    def has_labels(self) -> bool:
        """Whether the first item has a second entry."""
        return _has_label(self.dataset[0])

    def labels(self) -> NDArray[np.generic] | None:
        """Read the second entry of all items; None if the first item has no label."""
        if not self.has_labels:
            return None
        labels = [self._label(index) for index in range(len(self))]
        if any(label.shape != labels[0].shape for label in labels):
            raise ValueError(
                f"The labels in the items of {self.name} have different shapes: give each "
                f"item one label, or indicators of the same length."
            )
        return np.stack(labels)

    def cells(self, indices: NDArray[np.int64]) -> Array:
        """Raise: single values cannot be read."""
        raise ValueError(
            f"FeatureCorruption and ClassCorruption replace values by those of other rows, "
            f"for which {self.name} as a dataset would be read again and again: pass "
            f"another augmentation, or {self.name} as an array or a memory map."
        )

    def _read(self, indices: Indices) -> Array:
        chosen = np.arange(len(self))[indices] if isinstance(indices, slice) else indices
        if len(chosen) == 0:
            return np.empty((0, *self.shape[1:]), self.dtype)
        rows = np.stack([self._item(index) for index in chosen.tolist()])
        return self.view(rows.astype(self.dtype, copy=False))

    def _item(self, index: int) -> Array:
        row = _row_at(self.dataset, index, self.name)
        if row.shape != self.item_shape or row.dtype != self.item_dtype:
            raise ValueError(
                f"{self.name} holds items of different shapes or types: item {index} is "
                f"{row.dtype} {row.shape}, item 0 {self.item_dtype} {self.item_shape}. "
                f"Convert them to one shape and type in the dataset; image files by "
                f"ImageFiles(paths, size=(height, width))."
            )
        bad = np.isinf(row) if self.allow_nan else ~np.isfinite(row)
        if bad.any():
            raise ValueError(
                f"Input {self.name} contains NaN or infinity, {row[bad][0].item()!r} in "
                f"item {index}: repair it or leave it out."
            )
        return row

    def _label(self, index: int) -> NDArray[np.generic]:
        item = self.dataset[index]
        if not _has_label(item):
            raise ValueError(
                f"Item {index} of {self.name} has no label, but item 0 has one: make all "
                f"items tuples (row, label), or pass y."
            )
        return array_of(_parts(item)[1])


class ItemList(Dataset[object]):
    """Items of a dataset that were read, as scikit-learn's splits leave them.

    Parameters
    ----------
    items : list
        Items of the dataset.
    """

    def __init__(self, items: list[object]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        return self.items[index]


def holds_items(X: object) -> bool:
    """Return whether X is a list of dataset items: tensors, or rows with labels."""
    if not isinstance(X, list) or not X:
        return False
    return (
        isinstance(X[0], Tensor)
        or (isinstance(X[0], tuple) and _starts_with_row(X[0]))
        or (isinstance(X[0], list) and _is_row_and_label(X[0]))
    )


def _row_at(dataset: Dataset[object], index: int, name: str) -> Array:
    item = dataset[index]
    try:
        row = _parts(item)[0]
        return array_of(row) if isinstance(row, Tensor) else image_array(row)
    except ValueError as error:
        raise ValueError(f"Item {index} of {name} cannot be used: {error}") from error


def _has_label(item: object) -> bool:
    return len(_parts(item)) > 1


def _parts(item: object) -> Sequence[object]:
    """Return the row of an item, and what follows it."""
    if isinstance(item, tuple) and len(item) > 0:
        return item
    return item if isinstance(item, list) and _is_row_and_label(item) else (item,)


def _is_row_and_label(item: list[ArrayLike]) -> bool:
    """Return whether a list is a row and its label, and not several rows."""
    return _starts_with_row(item) and len(item) > 1 and np.ndim(item[1]) == 0


def _starts_with_row(parts: Sequence[ArrayLike]) -> bool:
    """Return whether these are a row or an image, and parts of other shapes."""
    if len(parts) and is_opened(parts[0]):  # whose shape is known only when it is decoded
        return not any(map(is_opened, parts[1:]))
    if len(parts) == 0 or not (
        isinstance(parts[0], Tensor) or hasattr(parts[0], "__array_interface__")
    ):
        return False
    shape = np.shape(parts[0])
    return len(shape) > 0 and all(np.shape(other) != shape for other in parts[1:])


def _length(dataset: Dataset[object], name: str) -> int:
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise ValueError(
            f"{name} is a {type(dataset).__name__}, whose items cannot be read by their "
            f"index: pass a torch.utils.data.Dataset with __getitem__ and __len__."
        )
    if len(dataset) == 0:
        raise ValueError(f"{name} is a dataset with 0 items: pass one that holds rows.")
    return len(dataset)
