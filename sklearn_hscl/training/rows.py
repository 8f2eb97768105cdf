"""Sparse training rows, made dense batch by batch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_hscl.encoders.features import Preparation


class SparseRows:
    """Prepared rows (n, F) that are stored sparse; indexing gives dense tensors.

    Stands where training has a tensor of rows: in the batches, in the augmentation and
    in the held-out score.

    Parameters
    ----------
    rows : CSR array or matrix of shape (n, F)
        Validated rows.
    prepare : Preparation
        Maps dense rows to the encoder's input, each column on its own.
    device : torch.device
        Where dense rows are put.
    dtype : torch.dtype
        Type of dense rows.
    """

    ndim = 2

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

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        on_host = index.cpu().numpy() if isinstance(index, Tensor) else index
        return self._dense(self.rows[on_host])

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Return the rows that `index` (B,) names, dense, as a tensor does."""
        if dim != 0:
            raise ValueError(f"SparseRows selects along dim=0 only, got dim={dim}.")
        return self[index]

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield all rows in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def select(self, mask: Tensor) -> "SparseRows":
        """Return some of the rows, still sparse."""
        kept = self.rows[mask.cpu().numpy()]
        return SparseRows(kept, self.prepare, self.device, self.dtype)

    def gather(self, dim: int, index: Tensor) -> Tensor:
        """Return the value of each column in the row that `index` (B, F) names."""
        if dim != 0:
            raise ValueError(f"SparseRows gathers along dim=0 only, got dim={dim}.")
        columns = np.tile(np.arange(self.shape[1]), (len(index), 1))
        donors = index.cpu().numpy().copy()  # scipy wants memory of numpy's own
        return self._dense(self.rows[donors, columns])

    def _dense(self, rows: Any) -> Tensor:
        return self.prepare(rows.toarray(), self.dtype).to(self.device)


def select_rows(rows: Tensor | SparseRows, mask: Tensor) -> Tensor | SparseRows:
    """Return the rows where `mask` (n,) holds, as dense or sparse as they are."""
    return rows.select(mask) if isinstance(rows, SparseRows) else rows[mask]
