"""Sums of unit rows by class, in float64 and in chunks."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_hscl.metrics.checks import Labelled
from sklearn_hscl.metrics.search import even_slices
from sklearn_hscl.runtime.normalize import unit_rows
from sklearn_hscl.runtime.threads import torch_threads

# Numbers in a chunk: 2 MB of float64.
_CHUNK_NUMBERS = 1 << 18


def chunk_rows(n_columns: int) -> int:
    """Return how many rows make a chunk, where the widest thing made of a row is that."""
    return max(1, _CHUNK_NUMBERS // n_columns)


def float64_rows(rows: NDArray[Any], *, normalize: bool) -> Tensor:
    """Copy a chunk of rows to float64, of unit length if wanted: (b, D)."""
    values = torch.from_numpy(np.array(rows, dtype=np.float64))
    return unit_rows(values) if normalize else values


def float64_chunks(
    rows: NDArray[Any], *, normalize: bool
) -> Iterator[tuple[slice, Tensor]]:
    """Yield consecutive rows (b, D) in float64, and which they are.

    To be called within one thread: so little is done with a number that more threads
    wait for each other most of the time, and on a busy machine a hundred times as long.
    """
    for chunk in even_slices(len(rows), chunk_rows(rows.shape[1])):
        yield chunk, float64_rows(rows[chunk], normalize=normalize)


@torch_threads(1)
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
