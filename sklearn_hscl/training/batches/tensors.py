"""Training and held-out rows as tensors, or prepared batch by batch."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.model_selection import train_test_split
from torch import Tensor

from sklearn_hscl.data.categorical import TableColumns
from sklearn_hscl.data.out_of_core import StoredRows, take_rows
from sklearn_hscl.data.targets import TargetEncoder
from sklearn_hscl.encoders.preprocessing import Identity, Preparation, TablePreprocessor
from sklearn_hscl.training.ensemble import hold_out_groups


class LazyRows:
    """Prepared rows (n, ...) that are sparse or stored; indexing gives dense tensors.

    Stands where training has a tensor of rows: in the batches, in the augmentation and
    in the held-out score.

    Parameters
    ----------
    rows : CSR array or matrix of shape (n, F), or StoredRows of shape (n, ...)
        Validated rows.
    prepare : Preparation
        Maps dense rows to the encoder's input, each column on its own.
    device : torch.device
        Where dense rows are put: on CUDA through pinned memory, without waiting.
    dtype : torch.dtype
        Type of dense rows.
    """

    def __init__(
        self,
        rows: Any,
        prepare: Preparation,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.rows = rows
        self.prepare = prepare
        self.device = device
        self.dtype = dtype
        self.shape = torch.Size(rows.shape)
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        return to_device(self.read(index), self.device)

    def read(self, index: Tensor | slice) -> Tensor:
        """Return rows dense and prepared, still on the host: pinned for CUDA."""
        return self._prepared(self.rows[_places(index)])

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield all rows in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def select(self, mask: Tensor) -> "LazyRows":
        """Return some of the rows: sparse ones copied, stored ones by their index."""
        kept = take_rows(self.rows, np.flatnonzero(mask.cpu().numpy()))
        return LazyRows(kept, self.prepare, self.device, self.dtype)

    def gather(self, dim: int, index: Tensor) -> Tensor:
        """Return the value of each column in the row that `index` (B, F) names."""
        if dim != 0:
            raise ValueError(f"LazyRows gathers along dim=0 only, got dim={dim}.")
        donors = index.cpu().numpy().copy()  # scipy wants memory of numpy's own
        if isinstance(self.rows, StoredRows):
            values = self.rows.cells(donors)
        else:
            columns = np.tile(np.arange(self.shape[1]), (len(index), 1))
            values = self.rows[donors, columns]
        return to_device(self._prepared(values), self.device)

    def _prepared(self, rows: Any) -> Tensor:
        values: NDArray[Any] = rows.toarray() if issparse(rows) else rows
        prepared = self.prepare(values, self.dtype)
        return prepared.pin_memory() if self.device.type == "cuda" else prepared


def to_device(rows: Tensor, device: torch.device) -> Tensor:
    """Copy rows to the device, without waiting where they are pinned for CUDA."""
    return rows.to(device, non_blocking=device.type == "cuda")


def select_rows(rows: Tensor | LazyRows, mask: Tensor) -> Tensor | LazyRows:
    """Return the rows where `mask` (n,) holds, as dense or stored as they are."""
    return rows.select(mask) if isinstance(rows, LazyRows) else rows[mask]


def _places(index: Tensor | slice) -> NDArray[np.int64] | slice:
    return index.cpu().numpy() if isinstance(index, Tensor) else index


# Rows that are prepared at a time: the temporaries stay small beside the result.
_CHUNK_ROWS = 8192


class LabelledArrays(NamedTuple):
    """Validated rows, their targets (None for losses without labels) and their groups."""

    rows: Any  # ndarray or StoredRows (n, ...), or CSR array (n, F)
    targets: NDArray[Any] | None
    """Class codes (n,), -1 for no label; indicators or numbers (n, K)."""
    groups: NDArray[np.int64] | None = None
    """Codes of groups that no split tears apart (n,); None where each row is its own."""

    def select(self, index: NDArray[np.int64]) -> "LabelledArrays":
        """Return some of the rows; stored ones are not read."""
        targets = None if self.targets is None else self.targets[index]
        groups = None if self.groups is None else self.groups[index]
        return LabelledArrays(take_rows(self.rows, index), targets, groups)


class TrainingData(NamedTuple):
    """What a fit learns from."""

    train: LabelledArrays
    held_out: LabelledArrays | None
    encode: TargetEncoder | None
    """From y to targets; None where y is ignored."""
    columns: TableColumns | None
    """What was learnt of the columns of a table."""

    @property
    def target_kind(self) -> str | None:
        """``"class"``, ``"multilabel"``, ``"continuous"``; None where y is ignored."""
        return None if self.encode is None else self.encode.kind

    @property
    def is_categorical(self) -> NDArray[np.bool_] | None:
        """Which columns hold codes of categories; None where that is no question."""
        return None if self.columns is None else self.columns.is_categorical


class LabelledRows(NamedTuple):
    """Rows as the encoder takes them, with targets (0 where there are none)."""

    rows: Any  # Tensor or LazyRows (n, ...)
    targets: Tensor  # (n,) or (n, K)


def data_attributes(
    encode: TargetEncoder | None, columns: TableColumns | None
) -> dict[str, Any]:
    """Return the attributes of a fitted embedder that tell of its targets and columns."""
    attributes: dict[str, Any] = {"_encode_targets": encode, "_columns": columns}
    if encode is not None and encode.classes is not None:
        attributes["classes_"] = encode.classes
    if columns is not None and columns.is_categorical.any():
        attributes["is_categorical_"] = columns.is_categorical
        attributes["categories_"] = columns.categories
    return attributes


def split_held_out(
    data: LabelledArrays, fraction: float, seed: int
) -> tuple[LabelledArrays, LabelledArrays]:
    """Hold out a share of the rows, stratified by class where the classes allow it.

    Parameters
    ----------
    data : LabelledArrays
        All rows. Where they have groups, whole groups are held out.
    fraction : float in (0, 1)
        Share of rows to hold out.
    seed : int
        Seed of the split.

    Returns
    -------
    train, held_out : LabelledArrays

    Raises
    ------
    ValueError
        If less than two rows, or less than two classes, are left to train on.
    """
    targets, n_rows = data.targets, data.rows.shape[0]
    if data.groups is None:
        train, held_out = _hold_out_rows(targets, n_rows, fraction, seed)
    else:
        train, held_out = hold_out_groups(targets, data.groups, fraction, seed)
    if len(train) < 2 or (targets is not None and len(np.unique(targets[train])) < 2):
        raise ValueError(
            f"validation_fraction={fraction} leaves {len(train)} of {n_rows} rows to "
            f"train on, too few or of one class: lower it, "
            f"{'' if data.groups is None else 'pass finer groups, '}"
            f"or set early_stopping=False."
        )
    return data.select(train), data.select(held_out)


def _hold_out_rows(
    targets: NDArray[Any] | None, n_rows: int, fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    n_held_out = max(2, round(fraction * n_rows))  # two rows make a contrast
    train, held_out = train_test_split(
        np.arange(n_rows),
        test_size=min(n_held_out, n_rows - 1),
        random_state=seed,
        stratify=_strata(targets, n_held_out),
    )
    return train, held_out


def _strata(targets: NDArray[Any] | None, n_held_out: int) -> NDArray[np.int64] | None:
    if targets is None or targets.ndim > 1:
        return None
    sizes = np.unique(targets, return_counts=True)[1]
    n_classes = len(sizes)
    enough = n_classes <= n_held_out <= len(targets) - n_classes and sizes.min() > 1
    return targets if enough else None


def fit_preparation(
    rows: Any, built_in_encoder: bool, is_categorical: NDArray[np.bool_] | None = None
) -> Preparation:
    """Prepare tables for built-in encoders; modules get the rows as they are."""
    if built_in_encoder and rows.ndim == 2:
        return TablePreprocessor.of(rows, is_categorical)
    return Identity()


def to_tensors(
    data: LabelledArrays,
    prepare: Preparation,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> LabelledRows:
    """Move all rows to the device, as `dtype` unless they are uint8 images.

    Sparse and stored ones stay behind until they are batched.
    """
    targets = data.targets
    if targets is None:
        targets = np.zeros(data.rows.shape[0], np.int64)
    elif targets.dtype.kind == "f":
        targets = targets.astype(np.float32)
    on_device = torch.from_numpy(targets).to(device)
    if issparse(data.rows) or isinstance(data.rows, StoredRows):
        return LabelledRows(LazyRows(data.rows, prepare, device, dtype), on_device)
    return LabelledRows(_prepared(data.rows, prepare, device, dtype), on_device)


def _prepared(
    rows: NDArray[Any], prepare: Preparation, device: torch.device, dtype: torch.dtype
) -> Tensor:
    first = prepare(rows[:_CHUNK_ROWS], dtype)
    result = torch.empty((len(rows), *first.shape[1:]), dtype=first.dtype, device=device)
    result[: len(first)] = first
    for start in range(len(first), len(rows), _CHUNK_ROWS):
        chunk = slice(start, start + _CHUNK_ROWS)
        result[chunk] = prepare(rows[chunk], dtype)
    return result
