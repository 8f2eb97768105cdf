"""Training and held-out rows as tensors, or prepared batch by batch."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import issparse
from torch import Tensor

from sklearn_hscl.data.out_of_core import OutOfCoreRows, take_rows
from sklearn_hscl.encoders.preprocessing import Preparation


class LazyRows:
    """Prepared rows (n, ...) that are sparse or stored; indexing gives dense tensors.

    Stands where training has a tensor of rows: in the batches, in the augmentation and
    in the held-out score.

    Parameters
    ----------
    rows : CSR array or matrix of shape (n, F), or OutOfCoreRows of shape (n, ...)
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
        if isinstance(self.rows, OutOfCoreRows):
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


class LabelledRows(NamedTuple):
    """Rows as the encoder takes them, with targets (0 where there are none)."""

    rows: Any  # Tensor or LazyRows (n, ...)
    targets: Tensor  # (n,) or (n, K)
