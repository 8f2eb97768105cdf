"""Fixed preparation of rows in front of an encoder: array in, tensor out."""

from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Standardised values beyond this are cut off, so that float32 never overflows. No
# training value reaches it below 1,000,000 rows: a z-score is at most sqrt(n - 1).
LARGEST_Z_SCORE = 1e3


class Preparation(Protocol):
    """Fitted map from validated rows to the tensor an encoder takes."""

    def __call__(self, rows: NDArray[Any]) -> Tensor:
        """Map an array (B, ...) to a CPU tensor (B, ...)."""


class AsIs:
    """Rows as they are, in float32; uint8 images stay uint8 until they are batched."""

    def __call__(self, rows: NDArray[Any]) -> Tensor:
        """Return the rows as a tensor (B, ...)."""
        if rows.dtype == np.uint8:
            return torch.from_numpy(np.ascontiguousarray(rows))
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(rows, dtype=np.float32)
        if not np.isfinite(values).all():
            raise ValueError(
                f"X holds {np.abs(rows).max()!r}, too large for float32: scale X first, "
                f"for example with sklearn.preprocessing.StandardScaler."
            )
        return torch.from_numpy(values)


@dataclass(frozen=True)
class Standardization:
    """Columns with mean 0 and variance 1 over the training rows, in float32.

    Works for any finite input: columns are first divided by their largest magnitude,
    so that squares do not overflow. Constant columns become 0.
    """

    magnitude: NDArray[np.float64]  # (F,)
    mean: NDArray[np.float64]  # (F,), of the columns divided by their magnitude
    spread: NDArray[np.float64]  # (F,)

    @classmethod
    def of(cls, rows: NDArray[Any]) -> Self:
        """Learn the columns of `rows` (n, F)."""
        magnitude = np.abs(rows).max(axis=0).astype(np.float64)
        magnitude = np.where(magnitude > 0, magnitude, 1.0)
        unit = rows / magnitude  # (n, F)
        spread = unit.std(axis=0)
        varies = (rows.min(axis=0) < rows.max(axis=0)) & (spread > 0)
        return cls(
            magnitude=magnitude,
            mean=np.where(varies, unit.mean(axis=0), unit[0]),
            spread=np.where(varies, spread, 1.0),
        )

    def __call__(self, rows: NDArray[Any]) -> Tensor:
        """Return standardised rows as a float32 tensor (B, F)."""
        with np.errstate(over="ignore"):
            values = (rows / self.magnitude - self.mean) / self.spread
        values = np.clip(values, -LARGEST_Z_SCORE, LARGEST_Z_SCORE)
        return torch.from_numpy(values.astype(np.float32))


def as_float(rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Bring uint8 images to [0, 1] in `dtype`; everything else has that type already."""
    return rows.to(dtype) / 255 if rows.dtype == torch.uint8 else rows
