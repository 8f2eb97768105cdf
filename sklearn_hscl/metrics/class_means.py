"""Sums of unit rows by class, in float64 and in chunks."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_hscl.losses.unit import unit_rows
from sklearn_hscl.metrics.checks import Labelled

# Numbers in a chunk: 8 MB of float64.
_CHUNK_NUMBERS = 1 << 20


def float64_chunks(
    rows: NDArray[Any], *, normalize: bool, n_columns: int = 1
) -> Iterator[tuple[slice, Tensor]]:
    """Yield consecutive rows in float64, of unit length if wanted: (b, D).

    `n_columns` is the width of what the caller makes of a row, where that is wider.
    """
    height = max(1, _CHUNK_NUMBERS // max(rows.shape[1], n_columns))
    for start in range(0, len(rows), height):
        chunk = slice(start, min(start + height, len(rows)))
        values = torch.from_numpy(np.array(rows[chunk], dtype=np.float64))
        yield chunk, unit_rows(values) if normalize else values


def class_sums(data: Labelled, *, normalize: bool = True) -> Tensor:
    """Add up the rows of each class: (C, D) in float64."""
    codes = torch.from_numpy(data.codes)
    sums = torch.zeros(len(data.classes), data.rows.shape[1], dtype=torch.float64)
    for chunk, rows in float64_chunks(data.rows, normalize=normalize):
        sums.index_add_(0, codes[chunk], rows)
    return sums


def class_means(data: Labelled, *, normalize: bool = True) -> Tensor:
    """Average the rows of each class: (C, D) in float64."""
    counts = torch.from_numpy(data.counts)
    return class_sums(data, normalize=normalize) / counts[:, None]
