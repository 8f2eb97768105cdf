"""The items of a torch dataset as rows, and their labels."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from sklearn_hscl.data.image_files import picture_array
from sklearn_hscl.data.out_of_core import Places, StoredRows


class DatasetRows(StoredRows):
    """Rows of a map-style dataset, read item by item.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        Items are a row or an image, as tensor or array, or a tuple that starts with one.
    allow_nan : bool
        Whether rows of a table may miss values.
    name : str
        Name of the dataset, for messages.

    Raises
    ------
    ValueError
        If the dataset cannot be indexed, is empty, or holds other items; when read, if
        an item is of another shape or type than the first, or not finite.
    """

    def __init__(self, dataset: Dataset[Any], *, allow_nan: bool, name: str) -> None:
        n_rows = _length(dataset, name)
        first = _row_at(dataset, 0, name)
        if first.ndim == 0 or first.dtype.kind not in "biuf":
            raise ValueError(
                f"{name} is a dataset whose item 0 is a {type(dataset[0]).__name__} with "
                f"a row of shape {first.shape} and dtype {first.dtype}: let items be a "
                f"row or an image of numbers, or a tuple that starts with one."
            )
        super().__init__((n_rows, *first.shape), first.dtype)
        self.dataset = dataset
        self.allow_nan = allow_nan and self.ndim == 2
        self.name = name
        self.item_shape, self.item_dtype = first.shape, first.dtype
        self.view: Callable[[NDArray[Any]], NDArray[Any]] = np.asarray

    def viewed(self, view: Callable[[NDArray[Any]], NDArray[Any]]) -> Self:
        """Return rows of which each batch (B, ...) passes through `view`."""
        other = StoredRows.select(self, np.arange(len(self)))
        other.view = view
        other.shape = (len(self), *view(np.empty((0, *self.item_shape))).shape[1:])
        other.ndim = len(other.shape)
        return other

    def labels(self) -> NDArray[Any] | None:
        """Read the second entry of all items; None where items are no such tuples."""
        if not _has_label(self.dataset[0]):
            return None
        labels = [self._label(place) for place in range(len(self))]
        if any(label.shape != labels[0].shape for label in labels):
            raise ValueError(
                f"The labels in the items of {self.name} have different shapes: give each "
                f"item one label, or indicators of the same length."
            )
        return np.stack(labels)

    def cells(self, places: NDArray[np.int64]) -> NDArray[Any]:
        """Raise: single values cannot be read."""
        raise ValueError(
            f"FeatureCorruption and ClassCorruption replace values by those of other rows, "
            f"for which {self.name} as a dataset would be read over and over: pass an "
            f"augment of yours, or {self.name} as an array or a memory map."
        )

    def _read(self, places: Places) -> NDArray[Any]:
        index = np.arange(len(self))[places] if isinstance(places, slice) else places
        if len(index) == 0:
            return np.empty((0, *self.shape[1:]), self.dtype)
        rows = np.stack([self._item(place) for place in index.tolist()])
        return self.view(rows.astype(self.dtype, copy=False))

    def _item(self, place: int) -> NDArray[Any]:
        row = _row_at(self.dataset, place, self.name)
        if row.shape != self.item_shape or row.dtype != self.item_dtype:
            raise ValueError(
                f"{self.name} holds items of different shapes or types: item {place} is "
                f"{row.dtype} {row.shape}, item 0 {self.item_dtype} {self.item_shape}. "
                f"Bring them to one shape and type in the dataset; pictures in files by "
                f"ImageFiles(paths, size=(height, width))."
            )
        bad = np.isinf(row) if self.allow_nan else ~np.isfinite(row)
        if bad.any():
            raise ValueError(
                f"Input {self.name} contains NaN or infinity, {row[bad][0].item()!r} in "
                f"item {place}: repair it or leave it out."
            )
        return row

    def _label(self, place: int) -> NDArray[Any]:
        item = self.dataset[place]
        if not _has_label(item):
            raise ValueError(
                f"Item {place} of {self.name} has no label, but item 0 has: let all be "
                f"tuples (row, label), or pass y."
            )
        return array_of(_parts(item)[1])


class ItemList(Dataset[Any]):
    """Items of a dataset that were read, as scikit-learn's splits leave them.

    Parameters
    ----------
    items : list
        As the dataset gave them.
    """

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> Any:
        return self.items[place]


def holds_items(X: Any) -> bool:
    """Say whether X is a list of what a dataset gives: tensors, or a row and its label."""
    if not isinstance(X, list) or not X:
        return False
    return (
        isinstance(X[0], Tensor)
        or (isinstance(X[0], tuple) and _is_row_with_more(X[0]))
        or (isinstance(X[0], list) and _is_labelled(X[0]))
    )


def array_of(values: Any) -> NDArray[Any]:
    """Return a tensor, in whatever memory, or an array-like as an array."""
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def _row_at(dataset: Dataset[Any], place: int, name: str) -> NDArray[Any]:
    item = dataset[place]
    try:
        row = _parts(item)[0]
        return array_of(row) if isinstance(row, Tensor) else picture_array(row)
    except ValueError as error:
        raise ValueError(f"Item {place} of {name} cannot be used: {error}") from error


def _has_label(item: Any) -> bool:
    return len(_parts(item)) > 1


def _parts(item: Any) -> Sequence[Any]:
    """Return the row of an item, and what follows it."""
    is_tuple = isinstance(item, tuple) and len(item) > 0
    is_list = isinstance(item, list) and _is_labelled(item)
    return item if is_tuple or is_list else (item,)


def _is_labelled(item: list[Any]) -> bool:
    """Say whether a list is a row and its label, and not several rows."""
    return _is_row_with_more(item) and len(item) > 1 and np.ndim(item[1]) == 0


def _is_row_with_more(parts: Sequence[Any]) -> bool:
    """Say whether these are a row or a picture, and a label or others of another shape."""
    if len(parts) == 0 or not (
        isinstance(parts[0], Tensor) or hasattr(parts[0], "__array_interface__")
    ):
        return False
    shape = np.shape(parts[0])
    return len(shape) > 0 and all(np.shape(other) != shape for other in parts[1:])


def _length(dataset: Dataset[Any], name: str) -> int:
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise ValueError(
            f"{name} is a {type(dataset).__name__}, whose items cannot be read by their "
            f"index: pass a torch.utils.data.Dataset with __getitem__ and __len__."
        )
    if len(dataset) == 0:
        raise ValueError(f"{name} is a dataset with 0 items: pass one that holds rows.")
    return len(dataset)
