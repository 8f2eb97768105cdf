"""Rough similarities of all pairs, to leave out those that cannot matter."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_hscl.runtime.matmul import bfloat16_is_faster, mm_t

# By bytes of a rough similarity: an integer type for its bits, and its last place.
_BITS = {2: (torch.int16, 2.0**-8), 4: (torch.int32, 2.0**-23)}


class Rough:
    """Products of unit rows, rounded to bfloat16 where the processor is made for it.

    They are within a bound of the products in full. They come as the bits of floats,
    read as integers: for those above 0, the order is the same, and numpy compares
    integers of two bytes, not floats.

    Parameters
    ----------
    queries, references : Tensor of shape (q, D) and (n, D)
        Unit rows, float32.
    """

    def __init__(self, queries: Tensor, references: Tensor) -> None:
        dtype = torch.bfloat16 if bfloat16_is_faster() else references.dtype
        self.queries, lost = _rounded(queries, dtype)
        self.references, also_lost = (
            (self.queries, lost) if references is queries else _rounded(references, dtype)
        )
        self._bits, self._last_place = _BITS[self.queries.element_size()]
        n_columns, eps = queries.shape[1], torch.finfo(queries.dtype).eps
        # Cauchy-Schwarz for what rounding took, and the rounding of D sums.
        self.bound = lost + also_lost + lost * also_lost + 2 * n_columns * eps
        self.likely_rounding = likely_rounding(queries)

    def similarity(self, queries: slice, references: slice) -> NDArray[Any]:
        """Return the bits of rough similarities: (b, t)."""
        product = mm_t(self.queries[queries], self.references[references])
        return product.view(self._bits).numpy()

    def least_bits(self, bar: NDArray[np.float32]) -> NDArray[Any]:
        """Return the least bits that a pair of at least this similarity may have."""
        floats = torch.from_numpy(bar - np.float32(self.bound)).to(self.queries.dtype)
        bits = floats.view(self._bits).numpy() - 1  # whichever way the product is rounded
        return np.where(floats.float().numpy() > 0, bits, np.iinfo(bits.dtype).min)

    def surely(self, bits: NDArray[Any]) -> NDArray[np.float32]:
        """Return what the similarity of pairs with these bits surely reaches."""
        floats = torch.from_numpy(bits).view(self.queries.dtype).float().numpy()
        sure = floats * np.float32(1 - self._last_place) - np.float32(self.bound)
        return np.where(bits > 0, sure, -np.float32(np.inf))


def likely_rounding(rows: Tensor) -> float:
    """Return how far two ways to sum the products of unit rows (n, D) may differ.

    A bound of D roundings in turn would be far from being met.
    """
    return float(4 * rows.shape[1] ** 0.5 * torch.finfo(rows.dtype).eps)


def _rounded(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, float]:
    """Round rows; also return the largest distance of a row from its rounded one."""
    if dtype == rows.dtype:
        return rows, 0.0
    rounded = torch.empty_like(rows, dtype=dtype)
    lost = 0.0
    for some, out in zip(rows.split(4096), rounded.split(4096), strict=True):
        out.copy_(some)
        lost = max(lost, float((some - out.float()).norm(dim=1).max()))
    return rounded, lost
