"""Training and held-out rows as tensors, or prepared batch by batch."""

from collections.abc import Iterator
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from torch import Tensor

from sklearn_hscl.data.out_of_core import OutOfCoreRows, take_rows
from sklearn_hscl.encoders.preprocessing import Preparation
from sklearn_hscl.runtime.device import accelerator, to_device


class LazyRows:
    """Prepared rows (n, ...) that are sparse or in files; indexing gives dense tensors.

    Replaces the tensor of rows in the batches, the augmentation and the held-out score.

    Parameters
    ----------
    rows : CSR array or matrix of shape (n, F), or OutOfCoreRows of shape (n, ...)
        Validated rows.
    prepare : Preparation
        Maps dense rows to the encoder's input, column by column.
    device : torch.device
        Device of dense rows; copies use pinned memory and do not wait.
    dtype : torch.dtype
        Type of dense rows.
    """

    def __init__(
        self,
        rows: csr_array | OutOfCoreRows,
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
        """Return dense, prepared rows in host memory, which is pinned for the device."""
        return self._prepared(self.rows[_to_numpy(index)])

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield all rows in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def select(self, mask: Tensor) -> "LazyRows":
        """Return some of the rows: sparse ones are copied, others are not read."""
        selected = take_rows(self.rows, np.flatnonzero(mask.cpu().numpy()))
        return LazyRows(selected, self.prepare, self.device, self.dtype)

    def gather(self, dim: int, index: Tensor) -> Tensor:
        """Return the value of each column in the row that `index` (B, F) names."""
        if dim != 0:
            raise ValueError(f"LazyRows supports dim=0 only, got dim={dim}.")
        donors = index.cpu().numpy().copy()  # scipy needs memory owned by numpy
        if isinstance(self.rows, OutOfCoreRows):
            values = self.rows.cells(donors)
        else:
            columns = np.tile(np.arange(self.shape[1]), (len(index), 1))
            values = self.rows[donors, columns]
        return to_device(self._prepared(values), self.device)

    def windows(self, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Split all rows into windows that are read one after the other, each at random."""
        if isinstance(self.rows, OutOfCoreRows):
            return self.rows.windows(rng)
        return [np.arange(len(self))]

    def donors(self) -> Tensor | None:
        """Return indices of rows that augmentations draw values from; None for all rows."""
        found = self.rows.donors() if isinstance(self.rows, OutOfCoreRows) else None
        return None if found is None else torch.from_numpy(found)

    def _prepared(self, rows: np.ndarray | csr_array) -> Tensor:
        values: np.ndarray = cast(csr_array, rows).toarray() if issparse(rows) else rows
        prepared = self.prepare(values, self.dtype)
        return accelerator(self.device).pin(prepared)


def select_rows(rows: Tensor | LazyRows, mask: Tensor) -> Tensor | LazyRows:
    """Return the rows for which `mask` (n,) is True, dense or lazy as they are."""
    return rows.select(mask) if isinstance(rows, LazyRows) else rows[mask]


def _to_numpy(index: Tensor | slice) -> NDArray[np.int64] | slice:
    return index.cpu().numpy() if isinstance(index, Tensor) else index


class LabelledRows(NamedTuple):
    """Rows as the encoder takes them, with targets (0 where there are none)."""

    rows: Tensor | LazyRows  # (n, ...)
    targets: Tensor  # (n,) or (n, K)


class Batch(NamedTuple):
    """Rows that are compared with each other."""

    rows: Tensor  # (B, ...)
    targets: Tensor | None  # (B,) or (B, K); None for losses without labels
    folds: Tensor | None = None
    """Index of the ensemble member that does not see a row, (B,); None: all see it."""
